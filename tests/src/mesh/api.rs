//! The lab's own requests to the API server: plain HTTP to `kubectl proxy`, which adds the administrator's certificate. What a
//! test means to show (`kubectl apply` of a fix) goes through kubectl itself.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use ureq::http::{Method, Request};

use crate::netns::Netns;

/// `kubectl proxy` listens here, inside the control plane's namespace.
pub(super) const PORT: u16 = 8001;
const TIMEOUT: Duration = Duration::from_mins(1);

/// A client, in the control plane's namespace.
#[derive(Debug)]
pub(super) struct Api {
    netns: Netns,
}

impl Api {
    pub(super) fn new(netns: Netns) -> Self {
        Self { netns }
    }

    /// The body of a GET of any URL; an error unless its status is 200.
    pub(super) fn get_url(&self, url: &str) -> Result<String> {
        let (status, body) = self.request(&Method::GET, url, "", &[])?;
        ensure!(status == 200, "GET {url}: {status}: {body}");
        Ok(body)
    }

    /// All objects of a collection, with their kind.
    pub(super) fn list(&self, collection: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.get_url(&url(collection))?)?;
        let text = |key: &str| list[key].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind").trim_end_matches("List").to_owned());
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let whole = |mut item: Value| {
            item["apiVersion"] = version.clone().into();
            item["kind"] = kind.clone().into();
            item
        };
        Ok(items.into_iter().map(whole).collect())
    }

    /// POSTs an object to a collection and gives back what the API server made of it.
    pub(super) fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.send(&Method::POST, collection, "application/json", object)
    }

    /// Creates an object unless there is one of its name.
    pub(super) fn ensure(&self, collection: &str, object: &Value) -> Result<()> {
        let (status, body) =
            self.request(&Method::POST, &url(collection), "application/json", object.to_string().as_bytes())?;
        ensure!(matches!(status, 201 | 409), "POST {collection}: {status}: {body}");
        Ok(())
    }

    pub(super) fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.send(&Method::PATCH, path, "application/merge-patch+json", patch)
    }

    /// Server-side apply.
    pub(super) fn apply(&self, object: &Value) -> Result<Value> {
        let path = format!("{}?fieldManager=lab&force=true", path_of(object)?);
        self.send(&Method::PATCH, &path, "application/apply-patch+yaml", object)
    }

    /// Deletes an object at once, if it is there.
    pub(super) fn delete(&self, object: &Value) -> Result<()> {
        let path = format!("{}?gracePeriodSeconds=0", path_of(object)?);
        let (status, body) = self.request(&Method::DELETE, &url(&path), "", &[])?;
        ensure!(matches!(status, 200 | 202 | 404), "DELETE {path}: {status}: {body}");
        Ok(())
    }

    /// Follows one object of a collection until `found` finds what it looks for in it.
    pub(super) fn wait<T: Send>(
        &self,
        collection: &str,
        name: &str,
        found: impl FnMut(&Value) -> Option<T> + Send,
    ) -> Result<T> {
        self.watch(collection, &format!("fieldSelector=metadata.name%3D{name}"), found)
    }

    /// Follows the objects of a collection that a selector leaves, until `found` finds what it looks for in one.
    pub(super) fn watch<T: Send>(
        &self,
        collection: &str,
        selector: &str,
        mut found: impl FnMut(&Value) -> Option<T> + Send,
    ) -> Result<T> {
        let url = url(&format!("{collection}?watch=1&timeoutSeconds={}&{selector}", TIMEOUT.as_secs()));
        self.netns.run(|| {
            let response = agent().get(&url).call().with_context(|| format!("watch {url}"))?;
            for line in BufReader::new(response.into_body().into_reader()).lines() {
                let event: Value = serde_json::from_str(&line?)?;
                if let Some(result) = found(&event["object"]) {
                    return Ok(result);
                }
            }
            bail!("{url}: what was waited for did not come within {TIMEOUT:?}")
        })?
    }

    fn send(&self, method: &Method, path: &str, kind: &str, object: &Value) -> Result<Value> {
        let (status, body) = self.request(method, &url(path), kind, object.to_string().as_bytes())?;
        ensure!((200..300).contains(&status), "{method} {path}: {status}: {body}\n{object}");
        Ok(serde_json::from_str(&body)?)
    }

    fn request(&self, method: &Method, url: &str, kind: &str, body: &[u8]) -> Result<(u16, String)> {
        self.netns.run(|| {
            let mut request = Request::builder().method(method).uri(url);
            if !kind.is_empty() {
                request = request.header("Content-Type", kind);
            }
            let mut response = agent().run(request.body(body)?).with_context(|| format!("{method} {url}"))?;
            let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
            Ok((response.status().as_u16(), text))
        })?
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    config
        .timeout_global(Some(TIMEOUT))
        .proxy(None)
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .build()
        .into()
}

fn url(path: &str) -> String {
    format!("http://127.0.0.1:{PORT}{path}")
}

/// Where an object is.
fn path_of(object: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    let (Some(version), Some(kind), Some(name)) = (version, kind, name) else { bail!("no object: {object}") };
    let group = if version.contains('/') { "apis" } else { "api" };
    let namespace = text(&object["metadata"]["namespace"]);
    let namespace = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
    Ok(format!("/{group}/{version}/{namespace}{}/{name}", plural(&kind)))
}

/// `services`, `serviceentries`, `networkpolicies`: how the API server names the collections of the kinds in use.
fn plural(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_found_where_the_api_server_has_them() {
        let path = |version: &str, kind: &str, namespace: Option<&str>| {
            path_of(&json!({"apiVersion": version, "kind": kind, "metadata": {"name": "n", "namespace": namespace}})).unwrap()
        };
        assert_eq!(path("v1", "Service", Some("a")), "/api/v1/namespaces/a/services/n");
        assert_eq!(path("v1", "Namespace", None), "/api/v1/namespaces/n");
        let istio = "networking.istio.io/v1";
        assert_eq!(
            path(istio, "ServiceEntry", Some("a")),
            "/apis/networking.istio.io/v1/namespaces/a/serviceentries/n"
        );
        assert_eq!(path(istio, "Gateway", Some("a")), "/apis/networking.istio.io/v1/namespaces/a/gateways/n");
        assert_eq!(
            path("security.istio.io/v1", "AuthorizationPolicy", Some("a")),
            "/apis/security.istio.io/v1/namespaces/a/authorizationpolicies/n"
        );
    }
}
