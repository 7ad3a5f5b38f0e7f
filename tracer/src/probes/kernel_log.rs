//! What the kernel programs log (`EGRESS_TRACER_LOG=debug`), handed on to the process's own logger. It reads no records.

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;
use tokio::io::{Interest, unix::AsyncFd};

/// The reader's end of the programs' log. The programs need it to be there before they are loaded.
pub struct KernelLog {
    logger: EbpfLogger<&'static dyn Log>,
}

impl KernelLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let logger = EbpfLogger::init(ebpf).context("cannot open the kernel programs' log")?;
        Ok(Self { logger })
    }

    /// Hands on what is logged, for as long as it is polled.
    pub async fn run(self) -> anyhow::Result<()> {
        // SAFETY: the map's descriptor stays open and the same for as long as the logger lives, which the `AsyncFd` owns.
        let log = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE) };
        let mut log = log.context("cannot wait for the kernel programs' log")?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
