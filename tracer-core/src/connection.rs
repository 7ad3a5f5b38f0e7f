//! One app connection to a proxy: the app's leg, the sidecar's reply leg, and the requests that wait for an answer.
//! It joins legs; it judges nothing and knows no other connection.

use std::{collections::VecDeque, hash::BuildHasher, net::SocketAddr};

use bytes::BytesMut;
use foldhash::quality::FixedState;
use smallvec::SmallVec;
use tracer_ebpf::HEAD_MAX;

use crate::{
    event::{Event, Interception, Task},
    flow::{Bytes, Ground},
    head::{self, Form, Progress, Reply, Request},
    verdict::Carried,
};

/// An app's connection that has carried, or may be about to carry, a request to a proxy.
#[derive(Debug)]
pub struct Connection {
    /// The app's flow.
    pub flow: u64,
    /// The app's own address.
    pub local: SocketAddr,
    /// What the app dialled.
    pub remote: SocketAddr,
    /// When; `None`: before the probes were there.
    pub opened: Option<u64>,
    /// Who.
    pub task: Option<Task>,
    /// The cgroup of its socket, where nobody was seen to make it; 0: unknown.
    pub cgroup: u64,
    /// The sidecar that accepted it.
    pub sidecar: Option<Interception>,
    /// The sidecar's task that accepted it, once its leg was seen.
    pub acceptor: Option<Task>,
    /// When it did; `None`: not seen.
    pub accepted: Option<u64>,
    /// The socket with which it did; `None`: not told yet.
    pub reply: Option<u64>,
    /// That socket itself was seen.
    pub is_met: bool,
    /// What it dialled for that, as far as that was told; see [`Event::link`].
    pub dialed: Option<u64>,
    /// The requests that have not been answered, oldest first.
    pub pending: VecDeque<Asked>,
    /// The sidecar's own socket that carries this connection as it is.
    pub tunnel: Option<u64>,
    /// What that rests on.
    pub ground: Option<Ground>,
    /// All sidecar's sockets that are explained by this connection.
    pub upstreams: SmallVec<[u64; 2]>,
    /// How many requests were answered.
    pub answered: u32,
    /// A CONNECT was granted: what follows is somebody else's conversation.
    pub opaque: bool,
    /// The app has closed its side.
    pub app_closed: bool,
    /// The first bytes the app sent, to compare with what went upstream.
    pub sent: Vec<u8>,
    /// The head that is being put together.
    head: Bytes,
    replied: Bytes,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What was asked, as far as it has come.
    pub request: Request,
    /// Its head is whole: nothing more will be known of it.
    pub complete: bool,
    /// When its first line was whole.
    pub time: u64,
    /// How many records had been lost by then.
    pub lost: u32,
    /// It was reported already (as unanswered), and will not be again.
    pub reported: bool,
    /// What the sidecar sent upstream for this very request, in its own words.
    pub rewritten: Option<u64>,
    /// Its [`line()`].
    pub line: u64,
    /// Its place among all that wait.
    pub place: Option<u64>,
    /// Where it lies among those that ask the same.
    pub lies: Lies,
}

/// Among which requests one is found that waits for its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// Those that a socket of the sidecar's may still be found for.
    pub open: bool,
    /// Those that have one.
    pub served: bool,
}

/// What names a request on both of its legs, its form and its authority, as a number to find it by. Two that differ may
/// have the same number, if somebody wants them to; that tells nothing but that it is worth to compare them.
pub fn line(request: &Request) -> u64 {
    FixedState::default().hash_one((request.form, &request.authority))
}

fn is_same(one: &Request, other: &Request) -> bool {
    one.form == other.form && one.authority == other.authority
}

impl Connection {
    /// The connection of an app's leg.
    pub fn new(event: &Event) -> Self {
        Self {
            flow: event.flow,
            local: event.local,
            remote: event.remote,
            opened: event.opened,
            task: event.task.clone(),
            cgroup: event.cgroup,
            sidecar: event.sidecar,
            acceptor: None,
            accepted: None,
            reply: event.link,
            is_met: false,
            dialed: None,
            pending: VecDeque::new(),
            tunnel: None,
            ground: None,
            upstreams: SmallVec::new(),
            answered: 0,
            opaque: false,
            app_closed: false,
            sent: Vec::new(),
            head: Bytes::default(),
            replied: Bytes::default(),
        }
    }

