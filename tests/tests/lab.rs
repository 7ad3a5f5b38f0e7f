//! The lab without the tracer: what the real Envoy, squid and clients do in it, and that it leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::{
    Behavior, Envoy, Lab, PAGE, POD, PROXY, PROXY_V6, ProcessOutput, Script, ScriptedProxy, Squid,
    SquidPolicy, Step, TARGET, Target, demo_sidecar, proxy_addr,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const NAME: &str = "www.example.com";
const REFUSED: &str = "refused.example.com";

/// A pod with its sidecar, squid as the proxy, and a TLS server behind it.
struct DemoPod {
    envoy: Envoy,
    squid: Squid,
    target: Target,
    lab: Lab,
}

impl DemoPod {
    fn new() -> Self {
        let lab = Lab::new().expect("a lab");
        let hosts = [NAME, REFUSED].map(|name| (name.to_owned(), TARGET.to_string())).into();
        let policy = SquidPolicy { hosts, denied: vec![REFUSED.to_owned()], credentials: None };
        Self {
            squid: Squid::start(&lab, proxy_addr(3128), &policy).expect("squid"),
            target: Target::start(&lab, SocketAddr::new(TARGET, 443), NAME).expect("a TLS server"),
            envoy: Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy"),
            lab,
        }
    }

    fn curl(&self, name: &str) -> ProcessOutput {
        let ca = self.target.certificate().display().to_string();
        let url = format!("https://{name}/page.html");
        let proxy = format!("http://{}", proxy_addr(3128));
        self.lab
            .run_app("curl", &["-sv", "-m", "20", "--cacert", &ca, "-x", &proxy, &url])
            .expect("curl runs")
    }

