//! The gate's decisions: it owns jobs, gives their parts to datacenters, merges what they report,
//! judges thresholds, and decides when a job is over.
//!
//! The ledger holds what must survive ([`state`]). The owner of a job looks at that, at the
//! datacenters and at the clock, and sends or proposes what is missing (`owner.rs`): like the
//! manager's, its review has no memory of its own, so that lost messages are simply missing again.
//! Statistics are acknowledged only after their checkpoint, so that a killed gate loses none.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod federation;
mod owner;
pub mod peers;
mod request;
pub mod ring;
pub mod router;
mod seal;
pub mod spill;
pub mod state;
mod statistics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_blobs::Blobs;
use hyperscale_model::{
    BlobHash, ClientId, DatacenterId, EndStatus, Fence, JobId, NodeId, ProposalId, SplitMix, Time,
    WallTime,
};
use hyperscale_plan::Plan;
use hyperscale_report::JobResult;
use hyperscale_wire::{DatacenterStatus, Message, Subject, decode_value, encode_value};

use crate::owner::{Checkpoint, Live};
pub use crate::request::{
    DatacenterView, JobView, NodeView, Reply, Request, RequestError, RequestErrorKind, RequestId,
};
use crate::state::{Applied, Entry, IdempotencyKey, State};

/// Settings of a gate.
#[derive(Debug, Clone)]
pub struct GateConfig {
    /// This node.
    pub node: NodeId,
    /// The wall clock when the node's time was zero.
    pub wall_at_zero: WallTime,
    /// Seals the secrets of jobs in the ledger; the same on all gates of a cluster.
    pub secret_key: [u8; 32],
    /// The length of a window of statistics.
    pub window: Duration,
    /// How long an unanswered message waits before it is sent again.
    pub resend: Duration,
    /// After so long without a word a datacenter gets nothing new.
    pub stale_after: Duration,
    /// How long before its start a part is told to start, so that all start together.
    pub start_margin: Duration,
    /// How often watchers get news.
    pub push: Duration,
    /// How often thresholds are judged.
    pub judge: Duration,
    /// How often statistics are checkpointed, and then acknowledged.
    pub checkpoint: Duration,
    /// How long the end of a part waits for statistics that are missing.
    pub statistics_wait: Duration,
    /// How long a silent datacenter is waited for beyond a job's deadline.
    pub part_wait: Duration,
    /// How long an ended job stays at hand.
    pub retention: Duration,
    /// Jobs that may live at once.
    pub jobs_max: usize,
}

impl GateConfig {
    /// The defaults.
    #[must_use]
    pub const fn new(node: NodeId, wall_at_zero: WallTime, secret_key: [u8; 32]) -> Self {
        Self {
            node,
            wall_at_zero,
            secret_key,
            window: Duration::from_secs(1),
            resend: Duration::from_secs(1),
            stale_after: Duration::from_secs(5),
            start_margin: Duration::from_millis(300),
            push: Duration::from_millis(250),
            judge: Duration::from_secs(1),
            checkpoint: Duration::from_secs(1),
            statistics_wait: Duration::from_secs(30),
            part_wait: Duration::from_secs(300),
            retention: Duration::from_secs(300),
            jobs_max: 10_000,
        }
    }
}

