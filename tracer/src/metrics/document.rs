//! Writes `docs/metrics.md` from the catalogue. It knows no values.

use std::fmt::Write as _;

use super::catalogue::{ALL, AUTHORITY, Family, Kind, Label, POD, PREFIX, REPLY_BUCKETS};

const HEAD: &str = "\
# Metrics

<!-- Made from tracer/src/metrics/catalogue.rs; `UPDATE=1 cargo test -p tracer metrics` writes it anew. -->

`egress-tracer agent` serves them on port 9475 at `/metrics` (`--metrics-address` says where else; `observe` serves them
only with that), in Prometheus' text form and in OpenMetrics 1.0.0, whichever the scraper prefers. Beside these are the
seven `process_*` metrics that every exporter has.

A label whose values come from the wire or the cluster is bounded, and so is each metric as a whole: what has no room is
counted under `~other`, and `egress_tracer_folded_sessions_total` counts how often. A series in which nothing was counted for
an hour is dropped, which gives its room back, and so are, a minute later (`--remember-pods`), the series of a deleted pod
where pods are a label (`egress_tracer_expired_series_total`). The host asked for and the pod are no labels unless asked for with
`--metrics-label authority` and `--metrics-label pod`; the worst case stays the same with them, only more is folded.

";

/// The page.
pub(super) fn page() -> String {
    let mut page = HEAD.to_owned();
    let total: usize = ALL.iter().map(|family| family.most_series()).sum();
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "A node has at most **{total}** series of all these together, and 7 of `process_*`; a usual one has about 100.\n"
    );
    page.push_str("| metric | type | what it counts | most series |\n|---|---|---|---:|\n");
    for family in ALL {
        let Family { name, help, .. } = family;
        let (kind, most) = (kind(family.kind), family.most_series());
        let name = if family.labels.is_empty() {
            format!("`{PREFIX}_{name}`")
        } else {
            format!("[`{PREFIX}_{name}`](#{PREFIX}_{name})")
        };
        let _ = writeln!(page, "| {name} | {kind} | {help} | {most} |");
    }
    for family in ALL.iter().filter(|family| !family.labels.is_empty()) {
        section(family, &mut page);
    }
    page
}

fn section(family: &Family, page: &mut String) {
    let _ = writeln!(page, "\n## {PREFIX}_{}\n\n{}.\n", family.name, family.help);
    page.push_str("| label | holds | most values |\n|---|---|---:|\n");
    let optional: &[Label] =
        if family.name == super::catalogue::SESSIONS.name { &[POD, AUTHORITY] } else { &[] };
    for Label { name, bound, what } in family.labels.iter().chain(optional) {
        let _ = writeln!(page, "| `{name}` | {what} | {bound} |");
    }
    let most = family.most_series();
    if let Some(combinations) = family.combinations {
        let _ = writeln!(
            page,
            "\nAt most {combinations} combinations, whatever the labels could be: {most} series."
        );
    } else if family.kind == Kind::Histogram {
        let bounds: Vec<String> = REPLY_BUCKETS.iter().map(ToString::to_string).collect();
        let _ = writeln!(page, "\nBuckets: {}. At most {most} series.", bounds.join(", "));
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_page_is_the_one_in_docs() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, super::page()).expect("written");
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == super::page(), "docs/metrics.md is stale: UPDATE=1 cargo test -p tracer metrics");
    }
}
