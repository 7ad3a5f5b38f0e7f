//! The manifests that `explain` prints, judged by Istio's own validation, which is what the API server's webhook runs: external
//! addresses, one and several, both families, ports with a meaning of their own, and every small configuration of
//! `tests/faults`. Names of different objects differ, so that none replaces another.

// One module for all, so that `cargo xtask test --without mesh` can leave it out by its name.
mod real_mesh {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use lab::cached_mesh;
    use serde_json::Value;
    use tracer_mesh::{CURL_CONNECT, Dump, Fix, explain};

    /// A manifest, and the situation that it is for.
    struct Printed {
        situation: String,
        fix: Fix,
    }

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn fixes(situation: &str, dump: String, to: &[SocketAddr]) -> Vec<Printed> {
        let explanations = explain(&Dump::load(dump).unwrap(), to, CURL_CONNECT).unwrap();
        let fixes = explanations.into_iter().next().map(|first| first.fixes).unwrap_or_default();
        fixes.into_iter().map(|fix| Printed { situation: situation.to_owned(), fix }).collect()
    }

    /// The proxy's addresses, of one family each, as an app dials them.
    const ADDRESSES: [&[&str]; 5] = [
        &["10.0.0.1"],
        &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        &["[fd00::1]"],
        &["[fd00::1]", "[2001:db8::2]"],
        &["192.168.255.254"],
    ];

    fn all() -> Vec<Printed> {
        let mut all = Vec::new();
        for case in ["c01_unrelated_http_service_same_port", "c08_registry_only_no_listener"] {
            let text = std::fs::read_to_string(folder("cases").join(case).join("config_dump.json")).unwrap();
            for port in ["80", "443", "8080", "3128"] {
                for addresses in ADDRESSES {
                    let mut dump = text.replace("3128", port);
                    if addresses[0].starts_with('[') {
                        dump = dump.replace("\"0.0.0.0\"", "\"::\"");
                    }
                    let to: Vec<SocketAddr> = addresses
                        .iter()
                        .map(|address| format!("{address}:{port}").parse().unwrap())
                        .collect();
                    all.extend(fixes(&format!("{case} {to:?}"), dump, &to));
                }
            }
        }
        let mut folders: Vec<PathBuf> = std::fs::read_dir(folder("faults"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        for case in folders {
            let expected: Value =
                serde_json::from_str(&std::fs::read_to_string(case.join("expected.json")).unwrap()).unwrap();
            let to = expected["to"].as_str().unwrap().parse().unwrap();
            let dump = std::fs::read_to_string(case.join("config_dump.json")).unwrap();
            all.extend(fixes(&case.file_name().unwrap().to_string_lossy(), dump, &[to]));
        }
        all
    }

    #[test]
    fn every_printed_object_passes_the_validation_of_istio_and_none_has_the_name_of_another() {
        let all = all();
        let objects: Vec<(&Printed, Value)> = all
            .iter()
            .map(|printed| (printed, serde_saphyr::from_str::<Value>(&printed.fix.manifest).unwrap()))
            .filter(|(_, object)| object["kind"].is_string())
            .collect();
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        // A Service is patched; it is there already.
        for (printed, object) in objects.iter().filter(|(_, object)| object["kind"] != "Service") {
            let name = format!(
                "{} {}/{}",
                object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
            );
            let known = names.entry(name.clone()).or_insert(&printed.fix.manifest);
            assert_eq!(*known, printed.fix.manifest, "two objects are {name} ({})", printed.situation);
        }
        let situations = objects.iter().map(|(printed, _)| &printed.situation);
        let situations: std::collections::BTreeSet<&String> = situations.collect();
        assert!(situations.len() >= 60, "{} situations only", situations.len());

        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        let documents: Vec<&str> = objects.iter().map(|(printed, _)| printed.fix.manifest.as_str()).collect();
        std::fs::write(file.path(), documents.join("---\n")).unwrap();
        let istioctl = cached_mesh().join("istioctl");
        let output = Command::new(istioctl).arg("validate").arg("-f").arg(file.path()).output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{} objects of {} situations", objects.len(), situations.len());
    }
}