/// What happens to a gate.
#[derive(Debug)]
pub enum Input {
    /// A link to a manager is up.
    ManagerConnected {
        /// Which manager.
        manager: NodeId,
    },
    /// The link to a node is down.
    Disconnected {
        /// Which node.
        node: NodeId,
    },
    /// A node says something.
    Message {
        /// Which node.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// A client asks something; it gets one reply.
    Request {
        /// The reply carries it.
        id: RequestId,
        /// Who asks.
        client: ClientId,
        /// What.
        request: Request,
    },
    /// The client waits no more.
    RequestAbandoned {
        /// Which request.
        id: RequestId,
    },
    /// An entry of the gates' ledger was decided.
    Committed {
        /// Its index.
        index: u64,
        /// The entry.
        entry: Vec<u8>,
        /// The proposal, if this node made it.
        proposal: Option<ProposalId>,
    },
    /// A proposal of this node will not be decided.
    Refused {
        /// Which.
        proposal: ProposalId,
    },
    /// Who leads the ledger has changed.
    Leadership {
        /// Whether this node leads.
        leads: bool,
    },
    /// The ledger wants a snapshot of the state.
    TakeSnapshot {
        /// The index of the last applied entry.
        index: u64,
    },
    /// The state as a snapshot has it, in place of all entries before it.
    Restored {
        /// The snapshot.
        snapshot: Vec<u8>,
    },
    /// A blob that the node has stored earlier.
    Blob {
        /// Its bytes.
        bytes: Arc<[u8]>,
    },
    /// A checkpoint that the node has stored earlier.
    Checkpoint {
        /// The job.
        job: JobId,
        /// Its statistics.
        checkpoint: Vec<u8>,
    },
    /// The deadline has come.
    Tick,
}

/// What a gate wants done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send to a manager.
    Send {
        /// Which.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Propose an entry to the gates' ledger.
    Propose {
        /// The proposal.
        proposal: ProposalId,
        /// The entry.
        entry: Vec<u8>,
    },
    /// Answer a client.
    Reply {
        /// The request.
        id: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// Store a blob before anything that follows.
    StoreBlob {
        /// Its hash.
        hash: BlobHash,
        /// Its bytes.
        bytes: Arc<[u8]>,
    },
    /// Blobs that nothing needs any more.
    DropBlobs {
        /// Those that are still needed.
        needed: BTreeSet<BlobHash>,
    },
    /// Store a job's statistics, in place of earlier ones, before anything that follows.
    StoreCheckpoint {
        /// The job.
        job: JobId,
        /// Its statistics.
        checkpoint: Vec<u8>,
    },
    /// A job's checkpoint is needed no more.
    DropCheckpoint {
        /// The job.
        job: JobId,
    },
    /// Store a job's result, in place of an earlier one, before anything that follows.
    StoreResult {
        /// The result.
        result: Arc<JobResult>,
    },
    /// The snapshot that was asked for.
    Snapshot {
        /// The index of the last applied entry.
        index: u64,
        /// The state.
        snapshot: Vec<u8>,
    },
    /// Log and count.
    Event(Event),
}

/// What is worth a line in the log and a count.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// This gate leads.
    LeadershipGained {
        /// Its fence.
        fence: Fence,
    },
    /// This gate leads no more.
    LeadershipLost,
    /// A job was accepted.
    JobAccepted {
        /// The job.
        job: JobId,
    },
    /// A submission was refused.
    JobRefused {
        /// Why.
        error: RequestError,
    },
    /// A job is over.
    JobEnded {
        /// The job.
        job: JobId,
        /// How.
        status: EndStatus,
    },
    /// A message of a deposed leader was refused.
    StaleFence {
        /// The sender.
        from: NodeId,
        /// Its fence.
        fence: Fence,
        /// The fence that this gate holds.
        held: Fence,
    },
    /// Another holds a higher fence for a job that this gate took for its own.
    Deposed {
        /// What the fence guards.
        subject: Subject,
        /// The fence that the other holds.
        held: Fence,
    },
    /// Something that was decided or received cannot be read.
    Malformed {
        /// What.
        what: &'static str,
        /// Why.
        error: String,
    },
}

#[derive(Debug)]
enum Leadership {
    Follower,
    /// Elected; the entry that makes the fence is on its way.
    Barrier {
        proposal: ProposalId,
    },
    Leading,
}

/// A datacenter as this gate sees it.
#[derive(Debug, Default)]
struct Datacenter {
    leader: Option<(NodeId, Fence)>,
    status: Option<DatacenterStatus>,
    last_heard: Time,
}

/// A proposal on its way.
#[derive(Debug, PartialEq, Eq)]
enum About {
    Submission(IdempotencyKey),
    Job(u8, JobId, u64),
}

/// The gate's state.
#[derive(Debug)]
pub struct Gate {
    config: GateConfig,
    random: SplitMix,
    state: State,
    leadership: Leadership,
    managers: BTreeSet<NodeId>,
    datacenters: BTreeMap<DatacenterId, Datacenter>,
    blobs: Blobs,
    checkpoints: BTreeMap<JobId, Checkpoint<'static>>,
    live: BTreeMap<JobId, Live>,
    results: BTreeMap<JobId, Arc<JobResult>>,
    /// Submissions whose entry is on its way, with everyone who waits for it.
    pending: BTreeMap<IdempotencyKey, Pending>,
    /// Cancels whose entry is on its way.
    cancels: BTreeMap<ProposalId, (RequestId, JobId)>,
    proposed: BTreeMap<ProposalId, About>,
    last_proposal: ProposalId,
    last_job: JobId,
    next_review: Time,
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Pending {
    job: JobId,
    plan: BlobHash,
    secrets: hyperscale_plan::Secrets,
    waiting: Vec<RequestId>,
}

impl Gate {
    /// A gate that knows nothing yet: its ledger tells it what was decided. `seed` spreads job ids.
    #[must_use]
    pub fn new(config: GateConfig, seed: u64) -> Self {
        Self {
            config,
            random: SplitMix::new(seed),
            state: State::default(),
            leadership: Leadership::Follower,
            managers: BTreeSet::new(),
            datacenters: BTreeMap::new(),
            blobs: Blobs::new(),
            checkpoints: BTreeMap::new(),
            live: BTreeMap::new(),
            results: BTreeMap::new(),
            pending: BTreeMap::new(),
            cancels: BTreeMap::new(),
            proposed: BTreeMap::new(),
            last_proposal: ProposalId::NONE,
            last_job: JobId::from_u128(0),
            next_review: Time::ZERO,
            outputs: Vec::new(),
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::ManagerConnected { manager } => {
                self.managers.insert(manager);
                self.live.values_mut().for_each(Live::resend_all);
            }
            Input::Disconnected { node } => {
                self.managers.remove(&node);
            }
            Input::Message { from, message } => self.on_message(now, from, message),
            Input::Request { id, client, request } => self.on_request(now, id, client, request),
            Input::RequestAbandoned { id } => self.on_abandoned(id),
            Input::Committed { index, entry, proposal } => {
                self.on_committed(now, index, &entry, proposal);
            }
            Input::Refused { proposal } => self.on_refused(proposal),
            Input::Leadership { leads } => self.on_leadership(leads),
            Input::TakeSnapshot { index } => match encode_value(&self.state) {
                Ok(snapshot) => self.outputs.push(Output::Snapshot { index, snapshot }),
                Err(error) => self.malformed("snapshot", &error),
            },
            Input::Restored { snapshot } => match decode_value(&snapshot) {
                Ok(state) => self.state = state,
                Err(error) => self.malformed("snapshot", &error),
            },
            Input::Blob { bytes } => {
                self.blobs.insert(bytes);
            }
            Input::Checkpoint { job, checkpoint } => match decode_value(&checkpoint) {
                Ok(checkpoint) => {
                    self.checkpoints.insert(job, checkpoint);
                }
                Err(error) => self.malformed("checkpoint", &error),
            },
            Input::Tick => {}
        }
        self.review(now);
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        (!self.live.is_empty() || !self.state.jobs.is_empty()).then_some(self.next_review)
    }

