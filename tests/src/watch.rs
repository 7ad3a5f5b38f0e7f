//! A tracer of the lab's pod whose reports are told apart by the app's port, and which can be asked to prove that it has
//! read everything so far: that no report came is then known, not waited for. It knows nothing of verdicts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
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
        self.wait(port, 1)?;
        if let Ok(mut marks) = self.marks.lock() {
            marks.push(port);
        }
        Ok(())
    }

    /// Waits until there are `count` reports on connections from the app's `port`, and gives back those there are.
    pub fn wait(&self, port: u16, count: usize) -> Result<Vec<Value>> {
        let needle = format!("\"port\":{port}}}");
        let enough = self.tracer.report_lines().wait(PATIENCE, |lines| {
            let found = lines.iter().filter(|line| line.contains(&needle)).count();
            (found >= count).then_some(())
        });
        let reports = self.of(port)?;
        if enough.is_none() || reports.len() < count {
            let said = self.tracer.stderr().text();
            bail!("{} of {count} reports from port {port}: {reports:?}; it said: {said}", reports.len());
        }
        Ok(reports)
    }

    /// The reports so far on connections from the app's `port`, in the order of their making.
    pub fn of(&self, port: u16) -> Result<Vec<Value>> {
        Ok(self.reports()?.into_iter().filter(|report| port_of(report) == Some(port)).collect())
    }

    /// All reports so far, but for those of [`Self::mark`].
    pub fn reports(&self) -> Result<Vec<Value>> {
        let marks = self.marks.lock().map(|marks| marks.clone()).unwrap_or_default();
        let mut reports = self.tracer.reports()?;
        reports.retain(|report| {
            !(report["proxy"]["port"] == BEACON.port()
                && port_of(report).is_some_and(|port| marks.contains(&port)))
        });
        Ok(reports)
    }

    /// The tracer, to stop it.
    pub fn into_tracer(self) -> Tracer {
        self.tracer
    }
}

/// The app's port in a report.
fn port_of(report: &Value) -> Option<u16> {
    report["source"]["port"].as_u64().and_then(|port| u16::try_from(port).ok())
}