    fn python(&self) -> ProcessOutput {
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
fn curl_gets_404_from_the_sidecar_until_the_fix_is_applied() {
    let demo = DemoPod::new();
    let before = demo.curl(NAME);
    assert!(before.stderr.contains("CONNECT tunnel failed, response 404"), "{before:?}");
    assert!(before.stderr.contains("< server: envoy"), "{before:?}");
    assert!(!demo.squid.access_log().expect("a log").contains(NAME), "squid saw nothing of it");

    demo.fix();
    let after = demo.curl(NAME);
    assert_eq!(after.stdout, PAGE, "{after:?}");

    let refused = demo.curl(REFUSED);
    assert!(refused.stderr.contains("CONNECT tunnel failed, response 403"), "{refused:?}");
    assert!(refused.stderr.contains("< Server: squid"), "{refused:?}");
}

#[test]
fn http_1_0_connect_is_tunneled_before_the_fix() {
    let demo = DemoPod::new();
    let script = Script {
        dialed: proxy_addr(3128),
        steps: vec![
            Step::Send { send: format!("CONNECT {NAME}:443 HTTP/1.0\r\n\r\n") },
            Step::Until { until: "\r\n\r\n".to_owned() },
        ],
    };
    let transcript = demo.lab.play(&[script]).expect("a transcript").remove(0);
    assert_eq!(transcript.status(), Some(200), "{transcript:?}");
    // Python's http.client sends its CONNECT as HTTP/1.0 before 3.12:
    // https://github.com/python/cpython/blob/v3.12.0/Doc/whatsnew/3.12.rst
    let sends_http_1_0 =
        demo.lab.run_app("python3", &["-c", "import sys; print(sys.version_info < (3, 12))"]);
    let ended = demo.python();
    if sends_http_1_0.expect("python runs").stdout.trim() == "True" {
        assert_eq!(ended.stdout, PAGE, "{ended:?}");
    } else {
        assert!(ended.stderr.contains("Tunnel connection failed: 404"), "{ended:?}");
    }
}

#[test]
fn rejected_envoy_update_returns_envoys_reason() {
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
fn two_labs_with_the_same_addresses_do_not_see_each_other() {
    let (one, two) = (Lab::new().expect("a lab"), Lab::new().expect("another"));
    let first =
        ScriptedProxy::start(&one, proxy_addr(3128), Behavior::Statuses(vec![407, 200])).expect("a proxy");
    let second =
        ScriptedProxy::start(&two, proxy_addr(3128), Behavior::Tunnel).expect("another on the same address");
    // The sidecar's user is not redirected, so no Envoy is needed.
    let to = Script::connect(proxy_addr(3128), "a.example:443");
    assert_eq!(run_as_sidecar(&one, &to), "HTTP/1.1 407");
    assert_eq!(run_as_sidecar(&two, &to), "HTTP/1.1 200");
    assert_eq!((first.heads().len(), second.heads().len()), (1, 1));
    // The app's connections are redirected to port 15001, where no process listens.
    let app = two.play(&[to]).expect("a transcript").remove(0);
    assert!(app.end.contains("refused"), "{app:?}");
}

#[test]
fn ipv6_works_and_is_redirected() {
    let lab = Lab::new().expect("a lab");
    let at = SocketAddr::new(PROXY_V6, 3128);
    let _proxy = ScriptedProxy::start(&lab, at, Behavior::Tunnel).expect("a proxy");
    assert_eq!(run_as_sidecar(&lab, &Script::connect(at, "a.example:443")), "HTTP/1.1 200");
    let app = lab.play(&[Script::connect(at, "a.example:443")]).expect("a transcript").remove(0);
    assert!(app.end.contains("refused"), "ip6tables redirects the app: {app:?}");
}

/// Plays a script as uid 1337 and returns the first 12 received characters.
fn run_as_sidecar(lab: &Lab, script: &Script) -> String {
    let got = lab.play_in(lab.sidecar(), std::slice::from_ref(script)).expect("a transcript").remove(0);
    assert_eq!(
        got.local.map(|local| local.is_ipv4().then(|| local.ip())),
        Some(script.dialed.is_ipv4().then_some(POD))
    );
    got.received.chars().take(12).collect()
}

/// Not a test: the process that `killing_the_owner_removes_processes_cgroup_and_directory` kills.
#[test]
#[ignore = "started by killing_the_owner_removes_processes_cgroup_and_directory"]
fn lab_owner_process() {
    let demo = DemoPod::new();
    let lab = &demo.lab;
    let janitor = lab.janitor().lock().expect("the janitor").pid();
    let (pod, outside) = (lab.app().netns().inode(), lab.outside().netns().inode());
    let (dir, cgroup) = (lab.dir().display(), lab.pod_cgroup().parent().expect("the lab's").display());
    println!("LAB_OWNER {janitor} {dir} {cgroup} {} {}", pod.expect("inode"), outside.expect("inode"));
    let _app = lab.start_app("cat", &["/dev/zero"]);
    poll(&mut [], None).expect("waits to be killed");
}

#[test]
fn killing_the_owner_removes_processes_cgroup_and_directory() {
    let us = std::env::current_exe().expect("our path");
    let mut owner = Command::new(us)
        .args(["--exact", "lab_owner_process", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("an owner");
    let lines = BufReader::new(owner.stdout.take().expect("its stdout")).lines();
    let line = lines
        .map(|line| line.expect("a line"))
        .find(|line| line.contains("LAB_OWNER "))
        .expect("a lab in it");
    let said: Vec<&str> = line.split(' ').skip_while(|word| *word != "LAB_OWNER").collect();
    let [_, janitor, dir, cgroup, pod, outside] = said[..] else { panic!("{line}") };
    assert!(Path::new(dir).exists() && Path::new(cgroup).exists());
    let janitor = Pid::from_raw(janitor.parse().expect("a pid")).expect("a pid");
    let janitor = pidfd_open(janitor, PidfdFlags::empty()).expect("the janitor lives");

    owner.kill().expect("killed");
    owner.wait().expect("reaped");
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
