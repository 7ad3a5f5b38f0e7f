//! What the contexts of the cgroup family say: stable UAPI, read word by word.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_ops},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockOpsContext,
};

use crate::{
    address::{address, mapped},
    context::Tuple,
    opaque::{base, opaque_zero},
};

/// What every program of this family returns: let it pass.
pub const GO_ON: i32 = 1;
const AF_INET6: u32 = 10;

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
pub(crate) use load;

#[inline(always)]
pub fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: every context of this family is one the helper takes.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
pub fn netns(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: sock_addr, sock_ops and sockopt contexts are ones the helper takes (5.7, 5.15, 5.15).
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// A number that no other socket has while this one lives: how far its address is from a constant one. (Of two addresses, their
/// difference is all that the verifier takes for a number.)
/// <https://elixir.bootlin.com/linux/v6.12/A/ident/adjust_reg_min_max_vals>
///
/// # Safety
/// `sk` must point to a socket.
#[inline(always)]
pub unsafe fn number_of(sk: *mut bpf_sock) -> u64 {
    let mut number = sk as u64;
    // SAFETY: one instruction on two registers.
    unsafe {
        asm!("{number} -= {base}", number = inout(reg) number, base = in(reg) base(), options(pure, nomem, nostack));
    }
    number
}

/// # Safety
/// `sk` must point to a socket.
#[inline(always)]
pub unsafe fn tuple_of(sk: *mut bpf_sock) -> Tuple {
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

/// Network order in the upper half of the kernel's word:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6800>
#[inline(always)]
pub fn remote_port_of_ops(ctx: &SockOpsContext) -> u16 {
    // SAFETY: the kernel hands a valid context to each run.
    u16::from_be((unsafe { load!(ctx.ops, bpf_sock_ops.remote_port) } >> 16) as u16)
}

#[inline(always)]
pub fn tuple_of_ops(ctx: &SockOpsContext) -> Tuple {
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
            remote_port: remote_port_of_ops(ctx),
            sidecar_port: opaque_zero() as u16,
            sidecar_netns: opaque_zero(),
            sidecar_flow: opaque_zero(),
        }
    }
}
