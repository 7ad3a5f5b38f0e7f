//! Admin ports that lie, stall or flood, and arguments that cannot be answered. Each ends in one clear sentence, in
//! bounded time and memory.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tracer::explain::{Args, Output, print};

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
        sidecar_port: vec![15001],
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
fn an_absent_admin_port_is_named() {
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
