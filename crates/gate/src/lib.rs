//! The gate's decisions: it owns jobs, gives their parts to datacenters, merges what they report,
//! judges thresholds, and decides when a job is over.
//!
//! The ledger holds what must survive ([`state`]): which gates take part, and which of them owns
//! each job. The owner of a job looks at that, at the datacenters and at the clock, and sends or
//! proposes what is missing (`owner.rs`): like the manager's, its review has no memory of its own,
//! so that lost messages are simply missing again. Statistics are acknowledged only once a majority
//! of gates holds them (`copies.rs`), so that a killed gate loses none, and the next owner goes on
//! from them.

#![warn(clippy::wildcard_enum_match_arm)]

mod audit;
mod cluster;
mod copies;
mod federation;
mod owner;
mod peers;
mod places;
mod reap;
mod removal;
mod request;
mod ring;
mod router;
mod seal;
mod settle;
pub mod state;
mod statistics;
mod steering;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_blobs::{Blobs, Peers};
use hyperscale_model::{
    BlobHash, ClientId, DatacenterId, Decision, Electorate, ElectorateChange, EndStatus, Fence,
    Incarnation, JobId, NodeId, PartId, ProposalId, SplitMix, Time, WallTime,
};
use hyperscale_plan::Plan;
use hyperscale_report::JobResult;
use hyperscale_resilience::{BreakerConfig, Breakers};
use hyperscale_wire::{CopyMark, Message, Subject, decode_value, encode_value};
use serde::{Deserialize, Serialize};

pub use crate::cluster::{ClusterView, GateView, LedDatacenterView, OwnerView, QuorumView};
use crate::copies::{Checkpoint, Recovery, Written};
use crate::federation::{Change, Federation};
pub use crate::federation::{Change as DatacenterChange, FederationConfig, Standing};
use crate::owner::Live;
use crate::places::Place;
use crate::reap::Missed;
use crate::removal::WaitingRemoval;
pub use crate::request::{
    DatacenterView, JobView, NodeView, Reply, Request, RequestError, RequestErrorKind, RequestId,
};
use crate::request::{Pending, Questions, Unknown, WaitingCancel};
use crate::router::Router;
use crate::state::{Applied, Entry, IdempotencyKey, State};
use crate::steering::WaitingSteer;

/// Settings of a gate.
#[derive(Debug, Clone)]
pub struct GateConfig {
    /// This node.
    pub node: NodeId,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
    /// How many gates found the gates' ledger, this one included.
    pub gates: usize,
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
    /// How long a silent datacenter is waited for, once most gates have lost it, and beyond a job's
    /// deadline.
    pub part_wait: Duration,
    /// How long after the end of a job's time its owner stops what still runs of it, if no
    /// datacenter has said before that the time is over. They know it best: clocks of gates may
    /// differ from theirs.
    pub limit_grace: Duration,
    /// How long a datacenter may take to accept a part before another is asked.
    pub dispatch_wait: Duration,
    /// How datacenters are watched.
    pub federation: FederationConfig,
    /// How long an ended job stays at hand.
    pub retention: Duration,
    /// After how long a voter that is not there, of the gates or of a datacenter, gives way to a
    /// spare. Never, unless set: an operator removes it.
    pub reap_voters_after: Option<Duration>,
    /// Jobs that may live at once.
    pub jobs_max: usize,
    /// How often a gate says something to the others.
    pub beat: Duration,
    /// How long a gate may be without a link to the leader of the ledger before its jobs move.
    pub session_grace: Duration,
    /// How long a gate that is linked may be silent before its jobs move.
    pub session_silence: Duration,
    /// How long a proposal may take before it is made again, and whoever waits for it is told so.
    pub decision_wait: Duration,
    /// How long a plan and its data may take to a majority of gates.
    pub replication_wait: Duration,
    /// How long the owner of a job may take to answer a question that came to another gate.
    pub answer_wait: Duration,
}

