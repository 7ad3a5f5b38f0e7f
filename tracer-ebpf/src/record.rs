//! The records on the ring. `repr(C)`, integers and byte arrays, sizes asserted; userspace decodes them in `tracer::event`,
//! and nowhere else.

/// How many bytes of a head are copied, per request and leg.
pub const HEAD_MAX: usize = 512;

/// What a record is about.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The sidecar dialled for somebody who waits for an answer: a [`Meta`] alone.
    Dial = 1,
    /// A leg sent bytes: a [`PayloadRecord`].
    Payload = 2,
    /// A flow ended: an [`EndRecord`].
    End = 3,
}

/// Which end of the path a flow is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dialled by an app.
    App = 1,
    /// Accepted by the sidecar.
    Reply = 2,
    /// Dialled by the sidecar.
    Upstream = 3,
}

/// The flow's connect or accept was not seen: its owner and namespace may be unknown.
pub const FLAG_LATE: u8 = 1;

/// What every record begins with. Times are `CLOCK_MONOTONIC` in ns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::Immutable))]
pub struct Meta {
    /// When the record was made.
    pub time_ns: u64,
    /// The flow: its socket cookie (or what else names a socket for as long as it lives).
    pub flow: u64,
    /// When the flow was dialled or accepted; 0 where that was not seen.
    pub opened_ns: u64,
    /// The flow's network namespace (a cookie, comparable within one boot); 0 where unknown.
    pub netns: u64,
    /// The namespace of the sidecar that accepted this app's flow; 0 where none did.
    pub sidecar_netns: u64,
    /// The cgroup (v2 id) in which the socket was made; 0 where no bytes of it have been recorded.
    pub cgroup: u64,
    /// Process that dialled or accepted; 0 where unknown.
    pub tgid: u32,
    /// Thread that dialled or accepted; 0 where unknown.
    pub tid: u32,
    /// The socket's owner.
    pub uid: u32,
    /// How many records this node has lost until now, from any cause. A reader who sees it change between two
    /// records of a session knows that something in between may be missing.
    pub lost: u32,
    /// The socket's own idea of its two ends, as the app dialled it and before any address translation.
    pub local_addr: [u8; 16],
    /// See `local_addr`.
    pub remote_addr: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// For an app's flow: the sidecar's port that accepted it; 0 where none did.
    pub sidecar_port: u16,
    /// A [`RecordKind`].
    pub kind: u8,
    /// A [`Role`].
    pub role: u8,
    /// For an app's flow: the socket with which the sidecar accepted it. For that: what the sidecar dialled for it. For
    /// what it dialled: the accepted socket that this was for. 0: not seen.
    pub link: u64,
    /// Name of the thread that dialled or accepted, NUL-padded.
    pub comm: [u8; 16],
    /// [`FLAG_LATE`].
    pub flags: u8,
    /// No padding is left to chance.
    pub zero: u8,
    /// For an app's flow: its port as the sidecar sees it. Address translation changes it where the app has the same
    /// local port towards two proxies; redirected to one port of the sidecar, the two would be the same connection.
    pub wire_port: u16,
    /// No padding is left to chance.
    pub zeros: u32,
}

/// A leg sent bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::Immutable))]
pub struct PayloadRecord {
    /// Who and when.
    pub meta: Meta,
    /// Where these bytes lie in the flow, counted from its first recorded byte (wraps, as TCP's numbers do).
    pub offset: u32,
    /// How many bytes this call or segment carried.
    pub total: u32,
    /// How many of them are in `data`.
    pub len: u32,
    /// No padding is left to chance.
    pub zero: u32,
    /// The bytes; what lies behind `len` means nothing.
    pub data: [u8; HEAD_MAX],
}

/// A flow ended, seen from its own side. An app's that was closed, and not reset, makes none once it has received anything,
/// and what the sidecar dialled for it makes none once both were answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::Immutable))]
pub struct EndRecord {
    /// Who and when.
    pub meta: Meta,
    /// The TCP state it left (`TCP_ESTABLISHED` 1, `TCP_SYN_SENT` 2, `TCP_CLOSE_WAIT` 8, …
    /// <https://elixir.bootlin.com/linux/v6.12/source/include/net/tcp_states.h>).
    pub from: u8,
    /// The TCP state it went to (`TCP_FIN_WAIT1` 4, `TCP_CLOSE` 7, `TCP_LAST_ACK` 9).
    pub to: u8,
    /// 1: its peer had sent something.
    pub answered: u8,
    /// No padding is left to chance.
    pub zero: u8,
    /// No padding is left to chance.
    pub zeros: u32,
}

/// TCP states that matter here.
pub mod tcp {
    /// Open in both directions.
    pub const ESTABLISHED: u8 = 1;
    /// Dialled, not answered yet.
    pub const SYN_SENT: u8 = 2;
    /// Closed from this side first.
    pub const FIN_WAIT1: u8 = 4;
    /// Gone; from an open state: reset.
    pub const CLOSE: u8 = 7;
    /// The peer has closed its side.
    pub const CLOSE_WAIT: u8 = 8;
    /// Closed from this side, after the peer.
    pub const LAST_ACK: u8 = 9;
}

/// Why a record could not be written. Counted per CPU under these indices.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The ring was full.
    RingFull = 0,
    /// The payload could not be read.
    PayloadUnreadable = 1,
    /// A map took no more entries.
    MapFull = 2,
    /// The first bytes of a flow lay in the kernel's own memory (`sendfile`, `splice`, a socket of the kernel).
    PayloadInKernel = 3,
}

impl Loss {
    /// Every reason, in index order, with its label.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::RingFull, "ring_full"),
        (Self::PayloadUnreadable, "payload_unreadable"),
        (Self::MapFull, "map_full"),
        (Self::PayloadInKernel, "payload_in_kernel"),
    ];
}

const _: () = {
    assert!(size_of::<Meta>() == 136);
    assert!(size_of::<PayloadRecord>() == size_of::<Meta>() + 16 + HEAD_MAX);
    assert!(size_of::<EndRecord>() == size_of::<Meta>() + 8);
};
