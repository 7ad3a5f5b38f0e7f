//! The value types of filters: how each is written, and what it matches.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::{ValueError, condition::Matches};
use ipnet::IpNet;

use crate::{report::Report, verdict::Verdict};

impl From<Infallible> for ValueError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<strum::ParseError> for ValueError {
    /// The only values that strum parses here are verdicts.
    fn from(_: strum::ParseError) -> Self {
        Self::Verdict(String::new())
    }
}

impl Matches for Verdict {
    fn matches(&self, report: &Report) -> bool {
        *self == report.verdict
    }

    fn value_of(report: &Report) -> Option<String> {
        Some(report.verdict.name().to_owned())
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace(String);

impl Matches for Namespace {
    fn matches(&self, report: &Report) -> bool {
        report.source.namespace.as_ref() == Some(&self.0)
    }

    fn value_of(report: &Report) -> Option<String> {
        report.source.namespace.clone()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The beginning of a pod's name, and its namespace if one was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName {
    namespace: Option<String>,
    prefix: String,
}

impl Matches for PodName {
    fn matches(&self, report: &Report) -> bool {
        let (namespace, pod) = (&report.source.namespace, &report.source.pod);
        let in_namespace = self.namespace.is_none() || self.namespace == *namespace;
        in_namespace && pod.as_ref().is_some_and(|pod| pod.starts_with(&self.prefix))
    }

    fn value_of(report: &Report) -> Option<String> {
        Some(format!("{}/{}", report.source.namespace.as_ref()?, report.source.pod.as_ref()?))
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.prefix),
            None => f.write_str(&self.prefix),
        }
    }
}

impl FromStr for PodName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('/') {
            Some((namespace, prefix)) if !namespace.is_empty() && !prefix.contains('/') => {
                Ok(Self { namespace: Some(namespace.to_owned()), prefix: prefix.to_owned() })
            }
            Some(_) => Err(ValueError::Pod),
            None => Ok(Self { namespace: None, prefix: text.to_owned() }),
        }
    }
}

/// A workload's name, and its namespace if one was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    namespace: Option<String>,
    name: String,
}

impl Matches for Workload {
    fn matches(&self, report: &Report) -> bool {
        let in_namespace = self.namespace.is_none() || self.namespace == report.source.namespace;
        in_namespace && report.source.workload.as_ref() == Some(&self.name)
    }

    fn value_of(report: &Report) -> Option<String> {
        Some(format!("{}/{}", report.source.namespace.as_ref()?, report.source.workload.as_ref()?))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl FromStr for Workload {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if namespace == Some("") || name.is_empty() || name.contains('/') {
            return Err(ValueError::Workload);
        }
        Ok(Self { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

/// Where a proxy is: a network, which may be one address, and a port. One of the two may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct To {
    network: Option<IpNet>,
    port: Option<u16>,
}

impl Matches for To {
    fn matches(&self, report: &Report) -> bool {
        let proxy = SocketAddr::from(report.proxy);
        self.network.is_none_or(|network| network.contains(&proxy.ip().to_canonical()))
            && self.port.is_none_or(|port| port == proxy.port())
    }

    fn value_of(report: &Report) -> Option<String> {
        Some(SocketAddr::from(report.proxy).to_string())
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = self.network.map(|network| {
            let is_address = network.prefix_len() == network.max_prefix_len();
            if is_address { network.addr().to_string() } else { network.to_string() }
        });
        match (network, self.port) {
            (Some(network), Some(port)) if network.contains(':') => write!(f, "[{network}]:{port}"),
            (Some(network), Some(port)) => write!(f, "{network}:{port}"),
            (Some(network), None) => f.write_str(&network),
            (None, port) => write!(f, ":{}", port.unwrap_or_default()), // one of the two is there
        }
    }
}

impl FromStr for To {
    type Err = ValueError;

    /// Parses `IP`, `IP/BITS` and `:PORT`, and the first two with a port; then an IPv6 address has brackets.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let network = |text: &str| match text.parse::<IpAddr>() {
            Ok(ip) => Some(IpNet::from(ip.to_canonical())),
            Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc()),
        };
        if let Some(network) = network(text) {
            return Ok(Self { network: Some(network), port: None });
        }
        let (before, port) = text.rsplit_once(':').ok_or(ValueError::Address)?;
        let port = Some(port.parse().map_err(|_| ValueError::Address)?);
        let address = match before.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']').filter(|inner| inner.contains(':')),
            None => Some(before).filter(|before| !before.contains(':')),
        };
        match address.ok_or(ValueError::Address)? {
            "" => Ok(Self { network: None, port }),
            address => Ok(Self { network: Some(network(address).ok_or(ValueError::Address)?), port }),
        }
    }
}

/// A host, and its port if one was given. `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority(String);

impl Matches for Authority {
    fn matches(&self, report: &Report) -> bool {
        let authority = report.connect.authority.to_ascii_lowercase();
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
        matches_pattern(&self.0, &authority) || matches_pattern(&self.0, host)
    }

