//! Files that name what is wrong today, one key a line, and only shrink: what is wrong and not in the file fails, and so does a
//! line that is right by now. `UPDATE_MISMATCHES=1` writes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A line of a list.
struct Known<'a> {
    is_flaky: bool,
    what: &'a str,
}

impl Known<'_> {
    /// Whether this line is about what is wrong.
    fn covers(&self, what: &str) -> bool {
        let said = |what: &str| {
            what.split(", ").next().and_then(|said| said.strip_prefix("says ")).map(str::to_owned)
        };
        !self.is_flaky
            || said(self.what)
                .is_some_and(|all| all.split(" or ").any(|one| said(what).as_deref() == Some(one)))
    }
}

/// Whether the files are written instead of compared.
pub fn updates() -> bool {
    std::env::var_os("UPDATE_MISMATCHES").is_some()
}

/// A file of this repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares what is wrong with a list. A line that begins with `~` is wrong only sometimes, and only in the ways that it lists
/// (`says A or B, right is C`). Says what does not agree.
pub fn judge(list: &Path, wrong: &BTreeMap<String, String>) -> Result<(), String> {
    let text = fs::read_to_string(list).unwrap_or_default();
    let known: BTreeMap<&str, Known<'_>> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| line.split_once(": "))
        .map(|(key, what)| (key.trim_start_matches('~'), Known { is_flaky: key.starts_with('~'), what }))
        .collect();
    for (key, _) in known.iter().filter(|(_, known)| known.is_flaky) {
        eprintln!("sometimes wrong, now {}: {key}", wrong.get(*key).map_or("right", String::as_str));
    }
    if updates() {
        let head: String =
            text.lines().take_while(|line| line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        let mut lines: Vec<String> =
            text.lines().filter(|line| line.starts_with('~')).map(str::to_owned).collect();
        let is_flaky =
            |key: &str, what: &str| known.get(key).is_some_and(|known| known.is_flaky && known.covers(what));
        let stable = wrong.iter().filter(|(key, what)| !is_flaky(key, what));
        lines.extend(stable.map(|(key, what)| format!("{key}: {what}")));
        lines.push(String::new());
        fs::write(list, head + &lines.join("\n")).expect("the list is written");
        return Ok(());
    }
    let new: Vec<String> = wrong
        .iter()
        .filter(|(key, what)| known.get(key.as_str()).is_none_or(|known| !known.covers(what)))
        .map(|(key, what)| format!("{key}: {what}"))
        .collect();
    let gone = known.iter().filter(|(key, known)| !known.is_flaky && !wrong.contains_key(**key));
    let gone: Vec<&str> = gone.map(|(key, _)| *key).collect();
    match (new.is_empty(), gone.is_empty()) {
        (true, true) => Ok(()),
        (false, _) => Err(format!("wrong, and not in {}:\n{}", list.display(), new.join("\n"))),
        _ => Err(format!("right by now: take these out of {}:\n{}", list.display(), gone.join("\n"))),
    }
}
