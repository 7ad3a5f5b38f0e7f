//! Which programs are attached to a cgroup, as the kernel counts them. The tracer has a query of its own; this one judges
//! whether the tracer detached everything, so it shares no code with it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `enum bpf_attach_type` of the hooks that the tracer uses:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L1060>.
pub const ATTACH_TYPES: &[(&str, u32)] = &[
    ("egress", 1),
    ("sock_ops", 3),
    ("connect4", 10),
    ("connect6", 11),
    ("getsockopt", 21),
    ("setsockopt", 22),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The hooks of a cgroup that have programs, each with the number of programs attached to this very cgroup.
pub fn attached_programs(cgroup: &Path) -> Vec<(&'static str, u32)> {
    /// The `query` member of `union bpf_attr`.
    #[repr(C)]
    struct Query {
        target: u32,
        attach_type: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        rest: [u32; 9],
    }
    const BPF_PROG_QUERY: libc::c_int = 16;
    let dir = File::open(cgroup).expect("the cgroup");
    let count = |attach_type| {
        let target = u32::try_from(dir.as_raw_fd()).expect("a descriptor");
        let mut query =
            Query { target, attach_type, flags: 0, attach_flags: 0, ids: 0, count: 0, rest: [0; 9] };
        // SAFETY: the kernel reads and writes at most `size_of::<Query>()` bytes, all inside `query`. `count` is 0, so
        // it writes no program ids through `ids`.
        let done =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
        let error = io::Error::last_os_error();
        assert!(done == 0 || error.raw_os_error() == Some(libc::ENOSPC), "BPF_PROG_QUERY: {error}");
        query.count
    };
    ATTACH_TYPES
        .iter()
        .map(|(name, number)| (*name, count(*number)))
        .filter(|(_, count)| *count > 0)
        .collect()
}
