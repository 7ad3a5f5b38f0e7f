//! A proxy as `--to` or an environment variable names it: an address or a name, with a port or without, alone or as a URL.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A proxy's port where none is said: squid's.
const USUAL_PORT: u16 = 3128;

/// Limit for the resolution of a name.
const RESOLVE_TIME: Duration = Duration::from_secs(2);

/// A forward proxy, as a person or an app names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyTarget {
    /// An address, or a name to resolve.
    pub host: ProxyHost,
    /// Its port.
    pub port: u16,
    /// The port was not said, so it is assumed.
    pub is_port_assumed: bool,
    /// How the app speaks to it.
    pub scheme: ProxyScheme,
}

/// An address or a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyHost {
    /// An address.
    Ip(IpAddr),
    /// A host name.
    Name(String),
}

/// How an app speaks to its proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyScheme {
    /// In plaintext.
    Http,
    /// Within TLS, so that no sidecar sees the CONNECT.
    Https,
    /// SOCKS: no HTTP at all.
    Socks,
}

impl FromStr for ProxyTarget {
    type Err = String;

    /// Parses `HOST`, `HOST:PORT`, `[IPV6]:PORT`, or a URL with them. Credentials and a path are left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "want an address or a name, with its port: 10.0.0.1:3128, [fd00::1]:3128 or proxy.corp:3128"
                .to_owned()
        };
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        };
        let (scheme, default_port) = match scheme.as_deref() {
            None => (ProxyScheme::Http, USUAL_PORT),
            Some("http") => (ProxyScheme::Http, 80),
            Some("https") => (ProxyScheme::Https, 443),
            Some(socks) if socks.starts_with("socks") => (ProxyScheme::Socks, 1080),
            Some(_) => return Err("want the scheme http, https or socks5, or none".to_owned()),
        };
        // The last `@` ends the credentials, however many there are.
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = if let Ok(ip) = rest.parse::<std::net::Ipv6Addr>() {
            (ip.to_string(), None)
        } else if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, port) = bracketed.split_once(']').ok_or_else(wrong)?;
            match port {
                "" => (host.to_owned(), None),
                port => (host.to_owned(), Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            }
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port)),
                None => (rest.to_owned(), None),
            }
        };
        let given = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong));
        let port = given.transpose()?;
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => ProxyHost::Ip(ip),
            Err(_) if is_name(&host) => ProxyHost::Name(host),
            Err(_) => return Err(wrong()),
        };
        Ok(Self { host, port: port.unwrap_or(default_port), is_port_assumed: port.is_none(), scheme })
    }
}

/// Whether the text can be a host name (RFC 1123, with the underscores that occur).
fn is_name(host: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    // Digits and dots alone are an address with a mistake.
    !host.is_empty()
        && host.len() <= 253
        && host.chars().all(is_plain)
        && host.chars().any(|c| c.is_ascii_alphabetic())
}

impl From<SocketAddr> for ProxyTarget {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: ProxyHost::Ip(address.ip()),
            port: address.port(),
            is_port_assumed: false,
            scheme: ProxyScheme::Http,
        }
    }
}

impl fmt::Display for ProxyTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ProxyHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(formatter),
            ProxyHost::Name(name) => write!(formatter, "{name}:{}", self.port),
        }
    }
}

impl ProxyTarget {
    /// The name, where it is one.
    pub fn name(&self) -> Option<String> {
        matches!(self.host, ProxyHost::Name(_)).then(|| self.to_string())
    }

    /// Its addresses, each once. Asks this machine's resolver for a name, for at most two seconds.
    pub fn resolve(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let name = match &self.host {
            ProxyHost::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, self.port)]),
            ProxyHost::Name(name) => name,
        };
        let (to, from) = channel();
        let question = (name.clone(), self.port);
        // The system's resolver has no timeout of its own that can be set. The thread ends with its answer.
        std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || to.send(question.to_socket_addrs().map(Iterator::collect::<Vec<_>>)))
            .context("cannot start a thread")?;
        let advice = "give its address, as the app's pod resolves it: kubectl exec POD -- getent hosts";
        let mut addresses = match from.recv_timeout(RESOLVE_TIME) {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => bail!("this machine cannot resolve {name} ({error}); {advice} {name}"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                bail!(
                    "this machine's resolver did not answer for {name} within {RESOLVE_TIME:?}; {advice} {name}"
                )
            }
        };
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            bail!("this machine resolves {name} to no address; {advice} {name}");
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_in_every_form_that_apps_use() {
        for (text, shown, assumed) in [
            ("10.0.0.1:3128", "10.0.0.1:3128", false),
            ("[fd00::1]:3128", "[fd00::1]:3128", false),
            ("fd00::1", "[fd00::1]:3128", true),
            ("10.0.0.1", "10.0.0.1:3128", true),
            ("proxy.corp:8080", "proxy.corp:8080", false),
            ("http://proxy.corp", "proxy.corp:80", true),
            ("http://user:p@ss@proxy.corp:3128/", "proxy.corp:3128", false),
            ("HTTP://10.0.0.1:3128", "10.0.0.1:3128", false),
        ] {
            let target: ProxyTarget = text.parse().expect(text);
            assert_eq!((target.to_string().as_str(), target.is_port_assumed), (shown, assumed), "{text}");
            assert_eq!(target.scheme, ProxyScheme::Http);
        }
        assert_eq!("https://p.corp".parse::<ProxyTarget>().map(|t| t.scheme), Ok(ProxyScheme::Https));
        assert_eq!("socks5h://p.corp".parse::<ProxyTarget>().map(|t| t.scheme), Ok(ProxyScheme::Socks));
    }

    #[test]
    fn text_that_names_no_proxy_is_refused_without_its_credentials() {
        for text in ["", "10.0.0.300:1", "a b", "proxy:0", "proxy:99999", "ftp://proxy", "[fd00::1", "1.2.3"]
        {
            let error = text.parse::<ProxyTarget>().expect_err(text);
            assert!(error.starts_with("want "), "{text}: {error}");
        }
    }

    #[test]
    fn name_that_does_not_exist_is_an_error_that_says_what_to_do() {
        let target: ProxyTarget = "no-such-host.invalid:3128".parse().expect("a target");
        let error = target.resolve().expect_err("it does not exist").to_string();
        assert!(error.contains("no-such-host.invalid") && error.contains("getent hosts"), "{error}");
        let local: ProxyTarget = "localhost:3128".parse().expect("a target");
        assert!(local.resolve().expect("addresses").iter().all(|address| address.ip().is_loopback()));
    }
}
