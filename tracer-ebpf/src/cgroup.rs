//! The shells for the cgroup family: connect4/6 (an app or the sidecar dials), getpeername4/6 (which accept4 calls:
//! the sidecar accepts), setsockopt (the sidecar sets up what it accepted), sock_ops (established, ended) and skb egress (bytes). Their contexts are stable UAPI. They
//! only watch: every one of them returns "go on".

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_sock_addr, bpf_sock_ops,
    },
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
        bpf_skb_load_bytes, bpf_tcp_sock,
    },
    macros::{cgroup_skb, cgroup_sock_addr, cgroup_sockopt, sock_ops},
    programs::{SkBuffContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use aya_log_ebpf::debug;
use tracer_ebpf::{HEAD_MAX, Loss};

use crate::{
    address::{address, mapped},
    capture::{self, Known},
    context::{Bytes, Context, Sent, Tuple},
    link,
    maps::{Maybe, opaque_zero, settings},
    packet::{Packet, TCP_FIN, TCP_RST, TCP_SYN},
    scope,
    sidecar::{self, is_sidecars_port},
    task::current_task,
};

/// The verdict of every program here: let it pass.
const GO_ON: i32 = 1;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const TCP_NODELAY: i32 = 1;

/// Loads a word of a context on its own, in one instruction. The verifier takes `ctx + constant` only, and LLVM would
/// merge the loads of two branches (volatile ones, too) into one whose address it computes.
macro_rules! load {
    ($ctx:expr, $type:ident.$field:ident $([$index:literal])?) => {{
        let value: u64;
        core::arch::asm!(
            "{value} = *(u32 *)({ctx} + {offset})",
            value = out(reg) value,
            ctx = in(reg) $ctx,
            offset = const core::mem::offset_of!($type, $field) $(+ 4 * $index)?,
            options(pure, readonly, nostack),
        );
        value as u32
    }};
}

/// `connect(2)` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn egress_connect4(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel hands a valid context to each run.
    let remote = unsafe { mapped(load!(addr, bpf_sock_addr.user_ip4)) };
    connect(&ctx, remote)
}

/// `connect(2)` on an IPv6 socket, whose destination may be IPv4-mapped.
#[cgroup_sock_addr(connect6)]
pub fn egress_connect6(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel hands a valid context to each run.
    let remote = unsafe {
        address(
            load!(addr, bpf_sock_addr.user_ip6[0]),
            load!(addr, bpf_sock_addr.user_ip6[1]),
            load!(addr, bpf_sock_addr.user_ip6[2]),
            load!(addr, bpf_sock_addr.user_ip6[3]),
        )
    };
    connect(&ctx, remote)
}

/// `accept4(2)` on an IPv4 socket asks for its peer's name:
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/af_inet.c#L785>.
#[cgroup_sock_addr(getpeername4)]
pub fn egress_accept4(ctx: SockAddrContext) -> i32 {
    accept(&ctx)
}

/// The same on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn egress_accept6(ctx: SockAddrContext) -> i32 {
    accept(&ctx)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, remote: [u8; 16]) -> i32 {
    // SAFETY: the kernel hands a valid context to each run.
    let (protocol, port) = unsafe {
        (load!(ctx.sock_addr, bpf_sock_addr.protocol), load!(ctx.sock_addr, bpf_sock_addr.user_port))
    };
    if protocol == IPPROTO_TCP && scope::is_current_in_scope() {
        let tuple = Tuple {
            local_addr: [0; 16],
            remote_addr: remote,
            local_port: 0,
            remote_port: u16::from_be(port as u16),
            wire_port: 0,
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        };
        let flow = cookie(ctx);
        debug!(ctx, "flow {} dials port {}", flow, tuple.remote_port);
        capture::dialed(flow, netns(ctx), &current_task(), &tuple, 0);
    }
    GO_ON
}

#[inline(always)]
fn accept(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the kernel hands a valid context to each run; reading `sk` of it yields a socket or null.
    let port = unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return GO_ON;
        }
        (*sk).src_port
    };
    if is_sidecars_port(port as u16) {
        let flow = cookie(ctx);
        debug!(ctx, "a sidecar takes flow {} on port {}", flow, port);
        capture::accepted(flow, &current_task());
    }
    GO_ON
}

