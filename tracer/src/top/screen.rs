//! The terminal in full-screen mode. Dropping it restores the terminal, also in a panic, whose message then appears on
//! the normal screen.

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
    /// Switches the terminal to full-screen mode.
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
        // From here on, dropping the screen restores the terminal.
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| restore());
        let screen = Self { terminal: terminal.context("cannot set up the terminal")? };
        execute!(stdout(), EnterAlternateScreen).context("cannot set up the terminal")?;
        Ok(screen)
    }

    /// Draws a frame; only changed cells are sent.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is in full-screen mode. Restored twice, the cursor would move over output written in between.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Restores the terminal. It cannot report a failure: the terminal is gone then.
fn restore() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}
