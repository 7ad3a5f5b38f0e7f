//! What came of a probe: what the app saw, the kernel's evidence, and what the configuration predicted.

use std::net::SocketAddr;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use tracer_core::escape::escape;
use tracer_core::report::{Colors, Report, duration};
use tracer_core::verdict::{Reason, Verdict};
use tracer_mesh::Dump;

use super::dial::AppView;

/// The outcome. Its JSON is what `-o json` prints.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) to: SocketAddr,
    pub(super) name: Option<String>,
    pub(super) view: AppView,
    pub(super) report: Option<Box<Report>>,
    pub(super) prediction: Prediction,
}

/// What the sidecar's configuration says about the same bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Prediction {
    verdict: Option<Verdict>,
    reason: Option<Reason>,
    status: Option<u16>,
    certain: bool,
    caveats: Vec<String>,
    explanation: Option<String>,
    /// Why there is no prediction.
    error: Option<String>,
}

impl Prediction {
    pub(super) fn of(dump: anyhow::Result<Dump>, to: SocketAddr, head: &[u8]) -> Self {
        let explained = dump.and_then(|dump| Ok(tracer_mesh::explain(&dump, &[to], head)?));
        match explained.map(|explanations| explanations.into_iter().next()) {
            Ok(Some(explanation)) => Self {
                verdict: explanation.decision.verdict,
                reason: explanation.decision.reason,
                status: explanation.decision.status,
                certain: explanation.decision.certain,
                caveats: explanation.decision.caveats,
                explanation: Some(explanation.explanation),
                error: None,
            },
            Ok(None) => Self::default(),
            Err(error) => Self { error: Some(format!("{error:#}")), ..Self::default() },
        }
    }

    fn text(&self) -> String {
        if let Some(error) = &self.error {
            return format!("nothing: {error}");
        }
        let doubt =
            if self.certain { String::new() } else { format!(" (not certain: {})", self.caveats.join("; ")) };
        format!("{}{doubt}", words(self.verdict, self.reason, self.status))
    }
}

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    to: SocketAddr,
    name: &'a Option<String>,
    app: &'a AppView,
    report: &'a Option<Box<Report>>,
    predicted: &'a Prediction,
    agrees: Option<bool>,
}

impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { to, name, view, report, prediction } = self;
        let line =
            Line { v: 1, to: *to, name, app: view, report, predicted: prediction, agrees: self.agrees() };
        line.serialize(serializer)
    }
}

impl Outcome {
    /// Whether evidence and configuration say the same; `None` where one of them says nothing.
    pub(super) fn agrees(&self) -> Option<bool> {
        let (seen, predicted) = (self.report.as_ref()?, self.prediction.verdict?);
        // A configuration does not know what the proxy answers.
        let passes = |verdict: Verdict| !verdict.is_flagged();
        Some(if passes(predicted) {
            passes(seen.verdict)
        } else {
            seen.verdict == predicted && (seen.reason.is_none() || seen.reason == self.prediction.reason)
        })
    }

