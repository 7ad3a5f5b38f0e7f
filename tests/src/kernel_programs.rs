//! All BPF programs in the kernel, with their names and run counts.

use std::collections::BTreeMap;
use std::ffi::c_long;
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::empty_programs::{call, descriptor, halves, number};
use crate::program_runs::Runs;

/// Commands of `bpf(2)`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L884>.
const PROG_GET_NEXT_ID: c_long = 11;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO_BY_FD: c_long = 15;

/// A program that the kernel holds.
#[derive(Debug, Clone)]
pub struct KernelProgram {
    /// Its name, truncated by the kernel to 15 bytes.
    pub name: String,
    /// How often and how long it ran while the kernel counted.
    pub runs: Runs,
    /// BTF id of the function it is attached to. 0 where it is no tracing program, or where the kernel does not tell
    /// (before 5.17).
    pub function: u32,
}

/// All programs by their kernel id.
pub fn kernel_programs() -> Result<BTreeMap<u32, KernelProgram>> {
    let mut programs = BTreeMap::new();
    let mut last = 0;
    loop {
        let mut words = [last, 0, 0];
        match call(PROG_GET_NEXT_ID, &mut words) {
            Ok(_) => last = words[1],
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(programs),
            Err(error) => return Err(error).context("cannot list the kernel's programs"),
        }
        // `None`: the program was unloaded after it was listed.
        if let Some(program) = program(last)? {
            programs.insert(last, program);
        }
    }
}

fn program(id: u32) -> Result<Option<KernelProgram>> {
    /// More 8-byte words than `struct bpf_prog_info` has.
    const WORDS: usize = 32;
    let fd = match descriptor(PROG_GET_FD_BY_ID, &[id, 0, 0]) {
        Ok(fd) => fd,
        Err(error) if error.downcast_ref::<Error>().map(Error::kind) == Some(ErrorKind::NotFound) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut info = [0_u64; WORDS];
    let [low, high] = halves(info.as_mut_ptr() as u64);
    let length = u32::try_from(size_of_val(&info))?;
    call(OBJ_GET_INFO_BY_FD, &mut [number(fd.as_raw_fd())?, length, low, high])
        .context("cannot ask after a program")?;
    // Layout: https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6533
    let name = [info[8], info[9]].map(u64::to_ne_bytes).concat();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(KernelProgram {
        name: String::from_utf8_lossy(name).into_owned(),
        runs: Runs { ns: info[24], count: info[25] },
        function: (info[28] & 0xffff_ffff) as u32,
    }))
}
