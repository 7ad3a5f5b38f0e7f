//! What the fentry and the kprobe shells share: reads a `struct sock` by the offsets that the loader found, decides
//! whether it is in scope, and tells the core what happened to it.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tracer_ebpf::record::tcp;

use crate::{
    address::mapped,
    capture::{self, Known},
    context::{Sent, Tuple},
    maps::{SETTINGS, opaque_zero},
    message::Message,
    sidecar::is_sidecars_port,
    task::current_task,
};

const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const SYN_RECV: u8 = 3;
/// How deep a cgroup may lie for `--cgroup` to find its ancestor.
const CGROUP_DEPTH: u32 = 16;

/// One number of the layout: a constant to the verifier, as the loader freezes the map that holds it. Read on its own,
/// so that a program loads no more than it needs.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: an aligned word of the object's own data.
        unsafe { (&raw const crate::maps::LAYOUT.$field).read_volatile() }
    };
}
pub(crate) use offset;

/// Reads a value of the kernel's memory. Where that fails, and it cannot for a structure that the kernel itself has in
/// its hands, the helper leaves zeros.
#[inline(always)]
pub fn read<T: Copy + Default>(base: u64, offset: u32) -> T {
    let mut value = T::default();
    let from = (base + u64::from(offset)) as *const core::ffi::c_void;
    // SAFETY: `value` has the size told; the helper checks the source itself. Only used for integers and arrays of them.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from) };
    value
}

/// A `struct sock *`, or a `struct request_sock *`, which begins with the same `struct sock_common`.
#[derive(Clone, Copy)]
pub struct Sock(pub u64);

impl Sock {
    #[inline(always)]
    fn protocol(self) -> u16 {
        read(self.0, offset!(protocol))
    }

    #[inline(always)]
    pub fn state(self) -> u8 {
        read(self.0, offset!(state))
    }

    #[inline(always)]
    pub fn uid(self) -> u32 {
        read(self.0, offset!(uid))
    }

    #[inline(always)]
    pub fn local_port(self) -> u16 {
        read(self.0, offset!(num))
    }

    /// The inode number of its network namespace.
    #[inline(always)]
    pub fn netns(self) -> u64 {
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
        }
    }

    /// Was this socket made in the cgroup to be traced, or below it? The socket's own cgroup, not the task's: some hooks
    /// run in softirqs, and the cgroup family goes by the socket, too.
    #[inline(always)]
    fn is_cgroup_in_scope(self) -> bool {
        let wanted = SETTINGS.load().cgroup;
        if wanted == 0 {
            return true;
        }
        let cgroup: u64 = read(self.0, offset!(cgroup));
        // Before 5.15 the lowest bits are tags: this socket belongs to no cgroup of its own.
        // https://elixir.bootlin.com/linux/v5.10/source/include/linux/cgroup-defs.h#L775
        if cgroup & 3 != 0 {
            return false;
        }
        let level: u32 = read(cgroup, offset!(cgroup_level));
        let mut at = 0;
        while at < CGROUP_DEPTH {
            if at > level {
                return false;
            }
            let id = if offset!(ancestors_are_ids) == 1 {
                read(cgroup, offset!(ancestors) + 8 * at)
            } else {
                let ancestor = read::<u64>(cgroup, offset!(ancestors) + 8 * at);
                read::<u64>(read(ancestor, offset!(kn)), offset!(kn_id))
            };
            if id == wanted {
                return true;
            }
            at += 1;
        }
        false
    }

    /// Its namespace where it is to be traced.
    #[inline(always)]
    pub fn netns_in_scope(self) -> Option<u64> {
        let netns = self.netns();
        (SETTINGS.load().is_netns_in_scope(netns) && self.is_cgroup_in_scope()).then_some(netns)
    }
}

/// A task dials: source address and port are chosen, the SYN is not sent.
#[inline(always)]
pub fn connect(sk: Sock) {
    let Some(netns) = sk.netns_in_scope() else { return };
    capture::dialed(sk.0, netns, &current_task(), &sk.tuple());
    // With TCP fast open, this is inside of a send, whose bytes go with the SYN, or after it.
    // https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp.c#L1013
    let request: u64 = read(sk.0, offset!(fastopen));
    if request != 0 {
        let message = read(request, offset!(fastopen_data));
        let size = read(request, offset!(fastopen_size));
        let seq = read::<u32>(sk.0, offset!(write_seq)).wrapping_add(1); // the SYN takes one
        deliver(sk, message, size, seq, true);
    }
}

/// A task sends.
#[inline(always)]
pub fn send(sk: Sock, message: u64, size: u64) {
    let (acked, received) = (read(sk.0, offset!(bytes_acked)), read(sk.0, offset!(bytes_received)));
    if capture::is_past_first_bytes(acked, received) {
        return;
    }
    let state = sk.state();
    if state == tcp::CLOSE {
        return; // fails, or dials first: then `connect` sees the bytes
    }
    deliver(sk, message, size, read(sk.0, offset!(write_seq)), state == tcp::SYN_SENT);
}

#[inline(always)]
fn deliver(sk: Sock, message: u64, size: u64, seq: u32, early: bool) {
    if size == 0 {
        return;
    }
    let len = if size > u64::from(u32::MAX) { u32::MAX } else { size as u32 };
    capture::sent(&Message::read(sk, message, len, early), &Sent { flow: sk.0, seq, len });
}

/// A SYN came, and the SYN-ACK is about to be sent.
#[inline(always)]
pub fn knock(listener: Sock, request: Sock) {
    if is_sidecars_port(listener.local_port()) {
        if let Some(netns) = listener.netns_in_scope() {
            capture::knocked(netns, &request.tuple(), Known::Replace);
        }
    }
}

/// A task accepts.
#[inline(always)]
pub fn accept(sk: Sock) {
    if sk.protocol() == IPPROTO_TCP && is_sidecars_port(sk.local_port()) {
        capture::accepted(sk.0, &current_task());
    }
}

/// A socket leaves one state for another.
#[inline(always)]
pub fn change(sk: Sock, from: u8, to: u8) {
    // Also called for MPTCP, SCTP and DCCP, whose structures are others.
    if sk.protocol() != IPPROTO_TCP {
        return;
    }
    if to != tcp::ESTABLISHED {
        let reset_or_timeout = read::<u32>(sk.0, offset!(err)) != 0;
        capture::state_changed(sk.0, || sk.tuple(), from, to, reset_or_timeout);
    } else if from == tcp::SYN_SENT {
        capture::connected(sk.0, || sk.tuple());
    } else if from == SYN_RECV && is_sidecars_port(sk.local_port()) {
        if let Some(netns) = sk.netns_in_scope() {
            // With SYN cookies, nobody was seen to knock.
            let tuple = sk.tuple();
            capture::knocked(netns, &tuple, Known::Keep);
            capture::established(sk.0, netns, &tuple);
        }
    }
}
