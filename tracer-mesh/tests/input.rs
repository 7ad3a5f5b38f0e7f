//! Bad dumps: cut off, hostile, deep. Each ends in one clear sentence, and nothing panics.
#![expect(clippy::disallowed_methods, reason = "the crate is pure, its tests read files")]

use tracer_mesh::{Dump, decide, explain, render};

const CONNECT: &[u8] = tracer_mesh::CURL_CONNECT;

fn case() -> String {
    let case = "/../tests/cases/c01_unrelated_http_service_same_port/config_dump.json";
    std::fs::read_to_string(format!("{}{case}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn error(text: &str) -> String {
    match Dump::load(text.to_owned())
        .and_then(|dump| decide(&dump, "10.0.0.1:3128".parse().unwrap(), CONNECT))
    {
        Ok(decision) => panic!("{decision:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn text_that_is_no_dump_is_an_error() {
    for (text, expected) in [
        ("", "not a config dump: EOF"),
        ("not json", "not a config dump: expected"),
        ("{\"configs\": [", "not a config dump: EOF"),
        ("{}", "holds no listener"),
        ("[]", "holds no listener"),
        ("null", "holds no listener"),
        ("{\"configs\": 7}", "holds no listener"),
        ("{\"configs\": [1, \"a\", null, {\"@type\": 4}]}", "holds no listener"),
        (
            "{\"configs\": [{\"@type\": \"x.ListenersConfigDump\", \"dynamic_listeners\": {\"a\": 1}}]}",
            "no listener for",
        ),
    ] {
        let found = error(text);
        assert!(found.contains(expected), "{text}: {found}");
        assert!(!found.contains('\n'), "{found}");
    }
    assert!(Dump::from_bytes(vec![b'{', 0xff]).unwrap_err().to_string().contains("from byte 1"));
}

#[test]
fn every_cut_of_a_dump_is_an_error_and_nothing_panics() {
    let text = case();
    for end in (0..text.len()).step_by(97) {
        assert!(Dump::load(text[..end].to_owned()).is_err(), "cut at {end}");
    }
}

#[test]
fn members_of_a_wrong_type_are_left_out() {
    // Each scalar in turn becomes another type; whatever is decided then, nothing panics.
    let text = case();
    let to = "10.0.0.1:3128".parse().unwrap();
    let mut tried = 0;
    for (at, _) in text.match_indices(": \"").step_by(3) {
        let Some(end) = text[at + 3..].find('"') else { continue };
        for value in ["7", "null", "[]", "{}", "true"] {
            let changed = format!("{}: {value}{}", &text[..at], &text[at + 3 + end + 1..]);
            if let Ok(dump) = Dump::load(changed) {
                let _ = explain(&dump, &[to], CONNECT);
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn depth_is_bounded() {
    let deep = "[".repeat(2_000_000);
    assert!(error(&deep).starts_with("not a config dump"));
    // Deep inside the listener that the decision needs: the parser's own limit, named with the place.
    let nest = format!("{}1{}", "[".repeat(400), "]".repeat(400));
    let text = case().replacen(
        "\"stat_prefix\": \"outbound_0.0.0.0_3128;\"",
        &format!("\"stat_prefix\": {nest}"),
        1,
    );
    let found = error(&text);
    assert!(found.contains("listener 0.0.0.0_3128") && found.contains("recursion limit"), "{found}");
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let text = case().replace("web.shop.svc.cluster.local", "web\\u001b[31m.shop.svc.\\u202ex");
    let dump = Dump::load(text).unwrap();
    let explanations = explain(&dump, &["10.0.0.1:3128".parse().unwrap()], CONNECT).unwrap();
    assert!(!explanations[0].origins.is_empty());
    let manifests = explanations[0].fixes.iter().map(|fix| render::escape_lines(&fix.manifest));
    for out in manifests.chain([render::text(&explanations, dump.unreadable)]) {
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out}");
    }
}
