//! One connection on which a CONNECT is sent by a given system call. The program prints its process id when it has the
//! whole answer.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use anyhow::{Context, Result, bail, ensure};

/// Every way to send a first payload. Names that end in 6 dial an IPv6 address.
pub(crate) const CALLS: &[&str] = &[
    "write",
    "writev",
    "send",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "io_uring",
    "fastopen",
    "bytes",
    "mapped",
    "write6",
    "writev6",
    "send6",
    "sendto6",
    "sendmsg6",
    "sendmmsg6",
    "io_uring6",
    "bytes6",
];

/// The authority of a call's CONNECT, which tells the reports apart.
pub(crate) fn authority(call: &str) -> String {
    format!("{}.example:443", call.replace('_', "-"))
}

/// The request head.
pub(crate) fn request(call: &str) -> String {
    let authority = authority(call);
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: guest\r\n\r\n")
}

/// Connects, waits until the pipe is opened for writing, sends, and waits for the answer's head.
pub(crate) fn send_late(address: &str, pipe: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    println!("connected");
    std::fs::File::open(pipe).with_context(|| format!("cannot wait for {pipe}"))?;
    send_and_wait(&mut stream, "late")
}

/// Sends the request of a call, and waits for the end of the answer's head.
pub(crate) fn send_and_wait(stream: &mut TcpStream, call: &str) -> Result<()> {
    stream.write_all(request(call).as_bytes())?;
    read_answer(stream)
}

/// Connects, sends with the given call, and waits for the answer's head.
pub(crate) fn run(call: &str, address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let request = request(call);
    let bytes = request.as_bytes();
    let call = call.trim_end_matches('6');
    let mut stream = if call == "fastopen" { fastopen(address, bytes)? } else { connect(call, address)? };
    match call {
        "write" | "mapped" => stream.write_all(bytes)?,
        "bytes" => {
            stream.set_nodelay(true)?;
            bytes.iter().try_for_each(|byte| stream.write_all(&[*byte]))?;
        }
        "fastopen" => {}
        "io_uring" => io_uring(&stream, bytes)?,
        _ => {
            let sent = raw(call, stream.as_raw_fd(), bytes)?;
            ensure!(sent == bytes.len(), "{call} sent {sent} of {} bytes", bytes.len());
        }
    }
    read_answer(&mut stream)?;
    println!("{}", std::process::id());
    Ok(())
}

fn read_answer(stream: &mut TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer)? {
            0 => bail!("closed after {} bytes", answer.len()),
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(())
}

fn connect(call: &str, address: SocketAddr) -> Result<TcpStream> {
    // An IPv6 socket that dials an IPv4 address, as dual-stack programs do.
    let address = match (call, address) {
        ("mapped", SocketAddr::V4(v4)) => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        _ => address,
    };
    TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))
}

/// The calls of the C library, by name.
fn raw(call: &str, fd: i32, bytes: &[u8]) -> io::Result<usize> {
    // Pieces of five bytes, so that the request line is in several.
    let mut pieces: Vec<libc::iovec> = bytes
        .chunks(5)
        .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
        .collect();
    // SAFETY: all zeros is a valid `msghdr`: no name, no control data, no pieces.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (pieces.as_mut_ptr(), pieces.len());
    let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open, and all pointers are to memory of the given length that outlives the call.
    let sent = unsafe {
        match call {
            "writev" => libc::writev(fd, pieces.as_ptr(), count),
            "send" => libc::send(fd, bytes.as_ptr().cast(), bytes.len(), 0),
            "sendto" => libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, ptr::null(), 0),
            "sendmsg" => libc::sendmsg(fd, &raw const message, 0),
            "sendmmsg" => {
                let mut messages = [libc::mmsghdr { msg_hdr: message, msg_len: 0 }];
                if libc::sendmmsg(fd, messages.as_mut_ptr(), 1, 0) == 1 {
                    isize::try_from(messages[0].msg_len).unwrap_or(-1)
                } else {
                    -1
                }
            }
            _ => return Err(io::Error::other(format!("no call {call}"))),
        }
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Dials with the first bytes (TCP Fast Open).
fn fastopen(address: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
    let SocketAddr::V4(v4) = address else { bail!("only IPv4") };
    let name = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET)?,
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the new descriptor has no other owner; the name and the bytes outlive the call.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        ensure!(fd >= 0, "no socket: {}", io::Error::last_os_error());
        let stream = TcpStream::from(OwnedFd::from_raw_fd(fd));
        let (at, len) = ((&raw const name).cast(), libc::socklen_t::try_from(size_of_val(&name))?);
        let sent = libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_FASTOPEN, at, len);
        ensure!(sent == bytes.len().cast_signed(), "MSG_FASTOPEN: {sent}, {}", io::Error::last_os_error());
        Ok(stream)
    }
}

fn io_uring(stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    let mut ring = io_uring::IoUring::new(2).context("this kernel has no io_uring for us")?;
    let len = u32::try_from(bytes.len())?;
    let send = io_uring::opcode::Send::new(io_uring::types::Fd(stream.as_raw_fd()), bytes.as_ptr(), len);
    // SAFETY: the bytes and the descriptor outlive the operation, which is waited for.
    unsafe { ring.submission().push(&send.build())? };
    ring.submit_and_wait(1)?;
    let sent = ring.completion().next().context("nothing completed")?.result();
    ensure!(sent == i32::try_from(bytes.len())?, "io_uring sent {sent}");
    Ok(())
}

/// Stands in for the sidecar: answers each head like its HTTP listener. Envoy's inspector gives up on some requests in
/// pieces, so its answer is not the same each time; and it listens on IPv6 only if configured to.
pub(crate) fn answer(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening");
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n")?;
    }
}
