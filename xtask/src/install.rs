//! What the installation steps share: the form of a step, and what this machine has and allows.

use std::env;
use std::path::Path;

use anyhow::Result;
use indicatif::ProgressBar;

/// Does what a build must wait for, such as installing packages, and returns the rest.
pub(crate) type Prepare = fn(&ProgressBar) -> Result<Job>;

/// The long part of an installation. Returns a line about what it installed.
pub(crate) type Job = Box<dyn FnOnce(&ProgressBar) -> Result<String> + Send>;

/// Whether the lab would find this program: the lab searches only the system's directories.
pub(crate) fn is_on_path(program: &str) -> bool {
    let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    system.iter().any(|dir| Path::new(dir).join(program).exists())
}

/// Whether this user may install Debian packages.
pub(crate) fn is_root() -> bool {
    lab::is_root()
}

/// Whether a variable asks for something.
pub(crate) fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}
