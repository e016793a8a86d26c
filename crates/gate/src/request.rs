//! What clients ask, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hyperscale_blobs::hash_of;
use hyperscale_model::{
    BlobHash, ClientId, DatacenterId, EndStatus, JobId, JobState, NodeId, Role, Time, Verdict,
    WallTime, WorkflowIndex,
};
use hyperscale_plan::{PLAN_BYTES_MAX, Plan, Secrets};
use hyperscale_report::{EventRecord, JobResult, LiveView};
use hyperscale_wire::{Message, NodeState, SOFTWARE, StopMode, decode_value, encode_value};
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterView;
use crate::peers::Spread;
use crate::seal::seal;
use crate::state::{Entry, IdempotencyKey, Job};
use crate::{About, Event, Gate, Output, Step};

/// Most bytes of an answer to another gate.
const ANSWER_BYTES_MAX: usize = 900 << 10;

/// A request, by the number that its driver gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a client asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Run a test.
    Submit {
        /// Repeating a submission with its key changes nothing.
        key: String,
        /// The plan's bytes.
        plan: Vec<u8>,
        /// The blobs that it names.
        blobs: Vec<Arc<[u8]>>,
        /// The values of its secrets.
        secrets: Secrets,
    },
    /// Stop a job, or one workflow of it.
    Cancel {
        /// The job.
        job: JobId,
        /// The workflow's name.
        workflow: Option<String>,
        /// How.
        mode: StopMode,
    },
    /// Steer a job as it runs.
    Steer {
        /// The job.
        job: JobId,
        /// Whether its loads stand still from now on.
        pause: Option<bool>,
        /// Workflows by name, each with how much of its load is sent from now on.
        scale: Vec<(String, String)>,
    },
    /// How is a job?
    Get {
        /// The job.
        job: JobId,
    },
    /// Which jobs are there?
    List,
    /// What came of a job?
    Results {
        /// The job.
        job: JobId,
    },
    /// What happened to a job after an event? Waits for news if nothing did.
    Watch {
        /// The job.
        job: JobId,
        /// The last event that the client has seen; 0 for none.
        after: u64,
    },
    /// Which datacenters are there?
    Datacenters,
    /// Which nodes are there?
    Nodes,
    /// Who takes part, and can anything be decided?
    Cluster,
    /// Have a gate or a manager take no part any more.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// Have a node leave, once it has handed over what it does.
    Drain {
        /// Which.
        node: NodeId,
    },
}

impl Request {
    /// The job that it is about, if that must be known.
    const fn job(&self) -> Option<JobId> {
        match self {
            Self::Cancel { job, .. }
            | Self::Steer { job, .. }
            | Self::Get { job }
            | Self::Results { job }
            | Self::Watch { job, .. } => Some(*job),
            Self::Submit { .. }
            | Self::List
            | Self::Datacenters
            | Self::Nodes
            | Self::Cluster
            | Self::Remove { .. }
            | Self::Drain { .. } => None,
        }
    }
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The job runs, or has run already under the same key.
    Accepted {
        /// The job.
        job: JobId,
    },
    /// A job.
    Job(Box<JobView>),
    /// Jobs, the newest first.
    Jobs(Vec<JobView>),
    /// A result that is at hand.
    Results(Arc<JobResult>),
    /// The result, if there is one, lies where the driver stored it.
    Stored {
        /// The job.
        job: JobId,
    },
    /// News of a job.
    News {
        /// What happened, in order.
        events: Vec<EventRecord>,
        /// The job now, if it lives here.
        view: Option<Box<LiveView>>,
        /// Whether nothing will follow.
        is_over: bool,
    },
    /// Datacenters.
    Datacenters(Vec<DatacenterView>),
    /// Nodes.
    Nodes(Vec<NodeView>),
    /// The cluster.
    Cluster(Box<ClusterView>),
    /// The node takes no part any more.
    Removed {
        /// Which.
        node: NodeId,
    },
    /// The node was asked to leave.
    Draining {
        /// Which.
        node: NodeId,
    },
    /// No.
    Error(RequestError),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct RequestError {
    /// For programs.
    pub kind: RequestErrorKind,
    /// For people.
    pub message: String,
}

/// Why not, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestErrorKind {
    /// The plan is no plan.
    BadPlan,
    /// The key was used for something else.
    KeyConflict,
    /// No datacenter can run it.
    NoDatacenter,
    /// Too many jobs live.
    TooManyJobs,
    /// Try again.
    NotReady,
    /// There is no such job or workflow.
    NotFound,
    /// The job is still running.
    NotEnded,
    /// The job cannot be steered so.
    CannotSteer,
    /// The node cannot be removed.
    CannotRemove,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// The test's name.
    pub name: String,
    /// Who submitted it.
    pub client: ClientId,
    /// Where it stands.
    pub state: JobState,
    /// When it was accepted.
    pub accepted: WallTime,
    /// When load began.
    pub started: Option<WallTime>,
    /// When it ended.
    pub ended: Option<WallTime>,
    /// What the thresholds say, once it has ended.
    pub verdict: Option<Verdict>,
    /// Whether load or statistics are missing.
    pub partial: bool,
    /// Where it runs.
    pub datacenters: Vec<DatacenterId>,
    /// Whether its load was paused by command.
    #[serde(default)]
    pub paused: bool,
}

