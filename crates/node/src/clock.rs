//! The one place where a node reads clocks.

#![expect(clippy::disallowed_methods, reason = "roles get their time from here")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyperscale_model::{Time, WallTime};

/// A node's clock: its own time, which never steps, and where that stands on the wall.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    zero: Instant,
    wall_at_zero: WallTime,
}

impl Clock {
    /// A clock whose time is zero now.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_at_zero = WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Self { zero: Instant::now(), wall_at_zero }
    }

    /// The node's time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall clock now, as it has been set meanwhile.
    pub(crate) fn wall(&self) -> WallTime {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
    }

    /// When a time of this node is.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.zero + Duration::from_nanos(at.as_nanos())
    }

    /// The wall clock when the node's time was zero.
    #[must_use]
    pub const fn wall_at_zero(&self) -> WallTime {
        self.wall_at_zero
    }

    /// Waits until a time of this node; for ever if there is none.
    pub(crate) async fn sleep_until(&self, at: Option<Time>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.instant(at).into()).await,
            None => std::future::pending().await,
        }
    }
}
