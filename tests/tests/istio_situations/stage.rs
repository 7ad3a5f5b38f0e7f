//! The pods on which all situations are played, one after another on one mesh.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Behavior, MESH_PAGE, Mesh, MeshOptions, Pod, PodOptions, Process, Script, ScriptedProxy, Sidecar, Squid,
    SquidPolicy, Step, Tracer, Transcript, Wire, tracer_binary,
};
use serde_json::{Value, json};

use crate::default_dump::DumpClient;
use crate::reality::{Seen, Verdict, endpoints};
use crate::table::{Addresses, Client, PORT, Request, Situation, To, VIP_V6};

/// A host that squid refuses, by its own configuration.
const DENIED: &str = "denied.example";
/// How long the tracer is waited for before it is asked whether it has read everything.
const SOON: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);
/// A proxy inside the pod that dials, which no rule redirects: the report of a session with it comes after all earlier ones.
const BEACON: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18080);
const EXPLAIN_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything that runs; it ends in this order, the mesh last.
pub struct Stage {
    tracer: Tracer,
    actors: Vec<Rc<Actor>>,
    _servers: Vec<Squid>,
    _web_server: ScriptedProxy,
    squid: Pod,
    mesh_squid: Pod,
    mesh_squid_wire: Wire,
    web: Pod,
    played: Vec<Value>,
    mesh_config: Value,
    mesh: Mesh,
}

/// A pod that dials, and the reader of its interface.
pub struct Actor {
    client: Client,
    /// The annotations that it was started with.
    annotations: Vec<(String, String)>,
    pod: Pod,
    wire: Wire,
    /// Asks the istiod with all defaults in the place of the pod's sidecar.
    dump_client: Option<DumpClient>,
    _beacon: ScriptedProxy,
}

/// What was seen and said in one situation.
pub struct Played {
    /// What the measured reality means.
    pub right: Verdict,
    /// What was measured, for a reader.
    pub seen: Seen,
    /// What the tracer said while it watched.
    pub live: Verdict,
    /// What `explain` said of the sidecar's configuration, where the app has a sidecar that intercepts.
    pub explained: Option<Value>,
    /// The configuration that istiod makes with all its defaults, and what `explain` said of it.
    pub defaults: Option<(String, Value)>,
}

