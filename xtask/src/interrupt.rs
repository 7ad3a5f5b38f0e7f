//! Ctrl-C and SIGTERM: takes the lab down before the process exits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use lab::Janitor;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static JANITOR: Mutex<Option<Arc<Mutex<Janitor>>>> = Mutex::new(None);

/// From now on, a signal takes down the guarded lab, if any, and exits with 130.
pub(crate) fn watch() -> Result<()> {
    let end = || {
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\nInterrupted: taking everything down.");
        if let Some(janitor) = JANITOR.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = janitor.lock().unwrap_or_else(PoisonError::into_inner).clean_up()
        {
            eprintln!("error: {error:#}");
        }
        std::process::exit(130);
    };
    ctrlc::set_handler(end).context("cannot handle Ctrl-C")
}

/// Sets the janitor of the lab that a signal takes down.
pub(crate) fn guard(janitor: Arc<Mutex<Janitor>>) {
    *JANITOR.lock().unwrap_or_else(PoisonError::into_inner) = Some(janitor);
}

/// Call it before printing an error: after a signal the error is a consequence, and the handler exits the process.
pub(crate) fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
