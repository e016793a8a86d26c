//! What must survive: the jobs, as the gates' ledger holds them.
//!
//! `apply` is total and deterministic; all rules of who wins are here, once.

use std::collections::BTreeMap;

use hyperscale_model::{
    AttemptId, BlobHash, ClientId, DatacenterId, DeltaSeq, EndStatus, Fence, JobId, NodeId,
    PartIndex, Verdict, WallTime, WorkflowIndex,
};
use hyperscale_plan::Slice;
use hyperscale_wire::{Gap, StopMode};
use serde::{Deserialize, Serialize};

/// An entry of the gates' ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A gate leads; the entry's index is its fence.
    LeaderStarted {
        /// Which.
        node: NodeId,
    },
    /// A job was accepted; its owner's fence is the entry's index.
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
        /// The owner.
        gate: NodeId,
        /// The values of its secrets, sealed with the cluster's key.
        sealed: Vec<u8>,
        /// Where it runs.
        parts: Vec<Target>,
    },
    /// Another gate, or the next life of the same, owns the job under the entry's index.
    OwnershipMoved {
        /// The job.
        job: JobId,
        /// The owner.
        gate: NodeId,
    },
    /// A datacenter has begun to send load.
    JobStarted {
        /// The job.
        job: JobId,
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
    /// A threshold that aborts was broken.
    ThresholdBroken {
        /// The job.
        job: JobId,
        /// As written.
        expression: String,
    },
    /// A datacenter is done with its part, or given up.
    PartEnded {
        /// The job.
        job: JobId,
        /// The part.
        part: PartIndex,
        /// How.
        end: PartEnd,
    },
    /// The job is over.
    JobEnded {
        /// The job.
        job: JobId,
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
}

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
}

/// How a part ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartEnd {
    /// How.
    pub status: EndStatus,
    /// Whether the datacenter never said so itself.
    pub is_missing: bool,
    /// Load that it did not send.
    pub gaps: Vec<Gap>,
    /// Requests that came too late to count.
    pub late_requests: u64,
    /// Each attempt with its last delta.
    pub attempts: Vec<(AttemptId, DeltaSeq)>,
}

/// The replicated state of the gates.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// Jobs that run or are retained.
    pub jobs: BTreeMap<JobId, Job>,
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
    /// The owner.
    pub gate: NodeId,
    /// The owner's fence.
    pub fence: Fence,
    /// Its secrets, sealed.
    pub sealed: Vec<u8>,
    /// When load began.
    pub started: Option<WallTime>,
    /// Where it runs, and how that ended.
    pub parts: Vec<(Target, Option<PartEnd>)>,
    /// Who wants it to stop, and how.
    pub cancel: Option<(String, StopMode)>,
    /// Workflows that shall stop, and who wants it.
    pub stopped_workflows: Vec<(WorkflowIndex, String)>,
    /// The threshold that stops it.
    pub broken: Option<String>,
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
            Entry::LeaderStarted { .. } => {}
            Entry::JobAccepted { job, key, plan, name, at, gate, sealed, parts } => {
                let place = self.keys.binary_search_by(|(known, _)| known.cmp(key)).err()?;
                self.keys.insert(place, (key.clone(), *job));
                self.jobs.insert(
                    *job,
                    Job {
                        key: key.clone(),
                        plan: *plan,
                        name: name.clone(),
                        accepted: *at,
                        gate: *gate,
                        fence,
                        sealed: sealed.clone(),
                        started: None,
                        parts: parts.iter().map(|target| (target.clone(), None)).collect(),
                        cancel: None,
                        stopped_workflows: Vec::new(),
                        broken: None,
                        ended: None,
                    },
                );
            }
            Entry::OwnershipMoved { job, gate } => {
                let job = self.live(*job)?;
                (job.gate, job.fence) = (*gate, fence);
            }
            Entry::JobStarted { job, at } => {
                let job = self.live(*job)?;
                job.started.is_none().then_some(())?;
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
            Entry::ThresholdBroken { job, expression } => {
                let job = self.live(*job)?;
                (job.broken.is_none() && job.cancel.is_none()).then_some(())?;
                job.broken = Some(expression.clone());
            }
            Entry::PartEnded { job, part, end } => {
                let job = self.live(*job)?;
                let (_, known) = job.parts.get_mut(usize::from(part.0))?;
                known.is_none().then_some(())?;
                *known = Some(end.clone());
            }
            Entry::JobEnded { job, status, verdict, partial, at } => {
                let job = self.live(*job)?;
                job.parts.iter().all(|(_, end)| end.is_some()).then_some(())?;
                job.ended = Some(JobEnd {
                    status: status.clone(),
                    verdict: *verdict,
                    partial: *partial,
                    at: *at,
                });
            }
            Entry::JobForgotten { job } => {
                let known = self.jobs.get(job).filter(|job| job.ended.is_some())?;
                if let Ok(place) = self.keys.binary_search_by(|(key, _)| key.cmp(&known.key)) {
                    self.keys.remove(place);
                }
                self.jobs.remove(job);
            }
        }
        Some(())
    }

    fn live(&mut self, job: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&job).filter(|job| job.ended.is_none())
    }
}
