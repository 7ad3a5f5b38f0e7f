//! A network namespace without a name. A descriptor holds it, so it disappears with the last process in it, and nothing
//! stays under `/run/netns`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::wait::pause;

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes: room for the configuration dump of a large mesh.
const MAX_BODY: u64 = 64 << 20;

/// A network namespace. Clones are the same namespace.
#[derive(Debug, Clone)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// A new namespace. Its loopback is down.
    pub fn new() -> Result<Self> {
        let made = on_a_thread(|| -> io::Result<OwnedFd> {
            // SAFETY: CLONE_NEWNET changes the network namespace of this thread alone, which ends right after. No
            // descriptor or memory is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let fd = made.context("cannot make a network namespace: this needs root (CAP_SYS_ADMIN)")?;
        Ok(Self(Arc::new(fd)))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it makes stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            enter(self.0.as_fd()).context("cannot enter a network namespace of the lab")?;
            Ok(work())
        })
    }

    /// The body of an HTTP GET sent from inside the namespace. A status other than 2xx is an error.
    pub fn http_get(&self, url: &str) -> Result<String> {
        self.http_get_with(url, &[])
    }

    /// The body of an HTTP GET with query parameters, sent from inside the namespace. A server that limits the rate of
    /// requests is asked again when it says so (`Retry-After`).
    pub(crate) fn http_get_with(&self, url: &str, parameters: &[(&str, &str)]) -> Result<String> {
        self.run(|| {
            let config = ureq::Agent::config_builder().timeout_global(Some(HTTP_TIMEOUT)).proxy(None);
            let agent: ureq::Agent = config.http_status_as_error(false).build().into();
            let end = Instant::now() + HTTP_TIMEOUT;
            loop {
                let request = agent.get(url).query_pairs(parameters.iter().copied());
                let mut response = request.call().with_context(|| format!("GET {url} in the lab"))?;
                let status = response.status();
                if let Some(wait) = retry_after(&response).filter(|wait| Instant::now() + *wait < end) {
                    pause(wait);
                    continue;
                }
                ensure!(status.is_success(), "GET {url} in the lab: {status}");
                let body = response.body_mut().with_config().limit(MAX_BODY).read_to_string();
                return body.with_context(|| format!("GET {url} in the lab"));
            }
        })?
    }

    /// A path for `ip link … netns`, valid while this process lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The inode number that `/proc/PID/ns/net` shows.
    pub fn inode(&self) -> Result<u64> {
        Ok(File::from(self.0.try_clone()?).metadata()?.ino())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How long a server that got too many requests asks to be left alone.
fn retry_after<T>(response: &ureq::http::Response<T>) -> Option<Duration> {
    let is_limited = response.status() == ureq::http::StatusCode::TOO_MANY_REQUESTS;
    let seconds = response.headers().get("retry-after").filter(|_| is_limited)?;
    seconds.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Moves the calling thread (or the child about to exec) into the namespace.
pub(crate) fn enter(netns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
