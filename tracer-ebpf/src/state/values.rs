//! The types of the maps' values.

use tracer_ebpf::{HEAD_MAX, Role, record::FLAG_SHARED_UPSTREAM};

/// The state of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// Its id in records.
    pub id: u64,
    pub opened_ns: u64,
    pub netns: u64,
    /// The id of the linked flow; 0 if none was seen. Reply: the upstream that the sidecar dialed for it. Upstream: the accepted
    /// socket that it was dialed for.
    pub link: u64,
    /// Reply: the key in `FLOWS` of the upstream that the sidecar dialed for it; 0 if none was seen.
    pub dialed: u64,
    pub kept: Kept,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// How many bytes of the current head may still be recorded. Reply: 0 unless its peer waits for a reply.
    pub head_left: u32,
    /// A [`Role`].
    pub role: u8,
    /// [`FLOW_LATE`] and the flags below it.
    pub flags: u8,
    /// App: the sidecar's port that its SYN was redirected to, and the source port of that SYN; 0 if it was not redirected.
    pub redirected_port: u16,
    pub wire_port: u16,
    pub remote_port: u16,
    pub comm: [u64; 2],
}

impl Flow {
    /// Sets the process that owns the flow.
    #[inline(always)]
    pub fn set_owner(&mut self, owner: &TaskRecord) {
        (self.tgid, self.tid) = ((owner.ids >> 32) as u32, owner.ids as u32);
        (self.uid, self.comm) = (owner.uid, owner.comm);
    }

    /// The cgroup of its socket; 0 if no payload of it was recorded.
    #[inline(always)]
    pub fn cgroup(&self) -> u64 {
        let recorded = u64::from(self.flags & FLOW_RECORDED) / u64::from(FLOW_RECORDED);
        // SAFETY: any bytes are a valid `Recorded`, and the flag tells whether the union holds one.
        unsafe { self.kept.recorded.cgroup & recorded.wrapping_neg() }
    }

    /// Whether the flow has this role.
    #[inline(always)]
    pub fn has_role(&self, role: Role) -> bool {
        self.role == role as u8
    }
}

/// With [`FLOW_RECORDED`] `recorded`, before that one of the others. They share their place to keep a flow small.
#[repr(C)]
#[derive(Clone, Copy)]
pub union Kept {
    /// App, upstream: the dialed address.
    pub remote_addr: [u64; 2],
    /// Reply: its key in `ACCEPTED`.
    pub peer: u64,
    pub recorded: Recorded,
}

/// What was recorded of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Recorded {
    /// The cgroup (v2 id) of its socket.
    pub cgroup: u64,
    /// TCP sequence number of the first recorded byte.
    pub first_seq: u32,
    /// TCP sequence number of the first byte that is not recorded yet.
    pub next_seq: u32,
}

/// The flow's start was not seen. Equal to the record's flag, so that it can be copied.
pub const FLOW_LATE: u8 = tracer_ebpf::record::FLAG_LATE;
/// A payload of the flow was recorded: its sequence numbers are set, and its end is of interest.
pub const FLOW_RECORDED: u8 = 2;
/// The flow has sent bytes. Always known of an upstream; other flows may have sent bytes that took an early exit.
pub const FLOW_SENT: u8 = 4;
/// The flow's first payload waits in `SYN_DATA` until the connection is established.
pub const FLOW_SYN_DATA: u8 = 8;
/// Reply: the sidecar that accepted the flow is out of scope, or not known to be in scope. Upstream: the interceptor that dialed
/// it is out of scope.
pub const FLOW_OUT_OF_SCOPE: u8 = 16;
/// Upstream: a request may wait for it. Its dial has made a record, and its first bytes will, whatever they are.
pub const FLOW_WANTED: u8 = 32;

/// Upstream: it may carry several sessions.
pub const FLOW_SHARED: u8 = 64;

/// Reply: its owner has set `TCP_NODELAY` on it. The same bit as [`FLOW_SHARED`], which upstreams alone have.
pub const FLOW_SET_UP: u8 = FLOW_SHARED;

/// Reply: since it was accepted, its interceptor has sent on a connection that may carry several sessions.
pub const FLOW_BESIDE_SHARED: u8 = 128;

/// The flags of a flow's records, without a branch.
#[inline(always)]
pub fn record_flags(flags: u8) -> u8 {
    const SHARED: u8 = FLOW_BESIDE_SHARED / FLAG_SHARED_UPSTREAM;
    (flags & FLOW_LATE) | (flags & FLOW_BESIDE_SHARED) / SHARED
}

/// The task that dialed, accepted or sent.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TaskRecord {
    /// Its process id (upper half) and thread id (lower half).
    pub ids: u64,
    /// Its name, NUL-padded.
    pub comm: [u64; 2],
    pub uid: u32,
    pub zero: u32,
}

/// A thread of a sidecar, and its latest dial and accept.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    pub owner: TaskRecord,
    /// The time (`CLOCK_MONOTONIC`, ns) until which `owner` is valid.
    pub until_ns: u64,
    /// The key in `FLOWS` of its latest dial, until the accepted socket is found that it was for; 0: none.
    pub dialed: u64,
    /// The id of that flow.
    pub dialed_id: u64,
    /// The key in `FLOWS` of the socket that it accepted last, and a number that is unique among living sockets.
    pub accepted: u64,
    pub accepted_socket: u64,
}

/// A socket that the sidecar accepted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Accepted {
    /// The sidecar's network namespace.
    pub netns: u64,
    /// Its key in `FLOWS` and its id; both 0 until the connection is established.
    pub flow: u64,
    pub id: u64,
    /// How many bytes of the reply to its peer's request may be recorded, if the request came before the flow is known.
    pub reply_left: u32,
    /// The port that it was accepted on.
    pub port: u16,
    pub zero: u16,
}

/// A payload that was sent before its connection was established.
#[repr(C)]
pub struct SynData {
    /// TCP sequence number of the first byte.
    pub seq: u32,
    /// How many bytes were sent.
    pub total: u32,
    /// How many of these are in `data`.
    pub have: u32,
    pub zero: u32,
    /// The address of `data`.
    pub address: u64,
    pub data: [u8; HEAD_MAX],
}

/// A payload that was gathered from several buffers.
#[repr(C)]
pub struct Pieces {
    /// How many bytes are in `data`.
    pub have: u64,
    /// The address of `data`.
    pub address: u64,
    /// Twice as long as the mask with which `sock::message` bounds offset and length.
    pub data: [u8; 4 * HEAD_MAX],
}