    /// The sidecar's network namespace, and the app's address as the sidecar sees it: by these its leg is found.
    pub fn peer(&self) -> Option<(u64, SocketAddr)> {
        let sidecar = self.sidecar?;
        Some((
            sidecar.netns,
            SocketAddr::new(self.local.ip(), sidecar.client_port.unwrap_or(self.local.port())),
        ))
    }

    /// Takes bytes that the app sent; says how many requests were added.
    pub fn app_sent(&mut self, event: &Event, offset: u32, total: u32, data: BytesMut) -> usize {
        if self.opaque {
            return 0;
        }
        self.sidecar = self.sidecar.or(event.sidecar);
        let room = HEAD_MAX.saturating_sub(self.sent.len());
        self.sent.extend_from_slice(&data[..data.len().min(room)]);
        if !self.head.takes(offset) {
            // A gap: whatever was there will not be continued.
            self.head.clear();
            if let Some(asked) = self.pending.back_mut() {
                asked.complete = true;
            }
        }
        self.head.append(offset, total, data);
        let mut added = 0;
        loop {
            // The request whose headers are still coming is the last of the pending ones.
            let going_on = self.pending.back_mut().filter(|asked| !asked.complete);
            match head::request(self.head.as_slice()) {
                Progress::Other => {
                    self.head.clear();
                    return added;
                }
                Progress::Incomplete => return added,
                Progress::Begun(request) => {
                    // No more of it is captured than this.
                    let complete = self.head.is_full();
                    if let Some(asked) = going_on {
                        asked.request = request;
                        asked.complete = complete;
                    } else {
                        self.ask(event, request, complete);
                        added += 1;
                    }
                    return added;
                }
                Progress::Complete(request, length) => {
                    if let Some(asked) = going_on {
                        asked.request = request;
                        asked.complete = true;
                    } else {
                        self.ask(event, request, true);
                        added += 1;
                    }
                    // Another one may be pipelined behind it.
                    self.head.consume(length);
                }
            }
        }
    }

    fn ask(&mut self, event: &Event, request: Request, complete: bool) {
        self.pending.push_back(Asked {
            line: line(&request),
            request,
            complete,
            time: event.time,
            lost: event.lost,
            reported: false,
            rewritten: None,
            place: None,
            lies: Lies::default(),
        });
    }

    /// This socket turned out to belong to another connection.
    pub fn release(&mut self, upstream: u64) {
        self.upstreams.retain(|other| *other != upstream);
        if self.tunnel == Some(upstream) {
            self.tunnel = None;
            self.ground = None;
        }
        for asked in &mut self.pending {
            asked.rewritten = asked.rewritten.filter(|&other| other != upstream);
        }
    }

    /// The sidecar was seen to dial its tunnel for this very connection, so that is no other's.
    pub fn is_linked(&self) -> bool {
        self.ground == Some(Ground::Link)
    }

    /// Nothing was asked here, and nothing is about to be.
    pub fn is_idle(&self) -> bool {
        self.is_settled() && self.answered == 0
    }

    /// Is nothing asked that was not answered, nor about to be?
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.head.is_empty()
    }

    /// A CONNECT was granted.
    pub fn becomes_opaque(&mut self) {
        self.opaque = true;
        self.sent = Vec::new();
        self.head.clear();
    }

    /// Takes bytes that the sidecar sent to the app.
    pub fn sidecar_sent(&mut self, offset: u32, total: u32, data: BytesMut) {
        let begins = data.starts_with(b"HTTP/1.");
        if self.replied.is_empty() && self.answered > 0 && !begins {
            return; // the rest of an earlier answer's body
        }
        if begins && !self.replied.takes(offset) {
            self.replied.clear();
        }
        self.replied.append(offset, total, data);
    }

    /// The answer to the oldest request: when its head is whole, or, with `at_last`, as far as it has come.
    pub fn answer(&self, at_last: bool) -> Option<Reply> {
        match head::reply(self.replied.as_slice()) {
            Progress::Other | Progress::Incomplete => None,
            Progress::Begun(reply) => (at_last || self.replied.as_slice().len() >= HEAD_MAX).then_some(reply),
            Progress::Complete(reply, _) => Some(reply),
        }
    }

    /// Takes the oldest request, and the answer's bytes, away.
    pub fn settle(&mut self) -> Option<Asked> {
        self.replied.clear();
        self.answered += 1;
        let settled = self.pending.pop_front();
        if self.pending.is_empty() {
            self.pending = VecDeque::new(); // a tunnel may live for long, and asks nothing more
        }
        settled
    }
}