impl GateConfig {
    /// The defaults.
    #[must_use]
    pub const fn new(
        node: NodeId,
        incarnation: Incarnation,
        wall_at_zero: WallTime,
        secret_key: [u8; 32],
    ) -> Self {
        Self {
            node,
            incarnation,
            gates: 1,
            wall_at_zero,
            secret_key,
            window: Duration::from_secs(1),
            resend: Duration::from_secs(1),
            stale_after: Duration::from_secs(5),
            start_margin: Duration::from_millis(300),
            push: Duration::from_millis(250),
            judge: Duration::from_secs(1),
            checkpoint: Duration::from_secs(1),
            // Longer than most cuts: a leader may have died with what a worker that is cut off still has.
            statistics_wait: Duration::from_secs(60),
            part_wait: Duration::from_secs(300),
            limit_grace: Duration::from_secs(10),
            dispatch_wait: Duration::from_secs(6),
            federation: FederationConfig::DEFAULT,
            retention: Duration::from_secs(300),
            reap_voters_after: None,
            jobs_max: 10_000,
            beat: Duration::from_secs(1),
            session_grace: Duration::from_millis(1_500),
            session_silence: Duration::from_secs(6),
            decision_wait: Duration::from_secs(2),
            replication_wait: Duration::from_secs(20),
            answer_wait: Duration::from_secs(3),
        }
    }
}

/// What a node keeps of a job's statistics: all of them as they were once, and the changes since with
/// the mark that each leads to, in their order.
pub type Kept = (Vec<u8>, Vec<(CopyMark, Vec<u8>)>);

/// What happens to a gate.
#[derive(Debug)]
pub enum Input {
    /// A link to a manager is up.
    ManagerConnected {
        /// Which manager.
        manager: NodeId,
    },
    /// A link to another gate is up.
    GateConnected {
        /// Which gate.
        gate: NodeId,
    },
    /// The gates' ledger has been started in an earlier life.
    Founded,
    /// Gossip says that a gate is dead, or has left. It may be wrong.
    MemberGone {
        /// Which.
        node: NodeId,
    },
    /// The gate shall leave: others take its jobs over first.
    Leave,
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
        /// Who does, if it is known.
        leader: Option<NodeId>,
    },
    /// Who takes part in the ledger has changed.
    Electorate(Electorate),
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
        /// What was kept of it.
        kept: Kept,
    },
    /// The deadline has come.
    Tick,
}

/// What a gate wants done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Start the gates' ledger.
    Found {
        /// Its voters.
        voters: Vec<NodeId>,
    },
    /// Change who takes part in the gates' ledger.
    ChangeElectorate(ElectorateChange),
    /// Stop for good: this gate was removed from the cluster.
    Removed,
    /// Leave: somebody asks this gate to.
    Leave,
    /// Send to a manager or another gate.
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
    /// Store a job's statistics, in place of earlier ones and of the changes after them, before
    /// anything that follows.
    StoreCheckpoint {
        /// The job.
        job: JobId,
        /// Its statistics.
        checkpoint: Vec<u8>,
    },
    /// Store what has changed of a job's statistics since, before anything that follows.
    StoreChange {
        /// The job.
        job: JobId,
        /// How far they are with it.
        mark: CopyMark,
        /// The change.
        change: Vec<u8>,
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
    /// Note in the audit trail.
    Decided(Decision),
    /// Log and count.
    Event(Event),
}

