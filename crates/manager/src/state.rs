//! What must survive: the state that the datacenter's ledger holds, and the rules of who wins.
//!
//! `apply` is total and deterministic: an entry that no longer fits is decided and changes nothing.
//! Nothing here looks at a clock or at a worker; leaders decide what to propose from this and from
//! what they see.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{
    AttemptId, AttemptNumber, BlobHash, DeltaSeq, EndStatus, Fence, Incarnation, NodeId, PartId,
    ShardId, ShardIndex, WallTime, WorkflowIndex,
};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Context, LoadSteering, Pauses, Slice, Steering};
use hyperscale_wire::{AttemptEnd, GapCause, RefuseAttempt, StopMode, StopReason};
use serde::{Deserialize, Serialize};

/// Forgotten parts that are remembered, so that a late offer does not bring one back.
const TOMBSTONES_MAX: usize = 10_000;

/// An entry of the datacenter's ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A manager leads; the entry's index is its fence.
    LeaderStarted {
        /// Which.
        node: NodeId,
    },
    /// The part runs here; or, for a known part, its job has another owner.
    PartAccepted {
        /// The part.
        part: PartId,
        /// The owner's fence.
        fence: Fence,
        /// The owner.
        gate: NodeId,
        /// The plan.
        plan: BlobHash,
        /// How many workflows the plan has.
        workflows: u16,
        /// Its share.
        slice: Slice,
        /// What of all unique rows that share draws from.
        rows: Slice,
        /// Whether other datacenters have the rest of each load.
        is_shared: bool,
        /// The length of a window.
        window: Duration,
    },
    /// The part's time has started.
    PartStarted {
        /// The part.
        part: PartId,
        /// When.
        at: WallTime,
    },
    /// The workflow's shards have workers: the first attempt of each is open.
    WorkflowPlaced {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// Its shards.
        shards: Vec<Placement>,
        /// The context that every attempt of it gets.
        context: Context,
    },
    /// All shards of the workflow were ready: it starts.
    WorkflowStarted {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// The job's time.
        at: Duration,
    },
    /// A shard goes on, or tries again, on another worker.
    AttemptOpened {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        placement: Placement,
    },
    /// An attempt other than a shard's first starts.
    AttemptStarted {
        /// The attempt.
        attempt: AttemptId,
        /// The job's time.
        at: Duration,
    },
    /// An attempt may make more draws of unique rows.
    RowsLeased {
        /// The attempt.
        attempt: AttemptId,
        /// The first that it may not make, by its number within the shard's share.
        until: u64,
    },
    /// An attempt is over: from here on it adds nothing.
    AttemptClosed {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        closed: Closed,
    },
    /// The part shall stop.
    StopAsked {
        /// The part.
        part: PartId,
        /// Why.
        reason: StopReason,
        /// How.
        mode: StopMode,
    },
    /// A workflow shall stop.
    WorkflowStopAsked {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// Who asked.
        by: String,
    },
    /// The job's steering has reached this datacenter.
    PartSteered {
        /// The part.
        part: PartId,
        /// All of it.
        steering: Steering,
        /// The job's time at which loads stop or go on, if they do.
        at: Duration,
    },
    /// A part that stops stands still no more: what runs after a stop would never end.
    PartResumed {
        /// The part.
        part: PartId,
        /// The job's time at which loads go on.
        at: Duration,
    },
    /// A workflow is over.
    WorkflowEnded {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// How.
        status: EndStatus,
        /// The job's time.
        at: Duration,
        /// What it publishes.
        published: BTreeMap<String, Value>,
    },
    /// A workflow of a shared part has ended in all datacenters: what waits for it need not any more.
    WorkflowSettled {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// How, all datacenters together.
        status: EndStatus,
        /// The job's time when that was known here.
        at: Duration,
        /// What it publishes, all datacenters together.
        published: BTreeMap<String, Value>,
    },
    /// The part is over.
    PartEnded {
        /// The part.
        part: PartId,
        /// How.
        status: EndStatus,
    },
    /// The gate has recorded the part's end.
    PartForgotten {
        /// The part.
        part: PartId,
    },
}

