//! A report names the program that sent the request. Process and thread id stay the same over `execve(2)`, so what was known of
//! them before no longer holds.

use std::time::Duration;

use lab::{Envoy, Lab, PROXY, Tracer, full_sidecar};

/// Dials and sends a CONNECT, which the sidecar answers.
const CLIENT: &str = "import socket, sys
s = socket.create_connection((sys.argv[1], 3128))
s.sendall(b'CONNECT a.example:443 HTTP/1.1\\r\\nHost: a.example:443\\r\\n\\r\\n')
s.recv(1)";

#[test]
fn report_names_the_program_that_replaced_the_shell_which_had_dialed_before() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let tracer = Tracer::start(&lab, &["--deadline", "5s"]).expect("a tracer");
    let script = "exec 3<>/dev/tcp/$0/3128; exec 3>&-; exec python3 -c \"$1\" \"$0\"";
    let ended = lab.run_app("bash", &["-c", script, &PROXY.to_string(), CLIENT]).expect("it ends");
    assert!(ended.status.success(), "{ended:?}");
    let reports = tracer.wait_reports(1, Duration::from_mins(1)).expect("a report");
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0]["connect"]["authority"], "a.example:443", "{reports:?}");
    assert_eq!(reports[0]["source"]["comm"], "python3", "{reports:?}");
}
