//! A client of the pod that writes exactly the given bytes. It reads scripts from stdin and writes transcripts to
//! stdout, both JSON arrays in the same order. Up to 200 connections run at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Close, Script, Step, Transcript, latin1_bytes, latin1_text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

const AT_ONCE: usize = 200;

fn main() -> anyhow::Result<()> {
    let scripts: Vec<Script> = serde_json::from_reader(io::stdin())?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((nth, script)) = claim(&next, &scripts) {
            done.push((nth, play(script)));
        }
        done
    };
    let mut transcripts: Vec<(usize, Transcript)> = thread::scope(|scope| {
        let running: Vec<_> = (0..scripts.len().min(AT_ONCE)).map(|_| scope.spawn(work)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    transcripts.sort_by_key(|(nth, _)| *nth);
    let transcripts: Vec<Transcript> = transcripts.into_iter().map(|(_, transcript)| transcript).collect();
    serde_json::to_writer(io::stdout(), &transcripts)?;
    Ok(())
}

/// The next script in line.
fn claim<'a>(next: &AtomicUsize, scripts: &'a [Script]) -> Option<(usize, &'a Script)> {
    let nth = next.fetch_add(1, Ordering::Relaxed);
    scripts.get(nth).map(|script| (nth, script))
}

fn play(script: &Script) -> Transcript {
    let mut received = Vec::new();
    let (local, end) = match dial(script.dialed) {
        Ok(mut stream) => {
            let local = stream.local_addr().ok();
            let end = script.steps.iter().try_for_each(|step| act(&mut stream, step, &mut received));
            (local, end)
        }
        Err(error) => (None, Err(error)),
    };
    let end = match end {
        Ok(()) => "open".to_owned(),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => "FIN".to_owned(),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            "RST".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Transcript { local, received: latin1_text(&received), end }
}

/// Dials from a port that `bind` chose. It prefers odd ports, and a sidecar's dials get even ones, as `connect` prefers these:
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/inet_connection_sock.c#L370>. With a port that the other one has used
/// towards the same proxy a moment ago, the connection would be that one's to conntrack: the app's not redirected, or the
/// sidecar's redirected.
fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let (family, any) = match to {
        SocketAddr::V4(_) => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(any, 0))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn act(stream: &mut TcpStream, step: &Step, received: &mut Vec<u8>) -> io::Result<()> {
    match step {
        Step::Send { send } => {
            stream.set_nodelay(true)?;
            stream.write_all(&latin1_bytes(send))
        }
        Step::Wait { wait } => {
            // A pause that the script asks for; it ends with the connection.
            if is_closed_within(stream, *wait)? { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        }
        Step::Closed { closed } => {
            if is_closed_within(stream, *closed)? {
                return Ok(());
            }
            Err(io::Error::new(ErrorKind::TimedOut, "the peer has not closed"))
        }
        Step::Resp { resp } => {
            let end = Instant::now() + Duration::from_millis(*resp);
            let mut quiet = end;
            while read_before(stream, end.min(quiet), received)? {
                quiet = Instant::now() + Duration::from_millis(150);
            }
            Ok(())
        }
        Step::Until { until } => {
            let (wanted, from) = (latin1_bytes(until), received.len());
            let end = Instant::now() + Duration::from_secs(10);
            while !received[from..].windows(wanted.len()).any(|window| window == wanted) {
                if !read_before(stream, end, received)? {
                    return Err(io::Error::new(ErrorKind::TimedOut, format!("no {until:?} came")));
                }
            }
            Ok(())
        }
        Step::Close { close: Close::Half } => stream.shutdown(Shutdown::Write),
        Step::Close { close: Close::Rst } => {
            set_socket_linger(&*stream, Some(Duration::ZERO))?;
            stream.shutdown(Shutdown::Read) // with linger 0, the close at the end of the script is a reset
        }
    }
}

/// Whether the peer closes its side within this many milliseconds.
fn is_closed_within(stream: &TcpStream, ms: u64) -> io::Result<bool> {
    let mut closed = [PollFd::new(stream, PollFlags::RDHUP)];
    Ok(poll(&mut closed, Some(&limit(Duration::from_millis(ms))))? != 0)
}

/// Reads once. False: nothing arrived before `end`. The peer's FIN is an `UnexpectedEof` error.
fn read_before(stream: &mut TcpStream, end: Instant, received: &mut Vec<u8>) -> io::Result<bool> {
    let left = end.saturating_duration_since(Instant::now());
    if poll(&mut [PollFd::new(&*stream, PollFlags::IN)], Some(&limit(left)))? == 0 {
        return Ok(false);
    }
    let mut buffer = [0; 16384];
    match stream.read(&mut buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        n => {
            received.extend_from_slice(&buffer[..n]);
            Ok(true)
        }
    }
}

fn limit(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
