//! Empty programs on kernel functions and tracepoints: the baseline for the run time of the tracer's programs there.
//! Dropping them detaches them.

use std::ffi::{CString, c_int, c_long, c_ulong};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};

use crate::empty_programs::{PROG_LOAD, descriptor, halves, number, runs_of};
use crate::program_runs::Runs;

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L884>
const RAW_TRACEPOINT_OPEN: c_long = 17;
/// Program types and an attach type, from the same header.
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

/// Where a program is attached.
#[derive(Debug, Clone)]
pub enum ProbePoint {
    /// An fentry trampoline on the function with this BTF id.
    Fentry(u32),
    /// A kprobe on the function of this name.
    Kprobe(&'static str),
    /// A raw tracepoint.
    RawTracepoint(&'static str),
}

/// Attached empty programs: the descriptors of each program and its link.
#[derive(Debug)]
pub struct EmptyProbes(Vec<(OwnedFd, OwnedFd)>);

impl EmptyProbes {
    /// Attaches one program at each place.
    pub fn attach(places: &[ProbePoint]) -> Result<Self> {
        let attached = places.iter().map(|place| {
            attach(place).with_context(|| format!("an empty program cannot be attached to {place:?}"))
        });
        attached.collect::<Result<_>>().map(Self)
    }

    /// The run counts of each program, in the order of `attach` (`kernel.bpf_stats_enabled`).
    pub fn runs(&self) -> Result<Vec<Runs>> {
        self.0.iter().map(|(program, _)| runs_of(program)).collect()
    }
}

/// The program and the descriptor that keeps it attached.
fn attach(place: &ProbePoint) -> Result<(OwnedFd, OwnedFd)> {
    let raw = |program: &OwnedFd, name: u64| -> Result<OwnedFd> {
        let [low, high] = halves(name);
        descriptor(RAW_TRACEPOINT_OPEN, &[low, high, number(program.as_raw_fd())?, 0])
    };
    match place {
        ProbePoint::Fentry(function) => {
            let program = load(TRACING, TRACE_FENTRY, *function)?;
            let link = raw(&program, 0)?; // the function was given at load time
            Ok((program, link))
        }
        ProbePoint::Kprobe(function) => {
            let program = load(KPROBE, 0, 0)?;
            let event = kprobe(function, &program)?;
            Ok((program, event))
        }
        ProbePoint::RawTracepoint(name) => {
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

/// Opens a kprobe as a perf event and attaches the program to it.
fn kprobe(function: &str, program: &OwnedFd) -> Result<OwnedFd> {
    let kind = fs::read_to_string("/sys/bus/event_source/devices/kprobe/type").context("no kprobes")?;
    let name = CString::new(function)?;
    // `struct perf_event_attr`: type and size first, the function's name in config1.
    let mut attributes = [0_u64; 14];
    attributes[0] = kind.trim().parse::<u64>()? | (size_of_val(&attributes) as u64) << 32;
    attributes[7] = name.as_ptr() as u64;
    let (all_processes, first_cpu, no_group): (c_int, c_int, c_int) = (-1, 0, -1);
    // SAFETY: the kernel reads as many attribute bytes as their `size` field says, and the name; both outlive the call.
    let fd = unsafe {
        let at = attributes.as_ptr();
        libc::syscall(libc::SYS_perf_event_open, at, all_processes, first_cpu, no_group, FLAG_FD_CLOEXEC)
    };
    let fd = RawFd::try_from(fd)?;
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just returned this descriptor, and no other owner has it.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    for (request, argument) in [(IOC_SET_BPF, program.as_raw_fd()), (IOC_ENABLE, 0)] {
        // SAFETY: both requests take an integer argument, no pointer.
        let failed = unsafe { libc::ioctl(event.as_raw_fd(), request, argument) };
        if failed != 0 {
            return Err(io::Error::last_os_error().into());
        }
    }
    Ok(event)
}
