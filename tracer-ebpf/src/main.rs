//! The kernel programs. One direction: `programs` (one entry point per hook and family) -> `correlate` (what an event means
//! for its flow and session) -> `ring` (records), over `sock` (kernel structures and contexts) and `state` (maps). On the host
//! this binary is empty: it is built for `target_arch = "bpf"`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))] // one `lock` add, see `ring`

#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod correlate;
#[cfg(target_arch = "bpf")]
mod current;
#[cfg(target_arch = "bpf")]
mod endpoint;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod ring;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod state;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Some helpers are open to GPL-compatible programs only. This object is offered under the GPL as well.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier rejects a program in which this is reachable, so it never runs.
    unsafe { core::hint::unreachable_unchecked() }
}
