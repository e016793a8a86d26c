//! Alarms: told once when something has gone wrong for some time, and once when it is over.
//!
//! Of several troubles at once only the gravest is told. What lasts shorter than the debounce never
//! happened, and a level that swings meanwhile counts for the mildest that it kept up.

use std::cmp::Ordering;
use std::time::Duration;

use hyperscale_model::Time;

/// A change that is worth telling: `None` is no trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing<A> {
    /// What was told last.
    pub from: Option<A>,
    /// What holds now.
    pub to: Option<A>,
}

#[derive(Debug, Clone, Copy)]
struct Pending<A> {
    since: Time,
    direction: Ordering,
    /// The level nearest to the one told last that was seen since.
    nearest: Option<A>,
}

/// An alarm with levels `A`, the gravest the greatest.
#[derive(Debug, Clone)]
pub struct Alarm<A> {
    debounce: Duration,
    told: Option<A>,
    pending: Option<Pending<A>>,
}

impl<A: Ord + Copy> Alarm<A> {
    /// Nothing is wrong. Longer debounce tells later; shorter tells of spikes.
    #[must_use]
    pub const fn new(debounce: Duration) -> Self {
        Self { debounce, told: None, pending: None }
    }

    /// Looks at the gravest trouble now; answers with what is to be told.
    pub fn observe(&mut self, now: Time, level: Option<A>) -> Option<Crossing<A>> {
        let direction = level.cmp(&self.told);
        let (since, nearest) = match self.pending {
            Some(pending) if pending.direction == direction => match direction {
                Ordering::Greater => (pending.since, pending.nearest.min(level)),
                Ordering::Less | Ordering::Equal => (pending.since, pending.nearest.max(level)),
            },
            Some(_) | None => (now, level),
        };
        if direction == Ordering::Equal {
            self.pending = None;
            return None;
        }
        if now < since + self.debounce {
            self.pending = Some(Pending { since, direction, nearest });
            return None;
        }
        self.pending = None;
        let from = std::mem::replace(&mut self.told, nearest);
        Some(Crossing { from, to: nearest })
    }

    /// What was told last.
    #[must_use]
    pub const fn told(&self) -> Option<A> {
        self.told
    }
}

/// What may be wrong with the managers of a datacenter, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManagersTrouble {
    /// The leader is overloaded.
    LeaderOverloaded,
    /// Half of them or more are overloaded.
    HalfOverloaded,
    /// Four fifths of them or more are not healthy.
    MostUnhealthy,
    /// None is healthy.
    AllUnhealthy,
}

/// The managers of a datacenter, by how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Managers {
    /// All.
    pub all: u32,
    /// Those that are overloaded.
    pub overloaded: u32,
    /// Those that are not healthy, for whatever reason.
    pub unhealthy: u32,
    /// Whether the leader is overloaded.
    pub is_leader_overloaded: bool,
}

impl Managers {
    /// Those that are well.
    #[must_use]
    pub const fn healthy(&self) -> u32 {
        self.all.saturating_sub(self.unhealthy)
    }

    /// The gravest trouble; none where there is nobody.
    #[must_use]
    pub const fn trouble(&self) -> Option<ManagersTrouble> {
        let (all, unhealthy) = (self.all as u64, self.unhealthy as u64);
        if all == 0 {
            None
        } else if unhealthy >= all {
            Some(ManagersTrouble::AllUnhealthy)
        } else if unhealthy * 5 >= all * 4 {
            Some(ManagersTrouble::MostUnhealthy)
        } else if self.overloaded as u64 * 2 >= all {
            Some(ManagersTrouble::HalfOverloaded)
        } else if self.is_leader_overloaded {
            Some(ManagersTrouble::LeaderOverloaded)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBOUNCE: Duration = Duration::from_secs(5);

    /// Observes one level a second and collects what is told, with its second.
    fn tell(levels: &[Option<u8>]) -> Vec<(usize, Option<u8>, Option<u8>)> {
        let mut alarm = Alarm::new(DEBOUNCE);
        let observe = |(second, level): (usize, &Option<u8>)| {
            let crossing = alarm.observe(Time::from_secs(second as u64), *level)?;
            Some((second, crossing.from, crossing.to))
        };
        levels.iter().enumerate().filter_map(observe).collect()
    }

    #[test]
    fn obs_04_one_alert_for_each_crossing_and_one_clear() {
        let levels = [[Some(2); 20], [None; 20]].concat();

        assert_eq!(tell(&levels), [(5, None, Some(2)), (25, Some(2), None)]);
    }

    #[test]
    fn obs_04_transients_are_not_told() {
        let levels = [[None; 5], [Some(3); 5], [None; 5], [Some(1); 5], [None; 5]].concat();

        assert_eq!(tell(&levels), []);
    }

    #[test]
    fn obs_04_a_dip_does_not_clear() {
        let levels = [vec![Some(1); 10], vec![None; 5], vec![Some(1); 10]].concat();

        assert_eq!(tell(&levels), [(5, None, Some(1))]);
    }

    #[test]
    fn obs_04_a_swinging_level_is_told_at_its_mildest() {
        let levels: Vec<Option<u8>> =
            (0..12).map(|n| if n % 2 == 0 { Some(3) } else { Some(1) }).collect();

        assert_eq!(tell(&levels), [(5, None, Some(1))]);
    }

    #[test]
    fn obs_04_swinging_around_what_was_told_is_nothing_new() {
        let levels = [vec![Some(2); 6], [[Some(3); 3], [Some(1); 3]].concat().repeat(4)].concat();

        assert_eq!(tell(&levels), [(5, None, Some(2))]);
    }

    #[test]
    fn obs_04_a_graver_trouble_is_told_again() {
        let levels = [vec![Some(1); 10], vec![Some(2); 10], vec![Some(1); 10]].concat();

        let told = [(5, None, Some(1)), (15, Some(1), Some(2)), (25, Some(2), Some(1))];
        assert_eq!(tell(&levels), told);
    }

    #[test]
    fn obs_04_the_gravest_trouble_of_managers_counts() {
        let trouble = |all, overloaded, unhealthy, is_leader_overloaded| {
            Managers { all, overloaded, unhealthy, is_leader_overloaded }.trouble()
        };

        assert_eq!(trouble(0, 0, 0, true), None, "with nobody there nothing is told");
        assert_eq!(trouble(5, 0, 3, false), None);
        assert_eq!(trouble(5, 1, 1, true), Some(ManagersTrouble::LeaderOverloaded));
        assert_eq!(trouble(5, 2, 2, false), None, "two of five are no half");
        assert_eq!(trouble(4, 2, 2, true), Some(ManagersTrouble::HalfOverloaded));
        assert_eq!(trouble(5, 3, 4, true), Some(ManagersTrouble::MostUnhealthy));
        assert_eq!(trouble(5, 5, 5, true), Some(ManagersTrouble::AllUnhealthy));
    }
}
