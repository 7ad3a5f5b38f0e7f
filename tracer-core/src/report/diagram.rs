//! The legs of a session as one line of arrows: how far the request got, and what came back.

use std::net::SocketAddr;

use super::{Direction, Report};
use crate::verdict::{Payload, Verdict};

/// `app ──▶ sidecar:15001 ──✗ 10.0.0.1:3128   404 after 0.4 ms, proxy never dialed`
pub(super) fn diagram(report: &Report) -> String {
    let proxy = SocketAddr::from(report.proxy);
    let Some(sidecar) = &report.interceptor else {
        return format!("app ──▶ {proxy}   no sidecar in the path");
    };
    let sidecar = match report.direction {
        Direction::Outbound => format!("sidecar:{}", sidecar.port),
        Direction::Inbound => format!("the proxy's sidecar:{}", sidecar.port),
    };
    if report.verdict == Verdict::InterceptorDown {
        return format!("app ──▶ {sidecar} ✗ {proxy}   no process accepts the connection");
    }
    let (arrow, note) = upstream_leg(report);
    let to = match &report.upstream {
        Some(upstream) if (upstream.ip, upstream.port) != (report.proxy.ip, report.proxy.port) => {
            format!("{} (for {proxy})", SocketAddr::new(upstream.ip, upstream.port))
        }
        Some(_) | None => proxy.to_string(),
    };
    let answer = match &report.reply {
        Some(reply) => format!("{} after {}", report.status(), super::text::duration(reply.after_us)),
        None => "no answer".to_owned(),
    };
    format!("app ──▶ {sidecar} {arrow} {to}   {answer}, {note}")
}

/// The sidecar's leg towards the proxy: its arrow and a note.
fn upstream_leg(report: &Report) -> (&'static str, &'static str) {
    let Some(upstream) = &report.upstream else {
        // A report is flagged only where no record was lost.
        let nothing_unseen = report.flagged && !report.joined_late;
        return ("──✗", if nothing_unseen { "proxy never dialed" } else { "no dial of the proxy seen" });
    };
    match upstream.carried {
        Payload::NoConnection => ("──✗", "no dial of the proxy seen"),
        Payload::DialFailed => ("──✗", "the dial failed"),
        Payload::Nothing => ("──▶", "dialed, and no byte sent"),
        Payload::OtherBytes => ("──▶", "other bytes sent than the app's"),
        Payload::Tls => ("══▶", "TLS sent in place of the request"),
        Payload::OwnConnect => ("──▶", "the request inside a CONNECT of the sidecar's own"),
        Payload::RewrittenRequest => ("──▶", "the request rewritten"),
        Payload::SameBytes => ("──▶", "the app's own bytes passed on"),
    }
}
