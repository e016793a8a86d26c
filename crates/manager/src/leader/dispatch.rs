//! Cores that are given to workflows, and what workers are told of it.

use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{AttemptId, NodeId, PartId, Time, WorkflowIndex};
use hyperscale_plan::{Plan, Priority, RowLease, UniqueRows};
use hyperscale_wire::{Assignment, Message, StopMode};

use super::workflows::{Subject, is_ready};
use crate::placement::{Candidate, Wish, place};
use crate::rows::first_rows;
use crate::state::{Entry, Placement};
use crate::{Leadership, Manager};

/// A message to a worker that is due.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dispatch {
    Offer { attempt: AttemptId, worker: NodeId },
    Start { attempt: AttemptId, worker: NodeId, at: Duration },
    Stop { attempt: AttemptId, worker: NodeId, mode: StopMode },
}

impl Manager {
    /// Cores of a worker that are given away, or are about to be.
    pub(crate) fn given_away(&self, worker: NodeId) -> u32 {
        let used = self.state.cores_used(worker);
        match &self.leadership {
            Leadership::Leading(leading) => used + leading.reserved(worker),
            Leadership::Follower { .. } | Leadership::Barrier { .. } => used,
        }
    }

    /// Whether the workers of an entry still have the cores that it gives away: entries of one
    /// review are made from the same view, and earlier ones may be on their way.
    pub(crate) fn has_room(&self, entry: &Entry) -> bool {
        given_by(entry).into_iter().all(|(worker, cores)| {
            let report = self.workers.get(&worker).and_then(|view| view.report.as_ref());
            report.is_some_and(|report| self.given_away(worker) + cores <= report.cores)
        })
    }

    /// Workers that may be given cores, with how many.
    pub(crate) fn candidates(&self, now: Time) -> Vec<Candidate> {
        let rests = |worker: &NodeId| match &self.leadership {
            Leadership::Leading(leading) => leading.breakers.rests(now, worker),
            Leadership::Follower { .. } | Leadership::Barrier { .. } => false,
        };
        (self.workers.iter())
            .filter(|(worker, _)| !rests(worker))
            .filter(|(_, view)| view.is_connected && view.last_granted.is_some())
            .filter(|(_, view)| !view.is_gone)
            .filter(|(_, view)| now < view.last_heard + self.config.stale_after)
            .filter_map(|(&worker, view)| {
                let report = view.report.as_ref().filter(|report| !report.is_draining)?;
                let free = report.cores.saturating_sub(self.given_away(worker));
                Some(Candidate { worker, incarnation: view.incarnation, free })
            })
            .collect()
    }

    pub(super) fn dispatch(&mut self, now: Time, dispatch: Dispatch) {
        let (attempt, worker) = match dispatch {
            Dispatch::Offer { attempt, worker }
            | Dispatch::Start { attempt, worker, .. }
            | Dispatch::Stop { attempt, worker, .. } => (attempt, worker),
        };
        // A later life of the worker knows nothing of the attempt: it must be closed, not repeated.
        let incarnation = self.state.attempt(attempt).map(|known| known.incarnation);
        let view = self.workers.get(&worker).filter(|view| view.is_connected);
        if view.map(|view| view.incarnation) != incarnation {
            return;
        }
        let part_id = attempt.shard.part_id();
        let Some(part) = self.state.parts.get(&part_id) else { return };
        let Some(workflow) = part.workflows.get(usize::from(attempt.shard.workflow.0)) else {
            return;
        };
        let Some(shard) = self.state.shard(attempt.shard) else { return };
        let Some(known) = self.state.attempt(attempt) else { return };
        let now_elapsed = self.elapsed(now, part_id).unwrap_or_default();
        let plan = self.plans.get(&part.plan);
        let needs_secrets = plan.is_some_and(|plan| !plan.secrets.is_empty());
        let has_blobs =
            plan.is_some_and(|plan| plan.blobs().iter().all(|h| self.blobs.get(*h).is_some()));
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let fence = leading.fence;
        let Some(live) = leading.live.get_mut(&attempt) else { return };
        let message = match dispatch {
            Dispatch::Offer { .. } => {
                let secrets = self.secrets.get(&part_id).cloned();
                if !has_blobs || needs_secrets && secrets.is_none() {
                    return; // A peer's pieces or the gate's repeated offer bring them.
                }
                live.offered_at = Some(now);
                Message::OfferAttempt(Box::new(Assignment {
                    attempt,
                    fence,
                    plan: part.plan,
                    slice: shard.slice.clone(),
                    cores: known.cores,
                    seat: known.seat,
                    iterations_done: shard.iterations_done(),
                    load_sent: shard.load_sent(),
                    rows: RowLease {
                        slice: shard.slice.within(&part.rows),
                        from: known.rows.0,
                        until: known.rows.1,
                    },
                    steering: part.load_steering(attempt.shard.workflow),
                    context: workflow.context.clone(),
                    secrets: secrets.unwrap_or_default(),
                    window: part.window,
                    datacenter: self.config.datacenter.clone(),
                    job_started: part.started.unwrap_or_default(),
                }))
            }
            Dispatch::Start { at, .. } => {
                if now >= leading.confirmed_until {
                    return;
                }
                live.start_sent_at = Some(now);
                let workflow_started = workflow.started.unwrap_or(at);
                let job_elapsed = at.max(now_elapsed);
                Message::StartAttempt {
                    attempt,
                    fence,
                    start_in: at.saturating_sub(now_elapsed),
                    job_elapsed,
                    load_elapsed: job_elapsed.saturating_sub(workflow_started),
                    late: job_elapsed.saturating_sub(at),
                }
            }
            Dispatch::Stop { mode, .. } => {
                live.start_sent_at = Some(now);
                Message::StopAttempt { attempt, fence, mode }
            }
        };
        self.send(worker, message);
    }

