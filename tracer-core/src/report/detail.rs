//! The lines under a flagged report: the explanation, the diagram, the object at fault, the beginning of the fix and the
//! command that prints all of it. Every line is safe for a terminal.

use super::{Report, diagram::diagram};
use crate::escape::escape_to_ascii as plain;

/// How many lines of a manifest are shown under a report.
pub const MANIFEST_LINES: usize = 6;

impl Report {
    /// The lines without indentation, with at most `manifest_lines` of the manifest.
    pub fn detail(&self, manifest_lines: usize) -> Vec<String> {
        let mut lines = vec![format!("{}.", plain(&self.explanation)), diagram(self)];
        if let Some(listener) = &self.listener {
            let name = plain(&listener.name);
            lines.push(match &listener.because {
                Some(because) => format!("at fault: {}, which makes listener {name}", plain(because)),
                None => format!("at fault: listener {name}; the configuration does not say what makes it"),
            });
        }
        let Some(fix) = &self.fix else { return lines };
        let Some((title, command)) = fix.split_once(COMMAND) else {
            lines.extend(self.without_fix(fix));
            return lines;
        };
        lines.push(format!("fix: {}", plain(title)));
        let manifest: Vec<&str> = self.manifest.iter().flat_map(|manifest| manifest.lines()).collect();
        lines.extend(manifest.iter().take(manifest_lines).map(|line| format!("  {}", plain(line))));
        if let Some(more) = manifest.len().checked_sub(manifest_lines).filter(|&more| more > 0) {
            lines.push(format!("  … {more} more lines"));
        }
        lines.push(format!("{WHOLE}{}{}", &COMMAND[2..], plain(command)));
        lines
    }

    /// Why there is no fix, and what to do. `page` explains the verdict.
    fn without_fix(&self, page: &str) -> Vec<String> {
        let sidecar = self.interceptor.as_ref().and_then(|interceptor| interceptor.pid);
        match (&self.configuration, sidecar.or(self.source.pid)) {
            (None, Some(pid)) => vec![
                "fix: not known, as the sidecar's configuration was not read".to_owned(),
                format!("{ASK}egress-tracer explain --pid {pid} --to {}", self.proxy_address()),
            ],
            _ => vec![format!("fix: none is known; {} says what to look at", plain(page))],
        }
    }
}

/// Before the command that prints a whole fix, and before the one that asks for it.
pub(super) const WHOLE: &str = "whole: ";
pub(super) const ASK: &str = "ask for it: ";

/// Between a fix's title and the rest of the command that prints it.
const COMMAND: &str = ": egress-tracer explain ";
