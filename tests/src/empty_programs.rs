//! Empty programs on cgroup hooks: the baseline for the run time of the tracer's programs there. Dropping them detaches
//! them.

use std::collections::HashMap;
use std::ffi::c_long;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result};

use crate::program_runs::Runs;

/// The tracer's cgroup programs: the program's name, its program type, its attach type. Numbers:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L1024>.
pub(crate) const HOOKS: [(&str, u32, u32); 8] = [
    ("egress_connect4", 18, 10),
    ("egress_connect6", 18, 11),
    ("egress_accept4", 18, 29),
    ("egress_accept6", 18, 30),
    ("egress_options", 25, 22),
    ("egress_original_dst", 25, 21),
    ("egress_states", 13, 3),
    ("egress_bytes", 8, 1),
];
pub(crate) const PROG_LOAD: c_long = 5;
pub(crate) const LINK_CREATE: c_long = 28;
const MAP_LOOKUP_ELEM: c_long = 1;
const ENABLE_STATS: c_long = 32;

/// `r0 = 1; exit`: allow.
static EMPTY: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// One empty program on each of the tracer's cgroup hooks: name, program, link.
#[derive(Debug)]
pub struct EmptyPrograms(Vec<(&'static str, OwnedFd, OwnedFd)>);

impl EmptyPrograms {
    /// Attaches the programs after those that are attached already.
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let target = open(cgroup)?;
        let attach = |(name, kind, at): (&'static str, u32, u32)| {
            let program = load_program(&EMPTY, kind, at).with_context(|| format!("no program for {name}"))?;
            let words = [number(program.as_raw_fd())?, number(target.as_raw_fd())?, at, 0];
            let link = descriptor(LINK_CREATE, &words)
                .with_context(|| format!("the program for {name} cannot be attached"))?;
            Ok((name, program, link))
        };
        HOOKS.into_iter().map(attach).collect::<Result<_>>().map(Self)
    }

    /// The run counts of each program, by name (`kernel.bpf_stats_enabled`).
    pub fn runs(&self) -> Result<HashMap<&'static str, Runs>> {
        self.0.iter().map(|(name, program, _)| Ok((*name, runs_of(program)?))).collect()
    }
}

/// Makes the kernel count the runs of programs (`BPF_STATS_RUN_TIME`) until the descriptor is dropped.
pub fn count_runs() -> Result<OwnedFd> {
    descriptor(ENABLE_STATS, &[0]).context("the kernel does not count the runs of programs")
}

/// The run counts of a program that this process holds.
pub(crate) fn runs_of(program: &OwnedFd) -> Result<Runs> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).context("a program without statistics")
    };
    Ok(Runs { ns: field("run_time_ns")?, count: field("run_cnt")? })
}

pub(crate) fn open(cgroup: &Path) -> Result<File> {
    File::open(cgroup).with_context(|| format!("cannot open the cgroup {}", cgroup.display()))
}

/// Has the kernel verify `code`, a program of type `kind` for the attach type `at`.
pub(crate) fn load_program(code: &[u64], kind: u32, at: u32) -> Result<OwnedFd> {
    let [code_low, code_high] = halves(code.as_ptr() as u64);
    let [license_low, license_high] = halves(c"GPL".as_ptr() as u64);
    let mut words = [0; 18];
    let length = u32::try_from(code.len())?;
    words[..6].copy_from_slice(&[kind, length, code_low, code_high, license_low, license_high]);
    words[17] = at; // expected_attach_type
    descriptor(PROG_LOAD, &words)
}

/// The two words of an address, lower one first.
pub(crate) fn halves(address: u64) -> [u32; 2] {
    [(address & 0xffff_ffff) as u32, (address >> 32) as u32]
}

/// The number at key 0 of an array map.
pub(crate) fn lookup(map: &OwnedFd) -> Result<u64> {
    let (mut key, mut value) = (0_u32, 0_u64);
    let [key_low, key_high] = halves(std::ptr::from_mut(&mut key) as u64);
    let [value_low, value_high] = halves(std::ptr::from_mut(&mut value) as u64);
    let mut words = [number(map.as_raw_fd())?, 0, key_low, key_high, value_low, value_high, 0, 0];
    call(MAP_LOOKUP_ELEM, &mut words).context("the map cannot be read")?;
    Ok(value)
}

pub(crate) fn descriptor(command: c_long, words: &[u32]) -> Result<OwnedFd> {
    let mut words = words.to_vec();
    let fd = call(command, &mut words)?;
    // SAFETY: the kernel has just returned this descriptor, and no other owner has it.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd)?) })
}

pub(crate) fn call(command: c_long, words: &mut [u32]) -> io::Result<c_long> {
    // SAFETY: the kernel is told the length of `words` and reads or writes only within it. Addresses in `words` are of
    // statics or of memory that the caller keeps alive for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn number(fd: RawFd) -> Result<u32> {
    Ok(u32::try_from(fd)?)
}