    /// Gives free cores to workflows that could start.
    pub(super) fn place_ready(&mut self, now: Time) {
        let Leadership::Leading(leading) = &self.leadership else { return };
        if now >= leading.confirmed_until {
            return;
        }
        let mut ready: Vec<(Priority, PartId, WorkflowIndex, Arc<Plan>)> = Vec::new();
        for (&part_id, part) in self.state.parts.iter().filter(|(_, part)| part.ended.is_none()) {
            let Some(plan) = self.plans.get(&part.plan) else { continue };
            let Some(elapsed) = self.elapsed(now, part_id) else { continue };
            for ((workflow, planned), index) in part.workflows.iter().zip(&plan.workflows).zip(0..)
            {
                let index = WorkflowIndex(index);
                let subject = Subject { part_id, part, index, workflow, planned, elapsed };
                let is_waiting = workflow.shards.is_empty() && workflow.ended.is_none();
                if is_waiting && subject.stop().is_none() && is_ready(&subject) {
                    ready.push((plan.run.priority, part_id, index, Arc::clone(plan)));
                }
            }
        }
        if ready.is_empty() {
            return;
        }
        // The most urgent first, then the oldest job.
        ready.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let candidates = self.candidates(now);
        let slices: Vec<_> = ready
            .iter()
            .filter_map(|(_, part, ..)| Some(self.state.parts.get(part)?.slice.clone()))
            .collect();
        let wishes: Vec<Wish<'_>> = (ready.iter().zip(&slices))
            .filter_map(|((_, _, index, plan), slice)| {
                let planned = plan.workflow(*index)?;
                Some(Wish { load: &planned.load, cores: planned.cores, slice })
            })
            .collect();
        let placed = place(&wishes, &candidates);
        let entries: Vec<Entry> = (ready.iter().zip(placed))
            .filter_map(|((_, part_id, workflow, plan), placed)| {
                let mut shards = placed?;
                let part = self.state.parts.get(part_id)?;
                let unique = UniqueRows::of(plan, *workflow);
                let load = &plan.workflow(*workflow)?.load;
                for shard in &mut shards {
                    let draws = shard.slice.within(&part.rows);
                    let slices = (&shard.slice, &draws);
                    shard.rows = first_rows(&unique, load, slices, 0, Duration::ZERO);
                }
                // Whatever else has ended by now may have ended later elsewhere.
                let context = part.context.of(&plan.before(*workflow));
                let (part, workflow) = (*part_id, *workflow);
                Some(Entry::WorkflowPlaced { part, workflow, shards, context })
            })
            .collect();
        // One at a time where they share cores: the next review sees what this one took.
        entries.into_iter().for_each(|entry| self.propose(entry));
    }
}

/// The cores that an entry gives away.
pub(super) fn given_by(entry: &Entry) -> Vec<(NodeId, u32)> {
    let of = |placement: &Placement| (placement.worker, placement.cores);
    match entry {
        Entry::WorkflowPlaced { shards, .. } => shards.iter().map(of).collect(),
        Entry::AttemptOpened { placement, .. } if placement.beside.is_some() => Vec::new(),
        Entry::AttemptOpened { placement, .. } => vec![of(placement)],
        Entry::LeaderStarted { .. }
        | Entry::PartAccepted { .. }
        | Entry::PartStarted { .. }
        | Entry::WorkflowStarted { .. }
        | Entry::AttemptStarted { .. }
        | Entry::RowsLeased { .. }
        | Entry::AttemptClosed { .. }
        | Entry::StopAsked { .. }
        | Entry::WorkflowStopAsked { .. }
        | Entry::PartSteered { .. }
        | Entry::PartResumed { .. }
        | Entry::WorkflowEnded { .. }
        | Entry::WorkflowSettled { .. }
        | Entry::PartEnded { .. }
        | Entry::PartForgotten { .. } => Vec::new(),
    }
}