/// `setsockopt(2)`: of interest where a sidecar sets up what it has accepted.
#[cgroup_sockopt(setsockopt)]
pub fn egress_options(ctx: SockoptContext) -> i32 {
    let option = ctx.sockopt;
    // SAFETY: the kernel hands a valid context to each run, in which the socket is never null.
    unsafe {
        // The kernel shows a page at most. Of an option beyond that (iptables' rules) it must be told to take what the
        // caller gave, or it refuses it: https://docs.kernel.org/bpf/prog_cgroup_sockopt.html#using-large-optval
        let shown = (*option).__bindgen_anon_3.optval_end.addr() - (*option).__bindgen_anon_2.optval.addr();
        if (*option).optlen as usize > shown {
            (*option).optlen = 0;
        }
        if (*option).level != IPPROTO_TCP as i32 || (*option).optname != TCP_NODELAY {
            return GO_ON;
        }
        let sk = (*option).__bindgen_anon_1.sk;
        if is_sidecars_port(load!(sk, bpf_sock.src_port) as u16) {
            let tuple = tuple_of(sk);
            if let Some(flow) = sidecar::accepted_flow(netns(&ctx), &tuple) {
                debug!(&ctx, "a sidecar takes up flow {}", flow);
                link::taken_up(flow);
            }
        }
    }
    GO_ON
}

/// A connection's state changes.
#[sock_ops]
pub fn egress_states(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_STATE_CB {
        let (from, to) = (ctx.arg(0) as u8, ctx.arg(1) as u8);
        // SAFETY: the kernel hands a valid context to each run.
        let received = unsafe { (*ctx.ops).bytes_received };
        capture::state_changed(cookie(&ctx), || tuple_of_ops(&ctx), from, to, false, received);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && is_sidecars_port(ctx.local_port() as u16) {
        watch_states(&ctx);
        let netns = netns(&ctx);
        // What came with the SYN (TCP fast open) passed before this, and waits for its reply already.
        let tuple = tuple_of_ops(&ctx);
        capture::knocked(netns, &tuple, Known::Keep);
        capture::established(cookie(&ctx), netns, &tuple);
    } else if op == BPF_SOCK_OPS_TCP_CONNECT_CB && capture::is_sidecars_dial(cookie(&ctx)) {
        watch_states(&ctx);
    }
    GO_ON as u32
}

#[inline(always)]
fn watch_states(ctx: &SockOpsContext) {
    // Refused only for a flag that the kernel does not know, and this one is as old as the callback (4.16).
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// A packet leaves a socket, after NAT: the socket still has the address that was dialled, the IP header the one that
/// it was redirected to.
#[cgroup_skb(egress)]
pub fn egress_bytes(ctx: SkBuffContext) -> i32 {
    // SAFETY: the kernel hands a valid context to each run; `sk` and `tp` are checked for null before use.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return GO_ON;
        }
        let tp = bpf_tcp_sock(sk);
        if tp.is_null() || capture::is_past_first_bytes((*tp).bytes_acked, (*tp).bytes_received) {
            return GO_ON;
        }
        if let Some(packet) = Packet::read(&ctx) {
            leave(&ctx, sk, &packet);
        }
    }
    GO_ON
}

