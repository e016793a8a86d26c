//! What must hold of the manager's decided state, and what both ledgers must come to in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_gate::state::State as GateState;
use hyperscale_manager::state::{CloseReason, Closed, Part, State, Workflow, shard_id};
use hyperscale_model::{
    AttemptId, AttemptNumber, EndStatus, JobId, NodeId, PartId, Time, WorkflowIndex,
};
use hyperscale_plan::{LoadKind, Plan, Steering, UniqueRows};
use hyperscale_wire::StopMode;

use crate::host::Host;

type Checked = Result<(), String>;

/// How long an end may take beyond what the plan allows: some resends.
const SLACK: Duration = Duration::from_secs(6);
/// How long a change of a job's steering takes to a datacenter.
const STEERED_WITHIN: Duration = Duration::from_secs(2);
/// How long an attempt may wait for its start.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Until when something is, or was, in the way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    /// Of anybody.
    pub(crate) all: Time,
    /// Between the gate and the manager.
    pub(crate) head: Time,
}

/// How a part was steered from some time on.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// As its datacenter counts it.
    pub(crate) number: u64,
    /// When it was decided there.
    pub(crate) at: Time,
    pub(crate) steering: Steering,
}

/// What was decided once and must not change.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    closed: BTreeMap<AttemptId, Closed>,
    workflows: BTreeMap<(PartId, WorkflowIndex), EndStatus>,
    parts: BTreeMap<PartId, EndStatus>,
    placed: BTreeMap<(PartId, WorkflowIndex), ()>,
    /// Workflows that have ended, those with nothing to do among them.
    ended: BTreeSet<(PartId, WorkflowIndex)>,
    /// Since when stops are known: of a job, or of one workflow.
    stops: BTreeMap<(JobId, Option<WorkflowIndex>), Time>,
    waiting: BTreeMap<AttemptId, Time>,
    /// How each part was steered, in order.
    turns: BTreeMap<PartId, Vec<Turn>>,
    /// Since when the gates have decided of each job what its part does not have.
    unsteered: BTreeMap<PartId, (u64, Time)>,
}

impl Decided {
    pub(crate) fn on_manager(
        &mut self,
        now: Time,
        state: &State,
        hosts: &BTreeMap<NodeId, Host>,
        plans: impl Fn(JobId) -> Option<Plan>,
    ) -> Checked {
        let mut used: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut seats: BTreeMap<AttemptId, (NodeId, u32)> = BTreeMap::new();
        for (id, attempt) in state.open_attempts() {
            let host = hosts.get(&attempt.worker);
            let cores = host.map_or(u32::MAX, |host| host.cores);
            // An earlier life's attempts hold nothing of this one.
            if host.is_some_and(|host| host.incarnation() != attempt.incarnation) {
                continue;
            }
            // Attempts of one workflow may share cores, which count once.
            let place = (attempt.worker, attempt.cores);
            let workflow = |id: AttemptId| (id.shard.part_id(), id.shard.workflow);
            if let Some(known) = seats.insert(attempt.seat, place) {
                if known != place || workflow(attempt.seat) != workflow(id) {
                    return Err(format!(
                        "INV-5: {id} shares the cores of {} wrongly",
                        attempt.seat
                    ));
                }
                continue;
            }
            let sum = used.entry(attempt.worker).or_default();
            *sum += attempt.cores;
            if *sum > cores {
                let worker = attempt.worker;
                return Err(format!("INV-5: {sum} of {cores} cores of {worker} are given, {id}"));
            }
        }
        for (&id, part) in &state.parts {
            self.on_turn(now, id, part)?;
            if let Some(end) = &part.ended {
                let known = self.parts.entry(id).or_insert_with(|| end.clone());
                if known != end {
                    return Err(format!("INV-2: part {id} ended as {known:?}, then as {end:?}"));
                }
            }
            for (workflow, index) in part.workflows.iter().zip(0..) {
                self.on_workflow(id, part, WorkflowIndex(index), workflow, &plans)?;
            }
        }
        Ok(())
    }

