//! The shell for the packets that leave a socket of the cgroup family: where first bytes are seen. It copies no more of
//! them than the core asks for, and lets every packet pass.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_load_bytes, bpf_tcp_sock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use tracer_ebpf::{
    HEAD_MAX, Loss,
    branchless::{least, masked},
    opening::is_opening,
};

use crate::{
    capture,
    context::{Bytes, Context, Sent, Tuple},
    ending,
    maps::{ASKED, FLOWS, settings},
    opaque::{Maybe, opaque_zero},
    packet::{self, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
    scope,
    sidecar::is_sidecars_port,
    uapi::{GO_ON, cookie, load, tuple_of},
};

/// A packet leaves a socket, after NAT: the socket still has the address that was dialled, the IP header the one that
/// it was redirected to.
///
/// Nearly all packets end here, and what they pay for is each line of code that has to be fetched for them, and each call of the
/// kernel: so this is short, and who goes on does it in functions of their own.
#[cgroup_skb(egress)]
pub fn egress_bytes(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid context to each run; `sk` and `tp` are checked for null before use.
    unsafe {
        let flags = packet::flags_of_empty(skb);
        if flags & (TCP_FIN | TCP_RST | TCP_ACK) == TCP_ACK {
            return GO_ON; // it only acknowledges
        }
        if flags & (TCP_FIN | TCP_RST | TCP_SYN) == TCP_SYN {
            return begin(skb);
        }
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return GO_ON;
        }
        let tp = bpf_tcp_sock(sk);
        if tp.is_null() {
            return GO_ON;
        }
        let (acked, received) = ((*tp).bytes_acked, (*tp).bytes_received);
        if capture::is_past_first_bytes(acked, received) {
            return GO_ON;
        }
        if flags & TCP_FIN != 0 && !ending::matters(flags & TCP_RST != 0, received) {
            return GO_ON;
        }
        if may_tell(skb, acked, received) { look_at(skb, received) } else { GO_ON }
    }
}

/// A dial's first packet: it goes to a sidecar, or to somebody of whom nothing needs to be kept.
#[inline(never)]
extern "C" fn begin(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the context of the program that calls this, which the kernel has made.
    if let Some(packet) = unsafe { Packet::read(skb) }
        && is_sidecars_port(packet.dport)
        && let Some(state) = FLOWS.seek(cookie(&SkBuffContext::new(skb)))
    {
        capture::began(state, packet.sport, packet.dport);
    }
    GO_ON
}

/// May a packet tell something, of a flow that is not past its first bytes and whose socket counts so much as acknowledged and as
/// received?
#[inline(never)]
extern "C" fn may_tell(skb: *mut __sk_buff, acked: u64, received: u64) -> bool {
    // SAFETY: the context of the program that calls this, which the kernel has made; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        let is_at_sidecar = is_sidecars_port(load!(sk, bpf_sock.src_port) as u16);
        if is_at_sidecar && !ASKED.has(u16::from_be(load!(sk, bpf_sock.dst_port) as u16)) {
            return false; // its peer waits for nothing that the sidecar says
        }
        let Some(packet) = Packet::read(skb) else { return false };
        if !matters(&packet, is_at_sidecar, acked, received) {
            return false;
        }
        if packet.len >= 8 && packet.flags & (TCP_FIN | TCP_SYN | TCP_RST) == 0 {
            let ctx = SkBuffContext::new(skb);
            let payload = Payload::new(&ctx, sk, &packet);
            let first = || {
                let mut first = 0u64;
                payload.load(0, (&raw mut first).cast(), 8).then_some(first)
            };
            // Whoever is redirected to a sidecar is an app, and its flow matters from the moment on that it asks.
            if is_sidecars_port(packet.dport) && !ASKED.has(packet.sport) {
                if first().is_some_and(|first| !is_opening(first)) {
                    return false;
                }
            } else if capture::is_quiet(FLOWS.seek(cookie(&ctx)), is_at_sidecar, first) {
                return false;
            }
        }
        true
    }
}

/// May it by its headers and its socket?
#[inline(always)]
fn matters(packet: &Packet, is_at_sidecar: bool, acked: u64, received: u64) -> bool {
    let begins = packet.flags & TCP_SYN != 0;
    let resets = packet.flags & TCP_RST != 0;
    if packet.len != 0 {
        // Who dials has his SYN acknowledged first, which counts as a byte (`tcp_rcv_synsent_state_process` calls `tcp_ack`). So
        // this socket was accepted, and of those only a sidecar's are followed:
        // https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp_input.c
        return acked != 0 || begins || is_at_sidecar;
    }
    let ends = resets || packet.flags & TCP_FIN != 0;
    (ends && ending::matters(resets, received)) || (begins && is_sidecars_port(packet.dport))
}

