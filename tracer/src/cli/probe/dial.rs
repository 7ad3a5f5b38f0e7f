//! The process that dials. It moves itself into the app's cgroup and network namespace and becomes the app's user, in this
//! order, so that the kernel, the redirect and the tracer take its connection for one of the app's.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::{cli::scope, netns};
use tracer_core::mesh_profile;
use tracer_core::pod::paths;

/// The user that stands for the app where the given process is the sidecar's: `nobody`.
const NOBODY: u32 = 65534;

/// The longest answer that is read.
const MAX_ANSWER: usize = 16 << 10;

/// What to dial, and as what.
#[derive(Clone, Debug)]
pub(super) struct DialSettings {
    pub(super) pid: u32,
    pub(super) to: SocketAddr,
    pub(super) user: Option<u32>,
    pub(super) head: Vec<u8>,
    pub(super) timeout: Duration,
}

/// What the app would have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AppView {
    /// The connection's own address; `null` where there was none.
    pub(super) local: Option<SocketAddr>,
    /// The user that it was sent as.
    pub(super) user: u32,
    /// Why the app's cgroup was not entered, which the tracer may need to join the two ends.
    pub(super) outside_cgroup: Option<String>,
    /// The first line of the answer, escaped.
    pub(super) first_line: Option<String>,
    /// The status in it.
    pub(super) status: Option<u16>,
    /// Its `server` header, escaped.
    pub(super) server: Option<String>,
    /// Microseconds until the answer's first byte.
    pub(super) after_us: Option<u64>,
    /// Why there is no answer.
    pub(super) error: Option<String>,
}

/// Dials, and prints an [`AppView`] as JSON.
pub(super) fn run(settings: &DialSettings) -> anyhow::Result<ExitCode> {
    let namespace = netns::of_process(settings.pid)?;
    let (user, group) = identity(settings)?;
    let outside_cgroup = enter_cgroup(settings.pid).err().map(|error| format!("{error:#}"));
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the network namespace: this needs CAP_SYS_ADMIN, and a network namespace")?;
    let who = "cannot become the app's user: this needs root";
    setgroups(&[]).context(who)?;
    setgid(Gid::from_raw(group)).context(who)?;
    setuid(Uid::from_raw(user)).context(who)?;
    let mut view = AppView { user, outside_cgroup, ..AppView::default() };
    if let Err(error) = ask(settings, &mut view) {
        view.error = Some(format!("{error:#}"));
    }
    println!("{}", serde_json::to_string(&view)?);
    Ok(ExitCode::SUCCESS)
}

/// User and group to send as: those of the process, unless the redirect exempts them.
fn identity(settings: &DialSettings) -> anyhow::Result<(u32, u32)> {
    let path = format!("/proc/{}/status", settings.pid);
    let status = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {path}: is the process still running?"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u32>().ok() // the effective one
    };
    let (Some(user), Some(group)) = (field("Uid:"), field("Gid:")) else { bail!("cannot read {path}") };
    let is_exempt = |id: u32| mesh_profile::ALL.iter().any(|profile| profile.uid_hint == Some(id));
    let or_nobody = |id: u32| if is_exempt(id) { NOBODY } else { id };
    // Istio exempts the sidecar's group as well as its user.
    Ok((settings.user.unwrap_or(or_nobody(user)), or_nobody(group)))
}

/// Moves this process into the cgroup of `pid`.
fn enter_cgroup(pid: u32) -> anyhow::Result<()> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = paths(&table).next().context("the process has no cgroup")?;
    let dir = scope::cgroup2_root()?.join(path.trim_start_matches('/'));
    let file = dir.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string())
        .with_context(|| format!("cannot enter the app's cgroup {}", Path::new(&file).display()))
}

fn ask(settings: &DialSettings, view: &mut AppView) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream =
        TcpStream::connect_timeout(&settings.to, settings.timeout).context("the connection failed")?;
    view.local = Some(stream.local_addr()?);
    stream.write_all(&settings.head).context("the request could not be sent")?;
    let sent = Instant::now();
    let mut answer = Vec::new();
    while !is_whole(&answer) && answer.len() < MAX_ANSWER {
        let Some(left) = settings.timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            break;
        };
        stream.set_read_timeout(Some(left))?;
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => {
                view.after_us
                    .get_or_insert_with(|| u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                answer.extend_from_slice(part.get(..count).unwrap_or_default());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("no answer within {:?}", settings.timeout)
            }
            Err(error) => return Err(error).context("the connection broke off"),
        }
    }
    if answer.is_empty() {
        bail!("the connection was closed without a byte");
    }
    let text = String::from_utf8_lossy(&answer);
    let plain = |text: &str| tracer_core::escape::escape(text).chars().take(200).collect::<String>();
    let line = text.lines().next().unwrap_or_default();
    view.status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    view.first_line = Some(plain(line));
    view.server = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("server").then(|| plain(value.trim()))
    });
    Ok(())
}

/// Whether the head of an HTTP answer has arrived.
fn is_whole(answer: &[u8]) -> bool {
    answer.windows(4).any(|end| end == b"\r\n\r\n")
}
