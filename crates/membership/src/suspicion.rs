//! How long a suspect has to clear itself.
//!
//! Confirmations of distinct nodes shorten the wait by Lifeguard's formula, but only the part by which
//! this node's own health stretches it: a node that is cut off for three seconds is accused by many,
//! and still has to have time to answer. Nothing restarts it, so it ends whatever is said meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use hyperscale_model::{NodeId, Time};

/// Accusers beyond these change nothing and are not passed on.
pub(crate) const ACCUSERS_MAX: usize = 9;
/// After a late wake-up: how long what is queued has to be read before anybody is judged.
const GRACE: Duration = Duration::from_millis(500);

/// The bounds of a suspicion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Without any confirmation.
    pub(crate) longest: Duration,
    /// With all confirmations: what a node in good health waits.
    pub(crate) base: Duration,
    /// After a closed link.
    pub(crate) shortest: Duration,
    /// Never longer than this, whatever the local health.
    pub(crate) cap: Duration,
}

/// A suspicion that has not yet ended.
#[derive(Debug, Clone)]
pub(crate) struct Suspicion {
    started: Time,
    bounds: Bounds,
    /// Members of the cluster when it began.
    member_count: u32,
    accusers: BTreeSet<NodeId>,
    first: NodeId,
    has_closed_link: bool,
    not_before: Time,
}

impl Suspicion {
    pub(crate) fn new(now: Time, bounds: Bounds, member_count: u32, accuser: NodeId) -> Self {
        Self {
            started: now,
            bounds,
            member_count,
            accusers: [accuser].into(),
            first: accuser,
            has_closed_link: false,
            not_before: Time::ZERO,
        }
    }

    /// Who accused first, as far as this node knows.
    pub(crate) const fn accuser(&self) -> NodeId {
        self.first
    }

    /// Another node suspects it as well. Whether that is news.
    pub(crate) fn confirm(&mut self, accuser: NodeId) -> bool {
        self.accusers.len() < ACCUSERS_MAX && self.accusers.insert(accuser)
    }

    /// A link to it closed, and it did not answer: no need to wait longer than the shortest.
    pub(crate) const fn close_link(&mut self) {
        self.has_closed_link = true;
    }

    /// This node stood still or heard nobody until now: the suspect's answer may be waiting to be
    /// read, or has to be told again.
    pub(crate) fn postpone(&mut self, now: Time, lost: Duration) {
        let lost = lost.min(now.since(self.started));
        let soonest = now + GRACE;
        let latest = (self.started + self.bounds.cap).max(soonest);
        self.not_before = (self.deadline() + lost).clamp(soonest, latest);
    }

    /// When the suspect is dead.
    pub(crate) fn deadline(&self) -> Time {
        (self.started + self.wait()).max(self.not_before)
    }

    /// When the suspect is dead although this node hears nobody, so that it may be the cause.
    pub(crate) fn deadline_unheard(&self) -> Time {
        if self.has_closed_link {
            return self.deadline();
        }
        self.deadline().max(self.started + self.bounds.cap)
    }

    fn wait(&self) -> Duration {
        let Bounds { longest, base, shortest, cap } = self.bounds;
        let longest = longest.min(cap).max(base);
        if self.has_closed_link {
            return shortest;
        }
        // The first accuser is no confirmation.
        let confirmations =
            u32::try_from(self.accusers.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let all = f64::from(self.member_count.max(1)).ln_1p();
        let share = (f64::from(confirmations).ln_1p() / all).clamp(0.0, 1.0);
        longest - (longest - base).mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        longest: Duration::from_secs(8),
        base: Duration::from_secs(4),
        shortest: Duration::from_millis(1_500),
        cap: Duration::from_secs(8),
    };

    fn suspicion(member_count: u32) -> Suspicion {
        Suspicion::new(Time::ZERO, BOUNDS, member_count, NodeId(0))
    }

    #[test]
    fn mem_04_confirmations_shorten_by_lifeguards_formula() {
        let mut suspicion = suspicion(20);
        let mut waits = vec![suspicion.deadline().since(Time::ZERO).as_millis()];
        for accuser in 1..12 {
            suspicion.confirm(NodeId(accuser));
            waits.push(suspicion.deadline().since(Time::ZERO).as_millis());
        }

        // 8 − 4 · ln(c + 1) / ln(21); from the tenth accuser on nothing changes.
        assert_eq!(
            waits,
            [8_000, 7_089, 6_556, 6_178, 5_885, 5_645, 5_443, 5_267, 5_113, 5_113, 5_113, 5_113]
        );
    }

    #[test]
    fn mem_04_confirmations_leave_a_healthy_node_its_base() {
        let bounds = Bounds { longest: BOUNDS.base, ..BOUNDS };
        let mut suspicion = Suspicion::new(Time::ZERO, bounds, 20, NodeId(0));
        for accuser in 1..12 {
            suspicion.confirm(NodeId(accuser));
        }

        assert_eq!(suspicion.deadline(), Time::from_secs(4));
    }

    #[test]
    fn mem_04_one_accuser_repeating_itself_confirms_nothing() {
        let mut suspicion = suspicion(20);
        let before = suspicion.deadline();

        assert!(!suspicion.confirm(NodeId(0)));
        assert!(suspicion.confirm(NodeId(1)));
        assert!(!suspicion.confirm(NodeId(1)));
        assert!(suspicion.deadline() < before);
    }

    proptest! {
        #[test]
        fn mem_04_expiry_is_bounded_for_any_pattern(
            health_quarters in 4u32..13,
            member_count in 0u32..2_000,
            accusers in prop::collection::vec((0u64..60, any::<bool>()), 0..200),
        ) {
            let longest = BOUNDS.base * health_quarters / 4;
            let bounds = Bounds { longest, ..BOUNDS };
            let mut suspicion = Suspicion::new(Time::ZERO, bounds, member_count, NodeId(0));
            let mut before = suspicion.deadline();

            for (accuser, has_closed_link) in accusers {
                suspicion.confirm(NodeId(accuser));
                if has_closed_link {
                    suspicion.close_link();
                }
                let deadline = suspicion.deadline();
                prop_assert!(deadline <= before, "a confirmation moved {before} to {deadline}");
                prop_assert!(deadline >= Time::from_millis(1_500), "too early: {deadline}");
                prop_assert!(deadline <= Time::from_secs(8), "too late: {deadline}");
                before = deadline;
            }
        }
    }

    #[test]
    fn late_node_reads_what_is_queued_before_it_judges() {
        let mut suspicion = suspicion(2);
        let woken = Time::from_secs(9);

        suspicion.postpone(woken, Duration::from_secs(5));

        assert_eq!(suspicion.deadline(), woken + GRACE);
    }
}
