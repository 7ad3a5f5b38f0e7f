//! The sockets that sidecars dialed: what each carried, which session claimed it, and how to find unclaimed ones.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::Hash,
    net::SocketAddr,
};

use foldhash::HashMap;

use super::{
    expiry::{DeadlineQueue, TtlMap},
    leg_bytes::LegBytes,
};
use crate::event::{End, Event, Task};

/// A socket that a sidecar dialed.
#[derive(Clone, Debug)]
pub(super) struct UpstreamSocket {
    /// The address dialed.
    pub(super) remote: SocketAddr,
    /// The sidecar's network namespace. 0: unknown.
    pub(super) netns: u64,
    /// The sidecar's thread. `None`: the dial was not seen.
    pub(super) task: Option<Task>,
    /// When it was dialed. `None`: not seen.
    pub(super) dialed: Option<u64>,
    /// The accepted socket that the dialing thread had just handled; see [`Event::link`].
    pub(super) link: Option<u64>,
    /// The first bytes it sent.
    pub(super) bytes: LegBytes,
    /// It sent a TLS record behind the ClientHello.
    pub(super) tls_established: bool,
    /// When it sent the first byte.
    pub(super) sent: Option<u64>,
    /// Its peer had sent something before it ended.
    pub(super) answered: bool,
    /// How it ended.
    pub(super) ended: Option<End>,
    /// The key of the request that it sent; see [`super::connection::request_key`].
    request_key: Option<u64>,
    /// Its ticket in [`UpstreamSockets::unclaimed`].
    ticket: u64,
    /// The session that it belongs to.
    pub(super) claim: Option<Claim>,
}

impl UpstreamSocket {
    /// Records that the socket sends `data` at `offset`. Behind the ClientHello a client sends TLS records other than an
    /// alert only to a peer that speaks TLS too: <https://www.rfc-editor.org/rfc/rfc8446#section-5.1> (20:
    /// `change_cipher_spec`, 22: `handshake`, 23: `application_data`).
    pub(super) fn note_tls(&mut self, offset: u32, data: &[u8]) {
        let began = matches!(self.bytes.as_slice(), [0x16, 3, ..]);
        self.tls_established |= began && offset > 0 && matches!(data, [20 | 22 | 23, 3, ..]);
    }
}

/// A socket's membership in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The app's flow.
    pub(super) by: u64,
    /// The evidence for it.
    pub(super) basis: ClaimBasis,
}

/// The evidence for a claim, weakest first. A stronger claim replaces a weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimBasis {
    /// When and where the socket was dialed.
    TimeAndAddress,
    /// The bytes it carried, which other sessions may have sent as well.
    Bytes,
    /// The connection it was dialed for, and that connection's bytes on it.
    Link,
}

/// An upstream socket that ended before it carried a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// Its flow.
    pub(super) flow: u64,
    /// How far it got.
    pub(super) stage: FailureStage,
}

/// How far a socket got that never carried a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailureStage {
    /// The dial failed.
    Dial,
    /// It was open and carried no byte.
    Open,
    /// It had sent a TLS record.
    Tls,
}

/// The sockets that the sidecars of this node dialed lately.
#[derive(Default)]
pub(super) struct UpstreamSockets {
    sockets: HashMap<u64, UpstreamSocket>,
    /// The latest failure by network namespace and address.
    failures: TtlMap<(u64, SocketAddr), Failure>,
    /// Unclaimed flows, by address dialed.
    by_remote: HashMap<SocketAddr, VecDeque<u64>>,
    /// Unclaimed flows: thread, when it was dialed (0: not seen), flow.
    by_thread: BTreeSet<(u32, u64, u64)>,
    /// Unclaimed flows, by the request they carry.
    by_request: HashMap<u64, VecDeque<u64>>,
    /// Unclaimed flows, in the order in which they were first seen.
    unclaimed: DeadlineQueue,
}

impl UpstreamSockets {
    /// The socket of `event`, added if it is new.
    pub(super) fn entry(&mut self, event: &Event) -> &mut UpstreamSocket {
        let Self { sockets, by_remote, by_thread, unclaimed, .. } = self;
        let socket = sockets.entry(event.flow).or_insert_with(|| {
            by_remote.entry(event.remote).or_default().push_back(event.flow);
            by_thread.extend(thread_key(event.task.as_ref(), event.opened, event.flow));
            UpstreamSocket {
                remote: event.remote,
                netns: event.netns,
                task: event.task.clone(),
                dialed: event.opened,
                link: None,
                bytes: LegBytes::default(),
                tls_established: false,
                sent: None,
                answered: false,
                ended: None,
                request_key: None,
                ticket: unclaimed.push(event.time, event.flow),
                claim: None,
            }
        });
        socket.link = socket.link.or(event.link);
        socket.answered |= event.answered;
        socket
    }

    /// The socket of a flow.
    pub(super) fn get(&self, flow: u64) -> Option<&UpstreamSocket> {
        self.sockets.get(&flow)
    }

    /// The socket of a flow, mutable.
    pub(super) fn get_mut(&mut self, flow: u64) -> Option<&mut UpstreamSocket> {
        self.sockets.get_mut(&flow)
    }

    /// Records that an unclaimed socket carries the request with this key.
    pub(super) fn set_request(&mut self, flow: u64, key: u64) {
        let Some(socket) = self.sockets.get_mut(&flow) else { return };
        if socket.request_key.is_none() && socket.claim.is_none() {
            socket.request_key = Some(key);
            self.by_request.entry(key).or_default().push_back(flow);
        }
    }

