//! Which lines a reader gets, and which gaps it is told of.

use super::*;
use crate::recording;
use tracer_core::report::Report;

/// A report of the recorded demo, with this port of the app.
fn report(port: u16) -> Report {
    let recording = include_bytes!("../../../../tests/traces/gotcha.jsonl");
    let mut reports = Vec::new();
    recording::replay(&recording[..], |report| {
        reports.push(report);
        Ok(())
    })
    .expect("a replay");
    let mut report = reports.remove(usize::from(port % 2));
    report.source.port = port;
    report
}

fn recent(reports: std::ops::Range<u16>, most: usize) -> Recent {
    let recent = Recent::bounded(most, 1 << 20);
    reports.for_each(|port| recent.push(Message::Report(Box::new(report(port)))));
    recent
}

/// What a reader gets without waiting: the ports of reports, and for a gap the negative number of lost lines.
fn read(reader: &mut Reader) -> Vec<i64> {
    let lines = reader.read_now();
    lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| match serde_json::from_slice(line).expect("JSON") {
            Message::Report(report) => i64::from(report.source.port),
            Message::Gap(gap) => -i64::try_from(gap.lost.count).expect("few"),
        })
        .collect()
}

fn query(text: &str) -> Query {
    Query::from_text(text).expect("a query")
}

#[test]
fn readers_get_what_they_asked_for() {
    for (text, expected) in [
        ("", vec![]),
        ("last=3", vec![7, 8, 9]),
        ("last=0", vec![]),
        ("last=99", (0..10).collect()),
        ("last=2&verdict=handled_as_http", vec![6, 8]),
        ("last=2&verdict=!handled_as_http", vec![7, 9]),
        ("since=2026-01-01T00:00:00Z&last=1", vec![9]),
        ("since=2099-01-01T00:00:00Z", vec![]),
        ("until=2099-01-01T00:00:00Z", (0..10).collect()),
        ("until=2099-01-01T00:00:00Z&last=1", vec![9]),
        ("until=2020-01-01T00:00:00Z", vec![]),
    ] {
        let recent = recent(0..10, 100);
        let mut reader = recent.reader(&query(text));
        assert_eq!(read(&mut reader), expected, "{text}");
        recent.push(Message::Report(Box::new(report(10))));
        // A reader of the past gets no new line.
        let now: &[i64] = if query(text).follows() { &[10] } else { &[] };
        assert_eq!(read(&mut reader), now, "{text}");
    }
}

#[test]
fn slow_reader_is_told_how_much_it_lost() {
    let recent = recent(0..3, 4);
    let (mut slow, mut fast) =
        (recent.reader(&query("last=9&follow")), recent.reader(&query("last=9&follow")));
    assert_eq!(read(&mut fast), [0, 1, 2]);
    for port in 3..20 {
        recent.push(Message::Report(Box::new(report(port))));
        assert_eq!(read(&mut fast), [i64::from(port)], "another's pace is not its own");
    }
    assert_eq!(read(&mut slow), [-16, 16, 17, 18, 19]);
    recent.push(Message::Gap(Gap::new(now(), LossSource::Kernel, "ring_full", 5)));
    assert_eq!(read(&mut slow), [-5]);
}

#[test]
fn kept_lines_are_bounded_in_number_and_bytes() {
    let recent = recent(0..50, 20);
    assert_eq!(recent.kept().0, 20);
    let one = recent.kept().1 / 20;
    let narrow = Recent::bounded(usize::MAX, one * 5);
    (0..50).for_each(|port| narrow.push(Message::Report(Box::new(report(port)))));
    assert!((3..8).contains(&narrow.kept().0) && narrow.kept().1 <= one * 5, "{:?}", narrow.kept());
    let mut reader = narrow.reader(&query("since=2026-01-01T00:00:00Z"));
    let told: i64 = read(&mut reader).len().try_into().expect("few");
    assert_eq!(told, i64::try_from(narrow.kept().0).expect("few"), "a history that is gone is no loss");
}

#[test]
fn reader_takes_many_lines_in_bounded_chunks() {
    let recent = recent(0..500, 1000);
    let mut reader = recent.reader(&query("last=500"));
    let longest = recent.kept().1 / 500 * 2;
    let (mut pieces, mut lines) = (0, 0);
    loop {
        let piece = reader.read_now();
        if piece.is_empty() {
            break;
        }
        assert!(piece.len() < CHUNK + longest, "{}", piece.len());
        (pieces, lines) = (pieces + 1, lines + piece.split(|&byte| byte == b'\n').count() - 1);
    }
    assert!(pieces > 1);
    assert_eq!(lines, 500);
}

#[test]
fn reader_waits_until_a_line_matches() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let recent = recent(0..2, 10);
        let mut reader = recent.reader(&query("verdict=handled_as_http"));
        let push = async {
            for port in [3, 5, 6, 7] {
                tokio::task::yield_now().await;
                recent.push(Message::Report(Box::new(report(port))));
            }
        };
        let (lines, ()) = tokio::join!(reader.read(), push);
        assert!(String::from_utf8_lossy(&lines.expect("a line")).contains("\"port\":6}"));
        assert_eq!(recent.readers(), 1);
        let mut past = recent.reader(&query("last=1"));
        assert!(past.read().await.is_some() && past.read().await.is_none());
        drop((reader, past));
        assert_eq!(recent.readers(), 0);
    });
}