/// What is worth a line in the log and a count.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// This gate leads the gates' ledger.
    LeadershipGained,
    /// This gate leads it no more.
    LeadershipLost,
    /// A gate takes part.
    SessionOpened {
        /// Which.
        gate: NodeId,
    },
    /// A gate is gone, and its jobs have other owners.
    SessionEnded {
        /// Which.
        gate: NodeId,
        /// Whether it said so itself.
        has_left: bool,
    },
    /// A node was removed for good.
    NodeRemoved {
        /// Which.
        node: NodeId,
        /// Who wanted it.
        by: String,
    },
    /// Who takes part in the gates' ledger has changed.
    Electorate(Electorate),
    /// This gate owns a job that another, or an earlier life of it, has owned.
    JobTakenOver {
        /// The job.
        job: JobId,
        /// Its fence.
        fence: Fence,
    },
    /// This gate is to own a job, and waits for these gates to tell what they hold of its figures.
    JobUnrecovered {
        /// The job.
        job: JobId,
        /// Who has not told. They may be gone for good; then somebody has to say so.
        gates: Vec<NodeId>,
    },
    /// A datacenter is reached, or is not any more.
    Datacenter {
        /// Which.
        datacenter: DatacenterId,
        /// What has changed.
        change: Change,
    },
    /// A datacenter did not accept a part in time or gave it back, and another is asked.
    PartMoved {
        /// The job.
        job: JobId,
        /// Where it goes.
        to: DatacenterId,
    },
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
        /// The test's name.
        test: String,
        /// How.
        status: EndStatus,
        /// When load had begun, if it had.
        started: Option<WallTime>,
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

/// An entry as it lies in the log: whoever proposed it knows it again, by whichever way it came.
#[derive(Debug, Serialize, Deserialize)]
struct Proposed<'a> {
    by: (NodeId, Incarnation),
    proposal: ProposalId,
    entry: std::borrow::Cow<'a, Entry>,
}

/// The entry in these bytes of the log.
///
/// # Errors
///
/// If there is none.
pub fn read_entry(bytes: &[u8]) -> Result<Entry, hyperscale_wire::DecodeError> {
    decode_value::<Proposed<'_>>(bytes).map(|proposed| proposed.entry.into_owned())
}

/// A proposal on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    Submission(IdempotencyKey),
    /// The session of a gate.
    Session(NodeId),
    Removal(NodeId),
    Sought(JobId),
    Job(Step, JobId, u64),
}

/// What of a job a proposal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    AskStart,
    Move,
    Start,
    Cancel,
    CancelWorkflow,
    Steer,
    Break,
    Limit,
    EndPart,
    End,
    Forget,
}

/// The gate's state.
#[derive(Debug)]
pub struct Gate {
    config: GateConfig,
    random: SplitMix,
    state: State,
    /// Who leads the ledger, as far as this gate knows, and whether it is this one.
    leader: Option<NodeId>,
    leads: bool,
    peers: Peers,
    /// When each gate was heard of last, or lost its link; from the last change of leadership on.
    heard: BTreeMap<NodeId, Time>,
    managers: BTreeSet<NodeId>,
    datacenters: BTreeMap<DatacenterId, Place>,
    federation: Federation,
    router: Router,
    /// Of managers, by whether they accepted what they were offered in time.
    breakers: Breakers<NodeId>,
    next_probe: Time,
    blobs: Blobs,
    /// What the plans of jobs name, each read once.
    named: BTreeMap<BlobHash, BTreeSet<BlobHash>>,
    /// Copies of the statistics of jobs that others own, or that this gate is about to own.
    copies: BTreeMap<JobId, Checkpoint<'static>>,
    /// The highest fence that each job's copy obeys.
    obeyed: BTreeMap<JobId, Fence>,
    /// Whole copies that are on their way.
    whole: BTreeMap<JobId, (NodeId, hyperscale_wire::CopyMark, BlobHash)>,
    recovering: BTreeMap<JobId, Recovery>,
    live: BTreeMap<JobId, Live>,
    /// Parts of jobs that this gate does not know: what their managers are told if nobody does.
    sought: BTreeMap<(PartId, NodeId), Message>,
    results: BTreeMap<JobId, Arc<JobResult>>,
    /// Ended jobs whose results lie where the driver keeps them.
    stored: BTreeSet<JobId>,
    /// Submissions that are not decided yet, with everyone who waits for them.
    pending: BTreeMap<IdempotencyKey, Pending>,
    /// Cancels that are not decided yet.
    cancels: Vec<WaitingCancel>,
    /// Changes of jobs that are not decided yet.
    steers: Vec<WaitingSteer>,
    /// Removals of nodes that are not decided yet.
    removals: Vec<WaitingRemoval>,
    missed: Missed,
    /// How much of each job's statistics lies on the disk.
    written: BTreeMap<JobId, Written>,
    unknown: Vec<Unknown>,
    questions: Questions,
    proposed: BTreeMap<ProposalId, (About, Time)>,
    /// Proposals of other gates that this one has passed to its ledger.
    relayed: BTreeMap<ProposalId, (NodeId, ProposalId)>,
    last_proposal: ProposalId,
    /// A refusal asks for a pause.
    quiet_until: Time,
    last_job: JobId,
    next_review: Time,
    next_beat: Time,
    is_leaving: bool,
    outputs: Vec<Output>,
}