    fn value_of(report: &Report) -> Option<String> {
        Some(report.connect.authority.to_string())
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Authority {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// A status, or a hundred of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// `404`
    Exact(u16),
    /// `4+`: 400 to 499.
    Class(u16),
}

impl Matches for Status {
    fn matches(&self, report: &Report) -> bool {
        let status = report.reply.as_ref().and_then(|reply| reply.status);
        status.is_some_and(|status| match *self {
            Self::Exact(wanted) => status == wanted,
            Self::Class(class) => status / 100 == class,
        })
    }

    fn value_of(report: &Report) -> Option<String> {
        Some(report.reply.as_ref()?.status?.to_string())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(status) => status.fmt(f),
            Self::Class(class) => write!(f, "{class}+"),
        }
    }
}

impl FromStr for Status {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, is_class) = match text.strip_suffix('+') {
            Some(class) => (class, true),
            None => (text, false),
        };
        match (number.parse().map_err(|_| ValueError::Status)?, is_class) {
            (class @ 1..=9, true) => Ok(Self::Class(class)),
            (status @ 100..=999, false) => Ok(Self::Exact(status)),
            _ => Err(ValueError::Status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::condition::Condition, *};

    #[test]
    fn star_in_an_authority_stands_for_anything() {
        for (pattern, text, matches) in [
            ("en.wikipedia.org", "en.wikipedia.org", true),
            ("en.wikipedia.org", "en.wikipedia.org.evil", false),
            ("*.wikipedia.org", "en.wikipedia.org", true),
            ("*.wikipedia.org", "wikipedia.org", false),
            ("*wiki*", "en.wikipedia.org", true),
            ("en*org", "en.wikipedia.org", true),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn values_are_displayed_as_they_are_parsed() {
        fn check<T: fmt::Display + FromStr<Err: Into<ValueError>>>(texts: &[&str]) {
            for text in texts {
                let parsed: Result<Condition<T>, ValueError> = text.parse();
                assert_eq!(parsed.map(|value| value.to_string()), Ok((*text).to_owned()));
            }
        }
        check::<Namespace>(&["shop", "!shop"]);
        check::<Verdict>(&["tunneled", "!handled_as_http"]);
        check::<PodName>(&["cart", "shop/cart-7d9", "!shop/", "shop/"]);
        check::<Workload>(&["cart", "!shop/cart"]);
        check::<To>(&["10.0.0.1", "!10.0.0.1:3128", "[fd00:1::1]:3128", "fd00:1::1", ":3128", "!:3128"]);
        check::<To>(&["10.0.0.0/8", "10.0.0.0/8:3128", "fd00::/16", "[fd00::/16]:3128"]);
        assert_eq!("10.0.0.1/8".parse::<To>().map(|to| to.to_string()), Ok("10.0.0.0/8".to_owned()));
        check::<Authority>(&["*.example.com", "!example.com:443"]);
        check::<Status>(&["404", "!4+"]);
        assert_eq!(
            "::ffff:10.0.0.1".parse::<Condition<To>>().map(|to| to.to_string()),
            Ok("10.0.0.1".to_owned())
        );
    }

    #[test]
    fn malformed_values_are_refused_with_the_reason() {
        assert_eq!("404+".parse::<Condition<Status>>(), Err(ValueError::Status));
        assert_eq!("40".parse::<Condition<Status>>(), Err(ValueError::Status));
        assert_eq!("".parse::<Condition<Status>>(), Err(ValueError::Empty));
        assert_eq!("!".parse::<Condition<PodName>>(), Err(ValueError::Empty));
        for text in
            ["proxy:3128", "10.0.0.1:", "10.0.0.0/33", "fd00::1:99999", "[10.0.0.1]:1", ":", "", "[fd00::1]"]
        {
            assert_eq!(text.parse::<To>(), Err(ValueError::Address), "{text}");
        }
        assert_eq!("a/b/c".parse::<Workload>(), Err(ValueError::Workload));
        assert_eq!("shop/".parse::<Workload>(), Err(ValueError::Workload));
        assert_eq!("a/b/c".parse::<Condition<PodName>>(), Err(ValueError::Pod));
        assert_eq!("/b".parse::<Condition<PodName>>(), Err(ValueError::Pod));
        let unknown = "handled".parse::<Condition<Verdict>>().unwrap_err().to_string();
        assert!(unknown.contains("handled_as_http, tunneled, "), "{unknown}");
        let typo = "!tuneled".parse::<Condition<Verdict>>().unwrap_err().to_string();
        assert!(
            typo.starts_with("there is no verdict `tuneled`; did you mean `tunneled`? there are "),
            "{typo}"
        );
        let hostile = "\u{1b}[31m".parse::<Condition<Verdict>>().unwrap_err().to_string();
        assert!(!hostile.contains('\u{1b}') && !hostile.contains("did you mean"), "{hostile}");
    }
}