    /// Unclaimed sockets that were dialed to `remote`, or by `thread` since `begun` (or at an unknown time), or that
    /// carry the request with this key. A socket may come more than once. Oldest of each kind first.
    pub(super) fn candidates(
        &self,
        remote: SocketAddr,
        thread: Option<u32>,
        begun: u64,
        request_key: u64,
    ) -> impl Iterator<Item = (u64, &UpstreamSocket)> {
        let to_remote = self.by_remote.get(&remote).into_iter().flatten();
        let dialed_between = |tid, from, to| self.by_thread.range((tid, from, 0)..=(tid, to, u64::MAX));
        let by_thread =
            thread.map(|tid| dialed_between(tid, 0, 0).chain(dialed_between(tid, begun.max(1), u64::MAX)));
        let by_thread = by_thread.into_iter().flatten().map(|(.., flow)| flow);
        let by_request = self.by_request.get(&request_key).into_iter().flatten();
        to_remote.chain(by_thread).chain(by_request).filter_map(|&flow| Some((flow, self.get(flow)?)))
    }

    /// Assigns a socket to a session. It is no longer among the [candidates](Self::candidates).
    pub(super) fn claim(&mut self, flow: u64, claim: Claim) {
        self.remove_from_candidates(flow);
        if let Some(socket) = self.sockets.get_mut(&flow) {
            socket.claim = Some(claim);
        }
    }

    /// Makes a claimed socket a candidate again and returns the claim.
    pub(super) fn unclaim(&mut self, flow: u64) -> Option<Claim> {
        let socket = self.sockets.get_mut(&flow)?;
        let claim = socket.claim.take()?;
        self.by_remote.entry(socket.remote).or_default().push_back(flow);
        self.by_thread.extend(thread_key(socket.task.as_ref(), socket.dialed, flow));
        socket.ticket = self.unclaimed.push(socket.dialed.unwrap_or(0), flow);
        Some(claim)
    }

    /// Records how a socket ended. A failure before it carried a request is remembered beyond its session.
    pub(super) fn set_ended(&mut self, flow: u64, time: u64, end: End) {
        let Some(socket) = self.sockets.get_mut(&flow) else { return };
        socket.ended = Some(end);
        let stage = match (end, socket.bytes.as_slice()) {
            (End::DialFailed, _) => FailureStage::Dial,
            (End::ClosedByPeer | End::Reset, []) => FailureStage::Open,
            (End::ClosedByPeer | End::Reset, [0x16, 3, ..]) => FailureStage::Tls,
            (End::ClosedHere | End::ClosedByPeer | End::Reset, _) => return,
        };
        let to = (socket.netns, socket.remote);
        // A socket that outlived its session has lost its bytes, so an earlier failure may have got further.
        let before = self.failures.get(&to).map_or(stage, |failure| failure.stage);
        self.failures.insert(time, to, Failure { flow, stage: stage.max(before) });
    }

    /// The latest failure of the sidecar in `netns` towards an address.
    ///
    /// Envoy's pool fails every stream that waits for a connection to a host when one cannot be made, and gives a later
    /// stream a connection that an earlier one dialed, so a session may end by the failure of a socket dialed for
    /// another, even before the session began:
    /// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/conn_pool/conn_pool_base.cc>
    pub(super) fn failure(&self, netns: u64, remote: SocketAddr) -> Option<Failure> {
        self.failures.get(&(netns, remote)).copied()
    }

    /// Forgets a socket.
    pub(super) fn remove(&mut self, flow: u64) {
        self.remove_from_candidates(flow);
        self.sockets.remove(&flow);
    }

    fn remove_from_candidates(&mut self, flow: u64) {
        let Some(socket) = self.sockets.get(&flow) else { return };
        if socket.claim.is_some() {
            return; // removed when it was claimed
        }
        self.unclaimed.cancel(socket.ticket);
        remove_flow(&mut self.by_remote, &socket.remote, flow);
        if let Some(key) = thread_key(socket.task.as_ref(), socket.dialed, flow) {
            self.by_thread.remove(&key);
        }
        if let Some(key) = &socket.request_key {
            remove_flow(&mut self.by_request, key, flow);
        }
    }

    /// Forgets unclaimed sockets first seen before `time`, and the oldest ones while more than `capacity` sockets are
    /// known. A claimed socket stays as long as its session.
    pub(super) fn expire(&mut self, time: u64, capacity: usize) {
        self.failures.expire(time, capacity);
        loop {
            let until = if self.sockets.len() > capacity { u64::MAX } else { time.saturating_sub(1) };
            let Some(flow) = self.unclaimed.pop(until) else { break };
            self.remove(flow);
        }
    }

    /// How many sockets are known.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }
}

fn thread_key(task: Option<&Task>, dialed: Option<u64>, flow: u64) -> Option<(u32, u64, u64)> {
    Some((task?.tid, dialed.unwrap_or(0), flow))
}

/// Removes a flow from a key's list. It is mostly the oldest, which expired, or one of the youngest, which was claimed.
fn remove_flow<K: Hash + Eq>(index: &mut HashMap<K, VecDeque<u64>>, key: &K, flow: u64) {
    if let Some(flows) = index.get_mut(key) {
        let is_oldest = flows.front() == Some(&flow);
        let at = if is_oldest { Some(0) } else { flows.iter().rposition(|&other| other == flow) };
        if let Some(at) = at {
            flows.remove(at);
        }
        if flows.is_empty() {
            index.remove(key);
        }
    }
}
