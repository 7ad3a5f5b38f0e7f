//! What a packet's IP and TCP headers say, read in place. It looks at no payload.

use aya_ebpf::bindings::__sk_buff;

use crate::opaque::{opaque, opaque_zero};

/// The protocol of both IP versions' headers.
const IPPROTO_TCP: u8 = 6;
pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;

/// A longer packet may well have a payload. Those of IPv4 that have none have headers of 52 bytes, and some 60.
const EMPTY_MAX: u32 = 60;

/// The flags of a short TCP packet of IPv4 without a payload; 0 of all else. (Of another protocol's packet it says something, but
/// nobody who is told it looks further.)
///
/// # Safety
/// `skb` must be the context of a program that runs.
#[inline(always)]
pub unsafe fn flags_of_empty(skb: *mut __sk_buff) -> u8 {
    // SAFETY: the caller's promise; see `Packet::read`.
    unsafe {
        if (*skb).len > EMPTY_MAX {
            return 0;
        }
        let (data, data_end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + 40 > data_end {
            return 0;
        }
        let byte = |offset: usize| *((data + offset) as *const u8);
        let headers = 20 + (u32::from(byte(32)) >> 4) * 4;
        if byte(0) == 0x45 && (*skb).len <= headers { byte(33) } else { 0 }
    }
}

/// What the IP and TCP headers say.
pub struct Packet {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub flags: u8,
    /// Where the payload begins, from the IP header's first byte.
    pub payload: u32,
    /// Payload bytes.
    pub len: u32,
}

impl Packet {
    /// Reads a packet that a local TCP socket made. Headers with IP options or extensions, which no TCP socket
    /// makes unless told to, are passed over.
    ///
    /// # Safety
    /// `skb` must be the context of a program that runs.
    #[inline(always)]
    pub unsafe fn read(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: the caller's promise; each access is behind a comparison with `data_end`, which the verifier insists on.
        unsafe {
            let (data, data_end) = ((*skb).data as usize, (*skb).data_end as usize);
            if data + 40 > data_end {
                return None;
            }
            let at = match *(data as *const u8) {
                0x45 => 20,
                version if version >> 4 == 6 && *((data + 6) as *const u8) == IPPROTO_TCP => 40,
                _ => return None,
            };
            Self::from_tcp(skb, data + at, data_end, at as u32)
        }
    }

    /// # Safety
    /// `tcp` must be in the packet of `skb`, and `data_end` its end.
    #[inline(always)]
    unsafe fn from_tcp(skb: *mut __sk_buff, tcp: usize, data_end: usize, at: u32) -> Option<Self> {
        // Else LLVM chooses between two constants for each field, not once between two addresses.
        let tcp = opaque(tcp as *const u8) as usize;
        if tcp + 20 > data_end {
            return None;
        }
        // SAFETY: the caller's promise, and the comparison above. The kernel aligns the headers of a packet that a local socket
        // makes to four bytes, and what runs these programs loads from anywhere.
        unsafe {
            let byte = |offset: usize| *((tcp + offset) as *const u8);
            let port = |offset: usize| u16::from_be(*((tcp + offset) as *const u16));
            // To the verifier any number: else it follows packets of the two versions apart, through all that comes after.
            let payload = at + (u32::from(byte(12)) >> 4) * 4 + opaque_zero() as u32;
            let len = (*skb).len;
            if len < payload {
                return None;
            }
            Some(Self {
                sport: port(0),
                dport: port(2),
                seq: u32::from_be(*((tcp + 4) as *const u32)),
                flags: byte(13),
                payload,
                len: len - payload,
            })
        }
    }
}
