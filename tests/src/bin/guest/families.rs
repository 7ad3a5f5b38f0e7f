//! The tests of each hook family: what the kernel accepts, every way to send, the scopes, the cases; and that all
//! families give the same reports.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Behavior, Envoy, Lab, PROXY, PROXY_V6, Process, Script, ScriptedProxy, Step, Tracer};
use serde_json::{Value, json};

use crate::{
    call::{CALLS, authority, request},
    closed::check_early_close,
    exec::check_exec,
    scopes,
    stress::check_stress,
};

const CASES: [&str; 5] = ["c01", "c03", "c08", "c11", "c15"];
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// A test of a family.
type Test = fn(&str) -> Result<Value>;

/// Prints the result of a test: `GUEST` and a JSON object.
pub(crate) fn print_result(test: &str, result: &Result<Value>) {
    let line = match result {
        Ok(detail) => json!({"test": test, "ok": true, "detail": detail}),
        Err(error) => json!({"test": test, "ok": false, "detail": format!("{error:#}")}),
    };
    println!("GUEST {line}");
}

/// Runs all tests whose name contains one of `wanted`.
pub(crate) fn run(wanted: &[String]) -> Result<()> {
    let is_wanted = |test: &str| wanted.is_empty() || wanted.iter().any(|word| test.contains(word.as_str()));
    let findings = check()?;
    print_result("check", &Ok(findings.clone()));
    let mut same: BTreeMap<&str, Value> = BTreeMap::new();
    let mut working = 0;
    let families = findings["families"].as_array().context("`check` lists no families")?;
    for found in families {
        let family = found["family"].as_str().context("a family without a name")?;
        let works = found["works"] == true;
        working += usize::from(works);
        let tests: [(&str, Test); 6] = [
            ("send-calls", check_send_calls),
            ("early-close", check_early_close),
            ("exec", check_exec),
            ("stress", check_stress),
            ("scope", scopes::check_scope),
            ("late-attach", scopes::check_late_attach),
        ];
        for (name, test) in tests {
            let title = format!("{family} {name}");
            if !works || !is_wanted(&title) {
                continue;
            }
            let result = test(family);
            if let (Ok(reports), "send-calls") = (&result, name) {
                same.insert(family, reports.clone());
                print_result(&title, &Ok(json!(format!("{} calls", CALLS.len()))));
            } else {
                print_result(&title, &result);
            }
        }
        let title = format!("{family} refused");
        if !works && is_wanted(&title) {
            print_result(&title, &scopes::check_refusal(&["--family", family]));
        }
        for case in CASES {
            let title = format!("{family} {case}");
            if works && is_wanted(&title) {
                print_result(&title, &play_case(family, case));
            }
        }
    }
    if is_wanted("families agree") {
        print_result("families agree", &check_families_agree(&same, working));
    }
    if is_wanted("without BTF") {
        print_result("without BTF", &scopes::check_without_btf());
    }
    Ok(())
}

fn check_families_agree(reports: &BTreeMap<&str, Value>, working: usize) -> Result<Value> {
    ensure!(reports.len() == working, "{} of {working} families have all their reports", reports.len());
    let Some((first, expected)) = reports.first_key_value() else { bail!("no family has reports") };
    for (family, said) in reports {
        ensure!(said == expected, "{family} and {first} differ: {said} and {expected}");
    }
    Ok(json!(reports.keys().collect::<Vec<_>>()))
}

fn check() -> Result<Value> {
    let said = Command::new(lab::tracer_binary()?).args(["check", "-o", "json"]).output()?;
    serde_json::from_slice(&said.stdout)
        .with_context(|| format!("check said {}", String::from_utf8_lossy(&said.stderr)))
}

/// This program, under a name other than `init`.
pub(crate) const GUEST_PROGRAM: &str = "/bin/guest";

fn address(call: &str) -> IpAddr {
    if call.ends_with('6') { PROXY_V6 } else { PROXY }
}

/// Stand-ins for the sidecar on IPv4 and IPv6.
pub(crate) fn sidecars(lab: &Lab) -> Result<[Process; 2]> {
    let start = |at| {
        let mut command = lab.sidecar().command_at(Path::new(GUEST_PROGRAM))?;
        command.args(["answer", at]);
        let process = Process::spawn(command, &[])?;
        let stdout = process.stdout();
        process.wait_line("open port", stdout, TIMEOUT, |line| (line == "listening").then_some(()))?;
        anyhow::Ok(process)
    };
    Ok([start("127.0.0.1:15001")?, start("[::1]:15001")?])
}

/// Sends one CONNECT as the app by the given call, and returns the process id.
pub(crate) fn call(lab: &Lab, call: &str) -> Result<u64> {
    let mut command = lab.app().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["call", call, &format!("{}", SocketAddr::new(address(call), 3128))]);
    let process = Process::spawn(command, &[])?;
    // The app prints its process id when it has the answer. Without one, its stack and sockets show what it waits for.
    let said = process.stdout().wait(TIMEOUT, |lines| lines.first().cloned());
    let Some(pid) = said else {
        let of = |file| fs::read_to_string(format!("/proc/{}/{file}", process.pid())).unwrap_or_default();
        let (stack, sockets) = (of("stack"), of("net/tcp"));
        bail!(
            "the call {call}: no answer; {}; it is in {stack}; sockets: {sockets}",
            process.stderr().text()
        );
    };
    pid.trim().parse().with_context(|| format!("{call} said {pid}"))
}

