//! Connections that end oddly, or without an answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lab::{Behaviour, Close, Policy, Script, ScriptedProxy, Squid, Step, TARGET};

use crate::stage::{GRANTED, HTTP, REFUSED, Shape, Stage, TCP, answer, at, connect, script, send, wait};

const BLACK_HOLE: u16 = 3130;
const FORWARDED: u16 = 3131;
const TLS: u16 = 3135;
const HTTP_ALWAYS: u16 = 3137;
const NO_ENDPOINT: u16 = 3138;
const NO_CLUSTER: u16 = 3139;
const NO_CHAIN: u16 = 3140;

#[test]
fn connections_that_end_oddly() {
    let stage = Stage::new();
    let _tunnel = stage.proxy(TCP, Behaviour::Tunnel);
    let _hang = stage.proxy(4001, Behaviour::Hang);
    let _rst = stage.proxy(4002, Behaviour::Rst);
    let _close = stage.proxy(4003, Behaviour::Close);
    let head = connect("a.example:443");
    let half = || Step::Close { close: Close::Half };
    let reset = || Step::Close { close: Close::Rst };
    let all = Step::Resp { resp: 3000 };
    let shapes = [
        Shape {
            name: "half-closed behind a granted CONNECT",
            script: script(TCP, vec![send(&head), answer(), half(), all.clone()]),
            due: GRANTED,
        },
        Shape {
            name: "half-closed behind the CONNECT, TCP",
            script: script(TCP, vec![send(&head), half(), answer()]),
            due: GRANTED,
        },
        Shape {
            name: "404, open for a second more",
            script: script(HTTP, vec![send(&head), answer(), wait(2000)]),
            due: REFUSED,
        },
        Shape {
            name: "404, then reset by the app",
            script: script(HTTP, vec![send(&head), answer(), reset()]),
            due: REFUSED,
        },
        Shape {
            name: "reset by the app before an answer",
            script: script(4001, vec![send(&head), wait(300), reset()]),
            due: "unanswered",
        },
        Shape {
            name: "closed by the app before an answer",
            script: script(4001, vec![send(&head), wait(300)]),
            due: "unanswered",
        },
        Shape {
            name: "half-closed before an answer",
            script: script(4001, vec![send(&head), half(), wait(300)]),
            due: "unanswered",
        },
        Shape {
            name: "open past the deadline",
            script: script(4001, vec![send(&head), all.clone()]),
            due: "unanswered",
        },
        Shape {
            name: "reset by the proxy",
            script: script(4002, vec![send(&head), all.clone()]),
            due: "unreachable closed_without_reply",
        },
        Shape {
            name: "closed by the proxy",
            script: script(4003, vec![send(&head), all.clone()]),
            due: "unreachable closed_without_reply",
        },
        Shape {
            name: "nobody listens there",
            script: script(4004, vec![send(&head), all.clone()]),
            due: "unreachable connect_failed",
        },
        Shape {
            name: "black hole",
            script: script(BLACK_HOLE, vec![send(&head), all.clone()]),
            due: "blackholed",
        },
        Shape {
            name: "black hole, nothing asked before its FIN",
            script: script(BLACK_HOLE, vec![Step::Resp { resp: 300 }]),
            due: "",
        },
        Shape {
            name: "no such cluster",
            script: script(NO_CLUSTER, vec![send(&head), all.clone()]),
            due: "blackholed",
        },
        Shape {
            name: "no filter chain",
            script: script(NO_CHAIN, vec![send(&head), all.clone()]),
            due: "blackholed",
        },
        Shape {
            name: "no healthy upstream",
            script: script(NO_ENDPOINT, vec![send(&head), answer()]),
            due: "handled_as_http upstream_failed 503",
        },
        Shape {
            name: "HTTP/1.0 where all is HTTP",
            script: script(HTTP_ALWAYS, vec![send("CONNECT a.example:443 HTTP/1.0\r\n\r\n"), answer()]),
            due: "handled_as_http http10_refused 426",
        },
    ];
    stage.hold(&shapes);
}

#[test]
fn apps_that_ask_after_the_end() {
    let stage = Stage::new();
    let _close = stage.proxy(4003, Behaviour::Close);
    let late = |port| {
        let closed = Step::Closed { closed: 3000 };
        script(port, vec![closed, send(&connect("a.example:443")), Step::Resp { resp: 3000 }])
    };
    let shape = |name, port, due| Shape { name, script: late(port), due };
    stage.hold(&[
        shape("the proxy has closed", 4003, "unreachable closed_without_reply"),
        shape("nobody listens there", 4004, "unreachable connect_failed"),
        shape("black hole", BLACK_HOLE, "blackholed"),
        shape("no such cluster", NO_CLUSTER, "blackholed"),
        shape("no filter chain", NO_CHAIN, "blackholed"),
    ]);
}

#[test]
fn a_503_to_what_was_forwarded() {
    let stage = Stage::new();
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), FORWARDED);
    let _says_so = ScriptedProxy::start(&stage.lab, other, Behaviour::Statuses(vec![503])).expect("a proxy");
    let _resets = ScriptedProxy::start(&stage.lab, at(FORWARDED), Behaviour::Rst).expect("a proxy");
    let shape = |name, dialled, due| Shape { name, script: Script::connect(dialled, "a.example:443"), due };
    stage.hold(&[
        shape("the proxy's own", other, "handled_as_http forwarded 503"),
        shape("Envoy's, as the proxy reset", at(FORWARDED), "handled_as_http upstream_failed 503"),
    ]);
}

#[test]
fn tls_in_place_of_the_connect() {
    let stage = Stage::new();
    let policy = Policy {
        hosts: vec![("a.example".to_owned(), TARGET.to_string())],
        denied: Vec::new(),
        credentials: None,
    };
    let squid = Squid::start(&stage.lab, at(TLS), &policy).expect("squid");
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), TLS);
    let _hang = ScriptedProxy::start(&stage.lab, other, Behaviour::Hang).expect("a silent proxy");
    let head = connect("a.example:443");
    stage.hold(&[
        Shape {
            name: "squid, which speaks no TLS",
            script: script(TLS, vec![send(&head), Step::Resp { resp: 3000 }]),
            due: "wrapped_in_tls",
        },
        Shape {
            name: "a proxy that says nothing to it",
            script: Script { dialled: other, steps: vec![send(&head), Step::Resp { resp: 4000 }] },
            due: "wrapped_in_tls",
        },
    ]);
    drop(squid);
}
