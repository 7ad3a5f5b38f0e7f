//! What Envoy's `tls_inspector` detects in a connection's first bytes: whether they are a TLS ClientHello, its server name
//! and its ALPN protocols. Nothing is verified.
//!
//! Source: envoy `source/extensions/filters/listener/tls_inspector/tls_inspector.cc` `Filter::parseClientHello`,
//! with `BoringSSL`'s record layer and `ssl_client_hello_init` behind it.

/// The verdict on some first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    Tls {
        server_name: String,
        protocols: Vec<String>,
    },
    NotTls,
    /// More bytes are needed.
    Undecided,
}

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// What the inspector says of `head`, the bytes that have arrived.
pub(crate) fn inspect(head: &[u8]) -> Hello {
    match handshake_message(head) {
        Ok(Some(body)) => client_hello(&body).unwrap_or(Hello::NotTls),
        Ok(None) => Hello::Undecided,
        Err(NotTls) => Hello::NotTls,
    }
}

struct NotTls;

/// The first handshake message, put together from its records; `None` while bytes are missing.
fn handshake_message(head: &[u8]) -> Result<Option<Vec<u8>>, NotTls> {
    let mut message = Vec::new();
    let mut rest = head;
    loop {
        // BoringSSL judges a record when its header is whole.
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else { return Ok(None) };
        let &[kind, major, _, high, low] = header else { return Err(NotTls) };
        if kind != HANDSHAKE || major != 3 {
            return Err(NotTls);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > (1 << 14) + 2048 {
            return Err(NotTls);
        }
        let Some((record, after)) = after.split_at_checked(length) else { return Ok(None) };
        message.extend_from_slice(record);
        rest = after;
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(NotTls);
        }
        if let Some(&[_, high, middle, low]) = message.get(..4) {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if let Some(body) = message.get(4..4 + length) {
                return Ok(Some(body.to_vec()));
            }
        }
    }
}

/// `ssl_client_hello_init`; `None` where a length does not fit.
fn client_hello(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    let session = reader.prefixed_1()?;
    let ciphers = reader.prefixed_2()?;
    let compression = reader.prefixed_1()?;
    if session.len() > 32 || ciphers.len() < 2 || ciphers.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    let mut server_name = String::new();
    let mut protocols = Vec::new();
    if !reader.0.is_empty() {
        let mut extensions = Reader(reader.prefixed_2()?);
        if !reader.0.is_empty() {
            return None;
        }
        while !extensions.0.is_empty() {
            let kind = extensions.number()?;
            let body = extensions.prefixed_2()?;
            match kind {
                0 => server_name = name(body).unwrap_or_default(),
                16 => protocols = alpn(body).unwrap_or_default(),
                _ => {}
            }
        }
    }
    Some(Hello::Tls { server_name, protocols })
}

fn name(body: &[u8]) -> Option<String> {
    let mut list = Reader(Reader(body).prefixed_2()?);
    let kind = list.take(1)?;
    let host = list.prefixed_2()?;
    (kind == [0]).then(|| String::from_utf8_lossy(host).to_ascii_lowercase())
}

fn alpn(body: &[u8]) -> Option<Vec<String>> {
    let mut list = Reader(Reader(body).prefixed_2()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(String::from_utf8_lossy(list.prefixed_1()?).into_owned());
    }
    Some(protocols)
}

/// Bytes not yet read; each method takes from the front, or gives `None` and takes nothing.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
    }

    fn prefixed_1(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    fn prefixed_2(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with a server name and ALPN `h2, http/1.1`.
    pub(crate) fn hello(server_name: &str) -> Vec<u8> {
        let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let sni = with_length(&[&[0], with_length(server_name.as_bytes()).as_slice()].concat());
        let alpn = with_length(b"\x02h2\x08http/1.1");
        let extensions =
            [&[0, 0], with_length(&sni).as_slice(), &[0, 16], with_length(&alpn).as_slice()].concat();
        let body = [
            &[3, 3],
            [7; 32].as_slice(),
            &[0],
            &[0, 2, 0x13, 0x01],
            &[1, 0],
            with_length(&extensions).as_slice(),
        ]
        .concat();
        let message = [&[1, 0], u16::try_from(body.len()).unwrap().to_be_bytes().as_slice(), &body].concat();
        [&[22, 3, 1], with_length(&message).as_slice()].concat()
    }

    #[test]
    fn a_hello_gives_its_name_and_protocols() {
        let protocols = vec!["h2".to_owned(), "http/1.1".to_owned()];
        assert_eq!(
            inspect(&hello("A.example")),
            Hello::Tls { server_name: "a.example".to_owned(), protocols }
        );
    }

    #[test]
    fn every_prefix_of_a_hello_is_undecided() {
        let hello = hello("a.example");
        for length in 0..hello.len() {
            assert_eq!(inspect(&hello[..length]), Hello::Undecided, "{length}");
        }
    }

    #[test]
    fn other_bytes_are_not_tls() {
        assert_eq!(inspect(b"CONNECT a:443 HTTP/1.1\r\n"), Hello::NotTls);
        assert_eq!(inspect(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]), Hello::NotTls);
    }
}
