//! What must survive: the jobs, as the gates' ledger holds them.
//!
//! `apply` is total and deterministic; all rules of who wins are here, once.

use std::collections::BTreeMap;

use hyperscale_model::{
    AttemptId, BlobHash, ClientId, DatacenterId, DeltaSeq, EndStatus, Fence, Incarnation, JobId,
    NodeId, PartIndex, Verdict, WallTime, WorkflowIndex,
};
use hyperscale_plan::{Slice, Steering};
use hyperscale_wire::{Gap, RowsUsed, StopMode};
use serde::{Deserialize, Serialize};

use crate::ring::owner;
use crate::steering::STEERS_MAX;
pub use crate::steering::Steer;

/// An entry of the gates' ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A gate takes part: it owns what falls to it, until its session ends. Jobs of an earlier life
    /// of it are its own again, under the entry's index.
    SessionOpened {
        /// Which.
        gate: NodeId,
        /// Which of its lives.
        incarnation: Incarnation,
    },
    /// A gate is gone; each of its jobs has another owner, under the entry's index.
    SessionEnded {
        /// Which.
        gate: NodeId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// Whether it said so itself.
        has_left: bool,
    },
    /// A job was accepted. Its owner is the gate that the ring names, and its fence the entry's
    /// index.
    JobAccepted {
        /// The job.
        job: JobId,
        /// What makes a repeated submission the same.
        key: IdempotencyKey,
        /// The plan.
        plan: BlobHash,
        /// The test's name.
        name: String,
        /// When.
        at: WallTime,
        /// The values of its secrets, sealed with the cluster's key.
        sealed: Vec<u8>,
        /// Where it runs.
        parts: Vec<Target>,
    },
    /// All parts were accepted and are about to be told to start: from here on, none is moved.
    StartAsked {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
    },
    /// A part that was not accepted in time, or that its datacenter has given back, goes to another,
    /// as a new part.
    PartMoved {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
        /// The part.
        part: PartIndex,
        /// Where its share of the load runs instead.
        to: DatacenterId,
        /// When its datacenter had given it back, with nothing of it begun, if it had: then the job's
        /// time starts anew.
        #[serde(default)]
        returned: Option<WallTime>,
    },
    /// A datacenter has begun to send load.
    JobStarted {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
        /// By which of its parts this is known.
        #[serde(default)]
        part: PartIndex,
        /// When.
        at: WallTime,
    },
    /// Someone wants the job to stop.
    CancelAsked {
        /// The job.
        job: JobId,
        /// Who.
        by: String,
        /// How.
        mode: StopMode,
    },
    /// Someone wants a workflow to stop.
    WorkflowCancelAsked {
        /// The job.
        job: JobId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// Who.
        by: String,
    },
    /// Someone steers the job's load. It fits only onto what its proposer knew: so a copy that is
    /// decided late changes nothing.
    Steered {
        /// The job.
        job: JobId,
        /// The version that the change is made of.
        base: u64,
        /// The change.
        steer: Steer,
    },
    /// A threshold that aborts was broken.
    ThresholdBroken {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
        /// As written.
        expression: String,
    },
    /// The job's time is over: whatever runs of it stops, in every datacenter.
    LimitReached {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
    },
    /// A datacenter is done with its part, or given up.
    PartEnded {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
        /// The part.
        part: PartIndex,
        /// How.
        end: PartEnd,
    },
    /// The job is over.
    JobEnded {
        /// The job.
        job: JobId,
        /// The owner's fence.
        fence: Fence,
        /// The blob that holds its result.
        result: BlobHash,
        /// How.
        status: EndStatus,
        /// What the thresholds say.
        verdict: Verdict,
        /// Whether load or statistics are missing.
        partial: bool,
        /// When.
        at: WallTime,
    },
    /// The job's retention is over.
    JobForgotten {
        /// The job.
        job: JobId,
    },
    /// Changes nothing: a gate was told of a job that it does not know. Once this is decided it has
    /// seen whatever was decided before, and knows whether anybody knows that job.
    JobSought {
        /// The job.
        job: JobId,
    },
    /// A node takes no part any more, whatever becomes of it.
    NodeRemoved {
        /// Which: a gate, or a manager of a datacenter.
        node: NodeId,
        /// Its datacenter, if it is a manager.
        datacenter: Option<DatacenterId>,
        /// Who wants it.
        by: String,
    },
}

/// Nodes that are remembered as removed.
const REMOVED_MAX: usize = 100;

