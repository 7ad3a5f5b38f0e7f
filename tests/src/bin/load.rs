//! The load generator of the benchmark: an app of the pod that does one thing many times over, and the server outside
//! that it does it with. It is told what to do by a JSON object on stdin, says `warm` when it has begun, and then what
//! came of it. It measures nothing but how much it got done.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::load::{Done, Load, Tunnel, WARM};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const ECHO: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: load/1\r\nAccept: */*\r\n\r\n";
/// More than the first bytes that a tracer may look at, both ways.
const FIRST_BYTES: usize = 256 << 10;
/// Of bulk data.
const BLOCK: usize = 128 << 10;
/// Sessions under way at once.
const AT_ONCE: u32 = 64;
/// How long a tunnel stays open after its last byte, for whoever looks at it.
const LINGER: Duration = Duration::from_millis(300);

fn main() -> anyhow::Result<()> {
    let done = match serde_json::from_reader(io::stdin())? {
        Load::Serve { echo, sink } => return serve(echo, sink),
        Load::RoundTrips(tunnel) => round_trips(&tunnel)?,
        Load::Bulk(tunnel) => bulk(&tunnel)?,
        Load::Connections(tunnel) => again_and_again(&tunnel, |tunnel| open(tunnel).map(drop))?,
        Load::Short(tunnel) => again_and_again(&tunnel, |tunnel| echo(&mut open(tunnel)?))?,
        Load::Paced { proxies, authority, other, rate, count } => {
            paced(&proxies, &authority, other, rate, count)?
        }
    };
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

/// Opens a connection, and the tunnel through it where there is a proxy.
fn open(tunnel: &Tunnel) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(tunnel.to)?;
    stream.set_nodelay(true)?;
    if let Some(authority) = &tunnel.authority {
        // In one call, as clients do.
        let request =
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: load/1\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => head.extend_from_slice(&buffer[..n]),
            }
        }
    }
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(ECHO)?;
    stream.read_exact(&mut [0; ECHO.len()])
}

fn warm() {
    println!("{WARM}");
}

fn round_trips(tunnel: &Tunnel) -> io::Result<Done> {
    let mut stream = open(tunnel)?;
    for _ in 0..FIRST_BYTES / ECHO.len() {
        echo(&mut stream)?;
    }
    warm();
    let (start, length, mut count) = (Instant::now(), Duration::from_secs_f64(tunnel.seconds), 0);
    while start.elapsed() < length {
        echo(&mut stream)?;
        count += 1;
    }
    let done = Done { count, seconds: start.elapsed().as_secs_f64(), failed: 0 };
    println!("{}", serde_json::to_string(&done)?);
    linger(&stream)?;
    Ok(done)
}

fn bulk(tunnel: &Tunnel) -> io::Result<Done> {
    let mut stream = open(tunnel)?;
    let block = vec![b'x'; BLOCK];
    for _ in 0..FIRST_BYTES / block.len() {
        stream.write_all(&block)?;
    }
    warm();
    // What counts is what has arrived: the server gives back a byte for each block.
    let arrived = AtomicU64::new(0);
    let mut reader = stream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                arrived.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let (start, length) = (Instant::now(), Duration::from_secs_f64(tunnel.seconds));
        let before = arrived.load(Ordering::Relaxed);
        while start.elapsed() < length {
            stream.write_all(&block)?;
        }
        let (blocks, seconds) = (arrived.load(Ordering::Relaxed) - before, start.elapsed().as_secs_f64());
        stream.shutdown(Shutdown::Both)?;
        Ok(Done { count: blocks * block.len() as u64, seconds, failed: 0 })
    })
}

fn again_and_again(tunnel: &Tunnel, work: impl Fn(&Tunnel) -> io::Result<()>) -> io::Result<Done> {
    work(tunnel)?;
    warm();
    let (start, length, mut count) = (Instant::now(), Duration::from_secs_f64(tunnel.seconds), 0);
    while start.elapsed() < length {
        work(tunnel)?;
        count += 1;
    }
    Ok(Done { count, seconds: start.elapsed().as_secs_f64(), failed: 0 })
}

fn paced(
    proxies: &[SocketAddr],
    authority: &str,
    other: Option<SocketAddr>,
    rate: u32,
    count: u32,
) -> io::Result<Done> {
    let (next, made, failed) = (AtomicU32::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let server = other.map(|to| Tunnel { to, authority: None, seconds: 0.0 });
    warm();
    let start = Instant::now();
    let work = || -> io::Result<()> {
        let mut staying = server.as_ref().map(open).transpose()?;
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count {
                return Ok(());
            }
            pause(Duration::from_secs_f64(f64::from(nth) / f64::from(rate)).saturating_sub(start.elapsed()));
            let to = proxies[nth as usize % proxies.len()];
            let session = Tunnel { to, authority: Some(authority.to_owned()), seconds: 0.0 };
            match open(&session) {
                Ok(_) => made.fetch_add(1, Ordering::Relaxed),
                Err(_) => failed.fetch_add(1, Ordering::Relaxed),
            };
            if let (Some(staying), Some(server)) = (&mut staying, &server) {
                for _ in 0..9 {
                    echo(staying)?;
                }
                echo(&mut open(server)?)?;
            }
        }
    };
    let results: Vec<io::Result<()>> = thread::scope(|scope| {
        let running: Vec<_> = (0..AT_ONCE.min(count)).map(|_| scope.spawn(work)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    results.into_iter().collect::<io::Result<()>>()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Done { count: made.into_inner(), seconds, failed: failed.into_inner() })
}

/// The pace itself: there is no event to wait for.
fn pause(length: Duration) {
    if !length.is_zero() {
        let length = Timespec { tv_sec: 0, tv_nsec: length.subsec_nanos().into() };
        let _ = poll(&mut [], Some(&length)); // a signal would end it early, which does no harm
    }
}

fn linger(stream: &TcpStream) -> io::Result<()> {
    let mut closed = [PollFd::new(stream, PollFlags::RDHUP)];
    let limit = Timespec { tv_sec: 0, tv_nsec: LINGER.subsec_nanos().into() };
    poll(&mut closed, Some(&limit))?;
    Ok(())
}

fn serve(echo: SocketAddr, sink: SocketAddr) -> anyhow::Result<()> {
    let (echo, sink) = (TcpListener::bind(echo)?, TcpListener::bind(sink)?);
    warm();
    thread::scope(|scope| {
        scope.spawn(|| accept(&sink, count_all));
        accept(&echo, give_back);
    });
    Ok(())
}

fn accept(listener: &TcpListener, work: fn(TcpStream) -> io::Result<()>) {
    while let Ok((stream, _)) = listener.accept() {
        // A peer that breaks off has what it wanted.
        thread::spawn(move || stream.set_nodelay(true).and_then(|()| work(stream)));
    }
}

fn give_back(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16384];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn count_all(mut stream: TcpStream) -> io::Result<()> {
    let (mut count, mut buffer) = (0, vec![0; 2 * BLOCK]);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => count += n,
        }
        let blocks = count / BLOCK;
        count %= BLOCK;
        stream.write_all(&vec![b'.'; blocks])?;
    }
}
