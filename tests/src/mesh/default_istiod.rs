//! A second istiod on the same API server, with all of its defaults. What it sends has filters that only Istio's own build of
//! Envoy knows and a stock Envoy refuses, so no sidecar loads it: its debug endpoint prints what it would send to a client, in
//! the form of Envoy's `config_dump`.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Mesh;
use super::push::{self, marker_of};
use crate::process::Process;

/// The address of its xDS service, on the loopback of the control plane's network, without TLS.
pub const DEFAULT_ISTIOD: &str = "127.0.0.1:15110";
const TIMEOUT: Duration = Duration::from_secs(30);
/// Where its debug endpoint is, on the same loopback.
pub(super) const PORT: u16 = 8081;

impl Mesh {
    /// Starts it.
    pub fn start_default_istiod(&self) -> Result<()> {
        let mut command = self.istiod_command("mesh-defaults.json")?;
        command.args([format!("--httpAddr=127.0.0.1:{PORT}"), format!("--grpcAddr={DEFAULT_ISTIOD}")]);
        command.args([
            "--httpsAddr=",
            "--secureGRPCAddr=",
            "--monitoringAddr=127.0.0.1:15114",
            "--ctrlz_port=0",
        ]);
        command.env("POD_NAME", "istiod-1").env("ISTIO_DUAL_STACK", self.options.dual_stack.to_string());
        let process = Process::spawn(command, &[])?;
        self.wait_url(&process, "the istiod with all defaults", &format!("http://127.0.0.1:{PORT}/ready"))?;
        *self.default_istiod.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// What it would send to the client of this name, as soon as it has all that was applied before the last wait for a push
    /// and `is_whole` says that the client has asked for all that belongs to it.
    pub fn default_dump(
        &self,
        proxy: &str,
        mut is_whole: impl FnMut(&Value) -> Result<bool>,
    ) -> Result<Value> {
        let url = format!("http://127.0.0.1:{PORT}/debug/config_dump?proxyID={proxy}&include_eds=true");
        let marker = self.last_marker();
        let istiod = self.default_istiod.lock().unwrap_or_else(PoisonError::into_inner);
        let istiod = istiod.as_ref().context("the istiod with all defaults is not started")?;
        let mut missing = String::new();
        let dump = push::poll(istiod.stderr(), TIMEOUT, || {
            // 404 until the client is connected.
            let dump = match self.api.get_url(&url) {
                Ok(text) => serde_json::from_str::<Value>(&text)?,
                Err(error) => {
                    missing = format!("{error:#}");
                    return Ok(None);
                }
            };
            let found = marker_of(&dump);
            let is_current = found.is_some_and(|number| number >= marker);
            let is_whole = is_whole(&dump)?;
            missing = format!("it has marker {found:?} of {marker}; it is whole: {is_whole}");
            Ok((is_current && is_whole).then_some(dump))
        })?;
        dump.with_context(|| {
            let log = [istiod.stderr().text(), istiod.stdout().text()].concat();
            format!("the istiod with all defaults made no whole dump within {TIMEOUT:?}: {missing}; its log: {log}")
        })
    }
}
