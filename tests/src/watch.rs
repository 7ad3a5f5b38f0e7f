//! A tracer of the lab's pod whose reports are told apart by the app's port, and which can be asked to prove that it has
//! read everything so far: that no report came is then known, not waited for. It knows nothing of verdicts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::script::Script;
use crate::scripted_proxy::{Behaviour, ScriptedProxy};
use crate::tracer::Tracer;

const PATIENCE: Duration = Duration::from_secs(30);
/// A proxy inside the pod, to which iptables redirects nobody.
const BEACON: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18080);

/// The tracer, and the proxy that proves its progress.
#[derive(Debug)]
pub struct Watch {
    tracer: Tracer,
    _beacon: ScriptedProxy,
    marks: Mutex<Vec<u16>>,
}

impl Watch {
    /// Starts the tracer with further `args`; returns when all hooks are attached.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::with(lab, Tracer::start(lab, args)?)
    }

    /// The same with a tracer that runs already.
    pub fn with(lab: &Lab, tracer: Tracer) -> Result<Self> {
        let beacon = ScriptedProxy::start_in(lab.app().netns(), BEACON, Behaviour::Tunnel)?;
        Ok(Self { tracer, _beacon: beacon, marks: Mutex::default() })
    }

    /// The tracer.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Returns when the tracer has read everything that happened before this call: its records are in one queue, and
    /// this puts one at the end of it. What waits for its deadline still waits.
    pub fn mark(&self, lab: &Lab) -> Result<()> {
        let transcript = lab.play(&[Script::connect(BEACON, "beacon.example:443")])?.remove(0);
        let port = transcript.local.with_context(|| format!("no beacon: {}", transcript.end))?.port();
        self.wait(port, BEACON, 1)?;
        if let Ok(mut marks) = self.marks.lock() {
            marks.push(port);
        }
        Ok(())
    }

    /// Waits until there are `count` reports on connections from the app's `port` to `dialled` (the kernel gives the same
    /// port to connections that go to different places), and gives back those there are.
    pub fn wait(&self, port: u16, dialled: SocketAddr, count: usize) -> Result<Vec<Value>> {
        let needle = format!("\"port\":{port}}}");
        let ours = |lines: &[String]| -> Vec<Value> {
            let lines = lines.iter().filter(|line| line.contains(&needle));
            let reports = lines.filter_map(|line| serde_json::from_str(line).ok());
            reports.filter(|report| key(report) == Some((port, canonical(dialled)))).collect()
        };
        let enough = self.tracer.report_lines().wait(PATIENCE, |lines| {
            let reports = ours(lines);
            (reports.len() >= count).then_some(reports)
        });
        enough.with_context(|| {
            let (got, said) = (ours(&self.tracer.report_lines().all()), self.tracer.stderr().text());
            format!("not {count} reports on {port} to {dialled}, but {got:?}; it said: {said}")
        })
    }

    /// All reports so far, but for those of [`Self::mark`].
    pub fn reports(&self) -> Result<Vec<Value>> {
        let marks = self.marks.lock().map(|marks| marks.clone()).unwrap_or_default();
        let mut reports = self.tracer.reports()?;
        reports.retain(|report| {
            key(report).is_none_or(|(port, dialled)| dialled != BEACON || !marks.contains(&port))
        });
        Ok(reports)
    }

    /// The tracer, to stop it.
    pub fn into_tracer(self) -> Tracer {
        self.tracer
    }
}

/// What tells a report's connection from all others: the app's port, and where it dialled.
pub fn key(report: &Value) -> Option<(u16, SocketAddr)> {
    let port = |of: &Value| of["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let ip = report["proxy"]["ip"].as_str()?.parse().ok()?;
    Some((port(&report["source"])?, SocketAddr::new(ip, port(&report["proxy"])?)))
}

/// As reports write it: an IPv4-mapped address as the IPv4 one that it is.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
