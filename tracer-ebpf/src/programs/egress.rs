//! The cgroup family's entry point for packets that leave a socket: where it sees first bytes and ends. It lets every packet
//! pass.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_load_bytes, bpf_tcp_sock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use tracer_ebpf::{
    HEAD_MAX, Loss,
    http_prefix::is_prefix,
    verifier::{masked, min, opaque_zero},
};

use crate::{
    context::{Bytes, Context, Sent, Tuple},
    correlate::{close, open, payload},
    endpoint::{is_loopback, is_same},
    sock::{
        packet::{self, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
        uapi::{ALLOW, cookie, load, tuple_of},
    },
    state::{
        globals::settings,
        interceptors::{self, may_be_port},
        maps::{FLOWS, REQUEST_PORTS},
        scope, shared_upstreams,
    },
};

/// A packet leaves a socket, after NAT: the socket still has the dialed address, the IP header the one that the connection was
/// redirected to.
///
/// Nearly all packets take one of the early exits here. Their cost is cache lines of code and helper calls, so this function is
/// short, and all else is in separate functions.
#[cgroup_skb(egress)]
pub fn egress_bytes(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context; `sk` and `tp` are checked for null before use.
    unsafe {
        let flags = packet::flags_of_empty(skb);
        if flags & (TCP_FIN | TCP_RST | TCP_ACK) == TCP_ACK {
            return ALLOW; // a pure acknowledgment
        }
        if flags & (TCP_FIN | TCP_RST | TCP_SYN) == TCP_SYN {
            egress_process_syn(skb);
            return ALLOW;
        }
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return ALLOW;
        }
        let tp = bpf_tcp_sock(sk);
        if tp.is_null() {
            return ALLOW;
        }
        let (acked, received) = ((*tp).bytes_acked, (*tp).bytes_received);
        if payload::is_past_first_bytes(acked, received) {
            let port = load!(sk, bpf_sock.src_port) as u16;
            if shared_upstreams::may_be_port(port) {
                egress_process_late_bytes(skb);
            }
            return ALLOW;
        }
        if flags & TCP_FIN != 0 && !close::is_relevant(flags & TCP_RST != 0, received) {
            return ALLOW;
        }
        let wanted = egress_prefilter(skb, acked, received);
        if wanted & WANTS_SYN != 0 {
            egress_process_syn(skb);
        }
        if wanted & WANTS_BYTES != 0 {
            egress_process_bytes(skb);
        }
        if wanted & WANTS_END != 0 {
            egress_process_end(skb, received);
        }
    }
    ALLOW
}

// The functions below whose names begin with `egress_` are global ones, which the verifier checks once and not in the state of
// each call.

/// Bytes of a flow that is past its first bytes and may carry several sessions of an interceptor.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_process_late_bytes(skb: *mut __sk_buff) -> u64 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: `skb` is the context of the program that calls this; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if !sk.is_null()
            && let Some(packet) = Packet::read(skb)
            && packet.len != 0
        {
            payload::late_bytes_sent(&Payload::new(&ctx, sk, &packet, 0), cookie(&ctx));
        }
    }
    0
}

/// A SYN of an app: where it goes is kept.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_process_syn(skb: *mut __sk_buff) -> u64 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: `skb` is the context of the program that calls this; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if !sk.is_null()
            && let Some(packet) = Packet::read(skb)
            && let Some(flow) = FLOWS.find(cookie(&ctx))
        {
            let redirected_to = egress_redirected_port(skb, (*flow).netns) as u16;
            open::syn_sent(flow, &Payload::new(&ctx, sk, &packet, redirected_to).tuple());
        }
    }
    0
}

/// The port that a packet of a flow in this namespace was redirected to; 0 if it was not redirected. `netns` 0: the namespace is not
/// known.
///
/// Rules of a namespace that redirect what an app sends turn it to a loopback address: `nf_nat_redirect` does so for packets that
/// are made here. A port of another local address is one only where it was seen to intercept, as a Service's translation may lead
/// to this host, too.
/// <https://elixir.bootlin.com/linux/v6.12/source/net/netfilter/nf_nat_redirect.c#L82>
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_redirected_port(skb: *mut __sk_buff, netns: u64) -> u64 {
    // SAFETY: `skb` is the context of the program that calls this; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return opaque_zero();
        }
        let Some(packet) = Packet::read(skb) else { return opaque_zero() };
        let tuple = tuple_of(sk);
        let is_local = is_loopback(tuple.remote_addr) || is_same(tuple.remote_addr, tuple.local_addr);
        let is_redirected = packet.to_loopback != 0 && !is_local;
        let is_known = packet.dport != tuple.remote_port && interceptors::is_port(netns, packet.dport);
        opaque_zero() + if is_redirected || is_known { packet.dport.into() } else { 0 }
    }
}

