//! A request that waits for its answer.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::head::Request;

/// What the indices take for a request, in bytes.
pub(super) const INDEX_BYTES: usize = 128;

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct PendingRequest {
    /// The request, as far as it has come.
    pub(super) request: Request,
    /// Nothing more of its head will come.
    pub(super) complete: bool,
    /// When its first line was complete.
    pub(super) time: u64,
    /// It was reported already, as unanswered.
    pub(super) reported: bool,
    /// The upstream socket on which the sidecar sent a rewritten form of it.
    pub(super) rewritten: Option<u64>,
    /// Its [`request_key`].
    pub(super) key: u64,
    /// Its ticket in the queue of deadlines.
    pub(super) ticket: Option<u64>,
    /// The parts of the request index that hold it.
    pub(super) indexed_in: IndexedIn,
}

impl PendingRequest {
    /// A request whose first line was complete at `time`.
    pub(super) fn new(request: Request, complete: bool, time: u64) -> Self {
        Self {
            key: request_key(&request),
            request,
            complete,
            time,
            reported: false,
            rewritten: None,
            ticket: None,
            indexed_in: IndexedIn::default(),
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let Request { authority, http_version, user_agent, .. } = &self.request;
        let texts = [Some(authority), Some(http_version), user_agent.as_ref()];
        let texts =
            texts.into_iter().flatten().map(|text| if text.is_heap_allocated() { text.len() } else { 0 });
        size_of::<Self>() + INDEX_BYTES + texts.sum::<usize>()
    }
}

/// The parts of the [request index](super::request_index::RequestIndex) that hold a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IndexedIn {
    /// Among the requests without an upstream socket.
    pub(super) unmatched: bool,
    /// Among the requests whose upstream socket another session may take over.
    pub(super) matched: bool,
}

/// A hash of a request's form and authority, by which its copy on the other leg is found.
///
/// The hash is not keyed, so traffic can produce collisions; requests with equal keys are compared in full.
pub(super) fn request_key(request: &Request) -> u64 {
    FixedState::default().hash_one((request.form, &request.authority))
}