/// Where an attempt runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The worker.
    pub worker: NodeId,
    /// Its incarnation: a later one does not know the attempt.
    pub incarnation: Incarnation,
    /// How many of its cores.
    pub cores: u32,
    /// The attempt of the same workflow on whose cores it runs, if it has none of its own.
    pub beside: Option<AttemptId>,
    /// Its share of the workflow's load.
    pub slice: Slice,
    /// How many draws of unique rows it may make before it is leased more.
    pub rows: u64,
}

/// How an attempt was closed, and what of it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Why.
    pub why: CloseReason,
    /// The last delta that counts.
    pub last_delta: DeltaSeq,
    /// The job's time up to which the counted deltas reach.
    pub until: Duration,
    /// Iterations in the counted deltas.
    pub iterations: u64,
    /// The load's time up to which it may have sent starts, if that may be ahead of the load: it
    /// heard of a pause late, or never.
    pub load_sent: Duration,
    /// How many draws of unique rows it has made, if its worker has said so.
    pub draws_made: Option<u64>,
    /// What it published.
    pub published: BTreeMap<String, Value>,
}

/// Why an attempt was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// It ended by itself or was told to.
    Ended(AttemptEnd),
    /// The worker refused it.
    Refused(RefuseAttempt),
    /// The worker is gone.
    Lost(GapCause),
}

impl CloseReason {
    /// The cause of the gap that this leaves, if it leaves one.
    #[must_use]
    pub const fn gap_cause(&self) -> Option<GapCause> {
        match self {
            Self::Lost(cause) => Some(*cause),
            Self::Ended(AttemptEnd::CoreLost { .. }) => Some(GapCause::CoreLost),
            Self::Ended(AttemptEnd::Drained) => Some(GapCause::WorkerDrained),
            Self::Ended(
                AttemptEnd::Finished | AttemptEnd::Stopped | AttemptEnd::Aborted { .. },
            )
            | Self::Refused(_) => None,
        }
    }
}

/// The replicated state of a datacenter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// Parts that run here or whose end is not recorded elsewhere.
    pub parts: BTreeMap<PartId, Part>,
    /// Parts that are over and done with.
    forgotten: BTreeSet<PartId>,
}

/// A part as the ledger holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The highest fence of its owner.
    pub fence: Fence,
    /// The owner.
    pub gate: NodeId,
    /// The plan.
    pub plan: BlobHash,
    /// Its share.
    pub slice: Slice,
    /// What of all unique rows that share draws from: everything, unless each datacenter runs the
    /// whole load.
    pub rows: Slice,
    /// Whether other datacenters have the rest of each load, so that what waits for a workflow waits
    /// until that has ended in all of them.
    pub is_shared: bool,
    /// The length of a window.
    pub window: Duration,
    /// When its time started.
    pub started: Option<WallTime>,
    /// Whether and how it shall stop.
    pub stop: Option<(StopReason, StopMode)>,
    /// How it is steered.
    pub steering: Steering,
    /// When its loads stood still.
    pub pauses: Pauses,
    /// How often that was decided anew: workers follow the highest that they hear of.
    pub turn: u64,
    /// Its workflows, in the plan's order.
    pub workflows: Vec<Workflow>,
    /// What workflows have published for those that wait for them.
    pub context: Context,
    /// How it ended.
    pub ended: Option<EndStatus>,
}

/// A workflow as the ledger holds it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Workflow {
    /// Its shards, once it is placed.
    pub shards: Vec<Shard>,
    /// The context that every attempt of it gets, once it is placed.
    pub context: Context,
    /// The job's time at which it started.
    pub started: Option<Duration>,
    /// Who asked it to stop.
    pub stopped_by: Option<String>,
    /// How it ended, and the job's time.
    pub ended: Option<(EndStatus, Duration)>,
    /// What it published, if its part is shared.
    pub published: BTreeMap<String, Value>,
    /// How it ended in all datacenters together, and the job's time when that was known here, if its
    /// part is shared.
    pub settled: Option<(EndStatus, Duration)>,
}

/// A shard as the ledger holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Its share of the workflow's load.
    pub slice: Slice,
    /// Its attempts, from number 1.
    pub attempts: Vec<Attempt>,
}

