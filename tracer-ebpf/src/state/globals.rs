//! The globals that the loader writes before the programs are verified (`EbpfLoader::override_global`). To the verifier they
//! are constants, as the loader freezes their map.

use tracer_ebpf::{BtfOffsets, ProbeSettings, verifier::opaque};

#[unsafe(no_mangle)]
static SETTINGS: ProbeSettings = ProbeSettings::DEFAULT;

/// The settings of this run.
#[inline(always)]
pub fn settings() -> &'static ProbeSettings {
    // SAFETY: the object's own data, which is not written while a program runs. It is opaque to LLVM, which would put the
    // initial values in place of the loader's.
    unsafe { &*opaque(&raw const SETTINGS) }
}

/// For the fentry and kprobe families, which read kernel structures. Read it with [`offset!`].
#[unsafe(no_mangle)]
pub static BTF_OFFSETS: BtfOffsets = BtfOffsets::UNKNOWN;

/// One field of [`BTF_OFFSETS`]. Each is loaded separately, so that a program loads only those that it needs.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: an aligned word of the object's own data.
        unsafe { (&raw const crate::state::globals::BTF_OFFSETS.$field).read_volatile() }
    };
}
pub(crate) use offset;
