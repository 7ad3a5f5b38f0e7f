//! The pods on which all situations are played, one after another on one mesh.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{
    Behavior, MESH_PAGE, Mesh, Pod, PodOptions, Process, Script, ScriptedProxy, Sidecar, Squid, SquidPolicy,
    Step, Tracer, Transcript, Wire, tracer_binary,
};
use serde_json::{Value, json};

use crate::reality::{Seen, Verdict, endpoints};
use crate::table::{Addresses, Client, PORT, Request, Situation, To};

/// A host that squid refuses, by its own configuration.
const DENIED: &str = "denied.example";
/// How long the tracer has for a report of a connection that is over.
const TIMEOUT: Duration = Duration::from_secs(3);
const EXPLAIN_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything that runs; it ends in this order, the mesh last.
pub struct Stage {
    tracer: Tracer,
    clients: Vec<(Client, Pod, Wire)>,
    _squid_server: Squid,
    mesh_squid_log: Squid,
    _web_server: ScriptedProxy,
    squid: Pod,
    mesh_squid: Pod,
    web: Pod,
    played: Vec<Value>,
    mesh: Mesh,
}

/// What was seen and said in one situation.
pub struct Played {
    /// What the measured reality means.
    pub right: Verdict,
    /// What was measured, for a reader.
    pub seen: Seen,
    /// What the tracer said while it watched.
    pub live: Verdict,
    /// The sidecar's configuration and the app's bytes, where the app has a sidecar that intercepts.
    pub dump: Option<PathBuf>,
}

impl Stage {
    /// Starts all of it.
    pub fn build() -> Result<Self> {
        let mesh = Mesh::start()?;
        let policy = SquidPolicy { hosts: Vec::new(), denied: vec![DENIED.to_owned()], credentials: None };
        let squid = mesh.pod(&PodOptions::plain("egress", "squid"))?;
        let squid_server = squid.squid(PORT, &policy)?;
        let mesh_squid = mesh.pod(&PodOptions::injected("egress", "meshsquid"))?;
        let mesh_squid_log = mesh_squid.squid(PORT, &policy)?;
        let web = mesh.pod(&PodOptions::plain("other", "web"))?;
        let listen = SocketAddr::new(web.address().parse()?, PORT);
        let web_server = ScriptedProxy::start_in(web.app().netns(), listen, Behavior::Statuses(vec![405]))?;
        let mut clients = Vec::new();
        for (client, name, sidecar) in clients_and_sidecars(squid.address()) {
            let pod = mesh.pod(&PodOptions { sidecar, ..PodOptions::plain("shop", name) })?;
            let wire = Wire::start(&pod)?;
            clients.push((client, pod, wire));
        }
        let tracer =
            Tracer::start_in(&mesh.tools()?, mesh.dir(), mesh.pods_cgroup(), &tracer_binary()?, &[])?;
        let played = Vec::new();
        Ok(Self {
            tracer,
            clients,
            _squid_server: squid_server,
            mesh_squid_log,
            _web_server: web_server,
            squid,
            mesh_squid,
            web,
            played,
            mesh,
        })
    }

    /// Addresses for the objects of the situations.
    pub fn addresses(&self) -> Addresses {
        Addresses { squid: self.squid.address().to_owned(), web: self.web.address().to_owned() }
    }

    /// Puts the situation's objects in the place of the ones before, lets its app dial, and gives back what was seen.
    pub fn play(&mut self, situation: &Situation) -> Result<Played> {
        let (_, pod, wire) =
            self.clients.iter().find(|(client, ..)| *client == situation.client).context("a client")?;
        let before = std::mem::replace(&mut self.played, situation.objects.clone());
        self.mesh.replace(&before, &situation.objects, &[pod, &self.mesh_squid])?;

        let dialed = self.dialed(situation.to)?;
        let head = head(situation.request);
        let logged = self.mesh_squid_log.access_log()?.lines().count();
        wire.clear()?;
        let reports = self.tracer.report_lines().all().len();
        let steps = vec![Step::Send { send: head.clone() }, Step::Until { until: "\r\n\r\n".to_owned() }];
        let client = pod.play(&[Script { dialed, steps }])?.swap_remove(0);
        let live = self.live(&client, reports);
        let dump = if intercepts(situation.client) { Some(self.dump(pod, &situation.name)?) } else { None };
        let seen = Seen {
            dialed,
            head: head.into_bytes(),
            flows: wire.flows()?,
            endpoints: endpoints(dialed, &situation.objects, &self.pods()?),
            injected: vec![SocketAddr::new(self.mesh_squid.address().parse()?, PORT)],
            injected_squid_saw_it: self.mesh_squid_log.access_log()?.lines().count() > logged,
            client,
        };
        Ok(Played { right: seen.verdict(), seen, live, dump })
    }

