//! The one place where the target reads clocks.

#![expect(clippy::disallowed_methods, reason = "a server counts requests by the second")]

use std::time::Instant;

pub(crate) fn now() -> Instant {
    Instant::now()
}
