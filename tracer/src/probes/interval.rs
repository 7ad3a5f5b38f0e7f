//! A periodic timer on a timerfd. A tick costs one read; a timer of tokio's has to be armed for each tick, and each time wakes
//! the runtime once more.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

pub(super) struct Interval {
    timer: AsyncFd<OwnedFd>,
    period: Duration,
}

impl Interval {
    /// A stopped timer.
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the `AsyncFd` owns the `OwnedFd`, so the descriptor stays open and unchanged as long as it is registered.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer, period: Duration::ZERO })
    }

    /// Ticks with this period from now on. A timer that already has this period goes on undisturbed.
    pub(super) fn start(&mut self, period: Duration) -> io::Result<()> {
        if self.period != period {
            let time = Timespec::try_from(period).map_err(io::Error::other)?;
            let times = Itimerspec { it_interval: time, it_value: time };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)?;
            self.period = period;
        }
        Ok(())
    }

    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.start(Duration::ZERO)
    }

    /// Waits for the next tick. The kernel re-arms a periodic timer only when it is read: `timerfd_read_iter` in
    /// <https://elixir.bootlin.com/linux/v6.12/source/fs/timerfd.c>.
    pub(super) async fn tick(&self) -> io::Result<()> {
        self.timer.readable().await?.clear_ready();
        let mut expirations = [0; 8];
        match rustix::io::read(&self.timer, &mut expirations) {
            Ok(_) | Err(rustix::io::Errno::WOULDBLOCK) => Ok(()), // started anew meanwhile
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn interval_ticks_again_and_again() {
        let mut interval = Interval::new().unwrap();
        let limit = Duration::from_secs(10);
        interval.start(Duration::from_millis(5)).unwrap();
        for _ in 0..3 {
            tokio::time::timeout(limit, interval.tick()).await.expect("a tick").unwrap();
        }
    }
}
