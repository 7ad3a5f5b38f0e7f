//! What the shapes are played on, and how they are written: connections with the reports that are due on them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use lab::{
    Behaviour, Envoy, EnvoyOptions, Lab, PROXY, Script, ScriptedProxy, Step, Transcript, Watch, canonical,
    full_sidecar, key,
};
use serde_json::Value;

/// Handled as HTTP: 404.
pub(crate) const HTTP: u16 = 3128;
/// Passed as TCP.
pub(crate) const TCP: u16 = 3129;

pub(crate) const REFUSED: &str = "handled_as_http route_not_found 404";
pub(crate) const GRANTED: &str = "tunneled 200";
/// Of a request in pieces, Envoy's inspector at times makes no HTTP, and passes it on: the client knows which of the two it was.
pub(crate) const AS_INSPECTED: &str = "refused or granted";

pub(crate) struct Stage {
    envoy: Envoy,
    watch: Watch,
    pub(crate) lab: Lab,
}

/// A connection and the reports due on it, joined with commas.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) script: Script,
    pub(crate) due: &'static str,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let lab = Lab::new().expect("a lab");
        let options = EnvoyOptions { concurrency: 3, ..EnvoyOptions::default() };
        let envoy = Envoy::start(&lab, lab.sidecar(), &full_sidecar(), &options).expect("Envoy");
        let watch = Watch::start(&lab, &["--deadline", "2s"]).expect("the tracer");
        Self { envoy, watch, lab }
    }

    pub(crate) fn proxy(&self, port: u16, behaviour: Behaviour) -> ScriptedProxy {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        ScriptedProxy::start(&self.lab, any, behaviour).expect("a proxy outside")
    }

    /// Plays all at once, waits for what is due, and holds all reports against it.
    pub(crate) fn hold(self, shapes: &[Shape]) -> Vec<Value> {
        let scripts: Vec<Script> = shapes.iter().map(|shape| shape.script.clone()).collect();
        let transcripts = self.lab.play(&scripts).expect("transcripts");
        let due = |(shape, transcript): (&Shape, &Transcript)| match shape.due {
            AS_INSPECTED if transcript.status() == Some(200) => GRANTED,
            AS_INSPECTED => REFUSED,
            due => due,
        };
        let dues: Vec<(&str, String)> =
            shapes.iter().zip(&transcripts).map(|both| (both.0.name, due(both).to_owned())).collect();
        self.judge(&dues, &scripts, &transcripts)
    }

    pub(crate) fn judge(
        self,
        dues: &[(&str, String)],
        scripts: &[Script],
        transcripts: &[Transcript],
    ) -> Vec<Value> {
        let connections: Vec<_> = scripts.iter().map(|script| script.dialled).zip(transcripts).collect();
        for ((name, due), (dialled, transcript)) in dues.iter().zip(&connections) {
            let count = if due.is_empty() { 0 } else { due.split(", ").count() };
            let port = transcript.local.unwrap_or_else(|| panic!("{name}: {transcript:?}")).port();
            self.watch
                .wait(port, *dialled, count)
                .unwrap_or_else(|error| panic!("{name}: {transcript:?}: {error:#}"));
        }
        // With Envoy every connection ends, so everything that can still be reported is.
        let Self { envoy, watch, lab } = self;
        envoy.stop().expect("Envoy stops");
        watch.mark(&lab).expect("a mark");
        let mut reports = watch.reports().expect("reports");
        let (mut table, mut wrong) = (String::new(), 0);
        for ((name, due), (dialled, transcript)) in dues.iter().zip(&connections) {
            let connection = Some((transcript.local.expect("connected").port(), canonical(*dialled)));
            // A port that was given back may be given again: each takes as many as are due.
            let mut left = if due.is_empty() { usize::MAX } else { due.split(", ").count() };
            let is_own = |report: &mut Value| {
                let own = left > 0 && key(report) == connection;
                left -= usize::from(own);
                own
            };
            let own: Vec<Value> = reports.extract_if(.., is_own).collect();
            let got = own.iter().map(show).collect::<Vec<_>>().join(", ");
            let mark = if got == *due { ' ' } else { '!' };
            wrong += usize::from(got != *due);
            let _ = writeln!(table, "{mark} {name:36} {got}");
            if got != *due {
                let _ = writeln!(table, "  due: {due}\n  {transcript:?}\n  {own:#?}");
            }
        }
        for report in &reports {
            wrong += 1;
            let _ = writeln!(table, "! nobody's: {report}");
        }
        println!("{table}");
        assert_eq!(wrong, 0, "\n{table}");
        watch.tracer().reports().expect("reports")
    }
}

fn show(report: &Value) -> String {
    let mut text = report["verdict"].as_str().unwrap_or("?").to_owned();
    if let Some(reason) = report["reason"].as_str() {
        let _ = write!(text, " {reason}");
    }
    if let Some(status) = report["reply"]["status"].as_u64() {
        let _ = write!(text, " {status}");
    }
    if report["direction"] == "inbound" {
        text += " inbound";
    }
    text
}

pub(crate) fn at(port: u16) -> SocketAddr {
    SocketAddr::new(PROXY, port)
}

pub(crate) fn send(bytes: &str) -> Step {
    Step::Send { send: bytes.to_owned() }
}

pub(crate) fn answer() -> Step {
    Step::Until { until: "\r\n\r\n".to_owned() }
}

pub(crate) fn wait(ms: u64) -> Step {
    Step::Wait { wait: ms }
}

pub(crate) fn script(port: u16, steps: Vec<Step>) -> Script {
    Script { dialled: at(port), steps }
}

pub(crate) fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// The head in pieces of `size` bytes, each in a segment of its own.
pub(crate) fn pieces(head: &str, size: usize) -> Vec<Step> {
    let pieces = head.as_bytes().chunks(size);
    let mut steps: Vec<Step> =
        pieces.flat_map(|piece| [send(&String::from_utf8_lossy(piece)), wait(3)]).collect();
    steps.push(answer());
    steps
}
