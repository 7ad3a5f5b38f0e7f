//! Every map, and every global that the programs write.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_ebpf::Loss;

use super::{
    cache::Cache,
    pending_proxies::PendingProxies,
    request_ports::RequestPorts,
    values::{Accepted, Flow, Pieces, SynData, Thread},
};

/// Default size of the ring in bytes; the loader may change it.
pub const RING_BYTES: u32 = 4 << 20;

/// The records on their way to userspace.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// The state of the ring's reader ([`tracer_ebpf::reader`]).
#[map]
pub static READER: Array<u32> = Array::with_max_entries(1, 0);

/// Flows whose start was seen, by socket. A flow that was evicted is treated as one whose start was not seen.
#[map]
pub static FLOWS: Cache<Flow> = Cache::new();

/// Payloads that were sent before their connection was established, by socket.
#[map]
pub static SYN_DATA: LruHashMap<u64, SynData> = LruHashMap::with_max_entries(1 << 7, 0);

/// The sidecar's accepted sockets, by the hash of their peer's endpoint ([`crate::endpoint`]).
#[map]
pub static ACCEPTED: Cache<Accepted> = Cache::new();

/// Threads that dial or accept, by the address of their `task_struct`.
#[map]
pub static THREADS: Cache<Thread> = Cache::new();

/// Namespaces and proxies with pending requests.
#[unsafe(no_mangle)]
pub static PENDING_PROXIES: PendingProxies = PendingProxies::new();

/// Source ports of requests to a proxy.
#[unsafe(no_mangle)]
pub static REQUEST_PORTS: RequestPorts = RequestPorts::new();

/// Which cgroups (v2 id) are traced (1) and which are not (0), with their descendants; [`tracer_ebpf::ProbeSettings::default_scope`]
/// holds for all others. Userspace updates it as pods come and go.
#[map]
pub static SCOPES: HashMap<u64, u64> = HashMap::with_max_entries(1 << 13, 0);

/// Records that could not be written, by [`Loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// The sum of [`LOSSES`], which each record carries.
#[unsafe(no_mangle)]
pub static LOST: AtomicU64 = AtomicU64::new(0);

/// Payloads that were gathered from several buffers, by thread: a thread is in one send at a time.
#[map]
pub static PIECES: LruHashMap<u64, Pieces> = LruHashMap::with_max_entries(1 << 8, 0);
