//! One value of a filter: what it is compared with, how it is written, and whether it is negated.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::verdict::Verdict;

/// A value, and whether it is to be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition<T> {
    value: T,
    negated: bool,
}

impl<T> Condition<T> {
    /// Nothing that is negated matches, and one of the others does, if there are any.
    pub(super) fn hold(conditions: &[Self], matches: impl Fn(&T) -> bool) -> bool {
        let (mut asked, mut met) = (false, false);
        for Self { value, negated } in conditions {
            match (negated, matches(value)) {
                (true, true) => return false,
                (true, false) => {}
                (false, matched) => {
                    asked = true;
                    met |= matched;
                }
            }
        }
        met || !asked
    }

    fn read(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let (negated, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self { value: value(text)?, negated })
    }
}

impl<T: fmt::Display> fmt::Display for Condition<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negated { "!" } else { "" }, self.value)
    }
}

impl FromStr for Condition<String> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |name| Ok(name.to_owned()))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Condition<Verdict> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |name| {
            Verdict::ALL.into_iter().find(|verdict| verdict.name() == name).ok_or_else(|| {
                let all = Verdict::ALL.map(Verdict::name).join(", ");
                format!("there is no verdict of that name; there are {all}")
            })
        })
    }
}

/// The beginning of a pod's name, and its namespace where that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName {
    namespace: Option<String>,
    beginning: String,
}

impl PodName {
    pub(super) fn matches(&self, namespace: Option<&str>, pod: Option<&str>) -> bool {
        let in_namespace = self.namespace.is_none() || self.namespace.as_deref() == namespace;
        in_namespace && pod.is_some_and(|pod| pod.starts_with(&self.beginning))
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.beginning),
            None => f.write_str(&self.beginning),
        }
    }
}

impl FromStr for Condition<PodName> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |text| match text.split_once('/') {
            Some((namespace, beginning)) if !namespace.is_empty() && !beginning.contains('/') => {
                Ok(PodName { namespace: Some(namespace.to_owned()), beginning: beginning.to_owned() })
            }
            Some(_) => Err("want POD or NAMESPACE/POD".to_owned()),
            None => Ok(PodName { namespace: None, beginning: text.to_owned() }),
        })
    }
}

/// An address, and a port where one was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct To {
    ip: IpAddr,
    port: Option<u16>,
}

impl To {
    pub(super) fn matches(self, proxy: SocketAddr) -> bool {
        self.ip == proxy.ip().to_canonical() && self.port.is_none_or(|port| port == proxy.port())
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for Condition<To> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |text| {
            let address = text.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port())));
            let (ip, port) =
                address.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, None))).map_err(|_| {
                    "want an address as the app dials it: 10.0.0.1, 10.0.0.1:3128 or [fd00::1]:3128; names are not \
                     looked up"
                        .to_owned()
                })?;
            Ok(To { ip: ip.to_canonical(), port })
        })
    }
}

/// A host, and a port where one was given; `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority(String);

impl Authority {
    pub(super) fn matches(&self, authority: &str) -> bool {
        let authority = authority.to_ascii_lowercase();
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
        is_like(&self.0, &authority) || is_like(&self.0, host)
    }
}

/// Whether `text` is what `pattern` describes.
fn is_like(pattern: &str, text: &str) -> bool {
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

impl FromStr for Condition<Authority> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |text| Ok(Authority(text.to_ascii_lowercase())))
    }
}

/// A status, or a hundred of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Exactly(u16),
    Hundred(u16),
}

impl Status {
    pub(super) fn matches(self, status: u16) -> bool {
        match self {
            Self::Exactly(wanted) => status == wanted,
            Self::Hundred(hundred) => status / 100 == hundred,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(status) => status.fmt(f),
            Self::Hundred(hundred) => write!(f, "{hundred}+"),
        }
    }
}

impl FromStr for Condition<Status> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "want a status such as 404, or a hundred of them such as 4+".to_owned();
        Self::read(text, |text| {
            let (number, is_hundred) = match text.strip_suffix('+') {
                Some(hundred) => (hundred, true),
                None => (text, false),
            };
            match (number.parse().map_err(|_| wrong())?, is_hundred) {
                (hundred @ 1..=9, true) => Ok(Status::Hundred(hundred)),
                (status @ 100..=999, false) => Ok(Status::Exactly(status)),
                _ => Err(wrong()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, like) in [
            ("en.wikipedia.org", "en.wikipedia.org", true),
            ("en.wikipedia.org", "en.wikipedia.org.evil", false),
            ("*.wikipedia.org", "en.wikipedia.org", true),
            ("*.wikipedia.org", "wikipedia.org", false),
            ("*wiki*", "en.wikipedia.org", true),
            ("en*org", "en.wikipedia.org", true),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(is_like(pattern, text), like, "{pattern} {text}");
        }
    }

    #[test]
    fn values_are_written_as_they_were_read() {
        fn same<T: fmt::Display>(texts: &[&str])
        where
            Condition<T>: FromStr<Err = String>,
        {
            for text in texts {
                let read: Result<Condition<T>, String> = text.parse();
                assert_eq!(read.map(|read| read.to_string()), Ok((*text).to_owned()));
            }
        }
        same::<PodName>(&["cart", "shop/cart-7d9", "!shop/", "shop/"]);
        same::<To>(&["10.0.0.1", "!10.0.0.1:3128", "[fd00:1::1]:3128", "fd00:1::1"]);
        same::<Authority>(&["*.example.com", "!example.com:443"]);
        same::<Status>(&["404", "!4+"]);
        assert_eq!(
            "::ffff:10.0.0.1".parse::<Condition<To>>().map(|to| to.to_string()),
            Ok("10.0.0.1".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_a_sentence() {
        assert!("404+".parse::<Condition<Status>>().is_err() && "40".parse::<Condition<Status>>().is_err());
        assert!("".parse::<Condition<Status>>().is_err() && "!".parse::<Condition<PodName>>().is_err());
        assert!("proxy:3128".parse::<Condition<To>>().unwrap_err().contains("10.0.0.1:3128"));
        assert!(
            "a/b/c".parse::<Condition<PodName>>().is_err() && "/b".parse::<Condition<PodName>>().is_err()
        );
        let unknown = "handled".parse::<Condition<Verdict>>().unwrap_err();
        assert!(unknown.contains("handled_as_http, tunneled, "), "{unknown}");
    }
}
