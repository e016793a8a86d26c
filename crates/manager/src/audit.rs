//! The decisions of a datacenter as an audit trail has them.

use hyperscale_model::Decision;

use crate::state::{CloseReason, Entry};

/// An entry that took effect, if people look back at it: leases and starts by the thousand are not.
pub(crate) fn decision(index: u64, entry: &Entry) -> Option<Decision> {
    let new = |what: &str| Decision::new(index, what);
    Some(match entry {
        Entry::LeaderStarted { node } => Decision { node: Some(*node), ..new("leader_started") },
        Entry::PartAccepted { part, gate, .. } => {
            Decision { job: Some(part.job), node: Some(*gate), ..new("part_accepted") }
        }
        Entry::PartStarted { part, .. } => Decision { job: Some(part.job), ..new("part_started") },
        Entry::AttemptOpened { attempt, placement } => {
            let (job, node) = (Some(attempt.shard.job), Some(placement.worker));
            Decision { job, node, detail: attempt.to_string(), ..new("attempt_opened") }
        }
        Entry::AttemptClosed { attempt, closed } => {
            let CloseReason::Lost(cause) = &closed.why else { return None };
            let detail = format!("{attempt}: {cause:?}");
            Decision { job: Some(attempt.shard.job), detail, ..new("attempt_lost") }
        }
        Entry::StopAsked { part, reason, .. } => {
            let detail = format!("{reason:?}");
            Decision { job: Some(part.job), detail, ..new("stop_asked") }
        }
        Entry::PartEnded { part, status } => {
            let detail = status.as_str().to_owned();
            Decision { job: Some(part.job), detail, ..new("part_ended") }
        }
        Entry::WorkflowPlaced { .. }
        | Entry::WorkflowStarted { .. }
        | Entry::AttemptStarted { .. }
        | Entry::RowsLeased { .. }
        | Entry::WorkflowStopAsked { .. }
        | Entry::PartSteered { .. }
        | Entry::PartResumed { .. }
        | Entry::WorkflowEnded { .. }
        | Entry::WorkflowSettled { .. }
        | Entry::PartForgotten { .. } => return None,
    })
}
