//! Every map and global of the kernel side, and the values that never leave it.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_ebpf::{HEAD_MAX, Layout, Loss, Settings};

use crate::{
    asked::Asked,
    opaque::opaque,
    table_map::{Addresses, Numbers, Sockets, Table},
    watch::Watch,
};

/// Written by the loader (`EbpfLoader::override_global`).
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::ISTIO;

/// What the loader has written. To LLVM it is memory of which it knows nothing, to the verifier constants.
#[inline(always)]
pub fn settings() -> &'static Settings {
    // SAFETY: the object's own data, which nobody writes while a program runs.
    unsafe { &*opaque(&raw const SETTINGS) }
}

/// Written by the loader for the families that read the kernel's own structures. Each field is loaded by itself, see
/// `sock::offset!`.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::UNKNOWN;

/// Bytes of the ring; the loader may resize it.
pub const RING_BYTES: u32 = 4 << 20;

/// The one way to userspace.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// What the reader of the ring does ([`tracer_ebpf::reader`]), so that nobody is woken who is awake.
#[map]
pub static READER: Array<u32> = Array::with_max_entries(1, 0);

/// Flows whose beginning was seen, by flow. The oldest fall out; what is known of them is then less, never wrong.
#[unsafe(link_section = ".bss.FLOWS")]
#[unsafe(no_mangle)]
pub static FLOWS: Table<Sockets, Flow> = Table::new();

/// What was sent on a connection that is not established yet, by flow.
#[map]
pub static EARLY: LruHashMap<u64, Early> = LruHashMap::with_max_entries(1 << 7, 0);

/// The sidecar's accepted sockets, by their peer ([`crate::peer`]), which is the app's own socket.
#[unsafe(link_section = ".bss.ACCEPTED")]
#[unsafe(no_mangle)]
pub static ACCEPTED: Table<Numbers, Accepted> = Table::new();

/// Threads that dial or accept, by the address of their `task_struct`.
#[unsafe(link_section = ".bss.THREADS")]
#[unsafe(no_mangle)]
pub static THREADS: Table<Addresses, Thread> = Table::new();

/// Where requests are under way.
#[unsafe(no_mangle)]
pub static WATCH: Watch = Watch::new();

/// Who has asked a proxy for something.
#[unsafe(no_mangle)]
pub static ASKED: Asked = Asked::new();

/// Which cgroups are traced (1) and which are not (0), with what lies below them, by v2 id; `Settings::unnamed` says
/// what holds for all others. Userspace writes it, as pods come and go.
#[map]
pub static SCOPES: HashMap<u64, u64> = HashMap::with_max_entries(1 << 13, 0);

/// Records that could not be written, by [`Loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// The sum of [`LOSSES`], which each record carries.
#[unsafe(no_mangle)]
pub static LOST: AtomicU64 = AtomicU64::new(0);

/// Payloads that lay in pieces, by thread: a thread is in one send at a time, wherever it is interrupted.
#[map]
pub static PIECES: LruHashMap<u64, Pieces> = LruHashMap::with_max_entries(1 << 8, 0);

/// Twice as long as the mask with which `message` bounds it.
#[repr(C)]
pub struct Pieces {
    /// How many bytes there are.
    pub have: u64,
    /// The address of `data`.
    pub address: u64,
    pub data: [u8; 4 * HEAD_MAX],
}

/// What is kept of a flow while it lives.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// What it is called in records.
    pub id: u64,
    pub opened_ns: u64,
    pub netns: u64,
    /// What the sidecar dialled for this flow, or accepted before it dialled this: as it is called in records; 0: not
    /// seen.
    pub link: u64,
    /// Of a socket that the sidecar accepted: what it dialled for it, by its key in [`FLOWS`]; 0: not seen.
    pub dialed: u64,
    /// With [`FLOW_RECORDED`] what was recorded, before that where it was dialled to, or who is its peer: they share their place,
    /// so that what a flow that is not ours needs lies close together.
    pub kept: Kept,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// How many bytes of the present head may still be recorded. Of a socket that the sidecar accepted: while its peer waits for
    /// a reply.
    pub head_left: u32,
    /// A `Role`.
    pub role: u8,
    /// `FLOW_*`.
    pub flags: u8,
    /// The sidecar's port that its SYN was redirected to, and the source port that this SYN had; 0: none.
    pub redirected_port: u16,
    pub wire_port: u16,
    pub remote_port: u16,
    pub comm: [u64; 2],
}

