//! The twelve cases: for each, a real Envoy plays the probes of `expected.json` one after the other. Every probe must
//! yield exactly its expected reports.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stderr};
use std::net::SocketAddr;

use jiff::Timestamp;
use lab::{
    Behavior, ENVOY_OLDEST, ENVOY_VERSION, Envoy, EnvoyOptions, Lab, Script, ScriptedProxy, Step,
    TracerWatch, case_dir,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Case {
    probes: Vec<CaseProbe>,
}

#[derive(Deserialize)]
struct CaseProbe {
    #[serde(rename = "probe")]
    name: String,
    dialed: SocketAddr,
    #[serde(default)]
    steps: Vec<Step>,
    client: Option<Vec<String>>,
    proxy: String,
    report: ExpectedReport,
}

/// An expected report. Without `status`, the report must have no reply; other missing fields are not compared.
#[derive(Deserialize)]
struct ExpectedReport {
    any: Option<String>,
    verdict: Option<String>,
    reason: Option<String>,
    flagged: Option<bool>,
    status: Option<u16>,
    authority: Option<String>,
    #[serde(default)]
    also: Vec<ExpectedReport>,
    #[serde(default)]
    then: Vec<ExpectedReport>,
}

impl ExpectedReport {
    fn is(&self, report: &Value) -> bool {
        let same = |at: &str, due: Option<Value>| report.pointer(at) == Some(&due.unwrap_or(Value::Null));
        let optional = |at: &str, due: Option<Value>| due.is_none_or(|due| report.pointer(at) == Some(&due));
        let status = report.pointer("/reply/status").unwrap_or(&Value::Null);
        same("/verdict", self.verdict.clone().map(Value::from))
            && same("/reason", self.reason.clone().map(Value::from))
            && optional("/flagged", self.flagged.map(Value::from))
            && *status == self.status.map_or(Value::Null, Value::from)
            && optional("/connect/authority", self.authority.clone().map(Value::from))
    }

    /// Whether the report is this one or one of the alternatives in `also`.
    fn is_met_by(&self, report: &Value) -> bool {
        // An alternative may leave out the reply.
        let loosely =
            |other: &Self| other.verdict.is_some() && (other.is(report) || other.is_without_reply(report));
        self.is(report) || self.also.iter().any(loosely)
    }

    fn is_without_reply(&self, report: &Value) -> bool {
        let mut bare = report.clone();
        bare["reply"] = Value::Null;
        self.status.is_none() && self.is(&bare)
    }

    /// The smallest number of reports that is accepted.
    fn min_reports(&self) -> usize {
        let silence = self.also.iter().any(|other| other.verdict.is_none());
        if self.any.is_some() || self.verdict.is_none() || silence { 0 } else { 1 + self.then.len() }
    }

    /// Whether these reports are accepted.
    fn are(&self, reports: &[Value]) -> bool {
        if self.any.is_some() {
            return true;
        }
        if reports.is_empty() {
            return self.min_reports() == 0;
        }
        let first = self.verdict.is_some() && self.is(&reports[0]);
        let rest = &reports[1..];
        (first || self.is_met_by(&reports[0]))
            && rest.len() == self.then.len()
            && self.then.iter().zip(rest).all(|(due, report)| due.is_met_by(report))
    }

    fn describe(&self) -> String {
        if self.any.is_some() {
            return "anything".to_owned();
        }
        let mut text = show(self.verdict.as_deref(), self.reason.as_deref(), self.status.map(u64::from));
        for due in &self.then {
            let _ = write!(text, ", then {}", due.describe());
        }
        text
    }
}

fn show(verdict: Option<&str>, reason: Option<&str>, status: Option<u64>) -> String {
    let words = [verdict.unwrap_or("no report"), reason.unwrap_or_default()].join(" ");
    let status = status.map(|status| format!(" {status}")).unwrap_or_default();
    format!("{}{status}", words.trim())
}

fn show_report(report: &Value) -> String {
    show(report["verdict"].as_str(), report["reason"].as_str(), report["reply"]["status"].as_u64())
}

/// The client that made a probe's connection.
enum Client {
    /// The raw client: its port, and when the probe began. A later probe may get the same port.
    Port(u16, Timestamp),
    /// A program: its reports are those in this range of lines that belong to no raw client.
    Program(std::ops::Range<usize>),
}

struct CaseFixture {
    envoy: Envoy,
    watch: TracerWatch,
    lab: Lab,
}

impl CaseFixture {
    fn play(&self, probe: &CaseProbe) -> Client {
        let listen = SocketAddr::from(([0, 0, 0, 0], probe.dialed.port()));
        let behavior = match probe.proxy.as_str() {
            "upstream_envoy" => None,
            word => Behavior::named(word).expect("a behavior"),
        };
        let proxy = behavior.map(|behavior| ScriptedProxy::start(&self.lab, listen, behavior));
        let proxy = proxy.transpose().expect("a proxy outside");
        let client = match &probe.client {
            None => {
                let began = Timestamp::now();
                let script = Script { dialed: probe.dialed, steps: probe.steps.clone() };
                let transcript = self.lab.play(&[script]).expect("a transcript").remove(0);
                let port =
                    transcript.local.unwrap_or_else(|| panic!("{}: {transcript:?}", probe.name)).port();
                self.watch
                    .wait(port, probe.dialed, probe.report.min_reports())
                    .unwrap_or_else(|e| panic!("{}: {e:#}", probe.name));
                Client::Port(port, began)
            }
            Some(client) => {
                let before = self.watch.tracer().report_lines().all().len();
                let (program, args) = command(client);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                self.lab.run_app(&program, &args).expect("the client runs");
                let least = before + probe.report.min_reports();
                self.watch
                    .tracer()
                    .wait_reports(least, std::time::Duration::from_secs(30))
                    .unwrap_or_else(|error| panic!("{}: {error:#}", probe.name));
                self.watch.mark(&self.lab).expect("a mark");
                Client::Program(before..self.watch.tracer().report_lines().all().len())
            }
        };
        drop(proxy);
        client
    }
}

/// The command of a client in `expected.json`. A Python client is an expression there.
fn command(client: &[String]) -> (String, Vec<String>) {
    let (program, rest) = client.split_first().expect("a command");
    if !program.starts_with("python") {
        return (program.clone(), rest.to_vec());
    }
    let (make, tunnel) = rest[0].split_once(".set_tunnel").expect("a tunnel");
    let code = format!("import http.client\nc = {make}\nc.timeout = 3\nc.set_tunnel{tunnel}\nc.connect()\n");
    (program.clone(), vec!["-c".to_owned(), code])
}

fn play(folder: &str, version: &str) {
    let dir = case_dir(folder);
    let text = fs::read_to_string(dir.join("expected.json")).expect("what is expected");
    let expected: Case = serde_json::from_str(&text).expect("in its format");

    let lab = Lab::new().expect("a lab");
    let remote = dir.join("upstream_envoy");
    let remote = remote.exists().then(|| Envoy::upstream(&lab, &remote).expect("the proxy is an Envoy"));
    let options = EnvoyOptions { version: version.to_owned(), ..EnvoyOptions::default() };
    let envoy = Envoy::start(&lab, lab.sidecar(), &dir, &options).expect("Envoy");
    let watch = TracerWatch::start(&lab, &["--deadline", "3s"]).expect("the tracer");
    let fixture = CaseFixture { envoy, watch, lab };
    let played: Vec<Client> = expected.probes.iter().map(|probe| fixture.play(probe)).collect();

    // Every connection ends with Envoy, so the tracer then reports whatever it still can.
    let CaseFixture { envoy, watch, lab } = fixture;
    envoy.stop().expect("Envoy stops");
    watch.mark(&lab).expect("a mark");
    drop(remote);

    let mut table = format!("{folder} on Envoy {version}\n");
    let mut wrong = Vec::new();
    let mut taken = HashSet::new();
    let reports = watch.tracer().reports().expect("reports");
    let marks: HashSet<String> = reports
        .iter()
        .filter(|report| report["connect"]["authority"] == "beacon.example:443")
        .map(ToString::to_string)
        .collect();
    let ports: HashSet<u64> = played
        .iter()
        .filter_map(|client| if let Client::Port(port, _) = client { Some(u64::from(*port)) } else { None })
        .collect();
    for (nth, (probe, client)) in expected.probes.iter().zip(&played).enumerate() {
        let own: Vec<(usize, Value)> = reports
            .iter()
            .enumerate()
            .filter(|(at, report)| {
                let port = report["source"]["port"].as_u64().unwrap_or_default();
                !marks.contains(&report.to_string())
                    && match client {
                        Client::Port(own, began) => {
                            port == u64::from(*own)
                                && (*began..next_use_of_port(*own, &played[nth + 1..]))
                                    .contains(&request_time(report))
                        }
                        Client::Program(between) => between.contains(at) && !ports.contains(&port),
                    }
            })
            .map(|(at, report)| (at, report.clone()))
            .collect();
        taken.extend(own.iter().map(|(at, _)| *at));
        let own: Vec<Value> = own.into_iter().map(|(_, report)| report).collect();
        let got = if own.is_empty() {
            "no report".to_owned()
        } else {
            own.iter().map(show_report).collect::<Vec<_>>().join(", then ")
        };
        let right = probe.report.are(&own);
        let mark = if right { "  " } else { "! " };
        let _ = writeln!(table, "{mark}{:28} {:46} {got}", probe.name, probe.report.describe());
        if !right {
            wrong.push(format!("{}: expected {}, got {own:#?}", probe.name, probe.report.describe()));
        }
    }
    for (at, report) in reports.iter().enumerate() {
        if !taken.contains(&at) && !marks.contains(&report.to_string()) {
            wrong.push(format!("report on no connection of this case: {report}"));
        }
    }
    stderr().write_all(table.as_bytes()).expect("stderr");
    assert!(wrong.is_empty(), "{table}{}", wrong.join("\n"));
    let metrics = watch.tracer().metrics().expect("metrics");
    for line in metrics.lines().filter(|line| line.starts_with("egress_tracer_lost_events_total")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

/// When the next probe with the same port began.
fn next_use_of_port(port: u16, later: &[Client]) -> Timestamp {
    let same = later.iter().find_map(|client| match client {
        Client::Port(other, began) if *other == port => Some(*began),
        _ => None,
    });
    same.unwrap_or(Timestamp::MAX)
}

/// The time at which a report's request was sent.
fn request_time(report: &Value) -> Timestamp {
    report["time"].as_str().expect("a time").parse().expect("in RFC 3339")
}

/// One test for each case, so that they run in parallel and fail separately.
macro_rules! cases {
    ($version:expr, $($name:ident),* $(,)?) => {
        $(#[test] fn $name() { super::play(stringify!($name), $version); })*
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

mod newest {
    cases!(
        super::ENVOY_VERSION,
        c01_unrelated_http_service_same_port,
        c02_no_listener_allow_any,
        c03_tcp_serviceentry_address,
        c06_auto_sniffed_service,
        c08_registry_only_no_listener,
        c11_connect_upgrade_forwarded,
        c12_connect_terminated,
        c13_connect_matcher_without_upgrade,
        c15_upstream_is_envoy_404,
        c20c_tcp_upstream_refused,
        c23_http_filter_denies,
        c31_real_clients_http_listener,
    );
}

mod oldest {
    cases!(
        super::ENVOY_OLDEST,
        c01_unrelated_http_service_same_port,
        c02_no_listener_allow_any,
        c03_tcp_serviceentry_address,
        c08_registry_only_no_listener,
        c11_connect_upgrade_forwarded,
        c13_connect_matcher_without_upgrade,
        c15_upstream_is_envoy_404,
        c23_http_filter_denies,
    );
}

#[test]
fn every_case_folder_is_tested() {
    let mut there: Vec<String> = fs::read_dir(case_dir(""))
        .expect("the cases")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    there.sort();
    assert_eq!(there, newest::NAMES);
    assert!(oldest::NAMES.iter().all(|name| newest::NAMES.contains(name)));
}