/// A datacenter as a gate sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatacenterView {
    /// Which.
    pub datacenter: DatacenterId,
    /// Whether it was heard of lately.
    pub is_fresh: bool,
    /// Its workers.
    pub workers: u32,
    /// Their cores.
    pub cores: u32,
    /// Those of them that are free.
    pub free_cores: u32,
}

/// A node as a gate knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Where it stands, if it stands in a datacenter.
    pub datacenter: Option<DatacenterId>,
    /// How it is.
    pub state: NodeState,
    /// Whether its datacenter was heard of lately; else this is how it was.
    pub is_fresh: bool,
    /// Its cores; 0 if it is no worker.
    pub cores: u32,
    /// Those of them that are free.
    pub free_cores: u32,
    /// The version of its software; empty if it does not say.
    pub software: String,
}

/// A submission on its way to a decision.
#[derive(Debug)]
pub(crate) struct Pending {
    plan: BlobHash,
    entry: Entry,
    pub(crate) spread: Spread,
    waiting: Vec<RequestId>,
    since: Time,
    /// Since when nothing but a decision is missing.
    proposed: Option<Time>,
}

/// Someone asks for a job that this gate has not heard of.
#[derive(Debug)]
pub(crate) struct Unknown {
    id: RequestId,
    client: ClientId,
    request: Request,
    job: JobId,
    since: Time,
}

/// Someone waits for a stop to be decided.
#[derive(Debug)]
pub(crate) struct WaitingCancel {
    id: RequestId,
    job: JobId,
    workflow: Option<WorkflowIndex>,
    mode: StopMode,
    entry: Entry,
    since: Time,
}

/// Who waits for news of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asker {
    Client(RequestId),
    /// Another gate, with its number for the question.
    Gate(NodeId, u64),
}

impl Asker {
    pub(crate) fn is_of(&self, gate: NodeId) -> bool {
        matches!(self, Self::Gate(of, _) if *of == gate)
    }
}

/// What a gate asks the owner of a job: what happened to it after an event?
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    job: JobId,
    after: u64,
}

/// What happened to a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) events: Vec<EventRecord>,
    pub(crate) view: Option<Box<LiveView>>,
    pub(crate) is_over: bool,
}

/// What this gate has asked others for its clients.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    last: u64,
    open: BTreeMap<u64, Open>,
}

/// A question without an answer.
#[derive(Debug, Clone, Copy)]
struct Open {
    id: RequestId,
    job: JobId,
    owner: NodeId,
    since: Time,
}

impl Questions {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn ask(&mut self, now: Time, id: RequestId, job: JobId, owner: NodeId) -> u64 {
        self.last += 1;
        self.open.insert(self.last, Open { id, job, owner, since: now });
        self.last
    }

    fn take(&mut self, from: NodeId, number: u64) -> Option<(RequestId, JobId)> {
        let Open { id, job, owner, .. } = *self.open.get(&number)?;
        (owner == from).then(|| self.open.remove(&number))?;
        Some((id, job))
    }

    fn take_which(&mut self, which: impl Fn(&Open) -> bool) -> Vec<(u64, RequestId, NodeId)> {
        let taken: Vec<(u64, RequestId, NodeId)> = (self.open.iter())
            .filter(|(_, open)| which(open))
            .map(|(&number, open)| (number, open.id, open.owner))
            .collect();
        self.open.retain(|number, _| !taken.iter().any(|(known, ..)| known == number));
        taken
    }

