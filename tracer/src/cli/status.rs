//! `egress-tracer status`: whether an agent runs on this node, and what it has seen and lost.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::anyhow;
use jiff::{Timestamp, tz::TimeZone};

use tracer_core::{
    report::{LossSource, age},
    verdict::Verdict,
};

use crate::{
    live::{self, Client, ConnectError, Status},
    terminal::{Color, Judgment, Sheet},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer status
  egress-tracer status -o json | jq .sessions";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    live: live::SocketArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// Color in the text
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// One object
    Json,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = args.live.socket.display();
    let client = Client::connect(&args.live.socket).await.map_err(|trouble| match trouble {
        ConnectError::NoAgent(_) => anyhow!(
            "no agent runs on this node, or its socket is not {path}; without one, `observe` and `top` load \
             their own probes"
        ),
        other => other.into(),
    })?;
    let status = client.status().await?;
    let text = match args.output {
        Output::Text => {
            let mut sheet = Sheet::new(args.color, std::io::stdout().is_terminal());
            show(&status, &Timestamp::now(), &TimeZone::system(), &mut sheet);
            sheet.into_text()
        }
        Output::Json => serde_json::to_string(&status)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Judgments first, then the numbers, then what to do next.
fn show(status: &Status, now: &Timestamp, zone: &TimeZone, sheet: &mut Sheet) {
    let node = status.node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
    sheet.judge(
        Judgment::Good,
        &format!("an agent runs{node}: egress-tracer {}, process {}", status.version, status.pid),
    );
    if status.lost.is_empty() {
        sheet.judge(Judgment::Good, "lost nothing");
    }
    for loss in &status.lost {
        let (whose, so) = match loss.source {
            LossSource::Kernel => ("records in the kernel", "sessions may be missing or less certain"),
            LossSource::Userspace => ("records unread", "sessions may be missing"),
            LossSource::Reader => ("reports", "a reader was too slow"),
        };
        sheet.judge(Judgment::Doubt, &format!("lost {} {whose} ({}): {so}", loss.count, loss.reason));
    }
    match status.explains {
        Some(true) => sheet.judge(Judgment::Good, "explains flagged sessions from their sidecar's configuration"),
        Some(false) => sheet.judge(
            Judgment::Bad,
            "does not explain: started with --no-explain; `egress-tracer explain` in the app's pod still does",
        ),
        None => {}
    }
    match (&status.runtime, status.explains) {
        (Some(runtime), _) => sheet.judge(Judgment::Good, &format!("names pods, as {runtime} knows them")),
        (None, Some(_)) => sheet.judge(
            Judgment::Doubt,
            "names no pods: no container runtime was found (--runtime-endpoint of the agent)",
        ),
        (None, None) => {}
    }
    sheet.blank();
    let all: u64 = status.sessions.values().sum();
    let last = status.last.as_ref().map(|last| format!(", the last one {}", since(last, now, zone)));
    let last = last.unwrap_or_default();
    sheet.row("sessions", &format!("{all}, {} of them flagged{last}", status.flagged));
    for verdict in Verdict::ALL {
        let count = status.sessions.get(verdict.name()).copied().unwrap_or_default();
        if count > 0 {
            sheet.row("", &format!("{count} {} {}", verdict.severity().mark(), verdict.name()));
        }
    }
    match status.waiting {
        Some(1) => sheet.row("waiting", "1 request has no answer yet"),
        Some(waiting) => sheet.row("waiting", &format!("{waiting} requests have no answer yet")),
        None => {}
    }
    sheet.row("since", &since(&status.since, now, zone));
    sheet.row("scope", &scope(status));
    sheet.row("family", &status.family);
    if status.node.is_none() {
        sheet.row("node", "not named; --node or NODE_NAME names it");
    }
    sheet.row("readers", &status.readers.to_string());
    sheet.row("next", next(status, all));
}

fn scope(status: &Status) -> String {
    let mut scope = match &status.scope.cgroup {
        Some(cgroup) => cgroup.display().to_string(),
        None => "the whole node".to_owned(),
    };
    for netns in &status.scope.netns {
        let _ = write!(scope, ", {}", netns.display());
    }
    for pods in &status.scope.pods {
        let _ = write!(scope, ", {pods}");
    }
    scope
}

/// The next command.
fn next(status: &Status, sessions: u64) -> &'static str {
    match (status.flagged, sessions) {
        (1.., _) => "egress-tracer observe --flagged --last 5",
        (0, 1..) => "egress-tracer observe --last 20",
        (0, 0) => "egress-tracer observe waits for the first session; is the app's pod on this node?",
    }
}

/// `2026-11-20 11:45:15 (2h ago)`
fn since(time: &str, now: &Timestamp, zone: &TimeZone) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return time.to_owned() };
    let shown = then.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    format!("{shown} ({} ago)", age(now.duration_since(then).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{LossCount, StatusScope};
    use tracer_core::report::Colors;

    fn text_of(change: impl FnOnce(&mut Status)) -> String {
        text_in(80, Colors::Off, change)
    }

    fn text_in(width: usize, colors: Colors, change: impl FnOnce(&mut Status)) -> String {
        let mut status = Status {
            v: 1,
            version: "0.1.0".to_owned(),
            node: Some("node-1".to_owned()),
            pid: 4711,
            since: "2026-11-20T09:41:12.123456Z".to_owned(),
            family: "cgroup".into(),
            scope: StatusScope::default(),
            sessions: Verdict::ALL.iter().map(|verdict| (verdict.name().to_owned(), 0)).collect(),
            flagged: 0,
            lost: Vec::new(),
            readers: 2,
            kept: 11,
            last: None,
            waiting: Some(0),
            explains: Some(true),
            runtime: Some("unix:///run/containerd/containerd.sock".to_owned()),
        };
        change(&mut status);
        let now = "2026-11-20T11:45:15Z".parse().expect("a time");
        let mut sheet = Sheet::with(colors, width, true);
        show(&status, &now, &TimeZone::UTC, &mut sheet);
        sheet.into_text()
    }

    #[test]
    fn status_of_a_new_agent() {
        insta::assert_snapshot!(text_of(|_| ()));
    }

    /// An agent with sessions and losses, whose settings leave much to be desired.
    fn busy(status: &mut Status) {
        status.sessions.insert("handled_as_http".to_owned(), 12);
        status.sessions.insert("tunneled".to_owned(), 1234);
        status.flagged = 12;
        status.last = Some("2026-11-20T11:45:12.500000Z".to_owned());
        status.scope = StatusScope {
            cgroup: Some("/sys/fs/cgroup/kubepods.slice".into()),
            netns: vec!["/proc/7/ns/net".into()],
            pods: vec!["namespaces shop bank".to_owned(), "labels app=cart".to_owned()],
        };
        let loss = |source, reason: &str, count| LossCount { source, reason: reason.to_owned(), count };
        status.lost =
            vec![loss(LossSource::Kernel, "ring_full", 3), loss(LossSource::Userspace, "malformed", 1)];
        (status.waiting, status.explains, status.runtime) = (Some(3), Some(false), None);
    }

    #[test]
    fn status_of_a_busy_agent_in_every_width() {
        for width in [80, 120, 200] {
            insta::assert_snapshot!(format!("busy_{width}"), text_in(width, Colors::Off, busy));
            let colored = text_in(width, Colors::On, busy).replace('\u{1b}', "<ESC>");
            insta::assert_snapshot!(format!("busy_{width}_in_color"), colored);
        }
    }

    #[test]
    fn status_of_an_agent_of_another_release_is_read() {
        let old = serde_json::json!({
            "v": 1, "version": "0.0.9", "node": null, "pid": 1, "since": "2026-11-20T09:41:12Z", "family": "cgroup",
            "scope": {"cgroup": null, "netns": [], "pods": []}, "sessions": {}, "flagged": 0, "lost": [], "readers": 0,
            "kept": 0, "last": null
        });
        let status: Status = serde_json::from_value(old).expect("a status");
        assert_eq!((status.waiting, status.explains, &status.runtime), (None, None, &None));
        let text = text_of(|new| *new = status);
        assert!(
            !text.contains("explain") && !text.contains("pods"),
            "what it does not say is not judged: {text}"
        );
    }

    #[test]
    fn control_characters_in_a_status_are_escaped() {
        let hostile = "\u{1b}]52;c;x\u{7}\u{202e}\u{0}\n";
        let text = text_of(|status| {
            for text in [&mut status.version, &mut status.since, &mut status.family] {
                hostile.clone_into(text);
            }
            (status.node, status.last) = (Some(hostile.to_owned()), Some(hostile.to_owned()));
            status.scope.cgroup = Some(hostile.into());
            status.scope.pods = vec![hostile.to_owned()];
            status.lost =
                vec![LossCount { source: LossSource::Kernel, reason: hostile.to_owned(), count: 1 }];
        });
        assert!(
            !text.contains(|letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}'),
            "{text:?}"
        );
    }
}
