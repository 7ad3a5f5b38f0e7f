//! Offsets of the kernel structure fields that the fentry and kprobe programs read. The loader finds them in the running
//! kernel's BTF and writes them before the programs are verified, so to the verifier they are constants.

/// Offsets in bytes from the start of the named structure, and a few values that differ between kernels. A
/// `struct sock *` and a `struct request_sock *` both begin with a `struct sock_common`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BtfOffsets {
    /// `sock_common.skc_daddr`, IPv4, network order.
    pub daddr: u32,
    /// `sock_common.skc_rcv_saddr`, IPv4, network order.
    pub saddr: u32,
    /// `sock_common.skc_dport`, network order.
    pub dport: u32,
    /// `sock_common.skc_num`: the local port, host order.
    pub num: u32,
    /// `sock_common.skc_family`.
    pub family: u32,
    /// `sock_common.skc_state`.
    pub state: u32,
    /// `sock_common.skc_net.net`: a `struct net *`.
    pub net: u32,
    /// `sock_common.skc_v6_daddr`.
    pub v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`.
    pub v6_saddr: u32,
    /// `sock.sk_protocol`, 16 bits.
    pub protocol: u32,
    /// `sock.sk_uid.val`.
    pub uid: u32,
    /// `sock.sk_err`.
    pub err: u32,
    /// `sock.sk_cgrp_data.cgroup`: a `struct cgroup *`, with tags in its lowest bits before 5.15.
    pub cgroup: u32,
    /// `socket.sk`: a `struct sock *`.
    pub socket_sk: u32,
    /// `cgroup.level`: its depth; the root's is 0.
    pub cgroup_level: u32,
    /// `cgroup.ancestors`: pointers (6.1), or `cgroup.ancestor_ids`: ids.
    pub ancestors: u32,
    /// 1 if `ancestors` holds ids, 0 if pointers.
    pub ancestors_are_ids: u32,
    /// `cgroup.kn`: a `struct kernfs_node *`.
    pub kn: u32,
    /// `kernfs_node.id`.
    pub kn_id: u32,
    /// `net.ns.inum`: the inode number of the network namespace.
    pub inum: u32,
    /// `tcp_sock.write_seq`.
    pub write_seq: u32,
    /// `tcp_sock.bytes_acked`.
    pub bytes_acked: u32,
    /// `tcp_sock.bytes_received`.
    pub bytes_received: u32,
    /// `tcp_sock.data_segs_out`.
    pub data_segs_out: u32,
    /// `tcp_sock.fastopen_req`: a `struct tcp_fastopen_request *`, or null.
    pub fastopen: u32,
    /// `msghdr.msg_flags`.
    pub msg_flags: u32,
    /// `msghdr.msg_iter.iter_type`, one byte; before 5.14 `type`.
    pub iter_type: u32,
    /// The bits of that byte that hold the type; `type` also holds the direction.
    pub iter_mask: u32,
    /// `ITER_IOVEC`.
    pub iter_iovec: u32,
    /// `ITER_UBUF`; [`ABSENT`] before 6.0.
    pub iter_ubuf: u32,
    /// `msghdr.msg_iter.iov_offset`.
    pub iov_offset: u32,
    /// `msghdr.msg_iter.__iov`; before 6.4 `iov`.
    pub iov: u32,
    /// `msghdr.msg_iter.ubuf`; [`ABSENT`] before 6.0.
    pub ubuf: u32,
    /// `msghdr.msg_iter.nr_segs`.
    pub nr_segs: u32,
}

/// Marks an optional field or value that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

impl BtfOffsets {
    /// Every field [`ABSENT`], so that reads yield zeros. The cgroup family is loaded with this.
    pub const UNKNOWN: Self = {
        // SAFETY: a `repr(C)` structure of `u32`s, for which any bytes are valid.
        unsafe { core::mem::transmute::<[u32; size_of::<Self>() / 4], Self>([ABSENT; size_of::<Self>() / 4]) }
    };
}
