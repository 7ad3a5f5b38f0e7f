//! A real containerd with its own root, state, network, mounts and cgroup tree. It runs below the lab's cgroup, so the
//! janitor kills it, its shims and their containers; its mounts and network namespaces disappear with its mount
//! namespace.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Process};
use rustix::process::Signal;

pub const PAUSE: &str = "lab.local/pause:1";
/// An image with empty directories on which the machine's own are mounted.
pub const HOST: &str = "lab.local/host:1";

/// The `PATH` of the system's programs.
pub const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const TIMEOUT: Duration = Duration::from_mins(1);

/// Script of the process that holds the mounts. The node sees cgroup v2 alone, as on a modern node, whatever the
/// machine mounts beside it.
const MOUNTS: &str = "
set -e
mount --bind \"$1/run\" /run
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
echo mounted
exec sleep infinity
";

/// Runs the real runc, without the limits of controllers that the machine has in a cgroup v1 hierarchy.
const RUNC: &str = r#"#!/bin/sh
grep -qw memory /sys/fs/cgroup/cgroup.controllers && exec runc "$@"
bundle=
previous=
for argument; do
    [ "$previous" = --bundle ] && bundle=$argument
    previous=$argument
done
[ -n "$bundle" ] && /usr/bin/python3 -c '
import json, sys
with open(sys.argv[1], "r+") as file:
    spec = json.load(file)
    resources = spec["linux"].get("resources", {})
    spec["linux"]["resources"] = {"devices": resources.get("devices", [])}
    file.seek(0), file.truncate(), json.dump(spec, file)
' "$bundle/config.json"
exec runc "$@"
"#;

/// Which containerd to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerdRelease {
    /// The machine's own, 1.6 on bookworm, which must be polled.
    Installed,
    /// 1.7, which streams container events (`GetContainerEvents`).
    StreamsEvents,
}

#[derive(Debug)]
pub struct Containerd {
    release: ContainerdRelease,
    dir: PathBuf,
    mounts: Process,
    process: Option<Process>,
}

impl Containerd {
    /// Starts containerd in the outside namespace, so that its bridge leads to the proxies.
    pub fn start(lab: &Lab, release: ContainerdRelease) -> Result<Self> {
        let dir = lab.make_dir("node")?;
        for sub in ["run", "run/lock", "run/netns", "root", "net.d", "ipam", "logs"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let shown = dir.display();
        fs::write(
            dir.join("containerd.toml"),
            format!(
                r#"
version = 2
root = "{shown}/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# A pod's first process asks for a better score than a test on some machines may give.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{shown}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{shown}/runc"
"#
            ),
        )?;
        fs::write(dir.join("runc"), RUNC)?;
        fs::set_permissions(dir.join("runc"), Permissions::from_mode(0o755))?;
        fs::write(
            dir.join("net.d/10-lab.conflist"),
            format!(
                r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [{{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
  "ipam": {{"type": "host-local", "dataDir": "{shown}/ipam", "ranges": [[{{"subnet": "10.88.0.0/16"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}
}}]}}"#
            ),
        )?;
        let mut command = lab.outside().command("unshare")?;
        command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNTS, "sh"]).arg(&dir);
        let mounts = Process::spawn(command, &[])?;
        mounts.wait_line("mounts", mounts.stdout(), TIMEOUT, |line| (line == "mounted").then_some(()))?;
        let process = launch(lab, release, &dir, &mounts)?;
        Ok(Self { release, dir, mounts, process: Some(process) })
    }

    /// The path of its socket outside its mount namespace.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/containerd/containerd.sock")
    }

    /// The directory of the containers' logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Kills containerd with SIGKILL and removes its socket. Its containers keep running.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.signal(Signal::KILL)?;
            process.finish(TIMEOUT)?;
        }
        fs::remove_file(self.socket())?;
        Ok(())
    }

    /// Starts containerd again.
    pub fn start_again(&mut self, lab: &Lab) -> Result<()> {
        self.process = Some(launch(lab, self.release, &self.dir, &self.mounts)?);
        Ok(())
    }

    /// Makes and imports the lab's two images, and imports `archives`.
    pub fn import(&self, lab: &Lab, archives: &[&Path]) -> Result<()> {
        let pause = self.pause_image()?;
        let host = self.host_image()?;
        for archive in [pause.as_path(), host.as_path()].iter().chain(archives) {
            let mut command = lab.tools().command("ctr")?;
            command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io", "images", "import"]);
            command.arg(archive);
            Process::run_checked(command, &[], TIMEOUT)?;
        }
        Ok(())
    }

    /// An image with `sleep` and its libraries.
    fn pause_image(&self) -> Result<PathBuf> {
        let root = self.dir.join("pause");
        let output = Command::new("ldd").arg("/usr/bin/sleep").output().context("cannot run ldd")?;
        let listed = String::from_utf8(output.stdout)?;
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        for file in libraries.chain([PathBuf::from("/usr/bin/sleep")]) {
            let to = root.join(file.strip_prefix("/")?);
            fs::create_dir_all(to.parent().context("a file in a directory")?)?;
            fs::copy(&file, &to)?;
        }
        image(&root, PAUSE, &["/usr/bin/sleep", "infinity"])
    }

    /// The image for containers that mount the machine's `/usr` and `/etc`.
    fn host_image(&self) -> Result<PathBuf> {
        let root = self.dir.join("host");
        for sub in ["usr", "etc", "tmp", "proc", "sys", "dev", "run"] {
            fs::create_dir_all(root.join(sub))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link))?;
        }
        image(&root, HOST, &["/usr/bin/sleep", "infinity"])
    }
}

/// Makes a `docker save` archive with one layer.
fn image(root: &Path, name: &str, command: &[&str]) -> Result<PathBuf> {
    let dir = root.with_extension("image");
    fs::create_dir_all(&dir)?;
    let tar = |from: &Path, to: &Path, what: &[&str]| -> Result<()> {
        let mut command = Command::new("tar");
        command.arg("--create").arg("--file").arg(to).args(["--owner=0", "--group=0", "--directory"]);
        ensure!(command.arg(from).args(what).status()?.success(), "tar failed");
        Ok(())
    };
    tar(root, &dir.join("layer.tar"), &["."])?;
    let output = Command::new("sha256sum").stdin(File::open(dir.join("layer.tar"))?).output()?;
    let digest = String::from_utf8(output.stdout)?.split(' ').next().unwrap_or_default().to_owned();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    let archive = dir.with_extension("tar");
    tar(&dir, &archive, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}

fn launch(lab: &Lab, release: ContainerdRelease, dir: &Path, mounts: &Process) -> Result<Process> {
    let mut command = lab.outside().command("nsenter")?;
    command.arg(format!("--mount=/proc/{}/ns/mnt", mounts.pid())).arg("env");
    if release == ContainerdRelease::StreamsEvents {
        let program = lab::cached_containerd();
        ensure!(program.exists(), "no {}: `cargo xtask setup` fetches it", program.display());
        let beside = program.parent().context("a file in a directory")?;
        // The shim, too, is looked up in the `PATH`.
        command.arg(format!("PATH={}:{SYSTEM}", beside.display()));
    }
    command.args(["containerd", "--config"]).arg(dir.join("containerd.toml"));
    let process = Process::spawn(command, &[])?;
    process.wait_line("containerd that serves", process.stderr(), TIMEOUT, |line| {
        line.contains("containerd successfully booted").then_some(())
    })?;
    Ok(process)
}
