//! The manager's decisions: it runs a job's part in one datacenter.
//!
//! The ledger holds what must survive ([`state`]); the leader looks at it, at the workers and at the
//! clock, and proposes what should follow (`leader.rs`). Whatever it only knows as a leader lives in
//! the value of its leadership and is gone with it.
//!
//! ```text
//! inputs ─► State (what is decided) ─┐
//!           workers, gates (seen) ───┼─► review: what is missing? ─► proposals, messages
//!           Leading (this term) ─────┘
//! ```

#![warn(clippy::wildcard_enum_match_arm)]

mod audit;
mod forecast;
mod gap;
mod leader;
mod peers;
mod placement;
mod relay;
mod rows;
pub mod state;
mod steering;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_blobs::{Blobs, Peers};
use hyperscale_model::{
    AttemptId, BlobHash, DatacenterId, Decision, Electorate, ElectorateChange, EndStatus, Fence,
    Incarnation, NodeId, OverloadState, PartId, ProposalId, Role, Time, Version, WallTime,
    WorkflowIndex,
};
use hyperscale_plan::{Plan, Secrets};
use hyperscale_resilience::{Crossing, Managers, ManagersTrouble};
use hyperscale_wire::{
    DatacenterStatus, GapCause, Message, NODES_TOLD_MAX, NodeState, NodeStatus, PartOffer,
    RefuseAttempt, RefusePart, SOFTWARE, StopMode, StopReason, Subject, WorkerReport, decode_value,
    encode_value,
};

use crate::leader::Leading;
use crate::state::{Applied, Entry, State};

/// Settings of a manager.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// This node.
    pub node: NodeId,
    /// Its datacenter.
    pub datacenter: DatacenterId,
    /// How many managers the datacenter has, this one included. Its ledger starts once each of them
    /// has been heard of.
    pub managers: usize,
    /// The wall clock when the node's time was zero: for times that must survive a restart.
    pub wall_at_zero: WallTime,
    /// How long a worker sends load without hearing from its leader. Must exceed the slowest
    /// failover, else load stops without need.
    pub execution_lease: Duration,
    /// How long a leader's authority outlives its last contact with a majority.
    pub leader_lease: Duration,
    /// What is added to a lease before its end is taken for certain.
    pub lease_margin: Duration,
    /// After so long without a report a worker gets nothing new.
    pub stale_after: Duration,
    /// How long an unanswered message waits before it is sent again.
    pub resend: Duration,
    /// How often parts and the datacenter are reported upward.
    pub report: Duration,
    /// How long before its start an attempt is told to start, so that all start together.
    pub start_margin: Duration,
    /// How long an attempt may be missing in its worker's reports before it is lost.
    pub absent_after: Duration,
    /// How many workers a shard may take down.
    pub poison_after: usize,
    /// How many refusals a shard and a job may cost.
    pub retries: (usize, usize),
}

impl ManagerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(node: NodeId, datacenter: DatacenterId, wall_at_zero: WallTime) -> Self {
        Self {
            node,
            datacenter,
            managers: 1,
            wall_at_zero,
            execution_lease: Duration::from_secs(10),
            leader_lease: Duration::from_secs(2),
            lease_margin: Duration::from_millis(510),
            stale_after: Duration::from_secs(5),
            resend: Duration::from_secs(1),
            report: Duration::from_secs(1),
            start_margin: Duration::from_millis(200),
            absent_after: Duration::from_secs(5),
            poison_after: 3,
            retries: (3, 10),
        }
    }
}

/// What happens to a manager.
#[derive(Debug)]
pub enum Input {
    /// Gossip says that a node is dead, or has left. It may be wrong.
    MemberGone {
        /// Which.
        node: NodeId,
    },
    /// A link to a gate is up.
    GateConnected {
        /// Which gate.
        gate: NodeId,
    },
    /// A link to a worker is up.
    WorkerConnected {
        /// Which worker.
        worker: NodeId,
        /// How often it has started.
        incarnation: Incarnation,
    },
    /// A link to another manager of the datacenter is up.
    ManagerConnected {
        /// Which manager.
        manager: NodeId,
    },
    /// The datacenter's ledger has been started, perhaps in an earlier life.
    Founded,
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
    /// An entry of the datacenter's ledger was decided.
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
    /// This node's leadership is certain until then.
    Confirmed {
        /// Until when.
        until: Time,
    },
    /// How overloaded this node's process is now.
    Overload(OverloadState),
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
    /// The deadline has come.
    Tick,
}

