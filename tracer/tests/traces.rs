//! Recordings of real traffic, replayed: `tests/traces/NAME.jsonl` must give `NAME.reports.jsonl`. `UPDATE=1`
//! rewrites the latter.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

fn recordings() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".jsonl") && !name.ends_with(".reports.jsonl")
    });
    paths.sort();
    paths
}

fn replay(recording: &Path) -> String {
    let from = BufReader::new(File::open(recording).expect("a recording"));
    let mut reports = String::new();
    let result = tracer::recording::replay(from, |report| {
        reports.push_str(&report.to_json());
        reports.push('\n');
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{}: {error:#}", recording.display()));
    reports
}

#[test]
fn recordings_give_their_reports() {
    let recordings = recordings();
    assert!(!recordings.is_empty(), "there are no recordings");
    for recording in recordings {
        let reports = replay(&recording);
        let expected = recording.with_extension("reports.jsonl");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &reports).expect("written");
        }
        let expected = fs::read_to_string(&expected).expect("its reports");
        assert_eq!(reports, expected, "{}", recording.display());
    }
}

#[test]
fn a_recording_that_is_none_is_refused_in_a_sentence() {
    for (text, says) in [("", "empty"), ("{}\n", "no recording"), ("not json\n", "no recording")] {
        let error = tracer::recording::replay(text.as_bytes(), |_| Ok(())).expect_err("refused");
        assert!(format!("{error:#}").contains(says), "{text:?}: {error:#}");
    }
    let good = fs::read_to_string(recordings().first().expect("a recording")).expect("read");
    let newer = good.replacen("\"egress_tracer_recording\":1", "\"egress_tracer_recording\":2", 1);
    let error = tracer::recording::replay(newer.as_bytes(), |_| Ok(())).expect_err("refused");
    assert!(error.to_string().contains("version 2"), "{error:#}");
    let broken = good.replacen("\"role\":\"app\"", "\"role\":\"nobody\"", 1);
    let error = tracer::recording::replay(broken.as_bytes(), |_| Ok(())).expect_err("refused");
    assert!(error.to_string().starts_with("line "), "{error:#}");
}