/// An attempt as the ledger holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The worker.
    pub worker: NodeId,
    /// The worker's incarnation.
    pub incarnation: Incarnation,
    /// How many cores it has.
    pub cores: u32,
    /// The attempt that these cores were given to first; itself, unless it took over a lost shard
    /// when no core was free.
    pub seat: AttemptId,
    /// The first draw of unique rows that is leased to it, and the first after them, by their
    /// numbers within the shard's share.
    pub rows: (u64, u64),
    /// The job's time at which it started.
    pub started: Option<Duration>,
    /// How it was closed.
    pub closed: Option<Closed>,
}

impl Part {
    /// How a workflow has ended for those that wait for it, and the job's time from which they need
    /// not wait any more.
    #[must_use]
    pub fn end_of(&self, workflow: WorkflowIndex) -> Option<&(EndStatus, Duration)> {
        let workflow = self.workflows.get(usize::from(workflow.0))?;
        if self.is_shared { workflow.settled.as_ref() } else { workflow.ended.as_ref() }
    }

    /// How the load of a workflow is steered.
    #[must_use]
    pub fn load_steering(&self, workflow: WorkflowIndex) -> LoadSteering {
        LoadSteering {
            version: self.turn,
            pauses: self.pauses.clone(),
            amount: self.steering.amounts.get(&workflow).copied(),
        }
    }
}

impl Shard {
    /// The attempt that is open, with its number.
    #[must_use]
    pub fn open(&self) -> Option<(AttemptNumber, &Attempt)> {
        let newest = self.attempts.last().filter(|attempt| attempt.closed.is_none())?;
        Some((number_of(self.attempts.len()), newest))
    }

    /// Iterations that closed attempts have done.
    #[must_use]
    pub fn iterations_done(&self) -> u64 {
        self.attempts
            .iter()
            .filter_map(|attempt| attempt.closed.as_ref())
            .map(|c| c.iterations)
            .sum()
    }

    /// The load's time up to which closed attempts may have sent starts ahead of it.
    #[must_use]
    pub fn load_sent(&self) -> Duration {
        self.closed().map(|closed| closed.load_sent).max().unwrap_or_default()
    }

    /// The first draw of unique rows that none of its attempts can have made.
    #[must_use]
    pub fn rows_end(&self) -> u64 {
        self.attempts.last().map_or(0, Attempt::rows_end)
    }

    /// How many workers it took down.
    #[must_use]
    pub fn losses(&self) -> usize {
        let causes = self.closed().filter_map(|closed| closed.why.gap_cause());
        causes.filter(|cause| *cause != GapCause::WorkerDrained).count()
    }

    /// Why workers refused it.
    pub fn refusals(&self) -> impl Iterator<Item = &RefuseAttempt> {
        self.closed().filter_map(|closed| match &closed.why {
            CloseReason::Refused(why) => Some(why),
            CloseReason::Ended(_) | CloseReason::Lost(_) => None,
        })
    }

    fn closed(&self) -> impl Iterator<Item = &Closed> {
        self.attempts.iter().filter_map(|attempt| attempt.closed.as_ref())
    }
}

fn number_of(count: usize) -> AttemptNumber {
    AttemptNumber(u32::try_from(count).unwrap_or(u32::MAX))
}

impl Workflow {
    /// Each shard with its index.
    pub fn shards(&self) -> impl Iterator<Item = (ShardIndex, &Shard)> {
        self.shards.iter().zip(0..).map(|(shard, index)| (ShardIndex(index), shard))
    }
}

/// What an entry changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It took effect.
    Changed,
    /// It no longer fitted.
    Ignored,
}

