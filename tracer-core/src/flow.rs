//! What is known of one leg's bytes, and of the sockets that the sidecar dialled. It judges nothing.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::Hash,
    net::SocketAddr,
};

use bytes::{Buf as _, BytesMut};
use foldhash::HashMap;
use tracer_ebpf::HEAD_MAX;

use crate::{
    beside::Beside,
    event::{End, Event, Task, is_whole},
    latest::Latest,
    place::{Index, Place, Places},
    queue::Queue,
};

/// The bytes of one head, put together from the pieces in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    kept: BytesMut,
    next: Option<u32>,
}

impl Bytes {
    /// Would a piece that was sent at `offset` of the flow follow on from what is there, and is there room for it?
    pub fn takes(&self, offset: u32) -> bool {
        self.next.is_none_or(|next| next == offset) && !self.is_full()
    }

    /// Takes a piece that was sent at `offset` of the flow, `total` bytes long, of which `data` was copied; nothing, where it
    /// does not follow on from what is there.
    pub fn append(&mut self, offset: u32, total: u32, mut data: BytesMut) {
        if !self.takes(offset) {
            return;
        }
        // Behind a piece that was copied in part, there is a gap that nothing follows on from.
        let follows =
            if is_whole(total, &data) { offset.wrapping_add(total) } else { offset.wrapping_sub(1) };
        self.next = Some(follows);
        data.truncate(HEAD_MAX - self.kept.len());
        if self.kept.is_empty() {
            self.kept = data; // as nearly always
        } else {
            self.kept.extend_from_slice(&data);
        }
    }

    /// What is there.
    pub fn as_slice(&self) -> &[u8] {
        &self.kept
    }

    /// Drops the first `length` bytes.
    pub fn consume(&mut self, length: usize) {
        self.kept.advance(length.min(self.kept.len()));
    }

    /// Drops all, and forgets where they were.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// No more is kept.
    pub fn is_full(&self) -> bool {
        self.kept.len() >= HEAD_MAX
    }

    /// Nothing is there.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// A socket that the sidecar dialled.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its own flow.
    pub flow: u64,
    /// Where to.
    pub remote: SocketAddr,
    /// The sidecar's network namespace; 0: unknown.
    pub netns: u64,
    /// Which of its threads; `None`: the dial was not seen.
    pub task: Option<Task>,
    /// When it was dialled; `None`: not seen.
    pub dialed: Option<u64>,
    /// The accepted socket that it was dialled for, where the sidecar's thread was seen to go on with one.
    pub link: Option<u64>,
    /// The first bytes it sent.
    pub bytes: Bytes,
    /// When it sent the first of them.
    pub sent: Option<u64>,
    /// By its end, its peer had sent something.
    pub answered: bool,
    /// How it ended.
    pub ended: Option<End>,
    /// The line of the request that these are, where they are one.
    line: Option<u64>,
    /// Its place among those that nobody has claimed.
    unclaimed: u64,
    /// The session that it belongs to.
    pub claim: Option<Claim>,
}

/// That a socket belongs to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The app's flow.
    pub by: u64,
    /// By what.
    pub ground: Ground,
}

/// What a claim rests on; a better one outdoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Its time and address.
    Circumstance,
    /// The bytes it carried, which others may have sent as well.
    Bytes,
    /// The connection that it was dialled for, whose bytes it carried.
    Link,
}

/// How a socket that the sidecar dialled came to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Which socket.
    pub flow: u64,
    /// What it had come to by then.
    pub stage: Stage,
}

/// How far a socket came that never carried a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The dial failed.
    Dial,
    /// It was open, and carried nothing.
    Open,
    /// It had begun with TLS.
    Tls,
}

/// The sockets that the sidecars of this node dialled lately.
#[derive(Default)]
pub struct Upstreams {
    /// The latest failure of each sidecar (network namespace) towards each address.
    failures: Latest<(u64, SocketAddr), Failure>,
    sockets: Places<Upstream>,
    by_flow: Index<Beside>,
    by_remote: HashMap<SocketAddr, VecDeque<u64>>,
    /// By thread, when it was dialled (0: not seen), flow.
    by_thread: BTreeSet<(u32, u64, u64)>,
    by_line: HashMap<u64, VecDeque<u64>>,
    /// Those that nobody has claimed, in the order in which they were first seen.
    unclaimed: Queue,
}

