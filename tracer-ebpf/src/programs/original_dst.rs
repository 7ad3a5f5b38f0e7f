//! The cgroup family's entry point for `getsockopt(2)`. Of interest: a transparent proxy asks which address the peer of a socket
//! that it accepted had dialed (`SO_ORIGINAL_DST`).

use aya_ebpf::{bindings::bpf_sockopt, macros::cgroup_sockopt, programs::SockoptContext};

use crate::{
    correlate::open,
    endpoint::{address, mapped},
    sock::uapi::{ALLOW, netns, tuple_of},
};

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST`:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/netfilter_ipv4.h#L51>
const ORIGINAL_DST: i32 = 80;

/// `getsockopt(2)`, behind the kernel's own handler.
#[cgroup_sockopt(getsockopt)]
pub fn egress_original_dst(ctx: SockoptContext) -> i32 {
    let option = ctx.sockopt;
    // SAFETY: the kernel passes a valid context, in which the socket is never null.
    unsafe {
        // The kernel shows one page of an option at most, and refuses a longer one unless `optlen` is 0:
        // https://docs.kernel.org/bpf/prog_cgroup_sockopt.html#using-large-optval
        let shown = (*option).__bindgen_anon_3.optval_end.addr() - (*option).__bindgen_anon_2.optval.addr();
        if (*option).optlen > 0 && (*option).optlen as usize > shown {
            (*option).optlen = 0;
        }
        let level = (*option).level;
        if (*option).optname != ORIGINAL_DST
            || (level != SOL_IP && level != SOL_IPV6)
            || (*option).retval != 0
        {
            return ALLOW;
        }
        if let Some((addr, port)) = answer(option, level) {
            let sk = (*option).__bindgen_anon_1.sk;
            open::original_dst_asked(netns(&ctx), &tuple_of(sk), addr, port);
        }
    }
    ALLOW
}

/// The address and port that the kernel answered: a `struct sockaddr_in` or a `struct sockaddr_in6`.
///
/// # Safety
/// `option` must be the context of the running program.
#[inline(always)]
unsafe fn answer(option: *mut bpf_sockopt, level: i32) -> Option<([u8; 16], u16)> {
    // SAFETY: the caller guarantees it; each access is behind a comparison with the end, which the verifier enforces.
    unsafe {
        let (at, end) =
            ((*option).__bindgen_anon_2.optval as usize, (*option).__bindgen_anon_3.optval_end as usize);
        let port = |at: usize| u16::from_be(*((at + 2) as *const u16));
        let word = |offset: usize| *((at + offset) as *const u32);
        if level == SOL_IPV6 {
            if at + 24 > end {
                return None;
            }
            return Some((address(word(8), word(12), word(16), word(20)), port(at)));
        }
        if at + 8 > end {
            return None;
        }
        Some((mapped(word(4)), port(at)))
    }
}