/// [`egress_prefilter`]: for [`egress_process_bytes`].
const WANTS_BYTES: u64 = 1;
/// [`egress_prefilter`]: a SYN of IPv6, or with many options, or with bytes (TCP Fast Open).
const WANTS_SYN: u64 = 2;
/// [`egress_prefilter`]: for [`egress_process_end`].
const WANTS_END: u64 = 4;

/// For what a packet may be of interest. Its flow is not past its first bytes; `acked` and `received` are its socket's counters.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_prefilter(skb: *mut __sk_buff, acked: u64, received: u64) -> u64 {
    // SAFETY: `skb` is the context of the program that calls this; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return 0;
        }
        let is_at_sidecar = may_be_port(load!(sk, bpf_sock.src_port) as u16);
        if is_at_sidecar && !REQUEST_PORTS.contains(u16::from_be(load!(sk, bpf_sock.dst_port) as u16)) {
            return 0; // its peer has sent no request
        }
        let Some(packet) = Packet::read(skb) else { return 0 };
        if !is_relevant(&packet, is_at_sidecar, acked, received) {
            return 0;
        }
        if packet.flags & TCP_SYN != 0 {
            return WANTS_SYN | u64::from(packet.len != 0) * WANTS_BYTES;
        }
        if packet.len >= 8 && packet.flags & (TCP_FIN | TCP_RST) == 0 {
            let ctx = SkBuffContext::new(skb);
            let data = Payload::new(&ctx, sk, &packet, 0);
            let first = || {
                let mut first = 0u64;
                data.load(0, (&raw mut first).cast(), 8).then_some(first)
            };
            // A flow that is redirected to a sidecar is an app's, and is of interest once it has sent a request.
            if packet.to_loopback != 0 && may_be_port(packet.dport) && !REQUEST_PORTS.contains(packet.sport) {
                if first().is_some_and(|first| !is_prefix(first)) {
                    return 0;
                }
            } else if payload::is_irrelevant(FLOWS.find(cookie(&ctx)), is_at_sidecar, first) {
                return 0;
            }
        }
        let ends = packet.flags & (TCP_FIN | TCP_RST) != 0;
        u64::from(packet.len != 0) * WANTS_BYTES | u64::from(ends) * WANTS_END
    }
}

/// Whether a packet may be of interest by its headers and its socket's counters.
#[inline(always)]
fn is_relevant(packet: &Packet, is_at_sidecar: bool, acked: u64, received: u64) -> bool {
    let begins = packet.flags & TCP_SYN != 0;
    let resets = packet.flags & TCP_RST != 0;
    if packet.len != 0 {
        // With nothing acknowledged the socket was accepted: a dialing socket's SYN counts as one acknowledged byte
        // (`tcp_rcv_synsent_state_process` calls `tcp_ack`). Of accepted sockets only a sidecar's are followed:
        // https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp_input.c
        return acked != 0 || begins || is_at_sidecar;
    }
    let ends = resets || packet.flags & TCP_FIN != 0;
    (ends && close::is_relevant(resets, received)) || begins
}

/// A payload that may be of interest.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_process_bytes(skb: *mut __sk_buff) -> u64 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: `skb` is the context of the program that calls this; `sk` is checked for null before use.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if !sk.is_null()
            && let Some(packet) = Packet::read(skb)
        {
            let flow = cookie(&ctx);
            let known = FLOWS.find(flow);
            let netns = known.map_or_else(opaque_zero, |flow| (*flow).netns);
            let data = Payload::new(&ctx, sk, &packet, egress_redirected_port(skb, netns) as u16);
            // A SYN takes a sequence number; bytes that come with it (TCP Fast Open) begin with the next.
            let begins = (packet.flags & TCP_SYN) / TCP_SYN;
            let seq = packet.seq.wrapping_add(begins.into());
            payload::sent(&data, known, &Sent { flow, seq, len: packet.len });
        }
    }
    0
}

