//! Adds to a flagged report what the sidecar's own configuration says: the listener, the object behind it, the fix. It
//! works beside the tracer, not in its way: a report waits a second at most, and a slow, hostile or absent admin port
//! only leaves these fields as they were.

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
    /// Asks sidecars at this admin port, for as long as the current `LocalSet` runs; with `None`, it
    /// returns every report unchanged. Counts fetches and failures in `metrics`.
    pub fn new(admin_port: Option<u16>, metrics: &Metrics) -> Self {
        let (done, from) = channel(WAITING);
        let to = admin_port.map(|admin_port| {
            let (to, requests) = channel(WAITING);
            tokio::task::spawn_local(explain_all(admin_port, metrics.clone(), requests, done));
            to
        });
        Self { to, from, waiting: 0 }
    }

    /// Gives a report to be explained. It comes back from [`Self::next`]; or at once, where there is nothing to explain
    /// or no room.
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

    /// The next report that is done; never, where none waits.
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
    metrics: Metrics,
    mut requests: Receiver<Box<Report>>,
    done: Sender<Box<Report>>,
) {
    let mut sidecars = Sidecars::new();
    let mut counted = Fetches::default();
    while let Some(report) = requests.recv().await {
        let Some(pid) = pid(&report) else { continue };
        let to = SocketAddr::from(report.proxy);
        let head = head(&report);
        let brief = sidecars.brief(Sidecar { pid, admin_port }, to, &head);
        if answer(report, brief, &mut requests, &done).await.is_err() {
            return; // the receiver is gone
        }
        let Fetches { ok, failed, limited: _ } = sidecars.fetches;
        (counted.ok..ok).for_each(|_| metrics.count_config_fetch(true));
        (counted.failed..failed).for_each(|_| metrics.count_config_fetch(false));
        counted = sidecars.fetches;
    }
}

/// The receiver of the reports is gone.
struct Gone;

/// Sends the report on with its explanation, or without once its patience is at an end. The question itself is then
/// still carried to its end, and reports that come in meanwhile do not wait for it.
async fn answer(
    report: Box<Report>,
    brief: impl Future<Output = Option<Brief>>,
    requests: &mut Receiver<Box<Report>>,
    done: &Sender<Box<Report>>,
) -> Result<(), Gone> {
    let mut brief = pin!(brief);
    tokio::select! {
        brief = &mut brief => return done.send(attach(report, brief)).await.map_err(|_| Gone),
        () = tokio::time::sleep(PATIENCE) => done.send(report).await.map_err(|_| Gone)?,
    }
    loop {
        tokio::select! {
            _ = &mut brief => return Ok(()),
            report = requests.recv() => match report {
                Some(report) => done.send(report).await.map_err(|_| Gone)?,
                None => return Err(Gone),
            },
        }
    }
}

/// The configuration explains the verdict; it never replaces the evidence. One under which the connection would have
/// reached the proxy has changed since, and says nothing about this report.
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
