//! The house rules that no compiler holds: a module uses only modules above it, the pure ones are pure, files stay
//! small and say what they are.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a pure file must not contain, and why.
const IMPURE: [(&str, &str); 16] = [
    ("std::fs", "IO"),
    ("std::io", "IO"),
    ("std::process", "IO"),
    ("std::env", "IO"),
    ("std::thread", "it is called by one task"),
    ("std::time::Instant", "time arrives inside the input"),
    ("std::time::SystemTime", "time arrives inside the input"),
    ("Timestamp::now", "time arrives inside the input"),
    ("tokio", "async"),
    ("async ", "async"),
    ("println!", "IO"),
    (".unwrap()", "panic"),
    ("panic!", "panic"),
    ("unreachable!", "panic"),
    ("log::", "IO"),
    ("rand", "a replay must come out the same"),
];

const LINES: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of `lib.rs`, in order, and how many of them are pure.
fn modules() -> (Vec<String>, usize) {
    let lib = fs::read_to_string(root().join("lib.rs")).expect("lib.rs");
    let (pure, edges) = lib.split_once("// The edges.").expect("lib.rs marks where the edges begin");
    let names = |part: &str| -> Vec<String> {
        let lines = part.lines().map(|line| line.strip_prefix("pub ").unwrap_or(line));
        let declared = lines.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        declared.map(str::to_owned).collect()
    };
    let pure = names(pure);
    let count = pure.len();
    assert!(count > 5, "the pure modules are not found: {pure:?}");
    ([pure, names(edges)].concat(), count)
}

/// The files of a module, with their contents less the tests at their end.
fn files(module: &str) -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join(format!("{module}.rs"))];
    let mut dirs = vec![root().join(module)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() { dirs.push(path) } else { paths.push(path) }
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs") && path.exists());
    assert!(!paths.is_empty(), "module {module} has no file");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let (modules, _) = modules();
    let mut wrong = Vec::new();
    for (at, module) in modules.iter().enumerate() {
        for (path, text) in files(module) {
            let code = without_tests(&text);
            for below in &modules[at + 1..] {
                // `use crate::{a, b::c}` as well as `crate::a::b`.
                let direct =
                    code.contains(&format!("crate::{below}::")) || code.contains(&format!("crate::{below};"));
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
fn pure_modules_are_pure() {
    let (modules, pure) = modules();
    let mut wrong = Vec::new();
    for module in &modules[..pure] {
        for (path, text) in files(module) {
            let code = without_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                for (word, why) in IMPURE {
                    let at_word = line.find(word).is_some_and(|at| {
                        !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                    });
                    if at_word {
                        wrong.push(format!("{}: `{}` ({why})", path.display(), line.trim()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_small_and_say_what_they_are() {
    let (modules, _) = modules();
    let kernel_side = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracer-ebpf/src");
    let kernel_side = fs::read_dir(kernel_side).expect("the kernel side").map(|entry| {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a text");
        (path, text)
    });
    for (path, text) in modules.iter().flat_map(|module| files(module)).chain(kernel_side) {
        assert!(text.starts_with("//! "), "{} does not say what it is", path.display());
        let lines = text.lines().count();
        assert!(lines <= LINES, "{} has {lines} lines; {LINES} is the most", path.display());
    }
}
