//! Files that this program writes and reads as root, whose directories others may be able to write to: it follows no symbolic
//! link, replaces no file unasked, lets no other user read what it writes, and takes no line without end into memory.

use std::{
    fs::{File, FileType, OpenOptions},
    io::{self, BufRead, ErrorKind, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use nix::fcntl::OFlag;

/// The mode of new files: for this user only.
const MODE: u32 = 0o600;

/// The longest line that is read from a file or a socket. The longest one that this program writes has a few thousand bytes.
pub const MAX_LINE: usize = 1 << 20;

/// A file to write, as a command was asked for it.
#[derive(Clone, Debug)]
pub struct OutputFile {
    /// Where to.
    pub path: PathBuf,
    /// Replace what is there.
    pub force: bool,
}

/// Whether the path stands for standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

impl OutputFile {
    /// Creates the file, or opens standard output for `-`. `what` names its content in errors.
    pub fn create(&self, what: &str) -> anyhow::Result<File> {
        let Self { path, force } = self;
        if is_stdout(path) {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            return stdout
                .map(File::from)
                .with_context(|| format!("cannot write the {what} to standard output"));
        }
        let failed = || format!("cannot write the {what} {}", path.display());
        match create_new(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && *force => {
                if let Some(stream) = open_stream(path).with_context(failed)? {
                    return Ok(stream);
                }
                // Never written through: it may be a link, or belong to another user.
                let temporary = temporary(path);
                let file = replace(&temporary).with_context(failed)?;
                std::fs::rename(&temporary, path).with_context(failed)?;
                Ok(file)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("the {what} {} exists; choose another name, or replace it with --force", path.display())
            }
            created => created.with_context(failed),
        }
    }
}

/// Writes a small file that says that this process is ready, in place of one that an earlier process left.
pub fn write_ready_file(path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write the ready file {}", path.display());
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() || there.len() > 20 || !is_ready_file(path) => {
            bail!("{} is there and no ready file; choose another name", path.display())
        }
        Ok(_) | Err(_) => {}
    }
    // Moved into place, so that no reader sees half of it.
    let temporary = temporary(path);
    let mut file = replace(&temporary).with_context(failed)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).with_context(failed)?;
    std::fs::rename(&temporary, path).with_context(failed)
}

fn is_ready_file(path: &Path) -> bool {
    let open =
        OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path);
    let mut text = String::new();
    let read = open.and_then(|file| file.take(21).read_to_string(&mut text));
    read.is_ok() && text.trim_end().parse::<u32>().is_ok()
}

/// Opens a file that is locked and never written, and creates it if it is not there.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

/// Opens a named pipe or a terminal, which takes what is written and has nothing to replace. `None`: it is neither.
fn open_stream(path: &Path) -> io::Result<Option<File>> {
    let is_stream = |kind: FileType| kind.is_fifo() || kind.is_char_device();
    if !is_stream(std::fs::symlink_metadata(path)?.file_type()) {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    // Another file may be there by now.
    Ok(is_stream(file.metadata()?.file_type()).then_some(file))
}

/// `O_EXCL` follows no link either.
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

fn replace(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    create_new(path)
}

/// A name beside `path` that only this process uses.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// The lines of a reader without their line feeds. A line longer than [`MAX_LINE`] is an error, and so is one that is not
/// UTF-8.
pub fn bounded_lines(mut from: impl BufRead) -> impl Iterator<Item = anyhow::Result<String>> {
    let mut number = 0_u64;
    std::iter::from_fn(move || {
        number += 1;
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX).saturating_add(1);
        match from.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if line.len() > MAX_LINE => Some(Err(anyhow::anyhow!(
                "line {number} is longer than {MAX_LINE} bytes, the most that is read"
            ))),
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                let text = String::from_utf8(line);
                Some(text.with_context(|| format!("line {number} is not UTF-8")))
            }
            Err(error) => Some(Err(error).with_context(|| format!("cannot read line {number}"))),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::BufReader,
        os::unix::fs::{MetadataExt as _, symlink},
    };

    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).expect("it is there")
    }

    #[test]
    fn output_files_follow_no_link_and_replace_nothing_unasked() {
        let dir = tempfile::tempdir().expect("a directory");
        let (victim, link, new) =
            (dir.path().join("victim"), dir.path().join("link"), dir.path().join("new"));
        std::fs::write(&victim, "precious").expect("written");
        symlink(&victim, &link).expect("a link");
        symlink(dir.path().join("nowhere"), dir.path().join("dangling")).expect("a link");
        for path in [&link, &victim, &dir.path().join("dangling")] {
            let file = OutputFile { path: path.clone(), force: false };
            let error = file.create("recording").expect_err("it exists");
            assert!(error.to_string().contains("--force"), "{error:#}");
        }
        let file = OutputFile { path: link.clone(), force: true };
        file.create("recording").expect("created").write_all(b"new").expect("written");
        assert_eq!((text(&victim), text(&link)), ("precious".to_owned(), "new".to_owned()));
        assert!(!dir.path().join("nowhere").exists());
        OutputFile { path: new.clone(), force: false }.create("recording").expect("created");
        assert_eq!(std::fs::metadata(&new).expect("it is there").mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("a directory").count(),
            4,
            "no temporary file is left"
        );
    }

    #[test]
    fn ready_file_replaces_only_an_earlier_ready_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let (victim, link, ready) =
            (dir.path().join("victim"), dir.path().join("link"), dir.path().join("ready"));
        std::fs::write(&victim, "precious").expect("written");
        symlink(&victim, &link).expect("a link");
        for path in [&victim, &link] {
            write_ready_file(path).expect_err("it is no ready file");
        }
        // A link where the temporary file will be.
        symlink(&victim, temporary(&ready)).expect("a link");
        for _ in 0..2 {
            write_ready_file(&ready).expect("written");
            assert_eq!(text(&ready), format!("{}\n", std::process::id()));
        }
        assert_eq!(text(&victim), "precious");
    }

    #[test]
    fn lock_follows_no_link_and_is_not_emptied() {
        let dir = tempfile::tempdir().expect("a directory");
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        std::fs::write(&victim, "precious").expect("written");
        symlink(&victim, &link).expect("a link");
        open_lock(&link).expect_err("a link");
        open_lock(&victim).expect("a file");
        assert_eq!(text(&victim), "precious");
        open_lock(dir.path()).expect_err("a directory");
    }

    #[test]
    fn endless_line_is_an_error_and_takes_bounded_memory() {
        let endless = BufReader::new(io::repeat(b'x'));
        let error = bounded_lines(endless).next().expect("a line").expect_err("it has no end");
        assert_eq!(error.to_string(), "line 1 is longer than 1048576 bytes, the most that is read");
        let lines: Vec<_> = bounded_lines(&b"one\n\ntwo"[..]).map(|line| line.expect("a line")).collect();
        assert_eq!(lines, ["one", "", "two"]);
        assert!(bounded_lines(&b"\xff\n"[..]).next().expect("a line").is_err());
    }
}
