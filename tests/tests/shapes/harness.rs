//! A pod with a real Envoy of three workers and a tracer, and the check of all reports on the connections that a test makes.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use lab::{
    Behavior, Envoy, EnvoyOptions, Lab, Script, ScriptedProxy, Step, TracerWatch, Transcript,
    canonical_address, connection_key, proxy_addr, report_summary, resolve_expected,
};
use serde_json::Value;

use crate::interceptors::moved_to;

/// A port whose HTTP listener answers 404.
pub(crate) const HTTP: u16 = 3128;
/// A port that passes as TCP.
pub(crate) const TCP: u16 = 3129;

pub(crate) struct Harness {
    envoy: Envoy,
    watch: TracerWatch,
    pub(crate) lab: Lab,
}

/// A connection and the reports that are expected on it, as [`report_summary`] writes them, joined with `, `.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) script: Script,
    pub(crate) expected: &'static str,
}

pub(crate) fn scenario(name: &'static str, script: Script, expected: &'static str) -> Scenario {
    Scenario { name, script, expected }
}

/// The pod's sidecar: its user (`None`: root), the port to which connections are redirected, and its number of workers.
#[derive(Clone, Copy)]
pub(crate) struct Sidecar {
    pub(crate) user: Option<u32>,
    pub(crate) port: u16,
    pub(crate) workers: u32,
}

impl Default for Sidecar {
    /// Istio's, with three workers.
    fn default() -> Self {
        Self { user: Some(1337), port: 15001, workers: 3 }
    }
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(Sidecar::default())
    }

    pub(crate) fn with(sidecar: Sidecar) -> Self {
        let Sidecar { user, port, workers } = sidecar;
        let lab = Lab::new().expect("a lab");
        lab.redirect_to(user.unwrap_or(0), port).expect("rules");
        let options = EnvoyOptions { concurrency: workers, ..EnvoyOptions::default() };
        let folder = moved_to(&lab, port);
        let envoy = Envoy::start(&lab, &lab.sidecar().as_user(user), &folder, &options).expect("Envoy");
        let watch = TracerWatch::start(&lab, &["--deadline", "2s"]).expect("the tracer");
        Self { envoy, watch, lab }
    }

    pub(crate) fn proxy(&self, port: u16, behavior: Behavior) -> ScriptedProxy {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        ScriptedProxy::start(&self.lab, any, behavior).expect("a proxy outside")
    }

    /// Makes all connections at once and checks the reports. Returns all reports.
    pub(crate) fn check(self, scenarios: &[Scenario]) -> Vec<Value> {
        let scripts: Vec<Script> = scenarios.iter().map(|scenario| scenario.script.clone()).collect();
        let transcripts = self.lab.play(&scripts).expect("transcripts");
        let expected: Vec<(&str, String)> = scenarios
            .iter()
            .zip(&transcripts)
            .map(|(scenario, transcript)| {
                (scenario.name, resolve_expected(scenario.expected, transcript).to_owned())
            })
            .collect();
        self.check_reports(&expected, &scripts, &transcripts)
    }

    /// Waits for the reports that are expected on connections that were made, stops Envoy, and checks that there are exactly
    /// these reports. Each element of `expected` is a name and the expected reports. Returns all reports.
    pub(crate) fn check_reports(
        self,
        expected: &[(&str, String)],
        scripts: &[Script],
        transcripts: &[Transcript],
    ) -> Vec<Value> {
        let connections: Vec<_> = scripts.iter().map(|script| script.dialed).zip(transcripts).collect();
        for ((name, expected), (dialed, transcript)) in expected.iter().zip(&connections) {
            let count = if expected.is_empty() { 0 } else { expected.split(", ").count() };
            let port = transcript.local.unwrap_or_else(|| panic!("{name}: {transcript:?}")).port();
            self.watch
                .wait(port, *dialed, count)
                .unwrap_or_else(|error| panic!("{name}: {transcript:?}: {error:#}"));
        }
        // Every connection ends with Envoy, so the tracer then reports whatever it still can.
        let Self { envoy, watch, lab } = self;
        envoy.stop().expect("Envoy stops");
        watch.mark(&lab).expect("a mark");
        let mut reports = watch.reports().expect("reports");
        let (mut table, mut wrong) = (String::new(), 0);
        for ((name, expected), (dialed, transcript)) in expected.iter().zip(&connections) {
            let connection = Some((transcript.local.expect("connected").port(), canonical_address(*dialed)));
            // Two connections may have had the same port: each takes as many reports as are expected on it.
            let mut left = if expected.is_empty() { usize::MAX } else { expected.split(", ").count() };
            let is_own = |report: &mut Value| {
                let own = left > 0 && connection_key(report) == connection;
                left -= usize::from(own);
                own
            };
            let own: Vec<Value> = reports.extract_if(.., is_own).collect();
            let got = own.iter().map(report_summary).collect::<Vec<_>>().join(", ");
            let mark = if got == *expected { ' ' } else { '!' };
            wrong += usize::from(got != *expected);
            let _ = writeln!(table, "{mark} {name:36} {got}");
            if got != *expected {
                let _ = writeln!(table, "  expected: {expected}\n  {transcript:?}\n  {own:#?}");
            }
        }
        for report in &reports {
            wrong += 1;
            let _ = writeln!(table, "! on no connection of this test: {report}");
        }
        println!("{table}");
        assert_eq!(wrong, 0, "\n{table}");
        watch.tracer().reports().expect("reports")
    }
}

pub(crate) fn send(bytes: &str) -> Step {
    Step::Send { send: bytes.to_owned() }
}

/// Reads a head.
pub(crate) fn answer() -> Step {
    Step::Until { until: "\r\n\r\n".to_owned() }
}

pub(crate) fn wait(ms: u64) -> Step {
    Step::Wait { wait: ms }
}

pub(crate) fn script(port: u16, steps: Vec<Step>) -> Script {
    Script { dialed: proxy_addr(port), steps }
}

pub(crate) fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// Sends the head in pieces of `size` bytes, each in a segment of its own, and reads the answer.
pub(crate) fn pieces(head: &str, size: usize) -> Vec<Step> {
    let pieces = head.as_bytes().chunks(size);
    let mut steps: Vec<Step> =
        pieces.flat_map(|piece| [send(&String::from_utf8_lossy(piece)), wait(3)]).collect();
    steps.push(answer());
    steps
}
