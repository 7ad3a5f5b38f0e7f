//! How soon the agent knows a new pod. With `-n`, a pod is not traced until the agent knows it, so no session of the
//! pod triggers a lookup: the agent knows it by an event of the runtime or by its next list.

use std::time::Instant;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1::{NamespaceMode, NamespaceOption};

use crate::containerd::{ContainerdRelease, HOST};
use crate::cri::PodSpec;
use crate::test_node::{AgentPod, TestNode};

const STREAMS: &str = "the container runtime sends events";
const POLLED: &str = "the container runtime has no events";

#[test]
fn new_pod_is_known_by_event_or_by_list() {
    for (release, logged, not_logged) in
        [(ContainerdRelease::Installed, POLLED, STREAMS), (ContainerdRelease::StreamsEvents, STREAMS, POLLED)]
    {
        let mut node = TestNode::build(release).expect("a node");
        let agent = node.agent("egress-tracer-1", &["-n", "bank"]).expect("an agent");
        let took = time_until_known(&mut node, &agent, "first").expect("a report");
        println!("{release:?}: the pod was traced {took:?} after its sandbox was there");
        // Restarting the runtime breaks the event stream.
        node.containerd.stop().expect("containerd ends");
        node.start_containerd().expect("containerd comes back");
        let start = Instant::now();
        let took = time_until_known(&mut node, &agent, "second").expect("a report");
        println!(
            "{release:?}: after a restart of the runtime, {took:?} ({:?} with its end)",
            start.elapsed()
        );
        let log = node.cri.log("egress-tracer-1", "agent").expect("a log");
        let has = |what: &str| log.iter().any(|line| line.contains(what));
        assert!(has(logged) && !has(not_logged), "{log:?}");
        // With events, the agent lists the pods every five minutes only, so the list was not what made the pod known.
        assert!(release == ContainerdRelease::Installed || start.elapsed().as_secs() < 60);
    }
}

/// Time from the start of a pod's sandbox to the first report on its app.
fn time_until_known(node: &mut TestNode, agent: &AgentPod, name: &'static str) -> Result<SignedDuration> {
    let spec = PodSpec {
        namespace: "bank",
        name,
        namespaces: NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() },
        ..PodSpec::default()
    };
    let dials =
        "while :; do curl -s -k -o /dev/null -m 5 -x http://10.0.0.1:3128 https://www.example.com/; done";
    let pod = node.cri.run_pod(&spec)?;
    let start = Timestamp::now();
    let config = node.container(1000, ["sh", "-c", dials].map(str::to_owned).to_vec());
    node.cri.start(&pod, "app", HOST, config)?;
    let reports = node.reports(agent, 1, |report| report["source"]["pod"] == name)?;
    node.cri.remove_pod(&pod)?;
    let first: Timestamp = reports[0]["time"].as_str().context("a time")?.parse()?;
    Ok(first.duration_since(start))
}
