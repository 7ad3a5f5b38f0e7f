//! The end of a flow: which ends become records, and when a flow is removed.

use tracer_ebpf::{Role, record::tcp};

use super::{
    sidecar::{self, find_sidecar},
    upstream,
};
use crate::{
    context::Tuple,
    ring,
    state::{
        globals::settings,
        maps::FLOWS,
        shared_upstreams,
        values::{FLOW_OUT_OF_SCOPE, FLOW_RECORDED, Flow},
    },
};

/// Whether a flow ends as it enters this TCP state.
#[inline(always)]
pub fn is_end(to: u8) -> bool {
    to == tcp::FIN_WAIT1 || to == tcp::LAST_ACK || to == tcp::CLOSE
}

/// A change of a flow's TCP state.
pub struct StateChange {
    pub from: u8,
    pub to: u8,
    /// The reason is a reset by the peer or a timeout, not the socket's owner.
    pub by_peer: bool,
    /// How many bytes the flow has received.
    pub received: u64,
    /// How many segments with a payload it has sent.
    pub segments: u32,
}

/// A flow enters a TCP state for which [`is_end`] holds. A record is written for a flow with recorded bytes, and for a sidecar's
/// flow that ends in silence.
#[inline(always)]
pub fn state_changed(key: u64, tuple: impl Fn() -> Tuple, end: &StateChange) {
    let &StateChange { from, to, by_peer, received, segments } = end;
    let was_open = from == tcp::SYN_SENT || from == tcp::ESTABLISHED || from == tcp::CLOSE_WAIT;
    // Absent if it was evicted, or never of interest.
    let Some(flow) = FLOWS.find(key) else { return };
    // SAFETY: the value lives in the map; a socket's changes of state come one after the other.
    let flow = unsafe { &mut *flow };
    if was_open {
        if flow.has_role(Role::App) {
            // An app's flow ends by its owner's action only; the peer's side is the reply flow. The cgroup family sees that action
            // in its packets.
            if from == tcp::SYN_SENT {
                dial_failed(flow, &tuple, to);
            } else if !by_peer && !settings().has_cookies() {
                app_closed(flow, &tuple, to == tcp::CLOSE, received);
            }
        } else if (flow.flags & FLOW_RECORDED != 0 || segments == 0)
            && (is_of_interest(flow) || from == tcp::SYN_SENT)
            && !has_served(flow, received)
        {
            let tuple = tuple();
            if flow.has_role(Role::Reply) && flow.link != 0 && from == tcp::ESTABLISHED {
                // The app may not have sent a byte yet. This record is the only one to tell what the sidecar dialed for it.
                upstream::reply_awaited(flow);
            }
            if flow.has_role(Role::Reply) {
                shared_upstreams::note_with(flow, tuple.remote_addr);
            }
            ring::end(flow, &tuple, from, to, received);
        }
    }
    // Recorded bytes may be retransmitted; other flows of a sidecar are not needed any more.
    let is_idle = flow.flags & FLOW_RECORDED == 0 && flow.head_left == 0;
    // The reset of an app leaves after this change, in a packet.
    let is_app_of_packets = flow.has_role(Role::App) && settings().has_cookies();
    if (to == tcp::CLOSE && !is_app_of_packets) || (!flow.has_role(Role::App) && is_idle) {
        if flow.has_role(Role::Reply) {
            sidecar::remove_accepted(flow, tuple);
        }
        FLOWS.remove(key);
    }
}

/// The dial of an app failed. Of interest only where it was redirected: no process listens on the interceptor's port.
#[inline(always)]
fn dial_failed(flow: &Flow, tuple: impl FnOnce() -> Tuple, to: u8) {
    if flow.redirected_port != 0 {
        let mut tuple = tuple();
        tuple.sidecar_port = flow.redirected_port;
        tuple.sidecar_netns = flow.netns;
        tuple.wire_port = flow.wire_port;
        ring::end(flow, &tuple, tcp::SYN_SENT, to, 0);
    }
}

/// Whether the end of a sidecar's flow concerns a pod in scope: the sidecar's own, or that of a peer which has sent a request.
#[inline(always)]
fn is_of_interest(flow: &Flow) -> bool {
    flow.flags & (FLOW_OUT_OF_SCOPE | FLOW_RECORDED) != FLOW_OUT_OF_SCOPE || flow.head_left != 0
}

/// Whether an upstream was answered, and so was the accepted socket that it was dialed for. Never true of an accepted socket,
/// as its end is the session's. In a family whose flow ids are not their keys no linked flow is found, and the record is
/// written.
#[inline(always)]
fn has_served(flow: &Flow, received: u64) -> bool {
    flow.has_role(Role::Upstream)
        && flow.flags & FLOW_RECORDED != 0
        && received != 0
        && sidecar::has_answered(flow.link)
}

/// Whether the end of an app's flow is of interest. An app that closes without having received a byte gave up. After bytes were
/// received, the reply flow tells of the end. A reset is always of interest, as either side may have sent it.
#[inline(always)]
pub fn is_relevant(reset: bool, received: u64) -> bool {
    reset || received == 0
}

/// A flow sent a FIN or a RST after it had received so many bytes: writes the record if it is an app's.
#[inline(always)]
pub fn app_closed(flow: &Flow, tuple: impl FnOnce() -> Tuple, reset: bool, received: u64) {
    if flow.has_role(Role::App) && flow.flags & FLOW_RECORDED != 0 && is_relevant(reset, received) {
        let mut tuple = tuple();
        find_sidecar(flow.netns, &mut tuple);
        // What it received does not matter: the peer's side is the reply flow.
        ring::end(flow, &tuple, tcp::ESTABLISHED, if reset { tcp::CLOSE } else { tcp::FIN_WAIT1 }, 0);
    }
}
