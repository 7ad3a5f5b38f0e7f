//! A connection, and the configuration that it meets.

use std::net::SocketAddr;

use super::overlay::View;

/// A connection, and the configuration that it meets.
#[derive(Clone, Copy)]
pub(crate) struct Dialed<'a> {
    pub(crate) view: View<'a>,
    /// The address that the app dialed; never an IPv4 address in IPv6 form.
    pub(crate) to: SocketAddr,
    /// Its first bytes.
    pub(crate) head: &'a [u8],
}

impl<'a> Dialed<'a> {
    pub(crate) fn new(view: View<'a>, to: SocketAddr, head: &'a [u8]) -> Self {
        Self { view, to: SocketAddr::new(to.ip().to_canonical(), to.port()), head }
    }
}
