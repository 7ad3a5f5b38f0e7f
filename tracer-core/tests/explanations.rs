//! The sentences of a report, for every verdict and reason and the evidence that each can rest on. They are kept as one
//! snapshot, to be read as an engineer on call would read them.

mod scene;

use std::{collections::BTreeSet, fmt::Write};

use scene::{CURL, GRANTED, Scene};
use tracer_core::{
    report::{Report, Testimony},
    verdict::{Reason, Verdict},
};

const HTTP10: &str = "CONNECT en.wikipedia.org:443 HTTP/1.0\r\n\r\n";
const GET: &str = "GET http://example.com/path?q=1 HTTP/1.1\r\nHost: example.com\r\n\r\n";
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00";
const REWRITTEN: &str = "CONNECT en.wikipedia.org:443 HTTP/1.1\r\nhost: en.wikipedia.org:443\r\n\
    x-forwarded-proto: http\r\nx-request-id: 1\r\n\r\n";
const OWN_CONNECT: &str = "CONNECT 10.0.0.9:3128 HTTP/1.1\r\nhost: 10.0.0.9:3128\r\n\r\n";
const SECOND_FLIGHT: &[u8] = b"\x14\x03\x03\x00\x01";
const REWRITTEN_GET: &str = "GET /path?q=1 HTTP/1.1\r\nhost: example.com\r\nx-request-id: 1\r\n\r\n";

/// An answer as Envoy writes it.
fn envoys(status: u16, length: usize) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nserver: envoy\r\n\r\n")
}

fn handled_as_http() -> Vec<(&'static str, Scene)> {
    let local = |status, length| Scene::outbound().asks().answers(envoys(status, length));
    let forwarded = || Scene::outbound().asks().dials_for_a_request().sends_upstream(REWRITTEN);
    vec![
        ("its own 404", local(404, 0)),
        ("the same at the proxy's sidecar", Scene::inbound().asks().answers(envoys(404, 0))),
        ("the same on an old connection", Scene::joined_late().asks().answers(envoys(404, 0))),
        ("the same over IPv6", Scene::outbound().to("[fd00:1::1]:3128").asks().answers(envoys(404, 0))),
        ("a route without the upgrade", local(403, 0)),
        ("a head that does not tell of a body", Scene::outbound().asks().answers("HTTP/1.1 403 X\r\n\r\n")),
        ("the same at the proxy's sidecar", Scene::inbound().asks().answers(envoys(403, 0))),
        ("RBAC", local(403, 19)),
        ("a rate limit", local(429, 0)),
        ("the same at the proxy's sidecar", Scene::inbound().asks().answers(envoys(403, 19))),
        ("an old client", Scene::outbound().app_sends(HTTP10).answers(envoys(426, 16))),
        ("a target without a port", local(400, 11)),
        ("chunked", local(501, 15)),
        ("no way to forward it", local(503, 19)),
        (
            "the dial failed",
            Scene::outbound().asks().dials_for_a_request().dial_fails().answers(envoys(503, 84)),
        ),
        ("the dial hangs", Scene::outbound().asks().dials_for_a_request().answers(envoys(503, 84))),
        ("forwarded, and the proxy says 503", forwarded().answers(envoys(503, 95))),
        ("forwarded to a proxy that hangs up", forwarded().proxy_closes().answers(envoys(503, 95))),
        ("forwarded, and granted", forwarded().answers(envoys(200, 0))),
        ("forwarded, and refused", forwarded().answers(envoys(407, 5))),
        ("forwarded, and what came back is not HTTP", forwarded().answers("SSH-2.0-OpenSSH_9.2\r\n")),
        ("forwarded, and closed", forwarded().proxy_closes().sidecar_closes()),
        (
            "the same at the proxy's sidecar",
            Scene::inbound().asks().dials_for_a_request().sends_upstream(REWRITTEN).answers(envoys(200, 0)),
        ),
        ("terminated", Scene::outbound().asks().dials_for_a_request().answers(envoys(200, 0))),
        ("another status", local(418, 0)),
    ]
}

