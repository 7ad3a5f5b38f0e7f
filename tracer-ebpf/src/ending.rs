//! What the end of a flow means: which ends become records, and when a flow is forgotten.

use tracer_ebpf::{Role, record::tcp};

use crate::{
    context::Tuple,
    link,
    maps::{FLOW_RECORDED, FLOW_STRANGERS, FLOWS, Flow},
    ring,
    sidecar::{self, find_sidecar},
};

/// Does a flow that comes to this state end with it?
#[inline(always)]
pub fn is_over(to: u8) -> bool {
    to == tcp::FIN_WAIT1 || to == tcp::LAST_ACK || to == tcp::CLOSE
}

/// How a flow leaves a TCP state for another one.
pub struct End {
    pub from: u8,
    pub to: u8,
    /// A reset or a timeout, not the socket's owner, is the reason.
    pub by_peer: bool,
    /// Bytes that it has received.
    pub received: u64,
    /// Segments with a payload that it has sent.
    pub segments: u32,
}

/// A flow leaves a TCP state for one in which it [`is_over`]. Only what ends a flow of a session, or ends one of the
/// sidecar's flows in silence, makes a record. Says whether nothing that comes later matters.
#[inline(always)]
pub fn ended(flow: u64, tuple: impl Fn() -> Tuple, end: &End) -> bool {
    let &End { from, to, by_peer, received, segments } = end;
    let is_open = from == tcp::SYN_SENT || from == tcp::ESTABLISHED || from == tcp::CLOSE_WAIT;
    // Not there: it fell out, or was never of interest.
    let found = FLOWS.search(flow);
    let Some(state) = found.get() else { return true };
    // SAFETY: the value lives in the map and is only read.
    let state = unsafe { &*state };
    if is_open {
        if state.role == Role::App as u8 {
            // Of an app's flow only what its owner does ends it: its peer's side is the reply's flow.
            if from != tcp::SYN_SENT && !by_peer {
                app_closed(state, &tuple, to == tcp::CLOSE, received);
            }
        } else if (state.flags & FLOW_RECORDED != 0 || segments == 0)
            && concerns_someone(state)
            && !has_served(state, received)
        {
            let tuple = tuple();
            if state.role == Role::Reply as u8 && state.link != 0 && from == tcp::ESTABLISHED {
                // Perhaps before the app has said a word. Where to the sidecar has dialled by then, nothing else would tell.
                link::wanted(state);
            }
            ring::end(state, &tuple, from, to, received);
        }
    }
    // Of what was recorded, bytes may come once again; of what a sidecar did for others, nothing more matters.
    let is_others = state.flags & FLOW_RECORDED == 0 && state.head_left == 0;
    let is_forgotten = to == tcp::CLOSE || (state.role != Role::App as u8 && is_others);
    if is_forgotten {
        if state.role == Role::Reply as u8 {
            sidecar::forget(state, tuple);
        }
        found.take_out();
    }
    is_forgotten
}

/// Does somebody in scope want to know that this flow of a sidecar's ends? Of one that is out of scope itself only its peer
/// may, who has asked something.
#[inline(always)]
fn concerns_someone(state: &Flow) -> bool {
    state.flags & (FLOW_STRANGERS | FLOW_RECORDED) != FLOW_STRANGERS || state.head_left != 0
}

/// Did what the sidecar dialled do all that is asked of it? It was answered, and so was whom it was dialled for. What the
/// sidecar accepted never has: its end is the session's. (Links are known by what records call a flow; a family that does not
/// call it as its key does finds none, and makes the record.)
#[inline(always)]
fn has_served(state: &Flow, received: u64) -> bool {
    state.role == Role::Upstream as u8
        && state.flags & FLOW_RECORDED != 0
        && received != 0
        && sidecar::has_answered(state.link)
}

/// Does the end of an app's flow say anything? Who leaves without an answer gave up. Who has received something may leave: his
/// peer's side will tell that he did. But for a reset: that looks the same whoever began.
#[inline(always)]
pub fn matters(reset: bool, received: u64) -> bool {
    reset || received == 0
}

/// A flow, which had received so many bytes, sent a FIN or an RST: of interest where it is an app's.
#[inline(always)]
pub fn app_closed(state: &Flow, tuple: impl FnOnce() -> Tuple, reset: bool, received: u64) {
    if state.role == Role::App as u8 && state.flags & FLOW_RECORDED != 0 && matters(reset, received) {
        let mut tuple = tuple();
        find_sidecar(state.netns, &mut tuple);
        // What it had received is of no interest: its peer's side is the reply's flow.
        ring::end(state, &tuple, tcp::ESTABLISHED, if reset { tcp::CLOSE } else { tcp::FIN_WAIT1 }, 0);
    }
}
