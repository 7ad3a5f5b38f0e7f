//! `egress-tracer top`: a live table of sessions.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
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
    live::Query,
    terminal::Color,
    top::{Outcome, Screen, State, Theme, ViewState, draw},
};
use tracer_core::filter::Filter;

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer top
  egress-tracer top --flagged -n shop
  kubectl -n egress-tracer exec -it POD -- egress-tracer top

Keys: arrows select, Enter explains, y prints the fix's manifest, s sorts, / filters, p pauses, ? helps, q quits.";

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
    let query = Query { follow: true, last: Some(PAST), since: None, filter: args.filter };
    let mut source = args.source.open(&query, true, None).await?;
    let source_name = match source {
        Source::Agent(_) => "through the agent",
        Source::Own(_) => "own probes",
    };
    let theme = Theme { colors: args.color.colors(true), source: source_name.to_owned() };
    let mut screen = Screen::take()?;
    let (mut state, mut view, mut page) = (State::default(), ViewState::default(), 0);
    // While it is paused, the screen stays as it is; new sessions are still counted.
    let mut frozen: Option<(State, i64)> = None;
    let mut events = EventStream::new();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut dirty, mut drawn) = (true, Instant::now() - FRAME);
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
            _ = tick.tick() => dirty |= frozen.is_none(),
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
