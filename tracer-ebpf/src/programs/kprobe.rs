//! The kprobe family's entry points: breakpoints at the entry of the kernel functions that `fentry` documents.

use aya_ebpf::{macros::kprobe, programs::ProbeContext};

use super::socket_events;
use crate::sock::structure::Sock;

/// match-proto: `int tcp_connect(struct sock *sk)`, read at v6.12.
#[kprobe(function = "tcp_connect")]
pub fn egress_kprobe_connect(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        socket_events::connect(Sock(sk));
    }
    0
}

/// match-proto: `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`, read at v6.12.
#[kprobe(function = "tcp_sendmsg")]
pub fn egress_kprobe_send(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(message), Some(size)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        if socket_events::is_past_first_bytes(Sock(sk)) {
            socket_events::send_late(Sock(sk));
        } else {
            socket_events::send(Sock(sk), message, size);
        }
    }
    0
}

/// match-proto: `void inet_csk_reqsk_queue_hash_add(struct sock *sk, struct request_sock *req, unsigned long timeout)`,
/// read at v6.12.
#[kprobe(function = "inet_csk_reqsk_queue_hash_add")]
pub fn egress_kprobe_syn_received(ctx: ProbeContext) -> u32 {
    if let (Some(listener), Some(request)) = (ctx.arg(0), ctx.arg(1)) {
        socket_events::syn_received(Sock(listener), Sock(request));
    }
    0
}

/// match-proto: `int security_socket_setsockopt(struct socket *sock, int level, int optname)`, read at v6.12.
#[kprobe(function = "security_socket_setsockopt")]
pub fn egress_kprobe_options(ctx: ProbeContext) -> u32 {
    if let (Some(socket), Some(level), Some(option)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        socket_events::set_option(socket, level, option);
    }
    0
}

/// match-proto: `void security_sock_graft(struct sock *sk, struct socket *parent)`, read at v6.12.
#[kprobe(function = "security_sock_graft")]
pub fn egress_kprobe_accept(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        socket_events::accept(Sock(sk));
    }
    0
}