/// A packet that may tell something. A function of its own, as all registers that it uses are saved where it begins.
#[inline(never)]
extern "C" fn look_at(skb: *mut __sk_buff, received: u64) -> i32 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: the context of the program that calls this, which the kernel has made; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if !sk.is_null()
            && let Some(packet) = Packet::read(skb)
        {
            leave(&ctx, sk, &packet, received);
        }
    }
    GO_ON
}

/// # Safety
/// `sk` must be the packet's socket, not null.
#[inline(always)]
unsafe fn leave(ctx: &SkBuffContext, sk: *mut bpf_sock, packet: &Packet, received: u64) {
    let closes = Maybe::new(packet.flags & (TCP_FIN | TCP_RST) != 0);
    let begins = Maybe::new(packet.flags & TCP_SYN != 0);
    let flow = cookie(ctx);
    let known = FLOWS.look(flow);
    if begins.is()
        && is_sidecars_port(packet.dport)
        && let Some(state) = known.get()
    {
        capture::began(state, packet.sport, packet.dport);
    }
    let payload = Payload::new(ctx, sk, packet);
    if packet.len != 0 {
        // A SYN has a number of its own; bytes that come with it (TCP fast open) begin with the next.
        let seq = packet.seq.wrapping_add(u32::from(begins.is()));
        capture::sent(&payload, known, &Sent { flow, seq, len: packet.len });
    }
    if closes.is()
        && let Some(state) = known.get()
    {
        // SAFETY: the value lives in the map and is only read.
        ending::app_closed(unsafe { &*state }, || payload.tuple(), packet.flags & TCP_RST != 0, received);
    }
}

/// The payload of a packet.
struct Payload<'a> {
    ctx: &'a SkBuffContext,
    /// The packet's socket, not null.
    sk: *mut bpf_sock,
    at: u32,
    len: u32,
    sport: u16,
    dport: u16,
}

impl<'a> Payload<'a> {
    #[inline(always)]
    fn new(ctx: &'a SkBuffContext, sk: *mut bpf_sock, packet: &Packet) -> Self {
        let Packet { payload, len, sport, dport, .. } = *packet;
        Self { ctx, sk, at: payload, len, sport, dport }
    }

    /// # Safety
    /// `to` must be valid for writes of `len` bytes.
    #[inline(always)]
    unsafe fn load(&self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise; the helper checks the packet's side.
        unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), self.at + offset, to.cast(), len) == 0 }
    }
}

impl Context for Payload<'_> {
    #[inline(always)]
    fn first(&self) -> Result<u64, Loss> {
        let mut first = [0u8; 8];
        let len = masked::<7>(least(u64::from(self.len), 8).wrapping_sub(1)) as u32 + 1;
        // SAFETY: `first` has 8 bytes, and this is 1 to 8.
        let loaded = unsafe { self.load(0, first.as_mut_ptr(), len) };
        if loaded { Ok(u64::from_le_bytes(first)) } else { Err(Loss::PayloadUnreadable) }
    }

    #[inline(always)]
    fn tenth(&self) -> u8 {
        let mut byte = 0u8;
        // SAFETY: one byte into one byte.
        unsafe { self.load(9, &raw mut byte, 1) };
        byte
    }

    #[inline(always)]
    fn last(&self) -> [u8; 4] {
        let mut last = [0u8; 4];
        // SAFETY: `last` has 4 bytes.
        unsafe { self.load(self.len.wrapping_sub(4), last.as_mut_ptr(), 4) };
        last
    }

    #[inline(always)]
    fn uid(&self) -> u32 {
        self.ctx.skb.get_socket_uid()
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        // SAFETY: `sk` is the packet's socket.
        unsafe { load!(self.sk, bpf_sock.src_port) as u16 }
    }

    #[inline(always)]
    fn tuple(&self) -> Tuple {
        // SAFETY: `sk` is the packet's socket.
        let mut tuple = unsafe { tuple_of(self.sk) };
        tuple.wire_port = self.sport;
        if self.dport != tuple.remote_port && is_sidecars_port(self.dport) {
            tuple.sidecar_port = self.dport;
        }
        tuple
    }

    #[inline(always)]
    fn netns(&self) -> Option<u64> {
        // A packet does not say; where only some namespaces are traced, it is left alone.
        if settings().is_netns_scoped() { None } else { Some(opaque_zero()) }
    }

    #[inline(always)]
    fn sees_redirection(&self) -> bool {
        true
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        // SAFETY: the packet is the kernel's own, and has a socket.
        unsafe { bpf_skb_cgroup_id(self.ctx.skb.skb) }
    }

    #[inline(always)]
    fn is_in_scope(&self) -> bool {
        // SAFETY: as above.
        scope::is_in_scope(|level| unsafe { bpf_skb_ancestor_cgroup_id(self.ctx.skb.skb, level) })
    }
}

impl Bytes for Payload<'_> {
    #[inline(always)]
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32 {
        // SAFETY: the caller's promise, with `len` at most HEAD_MAX.
        if unsafe { self.load(0, to.cast(), len) } { len } else { 0 }
    }
}