/// Every call must get one correct report. Returns the reports without the fields that differ between runs.
fn check_send_calls(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let _sidecars = sidecars(&lab)?;
    let trace = lab.dir().join("trace");
    let trace_path = trace.display().to_string();
    let tracer = Tracer::start(&lab, &["--family", family, "--record", &trace_path])?;
    let mut pids = BTreeMap::new();
    for (nth, name) in CALLS.iter().enumerate() {
        pids.insert(*name, call(&lab, name)?);
        tracer.wait_reports(nth + 1, TIMEOUT).with_context(|| format!("after {name}"))?;
    }
    let reports = tracer.reports()?;
    let ended = tracer.stop()?;
    ensure!(ended.status.success(), "the tracer ended with {}: {}", ended.status, ended.stderr);
    let trace = fs::read_to_string(&trace)?;
    let cgroup = fs::metadata(lab.app().cgroup().dir())?.ino();
    let mut same = serde_json::Map::new();
    for name in CALLS.iter().copied() {
        let authority = authority(name);
        let mine: Vec<&Value> =
            reports.iter().filter(|report| report["connect"]["authority"] == authority.as_str()).collect();
        let [report] = mine[..] else { bail!("{name}: {} reports: {mine:?}", mine.len()) };
        let expected = [
            ("/verdict", json!("handled_as_http")),
            ("/reply/status", json!(404)),
            ("/source/pid", json!(pids[name])),
            ("/source/comm", json!("guest")),
            ("/proxy/port", json!(3128)),
            ("/proxy/ip", json!(address(name).to_string())),
            ("/interceptor/port", json!(15001)),
            ("/family", json!(family)),
            ("/joined_late", json!(false)),
        ];
        for (at, expected) in expected {
            let said = report.pointer(at).unwrap_or(&Value::Null);
            ensure!(*said == expected, "{name}: {at} is {said} and not {expected}: {report}");
        }
        check_recording(&trace, name, cgroup)?;
        same.insert(name.to_owned(), without_variable_fields(report));
    }
    Ok(Value::Object(same))
}

/// The bytes, the cgroup and the namespace, which only the recording has.
fn check_recording(trace: &str, call: &str, cgroup: u64) -> Result<()> {
    let mut flow = None;
    // A recording holds no value of a header that is not on the allow-list.
    let request = request(call).replace("User-Agent: guest", "User-Agent: *****");
    let mut bytes = String::new();
    for line in trace.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let event = &line["event"];
        let Some(data) = event.pointer("/what/sent/data").and_then(Value::as_str) else { continue };
        if event["role"] != "app" {
            continue;
        }
        // The calls' flows come one after the other; this call's flow is the one whose bytes become its request.
        if flow != Some(&event["flow"]).cloned() {
            flow = Some(event["flow"].clone());
            bytes.clear();
        }
        bytes.push_str(data);
        if bytes == request {
            ensure!(event["task"]["cgroup"] == cgroup, "{call}: cgroup {} and not {cgroup}", event["task"]);
            ensure!(event["netns"].as_u64().is_some_and(|netns| netns != 0), "{call}: no namespace");
            return Ok(());
        }
    }
    bail!("{call}: its bytes are not in the trace: {trace}")
}

/// A report without the fields that differ between runs and families.
fn without_variable_fields(report: &Value) -> Value {
    let mut report = report.clone();
    for at in [
        "/time",
        "/family",
        "/source/pid",
        "/source/port",
        "/reply/after_us",
        "/interceptor/pid",
        "/explanation",
    ] {
        if let Some(value) = report.pointer_mut(at) {
            *value = Value::Null;
        }
    }
    report
}

/// Plays the first probe of a case with the real Envoy.
fn play_case(family: &str, name: &str) -> Result<Value> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let folder = fs::read_dir(&cases)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_")))
        })
        .with_context(|| format!("no case {name}"))?;
    let case: Value = serde_json::from_str(&fs::read_to_string(folder.join("expected.json"))?)?;
    let probe = &case["probes"][0];
    let dialed = probe["dialed"].as_str().context("an address")?.parse()?;
    let steps: Vec<Step> = serde_json::from_value(probe["steps"].clone())?;
    let lab = Lab::new()?;
    let proxy = probe["proxy"].as_str().context("a proxy")?;
    let (mut upstream, mut scripted) = (None, None);
    if proxy == "upstream_envoy" {
        upstream = Some(Envoy::upstream(&lab, &folder.join("upstream_envoy"))?);
    } else if let Some(behavior) = Behavior::named(proxy)? {
        scripted = Some(ScriptedProxy::start(&lab, dialed, behavior)?);
    }
    let _envoy = Envoy::sidecar(&lab, &folder)?;
    let tracer = Tracer::start(&lab, &["--family", family, "--deadline", "20s"])?;
    lab.play(&[Script { dialed, steps }])?;
    let reports = tracer.wait_reports(1, TIMEOUT)?;
    drop((upstream, scripted));
    let expected = &probe["report"];
    let [report] = &reports[..] else { bail!("{} reports: {reports:?}", reports.len()) };
    let status = report.pointer("/reply/status").unwrap_or(&Value::Null);
    ensure!(
        report["verdict"] == expected["verdict"]
            && report["reason"] == expected["reason"]
            && *status == expected["status"],
        "expected {expected}: {report}"
    );
    Ok(json!(format!("{} {}", report["verdict"], report["reason"]).replace('"', "")))
}
