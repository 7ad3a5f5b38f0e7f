//! The app: programs that run in the pod as uid 1000 and dial out, real ones or the scripted raw client.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::place::Place;
use crate::process::{Process, ProcessOutput};
use crate::script::{Script, Transcript};

const TIMEOUT: Duration = Duration::from_mins(1);

impl Lab {
    /// Runs a system program as the app, to its end.
    pub fn run_app(&self, program: &str, args: &[&str]) -> Result<ProcessOutput> {
        let mut command = self.app().command(program)?;
        command.args(args);
        Process::run(command, &[], TIMEOUT)
    }

    /// Starts a system program as the app.
    pub fn start_app(&self, program: &str, args: &[&str]) -> Result<Process> {
        let mut command = self.app().command(program)?;
        command.args(args);
        Process::spawn(command, &[])
    }

    /// Plays scripts in one app process, up to 200 connections at a time. Returns a transcript for each, in order.
    pub fn play(&self, scripts: &[Script]) -> Result<Vec<Transcript>> {
        self.play_in(self.app(), scripts)
    }

    /// Plays scripts in one process at `place`.
    pub fn play_in(&self, place: &Place, scripts: &[Script]) -> Result<Vec<Transcript>> {
        play(place, scripts)
    }
}

/// Plays scripts, up to 200 at once, in one process of `place`.
pub(crate) fn play(place: &Place, scripts: &[Script]) -> Result<Vec<Transcript>> {
    let input = serde_json::to_vec(scripts)?;
    let command = place.command_at(&raw_client()?)?;
    let ended = Process::run_checked(command, &input, TIMEOUT)?;
    serde_json::from_str(&ended.stdout).with_context(|| format!("the raw client said {}", ended.stdout))
}

/// The raw client, which Cargo builds beside the tests.
fn raw_client() -> Result<PathBuf> {
    built_program("raw-client")
}

/// A program of this workspace, found in the target directory of the running one (`target/debug` or its `deps`).
pub fn built_program(name: &str) -> Result<PathBuf> {
    let us = env::current_exe()?;
    let found = us.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    let found =
        found.with_context(|| format!("no {name} beside {}: run `cargo xtask test`", us.display()))?;
    ensure!(found.is_file(), "{} is no program", found.display());
    Ok(found)
}
