//! `egress-tracer top`: what is going on, as a table that lives.

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

use super::{
    output::Color,
    source::{self, Source},
};
use crate::{
    live::Query,
    top::{Board, Keys, Look, Outcome, Screen, draw},
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
    source: source::Args,
    #[command(flatten)]
    filter: Filter,
    /// Colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    color: Color,
}

/// So much of the agent's past is counted in.
const PAST: u64 = 1_000;
/// It is drawn no more often than this: more cannot be read, and a slow link could not carry it.
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
    let whence = match source {
        Source::Agent(_) => "through the agent",
        Source::Own(_) => "own probes",
    };
    let look = Look { colors: args.color.colors(true), source: whence.to_owned() };
    let mut screen = Screen::take()?;
    let (mut board, mut keys, mut page) = (Board::default(), Keys::default(), 0);
    // While it is paused, what is shown stays; what comes in is counted all the same, and nothing is lost.
    let mut frozen: Option<(Board, i64)> = None;
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
                    let (shown, now) = frozen.as_ref().map_or((&board, now), |(board, then)| (board, *then));
                    match keys.press(key, shown, page, now) {
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
                    board.take(message);
                    dirty |= frozen.is_none();
                }
                None => break Outcome::Quit,
            },
            _ = tick.tick() => dirty |= frozen.is_none(),
        }
        if frozen.is_some() != keys.paused {
            frozen = keys.paused.then(|| (board.clone(), now));
        }
        if urgent {
            let (shown, now) = frozen.as_ref().map_or((&board, now), |(board, then)| (board, *then));
            page = show(&mut screen, &look, shown, &keys, now)?;
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

fn show(screen: &mut Screen, look: &Look, board: &Board, keys: &Keys, now: i64) -> std::io::Result<usize> {
    let mut page = 0;
    screen.draw(|frame| page = draw(frame, look, board, keys, now))?;
    Ok(page)
}
