//! The watcher of a pod during a measurement: none, the tracer, tcpdump or tshark, each in the best configuration for this task
//! that we know of.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Process, Tracer, Usage};
use rustix::process::Signal;

use super::pods::BenchPod;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Payloads that begin with `CONN` or `HTTP`: a CONNECT and its reply. The filter runs in the kernel, so nothing else is copied.
/// It matches only IPv4.
const HEADS: &str =
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x434f4e4e or tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x48545450";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observer {
    Unobserved,
    Tracer,
    /// All packets into a file.
    Tcpdump,
    /// The first bytes of heads into a file.
    TcpdumpHeads,
    /// Heads, decoded.
    Tshark,
}

/// A running watcher.
pub(crate) enum Running {
    Unobserved,
    Tracer(Tracer, PathBuf),
    Peer(Process),
}

impl Observer {
    /// All watchers.
    pub(crate) const WATCHERS: [Self; 4] = [Self::Tracer, Self::Tcpdump, Self::TcpdumpHeads, Self::Tshark];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unobserved => "no watcher",
            Self::Tracer => "egress-tracer",
            Self::Tcpdump => "tcpdump -w, everything",
            Self::TcpdumpHeads => "tcpdump -w, CONNECT filter",
            Self::Tshark => "tshark, CONNECT filter",
        }
    }

    /// What it cannot show.
    pub(crate) fn blind_spot(self) -> &'static str {
        match self {
            Self::Unobserved => "everything",
            Self::Tracer => "what is inside TLS",
            Self::Tcpdump | Self::TcpdumpHeads => {
                "which process answered, which asked, which listener; the reader has to join the legs"
            }
            Self::Tshark => {
                "which process answered (Envoy's 404 and the proxy's look the same), which asked, which listener"
            }
        }
    }

    /// Starts it, and returns when it watches.
    pub(crate) fn start(self, pod: &BenchPod) -> Result<Running> {
        let peer = |program: &str, args: &[&str], ready: &str| {
            let mut command = pod.lab.pod_root().command(program)?;
            command.args(args);
            let process = Process::spawn(command, &[])?;
            process
                .wait_line("capture", process.stderr(), TIMEOUT, |line| line.contains(ready).then_some(()))?;
            Ok(Running::Peer(process))
        };
        let file = pod.lab.dir().join("capture.pcap").display().to_string();
        match self {
            Self::Unobserved => Ok(Running::Unobserved),
            Self::Tracer => {
                let reports = pod.lab.dir().join("reports.json");
                Ok(Running::Tracer(pod.observe_into(&reports)?, reports))
            }
            Self::Tcpdump => {
                peer("tcpdump", &["-i", "any", "-n", "-Z", "root", "-w", &file, "tcp"], "listening on")
            }
            Self::TcpdumpHeads => {
                let args = ["-i", "any", "-n", "-s", "512", "-Z", "root", "-w", &file, HEADS];
                peer("tcpdump", &args, "listening on")
            }
            Self::Tshark => {
                let args = [
                    "-i",
                    "any",
                    "-n",
                    "-l",
                    "-s",
                    "512",
                    "-f",
                    HEADS,
                    "-d",
                    "tcp.port==3128,http",
                    "-d",
                    "tcp.port==3130,http",
                    "-d",
                    "tcp.port==15001,http",
                    "-Y",
                    "http",
                    "-T",
                    "fields",
                    "-e",
                    "frame.time_epoch",
                    "-e",
                    "ip.src",
                    "-e",
                    "tcp.srcport",
                    "-e",
                    "ip.dst",
                    "-e",
                    "tcp.dstport",
                    "-e",
                    "http.request.method",
                    "-e",
                    "http.request.uri",
                    "-e",
                    "http.response.code",
                    "-e",
                    "http.server",
                ];
                peer("tshark", &args, "Capture started")
            }
        }
    }
}

impl Running {
    /// Its usage since it was started.
    pub(crate) fn usage(&self) -> Result<Usage> {
        match self {
            Self::Unobserved => Ok(Usage::default()),
            Self::Tracer(tracer, _) => Usage::of(tracer.pid()),
            Self::Peer(process) => Usage::of(process.pid()),
        }
    }

    /// Number of reports written; `None` for a watcher without reports.
    pub(crate) fn reports(&self) -> Result<Option<u64>> {
        let Self::Tracer(_, file) = self else { return Ok(None) };
        Ok(Some(BufReader::new(File::open(file)?).lines().count() as u64))
    }

    /// Stops it, and returns the losses that it reported.
    pub(crate) fn stop(self) -> Result<String> {
        match self {
            Self::Unobserved => Ok(String::new()),
            Self::Tracer(tracer, _) => {
                let ended = tracer.stop()?;
                ensure!(ended.status.success(), "egress-tracer did not stop well: {}", ended.stderr);
                Ok(String::new())
            }
            Self::Peer(process) => {
                process.signal(Signal::INT)?;
                let ended = process.finish(TIMEOUT)?;
                let dropped = ended.stderr.lines().filter(|line| line.contains("dropped")).map(str::trim);
                Ok(dropped.collect::<Vec<_>>().join("; "))
            }
        }
    }
}