    /// What `explain` says of a connection to `dialed` by a configuration.
    pub fn explain(&self, played: &Played) -> Result<Option<Verdict>> {
        let Some(dump) = &played.dump else { return Ok(None) };
        let head = dump.with_extension("head");
        std::fs::write(&head, &played.seen.head)?;
        let mut command = self.mesh.control().command_at(&tracer_binary()?)?;
        command.args(["explain", "-o", "json", "--to", &played.seen.dialed.to_string(), "--config-dump"]);
        command.arg(dump).arg("--head").arg(&head);
        let ended = Process::run(command, &[], EXPLAIN_TIMEOUT)?;
        let said: Value =
            ended.stdout.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(json!({}));
        Ok(Some(Verdict::said(&said)))
    }

    fn live(&self, client: &Transcript, from: usize) -> Verdict {
        let port = client.local.map(|local| local.port());
        let report = self.tracer.report_lines().wait(TIMEOUT, |lines| {
            let mut reports =
                lines[from..].iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            reports.find(|report| report["source"]["port"].as_u64() == port.map(u64::from))
        });
        Verdict::said(&report.unwrap_or_default())
    }

    fn dump(&self, pod: &Pod, name: &str) -> Result<PathBuf> {
        let dump = pod.config_dump()?;
        let dir = self.mesh.dir().join("dumps");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{name}.json"));
        std::fs::write(&path, dump)?;
        Ok(path)
    }

    fn dialed(&self, to: To) -> Result<SocketAddr> {
        let at = |address: &str, port| Ok(SocketAddr::new(address.parse()?, port));
        match to {
            To::Squid => at(self.squid.address(), PORT),
            To::MeshSquid => at(self.mesh_squid.address(), PORT),
            To::ClosedPort => at(self.squid.address(), PORT + 1),
            To::Address(address) => Ok(SocketAddr::from((address, PORT))),
        }
    }

    fn pods(&self) -> Result<[(&str, &str, SocketAddr); 3]> {
        let at = |pod: &Pod| -> Result<SocketAddr> { Ok(SocketAddr::new(pod.address().parse()?, PORT)) };
        Ok([
            ("egress", "squid", at(&self.squid)?),
            ("egress", "meshsquid", at(&self.mesh_squid)?),
            ("other", "web", at(&self.web)?),
        ])
    }
}

/// Whether the sidecar's configuration alone decides: where rules leave the address out, it is never asked.
fn intercepts(client: Client) -> bool {
    !matches!(
        client,
        Client::NoSidecar | Client::PortExcluded | Client::AddressExcluded | Client::ServicesIncluded
    )
}

fn clients_and_sidecars(squid: &str) -> Vec<(Client, &'static str, Option<Sidecar>)> {
    let rules = |rules: &[&str]| {
        Some(Sidecar { rules: rules.iter().map(ToString::to_string).collect(), ..Sidecar::default() })
    };
    let uid = 1_000_650_001;
    vec![
        (Client::Default, "client", Some(Sidecar::default())),
        (Client::FourWorkers, "four-workers", Some(Sidecar { concurrency: 4, ..Sidecar::default() })),
        (Client::OpenShift, "openshift", Some(Sidecar { uid, gid: uid, ..Sidecar::default() })),
        (Client::Tproxy, "tproxy", Some(Sidecar::tproxy())),
        (Client::Nftables, "nftables", rules(&["--native-nftables"])),
        (Client::PortExcluded, "port-excluded", rules(&["-o", "3128"])),
        (Client::AddressExcluded, "address-excluded", rules(&["-x", &format!("{squid}/32")])),
        (Client::ServicesIncluded, "services-included", rules(&["-i", "10.96.0.0/16"])),
        (Client::NoSidecar, "no-sidecar", None),
    ]
}

fn head(request: Request) -> String {
    let target = MESH_PAGE.trim_start_matches("http://").trim_end_matches("/ready");
    let connect = |host: &str, version: &str| {
        format!(
            "CONNECT {host} HTTP/{version}\r\nHost: {host}\r\nUser-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        )
    };
    match request {
        Request::Connect => connect(target, "1.1"),
        Request::Connect10 => connect(target, "1.0"),
        Request::ConnectDenied => connect(&format!("{DENIED}:443"), "1.1"),
        Request::AbsoluteForm => {
            format!("GET {MESH_PAGE} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: curl/8.5.0\r\n\r\n")
        }
    }
}
