//! The benchmark's load generator: an app of the pod that repeats one operation, and the server outside that it talks
//! to. A JSON object on stdin says what to do. It prints `warm` when the measured part begins, and then the result.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::load::{Load, LoadResult, Tunnel, Turn, Turns, WARM, rate};
use lab::pause;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

const ECHO: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: load/1\r\nAccept: */*\r\n\r\n";
/// More bytes than the tracer may inspect, in both directions.
const FIRST_BYTES: usize = 256 << 10;
/// Bytes of a bulk block.
const BLOCK: usize = 128 << 10;
/// Bulk blocks in flight.
const UNDER_WAY: usize = 16;
/// Concurrent sessions.
const AT_ONCE: u32 = 64;
/// How long a tunnel stays open after its last byte, so that it can be inspected.
const LINGER: Duration = Duration::from_millis(300);

fn main() -> anyhow::Result<()> {
    let done = match serde_json::from_reader(io::stdin())? {
        Load::Serve { echo, sink } => return serve(echo, sink),
        Load::RoundTrips(tunnel) => round_trips(&tunnel)?,
        Load::Bulk(tunnel) => bulk(&tunnel)?,
        Load::Connections(tunnel) => one_by_one(&tunnel, |tunnel| open(tunnel).map(drop))?,
        Load::Short(tunnel) => one_by_one(&tunnel, |tunnel| echo(&mut open(tunnel)?))?,
        Load::Paced { proxies, authority, other, rate, count } => {
            paced(&proxies, &authority, other, rate, count)?
        }
    };
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

/// Opens a connection, and a tunnel through it where there is a proxy.
fn open(tunnel: &Tunnel) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(tunnel.to)?;
    stream.set_nodelay(true)?;
    if let Some(authority) = &tunnel.authority {
        // With one call, as clients do.
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

fn round_trips(tunnel: &Tunnel) -> io::Result<LoadResult> {
    let mut stream = open(tunnel)?;
    for _ in 0..FIRST_BYTES / ECHO.len() {
        echo(&mut stream)?;
    }
    warm();
    let done = for_as_long(tunnel, |until| repeat(until, || echo(&mut stream)))?;
    println!("{}", serde_json::to_string(&done)?);
    linger(&stream)?;
    Ok(done)
}

fn bulk(tunnel: &Tunnel) -> io::Result<LoadResult> {
    let mut stream = open(tunnel)?;
    let block = vec![b'x'; BLOCK];
    for _ in 0..FIRST_BYTES / block.len() {
        stream.write_all(&block)?;
    }
    warm();
    // Only delivered blocks count: the server returns a byte for each.
    let mut under_way = FIRST_BYTES / block.len();
    let mut bytes = [0; UNDER_WAY];
    let done = for_as_long(tunnel, |until| {
        let mut arrived = 0;
        loop {
            let is_over = Instant::now() >= until;
            if !is_over {
                stream.write_all(&block)?;
                under_way += 1;
            }
            // At the end of a turn, wait for all blocks: those in flight would take time from the next turn.
            while under_way >= UNDER_WAY || is_over && under_way > 0 {
                let count = stream.read(&mut bytes)?;
                if count == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                under_way -= count;
                arrived += count as u64 * block.len() as u64;
            }
            if is_over {
                return Ok(arrived);
            }
        }
    })?;
    stream.shutdown(Shutdown::Both)?;
    Ok(done)
}

fn one_by_one(tunnel: &Tunnel, work: impl Fn(&Tunnel) -> io::Result<()>) -> io::Result<LoadResult> {
    work(tunnel)?;
    warm();
    for_as_long(tunnel, |until| repeat(until, || work(tunnel)))
}

/// Repeats `work` until a moment. Returns how often.
fn repeat(until: Instant, mut work: impl FnMut() -> io::Result<()>) -> io::Result<u64> {
    let mut count = 0;
    while Instant::now() < until {
        work()?;
        count += 1;
    }
    Ok(count)
}

/// Works for the whole time or in turns. `work` runs until the moment it is given and returns its count.
fn for_as_long(tunnel: &Tunnel, mut work: impl FnMut(Instant) -> io::Result<u64>) -> io::Result<LoadResult> {
    let (start, length) = (Instant::now(), Duration::from_secs_f64(tunnel.seconds));
    let Some(Turns { ms, odd }) = tunnel.turns else {
        let count = work(start + length)?;
        return Ok(LoadResult {
            count,
            seconds: start.elapsed().as_secs_f64(),
            failed: 0,
            turns: Vec::new(),
        });
    };
    let (mut turns, mut all, mut worked) = (Vec::new(), 0, Duration::ZERO);
    let turn = Duration::from_millis(ms);
    while start.elapsed() < length {
        let since_boot = Duration::try_from(clock_gettime(ClockId::Monotonic)).map_err(io::Error::other)?;
        let next = u64::try_from(since_boot.as_millis() / u128::from(ms)).map_err(io::Error::other)? + 1;
        let number = next + u64::from((next % 2 == 1) != odd);
        pause(Duration::from_millis(number * ms).saturating_sub(since_boot));
        let begin = Instant::now();
        let count = work(begin + turn)?;
        let took = begin.elapsed();
        turns.push(Turn { number, rate: rate(count, took.as_secs_f64()) });
        all += count;
        worked += took;
    }
    Ok(LoadResult { count: all, seconds: worked.as_secs_f64(), failed: 0, turns })
}

fn paced(
    proxies: &[SocketAddr],
    authority: &str,
    other: Option<SocketAddr>,
    rate: u32,
    count: u32,
) -> io::Result<LoadResult> {
    let (next, made, failed) = (AtomicU32::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let server = other.map(|to| Tunnel { to, authority: None, seconds: 0.0, turns: None });
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
            let session = Tunnel { to, authority: Some(authority.to_owned()), seconds: 0.0, turns: None };
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
    Ok(LoadResult { count: made.into_inner(), seconds, failed: failed.into_inner(), turns: Vec::new() })
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
        // The peer may close at any time.
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
