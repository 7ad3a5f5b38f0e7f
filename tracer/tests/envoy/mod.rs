//! A real Envoy in a network namespace of its own behind Istio's redirect: takes listeners, is dialed by many clients at once, and
//! reports through its access log what it did.

pub(crate) mod generate;
pub(crate) mod head;
pub(crate) mod world;

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

/// How long a client waits for a first sign. Envoy holds back the end of a connection for a second after an answer or an
/// error (`delayed_close_timeout`).
const PATIENCE: Duration = Duration::from_millis(1500);

/// The user that Envoy runs as, which the redirect leaves alone.
const ENVOY_USER: &str = "1337";

/// The Envoy binary, or one sentence on how to get it.
pub(crate) fn binary() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let places = [
        std::env::var_os("EGRESS_TRACER_ENVOY").map(PathBuf::from),
        cache.map(|cache| cache.join("egress-tracer/envoy/1.40.0/envoy")),
    ];
    let found = places.into_iter().flatten().find(|place| place.is_file());
    found.expect("there is no Envoy to compare with: run the tests with `cargo xtask test`, which fetches it")
}

/// A namespace with the redirect; gone when dropped.
pub(crate) struct Pod {
    name: String,
    folder: tempfile::TempDir,
    /// What arrived for each connection that Envoy dialed.
    captured: Option<Captured>,
}

/// First bytes, by the address that a connection was dialed from, and the one that was dialed.
type Captured = Arc<Mutex<HashMap<(SocketAddr, SocketAddr), Vec<u8>>>>;

/// Ports of the hosts of the clusters that all worlds share.
pub(crate) const HOST_PORTS: [u16; 3] = [9, 3128, 4000];

/// What Envoy wrote about one connection.
pub(crate) type LogLines = Vec<Value>;

/// One client's side of a connection.
pub(crate) struct Talk {
    ends: Option<(SocketAddr, SocketAddr)>,
    pub(crate) received: Vec<u8>,
    /// Envoy ended it before the client gave up.
    closed: bool,
}

impl Talk {
    /// Whether Envoy ended the connection, or said that it would with an HTTP/2 GOAWAY frame.
    pub(crate) fn is_ended(&self) -> bool {
        let mut rest = self.received.as_slice();
        while let Some(&[a, b, c, kind, ..]) = rest.get(..9) {
            if kind == 7 {
                return true;
            }
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            rest = rest.get(9 + length..).unwrap_or_default();
        }
        self.closed
    }
}

/// A running Envoy.
pub(crate) struct Envoy<'p> {
    pod: &'p Pod,
    process: Child,
}

