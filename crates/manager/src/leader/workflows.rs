//! What becomes of each workflow of a part: it waits, starts, loses attempts and gets others, ends, or
//! is settled with other datacenters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{
    AttemptId, EndStatus, FailureCause, NodeId, PartId, ShardIndex, Time, WorkflowIndex,
};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Context, Plan, UniqueRows};
use hyperscale_wire::{AttemptEnd, RefuseAttempt, StopMode, StopReason, end_publishing};

use super::dispatch::Dispatch;
use crate::placement::{Candidate, choose, has_work};
use crate::rows::first_rows;
use crate::state::{Attempt, CloseReason, Entry, Part, Placement, Shard, Workflow, shard_id};
use crate::{Leadership, Manager};

/// A workflow of a part with what the plan says of it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) part_id: PartId,
    pub(super) part: &'a Part,
    pub(super) index: WorkflowIndex,
    pub(super) workflow: &'a Workflow,
    pub(super) planned: &'a hyperscale_plan::Workflow,
    pub(super) elapsed: Duration,
}

impl Subject<'_> {
    /// Whether a stop of the part or of the workflow ends it. Workflows that run whatever happened
    /// before them (`after: { any: … }`) are ended only by a stop that cuts.
    pub(super) fn stop(&self) -> Option<(EndStatus, StopMode)> {
        if let Some(by) = &self.workflow.stopped_by {
            return Some((EndStatus::Cancelled { by: by.clone() }, StopMode::Graceful));
        }
        let (reason, mode) = self.part.stop.as_ref()?;
        // Of a part that never started there is nothing to clean up, and no time to do it in.
        let has_started = self.part.started.is_some();
        let runs_anyway =
            has_started && self.planned.after.any_end && !self.planned.after.is_nothing();
        (*mode == StopMode::Now || !runs_anyway).then(|| (reason.end_status(), *mode))
    }

    /// Whether the load's time is over.
    fn is_over(&self) -> bool {
        self.workflow.started.is_some_and(|started| {
            self.part.pauses.load_time(started, self.elapsed) >= self.planned.load.duration()
        })
    }

    /// Whether the shard has nothing left to do.
    fn is_shard_done(&self, shard: &Shard, has_failed: bool) -> bool {
        if shard.open().is_some() {
            return false;
        }
        let Some(closed) = shard.attempts.last().and_then(|attempt| attempt.closed.as_ref()) else {
            return false;
        };
        match &closed.why {
            CloseReason::Ended(
                AttemptEnd::Finished | AttemptEnd::Stopped | AttemptEnd::Aborted { .. },
            ) => true,
            CloseReason::Ended(AttemptEnd::CoreLost { .. } | AttemptEnd::Drained)
            | CloseReason::Refused(_)
            | CloseReason::Lost(_) => {
                let is_counted_out = (self.planned.load.iterations())
                    .is_some_and(|total| shard.iterations_done() >= shard.slice.count(total));
                self.stop().is_some() || has_failed || self.is_over() || is_counted_out
            }
        }
    }

    /// What the test said when it asked the job to stop, as a closed attempt tells.
    fn aborted(&self) -> Option<String> {
        let closes = self.workflow.shards.iter().flat_map(|shard| &shard.attempts);
        closes.filter_map(|attempt| attempt.closed.as_ref()).find_map(|closed| match &closed.why {
            CloseReason::Ended(AttemptEnd::Aborted { message }) => Some(message.clone()),
            CloseReason::Ended(_) | CloseReason::Refused(_) | CloseReason::Lost(_) => None,
        })
    }

    /// Why the workflow cannot go on, if it cannot.
    fn failure(&self, manager: &Manager) -> Option<FailureCause> {
        let (shard_retries, part_retries) = manager.config.retries;
        let mut reasons: Vec<String> = Vec::new();
        let mut is_exhausted = false;
        for shard in &self.workflow.shards {
            if shard.losses() >= manager.config.poison_after {
                let workers = u32::try_from(shard.losses()).unwrap_or(u32::MAX);
                return Some(FailureCause::Poison { workers });
            }
            let before = reasons.len();
            reasons.extend(shard.refusals().map(refusal_in_words));
            is_exhausted |= reasons.len() - before > shard_retries;
        }
        let spent: usize =
            self.part.workflows.iter().flat_map(|w| &w.shards).map(|s| s.refusals().count()).sum();
        (is_exhausted || spent > part_retries && !reasons.is_empty())
            .then_some(FailureCause::Placement { reasons })
    }
}