    fn on_turn(&mut self, now: Time, id: PartId, part: &Part) -> Checked {
        let turns = self.turns.entry(id).or_default();
        let known = turns.last().map_or(0, |turn| turn.number);
        if part.turn <= known {
            return Ok(()); // This manager is behind.
        }
        let version = turns.last().map_or(0, |turn| turn.steering.version);
        if part.steering.version < version {
            let now = part.steering.version;
            return Err(format!("INV-15: part {id} is steered by {now} after {version}"));
        }
        turns.push(Turn { number: part.turn, at: now, steering: part.steering.clone() });
        Ok(())
    }

    /// How a part was steered, in order, if it is known here.
    pub(crate) fn turns(&self, part: PartId) -> Option<&[Turn]> {
        self.turns.get(&part).map(Vec::as_slice)
    }

    fn on_workflow(
        &mut self,
        id: PartId,
        part: &Part,
        index: WorkflowIndex,
        workflow: &Workflow,
        plans: &impl Fn(JobId) -> Option<Plan>,
    ) -> Checked {
        if workflow.ended.is_some() {
            self.ended.insert((id, index));
        }
        for (shard_index, shard) in workflow.shards() {
            let shard_id = shard_id(id, index, shard_index);
            for (attempt, number) in shard.attempts.iter().zip(1u32..) {
                let id = AttemptId { shard: shard_id, number: AttemptNumber(number) };
                let Some(closed) = &attempt.closed else {
                    if usize::try_from(number).ok() != Some(shard.attempts.len()) {
                        return Err(format!("INV-4: {id} is open beside a later one"));
                    }
                    continue;
                };
                let known = self.closed.entry(id).or_insert_with(|| closed.clone());
                if known != closed {
                    return Err(format!("INV-4: {id} was closed twice"));
                }
            }
        }
        if workflow.shards.is_empty() {
            return Ok(());
        }
        let Some(plan) = plans(id.job) else { return Ok(()) };
        let Some(planned) = plan.workflow(index) else { return Ok(()) };
        if self.placed.insert((id, index), ()).is_none() {
            for units in
                [u64::from(planned.load.vus_max()), planned.load.iterations().unwrap_or(97)]
            {
                let sum: u64 = workflow.shards.iter().map(|s| s.slice.count(units)).sum();
                if sum != part.slice.count(units) {
                    return Err(format!(
                        "INV-15: the shards of {id}/{index} hold {sum} of {units}"
                    ));
                }
            }
            for needed in &planned.after.workflows {
                let end = part.end_of(*needed);
                let fits = end.is_some_and(|(status, _)| {
                    planned.after.any_end || *status == EndStatus::Completed
                });
                if !fits {
                    return Err(format!("{id}/{index} was placed after {needed}: {end:?}"));
                }
            }
        }
        let Some((status, at)) = &workflow.ended else { return Ok(()) };
        let known = self.workflows.entry((id, index)).or_insert_with(|| status.clone());
        if known != status {
            return Err(format!("INV-2: {id}/{index} ended as {known:?}, then as {status:?}"));
        }
        let (Some(total), Some(started)) = (planned.load.iterations(), workflow.started) else {
            return Ok(());
        };
        let is_in_time = *at + Duration::from_millis(300) < started + planned.load.duration();
        for shard in &workflow.shards {
            let (done, wanted) = (shard.iterations_done(), shard.slice.count(total));
            // Users stop where unique rows are used up.
            let draws = shard.slice.within(&part.rows);
            let has_rows = shard.rows_end() < UniqueRows::of(&plan, index).draws(&draws);
            let is_whole = planned.load.kind() == LoadKind::Iterations
                && has_rows
                && *status == EndStatus::Completed
                && is_in_time;
            if done > wanted || (is_whole && done != wanted) {
                return Err(format!(
                    "{id}/{index} ended as {status:?} with {done} of {wanted} iterations of a shard"
                ));
            }
        }
        Ok(())
    }

