//! A node's clock: it starts at zero with each life, runs a little fast or slow, and is never
//! compared with another's.

use hyperscale_model::{Time, WallTime};

const MILLION: i128 = 1_000_000;
/// The wall clock when the world begins.
const WALL_AT_ZERO: u64 = 1_800_000_000_000;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    booted: Time,
    /// Parts in a million by which it runs fast.
    drift: i32,
    /// Milliseconds by which its wall clock is ahead.
    ahead: i64,
}

impl Clock {
    pub(crate) const fn new(booted: Time, drift: i32) -> Self {
        Self { booted, drift, ahead: 0 }
    }

    /// With a wall clock that is so many milliseconds ahead of the others.
    pub(crate) const fn ahead_by(self, ahead: i64) -> Self {
        Self { ahead, ..self }
    }

    /// The wall clock at the node's own zero.
    pub(crate) const fn wall_at_zero(&self) -> WallTime {
        let wall = WALL_AT_ZERO + self.booted.as_nanos() / 1_000_000;
        WallTime(wall.saturating_add_signed(self.ahead))
    }

    /// The node's time at the world's time.
    pub(crate) fn local(&self, world: Time) -> Time {
        let passed = i128::from(world.as_nanos()) - i128::from(self.booted.as_nanos());
        let local = passed.max(0) * (MILLION + i128::from(self.drift)) / MILLION;
        Time::from_nanos(u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// The first instant of the world at which the node's time is not before `local`.
    pub(crate) fn world(&self, local: Time) -> Time {
        let rate = MILLION + i128::from(self.drift);
        let passed = (i128::from(local.as_nanos()) * MILLION + rate - 1) / rate;
        let world = i128::from(self.booted.as_nanos()) + passed;
        Time::from_nanos(u64::try_from(world).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_at_the_instant_that_it_maps_to() {
        for drift in [-200, 0, 1, 300] {
            let clock = Clock::new(Time::from_millis(1_234), drift);
            for local in [0, 1, 999_999_999, 123_456_789_012].map(Time::from_nanos) {
                assert!(clock.local(clock.world(local)) >= local, "{local} with drift {drift}");
            }
        }
    }
}
