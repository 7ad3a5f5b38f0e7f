//! Connections that end in unusual ways or without an answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lab::{
    Behavior, Close, Envoy, Lab, ROUTE_NOT_FOUND, Script, ScriptedProxy, Squid, SquidPolicy, Step, TARGET,
    TUNNELED, Tracer, full_sidecar, proxy_addr, report_summary,
};

use crate::harness::{HTTP, Harness, TCP, answer, connect, scenario, script, send, wait};

const BLACK_HOLE: u16 = 3130;
const FORWARDED: u16 = 3131;
const TLS: u16 = 3135;
const HTTP_ALWAYS: u16 = 3137;
const NO_ENDPOINT: u16 = 3138;
const NO_CLUSTER: u16 = 3139;
const NO_CHAIN: u16 = 3140;

#[test]
fn closed_reset_and_unanswered_connections_get_their_verdicts() {
    let harness = Harness::new();
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    let _hang = harness.proxy(4001, Behavior::Hang);
    let _rst = harness.proxy(4002, Behavior::Rst);
    let _close = harness.proxy(4003, Behavior::Close);
    let head = connect("a.example:443");
    let half = || Step::Close { close: Close::Half };
    let reset = || Step::Close { close: Close::Rst };
    let all = Step::Resp { resp: 3000 };
    let scenarios = [
        scenario(
            "half-closed after a granted CONNECT",
            script(TCP, vec![send(&head), answer(), half(), all.clone()]),
            TUNNELED,
        ),
        scenario(
            "half-closed after the CONNECT, TCP",
            script(TCP, vec![send(&head), half(), answer()]),
            TUNNELED,
        ),
        scenario(
            "404, stays open for two seconds",
            script(HTTP, vec![send(&head), answer(), wait(2000)]),
            ROUTE_NOT_FOUND,
        ),
        scenario(
            "404, then reset by the app",
            script(HTTP, vec![send(&head), answer(), reset()]),
            ROUTE_NOT_FOUND,
        ),
        scenario(
            "reset by the app before an answer",
            script(4001, vec![send(&head), wait(300), reset()]),
            "unanswered gave_up",
        ),
        scenario(
            "closed by the app before an answer",
            script(4001, vec![send(&head), wait(300)]),
            "unanswered gave_up",
        ),
        scenario(
            "half-closed before an answer",
            script(4001, vec![send(&head), half(), wait(300)]),
            "unanswered gave_up",
        ),
        scenario(
            "open past the deadline",
            script(4001, vec![send(&head), all.clone()]),
            "unanswered deadline",
        ),
        scenario(
            "reset by the proxy",
            script(4002, vec![send(&head), all.clone()]),
            "unreachable closed_without_reply",
        ),
        scenario(
            "closed by the proxy",
            script(4003, vec![send(&head), all.clone()]),
            "unreachable closed_without_reply",
        ),
        scenario(
            "no process listens",
            script(4004, vec![send(&head), all.clone()]),
            "unreachable connect_failed",
        ),
        scenario("black hole", script(BLACK_HOLE, vec![send(&head), all.clone()]), "blackholed"),
        scenario(
            "black hole, no request before its FIN",
            script(BLACK_HOLE, vec![Step::Resp { resp: 300 }]),
            "",
        ),
        scenario("no such cluster", script(NO_CLUSTER, vec![send(&head), all.clone()]), "blackholed"),
        scenario("no filter chain", script(NO_CHAIN, vec![send(&head), all.clone()]), "blackholed"),
        scenario(
            "no healthy upstream",
            script(NO_ENDPOINT, vec![send(&head), answer()]),
            "handled_as_http upstream_failed 503",
        ),
        scenario(
            "HTTP/1.0 on an HTTP-only listener",
            script(HTTP_ALWAYS, vec![send("CONNECT a.example:443 HTTP/1.0\r\n\r\n"), answer()]),
            "handled_as_http http10_refused 426",
        ),
    ];
    harness.check(&scenarios);
}