impl Stage {
    /// Starts all of it but the pods that dial, which start when they are first needed.
    pub fn build(dual_stack: bool) -> Result<Self> {
        let mesh = Mesh::start_with(MeshOptions { dual_stack, ..MeshOptions::default() })?;
        mesh.start_default_istiod()?;
        let policy = SquidPolicy { hosts: Vec::new(), denied: vec![DENIED.to_owned()], credentials: None };
        let squid = mesh.pod(&PodOptions::plain("egress", "squid"))?;
        let mesh_squid = mesh.pod(&PodOptions::injected("egress", "meshsquid"))?;
        let mut servers = vec![squid.squid(PORT, &policy)?, mesh_squid.squid(PORT, &policy)?];
        if let Some(address) = squid.address_v6() {
            servers.push(squid.squid_at(SocketAddr::new(address.parse()?, PORT), &policy)?);
        }
        let mesh_squid_wire = Wire::start(&mesh_squid)?;
        let web = mesh.pod(&PodOptions::plain("other", "web"))?;
        let listen = SocketAddr::new(web.address().parse()?, PORT);
        let web_server = ScriptedProxy::start_in(web.app().netns(), listen, Behavior::Statuses(vec![405]))?;
        let tracer =
            Tracer::start_in(&mesh.tools()?, mesh.dir(), mesh.pods_cgroup(), &tracer_binary()?, &[])?;
        Ok(Self {
            tracer,
            actors: Vec::new(),
            _servers: servers,
            _web_server: web_server,
            squid,
            mesh_squid,
            mesh_squid_wire,
            web,
            played: Vec::new(),
            mesh_config: json!({}),
            mesh,
        })
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The pod that dials, with these annotations; it is started where there is none.
    pub fn actor(&mut self, client: Client, annotations: &[(String, String)]) -> Result<Rc<Actor>> {
        let known =
            self.actors.iter().find(|actor| actor.client == client && actor.annotations == annotations);
        if let Some(actor) = known {
            return Ok(Rc::clone(actor));
        }
        let (name, sidecar) = pod_of(client, self.squid.address());
        let restarted = self.actors.iter().filter(|actor| actor.client == client).count();
        let options = PodOptions {
            sidecar,
            labels: vec![("app".to_owned(), name.to_owned())],
            annotations: annotations.to_vec(),
            ..PodOptions::plain(
                "shop",
                &if restarted == 0 { name.to_owned() } else { format!("{name}-{restarted}") },
            )
        };
        let pod = self.mesh.pod(&options)?;
        let wire = Wire::start(&pod)?;
        let has_dump = intercepts(client) && annotations.is_empty();
        let dump_client = has_dump.then(|| DumpClient::start(&self.mesh, &pod)).transpose()?;
        let beacon = ScriptedProxy::start_in(pod.app().netns(), BEACON, Behavior::Tunnel)?;
        let annotations = annotations.to_vec();
        let actor = Rc::new(Actor { client, annotations, pod, wire, dump_client, _beacon: beacon });
        self.actors.push(Rc::clone(&actor));
        Ok(actor)
    }

    /// Addresses for the objects of the situations.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            squid: self.squid.address().to_owned(),
            squid_v6: self.squid.address_v6().map(str::to_owned),
            web: self.web.address().to_owned(),
        }
    }

    /// Puts the situation's objects in the place of the ones before, lets its app dial, and gives back what was seen.
    pub fn play(&mut self, situation: &Situation) -> Result<Played> {
        if self.mesh_config != situation.mesh_config {
            self.mesh_config.clone_from(&situation.mesh_config);
            self.mesh.set_mesh_config(self.mesh_config.clone())?;
        }
        let actor = self.actor(situation.client, &[])?;
        let before = std::mem::replace(&mut self.played, situation.objects.clone());
        self.mesh.replace(&before, &situation.objects, &[&actor.pod, &self.mesh_squid])?;
        let reports = self.tracer.report_lines().all().len();
        let dialed = self.dialed(&actor, situation.to)?;
        let seen = self.dial(&actor, situation, dialed)?;
        let live = self.live(&actor, &seen.client, reports)?;
        let mut explained = None;
        let mut defaults = None;
        if let Some(client) = &actor.dump_client {
            let dump = actor.pod.config_dump()?;
            explained = Some(self.explain(&dump, situation, &seen)?);
            let dump = client.dump(&self.mesh)?.to_string();
            ensure!(!dump.contains("PRIVATE KEY"), "a dump with a secret");
            let said = self.explain(&dump, situation, &seen)?;
            defaults = Some((dump, said));
        }
        Ok(Played { right: seen.verdict(), seen, live, explained, defaults })
    }

    /// Waits until the pod and the proxies have what istiod made of the objects, lets the pod's app dial, and gives back what
    /// was seen.
    pub fn dial_after_push(&self, actor: &Actor, situation: &Situation, dialed: SocketAddr) -> Result<Seen> {
        self.mesh.wait_push(&[&actor.pod, &self.mesh_squid])?;
        self.dial(actor, situation, dialed)
    }

    /// Lets the pod's app dial, and gives back what was seen.
    pub fn dial(&self, actor: &Actor, situation: &Situation, dialed: SocketAddr) -> Result<Seen> {
        let head = head(situation.request);
        actor.wire.clear()?;
        self.mesh_squid_wire.clear()?;
        let mut steps = vec![Step::Send { send: head.clone() }, Step::Until { until: "\r\n\r\n".to_owned() }];
        if situation.request == Request::Late {
            steps.insert(0, Step::Wait { wait: 1000 });
        }
        let client = actor.pod.play(&[Script { dialed, steps }])?.swap_remove(0);
        let delivered = self.mesh_squid_wire.deliveries()?;
        Ok(Seen {
            dialed,
            head: head.into_bytes(),
            flows: actor.wire.flows()?,
            endpoints: endpoints(dialed, &situation.objects, &self.pods()?),
            injected: vec![SocketAddr::new(self.mesh_squid.address().parse()?, PORT)],
            injected_squid_saw_it: delivered.iter().any(|flow| !flow.sent.is_empty()),
            injected_squid_saw_tls: delivered.iter().any(|flow| flow.sent.starts_with(&[0x16, 3])),
            client,
        })
    }

    /// What each server of the port but the dialed one answers to the pod's app: the servers' names and the statuses.
    pub fn others(
        &self,
        actor: &Actor,
        situation: &Situation,
        dialed: SocketAddr,
    ) -> Result<Vec<(String, String)>> {
        let mut targets =
            vec![("pod other/web".to_owned(), SocketAddr::new(self.web.address().parse()?, PORT))];
        for object in &situation.objects {
            let (spec, metadata) = (&object["spec"], &object["metadata"]);
            let addresses = [&spec["clusterIP"], &spec["addresses"][0]];
            let address = addresses.iter().find_map(|ip| ip.as_str()?.parse().ok());
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            targets.extend(address.map(|ip| {
                let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
                (format!("{} {namespace}/{name}", text(&object["kind"])), SocketAddr::new(ip, PORT))
            }));
        }
        targets.retain(|(_, address)| *address != dialed);
        let scripts: Vec<Script> = targets
            .iter()
            .map(|(name, address)| {
                let host = name.rsplit(' ').next().unwrap_or_default().replace('/', "-");
                let send =
                    format!("GET / HTTP/1.1\r\nHost: {host}.test:{PORT}\r\nUser-Agent: curl/8.5.0\r\n\r\n");
                let steps = vec![Step::Send { send }, Step::Until { until: "\r\n\r\n".to_owned() }];
                Script { dialed: *address, steps }
            })
            .collect();
        let answers = actor.pod.play(&scripts)?;
        let said = |answer: &Transcript| {
            answer.status().map_or_else(|| answer.end.clone(), |status| status.to_string())
        };
        Ok(targets.into_iter().zip(&answers).map(|((name, _), answer)| (name, said(answer))).collect())
    }

    /// What `explain` says of the connection by a configuration.
    fn explain(&self, dump: &str, situation: &Situation, seen: &Seen) -> Result<Value> {
        let dump = self.write("json", &situation.name, dump.as_bytes())?;
        let head = self.write("head", &situation.name, &seen.head)?;
        let mut command = self.mesh.control().command_at(&tracer_binary()?)?;
        command.args(["explain", "-o", "json", "--to", &seen.dialed.to_string(), "--config-dump"]);
        command.arg(dump).arg("--head").arg(&head);
        let ended = Process::run(command, &[], EXPLAIN_TIMEOUT)?;
        Ok(ended.stdout.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(json!({})))
    }

    /// The tracer's verdict on the client's connection.
    fn live(&self, actor: &Actor, client: &Transcript, from: usize) -> Result<Verdict> {
        let reported = |client: &Transcript, timeout| {
            let port = client.local.map(|local| local.port());
            self.tracer.report_lines().wait(timeout, |lines| {
                let mut reports =
                    lines[from..].iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                reports.find(|report| report["source"]["port"].as_u64() == port.map(u64::from))
            })
        };
        let mut report = reported(client, SOON);
        if report.is_none() {
            let beacon = actor.pod.play(&[Script::connect(BEACON, "beacon.example:443")])?.swap_remove(0);
            reported(&beacon, TIMEOUT)
                .context("the tracer does not report a session with a proxy in the pod")?;
            report = reported(client, Duration::ZERO);
        }
        Ok(Verdict::said(&report.unwrap_or_default()))
    }

    /// Writes a file that is of one situation, in the mesh's directory.
    pub fn write(&self, kind: &str, name: &str, text: &[u8]) -> Result<PathBuf> {
        let dir = self.mesh.dir().join("situations");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{name}.{kind}"));
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// The address that the app dials.
    pub fn dialed(&self, actor: &Actor, to: To) -> Result<SocketAddr> {
        let at = |address: &str, port| Ok(SocketAddr::new(address.parse()?, port));
        match to {
            To::Squid => at(self.squid.address(), PORT),
            To::SquidV6 => at(self.squid.address_v6().unwrap_or_default(), PORT),
            To::VipV6 => at(VIP_V6, PORT),
            To::MeshSquid => at(self.mesh_squid.address(), PORT),
            To::ClosedPort => at(self.squid.address(), PORT + 1),
            To::Address(address) => Ok(SocketAddr::from((address, PORT))),
            To::Loopback(port) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
            To::Name(name) => Ok(SocketAddr::from((actor.pod.resolve(name)?, PORT))),
        }
    }

    fn pods(&self) -> Result<Vec<(&str, &str, SocketAddr)>> {
        let mut all = Vec::new();
        for (name, pod) in [("squid", &self.squid), ("meshsquid", &self.mesh_squid), ("web", &self.web)] {
            for address in [Some(pod.address()), pod.address_v6()].into_iter().flatten() {
                all.push((pod.namespace(), name, SocketAddr::new(address.parse()?, PORT)));
            }
        }
        Ok(all)
    }
}

