//! Counts how often the engine allocates for an event, and how much memory a live session takes.
//! `cargo bench -p tracer-core --bench allocations`; each line is JSON.

mod traffic;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
};

use tracer_core::engine::Settings;

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed to the system allocator; counting does not touch the caller's memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SESSIONS: usize = 100_000;

fn main() {
    let inputs = traffic::recorded(1_000);
    let (events, mut core, mut reports) =
        (inputs.len(), traffic::core(Settings::DEFAULT_CAPACITY), Vec::new());
    let before = COUNT.load(Ordering::Relaxed);
    let mut made = 0;
    for input in inputs {
        core.feed(input, &mut reports);
        made += reports.len();
        reports.clear();
    }
    let count = COUNT.load(Ordering::Relaxed) - before;
    assert_eq!(made, 3_000, "a report for each session of the recording");
    println!(
        r#"{{"name":"allocations","events":{events},"reports":{made},"per_100_events":{}}}"#,
        count * 100 / events as u64
    );
    drop(core);

    let (mut core, mut node) = (traffic::core(SESSIONS), traffic::Node::new());
    let before = BYTES.load(Ordering::Relaxed);
    for _ in 0..SESSIONS {
        let mut inputs = Vec::new();
        node.begin(&mut inputs);
        for input in inputs {
            core.feed(input, &mut reports);
        }
        reports.clear();
    }
    // This includes eight bytes a session for the generator's own list.
    let bytes = BYTES.load(Ordering::Relaxed) - before;
    println!(r#"{{"name":"memory","sessions":{SESSIONS},"bytes_per_session":{}}}"#, bytes / SESSIONS as u64);
}
