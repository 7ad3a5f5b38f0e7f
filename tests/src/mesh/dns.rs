//! Names: the mesh's name server, which knows none, and one question to the name server of a pod, which its sidecar's agent
//! answers with DNS capture.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{HOST, Pod};
use crate::netns::Netns;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A question for an IPv4 address (RFC 1035, section 3.2).
const ADDRESS_QUESTION: [u8; 4] = [0, 1, 0, 1];

/// A name server that answers every question with "no such name", as a cluster's does for a name with a typing error. Without
/// one, a resolver asks again for seconds.
#[derive(Debug)]
pub(super) struct NameServer {
    socket: UdpSocket,
    ends: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Listens on the control plane's address.
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        let socket =
            netns.run(|| UdpSocket::bind((HOST, 53)))?.context("cannot listen for questions for names")?;
        let (ours, ends) = (socket.try_clone()?, Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&ends);
        let answering = thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((length, from)) = ours.recv_from(&mut question) {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                if let Some(flags) = question[..length].get_mut(2..4) {
                    // An answer, to a question that wished for recursion, by a server that offers it: NXDOMAIN (RFC 1035, 4.1.1).
                    flags.copy_from_slice(&[0x81, 0x83]);
                    let _ = ours.send_to(&question[..length], from); // who asked may be gone
                }
            }
        });
        Ok(Self { socket, ends, answering: Some(answering) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // An empty datagram to itself ends the wait for the next question.
        if self.socket.send_to(&[], (HOST, 53)).is_ok()
            && let Some(answering) = self.answering.take()
        {
            let _ = answering.join();
        }
    }
}

impl Pod {
    /// The first IPv4 address of this name, as the pod's app is told.
    pub fn resolve(&self, name: &str) -> Result<Ipv4Addr> {
        let answer = self.app().netns().run(|| -> Result<Vec<u8>> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.connect((HOST, 53))?;
            socket.send(&question(name))?;
            let mut answer = vec![0; 1500];
            let length =
                socket.recv(&mut answer).with_context(|| format!("no name server answers for {name}"))?;
            answer.truncate(length);
            Ok(answer)
        })??;
        let address = address(&answer, question(name).len());
        ensure!(answer.starts_with(&question(name)[..2]), "an answer to another question");
        address.with_context(|| format!("{} knows no address of {name}: {answer:?}", self.name()))
    }
}

fn question(name: &str) -> Vec<u8> {
    // A number, a wish for recursion, one question.
    let mut bytes = vec![0x1a, 0xb0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&ADDRESS_QUESTION);
    bytes
}

/// The address in the first answer, whose name is a reference of two bytes or the name again.
fn address(answer: &[u8], question: usize) -> Option<Ipv4Addr> {
    let rest = answer.get(question..)?;
    let name = if rest.first()? >> 6 == 3 { 2 } else { rest.iter().position(|byte| *byte == 0)? + 1 };
    let (kind, data) = (rest.get(name..name + 2)?, rest.get(name + 10..name + 14)?);
    (kind == [0, 1]).then(|| <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_an_answer_with_a_compressed_and_with_a_repeated_name() {
        let question = question("a.test");
        let tail = [0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 240, 240, 0, 1];
        for name in [&[0xc0, 12][..], &[1, b'a', 4, b't', b'e', b's', b't', 0]] {
            let answer = [&question[..], name, &tail].concat();
            assert_eq!(address(&answer, question.len()), Some(Ipv4Addr::new(240, 240, 0, 1)));
        }
        assert_eq!(address(&question, question.len()), None);
    }
}
