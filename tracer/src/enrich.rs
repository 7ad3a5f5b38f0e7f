//! Adds to a flagged report what the sidecar's configuration says: the listener, the object behind it, the fix. A
//! report waits a second at most; a slow, hostile or absent admin port leaves these fields empty.

use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    explain::{Fetches, Sidecar, Sidecars},
    metrics::Metrics,
};
use tracer_core::report::{Direction, Listener, Report};
use tracer_mesh::Brief;

/// How long a report waits for its explanation.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many reports may wait at once; further ones go without.
const WAITING: usize = 1024;

/// Reports that are being explained.
pub struct Enricher {
    to: Option<Sender<Box<Report>>>,
    from: Receiver<Box<Report>>,
    waiting: usize,
}

impl Enricher {
    /// Asks sidecars at this admin port, for as long as the current `LocalSet` runs, and counts the fetches in
    /// `metrics`. `redirect_ports` receive redirected connections. With no admin port every report comes back
    /// unchanged.
    pub fn new(admin_port: Option<u16>, redirect_ports: &[u16], metrics: &Metrics) -> Self {
        let (done, from) = channel(WAITING);
        let to = admin_port.map(|admin_port| {
            let (to, requests) = channel(WAITING);
            let sidecars = Sidecars::new().redirected_to(redirect_ports);
            tokio::task::spawn_local(explain_all(admin_port, sidecars, metrics.clone(), requests, done));
            to
        });
        Self { to, from, waiting: 0 }
    }

    /// Takes a report to explain. It comes back from [`Self::next`], or at once where there is nothing to explain or no
    /// room.
    pub fn enrich(&mut self, report: Box<Report>) -> Option<Box<Report>> {
        let Some(to) = self.to.as_ref().filter(|_| report.flagged && self.waiting < WAITING) else {
            return Some(report);
        };
        if pid(&report).is_none() {
            return Some(report);
        }
        match to.try_send(report) {
            Ok(()) => {
                self.waiting += 1;
                None
            }
            Err(refused) => Some(refused.into_inner()),
        }
    }

    /// The next finished report; pending while there is none.
    pub async fn next(&mut self) -> Box<Report> {
        match self.from.recv().await {
            Some(report) => {
                self.waiting -= 1;
                report
            }
            None => std::future::pending().await,
        }
    }

    /// Whether reports are on their way back.
    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }
}

/// The process to ask about a report.
fn pid(report: &Report) -> Option<u32> {
    report.sidecar.as_ref()?.pid
}

async fn explain_all(
    admin_port: u16,
    mut sidecars: Sidecars,
    metrics: Metrics,
    mut requests: Receiver<Box<Report>>,
    done: Sender<Box<Report>>,
) {
    let mut counted = Fetches::default();
    while let Some(report) = requests.recv().await {
        let Some(pid) = pid(&report) else { continue };
        let to = SocketAddr::from(report.proxy);
        let head = head(&report);
        let brief = sidecars.brief(Sidecar { pid, admin_port }, to, &head);
        if answer(report, brief, &mut requests, &done).await.is_err() {
            return; // the receiver is closed
        }
        let Fetches { ok, failed, limited: _ } = sidecars.fetches;
        (counted.ok..ok).for_each(|_| metrics.count_config_fetch(true));
        (counted.failed..failed).for_each(|_| metrics.count_config_fetch(false));
        counted = sidecars.fetches;
    }
}

/// The receiver of finished reports is closed.
struct Closed;

/// Sends the report on with its explanation, or without it after [`PATIENCE`]. The question then still runs to its end,
/// and reports that arrive meanwhile do not wait for it.
async fn answer(
    report: Box<Report>,
    brief: impl Future<Output = Option<Brief>>,
    requests: &mut Receiver<Box<Report>>,
    done: &Sender<Box<Report>>,
) -> Result<(), Closed> {
    let mut brief = pin!(brief);
    tokio::select! {
        brief = &mut brief => return done.send(attach(report, brief)).await.map_err(|_| Closed),
        () = tokio::time::sleep(PATIENCE) => done.send(report).await.map_err(|_| Closed)?,
    }
    loop {
        tokio::select! {
            _ = &mut brief => return Ok(()),
            report = requests.recv() => match report {
                Some(report) => done.send(report).await.map_err(|_| Closed)?,
                None => return Err(Closed),
            },
        }
    }
}

/// Adds the explanation to a report. The configuration never replaces the evidence: one under which the connection
/// reaches the proxy has changed since, and says nothing about this report.
fn attach(mut report: Box<Report>, brief: Option<Brief>) -> Box<Report> {
    let Some(Brief { listener, because, fix, manifest, reaches_proxy: false }) = brief else { return report };
    report.listener = listener.map(|name| Listener { name, because });
    if let (Some(fix), Some(pid)) = (fix, pid(&report)) {
        let to = SocketAddr::from(report.proxy);
        // The sidecar is in the source's own pod, unless it is the proxy's.
        let pod = report.source.owner.as_ref().filter(|_| report.direction == Direction::Outbound);
        let whose =
            pod.map_or_else(|| format!("--pid {pid}"), |pod| format!("--pod {}/{}", pod.namespace, pod.name));
        report.fix = Some(format!("{fix}: egress-tracer explain {whose} --to {to} -o yaml"));
        report.manifest = manifest;
    }
    report
}

/// The request, as far as it decides which listener and chain takes it.
fn head(report: &Report) -> Vec<u8> {
    let authority = &report.connect.authority;
    let version = Some(report.connect.http_version.as_str()).filter(|version| !version.is_empty());
    let version = version.unwrap_or("1.1"); // beyond what was captured
    format!("CONNECT {authority} HTTP/{version}\r\nHost: {authority}\r\n\r\n").into_bytes()
}
