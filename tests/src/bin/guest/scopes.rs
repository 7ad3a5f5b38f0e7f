//! What must not be recorded: sessions out of scope, connections from before the probes, kernels without BTF.

use std::{ffi::CString, fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use lab::{Behavior, Lab, PROXY, Process, Script, ScriptedProxy, Tracer, tracer_binary};
use serde_json::{Value, json};

use crate::boot;
use crate::families::{GUEST_PROGRAM, TIMEOUT, call, sidecars};

/// A session out of scope, by cgroup or by namespace, makes no record.
pub(crate) fn check_scope(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let [sidecar, _six] = sidecars(&lab)?;
    let _proxy = ScriptedProxy::start(&lab, (PROXY, 3128).into(), Behavior::Tunnel)?;
    let to = SocketAddr::new(PROXY, 3128);
    let other_cgroup = || lab.play_in(lab.pod_root(), &[Script::connect(to, "other-cgroup.example:443")]);
    let other_netns = || lab.play_in(lab.other_pod(), &[Script::connect(to, "other-netns.example:443")]);
    let netns = format!("/proc/{}/ns/net", sidecar.pid());
    let trace = lab.dir().join("trace");
    let path = trace.display().to_string();
    // The pod's own namespace.
    let pod = Tracer::start(&lab, &["--family", family, "--netns", &netns, "--record", &path])?;
    other_cgroup()?;
    other_netns()?;
    call(&lab, "write")?; // after the others' sessions
    let reports = pod.wait_reports(1, TIMEOUT)?;
    pod.stop()?;
    ensure!(reports.len() == 1 && reports[0]["connect"]["authority"] == "write.example:443", "{reports:?}");
    let recorded = fs::read_to_string(&trace)?;
    ensure!(recorded.contains("write.example"), "the session in scope is not recorded: {recorded}");
    ensure!(!recorded.contains("other-"), "out of scope, but recorded: {recorded}");
    Ok(Value::Null)
}

/// A connection that was open before the probes were attached: the cgroup family joins late, because packets show the
/// redirect; the others, which see sockets, make no report.
pub(crate) fn check_late_attach(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let _sidecars = sidecars(&lab)?;
    let pipe = lab.dir().join("pipe");
    let name = CString::new(pipe.display().to_string())?;
    // SAFETY: a NUL-terminated string.
    ensure!(unsafe { libc::mkfifo(name.as_ptr(), 0o644) } == 0, "cannot make {}", pipe.display());
    let mut command = lab.app().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["late", &SocketAddr::new(PROXY, 3128).to_string()]).arg(&pipe);
    let app = Process::spawn(command, &[])?;
    app.wait_line("connection", app.stdout(), TIMEOUT, |line| (line == "connected").then_some(()))?;
    let tracer = Tracer::start(&lab, &["--family", family])?;
    drop(fs::File::options().write(true).open(&pipe)?);
    let ended = app.finish(TIMEOUT)?;
    ensure!(ended.status.success(), "the late one failed: {}", ended.stderr);
    call(&lab, "write")?;
    let expected: &[&str] =
        if family == "cgroup" { &["late.example:443", "write.example:443"] } else { &["write.example:443"] };
    let reports = tracer.wait_reports(expected.len(), TIMEOUT)?;
    let said: Vec<&str> = reports.iter().filter_map(|r| r["connect"]["authority"].as_str()).collect();
    ensure!(said == expected, "reports of {said:?} and not of {expected:?}");
    for report in &reports {
        let late = report["connect"]["authority"] == "late.example:443";
        ensure!(report["joined_late"] == late && report["verdict"] == "handled_as_http", "{report}");
    }
    Ok(json!(if family == "cgroup" { "joined late" } else { "no report" }))
}

/// Without support in this kernel, the tracer exits with code 1 and one sentence, which is returned.
pub(crate) fn check_refusal(arguments: &[&str]) -> Result<Value> {
    let lab = Lab::new()?;
    let mut command = lab.tools().command_at(&tracer_binary()?)?;
    command.args(["observe", "--standalone", "--cgroup"]).arg(lab.pod_cgroup()).args(arguments);
    let ended = Process::run(command, &[], TIMEOUT)?;
    let said = ended.stderr.trim();
    ensure!(ended.status.code() == Some(1), "{arguments:?} ended with {}: {said}", ended.status);
    ensure!(!said.is_empty() && said.lines().count() == 1, "not one sentence: {said}");
    Ok(json!(said))
}

/// Without BTF and with wrong BTF, fentry and kprobe are refused with the reason.
pub(crate) fn check_without_btf() -> Result<Value> {
    const DIR: &str = "/sys/kernel/btf";
    let mut btf = fs::read(format!("{DIR}/vmlinux")).context("this kernel's BTF")?;
    boot::mount("tmpfs", DIR)?; // hides this directory
    let without = check_refusal(&["--family", "fentry"]).and_then(|said| {
        ensure!(said.as_str().is_some_and(|said| said.contains("has no BTF")), "{said}");
        check_refusal(&["--family", "kprobe"])
    });
    let from = b"\0bytes_acked\0";
    let at = btf.windows(from.len()).position(|window| window == from).context("no such field")?;
    btf[at + 1] = b'x';
    fs::write(format!("{DIR}/vmlinux"), btf)?;
    let doctored = check_refusal(&["--family", "kprobe"]);
    // SAFETY: a NUL-terminated string.
    unsafe { libc::umount(CString::new(DIR)?.as_ptr()) };
    without?;
    let said = doctored?;
    ensure!(said.as_str().is_some_and(|said| said.contains("no field `bytes_acked`")), "{said}");
    Ok(Value::Null)
}
