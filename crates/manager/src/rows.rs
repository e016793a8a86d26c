//! Unique rows: who may draw which, and what became of them.
//!
//! A shard's draws are leased to its attempts, one after the other: each lease is an entry before a
//! worker hears of it, so whoever leads and whichever attempt runs, what was leased is known. The
//! next attempt begins where the last one certainly ended: behind the draws that its worker said it
//! had made, or behind all that it was leased.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{AttemptId, PartId, WorkflowIndex};
use hyperscale_plan::{DataIndex, Load, Plan, Slice, UniqueRows};
use hyperscale_wire::{AttemptReport, Message, RowsUsed};

use crate::Manager;
use crate::leader::Leading;
use crate::state::{Attempt, Entry, Part, shard_id};

/// Under an arrival rate an attempt begins with the rows of so much of its load: a start that has
/// no row is not made, and it takes a few windows to know what is used.
const STARTS_AHEAD: Duration = Duration::from_secs(8);
/// With how many rows each of its users begins otherwise: those that wait for more ask for more.
const ROWS_EACH: u64 = 4;
const ROWS_FIRST_MAX: u64 = 1_000;

/// How many rows an attempt is leased when it is opened, of which the shard has drawn `from`, when
/// the load's time is `load_time`.
pub(crate) fn first_rows(
    unique: &UniqueRows,
    load: &Load,
    (slice, draws): (&Slice, &Slice),
    from: u64,
    load_time: Duration,
) -> u64 {
    if unique.is_empty() {
        return 0;
    }
    let wanted = match load.arrivals() {
        Some(arrivals) => {
            let due = |at| slice.count(arrivals.due_before(at));
            let due = due(load_time + STARTS_AHEAD).saturating_sub(due(load_time));
            due + due / 4 + 16 // At random there may be more.
        }
        None => (slice.count(u64::from(load.vus_max())) * ROWS_EACH).min(ROWS_FIRST_MAX),
    };
    wanted.min(unique.draws(draws).saturating_sub(from))
}

/// What became of the rows of a part, as far as this leader knows.
pub(crate) fn rows_used(
    leading: &Leading,
    (id, part): (PartId, &Part),
    plan: &Plan,
) -> Vec<RowsUsed> {
    let mut used: BTreeMap<DataIndex, (u64, u64)> = BTreeMap::new();
    for (workflow, index) in part.workflows.iter().zip(0..) {
        let index = WorkflowIndex(index);
        let unique = UniqueRows::of(plan, index);
        let mut counts = (0, 0);
        for (shard_index, shard) in workflow.shards() {
            for (attempt, number) in shard.attempts.iter().zip(1..) {
                let number = hyperscale_model::AttemptNumber(number);
                let attempt_id = AttemptId { shard: shard_id(id, index, shard_index), number };
                let live = leading.live.get(&attempt_id);
                let iterations = live.map_or(0, |live| live.relay.iterations);
                let (sent, possibly) = attempt.rows_sent(iterations);
                counts = (counts.0 + sent, counts.1 + possibly);
            }
        }
        for (source, _) in unique.ending(&Slice::whole()) {
            let (sent, possibly) = used.entry(source).or_default();
            (*sent, *possibly) = (*sent + counts.0, *possibly + counts.1);
        }
    }
    let used = used.into_iter();
    used.map(|(source, (sent, possibly_sent))| RowsUsed { source, sent, possibly_sent }).collect()
}

impl Manager {
    /// Leases an attempt the rows that its worker asks for, and tells it again of those that it has
    /// not heard of.
    pub(crate) fn on_rows_reported(&mut self, reported: &AttemptReport) {
        let id = reported.attempt;
        let Some(known) = self.state.attempt(id) else { return };
        let leased = known.rows.1;
        if reported.rows_until < leased {
            self.tell_rows(id, known.worker, leased);
        }
        if reported.rows_wanted <= leased {
            return;
        }
        let Some(part) = self.state.parts.get(&id.shard.part_id()) else { return };
        let (Some(shard), Some(plan)) = (self.state.shard(id.shard), self.plans.get(&part.plan))
        else {
            return;
        };
        let draws = shard.slice.within(&part.rows);
        let until = UniqueRows::of(plan, id.shard.workflow).draws(&draws).min(reported.rows_wanted);
        if until > leased {
            self.propose(Entry::RowsLeased { attempt: id, until });
        }
    }

