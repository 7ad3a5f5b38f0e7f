//! The guest's init: mounts, modules, power-off.

use std::{ffi::CString, fs, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};

const MOUNTS: &[(&str, &str)] =
    &[("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("cgroup2", "/sys/fs/cgroup")];

/// Mounts what a lab needs, and loads the modules.
pub(crate) fn up() -> Result<()> {
    for (kind, at) in MOUNTS {
        mount(kind, at)?;
    }
    // Envoy opens its access log by this name.
    for (name, to) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdout", "/proc/self/fd/1")] {
        std::os::unix::fs::symlink(to, name).with_context(|| format!("cannot make {name}"))?;
    }
    // In the order of their dependencies.
    for path in fs::read_to_string("/modules/order").context("no list of modules")?.lines() {
        let file = fs::File::open(path).with_context(|| format!("no module {path}"))?;
        // SAFETY: an open descriptor, a NUL-terminated string, no flags.
        let failed = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        let there = std::io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST);
        ensure!(failed == 0 || there, "cannot load {path}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Mounts a file system without a device, unless it is mounted.
pub(crate) fn mount(kind: &str, at: &str) -> Result<()> {
    fs::create_dir_all(at)?;
    let (kind, at) = (CString::new(kind)?, CString::new(at)?);
    // SAFETY: all pointers are to NUL-terminated strings, or null where that is allowed.
    let failed = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    let busy = std::io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY);
    ensure!(failed == 0 || busy, "cannot mount {at:?}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// The rest of the word on the kernel's command line that begins with `prefix`.
pub(crate) fn kernel_argument(prefix: &str) -> Result<Option<String>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    Ok(line.split_whitespace().find_map(|found| found.strip_prefix(prefix)).map(str::to_owned))
}

/// Powers the guest off.
pub(crate) fn down() -> ! {
    // SAFETY: both calls take no pointer. This process is PID 1 of the guest, which keeps no state.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    loop {
        std::thread::park();
    }
}
