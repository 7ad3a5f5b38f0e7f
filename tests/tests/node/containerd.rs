//! A real containerd with everything of its own: root, state, network, mounts, cgroup tree. It is started below the lab's
//! cgroup, so the janitor's kill takes it, its shims and their containers; its mounts and network namespaces vanish with
//! its mount namespace.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Process};
use rustix::process::Signal;

pub const PAUSE: &str = "lab.local/pause:1";
/// An image with nothing in it but places for the machine's own directories.
pub const HOST: &str = "lab.local/host:1";

/// Where the system's own programs are.
pub const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const TIMEOUT: Duration = Duration::from_mins(1);

/// A process that holds the mounts. The node's view of cgroups is that of a modern node: v2 alone, whatever this machine
/// has beside it.
const MOUNTS: &str = "
set -e
mount --bind \"$1/run\" /run
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
echo mounted
exec sleep infinity
";

/// The real runc, less the limits of controllers that this machine has in another hierarchy.
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

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerdRelease {
    /// The machine's own, 1.6 on bookworm: it has to be asked what runs.
    Installed,
    /// 1.7, which tells of changes (`GetContainerEvents`).
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
    /// Starts it in the outside, where the proxies are: its bridge leads there.
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

    /// Its socket, as it is seen from here.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/containerd/containerd.sock")
    }

    /// Where containers' logs are.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Kills it as nothing can be caught, and starts it again: its containers live on.
    pub fn restart(&mut self, lab: &Lab) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.signal(Signal::KILL)?;
            process.finish(TIMEOUT)?;
        }
        fs::remove_file(self.socket())?;
        self.process = Some(launch(lab, self.release, &self.dir, &self.mounts)?);
        Ok(())
    }

    /// Makes the two images of the lab on the spot and imports them, and those in `archives`.
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

    /// `sleep` with its libraries: something that does nothing, for ever.
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

    /// Whose containers get the machine's `/usr` and `/etc` as mounts.
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

/// One layer, in the format of `docker save`.
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
        // Its shim, too, is the first of its name.
        command.arg(format!("PATH={}:{SYSTEM}", beside.display()));
    }
    command.args(["containerd", "--config"]).arg(dir.join("containerd.toml"));
    let process = Process::spawn(command, &[])?;
    process.wait_line("containerd that serves", process.stderr(), TIMEOUT, |line| {
        line.contains("containerd successfully booted").then_some(())
    })?;
    Ok(process)
}
