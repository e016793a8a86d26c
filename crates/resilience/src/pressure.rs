//! Backpressure: how full a buffer is, as a level that its senders can follow.
//!
//! A level rises at once and falls slowly: one step at a time, and not soon after it rose, so that
//! senders that slow down do not swing with it.

use std::time::Duration;

use hyperscale_model::{Pressure, Time};

/// Settings of a gauge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PressureConfig {
    /// From these shares of the buffer on there is throttling, batching, rejecting.
    pub rises_at: [f64; 3],
    /// A level is left only when so much below where it began.
    pub slack: f64,
    /// How long after a rise no level falls.
    pub hold: Duration,
    /// How long between two steps down.
    pub step: Duration,
}

impl PressureConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        rises_at: [0.70, 0.85, 0.95],
        slack: 0.10,
        hold: Duration::from_secs(10),
        step: Duration::from_secs(1),
    };

    /// The level of a buffer of which `share` is used, with all thresholds `lower`.
    fn level(&self, share: f64, lower: f64) -> Pressure {
        let [throttle, batch, reject] = self.rises_at.map(|threshold| share >= threshold - lower);
        match (throttle, batch, reject) {
            (_, _, true) => Pressure::Reject,
            (_, true, false) => Pressure::Batch,
            (true, false, false) => Pressure::Throttle,
            (false, false, false) => Pressure::None,
        }
    }
}

/// The level of one buffer.
#[derive(Debug, Clone)]
pub struct PressureGauge {
    config: PressureConfig,
    level: Pressure,
    falls_from: Time,
}

impl PressureGauge {
    /// The gauge of an empty buffer.
    #[must_use]
    pub const fn new(config: PressureConfig) -> Self {
        Self { config, level: Pressure::None, falls_from: Time::ZERO }
    }

    /// Reads the buffer: `used` of `room`. A buffer without room is full.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than an f64's 53 bits")]
    pub fn read(&mut self, now: Time, used: u64, room: u64) -> Pressure {
        let share = if room == 0 { 1.0 } else { used as f64 / room as f64 };
        let rising = self.config.level(share, 0.0);
        if rising > self.level {
            self.level = rising;
            self.falls_from = now + self.config.hold;
        } else if now >= self.falls_from && self.config.level(share, self.config.slack) < self.level
        {
            self.level = self.level.eased();
            self.falls_from = now + self.config.step;
        }
        self.level
    }

    /// The level when it was last read.
    #[must_use]
    pub const fn level(&self) -> Pressure {
        self.level
    }
}

/// What rules when several say how much they can take.
pub fn strictest(levels: impl IntoIterator<Item = Pressure>) -> Pressure {
    levels.into_iter().max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gauge() -> PressureGauge {
        PressureGauge::new(PressureConfig::DEFAULT)
    }

    #[test]
    fn bpr_06_levels_rise_at_once_at_70_85_and_95_percent() {
        let rows = [
            (0, Pressure::None),
            (69, Pressure::None),
            (70, Pressure::Throttle),
            (84, Pressure::Throttle),
            (85, Pressure::Batch),
            (94, Pressure::Batch),
            (95, Pressure::Reject),
            (100, Pressure::Reject),
        ];
        for (used, level) in rows {
            assert_eq!(gauge().read(Time::ZERO, used, 100), level, "at {used} %");
        }
        assert_eq!(gauge().read(Time::ZERO, 0, 0), Pressure::Reject, "there is no room");
    }

    #[test]
    fn bpr_06_levels_fall_late_and_step_by_step() {
        let mut gauge = gauge();
        gauge.read(Time::ZERO, 99, 100);

        let levels: Vec<Pressure> =
            (9..14).map(|second| gauge.read(Time::from_secs(second), 10, 100)).collect();

        let [none, throttle, batch, reject] =
            [Pressure::None, Pressure::Throttle, Pressure::Batch, Pressure::Reject];
        assert_eq!(levels, [reject, batch, throttle, none, none]);
    }

    #[test]
    fn bpr_06_a_buffer_at_a_threshold_does_not_swing() {
        let mut gauge = gauge();
        gauge.read(Time::ZERO, 86, 100);

        for second in 1..100 {
            let level = gauge.read(Time::from_secs(second), 80 + second % 7, 100);
            assert_eq!(level, Pressure::Batch, "after {second} s");
        }
    }

    #[test]
    fn lim_02_the_strictest_signal_rules() {
        assert_eq!(
            strictest([Pressure::None, Pressure::Batch, Pressure::Throttle]),
            Pressure::Batch
        );
        assert_eq!(strictest([]), Pressure::None);
    }

    proptest! {
        #[test]
        fn bpr_06_no_fall_within_10_s_of_a_rise(
            reads in proptest::collection::vec((0u64..3_000, 0u64..=100), 1..300),
        ) {
            let (mut gauge, mut now_ms, mut rose_ms) = (gauge(), 0, None::<u64>);
            for (gap_ms, used) in reads {
                now_ms += gap_ms;
                let before = gauge.level();
                let after = gauge.read(Time::from_millis(now_ms), used, 100);
                if after > before {
                    rose_ms = Some(now_ms);
                }
                if after < before {
                    let held = rose_ms.map(|rose| now_ms - rose);
                    prop_assert!(held >= Some(10_000), "fell {held:?} ms after it rose");
                    prop_assert_eq!(after, before.eased(), "more than a step");
                }
                prop_assert!(after >= PressureConfig::DEFAULT.level(used as f64 / 100.0, 0.0));
            }
        }
    }
}
