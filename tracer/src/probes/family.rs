//! The probe families as one table: what each family attaches, what it needs from the kernel, and how its programs number
//! sockets and namespaces. To add a family, add its table here, its programs to `tracer-ebpf`, and its page to
//! `docs/kernels.md`.

use std::fmt;

use super::{hook::Hook, preflight};

/// A probe family: the programs that are attached together and see the same traffic.
#[derive(Debug)]
pub struct FamilySpec {
    /// The name in `--family`, reports and metrics.
    pub name: &'static str,
    /// One line for the command line's help.
    pub summary: &'static str,
    /// What to do where the kernel does not take this family.
    pub advice: &'static str,
    /// The hooks, in the order in which they are attached. The hook that reads payload comes last, so that the others
    /// have seen the beginning of every flow that it reports.
    pub hooks: &'static [Hook],
    /// What it needs from the kernel's BTF.
    pub(super) btf: BtfNeed,
    /// What tells sockets apart in its programs.
    pub(super) sockets: SocketIdentity,
    /// What tells network namespaces apart in its programs.
    pub(super) namespaces: NamespaceIdentity,
    /// What limits it to a cgroup.
    pub(super) cgroups: CgroupScope,
    /// A cheap test for kernels that refuse the whole family. Reading BTF takes longer than attaching every hook.
    pub(super) preflight: fn() -> anyhow::Result<()>,
}

/// What a family needs from the kernel's BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BtfNeed {
    /// Nothing: its programs use only stable UAPI.
    None,
    /// The offsets of the fields that its programs read.
    Offsets,
    /// These offsets, and the types of the functions that it is attached to.
    OffsetsAndFunctions,
}

/// What tells sockets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketIdentity {
    /// The address of the `struct sock`.
    Address,
    /// The socket cookie, as `bpf_get_socket_cookie` gives it.
    Cookie,
}

/// What tells network namespaces apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamespaceIdentity {
    /// The inode number of the namespace's file.
    Inode,
    /// The namespace cookie, as `bpf_get_netns_cookie` gives it.
    Cookie,
}

/// What limits a family to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CgroupScope {
    /// A cgroup id in the programs' settings.
    Settings,
    /// The cgroup that its hooks are attached to.
    Attachment,
}

/// Trampolines at the entry of kernel functions: the cheapest family.
pub static FENTRY: FamilySpec = FamilySpec {
    name: "fentry",
    summary: "Trampolines at the kernel functions that connect and send",
    advice: "nothing needs to be done where another family works; else see lockdown, CAP_BPF and CAP_PERFMON above",
    hooks: &[
        Hook::new("egress_sock_states", "inet_sock_set_state"),
        Hook::new("egress_fentry_syn_received", "inet_csk_reqsk_queue_hash_add"),
        Hook::new("egress_fentry_accept", "security_sock_graft"),
        Hook::new("egress_fentry_options", "security_socket_setsockopt"),
        Hook::new("egress_fentry_connect", "tcp_connect"),
        Hook::new("egress_fentry_send", "tcp_sendmsg"),
    ],
    btf: BtfNeed::OffsetsAndFunctions,
    sockets: SocketIdentity::Address,
    namespaces: NamespaceIdentity::Inode,
    cgroups: CgroupScope::Settings,
    preflight: preflight::tracing_programs,
};

/// Breakpoints at the entry of the functions that [`FENTRY`] uses.
pub static KPROBE: FamilySpec = FamilySpec {
    name: "kprobe",
    summary: "Breakpoints at the kernel functions that connect and send",
    advice: "nothing needs to be done where another family works; else the kernel needs CONFIG_KPROBES, and CAP_PERFMON",
    hooks: &[
        Hook::new("egress_sock_states", "inet_sock_set_state"),
        Hook::new("egress_kprobe_syn_received", "inet_csk_reqsk_queue_hash_add"),
        Hook::new("egress_kprobe_accept", "security_sock_graft"),
        Hook::new("egress_kprobe_options", "security_socket_setsockopt"),
        Hook::new("egress_kprobe_connect", "tcp_connect"),
        Hook::new("egress_kprobe_send", "tcp_sendmsg"),
    ],
    btf: BtfNeed::Offsets,
    sockets: SocketIdentity::Address,
    namespaces: NamespaceIdentity::Inode,
    cgroups: CgroupScope::Settings,
    preflight: preflight::kprobes,
};

/// cgroup hooks: stable UAPI, also available where the kernel refuses tracing programs.
pub static CGROUP: FamilySpec = FamilySpec {
    name: "cgroup",
    summary: "cgroup hooks, which use only the kernel's stable interface",
    advice: "mount cgroup v2 writable, and give CAP_BPF and CAP_NET_ADMIN",
    hooks: &[
        Hook::new("egress_states", "sock_ops"),
        Hook::new("egress_accept4", "getpeername4"),
        Hook::new("egress_accept6", "getpeername6"),
        Hook::new("egress_options", "setsockopt"),
        Hook::new("egress_original_dst", "getsockopt"),
        Hook::new("egress_connect4", "connect4"),
        Hook::new("egress_connect6", "connect6"),
        Hook::new("egress_bytes", "skb egress"),
    ],
    btf: BtfNeed::None,
    sockets: SocketIdentity::Cookie,
    namespaces: NamespaceIdentity::Cookie,
    cgroups: CgroupScope::Attachment,
    preflight: || Ok(()),
};

impl FamilySpec {
    /// All families, in the order of preference.
    pub const ALL: [&'static Self; 3] = [&FENTRY, &KPROBE, &CGROUP];

    /// The family of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|family| family.name == name)
    }
}

impl fmt::Display for FamilySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
