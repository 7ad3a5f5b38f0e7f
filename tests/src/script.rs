//! Scripts for the raw client of the pod: the steps on a connection, and the transcript that it returns. Bytes are
//! strings in which each character is one byte (Latin-1), as in the cases' `expected.json`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Script {
    /// The address to connect to.
    pub dialed: SocketAddr,
    /// The steps on the connection, in order.
    pub steps: Vec<Step>,
}

/// One step on the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// Writes bytes with one call.
    Send {
        /// The bytes, in Latin-1.
        send: String,
    },
    /// Waits for a time. The script ends if the peer closes meanwhile.
    Wait {
        /// Milliseconds.
        wait: u64,
    },
    /// Waits until the peer closes its side. A timeout ends the script.
    Closed {
        /// Milliseconds.
        closed: u64,
    },
    /// Reads until 150 ms of silence after the first byte, or until the timeout.
    Resp {
        /// Milliseconds.
        resp: u64,
    },
    /// Reads until these bytes arrive, for ten seconds at most.
    Until {
        /// The bytes, in Latin-1.
        until: String,
    },
    /// Closes the connection, or half of it.
    Close {
        /// How to close.
        close: Close,
    },
}

/// A way to close a connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Close {
    /// Shuts down the sending half.
    Half,
    /// Resets the connection (`SO_LINGER` 0).
    Rst,
}

/// What the client received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transcript {
    /// The client's own address; `None` if it could not connect.
    pub local: Option<SocketAddr>,
    /// All received bytes, in Latin-1.
    pub received: String,
    /// `open`, `FIN`, `RST`, or the error that ended the script.
    pub end: String,
}

impl Script {
    /// Sends a CONNECT as curl writes it, and waits for the answer.
    pub fn connect(dialed: SocketAddr, authority: &str) -> Self {
        let send = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: curl/8.5.0\r\n\
             Proxy-Connection: Keep-Alive\r\n\r\n"
        );
        Self { dialed, steps: vec![Step::Send { send }, Step::Until { until: "\r\n\r\n".to_owned() }] }
    }
}

impl Transcript {
    /// The status of the first final response; 1xx responses are skipped.
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

/// The bytes of a Latin-1 string. A character beyond Latin-1 is an error in the script and becomes `?`.
pub fn latin1_bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

/// Bytes as a Latin-1 string.
pub fn latin1_text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
