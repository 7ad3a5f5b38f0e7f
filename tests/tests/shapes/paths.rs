//! Connections that do not pass the sidecar, both address families, inbound connections, many at once, and bytes that make no
//! session.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use lab::{
    Behavior, POD, PROXY, PROXY_V6, Place, Process, ROUTE_NOT_FOUND, Script, ScriptedProxy, Step, TUNNELED,
    Transcript, proxy_addr,
};

use crate::harness::{HTTP, Harness, TCP, scenario, script, send};

/// A `DestinationRule` has a tunnel for this port: the sidecar sends a CONNECT of its own.
const TUNNEL: u16 = 3136;

#[test]
fn loopback_ipv6_and_mapped_addresses_are_reported() {
    let harness = Harness::new();
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    let v6 = SocketAddr::new(PROXY_V6, TCP);
    let _tunnel_v6 = ScriptedProxy::start(&harness.lab, v6, Behavior::Tunnel).expect("a proxy outside");
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), TCP);
    let _local = ScriptedProxy::start_in(harness.lab.app().netns(), local, Behavior::Statuses(vec![404]))
        .expect("a local proxy");
    let IpAddr::V4(proxy) = PROXY else { panic!("an IPv4 address") };
    let mapped = |port| SocketAddr::new(proxy.to_ipv6_mapped().into(), port);
    let to = |dialed| Script::connect(dialed, "a.example:443");
    let reports = harness.check(&[
        scenario("127.0.0.1", to(local), "direct"),
        scenario("IPv6, HTTP", to(SocketAddr::new(PROXY_V6, HTTP)), ROUTE_NOT_FOUND),
        scenario("IPv6, TCP", to(v6), TUNNELED),
        scenario("IPv4-mapped, HTTP", to(mapped(HTTP)), ROUTE_NOT_FOUND),
        scenario("IPv4-mapped, TCP", to(mapped(TCP)), TUNNELED),
    ]);
    let proxies: Vec<String> =
        reports.iter().filter_map(|report| report["proxy"]["ip"].as_str().map(str::to_owned)).collect();
    assert_eq!(proxies.iter().filter(|ip| **ip == PROXY.to_string()).count(), 2, "{proxies:?}");
    assert_eq!(proxies.iter().filter(|ip| **ip == PROXY_V6.to_string()).count(), 2, "{proxies:?}");
}

#[test]
fn inbound_and_unintercepted_connections_are_reported() {
    let harness = Harness::new();
    harness.lab.redirect_inbound().expect("rules");
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    let behind = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), TCP);
    let _own = ScriptedProxy::start_in(harness.lab.app().netns(), behind, Behavior::Tunnel)
        .expect("the pod's own proxy");
    let to = |ip, port| Script::connect(SocketAddr::new(ip, port), "a.example:443");
    let scripts = [to(POD, HTTP), to(POD, TCP), to(PROXY, TCP)];
    let transcripts = harness.lab.play_in(harness.lab.other_pod(), &scripts).expect("transcripts");
    harness.check_reports(
        &[
            ("inbound, declared HTTP", format!("{ROUTE_NOT_FOUND} inbound")),
            ("inbound, declared TCP", format!("{TUNNELED} inbound")),
            ("no sidecar", "direct".to_owned()),
        ],
        &scripts,
        &transcripts,
    );
}

/// An app without a sidecar may get one of the sidecar's port numbers as its own, where the node's ephemeral range is that low.
#[test]
fn app_whose_source_port_is_a_sidecar_port_is_direct() {
    let harness = Harness::new();
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    let script = Script::connect(proxy_addr(TCP), "a.example:443");
    let transcripts = [15001, 15006].map(|port| {
        let mut command = harness.lab.outside().command("sh").expect("a shell");
        command.args(["-c", &format!("echo {port} {port} > /proc/sys/net/ipv4/ip_local_port_range")]);
        Process::run_checked(command, &[], Duration::from_secs(10)).expect("one port");
        let scripts = std::slice::from_ref(&script);
        let transcript =
            harness.lab.play_in(harness.lab.other_pod(), scripts).expect("a transcript").remove(0);
        assert_eq!(transcript.local.map(|local| local.port()), Some(port));
        transcript
    });
    let expectations = ["15001", "15006"].map(|port| (port, "direct".to_owned()));
    harness.check_reports(&expectations, &[script.clone(), script], &transcripts);
}

