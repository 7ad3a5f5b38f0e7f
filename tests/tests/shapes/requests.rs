//! Requests that come in pieces, and several on one connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lab::{Behaviour, Script, ScriptedProxy, Step};

use crate::stage::{
    AS_INSPECTED, GRANTED, HTTP, REFUSED, Shape, Stage, TCP, answer, at, connect, pieces, script, send,
};

#[test]
fn requests_in_pieces() {
    let stage = Stage::new();
    let _proxy = stage.proxy(TCP, Behaviour::Tunnel);
    let _passed_on = ScriptedProxy::start(&stage.lab, at(HTTP), Behaviour::Tunnel).expect("a proxy");
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), HTTP);
    let head = "CONNECT pieces.example:443 HTTP/1.1\r\nHost: pieces.example:443\r\nUser-Agent: x\r\n\r\n";
    let lf = head.replace('\r', "");
    let expect = head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let long = head.replace("\r\n\r\n", &format!("\r\nX-Long: {}\r\n\r\n", "x".repeat(8000)));
    let url = format!("GET http://pieces.example:443/{} HTTP/1.1\r\n\r\n", "x".repeat(1000)); // longer than what is captured
    let tls = format!("{head}\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0");
    let both = |port, steps: Vec<Step>| script(port, steps);
    let reports = stage.hold(&[
        Shape { name: "byte by byte, HTTP", script: both(HTTP, pieces(head, 1)), due: AS_INSPECTED },
        Shape { name: "byte by byte, TCP", script: both(TCP, pieces(head, 1)), due: GRANTED },
        Shape { name: "mid-word, HTTP", script: both(HTTP, pieces(head, 11)), due: AS_INSPECTED },
        Shape { name: "mid-word, TCP", script: both(TCP, pieces(head, 11)), due: GRANTED },
        Shape { name: "LF only, HTTP", script: both(HTTP, vec![send(&lf), answer()]), due: REFUSED },
        Shape { name: "LF only, TCP", script: both(TCP, vec![send(&lf), answer()]), due: GRANTED },
        Shape { name: "LF only, byte by byte, TCP", script: both(TCP, pieces(&lf, 1)), due: GRANTED },
        Shape {
            name: "100 Continue first",
            script: both(HTTP, vec![send(&expect), answer(), Step::Resp { resp: 2000 }]),
            due: REFUSED,
        },
        Shape {
            name: "a head of 8 KiB, HTTP",
            script: both(HTTP, vec![send(&long), answer()]),
            due: REFUSED,
        },
        Shape { name: "a head of 8 KiB, TCP", script: both(TCP, vec![send(&long), answer()]), due: GRANTED },
        Shape {
            name: "a URL of 1 KiB, HTTP, nobody there",
            script: Script { dialled: nobody, steps: vec![send(&url), answer()] },
            due: "absolute_form_rewritten 503",
        },
        Shape { name: "TLS pipelined, HTTP", script: both(HTTP, vec![send(&tls), answer()]), due: REFUSED },
        Shape { name: "TLS pipelined, TCP", script: both(TCP, vec![send(&tls), answer()]), due: GRANTED },
    ]);
    for report in reports.iter().filter(|report| report["connect"]["authority"] != "beacon.example:443") {
        assert_eq!(report["connect"]["authority"], "pieces.example:443");
    }
}

#[test]
fn several_requests_on_one_connection() {
    let stage = Stage::new();
    let _auth = stage.proxy(TCP, Behaviour::Statuses(vec![407, 200]));
    let _twice = stage.proxy(4001, Behaviour::Statuses(vec![407, 407, 403, 200]));
    let _plain = stage.proxy(4002, Behaviour::Statuses(vec![404, 200]));
    let _origin = stage.proxy(HTTP, Behaviour::Tunnel);
    let retry = connect("a.example:443").replace("\r\n\r\n", "\r\nProxy-Authorization: Basic eA==\r\n\r\n");
    let body = |text: &str| Step::Until { until: text.to_owned() };
    let get = "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    stage.hold(&[
        Shape {
            name: "407, then again with credentials",
            script: script(TCP, vec![send(&connect("a.example:443")), body("no\n"), send(&retry), answer()]),
            due: "refused_by_proxy 407, tunneled 200",
        },
        Shape {
            name: "407, 407, 403, 200",
            script: script(
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
            due: "refused_by_proxy 407, refused_by_proxy 407, refused_by_proxy 403, tunneled 200",
        },
        Shape {
            name: "the second in pieces",
            script: script(
                4002,
                [vec![send(&connect("a.example:443")), body("no\n")], pieces(&connect("b.example:443"), 1)].concat(),
            ),
            due: "refused_by_proxy 404, tunneled 200",
        },
        Shape {
            name: "GET absolute, then CONNECT",
            script: script(HTTP, vec![send(get), body("no\n"), send(&connect("a.example:443")), answer()]),
            due: "absolute_form_rewritten 400, handled_as_http route_not_found 404",
        },
        Shape {
            name: "GET absolute twice, then CONNECT",
            script: script(
                HTTP,
                vec![send(get), body("no\n"), send(get), body("no\n"), send(&connect("a.example:443")), answer()],
            ),
            due: "absolute_form_rewritten 400, absolute_form_rewritten 400, handled_as_http route_not_found 404",
        },
    ]);
}
