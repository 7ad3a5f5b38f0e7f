//! `egress-tracer status`: whether an agent runs on this node, and what it has seen and lost.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use anyhow::anyhow;
use jiff::{Timestamp, tz::TimeZone};

use tracer_core::{
    escape::escape,
    report::{LossSource, age},
    verdict::Verdict,
};

use crate::live::{self, Client, ConnectError, Status};

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
        Output::Text => text(&status, &Timestamp::now(), &TimeZone::system()),
        Output::Json => serde_json::to_string(&status)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status, now: &Timestamp, zone: &TimeZone) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:10} {}", escape(value));
    };
    let version = format!("egress-tracer {}, process {}", status.version, status.pid);
    line("agent", &version);
    line("node", status.node.as_deref().unwrap_or("not named; --node or NODE_NAME names it"));
    line("family", &status.family);
    line("since", &since(&status.since, now, zone));
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
    line("scope", &scope);
    line("readers", &status.readers.to_string());
    let all: u64 = status.sessions.values().sum();
    let last = status.last.as_ref().map(|last| format!(", the last one {}", since(last, now, zone)));
    line("sessions", &format!("{all}, {} of them flagged{}", status.flagged, last.unwrap_or_default()));
    for verdict in Verdict::ALL {
        let count = status.sessions.get(verdict.name()).copied().unwrap_or_default();
        if count > 0 {
            let mark = if verdict.is_flagged() { "✗" } else { " " };
            let _ = writeln!(text, "{count:12} {mark} {}", verdict.name());
        }
    }
    if status.lost.is_empty() {
        let _ = writeln!(text, "{:10} nothing", "lost");
    }
    for (nth, loss) in status.lost.iter().enumerate() {
        let whose = match loss.source {
            LossSource::Kernel => "records in the kernel",
            LossSource::Userspace => "records unread",
            LossSource::Reader => "reports",
        };
        let name = if nth == 0 { "lost" } else { "" };
        let _ = writeln!(text, "{name:10} {} {whose} ({})", loss.count, escape(&loss.reason));
    }
    text
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

    fn text_of(change: impl FnOnce(&mut Status)) -> String {
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
        };
        change(&mut status);
        let now = "2026-11-20T11:45:15Z".parse().expect("a time");
        text(&status, &now, &TimeZone::UTC)
    }

    #[test]
    fn status_of_a_new_agent() {
        insta::assert_snapshot!(text_of(|_| ()));
    }

    #[test]
    fn status_of_an_agent_with_sessions_and_losses() {
        insta::assert_snapshot!(text_of(|status| {
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
        }));
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
        assert_eq!(text.lines().count(), 8, "{text}");
    }
}
