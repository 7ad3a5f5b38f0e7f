//! The contexts of the cgroup family: stable UAPI, read word by word.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_ops},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockOpsContext,
};

use tracer_ebpf::verifier::{data_address, opaque_zero};

use crate::{
    context::Tuple,
    endpoint::{address, mapped},
};

/// What every program of this family returns.
pub const ALLOW: i32 = 1;
const AF_INET6: u32 = 10;

/// Loads one word of a context in one instruction. The verifier accepts `ctx + constant` only, and LLVM merges the loads of
/// two branches, volatile ones as well, into one with a computed address.
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
pub(crate) use load;

/// The cookie of the context's socket, unique within one boot.
#[inline(always)]
pub fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the helper accepts every context of this family.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The cookie of the network namespace of the context's socket.
#[inline(always)]
pub fn netns(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the helper accepts sock_addr (5.7), sock_ops and sockopt (5.15) contexts.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// A number that is unique among living sockets: the distance of its address from a constant one. The verifier takes the
/// difference of two pointers for a number, but not a pointer itself:
/// <https://elixir.bootlin.com/linux/v6.12/A/ident/adjust_reg_min_max_vals>
///
/// # Safety
/// `sk` must point to a socket.
#[inline(always)]
pub unsafe fn socket_number(sk: *mut bpf_sock) -> u64 {
    let mut number = sk as u64;
    // SAFETY: one instruction on two registers.
    unsafe {
        asm!("{number} -= {base}", number = inout(reg) number, base = in(reg) data_address(), options(pure, nomem, nostack));
    }
    number
}

/// The ends of a socket.
///
/// # Safety
/// `sk` must point to a socket.
#[inline(always)]
pub unsafe fn tuple_of(sk: *mut bpf_sock) -> Tuple {
    // SAFETY: the caller guarantees it.
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
            // In network order, in the lower half:
            // https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6300
            remote_port: u16::from_be(load!(sk, bpf_sock.dst_port) as u16),
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        }
    }
}

/// The peer's port, which the kernel keeps in network order in the upper half of a word:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6800>
#[inline(always)]
pub fn remote_port_of_ops(ctx: &SockOpsContext) -> u16 {
    // SAFETY: the kernel passes a valid context.
    u16::from_be((unsafe { load!(ctx.ops, bpf_sock_ops.remote_port) } >> 16) as u16)
}

/// The ends of the context's socket.
#[inline(always)]
pub fn tuple_of_ops(ctx: &SockOpsContext) -> Tuple {
    let ops = ctx.ops;
    // SAFETY: the kernel passes a valid context.
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
            remote_port: remote_port_of_ops(ctx),
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        }
    }
}
