//! Generates `docs/metrics.md` from the catalogue.

use std::fmt::Write as _;

use tracer_ebpf::record::Loss;

use super::catalogue::{
    ALL, AUTHORITY, LOST, Label, MALFORMED, MetricFamily, MetricKind, POD, PREFIX, REPLY_BUCKETS,
};

const HEAD: &str = "\
# Metrics

<!-- Generated from tracer/src/metrics/catalogue.rs by `UPDATE=1 cargo test -p tracer metrics`. -->

`egress-tracer agent` serves these metrics on port 9475 at `/metrics` (`--metrics-address` changes the address; `observe`
serves them only with that option), in Prometheus' text format or OpenMetrics 1.0.0, as the scraper prefers. It also serves
the seven `process_*` metrics that every exporter has.

A label whose values come from the wire or the cluster has a bound in each namespace, and a metric has one as a whole, of
which each namespace has a fair share: what one does costs no other its labels. A value beyond the bound is counted under
`~other`, and `egress_tracer_folded_sessions_total` counts how often. A series that does not change for an hour is dropped; so
is the oldest one of the namespace with the most, where one with less than its share needs room, and, a minute after its end
(`--remember-pods`), that of a deleted pod where pods are a label (`egress_tracer_expired_series_total` counts all three).
`--metrics-label authority` and `--metrics-label pod` add the target's host and the pod as labels. The bound of a metric stays
the same with them; more is folded.

Each session table holds 65,536 entries by default (`--capacity`). If `egress_tracer_sessions_dropped_total` rises, the node
has more concurrent connections to proxies than that.

";

/// The page.
pub(super) fn page() -> String {
    let mut page = HEAD.to_owned();
    let total: usize = ALL.iter().map(|family| family.most_series()).sum();
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "A node has at most **{total}** series of these metrics, and 7 of `process_*`; a usual node has about 100.\n"
    );
    page.push_str("| metric | type | what it counts | most series |\n|---|---|---|---:|\n");
    for family in ALL {
        let MetricFamily { name, help, .. } = family;
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

fn section(family: &MetricFamily, page: &mut String) {
    let _ = writeln!(page, "\n## {PREFIX}_{}\n\n{}.\n", family.name, family.help);
    page.push_str("| label | holds | most values |\n|---|---|---:|\n");
    let optional: &[Label] =
        if family.name == super::catalogue::SESSIONS.name { &[POD, AUTHORITY] } else { &[] };
    for Label { name, bound, what } in family.labels.iter().chain(optional) {
        let _ = writeln!(page, "| `{name}` | {what} | {bound} |");
    }
    let most = family.most_series();
    if let Some(combinations) = family.combinations {
        let _ = writeln!(page, "\nAt most {combinations} combinations of label values: {most} series.");
    } else if family.kind == MetricKind::Histogram {
        let bounds: Vec<String> = REPLY_BUCKETS.iter().map(ToString::to_string).collect();
        let _ = writeln!(page, "\nBuckets: {}. At most {most} series.", bounds.join(", "));
    }
    if family.name == LOST.name {
        losses(page);
    }
}

/// Every reason of a lost record.
fn losses(page: &mut String) {
    page.push_str("\n| reason | source | what happened |\n|---|---|---|\n");
    let kernel = Loss::ALL.map(|(loss, reason)| (reason, "kernel", what_happened(loss)));
    let malformed = (MALFORMED, "userspace", "the record came from another version of the kernel programs");
    for (reason, source, what) in kernel.into_iter().chain([malformed]) {
        let _ = writeln!(page, "| `{reason}` | {source} | {what} |");
    }
}

fn what_happened(loss: Loss) -> &'static str {
    match loss {
        Loss::RingFull => "the ring was full: the agent read more slowly than the kernel wrote",
        Loss::PayloadUnreadable => "the first bytes of a flow could not be read",
        Loss::MapFull => "a kernel map was full",
        Loss::PayloadInKernel => {
            "the first bytes of a flow were in kernel memory (`sendfile`, `splice`, a socket of the kernel), which the \
             fentry and kprobe families cannot read"
        }
        Loss::Throttled => {
            "the processes of a cgroup made more records than it may write (`--record-rate`); no other cgroup lost any"
        }
    }
}

fn kind(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
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
