//! Progress of long steps: a spinner on a terminal, plain lines elsewhere. All of it goes to stderr, so that stdout holds
//! only results. Each step's duration is recorded for the summary.

use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lab::Lines;

/// Steps side by side share the terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// Every step that has ended, with how long it took.
static STEPS: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// Runs `work` under a title, and prints and records how long it took. `work` may show its progress on the bar.
pub(crate) fn step<T>(title: &str, work: impl FnOnce(&ProgressBar) -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { BARS.add(ProgressBar::new_spinner()) } else { ProgressBar::hidden() };
    if terminal {
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}");
        bar.set_style(style.context("the spinner's template")?);
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
    } else {
        eprintln!("{title} …");
    }
    let result = work(&bar);
    bar.finish_and_clear();
    let took = start.elapsed();
    record(title, took);
    BARS.suspend(|| match &result {
        Ok(_) if terminal && took < Duration::from_secs(1) => {}
        Ok(_) => eprintln!("{title}: done in {:.1} s", took.as_secs_f32()),
        Err(_) => eprintln!("{title}: failed after {:.1} s", took.as_secs_f32()),
    });
    result
}

/// Adds a step that shows its own output to [`steps`].
pub(crate) fn record(title: &str, took: Duration) {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner).push((title.to_owned(), took));
}

/// Every step that has ended.
pub(crate) fn steps() -> Vec<(String, Duration)> {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs a command to its end and returns its stdout; the bar shows its last line. On failure prints all its output.
pub(crate) fn command(bar: &ProgressBar, command: &mut Command) -> Result<String> {
    command_showing(bar, command, |line| line.trim().to_owned())
}

/// Runs a command that writes one line for each of about `total` pieces of its work, and shows how many are done. Where there
/// is no terminal, a line is printed after each tenth.
pub(crate) fn counted_command(bar: &ProgressBar, command: &mut Command, total: usize) -> Result<String> {
    let done = Arc::new(AtomicUsize::new(0));
    let hidden = bar.is_hidden();
    command_showing(bar, command, move |line| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if hidden && total >= 10 && done.is_multiple_of(total / 10) {
            eprintln!("  {done} of {total}");
        }
        format!("{done}/{total} {}", line.trim())
    })
}

fn command_showing(
    bar: &ProgressBar,
    command: &mut Command,
    text: impl Fn(&str) -> String + Clone + Send + 'static,
) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let show = |bar: &ProgressBar| {
        let (bar, text) = (bar.clone(), text.clone());
        move |line: &str| bar.set_message(text(line))
    };
    let stdout = Lines::each(child.stdout.take().context("stdout is piped")?, show(bar));
    let stderr = Lines::each(child.stderr.take().context("stderr is piped")?, show(bar));
    let status = child.wait()?;
    let rest = Duration::from_secs(5); // a grandchild may keep the pipes open
    stdout.wait_end(rest);
    stderr.wait_end(rest);
    if !status.success() {
        bar.suspend(|| eprint!("{}{}", stdout.text(), stderr.text()));
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("{name} {} failed ({status}); its output is above", arguments.join(" "));
    }
    Ok(stdout.text())
}
