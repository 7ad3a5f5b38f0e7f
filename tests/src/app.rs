//! The app: whatever runs in the pod as uid 1000 and dials out, a real program or a scripted raw client.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::place::Place;
use crate::process::{Ended, Process};
use crate::script::{Script, Transcript};

const PATIENCE: Duration = Duration::from_mins(1);

impl Lab {
    /// Runs a program of the system in the app's place to its end.
    pub fn run_app(&self, program: &str, args: &[&str]) -> Result<Ended> {
        let mut command = self.app().command(program)?;
        command.args(args);
        Process::run(command, &[], PATIENCE)
    }

    /// Starts a program of the system in the app's place.
    pub fn start_app(&self, program: &str, args: &[&str]) -> Result<Process> {
        let mut command = self.app().command(program)?;
        command.args(args);
        Process::spawn(command, &[])
    }

    /// Plays scripts, up to 200 at once, in one process of the app.
    pub fn play(&self, scripts: &[Script]) -> Result<Vec<Transcript>> {
        self.play_in(self.app(), scripts)
    }

    /// The same in another place.
    pub fn play_in(&self, place: &Place, scripts: &[Script]) -> Result<Vec<Transcript>> {
        let input = serde_json::to_vec(scripts)?;
        let command = place.command_at(&raw_client()?)?;
        let ended = Process::run_well(command, &input, PATIENCE)?;
        serde_json::from_str(&ended.stdout).with_context(|| format!("the raw client said {}", ended.stdout))
    }
}

/// The raw client is built with the tests: it lies one above them (`target/debug/deps/..`).
fn raw_client() -> Result<PathBuf> {
    beside_us("raw-client")
}

/// A program of this workspace, built into the same target directory as the running one.
pub(crate) fn beside_us(name: &str) -> Result<PathBuf> {
    let us = env::current_exe()?;
    let found = us.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    let found =
        found.with_context(|| format!("no {name} beside {}: run `cargo xtask test`", us.display()))?;
    ensure!(found.is_file(), "{} is no program", found.display());
    Ok(found)
}
