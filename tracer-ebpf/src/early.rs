//! What is sent before a connection is established: with TCP fast open, or by a send that waits for the dial. It is kept
//! until then, as only of an established connection it is known whether a sidecar accepted it. The cgroup family has no
//! need of it: a packet says itself where it goes.

use tracer_ebpf::{HEAD_MAX, Loss, record::tcp};

use crate::{
    capture::{self, bounded},
    context::{Bytes as _, Sent},
    maps::{EARLY, Early, FLOW_EARLY, FLOWS},
    message::Message,
    ring, sidecar,
    sock::{Sock, offset, read},
};

/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/socket.h#L330>
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// Keeps what is sent in this state. A send on a closed socket dials first, and then `at_dial` follows, or it fails.
#[inline(always)]
pub fn keep(sk: Sock, message: u64, total: u32, state: u8) {
    static EMPTY: Early = Early { seq: 0, total: 0, have: 0, zero: 0, address: 0, data: [0; HEAD_MAX] };
    let dials = read::<u32>(message, offset!(msg_flags)) & MSG_FASTOPEN != 0;
    if (state == tcp::CLOSE && !dials) || sk.netns_in_scope().is_none() {
        return;
    }
    let inserted = EARLY.insert(sk.0, &EMPTY, 0).is_ok();
    let Some(early) = EARLY.get_ptr_mut(sk.0).filter(|_| inserted) else {
        return ring::lost(Loss::MapFull);
    };
    let len = if total < HEAD_MAX as u32 { total } else { HEAD_MAX as u32 };
    let message = Message::find(sk, message, total);
    let seq = read(sk.0, offset!(write_seq));
    // SAFETY: the value lives in the map, and only this flow uses it.
    let have = unsafe {
        let have = message.copy(&raw mut (*early).data, bounded(len));
        (*early).seq = seq;
        (*early).total = total;
        (*early).have = have;
        (*early).address = &raw const (*early).data as u64;
        have
    };
    if have == 0 {
        return ring::lost(Loss::PayloadUnreadable);
    }
    if let Some(flow) = FLOWS.find(sk.0) {
        // SAFETY: the value lives in the map; a flow's sends come one after the other.
        unsafe { (*flow).flags |= FLOW_EARLY };
    }
}

/// What a dial adds to its flow's flags. With TCP fast open it is inside of a send, whose bytes go with the SYN or after it.
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp.c#L1013>
#[inline(always)]
pub fn at_dial(sk: Sock) -> u8 {
    if read::<u64>(sk.0, offset!(fastopen)) == 0 {
        return 0;
    }
    let Some(early) = EARLY.get_ptr_mut(sk.0) else { return 0 };
    let seq = read::<u32>(sk.0, offset!(write_seq)).wrapping_add(1); // the SYN takes one
    // SAFETY: see `keep`.
    unsafe { (*early).seq = seq };
    FLOW_EARLY
}

/// A dialled connection is established: now its first bytes count as sent.
#[inline(always)]
pub fn connected(sk: Sock) {
    let known = FLOWS.look(sk.0);
    let Some(flow) = known.get() else { return };
    // SAFETY: see `keep`.
    unsafe {
        sidecar::keep_port(&mut *flow, sk.tuple());
        if (*flow).flags & FLOW_EARLY == 0 {
            return;
        }
        (*flow).flags &= !FLOW_EARLY;
    }
    let Some(early) = EARLY.get_ptr(sk.0) else { return };
    // SAFETY: see `keep`. Read from there, its address is a number to the verifier, as a sender's address is.
    let (seq, total, have, at) = unsafe {
        ((*early).seq, (*early).total, (*early).have, (&raw const (*early).address).read_volatile())
    };
    if have != 0 {
        capture::sent(&Message::copied(sk, at, have, total), known, &Sent { flow: sk.0, seq, len: total });
    }
    let _ = EARLY.remove(sk.0); // Not there: it fell out.
}
