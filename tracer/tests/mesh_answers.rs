//! What the command `explain` prints for the cases.

use std::path::PathBuf;

use clap::Parser as _;
use tracer::explain::{Args, print};

fn dump_of(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(case).join("config_dump.json")
}

/// The command's arguments, parsed as the command line is.
#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn printed(case: &str, to: &[&str], more: &[&str]) -> String {
    let dump = dump_of(case).display().to_string();
    let to = to.iter().flat_map(|to| ["--to", to]);
    let words = ["explain", "--config-dump", &dump].into_iter().chain(to).chain(more.iter().copied());
    let mut out = Vec::new();
    print(&Cli::parse_from(words).args, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn json_of_an_unrelated_service() {
    let text = printed("c01_unrelated_http_service_same_port", &["10.0.0.1:3128"], &["-o", "json"]);
    let mut answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let age = answer["subject"]["config_age_s"].take();
    assert!(age.as_u64().is_some_and(|age| age > 0), "{age}");
    insta::assert_snapshot!(answer.to_string());
}

#[test]
fn the_manifest_alone_names_all_addresses() {
    let to = ["10.0.0.1:3128", "10.0.0.2:3128", "[fd00::3]:3128"];
    let text = printed("c08_registry_only_no_listener", &to[..2], &["-o", "yaml"]);
    insta::assert_snapshot!(without_age(&text));
}

#[test]
fn the_text_fits_its_columns_with_the_conclusion_first() {
    let to = ["10.0.0.1:3128", "10.0.0.2:3128"];
    let text = printed("c01_unrelated_http_service_same_port", &to, &[]);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    insta::assert_snapshot!(without_age(&text));
}

#[test]
fn steps_proofs_and_manifests_come_with_verbose() {
    let text = printed("c08_registry_only_no_listener", &["10.0.0.1:3128"], &["-v", "--http", "1.0"]);
    insta::assert_snapshot!(without_age(&text));
}

#[test]
fn one_fix_is_printed_alone() {
    let to = ["10.0.0.1:3128"];
    insta::assert_snapshot!(printed("c01_unrelated_http_service_same_port", &to, &["--fix", "2"]));
    let yaml = printed("c01_unrelated_http_service_same_port", &to, &["--fix", "2", "-o", "yaml"]);
    assert!(yaml.starts_with("# Service shop/web") && yaml.contains("\n# For: 10.0.0.1:3128\n"), "{yaml}");
}

/// The text without what depends on today's date.
fn without_age(text: &str) -> String {
    let flat = text.split_inclusive('\n').map(|line| match line.split_once(", configuration ") {
        Some((before, _)) => format!("{before}, configuration of some age\n"),
        None => line.to_owned(),
    });
    flat.collect()
}

/// What becomes of the connection with a candidate laid over the case.
fn tried(case: &str, to: &str, candidate: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("candidate.yaml");
    std::fs::write(&file, candidate).unwrap();
    let file = file.display().to_string();
    let answer: serde_json::Value =
        serde_json::from_str(&printed(case, &[to], &["-o", "json", "--try", &file])).unwrap();
    answer["tried"].clone()
}

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: proxy, namespace: NAMESPACE}
spec:
  hosts: [proxy.external]
  addresses: [ADDRESS]
  ports: [{number: 3128, name: tcp, protocol: PROTOCOL}]
  resolution: NONE
";

#[test]
fn candidate_entries_are_laid_over_the_dump() {
    let entry = |address: &str, protocol: &str| {
        let entry = ENTRY.replace("NAMESPACE", "default").replace("ADDRESS", address);
        tried("c01_unrelated_http_service_same_port", "10.0.0.1:3128", &entry.replace("PROTOCOL", protocol))
    };
    let heals = entry("10.0.0.1", "TCP");
    assert!(heals["reaches_proxy"] == true && heals["certain"] == true, "{heals}");
    // An address that the app does not dial, and a second HTTP declaration of the port.
    for other in [entry("10.0.0.2", "TCP"), entry("10.0.0.1", "HTTP")] {
        assert!(other["reaches_proxy"] == false && other["verdict"] == "handled_as_http", "{other}");
        assert_eq!(other["candidate_notes"].as_array().unwrap().len(), 1, "{other}");
    }
    // Without addresses beside the Service's listener for all of them.
    let without = tried(
        "c01_unrelated_http_service_same_port",
        "10.0.0.1:3128",
        &ENTRY
            .replace("NAMESPACE", "default")
            .replace("  addresses: [ADDRESS]\n", "")
            .replace("PROTOCOL", "TCP"),
    );
    assert!(without["reaches_proxy"] == false && without["certain"] == false, "{without}");
}

#[test]
fn every_printed_fix_heals_when_it_is_tried() {
    for (case, to) in [
        ("c01_unrelated_http_service_same_port", "10.0.0.1:3128"),
        ("c06_auto_sniffed_service", "10.96.0.50:3128"),
        ("c08_registry_only_no_listener", "10.0.0.1:3128"),
        ("c12_connect_terminated", "10.0.0.1:3128"),
    ] {
        let answer: serde_json::Value = serde_json::from_str(&printed(case, &[to], &["-o", "json"])).unwrap();
        let fixes = answer["fixes"].as_array().unwrap();
        assert!(!fixes.is_empty(), "{case}");
        for fix in fixes {
            let tried = tried(case, to, fix["manifest"].as_str().unwrap());
            assert_eq!(tried["reaches_proxy"], true, "{case}: {fix} {tried}");
        }
    }
}

#[test]
fn candidate_that_cannot_be_laid_over_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("candidate.yaml");
    let dump = dump_of("c01_unrelated_http_service_same_port").display().to_string();
    for (candidate, words) in [
        ("apiVersion: v1\nkind: EnvoyFilter\nmetadata: {name: a}\n", "kind EnvoyFilter cannot be tried"),
        ("spec:\n  addresses: [10.0.0.1]\n", "names no `kind`"),
        ("", "it holds no object"),
        ("hello", "it holds no object"),
    ] {
        std::fs::write(&file, candidate).unwrap();
        let file = file.display().to_string();
        let words_of = ["explain", "--config-dump", &dump, "--to", "10.0.0.1:3128", "--try", &file];
        let error = print(&Cli::parse_from(words_of).args, &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{candidate:?}: {error:#}");
    }
}

#[test]
fn namespace_of_the_fix_is_given_where_the_dump_does_not_name_it() {
    let text = std::fs::read_to_string(dump_of("c01_unrelated_http_service_same_port")).unwrap();
    let mut dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    let configs = dump["configs"].as_array_mut().unwrap();
    configs.retain(|part| !part["@type"].as_str().unwrap_or_default().ends_with("BootstrapConfigDump"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump.to_string()).unwrap();
    let file = file.path().display().to_string();
    let words = ["explain", "--config-dump", &file, "--to", "10.0.0.1:3128", "-o", "yaml"];
    let printed = |more: &[&str]| {
        let mut out = Vec::new();
        print(&Cli::parse_from(words.iter().chain(more)).args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert!(!printed(&[]).contains("namespace: bank"));
    assert!(printed(&["-n", "bank"]).contains("  namespace: bank\n"), "{}", printed(&["-n", "bank"]));
}
