//! Time itself, where there is no event to wait for.

use std::time::Duration;

use rustix::event::{Timespec, poll};

/// Lets this time pass. A signal that is handled ends it early. (One `park_timeout` may come back at once: a scope of threads
/// that this thread has waited for leaves it an unpark.)
pub fn pause(length: Duration) {
    if !length.is_zero() {
        // Nobody waits for longer than the kernel can count.
        let length = Timespec::try_from(length).expect("a time that the kernel can count");
        let _ = poll(&mut [], Some(&length));
    }
}
