//! What a packet's IP and TCP headers say, read in place. It looks at no payload.

use aya_ebpf::programs::SkBuffContext;

use crate::opaque::opaque_zero;

/// The protocol of both IP versions' headers.
const IPPROTO_TCP: u8 = 6;
pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;

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
    #[inline(always)]
    pub fn read(ctx: &SkBuffContext) -> Option<Self> {
        // SAFETY: the kernel hands a valid context to each run; each access is behind a comparison with `data_end`,
        // which the verifier insists on.
        unsafe {
            let skb = ctx.skb.skb;
            let (data, data_end) = ((*skb).data as usize, (*skb).data_end as usize);
            if data + 40 > data_end {
                return None;
            }
            match *(data as *const u8) {
                0x45 => Self::from_tcp(skb, data, data_end, 20),
                version if version >> 4 == 6 && *((data + 6) as *const u8) == IPPROTO_TCP => {
                    Self::from_tcp(skb, data, data_end, 40)
                }
                _ => None,
            }
        }
    }

    /// # Safety
    /// `data` and `data_end` must be the packet's.
    #[inline(always)]
    unsafe fn from_tcp(
        skb: *mut aya_ebpf::bindings::__sk_buff,
        data: usize,
        data_end: usize,
        at: usize,
    ) -> Option<Self> {
        if data + at + 20 > data_end {
            return None;
        }
        // SAFETY: the caller's promise, and the comparison above. The fields are read byte by byte, as a packet is
        // aligned to nothing.
        unsafe {
            let byte = |offset: usize| *((data + at + offset) as *const u8);
            // To the verifier any number: else it follows packets of the two versions apart, through all that comes after.
            let payload = at as u32 + (u32::from(byte(12)) >> 4) * 4 + opaque_zero() as u32;
            Some(Self {
                sport: u16::from_be_bytes([byte(0), byte(1)]),
                dport: u16::from_be_bytes([byte(2), byte(3)]),
                seq: u32::from_be_bytes([byte(4), byte(5), byte(6), byte(7)]),
                flags: byte(13),
                payload,
                len: (*skb).len.saturating_sub(payload),
            })
        }
    }
}