impl Gate {
    /// A gate that knows nothing yet: its ledger tells it what was decided. `seed` spreads job ids.
    #[must_use]
    pub fn new(config: GateConfig, seed: u64) -> Self {
        let peers = Peers::new(config.node, config.gates);
        let federation = Federation::new(config.federation);
        Self {
            config,
            random: SplitMix::new(seed),
            state: State::default(),
            leader: None,
            leads: false,
            peers,
            heard: BTreeMap::new(),
            managers: BTreeSet::new(),
            datacenters: BTreeMap::new(),
            federation,
            router: Router::default(),
            breakers: Breakers::new(BreakerConfig::DEFAULT),
            next_probe: Time::ZERO,
            blobs: Blobs::new(),
            named: BTreeMap::new(),
            copies: BTreeMap::new(),
            obeyed: BTreeMap::new(),
            whole: BTreeMap::new(),
            recovering: BTreeMap::new(),
            live: BTreeMap::new(),
            sought: BTreeMap::new(),
            results: BTreeMap::new(),
            stored: BTreeSet::new(),
            pending: BTreeMap::new(),
            cancels: Vec::new(),
            steers: Vec::new(),
            removals: Vec::new(),
            missed: Missed::new(),
            written: BTreeMap::new(),
            unknown: Vec::new(),
            questions: Questions::default(),
            proposed: BTreeMap::new(),
            relayed: BTreeMap::new(),
            last_proposal: ProposalId::NONE,
            quiet_until: Time::ZERO,
            last_job: JobId::from_u128(0),
            next_review: Time::ZERO,
            next_beat: Time::ZERO,
            is_leaving: false,
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
            Input::GateConnected { gate } => self.on_gate_connected(now, gate),
            Input::Founded => self.peers.note_founded(),
            Input::Leave => self.is_leaving = true,
            Input::MemberGone { node } => self.on_member_gone(now, node),
            Input::Disconnected { node } => self.on_disconnected(now, node),
            Input::Message { from, message } => self.on_message(now, from, message),
            Input::Request { id, client, request } => self.on_request(now, id, client, request),
            Input::RequestAbandoned { id } => self.on_abandoned(id),
            Input::Committed { index, entry, proposal } => {
                self.on_committed(now, index, &entry, proposal);
            }
            Input::Refused { proposal } => self.on_refused(now, proposal),
            Input::Leadership { leads, leader } => self.on_leadership(now, leads, leader),
            Input::Electorate(electorate) => {
                if electorate.voters != self.peers.electorate().voters {
                    self.event(Event::Electorate(electorate.clone()));
                }
                self.peers.set_electorate(electorate);
            }
            Input::TakeSnapshot { index } => match encode_value(&self.state) {
                Ok(snapshot) => self.outputs.push(Output::Snapshot { index, snapshot }),
                Err(error) => self.malformed("snapshot", &error),
            },
            Input::Restored { snapshot } => match decode_value(&snapshot) {
                Ok(state) => {
                    self.state = state;
                    self.peers.note_founded();
                    self.forget_steers();
                    self.note_removed();
                    self.reconcile(now);
                }
                Err(error) => self.malformed("snapshot", &error),
            },
            Input::Blob { bytes } => {
                // An earlier life may have said that it keeps it, for an entry that is on its way.
                let hash = self.blobs.insert(bytes);
                self.peers.keep(now, hash);
            }
            Input::Checkpoint { job, kept } => self.read_checkpoint(job, &kept),
            Input::Tick => {}
        }
        self.review(now);
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let beat = (self.config.gates > 1).then_some(self.next_beat);
        let review = self.has_work().then_some(self.next_review);
        let probe = (!self.datacenters.is_empty()).then_some(self.next_probe);
        let watch = self.federation.next_deadline();
        let electorate = self.peers.next_review().filter(|_| self.leads);
        let blobs = self.blobs.next_deadline();
        [beat, review, probe, watch, electorate, blobs].into_iter().flatten().min()
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

    /// Whether this gate takes part: it has caught up with what was decided before.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        self.state.sessions.get(&self.config.node) == Some(&self.config.incarnation)
    }

