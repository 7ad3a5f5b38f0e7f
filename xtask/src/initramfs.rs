//! Builds a guest's initramfs: the test binary as init, the programs that the lab runs with their libraries, and the kernel
//! modules for its network. The archive is the kernel's "newc" cpio
//! (<https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Programs that the lab and its janitor run.
const PROGRAMS: &[&str] = &[
    "sh",
    "seq",
    "find",
    "xargs",
    "cat",
    "kill",
    "rmdir",
    "rm",
    "sleep",
    "ip",
    "iptables-restore",
    "ip6tables-restore",
];

/// Modules for its network. One that is built into the kernel is not found, and not needed.
const MODULES: &[&str] = &[
    "veth",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nft_redir",
    "nft_counter",
    "nf_nat",
    "xt_REDIRECT",
    "xt_owner",
    "xt_tcpudp",
    "xt_nat",
    "nft_nat",
];

/// The contents, by path.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

impl Initramfs {
    /// The contents without modules, and without programs that only some guests run.
    pub(crate) fn new(init: &Path, tracer: &Path, client: &Path) -> Result<Self> {
        let mut this = Self::default();
        for dir in ["/proc", "/sys", "/dev", "/run", "/root"] {
            this.dir(Path::new(dir));
        }
        this.entries.insert("/tmp".into(), (0o041_777, Vec::new()));
        for (from, to) in [
            (init, "/init"),
            (init, "/bin/guest"),
            (tracer, "/bin/egress-tracer"),
            (client, "/raw-client"), // beside the init, where the lab looks for it
        ] {
            this.program(from, Path::new(to))?;
        }
        for name in PROGRAMS {
            this.system_program(name)?;
        }
        // iptables loads them by name.
        let extensions = Path::new("/usr/lib/x86_64-linux-gnu/xtables");
        for entry in fs::read_dir(extensions).with_context(|| format!("no {}", extensions.display()))? {
            let path = entry?.path();
            this.program(&path, &path)?;
        }
        this.file(Path::new("/etc/passwd"), 0o100_644, b"root:x:0:0::/root:/bin/sh\n".to_vec());
        let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests")).canonicalize()?;
        for below in ["sidecars", "cases"] {
            this.tree(&tests.join(below))?;
        }
        Ok(this)
    }

    /// Adds a kernel's modules, and a list of them in which each module follows those it depends on.
    pub(crate) fn add_modules(&mut self, modules: &Path) -> Result<()> {
        let mut known = BTreeMap::new();
        let mut dirs = vec![modules.join("kernel")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("no modules in {}", dir.display()))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    dirs.push(path);
                } else if let Some(stem) = name.split(".ko").next().filter(|stem| *stem != name) {
                    known.insert(stem.replace('-', "_"), path);
                }
            }
        }
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        for name in MODULES {
            self.module(name, &known, &mut done, &mut order)?;
        }
        self.file(Path::new("/modules/order"), 0o100_644, (order.join("\n") + "\n").into_bytes());
        Ok(())
    }

    fn module(
        &mut self,
        name: &str,
        known: &BTreeMap<String, PathBuf>,
        done: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        let Some(path) = known.get(name).filter(|_| done.insert(name.to_owned())) else { return Ok(()) };
        let bytes = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => {
                let said = Command::new("xz").arg("-dc").arg(path).output().context("cannot run xz")?;
                ensure!(said.status.success(), "xz cannot unpack {}", path.display());
                said.stdout
            }
            _ => fs::read(path)?,
        };
        // A module names its dependencies in its .modinfo: `depends=a,b`, ended by a NUL.
        let depends = bytes.windows(9).position(|window| window == b"\0depends=");
        if let Some(at) = depends {
            let field: Vec<u8> = bytes[at + 9..].iter().copied().take_while(|&byte| byte != 0).collect();
            let field = String::from_utf8_lossy(&field).into_owned();
            for other in field.split(',').filter(|other| !other.is_empty()) {
                self.module(&other.replace('-', "_"), known, done, order)?;
            }
        }
        let to = format!("/modules/{name}.ko");
        self.file(Path::new(&to), 0o100_644, bytes);
        order.push(to);
        Ok(())
    }

    /// Adds one of the machine's programs.
    pub(crate) fn system_program(&mut self, name: &str) -> Result<()> {
        let dirs = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(|dir| Path::new(dir).join(name));
        let path = dirs.iter().find(|path| path.exists());
        let path = path.with_context(|| format!("no program {name} for the guest"))?;
        self.program(path, path)
    }

    /// Adds a program or library with the libraries that it is linked to.
    pub(crate) fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.file(to, 0o100_755, fs::read(from).with_context(|| format!("cannot read {}", from.display()))?);
        let said = Command::new("ldd").arg(from).output().context("cannot run ldd")?;
        for word in
            String::from_utf8_lossy(&said.stdout).split_whitespace().filter(|word| word.starts_with('/'))
        {
            let library = Path::new(word.trim_end_matches(':'));
            if !self.entries.contains_key(library) && library != from {
                self.file(library, 0o100_755, fs::read(library)?);
            }
        }
        Ok(())
    }

    fn tree(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                self.tree(&path)?;
            } else if path.file_name().is_some_and(|name| name != "config_dump.json") {
                let bytes = fs::read(&path)?;
                self.file(&path, 0o100_644, bytes);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, mode: u32, bytes: Vec<u8>) {
        if let Some(parent) = path.parent() {
            self.dir(parent);
        }
        self.entries.insert(path.to_owned(), (mode, bytes));
    }

    fn dir(&mut self, path: &Path) {
        for dir in path.ancestors() {
            self.entries.entry(dir.to_owned()).or_insert((0o040_755, Vec::new()));
        }
    }

    /// Writes the archive.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let mut out = BufWriter::new(fs::File::create(to)?);
        for (inode, (path, (mode, bytes))) in self.entries.iter().enumerate() {
            let name = path.to_string_lossy();
            let name = name.trim_start_matches('/');
            if !name.is_empty() {
                entry(&mut out, inode + 1, name, *mode, bytes)?;
            }
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[])?;
        out.flush()?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }
}

fn entry(out: &mut impl Write, inode: usize, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let (size, length) = (bytes.len(), name.len() + 1);
    let header = format!(
        "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{one:08x}{zero:08x}{size:08x}{zero:08x}{zero:08x}{zero:08x}{zero:08x}{length:08x}{zero:08x}",
        zero = 0,
        one = 1,
    );
    let pad = |written: usize| vec![0; (4 - written % 4) % 4];
    out.write_all(header.as_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    out.write_all(&pad(header.len() + length))?;
    out.write_all(bytes)?;
    out.write_all(&pad(size))?;
    Ok(())
}
