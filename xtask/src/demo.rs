//! `cargo xtask demo`: runs a pod with a real Envoy, a real squid and a TLS server behind it, plays four sessions, and shows
//! what egress-tracer reports of each. It fails where a report differs from what is expected.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Envoy, Lab, PROXY, Squid, SquidPolicy, TARGET, Target, Tracer, demo_sidecar};
use serde_json::Value;

use crate::cargo;
use crate::demo_session::{DemoSession, NAME, PORT, REFUSED, SESSIONS};
use crate::install::is_set;
use crate::interrupt;
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;

/// How long to wait for a report. No verdict depends on it.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Everything that runs, in the order in which it is stopped.
struct Demo {
    tracer: Tracer,
    envoy: Envoy,
    target: Target,
    _squid: Squid,
    lab: Lab,
}

/// Runs the demo. With `json`, stdout gets nothing but the reports.
pub(crate) fn run(json: bool) -> Result<()> {
    let start = Instant::now();
    interrupt::watch()?;
    let (_, binary) = setup::run_beside(&[Purpose::Demo], || cargo::build_tracer(false))?;
    let demo = progress::step(
        "Starting a pod with Envoy, squid and a web server behind it, and the tracer",
        |_| Demo::build(&binary, json),
    )?;
    let mut wrong = Vec::new();
    for (index, session) in SESSIONS.iter().enumerate() {
        if let Some(error) = demo.play(index, session, json)? {
            wrong.push(format!("session {}: {error}", index + 1));
        }
    }
    demo.show_metrics(json)?;
    let Demo { tracer, lab, .. } = demo;
    let ended = tracer.stop()?;
    ensure!(ended.status.success(), "egress-tracer did not stop well ({}): {}", ended.status, ended.stderr);
    lab.close()?;
    ensure!(wrong.is_empty(), "not what was due: {}", wrong.join("; "));
    let took = start.elapsed().as_secs_f32();
    eprintln!("\nAll {} verdicts are the ones due. Everything is taken down ({took:.1} s).", SESSIONS.len());
    Ok(())
}

impl Demo {
    fn build(binary: &Path, json: bool) -> Result<Self> {
        let lab = Lab::new()?;
        interrupt::guard(lab.janitor());
        let hosts = [NAME, REFUSED].map(|name| (name.to_owned(), TARGET.to_string())).into();
        let policy = SquidPolicy { hosts, denied: vec![REFUSED.to_owned()], credentials: None };
        let squid = Squid::start(&lab, SocketAddr::new(PROXY, PORT), &policy)?;
        let target = Target::start(&lab, SocketAddr::new(TARGET, 443), NAME)?;
        let envoy = Envoy::sidecar(&lab, &demo_sidecar())?;
        let color = if io::stdout().is_terminal() && !is_set("NO_COLOR") { "always" } else { "never" };
        let tracer = if json {
            Tracer::start_at(&lab, binary, &[])?
        } else {
            Tracer::start_compact(&lab, binary, &["--color", color])?
        };
        Ok(Self { tracer, envoy, target, _squid: squid, lab })
    }

    /// Plays one session, and returns how its report differs from the expected one.
    fn play(&self, index: usize, session: &DemoSession, json: bool) -> Result<Option<String>> {
        if session.after_fix && !SESSIONS[index - 1].after_fix {
            self.envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml"))?;
        }
        let say = |text: &str| if json { eprintln!("{text}") } else { println!("{text}") };
        say(&format!("\n{}. {}", index + 1, session.title));
        let already = self.tracer.stdout().all().len();
        let saw = session.play(&self.lab, &self.target)?;
        say(&format!("   {saw}"));
        let reports = self.tracer.wait_reports(index + 1, TIMEOUT)?;
        ensure!(
            reports.len() == index + 1,
            "{} reports of {} sessions: {reports:?}",
            reports.len(),
            index + 1
        );
        let report = &reports[index];
        if json {
            println!("{}", self.tracer.report_lines().all()[index]);
        } else {
            self.show(report, already)?;
        }
        Ok(session.mismatches(report))
    }

    /// Prints the report as egress-tracer shows it, and the sentence that explains it.
    fn show(&self, report: &Value, already: usize) -> Result<()> {
        let verdict = report["verdict"].as_str().context("a report without a verdict")?;
        let more =
            |lines: &[String]| lines[already..].iter().any(|line| line.contains(verdict)).then_some(());
        self.tracer.stdout().wait(TIMEOUT, more).context("egress-tracer wrote no compact line")?;
        let lines = self.tracer.stdout().all().split_off(already);
        let explanation = report["explanation"].as_str().unwrap_or_default();
        for line in &lines {
            println!("   {line}");
        }
        if !lines.iter().any(|line| line.contains(explanation)) {
            println!("   {explanation}");
        }
        Ok(())
    }

    /// Prints the metrics of these sessions, scraped from the running tracer.
    fn show_metrics(&self, json: bool) -> Result<()> {
        let metrics = self.tracer.metrics()?;
        let ours = |line: &&str| line.starts_with("egress_tracer_connect_") && !line.contains("_bucket{");
        let lines: Vec<&str> = metrics.lines().filter(ours).collect();
        for verdict in SESSIONS.iter().map(|session| session.verdict) {
            let label = format!("verdict=\"{verdict}\"");
            ensure!(
                lines.iter().any(|line| line.contains(&label)),
                "no metric tells of {verdict}:\n{metrics}"
            );
        }
        if !json {
            println!("\nThe metrics of these sessions, scraped from the running tracer:");
            for line in lines {
                println!("   {line}");
            }
        }
        Ok(())
    }
}
