//! The real pilot-agent with its own Envoy and certificates, behind the rules of the real istio-iptables.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::programs::{bootstrap_template, program};
use super::{HOST, ISTIOD, Mesh, Pod, Sidecar, TIMEOUT, merge, push};
use crate::envoy::{ENVOY_VERSION, binary};
use crate::place::Place;
use crate::process::Process;

/// A running pilot-agent.
#[derive(Debug)]
pub struct PilotAgent {
    process: Process,
}

impl PilotAgent {
    /// Sets the pod's rules, starts the agent, and returns when its Envoy is ready.
    pub(super) fn start(mesh: &Mesh, pod: &Pod, sidecar: &Sidecar, place: &Place) -> Result<Self> {
        // First, as the init container does it: the rules reset connections that are older.
        if sidecar.mode != "NONE" {
            Process::run_checked(rules(place, pod, sidecar)?, &[], TIMEOUT)?;
        }
        let dir = pod.dir().join("agent");
        for folder in [
            "var/run/secrets/istio",
            "var/run/secrets/tokens",
            "etc/istio/proxy",
            "etc/istio/pod",
            "var/lib/istio/data",
        ] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let namespace = pod.namespace();
        let config_maps = format!("/api/v1/namespaces/{namespace}/configmaps");
        let root = mesh.api.wait(&config_maps, "istio-ca-root-cert", |map| {
            map["data"]["root-cert.pem"].as_str().map(str::to_owned)
        })?;
        fs::write(dir.join("var/run/secrets/istio/root-cert.pem"), root)?;
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["istio-ca"]}});
        let token = mesh
            .api
            .create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/default/token"), &request)?;
        let token = token["status"]["token"].as_str().context("no token")?;
        fs::write(dir.join("var/run/secrets/tokens/istio-token"), token)?;
        let app = vec![("app".to_owned(), pod.name().to_owned())];
        for (file, pairs) in [
            ("labels", [app.as_slice(), &pod.options().labels].concat()),
            ("annotations", pod.options().annotations.clone()),
        ] {
            let lines = pairs.iter().map(|(key, value)| format!("{key}={}\n", json!(value)));
            fs::write(dir.join("etc/istio/pod").join(file), lines.collect::<String>())?;
        }
        let template = dir.join("envoy_bootstrap.json");
        fs::write(&template, fs::read(bootstrap_template()?)?)?;
        give(&dir, sidecar)?;

        let mut config = json!({"binaryPath": place.show(&binary(ENVOY_VERSION)?)?, "configPath": dir.join("etc/istio/proxy"),
            "discoveryAddress": format!("{ISTIOD}:15012"), "concurrency": sidecar.concurrency});
        merge(&mut config, &sidecar.proxy_config);
        let agent = place.show(&program("pilot-agent")?)?;
        let mut command = place.command("setpriv")?;
        command.args([
            format!("--reuid={}", sidecar.uid),
            format!("--regid={}", sidecar.gid),
            "--clear-groups".to_owned(),
        ]);
        command.arg(agent).args(["proxy", "sidecar", "--domain", &format!("{namespace}.svc.cluster.local")]);
        command.args(["--proxyLogLevel=warning", "--templateFile"]).arg(template).current_dir(&dir);
        command.envs(environment(pod)).env("PROXY_CONFIG", config.to_string());
        command.envs(sidecar.metadata.iter().map(|(name, value)| (format!("ISTIO_META_{name}"), value)));
        let agent = Self { process: Process::spawn(command, &[])? };
        let url = "http://127.0.0.1:15021/healthz/ready";
        let log = agent.process.stderr();
        let ready = || Ok(place.netns().http_get(url).is_ok().then_some(()));
        push::poll(log, TIMEOUT, ready)?.with_context(|| {
            format!("the sidecar of {} was not ready within {TIMEOUT:?}: {}", pod.name(), log.text())
        })?;
        Ok(agent)
    }

    /// The process; Envoy is its child.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Annotations of a pod, and the arguments that the injection makes of them.
///
/// Source: istio manifests/charts/istio-control/istio-discovery/files/injection-template.yaml (`istio-init`).
const ANNOTATIONS: &[(&str, &str)] = &[
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "-x"),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", "-o"),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", "-i"),
];

/// The command of the injected init container.
fn rules(place: &Place, pod: &Pod, sidecar: &Sidecar) -> Result<Command> {
    let mut command = place.command_at(&program("pilot-agent")?)?;
    command.args([
        "istio-iptables",
        "-p",
        "15001",
        "-z",
        "15006",
        "-i",
        "*",
        "-b",
        "*",
        "-d",
        "15090,15021,15020",
    ]);
    if pod.address_v6().is_some() {
        command.arg("--dual-stack");
    }
    command.args(["-u", &sidecar.uid.to_string(), "-g", &sidecar.gid.to_string(), "-m", &sidecar.mode]);
    for (annotation, value) in &pod.options().annotations {
        if let Some((_, argument)) = ANNOTATIONS.iter().find(|(name, _)| name == annotation) {
            command.args([argument, value.as_str()]);
        }
    }
    command.args(&sidecar.rules);
    Ok(command)
}

/// What the injection writes into the container.
fn environment(pod: &Pod) -> Vec<(&'static str, String)> {
    let text = |name, value: &str| (name, value.to_owned());
    vec![
        text("POD_NAME", pod.name()),
        text("POD_NAMESPACE", pod.namespace()),
        text("INSTANCE_IP", pod.address()),
        text("HOST_IP", HOST),
        text("SERVICE_ACCOUNT", "default"),
        text("JWT_POLICY", "third-party-jwt"),
        text("PILOT_CERT_PROVIDER", "istiod"),
        text("CA_ADDR", &format!("{ISTIOD}:15012")),
        text("TRUST_DOMAIN", "cluster.local"),
        text("CLOUD_PLATFORM", "none"), // or it looks for a cloud for two seconds
        text("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        text("ISTIO_META_MESH_ID", "cluster.local"),
        text("ISTIO_META_NODE_NAME", super::pod::NODE),
        text("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        text("ISTIO_META_WORKLOAD_NAME", pod.name()),
        text("ISTIO_META_APP_CONTAINERS", "app"),
        ("ISTIO_DUAL_STACK", pod.address_v6().is_some().to_string()),
    ]
}

/// Makes everything below `dir` the sidecar's.
fn give(dir: &Path, sidecar: &Sidecar) -> Result<()> {
    chown(dir, Some(sidecar.uid), Some(sidecar.gid))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            give(&path, sidecar)?;
        } else {
            chown(&path, Some(sidecar.uid), Some(sidecar.gid))?;
        }
    }
    Ok(())
}
