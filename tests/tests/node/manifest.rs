//! The `DaemonSet` of `deploy/base` as a kubelet passes it to the runtime, so that the tests run what is installed.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Capability, ContainerConfig, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext,
    Mount, MountPropagation, NamespaceMode, NamespaceOption, SecurityProfile,
};
use serde_json::Value;

/// The paths of `/proc` and `/sys` that a kubelet masks in an unprivileged container.
/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/securitycontext/util.go#L188>
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub struct DaemonSet {
    pod: Value,
}

impl DaemonSet {
    pub fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/daemonset.yaml");
        let manifest: Value = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
        Ok(Self { pod: manifest["spec"]["template"]["spec"].clone() })
    }

    pub fn namespaces(&self) -> NamespaceOption {
        let mode = |flag: &str, otherwise| {
            if self.pod[flag] == true { NamespaceMode::Node as i32 } else { otherwise as i32 }
        };
        NamespaceOption {
            network: mode("hostNetwork", NamespaceMode::Pod),
            pid: mode("hostPID", NamespaceMode::Container),
            ipc: mode("hostIPC", NamespaceMode::Pod),
            ..Default::default()
        }
    }

    /// The agent's container with extra arguments. emptyDir volumes are below `scratch`.
    pub fn container(&self, more: &[&str], scratch: &Path) -> Result<ContainerConfig> {
        let container = &self.pod["containers"][0];
        let words = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let envs = container["env"].as_array().context("env")?.iter().map(|env| {
            let value = env["value"].as_str().unwrap_or("node-1"); // the only value from a field is the node's name
            KeyValue { key: env["name"].as_str().unwrap_or_default().to_owned(), value: value.to_owned() }
        });
        let mut volumes = HashMap::new();
        for volume in self.pod["volumes"].as_array().context("volumes")? {
            let name = volume["name"].as_str().context("a volume's name")?;
            let path = if let Some(path) = volume["hostPath"]["path"].as_str() {
                path.to_owned()
            } else if volume["emptyDir"].is_object() {
                fs::create_dir_all(scratch.join(name))?;
                scratch.join(name).display().to_string()
            } else {
                bail!("what is {volume}?")
            };
            volumes.insert(name, path);
        }
        let mounts = container["volumeMounts"].as_array().context("volumeMounts")?.iter().map(|mount| {
            let name = mount["name"].as_str().context("a mount's name")?;
            Ok(Mount {
                container_path: mount["mountPath"].as_str().context("mountPath")?.to_owned(),
                host_path: volumes.get(name).with_context(|| format!("no volume {name}"))?.clone(),
                readonly: mount["readOnly"] == true,
                propagation: MountPropagation::PropagationPrivate as i32,
                ..Default::default()
            })
        });
        let asked = &container["securityContext"];
        let user = |name: &str| asked[name].as_i64().map(|value| Int64Value { value });
        let security = LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: words(&asked["capabilities"]["add"]),
                drop_capabilities: words(&asked["capabilities"]["drop"]),
                ..Default::default()
            }),
            privileged: asked["privileged"] == true,
            no_new_privs: asked["allowPrivilegeEscalation"] == false,
            readonly_rootfs: asked["readOnlyRootFilesystem"] == true,
            run_as_user: user("runAsUser"),
            run_as_group: user("runAsGroup"),
            seccomp: match asked["seccompProfile"]["type"].as_str() {
                Some("RuntimeDefault") => Some(SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault as i32,
                    localhost_ref: String::new(),
                }),
                other => bail!("which seccomp profile is {other:?}?"),
            },
            namespace_options: Some(self.namespaces()),
            masked_paths: MASKED.map(str::to_owned).to_vec(),
            readonly_paths: READ_ONLY.map(str::to_owned).to_vec(),
            ..Default::default()
        };
        let mut args = words(&container["args"]);
        args.extend(more.iter().map(|word| (*word).to_owned()));
        Ok(ContainerConfig {
            args,
            envs: envs.collect(),
            mounts: mounts.collect::<Result<_>>()?,
            linux: Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        })
    }
}
