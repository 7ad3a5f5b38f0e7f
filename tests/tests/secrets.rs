//! Secrets and control characters of the app appear in no output: stdout in every format, the report file, the
//! recording, the metrics, and the log at level `trace`.

use std::fs;

use lab::{
    Behavior, Envoy, Lab, Script, ScriptedProxy, Squid, SquidPolicy, Step, TARGET, Tracer, TracerWatch,
    full_sidecar, latin1_text, proxy_addr,
};

const HTTP: u16 = 3128;
const TCP: u16 = 3129;
/// The password of `user:hunter2secret`, its Basic authentication, a cookie, a token in a query and in a header,
/// another cookie, and a path.
const SECRETS: &[&str] = &["hunter2", "dXNlcjpodW50ZXIyc2VjcmV0", "c00kie", "t0ken", "sess1on", "pr1vate"];

/// Places in which a redactor that looks for secrets misses them. An allow-list has none.
const EVASIONS: [&str; 12] = [
    "CONNECT u:hunter2/t0ken@www.example.com:443 HTTP/1.1\r\n\r\n",
    "CONNECT u:hunter2#t0ken@www.example.com:443 HTTP/1.1\r\n\r\n",
    "CONNECT u%3Ahunter2%40www.example.com:443 HTTP/1.1\r\n\r\n",
    "CONNECT www.example.com;token=t0ken:443 HTTP/1.1\r\n\r\n",
    "CONNECT  u:hunter2@www.example.com:443 HTTP/1.1\r\n\r\n",
    "GET http://u:hunter2/t0ken@www.example.com/ HTTP/1.1\r\n\r\n",
    "GET http://u:hunter2#t0ken@www.example.com/ HTTP/1.1\r\n\r\n",
    "CONNECT www.example.com:443 HTTP/1.1\r\nhunter2\r\n\r\n",
    "CONNECT www.example.com:443 HTTP/1.1\rCookie: c00kie\r\n\r\n",
    "CONNECT www.example.com:443 HTTP/1.1\r\nHost: a\rCookie: c00kie\r\n\r\n",
    "CONNECT www.example.com:443 HTTP/1.1\r\nUser-Agent: curl/8 t0ken\r\nVia: 1.1 hunter2\r\n\r\n",
    "CONNECT www.example.com:443 HTTP/1.1\r\nUser-Agent: t0ken\r\nServer: hunter2\r\n\r\n",
];

/// Everything that a tracer wrote, each with its name.
fn all_output(lab: &Lab, watch: TracerWatch) -> Vec<(&'static str, String)> {
    watch.mark(lab).expect("a mark");
    let metrics = watch.tracer().metrics().expect("metrics");
    let reports = watch.tracer().report_lines().text();
    let ended = watch.into_tracer().stop().expect("stops");
    assert!(ended.status.success(), "{ended:?}");
    let recording = fs::read(lab.dir().join("recording")).expect("a recording");
    fs::remove_file(lab.dir().join("recording")).expect("removed");
    fs::remove_file(lab.dir().join("reports")).expect("removed");
    vec![
        ("stdout", ended.stdout),
        ("stderr", ended.stderr),
        ("metrics", metrics),
        ("the report file", reports),
        ("the recording", String::from_utf8(recording).expect("UTF-8")),
    ]
}

fn start(lab: &Lab, format: &str) -> TracerWatch {
    let recording = lab.dir().join("recording").display().to_string();
    let args = ["--deadline", "2s", "--color", "never", "--explain", "--record", &recording];
    TracerWatch::with(lab, Tracer::start_verbose(lab, format, &args).expect("the tracer")).expect("a beacon")
}

fn raw(port: u16, bytes: &str) -> Script {
    let steps = vec![Step::Send { send: bytes.to_owned() }, Step::Resp { resp: 1000 }];
    Script { dialed: proxy_addr(port), steps }
}

