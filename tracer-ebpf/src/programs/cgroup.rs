//! The cgroup family's entry points except the packet one (`egress`): connect4/6 (an app or the sidecar dials), getpeername4/6
//! (called by accept4: the sidecar accepts), setsockopt (the sidecar sets up an accepted socket), sock_ops (connections are
//! established and end). Their contexts are stable UAPI. All of them return [`ALLOW`].

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock, bpf_sock_addr,
    },
    macros::{cgroup_sock_addr, cgroup_sockopt, sock_ops},
    programs::{SockAddrContext, SockOpsContext, SockoptContext},
};
use aya_log_ebpf::debug;

use crate::{
    context::Tuple,
    correlate::{
        close::{self, StateChange},
        open, sidecar, upstream,
    },
    endpoint::{address, mapped},
    sock::uapi::{ALLOW, cookie, load, netns, remote_port_of_ops, socket_number, tuple_of, tuple_of_ops},
    state::{
        interceptors::{self, is_port, may_be_port},
        maps::{FLOWS, REQUEST_PORTS},
        scope,
        values::{Flow, Thread},
    },
};

const IPPROTO_TCP: u32 = 6;
const TCP_NODELAY: i32 = 1;
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/asm-generic/socket.h>. Envoy sets it on each socket before it
/// listens: <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/network/listen_socket_impl.cc>
const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;

/// `connect(2)` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn egress_connect4(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context.
    let remote = unsafe { mapped(load!(addr, bpf_sock_addr.user_ip4)) };
    connect(&ctx, remote)
}

/// `connect(2)` on an IPv6 socket, whose destination may be IPv4-mapped.
#[cgroup_sock_addr(connect6)]
pub fn egress_connect6(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context.
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

/// `accept4(2)` on an IPv4 socket, which calls `getpeername`:
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/af_inet.c#L785>.
#[cgroup_sock_addr(getpeername4)]
pub fn egress_accept4(ctx: SockAddrContext) -> i32 {
    accept(&ctx)
}

/// `accept4(2)` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn egress_accept6(ctx: SockAddrContext) -> i32 {
    accept(&ctx)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, remote: [u8; 16]) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let (protocol, port) = unsafe {
        (load!(ctx.sock_addr, bpf_sock_addr.protocol), load!(ctx.sock_addr, bpf_sock_addr.user_port))
    };
    if protocol == IPPROTO_TCP {
        let tuple = Tuple::to(remote, u16::from_be(port as u16));
        let flow = cookie(ctx);
        debug!(ctx, "flow {} dials port {}", flow, tuple.remote_port);
        open::connect(flow, netns(ctx), &tuple, 0, scope::is_current_in_scope);
    }
    ALLOW
}

#[inline(always)]
fn accept(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context; reading `sk` of it yields a socket or null.
    let (port, socket) = unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return ALLOW;
        }
        ((*sk).src_port, socket_number(sk))
    };
    if is_port(netns(ctx), port as u16) {
        let flow = cookie(ctx);
        debug!(ctx, "an interceptor accepts flow {} on port {}", flow, port);
        open::accept(flow, socket, scope::is_current_in_scope());
    }
    ALLOW
}

/// `setsockopt(2)`. Of interest: a sidecar sets `TCP_NODELAY` on an accepted socket, and prepares a socket for listening.
#[cgroup_sockopt(setsockopt)]
pub fn egress_options(ctx: SockoptContext) -> i32 {
    let option = ctx.sockopt;
    // SAFETY: the kernel passes a valid context, in which the socket is never null.
    unsafe {
        // The kernel shows one page of an option at most. With `optlen` 0 it takes the caller's value of a longer one (iptables'
        // rules), which it otherwise refuses: https://docs.kernel.org/bpf/prog_cgroup_sockopt.html#using-large-optval
        let shown = (*option).__bindgen_anon_3.optval_end.addr() - (*option).__bindgen_anon_2.optval.addr();
        // A negative `optlen` is another program's: it has handled the option and has the kernel skip it.
        if (*option).optlen > 0 && (*option).optlen as usize > shown {
            (*option).optlen = 0;
        }
        let sk = (*option).__bindgen_anon_1.sk;
        if (*option).level == SOL_SOCKET && (*option).optname == SO_REUSEADDR {
            interceptors::prepare_listener(socket_number(sk));
            return ALLOW;
        }
        if (*option).level != IPPROTO_TCP as i32 || (*option).optname != TCP_NODELAY {
            return ALLOW;
        }
        if may_be_port(load!(sk, bpf_sock.src_port) as u16) {
            upstream::nodelay_set(|thread| accepted_flow(&ctx, sk, thread));
        }
    }
    ALLOW
}

/// The flow of an accepted socket that this thread sets up: mostly the one that it accepted last.
///
/// # Safety
/// `sk` must be the socket of `ctx`, not null.
#[inline(always)]
unsafe fn accepted_flow(
    ctx: &SockoptContext,
    sk: *mut bpf_sock,
    thread: Option<&Thread>,
) -> Option<*mut Flow> {
    // SAFETY: the caller guarantees it.
    unsafe {
        if let Some(thread) = thread
            && thread.accepted_socket == socket_number(sk)
            && let Some(reply) = FLOWS.find(thread.accepted)
        {
            return Some(reply);
        }
        sidecar::find_accepted(netns(ctx), &tuple_of(sk)).and_then(sidecar::flow_of)
    }
}

/// A connection is dialed or established, or its TCP state changes.
#[sock_ops]
pub fn egress_states(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_STATE_CB {
        let (from, to) = (ctx.arg(0) as u8, ctx.arg(1) as u8);
        if close::is_end(to) {
            // SAFETY: the kernel passes a valid context.
            let (received, segments) = unsafe { ((*ctx.ops).bytes_received, (*ctx.ops).data_segs_out) };
            let end = StateChange { from, to, by_peer: false, received, segments };
            close::state_changed(cookie(&ctx), || tuple_of_ops(&ctx), &end);
        }
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        let (netns, tuple) = (netns(&ctx), tuple_of_ops(&ctx));
        if open::is_at_interceptor(netns, &tuple) {
            watch_states(&ctx);
            open::established(cookie(&ctx), netns, &tuple);
        }
    } else if op == BPF_SOCK_OPS_TCP_LISTEN_CB {
        // SAFETY: the kernel passes a valid context; reading `sk` of it yields a socket or null.
        unsafe {
            let sk = (*ctx.ops).__bindgen_anon_2.sk;
            if !sk.is_null() {
                interceptors::listens(netns(&ctx), ctx.local_port() as u16, socket_number(sk));
            }
        }
    } else if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        if may_be_port(ctx.local_port() as u16) {
            // An app's socket with a sidecar's port as its source: without this, `egress_bytes` takes it for a sidecar's.
            REQUEST_PORTS.insert(remote_port_of_ops(&ctx));
        }
        if open::is_end_relevant(cookie(&ctx)) {
            watch_states(&ctx);
        }
    }
    ALLOW as u32
}

/// Has the kernel call this program when the socket's state changes. The flag belongs to the socket and to every program on
/// this hook, so it is never cleared: another program may have set it, too.
#[inline(always)]
fn watch_states(ctx: &SockOpsContext) {
    // The kernel refuses unknown flags only, and this one is as old as the callback (4.16).
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}
