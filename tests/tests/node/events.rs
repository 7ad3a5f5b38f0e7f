//! How soon a new pod is known. With `-n`, a pod is left alone until the agent knows it, so nobody asks for it: only the
//! runtime's own word makes it known, or the next list.

use std::time::Instant;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1::{NamespaceMode, NamespaceOption};

use crate::containerd::{HOST, Release};
use crate::cri::PodSpec;
use crate::stage::{Agent, Stage};

const TELLS: &str = "the container runtime tells of changes";
const SILENT: &str = "the container runtime tells of no changes";

#[test]
fn a_pod_is_known_by_event_where_there_are_any_and_by_list_where_not() {
    for (release, says, not) in
        [(Release::Installed, SILENT, TELLS), (Release::TellsOfChanges, TELLS, SILENT)]
    {
        let mut stage = Stage::build(release).expect("a node");
        let agent = stage.agent("egress-tracer-1", &["-n", "bank"]).expect("an agent");
        let took = known_after(&mut stage, &agent, "first").expect("a report");
        println!("{release:?}: the pod was traced {took:?} after its sandbox was there");
        // The stream breaks with the runtime.
        stage.restart_containerd().expect("containerd comes back");
        let start = Instant::now();
        let took = known_after(&mut stage, &agent, "second").expect("a report");
        println!(
            "{release:?}: after a restart of the runtime, {took:?} ({:?} with its end)",
            start.elapsed()
        );
        let log = stage.cri.log("egress-tracer-1", "agent").expect("a log");
        let said = |what: &str| log.iter().any(|line| line.contains(what));
        assert!(said(says) && !said(not), "{log:?}");
        // Where it tells, there is a list every five minutes, which nobody has waited for here.
        assert!(release == Release::Installed || start.elapsed().as_secs() < 60);
    }
}

/// How long after the sandbox of a new pod was there its app was first seen.
fn known_after(stage: &mut Stage, agent: &Agent, name: &'static str) -> Result<SignedDuration> {
    let spec = PodSpec {
        namespace: "bank",
        name,
        namespaces: NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() },
        ..PodSpec::default()
    };
    let dials =
        "while :; do curl -s -k -o /dev/null -m 5 -x http://10.0.0.1:3128 https://www.example.com/; done";
    let pod = stage.cri.run_pod(&spec)?;
    let start = Timestamp::now();
    let config = stage.container(1000, ["sh", "-c", dials].map(str::to_owned).to_vec());
    stage.cri.start(&pod, "app", HOST, config)?;
    let reports = stage.reports(agent, 1, |report| report["source"]["pod"] == name)?;
    stage.cri.remove_pod(&pod)?;
    let first: Timestamp = reports[0]["time"].as_str().context("a time")?.parse()?;
    Ok(first.duration_since(start))
}
