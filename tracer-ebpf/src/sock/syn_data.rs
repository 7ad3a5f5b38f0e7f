//! A payload that is sent before its connection is established: with TCP Fast Open, or by a send that waits for the dial. It is
//! kept until then, as only of an established connection it is known whether a sidecar accepted it. The cgroup family does
//! not need this: its packets carry the redirected address.

use tracer_ebpf::{HEAD_MAX, Loss, record::tcp};

use super::{
    message::{SocketMessage, bounded},
    read::read,
    structure::Sock,
};
use crate::{
    context::{Bytes as _, Sent},
    ring,
    state::{
        globals::offset,
        maps::{FLOWS, SYN_DATA},
        values::{FLOW_SYN_DATA, SynData},
    },
};

/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/socket.h#L330>
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// Keeps a payload that is sent in the TCP state `state`. With Fast Open, a send on a closed socket dials first, and
/// [`at_connect`] follows.
#[inline(always)]
pub fn keep(sk: Sock, message: u64, total: u32, state: u8) {
    static EMPTY: SynData = SynData { seq: 0, total: 0, have: 0, zero: 0, address: 0, data: [0; HEAD_MAX] };
    let connects = read::<u32>(message, offset!(msg_flags)) & MSG_FASTOPEN != 0;
    if (state == tcp::CLOSE && !connects) || sk.netns_in_scope().is_none() {
        return;
    }
    let inserted = SYN_DATA.insert(sk.0, &EMPTY, 0).is_ok();
    let Some(kept) = SYN_DATA.get_ptr_mut(sk.0).filter(|_| inserted) else {
        return ring::lost(Loss::MapFull);
    };
    let len = if total < HEAD_MAX as u32 { total } else { HEAD_MAX as u32 };
    let message = SocketMessage::find(sk, message, total);
    let seq = sk.write_seq();
    // SAFETY: the value lives in the map, and only this socket's sends use it.
    let have = unsafe {
        let have = message.copy(&raw mut (*kept).data, bounded(len));
        (*kept).seq = seq;
        (*kept).total = total;
        (*kept).have = have;
        (*kept).address = &raw const (*kept).data as u64;
        have
    };
    if have == 0 {
        return ring::lost(Loss::PayloadUnreadable);
    }
    if let Some(flow) = FLOWS.find(sk.0) {
        // SAFETY: the value lives in the map; a socket's sends come one after the other.
        unsafe { (*flow).flags |= FLOW_SYN_DATA };
    }
}

/// The flags that a dial adds to its flow. With TCP Fast Open it is called from inside of a send, whose bytes go with the SYN or
/// after it: <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/tcp.c#L1013>
#[inline(always)]
pub fn at_connect(sk: Sock) -> u8 {
    if !sk.has_fastopen_request() {
        return 0;
    }
    let Some(kept) = SYN_DATA.get_ptr_mut(sk.0) else { return 0 };
    let seq = sk.write_seq().wrapping_add(1); // the SYN takes one
    // SAFETY: see `keep`.
    unsafe { (*kept).seq = seq };
    FLOW_SYN_DATA
}

/// Hands the kept payload, if any, to `send`, and drops it.
#[inline(always)]
pub fn take(sk: Sock, send: impl FnOnce(&SocketMessage, &Sent)) {
    let Some(kept) = SYN_DATA.get_ptr(sk.0) else { return };
    // SAFETY: see `keep`. The address of `data` is read from the map, so to the verifier it is a number, as a sender's address
    // is.
    let (seq, total, have, at) =
        unsafe { ((*kept).seq, (*kept).total, (*kept).have, (&raw const (*kept).address).read_volatile()) };
    if have != 0 {
        send(&SocketMessage::copied(sk, at, have, total), &Sent { flow: sk.0, seq, len: total });
    }
    let _ = SYN_DATA.remove(sk.0); // fails if the entry was evicted meanwhile
}
