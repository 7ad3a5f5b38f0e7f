//! What is not to be seen: what is out of scope, what began before the probes, what a kernel does not have.

use std::{ffi::CString, fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use lab::{Behavior, Lab, PROXY, Process, Script, ScriptedProxy, Tracer, tracer_binary};
use serde_json::{Value, json};

use crate::boot;
use crate::families::{TIMEOUT, US, call, sidecars};

/// Of what is out of scope, be it by cgroup or by namespace, there is not even a record.
pub(crate) fn scope(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let [sidecar, _six] = sidecars(&lab)?;
    let _proxy = ScriptedProxy::start(&lab, (PROXY, 3128).into(), Behavior::Tunnel)?;
    let to = SocketAddr::new(PROXY, 3128);
    let other_cgroup = || lab.play_in(lab.pod_root(), &[Script::connect(to, "other-cgroup.example:443")]);
    let other_netns = || lab.play_in(lab.other_pod(), &[Script::connect(to, "other-netns.example:443")]);
    let netns = format!("/proc/{}/ns/net", sidecar.pid());
    let trace = lab.dir().join("trace");
    let path = trace.display().to_string();
    // The pod's own namespace; then none in which anybody of this pod is.
    let pod = Tracer::start(&lab, &["--probes", family, "--netns", &netns, "--record", &path])?;
    other_cgroup()?;
    other_netns()?;
    call(&lab, "write")?; // whatever the others did was before this
    let reports = pod.wait_reports(1, TIMEOUT)?;
    pod.stop()?;
    ensure!(reports.len() == 1 && reports[0]["connect"]["authority"] == "write.example:443", "{reports:?}");
    let recorded = fs::read_to_string(&trace)?;
    ensure!(recorded.contains("write.example"), "the trace is not of this: {recorded}");
    ensure!(!recorded.contains("other-"), "out of scope, and recorded: {recorded}");
    Ok(Value::Null)
}

/// A connection that was open before the probes were there: who sees packets sees that it is redirected, and joins late;
/// who sees sockets cannot tell, and is silent.
pub(crate) fn late(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let _sidecars = sidecars(&lab)?;
    let pipe = lab.dir().join("pipe");
    let name = CString::new(pipe.display().to_string())?;
    // SAFETY: a string that ends with a NUL.
    ensure!(unsafe { libc::mkfifo(name.as_ptr(), 0o644) } == 0, "cannot make {}", pipe.display());
    let mut command = lab.app().command_at(Path::new(US))?;
    command.args(["late", &SocketAddr::new(PROXY, 3128).to_string()]).arg(&pipe);
    let app = Process::spawn(command, &[])?;
    app.wait_line("connection", app.stdout(), TIMEOUT, |line| (line == "connected").then_some(()))?;
    let tracer = Tracer::start(&lab, &["--probes", family])?;
    drop(fs::File::options().write(true).open(&pipe)?);
    let ended = app.finish(TIMEOUT)?;
    ensure!(ended.status.success(), "the late one failed: {}", ended.stderr);
    call(&lab, "write")?;
    let due: &[&str] =
        if family == "cgroup" { &["late.example:443", "write.example:443"] } else { &["write.example:443"] };
    let reports = tracer.wait_reports(due.len(), TIMEOUT)?;
    let said: Vec<&str> = reports.iter().filter_map(|r| r["connect"]["authority"].as_str()).collect();
    ensure!(said == due, "reports of {said:?} and not of {due:?}");
    for report in &reports {
        let late = report["connect"]["authority"] == "late.example:443";
        ensure!(report["joined_late"] == late && report["verdict"] == "handled_as_http", "{report}");
    }
    Ok(json!(if family == "cgroup" { "joined late" } else { "not seen" }))
}

/// What this kernel does not take is refused with exit code 1, in one sentence, which is given back.
pub(crate) fn refused(arguments: &[&str]) -> Result<Value> {
    let lab = Lab::new()?;
    let mut command = lab.tools().command_at(&tracer_binary()?)?;
    command.args(["observe", "--standalone", "--cgroup"]).arg(lab.pod_cgroup()).args(arguments);
    let ended = Process::run(command, &[], TIMEOUT)?;
    let said = ended.stderr.trim();
    ensure!(ended.status.code() == Some(1), "{arguments:?} ended with {}: {said}", ended.status);
    ensure!(!said.is_empty() && said.lines().count() == 1, "not one sentence: {said}");
    Ok(json!(said))
}

/// A kernel that does not describe itself, and one that describes itself wrongly: fentry and kprobe are refused, and say so.
pub(crate) fn without_btf() -> Result<Value> {
    const DIR: &str = "/sys/kernel/btf";
    let mut btf = fs::read(format!("{DIR}/vmlinux")).context("this kernel's BTF")?;
    boot::mount("tmpfs", DIR)?; // an empty directory over this one
    let without = refused(&["--probes", "fentry"]).and_then(|said| {
        ensure!(said.as_str().is_some_and(|said| said.contains("does not describe itself")), "{said}");
        refused(&["--probes", "kprobe"])
    });
    let from = b"\0bytes_acked\0";
    let at = btf.windows(from.len()).position(|window| window == from).context("no such field")?;
    btf[at + 1] = b'x';
    fs::write(format!("{DIR}/vmlinux"), btf)?;
    let doctored = refused(&["--probes", "kprobe"]);
    // SAFETY: a string that ends with a NUL.
    unsafe { libc::umount(CString::new(DIR)?.as_ptr()) };
    without?;
    let said = doctored?;
    ensure!(said.as_str().is_some_and(|said| said.contains("no field `bytes_acked`")), "{said}");
    Ok(Value::Null)
}
