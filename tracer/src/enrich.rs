//! Asks the sidecar's configuration about a report, as a second witness, and adds to a flagged report what it says: the
//! listener, the object behind it, the fix. A report waits a second at most; a slow, hostile or absent admin port leaves
//! these fields empty.

use std::{
    cell::Cell,
    future::Future,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    explain::{AdminEndpoint, ConfigAnswer, Fetches, Sidecars},
    metrics::Metrics,
    pid_namespace,
};
use tracer_core::{
    head::Form,
    report::{Direction, Listener, Report, Testimony},
    verdict::Verdict,
};
use tracer_mesh::{Brief, CURL_CONNECT};

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
        // Elsewhere a record's process id may name a process of another pod.
        let admin_port = admin_port.filter(|_| {
            let named = pid_namespace::is_the_nodes();
            if !named {
                log::info!(
                    "process ids of this pid namespace are not the node's, so no sidecar is asked to explain"
                );
            }
            named
        });
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
        let Some(to) = self.to.as_ref().filter(|_| report.needs_configuration() && self.waiting < WAITING)
        else {
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
    report.interceptor.as_ref()?.pid
}

async fn explain_all(
    admin_port: u16,
    sidecars: Sidecars,
    metrics: Metrics,
    mut requests: Receiver<Box<Report>>,
    done: Sender<Box<Report>>,
) {
    let counted: Rc<Cell<Fetches>> = Rc::default();
    while let Some(report) = requests.recv().await {
        let Some(pid) = pid(&report) else { continue };
        let question = Question {
            sidecar: AdminEndpoint { pid, admin_port },
            to: report.proxy.into(),
            head: head(&report),
            is_flagged: report.flagged,
            is_inbound: report.direction == Direction::Inbound,
        };
        // Each on its own: one that waits for a slow sidecar keeps no other waiting.
        let (sidecars, metrics, done) = (sidecars.clone(), metrics.clone(), done.clone());
        let counted = Rc::clone(&counted);
        tokio::task::spawn_local(async move {
            let witness = async {
                let witness = ask(&sidecars, question).await;
                count_fetches(&sidecars, &counted, &metrics);
                witness
            };
            answer(report, witness, &metrics, &done).await;
        });
    }
}

/// Counts the fetches since the previous call.
fn count_fetches(sidecars: &Sidecars, counted: &Cell<Fetches>, metrics: &Metrics) {
    let fetches = sidecars.fetches();
    let before = counted.replace(fetches);
    (before.ok..fetches.ok).for_each(|_| metrics.count_config_fetch(true));
    (before.failed..fetches.failed).for_each(|_| metrics.count_config_fetch(false));
}

/// What the configuration says about a report, and how old it is.
struct Witness {
    brief: Brief,
    testimony: Testimony,
}

/// What a configuration is asked about a report.
struct Question {
    sidecar: AdminEndpoint,
    to: SocketAddr,
    head: Vec<u8>,
    is_flagged: bool,
    is_inbound: bool,
}

/// Asks a sidecar's configuration about a report. Where it contradicts the report, it is asked again, unless it was known to
/// be the current one when the report was made.
async fn ask(sidecars: &Sidecars, question: Question) -> Option<Witness> {
    let Question { sidecar, to, head, is_flagged, is_inbound } = question;
    let made = Instant::now();
    let mut answer = sidecars.brief(sidecar, to, &head).await?;
    let contradicts =
        |answer: &ConfigAnswer| is_flagged && answer.brief.verdict.is_some_and(|said| !said.is_flagged());
    if contradicts(&answer) && answer.asked < made {
        sidecars.doubt(sidecar);
        answer = sidecars.brief(sidecar, to, &head).await?;
    }
    let ConfigAnswer { brief, version, fetched, asked } = answer;
    let is_current = asked >= made || brief.verdict.is_none_or(Verdict::is_flagged);
    // The proxy's own sidecar decides on connections from outside, which its outbound listeners say nothing about.
    let testimony = Testimony {
        verdict: brief.verdict.filter(|_| !is_inbound),
        certain: brief.certain && is_current && !is_inbound,
        version,
        age_s: Some(fetched.elapsed().as_secs()),
    };
    Some(Witness { brief, testimony })
}

/// Sends the report on with its explanation, or without it after [`PATIENCE`]. The question then still runs to its end, so
/// that the next report finds what it learned.
async fn answer(
    report: Box<Report>,
    witness: impl Future<Output = Option<Witness>>,
    metrics: &Metrics,
    done: &Sender<Box<Report>>,
) {
    let mut witness = pin!(witness);
    let early = tokio::select! {
        witness = &mut witness => Some(witness),
        () = tokio::time::sleep(PATIENCE) => None,
    };
    // The receiver is closed where the agent ends.
    let is_late = early.is_none();
    let sent = done.send(attach(report, early.flatten(), metrics)).await;
    if is_late && sent.is_ok() {
        witness.await;
    }
}

/// Adds what the configuration says to a report, and counts a flag that it withdraws.
fn attach(mut report: Box<Report>, witness: Option<Witness>, metrics: &Metrics) -> Box<Report> {
    let Some(Witness { brief, testimony }) = witness else { return report };
    if report.hear(testimony) {
        metrics.count_witness_disagreement();
    }
    let Brief { listener, because, fix, manifest, reaches_proxy, .. } = brief;
    if reaches_proxy || !report.flagged {
        return report;
    }
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

/// The request, as far as it decides which listener and chain takes it. For an answer that was passed on as TCP any CONNECT
/// does, so all of them share an answer of the configuration.
fn head(report: &Report) -> Vec<u8> {
    if !report.flagged {
        return CURL_CONNECT.to_vec();
    }
    let authority = &report.connect.authority;
    let version = Some(report.connect.http_version.as_str()).filter(|version| !version.is_empty());
    let version = version.unwrap_or("1.1"); // beyond what was captured
    let (method, target) = match report.connect.form {
        Form::Connect => ("CONNECT", authority.to_string()),
        Form::Absolute => ("GET", format!("http://{authority}/")),
    };
    format!("{method} {target} HTTP/{version}\r\nHost: {authority}\r\n\r\n").into_bytes()
}
