//! The one place where the engine reads clocks.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use std::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}