/// What a manager wants done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Start the datacenter's ledger with these voters.
    Found {
        /// The voters.
        voters: Vec<NodeId>,
    },
    /// Change who takes part in the datacenter's ledger.
    ChangeElectorate(ElectorateChange),
    /// Stop for good: this manager was removed from the cluster.
    Removed,
    /// Leave: somebody asks this manager to.
    Leave,
    /// Send to a gate, a worker or another manager.
    Send {
        /// Which.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Propose an entry to the datacenter's ledger.
    Propose {
        /// The proposal.
        proposal: ProposalId,
        /// The entry.
        entry: Vec<u8>,
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
    /// This manager leads.
    LeadershipGained {
        /// Its fence.
        fence: Fence,
    },
    /// This manager leads no more.
    LeadershipLost,
    /// Who takes part in the datacenter's ledger has changed.
    Electorate(Electorate),
    /// The managers of the datacenter are in trouble, or in another, or in none any more.
    ManagersTrouble(Crossing<ManagersTrouble>),
    /// A part runs here.
    PartAccepted {
        /// The part.
        part: PartId,
    },
    /// A part was refused.
    PartRefused {
        /// The part.
        part: PartId,
        /// Why.
        why: RefusePart,
    },
    /// A workflow has workers.
    WorkflowPlaced {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// On how many workers.
        shards: usize,
    },
    /// A workflow is over.
    WorkflowEnded {
        /// The part.
        part: PartId,
        /// The workflow.
        workflow: WorkflowIndex,
        /// How.
        status: EndStatus,
    },
    /// An attempt was lost.
    AttemptLost {
        /// The attempt.
        attempt: AttemptId,
        /// The worker.
        worker: NodeId,
        /// Why.
        cause: GapCause,
        /// When it had started, if it had.
        started: Option<WallTime>,
        /// Up to when its figures count: what it sent after that is missing.
        counted_until: Option<WallTime>,
    },
    /// A worker refused an attempt.
    AttemptRefused {
        /// The attempt.
        attempt: AttemptId,
        /// The worker.
        worker: NodeId,
        /// Why.
        why: RefuseAttempt,
    },
    /// A shard goes on elsewhere.
    AttemptOpened {
        /// The attempt.
        attempt: AttemptId,
        /// The worker.
        worker: NodeId,
    },
    /// A part is over.
    PartEnded {
        /// The part.
        part: PartId,
        /// How.
        status: EndStatus,
        /// When its time had started, if it had.
        started: Option<WallTime>,
    },
    /// No gate has acknowledged a part's end, however often it was told. It is told on.
    EndUnheard {
        /// The part.
        part: PartId,
        /// How often it was told.
        times: u32,
    },
    /// A worker joined, or came back as a new one.
    WorkerJoined {
        /// The worker.
        worker: NodeId,
        /// How often it has started.
        incarnation: Incarnation,
    },
    /// A message of a deposed gate was refused.
    StaleFence {
        /// The sender.
        from: NodeId,
        /// Its fence.
        fence: Fence,
        /// The fence that this manager holds.
        held: Fence,
    },
    /// A delta came after its attempt had been closed.
    LateDelta {
        /// The attempt.
        attempt: AttemptId,
        /// Requests in it.
        requests: u64,
    },
    /// Something that was decided or received cannot be read.
    Malformed {
        /// What.
        what: &'static str,
        /// Why.
        error: String,
    },
}

/// A worker as this manager sees it.
#[derive(Debug, Clone)]
pub(crate) struct WorkerView {
    pub(crate) incarnation: Incarnation,
    pub(crate) is_connected: bool,
    pub(crate) report: Option<WorkerReport>,
    pub(crate) last_heard: Time,
    /// Whether gossip has said since then that it is dead.
    pub(crate) is_gone: bool,
    /// When this leader last granted it a lease.
    pub(crate) last_granted: Option<Time>,
}

/// An offer that cannot be accepted yet.
#[derive(Debug, Clone)]
struct Offered {
    from: NodeId,
    offer: PartOffer,
    /// When the other managers were last asked to keep its plan and data.
    asked_at: Option<Time>,
}

#[derive(Debug)]
enum Leadership {
    Follower {
        leader: Option<NodeId>,
    },
    /// Elected; the entry that makes the fence is on its way, unless the ledger has refused it: then it
    /// waits until a majority has acknowledged the election.
    Barrier {
        proposal: Option<ProposalId>,
        confirmed_until: Time,
    },
    Leading(Box<Leading>),
}

/// The manager's state.
#[derive(Debug)]
pub struct Manager {
    config: ManagerConfig,
    state: State,
    leadership: Leadership,
    gates: BTreeSet<NodeId>,
    workers: BTreeMap<NodeId, WorkerView>,
    peers: Peers,
    next_beat: Time,
    blobs: Blobs,
    plans: BTreeMap<BlobHash, Arc<Plan>>,
    /// Secrets never enter the ledger: a new leader has them from the gate's repeated offer.
    secrets: BTreeMap<PartId, Secrets>,
    /// Offers whose plan is still on its way, to this manager or to a majority.
    offers: BTreeMap<PartId, Offered>,
    last_proposal: ProposalId,
    version: Version,
    outputs: Vec<Output>,
}

impl Manager {
    /// A manager that knows nothing yet: its ledger tells it what was decided.
    #[must_use]
    pub fn new(config: ManagerConfig) -> Self {
        let peers = Peers::new(config.node, config.managers);
        Self {
            config,
            peers,
            state: State::default(),
            leadership: Leadership::Follower { leader: None },
            gates: BTreeSet::new(),
            workers: BTreeMap::new(),
            next_beat: Time::ZERO,
            blobs: Blobs::new(),
            plans: BTreeMap::new(),
            secrets: BTreeMap::new(),
            offers: BTreeMap::new(),
            last_proposal: ProposalId::NONE,
            version: Version::NONE,
            outputs: Vec::new(),
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Time, input: Input) {
        if let Leadership::Leading(leading) = &mut self.leadership
            && !matches!(input, Input::Refused { .. })
        {
            leading.is_refused = false;
        }
        let is_routine = self.is_routine(now, &input);
        match input {
            Input::GateConnected { gate } => self.on_gate_connected(gate),
            Input::MemberGone { node } => self.on_member_gone(now, node),
            Input::WorkerConnected { worker, incarnation } => {
                self.on_worker_connected(now, worker, incarnation);
            }
            Input::ManagerConnected { manager } => self.on_manager_connected(manager),
            Input::Founded => self.peers.note_founded(),
            Input::Disconnected { node } => {
                self.peers.disconnect(node);
                self.gates.remove(&node);
                if let Some(view) = self.workers.get_mut(&node) {
                    view.is_connected = false;
                }
            }
            Input::Message { from, message } => self.on_message(now, from, message),
            Input::Committed { index, entry, proposal } => {
                self.on_committed(now, index, &entry, proposal);
            }
            Input::Refused { proposal } => self.on_refused(proposal),
            Input::Leadership { leads, leader } => self.on_leadership(leads, leader),
            Input::Confirmed { until } => match &mut self.leadership {
                Leadership::Barrier { proposal: None, .. } => self.start_barrier(until),
                Leadership::Barrier { confirmed_until, .. } => *confirmed_until = until,
                Leadership::Leading(leading) => leading.confirmed_until = until,
                Leadership::Follower { .. } => {}
            },
            Input::Overload(state) => self.peers.set_overload(state),
            Input::Electorate(electorate) => {
                if electorate.voters != self.peers.electorate().voters {
                    self.event(Event::Electorate(electorate.clone()));
                }
                self.peers.set_electorate(electorate);
            }
            Input::TakeSnapshot { index } => self.on_take_snapshot(index),
            Input::Restored { snapshot } => self.on_restored(now, &snapshot),
            Input::Blob { bytes } => {
                // The log that comes now may name it after it tells what else is done with.
                let hash = self.blobs.insert(bytes);
                self.peers.keep(now, hash);
            }
            Input::Tick => {}
        }
        self.blobs.tick(now);
        self.found();
        if !is_routine {
            self.lead(now);
        }
        self.beat(now);
        self.review_electorate(now);
        let requests = self.blobs.drain();
        self.outputs.extend(requests.map(|(to, message)| Output::Send { to, message }));
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let electorate = self.peers.next_review().filter(|_| self.leading().is_some());
        [self.next_of_leader(), self.next_beat(), electorate, self.blobs.next_deadline()]
            .into_iter()
            .flatten()
            .min()
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

    /// The fence under which this manager leads.
    #[must_use]
    pub fn leading(&self) -> Option<Fence> {
        match &self.leadership {
            Leadership::Leading(leading) => Some(leading.fence),
            Leadership::Follower { .. } | Leadership::Barrier { .. } => None,
        }
    }

    /// The fence under which this manager leads for certain.
    #[must_use]
    pub fn leading_at(&self, now: Time) -> Option<Fence> {
        match &self.leadership {
            Leadership::Leading(leading) => {
                (now < leading.confirmed_until).then_some(leading.fence)
            }
            Leadership::Follower { .. } | Leadership::Barrier { .. } => None,
        }
    }

    /// Who leads instead of this manager, if that is known.
    const fn other_leader(&self) -> Option<NodeId> {
        match &self.leadership {
            Leadership::Follower { leader } => *leader,
            Leadership::Barrier { .. } | Leadership::Leading(_) => None,
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push(Output::Send { to, message });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    fn wall(&self, now: Time) -> WallTime {
        WallTime(self.config.wall_at_zero.0 + now.as_nanos() / 1_000_000)
    }

    /// The job's time of a part; `None` before its start was decided.
    fn elapsed(&self, now: Time, id: PartId) -> Option<Duration> {
        let started = self.state.parts.get(&id)?.started?;
        if let Some(known) = self.job_time(now, id) {
            return Some(known);
        }
        // By the wall clock, which may not be that of the leader who decided it.
        Some(match started.0.checked_sub(self.config.wall_at_zero.0) {
            Some(millis) => now.since(Time::from_millis(millis)),
            None => {
                let before = self.config.wall_at_zero.0 - started.0;
                now.since(Time::ZERO) + Duration::from_millis(before)
            }
        })
    }

    /// The job's time of a part, if this leader has started it or heard of it from who runs it.
    fn job_time(&self, now: Time, id: PartId) -> Option<Duration> {
        let Leadership::Leading(leading) = &self.leadership else { return None };
        let (at, job) = leading.job_times.get(&id)?;
        Some(*job + now.since(*at))
    }

    /// The plan of a blob that is held.
    fn plan(&mut self, hash: BlobHash) -> Option<Arc<Plan>> {
        if let Some(plan) = self.plans.get(&hash) {
            return Some(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::from_bytes(self.blobs.get(hash)?).ok()?);
        self.plans.insert(hash, Arc::clone(&plan));
        Some(plan)
    }

    /// Gossip says that a node is gone: a worker gets nothing new until it is heard of again.
    fn on_member_gone(&mut self, now: Time, node: NodeId) {
        let is_near = self.config.report * 2;
        if let Some(view) = self.workers.get_mut(&node)
            && now >= view.last_heard + is_near
        {
            view.is_gone = true;
        }
    }

    /// A worker took what it was offered, or did not.
    fn note_answer(&mut self, now: Time, worker: NodeId, is_well: bool) {
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.breakers.observe(now, &worker, is_well);
        }
    }

    fn on_gate_connected(&mut self, gate: NodeId) {
        self.gates.insert(gate);
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.on_gate_connected();
        }
    }

    fn on_worker_connected(&mut self, now: Time, worker: NodeId, incarnation: Incarnation) {
        let known = self.workers.get(&worker).map(|view| view.incarnation);
        if known.is_some_and(|known| known > incarnation) {
            return; // A link of an earlier life, overtaken by the next.
        }
        if known != Some(incarnation) {
            // The whole record is new: nothing of an earlier life is true of this one.
            let view = WorkerView {
                incarnation,
                is_connected: true,
                report: None,
                last_heard: now,
                is_gone: false,
                last_granted: None,
            };
            self.workers.insert(worker, view);
            self.event(Event::WorkerJoined { worker, incarnation });
        } else if let Some(view) = self.workers.get_mut(&worker) {
            view.is_connected = true;
        }
    }

    fn on_message(&mut self, now: Time, from: NodeId, message: Message) {
        match message {
            Message::OfferPart(offer) => self.on_offer(now, from, *offer),
            Message::StartPart { part, fence, start_in } => {
                if self.accepts(from, part, fence) {
                    let at = self.wall(now + start_in);
                    self.propose(Entry::PartStarted { part, at });
                }
            }
            Message::StopPart { part, fence, reason, mode } => {
                if self.accepts(from, part, fence) {
                    self.propose(Entry::StopAsked { part, reason, mode });
                }
            }
            Message::StopWorkflow { part, fence, workflow, by } => {
                if self.accepts(from, part, fence) {
                    self.propose(Entry::WorkflowStopAsked { part, workflow, by });
                }
            }
            Message::SettleWorkflow { part, fence, workflow, status, published } => {
                if self.accepts(from, part, fence) {
                    self.settle_workflow(now, part, workflow, status, published);
                }
            }
            Message::OrphanPart { part } => {
                let is_open = |part: &state::Part| part.ended.is_none() && part.stop.is_none();
                if self.state.parts.get(&part).is_some_and(is_open) {
                    let (reason, mode) = (StopReason::TimedOut, StopMode::Now);
                    self.propose(Entry::StopAsked { part, reason, mode });
                }
            }
            Message::SteerPart { part, fence, steering } => {
                if self.accepts(from, part, fence) {
                    self.on_steer_part(now, part, steering);
                }
            }
            Message::PartEndedAck { part } => self.propose(Entry::PartForgotten { part }),
            Message::RenewLease { sent_at, report } => self.on_renewal(now, from, sent_at, report),
            Message::AttemptAccepted { attempt, .. } => {
                if let Some(live) = self.live_of(from, attempt) {
                    live.is_accepted = true;
                    self.note_answer(now, from, true);
                }
            }
            Message::AttemptRefused { attempt, why, .. } => {
                // A plan that cannot be read says nothing of the worker.
                let is_its_own = !matches!(why, RefuseAttempt::BadPlan { .. });
                if let Some(live) = self.live_of(from, attempt)
                    && live.refusal.is_none()
                {
                    live.refusal = Some(why);
                    if is_its_own {
                        self.note_answer(now, from, false);
                    }
                }
            }
            Message::AttemptEnded { attempt, end } => self.on_attempt_ended(from, attempt, end),
            Message::Delta(delta) => self.on_delta(now, *delta),
            Message::DeltaAck { attempt, through, iterations, until, pressure } => {
                let worker = self.on_delta_ack(attempt, through, iterations, until);
                if let Some(worker) = worker {
                    let ack = Message::DeltaAck { attempt, through, iterations, until, pressure };
                    self.send(worker, ack);
                }
            }
            Message::BlobRequest { hash, offset } => {
                let answer = self.blobs.serve(hash, offset);
                self.send(from, answer);
            }
            Message::BlobChunk { hash, offset, total, bytes } => {
                if let Some(bytes) = self.blobs.on_chunk(now, hash, offset, total, &bytes) {
                    self.outputs.push(Output::StoreBlob { hash, bytes });
                    self.on_blob_stored(now, from, hash);
                    self.accept_what_is_fetched(now);
                }
            }
            Message::BlobMissing { hash } => {
                self.event(Event::Malformed { what: "blob", error: format!("{hash} is missing") });
                self.on_blob_missing(now, from, hash);
            }
            Message::PeerStatus { is_founded, lost, software, is_removed, overload } => {
                self.peers.on_status(from, is_founded, lost, software, overload);
                if is_removed {
                    self.outputs.push(Output::Removed);
                }
            }
            Message::Drain { node } => {
                if node == self.config.node {
                    self.outputs.push(Output::Leave);
                } else if self.peers.is_linked(node) || self.workers.contains_key(&node) {
                    self.send(node, Message::Drain { node });
                }
            }
            Message::Probe { number, removed } => {
                if removed.contains(&self.config.node) {
                    self.outputs.push(Output::Removed);
                }
                self.peers.set_removed(removed);
                let status = self.datacenter_status(now);
                self.send(from, Message::ProbeAck { number, status });
            }
            Message::KeepBlob { hash } => self.on_keep_blob(now, from, hash),
            Message::BlobKept { hash } => self.on_blob_kept(now, from, hash),
            // The driver hands these to the ledger itself.
            Message::Ledger { .. } => {}
            // A worker that knows a later leader: our own ledger will say so too.
            Message::StaleFence { .. } => {}
            // Nobody may send us these; the link's table of messages refuses them before.
            Message::PartAccepted { .. }
            | Message::ProbeAck { .. }
            | Message::Propose { .. }
            | Message::ProposalRefused { .. }
            | Message::Copy { .. }
            | Message::WholeCopy { .. }
            | Message::CopyAsked { .. }
            | Message::CopyHeld { .. }
            | Message::CopyWanted { .. }
            | Message::Ask { .. }
            | Message::AskDropped { .. }
            | Message::Answer { .. }
            | Message::PartRefused { .. }
            | Message::PartReport(_)
            | Message::PartEnded(_)
            | Message::DatacenterStatus(_)
            | Message::LeaseGranted { .. }
            | Message::Lead { .. }
            | Message::NotLeader { .. }
            | Message::OfferAttempt(_)
            | Message::StartAttempt { .. }
            | Message::StopAttempt { .. }
            | Message::SteerAttempt { .. }
            | Message::LeaseRows { .. }
            | Message::AttemptEndedAck { .. } => {}
        }
    }

    /// Whether a gate's command about a part counts here; answers it if not.
    fn accepts(&mut self, from: NodeId, part: PartId, fence: Fence) -> bool {
        if self.leading().is_none() {
            return false; // It will be repeated to the leader.
        }
        let Some(held) = self.state.parts.get(&part).map(|part| part.fence) else { return false };
        if fence < held {
            self.event(Event::StaleFence { from, fence, held });
            self.send(from, Message::StaleFence { subject: Subject::Job(part.job), held });
            return false;
        }
        true
    }

    fn on_offer(&mut self, now: Time, from: NodeId, offer: PartOffer) {
        let (part, fence) = (offer.part, offer.fence);
        if self.leading_at(now).is_none() {
            let leader = self.other_leader();
            let why = match leader {
                Some(_) => RefusePart::NotLeader { leader },
                None => RefusePart::NotReady { retry_after: self.config.resend },
            };
            self.send(from, Message::PartRefused { part, fence, why });
            return;
        }
        if self.state.is_forgotten(part) {
            return; // A late copy: the gate has recorded the end.
        }
        if let Some(known) = self.state.parts.get(&part) {
            let held = known.fence;
            if fence < held {
                self.event(Event::StaleFence { from, fence, held });
                self.send(from, Message::StaleFence { subject: Subject::Job(part.job), held });
                return;
            }
            self.secrets.insert(part, offer.secrets.clone());
            if fence == held && known.gate == from {
                self.send(from, Message::PartAccepted { part, fence });
                return;
            }
        }
        let asked_at = self.offers.get(&part).and_then(|known| known.asked_at);
        self.offers.insert(part, Offered { from, offer, asked_at });
        self.accept_what_is_fetched(now);
    }

    /// Goes on with each offer as far as its plan and data have arrived.
    fn accept_what_is_fetched(&mut self, now: Time) {
        let offers: Vec<(PartId, Offered)> =
            self.offers.iter().map(|(&part, offered)| (part, offered.clone())).collect();
        for (part, Offered { from, offer, .. }) in offers {
            if self.blobs.get(offer.plan).is_none() {
                self.blobs.fetch(now, offer.plan, from);
                continue;
            }
            let Some(plan) = self.plan(offer.plan) else {
                let message = "the plan cannot be read".to_owned();
                self.refuse_part(from, part, offer.fence, RefusePart::BadPlan { message });
                continue;
            };
            let is_cut_well = offer.slice.is_valid() && offer.rows.is_valid();
            if !is_cut_well || offer.window < Duration::from_millis(10) {
                let message = "its slice or window is malformed".to_owned();
                self.refuse_part(from, part, offer.fence, RefusePart::BadPlan { message });
                continue;
            }
            let missing: Vec<BlobHash> =
                plan.blobs().into_iter().filter(|&hash| self.blobs.get(hash).is_none()).collect();
            if !missing.is_empty() {
                missing.into_iter().for_each(|hash| self.blobs.fetch(now, hash, from));
                continue;
            }
            let mut named = plan.blobs();
            named.insert(offer.plan);
            if !self.is_with_majority(now, part, &named) {
                continue;
            }
            self.offers.remove(&part);
            self.secrets.insert(part, offer.secrets);
            self.propose(Entry::PartAccepted {
                part,
                fence: offer.fence,
                gate: from,
                plan: offer.plan,
                workflows: u16::try_from(plan.workflows.len()).unwrap_or(u16::MAX),
                slice: offer.slice,
                rows: offer.rows,
                is_shared: offer.is_shared,
                window: offer.window,
            });
        }
    }

    fn refuse_part(&mut self, to: NodeId, part: PartId, fence: Fence, why: RefusePart) {
        self.offers.remove(&part);
        self.event(Event::PartRefused { part, why: why.clone() });
        self.send(to, Message::PartRefused { part, fence, why });
    }

    fn next_proposal(&mut self) -> ProposalId {
        self.last_proposal = self.last_proposal.next();
        self.last_proposal
    }

    /// Proposes an entry, as a leader, unless one about the same thing is on its way.
    fn propose(&mut self, entry: Entry) {
        if !self.has_room(&entry) {
            return; // The next review sees who has.
        }
        let proposal = self.next_proposal();
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        if leading.is_refused || !leading.register(proposal, &entry) {
            return;
        }
        self.output_proposal(proposal, &entry);
    }

    fn output_proposal(&mut self, proposal: ProposalId, entry: &Entry) {
        match encode_value(entry) {
            Ok(entry) => self.outputs.push(Output::Propose { proposal, entry }),
            Err(error) => {
                self.event(Event::Malformed { what: "proposal", error: error.to_string() });
            }
        }
    }

    fn on_committed(&mut self, now: Time, index: u64, bytes: &[u8], proposal: Option<ProposalId>) {
        let entry: Entry = match decode_value(bytes) {
            Ok(entry) => entry,
            Err(error) => {
                self.event(Event::Malformed { what: "ledger entry", error: error.to_string() });
                return;
            }
        };
        let applied = self.state.apply(&entry);
        let noted = audit::decision(index, &entry).filter(|_| applied == Applied::Changed);
        self.outputs.extend(noted.map(Output::Decided));
        self.peers.note_founded();
        if let Entry::PartForgotten { part } = &entry
            && applied == Applied::Changed
        {
            self.forget(now, *part);
        }
        if let Entry::PartAccepted { .. } = &entry {
            self.fetch_what_is_needed(now);
        }
        match &mut self.leadership {
            Leadership::Barrier { proposal: barrier, confirmed_until }
                if proposal.is_some() && proposal == *barrier =>
            {
                let fence = Fence(index);
                let leading = Leading::new(fence, now, *confirmed_until, &self.state);
                self.leadership = Leadership::Leading(Box::new(leading));
                for view in self.workers.values_mut() {
                    view.last_granted = None;
                }
                self.event(Event::LeadershipGained { fence });
            }
            Leadership::Leading(leading) => {
                if let Some(proposal) = proposal {
                    leading.settle(proposal);
                    if let Entry::PartStarted { part, at } = &entry
                        && applied == Applied::Changed
                    {
                        let zero = at.0.saturating_sub(self.config.wall_at_zero.0);
                        let zero = Time::from_millis(zero);
                        leading.job_times.insert(*part, (zero, Duration::ZERO));
                    }
                }
                self.after_applied(now, &entry, applied);
            }
            Leadership::Barrier { .. } | Leadership::Follower { .. } => {}
        }
    }

    fn on_refused(&mut self, proposal: ProposalId) {
        match &mut self.leadership {
            Leadership::Leading(leading) => {
                leading.settle(proposal);
                leading.is_refused = true;
            }
            Leadership::Barrier { proposal: barrier, .. } => {
                *barrier = barrier.filter(|known| *known != proposal);
            }
            Leadership::Follower { .. } => {}
        }
    }

    fn start_barrier(&mut self, confirmed_until: Time) {
        let proposal = self.next_proposal();
        self.leadership = Leadership::Barrier { proposal: Some(proposal), confirmed_until };
        let node = self.config.node;
        self.output_proposal(proposal, &Entry::LeaderStarted { node });
    }

    fn on_leadership(&mut self, leads: bool, leader: Option<NodeId>) {
        if leader.is_some() {
            self.peers.note_founded();
        }
        match (&self.leadership, leads) {
            (Leadership::Follower { .. }, true) => self.start_barrier(Time::ZERO),
            (Leadership::Barrier { .. } | Leadership::Leading(_), true) => {}
            (Leadership::Leading(_), false) => {
                self.leadership = Leadership::Follower { leader };
                self.offers.clear();
                self.event(Event::LeadershipLost);
            }
            (Leadership::Barrier { .. } | Leadership::Follower { .. }, false) => {
                self.leadership = Leadership::Follower { leader };
            }
        }
    }

    fn on_take_snapshot(&mut self, index: u64) {
        match encode_value(&self.state) {
            Ok(snapshot) => self.outputs.push(Output::Snapshot { index, snapshot }),
            Err(error) => {
                self.event(Event::Malformed { what: "snapshot", error: error.to_string() });
            }
        }
    }

    fn on_restored(&mut self, now: Time, snapshot: &[u8]) {
        match decode_value(snapshot) {
            Ok(state) => {
                self.state = state;
                self.peers.note_founded();
                self.fetch_what_is_needed(now);
            }
            Err(error) => {
                self.event(Event::Malformed { what: "snapshot", error: error.to_string() });
            }
        }
    }

    fn datacenter_status(&mut self, now: Time) -> DatacenterStatus {
        self.version = self.version.next();
        let candidates = self.candidates(now);
        let workers: Vec<&WorkerView> = self
            .workers
            .values()
            .filter(|view| view.is_connected && view.report.is_some())
            .collect();
        DatacenterStatus {
            datacenter: self.config.datacenter.clone(),
            leading: self.leading_at(now),
            version: self.version,
            managers: u32::try_from(self.peers.voters()).unwrap_or(u32::MAX),
            managers_healthy: self.managers().healthy(),
            voters: self.peers.electorate().voters.clone(),
            queue: self.waiting_parts(),
            workers: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            cores: workers.iter().filter_map(|view| view.report.as_ref()).map(|r| r.cores).sum(),
            free_cores: candidates.iter().map(|candidate| candidate.free).sum(),
            nodes: self.node_statuses(now),
        }
    }

    /// The managers of the datacenter, by how they are: those that are not linked are not well.
    fn managers(&self) -> Managers {
        let mut managers = Managers {
            all: u32::try_from(self.peers.voters()).unwrap_or(u32::MAX),
            overloaded: 0,
            unhealthy: 0,
            is_leader_overloaded: self.peers.overload() == OverloadState::Overloaded,
        };
        let mut there = 0;
        let others = self.peers.overloads().filter(|(node, _)| self.peers.votes(*node));
        for state in others.map(|(_, state)| state).chain([self.peers.overload()]) {
            there += 1;
            managers.overloaded += u32::from(state == OverloadState::Overloaded);
            managers.unhealthy += u32::from(state >= OverloadState::Stressed);
        }
        managers.unhealthy += managers.all.saturating_sub(there);
        managers
    }

    /// Parts that have started and of which nothing holds cores: they wait for some.
    fn waiting_parts(&self) -> u32 {
        let has_cores: BTreeSet<PartId> =
            self.state.open_attempts().map(|(attempt, _)| attempt.shard.part_id()).collect();
        let waits = |(id, part): &(&PartId, &state::Part)| {
            part.started.is_some() && part.ended.is_none() && !has_cores.contains(id)
        };
        u32::try_from(self.state.parts.iter().filter(waits).count()).unwrap_or(u32::MAX)
    }

    /// This node, and the managers and workers that are linked.
    fn node_statuses(&self, now: Time) -> Vec<NodeStatus> {
        let state =
            if self.leading().is_some() { NodeState::Leading } else { NodeState::Following };
        let own = NodeStatus {
            node: self.config.node,
            role: Role::Manager,
            state,
            cores: 0,
            free_cores: 0,
            software: SOFTWARE.to_owned(),
        };
        let workers = self.workers.iter().filter(|(_, view)| view.is_connected).filter_map(
            |(&node, view)| {
                let report = view.report.as_ref()?;
                let state = if report.is_draining {
                    NodeState::Draining
                } else if !view.is_gone && now < view.last_heard + self.config.stale_after {
                    NodeState::Ready
                } else {
                    NodeState::Silent
                };
                let free_cores = match state {
                    NodeState::Ready => report.cores.saturating_sub(self.given_away(node)),
                    NodeState::Leading
                    | NodeState::Following
                    | NodeState::Draining
                    | NodeState::Silent => 0,
                };
                let (cores, software) = (report.cores, report.software.clone());
                Some(NodeStatus { node, role: Role::Worker, state, cores, free_cores, software })
            },
        );
        let managers = self.peers.told().map(|(node, software)| NodeStatus {
            node,
            role: Role::Manager,
            state: NodeState::Following,
            cores: 0,
            free_cores: 0,
            software: software.to_owned(),
        });
        std::iter::once(own).chain(managers).chain(workers).take(NODES_TOLD_MAX).collect()
    }
}

#[cfg(test)]
mod tests;
