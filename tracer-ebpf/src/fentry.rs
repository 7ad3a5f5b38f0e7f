//! The shells for the fentry family: trampolines at the entry of kernel functions. Each hands its `struct sock *` on.
//! The tracepoint is shared with the kprobe family. It is a raw one, because that hands over the socket itself.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, raw_tracepoint},
    programs::{FEntryContext, RawTracePointContext},
};

use crate::sock::{self, Sock, read};

/// The first arguments as numbers, as a kprobe's are. To the verifier an argument is a pointer, with which nobody calculates;
/// read from memory, it is none.
#[inline(always)]
fn numbers<const N: usize>(ctx: &FEntryContext) -> [u64; N] {
    read(ctx.as_ptr() as u64, 0)
}

/// match-proto: `int tcp_connect(struct sock *sk)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp_output.c#L4064>. Called for IPv4 and IPv6 alike, in the
/// dialling task's context.
#[fentry(function = "tcp_connect")]
pub fn egress_fentry_connect(ctx: FEntryContext) -> i32 {
    let [sk] = numbers(&ctx);
    sock::connect(Sock(sk));
    0
}

/// match-proto: `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp.c#L1356>. In the sending task's context.
#[fentry(function = "tcp_sendmsg")]
pub fn egress_fentry_send(ctx: FEntryContext) -> i32 {
    if !sock::is_past_first_bytes(Sock(ctx.arg(0))) {
        let [sk, message, size] = numbers(&ctx);
        sock::send(Sock(sk), message, size);
    }
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
    let [sk] = numbers(&ctx);
    sock::accept(Sock(sk));
    0
}

/// match-proto: `int security_socket_setsockopt(struct socket *sock, int level, int optname)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/security/security.c#L4684>. In the caller's context. `tcp_setsockopt` would
/// have the `struct sock`, but also a structure as an argument, which trampolines take only since 6.1.
#[fentry(function = "security_socket_setsockopt")]
pub fn egress_fentry_options(ctx: FEntryContext) -> i32 {
    sock::set_option(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// match-proto: `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, read at v6.12
/// <https://elixir.bootlin.com/linux/v6.12/source/include/trace/events/sock.h#L138>. In any context.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn egress_sock_states(ctx: RawTracePointContext) -> i32 {
    sock::change(Sock(ctx.arg(0)), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    0
}
