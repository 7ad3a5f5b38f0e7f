//! The legs of a session as a line of arrows: how far the request came, who stopped it, and what came back.

use std::net::SocketAddr;

use super::{Direction, Report};
use crate::verdict::Carried;

/// `app ──▶ sidecar:15001 ──✗ 10.0.0.1:3128   404 after 0.4 ms, proxy never dialled`
pub(super) fn diagram(report: &Report) -> String {
    let proxy = SocketAddr::from(report.proxy);
    let Some(sidecar) = &report.sidecar else {
        return format!("app ──▶ {proxy}   no sidecar in the path");
    };
    let sidecar = match report.direction {
        Direction::Outbound => format!("sidecar:{}", sidecar.port),
        Direction::Inbound => format!("the proxy's sidecar:{}", sidecar.port),
    };
    let (arrow, note) = upstream(report);
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

/// What the sidecar did towards the proxy.
fn upstream(report: &Report) -> (&'static str, &'static str) {
    let Some(upstream) = &report.upstream else {
        // A report is flagged only where no record was lost.
        let nothing_unseen = report.flagged && !report.joined_late;
        return ("──✗", if nothing_unseen { "proxy never dialled" } else { "no dial of the proxy seen" });
    };
    match upstream.carried {
        Carried::NoConnection => ("──✗", "no dial of the proxy seen"),
        Carried::DialFailed => ("──✗", "the dial failed"),
        Carried::Nothing => ("──▶", "dialled, and no byte sent"),
        Carried::OtherBytes => ("──▶", "other bytes sent than the app's"),
        Carried::Tls => ("══▶", "TLS sent in place of the request"),
        Carried::RewrittenRequest => ("──▶", "the request rewritten"),
        Carried::SameBytes => ("──▶", "the app's own bytes passed on"),
    }
}
