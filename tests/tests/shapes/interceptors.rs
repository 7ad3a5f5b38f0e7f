//! Interceptors of the shapes that real platforms give them. The tracer is told none of their users and ports.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use lab::{Behavior, Lab, Place, Process, ROUTE_NOT_FOUND, Script, TUNNELED, full_sidecar, proxy_addr};

use crate::harness::{HTTP, Harness, Scenario, Sidecar, TCP, answer, connect, scenario, script, send};

/// What each shape must get right: an answer of its own, a tunnel, the proxy's refusals, its close, and a closed port.
fn requests() -> Vec<Scenario> {
    let one = |name, port, expected| {
        scenario(name, script(port, vec![send(&connect("a.example:443")), answer()]), expected)
    };
    vec![
        one("a port of an HTTP listener", HTTP, ROUTE_NOT_FOUND),
        one("passed as TCP", TCP, TUNNELED),
        one("refused with 407", 8407, "refused_by_proxy 407"),
        one("refused with 403", 8403, "refused_by_proxy 403"),
        one("closed without a byte", 8000, "unreachable closed_without_reply"),
        one("a closed port", 8001, "unreachable connect_failed"),
    ]
}

/// Makes the requests through this sidecar, `rounds` times each at once, and checks that there are these reports and no others.
fn check(sidecar: Sidecar, rounds: usize) {
    let harness = Harness::with(sidecar);
    let _proxies = [
        harness.proxy(TCP, Behavior::Tunnel),
        harness.proxy(8407, Behavior::Statuses(vec![407])),
        harness.proxy(8403, Behavior::Statuses(vec![403])),
        harness.proxy(8000, Behavior::Close),
    ];
    let scenarios: Vec<Scenario> = (0..rounds).flat_map(|_| requests()).collect();
    harness.check(&scenarios);
}

/// Such a user as `OpenShift` gives a sidecar: one of the range of the namespace.
#[test]
fn sidecar_with_a_user_of_the_namespaces_range_is_observed() {
    check(Sidecar { user: Some(1_000_629_999), workers: 2, ..Sidecar::default() }, 4);
}

/// The user of a sidecar with TPROXY.
#[test]
fn sidecar_of_root_is_observed() {
    check(Sidecar { user: None, workers: 4, ..Sidecar::default() }, 4);
}

#[test]
fn sidecar_on_port_15123_is_observed() {
    check(Sidecar { port: 15123, workers: 1, ..Sidecar::default() }, 1);
}

/// A sidecar that has just been found is one for the first connection, too.
#[test]
fn first_connection_through_a_sidecar_gets_the_right_verdict() {
    let harness = Harness::with(Sidecar { user: Some(1_000_629_999), port: 15123, workers: 4 });
    let _proxy = harness.proxy(TCP, Behavior::Statuses(vec![407]));
    harness.check(&[scenario(
        "the first",
        script(TCP, vec![send(&connect("a.example:443")), answer()]),
        "refused_by_proxy 407",
    )]);
}

/// kube-proxy turns a Service's address to an endpoint: on another host, or on this one where a server uses the node's own
/// network. Neither endpoint is an interceptor.
#[test]
fn address_translation_of_a_service_makes_no_interceptor() {
    let harness = Harness::new();
    let _proxy = harness.proxy(TCP, Behavior::Tunnel);
    let service = |port| SocketAddr::new(Ipv4Addr::new(10, 96, 0, 77).into(), port);
    translate(harness.lab.outside(), service(80), proxy_addr(TCP));
    translate(harness.lab.outside(), service(81), SocketAddr::new(Ipv4Addr::new(10, 244, 1, 1).into(), TCP));
    let scripts = [80, 81].map(|port| Script::connect(service(port), "a.example:443"));
    let transcripts = harness.lab.play_in(harness.lab.other_pod(), &scripts).expect("transcripts");
    assert!(transcripts.iter().all(|transcript| transcript.status() == Some(200)), "{transcripts:?}");
    let expected =
        ["another host's endpoint", "this host's endpoint"].map(|name| (name, "direct".to_owned()));
    harness.check_reports(&expected, &scripts, &transcripts);
}

fn translate(place: &Place, from: SocketAddr, to: SocketAddr) {
    let mut command = place.command("iptables").expect("iptables");
    command.args(["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", &from.ip().to_string()]);
    command.args(["--dport", &from.port().to_string(), "-j", "DNAT", "--to-destination", &to.to_string()]);
    Process::run_checked(command, &[], std::time::Duration::from_secs(10)).expect("a rule");
    // A route, so that the source address is chosen before the translation.
    let mut route = place.command("ip").expect("ip");
    route.args(["route", "replace", &format!("{}/32", from.ip()), "dev", "eth0"]);
    Process::run_checked(route, &[], std::time::Duration::from_secs(10)).expect("a route");
}

/// The folder of the full sidecar's configuration, with its listener for redirected connections on another port.
pub(crate) fn moved_to(lab: &Lab, port: u16) -> PathBuf {
    let from = full_sidecar();
    let to = lab.make_dir("sidecar").expect("a folder");
    fs::create_dir(to.join("xds")).expect("a folder in it");
    for file in ["bootstrap.yaml", "xds/cds.yaml", "xds/lds.yaml"] {
        let text = fs::read_to_string(from.join(file)).expect("a configuration");
        let text = text.replace("port_value: 15001", &format!("port_value: {port}"));
        fs::write(to.join(file), text).expect("written");
    }
    to
}
