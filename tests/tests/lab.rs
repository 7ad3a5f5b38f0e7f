//! The lab itself, without the tracer: what the real Envoy, squid and clients do in it, and that it leaves nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::{
    Behaviour, Ended, Envoy, Lab, PAGE, POD, PROXY, PROXY_V6, Policy, Script, ScriptedProxy, Squid, Step,
    TARGET, Target, demo_sidecar,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const NAME: &str = "www.example.com";
const REFUSED: &str = "refused.example.com";

fn proxy() -> SocketAddr {
    SocketAddr::new(PROXY, 3128)
}

/// A pod with its sidecar, squid as the proxy, a TLS server behind it.
struct Scene {
    envoy: Envoy,
    squid: Squid,
    target: Target,
    lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new().expect("a lab");
        let hosts = [NAME, REFUSED].map(|name| (name.to_owned(), TARGET.to_string())).into();
        let policy = Policy { hosts, denied: vec![REFUSED.to_owned()], credentials: None };
        Self {
            squid: Squid::start(&lab, proxy(), &policy).expect("squid"),
            target: Target::start(&lab, SocketAddr::new(TARGET, 443), NAME).expect("a TLS server"),
            envoy: Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy"),
            lab,
        }
    }

    fn curl(&self, name: &str) -> Ended {
        let ca = self.target.certificate().display().to_string();
        let url = format!("https://{name}/page.html");
        let proxy = format!("http://{}", proxy());
        self.lab
            .run_app("curl", &["-sv", "-m", "20", "--cacert", &ca, "-x", &proxy, &url])
            .expect("curl runs")
    }

    fn python(&self) -> Ended {
        let code = format!(
            "import http.client, ssl\n\
             c = http.client.HTTPSConnection('{PROXY}', 3128, timeout=20, context=ssl.create_default_context(cafile='{}'))\n\
             c.set_tunnel('{NAME}', 443)\n\
             c.request('GET', '/page.html')\n\
             print(c.getresponse().read().decode(), end='')\n",
            self.target.certificate().display(),
        );
        self.lab.run_app("python3", &["-c", &code]).expect("python runs")
    }

    fn fix(&self) {
        self.envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    }
}

#[test]
fn the_sidecar_answers_curl_until_the_fix() {
    let scene = Scene::new();
    let before = scene.curl(NAME);
    assert!(before.stderr.contains("CONNECT tunnel failed, response 404"), "{before:?}");
    assert!(before.stderr.contains("< server: envoy"), "{before:?}");
    assert!(!scene.squid.access_log().expect("a log").contains(NAME), "squid saw nothing of it");

    scene.fix();
    let after = scene.curl(NAME);
    assert_eq!(after.stdout, PAGE, "{after:?}");

    let refused = scene.curl(REFUSED);
    assert!(refused.stderr.contains("CONNECT tunnel failed, response 403"), "{refused:?}");
    assert!(refused.stderr.contains("< Server: squid"), "{refused:?}");
}

#[test]
fn http_1_0_is_tunnelled_all_the_while() {
    let scene = Scene::new();
    let script = Script {
        dialled: proxy(),
        steps: vec![
            Step::Send { send: format!("CONNECT {NAME}:443 HTTP/1.0\r\n\r\n") },
            Step::Until { until: "\r\n\r\n".to_owned() },
        ],
    };
    let transcript = scene.lab.play(&[script]).expect("a transcript").remove(0);
    assert_eq!(transcript.status(), Some(200), "{transcript:?}");
    let version = scene.lab.run_app("python3", &["--version"]).expect("python runs").stdout;
    if version.starts_with("Python 3.11.") {
        let ended = scene.python();
        assert_eq!(ended.stdout, PAGE, "{ended:?}");
    }
}

#[test]
fn a_refused_update_says_why() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let wrong = lab.dir().join("wrong.yaml");
    let listener = "'@type': type.googleapis.com/envoy.config.listener.v3.Listener";
    fs::write(&wrong, format!("resources: [{{{listener}, name: nowhere}}]\n")).expect("written");
    let error = envoy.apply("lds.yaml", &wrong).expect_err("no address").to_string();
    assert!(error.contains("refused") && error.contains("nowhere"), "{error}");
    envoy.stop().expect("stops on SIGTERM");
}

