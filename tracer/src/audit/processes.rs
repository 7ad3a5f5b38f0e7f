//! The network namespaces of this node that have a sidecar, and what the processes in them know about proxies. It reads
//! `/proc` only, and connects to nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tracer_core::mesh_profile::DEFAULT;
use tracer_core::pod::{container_ids, paths};

use super::environment::ProxyEnvironment;
use crate::runtime::ContainerName;

/// A network namespace other than this process's own in which an admin port is open.
#[derive(Clone, Debug, Default)]
pub struct NetnsFacts {
    /// Its inode number.
    pub netns: u64,
    /// A process in it, of the sidecar where one can be told.
    pub pid: u32,
    /// `(namespace, pod)`, where a container runtime knows it.
    pub pod: Option<(String, String)>,
    /// The distinct environments of the apps in it.
    pub environments: BTreeSet<ProxyEnvironment>,
}

/// The largest environment that is read. The kernel allows more, but programs do not start with it.
const MAX_ENVIRON: u64 = 256 << 10;

/// Environments that are read in one namespace.
const MAX_PROCESSES: usize = 512;

/// Which processes are looked at.
#[derive(Clone, Debug, Default)]
pub struct ProcessScope {
    /// Only those in the namespaces of these processes; empty: all.
    pub pids: Vec<u32>,
    /// Only those in this cgroup v2 directory or below it.
    pub cgroup: Option<std::path::PathBuf>,
    /// The admin port that tells a sidecar.
    pub admin_port: u16,
}

/// Finds the namespaces with a sidecar. `containers` are the names of containers by their id.
///
/// # Errors
/// `/proc` or the cgroup cannot be read.
pub fn namespaces(
    scope: &ProcessScope,
    containers: &HashMap<String, ContainerName>,
) -> std::io::Result<Vec<NetnsFacts>> {
    let wanted: BTreeSet<u64> = scope.pids.iter().filter_map(|pid| netns_of(*pid)).collect();
    let own = netns_of(std::process::id()).filter(|own| !wanted.contains(own));
    let mut members: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let pids = match &scope.cgroup {
        Some(cgroup) => in_cgroup(cgroup)?,
        None => all()?,
    };
    for pid in pids {
        let Some(netns) = netns_of(pid) else { continue };
        if Some(netns) != own && (wanted.is_empty() || wanted.contains(&netns)) {
            members.entry(netns).or_default().push(pid);
        }
    }
    let with_sidecar = members
        .into_iter()
        .filter(|(_, pids)| pids.first().is_some_and(|pid| is_listening(*pid, scope.admin_port)));
    Ok(with_sidecar.map(|(netns, pids)| facts(netns, &pids, containers)).collect())
}

fn facts(netns: u64, pids: &[u32], containers: &HashMap<String, ContainerName>) -> NetnsFacts {
    let mut facts =
        NetnsFacts { netns, pid: pids.first().copied().unwrap_or_default(), ..NetnsFacts::default() };
    for pid in pids.iter().take(MAX_PROCESSES) {
        let container = container_of(*pid, containers);
        if let Some(name) = container {
            facts.pod = Some((name.namespace.clone(), name.pod.clone()));
        }
        let is_proxy = container.map_or_else(|| is_proxy_user(*pid), |name| name.is_proxy);
        if is_proxy {
            facts.pid = *pid;
            continue;
        }
        if let Some(environment) = environ(*pid) {
            facts.environments.insert(environment);
        }
    }
    facts
}

/// The inode number of a process's network namespace; `None` where the process is gone or may not be looked at.
pub fn netns_of(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|namespace| namespace.ino())
}

fn environ(pid: u32) -> Option<ProxyEnvironment> {
    let mut bytes = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(MAX_ENVIRON).read_to_end(&mut bytes).ok()?;
    ProxyEnvironment::of_environ(&bytes)
}

fn container_of(pid: u32, containers: &HashMap<String, ContainerName>) -> Option<&ContainerName> {
    if containers.is_empty() {
        return None;
    }
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    paths(&table).flat_map(container_ids).find_map(|id| containers.get(id))
}

/// Whether the process runs as the user that sidecars have, where no runtime names its container.
fn is_proxy_user(pid: u32) -> bool {
    let user = fs::metadata(format!("/proc/{pid}")).ok().map(|process| process.uid());
    user.is_some() && user == DEFAULT.uid_hint
}

fn all() -> std::io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn in_cgroup(dir: &Path) -> std::io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let members = fs::read_to_string(dir.join("cgroup.procs"));
        match members {
            Ok(members) => pids.extend(members.lines().filter_map(|line| line.parse::<u32>().ok())),
            // A threaded cgroup has no list of processes, and one below may end at any time.
            Err(_) if !pids.is_empty() || !dirs.is_empty() => {}
            Err(error) => return Err(error),
        }
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    Ok(pids)
}

/// Whether a socket listens on `port` in the namespace of `pid`, by the tables that proc(5) describes.
fn is_listening(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| listens(line, port))
    })
}

/// `sl local_address rem_address st …`, where the address is `HEX:PORT` and state 0A is LISTEN.
fn listens(line: &str, port: u16) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':'));
    let own = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    own == Some(port) && fields.nth(1) == Some("0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_socket_is_told_from_a_connected_one() {
        let listening = "   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337";
        let connected = "   1: 0100007F:3A98 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1337";
        assert!(listens(listening, 15000) && !listens(connected, 15000) && !listens(listening, 15001));
        assert!(!listens("", 15000));
    }

    #[test]
    fn namespace_without_an_admin_port_is_left_out() {
        // This process's own namespace, asked for by name; no port has the number 0.
        let scope = ProcessScope { pids: vec![std::process::id()], ..ProcessScope::default() };
        let found = namespaces(&scope, &HashMap::new()).expect("/proc can be read");
        assert!(found.is_empty(), "{found:?}");
    }
}
