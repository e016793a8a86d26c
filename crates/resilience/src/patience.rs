//! How long to wait for an answer.

use std::time::Duration;

use hyperscale_model::Time;

use crate::Rtt;

/// How long answers of one other are waited for: by how long they take, as RFC 6298 computes it for
/// retransmissions, and twice as long after each one that did not come. So who is only far away is not
/// taken for dead however short the first wait was, and who is dead is not waited for long.
///
/// Each question must have a number of its own, so that no answer is taken for that to another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    rtt: Option<Rtt>,
    /// Questions without an answer since the last answer.
    misses: u32,
}

/// So often the wait is doubled.
const DOUBLINGS_MAX: u32 = 8;

impl Patience {
    /// How long to wait now: at least `shortest`, at most `longest`.
    #[must_use]
    pub fn limit(&self, shortest: Duration, longest: Duration) -> Duration {
        let usual = self.rtt.map_or(Duration::ZERO, |rtt| rtt.mean() + 4 * rtt.error());
        let limit = usual.max(shortest).saturating_mul(1 << self.misses);
        limit.clamp(shortest, longest.max(shortest))
    }

    /// An answer came, so long after its question.
    pub fn answered(&mut self, now: Time, took: Duration) {
        self.misses = 0;
        match &mut self.rtt {
            Some(rtt) => rtt.measure(now, took),
            None => self.rtt = Some(Rtt::first(now, took)),
        }
    }

    /// An answer did not come in time.
    pub fn missed(&mut self) {
        self.misses = (self.misses + 1).min(DOUBLINGS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::SplitMix;

    use super::*;

    const SHORTEST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Asks so often one whose answers take so many milliseconds, and up to `jitter` more; tells after
    /// which questions it gave up.
    fn ask(times: u64, millis: u64, jitter: u64) -> Vec<u64> {
        let (mut patience, mut random) = (Patience::default(), SplitMix::new(7));
        let mut missed = Vec::new();
        for number in 0..times {
            let took = Duration::from_millis(millis + random.below(jitter + 1));
            if took <= patience.limit(SHORTEST, LONGEST) {
                patience.answered(Time::from_secs(number), took);
            } else {
                patience.missed();
                missed.push(number);
            }
        }
        missed
    }

    #[test]
    fn tmo_07_who_is_far_is_waited_for_after_a_try_or_two() {
        assert_eq!(ask(1_000, 1, 0), []);
        assert_eq!(ask(1_000, 200, 40), []);
        assert_eq!(ask(1_000, 300, 100), [0], "300 ms and up to 100 more");
        assert_eq!(ask(1_000, 600, 100), [0, 1]);
    }

    #[test]
    fn tmo_07_who_is_dead_is_not_waited_for_longer_than_the_longest() {
        assert_eq!(ask(50, 60_000, 0).len(), 50);
        let mut patience = Patience::default();
        assert_eq!(patience.limit(SHORTEST, LONGEST), SHORTEST);
        (0..40).for_each(|_| patience.missed());
        assert_eq!(patience.limit(SHORTEST, LONGEST), LONGEST);
        patience.answered(Time::ZERO, Duration::from_millis(1));
        assert_eq!(patience.limit(SHORTEST, LONGEST), SHORTEST, "it is back");
        assert_eq!(patience.limit(LONGEST, SHORTEST), LONGEST, "shortest comes first");
    }
}