fn passed() -> Vec<(&'static str, Scene)> {
    let passed = || Scene::outbound().asks().dials().sends_upstream(CURL);
    let wrapped = || Scene::outbound().asks().dials().sends_upstream(HELLO);
    vec![
        ("as it should be", passed().answers(GRANTED)),
        (
            "through a Service's address",
            Scene::to_service().dials().asks().sends_upstream(CURL).answers(GRANTED),
        ),
        ("at the proxy's sidecar", Scene::inbound().asks().dials().sends_upstream(CURL).answers(GRANTED)),
        ("through TLS", wrapped().answers(GRANTED)),
        ("the proxy says no", passed().answers("HTTP/1.1 407 X\r\nServer: squid/5.7\r\n\r\n")),
        ("a remote Envoy's 404", passed().answers(envoys(404, 0))),
        (
            "through a Service's address",
            Scene::to_service().dials().asks().sends_upstream(CURL).answers(envoys(403, 0)),
        ),
        ("not HTTP", passed().answers("SSH-2.0-OpenSSH_9.2\r\n")),
        ("through TLS", wrapped().answers(envoys(404, 0))),
        (
            "an absolute-form GET that is passed on",
            Scene::outbound().app_sends(GET).dials().sends_upstream(GET).answers(envoys(200, 5)),
        ),
    ]
}

fn undetermined() -> Vec<(&'static str, Scene)> {
    let asks = || Scene::outbound().asks();
    let with_sign = "HTTP/1.1 403 X\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\n\r\n";
    vec![
        ("granted, and nothing upstream was seen", asks().answers(GRANTED)),
        ("a proxy's answer, and nothing upstream was seen", asks().answers(with_sign)),
        ("not HTTP, and nothing upstream was seen", asks().answers("SSH-2.0-OpenSSH_9.2\r\n")),
        ("an old connection, closed", Scene::joined_late().asks().sidecar_closes()),
        ("records were lost", asks().loses_records().answers(envoys(404, 0))),
        ("records were lost, and granted", asks().loses_records().answers(GRANTED)),
        ("records were lost, and closed", asks().loses_records().sidecar_closes()),
        ("other bytes upstream", asks().dials().sends_upstream("?!").answers(envoys(404, 0))),
        ("a pooled connection", asks().receives_on_a_shared_connection().answers(envoys(404, 0))),
        ("a pooled connection, and closed", asks().receives_on_a_shared_connection().sidecar_closes()),
        ("ztunnel, pooled", Scene::ztunnel().asks().answers(envoys(404, 0))),
        (
            "ztunnel, to a member of the mesh",
            Scene::ztunnel().asks().dials().sends_upstream(HELLO).answers(envoys(404, 0)),
        ),
        (
            "TLS that may be another connection's",
            asks().dials_for_a_request().sends_upstream(HELLO).proxy_closes().sidecar_closes(),
        ),
        (
            "a dial to an unknown address failed",
            Scene::to_service().dials_for_a_request().asks().dial_fails().sidecar_closes(),
        ),
        ("a filter kept it, and no dial was seen", asks().sidecar_drops()),
        ("a tunnel of its own", asks().dials().sends_upstream(OWN_CONNECT).answers(GRANTED)),
    ]
}

fn no_answer() -> Vec<(&'static str, Scene)> {
    let passed = || Scene::outbound().asks().dials().sends_upstream(CURL);
    let wrapped = || Scene::outbound().asks().dials().sends_upstream(HELLO);
    vec![
        ("closed at once", Scene::outbound().asks().sidecar_closes()),
        ("the same at the proxy's sidecar", Scene::inbound().asks().sidecar_closes()),
        (
            "closed while it built its filters, beside a dial that failed",
            Scene::to_service().dials_for_a_request().asks().dial_fails().sidecar_refuses(),
        ),
        (
            "TLS to a proxy that speaks it, and an end",
            wrapped().sends_upstream(SECOND_FLIGHT).proxy_closes().sidecar_closes(),
        ),
        ("TLS to a proxy that speaks it, and silence", wrapped().sends_upstream(SECOND_FLIGHT).waits()),
        ("TLS, and an end", wrapped().proxy_closes().sidecar_closes()),
        ("TLS, and silence", wrapped().waits()),
        ("nothing listens there", Scene::outbound().asks().dials().dial_fails().sidecar_closes()),
        ("the same behind a Service", Scene::to_service().dials().asks().dial_fails().sidecar_closes()),
        ("the same at the proxy's sidecar", Scene::inbound().asks().dials().dial_fails().sidecar_closes()),
        ("the proxy closes", passed().proxy_closes().sidecar_closes()),
        ("the proxy closes on accept", Scene::outbound().asks().dials().proxy_closes().sidecar_closes()),
        ("no sidecar", Scene::direct().asks()),
        ("the app gives up", Scene::outbound().asks().app_closes().sidecar_closes()),
        (
            "the app gives up, and the sidecar keeps its side open",
            Scene::outbound().asks().app_closes().passes(600),
        ),
        ("the app gives up on the proxy", passed().app_closes().sidecar_closes()),
        ("the proxy is slow", passed().waits()),
        ("the same behind a Service", Scene::to_service().dials().asks().sends_upstream(CURL).waits()),
        ("forwarded, and silence", Scene::outbound().asks().dials().sends_upstream(REWRITTEN).waits()),
        ("the dial takes long", Scene::outbound().asks().dials().waits()),
        ("the dial failed", Scene::outbound().asks().dials().dial_fails().waits()),
        ("other bytes, and silence", Scene::outbound().asks().dials().sends_upstream("?!").waits()),
        ("no dial", Scene::outbound().asks().waits()),
        (
            "no process accepts",
            Scene::outbound().asks().answers(envoys(404, 0)).app_dials_again().meets_no_listener(),
        ),
        (
            "an absolute-form GET",
            Scene::outbound().app_sends(GET).dials().sends_upstream(REWRITTEN_GET).answers(envoys(400, 26)),
        ),
        (
            "the same at the proxy's sidecar",
            Scene::inbound().app_sends(GET).dials().sends_upstream(REWRITTEN_GET).answers(envoys(200, 1)),
        ),
        ("one that went nowhere", Scene::outbound().app_sends(GET).answers(envoys(404, 0))),
    ]
}

