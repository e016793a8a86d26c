//! At most so many in so long.

use std::collections::VecDeque;
use std::time::Duration;

use hyperscale_model::Time;

/// Counts what happened within a sliding window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limit {
    recent: VecDeque<Time>,
}

impl Limit {
    /// Takes one of `most` in `window`. Where there is none left, says when there will be.
    pub(crate) fn take(&mut self, now: Time, most: usize, window: Duration) -> Result<(), Time> {
        while self.recent.front().is_some_and(|&at| at + window <= now) {
            self.recent.pop_front();
        }
        match self.recent.front() {
            Some(&oldest) if self.recent.len() >= most => Err(oldest + window),
            _ => {
                self.recent.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixth_in_the_window_waits_for_the_first_to_leave_it() {
        let mut limit = Limit::default();
        let window = Duration::from_secs(10);
        for second in 0..5 {
            assert_eq!(limit.take(Time::from_secs(second), 5, window), Ok(()));
        }

        assert_eq!(limit.take(Time::from_secs(6), 5, window), Err(Time::from_secs(10)));
        assert_eq!(limit.take(Time::from_secs(10), 5, window), Ok(()));
        assert_eq!(limit.take(Time::from_secs(10), 5, window), Err(Time::from_secs(11)));
    }
}