#[test]
fn request_sent_after_the_sidecar_closed_gets_the_verdict_of_a_timely_one() {
    let late = |port| {
        let closed = Step::Closed { closed: 3000 };
        script(port, vec![closed, send(&connect("a.example:443")), Step::Resp { resp: 3000 }])
    };
    let late_scenario = |name, port, expected| scenario(name, late(port), expected);
    // Each with a sidecar of its own, as a dial that fails meanwhile leaves another session's close in doubt.
    Harness::new().check(&[
        late_scenario("black hole", BLACK_HOLE, "blackholed"),
        late_scenario("no such cluster", NO_CLUSTER, "blackholed"),
        late_scenario("no filter chain", NO_CHAIN, "blackholed"),
    ]);
    let harness = Harness::new();
    let _close = harness.proxy(4003, Behavior::Close);
    harness.check(&[
        late_scenario("the proxy closes", 4003, "unreachable closed_without_reply"),
        late_scenario("no process listens", 4004, "unreachable connect_failed"),
    ]);
}

#[test]
fn redirect_to_a_port_without_a_listener_is_reported_for_a_known_proxy() {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let lab = Lab::new().expect("a lab");
    let _tunnel = ScriptedProxy::start(&lab, proxy_addr(TCP), Behavior::Tunnel).expect("a proxy");
    let envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let tracer = Tracer::start(&lab, &["--deadline", "5s"]).expect("a tracer");
    // A refused connection has no request. That it was one to a proxy is known from an earlier one.
    lab.play(&[Script::connect(proxy_addr(TCP), "a.example:443")]).expect("a tunnel");
    tracer.wait_reports(1, TIMEOUT).expect("a report");
    envoy.stop().expect("Envoy stops");
    let proxy = format!("http://{}", proxy_addr(TCP));
    let curl = lab.run_app("curl", &["-sx", &proxy, "https://a.example/"]).expect("curl");
    assert!(!curl.status.success(), "{curl:?}");
    let reports = tracer.wait_reports(2, TIMEOUT).expect("a report of the refused connection");
    let verdicts: Vec<String> = reports.iter().map(report_summary).collect();
    assert_eq!(verdicts, [TUNNELED, "interceptor_down"], "{reports:#?}");
    assert_eq!(reports[1]["source"]["comm"], "curl", "{reports:#?}");
}

#[test]
fn forwarded_503_is_told_from_envoys_own_503() {
    let harness = Harness::new();
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), FORWARDED);
    let _answers_503 =
        ScriptedProxy::start(&harness.lab, other, Behavior::Statuses(vec![503])).expect("a proxy");
    let _resets = ScriptedProxy::start(&harness.lab, proxy_addr(FORWARDED), Behavior::Rst).expect("a proxy");
    let to = |dialed| Script::connect(dialed, "a.example:443");
    harness.check(&[
        scenario("the proxy answers 503", to(other), "handled_as_http forwarded 503"),
        scenario(
            "the proxy resets and Envoy answers 503",
            to(proxy_addr(FORWARDED)),
            "handled_as_http upstream_failed 503",
        ),
    ]);
}

#[test]
fn originated_tls_to_a_plaintext_proxy_is_wrapped_in_tls() {
    let harness = Harness::new();
    let policy = SquidPolicy {
        hosts: vec![("a.example".to_owned(), TARGET.to_string())],
        denied: Vec::new(),
        credentials: None,
    };
    let squid = Squid::start(&harness.lab, proxy_addr(TLS), &policy).expect("squid");
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), TLS);
    let _hang = ScriptedProxy::start(&harness.lab, other, Behavior::Hang).expect("a silent proxy");
    let head = connect("a.example:443");
    harness.check(&[
        scenario(
            "squid does not speak TLS",
            script(TLS, vec![send(&head), Step::Resp { resp: 3000 }]),
            "wrapped_in_tls",
        ),
        scenario(
            "a proxy that does not answer",
            Script { dialed: other, steps: vec![send(&head), Step::Resp { resp: 4000 }] },
            "wrapped_in_tls",
        ),
    ]);
    drop(squid);
}
