//! Layering rules that neither Cargo nor clippy holds: within a crate, a module uses only modules above it, and files
//! stay small and say what they are. Cargo holds the order of the crates; `tracer-core/clippy.toml` and
//! `tracer-mesh/clippy.toml` hold that these two are pure.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crates whose `lib.rs` lists its modules in the order of the data's way.
const LAYERED: [&str; 2] = ["tracer-core", "tracer"];
const CRATES: [&str; 4] = ["tracer-core", "tracer-mesh", "tracer-ebpf", "tracer"];
const MAX_LINES: usize = 400;

fn source_dir(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("src")
}

/// The modules that a crate's `lib.rs` declares, in its order.
fn modules(package: &str) -> Vec<String> {
    let lib = fs::read_to_string(source_dir(package).join("lib.rs")).expect("lib.rs");
    let lines = lib.lines().map(|line| line.strip_prefix("pub ").unwrap_or(line));
    let modules: Vec<String> =
        lines.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).map(str::to_owned).collect();
    assert!(modules.len() > 5, "the modules of {package} are not found: {modules:?}");
    modules
}

/// The Rust files at and below these paths, with their texts.
fn files(mut paths: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(
                fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            let text = fs::read_to_string(&path).expect("a source file");
            found.push((path, text));
        }
    }
    found
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let mut wrong = Vec::new();
    for package in LAYERED {
        let modules = modules(package);
        for (at, module) in modules.iter().enumerate() {
            let source = source_dir(package);
            let of_module = files(vec![source.join(format!("{module}.rs")), source.join(module)]);
            assert!(!of_module.is_empty(), "module {module} of {package} has no file");
            for (path, text) in of_module {
                let code = without_tests(&text);
                for below in &modules[at + 1..] {
                    // `use crate::{a, b::c}` as well as `crate::a::b`.
                    let direct = code.contains(&format!("crate::{below}::"))
                        || code.contains(&format!("crate::{below};"));
                    let grouped = code.split("use crate::{").skip(1).any(|rest| {
                        let group = rest.split("};").next().unwrap_or_default();
                        top_level_names(group).iter().any(|name| name == below)
                    });
                    if direct || grouped {
                        wrong.push(format!("{} uses {below}, which is below {module}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The first path segments inside a `use crate::{…}` group.
fn top_level_names(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut item = String::new();
    let mut names = Vec::new();
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    names.push(item);
    names.iter().filter_map(|item| Some(item.trim().split("::").next()?.to_owned())).collect()
}

#[test]
fn files_are_small_and_say_what_they_are() {
    for (path, text) in files(CRATES.map(source_dir).to_vec()) {
        assert!(text.starts_with("//! "), "{} does not say what it is", path.display());
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines; {MAX_LINES} is the most", path.display());
    }
}
