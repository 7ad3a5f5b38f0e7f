//! What the fentry and the kprobe shells share: reads a `struct sock` by the offsets that the loader found, decides
//! whether it is in scope, and tells the core what happened to it.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tracer_ebpf::{branchless::least, record::tcp};

use crate::{
    address::mapped,
    capture,
    cgroup_tree::Cgroup,
    context::{Sent, Tuple},
    early,
    ending::{self, End},
    link,
    maps::{FLOWS, settings},
    message::Message,
    opaque::opaque_zero,
    sidecar::{self, is_sidecars_port},
};

const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const TCP_NODELAY: u32 = 1;
const SYN_RECV: u8 = 3;

/// One number of the layout: a constant to the verifier, as the loader freezes the map that holds it. Read on its own,
/// so that a program loads no more than it needs.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: an aligned word of the object's own data.
        unsafe { (&raw const crate::maps::LAYOUT.$field).read_volatile() }
    };
}
pub(crate) use offset;

/// Integers, and arrays of them: any bytes are a value.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Reads a value of the kernel's memory. Where that fails, and it cannot for a structure that the kernel itself has in
/// its hands, the helper leaves zeros.
#[inline(always)]
pub fn read<T: Plain>(base: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let from = (base + u64::from(offset)) as *const core::ffi::c_void;
    // SAFETY: `value` has the size told, and the helper checks the source itself. It writes all of the value whether it
    // succeeds or not, and any bytes are one.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        value.assume_init()
    }
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
            sidecar_flow: opaque_zero(),
        }
    }

    /// The cgroup that it was made in. Not the task's: some hooks run in softirqs, and the cgroup family goes by the socket,
    /// too.
    #[inline(always)]
    pub fn cgroup(self) -> Cgroup {
        Cgroup(read(self.0, offset!(cgroup)))
    }

    /// Its namespace where it is to be traced.
    #[inline(always)]
    pub fn netns_in_scope(self) -> Option<u64> {
        let netns = self.netns();
        (settings().is_netns_in_scope(netns) && self.cgroup().is_below_wanted()).then_some(netns)
    }
}

/// A task dials: source address and port are chosen, the SYN is not sent.
#[inline(always)]
pub fn connect(sk: Sock) {
    let Some(netns) = sk.netns_in_scope() else { return };
    if sk.cgroup().is_in_scope() {
        capture::dialed(sk.0, netns, &sk.tuple(), early::at_dial(sk));
    }
}

/// What leaves at once: who sends, has mostly sent enough, and then one read of two does.
#[inline(always)]
pub fn is_past_first_bytes(sk: Sock) -> bool {
    capture::is_past_first_bytes(read(sk.0, offset!(bytes_acked)), 0)
        || capture::is_past_first_bytes(0, read(sk.0, offset!(bytes_received)))
}

/// A task sends on a flow that is not past its first bytes.
#[inline(always)]
pub fn send(sk: Sock, message: u64, size: u64) {
    if size == 0 {
        return;
    }
    let len = least(size, u32::MAX.into()) as u32;
    let state = sk.state();
    if state == tcp::CLOSE || state == tcp::SYN_SENT {
        early::keep(sk, message, len, state);
    } else {
        let seq = read(sk.0, offset!(write_seq));
        capture::sent(&Message::find(sk, message, len), FLOWS.look(sk.0), &Sent { flow: sk.0, seq, len });
    }
}

/// A SYN came, and the SYN-ACK is about to be sent.
#[inline(always)]
pub fn knock(listener: Sock, request: Sock) {
    if is_sidecars_port(listener.local_port()) {
        if let Some(netns) = listener.netns_in_scope() {
            capture::knocked(netns, &request.tuple());
        }
    }
}

/// A task accepts.
#[inline(always)]
pub fn accept(sk: Sock) {
    if sk.protocol() == IPPROTO_TCP && is_sidecars_port(sk.local_port()) {
        capture::accepted(sk.0, sk.0, sk.cgroup().is_in_scope());
    }
}

/// A task sets an option of a `struct socket *`: of interest where a sidecar sets up what it has accepted.
#[inline(always)]
pub fn set_option(socket: u64, level: u32, option: u32) {
    if level == IPPROTO_TCP.into() && option == TCP_NODELAY {
        let sk = Sock(read(socket, offset!(socket_sk)));
        if sk.protocol() == IPPROTO_TCP && is_sidecars_port(sk.local_port()) {
            link::taken_up(|_| FLOWS.find(sk.0));
        }
    }
}

/// A socket leaves one state for another.
#[inline(always)]
pub fn change(sk: Sock, from: u8, to: u8) {
    // Also called for MPTCP, SCTP and DCCP, whose structures are others.
    if sk.protocol() != IPPROTO_TCP {
        return;
    }
    if ending::is_over(to) {
        let by_peer = read::<u32>(sk.0, offset!(err)) != 0;
        let received = read(sk.0, offset!(bytes_received));
        let segments = read(sk.0, offset!(data_segs_out));
        ending::ended(sk.0, || sk.tuple(), &End { from, to, by_peer, received, segments });
    } else if to == tcp::ESTABLISHED && from == tcp::SYN_SENT {
        early::connected(sk);
    } else if to == tcp::ESTABLISHED && from == SYN_RECV && is_sidecars_port(sk.local_port()) {
        if let Some(netns) = sk.netns_in_scope() {
            capture::established(sk.0, netns, &sk.tuple());
        }
    }
}