/// What makes a repeated submission the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// Whose key it is: two clients may use equal ones.
    pub client: ClientId,
    /// The key.
    pub key: String,
}

/// A datacenter that a job runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Which.
    pub datacenter: DatacenterId,
    /// Its share of each load.
    pub slice: Slice,
    /// What of all unique rows that share draws from: everything, unless each datacenter runs the
    /// whole load.
    pub rows: Slice,
}

/// How a part ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartEnd {
    /// How.
    pub status: EndStatus,
    /// Whether the datacenter never said so itself.
    pub is_missing: bool,
    /// Whether the datacenter gave it back, with nothing of it begun.
    #[serde(default)]
    pub was_returned: bool,
    /// Load that it did not send.
    pub gaps: Vec<Gap>,
    /// What became of unique rows.
    pub rows: Vec<RowsUsed>,
    /// Requests that came too late to count.
    pub late_requests: u64,
    /// Each attempt with its last delta.
    pub attempts: Vec<(AttemptId, DeltaSeq)>,
}

impl PartEnd {
    /// Whether it ended only here, and its share runs elsewhere, as another part.
    #[must_use]
    pub const fn is_move(&self) -> bool {
        matches!(self.status, EndStatus::Skipped { .. })
    }

    /// Whether its datacenter has said how it ended.
    #[must_use]
    pub const fn has_reported(&self) -> bool {
        !self.is_missing && !self.is_move()
    }
}

/// The replicated state of the gates.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// The gates that take part, each with its life.
    pub sessions: BTreeMap<NodeId, Incarnation>,
    /// The index of each gate's first session: before that it held nothing.
    first_sessions: BTreeMap<NodeId, u64>,
    /// Jobs that run or are retained.
    pub jobs: BTreeMap<JobId, Job>,
    /// Nodes that were removed, each with its datacenter if it was a manager; the last at the end.
    pub removed: Vec<(NodeId, Option<DatacenterId>)>,
    /// The jobs of known keys.
    keys: Vec<(IdempotencyKey, JobId)>,
}

/// A job as the ledger holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The key of its submission.
    pub key: IdempotencyKey,
    /// The plan.
    pub plan: BlobHash,
    /// The test's name.
    pub name: String,
    /// When it was accepted.
    pub accepted: WallTime,
    /// The index of the entry that accepted it.
    accepted_in: u64,
    /// The owner. It may be gone, if no gate was left to take over.
    pub gate: NodeId,
    /// The owner's fence.
    pub fence: Fence,
    /// Its secrets, sealed.
    pub sealed: Vec<u8>,
    /// Whether parts may have been told to start.
    pub is_starting: bool,
    /// From when on its limits are counted: its acceptance, or when it was last given back.
    pub waits_from: WallTime,
    /// When load began.
    pub started: Option<WallTime>,
    /// Where it runs, and how that ended.
    pub parts: Vec<(Target, Option<PartEnd>)>,
    /// Who wants it to stop, and how.
    pub cancel: Option<(String, StopMode)>,
    /// Workflows that shall stop, and who wants it.
    pub stopped_workflows: Vec<(WorkflowIndex, String)>,
    /// How it was steered, in order; each with its version, which is the index of its entry.
    pub steers: Vec<(u64, Steer)>,
    /// The threshold that stops it.
    pub broken: Option<String>,
    /// Whether its time is over.
    pub is_over_limit: bool,
    /// How it ended.
    pub ended: Option<JobEnd>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEnd {
    /// How.
    pub status: EndStatus,
    /// What the thresholds say.
    pub verdict: Verdict,
    /// Whether load or statistics are missing.
    pub partial: bool,
    /// When.
    pub at: WallTime,
    /// The blob that holds its result.
    pub result: BlobHash,
}

impl Job {
    /// Whether a part's share runs elsewhere, as another part.
    #[must_use]
    pub fn is_moved(&self, part: PartIndex) -> bool {
        let end = self.parts.get(usize::from(part.0)).and_then(|(_, end)| end.as_ref());
        end.is_some_and(PartEnd::is_move)
    }

    /// Whether a part of it has been at a datacenter, unless that gave it back.
    #[must_use]
    pub fn has_tried(&self, datacenter: &DatacenterId) -> bool {
        let was_returned = |end: &Option<PartEnd>| end.as_ref().is_some_and(|e| e.was_returned);
        self.parts.iter().any(|(t, end)| t.datacenter == *datacenter && !was_returned(end))
    }

