//! Whether process ids in records name the processes that this one sees.

use std::{fs, os::unix::fs::MetadataExt as _};

/// Inode number of the first pid namespace:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/proc_ns.h#L44>
const FIRST: u64 = 0xefff_fffc;

/// Whether this process sees the node's process ids. In a nested pid namespace (kind, k3d, an agent without `hostPID`) an id of a
/// record names another process, or none.
pub fn is_the_nodes() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == FIRST)
}
