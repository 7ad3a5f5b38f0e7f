//! The parts of a report as text: cut to a readable length and safe for a terminal.

use std::{borrow::Cow, net::SocketAddr};

use jiff::{Timestamp, tz::TimeZone};

use super::{Report, SourceKind};
use crate::{
    escape::escape_to_ascii,
    head::Form,
    verdict::{Reason, Verdict},
};

/// The most characters of a name. Few host names with a port are longer.
const MAX_NAME: usize = 96;
const ELLIPSIS: char = '…';

/// `name` cut to [`MAX_NAME`] characters.
pub(super) fn shortened(name: &str) -> Cow<'_, str> {
    ellipsize(name, MAX_NAME)
}

/// `name` cut to `max` characters by an ellipsis in its middle. A third of what is left is the name's end, where a host has
/// its registered domain and its port.
pub fn ellipsize(name: &str, max: usize) -> Cow<'_, str> {
    let length = name.chars().count();
    if length <= max {
        return Cow::Borrowed(name);
    }
    let end = max.saturating_sub(1) / 3;
    let begin = name.chars().take(max.saturating_sub(end + 1));
    begin.chain([ELLIPSIS]).chain(name.chars().skip(length - end)).collect()
}

/// A text that was read from a report, safe for a terminal. The engine escapes what it reads from the wire, but a report
/// may also come from a file.
fn plain(text: &str) -> String {
    escape_to_ascii(text).into_owned()
}

impl Report {
    /// The app: `namespace/pod`, else its process, else its address.
    pub fn source_name(&self) -> String {
        let source = &self.source;
        plain(&shortened(&match (&source.namespace, &source.pod, &source.comm, source.pid) {
            (Some(namespace), Some(pod), ..) => format!("{namespace}/{pod}"),
            (_, _, Some(comm), Some(pid)) if source.kind == Some(SourceKind::Host) => {
                format!("host/{comm}[{pid}]")
            }
            (_, _, Some(comm), Some(pid)) => format!("{comm}[{pid}]"),
            _ => SocketAddr::new(source.ip, source.port).to_string(),
        }))
    }

    /// The workload with its namespace, else the pod, the process name or the address.
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

    /// The evidence for the verdict, one sentence each.
    pub fn evidence_lines(&self) -> impl Iterator<Item = String> {
        self.evidence.iter().map(|evidence| plain(&ellipsize(evidence, 400)))
    }

    /// The requested target: `host:port`, or `http://host`.
    pub fn target(&self) -> String {
        let authority = plain(&shortened(&self.connect.authority));
        if self.is_absolute() { format!("http://{authority}") } else { authority }
    }

    /// The request: `CONNECT host:port`, or `http://host`. An app that was not connected sent none.
    pub fn request_text(&self) -> String {
        if self.connect.authority.is_empty() {
            return "no request sent".to_owned();
        }
        if self.is_absolute() { self.target() } else { format!("CONNECT {}", self.target()) }
    }

    /// What the app asked its proxy for: `host:port`, or `http://host`. An app that was not connected asked for nothing.
    pub fn asked_for(&self) -> String {
        if self.connect.authority.is_empty() { "nothing sent".to_owned() } else { self.target() }
    }

    /// What caused a flagged verdict, as far as it is known: the object, the listener, or the reason.
    pub fn cause(&self) -> String {
        let listener = self.listener.as_ref().map(|listener| match &listener.because {
            Some(because) => because.clone(),
            None => format!("listener {}", listener.name),
        });
        let reason = || self.reason.map(Reason::name).unwrap_or_default().to_owned();
        plain(&shortened(&listener.unwrap_or_else(reason)))
    }

    /// The node, where it is named.
    pub fn node_name(&self) -> String {
        plain(&shortened(self.node.as_deref().unwrap_or_default()))
    }

    fn is_absolute(&self) -> bool {
        self.connect.form == Form::Absolute || self.verdict == Verdict::AbsoluteFormRewritten // reports made before 0.1.0
    }

    /// The proxy's address as the app dialed it.
    pub fn proxy_address(&self) -> SocketAddr {
        self.proxy.into()
    }

    /// The verdict and its reason.
    pub fn verdict_text(&self) -> String {
        match self.reason.map(Reason::name) {
            Some(reason) => format!("{} {reason}", self.verdict.name()),
            None => self.verdict.name().to_owned(),
        }
    }

    /// The answer's status, or `a reply`.
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

/// Microseconds in a unit that fits: `0.4 ms`, `3.1 ms`, `1.25 s`.
#[expect(clippy::cast_precision_loss, reason = "for display, with one or two decimals")]
pub fn duration(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        _ => format!("{:.2} s", us as f64 / 1_000_000.0),
    }
}

/// Seconds as kubectl shows an age, in at most four characters: `3s`, `12m`, `5h`, `2d`. A time in the future is `0s`.
pub fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..100 => format!("{seconds}s"),
        seconds @ 100..6_000 => format!("{}m", seconds / 60),
        seconds @ 6_000..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", (seconds / 86_400).min(999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_in_the_middle() {
        assert_eq!(shortened("en.wikipedia.org:443"), "en.wikipedia.org:443");
        let long = format!("begin{}.example.com:443", "x".repeat(4096));
        let short = shortened(&long);
        assert_eq!(short.chars().count(), MAX_NAME);
        assert!(short.starts_with("beginx") && short.contains("x…x") && short.ends_with("x.example.com:443"));
        assert_eq!(ellipsize("abcdefghij", 4), "ab…j");
        assert_eq!((&*ellipsize("abc", 1), &*ellipsize("abc", 3)), ("…", "abc"));
    }
}
