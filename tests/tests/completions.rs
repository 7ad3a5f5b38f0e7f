//! Completions as bash asks for them: by the function that `complete -p` names. Values of pods and namespaces come from an agent.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lab::{Process, tracer_binary};

/// Calls the completion function of bash for the words of a command line, the last of which is completed.
const ASK: &str = r#"
source <("$TRACER" completions bash)
declaration=$(complete -p egress-tracer) || exit 9
function=${declaration##* -F }
function=${function%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
"$function" "$1" "${@: -1}" "${@: -2:1}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

fn completed(socket: &Path, words: &[&str]) -> Vec<String> {
    let mut command = Command::new("bash");
    command.args(["--noprofile", "--norc", "-c", ASK, "bash", "egress-tracer"]).args(words);
    command.env("TRACER", tracer_binary().expect("a tracer")).env("EGRESS_TRACER_SOCKET", socket);
    let ended = Process::run_checked(command, &[], Duration::from_secs(30)).expect("bash ends");
    assert_eq!(ended.stderr, "", "{words:?}");
    ended.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let nowhere = Path::new("/nowhere/agent.sock");
    for (words, wanted) in [
        (&[""][..], &["observe", "top", "explain", "status", "replay"][..]),
        (&["obs"], &["observe"]),
        (&["observe", "--verd"], &["--verdict"]),
        (&["observe", "--verdict", "tun"], &["tunneled"]),
        (&["observe", "--verdict", "!tun"], &["!tunneled"]),
        (&["observe", "--verdict", "tunneled,dir"], &["tunneled,direct"]),
        (&["top", "--verdict", "handled"], &["handled_as_http"]),
        (&["observe", "-o", ""], &["compact", "table", "json", "jsonpretty"]),
        (&["observe", "--family", "k"], &["kprobe"]),
        (&["explain", "-o", "y"], &["yaml"]),
        (&["completions", "z"], &["zsh"]),
    ] {
        let found = completed(nowhere, words);
        for value in wanted {
            assert!(found.iter().any(|one| one.trim_end() == *value), "{words:?}: no {value}: {found:?}");
        }
    }
    assert_eq!(completed(nowhere, &["observe", "--verdict", "tun"]).len(), 1);
    assert_eq!(completed(nowhere, &["observe", "-n", "sh"]), [""], "there is no agent");
}

#[test]
fn bash_completes_pods_and_namespaces_that_the_agent_has_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/gotcha.reports.jsonl");
    let reports = fs::read_to_string(traces).expect("reports");
    let mut report: serde_json::Value =
        serde_json::from_str(reports.lines().next().expect("a report")).expect("JSON");
    let source = &mut report["source"];
    (source["namespace"], source["pod"], source["workload"]) =
        ("shop".into(), "cart-7d9".into(), "cart".into());
    let mut hostile = report.clone();
    hostile["source"]["namespace"] = "$(reboot)".into();
    let body = format!("{report}\n{hostile}\n");
    let answer =
        format!("HTTP/1.1 200 OK\r\negress-tracer-api: 1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let listener = UnixListener::bind(&socket).expect("a socket");
    let asked = [
        (&["observe", "-n", ""][..], vec!["shop", "!shop"]),
        (&["observe", "-n", "!s"], vec!["!shop"]),
        (&["top", "-p", "sh"], vec!["shop/cart-7d9"]),
        (&["observe", "-w", "shop/"], vec!["shop/cart"]),
        (&["explain", "--pod", "sh"], vec!["shop/cart-7d9"]),
    ];
    let count = asked.len();
    let agent = thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().expect("a reader");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    for (words, wanted) in asked {
        let found = completed(&socket, words);
        let found: Vec<&str> = found.iter().map(|one| one.trim_end()).collect();
        assert_eq!(found, wanted, "{words:?}");
    }
    agent.join().expect("the agent ended");
}
