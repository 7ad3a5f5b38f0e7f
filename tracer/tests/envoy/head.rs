//! Random first bytes of an app: CONNECTs well and badly formed, other requests, TLS, HTTP/2 and noise.

use super::generate::Random;

/// The first bytes of one connection.
pub(crate) fn random(random: &mut Random) -> Vec<u8> {
    match random.below(10) {
        0..6 => connect(random),
        6 | 7 => other_request(random),
        8 => tls(random),
        _ => odd(random),
    }
}

const HEADERS: [&str; 17] = [
    "Host: example.com:443\r\n",
    "Host: example.com\r\n",
    "User-Agent: curl/8.5.0\r\n",
    "Proxy-Connection: Keep-Alive\r\n",
    "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "Connection: Upgrade\r\n",
    "X-Long: a\r\n b\r\n",
    "X_Under: a\r\n",
    "Bad Header: a\r\n",
    "NoColon\r\n",
    "X-Empty:\r\n",
];

fn headers(random: &mut Random) -> String {
    let mut text = String::new();
    if !random.one_in(4) {
        text.push_str("Host: example.com:443\r\nUser-Agent: curl/8.5.0\r\n");
    }
    for _ in 0..random.below(3) {
        text.push_str(random.pick(&HEADERS));
    }
    text
}

fn connect(random: &mut Random) -> Vec<u8> {
    let targets = [
        "example.com:443",
        "example.com:443",
        "example.com:443",
        "www.example.com:80",
        "EXAMPLE.com:443",
        "example.com",
        "example.com:",
        ":443",
        "[2001:db8::1]:443",
        "[2001:db8::1]",
        "10.0.0.1:80",
        "example.com:65536",
        "example.com:0",
        "a_b.example.com:1",
        "user@example.com:443",
        "http://example.com:443",
        "example.com:443/path",
        "/",
        "*",
        "example.com:4a3",
        "other.test:443",
        "example.com:0443",
    ];
    let versions = [
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "HTTP/11",
        "http/1.1", "",
    ];
    let method = random.pick(&["CONNECT", "CONNECT", "CONNECT", "CONNECT", "connect"]);
    finish(random, method, &targets, &versions)
}

fn other_request(random: &mut Random) -> Vec<u8> {
    let targets = [
        "/",
        "/path",
        "/path?q=1",
        "/path/more",
        "/p",
        "http://example.com/path",
        "http://example.com",
        "http://www.example.com:80/p?x",
        "HTTP://Example.com/",
        "https://example.com/",
        "ftp://example.com/",
        "*",
        "path",
        "http://[2001:db8::1]/path",
        "http://u:p@example.com/",
    ];
    let versions = ["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", ""];
    let method = random.pick(&[
        "GET", "GET", "GET", "POST", "OPTIONS", "HEAD", "PATCH", "SOURCE", "PROPFIND", "QUERY", "FOO",
        "M-SEARCH",
    ]);
    finish(random, method, &targets, &versions)
}

fn finish(random: &mut Random, method: &str, targets: &[&str], versions: &[&str]) -> Vec<u8> {
    let (target, version) = (random.pick(targets), random.pick(versions));
    let blank = if version.is_empty() { "" } else { " " };
    let mut text = format!("{method} {target}{blank}{version}\r\n{}\r\n", headers(random));
    if random.one_in(8) {
        text = text.replace("\r\n", "\n");
    }
    if random.one_in(10) {
        text.truncate(random.below(text.len() + 1));
    }
    text.into_bytes()
}

/// A ClientHello.
fn tls(random: &mut Random) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let name = random.pick(&["a.example", "x.b.example", "c.b.example", "A.EXAMPLE", "other.test"]);
    let alpn: &[u8] =
        random.pick(&[b"\x02h2\x08http/1.1".as_slice(), b"\x08http/1.1", b"\x02h2", b"\x05other"]);
    let mut extensions = Vec::new();
    if !random.one_in(4) {
        let list = with_length(&[&[0], with_length(name.as_bytes()).as_slice()].concat());
        extensions.extend([&[0, 0], with_length(&list).as_slice()].concat());
    }
    if !random.one_in(3) {
        extensions.extend([&[0, 16], with_length(&with_length(alpn)).as_slice()].concat());
    }
    let body = [
        &[3, 3],
        [7; 32].as_slice(),
        &[0],
        &[0, 2, 0x13, 0x01],
        &[1, 0],
        with_length(&extensions).as_slice(),
    ]
    .concat();
    let message = [&[1, 0], with_length(&body).as_slice()].concat();
    let mut hello = [&[22, 3, 1], with_length(&message).as_slice()].concat();
    if random.one_in(8) {
        hello.truncate(random.below(hello.len()));
    }
    hello
}

fn odd(random: &mut Random) -> Vec<u8> {
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".as_slice();
    let connect = b"\x00\x00\x1a\x01\x04\x00\x00\x00\x01\x02\x07CONNECT\x01\x0fexample.com:443".as_slice();
    let get = b"\x00\x00\x10\x01\x05\x00\x00\x00\x01\x82\x86\x84\x01\x0bexample.com".as_slice();
    random
        .pick(&[
            [settings, connect].concat().as_slice(),
            [settings, get].concat().as_slice(),
            settings,
            b"PRI * HTTP/2.0\r\n",
            b"\x05\x01\x00",
            b"",
            b"C",
            b"P",
            b"\r\nCONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
            b"SSH-2.0-client\r\n",
            b"\x00\x00\x00\x00\n",
        ])
        .to_vec()
}
