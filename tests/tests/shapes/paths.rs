//! Paths past the sidecar, both address families, inbound, many at once, and what must make no session.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use lab::{Behaviour, POD, PROXY, PROXY_V6, Place, Process, Script, ScriptedProxy, Step, Transcript};

use crate::stage::{GRANTED, HTTP, REFUSED, Shape, Stage, TCP, at, script, send};

/// The tunnel of a `DestinationRule`: the sidecar asks for it itself.
const TUNNEL: u16 = 3136;

#[test]
fn paths_past_the_sidecar_and_both_families() {
    let stage = Stage::new();
    let _tunnel = stage.proxy(TCP, Behaviour::Tunnel);
    let v6 = SocketAddr::new(PROXY_V6, TCP);
    let _tunnel_v6 = ScriptedProxy::start(&stage.lab, v6, Behaviour::Tunnel).expect("a proxy outside");
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), TCP);
    let _local = ScriptedProxy::start_in(stage.lab.app().netns(), local, Behaviour::Statuses(vec![404]))
        .expect("a local proxy");
    let IpAddr::V4(proxy) = PROXY else { panic!("an IPv4 address") };
    let mapped = |port| SocketAddr::new(proxy.to_ipv6_mapped().into(), port);
    let to = |dialled| Script::connect(dialled, "a.example:443");
    let reports = stage.hold(&[
        Shape { name: "127.0.0.1", script: to(local), due: "direct" },
        Shape { name: "IPv6, HTTP", script: to(SocketAddr::new(PROXY_V6, HTTP)), due: REFUSED },
        Shape { name: "IPv6, TCP", script: to(v6), due: GRANTED },
        Shape { name: "IPv4-mapped, HTTP", script: to(mapped(HTTP)), due: REFUSED },
        Shape { name: "IPv4-mapped, TCP", script: to(mapped(TCP)), due: GRANTED },
    ]);
    let proxies: Vec<String> =
        reports.iter().filter_map(|report| report["proxy"]["ip"].as_str().map(str::to_owned)).collect();
    assert_eq!(proxies.iter().filter(|ip| **ip == PROXY.to_string()).count(), 2, "{proxies:?}");
    assert_eq!(proxies.iter().filter(|ip| **ip == PROXY_V6.to_string()).count(), 2, "{proxies:?}");
}

#[test]
fn inbound_and_no_sidecar() {
    let stage = Stage::new();
    stage.lab.redirect_inbound().expect("rules");
    let _tunnel = stage.proxy(TCP, Behaviour::Tunnel);
    let behind = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), TCP);
    let _own = ScriptedProxy::start_in(stage.lab.app().netns(), behind, Behaviour::Tunnel)
        .expect("the pod's own proxy");
    let to = |ip, port| Script::connect(SocketAddr::new(ip, port), "a.example:443");
    let scripts = [to(POD, HTTP), to(POD, TCP), to(PROXY, TCP)];
    let transcripts = stage.lab.play_in(stage.lab.stranger(), &scripts).expect("transcripts");
    stage.judge(
        &[
            ("inbound, declared HTTP", format!("{REFUSED} inbound")),
            ("inbound, declared TCP", format!("{GRANTED} inbound")),
            ("no sidecar", "direct".to_owned()),
        ],
        &scripts,
        &transcripts,
    );
}

/// Whoever has no sidecar may have one of its ports for his own, where the node gives so low ones.
#[test]
fn the_apps_own_port_is_one_of_a_sidecars() {
    let stage = Stage::new();
    let _tunnel = stage.proxy(TCP, Behaviour::Tunnel);
    let script = Script::connect(at(TCP), "a.example:443");
    let transcripts = [15001, 15006].map(|port| {
        let mut command = stage.lab.outside().command("sh").expect("a shell");
        command.args(["-c", &format!("echo {port} {port} > /proc/sys/net/ipv4/ip_local_port_range")]);
        Process::run_well(command, &[], Duration::from_secs(10)).expect("one port");
        let scripts = std::slice::from_ref(&script);
        let transcript = stage.lab.play_in(stage.lab.stranger(), scripts).expect("a transcript").remove(0);
        assert_eq!(transcript.local.map(|local| local.port()), Some(port));
        transcript
    });
    let dues = ["15001", "15006"].map(|port| (port, "direct".to_owned()));
    stage.judge(&dues, &[script.clone(), script], &transcripts);
}

