//! A process in a pseudo-terminal: what its screen shows in a terminal emulator, keys to press, and the state in which
//! it leaves the terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::place::Place;
use crate::process::{Process, ProcessOutput};

const TIMEOUT: Duration = Duration::from_mins(1);

/// A running process in its terminal.
#[derive(Debug)]
pub struct Terminal {
    process: Process,
    keyboard: File,
    /// Kept open, so that the terminal can be inspected after the process has ended.
    line: OwnedFd,
    shown: Arc<(Mutex<Shown>, Condvar)>,
}

struct Shown {
    parser: vt100::Parser,
    /// Everything that was written; `pieces` has the time and the end of each read.
    bytes: Vec<u8>,
    pieces: Vec<(SystemTime, usize)>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parser.screen().contents())
    }
}

impl Terminal {
    /// Starts `program` with `args` in a terminal of this size. `environment` is added to the place's.
    pub fn start(
        place: &Place,
        program: &Path,
        args: &[&str],
        (rows, columns): (u16, u16),
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("cannot make a pseudo-terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let line = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&line, size(rows, columns))?;
        let mut command = place.session_command(program)?;
        command.env("TERM", "xterm-256color").args(args).envs(environment.iter().copied());
        let lead = || {
            rustix::process::setsid()?;
            Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
        };
        // SAFETY: between fork and exec, the closure makes two system calls. It neither allocates nor locks.
        unsafe { command.pre_exec(lead) };
        let end = || line.try_clone().map(Stdio::from);
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        let process = Process::spawn_with_given_stdio(command)?;
        let shown = Shown {
            parser: vt100::Parser::new(nonzero(rows)?, nonzero(columns)?, 0),
            bytes: Vec::new(),
            pieces: Vec::new(),
        };
        let shown = Arc::new((Mutex::new(shown), Condvar::new()));
        let keyboard = File::from(master);
        let (mut output, ours) = (keyboard.try_clone()?, Arc::clone(&shown));
        // The thread ends when the process has ended and the terminal is dropped.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let now = SystemTime::now();
                let mut shown = lock(&ours.0);
                shown.parser.process(&buffer[..count]);
                shown.bytes.extend_from_slice(&buffer[..count]);
                let end = shown.bytes.len();
                shown.pieces.push((now, end));
                ours.1.notify_all();
            }
        });
        Ok(Self { process, keyboard, line, shown })
    }

    /// Presses keys: writes what a terminal sends for them.
    pub fn press(&self, keys: &str) -> Result<()> {
        (&self.keyboard).write_all(keys.as_bytes()).context("the terminal takes no keys")
    }

    /// Resizes the terminal; the kernel signals the process.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        lock(&self.shown.0).parser.screen_mut().set_size(nonzero(rows)?, nonzero(columns)?);
        Ok(tcsetwinsize(&self.line, size(rows, columns))?)
    }

    /// Waits until `found` accepts the screen.
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(&vt100::Screen) -> Option<T>) -> Result<T> {
        let end = Instant::now() + TIMEOUT;
        let mut shown = lock(&self.shown.0);
        loop {
            if let Some(result) = found(shown.parser.screen()) {
                return Ok(result);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no {what} on the screen within {TIMEOUT:?}:\n{}", shown.parser.screen().contents());
            }
            shown = self.shown.1.wait_timeout(shown, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the screen contains `text`, and returns the screen's text.
    pub fn wait_text(&self, text: &str) -> Result<String> {
        self.wait(text, |screen| Some(screen.contents()).filter(|contents| contents.contains(text)))
    }

    /// Waits until these bytes were written, and returns all bytes written so far.
    pub fn wait_written(&self, bytes: &str) -> Result<String> {
        let end = Instant::now() + TIMEOUT;
        let mut shown = lock(&self.shown.0);
        loop {
            let written = String::from_utf8_lossy(&shown.bytes);
            if written.contains(bytes) {
                return Ok(written.into_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no {bytes:?} within {TIMEOUT:?}: {written:?}");
            }
            shown = self.shown.1.wait_timeout(shown, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `count` whole lines were written, and returns all lines, each with the time at which its end
    /// arrived.
    pub fn wait_lines(&self, count: usize) -> Result<Vec<(SystemTime, String)>> {
        let end = Instant::now() + TIMEOUT;
        let mut shown = lock(&self.shown.0);
        while shown.bytes.iter().filter(|&&byte| byte == b'\n').take(count).count() < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("not {count} lines within {TIMEOUT:?}: {}", String::from_utf8_lossy(&shown.bytes));
            }
            shown = self.shown.1.wait_timeout(shown, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(shown.lines())
    }

    /// All bytes written so far.
    pub fn written(&self) -> Vec<u8> {
        lock(&self.shown.0).bytes.clone()
    }

    /// Whether the terminal is in its usual mode: it echoes, buffers lines, and turns keys into signals.
    pub fn is_cooked(&self) -> Result<bool> {
        let modes = tcgetattr(&self.line)?.local_modes;
        Ok(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG))
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for the end of the process. The terminal can still be inspected.
    pub fn wait_end(&mut self) -> Result<ProcessOutput> {
        self.process.wait(TIMEOUT)
    }
}

impl Shown {
    fn lines(&self) -> Vec<(SystemTime, String)> {
        let (mut lines, mut begin) = (Vec::new(), 0);
        for (end, _) in self.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            let piece = self.pieces.partition_point(|(_, piece_end)| *piece_end <= end);
            let text = String::from_utf8_lossy(&self.bytes[begin..end]).trim_end_matches('\r').to_owned();
            lines.extend(self.pieces.get(piece).map(|(time, _)| (*time, text)));
            begin = end + 1;
        }
        lines
    }
}

fn nonzero(size: u16) -> Result<NonZero<u16>> {
    NonZero::new(size).context("a terminal has rows and columns")
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
