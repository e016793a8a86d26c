//! The one place where clocks are read.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::time::{Duration, Instant};

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets time pass: what is measured goes on beside this process.
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}