impl Flow {
    /// This thread has made it.
    #[inline(always)]
    pub fn take_owner(&mut self, thread: &Thread) {
        (self.tgid, self.tid) = ((thread.ids >> 32) as u32, thread.ids as u32);
        (self.uid, self.comm) = (thread.uid, thread.comm);
    }

    /// The cgroup of its socket; 0: nothing of it has been recorded.
    #[inline(always)]
    pub fn cgroup(&self) -> u64 {
        let recorded = u64::from(self.flags & FLOW_RECORDED) / u64::from(FLOW_RECORDED);
        // SAFETY: any bytes are a value of it, and the flag says whether they are one.
        unsafe { self.kept.recorded.cgroup & recorded.wrapping_neg() }
    }
}

/// See [`Flow::kept`].
#[repr(C)]
#[derive(Clone, Copy)]
pub union Kept {
    /// Of a flow that was dialled.
    pub remote_addr: [u64; 2],
    /// Of one that the sidecar accepted: its key in [`ACCEPTED`].
    pub peer: u64,
    pub recorded: Recorded,
}

/// What was recorded of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Recorded {
    /// Of its socket.
    pub cgroup: u64,
    /// TCP sequence number of the first recorded byte, and of the first one not yet recorded.
    pub first_seq: u32,
    pub next_seq: u32,
}

/// Nothing is known of how this flow began. Equal to the record's flag, so that it is copied as it stands.
pub const FLOW_LATE: u8 = tracer_ebpf::record::FLAG_LATE;
/// At least one payload of this flow was recorded: its numbers are set, and its end matters.
pub const FLOW_RECORDED: u8 = 2;
/// It has sent something, recorded or not. Of what a sidecar dialled, that is always known; of all else, it may have left by an exit
/// that looks at no flow.
pub const FLOW_SENT: u8 = 4;

/// Its first payload waits in [`EARLY`] until the connection is established.
pub const FLOW_EARLY: u8 = 8;

/// The sidecar accepted it, but is not in scope, or not known to be.
pub const FLOW_STRANGERS: u8 = 16;

/// Somebody waits for what this was dialled for: its dial has made a record, and its first bytes will, whatever they are.
pub const FLOW_WANTED: u8 = 32;

/// A payload that waits.
#[repr(C)]
pub struct Early {
    pub seq: u32,
    /// How many bytes were sent, and how many are in `data`.
    pub total: u32,
    pub have: u32,
    pub zero: u32,
    /// The address of `data`.
    pub address: u64,
    pub data: [u8; HEAD_MAX],
}

/// A thread: who it is, and what it does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    /// Its process and thread id, as the kernel gives them together: another thread may come to this address.
    pub ids: u64,
    /// Until when the rest is taken to be true (`CLOCK_MONOTONIC`, ns).
    pub until_ns: u64,
    /// Its name, NUL-padded.
    pub comm: [u64; 2],
    pub uid: u32,
    /// What its dials are: a `Role`.
    pub role: u32,
    /// What it dialled last as a sidecar's, until it is known for whom: its key in [`FLOWS`]; 0: nothing.
    pub dialed: u64,
    /// What that is called in records.
    pub dialed_id: u64,
    /// What it accepted last: its key in [`FLOWS`], and a number that no other socket has while this one lives.
    pub accepted: u64,
    pub accepted_socket: u64,
}

/// What is kept of a socket that the sidecar accepted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Accepted {
    /// The sidecar's namespace.
    pub netns: u64,
    /// Its key in [`FLOWS`], and what it is called in records; 0: not established yet.
    pub flow: u64,
    pub id: u64,
    /// How many bytes of a reply to its peer's latest request may be recorded, if its flow is not known by now.
    pub reply_left: u32,
    /// The port it was accepted on.
    pub port: u16,
    pub zero: u16,
}