    fn take_late(&mut self, now: Time, wait: std::time::Duration) -> Vec<RequestId> {
        let late = self.take_which(|open| now >= open.since + wait);
        late.into_iter().map(|(_, id, _)| id).collect()
    }

    fn take_of(&mut self, gate: NodeId) -> Vec<RequestId> {
        self.take_which(|open| open.owner == gate).into_iter().map(|(_, id, _)| id).collect()
    }

    fn drop_of(&mut self, id: RequestId) -> Vec<(NodeId, u64)> {
        let dropped = self.take_which(|open| open.id == id);
        dropped.into_iter().map(|(number, _, owner)| (owner, number)).collect()
    }
}

impl Gate {
    pub(crate) fn reply(&mut self, id: RequestId, reply: Reply) {
        self.outputs.push(Output::Reply { id, reply });
    }

    pub(crate) fn reply_error(&mut self, id: RequestId, kind: RequestErrorKind, message: &str) {
        let message = message.to_owned();
        self.reply(id, Reply::Error(RequestError { kind, message }));
    }

    pub(crate) fn reply_job(&mut self, id: RequestId, job: JobId) {
        match self.state.jobs.get(&job) {
            Some(state) => {
                let view = Box::new(self.job_view(job, state));
                self.reply(id, Reply::Job(view));
            }
            None => self.reply_error(id, RequestErrorKind::NotFound, "there is no such job here"),
        }
    }

    pub(crate) fn on_request(
        &mut self,
        now: Time,
        id: RequestId,
        client: ClientId,
        request: Request,
    ) {
        if let Some(job) = request.job()
            && !self.state.jobs.contains_key(&job)
            && self.config.gates > 1
        {
            // Perhaps it was accepted at another gate a moment ago, and the news is on its way. One
            // that has just been elected may not have caught up either.
            self.unknown.push(Unknown { id, client, request, job, since: now });
            return;
        }
        self.serve(now, id, client, request);
    }

    /// Serves those who ask for a job that has become known, or will not any more.
    pub(crate) fn review_unknown(&mut self, now: Time) {
        let wait = self.config.beat;
        let (due, waiting) = std::mem::take(&mut self.unknown).into_iter().partition(|asked| {
            let is_known = self.state.jobs.contains_key(&asked.job);
            let may_know = now >= asked.since + wait && self.hears_majority_since(asked.since);
            is_known || may_know || now >= asked.since + wait * 3
        });
        self.unknown = waiting;
        let due: Vec<Unknown> = due;
        for Unknown { id, client, request, job, since } in due {
            let why = self.why_not_ready().or_else(|| {
                // It may have been cut off a moment ago, and what it does not know was decided since.
                let why = "this gate hears nothing of the others just now; ask another gate";
                (!self.hears_majority_since(since)).then(|| why.to_owned())
            });
            match why.filter(|_| !self.state.jobs.contains_key(&job)) {
                Some(why) => self.reply_error(id, RequestErrorKind::NotReady, &why),
                None => self.serve(now, id, client, request),
            }
        }
    }

    /// Whether a majority of the gates, this one included, was heard of since then.
    fn hears_majority_since(&self, since: Time) -> bool {
        let heard = self.heard.iter().filter(|(gate, at)| {
            **gate != self.config.node && **at >= since && self.peers.votes(**gate)
        });
        heard.count() + 1 >= self.peers.majority()
    }

