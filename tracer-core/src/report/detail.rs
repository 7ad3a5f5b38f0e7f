//! What stands under a flagged line: the sentence, the way of the request, whose object is at fault, how the fix begins,
//! and the command that prints it whole. One thing a line, every line safe for a terminal.

use super::{Report, diagram::diagram, text::plain};

/// So many lines of a manifest are shown under a line.
pub const BEGINNING: usize = 6;

impl Report {
    /// The lines, without indentation; of the manifest at most so many.
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
            lines.push(format!("fix: {}", plain(fix)));
            return lines;
        };
        lines.push(format!("fix: {}", plain(title)));
        let manifest: Vec<&str> = self.manifest.iter().flat_map(|manifest| manifest.lines()).collect();
        lines.extend(manifest.iter().take(manifest_lines).map(|line| format!("  {}", plain(line))));
        if let Some(more) = manifest.len().checked_sub(manifest_lines).filter(|&more| more > 0) {
            lines.push(format!("  … {more} more lines"));
        }
        lines.push(format!("whole: {}{}", &COMMAND[2..], plain(command)));
        lines
    }
}

/// What a fix's title and the command that prints it have between them.
const COMMAND: &str = ": egress-tracer explain ";