/// A program beside the sidecar, such as one that `kubectl exec` starts in its container, has its user and is not redirected.
#[test]
fn request_of_another_process_of_the_sidecars_user_is_direct() {
    let harness = Harness::new();
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    // The sidecar itself is known by then.
    let scripts = [Script::connect(proxy_addr(TCP), "a.example:443")];
    let app = harness.lab.play(&scripts).expect("a transcript").remove(0);
    let beside = harness.lab.play_in(harness.lab.sidecar(), &scripts).expect("a transcript").remove(0);
    assert_eq!(beside.status(), Some(200), "{beside:?}");
    harness.check_reports(
        &[("the app", TUNNELED.to_owned()), ("beside the sidecar", "direct".to_owned())],
        &[scripts.clone(), scripts].concat(),
        &[app, beside],
    );
}

#[test]
fn bytes_that_are_no_request_to_a_proxy_make_no_report() {
    let harness = Harness::new();
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    let _http = harness.proxy(HTTP, Behavior::Tunnel);
    let hello = "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0";
    let one = |name, port, bytes: &str| {
        scenario(name, script(port, vec![send(bytes), Step::Resp { resp: 600 }]), "")
    };
    harness.check(&[
        one("TLS, HTTP listener", HTTP, hello),
        one("TLS, TCP", TCP, hello),
        one("SOCKS 5", TCP, "\u{5}\u{1}\0"),
        one("origin-form, HTTP listener", HTTP, "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        one("origin-form, TCP", TCP, "POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"),
        one("TLS, tunneled by Envoy", TUNNEL, hello),
        one("a word that begins with CONNECT", TCP, "CONNECTED to nothing\r\n\r\n"),
        one("HTTP/2", TCP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"),
    ]);
}

#[test]
fn connect_through_a_tunnel_that_the_sidecar_opened_is_reported() {
    let harness = Harness::new();
    let script = Script::connect(proxy_addr(TUNNEL), "a.example:443");
    let silent = Script { steps: vec![script.steps[0].clone(), Step::Resp { resp: 3000 }], ..script.clone() };
    let (mut expectations, mut scripts, mut transcripts) = (Vec::new(), Vec::new(), Vec::new());
    for (name, behavior, script, report) in [
        ("granted inside", Behavior::Through(vec![200]), &script, "undetermined rewritten 200"),
        ("refused inside", Behavior::Through(vec![404]), &script, "undetermined rewritten 404"),
        ("tunnel refused", Behavior::Statuses(vec![407]), &silent, "undetermined rewritten"),
    ] {
        // One after the other: all use the port to which the sidecar's tunnel goes.
        let _proxy = harness.proxy(TCP, behavior);
        transcripts.extend(harness.lab.play(std::slice::from_ref(script)).expect("a transcript"));
        scripts.push(script.clone());
        expectations.push((name, report.to_owned()));
    }
    harness.check_reports(&expectations, &scripts, &transcripts);
}

#[test]
fn reports_of_two_apps_with_the_same_authorities_are_kept_apart() {
    let harness = Harness::new();
    let _tunnel = harness.proxy(TCP, Behavior::Tunnel);
    let ips = [PROXY, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 99))];
    let scripts: Vec<Script> = (0..150)
        .map(|n| {
            let dialed = SocketAddr::new(ips[n % ips.len()], if n % 2 == 0 { HTTP } else { TCP });
            // Few authorities, so only the connections tell the reports apart.
            Script::connect(dialed, &format!("target-{}.example:443", n % 5))
        })
        .collect();
    let app: &Place = harness.lab.app();
    let both: Vec<Transcript> = thread::scope(|scope| {
        let apps = [(); 2].map(|()| scope.spawn(|| harness.lab.play_in(app, &scripts).expect("transcripts")));
        apps.into_iter().flat_map(|app| app.join().expect("an app")).collect()
    });
    let expectations: Vec<(&str, String)> = (0..300)
        .map(|n| {
            ("one of many", if n % 150 % 2 == 0 { ROUTE_NOT_FOUND.to_owned() } else { TUNNELED.to_owned() })
        })
        .collect();
    harness.check_reports(&expectations, &[scripts.clone(), scripts.clone()].concat(), &both);
}
