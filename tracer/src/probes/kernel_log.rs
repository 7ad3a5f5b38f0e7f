//! Forwards what the kernel programs log (`EGRESS_TRACER_LOG=debug`) to the process's own logger.

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;
use tokio::io::{Interest, unix::AsyncFd};

/// The reader of the programs' log. It must exist before the programs are loaded.
pub struct KernelLog {
    logger: EbpfLogger<&'static dyn Log>,
}

impl KernelLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let logger = EbpfLogger::init(ebpf).context("cannot open the kernel programs' log")?;
        Ok(Self { logger })
    }

    /// Forwards log lines for as long as it is polled.
    pub async fn run(self) -> anyhow::Result<()> {
        // SAFETY: the `AsyncFd` owns the logger, so the map's descriptor stays open and unchanged as long as it is
        // registered.
        let log = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE) };
        let mut log = log.context("cannot wait for the kernel programs' log")?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
