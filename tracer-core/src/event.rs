//! Decodes a record from the ring buffer into an [`Event`]. This is the only module that reads the kernel's bytes; it
//! checks every length and every number, and never panics.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use bytes::BytesMut;
use compact_str::CompactString;
use memchr::memchr;
use serde::{Deserialize, Serialize};
use tracer_ebpf::{EndRecord, HEAD_MAX, Meta, PayloadRecord, RecordKind, record};
use zerocopy::FromBytes;

pub use tracer_ebpf::Role;

/// One event of one flow. Times are `CLOCK_MONOTONIC`, in ns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened.
    pub time: u64,
    /// The flow it happened to: unique while the flow exists.
    pub flow: u64,
    /// Which leg of a session the flow is.
    #[serde(with = "role_name")]
    pub role: Role,
    /// When the flow was dialed or accepted. `None`: before the probes were attached.
    pub opened: Option<u64>,
    /// The flow's network namespace. 0: unknown.
    pub netns: u64,
    /// On an app's flow: the sidecar that accepted it.
    pub sidecar: Option<Interception>,
    /// The flow on the other side of the sidecar, if the kernel side knows it.
    ///
    /// * On an app's flow: the socket with which the sidecar accepted it.
    /// * On that socket: the socket that the sidecar dialed for it.
    /// * On a dialed socket: the accepted socket that its thread had just handled. For an HTTP request this may be a
    ///   different one than the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<u64>,
    /// The task that dialed or accepted. `None`: not seen.
    pub task: Option<Task>,
    /// The socket's cgroup (v2 id), if `task` is `None`. 0: unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cgroup: u64,
    /// The uid of the socket's owner.
    pub uid: u32,
    /// Records lost on this node until now, for any reason.
    pub lost: u32,
    /// Records of the flow's network namespace that were not written until now, because its processes make too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub throttled: u32,
    /// The socket's own address.
    pub local: SocketAddr,
    /// The address that the socket is connected to, as its owner dialed it.
    pub remote: SocketAddr,
    /// On an end: the peer had sent something before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
    /// On a reply's flow: since it was accepted, the sidecar has received bytes on a connection that may carry several
    /// sessions, or whose session is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared_upstream: bool,
    /// On the end of a reply's flow: whether the sidecar had set `TCP_NODELAY` on it. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_up: Option<bool>,
    /// What happened.
    #[serde(rename = "what")]
    pub kind: EventKind,
}

impl Event {
    /// An event of which nothing else is known: the flow's opening was not seen, and no record was lost.
    pub fn new(
        time: u64,
        flow: u64,
        role: Role,
        local: SocketAddr,
        remote: SocketAddr,
        kind: EventKind,
    ) -> Self {
        Self {
            time,
            flow,
            role,
            opened: None,
            netns: 0,
            sidecar: None,
            link: None,
            task: None,
            cgroup: 0,
            uid: 0,
            lost: 0,
            throttled: 0,
            local,
            remote,
            answered: false,
            shared_upstream: false,
            set_up: None,
            kind,
        }
    }
}

/// How an app's flow was intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interception {
    /// The port of the sidecar's listener.
    pub port: u16,
    /// The sidecar's network namespace. 0: unknown.
    pub netns: u64,
    /// The app's port as the sidecar sees it, if address translation changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_port: Option<u16>,
}

/// A task, as it was when it dialed or accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Process id (the kernel's tgid), in the tracer's pid namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Thread name: at most 15 bytes, escaped where they are not plain text.
    pub comm: CompactString,
    /// cgroup v2 id.
    pub cgroup: u64,
}

/// What happened to a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The sidecar dialed `remote`.
    Dialed,
    /// The flow's owner sent bytes.
    Sent {
        /// Their offset in the flow, counted from the first recorded byte.
        offset: u32,
        /// How many bytes were sent at once.
        total: u32,
        /// The first of them, at most `HEAD_MAX`.
        #[serde(with = "latin1")]
        data: BytesMut,
    },
    /// The flow ended.
    Ended(End),
}

/// Whether all `total` bytes that were sent at once were copied. Otherwise a gap follows `data`.
pub fn is_whole(total: u32, data: &[u8]) -> bool {
    usize::try_from(total) == Ok(data.len())
}

/// How a flow ended, seen from its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The dial was refused, timed out, or was given up.
    DialFailed,
    /// This side closed first.
    ClosedHere,
    /// The peer had closed before.
    ClosedByPeer,
    /// Reset by either side.
    Reset,
}

/// Why a record could not be decoded. Such a record is counted and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record is shorter than its kind.
    #[error("a record of {0} bytes is too short for its kind")]
    TooShort(usize),
    /// A field has a value that this version does not know.
    #[error("a record's {field} is {value}, which is not one of its values")]
    Unknown {
        /// The field: `kind`, `role` or `state`.
        field: &'static str,
        /// Its value.
        value: u8,
    },
}

