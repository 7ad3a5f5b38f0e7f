//! Requests that arrive in pieces, and several requests on one connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lab::{
    Behavior, ROUTE_NOT_FOUND, ROUTE_NOT_FOUND_OR_TUNNELED, Script, ScriptedProxy, Step, TUNNELED, proxy_addr,
};

use crate::harness::{HTTP, Harness, TCP, answer, connect, pieces, scenario, script, send};

#[test]
fn request_heads_in_pieces_with_lf_and_of_8_kib_are_reported() {
    let harness = Harness::new();
    let _proxy = harness.proxy(TCP, Behavior::Tunnel);
    let _passed_on = ScriptedProxy::start(&harness.lab, proxy_addr(HTTP), Behavior::Tunnel).expect("a proxy");
    let unreachable = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), HTTP);
    let head = "CONNECT pieces.example:443 HTTP/1.1\r\nHost: pieces.example:443\r\nUser-Agent: x\r\n\r\n";
    let lf = head.replace('\r', "");
    let expect = head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let long = head.replace("\r\n\r\n", &format!("\r\nX-Long: {}\r\n\r\n", "x".repeat(8000)));
    let url = format!("GET http://pieces.example:443/{} HTTP/1.1\r\n\r\n", "x".repeat(1000)); // longer than the captured bytes
    let tls = format!("{head}\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0");
    let reports = harness.check(&[
        scenario("byte by byte, HTTP", script(HTTP, pieces(head, 1)), ROUTE_NOT_FOUND_OR_TUNNELED),
        scenario("byte by byte, TCP", script(TCP, pieces(head, 1)), TUNNELED),
        scenario("mid-word, HTTP", script(HTTP, pieces(head, 11)), ROUTE_NOT_FOUND_OR_TUNNELED),
        scenario("mid-word, TCP", script(TCP, pieces(head, 11)), TUNNELED),
        scenario("LF only, HTTP", script(HTTP, vec![send(&lf), answer()]), ROUTE_NOT_FOUND),
        scenario("LF only, TCP", script(TCP, vec![send(&lf), answer()]), TUNNELED),
        scenario("LF only, byte by byte, TCP", script(TCP, pieces(&lf, 1)), TUNNELED),
        scenario(
            "100 Continue first",
            script(HTTP, vec![send(&expect), answer(), Step::Resp { resp: 2000 }]),
            ROUTE_NOT_FOUND,
        ),
        scenario("a head of 8 KiB, HTTP", script(HTTP, vec![send(&long), answer()]), ROUTE_NOT_FOUND),
        scenario("a head of 8 KiB, TCP", script(TCP, vec![send(&long), answer()]), TUNNELED),
        scenario(
            "a URL of 1 KiB, HTTP, proxy unreachable",
            Script { dialed: unreachable, steps: vec![send(&url), answer()] },
            "absolute_form_rewritten 503",
        ),
        scenario("TLS pipelined, HTTP", script(HTTP, vec![send(&tls), answer()]), ROUTE_NOT_FOUND),
        scenario("TLS pipelined, TCP", script(TCP, vec![send(&tls), answer()]), TUNNELED),
    ]);
    for report in reports.iter().filter(|report| report["connect"]["authority"] != "beacon.example:443") {
        assert_eq!(report["connect"]["authority"], "pieces.example:443");
    }
}

#[test]
fn each_request_of_a_connection_gets_a_report() {
    let harness = Harness::new();
    let _auth = harness.proxy(TCP, Behavior::Statuses(vec![407, 200]));
    let _twice = harness.proxy(4001, Behavior::Statuses(vec![407, 407, 403, 200]));
    let _plain = harness.proxy(4002, Behavior::Statuses(vec![404, 200]));
    let _origin = harness.proxy(HTTP, Behavior::Tunnel);
    let retry = connect("a.example:443").replace("\r\n\r\n", "\r\nProxy-Authorization: Basic eA==\r\n\r\n");
    let body = |text: &str| Step::Until { until: text.to_owned() };
    let get = "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    harness.check(&[
        scenario(
            "407, then again with credentials",
            script(TCP, vec![send(&connect("a.example:443")), body("no\n"), send(&retry), answer()]),
            "refused_by_proxy 407, tunneled 200",
        ),
        scenario(
            "407, 407, 403, 200",
            script(
                4001,
                vec![
                    send(&connect("a.example:443")),
                    body("no\n"),
                    send(&retry),
                    body("no\n"),
                    send(&connect("b.example:443")),
                    body("no\n"),
                    send(&connect("c.example:443")),
                    answer(),
                ],
            ),
            "refused_by_proxy 407, refused_by_proxy 407, refused_by_proxy 403, tunneled 200",
        ),
        scenario(
            "the second request in pieces",
            script(
                4002,
                [vec![send(&connect("a.example:443")), body("no\n")], pieces(&connect("b.example:443"), 1)]
                    .concat(),
            ),
            "refused_by_proxy 404, tunneled 200",
        ),
        scenario(
            "GET absolute, then CONNECT",
            script(HTTP, vec![send(get), body("no\n"), send(&connect("a.example:443")), answer()]),
            "absolute_form_rewritten 400, handled_as_http route_not_found 404",
        ),
        scenario(
            "GET absolute twice, then CONNECT",
            script(
                HTTP,
                vec![
                    send(get),
                    body("no\n"),
                    send(get),
                    body("no\n"),
                    send(&connect("a.example:443")),
                    answer(),
                ],
            ),
            "absolute_form_rewritten 400, absolute_form_rewritten 400, handled_as_http route_not_found 404",
        ),
    ]);
}
