//! Keeps the kernel's list of interceptors true: removes processes that ended, whose ids are used again, and adds every listener
//! of those that run. An app may dial such a listener itself (Istio's `proxyHttpPort`, a `Sidecar`'s egress `bind`), and no packet
//! of such a connection shows that its listener belongs to an interceptor.

use std::{
    collections::{HashMap as Known, HashSet},
    fs,
    path::Path,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};

use super::{family::FamilySpec, scope::namespace};
use crate::pid_namespace;

/// `BPF_EXIST`: update an entry, never make one.
const EXISTING: u64 = 2;
/// The state LISTEN in `/proc/net/tcp`: <https://elixir.bootlin.com/linux/v6.12/source/include/net/tcp_states.h>
const LISTEN: &str = "0A";

/// A process that was seen to intercept.
#[derive(Clone, Copy, Debug)]
struct Process {
    /// When it started, in ticks since the boot. With the process id it names one process.
    started: u64,
    /// Its network namespace, as the family's programs see it; `None`: it cannot be read.
    netns: Option<u64>,
}

/// What is known of the kernel's interceptors.
#[derive(Debug, Default)]
pub(super) struct Interceptors(Known<u64, Process>);

impl Interceptors {
    /// Brings the kernel's lists up to date. `now`: `CLOCK_MONOTONIC`, ns.
    pub(super) fn refresh(&mut self, ebpf: &mut Ebpf, family: &FamilySpec, now: u64) -> anyhow::Result<()> {
        // Elsewhere the programs' process ids name other processes here; entries then expire by their age.
        if !pid_namespace::is_the_nodes() {
            return Ok(());
        }
        let listed = processes(ebpf)?.iter().collect::<Result<Vec<(u64, [u64; 2])>, _>>()?;
        let mut doors = Vec::new();
        let mut running = Known::new();
        for (pid, [_, intercepts_in]) in listed {
            let known = self.0.get(&pid).copied();
            let started = started(pid);
            if let Some(started) = started.filter(|at| known.is_none_or(|known| known.started == *at)) {
                let process = known.unwrap_or_else(|| {
                    let path = format!("/proc/{pid}/ns/net");
                    Process { started, netns: namespace(family, Path::new(&path)).ok() }
                });
                // Its entry may have been evicted meanwhile.
                let _ = processes(ebpf)?.insert(pid, [now, intercepts_in], EXISTING);
                running.insert(pid, process);
                if let Some(netns) = process.netns {
                    doors.extend(listening_ports(pid).into_iter().map(|port| (netns, port)));
                }
            } else {
                let _ = processes(ebpf)?.remove(&pid); // evicted meanwhile
            }
        }
        self.0 = running;
        for (netns, port) in doors {
            learn(ebpf, netns, port, now)?;
        }
        Ok(())
    }
}

fn processes(ebpf: &mut Ebpf) -> anyhow::Result<HashMap<&mut MapData, u64, [u64; 2]>> {
    let map = ebpf.map_mut("INTERCEPTORS").context("the kernel object has no map INTERCEPTORS")?;
    Ok(HashMap::try_from(map)?)
}

/// Tells the kernel that an interceptor accepts on a port of a namespace.
fn learn(ebpf: &mut Ebpf, netns: u64, port: u16, now: u64) -> anyhow::Result<()> {
    let map = ebpf.map_mut("INTERCEPTOR_PORTS").context("the kernel object has no map INTERCEPTOR_PORTS")?;
    let mut ports = HashMap::<_, [u64; 2], u64>::try_from(map)?;
    ports.insert([netns, port.into()], now, 0).context("cannot note an interceptor's port")?;
    let map = ebpf.map_mut("PORT_BITS").context("the kernel object has no map PORT_BITS")?;
    let mut bits = Array::<_, u64>::try_from(map)?;
    let (index, bit) = (u32::from(port) >> 6, 1 << (port & 63));
    let word = bits.get(&index, 0)?;
    if word & bit == 0 {
        // A bit that a program sets meanwhile is set again at its next dial.
        bits.set(index, word | bit, 0)?;
    }
    Ok(())
}

/// When a process started, in ticks since the boot: the 22nd field of `proc_pid_stat(5)`. `None`: there is none.
fn started(pid: u64) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold any character.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// The TCP ports on which a process listens in its network namespace. Empty where that cannot be read.
fn listening_ports(pid: u64) -> HashSet<u16> {
    let sockets = sockets(pid);
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    lines.filter_map(listening).filter(|(_, inode)| sockets.contains(inode)).map(|(port, _)| port).collect()
}

/// The port and the inode number of a line of `/proc/net/tcp`, if it is a listener's. The fields: slot, local address, remote
/// address, state, queues, timer, retransmissions, user, timeout, inode.
fn listening(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN).then_some((port, inode))
}

/// The inode numbers of a process's sockets.
fn sockets(pid: u64) -> HashSet<u64> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    let targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_of_this_process_are_found_by_their_inodes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let own = u64::from(std::process::id());
        assert!(listening_ports(own).contains(&port));
        drop(listener);
        assert!(!listening_ports(own).contains(&port));
        assert!(started(own).is_some() && started(u64::MAX).is_none());
    }

    #[test]
    fn only_lines_of_listeners_have_a_port() {
        let line = "   0: 0100007F:3A9A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 4711 1 0";
        assert_eq!(listening(line), Some((15002, 4711)));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening(""), None);
    }
}