impl Upstreams {
    /// The socket of `event`, as it is known by now.
    pub fn entry(&mut self, event: &Event) -> Option<&mut Upstream> {
        let place = self.place(event.flow).unwrap_or_else(|| self.add(event));
        let upstream = self.sockets.get_mut(place)?;
        upstream.link = upstream.link.or(event.link);
        upstream.answered |= event.answered;
        Some(upstream)
    }

    fn add(&mut self, event: &Event) -> Place {
        let flow = event.flow;
        self.by_remote.entry(event.remote).or_default().push_back(flow);
        self.by_thread.extend(of_thread(event.task.as_ref(), event.opened, flow));
        let unclaimed = self.unclaimed.push(event.time, flow);
        let place = self.sockets.put(Upstream {
            flow,
            remote: event.remote,
            netns: event.netns,
            task: event.task.clone(),
            dialed: event.opened,
            link: None,
            bytes: Bytes::default(),
            sent: None,
            answered: false,
            ended: None,
            line: None,
            unclaimed,
            claim: None,
        });
        let Self { sockets, by_flow, .. } = self;
        by_flow.put(flow, place, |place| sockets.get(place).map(|socket| socket.flow));
        place
    }

    fn place(&self, flow: u64) -> Option<Place> {
        self.by_flow.get_again(flow, |place| self.sockets.get(place).map(|socket| socket.flow))
    }

    /// A socket.
    pub fn get(&self, flow: u64) -> Option<&Upstream> {
        self.sockets.get(self.place(flow)?)
    }

    /// A socket, to change it.
    pub fn get_mut(&mut self, flow: u64) -> Option<&mut Upstream> {
        self.sockets.get_mut(self.place(flow)?)
    }

    /// A socket that nobody has claimed carries the request `line`.
    pub fn asks(&mut self, flow: u64, line: u64) {
        let Some(upstream) = self.get_mut(flow) else { return };
        if upstream.line.is_none() && upstream.claim.is_none() {
            upstream.line = Some(line);
            self.by_line.entry(line).or_default().push_back(flow);
        }
    }

    /// Sockets that nobody has claimed: those to `remote`, those dialled by `thread` since `begun` (or nobody knows when), those
    /// that carry the request `line`; some more than once, the oldest of each first.
    pub fn unclaimed(
        &self,
        remote: SocketAddr,
        thread: Option<u32>,
        begun: u64,
        line: u64,
    ) -> impl Iterator<Item = (u64, &Upstream)> {
        let to_remote = self.by_remote.get(&remote).into_iter().flatten();
        let since = |tid, time, end| self.by_thread.range((tid, time, 0)..=(tid, end, u64::MAX));
        let dialled = thread.map(|tid| since(tid, 0, 0).chain(since(tid, begun.max(1), u64::MAX)));
        let of_thread = dialled.into_iter().flatten().map(|(.., flow)| flow);
        let with_line = self.by_line.get(&line).into_iter().flatten();
        to_remote.chain(of_thread).chain(with_line).filter_map(|&flow| Some((flow, self.get(flow)?)))
    }

    /// Gives a socket to a session: nobody else will be offered it.
    pub fn claim(&mut self, flow: u64, claim: Claim) {
        let Some(place) = self.place(flow) else { return };
        self.unindex(place);
        if let Some(upstream) = self.sockets.get_mut(place) {
            upstream.claim = Some(claim);
        }
    }

    /// Takes a socket back from the session that it was given to.
    pub fn unclaim(&mut self, flow: u64) -> Option<Claim> {
        let place = self.place(flow)?;
        let upstream = self.sockets.get_mut(place)?;
        let claim = upstream.claim.take()?;
        self.by_remote.entry(upstream.remote).or_default().push_back(flow);
        self.by_thread.extend(of_thread(upstream.task.as_ref(), upstream.dialed, flow));
        upstream.unclaimed = self.unclaimed.push(upstream.dialed.unwrap_or(0), flow);
        Some(claim)
    }