    fn serve(&mut self, now: Time, id: RequestId, client: ClientId, request: Request) {
        match request {
            Request::Submit { key, plan, blobs, secrets } => {
                let key = IdempotencyKey { client, key };
                if let Err(error) = self.submit(now, id, key, &plan, blobs, secrets) {
                    self.event(Event::JobRefused { error: error.clone() });
                    self.reply(id, Reply::Error(error));
                }
            }
            Request::Cancel { job, workflow, mode } => {
                self.cancel(now, id, client.as_str(), job, workflow, mode);
            }
            Request::Steer { job, pause, scale } => {
                self.steer(now, id, client.as_str(), job, pause, &scale);
            }
            Request::Get { job } => self.reply_job(id, job),
            Request::List => {
                let jobs = self.state.jobs.iter().rev();
                let jobs = jobs.map(|(&job, state)| self.job_view(job, state)).collect();
                self.reply(id, Reply::Jobs(jobs));
            }
            Request::Results { job } => match (self.results.get(&job), self.state.jobs.get(&job)) {
                (Some(result), _) => {
                    let result = Arc::clone(result);
                    self.reply(id, Reply::Results(result));
                }
                (None, Some(state)) if state.ended.is_none() => {
                    self.reply_error(id, RequestErrorKind::NotEnded, "the job has not ended yet");
                }
                (None, Some(_)) => {
                    let message = "the result is still on its way to this gate; try again";
                    self.reply_error(id, RequestErrorKind::NotReady, message);
                }
                (None, None) => self.reply(id, Reply::Stored { job }),
            },
            Request::Watch { job, after } => self.on_watch(now, id, job, after),
            Request::Datacenters => {
                let views = self.datacenter_views(now);
                self.reply(id, Reply::Datacenters(views));
            }
            Request::Nodes => {
                let views = self.node_views(now);
                self.reply(id, Reply::Nodes(views));
            }
            Request::Cluster => {
                let view = Box::new(self.cluster_view(now));
                self.reply(id, Reply::Cluster(view));
            }
            Request::Remove { node } => self.remove_node(now, id, client.as_str(), node),
            Request::Drain { node } => self.drain_node(now, id, node),
        }
    }

    fn submit(
        &mut self,
        now: Time,
        id: RequestId,
        key: IdempotencyKey,
        plan: &[u8],
        blobs: Vec<Arc<[u8]>>,
        secrets: Secrets,
    ) -> Result<(), RequestError> {
        let refuse = |kind, message: String| Err(RequestError { kind, message });
        let hash = hash_of(plan);
        if let Some(job) = self.state.job_of(&key) {
            let is_same = self.state.jobs.get(&job).is_some_and(|job| job.plan == hash);
            if is_same {
                self.reply(id, Reply::Accepted { job });
                return Ok(());
            }
            let message = "the idempotency key was used for another test".to_owned();
            return refuse(RequestErrorKind::KeyConflict, message);
        }
        if let Some(pending) = self.pending.get_mut(&key) {
            if pending.plan == hash {
                pending.waiting.push(id);
                return Ok(());
            }
            let message = "the idempotency key is being used for another test".to_owned();
            return refuse(RequestErrorKind::KeyConflict, message);
        }
        if let Some(message) = self.why_not_ready() {
            return refuse(RequestErrorKind::NotReady, message);
        }
        let live = self.state.jobs.values().filter(|job| job.ended.is_none()).count();
        if live + self.pending.len() >= self.config.jobs_max {
            let message = format!("{live} jobs are running already");
            return refuse(RequestErrorKind::TooManyJobs, message);
        }
        if plan.len() > PLAN_BYTES_MAX {
            let message =
                format!("the plan has {} bytes, {PLAN_BYTES_MAX} are allowed", plan.len());
            return refuse(RequestErrorKind::BadPlan, message);
        }
        let read = match Plan::from_bytes(plan) {
            Ok(read) => read,
            Err(error) => return refuse(RequestErrorKind::BadPlan, error.to_string()),
        };
        if let Some(missing) = read.secrets.iter().find(|name| !secrets.0.contains_key(*name)) {
            let message = format!("the secret `{missing}` has no value");
            return refuse(RequestErrorKind::BadPlan, message);
        }
        let given: BTreeSet<_> = blobs.iter().map(|blob| hash_of(blob)).collect();
        if let Some(missing) = read.blobs().difference(&given).next() {
            let message = format!("the blob {missing} that the plan names was not sent");
            return refuse(RequestErrorKind::BadPlan, message);
        }
        let parts = self.choose(now, &read).map_err(|error| self.unless_new(now, error))?;
        let job = self.next_job(now);
        let Ok(sealed) = seal(&self.config.secret_key, job, &secrets) else {
            return refuse(RequestErrorKind::BadPlan, "the secrets cannot be sealed".to_owned());
        };
        let mut hashes = BTreeSet::new();
        for bytes in blobs.into_iter().chain([Arc::from(plan)]) {
            let hash = self.blobs.insert(Arc::clone(&bytes));
            hashes.insert(hash);
            self.outputs.push(Output::StoreBlob { hash, bytes });
        }
        let entry = Entry::JobAccepted {
            job,
            key: key.clone(),
            plan: hash,
            name: read.name,
            at: self.wall(now),
            sealed,
            parts,
        };
        let (spread, waiting) = (Spread::new(hashes), vec![id]);
        let pending = Pending { plan: hash, entry, spread, waiting, since: now, proposed: None };
        self.pending.insert(key, pending);
        self.review_pending(now);
        Ok(())
    }