impl State {
    /// Applies a decided entry.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        match self.try_apply(entry) {
            Some(()) => Applied::Changed,
            None => Applied::Ignored,
        }
    }

    /// `None` if the entry no longer fits.
    fn try_apply(&mut self, entry: &Entry) -> Option<()> {
        match entry {
            Entry::LeaderStarted { .. } => {}
            Entry::PartAccepted {
                part,
                fence,
                gate,
                plan,
                workflows,
                slice,
                rows,
                is_shared,
                window,
            } => {
                if self.forgotten.contains(part) {
                    return None;
                }
                let known = self.parts.entry(*part).or_insert_with(|| Part {
                    fence: *fence,
                    gate: *gate,
                    plan: *plan,
                    slice: slice.clone(),
                    rows: rows.clone(),
                    is_shared: *is_shared,
                    window: *window,
                    started: None,
                    stop: None,
                    steering: Steering::default(),
                    pauses: Pauses::default(),
                    turn: 0,
                    workflows: vec![Workflow::default(); usize::from(*workflows)],
                    context: Context::default(),
                    ended: None,
                });
                if *fence < known.fence {
                    return None;
                }
                (known.fence, known.gate) = (*fence, *gate);
            }
            Entry::PartStarted { part, at } => {
                let part = self.live(*part)?;
                part.started.is_none().then_some(())?;
                part.started = Some(*at);
            }
            Entry::WorkflowPlaced { part, workflow, shards, context } => {
                let index = *workflow;
                let part_state = self.live(*part)?;
                let is_returned = matches!(part_state.stop, Some((StopReason::Returned, _)));
                (!is_returned).then_some(())?;
                let workflow = self.live_workflow(*part, index)?;
                workflow.shards.is_empty().then_some(())?;
                workflow.context = context.clone();
                workflow.shards = (shards.iter().zip(0..))
                    .map(|(placement, shard)| {
                        let shard = shard_id(*part, index, ShardIndex(shard));
                        let first = AttemptId { shard, number: number_of(1) };
                        let slice = placement.slice.clone();
                        Shard { slice, attempts: vec![Attempt::new(placement, first, 0)] }
                    })
                    .collect();
            }
            Entry::WorkflowStarted { part, workflow, at } => {
                let workflow = self.live_workflow(*part, *workflow)?;
                workflow.started.is_none().then_some(())?;
                workflow.started = Some(*at);
                for shard in &mut workflow.shards {
                    let newest = shard.attempts.last_mut().filter(|a| a.closed.is_none());
                    if let Some(attempt) = newest {
                        attempt.started = Some(*at);
                    }
                }
            }
            Entry::AttemptOpened { attempt, placement } => {
                let shard = self.live_shard(attempt.shard)?;
                let is_next = number_of(shard.attempts.len() + 1) == attempt.number;
                (is_next && shard.open().is_none()).then_some(())?;
                if let Some(seat) = placement.beside {
                    self.is_seat(seat, attempt.shard, placement).then_some(())?;
                }
                let seat = placement.beside.unwrap_or(*attempt);
                let shard = self.live_shard(attempt.shard)?;
                let rows_from = shard.rows_end();
                shard.attempts.push(Attempt::new(placement, seat, rows_from));
            }
            Entry::AttemptStarted { attempt, at } => {
                let attempt = self.open_attempt(*attempt)?;
                attempt.started.is_none().then_some(())?;
                attempt.started = Some(*at);
            }
            Entry::RowsLeased { attempt, until } => {
                let attempt = self.open_attempt(*attempt)?;
                (*until > attempt.rows.1).then_some(())?;
                attempt.rows.1 = *until;
            }
            Entry::AttemptClosed { attempt, closed } => {
                self.open_attempt(*attempt)?.closed = Some(closed.clone());
            }
            Entry::StopAsked { part, reason, mode } => {
                let part = self.live(*part)?;
                if *reason == StopReason::Returned {
                    let has_begun = part.workflows.iter().any(|w| !w.shards.is_empty());
                    (!has_begun && part.stop.is_none()).then_some(())?;
                }
                match &mut part.stop {
                    // The first reason stays; a sharper mode counts.
                    Some((_, known)) if *known >= *mode => return None,
                    Some((_, known)) => *known = *mode,
                    None => part.stop = Some((reason.clone(), *mode)),
                }
            }
            Entry::WorkflowStopAsked { part, workflow, by } => {
                let workflow = self.live_workflow(*part, *workflow)?;
                workflow.stopped_by.is_none().then_some(())?;
                workflow.stopped_by = Some(by.clone());
            }
            Entry::PartSteered { part, steering, at } => {
                let part = self.live(*part)?;
                let is_newer = steering.version > part.steering.version;
                (is_newer && part.stop.is_none()).then_some(())?;
                part.turn += 1;
                match (part.steering.is_paused, steering.is_paused) {
                    (false, true) => part.pauses.pause(*at),
                    (true, false) => part.pauses.resume(*at),
                    (false, false) | (true, true) => {}
                }
                part.steering = steering.clone();
            }
            Entry::PartResumed { part, at } => {
                let part = self.live(*part)?;
                (part.stop.is_some() && part.steering.is_paused).then_some(())?;
                part.turn += 1;
                part.steering.is_paused = false;
                part.pauses.resume(*at);
            }
            Entry::WorkflowEnded { part, workflow, status, at, published } => {
                let index = *workflow;
                let workflow = self.live_workflow(*part, index)?;
                workflow.shards.iter().all(|shard| shard.open().is_none()).then_some(())?;
                workflow.ended = Some((status.clone(), *at));
                let part = self.live(*part)?;
                if part.is_shared {
                    let workflow = part.workflows.get_mut(usize::from(index.0))?;
                    workflow.published.clone_from(published);
                } else if !published.is_empty() {
                    part.context.layers.insert(index, published.clone());
                }
            }
            Entry::WorkflowSettled { part, workflow, status, at, published } => {
                let part = self.live(*part).filter(|part| part.is_shared)?;
                let index = *workflow;
                let workflow = part.workflows.get_mut(usize::from(index.0))?;
                (workflow.ended.is_some() && workflow.settled.is_none()).then_some(())?;
                workflow.settled = Some((status.clone(), *at));
                if !published.is_empty() {
                    part.context.layers.insert(index, published.clone());
                }
            }
            Entry::PartEnded { part, status } => {
                let part = self.live(*part)?;
                part.workflows.iter().all(|w| w.ended.is_some()).then_some(())?;
                part.ended = Some(status.clone());
            }
            Entry::PartForgotten { part } => {
                self.parts.get(part).filter(|part| part.ended.is_some())?;
                self.parts.remove(part);
                self.forgotten.insert(*part);
                if self.forgotten.len() > TOMBSTONES_MAX {
                    self.forgotten.pop_first(); // Ids rise with time: the oldest job.
                }
            }
        }
        Some(())
    }

    /// Whether the part was here and is done with.
    #[must_use]
    pub fn is_forgotten(&self, part: PartId) -> bool {
        self.forgotten.contains(&part)
    }

    /// The shard, if its part is known.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        let part = self.parts.get(&id.part_id())?;
        let workflow = part.workflows.get(usize::from(id.workflow.0))?;
        workflow.shards.get(usize::from(id.shard.0))
    }

    /// The attempt, if its part is known.
    #[must_use]
    pub fn attempt(&self, id: AttemptId) -> Option<&Attempt> {
        let index = usize::try_from(id.number.0.checked_sub(1)?).ok()?;
        self.shard(id.shard)?.attempts.get(index)
    }

    /// All attempts that are open.
    pub fn open_attempts(&self) -> impl Iterator<Item = (AttemptId, &Attempt)> + '_ {
        self.parts.iter().flat_map(|(&part, state)| {
            state.workflows.iter().zip(0..).flat_map(move |(workflow, index)| {
                workflow.shards().filter_map(move |(shard_index, shard)| {
                    let (number, attempt) = shard.open()?;
                    let workflow = WorkflowIndex(index);
                    let shard = shard_id(part, workflow, shard_index);
                    Some((AttemptId { shard, number }, attempt))
                })
            })
        })
    }

    /// Cores of a worker that open attempts have; those that attempts share count once.
    #[must_use]
    pub fn cores_used(&self, worker: NodeId) -> u32 {
        let here = self.open_attempts().filter(|(_, attempt)| attempt.worker == worker);
        let seats: BTreeMap<AttemptId, u32> =
            here.map(|(_, attempt)| (attempt.seat, attempt.cores)).collect();
        seats.values().sum()
    }

    /// Whether some open attempt of the shard's workflow has the seat's cores where the placement
    /// wants to share them.
    fn is_seat(&self, seat: AttemptId, shard: ShardId, placement: &Placement) -> bool {
        let (part, workflow) = (seat.shard.part_id(), seat.shard.workflow);
        (part, workflow) == (shard.part_id(), shard.workflow)
            && self.open_attempts().any(|(_, open)| {
                open.seat == seat
                    && (open.worker, open.incarnation, open.cores)
                        == (placement.worker, placement.incarnation, placement.cores)
            })
    }

    fn live(&mut self, part: PartId) -> Option<&mut Part> {
        self.parts.get_mut(&part).filter(|part| part.ended.is_none())
    }

    fn live_workflow(&mut self, part: PartId, workflow: WorkflowIndex) -> Option<&mut Workflow> {
        let workflows = &mut self.live(part)?.workflows;
        workflows.get_mut(usize::from(workflow.0)).filter(|workflow| workflow.ended.is_none())
    }

    fn live_shard(&mut self, id: ShardId) -> Option<&mut Shard> {
        let workflow = self.live_workflow(id.part_id(), id.workflow)?;
        workflow.shards.get_mut(usize::from(id.shard.0))
    }

    fn open_attempt(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        let shard = self.live_shard(id.shard)?;
        let is_newest = number_of(shard.attempts.len()) == id.number;
        shard.attempts.last_mut().filter(|attempt| is_newest && attempt.closed.is_none())
    }
}

