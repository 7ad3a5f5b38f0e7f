//! The shells for the cgroup family, but for the packets (`egress`): connect4/6 (an app or the sidecar dials),
//! getpeername4/6 (which accept4 calls: the sidecar accepts), setsockopt (the sidecar sets up what it accepted), sock_ops
//! (established, ended). Their contexts are stable UAPI. They only watch: every one of them returns "go on".

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_sock_addr,
    },
    macros::{cgroup_sock_addr, cgroup_sockopt, sock_ops},
    programs::{SockAddrContext, SockOpsContext, SockoptContext},
};
use aya_log_ebpf::debug;

use crate::{
    address::{address, mapped},
    capture,
    context::Tuple,
    ending::{self, End},
    link,
    maps::{ASKED, FLOWS, Flow, Thread},
    scope,
    sidecar::{self, is_sidecars_port},
    uapi::{GO_ON, cookie, load, netns, number_of, remote_port_of_ops, tuple_of, tuple_of_ops},
};

const IPPROTO_TCP: u32 = 6;
const TCP_NODELAY: i32 = 1;

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
        let tuple = Tuple::to(remote, u16::from_be(port as u16));
        let flow = cookie(ctx);
        debug!(ctx, "flow {} dials port {}", flow, tuple.remote_port);
        capture::dialed(flow, netns(ctx), &tuple, 0);
    }
    GO_ON
}

#[inline(always)]
fn accept(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the kernel hands a valid context to each run; reading `sk` of it yields a socket or null.
    let (port, socket) = unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return GO_ON;
        }
        ((*sk).src_port, number_of(sk))
    };
    if is_sidecars_port(port as u16) {
        let flow = cookie(ctx);
        debug!(ctx, "a sidecar takes flow {} on port {}", flow, port);
        capture::accepted(flow, socket, scope::is_current_in_scope());
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
            link::taken_up(|thread| accepted_flow(&ctx, sk, thread));
        }
    }
    GO_ON
}

/// The flow of a socket that the sidecar accepted and this thread sets up: mostly what it accepted last.
///
/// # Safety
/// `sk` must be the socket of `ctx`, not null.
#[inline(always)]
unsafe fn accepted_flow(ctx: &SockoptContext, sk: *mut bpf_sock, thread: &Thread) -> Option<*mut Flow> {
    // SAFETY: the caller's promise.
    unsafe {
        if thread.accepted_socket == number_of(sk)
            && let Some(reply) = FLOWS.find(thread.accepted)
        {
            return Some(reply);
        }
        sidecar::accepted(netns(ctx), &tuple_of(sk)).and_then(sidecar::flow_of)
    }
}

/// A connection's state changes.
#[sock_ops]
pub fn egress_states(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_STATE_CB {
        let (from, to) = (ctx.arg(0) as u8, ctx.arg(1) as u8);
        if ending::is_over(to) {
            // SAFETY: the kernel hands a valid context to each run.
            let (received, segments) = unsafe { ((*ctx.ops).bytes_received, (*ctx.ops).data_segs_out) };
            let end = End { from, to, by_peer: false, received, segments };
            if ending::ended(cookie(&ctx), || tuple_of_ops(&ctx), &end) {
                watch_states(&ctx, 0);
            }
        }
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && is_sidecars_port(ctx.local_port() as u16) {
        watch_states(&ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
        capture::established(cookie(&ctx), netns(&ctx), &tuple_of_ops(&ctx));
    } else if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        if is_sidecars_port(ctx.local_port() as u16) {
            // No sidecar's socket is dialled from such a port, and `egress_bytes` must not take this one for one.
            ASKED.put(remote_port_of_ops(&ctx));
        }
        if capture::is_sidecars_dial(cookie(&ctx)) {
            watch_states(&ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
        }
    }
    GO_ON as u32
}

/// Have this program called when the socket's state changes, or (0) no more.
#[inline(always)]
fn watch_states(ctx: &SockOpsContext, flag: u32) {
    let others = ctx.cb_flags() & !BPF_SOCK_OPS_STATE_CB_FLAG;
    // Refused only for a flag that the kernel does not know, and this one is as old as the callback (4.16).
    let _ = ctx.set_cb_flags((others | flag) as i32);
}
