//! The problem that this project is about, on a mesh: an app with its sidecar, a squid that the app dials by address, and the
//! object of another team that breaks it. It says what curl saw, and judges nothing.

use anyhow::{Context, Result};

use super::{MESH_PAGE, Mesh, Pod, PodOptions};
use crate::process::ProcessOutput;
use crate::squid::{Squid, SquidPolicy};

/// The scene on one port; scenes on other ports do not meet.
#[derive(Debug)]
pub struct Seed {
    app: Pod,
    proxy: Pod,
    squid: Squid,
    port: u16,
}

impl Seed {
    /// Starts squid and the app, and makes the other team's namespace.
    pub fn start(mesh: &Mesh, port: u16) -> Result<Self> {
        let policy = SquidPolicy { hosts: Vec::new(), denied: Vec::new(), credentials: None };
        let proxy = mesh.pod(&PodOptions::plain("egress", &format!("squid-{port}")))?;
        let squid = proxy.squid(port, &policy)?;
        let app = mesh.pod(&PodOptions::injected("shop", &format!("app-{port}")))?;
        mesh.namespace("other")?;
        Ok(Self { app, proxy, squid, port })
    }

    /// curl as the app, through the proxy: the status of the answer to its CONNECT, and what curl said.
    pub fn curl(&self) -> Result<(u16, ProcessOutput)> {
        let proxy = format!("http://{}", self.proxy());
        let format = "%{http_connect} for the CONNECT, %{http_code} through the tunnel\n";
        let args =
            ["-sS", "-m", "20", "--proxytunnel", "-x", &proxy, "-o", "/dev/null", "-w", format, MESH_PAGE];
        let ended = self.app.run("curl", &args)?;
        let status = ended.stdout.split(' ').next().and_then(|status| status.parse().ok());
        Ok((status.with_context(|| format!("curl said no status: {ended:?}"))?, ended))
    }

    /// A Service that has nothing to do with the app or the proxy, but an HTTP port of the proxy's number.
    pub fn service(&self) -> String {
        let port = self.port;
        format!(
            "apiVersion: v1
kind: Service
metadata:
  name: {}
  namespace: other
spec:
  selector:
    app: reports
  ports:
  - name: http
    port: {port}
",
            self.service_name()
        )
    }

    /// Its name, in the namespace `other`.
    pub fn service_name(&self) -> String {
        format!("reports-{}", self.port)
    }

    /// The ServiceEntry that repairs it, as an engineer would write it by hand.
    pub fn service_entry(&self) -> String {
        let (port, address) = (self.port, self.proxy.address());
        format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: proxy-{port}
  namespace: shop
spec:
  hosts:
  - proxy-{port}.example
  addresses:
  - {address}
  ports:
  - number: {port}
    name: tcp-proxy
    protocol: TCP
  location: MESH_EXTERNAL
  resolution: NONE
"
        )
    }

    /// The proxy as the app dials it.
    pub fn proxy(&self) -> String {
        format!("{}:{}", self.proxy.address(), self.port)
    }

    /// The app's pod.
    pub fn app(&self) -> &Pod {
        &self.app
    }

    /// The proxy.
    pub fn squid(&self) -> &Squid {
        &self.squid
    }
}