fn refusal_in_words(why: &RefuseAttempt) -> String {
    match why {
        RefuseAttempt::NoCores { free } => format!("a worker had only {free} free cores"),
        RefuseAttempt::Draining => "a worker was about to leave".to_owned(),
        RefuseAttempt::BadPlan { message } => message.clone(),
    }
}

impl Manager {
    /// A workflow has ended in all datacenters, as the job's owner says.
    pub(crate) fn settle_workflow(
        &mut self,
        now: Time,
        part: PartId,
        workflow: WorkflowIndex,
        status: EndStatus,
        published: BTreeMap<String, Value>,
    ) {
        let at = self.elapsed(now, part).unwrap_or_default();
        let Some(state) = self.state.parts.get(&part) else { return };
        let known = state.workflows.get(usize::from(workflow.0));
        if known.is_some_and(|known| known.ended.is_some() && known.settled.is_none()) {
            // All leaders find the same, from the same.
            let (status, published) = end_publishing(status, &state.context, published);
            self.propose(Entry::WorkflowSettled { part, workflow, status, at, published });
        }
    }

    pub(super) fn review_part(&mut self, now: Time, part_id: PartId) {
        let Some(part) = self.state.parts.get(&part_id).filter(|part| part.ended.is_none()) else {
            return;
        };
        let (hash, stop) = (part.plan, part.stop.clone());
        let Some(plan) = self.plan(hash) else { return };
        self.settle_time(now, part_id);
        let elapsed = self.elapsed(now, part_id);
        let is_over = elapsed.is_some_and(|elapsed| elapsed >= plan.run.deadline);
        if stop.is_none() && is_over && !self.awaits_time(part_id) {
            let (reason, mode) = (StopReason::TimedOut, StopMode::Graceful);
            self.propose(Entry::StopAsked { part: part_id, reason, mode });
        }
        if stop.is_some() && self.state.parts.get(&part_id).is_some_and(|p| p.steering.is_paused) {
            let at = elapsed.unwrap_or_default();
            self.propose(Entry::PartResumed { part: part_id, at });
        }
        let Some(part) = self.state.parts.get(&part_id) else { return };
        let mut entries = Vec::new();
        let mut dispatches = Vec::new();
        if elapsed.is_some() || stop.is_some() {
            let elapsed = elapsed.unwrap_or_default();
            for ((workflow, planned), index) in part.workflows.iter().zip(&plan.workflows).zip(0..)
            {
                let index = WorkflowIndex(index);
                let subject = Subject { part_id, part, index, workflow, planned, elapsed };
                if workflow.ended.is_none() {
                    self.review_workflow(now, &subject, &plan, &mut entries, &mut dispatches);
                }
            }
        }
        if part.workflows.iter().all(|workflow| workflow.ended.is_some()) {
            let ends = part.workflows.iter().filter_map(|w| w.ended.as_ref()).map(|(end, _)| end);
            let status = match &part.stop {
                Some((StopReason::Returned, _)) => StopReason::Returned.end_status(),
                Some(_) | None => EndStatus::combine(ends),
            };
            entries.push(Entry::PartEnded { part: part_id, status });
        }
        entries.into_iter().for_each(|entry| self.propose(entry));
        dispatches.into_iter().for_each(|dispatch| self.dispatch(now, dispatch));
    }