impl Pod {
    /// A pod in which a server takes whatever Envoy dials on these ports, keeps the first bytes, and answers 200.
    pub(crate) fn capturing(ports: impl Iterator<Item = u16>) -> Self {
        let mut pod = Self::new();
        let captured = Captured::default();
        pod.captured = Some(Arc::clone(&captured));
        for port in ports {
            // A socket on `[::]` takes both families, and every address is here.
            let listener = pod.within(|| TcpListener::bind(("::", port)).unwrap());
            let captured = Arc::clone(&captured);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let captured = Arc::clone(&captured);
                    std::thread::spawn(move || capture(stream, &captured));
                }
            });
        }
        pod
    }

    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("etm-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let folder = tempfile::Builder::new().prefix("etm-").tempdir().unwrap();
        let pod = Self { name, folder, captured: None };
        fs::set_permissions(pod.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(binary(), pod.file("envoy")).unwrap();
        fs::set_permissions(pod.file("envoy"), fs::Permissions::from_mode(0o755)).unwrap();
        for arguments in [
            "ip link set lo up",
            // Every address of these ranges is here; the app's own address is none of those that it dials.
            "ip address add 172.30.1.5/32 dev lo",
            "ip route add local 10.0.0.0/8 dev lo src 172.30.1.5",
            "ip address add fdff::5/128 dev lo",
            "ip -6 route add local fd00::/16 dev lo src fdff::5",
            "iptables -t nat -A OUTPUT -m owner --uid-owner 1337 -j RETURN",
            "iptables -t nat -A OUTPUT -d 127.0.0.1/32 -j RETURN",
            "iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001",
            "ip6tables -t nat -A OUTPUT -m owner --uid-owner 1337 -j RETURN",
            "ip6tables -t nat -A OUTPUT -d ::1/128 -j RETURN",
            "ip6tables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001",
        ] {
            let mut all = vec!["netns", "exec", &pod.name];
            all.extend(arguments.split(' '));
            run("ip", &all);
        }
        pod
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts Envoy with these listeners and clusters, delivered by files as xDS would deliver them.
    pub(crate) fn envoy(&self, listeners: &[Value], clusters: &[Value]) -> Envoy<'_> {
        self.deliver(listeners, clusters);
        let source = |file: &str| json!({"resource_api_version": "V3", "path_config_source": {"path": self.file(file)}});
        let bootstrap = json!({
            "node": {"id": "sidecar~172.30.1.5~app.shop~shop.svc", "cluster": "app", "metadata": {"NAMESPACE": "shop"}},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
            "dynamic_resources": {"lds_config": source("lds.json"), "cds_config": source("cds.json")},
        });
        fs::write(self.file("bootstrap.json"), bootstrap.to_string()).unwrap();
        fs::write(self.file("access.log"), "").unwrap();
        fs::set_permissions(self.file("access.log"), fs::Permissions::from_mode(0o666)).unwrap();
        let stderr = fs::File::create(self.file("stderr")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--reuid", ENVOY_USER, "--regid", ENVOY_USER]);
        command.arg("--clear-groups").arg(self.file("envoy")).arg("-c").arg(self.file("bootstrap.json"));
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        command.args(["--file-flush-interval-msec", "50"]);
        let process = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let envoy = Envoy { pod: self, process };
        envoy.wait_until_ready();
        envoy
    }

    /// Replaces the configuration of a running Envoy; files are moved into place, which Envoy watches for.
    pub(crate) fn deliver(&self, listeners: &[Value], clusters: &[Value]) {
        for (file, resources) in [("cds.json", clusters), ("lds.json", listeners)] {
            let part = self.file(&format!("{file}.part"));
            fs::write(&part, json!({"resources": resources}).to_string()).unwrap();
            fs::rename(part, self.file(file)).unwrap();
        }
    }

    /// Runs `task` on a thread inside the namespace.
    pub(crate) fn within<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let namespace = fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                    task()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

impl Envoy<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let is_ready = || {
            let mut stream = TcpStream::connect("127.0.0.1:15000").ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            stream.write_all(b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer.contains("LIVE").then_some(())
        };
        while self.pod.within(is_ready).is_none() {
            assert!(
                Instant::now() < deadline,
                "Envoy did not start: {}",
                fs::read_to_string(self.pod.file("stderr")).unwrap_or_default()
            );
            pause(Duration::from_millis(50));
        }
    }

    /// The dump, as `explain --pid` gets it.
    pub(crate) fn dump(&self) -> tracer_mesh::Dump {
        tracer::explain::fetch(self.pid(), 15000).unwrap()
    }

    /// What arrived on the connection that Envoy dialed from one address to another.
    pub(crate) fn captured(&self, from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
        self.pod.captured.as_ref()?.lock().unwrap().get(&(from, to)).cloned()
    }

    /// Dials every address at once, sends, waits for an answer or the end, closes; gives what each client received and
    /// what the access log says of it.
    pub(crate) fn dial(&self, clients: &[(SocketAddr, Vec<u8>)]) -> Vec<(Talk, LogLines)> {
        let skip = fs::metadata(self.pod.file("access.log")).unwrap().len();
        let talks: Vec<Talk> = self.pod.within(|| {
            // Threads started here stay in the namespace.
            let done = &Barrier::new(clients.len());
            std::thread::scope(|scope| {
                let talks: Vec<_> =
                    clients.iter().map(|(to, head)| scope.spawn(move || talk(*to, head, done))).collect();
                talks.into_iter().map(|talk| talk.join().unwrap()).collect()
            })
        });
        let log = self.settled_log(usize::try_from(skip).unwrap());
        talks
            .into_iter()
            .map(|talk| {
                // A port alone is not enough: two connections to different addresses may share one.
                let ends = talk.ends;
                let address = |text: &Value| text.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
                let is_ours = |line: &&Value| {
                    ends.is_some() && address(&line["peer"]).zip(address(&line["to"])) == ends
                };
                (talk, log.iter().filter(is_ours).cloned().collect())
            })
            .collect()
    }

    /// The log's lines once it no longer grows.
    fn settled_log(&self, skip: usize) -> LogLines {
        let mut text = String::new();
        loop {
            pause(Duration::from_millis(400));
            let now = fs::read_to_string(self.pod.file("access.log")).unwrap();
            if now == text {
                break;
            }
            text = now;
        }
        text[skip..].lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Envoy<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The access log of every listener, HTTP connection manager and TCP proxy: `kind` and `listener` say whose line it is.
pub(crate) fn access_log(path: &Path, kind: &str, listener: &str) -> Value {
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": {
                "kind": kind, "listener": listener, "chain": "%FILTER_CHAIN_NAME%", "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%", "flags": "%RESPONSE_FLAGS%", "cluster": "%UPSTREAM_CLUSTER_RAW%",
                "route": "%ROUTE_NAME%", "peer": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
                "to": "%DOWNSTREAM_LOCAL_ADDRESS%", "host": "%UPSTREAM_REMOTE_ADDRESS%",
                "from": "%UPSTREAM_LOCAL_ADDRESS%",
            }},
        },
    }])
}

