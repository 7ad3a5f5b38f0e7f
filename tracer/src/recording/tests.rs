//! Recordings and reports that are whole, packed, cut short, or something else.

use std::io::Write as _;

use super::*;

const RECORDING: &[u8] = include_bytes!("../../../tests/traces/gotcha.jsonl");

fn played(from: &[u8]) -> anyhow::Result<(Vec<Message>, End)> {
    let mut messages = Vec::new();
    let end = read_messages(from, |message| {
        messages.push(message);
        Ok(())
    })?;
    Ok((messages, end))
}

fn json_lines(messages: &[Message]) -> Vec<u8> {
    let mut lines = Vec::new();
    for message in messages {
        message.write_line(&mut lines);
    }
    lines
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("written");
    packed.finish().expect("packed")
}

#[test]
fn recording_and_its_reports_are_read_plain_and_packed() {
    let (messages, end) = played(RECORDING).expect("a replay");
    assert!(messages.len() > 1 && end == End::Whole);
    let reports = json_lines(&messages);
    for input in [packed(RECORDING), reports.clone(), packed(&reports)] {
        assert_eq!(played(&input).expect("a replay"), (messages.clone(), End::Whole));
    }
}

#[test]
fn input_that_is_cut_short_is_shown_as_far_as_it_goes() {
    let lines: Vec<&[u8]> = RECORDING.split_inclusive(|byte| *byte == b'\n').collect();
    let (all, _) = played(RECORDING).expect("a replay");
    let reports = json_lines(&all);
    // In the middle of a line, at its end (then nothing tells), and within gzip data.
    let before: usize = lines[..lines.len() - 1].iter().map(|line| line.len()).sum();
    let whole = u64::try_from(lines.len() - 1).expect("few");
    let (some, end) = played(&RECORDING[..before + 20]).expect("a replay");
    assert_eq!(end, End::CutShort { line: whole });
    assert_eq!(played(&RECORDING[..before]).expect("a replay"), (some, End::Whole));
    let first = reports.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let (some, end) = played(&reports[..first + 30]).expect("a replay");
    assert_eq!((some.as_slice(), end), (&all[..1], End::CutShort { line: 1 }));
    let gzip = packed(RECORDING);
    let (_, end) = played(&gzip[..gzip.len() - 9]).expect("a replay");
    assert!(matches!(end, End::CutShort { .. }), "{end:?}");
}

#[test]
fn input_of_another_kind_is_named() {
    for (input, words) in [
        (&b""[..], "it is empty"),
        (b"\x1b[31mred\n", "it begins with `\\u{1b}[31mred`"),
        (b"{\n \"configs\": []}\n", "explain --config-dump"),
        (b"{\"configs\": [{}]}", "explain --config-dump"),
        (b"apiVersion: v1\n", "no recording of egress-tracer"),
        (b"{\"v\": 1}\n", "no recording of egress-tracer"),
    ] {
        let error = format!("{:#}", played(input).expect_err("no replay"));
        assert!(error.contains(words) && !error.contains('\u{1b}'), "{error}");
    }
    let mut damaged = RECORDING.to_vec();
    let second = damaged.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    damaged[second] = b'X';
    let error = format!("{:#}", played(&damaged).expect_err("no replay"));
    assert!(error.starts_with("line 2 is not an input of the engine"), "{error}");
}