    /// Why nothing can be decided just now, if so.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let (voters, reached) = (self.peers.voters(), self.peers.reached());
        let majority = self.peers.majority();
        if reached < majority {
            return Some(format!(
                "this gate reaches {reached} of {voters} gates, itself included, and nothing is \
                 decided without {majority}; try again, or ask another gate"
            ));
        }
        if !self.peers.votes(self.config.node) {
            return Some(format!(
                "this gate is a spare: it follows {voters} others that decide, and takes part once \
                 one of them is removed; ask another gate"
            ));
        }
        if !self.takes_part() {
            return Some("this gate is still catching up with the others; try again".to_owned());
        }
        let Some(leader) = self.leader else {
            return Some("the gates are choosing a leader; try again".to_owned());
        };
        let is_reached = self.leads || self.peers.is_linked(leader);
        (!is_reached).then(|| format!("this gate does not reach {leader}, which leads; try again"))
    }

    /// Goes on with submissions: first a majority holds the plan, then the entry is decided.
    pub(crate) fn review_pending(&mut self, now: Time) {
        let keys: Vec<IdempotencyKey> = self.pending.keys().cloned().collect();
        for key in keys {
            let Some(mut pending) = self.pending.remove(&key) else { continue };
            let is_spread = self.is_spread(now, &mut pending.spread);
            let proposed = pending.proposed.get_or_insert(now);
            if is_spread {
                self.propose(now, About::Submission(key.clone()), &pending.entry);
            } else {
                *proposed = now;
            }
            // Links to those that hang are up for a while yet; large files take their time.
            let patience = match self.has_quorum(now) {
                true => self.config.replication_wait,
                false => self.config.decision_wait,
            };
            let is_late =
                now >= *proposed + self.config.decision_wait || now >= pending.since + patience;
            self.pending.insert(key.clone(), pending);
            if is_late {
                let why = "the gates have not decided in time; try again with the same key";
                self.fail_pending(&key, RequestErrorKind::NotReady, why);
            }
        }
    }

    pub(crate) fn fail_pending(&mut self, key: &IdempotencyKey, kind: RequestErrorKind, why: &str) {
        let waiting = self.pending.remove(key).map(|pending| pending.waiting);
        for id in waiting.into_iter().flatten() {
            self.reply_error(id, kind, why);
        }
    }

    /// Ids rise with time even within a millisecond, and if the wall clock steps back.
    fn next_job(&mut self, now: Time) -> JobId {
        let random = u128::from(self.random.next_u64()) << 10 | u128::from(self.random.next_u64());
        let fresh = JobId::from_parts(self.wall(now).0, random);
        self.last_job = if fresh > self.last_job {
            fresh
        } else {
            JobId::from_u128(self.last_job.as_u128() + 1)
        };
        self.last_job
    }

    /// A gate that has just started may not have heard of datacenters that are well.
    fn unless_new(&self, now: Time, error: RequestError) -> RequestError {
        let is_new = now < Time::ZERO + self.config.stale_after;
        if error.kind != RequestErrorKind::NoDatacenter || !is_new {
            return error;
        }
        let message = format!("this gate has just started: {}", error.message);
        RequestError { kind: RequestErrorKind::NotReady, message }
    }

    /// Answers those whose wish was decided in entries that this gate has not seen one by one.
    pub(crate) fn settle_requests(&mut self) {
        let keys: Vec<IdempotencyKey> = self.pending.keys().cloned().collect();
        keys.iter().for_each(|key| self.on_accepted(key));
        let stops: Vec<(JobId, Option<WorkflowIndex>)> = (self.cancels.iter())
            .map(|cancel| (cancel.job, cancel.workflow))
            .filter(|(job, workflow)| {
                let state = self.state.jobs.get(job);
                state.is_none_or(|state| match workflow {
                    None => state.ended.is_some() || state.cancel.is_some(),
                    Some(workflow) => {
                        state.ended.is_some()
                            || state.stopped_workflows.iter().any(|(known, _)| known == workflow)
                    }
                })
            })
            .collect();
        stops.into_iter().for_each(|(job, workflow)| self.on_cancel_decided(job, workflow));
    }

    /// A submission with this key was decided: its job is the answer to all that have the key.
    pub(crate) fn on_accepted(&mut self, key: &IdempotencyKey) {
        let Some(job) = self.state.job_of(key) else { return };
        let plan = self.state.jobs.get(&job).map(|job| job.plan);
        let Some(pending) = self.pending.remove(key) else { return };
        for id in pending.waiting {
            if plan == Some(pending.plan) {
                self.reply(id, Reply::Accepted { job });
            } else {
                let message = "the idempotency key was used for another test";
                self.reply_error(id, RequestErrorKind::KeyConflict, message);
            }
        }
    }

    fn cancel(
        &mut self,
        now: Time,
        id: RequestId,
        by: &str,
        job: JobId,
        workflow: Option<String>,
        mode: StopMode,
    ) {
        let Some(state) = self.state.jobs.get(&job) else {
            self.reply_error(id, RequestErrorKind::NotFound, "there is no such job here");
            return;
        };
        if state.ended.is_some() {
            self.reply_job(id, job); // Its status is final, and the answer says so.
            return;
        }
        if let Some(message) = self.why_not_ready() {
            self.reply_error(id, RequestErrorKind::NotReady, &message);
            return;
        }
        let by = by.to_owned();
        let (workflow, entry) = match workflow {
            None => (None, Entry::CancelAsked { job, by, mode }),
            Some(name) => {
                let Some(workflow) = self.workflow_index(job, &name) else {
                    let message = format!("the job has no workflow `{name}`");
                    self.reply_error(id, RequestErrorKind::NotFound, &message);
                    return;
                };
                (Some(workflow), Entry::WorkflowCancelAsked { job, workflow, by })
            }
        };
        self.cancels.push(WaitingCancel { id, job, workflow, mode, entry, since: now });
        self.review_waiting(now);
    }

    /// A stop was decided, or came too late: whoever asked for it is told how the job is.
    pub(crate) fn on_cancel_decided(&mut self, job: JobId, workflow: Option<WorkflowIndex>) {
        let decided = self.state.jobs.get(&job);
        let is_decided = |cancel: &WaitingCancel| {
            let is_sharp_enough = decided.is_none_or(|job| {
                job.ended.is_some()
                    || workflow.is_some()
                    || job.cancel.as_ref().is_some_and(|(_, mode)| *mode >= cancel.mode)
            });
            cancel.job == job && cancel.workflow == workflow && is_sharp_enough
        };
        let (done, waiting) = std::mem::take(&mut self.cancels).into_iter().partition(is_decided);
        self.cancels = waiting;
        let done: Vec<WaitingCancel> = done;
        done.into_iter().for_each(|cancel| self.reply_job(cancel.id, job));
    }

    pub(crate) fn fail_cancels(&mut self, job: JobId, why: &str) {
        let (failed, waiting) =
            std::mem::take(&mut self.cancels).into_iter().partition(|cancel| cancel.job == job);
        self.cancels = waiting;
        let failed: Vec<WaitingCancel> = failed;
        for cancel in failed {
            self.reply_error(cancel.id, RequestErrorKind::NotReady, why);
        }
    }

    /// Proposes stops that wait for it, and gives up what has waited too long.
    pub(crate) fn review_waiting(&mut self, now: Time) {
        let cancels: Vec<(About, Entry)> = (self.cancels.iter())
            .map(|cancel| {
                let about = match cancel.workflow {
                    None => About::Job(Step::Cancel, cancel.job, cancel.mode as u64),
                    Some(workflow) => {
                        About::Job(Step::CancelWorkflow, cancel.job, u64::from(workflow.0))
                    }
                };
                (about, cancel.entry.clone())
            })
            .collect();
        cancels.into_iter().for_each(|(about, entry)| self.propose(now, about, &entry));
        let wait = self.config.decision_wait;
        let (late, waiting) = std::mem::take(&mut self.cancels)
            .into_iter()
            .partition(|cancel| now >= cancel.since + wait);
        self.cancels = waiting;
        let late: Vec<WaitingCancel> = late;
        for cancel in late {
            let why = "the gates have not decided in time; try again";
            self.reply_error(cancel.id, RequestErrorKind::NotReady, why);
        }
        self.review_steers(now);
        for id in self.questions.take_late(now, self.config.answer_wait) {
            let why = "the gate that owns the job does not answer; try again";
            self.reply_error(id, RequestErrorKind::NotReady, why);
        }
    }

    fn on_watch(&mut self, now: Time, id: RequestId, job: JobId, after: u64) {
        if self.watch(now, Asker::Client(id), job, after) {
            return;
        }
        let Some(state) = self.state.jobs.get(&job) else {
            let message = "there is no such job here";
            return self.reply_error(id, RequestErrorKind::NotFound, message);
        };
        if state.ended.is_some() {
            let result = self.results.get(&job);
            let events = result.iter().flat_map(|result| &result.events);
            let events = events.filter(|event| event.id > after).cloned().collect();
            return self.reply(id, Reply::News { events, view: None, is_over: true });
        }
        let owner = state.gate;
        if owner == self.config.node || !self.peers.is_linked(owner) {
            let message = "no gate that is in reach has taken the job up yet; try again";
            return self.reply_error(id, RequestErrorKind::NotReady, message);
        }
        match encode_value(&Question { job, after }) {
            Ok(question) => {
                let number = self.questions.ask(now, id, job, owner);
                self.send(owner, Message::Ask { number, question });
            }
            Err(error) => self.malformed("question", &error),
        }
    }

    pub(crate) fn on_ask(&mut self, now: Time, from: NodeId, number: u64, question: &[u8]) {
        let asker = Asker::Gate(from, number);
        match decode_value::<Question>(question) {
            Ok(Question { job, after }) => {
                if !self.watch(now, asker.clone(), job, after) {
                    self.answer_not_owned(asker);
                }
            }
            Err(error) => self.malformed("question", &error),
        }
    }

    pub(crate) fn on_ask_dropped(&mut self, from: NodeId, number: u64) {
        let asker = Asker::Gate(from, number);
        self.live.values_mut().for_each(|live| live.forget_watcher(&asker));
    }

    pub(crate) fn on_answer(&mut self, from: NodeId, number: u64, answer: &[u8]) {
        let Some((id, job)) = self.questions.take(from, number) else { return };
        let owner = self.state.jobs.get(&job).map(|state| state.gate);
        match decode_value::<Result<News, RequestError>>(answer) {
            // What it shows may be more than the next owner knows: it was not yet given to others.
            Ok(Ok(_)) if owner.is_some_and(|owner| owner != from) => {
                self.answer_not_owned(Asker::Client(id));
            }
            // Whoever hears that a job is over asks this gate for its result next.
            Ok(Ok(news)) if news.is_over && !self.knows_end(job) => {
                let message = "the end of the job is still on its way to this gate; try again";
                self.reply_error(id, RequestErrorKind::NotReady, message);
            }
            Ok(answer) => self.tell(Asker::Client(id), answer),
            Err(error) => {
                self.malformed("answer", &error);
                let message = "the owner's answer cannot be read";
                self.reply_error(id, RequestErrorKind::NotReady, message);
            }
        }
    }

    fn knows_end(&self, job: JobId) -> bool {
        self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some())
    }

    pub(crate) fn tell(&mut self, asker: Asker, answer: Result<News, RequestError>) {
        match asker {
            Asker::Client(id) => self.reply(
                id,
                match answer {
                    Ok(News { events, view, is_over }) => Reply::News { events, view, is_over },
                    Err(error) => Reply::Error(error),
                },
            ),
            Asker::Gate(gate, number) => {
                let fits = |bytes: &Vec<u8>| bytes.len() <= ANSWER_BYTES_MAX;
                let whole = encode_value(&answer).ok().filter(fits);
                // A view that is too large for a frame is left out: events and the end are not.
                let bytes = whole.map_or_else(
                    || encode_value(&answer.map(|news| News { view: None, ..news })),
                    Ok,
                );
                match bytes {
                    Ok(answer) => self.send(gate, Message::Answer { number, answer }),
                    Err(error) => self.malformed("answer", &error),
                }
            }
        }
    }

    pub(crate) fn answer_not_owned(&mut self, asker: Asker) {
        let kind = RequestErrorKind::NotReady;
        let message = "another gate owns the job by now; try again".to_owned();
        self.tell(asker, Err(RequestError { kind, message }));
    }

    pub(crate) fn answer_cut_off(&mut self, asker: Asker) {
        let kind = RequestErrorKind::NotReady;
        let message = "this gate is cut off from the others; ask another".to_owned();
        self.tell(asker, Err(RequestError { kind, message }));
    }

    /// The link to another gate is gone, and with it what it asked and was asked.
    pub(crate) fn on_asker_gone(&mut self, gate: NodeId) {
        self.live.values_mut().for_each(|live| live.forget_watchers_of(gate));
        for id in self.questions.take_of(gate) {
            let why = "the gate that owns the job is out of reach; try again";
            self.reply_error(id, RequestErrorKind::NotReady, why);
        }
    }

    pub(crate) fn on_abandoned(&mut self, id: RequestId) {
        self.live.values_mut().for_each(|live| live.forget_watcher(&Asker::Client(id)));
        for pending in self.pending.values_mut() {
            pending.waiting.retain(|waiting| *waiting != id);
        }
        self.cancels.retain(|cancel| cancel.id != id);
        self.steers.retain(|asked| asked.id != id);
        self.removals.retain(|asked| asked.id != id);
        self.unknown.retain(|asked| asked.id != id);
        for (owner, number) in self.questions.drop_of(id) {
            self.send(owner, Message::AskDropped { number });
        }
    }

    fn workflow_index(&self, job: JobId, name: &str) -> Option<WorkflowIndex> {
        let plan = Plan::from_bytes(self.blobs.get(self.state.jobs.get(&job)?.plan)?).ok()?;
        let index = plan.workflows.iter().position(|workflow| workflow.name == name)?;
        u16::try_from(index).ok().map(WorkflowIndex)
    }

    /// This gate, then what the leader of each datacenter says of its nodes.
    fn node_views(&self, now: Time) -> Vec<NodeView> {
        let own = NodeView {
            node: self.config.node,
            role: Role::Gate,
            datacenter: None,
            state: if self.leads() { NodeState::Leading } else { NodeState::Following },
            is_fresh: true,
            cores: 0,
            free_cores: 0,
            software: SOFTWARE.to_owned(),
        };
        let gates = self.peers.told().map(|(node, software)| NodeView {
            node,
            role: Role::Gate,
            datacenter: None,
            state: match self.leader == Some(node) {
                true => NodeState::Leading,
                false => NodeState::Following,
            },
            is_fresh: self.state.sessions.contains_key(&node),
            cores: 0,
            free_cores: 0,
            software: software.to_owned(),
        });
        let others = self.statuses(now).flat_map(|(datacenter, is_fresh, status)| {
            status.nodes.iter().map(move |status| NodeView {
                node: status.node,
                role: status.role,
                datacenter: Some(datacenter.clone()),
                state: status.state,
                is_fresh,
                cores: status.cores,
                free_cores: status.free_cores,
                software: status.software.clone(),
            })
        });
        std::iter::once(own).chain(gates).chain(others).collect()
    }

    pub(crate) fn job_view(&self, job: JobId, state: &Job) -> JobView {
        JobView {
            job,
            name: state.name.clone(),
            client: state.key.client.clone(),
            state: self.job_state(job, state),
            accepted: state.accepted,
            started: state.started,
            ended: state.ended.as_ref().map(|end| end.at),
            verdict: state.ended.as_ref().map(|end| end.verdict),
            partial: state.ended.as_ref().is_some_and(|end| end.partial),
            datacenters: (state.parts_kept())
                .filter_map(|part| state.parts.get(usize::from(part.0)))
                .map(|(target, _)| target.datacenter.clone())
                .collect(),
            paused: state.ended.is_none() && state.steering().is_paused,
        }
    }

    pub(crate) fn job_state(&self, job: JobId, state: &Job) -> JobState {
        if let Some(end) = &state.ended {
            return JobState::Ended(end.status.clone());
        }
        if let Some((by, _)) = &state.cancel {
            return JobState::Stopping { why: format!("cancelled by {by}") };
        }
        if let Some(expression) = &state.broken {
            return JobState::Stopping { why: format!("threshold `{expression}` was broken") };
        }
        if state.is_over_limit {
            return JobState::Stopping { why: "its time is over".to_owned() };
        }
        match (state.started, self.is_queued(job)) {
            (Some(_), false) => JobState::Running,
            (_, true) => JobState::Queued,
            (None, false) => JobState::Accepted,
        }
    }
}

/// How a job ended, if it has.
impl JobView {
    /// The final status, if there is one.
    #[must_use]
    pub const fn end(&self) -> Option<&EndStatus> {
        match &self.state {
            JobState::Ended(status) => Some(status),
            JobState::Accepted
            | JobState::Queued
            | JobState::Running
            | JobState::Stopping { .. } => None,
        }
    }
}
