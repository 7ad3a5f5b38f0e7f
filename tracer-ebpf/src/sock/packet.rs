//! A packet's IP and TCP headers, read in place.

use aya_ebpf::bindings::__sk_buff;

use tracer_ebpf::verifier::{is_zero, opaque, opaque_zero};

/// The protocol number in the headers of both IP versions.
const IPPROTO_TCP: u8 = 6;
pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;

/// The longest packet in bytes that is tested for an empty payload. Headers of IPv4 and TCP take 52 bytes mostly, or 60.
const EMPTY_MAX: u32 = 60;

/// The TCP flags of a short IPv4 packet without a payload; 0 for other packets. Meaningless if the packet is not TCP; callers
/// pass such a packet whatever they see.
///
/// # Safety
/// `skb` must be the context of the running program.
#[inline(always)]
pub unsafe fn flags_of_empty(skb: *mut __sk_buff) -> u8 {
    // SAFETY: the caller guarantees it; see `Packet::read`.
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

/// The fields of the IP and TCP headers.
pub struct Packet {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub flags: u8,
    /// Offset of the payload in bytes from the start of the IP header.
    pub payload: u32,
    /// Payload bytes.
    pub len: u32,
    /// 1 if the destination is a loopback address, else 0.
    pub to_loopback: u64,
}

impl Packet {
    /// Reads a packet of a local TCP socket. `None` for packets with IP options or extension headers, which TCP sockets send
    /// only if an app sets them.
    ///
    /// # Safety
    /// `skb` must be the context of the running program.
    #[inline(always)]
    pub unsafe fn read(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: the caller guarantees it; each access is behind a comparison with `data_end`, which the verifier enforces.
        unsafe {
            let (data, data_end) = ((*skb).data as usize, (*skb).data_end as usize);
            if data + 40 > data_end {
                return None;
            }
            let word = |offset: usize| u64::from(*((data + offset) as *const u32));
            let (at, other) = match *(data as *const u8) {
                0x45 => (20, word(16) as u8 as u64 ^ 127),
                version if version >> 4 == 6 && *((data + 6) as *const u8) == IPPROTO_TCP => {
                    (40, word(24) | word(28) | word(32) | (word(36) ^ u64::from(1u32.to_be())))
                }
                _ => return None,
            };
            Self::from_tcp(skb, data + at, data_end, at as u32, is_zero(other))
        }
    }

    /// # Safety
    /// `tcp` must be in the packet of `skb`, and `data_end` its end.
    #[inline(always)]
    unsafe fn from_tcp(
        skb: *mut __sk_buff,
        tcp: usize,
        data_end: usize,
        at: u32,
        to_loopback: u64,
    ) -> Option<Self> {
        // Opaque, or LLVM selects between two constant offsets for each field, and not once between two addresses.
        let tcp = opaque(tcp as *const u8) as usize;
        if tcp + 20 > data_end {
            return None;
        }
        // SAFETY: the caller guarantees it, and see the comparison above. The kernel aligns the headers of a local socket's
        // packets to four bytes, and eBPF may load from unaligned addresses.
        unsafe {
            let byte = |offset: usize| *((tcp + offset) as *const u8);
            let port = |offset: usize| u16::from_be(*((tcp + offset) as *const u16));
            // Opaque, or the verifier follows the packets of the two IP versions separately.
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
                to_loopback,
            })
        }
    }
}