    /// The parts that were not moved elsewhere, by their index.
    pub fn parts_kept(&self) -> impl Iterator<Item = PartIndex> {
        let parts = (0..).map(PartIndex).zip(&self.parts).map(|(index, _)| index);
        parts.filter(|part| !self.is_moved(*part))
    }

    /// Whether all of it shall stop, for whichever reason.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.cancel.is_some() || self.broken.is_some() || self.is_over_limit
    }

    /// The version of its steering; 0 if it was never steered.
    #[must_use]
    pub fn steering_version(&self) -> u64 {
        self.steers.last().map_or(0, |(version, _)| *version)
    }

    /// How it is steered, all changes together.
    #[must_use]
    pub fn steering(&self) -> Steering {
        let mut steering = Steering::default();
        for (version, steer) in &self.steers {
            steering.version = *version;
            steering.is_paused = steer.pause.unwrap_or(steering.is_paused);
            steering.amounts.extend(steer.amounts.iter().copied());
        }
        steering
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
    /// The job of a key.
    #[must_use]
    pub fn job_of(&self, key: &IdempotencyKey) -> Option<JobId> {
        self.keys.binary_search_by(|(known, _)| known.cmp(key)).ok().map(|at| self.keys[at].1)
    }

    /// Whether a node was removed.
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.iter().any(|(known, _)| *known == node)
    }

    /// Whether a gate took part before a job was accepted, so that it may have been counted among
    /// those that hold the job's statistics ever since.
    pub(crate) fn is_older(&self, gate: NodeId, job: JobId) -> bool {
        match (self.first_sessions.get(&gate), self.jobs.get(&job)) {
            (Some(first), Some(job)) => *first < job.accepted_in,
            _ => false,
        }
    }

    /// Applies a decided entry.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Applied {
        match self.try_apply(Fence(index), entry) {
            Some(()) => Applied::Changed,
            None => Applied::Ignored,
        }
    }

    /// `None` if the entry no longer fits.
    fn try_apply(&mut self, fence: Fence, entry: &Entry) -> Option<()> {
        match entry {
            Entry::SessionOpened { gate, incarnation } => {
                let is_newer = self.sessions.get(gate).is_none_or(|known| known < incarnation);
                (is_newer && !self.is_removed(*gate)).then_some(())?;
                self.sessions.insert(*gate, *incarnation);
                self.first_sessions.entry(*gate).or_insert(fence.0);
                self.assign(fence, |owner, sessions| {
                    owner == *gate || !sessions.contains_key(&owner)
                });
            }
            Entry::SessionEnded { gate, incarnation, .. } => {
                (self.sessions.get(gate)? == incarnation).then_some(())?;
                self.sessions.remove(gate);
                self.assign(fence, |owner, _| owner == *gate);
            }
            Entry::JobAccepted { job, key, plan, name, at, sealed, parts } => {
                let place = self.keys.binary_search_by(|(known, _)| known.cmp(key)).err()?;
                let gate = owner(*job, self.sessions.keys().copied())?;
                self.keys.insert(place, (key.clone(), *job));
                self.jobs.insert(
                    *job,
                    Job {
                        key: key.clone(),
                        plan: *plan,
                        name: name.clone(),
                        accepted: *at,
                        accepted_in: fence.0,
                        gate,
                        fence,
                        sealed: sealed.clone(),
                        is_starting: false,
                        waits_from: *at,
                        started: None,
                        parts: parts.iter().map(|target| (target.clone(), None)).collect(),
                        cancel: None,
                        stopped_workflows: Vec::new(),
                        steers: Vec::new(),
                        broken: None,
                        is_over_limit: false,
                        ended: None,
                    },
                );
            }
            Entry::StartAsked { job, fence } => {
                let job = self.owned(*job, *fence)?;
                (!job.is_starting).then_some(())?;
                job.is_starting = true;
            }
            Entry::PartMoved { job, fence, part, to, returned } => {
                let job = self.owned(*job, *fence)?;
                let may_move = match returned {
                    // If there is no other by now, it goes back to where it was.
                    Some(_) => job.parts_kept().count() == 1,
                    None => !job.is_starting && !job.has_tried(to),
                };
                let (target, end) = job.parts.get_mut(usize::from(part.0))?;
                (may_move && end.is_none()).then_some(())?;
                let status = EndStatus::Skipped { because: format!("its share moved to {to}") };
                *end = Some(PartEnd {
                    status,
                    is_missing: false,
                    was_returned: returned.is_some(),
                    gaps: Vec::new(),
                    rows: Vec::new(),
                    late_requests: 0,
                    attempts: Vec::new(),
                });
                let (slice, rows) = (target.slice.clone(), target.rows.clone());
                let target = Target { datacenter: to.clone(), slice, rows };
                job.parts.push((target, None));
                if let Some(at) = returned {
                    (job.is_starting, job.started, job.waits_from) = (false, None, *at);
                }
            }
            Entry::JobStarted { job, fence, part, at } => {
                let job = self.owned(*job, *fence)?;
                (job.started.is_none() && !job.is_moved(*part)).then_some(())?;
                job.started = Some(*at);
            }
            Entry::CancelAsked { job, by, mode } => {
                let job = self.live(*job)?;
                match &mut job.cancel {
                    Some((_, known)) if *known >= *mode => return None,
                    Some((_, known)) => *known = *mode,
                    None => job.cancel = Some((by.clone(), *mode)),
                }
            }
            Entry::WorkflowCancelAsked { job, workflow, by } => {
                let job = self.live(*job)?;
                let is_new = !job.stopped_workflows.iter().any(|(known, _)| known == workflow);
                is_new.then_some(())?;
                job.stopped_workflows.push((*workflow, by.clone()));
            }
            Entry::Steered { job, base, steer } => {
                let job = self.live(*job)?;
                let fits = job.steering_version() == *base && job.steers.len() < STEERS_MAX;
                fits.then(|| job.steers.push((fence.0, steer.clone())))?;
            }
            Entry::ThresholdBroken { job, fence, expression } => {
                let job = self.owned(*job, *fence)?;
                (!job.is_stopping()).then_some(())?;
                job.broken = Some(expression.clone());
            }
            Entry::LimitReached { job, fence } => {
                let job = self.owned(*job, *fence)?;
                (!job.is_stopping()).then_some(())?;
                job.is_over_limit = true;
            }
            Entry::PartEnded { job, fence, part, end } => {
                let job = self.owned(*job, *fence)?;
                let (_, known) = job.parts.get_mut(usize::from(part.0))?;
                known.is_none().then_some(())?;
                *known = Some(end.clone());
            }
            Entry::JobEnded { job, fence, result, status, verdict, partial, at } => {
                let job = self.owned(*job, *fence)?;
                job.parts.iter().all(|(_, end)| end.is_some()).then_some(())?;
                job.ended = Some(JobEnd {
                    status: status.clone(),
                    verdict: *verdict,
                    partial: *partial,
                    at: *at,
                    result: *result,
                });
            }
            Entry::JobForgotten { job } => {
                let known = self.jobs.get(job).filter(|job| job.ended.is_some())?;
                if let Ok(place) = self.keys.binary_search_by(|(key, _)| key.cmp(&known.key)) {
                    self.keys.remove(place);
                }
                self.jobs.remove(job);
            }
            Entry::JobSought { .. } => return None,
            Entry::NodeRemoved { node, datacenter, .. } => {
                (!self.is_removed(*node)).then_some(())?;
                if self.removed.len() >= REMOVED_MAX {
                    self.removed.remove(0);
                }
                self.removed.push((*node, datacenter.clone()));
                self.first_sessions.remove(node);
                if self.sessions.remove(node).is_some() {
                    self.assign(fence, |owner, _| owner == *node);
                }
            }
        }
        Some(())
    }

    fn live(&mut self, job: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&job).filter(|job| job.ended.is_none())
    }

    /// A job, if whoever speaks of it owns it.
    fn owned(&mut self, job: JobId, fence: Fence) -> Option<&mut Job> {
        self.live(job).filter(|job| job.fence == fence)
    }

    /// Gives each live job whose owner `concerns` says yes to the owner that the ring names.
    fn assign(
        &mut self,
        fence: Fence,
        concerns: impl Fn(NodeId, &BTreeMap<NodeId, Incarnation>) -> bool,
    ) {
        let live = self.jobs.iter_mut().filter(|(_, job)| job.ended.is_none());
        for (&id, job) in live {
            if !concerns(job.gate, &self.sessions) {
                continue;
            }
            // A gate that has come back keeps what it has the figures of.
            let next = match self.sessions.contains_key(&job.gate) {
                true => Some(job.gate),
                false => owner(id, self.sessions.keys().copied()),
            };
            if let Some(next) = next {
                (job.gate, job.fence) = (next, fence);
            }
        }
    }
}
