//! `cargo xtask mesh`: a real Istio on a real Kubernetes API, left up with an app and a proxy until Ctrl-C.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use lab::{MESH_PAGE, Mesh, Pod, PodOptions, Process, SquidPolicy, cached_mesh};

use crate::interrupt;
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;

const PORT: u16 = 3128;

/// Starts it, says how to use it, and waits.
pub(crate) fn run() -> Result<()> {
    interrupt::watch()?;
    setup::run(Purpose::Mesh, false)?;
    let mesh = progress::step("Starting etcd, the API server, controllers and istiod", |_| Mesh::start())?;
    interrupt::guard(mesh.janitor());
    let pods = progress::step("Starting an app with its sidecar, and a squid", |_| start_pods(&mesh))?;
    let [app, proxy] = &pods;
    let _squid =
        proxy.squid(PORT, &SquidPolicy { hosts: Vec::new(), denied: Vec::new(), credentials: None })?;
    let bin = mesh.dir().join("enter");
    fs::create_dir(&bin)?;
    let _pauses = [enter(&bin, app)?, enter(&bin, proxy)?];
    let network = format!("/proc/{}/ns/net", mesh.control_pid().context("a control plane")?);
    for name in ["kubectl", "istioctl"] {
        let (config, program) = (mesh.kubeconfig(), cached_mesh().join(name));
        let (config, program) = (config.display(), program.display());
        script(
            &bin.join(name),
            &format!("KUBECONFIG={config} exec nsenter --net={network} -- {program} \"$@\""),
        )?;
    }
    mesh.namespace("other")?;
    println!("{}", help(&bin, app, proxy));
    std::io::stdout().flush()?;
    loop {
        std::thread::park(); // the signal's handler ends the process
    }
}

fn help(bin: &Path, app: &Pod, proxy: &Pod) -> String {
    let (bin, app, squid, address) = (bin.display(), app.name(), proxy.name(), proxy.address());
    let service = format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"reports","namespace":"other"}},"spec":{{"ports":[{{"name":"http","port":{PORT}}}]}}}}"#
    );
    format!(
        "
A real Istio is up. In another terminal, as root:

  export PATH={bin}:$PATH
  kubectl get pods -A      # as the cluster's administrator
  istioctl analyze -A
  in-{app} curl -p -x http://{address}:{PORT} {MESH_PAGE}    # the app, through its sidecar and squid: 200
  in-{app} curl -s 127.0.0.1:15000/config_dump
  in-{squid} ss -ltn

Another team's Service with an HTTP port of the same number breaks it: the same curl gets 404.

  echo '{service}' | kubectl apply -f -

Ctrl-C takes everything down."
    )
}

fn start_pods(mesh: &Mesh) -> Result<[Pod; 2]> {
    let proxy = mesh.pod(&PodOptions::plain("egress", "squid"))?;
    Ok([mesh.pod(&PodOptions::injected("shop", "app"))?, proxy])
}

/// Writes a command that runs another one in a pod, as its app. The pod's network namespace has no name: the process given
/// back stands for it.
fn enter(bin: &Path, pod: &Pod) -> Result<Process> {
    let mut pause = pod.app().command("sleep")?;
    pause.arg("infinity");
    let pause = Process::spawn(pause, &[])?;
    let command =
        format!("exec nsenter --net=/proc/{}/ns/net --setuid 1000 --setgid 1000 -- \"$@\"", pause.pid());
    script(&bin.join(format!("in-{}", pod.name())), &command)?;
    Ok(pause)
}

fn script(path: &Path, command: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{command}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
