//! What a raw client of the pod is told to do on its connection, byte by byte, and what it then tells. Bytes are strings
//! in which each character is one byte (Latin-1), as in the cases' `expected.json`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Script {
    /// Where to connect to.
    pub dialled: SocketAddr,
    /// What to do then, in order.
    pub steps: Vec<Step>,
}

/// One thing to do on the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// Writes these bytes with one call.
    Send {
        /// The bytes, in Latin-1.
        send: String,
    },
    /// Does nothing for so long, or until the peer closes: that ends the script.
    Wait {
        /// Milliseconds.
        wait: u64,
    },
    /// Does nothing until the peer has closed its side, at most so long.
    Closed {
        /// Milliseconds.
        closed: u64,
    },
    /// Reads until there were 150 ms of quiet after the first byte, at most so long.
    Resp {
        /// Milliseconds.
        resp: u64,
    },
    /// Reads until these bytes came, at most ten seconds.
    Until {
        /// The bytes, in Latin-1.
        until: String,
    },
    /// Ends the connection, or half of it.
    Close {
        /// How.
        close: Close,
    },
}

/// A way to end a connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Close {
    /// Shuts down the sending half.
    Half,
    /// Resets it (`SO_LINGER` 0).
    Rst,
}

/// What the client saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transcript {
    /// Its own address; None when the connection failed.
    pub local: Option<SocketAddr>,
    /// All that was received, in Latin-1.
    pub received: String,
    /// `open`, `FIN`, `RST`, or the error that ended it.
    pub end: String,
}

impl Script {
    /// A CONNECT as curl writes it, the answer awaited.
    pub fn connect(dialled: SocketAddr, authority: &str) -> Self {
        let send = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: curl/8.5.0\r\n\
             Proxy-Connection: Keep-Alive\r\n\r\n"
        );
        Self { dialled, steps: vec![Step::Send { send }, Step::Until { until: "\r\n\r\n".to_owned() }] }
    }
}

impl Transcript {
    /// The status of the first final response, where one came: 100 Continue and the like are skipped.
    pub fn status(&self) -> Option<u16> {
        let mut rest = self.received.as_str();
        loop {
            let status = rest.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
            if status >= 200 {
                return Some(status);
            }
            rest = rest.split_once("\r\n\r\n")?.1;
        }
    }
}

/// A string's characters as bytes; characters beyond Latin-1 are an error of the script's author and become `?`.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

/// Bytes as the string of [`bytes`].
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
