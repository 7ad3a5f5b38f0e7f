//! A real Envoy with file-based xDS, from a folder of `bootstrap.yaml` and `xds/*.yaml` in which `@DIR@` stands for the
//! folder itself. It applies changes and waits until Envoy has taken them; it never judges what Envoy then does.

use std::fs;
use std::fs::File;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::admin;
use crate::lab::Lab;
use crate::lines::Lines;
use crate::network::SIDECAR_USER;
use crate::place::Place;
use crate::process::Process;

/// The release that everything is tested with.
pub const VERSION: &str = "1.40.0";
/// The oldest one that the main rows are tested with.
pub const OLDEST: &str = "1.36.2";

const PATIENCE: Duration = Duration::from_secs(30);

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    place: Place,
    dir: PathBuf,
    admin: u16,
}

/// How to run it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Release of Envoy.
    pub version: String,
    /// Worker threads.
    pub concurrency: u32,
    /// Port of its admin on 127.0.0.1, as its bootstrap says.
    pub admin: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { version: VERSION.to_owned(), concurrency: 1, admin: 15000 }
    }
}

impl Envoy {
    /// The pod's sidecar, with the configuration in `folder`.
    pub fn sidecar(lab: &Lab, folder: &Path) -> Result<Self> {
        Self::start(lab, lab.sidecar(), folder, &Options::default())
    }

    /// An Envoy outside that plays the proxy; its admin is on port 15100.
    pub fn upstream(lab: &Lab, folder: &Path) -> Result<Self> {
        Self::start(lab, lab.outside(), folder, &Options { admin: 15100, ..Options::default() })
    }

    /// Writes the configuration in `folder` to `dir`, for an Envoy that somebody else starts.
    pub fn configure(folder: &Path, dir: &Path) -> Result<()> {
        copy(folder, dir, dir)
    }

    /// Starts it anywhere, and returns when it is live with its first configuration.
    pub fn start(lab: &Lab, place: &Place, folder: &Path, options: &Options) -> Result<Self> {
        let binary = binary(&options.version)?;
        let dir = lab.make_dir(&format!("envoy-{}", options.admin))?;
        copy(folder, &dir, &dir)?;
        // Envoy opens /dev/stdout a second time for its access log, so a pipe made by root would not do.
        let log = dir.join("access.log");
        let stdout = File::create(&log)?;
        chown(&log, Some(SIDECAR_USER), Some(SIDECAR_USER))?;
        let mut command = place.command_at(&binary)?;
        command.arg("-c").arg(dir.join("bootstrap.yaml"));
        command.args([
            "--concurrency",
            &options.concurrency.to_string(),
            "--disable-hot-restart",
            "-l",
            "warning",
        ]);
        // These two say when the workers run and when an xDS file was taken or refused.
        command.args(["--component-log-level", "config:info,upstream:info"]);
        command.args(["--file-flush-interval-msec", "50"]); // the access log; Envoy's own default is 10 s
        let process = Process::spawn_with_stdout(command, stdout)?;
        process.wait_line("sign of life", process.stderr(), PATIENCE, |line| {
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

    /// A page of its admin port, such as `/config_dump?include_eds`.
    pub fn admin(&self, path: &str) -> Result<String> {
        admin::get(self.place.netns(), &format!("http://127.0.0.1:{}{path}", self.admin))
    }

    /// One counter or gauge.
    pub fn stat(&self, name: &str) -> Result<Option<u64>> {
        let filter = name.replace('.', "\\.");
        let page = self.admin(&format!("/stats?filter=%5E{}%24", filter.replace('\\', "%5C")))?;
        Ok(page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok()))
    }

    /// Puts `file` in the place of `xds/<name>` in one step, and waits until Envoy has taken it or says why not.
    /// `name` is `lds.yaml` or `cds.yaml`.
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
        fs::rename(&next, self.dir.join("xds").join(name))?; // Envoy watches for exactly this: a move

        // Each new log line is a reason to look. Envoy says nothing when a file changes nothing, so look now and then too.
        let stderr: &Lines = self.process.stderr();
        let end = Instant::now() + PATIENCE;
        let mut known = seen;
        loop {
            if count(&rejected)? > rejected_before {
                // It counts first, and then says why.
                let why =
                    stderr.wait(PATIENCE, |lines| lines[seen..].iter().find(|line| refused(line)).cloned());
                let why = why.as_deref().unwrap_or("no reason given");
                bail!("Envoy refused the new {name}: {why}");
            }
            let added =
                stderr.all()[seen..].iter().filter(|line| line.contains("lds: add/update listener")).count();
            if count(&taken)? > taken_before && (added == 0 || self.on_workers()? > on_workers_before) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "Envoy did not take the new {name} within {PATIENCE:?}");
            known = stderr
                .wait(Duration::from_millis(50), |lines| (lines.len() > known).then_some(lines.len()))
                .unwrap_or(known);
        }
    }

    /// How often a worker was given a listener: an update is in force only after that.
    fn on_workers(&self) -> Result<u64> {
        let created = self.stat("listener_manager.listener_create_success")?;
        let in_place = self.stat("listener_manager.listener_in_place_updated")?;
        Ok(created.unwrap_or(0) + in_place.unwrap_or(0))
    }

    /// Its access log so far; Envoy writes it some 50 ms late.
    pub fn access_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("access.log"))?)
    }

    /// What it said on stderr.
    pub fn log(&self) -> &Lines {
        self.process.stderr()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops it as Kubernetes would.
    pub fn stop(self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.finish(PATIENCE).map(drop)
    }
}

/// Where `cargo xtask setup` puts that release.
pub fn cached(version: &str) -> PathBuf {
    cache().join("envoy").join(version).join("envoy")
}

/// Where it puts all that it fetches: below `$XDG_CACHE_HOME` or `~/.cache`.
pub(crate) fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("egress-tracer")
}

fn binary(version: &str) -> Result<PathBuf> {
    let path = cached(version);
    ensure!(path.exists(), "Envoy {version} is not in {}: `cargo xtask setup` fetches it", path.display());
    Ok(path)
}

fn refused(line: &str) -> bool {
    line.contains("rejected") || line.contains("[critical]") || line.contains("error initializing")
}

/// Copies a folder's YAML; `home` is what `@DIR@` stands for.
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
