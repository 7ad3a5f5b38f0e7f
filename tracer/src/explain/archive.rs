//! Finds the dumps in what people hand over: a file, a directory, an archive such as the one that `istioctl bug-report`
//! writes. Nothing is unpacked to disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::admin::MAX_DUMP;
use super::input::{self, InputError};

/// A dump that was found, not yet read as one.
#[derive(Debug)]
pub struct FoundDump {
    /// What to call it in messages: the file, or the archive with the member.
    pub label: String,
    /// `NAMESPACE/NAME` of the pod, where the path says it: `proxies/NAMESPACE/NAME/config_dump…`.
    pub pod: Option<String>,
    /// Its bytes, unpacked.
    pub bytes: Vec<u8>,
}

/// The most dumps of one directory or archive.
const MAX_DUMPS: usize = 10_000;

/// The deepest directory that is looked into.
const MAX_DEPTH: usize = 16;

/// Offset and text of the mark in a tar header (POSIX.1-1988, `magic`).
const TAR_MARK: (usize, &[u8]) = (257, b"ustar");

/// Calls `each` with every dump in `path`, in the order of their names. A file that cannot be read is passed on as an error,
/// with its name.
pub fn find(path: &Path, each: &mut dyn FnMut(anyhow::Result<FoundDump>)) -> anyhow::Result<()> {
    if !path.is_dir() {
        return find_in_file(path, each);
    }
    let mut files = Vec::new();
    list(path, 0, &mut files)?;
    files.sort();
    let chosen = chosen(files.iter().map(|file| file.to_string_lossy().into_owned()));
    if chosen.is_empty() {
        bail!("{} holds no file that looks like a dump (*.json, *.yaml, *config_dump*)", path.display());
    }
    for at in chosen {
        let Some(file) = files.get(at) else { continue };
        if let Err(error) = find_in_file(file, each) {
            each(Err(error));
        }
    }
    Ok(())
}

fn list(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(dir).with_context(|| format!("cannot read the directory {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read the directory {}", dir.display()))?.path();
        if path.is_dir() && depth < MAX_DEPTH {
            list(&path, depth + 1, files)?;
        } else if path.is_file() {
            files.push(path);
        }
        if files.len() > 100 * MAX_DUMPS {
            bail!("{} holds too many files", dir.display());
        }
    }
    Ok(())
}

/// Which of these names are dumps: those that say so, else every JSON and YAML file and archive.
fn chosen(names: impl Iterator<Item = String>) -> Vec<usize> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for (at, name) in names.enumerate() {
        let file = name.rsplit('/').next().unwrap_or(&name).to_ascii_lowercase();
        let is_archive = [".tar", ".tar.gz", ".tgz"].iter().any(|end| file.ends_with(end));
        if file.starts_with('.') {
        } else if file.contains("config_dump") || file.contains("config-dump") || file.contains("configdump")
        {
            named.push(at);
        } else if is_archive
            || [".json", ".yaml", ".yml", ".json.gz", ".yaml.gz"].iter().any(|end| file.ends_with(end))
        {
            others.push(at);
        }
    }
    if named.is_empty() { others } else { named }
}

fn find_in_file(path: &Path, each: &mut dyn FnMut(anyhow::Result<FoundDump>)) -> anyhow::Result<()> {
    let label = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let bytes = read(path)?;
    let bytes = input::gunzip(bytes).with_context(|| label.clone())?;
    if !is_tar(&bytes) {
        each(Ok(FoundDump { pod: pod_of(&label), label, bytes }));
        return Ok(());
    }
    in_archive(&label, &bytes, each)
}

fn is_tar(bytes: &[u8]) -> bool {
    let (at, mark) = TAR_MARK;
    bytes.get(at..at + mark.len()) == Some(mark)
}

fn in_archive(
    label: &str,
    bytes: &[u8],
    each: &mut dyn FnMut(anyhow::Result<FoundDump>),
) -> anyhow::Result<()> {
    let cut = |error: std::io::Error| {
        InputError::CutShort(format!("the archive ends in the middle or is damaged: {error}"))
    };
    let (mut names, mut members) = (Vec::new(), Vec::new());
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().with_context(|| label.to_owned())? {
        let entry = entry.map_err(cut).with_context(|| label.to_owned())?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // A member is never larger than the archive, whose size is bounded.
        let start = usize::try_from(entry.raw_file_position())?;
        let size = usize::try_from(entry.size())?;
        if bytes.get(start..start.saturating_add(size)).is_none() {
            return Err(cut(std::io::ErrorKind::UnexpectedEof.into())).with_context(|| label.to_owned());
        }
        names.push(name);
        members.push(start..start + size);
        if names.len() > 100 * MAX_DUMPS {
            bail!("{label} holds too many files");
        }
    }
    let chosen = chosen(names.iter().cloned());
    if chosen.is_empty() {
        bail!("{label} is an archive without a dump in it (config_dump*, *.json, *.yaml)");
    }
    for at in chosen {
        let (Some(name), Some(range)) = (names.get(at), members.get(at)) else { continue };
        let label = format!("{label}: {}", tracer_core::escape::escape(name));
        let member = bytes.get(range.clone()).unwrap_or_default().to_vec();
        let unpacked = input::gunzip(member).with_context(|| label.clone());
        each(unpacked.map(|bytes| FoundDump { pod: pod_of(name), label, bytes }));
    }
    Ok(())
}

/// The pod in a path of a bug report: <https://github.com/istio/istio/blob/1.24.0/tools/bug-report/pkg/archive/archive.go>
fn pod_of(path: &str) -> Option<String> {
    let mut parts = path.split('/').skip_while(|part| *part != "proxies").skip(1);
    let (namespace, name) = (parts.next()?, parts.next()?);
    parts.next()?;
    Some(tracer_core::escape::escape(&format!("{namespace}/{name}")).into_owned())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        return bounded(std::io::stdin().lock(), MAX_DUMP)
            .context("cannot read the dump from standard input");
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    bounded(file, MAX_DUMP).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads everything, up to `limit` bytes.
pub(super) fn bounded(reader: impl Read, limit: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        bail!("it is larger than {limit} bytes, the most that is read");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_told_from_the_other_files_of_a_bug_report() {
        let names = [
            "bug-report/cluster/events",
            "bug-report/proxies/shop/cart-7d9/config_dump?include_eds",
            "bug-report/proxies/shop/cart-7d9/stats_prometheus",
            "bug-report/analyze/all.json",
        ];
        assert_eq!(chosen(names.iter().map(ToString::to_string)), [1]);
        assert_eq!(pod_of(names[1]).as_deref(), Some("shop/cart-7d9"));
        assert_eq!(pod_of("proxies/shop"), None);
        let plain = ["a.json", "b.yaml.gz", "notes.txt", ".hidden.json"];
        assert_eq!(chosen(plain.iter().map(ToString::to_string)), [0, 1]);
    }
}