impl Attempt {
    const fn new(placement: &Placement, seat: AttemptId, rows_from: u64) -> Self {
        Self {
            worker: placement.worker,
            incarnation: placement.incarnation,
            cores: placement.cores,
            seat,
            rows: (rows_from, rows_from.saturating_add(placement.rows)),
            started: None,
            closed: None,
        }
    }
}

/// The id of a shard of a part.
#[must_use]
pub const fn shard_id(part: PartId, workflow: WorkflowIndex, shard: ShardIndex) -> ShardId {
    ShardId { job: part.job, part: part.part, workflow, shard }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::JobId;
    use hyperscale_wire::{decode_value, encode_value};

    use super::*;

    #[test]
    fn syn_08_a_snapshot_holds_the_whole_state() {
        let part = PartId { job: JobId::from_parts(1, 1), part: Default::default() };
        let (gate, worker) = (NodeId(1), NodeId(2));
        let workflow = WorkflowIndex(0);
        let (incarnation, slice) = (Incarnation(1), Slice::whole());
        let placement = Placement { worker, incarnation, cores: 2, beside: None, slice, rows: 8 };
        let published = BTreeMap::from([("token".to_owned(), Value::Int(7))]);
        let shard = shard_id(part, workflow, ShardIndex(0));
        let attempt = AttemptId { shard, number: AttemptNumber(1) };
        let closed = Closed {
            why: CloseReason::Ended(AttemptEnd::Finished),
            last_delta: DeltaSeq(3),
            until: Duration::from_secs(3),
            iterations: 9,
            load_sent: Duration::ZERO,
            draws_made: Some(9),
            published: published.clone(),
        };
        let context = Context::default();
        let (shards, at) = (vec![placement], Duration::ZERO);
        let entries = [
            Entry::PartAccepted {
                part,
                fence: Fence(5),
                gate,
                plan: BlobHash([1; 32]),
                workflows: 1,
                slice: Slice::whole(),
                rows: Slice::whole(),
                is_shared: false,
                window: Duration::from_secs(1),
            },
            Entry::WorkflowPlaced { part, workflow, shards, context },
            Entry::WorkflowStarted { part, workflow, at },
            Entry::RowsLeased { attempt, until: 16 },
            Entry::AttemptClosed { attempt, closed },
            Entry::WorkflowEnded { part, workflow, status: EndStatus::Completed, at, published },
        ];
        let mut state = State::default();
        for entry in &entries {
            assert_eq!(state.apply(entry), Applied::Changed, "{entry:?}");
        }

        let restored: State = decode_value(&encode_value(&state).unwrap()).unwrap();

        assert_eq!(restored, state);
    }
}
