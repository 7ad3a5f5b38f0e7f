//! The programs that keep ours from a cgroup hook: one that is attached without `BPF_F_ALLOW_MULTI` to the cgroup or to one above
//! it suffers no other: <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/cgroup.c#L519>

use std::{ffi::c_long, fs::File, os::fd::AsRawFd as _, path::Path};

use aya::programs::loaded_programs;

/// `BPF_PROG_QUERY`, `BPF_F_ALLOW_MULTI`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L900>
const PROG_QUERY: c_long = 16;
const ALLOW_MULTI: u32 = 2;
/// How many programs of one cgroup are named.
const MAX: usize = 8;

/// The number of a cgroup hook: `enum bpf_attach_type`.
fn attach_type(point: &str) -> Option<u32> {
    Some(match point {
        "skb egress" => 1,
        "sock_ops" => 3,
        "connect4" => 10,
        "connect6" => 11,
        "getsockopt" => 21,
        "setsockopt" => 22,
        "getpeername4" => 29,
        "getpeername6" => 30,
        _ => return None,
    })
}

/// The programs on the hook `point` of `cgroup` and of the cgroups above it that suffer no other, in a sentence. `None`: there is
/// none, or the kernel does not say.
pub(super) fn exclusive(cgroup: &Path, point: &str) -> Option<String> {
    let kind = attach_type(point)?;
    let owners: Vec<String> = cgroup
        .ancestors()
        .take_while(|dir| dir.join("cgroup.procs").exists())
        .filter_map(|dir| {
            let (ids, flags) = query(&File::open(dir).ok()?, kind)?;
            let names: Vec<String> = ids.into_iter().map(name).collect();
            (flags & ALLOW_MULTI == 0 && !names.is_empty())
                .then(|| format!("{} on {}", names.join(", "), dir.display()))
        })
        .collect();
    (!owners.is_empty()).then(|| {
        format!(
            "another program has this hook for itself (attached without BPF_F_ALLOW_MULTI): {}",
            owners.join("; ")
        )
    })
}

/// A program's name and id.
fn name(id: u32) -> String {
    let found = loaded_programs().flatten().find(|program| program.id() == id);
    let name = found.and_then(|program| program.name_as_str().map(str::to_owned));
    format!("{} (id {id})", name.unwrap_or_else(|| "a program".to_owned()))
}

/// The ids of the programs that are attached to this very cgroup, and with which flags.
fn query(cgroup: &File, kind: u32) -> Option<(Vec<u32>, u32)> {
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
    let mut ids = [0_u32; MAX];
    let mut query = Query {
        target: u32::try_from(cgroup.as_raw_fd()).ok()?,
        attach_type: kind,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(MAX).ok()?,
        rest: [0; 9],
    };
    // SAFETY: the kernel reads and writes at most `size_of::<Query>()` bytes, all inside `query`, and writes at most `count` ids
    // to `ids`, which lives as long as the call.
    let failed = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    let count = usize::try_from(query.count).ok()?.min(MAX);
    (failed == 0).then(|| (ids[..count].to_vec(), query.attach_flags))
}
