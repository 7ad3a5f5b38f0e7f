//! The records on the ring: `repr(C)`, integers and byte arrays, with asserted sizes. Userspace decodes them in one module,
//! `event`.

/// How many bytes of an HTTP head are copied at most, per request and leg.
pub const HEAD_MAX: usize = 512;

/// The sort of a record.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The sidecar dialed while an app waited for a reply: a [`Meta`] alone.
    Dial = 1,
    /// A leg sent bytes: a [`PayloadRecord`].
    Payload = 2,
    /// A flow ended: an [`EndRecord`].
    End = 3,
}

/// The leg of a session that a flow is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dialed by an app.
    App = 1,
    /// Accepted by the sidecar.
    Reply = 2,
    /// Dialed by the sidecar.
    Upstream = 3,
}

/// [`Meta::flags`]: the flow's connect or accept was not seen, so its process and namespace may be unknown.
pub const FLAG_LATE: u8 = 1;

/// [`Meta::flags`] of a reply's record: since the sidecar accepted this connection, it has received bytes on a connection
/// that it dialed and that may carry several sessions, or whose session is not known.
pub const FLAG_SHARED_UPSTREAM: u8 = 2;

/// The start of every record. Times are `CLOCK_MONOTONIC` in ns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::Immutable))]
pub struct Meta {
    /// When the record was written.
    pub time_ns: u64,
    /// The flow's id, never reused: the socket's cookie, or a time with a processor number in the families without cookies.
    pub flow: u64,
    /// When the flow was dialed or accepted; 0 if that was not seen.
    pub opened_ns: u64,
    /// The flow's network namespace (a cookie or an inode number, comparable within one run); 0 if unknown.
    pub netns: u64,
    /// The network namespace of the sidecar that accepted this app's flow; 0 if none did.
    pub sidecar_netns: u64,
    /// The cgroup (v2 id) in which the socket was created; 0 if no bytes of the flow have been recorded.
    pub cgroup: u64,
    /// The process that dialed or accepted; for an app's request in the fentry and kprobe families, the process that sent it.
    /// 0 if unknown.
    pub tgid: u32,
    /// The thread of that process; 0 if unknown.
    pub tid: u32,
    /// The user of that process; if the process is unknown, the user that owns the socket.
    pub uid: u32,
    /// How many records this node has lost until now, for any reason. A change between two records of a session means
    /// that a record in between may be missing.
    pub lost: u32,
    /// The socket's own address, before any address translation.
    pub local_addr: [u8; 16],
    /// The peer's address as the socket knows it: the one that was dialed, before any address translation.
    pub remote_addr: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// For an app's flow: the sidecar's port that accepted it; 0 if none did.
    pub sidecar_port: u16,
    /// A [`RecordKind`].
    pub kind: u8,
    /// A [`Role`].
    pub role: u8,
    /// The id of a linked flow; 0 if none was seen. App: the sidecar's accepted socket. Reply: the upstream that the sidecar
    /// dialed for it. Upstream: the accepted socket that it was dialed for.
    pub link: u64,
    /// The name of that thread, NUL-padded.
    pub comm: [u8; 16],
    /// [`FLAG_LATE`] and [`FLAG_SHARED_UPSTREAM`], where they hold.
    pub flags: u8,
    /// Always 0; explicit padding.
    pub zero: u8,
    /// For an app's flow: its port as the sidecar sees it. Address translation changes the port where the app uses one local
    /// port towards two proxies, as both connections are redirected to one port of the sidecar.
    pub wire_port: u16,
    /// How many records of the flow's network namespace were not written until now, because its processes make too many. It
    /// begins at 0 again where the namespace made none for long. A change means what one of `lost` means, for the sessions of
    /// this namespace alone.
    pub throttled: u32,
}

/// How many records a cgroup has written, in the map `WRITTEN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenRecords {
    /// The time span in which `records` were written.
    pub window: u64,
    /// How many of them there were, those that were not written included.
    pub records: u64,
    /// How many were not written, in all time spans.
    pub throttled: u64,
}

/// A leg sent bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::Immutable))]
pub struct PayloadRecord {
    /// The flow, its owner and the time.
    pub meta: Meta,
    /// Offset in bytes from the flow's first recorded byte; wraps like TCP sequence numbers.
    pub offset: u32,
    /// How many bytes the call or segment carried.
    pub total: u32,
    /// How many of these are in `data`.
    pub len: u32,
    /// Always 0; explicit padding.
    pub zero: u32,
    /// The bytes; those behind `len` are undefined.
    pub data: [u8; HEAD_MAX],
}

/// A flow ended, seen from its own side. Not written for an app's flow that was closed (not reset) after it had received
/// bytes, nor for an upstream once it and its accepted socket were both answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::Immutable))]
pub struct EndRecord {
    /// The flow, its owner and the time.
    pub meta: Meta,
    /// The TCP state it left (`TCP_ESTABLISHED` 1, `TCP_SYN_SENT` 2, `TCP_CLOSE_WAIT` 8, …
    /// <https://elixir.bootlin.com/linux/v6.12/source/include/net/tcp_states.h>).
    pub from: u8,
    /// The TCP state it went to (`TCP_FIN_WAIT1` 4, `TCP_CLOSE` 7, `TCP_LAST_ACK` 9).
    pub to: u8,
    /// 1 if the peer had sent bytes, else 0.
    pub answered: u8,
    /// Of a reply's flow: 1 if its owner had set `TCP_NODELAY` on it, else 0.
    pub set_up: u8,
    /// Always 0; explicit padding.
    pub zeros: u32,
}

/// TCP states: <https://elixir.bootlin.com/linux/v6.12/source/include/net/tcp_states.h>.
pub mod tcp {
    /// Open in both directions.
    pub const ESTABLISHED: u8 = 1;
    /// Dialed, not answered yet.
    pub const SYN_SENT: u8 = 2;
    /// Closed from this side first.
    pub const FIN_WAIT1: u8 = 4;
    /// Closed; directly from an open state: reset or timed out.
    pub const CLOSE: u8 = 7;
    /// The peer has closed its side.
    pub const CLOSE_WAIT: u8 = 8;
    /// Closed from this side, after the peer.
    pub const LAST_ACK: u8 = 9;
}

/// Why a record could not be written: the index of its per-CPU counter.
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
    /// The processes of a cgroup made more than [`crate::ProbeSettings::records_per_window`].
    Throttled = 4,
}

impl Loss {
    /// Every reason, in index order, with its label.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::RingFull, "ring_full"),
        (Self::PayloadUnreadable, "payload_unreadable"),
        (Self::MapFull, "map_full"),
        (Self::PayloadInKernel, "payload_in_kernel"),
        (Self::Throttled, "throttled"),
    ];

    /// Its label.
    pub const fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

const _: () = {
    assert!(size_of::<Meta>() == 136);
    assert!(size_of::<PayloadRecord>() == size_of::<Meta>() + 16 + HEAD_MAX);
    assert!(size_of::<EndRecord>() == size_of::<Meta>() + 8);
};
