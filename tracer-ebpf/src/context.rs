//! What a hook of any family hands to `correlate`: a flow's two ends, its owner and its payload. Only types and traits; each
//! sort of hook context implements them.

use tracer_ebpf::{HEAD_MAX, Loss, verifier::opaque_zero};

use crate::endpoint::bytes_of;

/// A socket's two ends as the socket knows them, and the sidecar that accepted its connection, if known.
pub struct Tuple {
    pub local_addr: [u8; 16],
    pub remote_addr: [u8; 16],
    pub local_port: u16,
    pub remote_port: u16,
    /// The local port as the peer sees it, if the hook knows that; otherwise `local_port`.
    pub wire_port: u16,
    /// The sidecar's port that the connection was redirected to; 0 if it was not, or that is not known yet.
    pub sidecar_port: u16,
    /// The sidecar's network namespace; 0 if unknown.
    pub sidecar_netns: u64,
    /// The flow id of the sidecar's accepted socket; 0 if unknown.
    pub sidecar_flow: u64,
}

impl Tuple {
    /// The tuple of a dial, whose own end is not chosen yet.
    #[inline(always)]
    pub fn to(remote_addr: [u8; 16], remote_port: u16) -> Self {
        let zero = opaque_zero();
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
    /// Copies the first `len` bytes, 1 to `HEAD_MAX`, and returns how many were copied; 0 if that failed.
    ///
    /// # Safety
    /// `to` must be valid for writes of `HEAD_MAX` bytes.
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32;
}

/// The payload and the socket of a send.
pub trait Context: Bytes {
    /// The first bytes in little-endian order, at most eight, or why they cannot be read.
    fn first(&self) -> Result<u64, Loss>;
    /// The tenth byte, of a payload that has one.
    fn tenth(&self) -> u8;
    /// The last four bytes, of a payload that has as many.
    fn last(&self) -> [u8; 4];
    /// The user that owns the socket.
    fn uid(&self) -> u32;
    /// Whether the socket's owner is a process that was seen to intercept.
    fn is_interceptors(&self) -> bool;
    /// Whether the current task is the sender.
    fn is_in_sender(&self) -> bool;
    /// The socket's own port.
    fn local_port(&self) -> u16;
    /// The socket's ends.
    fn tuple(&self) -> Tuple;
    /// The network namespace of a flow whose start was not seen: 0 if the hook cannot tell, `None` if the flow is out of
    /// scope.
    fn netns(&self) -> Option<u64>;
    /// Whether the tuple tells if the connection was redirected. If not, only the sidecar's accept does.
    fn sees_redirection(&self) -> bool;
    /// The cgroup (v2 id) of the socket.
    fn cgroup(&self) -> u64;
    /// Whether the socket's cgroup is traced.
    fn is_in_scope(&self) -> bool;
}

/// One send with a payload.
pub struct Sent {
    /// The socket's key in `FLOWS`: its cookie or its address.
    pub flow: u64,
    /// TCP sequence number of the first byte.
    pub seq: u32,
    /// Payload bytes.
    pub len: u32,
}