/// Do these begin alike, as far as both go?
fn are_the_same(one: &[u8], other: &[u8]) -> bool {
    let common = one.len().min(other.len());
    common > 0 && one[..common] == other[..common]
}

/// Are these the app's bytes, perhaps inside a tunnel that the sidecar asked for?
pub fn passes_on(bytes: &[u8], app: &[u8]) -> bool {
    are_the_same(bytes, app) || tunnelled(bytes).is_some_and(|inside| are_the_same(inside, app))
}

/// What a socket that the sidecar dialled carried, held against what the app had sent; `None`: somebody else's
/// request, such as a sidecar sends for all the other traffic of its pod.
pub fn carried(upstream: &Bytes, failed: bool, app: &[u8], asked: &Request) -> Option<Carried> {
    let bytes = upstream.as_slice();
    if passes_on(bytes, app) {
        return Some(Carried::SameBytes);
    }
    match bytes {
        [] if failed => Some(Carried::DialFailed),
        [] => Some(Carried::Nothing),
        // A TLS handshake record: https://www.rfc-editor.org/rfc/rfc8446#section-5.1
        [0x16, 3, ..] => Some(Carried::Tls),
        // Apps ask the same of the same proxy in their own words, and what they ask of servers is none of this.
        _ if is_origin_form(bytes) => (asked.form == Form::Absolute
            && is_envoys_own(upstream)
            && host(bytes) == Some(asked.authority.as_str()))
        .then_some(Carried::RewrittenRequest),
        _ => match head::request(bytes).head() {
            Some(request) => {
                (is_same(&request, asked) && is_envoys_own(upstream)).then_some(Carried::RewrittenRequest)
            }
            None => Some(Carried::OtherBytes),
        },
    }
}

/// The host that a head in Envoy's words is for.
fn host(bytes: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"\nhost: ";
    let at = bytes.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let (line, _) = head::split_line(&bytes[at..])?;
    std::str::from_utf8(line).ok()
}

/// Did Envoy's TCP proxy write this head, to ask for a tunnel of its own (`tunneling_config`)? Gives what it sent through
/// that. <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/tcp_proxy/upstream.cc>
pub fn tunnelled(bytes: &[u8]) -> Option<&[u8]> {
    let (line, rest) = head::split_line(bytes)?;
    if !line.starts_with(b"CONNECT ") || !rest.starts_with(b"host: ") {
        return None;
    }
    match head::request(bytes) {
        Progress::Complete(_, length) if !is_in_envoys_words(&bytes[..length]) => Some(&bytes[length..]),
        Progress::Complete(..) | Progress::Begun(_) | Progress::Incomplete | Progress::Other => None,
    }
}

/// Is this a request to a server (`GET /path`)?
pub fn is_origin_form(bytes: &[u8]) -> bool {
    head::split_line(bytes).is_some_and(|(line, _)| {
        let mut words = line.split(|&byte| byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        !method.is_empty() && method.iter().all(u8::is_ascii_uppercase) && target.starts_with(b"/")
    })
}

/// Did Envoy's HTTP connection manager write this head? It writes header names in lower case and adds its own:
/// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/http/conn_manager_utility.cc>.
pub fn is_envoys_own(upstream: &Bytes) -> bool {
    is_in_envoys_words(upstream.as_slice())
}

fn is_in_envoys_words(bytes: &[u8]) -> bool {
    let has = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    has(b"\nhost: ") && (has(b"\nx-request-id: ") || has(b"\nx-forwarded-proto: ") || has(b"\nx-envoy-"))
}
