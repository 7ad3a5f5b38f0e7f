//! A proxy outside the pod with a given behavior: it tunnels, refuses, hangs, closes or resets, as the cases'
//! `expected.json` says. It keeps the request heads that it received.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::set_socket_linger;

use crate::lab::Lab;
use crate::netns::Netns;

/// What the proxy does with a connection.
#[derive(Debug, Clone)]
pub enum Behavior {
    /// Answers a CONNECT with 200 and then echoes; answers an absolute-form request with 200 and any other request with
    /// 400; closes when the bytes are no request.
    Tunnel,
    /// Answers the requests of a connection with these statuses, and repeats the last one. 200 is like `Tunnel`; 502
    /// also closes.
    Statuses(Vec<u16>),
    /// Grants the first CONNECT, and answers the requests that come through the tunnel with these statuses.
    Through(Vec<u16>),
    /// Reads and never answers.
    Hang,
    /// Closes on accept.
    Close,
    /// Resets at the first bytes.
    Rst,
}

impl Behavior {
    /// The behavior named in `expected.json`; `None` for `none`: no proxy listens.
    pub fn named(word: &str) -> Result<Option<Self>> {
        Ok(Some(match word {
            "tunnel" => Self::Tunnel,
            "hang" => Self::Hang,
            "close" => Self::Close,
            "rst" => Self::Rst,
            "none" => return Ok(None),
            status => match status.parse() {
                Ok(status) => Self::Statuses(vec![status]),
                Err(_) => bail!("no proxy behaves like {word:?}"),
            },
        }))
    }
}

/// A listening proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct ScriptedProxy {
    shared: Arc<Shared>,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    behavior: Behavior,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closing: bool,
    open: Vec<TcpStream>,
    heads: Vec<Vec<u8>>,
}

impl ScriptedProxy {
    /// Listens on `listen` outside the pod.
    pub fn start(lab: &Lab, listen: SocketAddr, behavior: Behavior) -> Result<Self> {
        Self::start_in(lab.outside().netns(), listen, behavior)
    }

    /// Listens on `listen` in any namespace. The sockets are in this process's cgroup, which is out of the tracer's
    /// scope.
    pub fn start_in(netns: &Netns, listen: SocketAddr, behavior: Behavior) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind(listen))?;
        let listener =
            listener.with_context(|| format!("the scripted proxy cannot listen on {listen} in the lab"))?;
        let shared = Arc::new(Shared { behavior, state: Mutex::default() });
        let (ours, theirs) = (Arc::clone(&shared), listener.try_clone()?);
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = theirs.accept() {
                let Some(copy) = stream.try_clone().ok() else { continue };
                {
                    let mut state = ours.state();
                    if state.closing {
                        break;
                    }
                    state.open.push(copy);
                }
                let ours = Arc::clone(&ours);
                thread::spawn(move || {
                    let peer = stream.peer_addr();
                    // Some tests break off the connection on purpose.
                    let _ = ours.serve(stream);
                    // The clone keeps the connection open until it is dropped.
                    ours.state().open.retain(|open| open.peer_addr().ok() != peer.as_ref().ok().copied());
                });
            }
        });
        Ok(Self { shared, listener, accepting: Some(accepting) })
    }

    /// The request heads received so far, in order of arrival.
    pub fn heads(&self) -> Vec<Vec<u8>> {
        self.shared.state().heads.clone()
    }
}

impl Drop for ScriptedProxy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closing = true;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        // On Linux, shutting down a listener ends its accept().
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut statuses: VecDeque<u16> = match &self.behavior {
            Behavior::Close => return Ok(()),
            Behavior::Rst => {
                stream.read_exact(&mut [0])?;
                set_socket_linger(&stream, Some(Duration::ZERO))?;
                return Ok(());
            }
            Behavior::Hang => {
                let mut head = Vec::new();
                let read = read_head(&mut stream, &mut head);
                self.state().heads.push(head);
                read?;
                return io::copy(&mut stream, &mut io::sink()).map(drop);
            }
            Behavior::Tunnel => VecDeque::from([200]),
            Behavior::Statuses(statuses) => statuses.iter().copied().collect(),
            Behavior::Through(statuses) => [200].iter().chain(statuses).copied().collect(),
        };
        let mut is_through = !matches!(self.behavior, Behavior::Through(_));
        let mut buffer = Vec::new();
        while read_head(&mut stream, &mut buffer)? {
            let end = head_end(&buffer).unwrap_or(buffer.len());
            let head: Vec<u8> = buffer.drain(..end).collect();
            let status = if statuses.len() > 1 { statuses.pop_front() } else { statuses.front().copied() };
            let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let connect = head.starts_with(b"CONNECT ");
            let absolute_form = target.windows(3).any(|window| window == b"://");
            let is_request = head.first().is_some_and(u8::is_ascii_alphabetic);
            self.state().heads.push(head);
            match status.unwrap_or(200) {
                _ if !is_request => return Ok(()),
                200 if connect && !is_through => {
                    is_through = true;
                    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                }
                200 if connect => {
                    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                    stream.write_all(&buffer)?;
                    let mut echo = stream.try_clone()?;
                    return io::copy(&mut stream, &mut echo).map(drop);
                }
                200 if !absolute_form => respond(&mut stream, 400)?,
                502 => return respond(&mut stream, 502),
                status => respond(&mut stream, status)?,
            }
        }
        Ok(())
    }
}

fn respond(stream: &mut TcpStream, status: u16) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        407 => "Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"lab\"",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Whatever",
    };
    write!(stream, "HTTP/1.1 {status} {reason}\r\nServer: scripted\r\nContent-Length: 3\r\n\r\nno\n")
}

/// Reads until `buffer` holds a whole head. False at the end of the stream.
fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 16384];
    while head_end(buffer).is_none() {
        match stream.read(&mut chunk)? {
            0 => return Ok(false),
            n => buffer.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(true)
}

/// The offset after the first empty line; lines may end in LF alone.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    let lf = bytes.windows(2).position(|window| window == b"\n\n").map(|at| at + 2);
    crlf.into_iter().chain(lf).min()
}
