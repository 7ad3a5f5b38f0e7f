//! A real Alertmanager that forwards every alert at once to a webhook of the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
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
    alerts: Receiver<Value>,
    seen: Vec<Value>,
}

impl Alertmanager {
    /// Starts Alertmanager in `place`, with a folder of its own in `dir`. Returns when it listens.
    pub fn start(place: &Place, dir: &Path) -> Result<Self> {
        let listener = place.netns().run(|| TcpListener::bind(WEBHOOK))??;
        let (to, alerts) = channel();
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
        let text = format!(
            "route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
             receivers: [{{name: hook, webhook_configs: [{{url: 'http://{WEBHOOK}/', send_resolved: true}}]}}]\n"
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = place.command("prometheus-alertmanager")?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        command.arg("--cluster.listen-address="); // no cluster
        let process = Process::spawn(command, &[])?;
        process.wait_line("open port", process.stderr(), TIMEOUT, |line| {
            line.to_lowercase().contains("listening").then_some(())
        })?;
        Ok(Self { _process: process, alerts, seen: Vec::new() })
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
            for alert in &self.seen[next..] {
                if alert["labels"]["alertname"] == name && alert["status"] == status {
                    return Ok(alert.clone());
                }
            }
            next = self.seen.len();
            match self.alerts.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(alert) => self.seen.push(alert),
                Err(_) => bail!("no {status} {name} within {timeout:?}; the webhook got {:?}", self.seen),
            }
        }
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
        let post: Value = serde_json::from_slice(&body).ok()?;
        for alert in post["alerts"].as_array()? {
            to.send(alert.clone()).ok()?;
        }
    }
}
