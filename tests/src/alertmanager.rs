//! A real Alertmanager that sends its messages to a webhook of the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::make_dir;
use crate::place::Place;
use crate::process::Process;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Both listen in the tools' namespace, so the fixed ports are free.
const LISTEN: &str = "127.0.0.1:9093";
const WEBHOOK: &str = "127.0.0.1:9099";

/// A running Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    _process: Process,
    place: Place,
    messages: Receiver<Value>,
    seen: Vec<Value>,
}

impl Alertmanager {
    /// Starts Alertmanager in `place`, with a folder of its own in `dir`. It sends every alert at once. Returns when it
    /// listens.
    pub fn start(place: &Place, dir: &Path) -> Result<Self> {
        let config = format!(
            "route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
             receivers: [{{name: hook, webhook_configs: [{{url: 'http://{WEBHOOK}/', send_resolved: true}}]}}]\n"
        );
        Self::start_with(place, dir, &config)
    }

    /// Starts Alertmanager with the example of `deploy/prometheus`. It waits a second where the example waits 30, and sends to
    /// the webhook of the test.
    pub fn start_example(place: &Place, dir: &Path) -> Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/alertmanager.yaml");
        let mut config = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        for (usual, ours) in [
            ("http://hooks.example.com/", format!("http://{WEBHOOK}/")),
            ("group_wait: 30s", "group_wait: 1s".to_owned()),
            ("group_interval: 5m", "group_interval: 1s".to_owned()),
        ] {
            ensure!(config.contains(usual), "the example has no {usual:?} any more");
            config = config.replace(usual, &ours);
        }
        Self::start_with(place, dir, &config)
    }

    fn start_with(place: &Place, dir: &Path, config_text: &str) -> Result<Self> {
        let listener = place.netns().run(|| TcpListener::bind(WEBHOOK))??;
        let (to, messages) = channel();
        thread::spawn(move || {
            // The thread ends with the test's process: only the lab's tools can connect to the listener.
            while let Ok((stream, _)) = listener.accept() {
                let to = to.clone();
                thread::spawn(move || receive(stream, &to));
            }
        });
        let dir = dir.join("alertmanager");
        make_dir(&dir)?;
        let config = dir.join("alertmanager.yaml");
        fs::write(&config, config_text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = place.command("prometheus-alertmanager")?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        command.arg("--cluster.listen-address="); // no cluster
        let process = Process::spawn(command, &[])?;
        process.wait_line("open port", process.stderr(), TIMEOUT, |line| {
            line.to_lowercase().contains("listening").then_some(())
        })?;
        Ok(Self { _process: process, place: place.clone(), messages, seen: Vec::new() })
    }

    /// The address it listens on.
    pub fn address(&self) -> &'static str {
        LISTEN
    }

    /// Waits until the webhook receives alert `name` with this status (`firing` or `resolved`). Returns the alert as
    /// Alertmanager wrote it.
    pub fn wait(&mut self, name: &str, status: &str, timeout: Duration) -> Result<Value> {
        let end = Instant::now() + timeout;
        let mut next = 0;
        loop {
            for alert in self.seen[next..].iter().filter_map(|message| message["alerts"].as_array()).flatten()
            {
                if alert["labels"]["alertname"] == name && alert["status"] == status {
                    return Ok(alert.clone());
                }
            }
            next = self.seen.len();
            match self.messages.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(message) => self.seen.push(message),
                Err(_) => bail!("no {status} {name} within {timeout:?}; the webhook got {:?}", self.seen),
            }
        }
    }

    /// The messages that [`Self::wait`] has read so far, and forgets them.
    pub fn take_messages(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.seen)
    }

    /// Hands alerts to Alertmanager, as Prometheus does: a list of objects with `labels`.
    pub fn send(&self, alerts: &[Value]) -> Result<()> {
        let body = serde_json::to_string(alerts)?;
        self.place.netns().run(|| {
            let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
            let request = agent.post(format!("http://{LISTEN}/api/v2/alerts"));
            request
                .header("Content-Type", "application/json")
                .send(&body)
                .context("Alertmanager takes no alerts")
        })??;
        Ok(())
    }
}

/// Reads Alertmanager's POSTs on one connection.
fn receive(stream: TcpStream, to: &Sender<Value>) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
        to.send(serde_json::from_slice(&body).ok()?).ok()?;
    }
}