    /// Whether this gate was told to leave and others have its jobs, if there are others.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let is_alone = self.config.gates == 1;
        self.is_leaving && (is_alone || (!self.takes_part() && self.live.is_empty()))
    }

    /// Whether this gate leads the gates' ledger.
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.leads
    }

    /// The jobs that this gate owns and has taken up, each with its fence.
    pub fn owned(&self) -> impl Iterator<Item = (JobId, Fence)> + '_ {
        self.live.iter().map(|(&job, live)| (job, live.fence()))
    }

    /// Those of them that are not over.
    pub fn active(&self) -> impl Iterator<Item = JobId> + '_ {
        let ended = |job| self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some());
        self.owned().map(|(job, _)| job).filter(move |&job| !ended(job))
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push(Output::Send { to, message });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    fn event_ended(&mut self, job: JobId, status: &EndStatus) {
        let Some(known) = self.state.jobs.get(&job) else { return };
        let (test, started) = (known.name.clone(), known.started);
        self.event(Event::JobEnded { job, test, status: status.clone(), started });
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
        self.hear(now, from);
        match message {
            Message::DatacenterStatus(status) => self.on_status(now, from, status),
            Message::ProbeAck { number, status } => self.on_probe_ack(now, from, number, status),
            Message::PartAccepted { part, fence } => self.on_part_accepted(now, part, fence),
            Message::PartRefused { part, fence, why } => {
                self.on_part_refused(now, part, fence, why);
            }
            Message::PartReport(report) => self.on_report(now, from, *report),
            Message::PartEnded(result) => self.on_part_ended(now, from, *result),
            Message::Delta(delta) => self.on_delta(from, delta),
            Message::BlobRequest { hash, offset } => {
                let answer = self.blobs.serve(hash, offset);
                self.send(from, answer);
                self.note_fetch(now, from, hash, offset);
            }
            Message::BlobChunk { hash, offset, total, bytes } => {
                if let Some(bytes) = self.blobs.on_chunk(now, hash, offset, total, &bytes) {
                    self.on_blob(now, from, hash, bytes);
                }
            }
            Message::BlobMissing { hash } => {
                self.peers.on_missing(from, hash);
                self.fetch_what_is_needed(now);
            }
            Message::KeepBlob { hash } => {
                if let Some(answer) = self.peers.on_keep(now, from, hash, &mut self.blobs) {
                    self.send(from, answer);
                }
            }
            Message::BlobKept { hash } => self.on_blob_kept(now, from, hash),
            Message::PeerStatus { is_founded, lost, software, is_removed, overload } => {
                self.peers.on_status(from, is_founded, lost, software, overload);
                if is_removed {
                    self.outputs.push(Output::Removed);
                }
            }
            Message::Drain { node } => {
                if node == self.config.node {
                    self.outputs.push(Output::Leave);
                }
            }
            Message::Propose { proposal, entry } => self.on_propose(from, proposal, entry),
            Message::ProposalRefused { proposal } => self.on_proposal_refused(now, proposal),
            Message::Copy { job, mark, changes } => self.on_copy(from, job, mark, &changes),
            Message::WholeCopy { job, mark, hash } => {
                self.on_whole_copy(now, from, job, mark, hash);
            }
            Message::CopyAsked { job, fence } => self.on_copy_asked(from, job, fence),
            Message::CopyHeld { job, fence, mark } => {
                self.on_copy_held(now, from, job, fence, mark);
            }
            Message::CopyWanted { job } => self.on_copy_wanted(now, from, job),
            Message::Ask { number, question } => self.on_ask(now, from, number, &question),
            Message::AskDropped { number } => self.on_ask_dropped(from, number),
            Message::Answer { number, answer } => self.on_answer(from, number, &answer),
            Message::StaleFence { subject, held } => {
                self.event(Event::Deposed { subject, held });
                self.on_deposed(subject, held);
            }
            // The driver hands these to the ledger itself.
            Message::Ledger { .. } => {}
            // Nobody may send us these; the link's table of messages refuses them before.
            Message::OfferPart(_)
            | Message::Probe { .. }
            | Message::OrphanPart { .. }
            | Message::StartPart { .. }
            | Message::StopPart { .. }
            | Message::StopWorkflow { .. }
            | Message::SteerPart { .. }
            | Message::SettleWorkflow { .. }
            | Message::SteerAttempt { .. }
            | Message::LeaseRows { .. }
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
            | Message::DeltaAck { .. } => {}
        }
    }

    fn next_proposal(&mut self) -> ProposalId {
        self.last_proposal = self.last_proposal.next();
        self.last_proposal
    }

    fn on_committed(&mut self, now: Time, index: u64, bytes: &[u8], proposal: Option<ProposalId>) {
        self.peers.note_founded();
        if let Some(proposal) = proposal {
            self.relayed.remove(&proposal);
        }
        let Proposed { by, proposal, entry } = match decode_value(bytes) {
            Ok(proposed) => proposed,
            Err(error) => return self.malformed("ledger entry", &error),
        };
        let applied = self.state.apply(index, &entry);
        if applied == Applied::Changed {
            self.outputs.push(Output::Decided(audit::decision(index, &entry)));
        }
        if by == (self.config.node, self.config.incarnation) {
            self.proposed.remove(&proposal);
            if let Entry::JobSought { job } = &*entry {
                self.on_sought(*job);
            }
        }
        self.after_applied(now, &entry, applied);
    }

    fn after_applied(&mut self, now: Time, entry: &Entry, applied: Applied) {
        match entry {
            Entry::SessionOpened { gate, .. } if applied == Applied::Changed => {
                self.event(Event::SessionOpened { gate: *gate });
                self.hear(now, *gate);
                self.take_up_jobs(now);
                self.drop_copies();
                self.drop_blobs(now);
            }
            Entry::SessionEnded { gate, has_left, .. } if applied == Applied::Changed => {
                self.event(Event::SessionEnded { gate: *gate, has_left: *has_left });
                self.take_up_jobs(now);
            }
            Entry::JobAccepted { job, key, .. } => {
                if applied == Applied::Changed {
                    if self.is_mine(*job) {
                        self.event(Event::JobAccepted { job: *job });
                    }
                    self.take_up_jobs(now);
                    self.fetch_what_is_needed(now);
                }
                self.on_accepted(key);
            }
            Entry::CancelAsked { job, by, .. } => {
                if applied == Applied::Changed {
                    self.note(now, *job, "stopping", format!("{by} asked to stop the job"));
                }
                self.on_cancel_decided(*job, None);
                self.fail_steers(*job);
            }
            Entry::WorkflowCancelAsked { job, workflow, by } => {
                if applied == Applied::Changed {
                    let text = format!("{by} asked to stop workflow number {workflow}");
                    self.note(now, *job, "workflow_stopping", text);
                }
                self.on_cancel_decided(*job, Some(*workflow));
            }
            Entry::Steered { .. } => self.on_steered(now, entry, applied),
            Entry::ThresholdBroken { job, expression, .. } if applied == Applied::Changed => {
                let text = format!("threshold `{expression}` was broken: the job stops");
                self.note(now, *job, "threshold_broken", text);
                self.fail_steers(*job);
            }
            Entry::LimitReached { job, .. } if applied == Applied::Changed => {
                let text = "the job's time is over: it stops everywhere".to_owned();
                self.note(now, *job, "timed_out", text);
                self.fail_steers(*job);
            }
            Entry::PartMoved { job, part, to, returned, .. } if applied == Applied::Changed => {
                self.on_part_moved(now, *job, *part, to, returned.is_some());
            }
            Entry::PartEnded { job, part, end, .. } if applied == Applied::Changed => {
                self.on_part_end_decided(now, *job, *part, end);
            }
            Entry::JobEnded { job, status, .. } if applied == Applied::Changed => {
                if self.is_mine(*job) {
                    self.event_ended(*job, status);
                }
                self.on_job_end_decided(now, *job);
                self.fail_steers(*job);
            }
            Entry::JobForgotten { job } => {
                self.results.remove(job);
                self.live.remove(job);
                self.obeyed.remove(job);
                self.stored.remove(job);
                self.drop_blobs(now);
            }
            Entry::NodeRemoved { node, by, .. } => {
                if applied == Applied::Changed {
                    // Not again by each life that reads it in its ledger.
                    if self.takes_part() {
                        self.event(Event::NodeRemoved { node: *node, by: by.clone() });
                    }
                    self.take_up_jobs(now);
                }
                self.note_removed();
            }
            Entry::SessionOpened { .. }
            | Entry::SessionEnded { .. }
            | Entry::StartAsked { .. }
            | Entry::PartMoved { .. }
            | Entry::JobStarted { .. }
            | Entry::ThresholdBroken { .. }
            | Entry::LimitReached { .. }
            | Entry::PartEnded { .. }
            | Entry::JobEnded { .. }
            | Entry::JobSought { .. } => {}
        }
    }

    /// Whether this gate owns a job, as far as it has caught up.
    fn is_mine(&self, job: JobId) -> bool {
        let owner = self.state.jobs.get(&job).map(|job| job.gate);
        self.takes_part() && owner == Some(self.config.node)
    }

    fn drop_blobs(&mut self, now: Time) {
        if !self.takes_part() {
            return; // What is named later in the log is not known yet.
        }
        let mut needed: BTreeSet<BlobHash> =
            self.named_by_jobs().into_iter().map(|(hash, _)| hash).collect();
        self.named.retain(|plan, _| needed.contains(plan));
        needed.extend(self.peers.kept(now));
        self.blobs.retain(|hash| needed.contains(&hash));
        self.outputs.push(Output::DropBlobs { needed });
    }

    /// A job's plan, what that names, and its result, each with the job's owner.
    fn named_by_jobs(&mut self) -> Vec<(BlobHash, NodeId)> {
        let mut all = Vec::new();
        for job in self.state.jobs.values() {
            if !self.named.contains_key(&job.plan)
                && let Some(bytes) = self.blobs.get(job.plan)
            {
                // A plan that cannot be read names nothing; whoever owns the job says so.
                let named = Plan::from_bytes(bytes).map(|plan| plan.blobs()).unwrap_or_default();
                self.named.insert(job.plan, named);
            }
            let named = self.named.get(&job.plan).into_iter().flatten().copied();
            let result = job.ended.as_ref().map(|end| end.result);
            let hashes = std::iter::once(job.plan).chain(named).chain(result);
            all.extend(hashes.map(|hash| (hash, job.gate)));
        }
        all
    }
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
