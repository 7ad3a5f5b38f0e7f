//! The four sessions of the demo: the client, its request, what the client sees, and the expected report.

use anyhow::{Context, Result};
use lab::{Lab, PAGE, PROXY, ProcessOutput, Target};
use serde_json::Value;

/// Name of the web server that the app asks for.
pub(crate) const NAME: &str = "www.example.com";
/// A name that squid denies.
pub(crate) const REFUSED: &str = "refused.example.com";
/// Port of the proxy and of the unrelated Service.
pub(crate) const PORT: u16 = 3128;

/// One session.
#[derive(Debug)]
pub(crate) struct DemoSession {
    /// One line about what happens.
    pub(crate) title: &'static str,
    /// The client and its request.
    pub(crate) client: Client,
    /// Whether the sidecar's configuration is fixed first.
    pub(crate) after_fix: bool,
    /// The expected verdict.
    pub(crate) verdict: &'static str,
    /// The expected reason.
    pub(crate) reason: Option<&'static str>,
    /// The expected status of the reply to the CONNECT.
    pub(crate) status: u16,
    /// The expected author of the reply.
    pub(crate) from: &'static str,
}

/// A client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    /// curl, which speaks HTTP/1.1, with the host that it asks for.
    Curl(&'static str),
    /// Python, which speaks HTTP/1.0.
    Python,
}

/// The sessions, in order.
pub(crate) const SESSIONS: &[DemoSession] = &[
    DemoSession {
        title: "curl asks the proxy for a tunnel; a Service default/legacy has an HTTP port of the same number",
        client: Client::Curl(NAME),
        after_fix: false,
        verdict: "handled_as_http",
        reason: Some("route_not_found"),
        status: 404,
        from: "sidecar",
    },
    DemoSession {
        title: "Python's http.client sends that CONNECT as HTTP/1.0, which Envoy does not recognize as HTTP",
        client: Client::Python,
        after_fix: false,
        verdict: "tunneled",
        reason: None,
        status: 200,
        from: "proxy",
    },
    DemoSession {
        title: "the same curl again, after a TCP listener for the proxy's own address was added to the sidecar",
        client: Client::Curl(NAME),
        after_fix: true,
        verdict: "tunneled",
        reason: None,
        status: 200,
        from: "proxy",
    },
    DemoSession {
        title: "curl asks for a host that the proxy itself refuses",
        client: Client::Curl(REFUSED),
        after_fix: true,
        verdict: "refused_by_proxy",
        reason: None,
        status: 403,
        from: "proxy",
    },
];

impl DemoSession {
    /// Runs the client, and returns what it saw. Fails where that differs from what is expected.
    pub(crate) fn play(&self, lab: &Lab, target: &Target) -> Result<String> {
        let (who, ended) = match self.client {
            Client::Curl(name) => ("curl", curl(lab, target, name)?),
            Client::Python => python(lab, target)?,
        };
        let saw = if ended.status.success() {
            ended.stdout.lines().last().unwrap_or_default().to_owned()
        } else {
            // the message of `curl -S`, or the last line of a traceback
            ended.stderr.lines().last().unwrap_or_default().to_owned()
        };
        let due = if self.status == 200 {
            ended.status.success() && ended.stdout == PAGE
        } else {
            saw.contains(&self.status.to_string())
        };
        anyhow::ensure!(
            due,
            "{who} should have seen {}, but saw: {}{}",
            self.status,
            ended.stdout,
            ended.stderr
        );
        Ok(format!("{who} sees: {saw}"))
    }

    /// How the report differs from what is expected. None: it does not.
    pub(crate) fn mismatches(&self, report: &Value) -> Option<String> {
        let flagged = self.verdict == "handled_as_http";
        let due = [
            ("/verdict", Value::from(self.verdict)),
            ("/reason", self.reason.map_or(Value::Null, Value::from)),
            ("/flagged", Value::from(flagged)),
            ("/reply/status", Value::from(self.status)),
            ("/reply/from", Value::from(self.from)),
        ];
        let wrong: Vec<String> = due
            .iter()
            .filter_map(|(at, due)| {
                let said = report.pointer(at).unwrap_or(&Value::Null);
                (said != due).then(|| {
                    format!("{} is {said} and not {due}", at.trim_start_matches('/').replace('/', "."))
                })
            })
            .collect();
        (!wrong.is_empty()).then(|| wrong.join(", "))
    }
}

fn curl(lab: &Lab, target: &Target, name: &str) -> Result<ProcessOutput> {
    let ca = target.certificate().display().to_string();
    let (proxy, url) = (format!("http://{PROXY}:{PORT}"), format!("https://{name}/page.html"));
    lab.run_app("curl", &["-sS", "-m", "20", "--cacert", &ca, "-x", &proxy, &url])
}

/// Python up to 3.11 sends CONNECT as HTTP/1.0. Newer versions send 1.1, so there the script writes the CONNECT itself.
fn python(lab: &Lab, target: &Target) -> Result<(&'static str, ProcessOutput)> {
    let version = lab.run_app("python3", &["-c", "import sys; print(sys.version_info.minor)"])?;
    let minor: u32 = version.stdout.trim().parse().with_context(|| format!("python3 said {version:?}"))?;
    let ca = target.certificate().display();
    let head = format!("import http.client, socket, ssl\ntls = ssl.create_default_context(cafile='{ca}')\n");
    let (who, body) = if minor < 12 {
        let body = format!(
            "c = http.client.HTTPSConnection('{PROXY}', {PORT}, timeout=20, context=tls)\n\
             c.set_tunnel('{NAME}', 443)\n"
        );
        ("http.client", body)
    } else {
        let body = format!(
            "s = socket.create_connection(('{PROXY}', {PORT}), timeout=20)\n\
             s.sendall(b'CONNECT {NAME}:443 HTTP/1.0\\r\\n\\r\\n')\n\
             answer = s.recv(4096)\n\
             assert b' 200 ' in answer, answer\n\
             c = http.client.HTTPSConnection('{NAME}')\n\
             c.sock = tls.wrap_socket(s, server_hostname='{NAME}')\n"
        );
        ("a raw client (this python3 is newer than 3.11 and would say HTTP/1.1)", body)
    };
    let tail = "c.request('GET', '/page.html')\nprint(c.getresponse().read().decode(), end='')\n";
    Ok((who, lab.run_app("python3", &["-c", &(head + &body + tail)])?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn report_mismatches_name_each_field_that_differs() {
        let mut report = json!({
            "verdict": "handled_as_http", "reason": "route_not_found", "flagged": true,
            "reply": {"from": "sidecar", "status": 404},
        });
        assert_eq!(SESSIONS[0].mismatches(&report), None);
        report["reply"]["from"] = "proxy".into();
        assert_eq!(
            SESSIONS[0].mismatches(&report).as_deref(),
            Some("reply.from is \"proxy\" and not \"sidecar\"")
        );
        assert!(SESSIONS[1].mismatches(&report).is_some());
    }
}
