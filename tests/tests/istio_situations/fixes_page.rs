//! `docs/fixes.md`: what came of every printed fix, as a table that a run of the situations writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fixes::Tried;

/// The fixes of the situations: the verdict that is right, what was tried, and why there is no fix.
pub type Rows = BTreeMap<String, Row>;

/// One situation.
#[derive(Debug, Clone)]
pub struct Row {
    /// What the measured reality means.
    pub right: String,
    /// Each printed fix, best first.
    pub tried: Vec<Tried>,
    /// What `explain` says where it prints none.
    pub none_because: Option<String>,
}

const HEAD: &str = "# Fixes, applied for real

Generated: `UPDATE_MISMATCHES=1 cargo test -p tests --test istio_situations` writes this page, and the same test fails when it is
stale. The situations are those of `tests/tests/istio_situations`: objects at a real Kubernetes API, a real istiod, and a real
sidecar in the app's pod.

In each situation whose CONNECT is flagged, or for which `explain` prints a fix, each fix is applied by the printed command, best
first, and undone before the next. A fix **works** if the API server and istiod's webhook accept it, the same request then gets
the proxy's own answer, every other server of the port answers the app as before, and no object changes that the command does not
name. For a pod annotation, the app's pod is started anew.

";

/// The page.
pub fn page(rows: &Rows) -> String {
    let mut text = HEAD.to_owned();
    let tried: Vec<&Tried> = rows.values().flat_map(|row| &row.tried).collect();
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for one in &tried {
        let counts = kinds.entry(one.fix.split(' ').next().unwrap_or_default()).or_default();
        counts.0 += 1;
        counts.1 += usize::from(one.fault.is_none());
    }
    text += "| fix | printed | works |\n|---|---|---|\n";
    for (kind, (printed, works)) in &kinds {
        let _ = writeln!(text, "| {kind} | {printed} | {works} |");
    }
    let works = tried.iter().filter(|one| one.fault.is_none()).count();
    let _ = writeln!(text, "| all | {} | {works} |\n", tried.len());
    text += "| situation | verdict | fixes, best first |\n|---|---|---|\n";
    for (situation, row) in rows {
        let cells: Vec<String> = row
            .tried
            .iter()
            .map(|one| {
                format!("{}: {}", one.fix, one.fault.as_deref().unwrap_or("works").replace('|', "\\|"))
            })
            .collect();
        let cell = match (cells.is_empty(), &row.none_because) {
            (false, _) => cells.join("<br>"),
            (true, Some(because)) => format!("none: {because}"),
            (true, None) => "none".to_owned(),
        };
        let _ = writeln!(text, "| {situation} | {} | {cell} |", row.right);
    }
    text
}