    /// What must have happened by now, if nothing was in its way since `trouble`.
    pub(crate) fn on_time(
        &mut self,
        now: Time,
        trouble: Trouble,
        gates: &GateState,
        datacenter: &str,
        state: &State,
        plans: impl Fn(JobId) -> Option<Plan>,
    ) -> Checked {
        let is_here = |job: &hyperscale_gate::state::Job| {
            let mut parts = job.parts.iter();
            parts.any(|(target, end)| target.datacenter.as_str() == datacenter && end.is_none())
        };
        let live = gates.jobs.iter().filter(|(_, job)| job.ended.is_none() && is_here(job));
        for (&id, job) in live {
            let Some(plan) = plans(id) else { continue };
            if job.is_stopping() {
                self.stops.entry((id, None)).or_insert(now);
            }
            for (workflow, _) in &job.stopped_workflows {
                self.stops.entry((id, Some(*workflow))).or_insert(now);
            }
            let is_sharp = job.cancel.as_ref().is_some_and(|(_, mode)| *mode == StopMode::Now);
            let part = state.parts.iter().find(|(part, _)| part.job == id);
            if let Some((&part_id, part)) = part {
                let wanted = job.steering_version();
                let (known, since) = self.unsteered.entry(part_id).or_insert((wanted, now));
                if *known != wanted {
                    (*known, *since) = (wanted, now);
                }
                let is_stopping = job.is_stopping();
                let is_done = is_stopping || part.stop.is_some() || part.ended.is_some();
                let has_time = now <= trouble.all.max(*since) + STEERED_WITHIN;
                if !is_done && !has_time && part.steering.version < wanted {
                    let has = part.steering.version;
                    return Err(format!(
                        "INV-15: {part_id} is steered by {has}, and by {wanted} since {since}"
                    ));
                }
            }
            let part = part.map(|(_, part)| part);
            for ((known, of), since) in self.stops.iter().filter(|((known, _), _)| *known == id) {
                let is_told = part.is_none_or(|part| part.stop.is_some() || part.ended.is_some());
                if of.is_none() && !is_told && now > trouble.head.max(*since) + SLACK {
                    return Err(format!(
                        "{known} stops since {since}, and its datacenter does not"
                    ));
                }
                let by = trouble.all.max(*since) + SLACK;
                for (planned, index) in plan.workflows.iter().zip(0..) {
                    let workflow = part.and_then(|part| part.workflows.get(usize::from(index)));
                    let runs_anyway = planned.after.any_end && !is_sharp;
                    let concerns = match of {
                        Some(of) => *of == WorkflowIndex(index),
                        None => !runs_anyway,
                    };
                    let is_open = workflow.is_some_and(|workflow| workflow.ended.is_none());
                    if concerns && is_open && now > by + planned.graceful_stop {
                        let name = &planned.name;
                        return Err(format!(
                            "{known}: `{name}` should have stopped since {since}, and has not"
                        ));
                    }
                }
                let rest: Duration = (plan.workflows.iter())
                    .map(|w| w.start_after + w.load.duration() + w.graceful_stop * 2)
                    .sum();
                if of.is_none() && now > by + rest + SLACK * 4 {
                    return Err(format!("{known} should have stopped since {since}, and has not"));
                }
            }
        }
        self.waiting.retain(|id, _| state.attempt(*id).is_some_and(|a| a.closed.is_none()));
        for (id, attempt) in state.open_attempts() {
            if attempt.started.is_some() {
                self.waiting.remove(&id);
                continue;
            }
            let since = *self.waiting.entry(id).or_insert(now);
            if now > trouble.all.max(since) + START_PATIENCE {
                return Err(format!("{id} has waited for its start since {since}"));
            }
        }
        Ok(())
    }

    /// Attempts that were closed since their worker was taken for lost.
    pub(crate) fn lost(&self) -> impl Iterator<Item = AttemptId> + '_ {
        let closed = self.closed.iter();
        closed.filter(|(_, closed)| matches!(closed.why, CloseReason::Lost(_))).map(|(&id, _)| id)
    }

    /// Whether a part's workflow has ended.
    pub(crate) fn has_workflow_ended(&self, part: PartId, workflow: WorkflowIndex) -> bool {
        self.ended.contains(&(part, workflow))
    }

    /// Whether an attempt was closed as ended by its worker.
    pub(crate) fn has_ended(&self, attempt: AttemptId) -> bool {
        let closed = self.closed.get(&attempt);
        closed.is_some_and(|closed| matches!(closed.why, CloseReason::Ended(_)))
    }
}
