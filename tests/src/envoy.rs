//! A real Envoy with file-based xDS. Its configuration is a folder of `bootstrap.yaml` and `xds/*.yaml`, in which
//! `@DIR@` stands for the folder itself.

use std::fs;
use std::fs::File;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::lines::Lines;
use crate::place::Place;
use crate::process::Process;

/// The release that all tests use.
pub const ENVOY_VERSION: &str = "1.40.0";
/// The oldest release that the main cases are tested with.
pub const ENVOY_OLDEST: &str = "1.36.2";

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    place: Place,
    dir: PathBuf,
    admin: u16,
}

/// How to run Envoy.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    /// Envoy's release.
    pub version: String,
    /// Number of worker threads.
    pub concurrency: u32,
    /// Admin port on 127.0.0.1, as in the bootstrap.
    pub admin: u16,
}

impl Default for EnvoyOptions {
    fn default() -> Self {
        Self { version: ENVOY_VERSION.to_owned(), concurrency: 1, admin: 15000 }
    }
}

impl Envoy {
    /// Starts the pod's sidecar with the configuration in `folder`.
    pub fn sidecar(lab: &Lab, folder: &Path) -> Result<Self> {
        Self::start(lab, lab.sidecar(), folder, &EnvoyOptions::default())
    }

    /// Starts an Envoy outside the pod as the forward proxy. Its admin port is 15100.
    pub fn upstream(lab: &Lab, folder: &Path) -> Result<Self> {
        Self::start(lab, lab.outside(), folder, &EnvoyOptions { admin: 15100, ..EnvoyOptions::default() })
    }

    /// Writes the configuration in `folder` to `dir`, for an Envoy that a container runtime starts.
    pub fn configure(folder: &Path, dir: &Path) -> Result<()> {
        copy(folder, dir, dir)
    }

    /// Starts Envoy at `place`. Returns when it is live with its first configuration.
    pub fn start(lab: &Lab, place: &Place, folder: &Path, options: &EnvoyOptions) -> Result<Self> {
        let binary = binary(&options.version)?;
        let dir = lab.make_dir(&format!("envoy-{}", options.admin))?;
        copy(folder, &dir, &dir)?;
        // Envoy opens /dev/stdout again for its access log, which fails for a pipe that root made.
        let log = dir.join("access.log");
        let stdout = File::create(&log)?;
        let user = place.user.unwrap_or(0);
        chown(&log, Some(user), Some(user))?;
        let mut command = place.command_at(&binary)?;
        command.arg("-c").arg(dir.join("bootstrap.yaml"));
        command.args([
            "--concurrency",
            &options.concurrency.to_string(),
            "--disable-hot-restart",
            "-l",
            "warning",
        ]);
        // These log when the workers start and when an xDS file is accepted or rejected.
        command.args(["--component-log-level", "config:info,upstream:info"]);
        command.args(["--file-flush-interval-msec", "50"]); // flushes the access log early; Envoy's default is 10 s
        let process = Process::spawn_with_stdout(command, stdout)?;
        process.wait_line("sign of life", process.stderr(), TIMEOUT, |line| {
            (line.contains("starting workers") || refused(line)).then_some(())
        })?;
        let envoy = Self { process, place: place.clone(), dir, admin: options.admin };
        let state = envoy.admin("/ready")?;
        ensure!(state.trim() == "LIVE", "Envoy started but is {}", state.trim());
        if let Some(line) = envoy.process.stderr().all().iter().find(|line| refused(line)) {
            bail!("Envoy refused the configuration in {}: {line}", folder.display());
        }
        Ok(envoy)
    }

    /// A page of the admin port, such as `/config_dump?include_eds`.
    pub fn admin(&self, path: &str) -> Result<String> {
        self.place.netns().http_get(&format!("http://127.0.0.1:{}{path}", self.admin))
    }

