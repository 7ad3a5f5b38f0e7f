//! The output of a writer, collected line by line, and waiting for a line of it.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The lines written so far. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads `source` to its end on a thread. Bytes that are not UTF-8 are replaced.
    pub fn of(source: impl Read + Send + 'static) -> Self {
        Self::each(source, |_| ())
    }

    /// Reads `source` to its end on a thread, and calls `seen` with each line first.
    pub fn each(source: impl Read + Send + 'static, mut seen: impl FnMut(&str) + Send + 'static) -> Self {
        let lines = Self::default();
        let ours = lines.clone();
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                seen(&text);
                ours.state().lines.push(text);
                ours.0.1.notify_all();
                line.clear();
            }
            ours.state().ended = true;
            ours.0.1.notify_all();
        });
        lines
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    /// All lines so far as one text.
    pub fn text(&self) -> String {
        self.state().lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// Waits until `found` returns something. `None`: the writer ended or the time ran out first.
    pub fn wait<T>(&self, timeout: Duration, mut found: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut state = self.state();
        loop {
            let result = found(&state.lines);
            let left = end.saturating_duration_since(Instant::now());
            if result.is_some() || state.ended || left.is_zero() {
                return result;
            }
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the writer has ended. False: the time ran out first.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        self.wait(timeout, |_| None::<()>);
        self.state().ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