    /// What is to be done, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> {
        self.outputs.drain(..)
    }

    /// The state that the ledger holds.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether this gate leads and so owns its jobs.
    #[must_use]
    pub const fn leads(&self) -> bool {
        matches!(self.leadership, Leadership::Leading)
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push(Output::Send { to, message });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    fn malformed(&mut self, what: &'static str, error: &dyn std::error::Error) {
        self.event(Event::Malformed { what, error: error.to_string() });
    }

    fn wall(&self, now: Time) -> WallTime {
        WallTime(self.config.wall_at_zero.0 + now.as_nanos() / 1_000_000)
    }

    /// The time since a wall-clock instant that this or an earlier life of a node noted.
    fn since(&self, now: Time, then: WallTime) -> Duration {
        match then.0.checked_sub(self.config.wall_at_zero.0) {
            Some(millis) => now.since(Time::from_millis(millis)),
            None => {
                let before = self.config.wall_at_zero.0 - then.0;
                now.since(Time::ZERO) + Duration::from_millis(before)
            }
        }
    }

    fn on_message(&mut self, now: Time, from: NodeId, message: Message) {
        match message {
            Message::DatacenterStatus(status) => self.on_status(now, from, status),
            Message::PartAccepted { part, fence } => self.on_part_accepted(now, part, fence),
            Message::PartRefused { part, fence, why } => {
                self.on_part_refused(part, fence, why);
            }
            Message::PartReport(report) => self.on_report(now, from, *report),
            Message::PartEnded(result) => self.on_part_ended(now, from, *result),
            Message::Delta(delta) => self.on_delta(from, &delta),
            Message::BlobRequest { hash, offset } => {
                let answer = self.blobs.serve(hash, offset);
                self.send(from, answer);
            }
            Message::StaleFence { subject, held } => {
                // Our next entry about the job will have a higher fence, or another gate owns it.
                self.event(Event::Deposed { subject, held });
            }
            // Nobody may send us these; the link's table of messages refuses them before.
            Message::OfferPart(_)
            | Message::StartPart { .. }
            | Message::StopPart { .. }
            | Message::StopWorkflow { .. }
            | Message::PartEndedAck { .. }
            | Message::RenewLease { .. }
            | Message::LeaseGranted { .. }
            | Message::Lead { .. }
            | Message::NotLeader { .. }
            | Message::OfferAttempt(_)
            | Message::AttemptAccepted { .. }
            | Message::AttemptRefused { .. }
            | Message::StartAttempt { .. }
            | Message::StopAttempt { .. }
            | Message::AttemptEnded { .. }
            | Message::AttemptEndedAck { .. }
            | Message::DeltaAck { .. }
            | Message::Ledger { .. }
            | Message::ManagerStatus { .. }
            | Message::KeepBlob { .. }
            | Message::BlobKept { .. }
            | Message::BlobChunk { .. }
            | Message::BlobMissing { .. } => {}
        }
    }

    fn on_status(&mut self, now: Time, from: NodeId, status: DatacenterStatus) {
        let known = self.datacenters.entry(status.datacenter.clone()).or_default();
        let Some(fence) = status.leading else { return };
        match known.leader {
            Some((_, held)) if fence < held => {
                self.event(Event::StaleFence { from, fence, held });
                return;
            }
            Some((leader, held)) if leader == from && held == fence => {
                let is_older =
                    known.status.as_ref().is_some_and(|last| last.version >= status.version);
                if is_older {
                    return;
                }
            }
            Some(_) | None => {
                known.leader = Some((from, fence));
                self.offer_anew(&status.datacenter);
            }
        }
        let known = self.datacenters.entry(status.datacenter.clone()).or_default();
        known.last_heard = now;
        known.status = Some(status);
    }

    /// A new leader has no secrets of its parts, which no ledger holds: an offer brings them. And it
    /// may not know of all that was counted.
    fn offer_anew(&mut self, datacenter: &DatacenterId) {
        for (job, live) in &mut self.live {
            if let Some(state) = self.state.jobs.get(job) {
                let parts = state.parts.iter().map(|(target, _)| target.datacenter == *datacenter);
                live.offer_anew(parts);
            }
        }
    }

    /// The leader of a datacenter, if there is a link to it.
    fn leader_of(&self, datacenter: &DatacenterId) -> Option<NodeId> {
        let (leader, _) = self.datacenters.get(datacenter)?.leader?;
        self.managers.contains(&leader).then_some(leader)
    }

    fn next_proposal(&mut self) -> ProposalId {
        self.last_proposal = self.last_proposal.next();
        self.last_proposal
    }

    /// Proposes an entry, as a leader, unless one about the same thing is on its way.
    fn propose(&mut self, about: About, entry: &Entry) -> Option<ProposalId> {
        if !self.leads() || self.proposed.values().any(|known| *known == about) {
            return None;
        }
        let proposal = self.next_proposal();
        match encode_value(entry) {
            Ok(entry) => {
                self.proposed.insert(proposal, about);
                self.outputs.push(Output::Propose { proposal, entry });
                Some(proposal)
            }
            Err(error) => {
                self.malformed("proposal", &error);
                None
            }
        }
    }

    fn on_committed(&mut self, now: Time, index: u64, bytes: &[u8], proposal: Option<ProposalId>) {
        let entry: Entry = match decode_value(bytes) {
            Ok(entry) => entry,
            Err(error) => return self.malformed("ledger entry", &error),
        };
        let applied = self.state.apply(index, &entry);
        if let Some(proposal) = proposal {
            self.proposed.remove(&proposal);
        }
        match self.leadership {
            Leadership::Barrier { proposal: barrier } if proposal == Some(barrier) => {
                let fence = Fence(index);
                self.leadership = Leadership::Leading;
                self.event(Event::LeadershipGained { fence });
                self.claim_jobs();
            }
            Leadership::Leading => self.after_applied(now, proposal, &entry, applied),
            Leadership::Barrier { .. } | Leadership::Follower => {}
        }
    }

    /// A new leader owns all jobs; each gets a fence above that of the last owner.
    fn claim_jobs(&mut self) {
        let jobs: Vec<JobId> = (self.state.jobs.iter())
            .filter(|(_, job)| job.ended.is_none())
            .map(|(&job, _)| job)
            .collect();
        for job in jobs {
            let gate = self.config.node;
            let entry = Entry::OwnershipMoved { job, gate };
            self.propose(About::Job(0, job, 0), &entry);
        }
    }

    fn on_refused(&mut self, proposal: ProposalId) {
        if matches!(self.leadership, Leadership::Barrier { proposal: barrier } if barrier == proposal)
        {
            self.start_barrier();
            return;
        }
        if let Some((id, _)) = self.cancels.remove(&proposal) {
            self.reply_error(id, RequestErrorKind::NotReady, "the ledger has no leader");
        }
        if let Some(About::Submission(key)) = self.proposed.remove(&proposal)
            && let Some(pending) = self.pending.remove(&key)
        {
            for id in pending.waiting {
                self.reply_error(id, RequestErrorKind::NotReady, "the ledger has no leader");
            }
        }
    }

    fn start_barrier(&mut self) {
        let proposal = self.next_proposal();
        self.leadership = Leadership::Barrier { proposal };
        match encode_value(&Entry::LeaderStarted { node: self.config.node }) {
            Ok(entry) => self.outputs.push(Output::Propose { proposal, entry }),
            Err(error) => self.malformed("proposal", &error),
        }
    }

    fn on_leadership(&mut self, leads: bool) {
        match (&self.leadership, leads) {
            (Leadership::Follower, true) => self.start_barrier(),
            (Leadership::Leading | Leadership::Barrier { .. }, true)
            | (Leadership::Follower, false) => {}
            (Leadership::Leading | Leadership::Barrier { .. }, false) => {
                self.leadership = Leadership::Follower;
                self.live.clear();
                self.proposed.clear();
                self.event(Event::LeadershipLost);
                let waiting: Vec<RequestId> = std::mem::take(&mut self.pending)
                    .into_values()
                    .flat_map(|p| p.waiting)
                    .collect();
                let cancels = std::mem::take(&mut self.cancels).into_values().map(|(id, _)| id);
                for id in waiting.into_iter().chain(cancels) {
                    self.reply_error(
                        id,
                        RequestErrorKind::NotReady,
                        "the ledger has lost its leader",
                    );
                }
            }
        }
    }

    fn after_applied(
        &mut self,
        now: Time,
        proposal: Option<ProposalId>,
        entry: &Entry,
        applied: Applied,
    ) {
        match entry {
            Entry::JobAccepted { job, key, .. } => self.on_accepted(now, *job, key, applied),
            Entry::OwnershipMoved { job, .. } => self.own(now, *job),
            Entry::CancelAsked { job, by, .. } => {
                if applied == Applied::Changed {
                    self.note(now, *job, "stopping", format!("{by} asked to stop the job"));
                }
                if let Some((id, job)) = proposal.and_then(|p| self.cancels.remove(&p)) {
                    self.reply_job(id, job);
                }
            }
            Entry::WorkflowCancelAsked { job, workflow, by } => {
                if applied == Applied::Changed {
                    let text = format!("{by} asked to stop workflow number {workflow}");
                    self.note(now, *job, "workflow_stopping", text);
                }
                if let Some((id, job)) = proposal.and_then(|p| self.cancels.remove(&p)) {
                    self.reply_job(id, job);
                }
            }
            Entry::ThresholdBroken { job, expression } if applied == Applied::Changed => {
                let text = format!("threshold `{expression}` was broken: the job stops");
                self.note(now, *job, "threshold_broken", text);
            }
            Entry::PartEnded { job, part, end } if applied == Applied::Changed => {
                self.on_part_end_decided(now, *job, *part, end);
            }
            Entry::JobEnded { job, status, .. } if applied == Applied::Changed => {
                self.event(Event::JobEnded { job: *job, status: status.clone() });
                self.on_job_end_decided(now, *job);
            }
            Entry::JobForgotten { job } => {
                self.results.remove(job);
                self.live.remove(job);
                let needed: BTreeSet<BlobHash> =
                    self.state.jobs.values().flat_map(|job| self.blobs_of(job.plan)).collect();
                self.blobs.retain(|hash| needed.contains(&hash));
                self.outputs.push(Output::DropBlobs { needed });
            }
            Entry::LeaderStarted { .. }
            | Entry::JobStarted { .. }
            | Entry::ThresholdBroken { .. }
            | Entry::PartEnded { .. }
            | Entry::JobEnded { .. } => {}
        }
    }

    fn blobs_of(&self, plan: BlobHash) -> BTreeSet<BlobHash> {
        let read = self.blobs.get(plan).and_then(|bytes| Plan::from_bytes(bytes).ok());
        let mut blobs = read.map(|plan| plan.blobs()).unwrap_or_default();
        blobs.insert(plan);
        blobs
    }
}

#[cfg(test)]
mod tests;
