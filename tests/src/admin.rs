//! Plain HTTP questions to servers inside the lab: Envoy's admin port, the tracer's metrics, Prometheus.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// The body of a GET, asked from inside `netns`; an error when there is none or its status is not 2xx.
pub fn get(netns: &Netns, url: &str) -> Result<String> {
    get_with(netns, url, &[])
}

/// The same with parameters.
pub(crate) fn get_with(netns: &Netns, url: &str, parameters: &[(&str, &str)]) -> Result<String> {
    netns.run(|| {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(5)))
            .proxy(None)
            .build()
            .into();
        let request = agent.get(url).query_pairs(parameters.iter().copied());
        let mut response = request.call().with_context(|| format!("GET {url} in the lab"))?;
        response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .with_context(|| format!("GET {url} in the lab"))
    })?
}
