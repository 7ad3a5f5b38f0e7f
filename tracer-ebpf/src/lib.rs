//! The wire between the kernel programs and userspace: the records on the ring, the settings and structure offsets that the
//! loader writes before the programs are verified, the memory layout of the lookup tables, the state of the ring's reader,
//! and the test on a payload's first bytes. Integers and byte arrays only; nothing here allocates or panics.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))] // see `verifier`

pub mod btf_offsets;
pub mod http_prefix;
pub mod reader;
pub mod record;
pub mod settings;
pub mod verifier;

pub use btf_offsets::BtfOffsets;
pub use record::{EndRecord, HEAD_MAX, Loss, Meta, PayloadRecord, RecordKind, Role, WrittenRecords};
pub use settings::ProbeSettings;
