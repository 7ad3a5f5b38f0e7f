//! The parts of a report as people read them: cut to a length that leaves a line readable, and without anything that a
//! terminal would act on.

use std::{borrow::Cow, net::SocketAddr};

use jiff::{Timestamp, tz::TimeZone};

use super::{Colors, Gap, Kind, Replier, Report};
use crate::verdict::{Reason, Verdict};

/// The most letters of a name; a host name with its port seldom has more.
const MOST: usize = 96;
const ELLIPSIS: char = '…';

/// `name`, with an ellipsis for the middle of what is too long.
pub(super) fn shortened(name: &str) -> Cow<'_, str> {
    cut(name, MOST)
}

/// The same for any length. Less of the end is left than of the beginning: a third of it, where the port is, and the
/// domain that was registered.
pub fn cut(name: &str, most: usize) -> Cow<'_, str> {
    let length = name.chars().count();
    if length <= most {
        return Cow::Borrowed(name);
    }
    let end = most.saturating_sub(1) / 3;
    let begin = name.chars().take(most.saturating_sub(end + 1));
    begin.chain([ELLIPSIS]).chain(name.chars().skip(length - end)).collect()
}

/// `text` with everything but plain ASCII, and our own ellipsis, as `\u{…}`: whatever was read from the wire was
/// escaped then, but a report may also come from a file.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, ' '..='~' | ELLIPSIS) {
            plain.push(letter);
        } else {
            plain.extend(letter.escape_unicode());
        }
    }
    plain
}

impl Report {
    /// Who asked: `namespace/pod`, or what is known instead.
    pub fn who(&self) -> String {
        let source = &self.source;
        plain(&shortened(&match (&source.namespace, &source.pod, &source.comm, source.pid) {
            (Some(namespace), Some(pod), ..) => format!("{namespace}/{pod}"),
            (_, _, Some(comm), Some(pid)) if source.kind == Some(Kind::Host) => format!("host/{comm}[{pid}]"),
            (_, _, Some(comm), Some(pid)) => format!("{comm}[{pid}]"),
            _ => SocketAddr::new(source.ip, source.port).to_string(),
        }))
    }

    /// The workload with its namespace; where there is none, who asked, without what differs from one run to the next.
    pub fn workload(&self) -> String {
        let source = &self.source;
        let of = |name: &str| match &source.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        let name = source.workload.as_deref().or(source.pod.as_deref()).map(of);
        let name = name.or_else(|| source.comm.as_deref().map(str::to_owned));
        plain(&shortened(&name.unwrap_or_else(|| source.ip.to_string())))
    }

    /// What the verdict rests on, one sentence each.
    pub fn shown_evidence(&self) -> impl Iterator<Item = String> {
        self.evidence.iter().map(|evidence| plain(&cut(evidence, 400)))
    }

    /// What was asked for: `host:port`, or `http://host`.
    pub fn asked_for(&self) -> String {
        let authority = plain(&shortened(&self.connect.authority));
        if self.is_absolute() { format!("http://{authority}") } else { authority }
    }

    /// The request in a few words.
    pub fn asked(&self) -> String {
        if self.is_absolute() { self.asked_for() } else { format!("CONNECT {}", self.asked_for()) }
    }

    fn is_absolute(&self) -> bool {
        self.verdict == Verdict::AbsoluteFormRewritten
    }

    /// The proxy as the app dialled it.
    pub fn proxy_address(&self) -> SocketAddr {
        self.proxy.into()
    }

    /// Verdict and reason.
    pub fn judged(&self) -> String {
        match self.reason.map(Reason::name) {
            Some(reason) => format!("{} {reason}", self.verdict.name()),
            None => self.verdict.name().to_owned(),
        }
    }

    /// Who answered what after how long; nothing where nobody did.
    pub(super) fn answered(&self) -> Option<String> {
        let reply = self.reply.as_ref()?;
        let from = match reply.from {
            Replier::Sidecar => " from sidecar",
            Replier::Proxy => " from proxy",
            Replier::Unknown => "",
        };
        Some(format!("{}{from} after {}", self.status(), duration(reply.after_us)))
    }

    /// The status, or that it was none.
    pub(super) fn status(&self) -> String {
        let status = self.reply.as_ref().and_then(|reply| reply.status);
        status.map_or_else(|| "a reply".to_owned(), |status| status.to_string())
    }

    /// The time of day in `zone`, to the millisecond.
    pub fn time_of_day(&self, zone: &TimeZone) -> String {
        time_of_day(&self.time, zone)
    }
}

/// The time of day in `zone` of an RFC 3339 time, to the millisecond.
pub(super) fn time_of_day(rfc3339: &str, zone: &TimeZone) -> String {
    rfc3339.parse::<Timestamp>().map_or_else(
        |_| plain(&shortened(rfc3339)),
        |time| time.to_zoned(zone.clone()).strftime("%H:%M:%S.%3f").to_string(),
    )
}

/// A gap as a line among those of reports.
pub(super) fn gap_line(gap: &Gap, colors: Colors, zone: &TimeZone) -> String {
    let (faint, style) = (colors.faint(), colors.warning());
    let time = time_of_day(&gap.time, zone);
    format!("{faint}{time}{faint:#}  {style}! {}{style:#}\n", gap.sentence())
}

/// Microseconds in a unit that fits: `0.4 ms`, `3.1 ms`, `1.25 s`.
#[expect(clippy::cast_precision_loss, reason = "for display, with one or two decimals")]
pub(super) fn duration(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        _ => format!("{:.2} s", us as f64 / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_name_is_left_out() {
        assert_eq!(shortened("en.wikipedia.org:443"), "en.wikipedia.org:443");
        let long = format!("begin{}.example.com:443", "x".repeat(4096));
        let short = shortened(&long);
        assert_eq!(short.chars().count(), MOST);
        assert!(short.starts_with("beginx") && short.contains("x…x") && short.ends_with("x.example.com:443"));
        assert_eq!(cut("abcdefghij", 4), "ab…j");
        assert_eq!((&*cut("abc", 1), &*cut("abc", 3)), ("…", "abc"));
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        assert_eq!(plain("a\\x1b b…"), "a\\x1b b…");
        assert_eq!(plain("\u{1b}]52;c;\u{7}\n\u{202e}é"), r"\u{1b}]52;c;\u{7}\u{a}\u{202e}\u{e9}");
    }
}