    /// Tells a worker of rows that are decided to be its attempt's.
    pub(crate) fn tell_rows(
        &mut self,
        attempt: AttemptId,
        worker: hyperscale_model::NodeId,
        until: u64,
    ) {
        let Some(fence) = self.leading() else { return };
        if self.workers.get(&worker).is_some_and(|view| view.is_connected) {
            self.send(worker, Message::LeaseRows { attempt, fence, until });
        }
    }
}

impl Attempt {
    /// How many rows it has drawn, and how many more it may have drawn, if its counted deltas hold
    /// so many iterations.
    pub(crate) fn rows_sent(&self, iterations: u64) -> (u64, u64) {
        let (from, until) = self.rows;
        let leased = until - from;
        let iterations = self.closed.as_ref().map_or(iterations, |closed| closed.iterations);
        match self.draws_made() {
            Some(made) => (made, 0),
            None => (iterations.min(leased), leased - iterations.min(leased)),
        }
    }

    /// The first draw that it certainly has not made and will not make.
    pub(crate) fn rows_end(&self) -> u64 {
        let (from, until) = self.rows;
        self.draws_made().map_or(until, |made| from + made)
    }

    /// How many draws it has made, if that is known.
    fn draws_made(&self) -> Option<u64> {
        let (from, until) = self.rows;
        if self.started.is_none() {
            return Some(0); // Its worker was never told to start it.
        }
        let made = self.closed.as_ref()?.draws_made?;
        Some(made.min(until - from))
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::{DeltaSeq, Incarnation, NodeId};
    use hyperscale_wire::GapCause;
    use proptest::prelude::*;

    use super::*;
    use crate::state::{CloseReason, Closed};

    fn attempt(rows: (u64, u64), started: bool, iterations: u64, made: Option<u64>) -> Attempt {
        let shard = shard_id(
            PartId { job: hyperscale_model::JobId::from_parts(1, 1), part: Default::default() },
            WorkflowIndex(0),
            Default::default(),
        );
        Attempt {
            worker: NodeId(1),
            incarnation: Incarnation(1),
            cores: 1,
            seat: AttemptId { shard, number: hyperscale_model::AttemptNumber(1) },
            rows,
            started: started.then_some(Duration::ZERO),
            closed: Some(Closed {
                why: CloseReason::Lost(GapCause::WorkerLost),
                last_delta: DeltaSeq(1),
                until: Duration::ZERO,
                iterations,
                load_sent: Duration::ZERO,
                draws_made: made,
                published: BTreeMap::new(),
            }),
        }
    }

    proptest! {
        #[test]
        fn dat_01_what_follows_an_attempt_is_all_that_it_cannot_have_drawn(
            from in 0u64..1_000,
            leased in 0u64..1_000,
            iterations in 0u64..1_200,
            started in any::<bool>(),
            made in proptest::option::of(0u64..1_200),
        ) {
            let attempt = attempt((from, from + leased), started, iterations, made);

            let (sent, possibly) = attempt.rows_sent(0);

            prop_assert_eq!(attempt.rows_end(), from + sent + possibly, "no row is lost or doubled");
            prop_assert!(attempt.rows_end() <= from + leased);
            if started && made.is_none() {
                prop_assert_eq!(attempt.rows_end(), from + leased, "nobody knows what it drew");
                prop_assert_eq!(sent, iterations.min(leased));
            }
            if !started {
                prop_assert_eq!((sent, possibly), (0, 0), "it was never told to begin");
            }
        }
    }
}
