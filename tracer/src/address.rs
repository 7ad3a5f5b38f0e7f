//! Addresses as text, the same as `Display` has it. Each report names some, and `Display`, which could pad them, takes
//! several times as long for an IPv4 address.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use compact_str::{CompactString, ToCompactString as _};

/// `10.0.0.1:3128`, `[2001:db8::1]:3128`.
pub fn shown(address: SocketAddr) -> CompactString {
    let IpAddr::V4(ip) = address.ip() else { return address.to_compact_string() };
    let mut text = Short::default();
    text.push_ip(ip);
    text.push(b':');
    text.push_number(address.port());
    text.as_str().into()
}

/// Adds an address without a port.
pub fn push_ip(text: &mut String, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let mut short = Short::default();
            short.push_ip(ip);
            text.push_str(short.as_str());
        }
        // A string takes all that is written into it.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}

/// Adds a number, such as a port.
pub fn push_number(text: &mut String, number: u16) {
    let mut short = Short::default();
    short.push_number(number);
    text.push_str(short.as_str());
}

/// A few letters.
#[derive(Default)]
struct Short {
    text: [u8; Self::ROOM],
    length: usize,
}

impl Short {
    const ROOM: usize = "255.255.255.255:65535".len();

    fn push_ip(&mut self, ip: Ipv4Addr) {
        let [first, rest @ ..] = ip.octets();
        self.push_number(first.into());
        for octet in rest {
            self.push(b'.');
            self.push_number(octet.into());
        }
    }

    fn push_number(&mut self, number: u16) {
        for scale in [10_000, 1_000, 100, 10, 1] {
            if number >= scale || scale == 1 {
                self.push(b'0' + (number / scale % 10) as u8);
            }
        }
    }

    /// What there is no room for is left out; nothing above comes to that.
    fn push(&mut self, letter: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = letter;
            self.length += 1;
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_display_says(address: SocketAddr) {
            prop_assert_eq!(shown(address), CompactString::from(address.to_string()));
            let mut text = String::new();
            push_ip(&mut text, address.ip());
            text.push(':');
            push_number(&mut text, address.port());
            prop_assert_eq!(text, format!("{}:{}", address.ip(), address.port()));
        }
    }
}