/// Decodes one record.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let meta: Meta = read(record)?;
    let (mut answered, mut set_up) = (false, None);
    let kind = match meta.kind {
        kind if kind == RecordKind::Dial as u8 => EventKind::Dialed,
        kind if kind == RecordKind::Payload as u8 => {
            let too_short = DecodeError::TooShort(record.len());
            let (numbers, data) =
                record.split_at_checked(offset_of!(PayloadRecord, data)).ok_or(too_short)?;
            let [offset, total, len]: [u32; 3] = read(&numbers[offset_of!(PayloadRecord, offset)..])?;
            let len = usize::try_from(len).unwrap_or(HEAD_MAX).min(HEAD_MAX);
            EventKind::Sent { offset, total, data: data.get(..len).ok_or(too_short)?.into() }
        }
        kind if kind == RecordKind::End as u8 => {
            let EndRecord { from, to, answered: peer_sent, set_up: has_option, .. } = read(record)?;
            (answered, set_up) = (peer_sent != 0, Some(has_option != 0));
            EventKind::Ended(end_of(from, to)?)
        }
        value => return Err(DecodeError::Unknown { field: "kind", value }),
    };
    let role = match meta.role {
        role if role == Role::App as u8 => Role::App,
        role if role == Role::Reply as u8 => Role::Reply,
        role if role == Role::Upstream as u8 => Role::Upstream,
        value => return Err(DecodeError::Unknown { field: "role", value }),
    };
    let opened = (meta.flags & record::FLAG_LATE == 0 && meta.opened_ns != 0).then_some(meta.opened_ns);
    Ok(Event {
        time: meta.time_ns,
        flow: meta.flow,
        role,
        opened,
        netns: meta.netns,
        sidecar: (meta.sidecar_port != 0).then_some(Interception {
            port: meta.sidecar_port,
            netns: meta.sidecar_netns,
            client_port: (meta.wire_port != meta.local_port && meta.wire_port != 0).then_some(meta.wire_port),
        }),
        task: (meta.tgid != 0).then(|| Task {
            pid: meta.tgid,
            tid: meta.tid,
            comm: comm(&meta.comm),
            cgroup: meta.cgroup,
        }),
        link: (meta.link != 0).then_some(meta.link),
        cgroup: if meta.tgid == 0 { meta.cgroup } else { 0 },
        uid: meta.uid,
        lost: meta.lost,
        throttled: meta.throttled,
        local: socket_addr(meta.local_addr, meta.local_port),
        remote: socket_addr(meta.remote_addr, meta.remote_port),
        answered,
        shared_upstream: meta.flags & record::FLAG_SHARED_UPSTREAM != 0,
        // Without the accept, the option may have been set before.
        set_up: set_up.filter(|_| role == Role::Reply && opened.is_some()),
        kind,
    })
}

/// Reads a `T` from the beginning of a record.
fn read<T: FromBytes>(record: &[u8]) -> Result<T, DecodeError> {
    let (value, _) = T::read_from_prefix(record).map_err(|_| DecodeError::TooShort(record.len()))?;
    Ok(value)
}

fn end_of(from: u8, to: u8) -> Result<End, DecodeError> {
    use record::tcp::{CLOSE, CLOSE_WAIT, FIN_WAIT1, LAST_ACK, SYN_SENT};
    match (from, to) {
        (SYN_SENT, _) => Ok(End::DialFailed),
        (CLOSE_WAIT, _) | (_, LAST_ACK) => Ok(End::ClosedByPeer),
        (_, FIN_WAIT1) => Ok(End::ClosedHere),
        (_, CLOSE) => Ok(End::Reset),
        (_, value) => Err(DecodeError::Unknown { field: "state", value }),
    }
}

fn socket_addr(addr: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(addr)).to_canonical(), port)
}

/// A thread name, escaped unless it is plain text: a thread may set any bytes.
fn comm(name: &[u8; 16]) -> CompactString {
    let end = memchr(0, name).unwrap_or(name.len());
    // Validating all 16 bytes is faster than validating an unaligned part of them.
    match std::str::from_utf8(name).ok().and_then(|name| name.get(..end)) {
        Some(plain) if plain.bytes().all(is_plain) => plain.into(),
        _ => name[..end].iter().flat_map(|byte| byte.escape_ascii()).map(char::from).collect(),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/')
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Bytes as a string of one character each (ISO 8859-1), so that HTTP is readable in a recording.
pub mod latin1 {
    use bytes::BytesMut;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes one character for each byte.
    pub fn serialize<S: Serializer>(bytes: &BytesMut, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&bytes.iter().copied().map(char::from).collect::<String>())
    }

    /// Reads one byte from each character.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BytesMut, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.chars()
            .map(|c| {
                u8::try_from(u32::from(c)).map_err(|_| D::Error::custom(format!("{c:?} is not one byte")))
            })
            .collect()
    }
}

mod role_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Role;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match role {
            Role::App => "app",
            Role::Reply => "reply",
            Role::Upstream => "upstream",
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        match std::borrow::Cow::<str>::deserialize(from)?.as_ref() {
            "app" => Ok(Role::App),
            "reply" => Ok(Role::Reply),
            "upstream" => Ok(Role::Upstream),
            other => Err(D::Error::unknown_variant(other, &["app", "reply", "upstream"])),
        }
    }
}
