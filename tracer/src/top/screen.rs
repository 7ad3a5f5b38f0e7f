//! The terminal while a program has all of it, and how it gets back to what it was: when this is dropped, also by a panic,
//! whose message then stands on the screen that was there before.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use crossterm::{
    cursor::Show,
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Frame, Terminal, backend::CrosstermBackend};

/// The whole terminal.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    pub fn take() -> anyhow::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode().context("cannot set up the terminal")?;
        // From here on, dropping it restores.
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| restore());
        let screen = Self { terminal: terminal.context("cannot set up the terminal")? };
        execute!(stdout(), EnterAlternateScreen).context("cannot set up the terminal")?;
        Ok(screen)
    }

    /// Draws it anew; only what has changed is sent.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is ours. Given back twice, the cursor would return over what was written in between.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// There is nobody to tell of a failure: the terminal is gone then.
fn restore() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}
