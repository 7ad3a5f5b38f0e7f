//! The way from Envoy's answer to a line on a terminal, measured and printed. Nothing is asserted on time: a machine that
//! does much else would fail for it. The benchmark measures the same on a quiet one.

use std::net::SocketAddr;

use lab::{Behaviour, Envoy, Lab, PROXY, Script, ScriptedProxy, full_sidecar, line_latencies};

#[test]
fn every_session_becomes_a_line_on_the_terminal() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let _proxy =
        ScriptedProxy::start(&lab, SocketAddr::new(PROXY, 3129), Behaviour::Tunnel).expect("a proxy");
    let scripts = [3128, 3129].map(|port| Script::connect(SocketAddr::new(PROXY, port), "a.example:443"));
    let delays = line_latencies(&lab, 100, &scripts).expect("a line for each");
    let at = |percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    eprintln!("from answer to line: median {:?}, 99th percentile {:?}, most {:?}", at(50), at(99), at(100));
}