    /// A counter or gauge; `None` where Envoy has none of that name.
    pub fn stat(&self, name: &str) -> Result<Option<u64>> {
        let filter = name.replace('.', "\\.");
        let page = self.admin(&format!("/stats?filter=%5E{}%24", filter.replace('\\', "%5C")))?;
        Ok(page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok()))
    }

    /// Replaces `xds/<name>` (`lds.yaml` or `cds.yaml`) with `file` in one step. Waits until Envoy has accepted it; an
    /// error says why Envoy rejected it.
    pub fn apply(&self, name: &str, file: &Path) -> Result<()> {
        let prefix = match name {
            "lds.yaml" => "listener_manager.lds",
            "cds.yaml" => "cluster_manager.cds",
            _ => bail!("only lds.yaml and cds.yaml can be watched being taken, not {name}"),
        };
        let taken = format!("{prefix}.update_success");
        let rejected = format!("{prefix}.update_rejected");
        let count = |stat: &str| self.stat(stat).map(|n| n.unwrap_or(0));
        let (taken_before, rejected_before) = (count(&taken)?, count(&rejected)?);
        let on_workers_before = self.on_workers()?;
        let seen = self.process.stderr().all().len();

        let next = self.dir.join("next.yaml");
        write_for(file, &next, &self.dir)?;
        fs::rename(&next, self.dir.join("xds").join(name))?; // Envoy watches for a move

        // Each new log line is a reason to check the counters. Envoy logs nothing for an update that changes nothing,
        // so the counters are checked every 50 ms, too.
        let stderr: &Lines = self.process.stderr();
        let end = Instant::now() + TIMEOUT;
        let mut known = seen;
        loop {
            if count(&rejected)? > rejected_before {
                // Envoy increments the counter before it logs the reason.
                let why =
                    stderr.wait(TIMEOUT, |lines| lines[seen..].iter().find(|line| refused(line)).cloned());
                let why = why.as_deref().unwrap_or("no reason given");
                bail!("Envoy refused the new {name}: {why}");
            }
            let added =
                stderr.all()[seen..].iter().filter(|line| line.contains("lds: add/update listener")).count();
            if count(&taken)? > taken_before && (added == 0 || self.on_workers()? > on_workers_before) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "Envoy did not take the new {name} within {TIMEOUT:?}");
            known = stderr
                .wait(Duration::from_millis(50), |lines| (lines.len() > known).then_some(lines.len()))
                .unwrap_or(known);
        }
    }

    /// How many listeners the workers were given so far. An update is in force only after that.
    fn on_workers(&self) -> Result<u64> {
        let created = self.stat("listener_manager.listener_create_success")?;
        let in_place = self.stat("listener_manager.listener_in_place_updated")?;
        Ok(created.unwrap_or(0) + in_place.unwrap_or(0))
    }

    /// The access log so far. Envoy flushes it every 50 ms.
    pub fn access_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("access.log"))?)
    }

    /// Envoy's standard error.
    pub fn log(&self) -> &Lines {
        self.process.stderr()
    }

    /// Envoy's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops Envoy with SIGTERM.
    pub fn stop(self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.finish(TIMEOUT).map(drop)
    }
}

/// Where `cargo xtask setup` puts this release.
pub fn cached_envoy(version: &str) -> PathBuf {
    cache_dir().join("envoy").join(version).join("envoy")
}

/// Where `cargo xtask setup` puts its downloads: below `$XDG_CACHE_HOME` or `~/.cache`.
pub(crate) fn cache_dir() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("egress-tracer")
}

pub(crate) fn binary(version: &str) -> Result<PathBuf> {
    let path = cached_envoy(version);
    ensure!(path.exists(), "Envoy {version} is not in {}: `cargo xtask setup` fetches it", path.display());
    Ok(path)
}

fn refused(line: &str) -> bool {
    line.contains("rejected") || line.contains("[critical]") || line.contains("error initializing")
}

/// Copies a folder's YAML files and replaces `@DIR@` with `home`.
fn copy(from: &Path, to: &Path, home: &Path) -> Result<()> {
    let entries =
        fs::read_dir(from).with_context(|| format!("no Envoy configuration at {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name() == "xds" {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target, home)?;
        } else if entry.path().extension().is_some_and(|ext| ext == "yaml") {
            write_for(&entry.path(), &target, home)?;
        }
    }
    Ok(())
}

fn write_for(from: &Path, to: &Path, home: &Path) -> Result<()> {
    let text = fs::read_to_string(from).with_context(|| format!("cannot read {}", from.display()))?;
    fs::write(to, text.replace("@DIR@", &home.display().to_string()))?;
    Ok(())
}
