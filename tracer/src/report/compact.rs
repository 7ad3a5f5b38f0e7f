//! A report as one line for people: time, who, what was asked of which proxy, what became of it, who answered after
//! how long. A second line explains flagged ones. Everything in it is printable ASCII, or the mark, or the ellipsis
//! in the middle of a name that is too long.

use std::fmt;

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};

use super::{
    Replier, Report,
    shown::{plain, shortened},
};
use crate::verdict::Verdict;

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    /// For a terminal.
    On,
    /// For a file or a pipe.
    Off,
}

/// Displays a report in compact form.
pub struct Compact<'a> {
    report: &'a Report,
    colors: Colors,
    zone: &'a TimeZone,
    explain: bool,
}

impl<'a> Compact<'a> {
    /// Times are shown in `zone`; with `explain`, flagged reports get a second line.
    pub fn new(report: &'a Report, colors: Colors, zone: &'a TimeZone, explain: bool) -> Self {
        Self { report, colors, zone, explain }
    }
}

const FLAGGED: Style = AnsiColor::Red.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const FAINT: Style = Style::new().dimmed();

impl fmt::Display for Compact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, colors, zone, explain } = *self;
        let paint = |style: Style| if colors == Colors::On { style } else { Style::new() };
        let style = paint(match report.verdict {
            Verdict::Tunneled | Verdict::Direct => GOOD,
            Verdict::RefusedByProxy | Verdict::Unreachable | Verdict::Unanswered => DOUBTFUL,
            Verdict::HandledAsHttp
            | Verdict::Blackholed
            | Verdict::WrappedInTls
            | Verdict::AbsoluteFormRewritten => FLAGGED,
        });
        let faint = paint(FAINT);
        let mark = if report.flagged { "✗" } else { " " };
        let who = plain(&who(report));
        let authority = plain(&shortened(&report.connect.authority));
        let asked = if report.verdict == Verdict::AbsoluteFormRewritten {
            format!("http://{authority}")
        } else {
            format!("CONNECT {authority}")
        };
        let proxy = std::net::SocketAddr::from(report.proxy);
        write!(f, "{faint}{}{faint:#}  {style}{mark}{style:#} {who}", time(&report.time, zone))?;
        write!(f, "  {asked} via {proxy}  {style}{}", report.verdict.name())?;
        if let Some(reason) = report.reason {
            write!(f, " {}", reason.name())?;
        }
        write!(f, "{style:#}")?;
        if let Some(reply) = &report.reply {
            let from = match reply.from {
                Replier::Sidecar => " from sidecar",
                Replier::Proxy => " from proxy",
                Replier::Unknown => "",
            };
            let status = reply.status.map_or_else(|| "a reply".to_owned(), |status| status.to_string());
            write!(f, "  {status}{from} after {}", duration(reply.after_us))?;
        }
        if report.joined_late {
            write!(f, "  {faint}(joined late){faint:#}")?;
        }
        if report.flagged && explain {
            write!(f, "\n{:14}{faint}{}.", "", plain(&report.explanation))?;
            if let Some(listener) = &report.listener {
                write!(f, " Listener {}", plain(&listener.name))?;
                if let Some(because) = &listener.because {
                    write!(f, ": {}", plain(because))?;
                }
                write!(f, ".")?;
            }
            if let Some(fix) = &report.fix {
                write!(f, " Fix: {}", plain(fix))?;
            }
            write!(f, "{faint:#}")?;
        }
        Ok(())
    }
}

/// `namespace/pod`, or what is known instead.
fn who(report: &Report) -> String {
    let source = &report.source;
    match (&source.namespace, &source.pod, &source.comm, source.pid) {
        (Some(namespace), Some(pod), ..) => format!("{namespace}/{pod}"),
        (_, _, Some(comm), Some(pid)) => format!("{comm}[{pid}]"),
        _ => std::net::SocketAddr::new(source.ip, source.port).to_string(),
    }
}

fn time(rfc3339: &str, zone: &TimeZone) -> String {
    rfc3339.parse::<Timestamp>().map_or_else(
        |_| plain(rfc3339),
        |time| time.to_zoned(zone.clone()).strftime("%H:%M:%S.%3f").to_string(),
    )
}

/// Microseconds in a unit that fits: `0.4 ms`, `3.1 ms`, `1.25 s`.
#[expect(clippy::cast_precision_loss, reason = "for display, with one or two decimals")]
fn duration(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        _ => format!("{:.2} s", us as f64 / 1_000_000.0),
    }
}