/// A FIN or a RST that may be of interest. A function of its own, after that for the payload: both at once need more stack than a
/// program has.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_process_end(skb: *mut __sk_buff, received: u64) -> u64 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: `skb` is the context of the program that calls this; `sk` is checked for null before use. The flow lives in the map and
    // is only read.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if !sk.is_null()
            && let Some(packet) = Packet::read(skb)
            && let Some(flow) = FLOWS.find(cookie(&ctx))
        {
            let tuple = || {
                let redirected_to = egress_redirected_port(skb, (*flow).netns) as u16;
                Payload::new(&ctx, sk, &packet, redirected_to).tuple()
            };
            close::app_closed(&*flow, tuple, packet.flags & TCP_RST != 0, received);
        }
    }
    0
}

/// A packet's payload.
struct Payload<'a> {
    ctx: &'a SkBuffContext,
    /// The packet's socket, not null.
    sk: *mut bpf_sock,
    /// Offset in bytes from the start of the IP header.
    at: u32,
    /// Length in bytes.
    len: u32,
    sport: u16,
    /// The interceptor's port that it was redirected to; 0 if it was not, or that was not asked.
    redirected_to: u16,
}

impl<'a> Payload<'a> {
    #[inline(always)]
    fn new(ctx: &'a SkBuffContext, sk: *mut bpf_sock, packet: &Packet, redirected_to: u16) -> Self {
        let Packet { payload, len, sport, .. } = *packet;
        Self { ctx, sk, at: payload, len, sport, redirected_to }
    }

    /// Copies `len` bytes from `offset` on.
    ///
    /// # Safety
    /// `to` must be valid for writes of `len` bytes.
    #[inline(always)]
    unsafe fn load(&self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller guarantees `to`; the helper checks the packet's bounds.
        unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), self.at + offset, to.cast(), len) == 0 }
    }
}

impl Context for Payload<'_> {
    #[inline(always)]
    fn first(&self) -> Result<u64, Loss> {
        let mut first = [0u8; 8];
        let len = masked::<7>(min(u64::from(self.len), 8).wrapping_sub(1)) as u32 + 1;
        // SAFETY: `first` has 8 bytes, and `len` is 1 to 8.
        let loaded = unsafe { self.load(0, first.as_mut_ptr(), len) };
        if loaded { Ok(u64::from_le_bytes(first)) } else { Err(Loss::PayloadUnreadable) }
    }

    #[inline(always)]
    fn tenth(&self) -> u8 {
        let mut byte = 0u8;
        // SAFETY: `byte` has 1 byte.
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
    fn is_interceptors(&self) -> bool {
        interceptors::is_owner(self.cgroup(), self.uid())
    }

    #[inline(always)]
    fn is_in_sender(&self) -> bool {
        // A packet may leave in a softirq, when an acknowledgment or a timer lets it.
        false
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
        tuple.sidecar_port = self.redirected_to;
        tuple
    }

    #[inline(always)]
    fn netns(&self) -> Option<u64> {
        // A packet's context has no namespace. If only some namespaces are traced, the flow counts as out of scope.
        if settings().is_netns_scoped() { None } else { Some(opaque_zero()) }
    }

    #[inline(always)]
    fn sees_redirection(&self) -> bool {
        true
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        // SAFETY: the packet is the program's context, and has a socket.
        unsafe { bpf_skb_cgroup_id(self.ctx.skb.skb) }
    }

    #[inline(always)]
    fn is_in_scope(&self) -> bool {
        // SAFETY: the packet is the program's context, and has a socket.
        scope::is_in_scope(|level| unsafe { bpf_skb_ancestor_cgroup_id(self.ctx.skb.skb, level) })
    }
}

impl Bytes for Payload<'_> {
    #[inline(always)]
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32 {
        // SAFETY: the caller guarantees `to`, and `len` is at most HEAD_MAX.
        if unsafe { self.load(0, to.cast(), len) } { len } else { 0 }
    }
}
