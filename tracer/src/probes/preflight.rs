//! Cheap tests for kernels that refuse a whole family, made before the expensive preparation: reading the kernel's BTF takes
//! longer than attaching every hook. A kernel that passes may still refuse single hooks.

use std::{ffi::c_long, io};

use anyhow::{Context as _, bail};
use aya::{maps::MapType, sys::is_map_supported};

/// Exists where the kernel can open kprobes: <https://elixir.bootlin.com/linux/v6.12/source/kernel/events/core.c#L10577>.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe/type";
/// `BPF_PROG_LOAD`, `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_FENTRY`:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L884>.
const PROG_LOAD: c_long = 5;
const TRACING: u32 = 26;
const TRACE_FENTRY: u32 = 24;
/// `r0 = 0; exit`
static NOTHING: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// Fails where the kernel has no ring buffers. Other obstacles (privileges, memory) also stop the other maps, whose errors
/// report them.
pub(super) fn ring_buffers() -> anyhow::Result<()> {
    if let Ok(false) = is_map_supported(MapType::RingBuf) {
        bail!("this kernel has no ring buffers, which every probe family needs: they came with Linux 5.8");
    }
    Ok(())
}

/// Fails where the kernel has no kprobes.
pub(super) fn kprobes() -> anyhow::Result<()> {
    std::fs::metadata(KPROBES).map(drop).with_context(|| format!("the kernel has no kprobes ({KPROBES})"))
}

/// Fails where the kernel refuses tracing programs.
pub(super) fn tracing_programs() -> anyhow::Result<()> {
    load_tracing_program().context("the kernel refuses tracing programs")
}

/// Offers a program for BTF id 1, which is no function. A kernel that takes tracing programs complains about that; a kernel
/// that refuses them does so first, with `EPERM`.
fn load_tracing_program() -> io::Result<()> {
    let halves = |address: u64| {
        let (low, high) = (address & u64::from(u32::MAX), address >> 32);
        let [first, second] = if cfg!(target_endian = "big") { [high, low] } else { [low, high] };
        [first, second].map(|half| u32::try_from(half).unwrap_or(0)) // both fit
    };
    let mut attributes = [0_u32; 30];
    attributes[..2].copy_from_slice(&[TRACING, 2]);
    attributes[2..4].copy_from_slice(&halves(NOTHING.as_ptr() as u64));
    attributes[4..6].copy_from_slice(&halves(c"GPL".as_ptr() as u64));
    attributes[17] = TRACE_FENTRY; // expected_attach_type
    attributes[27] = 1; // attach_btf_id
    // SAFETY: the kernel reads the given length from `attributes`, a prefix of its `bpf_attr`; both addresses in it point to
    // statics.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attributes.as_ptr(), size_of_val(&attributes)) };
    let error = io::Error::last_os_error();
    if let Ok(fd) = i32::try_from(result)
        && fd >= 0
    {
        // SAFETY: the kernel just made this descriptor, and nothing else holds it.
        unsafe { libc::close(fd) };
        return Ok(());
    }
    if error.kind() == io::ErrorKind::PermissionDenied { Err(error) } else { Ok(()) }
}
