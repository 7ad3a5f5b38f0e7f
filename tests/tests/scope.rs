//! The tracer reports its cgroup alone, does not disturb it, and leaves no program attached.

use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lab::{
    ATTACH_TYPES, Behavior, Envoy, Lab, Script, ScriptedProxy, TracerWatch, attached_programs, full_sidecar,
    pause, proxy_addr,
};
use rustix::net::{AddressFamily, SocketType};

/// The kernel frees a link on a worker some time after its last descriptor is closed, without an event:
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/syscall.c#L3029>.
fn wait_until_detached(cgroup: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while !attached_programs(cgroup).is_empty() {
        assert!(Instant::now() < end, "still attached: {:?}", attached_programs(cgroup));
        pause(Duration::from_millis(5));
    }
}

#[test]
fn sessions_of_other_cgroups_are_not_reported() {
    let lab = Lab::new().expect("a lab");
    let proxy = proxy_addr(3129);
    let _tunnel = ScriptedProxy::start(&lab, proxy, Behavior::Tunnel).expect("a proxy outside");
    let envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let watch = TracerWatch::start(&lab, &["--deadline", "1s"]).expect("the tracer");
    let http = proxy_addr(3128);
    let scripts = [Script::connect(http, "theirs.example:443"), Script::connect(proxy, "theirs.example:443")];
    // In the same network namespace and through the same sidecar, but in another cgroup; and from outside.
    let mut theirs = lab.play_in(lab.pod_root(), &scripts).expect("transcripts");
    theirs.extend(lab.play_in(lab.outside(), &scripts[1..]).expect("transcripts"));
    assert!(theirs.iter().all(|transcript| transcript.status().is_some()), "{theirs:?}");
    let ours = lab.play(&[Script::connect(http, "ours.example:443")]).expect("a transcript").remove(0);
    watch.wait(ours.local.expect("connected").port(), http, 1).expect("our report");
    envoy.stop().expect("Envoy stops");
    watch.mark(&lab).expect("a mark");
    let reports = watch.reports().expect("reports");
    assert_eq!(reports.len(), 1, "{reports:#?}");
    assert_eq!(reports[0]["connect"]["authority"], "ours.example:443");
}

/// Sets an option whose value is longer than the page that the kernel shows to a program. Before 6.5, the kernel
/// refuses such an option unless the program declines.
fn set_long_option() -> io::Result<()> {
    let value = [1u8; 3 * 4096];
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let length = libc::socklen_t::try_from(value.len()).expect("short");
    // SAFETY: the kernel reads at most `length` bytes of a value that has this length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_KEEPALIVE,
            value.as_ptr().cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn long_socket_options_can_be_set_while_traced() {
    let lab = Lab::new().expect("a lab");
    let watch = TracerWatch::start(&lab, &[]).expect("the tracer");
    let mut command = lab.app().command("true").expect("a command");
    // SAFETY: between fork and exec, the closure makes system calls on values of its own stack.
    unsafe { command.pre_exec(set_long_option) };
    assert!(command.status().expect("a long option is set").success());
    // iptables sets the rules of a whole table as one option.
    let rule = |port| format!("-A OUTPUT -p tcp --dport {port} -m comment --comment {port} -j ACCEPT");
    let rules: Vec<String> = (1..=200).map(rule).collect();
    let mut restore = lab.init().command("iptables-legacy-restore").expect("a command");
    let mut restore = restore.stdin(Stdio::piped()).spawn().expect("iptables");
    let mut stdin = restore.stdin.take().expect("piped");
    stdin
        .write_all(format!("*filter\n{}\nCOMMIT\n", rules.join("\n")).as_bytes())
        .expect("rules are written");
    drop(stdin);
    assert!(restore.wait().expect("iptables ends").success());
    let saved = lab.init().command("iptables-legacy-save").expect("a command").output().expect("iptables");
    assert_eq!(String::from_utf8_lossy(&saved.stdout).matches("--dport").count(), 200, "{saved:?}");
    assert!(watch.into_tracer().stop().expect("stops").status.success());
}

#[test]
fn no_program_stays_attached_after_sigkill_or_sigint() {
    let lab = Lab::new().expect("a lab");
    let cgroup = lab.pod_cgroup();
    assert_eq!(attached_programs(cgroup), []);
    let killed = TracerWatch::start(&lab, &[]).expect("the tracer");
    assert_eq!(attached_programs(cgroup).len(), ATTACH_TYPES.len(), "{:?}", attached_programs(cgroup));
    killed.into_tracer().kill().expect("killed");
    wait_until_detached(cgroup);
    let stopped = TracerWatch::start(&lab, &[]).expect("the tracer");
    assert_eq!(attached_programs(cgroup).len(), ATTACH_TYPES.len(), "{:?}", attached_programs(cgroup));
    assert!(stopped.into_tracer().stop().expect("stops").status.success());
    wait_until_detached(cgroup);
}
