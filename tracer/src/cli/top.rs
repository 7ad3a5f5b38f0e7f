//! `egress-tracer top`: a live table of sessions.

use std::{
    cell::Cell,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::bail;
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::source::{self, Source};
use crate::{
    files::OutputFile,
    live::{Query, Status},
    terminal::{self, Color},
    top::{Outcome, Screen, State, Theme, ViewState, draw},
};
use tracer_core::{escape::escape, filter::Filter};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer top
  egress-tracer top --flagged -n shop
  kubectl -n egress-tracer exec -it POD -- egress-tracer top

Keys: j and k or arrows select, Enter explains, w writes the fix to a file, y prints it, s sorts, / filters, p pauses, ? helps,
q quits.";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Color
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    color: Color,
    #[command(flatten)]
    source: source::Args,
}

/// How many of the agent's kept reports are counted in at the start.
const PAST: u64 = 1_000;
/// The shortest time between two drawings: more cannot be read, and a slow link could not carry it.
const FRAME: Duration = Duration::from_millis(200);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("top needs a terminal (kubectl exec -it); without one, use observe or status");
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let query = Query { follow: true, last: Some(PAST), filter: args.filter, ..Query::default() };
    let mut source = tokio::select! {
        source = args.source.open(&query, true, None) => source?,
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = hangup.recv() => return Ok(ExitCode::SUCCESS),
    };
    let status = if matches!(source, Source::Agent(_)) { args.source.status().await.ok() } else { None };
    let node = status.as_ref().and_then(|status| status.node.as_deref()).or(args.source.node());
    let source_name = if status.is_some() { "through the agent" } else { "own probes" };
    let theme = Theme {
        colors: args.color.colors(true),
        marks: terminal::takes_marks(),
        source: node
            .map_or_else(|| source_name.to_owned(), |node| format!("{}, {source_name}", escape(node))),
        filter: escape(&query.filter.to_flags()).into_owned(),
    };
    let mut screen = Screen::take()?;
    let (mut state, mut view, mut page) = (State::default(), ViewState::default(), 0);
    // While it is paused, the screen stays as it is; new sessions are still counted.
    let mut frozen: Option<(State, i64)> = None;
    let mut events = EventStream::new();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut dirty, mut drawn) = (true, Instant::now() - FRAME);
    let waiting = Waiting::new(status.as_ref());
    let outcome = loop {
        let now = Timestamp::now().as_second();
        let mut urgent = false;
        tokio::select! {
            biased;
            _ = interrupt.recv() => break Outcome::Quit,
            _ = terminate.recv() => break Outcome::Quit,
            _ = hangup.recv() => break Outcome::Quit,
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    let (shown, now) = frozen.as_ref().map_or((&state, now), |(state, then)| (state, *then));
                    match view.press(key, shown, page, now) {
                        Outcome::Go => urgent = true,
                        Outcome::Write(manifest) => {
                            view.note = Some(write_fix(&manifest));
                            urgent = true;
                        }
                        outcome @ (Outcome::Quit | Outcome::Print(_)) => break outcome,
                    }
                }
                Some(Ok(Event::Resize(..))) => urgent = true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break Outcome::Quit, // the terminal is gone
            },
            () = sleep_until(drawn + FRAME), if dirty => urgent = true,
            message = source.next() => match message? {
                Some(message) => {
                    state.take(message);
                    dirty |= frozen.is_none();
                }
                None => break Outcome::Quit,
            },
            _ = tick.tick() => {
                waiting.ask(&args.source);
                state.waiting = source.waiting().or(waiting.0.get());
                dirty |= frozen.is_none();
            }
        }
        if frozen.is_some() != view.paused {
            frozen = view.paused.then(|| (state.clone(), now));
        }
        if urgent {
            let (shown, now) = frozen.as_ref().map_or((&state, now), |(state, then)| (state, *then));
            page = show(&mut screen, &theme, shown, &view, now)?;
            (dirty, drawn) = (false, Instant::now());
        }
    };
    drop(screen);
    source.finish().await?;
    if let Outcome::Print(manifest) = outcome {
        std::io::stdout().write_all(tracer_mesh::render::escape_lines(&manifest).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many requests wait for their answer, as the agent said last.
struct Waiting(Rc<Cell<Option<usize>>>, Rc<Cell<bool>>);

impl Waiting {
    fn new(status: Option<&Status>) -> Self {
        let known = status.and_then(|status| status.waiting);
        Self(Rc::new(Cell::new(known)), Rc::new(Cell::new(status.is_some())))
    }

    /// Asks the agent anew, unless it still owes an answer.
    fn ask(&self, source: &source::Args) {
        if !self.1.replace(false) {
            return;
        }
        let (known, is_free, client) = (Rc::clone(&self.0), Rc::clone(&self.1), source.agent());
        tokio::task::spawn_local(async move {
            if let Ok(status) = client.await {
                known.set(status.waiting);
            }
            is_free.set(true);
        });
    }
}

/// Writes a fix to a new file in the working directory, and returns a note on it.
fn write_fix(manifest: &str) -> String {
    let manifest = tracer_mesh::render::escape_lines(manifest);
    let file = OutputFile { path: file_name(&manifest).into(), force: false };
    let written = file.create("fix").and_then(|mut to| Ok(to.write_all(manifest.as_bytes())?));
    match written {
        Ok(()) => format!("written; kubectl apply -f {}", file.path.display()),
        Err(_) if file.path.exists() => format!("{} exists already; it is not replaced", file.path.display()),
        Err(error) => format!("{error:#}"),
    }
}

/// The name of the file for a manifest: that of its object, as far as it is one that Kubernetes takes.
fn file_name(manifest: &str) -> String {
    let name = manifest.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap_or("sidecar").trim();
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
    format!("fix-{}.yaml", name.chars().filter(is_plain).take(63).collect::<String>())
}

fn show(
    screen: &mut Screen,
    theme: &Theme,
    state: &State,
    view: &ViewState,
    now: i64,
) -> std::io::Result<usize> {
    let mut page = 0;
    screen.draw(|frame| page = draw(frame, theme, state, view, now))?;
    Ok(page)
}
