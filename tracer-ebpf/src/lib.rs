//! What crosses the boundary between the kernel programs and userspace: the records on the ring, the settings and
//! the kernel's layout that the loader writes before the programs are verified, how tables lie in their maps, what the ring's
//! reader does, and the test whether first bytes concern us. Integers and byte arrays only; it never allocates and never panics.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))] // see `branchless`

pub mod branchless;
pub mod layout;
pub mod opening;
pub mod reader;
pub mod record;
pub mod settings;
pub mod table;

pub use layout::Layout;
pub use record::{EndRecord, HEAD_MAX, Loss, Meta, PayloadRecord, RecordKind, Role};
pub use settings::Settings;