#[test]
fn credentials_cookies_and_paths_are_in_no_output() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let policy = SquidPolicy {
        hosts: vec![("www.example.com".to_owned(), TARGET.to_string())],
        denied: Vec::new(),
        credentials: Some(("user".to_owned(), "hunter2secret".to_owned())),
    };
    let _squid = Squid::start(&lab, proxy_addr(TCP), &policy).expect("squid");
    let headers = "Proxy-Authorization: Basic dXNlcjpodW50ZXIyc2VjcmV0\r\nCookie: id=c00kie\r\nX-Api-Key: t0ken\r\n\
                   Proxy-Authorization: Basic\r\n dXNlcjpodW50ZXIyc2VjcmV0\r\n\r\n";
    for format in ["compact", "table", "json", "jsonpretty"] {
        let watch = start(&lab, format);
        for port in [HTTP, TCP] {
            let proxy = format!("http://user:hunter2secret@{}", proxy_addr(port));
            for url in ["https://www.example.com/pr1vate", "http://u:hunter2@www.example.com/pr1vate?x=t0ken"]
            {
                let args = ["-s", "-m", "5", "-b", "id=c00kie", "-H", "X-Api-Key: t0ken", "-x", &proxy, url];
                lab.run_app("curl", &args).expect("curl runs");
            }
            let connect = format!("CONNECT www.example.com:443 HTTP/1.1\r\n{headers}");
            let inline = format!("CONNECT u:hunter2@www.example.com:443 HTTP/1.1\r\n{headers}");
            let absolute = format!(
                "POST http://www.example.com?t0ken HTTP/1.1\r\nSet-Cookie: sess1on\r\n{headers}t0ken"
            );
            let pipelined = format!("{connect}GET http://u:hunter2@h/pr1vate HTTP/1.1\r\n{headers}");
            let pieces = connect.as_bytes().chunks(7).map(latin1_text).collect::<Vec<_>>();
            let mut steps: Vec<Step> = Vec::new();
            for piece in pieces {
                steps.extend([Step::Send { send: piece }, Step::Wait { wait: 2 }]);
            }
            steps.push(Step::Resp { resp: 1000 });
            let scripts = [
                raw(port, &connect),
                raw(port, &inline),
                raw(port, &absolute),
                raw(port, &pipelined),
                Script { dialed: proxy_addr(port), steps },
            ];
            lab.play(&scripts).expect("transcripts");
            let long = format!("CONNECT u:{}@www.example.com:443 HTTP/1.1\r\n\r\n", "hunter2".repeat(100));
            let evasions = EVASIONS.iter().copied().chain([long.as_str()]);
            let split = |head: &str| {
                let (one, two) = head.split_at(head.len() / 2);
                let send = |text: &str| Step::Send { send: text.to_owned() };
                let steps = vec![send(one), Step::Wait { wait: 2 }, send(two), Step::Resp { resp: 1000 }];
                Script { dialed: proxy_addr(port), steps }
            };
            let scripts: Vec<Script> = evasions.flat_map(|head| [raw(port, head), split(head)]).collect();
            lab.play(&scripts).expect("transcripts");
        }
        let outputs = all_output(&lab, watch);
        for (place, text) in &outputs {
            for secret in SECRETS {
                assert!(!text.contains(secret), "{secret} is in {place} ({format}):\n{text}");
            }
        }
        let reports = &outputs[3].1;
        for seen in [
            "www.example.com:443",
            "\"handled_as_http\"",
            "\"refused_by_proxy\"",
            "\"absolute_form_rewritten\"",
        ] {
            assert!(reports.contains(seen), "no {seen} ({format}): nothing could have leaked:\n{reports}");
        }
    }
    envoy.stop().expect("Envoy stops");
}

#[test]
fn control_characters_from_the_wire_are_escaped_in_every_output() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let _tunnel = ScriptedProxy::start(&lab, proxy_addr(TCP), Behavior::Tunnel).expect("a proxy outside");
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[31m";
    let heads = [
        format!("CONNECT {evil}:443 HTTP/1.1\r\nUser-Agent: {evil}\r\n\r\n"),
        "CONNECT a\0b\u{ff}\u{fe}\u{c3}:443 HTTP/1.1\r\nUser-Agent: \0\u{80}\r\n\r\n".to_owned(),
        "CONNECT \u{9b}31m\u{85}\u{e2}\u{80}\u{ae}:443 HTTP/1.1\r\n\r\n".to_owned(),
        format!("CONNECT {}:443 HTTP/1.1\r\n\r\n", "a".repeat(65_536)),
        format!("GET http://{}/ HTTP/1.1\r\n\r\n", "\u{1b}".repeat(65_536)),
        "CONNECT a:443 HTTP/1.1\r\nUser-Agent: x".to_owned(),
        "CONNECT a:443 HT".to_owned(),
        "CONNECT ".to_owned(),
        "CONNECT\r\n\r\n".to_owned(),
        "CONNECT  \t a:443   HTTP/1.1\r\n\r\n".to_owned(),
        "CONNECT a:443 HTTP/9.9\r\n\r\n".to_owned(),
        "CONNECT a:443 HTTP/1.1\r\n: :\r\n:::\r\n\r\n".to_owned(),
        (0..=255).map(char::from).collect(),
        (0..=255).map(char::from).cycle().take(70_000).collect(),
        format!("CONNECT {}", (0..=255).map(char::from).filter(|c| *c != '\n').collect::<String>()),
        "\n\n\n\n".to_owned(),
    ];
    for format in ["compact", "table", "json", "jsonpretty"] {
        let watch = start(&lab, format);
        let scripts: Vec<Script> =
            heads.iter().flat_map(|head| [raw(HTTP, head), raw(TCP, head), raw(4000, head)]).collect();
        lab.play(&scripts).expect("transcripts");
        let outputs = all_output(&lab, watch);
        for (place, text) in &outputs {
            let raw =
                text.chars().find(|c| c.is_control() && *c != '\n' || !c.is_ascii() && !"✗…─═▶".contains(*c));
            // A recording is JSON: it escapes control characters, and writes other characters beyond ASCII as they are.
            let raw = raw.filter(|c| *place != "the recording" || c.is_control() && u32::from(*c) < 0x80);
            assert_eq!(raw, None, "in {place} ({format}):\n{text}");
            assert!(!text.contains("panicked"), "{place} ({format}):\n{text}");
        }
        assert!(outputs[3].1.contains("\"authority\":\"**"), "no masked authority: {}", outputs[3].1);
    }
    envoy.stop().expect("Envoy stops");
}