/// Whether the sidecar's configuration alone decides: where rules leave the address out, it is never asked.
fn intercepts(client: Client) -> bool {
    !matches!(
        client,
        Client::NoSidecar | Client::PortExcluded | Client::AddressExcluded | Client::ServicesIncluded
    )
}

/// The name of the pod that dials, which is also its workload's and its label.
pub fn pod_name(client: Client) -> &'static str {
    pod_of(client, "").0
}

/// The name and the sidecar of the pod that dials.
fn pod_of(client: Client, squid: &str) -> (&'static str, Option<Sidecar>) {
    let rules = |rules: &[&str]| {
        Some(Sidecar { rules: rules.iter().map(ToString::to_string).collect(), ..Sidecar::default() })
    };
    let uid = 1_000_650_001;
    match client {
        Client::Default => ("client", Some(Sidecar::default())),
        Client::FourWorkers => ("four-workers", Some(Sidecar { concurrency: 4, ..Sidecar::default() })),
        Client::OpenShift => ("openshift", Some(Sidecar { uid, gid: uid, ..Sidecar::default() })),
        Client::Tproxy => ("tproxy", Some(Sidecar::tproxy())),
        Client::Nftables => ("nftables", rules(&["--native-nftables"])),
        Client::PortExcluded => ("port-excluded", rules(&["-o", "3128"])),
        Client::AddressExcluded => ("address-excluded", rules(&["-x", &format!("{squid}/32")])),
        Client::ServicesIncluded => ("services-included", rules(&["-i", "10.96.0.0/16"])),
        Client::OneWorker => ("one-worker", Some(Sidecar { concurrency: 1, ..Sidecar::default() })),
        Client::AnyUser => ("any-user", Some(Sidecar { uid: 5678, gid: 5678, ..Sidecar::default() })),
        Client::ListenPort => ("listen-port", rules(&["-p", "15123"])),
        Client::DnsCapture => ("dns-capture", Some(Sidecar::dns_capture())),
        Client::NoRedirect => ("no-redirect", Some(Sidecar::without_redirect())),
        Client::DualStack => ("dual-stack", Some(Sidecar::default())),
        Client::NoSidecar => ("no-sidecar", None),
    }
}

fn head(request: Request) -> String {
    let target = MESH_PAGE.trim_start_matches("http://").trim_end_matches("/ready");
    let connect = |host: &str, version: &str| {
        format!(
            "CONNECT {host} HTTP/{version}\r\nHost: {host}\r\nUser-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        )
    };
    match request {
        Request::Connect | Request::Late => connect(target, "1.1"),
        Request::Connect10 => connect(target, "1.0"),
        Request::ConnectDenied => connect(&format!("{DENIED}:443"), "1.1"),
        Request::AbsoluteForm => {
            format!("GET {MESH_PAGE} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: curl/8.5.0\r\n\r\n")
        }
    }
}
