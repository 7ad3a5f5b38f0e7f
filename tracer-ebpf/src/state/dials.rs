//! Where apps dialed to, by their own endpoints. The socket that an interceptor accepts has the app's endpoint as its peer, but not
//! the address that the app dialed; a difference between the two shows that the connection was redirected.

use aya_ebpf::{macros::map, maps::LruHashMap};

use super::globals::settings;
use crate::{
    context::Tuple,
    endpoint::{bytes_of, endpoint_hash, is_loopback, is_same, words_of},
};

/// Dials by the hash of the dialing endpoint without its namespace ([`crate::endpoint`]), as the other side knows it.
#[map]
static DIALS: LruHashMap<u64, Dialed> = LruHashMap::with_max_entries(1 << 13, 0);

/// An app's dial.
#[repr(C)]
#[derive(Clone, Copy)]
struct Dialed {
    addr: [u64; 2],
    netns: u64,
    port: u64,
}

/// Notes an app's dial, whose own endpoint is chosen.
#[inline(always)]
pub fn insert(netns: u64, tuple: &Tuple) {
    if !is_loopback(tuple.remote_addr) {
        let key = endpoint_hash(0, tuple.local_addr, tuple.wire_port);
        let dialed = Dialed { addr: words_of(tuple.remote_addr), netns, port: tuple.remote_port.into() };
        // It fails only where the map cannot evict. The next dial shows the interceptor as well.
        let _ = DIALS.insert(key, dialed, 0);
    }
}

/// Whether a namespace's own rules have redirected the connection of an accepted socket with these ends.
///
/// What an app of the namespace dials is turned to a loopback address (`nf_nat_redirect` does so for packets that are made here).
/// What comes from outside keeps its address and changes its port. A Service's translation changes the address, except that of a
/// node's port to a server in the node's own namespace, which is left out for that.
/// <https://elixir.bootlin.com/linux/v6.12/source/net/netfilter/nf_nat_redirect.c#L82>
#[inline(always)]
pub fn is_redirected(netns: u64, accepted: &Tuple) -> bool {
    let key = endpoint_hash(0, accepted.remote_addr, accepted.remote_port);
    // SAFETY: the value is read at once; an entry that is replaced meanwhile is a dial from the same endpoint.
    let Some(dialed) = (unsafe { DIALS.get(key) }) else { return false };
    let addr = bytes_of(dialed.addr);
    if is_loopback(accepted.local_addr) {
        dialed.netns == netns && !is_same(addr, accepted.remote_addr)
    } else {
        dialed.netns != netns
            && netns != settings().host_netns
            && is_same(addr, accepted.local_addr)
            && dialed.port != u64::from(accepted.local_port)
    }
}
