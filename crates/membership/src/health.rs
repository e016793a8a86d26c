//! How much a node trusts its own timers.
//!
//! A node whose own probes fail, whose ticks come late or that others suspect may be the slow one,
//! so it waits longer before it accuses (Dadgar, Phillips, Currey: "Lifeguard", 2017). Unlike there,
//! a step is a quarter, since one dead neighbour must not double everybody's wait.

use std::time::Duration;

/// A count of recent troubles, 0 when all is well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Health(u32);

impl Health {
    const WORST: u32 = 8;

    pub(crate) fn worse(&mut self, by: u32) {
        self.0 = (self.0 + by).min(Self::WORST);
    }

    pub(crate) const fn better(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// From the duration itself up to three times it.
    pub(crate) fn stretch(self, duration: Duration) -> Duration {
        duration * (4 + self.0) / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_stretch_timers_to_three_times_and_successes_restore_them() {
        let second = Duration::from_secs(1);
        let mut health = Health::default();
        assert_eq!(health.stretch(second), second);

        health.worse(100);
        assert_eq!(health.stretch(second), second * 3);

        (0..8).for_each(|_| health.better());
        assert_eq!(health.stretch(second), second);
    }
}
