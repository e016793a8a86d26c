//! Timeouts that stretch with distance: what is far away is not slow.

use std::time::Duration;

/// The round trip for which timeouts are given.
const NEAR: Duration = Duration::from_millis(10);
/// Nothing waits longer than so many times its timeout.
const STRETCH_MAX: f64 = 10.0;

/// The timeout `base` of something near, for one whose round trip is `rtt`. An unknown distance
/// counts as the longest: too short a timeout would make it fail before it can be measured.
#[must_use]
pub fn stretched(base: Duration, rtt: Option<Duration>) -> Duration {
    let stretch = rtt.map_or(STRETCH_MAX, |rtt| rtt.div_duration_f64(NEAR));
    base.mul_f64(stretch.clamp(1.0, STRETCH_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fed_02_timeouts_stretch_with_distance_within_bounds() {
        let base = Duration::from_millis(500);
        let at = |ms| stretched(base, Some(Duration::from_millis(ms)));

        assert_eq!(at(0), base);
        assert_eq!(at(10), base);
        assert_eq!(at(45), base.mul_f64(4.5));
        assert_eq!(at(100), base * 10);
        assert_eq!(at(5_000), base * 10);
        assert_eq!(stretched(base, None), base * 10, "an unknown distance is not zero");
    }
}