/// Keeps the first bytes of a connection and answers, so that Envoy has something to pass back.
fn capture(mut stream: TcpStream, captured: &Captured) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (Ok(from), Ok(to)) = (stream.peer_addr().map(canonical), stream.local_addr().map(canonical)) else {
        return;
    };
    captured.lock().unwrap().insert((from, to), Vec::new());
    let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
    let mut buffer = [0; 4096];
    let mut has_answered = false;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                captured.lock().unwrap().entry((from, to)).or_default().extend_from_slice(&buffer[..length]);
                has_answered = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && !has_answered => {
                has_answered = true;
                let is_connect = captured.lock().unwrap()[&(from, to)].starts_with(b"CONNECT");
                let length = if is_connect { "" } else { "content-length: 0\r\n" };
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\n").as_bytes());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// A port that no other client has: the redirect maps all destinations to one, where two flows of one port would clash,
/// and conntrack would give one of them another port than the client knows of.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// One client: it sends, reads until there is no more, and hangs up when all others are done too.
fn talk(to: SocketAddr, head: &[u8], done: &Barrier) -> Talk {
    let mut talk = Talk { ends: None, received: Vec::new(), closed: false };
    let from = if to.is_ipv4() { "172.30.1.5" } else { "fdff::5" };
    let from =
        SocketAddr::new(from.parse().unwrap(), 30000 + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 30000);
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &from).unwrap();
    // Where Envoy refused the whole configuration nothing listens.
    if rustix::net::connect(&socket, &to).is_err() {
        done.wait();
        done.wait();
        return talk;
    }
    let mut stream = TcpStream::from(socket);
    talk.ends = Some((from, to));
    // The client ends by a reset: an end of its data could move Envoy to decide what it had left open.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    // An inspector that finds part of a request line already there when it starts may give up at once (seen with 1.40
    // under load; a race that no configuration shows), so the bytes come when Envoy is known to wait for them.
    done.wait();
    pause(Duration::from_millis(300));
    let _ = stream.write_all(head);
    let mut wait = PATIENCE;
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(wait)).unwrap();
        match stream.read(&mut buffer) {
            Ok(0) => talk.closed = true,
            Ok(length) => {
                talk.received.extend_from_slice(&buffer[..length]);
                if talk.received.starts_with(b"HTTP/") {
                    wait = Duration::from_millis(150);
                }
                continue;
            }
            Err(error) => talk.closed = error.kind() == ErrorKind::ConnectionReset,
        }
        done.wait();
        return talk;
    }
}

/// Lets time pass where there is no event to wait for: a file that another process appends to.
fn pause(time: Duration) {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {}: {} (these tests need root)",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
