//! A tracer of the lab's pod that tells reports apart by the app's port, and that can prove that it has read every
//! record so far. A test then knows that a report is missing, without waiting for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::script::Script;
use crate::scripted_proxy::{Behavior, ScriptedProxy};
use crate::tracer::Tracer;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A proxy inside the pod, which iptables does not redirect.
const BEACON: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18080);

/// The tracer, and the proxy that proves its progress.
#[derive(Debug)]
pub struct TracerWatch {
    tracer: Tracer,
    _beacon: ScriptedProxy,
    marks: Mutex<Vec<u16>>,
}

impl TracerWatch {
    /// Starts the tracer with extra `args`. Returns when all hooks are attached.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::with(lab, Tracer::start(lab, args)?)
    }

    /// Watches a tracer that already runs.
    pub fn with(lab: &Lab, tracer: Tracer) -> Result<Self> {
        let beacon = ScriptedProxy::start_in(lab.app().netns(), BEACON, Behavior::Tunnel)?;
        Ok(Self { tracer, _beacon: beacon, marks: Mutex::default() })
    }

    /// The tracer.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Returns when the tracer has read every record of what happened before this call. It makes one more session and
    /// waits for its report: all records come through one queue. Sessions that wait for their deadline still wait.
    pub fn mark(&self, lab: &Lab) -> Result<()> {
        let transcript = lab.play(&[Script::connect(BEACON, "beacon.example:443")])?.remove(0);
        let port = transcript.local.with_context(|| format!("no beacon: {}", transcript.end))?.port();
        self.wait(port, BEACON, 1)?;
        if let Ok(mut marks) = self.marks.lock() {
            marks.push(port);
        }
        Ok(())
    }

    /// Waits until there are `count` reports on connections from the app's `port` to `dialed`, and returns them. (The
    /// kernel gives the same port to connections to different addresses.)
    pub fn wait(&self, port: u16, dialed: SocketAddr, count: usize) -> Result<Vec<Value>> {
        let needle = format!("\"port\":{port}}}");
        let ours = |lines: &[String]| -> Vec<Value> {
            let lines = lines.iter().filter(|line| line.contains(&needle));
            let reports = lines.filter_map(|line| serde_json::from_str(line).ok());
            reports
                .filter(|report| connection_key(report) == Some((port, canonical_address(dialed))))
                .collect()
        };
        let enough = self.tracer.report_lines().wait(TIMEOUT, |lines| {
            let reports = ours(lines);
            (reports.len() >= count).then_some(reports)
        });
        enough.with_context(|| {
            let (got, said) = (ours(&self.tracer.report_lines().all()), self.tracer.stderr().text());
            format!("not {count} reports on {port} to {dialed}, but {got:?}; it said: {said}")
        })
    }

    /// All reports so far, except for those of [`Self::mark`].
    pub fn reports(&self) -> Result<Vec<Value>> {
        let marks = self.marks.lock().map(|marks| marks.clone()).unwrap_or_default();
        let mut reports = self.tracer.reports()?;
        reports.retain(|report| {
            connection_key(report).is_none_or(|(port, dialed)| dialed != BEACON || !marks.contains(&port))
        });
        Ok(reports)
    }

    /// The tracer, so that it can be stopped.
    pub fn into_tracer(self) -> Tracer {
        self.tracer
    }
}

/// The connection of a report: the app's port, and the dialed address.
pub fn connection_key(report: &Value) -> Option<(u16, SocketAddr)> {
    let port = |of: &Value| of["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let ip = report["proxy"]["ip"].as_str()?.parse().ok()?;
    Some((port(&report["source"])?, SocketAddr::new(ip, port(&report["proxy"])?)))
}

/// An address as reports write it: an IPv4-mapped address becomes the IPv4 address.
pub fn canonical_address(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
