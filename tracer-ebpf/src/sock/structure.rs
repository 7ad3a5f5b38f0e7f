//! `struct sock`, as the fentry and kprobe families read it.

use tracer_ebpf::verifier::opaque_zero;

use super::{cgroup_tree::Cgroup, read::read};
use crate::{
    context::Tuple,
    endpoint::mapped,
    state::{
        globals::{offset, settings},
        interceptors::{is_port, may_be_port},
    },
};

const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// A `struct sock *`, or a `struct request_sock *`, which also begins with a `struct sock_common`.
#[derive(Clone, Copy)]
pub struct Sock(pub u64);

impl Sock {
    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        read::<u16>(self.0, offset!(protocol)) == IPPROTO_TCP
    }

    /// Its TCP state ([`tracer_ebpf::record::tcp`]).
    #[inline(always)]
    pub fn state(self) -> u8 {
        read(self.0, offset!(state))
    }

    #[inline(always)]
    pub fn uid(self) -> u32 {
        read(self.0, offset!(uid))
    }

    /// Whether an error is set, as it is after a reset by the peer and a timeout.
    #[inline(always)]
    pub fn has_error(self) -> bool {
        read::<u32>(self.0, offset!(err)) != 0
    }

    #[inline(always)]
    pub fn bytes_acked(self) -> u64 {
        read(self.0, offset!(bytes_acked))
    }

    #[inline(always)]
    pub fn bytes_received(self) -> u64 {
        read(self.0, offset!(bytes_received))
    }

    /// How many segments with a payload it has sent.
    #[inline(always)]
    pub fn data_segments_out(self) -> u32 {
        read(self.0, offset!(data_segs_out))
    }

    /// The TCP sequence number of the next byte that a task writes.
    #[inline(always)]
    pub fn write_seq(self) -> u32 {
        read(self.0, offset!(write_seq))
    }

    /// Whether it dials with TCP Fast Open, from inside of a send.
    #[inline(always)]
    pub fn has_fastopen_request(self) -> bool {
        read::<u64>(self.0, offset!(fastopen)) != 0
    }

    #[inline(always)]
    pub fn local_port(self) -> u16 {
        read(self.0, offset!(num))
    }

    /// Whether its own port is one that intercepts in its network namespace.
    #[inline(always)]
    pub fn is_at_interceptor(self) -> bool {
        may_be_port(self.local_port()) && is_port(self.netns(), self.local_port())
    }

    /// The inode number of its network namespace.
    #[inline(always)]
    fn netns(self) -> u64 {
        u64::from(read::<u32>(read::<u64>(self.0, offset!(net)), offset!(inum)))
    }

    #[inline(always)]
    pub fn tuple(self) -> Tuple {
        let (local_addr, remote_addr) = if read::<u16>(self.0, offset!(family)) == AF_INET6 {
            (read(self.0, offset!(v6_saddr)), read(self.0, offset!(v6_daddr)))
        } else {
            (mapped(read(self.0, offset!(saddr))), mapped(read(self.0, offset!(daddr))))
        };
        let local_port = self.local_port();
        Tuple {
            local_addr,
            remote_addr,
            local_port,
            wire_port: local_port,
            remote_port: u16::from_be(read(self.0, offset!(dport))),
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        }
    }

    /// The cgroup that it was created in. Not the current task's, as some hooks run in softirqs; the cgroup family goes by the
    /// socket as well.
    #[inline(always)]
    pub fn cgroup(self) -> Cgroup {
        Cgroup(read(self.0, offset!(cgroup)))
    }

    /// Its network namespace, if that and the wanted cgroup are in scope.
    #[inline(always)]
    pub fn netns_in_scope(self) -> Option<u64> {
        let netns = self.netns();
        (settings().is_netns_in_scope(netns) && self.cgroup().is_below_wanted()).then_some(netns)
    }
}