    /// A socket ended. If that was before it could carry a request, it is remembered beyond its own session.
    pub fn ended(&mut self, flow: u64, time: u64, end: End) {
        let Some(upstream) = self.get_mut(flow) else { return };
        upstream.ended = Some(end);
        let stage = match (end, upstream.bytes.as_slice()) {
            (End::DialFailed, _) => Stage::Dial,
            (End::ClosedByPeer | End::Reset, []) => Stage::Open,
            (End::ClosedByPeer | End::Reset, [0x16, 3, ..]) => Stage::Tls,
            (End::ClosedHere | End::ClosedByPeer | End::Reset, _) => return,
        };
        let to = (upstream.netns, upstream.remote);
        // A socket that its session has left behind has lost its bytes, and so says less than an earlier one.
        let before = self.failures.get(&to).map_or(stage, |failure| failure.stage);
        self.failures.insert(time, to, Failure { flow, stage: stage.max(before) });
    }

    /// The latest failure of a sidecar towards an address, for as long as sockets are remembered. Envoy's pool fails
    /// every stream that waits for a connection to a host when one cannot be made, and gives a later stream what an
    /// earlier one has dialled: <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/conn_pool/conn_pool_base.cc>.
    /// So a session may end by a failure of another's socket, and even by one that the kernel saw before its beginning.
    pub fn failure(&self, netns: u64, remote: SocketAddr) -> Option<Failure> {
        self.failures.get(&(netns, remote)).copied()
    }

    /// Forgets one.
    pub fn remove(&mut self, flow: u64) {
        let Some(place) = self.place(flow) else { return };
        self.unindex(place);
        self.by_flow.take(flow, place);
        self.sockets.take(place);
    }

    /// Nobody will be offered this socket any more.
    fn unindex(&mut self, place: Place) {
        let Some(upstream) = self.sockets.get(place) else { return };
        if upstream.claim.is_some() {
            return; // it was, when it was claimed
        }
        let flow = upstream.flow;
        self.unclaimed.give_up(upstream.unclaimed);
        forget(&mut self.by_remote, &upstream.remote, flow);
        if let Some(key) = of_thread(upstream.task.as_ref(), upstream.dialed, flow) {
            self.by_thread.remove(&key);
        }
        if let Some(line) = &upstream.line {
            forget(&mut self.by_line, line, flow);
        }
    }

    /// Forgets what was first seen before `time`, and the oldest until no more than `most` are left. A claimed one
    /// stays as long as its session does.
    pub fn expire(&mut self, time: u64, most: usize) {
        self.failures.expire(time, most);
        while let Some(flow) =
            self.unclaimed.pop(if self.sockets.len() > most { u64::MAX } else { time.saturating_sub(1) })
        {
            self.remove(flow);
        }
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// None is known.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

fn of_thread(task: Option<&Task>, dialed: Option<u64>, flow: u64) -> Option<(u32, u64, u64)> {
    Some((task?.tid, dialed.unwrap_or(0), flow))
}

/// What is forgotten is mostly the oldest, whose time is over, or one of the youngest, whose bytes have just come.
fn forget<K: Hash + Eq>(index: &mut HashMap<K, VecDeque<u64>>, key: &K, flow: u64) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_on_from_each_other() {
        let mut bytes = Bytes::default();
        bytes.append(7, 3, b"CON"[..].into());
        bytes.append(10, 5, b"NECT "[..].into());
        assert!(!bytes.takes(99), "a gap");
        bytes.append(99, 1, b"x"[..].into());
        assert_eq!(bytes.as_slice(), b"CONNECT ");
    }

    #[test]
    fn nothing_follows_a_piece_that_was_cut() {
        let mut bytes = Bytes::default();
        bytes.append(0, 10, b"CONN"[..].into());
        assert!(!bytes.takes(10));
        bytes.append(10, 1, b"x"[..].into());
        assert_eq!(bytes.as_slice(), b"CONN");
    }

    #[test]
    fn no_more_than_a_head_is_kept() {
        let mut bytes = Bytes::default();
        bytes.append(0, 500, [b'a'; 500][..].into());
        bytes.append(500, 500, [b'b'; 500][..].into());
        assert_eq!(bytes.as_slice().len(), HEAD_MAX);
    }
}
