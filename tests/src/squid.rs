//! A real squid as the forward proxy, with its own configuration, logs and state. It allows every CONNECT except those
//! to denied domains. It resolves names from a hosts file and sends no DNS query.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::place::Place;
use crate::process::Process;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running squid.
#[derive(Debug)]
pub struct Squid {
    process: Process,
    dir: PathBuf,
}

/// What squid allows and knows.
#[derive(Debug, Clone)]
pub struct SquidPolicy {
    /// Names that it can resolve, with their addresses.
    pub hosts: Vec<(String, String)>,
    /// Domains that it answers with 403.
    pub denied: Vec<String>,
    /// User and password; without them it answers 407.
    pub credentials: Option<(String, String)>,
}

impl Squid {
    /// Starts squid on `listen` outside the pod. Returns when it accepts connections.
    pub fn start(lab: &Lab, listen: SocketAddr, policy: &SquidPolicy) -> Result<Self> {
        Self::start_in(lab.outside(), lab.make_dir(&format!("squid-{}", listen.port()))?, listen, policy)
    }

    /// Starts squid at `place`, with its files in `dir`. Returns when it accepts connections.
    pub fn start_in(place: &Place, dir: PathBuf, listen: SocketAddr, policy: &SquidPolicy) -> Result<Self> {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?; // squid drops to a user of its own
        let hosts: Vec<String> = policy.hosts.iter().map(|(name, ip)| format!("{ip} {name}\n")).collect();
        fs::write(dir.join("hosts"), hosts.concat())?;
        fs::write(dir.join("squid.conf"), Self::config(&dir.display().to_string(), listen, policy)?)?;
        let access_log = dir.join("access.log");
        fs::write(&access_log, "")?;
        fs::set_permissions(&access_log, fs::Permissions::from_mode(0o666))?;
        // All squids use the same name for their shared memory, across labs, and fail to start if it exists. A private
        // /dev/shm, which disappears with the process, keeps them apart.
        let mut command = place.command("unshare")?;
        command.args(["--mount", "sh", "-c", "mount -t tmpfs shm /dev/shm && exec squid \"$@\"", "squid"]);
        // -N: one process in the foreground; -d 1: log to stderr, too.
        command.args(["-N", "-d", "1", "-n", "lab", "-f"]).arg(dir.join("squid.conf"));
        let process = Process::spawn(command, &[])?;
        process.wait_line("open port", process.stderr(), TIMEOUT, |line| {
            line.contains("Accepting HTTP Socket connections").then_some(())
        })?;
        Ok(Self { process, dir })
    }

    fn config(dir: &str, listen: SocketAddr, policy: &SquidPolicy) -> Result<String> {
        let mut lines = vec![
            format!("http_port {listen}"),
            "visible_hostname proxy.lab".to_owned(),
            format!("hosts_file {dir}/hosts"),
            "dns_nameservers 127.0.0.1".to_owned(), // does not exist: only the hosts file counts
            "dns_timeout 1 second".to_owned(),
            "cache deny all".to_owned(),
            "cache_mem 1 MB".to_owned(),
            "pinger_enable off".to_owned(),
            "netdb_filename none".to_owned(),
            "shutdown_lifetime 0 seconds".to_owned(),
            "client_idle_pconn_timeout 1 minute".to_owned(),
            "max_filedescriptors 16384".to_owned(),
            format!("pid_filename {dir}/squid.pid"),
            format!("coredump_dir {dir}"),
            format!("cache_log {dir}/cache.log"),
            format!("access_log stdio:{dir}/access.log"),
        ];
        if !policy.denied.is_empty() {
            lines.push(format!("acl denied dstdomain {}", policy.denied.join(" ")));
            lines.push("http_access deny denied".to_owned());
        }
        if let Some((user, password)) = &policy.credentials {
            // squid writes "user password" to the helper, line by line.
            let check = format!("{dir}/check");
            let script = format!(
                "#!/bin/sh\nwhile read -r asked; do\n  [ \"$asked\" = '{user} {password}' ] && echo OK || echo ERR\ndone\n"
            );
            fs::write(&check, script).with_context(|| format!("cannot write {check}"))?;
            fs::set_permissions(&check, fs::Permissions::from_mode(0o755))?;
            lines.push(format!("auth_param basic program {check}"));
            lines.push("auth_param basic children 1".to_owned());
            lines.push("acl known proxy_auth REQUIRED".to_owned());
            lines.push("http_access deny !known".to_owned());
        }
        lines.push("http_access allow all".to_owned());
        Ok(lines.join("\n") + "\n")
    }

    /// The access log so far.
    pub fn access_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("access.log"))?)
    }

    /// Squid's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
