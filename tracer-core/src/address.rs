//! Addresses as text, the same as `Display` has it. Each report names some, and `Display`, which could pad them, takes
//! several times as long for an IPv4 address.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use compact_str::{CompactString, ToCompactString as _};

/// `10.0.0.1:3128`, `[2001:db8::1]:3128`.
pub fn shown(address: SocketAddr) -> CompactString {
    if address.is_ipv6() {
        return address.to_compact_string();
    }
    let mut text = String::with_capacity("255.255.255.255:65535".len());
    push_ip(&mut text, address.ip());
    text.push(':');
    push_number(&mut text, address.port());
    text.into()
}

/// Adds an address without a port.
fn push_ip(text: &mut String, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let [first, rest @ ..] = ip.octets();
            push_number(text, first.into());
            for octet in rest {
                text.push('.');
                push_number(text, octet.into());
            }
        }
        // A string takes all that is written into it.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}

/// Adds a number, such as a port.
pub fn push_number(text: &mut String, number: u16) {
    text.push_str(itoa::Buffer::new().format(number));
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
