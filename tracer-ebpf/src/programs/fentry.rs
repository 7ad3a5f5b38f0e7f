//! The fentry family's entry points: trampolines at the entry of kernel functions. The kprobe family shares the tracepoint, a
//! raw one, because that passes the socket itself.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, raw_tracepoint},
    programs::{FEntryContext, RawTracePointContext},
};

use super::socket_events;
use crate::sock::{read::read, structure::Sock};

/// The first arguments as numbers, as in a kprobe. To the verifier an argument is a pointer, on which it allows no arithmetic;
/// a value that is read from memory is a number.
#[inline(always)]
fn numbers<const N: usize>(ctx: &FEntryContext) -> [u64; N] {
    read(ctx.as_ptr() as u64, 0)
}

/// match-proto: `int tcp_connect(struct sock *sk)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp_output.c#L4064>. Called for IPv4 and IPv6, in the dialing task's
/// context.
#[fentry(function = "tcp_connect")]
pub fn egress_fentry_connect(ctx: FEntryContext) -> i32 {
    let [sk] = numbers(&ctx);
    socket_events::connect(Sock(sk));
    0
}

/// match-proto: `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp.c#L1356>. In the sending task's context.
#[fentry(function = "tcp_sendmsg")]
pub fn egress_fentry_send(ctx: FEntryContext) -> i32 {
    if !socket_events::is_past_first_bytes(Sock(ctx.arg(0))) {
        let [sk, message, size] = numbers(&ctx);
        socket_events::send(Sock(sk), message, size);
    } else {
        let [sk] = numbers(&ctx);
        socket_events::send_late(Sock(sk));
    }
    0
}

/// match-proto: `void inet_csk_reqsk_queue_hash_add(struct sock *sk, struct request_sock *req, unsigned long timeout)`,
/// read at v6.12 <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/inet_connection_sock.c#L1146>. Later ones return
/// bool; only the first two arguments are used. In a softirq, before the SYN-ACK is sent, and so before the peer can send bytes;
/// the change to ESTABLISHED may come after these.
#[fentry(function = "inet_csk_reqsk_queue_hash_add")]
pub fn egress_fentry_syn_received(ctx: FEntryContext) -> i32 {
    socket_events::syn_received(Sock(ctx.arg(0)), Sock(ctx.arg(1)));
    0
}

/// match-proto: `void security_sock_graft(struct sock *sk, struct socket *parent)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/security/security.c#L4777>. Called by `accept4` in the accepting task's
/// context, with the accepted socket. `inet_csk_accept` has the socket as its return value only, for which a return probe would
/// be needed; their number is limited, and each is in use for as long as an accept waits.
#[fentry(function = "security_sock_graft")]
pub fn egress_fentry_accept(ctx: FEntryContext) -> i32 {
    let [sk] = numbers(&ctx);
    socket_events::accept(Sock(sk));
    0
}

/// match-proto: `int security_socket_setsockopt(struct socket *sock, int level, int optname)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/security/security.c#L4684>. In the caller's context. `tcp_setsockopt` has the
/// `struct sock`, but also a structure as an argument, which trampolines support only since 6.1.
#[fentry(function = "security_socket_setsockopt")]
pub fn egress_fentry_options(ctx: FEntryContext) -> i32 {
    socket_events::set_option(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// match-proto: `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/include/trace/events/sock.h#L138>. In any context.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn egress_sock_states(ctx: RawTracePointContext) -> i32 {
    socket_events::state_changed(Sock(ctx.arg(0)), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    0
}