    /// The text for people: the conclusion first.
    pub(super) fn text(&self, colors: Colors, width: usize, marks: bool) -> String {
        let mut text = String::new();
        let verdict = self.report.as_ref().map(|report| report.verdict);
        let (mark, plain, style) = match verdict {
            Some(verdict) if verdict.is_flagged() => ("✗", "x", AnsiColor::Red.on_default().bold()),
            Some(Verdict::Tunneled | Verdict::Direct) => (" ", " ", AnsiColor::Green.on_default()),
            _ => ("!", "!", AnsiColor::Yellow.on_default()),
        };
        let mark = if marks { mark } else { plain };
        let address = match &self.name {
            Some(name) => format!("{} ({name})", self.to),
            None => self.to.to_string(),
        };
        let result = match &self.report {
            Some(report) => words(
                Some(report.verdict),
                report.reason,
                report.reply.as_ref().and_then(|reply| reply.status),
            ),
            None => "no evidence".to_owned(),
        };
        colors.push_line(&mut text, style, &format!("{mark} {}  {result}", escape(&address)));
        let mut row = |name: &str, content: &str| {
            let content = escape(content);
            let options = textwrap::Options::new(width.saturating_sub(14).max(20))
                .break_words(false)
                .word_splitter(textwrap::WordSplitter::NoHyphenation);
            for (nth, line) in textwrap::wrap(&content, options).iter().enumerate() {
                let name = if nth == 0 { name } else { "" };
                Colors::Off.push_line(&mut text, Style::new(), format!("  {name:<12}{line}").trim_end());
            }
        };
        row("app saw", &self.seen_by_app());
        match &self.report {
            Some(report) => {
                row("evidence", &report.explanation);
                for line in report.evidence_lines() {
                    row("", &line);
                }
            }
            None if self.view.local.is_none() => row("evidence", "there was no connection to look at"),
            None => row("evidence", "the tracer saw no session of this probe: is the pod in its scope?"),
        }
        row("predicted", &self.prediction.text());
        if let Some(explanation) = &self.prediction.explanation {
            row("", explanation);
        }
        row(
            "agree",
            match self.agrees() {
                Some(true) => "yes",
                Some(false) => {
                    "no: the configuration has changed since, or the evaluator is wrong; please report it"
                }
                None => "not known",
            },
        );
        row("sent as", &format!("user {} from {}", self.view.user, local(&self.view)));
        if let Some(error) = &self.view.outside_cgroup {
            row("note", &format!("sent from outside of the app's cgroup: {error}"));
        }
        text
    }

    fn seen_by_app(&self) -> String {
        let view = &self.view;
        match (&view.first_line, &view.error) {
            (Some(line), _) => {
                let after = view.after_us.map(|us| format!(" after {}", duration(us))).unwrap_or_default();
                let server =
                    view.server.as_ref().map(|server| format!(", server: {server}")).unwrap_or_default();
                format!("{line}{after}{server}")
            }
            (None, Some(error)) => error.clone(),
            (None, None) => "nothing".to_owned(),
        }
    }
}

fn local(view: &AppView) -> String {
    view.local.map_or_else(|| "no connection".to_owned(), |local| local.to_string())
}

fn words(verdict: Option<Verdict>, reason: Option<Reason>, status: Option<u16>) -> String {
    let status = status.map(|status| status.to_string());
    let words = [verdict.map(Verdict::name), reason.map(Reason::name), status.as_deref()];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() { "undecided".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of a probe whose session was the first of the recorded ones.
    fn outcome() -> Outcome {
        let mut reports = Vec::new();
        let recording = include_bytes!("../../../../tests/traces/gotcha.jsonl");
        crate::recording::replay(&recording[..], |report| {
            reports.push(report);
            Ok(())
        })
        .expect("a replay");
        let report = reports.remove(0);
        Outcome {
            to: SocketAddr::from(report.proxy),
            name: Some("proxy.corp:3128".to_owned()),
            view: AppView {
                local: Some(SocketAddr::new(report.source.ip, report.source.port)),
                user: 1000,
                first_line: Some("HTTP/1.1 404 Not Found".to_owned()),
                status: Some(404),
                server: Some("envoy".to_owned()),
                after_us: Some(700),
                ..AppView::default()
            },
            prediction: Prediction {
                verdict: Some(report.verdict),
                reason: report.reason,
                status: Some(404),
                certain: false,
                caveats: vec![
                    "the listener has a filter envoy.filters.http.lua, which is not understood".to_owned(),
                ],
                explanation: Some(report.explanation.clone()),
                error: None,
            },
            report: Some(Box::new(report)),
        }
    }

    #[test]
    fn outcome_in_every_width() {
        for width in [80, 120, 200] {
            let text = outcome().text(Colors::Off, width, true);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
            insta::assert_snapshot!(format!("outcome_{width}"), text);
            let colored = outcome().text(Colors::On, width, true).replace('\u{1b}', "<ESC>");
            insta::assert_snapshot!(format!("outcome_{width}_in_color"), colored);
        }
        assert!(outcome().text(Colors::Off, 80, false).is_ascii());
    }
}