fn reports() -> Vec<(&'static str, Report)> {
    let scenes = handled_as_http().into_iter().chain(passed()).chain(undetermined()).chain(no_answer());
    let live = scenes.map(|(title, scene)| (title, scene.report()));
    live.chain(with_configuration()).collect()
}

/// The verdicts to which the sidecar's configuration contributes.
fn with_configuration() -> Vec<(&'static str, Report)> {
    let said = |verdict| Testimony { verdict: Some(verdict), certain: true, ..Testimony::default() };
    let to_endpoint = || Scene::to_service().dials().asks().sends_upstream(CURL);
    let heard = |scene: Scene, verdict| {
        let mut report = scene.report();
        report.hear(said(verdict));
        report
    };
    vec![
        ("a wrong address", heard(to_endpoint().answers(envoys(403, 0)), Verdict::Misdirected)),
        ("a wrong address, and granted", heard(to_endpoint().answers(GRANTED), Verdict::Misdirected)),
        (
            "the configuration says that it passes",
            heard(Scene::outbound().asks().answers(envoys(404, 0)), Verdict::Tunneled),
        ),
        (
            "the configuration says that a close passes",
            heard(Scene::outbound().asks().sidecar_closes(), Verdict::Tunneled),
        ),
    ]
}

fn name(report: &Report) -> String {
    let reason = report.reason.map_or_else(String::new, |reason| format!(" {}", reason.name()));
    format!("{}{reason}", report.verdict.name())
}

#[test]
fn sentences_of_every_verdict() {
    let mut text = String::new();
    for (title, report) in reports() {
        let _ = writeln!(text, "{}: {title}\n  {}.", name(&report), report.explanation);
        for piece in &report.evidence {
            let _ = writeln!(text, "  - {piece}");
        }
        text.push('\n');
    }
    insta::assert_snapshot!(text);
}

#[test]
fn every_verdict_and_reason_is_explained() {
    let reports = reports();
    let verdicts: BTreeSet<Verdict> = reports.iter().map(|(_, report)| report.verdict).collect();
    assert_eq!(verdicts, Verdict::ALL.iter().copied().collect());
    let reasons: BTreeSet<Reason> = reports.iter().filter_map(|(_, report)| report.reason).collect();
    assert_eq!(reasons, Reason::ALL.iter().copied().collect());
}

#[test]
fn every_sentence_names_the_target_and_the_proxy() {
    for (title, report) in reports() {
        let Report { explanation, proxy, connect, evidence, .. } = &report;
        let (verdict, proxy) = (name(&report), std::net::SocketAddr::from(*proxy).to_string());
        assert!(explanation.starts_with(|first: char| first.is_ascii_uppercase()), "{explanation}");
        assert!(!explanation.ends_with('.') && !explanation.contains("  "), "{explanation}");
        assert!(explanation.contains(&*connect.authority), "{verdict} ({title}): {explanation}");
        assert!(explanation.contains(&proxy), "{verdict} ({title}): {explanation}");
        assert!(!evidence.is_empty(), "{verdict} ({title})");
        // A flagged report blames the sidecar, and only that.
        if explanation.contains("neither side is blamed") || explanation.contains("not at fault") {
            assert!(!report.flagged, "{verdict} ({title}): {explanation}");
        }
    }
}
