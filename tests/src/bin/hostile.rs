//! A hostile app of a pod: it tries to take the agent's memory, its time, or its place in the ring. It owns both ends of its
//! connections. It says `attacking` once they are open, and goes on until it is killed.

use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Requests that a connection sends without waiting for an answer.
const PIPELINED: usize = 2_944;
/// Threads that open connections as fast as they can.
const THREADS: usize = 4;
/// After so many connections, the number of all is printed.
const EACH: u64 = 1_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [_, attack, address, count] = arguments[..] else { bail!("hostile ATTACK ADDRESS CONNECTIONS") };
    let (address, count): (SocketAddr, usize) = (address.parse()?, count.parse()?);
    // A descriptor for each connection.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    match attack {
        "pipeline" => pipeline(open(&listener, count)?),
        "endless" => endless(open(&listener, count)?),
        "flood" => {
            // Each is closed as soon as it is accepted.
            thread::spawn(move || listener.incoming().for_each(drop));
            flood(address)
        }
        _ => bail!("no such attack: {attack}"),
    }
}

/// Connections, each with its two ends: the app's and the proxy's.
fn open(listener: &TcpListener, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let address = listener.local_addr()?;
    let one = |nth| {
        let app = TcpStream::connect(address).with_context(|| format!("connection {nth} to {address}"))?;
        Ok((app, listener.accept()?.0))
    };
    (0..count).map(one).collect()
}

/// Many requests on each connection, none of which is ever answered.
fn pipeline(mut open: Vec<(TcpStream, TcpStream)>) -> Result<()> {
    let mut requests = Vec::new();
    for nth in 0..PIPELINED {
        write!(requests, "CONNECT pending-{nth}.example:1 HTTP/1.1\r\n\r\n")?;
    }
    for (app, _) in &mut open {
        app.write_all(&requests)?;
    }
    println!("attacking");
    loop {
        thread::park();
    }
}

/// First lines without an end.
fn endless(mut open: Vec<(TcpStream, TcpStream)>) -> Result<()> {
    println!("attacking");
    let mut buffer = [0; 8];
    loop {
        for (app, proxy) in &mut open {
            app.write_all(b"GET http")?;
            proxy.read_exact(&mut buffer)?;
        }
    }
}

/// Connections with a request on each, as many as can be.
fn flood(address: SocketAddr) -> Result<()> {
    let done = AtomicU64::new(0);
    let open_one = || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.write_all(b"CONNECT flood.example:443 HTTP/1.1\r\nHost: flood.example:443\r\n\r\n")?;
        let before = done.fetch_add(1, Ordering::Relaxed);
        if before % EACH == EACH - 1 {
            println!("{}", before + 1);
        }
        Ok(())
    };
    open_one()?;
    println!("attacking");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    // A port may still be in use; another one is not.
                    let _ = open_one();
                }
            });
        }
    });
    Ok(())
}
