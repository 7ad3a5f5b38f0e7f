//! Do a payload's first bytes concern us, and does a payload end a head? All the HTTP that the kernel side knows.

use crate::branchless::{is_zero, least};

/// How many first bytes [`concerns_us`] looks at.
pub const OPENING: usize = 8;

/// A proxy is spoken to with CONNECT, or with an absolute-form target: a method, a space, `http`. Origin-form
/// requests (`GET /`), by far the most traffic of a mesh, match none of these.
pub const OPENINGS: [[u8; OPENING]; 9] = [
    *b"CONNECT ",
    *b"GET http",
    *b"POST htt",
    *b"PUT http",
    *b"HEAD htt",
    *b"PATCH ht",
    *b"DELETE h",
    *b"TRACE ht",
    // The ninth byte would tell `http` from `*` or `/`; userspace does.
    *b"OPTIONS ",
];

/// Are these eight bytes (little-endian, as below) one of the openings?
#[inline(always)]
pub fn is_opening(first: u64) -> bool {
    let mut i = 0;
    while i < OPENINGS.len() {
        if first == u64::from_le_bytes(OPENINGS[i]) {
            return true;
        }
        i += 1;
    }
    false
}

/// Could a payload that begins with the low `len` bytes of `first` (little-endian, so the first byte is the lowest)
/// be a request to a proxy? With fewer than eight bytes: could it become one?
#[inline(always)]
pub fn concerns_us(first: u64, len: u32) -> bool {
    let bits = least(u64::from(len), 8) * 8;
    let mask = (1u64 << (bits & 63)).wrapping_sub(1) | is_zero(bits ^ 64).wrapping_neg();
    let mut found = 0;
    // Constant bounds: LLVM unrolls it into nine compares.
    let mut i = 0;
    while i < OPENINGS.len() {
        found |= is_zero((first ^ u64::from_le_bytes(OPENINGS[i])) & mask);
        i += 1;
    }
    found & !is_zero(bits) != 0
}

/// Is a payload whose last four bytes are `last` at the end of a head, that is: does it end with an empty line?
#[inline(always)]
pub fn ends_head(last: [u8; 4]) -> bool {
    let last = u32::from_le_bytes(last);
    let (crlf, lf) = (u32::from_le_bytes(*b"\r\n\r\n"), u32::from_le_bytes(*b"\0\0\n\n"));
    is_zero(u64::from(last ^ crlf)) | is_zero(u64::from(last & 0xffff_0000 ^ lf)) != 0
}

/// Is this reply an interim one (`HTTP/1.1 100 Continue`), after which the real one is still to come?
/// `status_class` is the tenth byte of `HTTP/1.1 1xx`.
#[inline(always)]
pub fn is_interim(first: u64, status_class: u8) -> bool {
    // `HTTP/1.` is seven bytes; the minor version is the eighth.
    let other = (first & 0x00ff_ffff_ffff_ffff) ^ u64::from_le_bytes(*b"HTTP/1.\0");
    is_zero(other | u64::from(status_class ^ b'1')) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concerns(payload: &[u8]) -> bool {
        let mut first = [0; 8];
        let n = payload.len().min(8);
        first[..n].copy_from_slice(&payload[..n]);
        concerns_us(u64::from_le_bytes(first), u32::try_from(payload.len()).unwrap())
    }

    #[test]
    fn every_prefix_of_a_proxy_request_concerns_us() {
        for request in [
            &b"CONNECT example.com:443 HTTP/1.1\r\n"[..],
            b"GET http://example.com/ HTTP/1.1\r\n",
            b"POST http://example.com/ HTTP/1.1\r\n",
            b"PUT http://example.com/ HTTP/1.1\r\n",
            b"HEAD http://example.com/ HTTP/1.1\r\n",
            b"PATCH http://example.com/ HTTP/1.1\r\n",
            b"DELETE http://example.com/ HTTP/1.1\r\n",
            b"TRACE http://example.com/ HTTP/1.1\r\n",
            b"OPTIONS http://example.com/ HTTP/1.1\r\n",
        ] {
            for end in 1..=request.len() {
                assert!(concerns(&request[..end]), "{:?}", &request[..end]);
            }
        }
    }

    #[test]
    fn other_traffic_does_not() {
        for other in [
            &b""[..],
            b"GET / HTTP/1.1\r\n",
            b"POST /x HTTP/1.1\r\n",
            b"connect example.com:443 HTTP/1.1\r\n",
            b"\r\nCONNECT example.com:443 HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01",
            b"\x05\x01\x00",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"CONNECTED",
        ] {
            assert!(!concerns(other), "{other:?}");
        }
    }

    #[test]
    fn eight_bytes_are_an_opening_or_not() {
        for opening in OPENINGS {
            assert!(is_opening(u64::from_le_bytes(opening)));
        }
        assert!(!is_opening(u64::from_le_bytes(*b"GET / HT")) && !is_opening(0));
    }

    #[test]
    fn heads_end_with_an_empty_line() {
        assert!(ends_head(*b"\r\n\r\n"));
        assert!(ends_head(*b"x\n\n\n"));
        assert!(!ends_head(*b"/1\r\n"));
    }

    #[test]
    fn interim_replies_are_told_by_their_class() {
        let first = u64::from_le_bytes(*b"HTTP/1.1");
        assert!(is_interim(first, b'1'));
        assert!(!is_interim(first, b'4'));
        assert!(!is_interim(u64::from_le_bytes(*b"SSH-2.0-"), b'1'));
    }
}
