//! Tests on a payload's first and last bytes: may it begin a request to a proxy, and does it end an HTTP head? This is all
//! the HTTP that the kernel side knows.

use crate::verifier::{is_zero, min};

/// Length in bytes of a [`PREFIXES`] entry.
pub const PREFIX_LEN: usize = 8;

/// The methods of requests to a proxy: CONNECT, and those that come with an absolute-form target.
pub const METHODS: [&[u8]; 9] =
    [b"CONNECT", b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"DELETE", b"TRACE", b"OPTIONS"];

/// First bytes of a request to a proxy: a method, a space and the beginning of an absolute-form target, `http`, as far as
/// [`PREFIX_LEN`] bytes go. Origin-form requests (`GET /`), most of a mesh's traffic, match none. Only the ninth byte of
/// `OPTIONS http` tells `http` from `*` and `/`; userspace looks at it.
pub const PREFIXES: [[u8; PREFIX_LEN]; METHODS.len()] = prefixes();

const fn prefixes() -> [[u8; PREFIX_LEN]; METHODS.len()] {
    let mut prefixes = [[0; PREFIX_LEN]; METHODS.len()];
    let mut i = 0;
    while i < METHODS.len() {
        let mut at = 0;
        while at < PREFIX_LEN {
            let method = METHODS[i];
            prefixes[i][at] = if at < method.len() { method[at] } else { b" http"[at - method.len()] };
            at += 1;
        }
        i += 1;
    }
    prefixes
}

/// Whether `first`, the first eight bytes in little-endian order, is one of [`PREFIXES`].
#[inline(always)]
pub fn is_prefix(first: u64) -> bool {
    let mut i = 0;
    while i < PREFIXES.len() {
        if first == u64::from_le_bytes(PREFIXES[i]) {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether a payload of `len` bytes may begin a request to a proxy. `first` holds its first bytes in little-endian order, at
/// most eight. A shorter payload may if it is the start of one of [`PREFIXES`].
#[inline(always)]
pub fn may_be_proxy_request(first: u64, len: u32) -> bool {
    let bits = min(u64::from(len), 8) * 8;
    let mask = (1u64 << (bits & 63)).wrapping_sub(1) | is_zero(bits ^ 64).wrapping_neg();
    let mut found = 0;
    // Constant bounds, so that LLVM unrolls the loop.
    let mut i = 0;
    while i < PREFIXES.len() {
        found |= is_zero((first ^ u64::from_le_bytes(PREFIXES[i])) & mask);
        i += 1;
    }
    found & !is_zero(bits) != 0
}

/// Whether a payload whose last four bytes are `last` ends with an empty line, which ends an HTTP head.
#[inline(always)]
pub fn ends_head(last: [u8; 4]) -> bool {
    let last = u32::from_le_bytes(last);
    let (crlf, lf) = (u32::from_le_bytes(*b"\r\n\r\n"), u32::from_le_bytes(*b"\0\0\n\n"));
    is_zero(u64::from(last ^ crlf)) | is_zero(u64::from(last & 0xffff_0000 ^ lf)) != 0
}

/// Whether a reply is an interim one (`HTTP/1.1 100 Continue`), which precedes the final reply. `first` holds its first
/// eight bytes in little-endian order, `status_class` is the tenth byte.
#[inline(always)]
pub fn is_interim(first: u64, status_class: u8) -> bool {
    // `HTTP/1.` is seven bytes; the minor version is the eighth.
    let other = (first & 0x00ff_ffff_ffff_ffff) ^ u64::from_le_bytes(*b"HTTP/1.\0");
    is_zero(other | u64::from(status_class ^ b'1')) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(payload: &[u8]) -> bool {
        let mut first = [0; 8];
        let n = payload.len().min(8);
        first[..n].copy_from_slice(&payload[..n]);
        may_be_proxy_request(u64::from_le_bytes(first), u32::try_from(payload.len()).unwrap())
    }

    #[test]
    fn prefixes_are_made_from_the_methods() {
        assert_eq!(PREFIXES[0], *b"CONNECT ");
        assert_eq!((PREFIXES[1], PREFIXES[5], PREFIXES[8]), (*b"GET http", *b"PATCH ht", *b"OPTIONS "));
    }

    #[test]
    fn every_prefix_of_a_proxy_request_may_be_proxy_request() {
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
                assert!(matches(&request[..end]), "{:?}", &request[..end]);
            }
        }
    }

    #[test]
    fn other_traffic_does_not_match() {
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
            assert!(!matches(other), "{other:?}");
        }
    }

    #[test]
    fn eight_bytes_are_a_prefix_or_not() {
        for prefix in PREFIXES {
            assert!(is_prefix(u64::from_le_bytes(prefix)));
        }
        assert!(!is_prefix(u64::from_le_bytes(*b"GET / HT")) && !is_prefix(0));
    }

    #[test]
    fn heads_end_with_an_empty_line() {
        assert!(ends_head(*b"\r\n\r\n"));
        assert!(ends_head(*b"x\n\n\n"));
        assert!(!ends_head(*b"/1\r\n"));
    }

    #[test]
    fn interim_replies_are_recognized_by_their_status_class() {
        let first = u64::from_le_bytes(*b"HTTP/1.1");
        assert!(is_interim(first, b'1'));
        assert!(!is_interim(first, b'4'));
        assert!(!is_interim(u64::from_le_bytes(*b"SSH-2.0-"), b'1'));
    }
}
