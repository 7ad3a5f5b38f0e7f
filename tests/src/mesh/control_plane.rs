//! The processes of the control plane: etcd, API server, controllers and istiod, with every flag and setting that they need here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::programs::{self, program};
use super::{HOST, ISTIOD, Mesh, TIMEOUT, api, certificates, default_istiod, merge, next, pod, push};
use crate::process::Process;

/// Features of Istio's own build of Envoy that a stock Envoy lacks: the ALPN filter and the two metadata exchange filters.
/// `istio.stats` stays away as long as no metrics provider is configured.
const STOCK_ENVOY: [(&str, &str); 2] =
    [("PILOT_ENABLE_ALPN_FILTER", "false"), ("PILOT_ENABLE_METADATA_EXCHANGE", "false")];

impl Mesh {
    pub(super) fn start_kubernetes(&mut self) -> Result<()> {
        certificates::write(&self.dir, HOST)?;
        let file = |name: &str| self.dir.join(name).display().to_string();
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("https://{HOST}:6443"), "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "admin", "user": {"client-certificate": file("admin.crt"), "client-key": file("admin.key")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}]});
        fs::write(self.kubeconfig(), config.to_string())?;

        let mut etcd = self.control_command("etcd")?;
        etcd.args(["--data-dir", &file("etcd"), "--unsafe-no-fsync", "--log-level=error"]);
        etcd.args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
        ]);
        etcd.arg("--listen-peer-urls=http://127.0.0.1:2380");
        let mut server = self.control_command("kube-apiserver")?;
        server.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            "--authorization-mode=Node,RBAC",
        ]);
        server.args([format!("--bind-address={HOST}"), format!("--advertise-address={HOST}")]);
        server.args([
            format!("--tls-cert-file={}", file("api.crt")),
            format!("--tls-private-key-file={}", file("api.key")),
        ]);
        server.args([
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("sa.pub")),
        ]);
        server.arg(format!("--service-account-signing-key-file={}", file("sa.key")));
        server.arg("--service-account-issuer=https://kubernetes.default.svc");
        server.arg(format!("--service-cluster-ip-range={}", self.service_ranges().join(",")));
        if let Some(admission) = &self.options.admission {
            fs::write(file("admission.json"), admission.to_string())?;
            server.arg(format!("--admission-control-config-file={}", file("admission.json")));
        }
        server.args(["--api-audiences=istio-ca,https://kubernetes.default.svc", "--allow-privileged=true"]);
        // kubectl as a proxy: the lab's own requests are plain HTTP, without TLS and its libraries.
        let mut proxy = self.control_command("kubectl")?;
        proxy.args(["proxy", &format!("--port={}", api::PORT)]);
        let etcd = Process::spawn(etcd, &[])?;
        let server = Process::spawn(server, &[])?;
        let proxy = Process::spawn(proxy, &[])?;
        proxy.wait_line("open port", proxy.stdout(), TIMEOUT, |line| {
            line.contains("Starting to serve").then_some(())
        })?;
        self.wait_url(&server, "kube-apiserver", &format!("http://127.0.0.1:{}/readyz", api::PORT))?;

        let mut controllers = self.control_command("kube-controller-manager")?;
        controllers.arg(format!("--service-account-private-key-file={}", file("sa.key")));
        controllers.arg(format!("--root-ca-file={}", file("ca.crt")));
        // What the objects of a test need; the others cost processor time.
        let daemon_sets = if self.options.without_istio { ",daemonset-controller" } else { "" };
        controllers.arg(format!(
            "--controllers=endpointslice-controller,namespace-controller,serviceaccount-controller{daemon_sets}"
        ));
        controllers.args(["--use-service-account-credentials", "--leader-elect=false"]);
        controllers.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        let controllers = Process::spawn(controllers, &[])?;
        self.kubernetes = vec![controllers, proxy, server, etcd];

        self.api.create(
            "/api/v1/nodes",
            &json!({"metadata": {"name": pod::NODE, "labels": {"kubernetes.io/os": "linux"}}}),
        )?;
        if self.options.without_istio {
            return Ok(());
        }
        let crds = programs::crds()?.display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &crds], "")?;
        self.api.create("/api/v1/namespaces", &json!({"metadata": {"name": "istio-system"}}))?;
        // The webhook's name and label are those by which istiod finds it; it fills in its own authority.
        let rules = json!([{"apiGroups": ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"],
            "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]}]);
        let webhook = json!({"metadata": {"name": "istio-validator", "labels": {"istio.io/rev": "default", "app": "istiod"}},
            "webhooks": [{"name": "validation.istio.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore", "clientConfig": {"url": format!("https://{ISTIOD}:15017/validate")}, "rules": rules}]});
        self.api.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &webhook)?;
        Ok(())
    }

    /// An istiod with this file as its `MeshConfig`, without the addresses on which it listens. It cannot run without
    /// Kubernetes at this version.
    pub(super) fn istiod_command(&self, mesh_config: &str) -> Result<Command> {
        let mut command = self.control_command("pilot-discovery")?;
        command.args(["discovery", &format!("--kubeconfig={}", self.kubeconfig().display())]);
        command.arg(format!("--meshConfig={}", self.dir.join(mesh_config).display()));
        command.envs([
            ("POD_NAMESPACE", "istio-system"),
            ("CLUSTER_ID", "Kubernetes"),
            ("REVISION", "default"),
        ]);
        command.envs([("PILOT_CERT_PROVIDER", "istiod"), ("JWT_POLICY", "third-party-jwt")]);
        command.env("ISTIOD_CUSTOM_HOST", ISTIOD);
        // It needs no webhook to serve sidecars.
        command.envs([("INJECTION_WEBHOOK_CONFIG_NAME", ""), ("VALIDATION_WEBHOOK_CONFIG_NAME", "")]);
        Ok(command)
    }

    pub(super) fn start_istiod(&self) -> Result<()> {
        self.write_mesh_config("0")?;
        let mut command = self.istiod_command("mesh.json")?;
        // On the loopback too: only a local client may ask the debug endpoint without a token.
        command.args(["--httpAddr=:8080".to_owned(), format!("--httpsAddr={HOST}:15017")]);
        command.args([format!("--grpcAddr={HOST}:15010"), format!("--secureGRPCAddr={HOST}:15012")]);
        command.args([format!("--monitoringAddr={HOST}:15014"), "--ctrlz_address=127.0.0.1".to_owned()]);
        command.env("POD_NAME", "istiod-0").env("VALIDATION_WEBHOOK_CONFIG_NAME", "istio-validator");
        command.envs(STOCK_ENVOY);
        command.env("ISTIO_DUAL_STACK", self.options.dual_stack.to_string());
        command.envs(self.options.istiod_env.iter().map(|(name, value)| (name, value)));
        let istiod = Process::spawn(command, &[])?;
        self.wait_url(&istiod, "istiod", &format!("http://{HOST}:8080/ready"))?;
        *self.istiod.lock().unwrap_or_else(PoisonError::into_inner) = Some(istiod);
        Ok(())
    }

    /// Gives istiod another `MeshConfig`, which it takes while it runs. What it makes of it has reached a sidecar after the
    /// next wait for a push.
    pub fn set_mesh_config(&mut self, mesh_config: Value) -> Result<()> {
        self.options.mesh_config = mesh_config;
        let number = next(&self.marker).to_string();
        self.write_mesh_config(&number)?;
        for (istiod, port) in [(&self.istiod, 8080), (&self.default_istiod, default_istiod::PORT)] {
            let istiod = istiod.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(istiod) = istiod.as_ref() else { continue };
            let url = format!("http://127.0.0.1:{port}/debug/mesh");
            let is_taken = || {
                let config: Value = serde_json::from_str(&self.api.get_url(&url)?)?;
                Ok((config["defaultConfig"]["proxyMetadata"]["LAB"] == number.as_str()).then_some(()))
            };
            push::poll(istiod.stderr(), TIMEOUT, is_taken)?
                .with_context(|| format!("istiod did not take the new MeshConfig within {TIMEOUT:?}"))?;
        }
        Ok(())
    }

    /// Writes the `MeshConfig`s of both istiods, with a number by which they are told apart from earlier ones.
    pub(super) fn write_mesh_config(&self, number: &str) -> Result<()> {
        let mut config = json!({"trustDomain": "cluster.local", "enableTracing": false,
            "defaultConfig": {"discoveryAddress": format!("{ISTIOD}:15012"), "proxyMetadata": {"LAB": number}}});
        merge(&mut config, &self.options.mesh_config);
        write_whole(&self.dir.join("mesh.json"), &config.to_string())?;
        // The provider that Istio's charts configure.
        merge(&mut config, &json!({"defaultProviders": {"metrics": ["prometheus"]}}));
        write_whole(&self.dir.join("mesh-defaults.json"), &config.to_string())
    }

    /// Waits until a GET of `url` from the control plane's network answers 200: after each line that `process` logs, and now
    /// and then besides.
    pub(super) fn wait_url(&self, process: &Process, name: &str, url: &str) -> Result<()> {
        let ready = || Ok(self.api.get_url(url).is_ok().then_some(()));
        push::poll(process.stderr(), TIMEOUT, ready)?
            .with_context(|| format!("{name} was not ready within {TIMEOUT:?}: {}", process.stderr().text()))
    }

    pub(super) fn control_command(&self, name: &str) -> Result<Command> {
        let mut command = self.control.command_at(&program(name)?)?;
        command.env("KUBECONFIG", self.kubeconfig());
        Ok(command)
    }
}

/// Writes a file in one step, for a reader that watches it.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(&new, path)?)
}
