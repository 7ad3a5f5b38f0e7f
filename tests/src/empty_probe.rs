//! Kernel programs that do nothing, where kernel functions begin: what every other program at the same place is held
//! against. They are gone when this is dropped.

use std::ffi::{CString, c_int, c_long, c_ulong};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};

use crate::empty_programs::{PROG_LOAD, descriptor, halves, number, runs_of};
use crate::program_runs::Runs;

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L884>
const RAW_TRACEPOINT_OPEN: c_long = 17;
/// Types of programs, and the one way in which one of them is attached: the same file.
const KPROBE: u32 = 2;
const RAW_TRACEPOINT: u32 = 17;
const TRACING: u32 = 26;
const TRACE_FENTRY: u32 = 24;
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/perf_event.h#L562>
const IOC_ENABLE: c_ulong = 0x2400;
const IOC_SET_BPF: c_ulong = 0x4004_2408;
const FLAG_FD_CLOEXEC: c_ulong = 8;

/// `r0 = 0; exit`
static CODE: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// A place.
#[derive(Debug, Clone)]
pub enum Probe {
    /// A trampoline at the entry of the function that has this number in the kernel's types.
    Fentry(u32),
    /// A breakpoint at the entry of the function of this name.
    Kprobe(&'static str),
    /// A tracepoint, with the kernel's own arguments.
    RawTracepoint(&'static str),
}

/// Empty programs, attached.
#[derive(Debug)]
pub struct EmptyProbes(Vec<(OwnedFd, OwnedFd)>);

impl EmptyProbes {
    /// One for each place.
    pub fn attach(places: &[Probe]) -> Result<Self> {
        let attached = places.iter().map(|place| {
            attach(place).with_context(|| format!("an empty program cannot be attached to {place:?}"))
        });
        attached.collect::<Result<_>>().map(Self)
    }

    /// What the kernel has counted of each, in their order (`kernel.bpf_stats_enabled`).
    pub fn runs(&self) -> Result<Vec<Runs>> {
        self.0.iter().map(|(program, _)| runs_of(program)).collect()
    }
}

/// The program, and what holds it where it is.
fn attach(place: &Probe) -> Result<(OwnedFd, OwnedFd)> {
    let raw = |program: &OwnedFd, name: u64| -> Result<OwnedFd> {
        let [low, high] = halves(name);
        descriptor(RAW_TRACEPOINT_OPEN, &[low, high, number(program.as_raw_fd())?, 0])
    };
    match place {
        Probe::Fentry(function) => {
            let program = load(TRACING, TRACE_FENTRY, *function)?;
            let link = raw(&program, 0)?; // its place was named when it was loaded
            Ok((program, link))
        }
        Probe::Kprobe(function) => {
            let program = load(KPROBE, 0, 0)?;
            let event = kprobe(function, &program)?;
            Ok((program, event))
        }
        Probe::RawTracepoint(name) => {
            let program = load(RAW_TRACEPOINT, 0, 0)?;
            let name = CString::new(*name)?;
            let link = raw(&program, name.as_ptr() as u64)?;
            Ok((program, link))
        }
    }
}

fn load(kind: u32, at: u32, function: u32) -> Result<OwnedFd> {
    let [code_low, code_high] = halves(CODE.as_ptr() as u64);
    let [license_low, license_high] = halves(c"GPL".as_ptr() as u64);
    let mut words = [0; 30];
    words[..6].copy_from_slice(&[kind, 2, code_low, code_high, license_low, license_high]);
    words[17] = at; // expected_attach_type
    words[27] = function; // attach_btf_id
    descriptor(PROG_LOAD, &words)
}

/// Opens a breakpoint and gives it to a program.
fn kprobe(function: &str, program: &OwnedFd) -> Result<OwnedFd> {
    let kind = fs::read_to_string("/sys/bus/event_source/devices/kprobe/type").context("no kprobes")?;
    let name = CString::new(function)?;
    // `struct perf_event_attr`: type and size, then config1 is the function's name.
    let mut attributes = [0_u64; 14];
    attributes[0] = kind.trim().parse::<u64>()? | (size_of_val(&attributes) as u64) << 32;
    attributes[7] = name.as_ptr() as u64;
    let (everybody, first_cpu, no_group): (c_int, c_int, c_int) = (-1, 0, -1);
    // SAFETY: the kernel reads the attributes, whose size they say, and the name in them, which outlives the call.
    let fd = unsafe {
        let at = attributes.as_ptr();
        libc::syscall(libc::SYS_perf_event_open, at, everybody, first_cpu, no_group, FLAG_FD_CLOEXEC)
    };
    let fd = RawFd::try_from(fd)?;
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    for (request, argument) in [(IOC_SET_BPF, program.as_raw_fd()), (IOC_ENABLE, 0)] {
        // SAFETY: both requests take a number.
        let failed = unsafe { libc::ioctl(event.as_raw_fd(), request, argument) };
        if failed != 0 {
            return Err(io::Error::last_os_error().into());
        }
    }
    Ok(event)
}