    fn review_workflow(
        &self,
        now: Time,
        subject: &Subject<'_>,
        plan: &Plan,
        entries: &mut Vec<Entry>,
        dispatches: &mut Vec<Dispatch>,
    ) {
        let (part, workflow) = (subject.part_id, subject.index);
        let at = subject.elapsed;
        let end =
            |status, published| Entry::WorkflowEnded { part, workflow, status, at, published };
        if subject.workflow.shards.is_empty() {
            if let Some(status) = end_before_start(subject, plan) {
                entries.push(end(status, BTreeMap::new()));
            }
            return;
        }
        let failure = subject.failure(self);
        let stop = subject.stop();
        let shards = || subject.workflow.shards();
        let aborted = subject.aborted();
        if let Some(message) = &aborted
            && subject.part.stop.is_none()
        {
            // The whole part stops, and only then it is clear how its workflows end.
            let reason = StopReason::Test { message: message.clone() };
            entries.push(Entry::StopAsked { part, reason, mode: StopMode::Graceful });
            return;
        }
        if shards().all(|(_, shard)| subject.is_shard_done(shard, failure.is_some())) {
            let closes = || shards().filter_map(|(_, s)| s.attempts.last()?.closed.as_ref());
            let was_stopped = closes()
                .any(|closed| !matches!(closed.why, CloseReason::Ended(AttemptEnd::Finished)));
            let status = match (failure, stop, aborted) {
                (Some(cause), ..) => EndStatus::Failed { cause },
                (None, Some((status, _)), _) if was_stopped => status,
                (None, _, Some(message)) => {
                    EndStatus::Failed { cause: FailureCause::Test { message } }
                }
                (None, ..) => EndStatus::Completed,
            };
            let published = published(subject);
            let own = subject
                .part
                .workflows
                .iter()
                .zip(0..)
                .map(|(workflow, index)| (WorkflowIndex(index), workflow.published.clone()));
            let before = match subject.part.is_shared {
                true => Context { layers: own.collect() },
                false => subject.part.context.clone(),
            };
            let (status, published) = end_publishing(status, &before, published);
            entries.push(end(status, published));
            return;
        }
        let Leadership::Leading(leading) = &self.leadership else { return };
        let mut all_accepted = true;
        for (shard_index, shard) in shards() {
            let Some((number, attempt)) = shard.open() else {
                all_accepted = false;
                if !subject.is_shard_done(shard, failure.is_some()) {
                    entries.extend(self.reopen(now, subject, plan, (shard_index, shard)));
                }
                continue;
            };
            let id = AttemptId { shard: shard_id(part, workflow, shard_index), number };
            let Some(live) = leading.live.get(&id) else { continue };
            all_accepted &= live.is_accepted;
            let aborted = live.ended.as_ref().and_then(|ended| match &ended.end {
                AttemptEnd::Aborted { message } => Some(message),
                AttemptEnd::Finished
                | AttemptEnd::Stopped
                | AttemptEnd::CoreLost { .. }
                | AttemptEnd::Drained => None,
            });
            if let Some(message) = aborted.filter(|_| subject.part.stop.is_none()) {
                let reason = StopReason::Test { message: message.clone() };
                entries.push(Entry::StopAsked { part, reason, mode: StopMode::Graceful });
            }
            let is_due =
                |sent: Option<Time>| sent.is_none_or(|sent| now >= sent + self.config.resend);
            let stop = if failure.is_some() {
                Some(StopMode::Graceful)
            } else {
                stop.as_ref().map(|(_, mode)| *mode)
            };
            if let Some(mode) = stop {
                // Renewals repeat it; this only makes it fast.
                if live.ended.is_none() && is_due(live.start_sent_at) {
                    dispatches.push(Dispatch::Stop { attempt: id, worker: attempt.worker, mode });
                }
                continue;
            }
            if live.ended.is_some() {
                continue;
            }
            if !live.is_accepted {
                if live.refusal.is_none() && is_due(live.offered_at) {
                    dispatches.push(Dispatch::Offer { attempt: id, worker: attempt.worker });
                }
                continue;
            }
            match (attempt.started, subject.workflow.started) {
                (None, Some(_)) => {
                    let at = subject.elapsed + self.config.start_margin;
                    entries.push(Entry::AttemptStarted { attempt: id, at });
                }
                (Some(at), Some(_)) if !live.is_running && is_due(live.start_sent_at) => {
                    dispatches.push(Dispatch::Start { attempt: id, worker: attempt.worker, at });
                }
                (Some(_) | None, _) => {}
            }
        }
        if all_accepted && stop.is_none() && subject.workflow.started.is_none() {
            let at = subject.elapsed + self.config.start_margin;
            entries.push(Entry::WorkflowStarted { part, workflow, at });
        }
    }

    /// The next attempt of a shard, if a worker can take it.
    fn reopen(
        &self,
        now: Time,
        subject: &Subject<'_>,
        plan: &Plan,
        (shard_index, shard): (ShardIndex, &Shard),
    ) -> Option<Entry> {
        let last = shard.attempts.last()?;
        let has_failed = |worker| shard.attempts.iter().any(|attempt| attempt.worker == worker);
        let candidates = self.candidates(now);
        let slice = shard.slice.clone();
        let rows = {
            let unique = UniqueRows::of(plan, subject.index);
            let draws = slice.within(&subject.part.rows);
            let started = subject.workflow.started.unwrap_or(subject.elapsed);
            let load_time = subject.part.pauses.load_time(started, subject.elapsed);
            let load = &subject.planned.load;
            first_rows(&unique, load, (&slice, &draws), shard.rows_end(), load_time)
        };
        let placement = match choose(&candidates, last.cores, has_failed) {
            Some(chosen) => Placement {
                worker: chosen.worker,
                incarnation: chosen.incarnation,
                cores: chosen.free,
                beside: None,
                slice,
                rows,
            },
            // No core is free, and none may be until the load ends: whoever runs another shard of
            // this workflow takes this one over too.
            None => {
                let sibling = self.sibling(subject, &candidates, has_failed)?;
                Placement {
                    worker: sibling.worker,
                    incarnation: sibling.incarnation,
                    cores: sibling.cores,
                    beside: Some(sibling.seat),
                    slice,
                    rows,
                }
            }
        };
        let shard_id = shard_id(subject.part_id, subject.index, shard_index);
        let number = u32::try_from(shard.attempts.len() + 1).ok()?;
        let attempt =
            AttemptId { shard: shard_id, number: hyperscale_model::AttemptNumber(number) };
        Some(Entry::AttemptOpened { attempt, placement })
    }

