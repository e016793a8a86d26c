//! Load that was planned and not sent, from what the ledger holds.

use std::time::Duration;

use hyperscale_model::{PartId, WorkflowIndex};
use hyperscale_plan::{Amount, Load, LoadKind, Plan};
use hyperscale_wire::Gap;

use crate::state::{Part, shard_id};

/// Steps in which users are summed over a gap.
const STEPS: u32 = 100;

/// The gaps of a part up to `elapsed` of the job's time.
pub(crate) fn gaps(id: PartId, part: &Part, plan: &Plan, elapsed: Duration) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for ((workflow, planned), index) in part.workflows.iter().zip(&plan.workflows).zip(0..) {
        let Some(started) = workflow.started else { continue };
        let load = &planned.load;
        if load.kind() == LoadKind::Iterations {
            continue; // Its remaining iterations are done later, none is left out.
        }
        let pauses = &part.pauses;
        let load_end = pauses.job_time(started, load.duration()).unwrap_or(elapsed);
        let end = workflow.ended.as_ref().map_or(elapsed, |(_, at)| *at).min(load_end);
        let amount = part.steering.amounts.get(&WorkflowIndex(index)).copied();
        for (shard_index, shard) in workflow.shards() {
            for (number, attempt) in shard.attempts.iter().enumerate() {
                let Some(closed) = &attempt.closed else { continue };
                let Some(cause) = closed.why.gap_cause() else { continue };
                let Some(attempt_started) = attempt.started else { continue };
                let resumed = shard.attempts[number + 1..].iter().find_map(|next| next.started);
                let from = closed.until.max(attempt_started);
                let to = resumed.unwrap_or(end).min(end);
                if to <= from {
                    continue;
                }
                // What the next attempt leaves out, since this one may have sent it.
                let skipped = shard.attempts[number + 1..]
                    .first()
                    .map_or(Duration::ZERO, |_| closed.load_sent);
                let load_to = pauses.load_time(started, to).max(skipped);
                let window = (pauses.load_time(started, from), load_to);
                if window.1 <= window.0 {
                    continue; // Its load stood still.
                }
                let (starts, vu_seconds) = planned_between(load, &shard.slice, window, amount);
                let shard = shard_id(id, WorkflowIndex(index), shard_index);
                let worker = attempt.worker;
                gaps.push(Gap { shard, from, to, starts, vu_seconds, cause, worker });
            }
        }
    }
    gaps
}

#[expect(clippy::cast_precision_loss, reason = "users are far below 2^53")]
fn planned_between(
    load: &Load,
    slice: &hyperscale_plan::Slice,
    (from, to): (Duration, Duration),
    amount: Option<Amount>,
) -> (u64, f64) {
    if let Some(arrivals) = load.arrivals() {
        let due = |at| {
            let local = slice.count(arrivals.due_before(at));
            amount.map_or(local, |amount| amount.of_starts(slice, local))
        };
        return (due(to).saturating_sub(due(from)), 0.0);
    }
    let step = (to - from) / STEPS;
    let users: f64 = (0..STEPS)
        .filter_map(|n| load.scaled_vus_at(from + step * n + step / 2, amount))
        .map(|vus| slice.count(u64::from(vus)) as f64)
        .sum();
    (0, users * step.as_secs_f64())
}
