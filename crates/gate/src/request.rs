//! What clients ask, and what they are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyperscale_blobs::hash_of;
use hyperscale_model::{
    ClientId, DatacenterId, EndStatus, JobId, JobState, NodeId, Role, Time, Verdict, WallTime,
    WorkflowIndex,
};
use hyperscale_plan::{Datacenters, PLAN_BYTES_MAX, Plan, Secrets, Slice, Split};
use hyperscale_report::{EventRecord, JobResult, LiveView};
use hyperscale_wire::{NodeState, SOFTWARE, StopMode};
use serde::{Deserialize, Serialize};

use crate::seal::seal;
use crate::state::{Applied, Entry, IdempotencyKey, Job, Target};
use crate::{About, Datacenter, Event, Gate, Output, Pending};

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
        match request {
            Request::Submit { key, plan, blobs, secrets } => {
                let key = IdempotencyKey { client, key };
                if let Err(error) = self.submit(now, id, key, &plan, blobs, secrets) {
                    self.event(Event::JobRefused { error: error.clone() });
                    self.reply(id, Reply::Error(error));
                }
            }
            Request::Cancel { job, workflow, mode } => {
                self.cancel(id, client.as_str(), job, workflow, mode);
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
                (None, _) => self.reply(id, Reply::Stored { job }),
            },
            Request::Watch { job, after } => self.watch(now, id, job, after),
            Request::Datacenters => {
                let views = self.datacenter_views(now);
                self.reply(id, Reply::Datacenters(views));
            }
            Request::Nodes => {
                let views = self.node_views(now);
                self.reply(id, Reply::Nodes(views));
            }
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
        if !self.leads() {
            let message = "this gate does not lead yet; try again".to_owned();
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
        for bytes in blobs.into_iter().chain([Arc::from(plan)]) {
            let hash = self.blobs.insert(Arc::clone(&bytes));
            self.outputs.push(Output::StoreBlob { hash, bytes });
        }
        let entry = Entry::JobAccepted {
            job,
            key: key.clone(),
            plan: hash,
            name: read.name,
            at: self.wall(now),
            gate: self.config.node,
            sealed,
            parts,
        };
        self.propose(About::Submission(key.clone()), &entry);
        self.pending.insert(key, Pending { job, plan: hash, secrets, waiting: vec![id] });
        Ok(())
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

    /// The datacenters of a job, with the share of each.
    fn choose(&self, now: Time, plan: &Plan) -> Result<Vec<Target>, RequestError> {
        let fresh: Vec<DatacenterView> =
            self.datacenter_views(now).into_iter().filter(|view| view.is_fresh).collect();
        let chosen: Vec<DatacenterView> = match &plan.run.datacenters {
            Datacenters::All => fresh,
            Datacenters::Choose(count) => {
                let mut by_capacity = fresh;
                by_capacity.sort_by(|a, b| {
                    b.free_cores.cmp(&a.free_cores).then(a.datacenter.cmp(&b.datacenter))
                });
                by_capacity.truncate(usize::from(*count));
                by_capacity
            }
            Datacenters::Named(names) => {
                let mut chosen = Vec::with_capacity(names.len());
                for name in names {
                    let found = fresh.iter().find(|view| view.datacenter.as_str() == name);
                    // A named datacenter is a promise: none takes its place silently.
                    chosen.push(found.cloned().ok_or_else(|| RequestError {
                        kind: RequestErrorKind::NoDatacenter,
                        message: format!("the datacenter `{name}` is not reachable"),
                    })?);
                }
                chosen
            }
        };
        if chosen.is_empty() {
            let message = "no datacenter is reachable".to_owned();
            return Err(RequestError { kind: RequestErrorKind::NoDatacenter, message });
        }
        let weights: Vec<u32> = (chosen.iter())
            .map(|view| match &plan.run.split {
                Split::Weighted => view.cores.max(1),
                Split::Even | Split::Each => 1,
                Split::Shares(shares) => shares.get(view.datacenter.as_str()).copied().unwrap_or(0),
            })
            .collect();
        let slices = match plan.run.split {
            Split::Each => vec![Slice::whole(); chosen.len()],
            Split::Weighted | Split::Even | Split::Shares(_) => Slice::whole().split(&weights),
        };
        Ok((chosen.into_iter().zip(slices))
            .map(|(view, slice)| Target { datacenter: view.datacenter, slice })
            .collect())
    }

    pub(crate) fn on_accepted(
        &mut self,
        now: Time,
        job: JobId,
        key: &IdempotencyKey,
        applied: Applied,
    ) {
        let Some(pending) = self.pending.remove(key) else { return };
        // If another submission with this key was decided first, its job is the answer.
        let winner = self.state.job_of(key);
        for id in pending.waiting {
            match winner {
                Some(job) => self.reply(id, Reply::Accepted { job }),
                None => self.reply_error(id, RequestErrorKind::NotReady, "try again"),
            }
        }
        if applied == Applied::Changed && pending.job == job {
            self.event(Event::JobAccepted { job });
            self.own_with(now, job, pending.secrets);
        }
    }

    fn cancel(
        &mut self,
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
        if !self.leads() {
            self.reply_error(id, RequestErrorKind::NotReady, "this gate does not lead");
            return;
        }
        let by = by.to_owned();
        let (about, entry) = match workflow {
            None => {
                let about = About::Job(1, job, mode as u64);
                (about, Entry::CancelAsked { job, by, mode })
            }
            Some(name) => {
                let Some(workflow) = self.workflow_index(job, &name) else {
                    let message = format!("the job has no workflow `{name}`");
                    self.reply_error(id, RequestErrorKind::NotFound, &message);
                    return;
                };
                let about = About::Job(2, job, u64::from(workflow.0));
                (about, Entry::WorkflowCancelAsked { job, workflow, by })
            }
        };
        match self.propose(about, &entry) {
            Some(proposal) => {
                self.cancels.insert(proposal, (id, job));
            }
            // The same cancel is on its way: the state that it leads to is the answer.
            None => self.reply_job(id, job),
        }
    }

    fn workflow_index(&self, job: JobId, name: &str) -> Option<WorkflowIndex> {
        let plan = self.live.get(&job)?.plan();
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
        let others = self.datacenters.iter().flat_map(|(datacenter, known)| {
            let is_fresh = self.is_fresh(now, datacenter, known);
            let nodes = known.status.as_ref().map(|status| status.nodes.as_slice());
            nodes.unwrap_or_default().iter().map(move |status| NodeView {
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
        std::iter::once(own).chain(others).collect()
    }

    /// Whether a datacenter was heard of lately and can be reached.
    fn is_fresh(&self, now: Time, datacenter: &DatacenterId, known: &Datacenter) -> bool {
        now < known.last_heard + self.config.stale_after && self.leader_of(datacenter).is_some()
    }

    fn datacenter_views(&self, now: Time) -> Vec<DatacenterView> {
        (self.datacenters.iter())
            .filter_map(|(datacenter, known)| {
                let status = known.status.as_ref()?;
                Some(DatacenterView {
                    datacenter: datacenter.clone(),
                    is_fresh: self.is_fresh(now, datacenter, known),
                    workers: status.workers,
                    cores: status.cores,
                    free_cores: status.free_cores,
                })
            })
            .collect()
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
            datacenters: state.parts.iter().map(|(target, _)| target.datacenter.clone()).collect(),
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
        match (state.started, self.live.get(&job).is_some_and(|live| live.is_queued())) {
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
