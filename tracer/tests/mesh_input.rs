//! Admin ports that lie, stall or flood, and arguments that cannot be answered. Each ends in one clear sentence, in
//! bounded time and memory.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser as _;
use tracer::explain::{Args, print};

/// The command's arguments, parsed as the command line is.
#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(source: &[&str]) -> Args {
    let words = ["explain", "--to", "10.0.0.1:3128"].into_iter().chain(source.iter().copied());
    Cli::parse_from(words).args
}

fn at_port(pid: u32, port: u16) -> Args {
    args(&["--pid", &pid.to_string(), "--admin-port", &port.to_string()])
}

/// Asks an admin port that `serve` plays, in this process's own namespace.
fn ask(serve: impl Fn(std::net::TcpStream) + Send + 'static) -> (String, Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    let start = Instant::now();
    let error = print(&at_port(std::process::id(), port), &mut Vec::new()).unwrap_err();
    (format!("{error:#}"), start.elapsed())
}

fn read_request(stream: &mut std::net::TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
}

#[test]
fn an_admin_port_that_lies_is_an_error() {
    for (answer, expected) in [
        ("HTTP/1.1 301 Moved\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n", "redirect"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", "broke off"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "holds no listener"),
        ("SSH-2.0-server\r\n", "failed"),
        ("", "failed"),
    ] {
        let (error, _) = ask(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        });
        assert!(error.contains(expected) && !error.contains('\n'), "{answer:?}: {error}");
    }
}

#[test]
fn an_admin_port_that_never_answers_is_given_up() {
    let (error, time) = ask(|mut stream| {
        read_request(&mut stream);
        std::mem::forget(stream);
    });
    assert!(error.contains("answers nothing within 2 s"), "{error}");
    assert!(time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn a_body_without_end_is_cut_off() {
    let (error, _) = ask(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n");
        let chunk = vec![b' '; 1 << 20];
        while stream.write_all(&chunk).is_ok() {}
    });
    assert!(error.contains("larger than 268435456 bytes"), "{error}");
}

#[test]
fn an_absent_admin_port_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = print(&at_port(std::process::id(), port), &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("cannot reach the sidecar's admin port"), "{error:#}");
    let gone = print(&at_port(u32::MAX - 1, port), &mut Vec::new()).unwrap_err();
    assert!(format!("{gone:#}").contains("is it still running"), "{gone:#}");
}

#[test]
fn a_pod_needs_a_runtime() {
    let pod = args(&["--pod", "shop/cart-7d9"]);
    let error = format!("{:#}", print(&pod, &mut Vec::new()).unwrap_err());
    assert!(error.contains("--pid") && error.contains("shop/cart-7d9"), "{error}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn case() -> PathBuf {
    root().join("cases/c01_unrelated_http_service_same_port/config_dump.json")
}

fn answer(source: &[&str]) -> serde_json::Value {
    let mut out = Vec::new();
    let source: Vec<&str> = source.iter().copied().chain(["-o", "json"]).collect();
    print(&args(&source), &mut out).unwrap_or_else(|error| panic!("{source:?}: {error:#}"));
    serde_json::from_slice(&out).unwrap()
}

fn refusal(source: &[&str]) -> String {
    let error = format!("{:#}", print(&args(source), &mut Vec::new()).unwrap_err());
    assert!(!error.contains('\n'), "{error}");
    error
}

/// The answer without what depends on the form of the input.
fn conclusion(mut answer: serde_json::Value) -> serde_json::Value {
    let members = answer.as_object_mut().unwrap();
    members.remove("subject");
    members.remove("assumed");
    answer
}

#[test]
fn every_form_of_one_configuration_gives_the_same_answer() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let json = std::fs::read(case()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&json).unwrap();
    let gzip = gzip.finish().unwrap();
    let yaml = std::fs::read(root().join("dumps/istioctl/all.yaml")).unwrap();
    let wanted = answer(&["--config-dump", &case().display().to_string()]);
    assert_eq!(wanted["reason"], "route_not_found");
    let wanted = conclusion(wanted);
    for path in [file("dump.json.gz", &gzip), file("dump.yaml", &yaml), file("no-extension", &gzip)] {
        assert_eq!(conclusion(answer(&["--config-dump", &path])), wanted, "{path}");
    }
    for form in ["json", "yaml"] {
        let parts = ["listeners", "routes", "clusters", "bootstrap"]
            .map(|part| root().join(format!("dumps/istioctl/{part}.{form}")).display().to_string());
        let source: Vec<&str> = parts.iter().flat_map(|part| ["--config-dump", part]).collect();
        assert_eq!(conclusion(answer(&source)), wanted, "{form}");
    }
}