/// # Safety
/// `sk` must be the packet's socket, not null.
#[inline(always)]
unsafe fn leave(ctx: &SkBuffContext, sk: *mut bpf_sock, packet: &Packet) {
    let closes = Maybe::new(packet.flags & (TCP_FIN | TCP_RST) != 0);
    let begins = Maybe::new(packet.flags & TCP_SYN != 0);
    if packet.len == 0 && !closes.is() && !begins.is() {
        return;
    }
    let flow = cookie(ctx);
    if begins.is() {
        capture::began(flow, packet.sport, packet.dport);
    }
    let payload =
        Payload { ctx, sk, at: packet.payload, len: packet.len, sport: packet.sport, dport: packet.dport };
    if packet.len != 0 {
        // A SYN has a number of its own; bytes that come with it (TCP fast open) begin with the next.
        let seq = packet.seq.wrapping_add(u32::from(begins.is()));
        capture::sent(&payload, &Sent { flow, seq, len: packet.len });
    }
    if closes.is() {
        capture::app_closed(flow, || payload.tuple(), packet.flags & TCP_RST != 0);
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

impl Payload<'_> {
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
        let loaded = if self.len >= 8 {
            // SAFETY: `first` has 8 bytes.
            unsafe { self.load(0, first.as_mut_ptr(), 8) }
        } else {
            // SAFETY: `first` has 8 bytes, and this is 1 to 8.
            unsafe { self.load(0, first.as_mut_ptr(), (self.len.wrapping_sub(1) & 7) + 1) }
        };
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
        if settings().is_netns_scoped() { None } else { Some(0) }
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

#[inline(always)]
fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: all three contexts of this file are ones the helper takes.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn netns(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: sock_addr, sock_ops and sockopt contexts are ones the helper takes (5.7, 5.15, 5.15).
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// # Safety
/// `sk` must point to a socket.
#[inline(always)]
unsafe fn tuple_of(sk: *mut bpf_sock) -> Tuple {
    // SAFETY: the caller's promise.
    unsafe {
        let (local_addr, remote_addr) = if load!(sk, bpf_sock.family) == AF_INET6 {
            (
                address(
                    load!(sk, bpf_sock.src_ip6[0]),
                    load!(sk, bpf_sock.src_ip6[1]),
                    load!(sk, bpf_sock.src_ip6[2]),
                    load!(sk, bpf_sock.src_ip6[3]),
                ),
                address(
                    load!(sk, bpf_sock.dst_ip6[0]),
                    load!(sk, bpf_sock.dst_ip6[1]),
                    load!(sk, bpf_sock.dst_ip6[2]),
                    load!(sk, bpf_sock.dst_ip6[3]),
                ),
            )
        } else {
            (mapped(load!(sk, bpf_sock.src_ip4)), mapped(load!(sk, bpf_sock.dst_ip4)))
        };
        Tuple {
            local_addr,
            remote_addr,
            local_port: load!(sk, bpf_sock.src_port) as u16,
            wire_port: load!(sk, bpf_sock.src_port) as u16,
            // Network order in the lower half:
            // https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6300
            remote_port: u16::from_be(load!(sk, bpf_sock.dst_port) as u16),
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        }
    }
}

#[inline(always)]
fn tuple_of_ops(ctx: &SockOpsContext) -> Tuple {
    let ops = ctx.ops;
    // SAFETY: the kernel hands a valid context to each run.
    unsafe {
        let (local_addr, remote_addr) = if load!(ops, bpf_sock_ops.family) == AF_INET6 {
            (
                address(
                    load!(ops, bpf_sock_ops.local_ip6[0]),
                    load!(ops, bpf_sock_ops.local_ip6[1]),
                    load!(ops, bpf_sock_ops.local_ip6[2]),
                    load!(ops, bpf_sock_ops.local_ip6[3]),
                ),
                address(
                    load!(ops, bpf_sock_ops.remote_ip6[0]),
                    load!(ops, bpf_sock_ops.remote_ip6[1]),
                    load!(ops, bpf_sock_ops.remote_ip6[2]),
                    load!(ops, bpf_sock_ops.remote_ip6[3]),
                ),
            )
        } else {
            (mapped(load!(ops, bpf_sock_ops.local_ip4)), mapped(load!(ops, bpf_sock_ops.remote_ip4)))
        };
        Tuple {
            local_addr,
            remote_addr,
            local_port: load!(ops, bpf_sock_ops.local_port) as u16,
            wire_port: load!(ops, bpf_sock_ops.local_port) as u16,
            // Network order in the upper half of the kernel's word:
            // https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6800
            remote_port: u16::from_be((load!(ops, bpf_sock_ops.remote_port) >> 16) as u16),
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        }
    }
}
