//! The shells for the fentry family: trampolines at the entry of kernel functions. Each hands its `struct sock *` on.
//! The tracepoint is shared with the kprobe family. It is a raw one, because that hands over the socket itself.

use aya_ebpf::{
    macros::{fentry, raw_tracepoint},
    programs::{FEntryContext, RawTracePointContext},
};

use crate::sock::{self, Sock};

/// match-proto: `int tcp_connect(struct sock *sk)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp_output.c#L4064>. Called for IPv4 and IPv6 alike, in the
/// dialling task's context.
#[fentry(function = "tcp_connect")]
pub fn egress_fentry_connect(ctx: FEntryContext) -> i32 {
    sock::connect(Sock(ctx.arg(0)));
    0
}

/// match-proto: `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp.c#L1356>. In the sending task's context.
#[fentry(function = "tcp_sendmsg")]
pub fn egress_fentry_send(ctx: FEntryContext) -> i32 {
    sock::send(Sock(ctx.arg(0)), ctx.arg(1), ctx.arg(2));
    0
}

/// match-proto: `void inet_csk_reqsk_queue_hash_add(struct sock *sk, struct request_sock *req, unsigned long timeout)`,
/// read at v6.12 <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/inet_connection_sock.c#L1146>. Later ones return
/// bool; only the first two arguments are used. In a softirq, before the SYN-ACK is sent: when the peer's first bytes
/// can come at the earliest, this has been seen, which the change to ESTABLISHED need not have been.
#[fentry(function = "inet_csk_reqsk_queue_hash_add")]
pub fn egress_fentry_knock(ctx: FEntryContext) -> i32 {
    sock::knock(Sock(ctx.arg(0)), Sock(ctx.arg(1)));
    0
}

/// match-proto: `void security_sock_graft(struct sock *sk, struct socket *parent)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/security/security.c#L4777>. Called by `accept4` in the accepting task's
/// context, with the accepted socket. Its caller `inet_csk_accept` has the socket only as what it returns, which would
/// need a return probe; and those are few, and taken for as long as an accept waits.
#[fentry(function = "security_sock_graft")]
pub fn egress_fentry_accept(ctx: FEntryContext) -> i32 {
    sock::accept(Sock(ctx.arg(0)));
    0
}

/// match-proto: `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/include/trace/events/sock.h#L138>. In any context.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn egress_sock_states(ctx: RawTracePointContext) -> i32 {
    sock::change(Sock(ctx.arg(0)), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    0
}