#[test]
fn two_labs_at_once_are_apart() {
    let (one, two) = (Lab::new().expect("a lab"), Lab::new().expect("another"));
    let first = ScriptedProxy::start(&one, proxy(), Behaviour::Statuses(vec![407, 200])).expect("a proxy");
    let second = ScriptedProxy::start(&two, proxy(), Behaviour::Tunnel).expect("another on the same address");
    // The sidecar's user is not redirected: no Envoy is needed to see who is who.
    let to = Script::connect(proxy(), "a.example:443");
    assert_eq!(run_as_sidecar(&one, &to), "HTTP/1.1 407");
    assert_eq!(run_as_sidecar(&two, &to), "HTTP/1.1 200");
    assert_eq!((first.heads().len(), second.heads().len()), (1, 1));
    // The app's connections are redirected to a sidecar that is not there.
    let app = two.play(&[to]).expect("a transcript").remove(0);
    assert!(app.end.contains("refused"), "{app:?}");
}

#[test]
fn ipv6_is_there_where_the_kernel_has_it() {
    let lab = Lab::new().expect("a lab");
    if !lab.app().netns().run(|| Path::new("/proc/net/if_inet6").exists()).expect("a look") {
        return;
    }
    let at = SocketAddr::new(PROXY_V6, 3128);
    let _proxy = ScriptedProxy::start(&lab, at, Behaviour::Tunnel).expect("a proxy");
    assert_eq!(run_as_sidecar(&lab, &Script::connect(at, "a.example:443")), "HTTP/1.1 200");
    let app = lab.play(&[Script::connect(at, "a.example:443")]).expect("a transcript").remove(0);
    assert!(app.end.contains("refused"), "ip6tables redirects the app: {app:?}");
}

/// Plays a script as uid 1337 and gives back the first 12 characters received.
fn run_as_sidecar(lab: &Lab, script: &Script) -> String {
    let got = lab.play_in(lab.sidecar(), std::slice::from_ref(script)).expect("a transcript").remove(0);
    assert_eq!(
        got.local.map(|local| local.is_ipv4().then(|| local.ip())),
        Some(script.dialled.is_ipv4().then_some(POD))
    );
    got.received.chars().take(12).collect()
}

/// Not a test of its own: the process that `a_killed_lab_leaves_nothing` kills.
#[test]
#[ignore = "started by a_killed_lab_leaves_nothing"]
fn holder() {
    let scene = Scene::new();
    let lab = &scene.lab;
    let janitor = lab.janitor().lock().expect("the janitor").pid();
    let (pod, outside) = (lab.app().netns().inode(), lab.outside().netns().inode());
    let (dir, cgroup) = (lab.dir().display(), lab.pod_cgroup().parent().expect("the lab's").display());
    println!("HOLDER {janitor} {dir} {cgroup} {} {}", pod.expect("inode"), outside.expect("inode"));
    let _app = lab.start_app("cat", &["/dev/zero"]);
    poll(&mut [], None).expect("waits to be killed");
}

#[test]
fn a_killed_lab_leaves_nothing() {
    let us = std::env::current_exe().expect("our path");
    let mut holder = Command::new(us)
        .args(["--exact", "holder", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a holder");
    let lines = BufReader::new(holder.stdout.take().expect("its stdout")).lines();
    let line =
        lines.map(|line| line.expect("a line")).find(|line| line.contains("HOLDER ")).expect("a lab in it");
    let said: Vec<&str> = line.split(' ').skip_while(|word| *word != "HOLDER").collect();
    let [_, janitor, dir, cgroup, pod, outside] = said[..] else { panic!("{line}") };
    assert!(Path::new(dir).exists() && Path::new(cgroup).exists());
    let janitor = Pid::from_raw(janitor.parse().expect("a pid")).expect("a pid");
    let janitor = pidfd_open(janitor, PidfdFlags::empty()).expect("the janitor lives");

    holder.kill().expect("killed");
    holder.wait().expect("reaped");
    poll(&mut [PollFd::new(&janitor, PollFlags::IN)], None).expect("the janitor ends");
    assert!(!Path::new(dir).exists(), "{dir} is left");
    assert!(!Path::new(cgroup).exists(), "{cgroup} is left, so its processes are");
    let spaces = [pod, outside].map(|inode| inode.parse::<u64>().expect("an inode"));
    for process in fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
        let Ok(netns) = fs::metadata(process.path().join("ns/net")) else { continue };
        assert!(
            !spaces.contains(&netns.ino()),
            "{} still lives in the lab's network",
            process.path().display()
        );
    }
}