#[test]
fn what_makes_no_session() {
    let stage = Stage::new();
    let _tunnel = stage.proxy(TCP, Behaviour::Tunnel);
    let _http = stage.proxy(HTTP, Behaviour::Tunnel);
    let hello = "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0";
    let one = |name, port, bytes: &str| Shape {
        name,
        script: script(port, vec![send(bytes), Step::Resp { resp: 600 }]),
        due: "",
    };
    let own = Script::connect(at(TCP), "sidecar.example:443");
    let sidecar = stage.lab.play_in(stage.lab.sidecar(), &[own]).expect("a transcript").remove(0);
    assert_eq!(sidecar.status(), Some(200), "{sidecar:?}");
    stage.hold(&[
        one("TLS, HTTP listener", HTTP, hello),
        one("TLS, TCP", TCP, hello),
        one("SOCKS 5", TCP, "\u{5}\u{1}\0"),
        one("origin-form, HTTP listener", HTTP, "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        one("origin-form, TCP", TCP, "POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"),
        one("TLS, which Envoy itself tunnels", TUNNEL, hello),
        one("a word that begins like CONNECT", TCP, "CONNECTED to nothing\r\n\r\n"),
        one("HTTP/2", TCP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"),
    ]);
}

#[test]
fn a_connect_through_a_tunnel_of_the_sidecars_own() {
    let stage = Stage::new();
    let script = Script::connect(at(TUNNEL), "a.example:443");
    let silent = Script { steps: vec![script.steps[0].clone(), Step::Resp { resp: 3000 }], ..script.clone() };
    let (mut dues, mut scripts, mut transcripts) = (Vec::new(), Vec::new(), Vec::new());
    for (name, behaviour, script, due) in [
        ("granted inside", Behaviour::Through(vec![200]), &script, GRANTED),
        ("refused inside", Behaviour::Through(vec![404]), &script, "refused_by_proxy 404"),
        ("tunnel refused", Behaviour::Statuses(vec![407]), &silent, "unreachable closed_without_reply"),
    ] {
        // One after the other on the port to which the sidecar's tunnel goes.
        let _proxy = stage.proxy(TCP, behaviour);
        transcripts.extend(stage.lab.play(std::slice::from_ref(script)).expect("a transcript"));
        scripts.push(script.clone());
        dues.push((name, due.to_owned()));
    }
    stage.judge(&dues, &scripts, &transcripts);
}

#[test]
fn two_apps_and_many_targets() {
    let stage = Stage::new();
    let _tunnel = stage.proxy(TCP, Behaviour::Tunnel);
    let ips = [PROXY, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 99))];
    let scripts: Vec<Script> = (0..150)
        .map(|n| {
            let dialled = SocketAddr::new(ips[n % ips.len()], if n % 2 == 0 { HTTP } else { TCP });
            // The same names again and again: only their connections tell them apart.
            Script::connect(dialled, &format!("target-{}.example:443", n % 5))
        })
        .collect();
    let app: &Place = stage.lab.app();
    let both: Vec<Transcript> = thread::scope(|scope| {
        let apps = [(); 2].map(|()| scope.spawn(|| stage.lab.play_in(app, &scripts).expect("transcripts")));
        apps.into_iter().flat_map(|app| app.join().expect("an app")).collect()
    });
    let dues: Vec<(&str, String)> = (0..300)
        .map(|n| ("one of many", if n % 150 % 2 == 0 { REFUSED.to_owned() } else { GRANTED.to_owned() }))
        .collect();
    stage.judge(&dues, &[scripts.clone(), scripts.clone()].concat(), &both);
}
