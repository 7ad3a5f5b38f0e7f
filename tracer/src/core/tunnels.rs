//! The tunnels that were granted, and whose sockets are all known. Nothing more is judged of one, so all that is kept is
//! which sockets are its own: a node may have very many, and what they do from then on must not be taken for something new.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher},
};

use foldhash::fast::{FoldHasher, RandomState};

/// So many names of tunnels that are gone are not worth looking for.
const FEW: usize = 1_024;

/// The flows of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) app: u64,
    pub(super) reply: u64,
    pub(super) upstream: u64,
}

#[derive(Default)]
pub(super) struct Tunnels {
    /// By each of its flows.
    by_flow: HashMap<u64, Tunnel, Beside>,
    /// The reply's flow, oldest first; may name some that are gone.
    order: VecDeque<(u64, u64)>,
}

impl Tunnels {
    /// A tunnel was granted at `time`.
    pub(super) fn add(&mut self, time: u64, tunnel: Tunnel) {
        for flow in [tunnel.app, tunnel.reply, tunnel.upstream] {
            self.by_flow.insert(flow, tunnel);
        }
        self.order.push_back((time, tunnel.reply));
        // Most are gone by then, and one that lives long must not keep their places for them.
        if self.order.len() > 2 * self.len() + FEW {
            let Self { by_flow, order } = self;
            order.retain(|(_, reply)| by_flow.contains_key(reply));
        }
    }

    /// The tunnel of this flow.
    pub(super) fn get(&self, flow: u64) -> Option<Tunnel> {
        self.by_flow.get(&flow).copied()
    }

    /// It is over.
    pub(super) fn remove(&mut self, tunnel: Tunnel) {
        for flow in [tunnel.app, tunnel.reply, tunnel.upstream] {
            self.by_flow.remove(&flow);
        }
    }

    /// When the one was granted that [`Self::remove_first`] forgets.
    pub(super) fn first(&self) -> Option<u64> {
        self.order.front().map(|(granted, _)| *granted)
    }

    /// Forgets the oldest, if that is still there.
    pub(super) fn remove_first(&mut self) {
        if let Some(tunnel) = self.order.pop_front().and_then(|(_, reply)| self.get(reply)) {
            self.remove(tunnel);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_flow.len() / 3
    }
}

/// Puts eight flows with successive numbers side by side. The kernel numbers sockets as they are made, so a tunnel's lie
/// together: <https://github.com/torvalds/linux/blob/v6.12/include/linux/cookie.h>. Where is a secret all the same.
#[derive(Default)]
struct Beside(RandomState);

impl BuildHasher for Beside {
    type Hasher = BesideHasher;

    fn build_hasher(&self) -> BesideHasher {
        BesideHasher { eight: self.0.build_hasher(), which: 0 }
    }
}

struct BesideHasher {
    eight: FoldHasher<'static>,
    which: u64,
}

impl Hasher for BesideHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.eight.write(bytes);
    }

    fn write_u64(&mut self, flow: u64) {
        self.eight.write_u64(flow / 8);
        self.which = flow % 8;
    }

    fn finish(&self) -> u64 {
        // The table's place is in the low bits, and in the high ones what it compares before the key.
        ((self.eight.finish() & !7) | self.which) ^ (self.which << 60)
    }
}
