//! What a hook can tell the core, whatever its flavour: a flow's ends, its owner, its payload. Nothing here reads anything.

use tracer_ebpf::{HEAD_MAX, Loss};

use crate::{address::bytes_of, opaque::opaque_zero};

/// A socket's two ends, as the socket sees them, and the sidecar that accepted it, where that is known.
pub struct Tuple {
    pub local_addr: [u8; 16],
    pub remote_addr: [u8; 16],
    pub local_port: u16,
    pub remote_port: u16,
    /// The local port as the peer sees it, where the hook can tell; else the same.
    pub wire_port: u16,
    /// The port it was redirected to; 0: not redirected, or not known yet.
    pub sidecar_port: u16,
    pub sidecar_netns: u64,
    /// What the sidecar's accepted socket is called in records; 0: not known.
    pub sidecar_flow: u64,
}

impl Tuple {
    /// Of a dial: its own end is not chosen yet.
    #[inline(always)]
    pub fn to(remote_addr: [u8; 16], remote_port: u16) -> Self {
        let zero = opaque_zero(); // of constants, LLVM would make a call of `memset`, which is a loop
        Self {
            local_addr: bytes_of([zero; 2]),
            remote_addr,
            local_port: zero as u16,
            remote_port,
            wire_port: zero as u16,
            sidecar_port: zero as u16,
            sidecar_netns: zero,
            sidecar_flow: zero,
        }
    }
}

/// Bytes that can be copied into a record.
pub trait Bytes {
    /// Copies the first `len` bytes, 1 to `HEAD_MAX`, and says how many these were in the end; 0: none.
    ///
    /// # Safety
    /// `to` must be valid for writes of `HEAD_MAX` bytes.
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32;
}

/// What a send hook can say of its payload and its socket. One implementation per sort of context.
pub trait Context: Bytes {
    /// The first bytes, little-endian, at most eight, or why they cannot be read.
    fn first(&self) -> Result<u64, Loss>;
    /// The tenth byte; only called where there is one.
    fn tenth(&self) -> u8;
    /// The last four bytes; only called where there are as many.
    fn last(&self) -> [u8; 4];
    /// The user that owns the socket.
    fn uid(&self) -> u32;
    /// The socket's own port.
    fn local_port(&self) -> u16;
    /// The socket's ends.
    fn tuple(&self) -> Tuple;
    /// The namespace of a flow whose beginning was not seen: 0 where the hook cannot tell, `None` where the flow is
    /// not to be traced.
    fn netns(&self) -> Option<u64>;
    /// Does its tuple say whether it was redirected? Else only the sidecar's accepting does, which has to be seen.
    fn sees_redirection(&self) -> bool;
    /// The cgroup (v2 id) of its socket.
    fn cgroup(&self) -> u64;
    /// Does userspace want what this cgroup sends?
    fn is_in_scope(&self) -> bool;
}

/// One payload-bearing send.
pub struct Sent {
    /// The socket's cookie or address: what tells it from all others as long as it lives.
    pub flow: u64,
    /// TCP sequence number of the first byte.
    pub seq: u32,
    /// Payload bytes.
    pub len: u32,
}
