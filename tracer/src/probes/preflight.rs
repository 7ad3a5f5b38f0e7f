//! Asks the kernel whether it has what every family needs, and whether it takes a family at all, before anything costly is
//! made ready for it: reading the kernel's types takes longer than attaching every hook. Who passes may still be refused
//! hook by hook.

use std::{ffi::c_long, io};

use anyhow::{Context as _, bail};
use aya::{maps::MapType, sys::is_map_supported};

use super::Family;

/// Where the kernel says how kprobes are opened: <https://elixir.bootlin.com/linux/v6.12/source/kernel/events/core.c#L10577>.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe/type";
/// `BPF_PROG_LOAD`, `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_FENTRY`:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L884>.
const PROG_LOAD: c_long = 5;
const TRACING: u32 = 26;
const TRACE_FENTRY: u32 = 24;
/// `r0 = 0; exit`
static NOTHING: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// Fails where the kernel does not know what a ring buffer is. Whatever else is in the way of one (privileges, memory) is
/// also in the way of the other maps, and is told by them.
pub(super) fn ring_buffers() -> anyhow::Result<()> {
    if let Ok(false) = is_map_supported(MapType::RingBuf) {
        bail!(
            "this kernel has no ring buffers, by which all that is seen leaves it: they came with Linux 5.8, and no family \
             of probes does without"
        );
    }
    Ok(())
}

/// Gives the kernel's reason where it takes no program of this family.
pub(super) fn check(family: Family) -> anyhow::Result<()> {
    match family {
        Family::Fentry => tracing().context("the kernel refuses tracing programs"),
        Family::Kprobe => {
            let kprobes = std::fs::metadata(KPROBES).map(drop);
            kprobes.with_context(|| format!("the kernel has no kprobes ({KPROBES})"))
        }
        Family::Cgroup => Ok(()),
    }
}

/// A program for the first type of the kernel's, which is no function: a kernel that has nothing against tracing programs
/// finds fault with that, one that refuses them does so before.
fn tracing() -> io::Result<()> {
    let halves = |address: u64| {
        let (low, high) = (address & u64::from(u32::MAX), address >> 32);
        let [first, second] = if cfg!(target_endian = "big") { [high, low] } else { [low, high] };
        [first, second].map(|half| u32::try_from(half).unwrap_or(0)) // each is one
    };
    let mut attributes = [0_u32; 30];
    attributes[..2].copy_from_slice(&[TRACING, 2]);
    attributes[2..4].copy_from_slice(&halves(NOTHING.as_ptr() as u64));
    attributes[4..6].copy_from_slice(&halves(c"GPL".as_ptr() as u64));
    attributes[17] = TRACE_FENTRY; // expected_attach_type
    attributes[27] = 1; // attach_btf_id
    // SAFETY: the kernel reads the beginning of its `bpf_attr`, of which it is told the length; both addresses in it are of
    // statics.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attributes.as_ptr(), size_of_val(&attributes)) };
    let error = io::Error::last_os_error();
    if let Ok(fd) = i32::try_from(result)
        && fd >= 0
    {
        // SAFETY: the descriptor was just made, and is nobody else's.
        unsafe { libc::close(fd) };
        return Ok(());
    }
    if error.kind() == io::ErrorKind::PermissionDenied { Err(error) } else { Ok(()) }
}