    /// The open attempt of a workflow beside which a lost shard costs least: on a worker that has
    /// not failed the shard if there is one, with the fewest attempts for its cores.
    fn sibling<'a>(
        &'a self,
        subject: &Subject<'a>,
        candidates: &[Candidate],
        has_failed: impl Fn(NodeId) -> bool,
    ) -> Option<&'a Attempt> {
        let open = || subject.workflow.shards.iter().filter_map(|shard| Some(shard.open()?.1));
        let crowd = |seat| open().filter(|attempt| attempt.seat == seat).count();
        open()
            .filter(|attempt| attempt.started.is_some())
            .filter(|attempt| {
                candidates.iter().any(|candidate| {
                    (candidate.worker, candidate.incarnation)
                        == (attempt.worker, attempt.incarnation)
                })
            })
            .min_by_key(|attempt| {
                // Attempts per core, in thousandths, so that more cores take more.
                let crowd = crowd(attempt.seat) * 1_000
                    / usize::try_from(attempt.cores).unwrap_or(1).max(1);
                (has_failed(attempt.worker), crowd, attempt.seat)
            })
    }
}

/// How a workflow that has no shards yet ends without them, if it does.
fn end_before_start(subject: &Subject<'_>, plan: &Plan) -> Option<EndStatus> {
    if let Some((status, _)) = subject.stop() {
        return Some(status);
    }
    let predecessors = || {
        subject.planned.after.workflows.iter().filter_map(|index| {
            let workflow = subject.part.workflows.get(usize::from(index.0))?;
            Some((plan.workflow(*index)?, *index, workflow))
        })
    };
    if !subject.planned.after.any_end {
        for (planned, index, _) in predecessors() {
            if let Some((status, _)) = subject.part.end_of(index)
                && *status != EndStatus::Completed
            {
                return Some(EndStatus::Skipped { because: planned.name.clone() });
            }
        }
    }
    if !is_ready(subject) {
        return None;
    }
    for (planned, index, workflow) in predecessors() {
        // Of a shared part it ran somewhere, if not here.
        let has_run = subject.part.is_shared || !workflow.shards.is_empty();
        let has_completed =
            has_run && matches!(subject.part.end_of(index), Some((EndStatus::Completed, _)));
        let missing = planned
            .publish
            .iter()
            .find(|publish| subject.part.context.get(index, &publish.name).is_none());
        if let Some(missing) = missing.filter(|_| has_completed && !subject.planned.after.any_end) {
            let name = format!("{}.{}", planned.name, missing.name);
            return Some(EndStatus::Failed { cause: FailureCause::Context { name } });
        }
    }
    (!has_work(&subject.planned.load, &subject.part.slice)).then_some(EndStatus::Completed)
}

/// Whether everything that a workflow waits for has ended, long enough ago.
pub(super) fn is_ready(subject: &Subject<'_>) -> bool {
    let mut ready_at = Duration::ZERO;
    for index in &subject.planned.after.workflows {
        match subject.part.end_of(*index) {
            Some((_, at)) => ready_at = ready_at.max(*at),
            None => return false,
        }
    }
    subject.elapsed >= ready_at + subject.planned.start_after
}

/// What a workflow gives to its dependents, from what its attempts published.
fn published(subject: &Subject<'_>) -> BTreeMap<String, Value> {
    let mut layer = BTreeMap::new();
    for publish in &subject.planned.publish {
        let mut values = (subject.workflow.shards.iter())
            .flat_map(|shard| &shard.attempts)
            .filter_map(|attempt| attempt.closed.as_ref()?.published.get(&publish.name));
        let value = match publish.collect {
            None => values.next_back().cloned(),
            Some(limit) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let all: Vec<Value> = values
                    .flat_map(|value| {
                        let Value::List(items) = value else { return vec![value.clone()] };
                        items.as_ref().clone()
                    })
                    .take(limit)
                    .collect();
                (!all.is_empty()).then(|| Value::List(Arc::new(all)))
            }
        };
        if let Some(value) = value {
            layer.insert(publish.name.clone(), value);
        }
    }
    layer
}
