//! Ctrl-C and SIGTERM: whatever runs, the lab is taken down before we go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use lab::{Janitor, Lab};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static JANITOR: Mutex<Option<Arc<Mutex<Janitor>>>> = Mutex::new(None);

/// From now on a signal takes down the lab that is guarded, if any, and ends the process with 130.
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

/// Says which lab a signal takes down.
pub(crate) fn guard(lab: &Lab) {
    *JANITOR.lock().unwrap_or_else(PoisonError::into_inner) = Some(lab.janitor());
}

/// To be called before an error is shown: when a signal is ending us, errors are its doing, and the last word is its.
pub(crate) fn give_way() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
