//! The explanation as text for people: the steps of the decision, the objects behind it, and the fixes. Every line is
//! escaped here.

use std::fmt::Write;

use crate::decision::{ConnectionOutcome, Late};
use crate::{Explanation, Fix};
use tracer_core::escape::escape;
use tracer_core::verdict::{Reason, Verdict};

/// How many objects at fault are listed for each address.
const SHOWN: usize = 5;

/// The text for all addresses of one proxy; `unreadable` is how many of the dump's entries could not be read.
pub fn text(explanations: &[Explanation], unreadable: usize) -> String {
    let mut text = String::new();
    for explanation in explanations {
        one(&mut text, explanation);
    }
    let all_well = explanations.iter().all(|explanation| !explanation.decision.is_fault());
    let fixes = explanations.first().map_or(&[][..], |first| &first.fixes);
    if fixes.is_empty() && !all_well {
        let why = explanations.iter().find_map(|explanation| explanation.no_fix_because);
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        line(&mut text, 0, &format!("Fix: none that could be proven on this dump{why}."));
        text.push('\n');
    }
    for (index, fix) in fixes.iter().enumerate() {
        one_fix(&mut text, index, fixes.len(), fix);
    }
    if unreadable > 0 {
        line(&mut text, 0, &format!("{unreadable} entries of the dump could not be read and were left out."));
    }
    text
}

fn one(text: &mut String, explanation: &Explanation) {
    let decision = &explanation.decision;
    let mut title = explanation.to.to_string();
    for word in [decision.verdict.map(Verdict::name), decision.reason.map(Reason::name)].into_iter().flatten()
    {
        let _ = write!(title, "  {word}");
    }
    if let Some(status) = decision.status {
        let _ = write!(title, "  {status}");
    }
    if let Some(details) =
        decision.details.as_deref().filter(|details| decision.reason.map(Reason::name) != Some(*details))
    {
        let _ = write!(title, "  {details}");
    }
    if let Some(code) = explanation.code {
        let _ = write!(title, "  {code}");
    }
    line(text, 0, &title);
    text.push('\n');
    for (number, step) in decision.steps.iter().enumerate() {
        line(text, 1, &format!("{}. {step}", number + 1));
    }
    text.push('\n');
    line(text, 0, &explanation.explanation);
    for origin in explanation.origins.iter().take(SHOWN) {
        let port = origin.port.map(|port| format!(" port {port}")).unwrap_or_default();
        let host = match (&origin.name, &origin.host) {
            (Some(_), Some(host)) => format!(" ({host})"),
            _ => String::new(),
        };
        line(text, 0, &format!("At fault: {}{port}{host}", origin.label()));
    }
    let shown = explanation.origins.len().min(SHOWN);
    if explanation.origins_total > shown {
        line(text, 0, &format!("          and {} more", explanation.origins_total - shown));
    }
    if let Some(late) = &decision.late {
        line(text, 0, &self::late(late));
    }
    for note in &decision.notes {
        line(text, 0, &format!("Note: {note}."));
    }
    if decision.certain {
        line(text, 0, "Everything on the way of the connection is understood: this answer is certain.");
    } else {
        line(text, 0, "This answer is not certain:");
        for caveat in &decision.caveats {
            line(text, 1, &format!("{caveat}."));
        }
        for filter in &decision.early_filters {
            line(text, 1, &format!("HTTP filter {filter} may answer first."));
        }
    }
    text.push('\n');
}

/// What becomes of a client that is slow to send.
pub fn late(late: &Late) -> String {
    let becomes = match (late.outcome, late.status) {
        (ConnectionOutcome::LocalReply, Some(status)) => format!("is answered {status} by Envoy itself"),
        (ConnectionOutcome::Tunnel, _) => "is passed on as TCP".to_owned(),
        (ConnectionOutcome::Elsewhere, _) => "is passed on as TCP to another address".to_owned(),
        (ConnectionOutcome::Close, _) => "is closed without a byte".to_owned(),
        _ => "is treated in another way".to_owned(),
    };
    format!(
        "Mind the time: this is for a client that sends within {} (protocolDetectionTimeout); one that sends later {becomes}.",
        late.after
    )
}

fn one_fix(text: &mut String, index: usize, all: usize, fix: &Fix) {
    let rank = if all == 1 { "Fix".to_owned() } else { format!("Fix {}", index + 1) };
    line(text, 0, &format!("{rank}: {}", fix.title));
    line(text, 1, &fix.proof);
    line(text, 1, &format!("Risk: {}.", fix.risk));
    line(text, 1, &format!("Mind: {}", fix.trade_off));
    line(text, 1, &format!("{}:", fix.apply));
    for row in fix.manifest.lines() {
        line(text, 2, row);
    }
    text.push('\n');
}

fn line(text: &mut String, depth: usize, content: &str) {
    for _ in 0..depth {
        text.push_str("  ");
    }
    text.push_str(&escape(content));
    text.push('\n');
}

/// A fix's manifest under a comment that says what it does, how it is applied and what it rests on.
pub fn manifest(fix: &Fix) -> String {
    let mut text = String::new();
    let mut comment = |label: &str, content: &str| {
        let _ = writeln!(text, "# {label}{}", escape(content));
    };
    comment("", &fix.title);
    fix.about.iter().for_each(|about| comment("", about));
    comment("Apply, saved as fix.yaml: ", &fix.apply);
    comment("", &fix.proof);
    comment("Risk: ", fix.risk);
    comment("", &fix.trade_off);
    text + &escape_lines(&fix.manifest)
}

/// Escapes text line by line.
pub fn escape_lines(text: &str) -> String {
    text.lines().fold(String::with_capacity(text.len()), |mut escaped, row| {
        escaped.push_str(&escape(row));
        escaped.push('\n');
        escaped
    })
}
