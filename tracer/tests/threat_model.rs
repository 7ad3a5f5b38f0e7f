//! Each line of `docs/threat-model.md` names the test that holds it, and that test exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn tests_that_the_threat_model_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/threat-model.md")).expect("the page");
    let files: Vec<PathBuf> =
        ["tracer-core", "tracer", "tests"].iter().flat_map(|dir| sources(&root.join(dir))).collect();
    let names: Vec<(&str, &str)> = page.split('`').filter_map(|word| word.split_once("::")).collect();
    let names: Vec<_> = names
        .into_iter()
        .filter(|(file, _)| file.rsplit_once('.').is_some_and(|(_, extension)| extension == "rs"))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for (file, test) in names {
        let declaration = format!("fn {test}(");
        let is_there = files
            .iter()
            .filter(|path| path.ends_with(file))
            .any(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(&declaration)));
        assert!(is_there, "{file} has no test {test}");
    }
}
