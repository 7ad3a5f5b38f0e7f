//! The request that is asked about: the app's own first bytes, or a CONNECT that stands for them.

use std::path::Path;

use anyhow::Context as _;

use super::archive::bounded;

/// The largest `--head`: `http_inspector` looks at 64 KiB.
const MAX_HEAD: u64 = 64 << 10;

/// The version of HTTP that the app's client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpVersion {
    /// HTTP/1.0, as `ab` and old clients speak it
    #[value(name = "1.0")]
    Http10,
    /// HTTP/1.1
    #[default]
    #[value(name = "1.1")]
    Http11,
    /// HTTP/2 with prior knowledge, in plaintext
    #[value(name = "2")]
    Http2,
}

/// A request, and what to say about it where it is assumed.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The first bytes on the connection.
    pub head: Vec<u8>,
    /// The request in one line, where it stands for the app's own.
    pub assumed: Option<String>,
}

impl Request {
    /// The app's own first bytes, from a file.
    pub(super) fn of_file(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let head = bounded(file, MAX_HEAD).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { head, assumed: None })
    }

    /// A CONNECT as curl writes it.
    pub(super) fn connect(authority: &str, version: HttpVersion) -> Self {
        let text = |version: &str| {
            format!(
                "CONNECT {authority} HTTP/{version}\r\nHost: {authority}\r\nUser-Agent: curl/8.5.0\r\n\
                 Proxy-Connection: Keep-Alive\r\n\r\n"
            )
        };
        let (name, head) = match version {
            HttpVersion::Http10 => ("1.0", text("1.0").into_bytes()),
            HttpVersion::Http11 => ("1.1", text("1.1").into_bytes()),
            HttpVersion::Http2 => ("2", http2_connect(authority)),
        };
        Self { head, assumed: Some(format!("CONNECT {authority} HTTP/{name}")) }
    }
}

/// A CONNECT in HTTP/2: preface, empty SETTINGS, one HEADERS frame on stream 1 (RFC 9113 sections 3.4 and 8.5). The names
/// are indexes of HPACK's static table (RFC 7541 appendix A), the values literals.
fn http2_connect(authority: &str) -> Vec<u8> {
    const AUTHORITY: u8 = 1;
    const METHOD: u8 = 2;
    let mut block = Vec::new();
    for (name, value) in [(METHOD, "CONNECT"), (AUTHORITY, authority)] {
        block.push(name); // literal without indexing, indexed name
        // A length of seven bits; `--authority` is at most that long.
        block.push(u8::try_from(value.len()).unwrap_or(u8::MAX).min(126));
        block.extend(value.bytes().take(126));
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    let length = u8::try_from(block.len()).unwrap_or(u8::MAX);
    bytes.extend([0, 0, length, 1, 4, 0, 0, 0, 1]); // HEADERS with END_HEADERS
    bytes.extend(block);
    bytes
}

/// Parses `HOST:PORT` as it can stand in a request line.
pub fn authority(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !text.is_empty() && text.len() <= 126 && text.chars().all(is_plain) && has_port {
        Ok(text.to_owned())
    } else {
        Err("want the target as the app writes it in its CONNECT: api.example.com:443".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assumed_request_is_the_one_of_the_evaluator() {
        let request = Request::connect("example.com:443", HttpVersion::Http11);
        assert_eq!(request.head, tracer_mesh::CURL_CONNECT);
        assert_eq!(request.assumed.as_deref(), Some("CONNECT example.com:443 HTTP/1.1"));
        assert!(Request::connect("a:1", HttpVersion::Http10).head.starts_with(b"CONNECT a:1 HTTP/1.0\r\n"));
    }

    #[test]
    fn authority_is_one_word_with_a_port() {
        assert!(authority("api.example.com:443").is_ok() && authority("[fd00::1]:443").is_ok());
        for text in ["", "api.example.com", "a b:1", "a:1\r\nX: y:1", "a:x"] {
            assert!(authority(text).is_err(), "{text:?}");
        }
    }
}
