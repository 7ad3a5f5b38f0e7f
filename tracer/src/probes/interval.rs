//! An alarm that rings again and again until it is told to be silent: a timer of the kernel's, which costs nothing while it
//! stays as it is. (A timer of tokio's has to be set anew each time, and each time wakes the runtime once more.)

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

pub(super) struct Alarm {
    timer: AsyncFd<OwnedFd>,
    every: Duration,
}

impl Alarm {
    /// It is silent.
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor stays open and the same for as long as the `OwnedFd` lives, which the `AsyncFd` owns.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer, every: Duration::ZERO })
    }

    /// From now on it rings at this distance; if it does so already, it goes on.
    pub(super) fn ring_every(&mut self, every: Duration) -> io::Result<()> {
        if self.every != every {
            let time = Timespec::try_from(every).map_err(io::Error::other)?;
            let times = Itimerspec { it_interval: time, it_value: time };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)?;
            self.every = every;
        }
        Ok(())
    }

    /// From now on it does not ring.
    pub(super) fn be_silent(&mut self) -> io::Result<()> {
        self.ring_every(Duration::ZERO)
    }

    /// Waits until it rings. The kernel re-arms a periodic timer only when it is read:
    /// `timerfd_read_iter` in <https://elixir.bootlin.com/linux/v6.12/source/fs/timerfd.c>.
    pub(super) async fn rings(&self) -> io::Result<()> {
        self.timer.readable().await?.clear_ready();
        let mut expirations = [0; 8];
        match rustix::io::read(&self.timer, &mut expirations) {
            Ok(_) | Err(rustix::io::Errno::WOULDBLOCK) => Ok(()), // set anew meanwhile
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn alarm_rings_again_and_again() {
        let mut alarm = Alarm::new().unwrap();
        let limit = Duration::from_secs(10);
        alarm.ring_every(Duration::from_millis(5)).unwrap();
        for _ in 0..3 {
            tokio::time::timeout(limit, alarm.rings()).await.expect("a ring").unwrap();
        }
    }
}
