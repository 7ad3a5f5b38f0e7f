//! `cargo xtask demo --istio`: the gotcha, told by a real istiod. An app reaches a squid; another team's Service arrives and
//! the CONNECT gets 404; egress-tracer says why; the fix that it prints goes in by `kubectl apply`; the same curl works.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Mesh, Seed, Tracer};
use serde_json::Value;

use crate::cargo;
use crate::interrupt;
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;

const PORT: u16 = 3128;
/// How long a report may take: far less is usual, and no verdict depends on it.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Runs it. With `json` the reports are all that stdout gets.
pub(crate) fn run(json: bool) -> Result<()> {
    let start = Instant::now();
    interrupt::watch()?;
    let purposes = [Purpose::Demo, Purpose::Mesh];
    let (_, binary) = setup::run_beside(&purposes, || cargo::build_tracer(false))?;
    let mesh = progress::step("Starting etcd, the API server, controllers and istiod", |_| Mesh::start())?;
    interrupt::guard(mesh.janitor());
    let stage = progress::step("Starting an app with its sidecar, squid and the tracer", |_| {
        Stage::build(&mesh, &binary, json)
    })?;

    stage.session(0, "curl asks squid for a tunnel", 200, "tunneled")?;
    let service = stage.seed.service();
    stage.apply("another team creates a Service with an HTTP port of the same number", &service)?;
    let report = stage.session(1, "the same curl again", 404, "handled_as_http")?;
    let named = format!("other/{}", stage.seed.service_name());
    ensure!(report["listener"].to_string().contains(&named), "the report does not name {named}: {report}");
    let fix =
        ["manifest", "fix"].iter().filter_map(|key| report[key].as_str()).find(|text| text.contains("kind:"));
    stage.apply("what egress-tracer says to apply", fix.context("the report has no manifest")?)?;
    stage.session(2, "the same curl, after istiod's push", 200, "tunneled")?;

    let Stage { tracer, .. } = stage;
    let ended = tracer.stop()?;
    ensure!(ended.status.success(), "egress-tracer did not stop well ({}): {}", ended.status, ended.stderr);
    mesh.close()?;
    let took = start.elapsed().as_secs_f32();
    eprintln!("\nAll 3 verdicts are the ones due. Everything is taken down ({took:.1} s).");
    Ok(())
}

struct Stage<'a> {
    mesh: &'a Mesh,
    tracer: Tracer,
    seed: Seed,
    json: bool,
}

impl<'a> Stage<'a> {
    fn build(mesh: &'a Mesh, binary: &Path, json: bool) -> Result<Self> {
        let seed = Seed::start(mesh, PORT)?;
        let tracer =
            Tracer::start_in(&mesh.tools()?, mesh.dir(), seed.app().cgroup(), binary, &["--explain"])?;
        Ok(Self { mesh, tracer, seed, json })
    }

    fn say(&self, text: &str) {
        if self.json { eprintln!("{text}") } else { println!("{text}") }
    }

    /// `kubectl apply`, and the wait for istiod's push.
    fn apply(&self, why: &str, objects: &str) -> Result<()> {
        self.say(&format!("\nkubectl apply: {why}"));
        for line in objects.lines() {
            self.say(&format!("   {line}"));
        }
        let said = self.mesh.apply(objects, &[self.seed.app()])?;
        self.say(&format!("   {}", said.trim()));
        Ok(())
    }

    /// One curl, and what egress-tracer reports of it.
    fn session(&self, nth: usize, title: &str, status: u16, verdict: &str) -> Result<Value> {
        self.say(&format!("\n{}. {title}", nth + 1));
        let (saw, ended) = self.seed.curl()?;
        self.say(&format!("   curl sees: {}", ended.stdout.trim()));
        ensure!(saw == status, "curl should have seen {status}, but saw: {}{}", ended.stdout, ended.stderr);
        let report = self.tracer.wait_reports(nth + 1, TIMEOUT)?.swap_remove(nth);
        if self.json {
            println!("{}", self.tracer.report_lines().all()[nth]);
        } else {
            self.say(&format!("   egress-tracer: {}", report["verdict"].as_str().unwrap_or_default()));
            for text in [&report["explanation"], &report["listener"]["because"]]
                .iter()
                .filter_map(|value| value.as_str())
            {
                self.say(&format!("   {text}"));
            }
        }
        ensure!(report["verdict"] == verdict, "the verdict should have been {verdict}: {report}");
        Ok(report)
    }
}
