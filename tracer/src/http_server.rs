//! What the HTTP servers of this program share: the bound port, the accept loop, and the bounds of connections and peers.

mod connection_limit;
mod peer_rates;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use nix::sys::socket::Backlog;

pub use connection_limit::ConnectionLimit;
pub use peer_rates::PeerRates;

/// How long a client may take to send a request's head.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a failed accept. The usual cause is a lack of file descriptors, which ending connections give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens at `address`. Where the kernel has no IPv6 (`ipv6.disable=1`), "all addresses" means all of IPv4.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind(address) {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) =>
        {
            TcpListener::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        bound => bound,
    }?;
    // The usual 128 overflow in a flood, and a client whose first packet is dropped tries again only after a second.
    nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// How many connections may wait to be accepted: the kernel's usual maximum (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Accepts connections and hands each to `serve`, which must not wait. `what` names the connections in the log.
pub async fn accept_loop<S>(
    what: &str,
    accept: impl AsyncFn() -> io::Result<S>,
    mut serve: impl FnMut(S),
) -> Infallible {
    loop {
        match accept().await {
            Ok(stream) => {
                serve(stream);
                // In a flood a connection is always ready. Without this, connections would be accepted faster than they are
                // served, and a request would wait for more and more of them.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                log::warn!("cannot accept a connection of {what}: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An HTTP/1 connection that buffers at most `buffer` bytes in each direction and waits [`HEADER_TIMEOUT`] for a head.
pub fn connection(buffer: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(buffer);
    builder
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn accept_loop_goes_on_after_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let accepted = Cell::new(0);
        let attempts = Cell::new(0);
        // One error, three connections, and then no more.
        let accept = async || {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                1 => Err(io::Error::other("no descriptor")),
                2..=4 => Ok(()),
                _ => std::future::pending().await,
            }
        };
        runtime.block_on(async {
            let accepting = accept_loop("a test", accept, |()| accepted.set(accepted.get() + 1));
            tokio::select! {
                _ = accepting => {}
                () = async { while accepted.get() < 3 { tokio::task::yield_now().await } } => {}
            }
        });
        assert_eq!(accepted.get(), 3);
    }
}
