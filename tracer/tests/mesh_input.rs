//! Bad input: dumps that are cut off, hostile or deep, and admin ports that lie, stall or flood. Each ends in one clear
//! sentence, in bounded time and memory.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tracer::explain::{Args, Output, print};
use tracer_mesh::{Dump, decide, explain};

const CONNECT: &[u8] = tracer_mesh::CURL_CONNECT;

fn case() -> String {
    let case = "/../tests/cases/c01_unrelated_http_service_same_port/config_dump.json";
    std::fs::read_to_string(format!("{}{case}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn error(text: &str) -> String {
    match Dump::load(text.to_owned())
        .and_then(|dump| decide(&dump, "10.0.0.1:3128".parse().unwrap(), CONNECT))
    {
        Ok(decision) => panic!("{decision:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn text_that_is_no_dump_is_an_error() {
    for (text, expected) in [
        ("", "not a config dump: EOF"),
        ("not json", "not a config dump: expected"),
        ("{\"configs\": [", "not a config dump: EOF"),
        ("{}", "holds no listener"),
        ("[]", "holds no listener"),
        ("null", "holds no listener"),
        ("{\"configs\": 7}", "holds no listener"),
        ("{\"configs\": [1, \"a\", null, {\"@type\": 4}]}", "holds no listener"),
        (
            "{\"configs\": [{\"@type\": \"x.ListenersConfigDump\", \"dynamic_listeners\": {\"a\": 1}}]}",
            "no listener for",
        ),
    ] {
        let found = error(text);
        assert!(found.contains(expected), "{text}: {found}");
        assert!(!found.contains('\n'), "{found}");
    }
    assert!(Dump::from_bytes(vec![b'{', 0xff]).unwrap_err().to_string().contains("from byte 1"));
}

#[test]
fn every_cut_of_a_dump_is_an_error_and_nothing_panics() {
    let text = case();
    for end in (0..text.len()).step_by(97) {
        assert!(Dump::load(text[..end].to_owned()).is_err(), "cut at {end}");
    }
}

#[test]
fn members_of_a_wrong_type_are_left_out() {
    // Each scalar in turn becomes another type; whatever is decided then, nothing panics.
    let text = case();
    let to = "10.0.0.1:3128".parse().unwrap();
    let mut tried = 0;
    for (at, _) in text.match_indices(": \"").step_by(3) {
        let Some(end) = text[at + 3..].find('"') else { continue };
        for value in ["7", "null", "[]", "{}", "true"] {
            let changed = format!("{}: {value}{}", &text[..at], &text[at + 3 + end + 1..]);
            if let Ok(dump) = Dump::load(changed) {
                let _ = explain(&dump, &[to], CONNECT);
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn depth_is_bounded() {
    let deep = "[".repeat(2_000_000);
    assert!(error(&deep).starts_with("not a config dump"));
    // Deep inside the listener that the decision needs: the parser's own limit, named with the place.
    let nest = format!("{}1{}", "[".repeat(400), "]".repeat(400));
    let text = case().replacen(
        "\"stat_prefix\": \"outbound_0.0.0.0_3128;\"",
        &format!("\"stat_prefix\": {nest}"),
        1,
    );
    let found = error(&text);
    assert!(found.contains("listener 0.0.0.0_3128") && found.contains("recursion limit"), "{found}");
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let text = case().replace("web.shop.svc.cluster.local", "web\\u001b[31m.shop.svc.\\u202ex");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.json");
    std::fs::write(&path, text).unwrap();
    for output in [Output::Text, Output::Yaml] {
        let mut out = Vec::new();
        print(&Args { output, ..args(Some(path.clone()), None, 0) }, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out}");
    }
}

fn args(config_dump: Option<std::path::PathBuf>, pid: Option<u32>, admin_port: u16) -> Args {
    let to = vec!["10.0.0.1:3128".parse().unwrap()];
    Args {
        to,
        config_dump,
        pid,
        pod: None,
        runtime_endpoint: None,
        head: None,
        admin_port,
        output: Output::Text,
    }
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
    let error = print(&args(None, Some(std::process::id()), port), &mut Vec::new()).unwrap_err();
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
    assert!(error.contains("within 15 s"), "{error}");
    assert!(time < Duration::from_secs(20), "{time:?}");
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
fn nobody_there_is_said_so() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = print(&args(None, Some(std::process::id()), port), &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("cannot reach the sidecar's admin port"), "{error:#}");
    let gone = print(&args(None, Some(u32::MAX - 1), port), &mut Vec::new()).unwrap_err();
    assert!(format!("{gone:#}").contains("is it still running"), "{gone:#}");
}

#[test]
fn a_pod_needs_a_runtime() {
    let pod = Args { pod: Some("shop/cart-7d9".to_owned()), ..args(None, None, 15000) };
    let error = format!("{:#}", print(&pod, &mut Vec::new()).unwrap_err());
    assert!(error.contains("--pid") && error.contains("shop/cart-7d9"), "{error}");
}
