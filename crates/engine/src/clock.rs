//! The one place where the engine reads clocks.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long this thread has been computing.
pub(crate) fn thread_busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Duration::from_secs(secs) + Duration::from_nanos(nanos)
}

/// Waits until an instant.
pub(crate) async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at.into()).await;
}

/// Milliseconds since the Unix epoch, for tests that ask for the time.
pub(crate) fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