#[test]
fn part_that_is_not_given_makes_the_answer_uncertain() {
    let listeners = root().join("dumps/istioctl/listeners.json").display().to_string();
    let found = answer(&["--config-dump", &listeners]);
    assert_eq!(found["certain"], false, "{found}");
    assert!(found["assumed"]["redirect"].is_string(), "{found}");
    let routes = root().join("dumps/istioctl/routes.yaml").display().to_string();
    let error = refusal(&["--config-dump", &routes]);
    assert!(error.contains("holds routes and no listeners") && error.contains("routes.yaml"), "{error}");
}

/// A bug report with these dumps, by the pods' names.
fn bug_report(dumps: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    let mut add = |path: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len()).unwrap());
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    add("bug-report/cluster/events".to_owned(), b"nothing");
    for (pod, bytes) in dumps {
        add(format!("bug-report/proxies/{pod}/config_dump?include_eds"), bytes);
        add(format!("bug-report/proxies/{pod}/stats_prometheus"), b"a 1");
    }
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn pod_of_a_bug_report_is_chosen_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bug-report.tar.gz");
    let broken = std::fs::read(case()).unwrap();
    let fine = std::fs::read(root().join("cases/c02_no_listener_allow_any/config_dump.json")).unwrap();
    std::fs::write(&path, bug_report(&[("shop/cart-1", &broken), ("bank/teller-1", &fine)])).unwrap();
    let path = path.display().to_string();
    assert_eq!(answer(&["--config-dump", &path, "--pod", "shop/cart-1"])["verdict"], "handled_as_http");
    assert_eq!(answer(&["--config-dump", &path, "--pod", "bank/teller-1"])["verdict"], "tunneled");
    let error = refusal(&["--config-dump", &path]);
    assert!(error.contains("has 2 dumps") && error.contains("shop/cart-1"), "{error}");
    let error = refusal(&["--config-dump", &path, "--pod", "shop/web-1"]);
    assert!(error.contains("no dump of pod shop/web-1") && error.contains("bank/teller-1"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.tar.gz");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let error = refusal(&["--config-dump", &cut.display().to_string(), "--pod", "shop/cart-1"]);
    assert!(error.contains("cut short"), "{error}");
}

#[test]
fn file_that_is_no_configuration_is_named_with_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(case()).unwrap();
    let ztunnel = br#"{"workloads": [], "services": [{"name": "squid", "namespace": "infra", "waypoint": {"destination": "infra/wp"}}]}"#;
    for (name, bytes, words) in [
        ("empty", &b""[..], "is empty"),
        ("cut.json", &whole[..whole.len() / 2], "is cut short"),
        ("table.txt", b"NAME  DOMAINS\n3128  *\n", "begins with `NAME"),
        (
            "object.yaml",
            b"apiVersion: v1\nkind: Service\nmetadata: {name: web}\n",
            "Kubernetes object (Service)",
        ),
        ("ztunnel.json", ztunnel, "is a ztunnel's dump"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0", "is binary"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = refusal(&["--config-dump", &path.display().to_string()]);
        assert!(error.contains(words) && error.contains(name), "{name}: {error}");
    }
    let error = refusal(&["--config-dump", &dir.path().join("absent").display().to_string()]);
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn one_address_that_cannot_be_answered_leaves_the_others() {
    let source =
        ["--config-dump", &case().display().to_string(), "--to", "no-such-host.invalid:3128", "-o", "json"];
    let mut out = Vec::new();
    let code = print(&args(&source), &mut out).unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::FAILURE));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["verdict"], "handled_as_http");
    assert!(lines[1]["error"].as_str().unwrap().contains("no-such-host.invalid"), "{}", lines[1]);
    let error = refusal(&["--config-dump", &case().display().to_string(), "--fix", "9", "-o", "yaml"]);
    assert!(error.contains("there is no fix 9"), "{error}");
}
