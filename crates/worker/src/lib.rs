//! The worker's decisions: which attempts it runs, how long it may send load, what it has told.
//!
//! A worker has no queue: it accepts or refuses an offer at once. It sends load only while its
//! lease lasts, counted from when *it* asked, so that no delay of the network can stretch it. It
//! keeps each delta until the gate has counted it, and each end until the leader has decided it.
//!
//! The load itself comes from an engine, which the driver runs: [`EngineCommand`] goes out,
//! [`EngineEvent`] comes in.
//!
//! ```
//! use hyperscale_model::{NodeId, Time};
//! use hyperscale_worker::{Input, Output, Worker, WorkerConfig};
//! use hyperscale_wire::Message;
//!
//! let mut worker = Worker::new(WorkerConfig::new(2));
//! worker.handle(Time::ZERO, Input::Connected { manager: NodeId(1) });
//! let first = worker.drain().next();
//! assert!(matches!(first, Some(Output::Send { message: Message::RenewLease { .. }, .. })));
//! ```

#![warn(clippy::wildcard_enum_match_arm)]

mod attempt;
mod outbox;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_blobs::Blobs;
use hyperscale_model::{AttemptId, BlobHash, DeltaSeq, Fence, NodeId, Pressure, Time, Version};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Context, LoadSteering, Plan, UniqueRows};
use hyperscale_stats::WindowFigures;
use hyperscale_wire::{
    Assignment, AttemptEnd, AttemptPhase, AttemptReport, AttemptSummary, Message, RefuseAttempt,
    SOFTWARE, StopMode, Subject, WorkerReport, check_published,
};

use crate::attempt::{Attempt, Phase};

/// Hints at another leader that are followed between two renewals: two deposed leaders may name each
/// other.
const HINTS_MAX: u8 = 2;
/// After so many renewals without an answer every manager is asked.
const PATIENCE: u32 = 3;
/// Forgotten attempts that are remembered as such.
const FINISHED_MAX: usize = 1_000;

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Cores that it offers.
    pub cores: u32,
    /// How often it asks for its lease. Rarer saves messages, more often bridges more losses.
    pub renewal: Duration,
    /// How long an unacknowledged delta or end waits before it is sent again.
    pub resend: Duration,
    /// How long running attempts may go on once the worker is told to leave.
    pub drain_limit: Duration,
    /// How many bytes of unacknowledged statistics it keeps apart before it joins windows.
    pub outbox_bytes: usize,
}

impl WorkerConfig {
    /// The defaults for so many cores.
    #[must_use]
    pub const fn new(cores: u32) -> Self {
        Self {
            cores,
            renewal: Duration::from_secs(1),
            resend: Duration::from_secs(2),
            drain_limit: Duration::from_secs(60),
            outbox_bytes: 64 << 20,
        }
    }
}

/// What happens to a worker.
#[derive(Debug)]
pub enum Input {
    /// A link to a manager is up.
    Connected {
        /// Which manager.
        manager: NodeId,
    },
    /// The link to a manager is down.
    Disconnected {
        /// Which manager.
        manager: NodeId,
    },
    /// A manager says something.
    Message {
        /// Which manager.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// The engine tells something.
    Engine(EngineEvent),
    /// Take nothing new, finish within the limit, then leave.
    Drain,
    /// The deadline has come.
    Tick,
}

/// What a worker wants done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send to a manager.
    Send {
        /// Which.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Tell the engine.
    Engine(EngineCommand),
    /// Log and count.
    Event(Event),
    /// Nothing is left to do after [`Input::Drain`]: leave.
    Drained,
}

/// What the engine shall do.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineCommand {
    /// Make ready to run an attempt.
    Prepare(Box<Preparation>),
    /// Run it.
    Start {
        /// The attempt.
        attempt: AttemptId,
        /// How long from now.
        start_in: Duration,
        /// The job's time at the start.
        job_elapsed: Duration,
        /// Where in the workflow's load it starts, pauses included.
        load_elapsed: Duration,
        /// How much later that is than was decided: starts that were due meanwhile count as dropped.
        late: Duration,
    },
    /// Load may be sent before this time, and at no later one: the engine looks itself before each
    /// request, so that a worker that was frozen sends nothing before it has noticed. The load's
    /// time goes on.
    Lease {
        /// Until when.
        until: Time,
    },
    /// Steer its load so from now on.
    Steer {
        /// The attempt.
        attempt: AttemptId,
        /// All of it.
        steering: LoadSteering,
    },
    /// It may make draws of unique rows before this one, by its number within its share.
    LeaseRows {
        /// The attempt.
        attempt: AttemptId,
        /// The first that it may not make.
        until: u64,
    },
    /// Stop it; its end is told.
    Stop {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        mode: StopMode,
    },
    /// Stop it at once and tell nothing more of it.
    Discard {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// What the engine needs to make ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Preparation {
    /// The assignment as offered.
    pub assignment: Assignment,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The blobs that the plan names.
    pub blobs: BTreeMap<BlobHash, Arc<[u8]>>,
    /// Which of the worker's cores it has, ascending.
    pub cores: Vec<u32>,
}

/// What the engine tells.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// The attempt can start.
    Prepared {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt cannot run here.
    Unprepared {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        message: String,
    },
    /// What the attempt did in a window, over all its cores. Windows come in order; each once.
    Window {
        /// The attempt.
        attempt: AttemptId,
        /// The window, counted from the job's start.
        window: u64,
        /// What it did.
        figures: Box<WindowFigures>,
        /// How many draws of unique rows it has made until now.
        draws_made: u64,
    },
    /// Users of the attempt wait for unique rows to be leased.
    RowsWanted {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt is over; no window follows.
    Ended {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        end: AttemptEnd,
        /// What its iterations published.
        published: BTreeMap<String, Value>,
        /// How many draws of unique rows it has made, if that is known: it makes no other.
        draws_made: Option<u64>,
    },
}

/// What is worth a line in the log and a count.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Another manager leads.
    LeaderChanged {
        /// Which.
        leader: NodeId,
        /// Its fence.
        fence: Fence,
    },
    /// The lease ended: load stops.
    LeaseLost,
    /// The lease is back: load goes on.
    LeaseRegained,
    /// An attempt was offered and refused.
    AttemptRefused {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        why: RefuseAttempt,
    },
    /// An attempt was offered and taken: it is made ready.
    AttemptReceived {
        /// The attempt.
        attempt: AttemptId,
    },
    /// An attempt sends load.
    AttemptStarted {
        /// The attempt.
        attempt: AttemptId,
        /// How long from now.
        start_in: Duration,
    },
    /// An attempt is over.
    AttemptEnded {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        end: AttemptEnd,
    },
    /// The leader has decided that an attempt ended as this worker said. Told once.
    AttemptEndAcknowledged {
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: AttemptEnd,
    },
    /// A message of a deposed leader was refused.
    StaleFence {
        /// The sender.
        from: NodeId,
        /// Its fence.
        fence: Fence,
        /// The fence that this worker holds.
        held: Fence,
    },
    /// The leader knows nothing of an attempt: it is dropped with what it had not told.
    AttemptForgotten {
        /// The attempt.
        attempt: AttemptId,
        /// Requests that nobody has counted.
        uncounted_requests: u64,
    },
    /// The engine said something of an attempt that no longer, or not yet, fits it. It changes
    /// nothing.
    OutOfTurn {
        /// The attempt.
        attempt: AttemptId,
        /// What.
        what: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leader {
    node: NodeId,
    fence: Fence,
}

/// The worker's state.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    managers: BTreeSet<NodeId>,
    /// The leader with the highest fence heard of; load is sent in its name.
    leader: Option<Leader>,
    /// Load may be sent before this.
    lease_until: Time,
    /// Whether attempts are suspended for want of a lease.
    is_suspended: bool,
    next_renewal: Time,
    /// When the leader last granted a lease.
    last_granted: Time,
    /// How many hints at another leader are followed before the next renewal.
    hints: u8,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// Attempts that are over and forgotten: an offer that comes late does not bring one back.
    finished: BTreeSet<AttemptId>,
    blobs: Blobs,
    pressure: Pressure,
    version: Version,
    drain: Option<Drain>,
    outputs: Vec<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Running attempts may go on until then.
    Waiting { until: Time },
    /// They were told to stop.
    Stopping,
    /// The driver was told to leave.
    Done,
}

impl Worker {
    /// A worker that has just started: it runs nothing.
    #[must_use]
    pub const fn new(config: WorkerConfig) -> Self {
        Self {
            config,
            managers: BTreeSet::new(),
            leader: None,
            lease_until: Time::ZERO,
            is_suspended: false,
            next_renewal: Time::ZERO,
            last_granted: Time::ZERO,
            hints: HINTS_MAX,
            attempts: BTreeMap::new(),
            finished: BTreeSet::new(),
            blobs: Blobs::new(),
            pressure: Pressure::None,
            version: Version::NONE,
            drain: None,
            outputs: Vec::new(),
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected { manager } => self.on_connected(now, manager),
            Input::Disconnected { manager } => {
                self.managers.remove(&manager);
            }
            Input::Message { from, message } => self.on_message(now, from, message),
            Input::Engine(event) => self.on_engine(now, event),
            Input::Drain => self.on_drain(now),
            Input::Tick => {}
        }
        self.on_time(now);
        self.send_blob_requests();
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let renewal = (!self.managers.is_empty()).then_some(self.next_renewal);
        let lease = (!self.is_suspended && self.runs_load()).then_some(self.lease_until);
        let drain = match self.drain {
            Some(Drain::Waiting { until }) => Some(until),
            Some(Drain::Stopping | Drain::Done) | None => None,
        };
        let resends = if self.link_to_leader().is_some() {
            self.attempts
                .values()
                .filter_map(|attempt| attempt.next_resend(self.config.resend))
                .min()
        } else {
            None
        };
        [renewal, lease, drain, resends, self.blobs.next_deadline()].into_iter().flatten().min()
    }

    /// What is to be done, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> {
        self.outputs.drain(..)
    }

    /// Whether load may be sent now.
    #[must_use]
    pub fn holds_lease(&self, now: Time) -> bool {
        now < self.lease_until
    }

    /// Cores that no attempt holds.
    #[must_use]
    pub fn free_cores(&self) -> u32 {
        let held: BTreeSet<u32> = self.held_cores().collect();
        self.config.cores.saturating_sub(u32::try_from(held.len()).unwrap_or(u32::MAX))
    }

    /// The attempts that may send load now.
    pub fn running(&self) -> impl Iterator<Item = AttemptId> + '_ {
        self.attempts
            .iter()
            .filter(|(_, attempt)| matches!(attempt.phase, Phase::Running { .. }))
            .filter(|_| !self.is_suspended)
            .map(|(&id, _)| id)
    }

    /// The attempts that are not over.
    pub fn active(&self) -> impl Iterator<Item = AttemptId> + '_ {
        let is_over = |phase: &Phase| matches!(phase, Phase::Ended { .. });
        self.attempts.iter().filter(move |(_, attempt)| !is_over(&attempt.phase)).map(|(&id, _)| id)
    }

    /// Bytes of statistics that nobody has acknowledged, roughly.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.attempts.values().map(|attempt| attempt.outbox.bytes()).sum()
    }

    fn runs_load(&self) -> bool {
        self.attempts.values().any(|attempt| matches!(attempt.phase, Phase::Running { .. }))
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push(Output::Send { to, message });
    }

    fn link_to_leader(&self) -> Option<NodeId> {
        self.leader.map(|leader| leader.node).filter(|node| self.managers.contains(node))
    }

    fn on_connected(&mut self, now: Time, manager: NodeId) {
        self.managers.insert(manager);
        self.renew(now, manager);
        if self.leader.is_some_and(|leader| leader.node == manager) {
            self.attempts.values_mut().for_each(Attempt::resend_all);
        }
    }

    fn renew(&mut self, now: Time, manager: NodeId) {
        self.version = self.version.next();
        let report = WorkerReport {
            version: self.version,
            cores: self.config.cores,
            is_draining: self.drain.is_some(),
            software: SOFTWARE.to_owned(),
            attempts: self
                .attempts
                .iter()
                .map(|(&attempt, state)| AttemptReport {
                    attempt,
                    phase: match state.phase {
                        Phase::Fetching | Phase::Preparing => AttemptPhase::Preparing,
                        Phase::Prepared => AttemptPhase::Prepared,
                        Phase::Running { .. } if self.is_suspended => AttemptPhase::Paused,
                        Phase::Running { .. } => AttemptPhase::Running,
                        Phase::Ended { .. } => AttemptPhase::Ended,
                    },
                    cores: state.held_cores(),
                    steered: state.assignment.steering.version,
                    job_time: state.job_time(now),
                    rows_until: state.assignment.rows.until,
                    rows_wanted: state.rows_wanted,
                })
                .collect(),
        };
        self.send(manager, Message::RenewLease { sent_at: now, report });
    }

    /// Whether a command under this fence counts; tells the sender if it does not. A higher fence
    /// than the one held is a new leader.
    fn accepts(&mut self, from: NodeId, fence: Fence) -> bool {
        let held = self.leader.map_or(Fence::NONE, |leader| leader.fence);
        if fence < held {
            self.outputs.push(Output::Event(Event::StaleFence { from, fence, held }));
            self.send(from, Message::StaleFence { subject: Subject::Leadership, held });
            return false;
        }
        let leader = Leader { node: from, fence };
        if self.leader != Some(leader) {
            self.leader = Some(leader);
            self.outputs.push(Output::Event(Event::LeaderChanged { leader: from, fence }));
            self.attempts.values_mut().for_each(Attempt::resend_all);
        }
        true
    }

    fn on_message(&mut self, now: Time, from: NodeId, message: Message) {
        match message {
            Message::LeaseGranted { sent_at, fence, lease, stop, forget, steer } => {
                if self.accepts(from, fence) {
                    self.last_granted = now;
                    let until = sent_at + lease;
                    if until > self.lease_until {
                        self.lease_until = until;
                        self.outputs.push(Output::Engine(EngineCommand::Lease { until }));
                    }
                    stop.into_iter()
                        .for_each(|(attempt, mode)| self.stop_for_leader(attempt, mode));
                    forget.into_iter().for_each(|attempt| self.forget(attempt));
                    steer.into_iter().for_each(|(attempt, steering)| self.steer(attempt, steering));
                }
            }
            Message::NotLeader { leader } => {
                let is_news = |node: &NodeId| self.leader.is_none_or(|known| known.node != *node);
                let leader = leader.filter(is_news).filter(|node| self.managers.contains(node));
                if let Some(leader) = leader.filter(|_| self.hints > 0) {
                    self.hints -= 1;
                    self.renew(now, leader);
                }
            }
            Message::Lead { fence } => {
                if self.accepts(from, fence) {
                    self.renew(now, from);
                }
            }
            Message::OfferAttempt(assignment) => {
                if self.accepts(from, assignment.fence) {
                    self.on_offer(now, from, *assignment);
                }
            }
            Message::StartAttempt { attempt, fence, start_in, job_elapsed, load_elapsed, late } => {
                if self.accepts(from, fence) {
                    self.start(now, attempt, start_in, job_elapsed, load_elapsed, late);
                }
            }
            Message::StopAttempt { attempt, fence, mode } => {
                if self.accepts(from, fence) {
                    self.on_stop(from, attempt, mode);
                }
            }
            Message::SteerAttempt { attempt, fence, steering } => {
                if self.accepts(from, fence) {
                    self.steer(attempt, steering);
                }
            }
            Message::LeaseRows { attempt, fence, until } => {
                if self.accepts(from, fence) {
                    self.lease_rows(attempt, until);
                }
            }
            Message::DeltaAck { attempt, through, pressure, .. } => {
                self.pressure = pressure;
                if let Some(state) = self.attempts.get_mut(&attempt) {
                    state.outbox.acknowledge(through);
                }
                self.forget_what_is_told();
            }
            Message::AttemptEndedAck { attempt } => {
                let state = self.attempts.get_mut(&attempt);
                if let Some(end) = state.and_then(Attempt::on_end_acknowledged) {
                    let acknowledged = Event::AttemptEndAcknowledged { attempt, end };
                    self.outputs.push(Output::Event(acknowledged));
                }
                self.forget_what_is_told();
            }
            Message::BlobChunk { hash, offset, total, bytes } => {
                if self.blobs.on_chunk(now, hash, offset, total, &bytes).is_some() {
                    self.prepare_what_is_fetched(now);
                }
            }
            Message::BlobMissing { hash } => self.on_blob_missing(from, hash),
            // A manager passes it to the worker that is meant.
            Message::Drain { .. } => self.on_drain(now),
            // Nobody may send us these; the link's table of messages refuses them before.
            Message::StaleFence { .. }
            | Message::OfferPart(_)
            | Message::StartPart { .. }
            | Message::StopPart { .. }
            | Message::StopWorkflow { .. }
            | Message::SteerPart { .. }
            | Message::SettleWorkflow { .. }
            | Message::PartEndedAck { .. }
            | Message::DatacenterStatus(_)
            | Message::PartAccepted { .. }
            | Message::PartRefused { .. }
            | Message::PartReport(_)
            | Message::PartEnded(_)
            | Message::RenewLease { .. }
            | Message::AttemptAccepted { .. }
            | Message::AttemptRefused { .. }
            | Message::AttemptEnded { .. }
            | Message::Delta(_)
            | Message::BlobRequest { .. }
            | Message::Ledger { .. }
            | Message::PeerStatus { .. }
            | Message::Probe { .. }
            | Message::OrphanPart { .. }
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
            | Message::KeepBlob { .. }
            | Message::BlobKept { .. } => {}
        }
    }

    fn on_offer(&mut self, now: Time, from: NodeId, assignment: Assignment) {
        let (attempt, fence) = (assignment.attempt, assignment.fence);
        if let Some(known) = self.attempts.get_mut(&attempt) {
            known.assignment.fence = fence; // A repeated offer, perhaps of the next leader.
            known.offered_by = from;
            self.steer(attempt, assignment.steering);
            self.lease_rows(attempt, assignment.rows.until);
            let Some(known) = self.attempts.get(&attempt) else { return };
            match known.phase {
                Phase::Prepared | Phase::Running { .. } => {
                    self.send(from, Message::AttemptAccepted { attempt, fence });
                }
                Phase::Fetching => self.prepare_what_is_fetched(now),
                Phase::Preparing | Phase::Ended { .. } => {}
            }
            return;
        }
        if self.finished.contains(&attempt) {
            return;
        }
        let free = self.free_cores();
        let cores = if assignment.seat == attempt {
            self.choose_cores(assignment.cores)
        } else {
            self.seat(&assignment)
        };
        let refusal = if self.drain.is_some() {
            Some(RefuseAttempt::Draining)
        } else if cores.is_empty() {
            Some(RefuseAttempt::NoCores { free })
        } else if !assignment.slice.is_valid() || !assignment.rows.slice.is_valid() {
            Some(RefuseAttempt::BadPlan { message: "its slice is malformed".to_owned() })
        } else {
            None
        };
        if let Some(why) = refusal {
            self.refuse(from, attempt, fence, why);
            return;
        }
        self.attempts.insert(attempt, Attempt::new(assignment, cores, from));
        self.outputs.push(Output::Event(Event::AttemptReceived { attempt }));
        self.prepare_what_is_fetched(now);
    }

    fn refuse(&mut self, to: NodeId, attempt: AttemptId, fence: Fence, why: RefuseAttempt) {
        self.outputs.push(Output::Event(Event::AttemptRefused { attempt, why: why.clone() }));
        self.send(to, Message::AttemptRefused { attempt, fence, why });
    }

    fn held_cores(&self) -> impl Iterator<Item = u32> + '_ {
        let holders = self.attempts.values().filter(|attempt| attempt.held_cores() > 0);
        holders.flat_map(|attempt| attempt.cores.iter().copied())
    }

    /// So many free cores, or none if there are fewer.
    fn choose_cores(&self, count: u32) -> Vec<u32> {
        let held: BTreeSet<u32> = self.held_cores().collect();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let free = (0..self.config.cores).filter(|core| !held.contains(core));
        let chosen: Vec<u32> = free.take(count).collect();
        if chosen.len() == count { chosen } else { Vec::new() }
    }

    /// The cores of an attempt of the same workflow that the leader names; free ones if it has just
    /// ended.
    fn seat(&self, assignment: &Assignment) -> Vec<u32> {
        let workflow = |attempt: AttemptId| (attempt.shard.part_id(), attempt.shard.workflow);
        let mut holders = self.attempts.values().filter(|other| {
            other.assignment.seat == assignment.seat
                && other.held_cores() == assignment.cores
                && workflow(other.assignment.attempt) == workflow(assignment.attempt)
        });
        match holders.next() {
            Some(holder) => holder.cores.clone(),
            None => self.choose_cores(assignment.cores),
        }
    }

    /// Goes on with each attempt as far as its plan and data have arrived.
    fn prepare_what_is_fetched(&mut self, now: Time) {
        let fetching: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.phase == Phase::Fetching)
            .map(|(&id, _)| id)
            .collect();
        for id in fetching {
            self.prepare(now, id);
        }
    }

    fn prepare(&mut self, now: Time, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let from = attempt.offered_by;
        let Some(bytes) = self.blobs.get(attempt.assignment.plan) else {
            self.blobs.fetch(now, attempt.assignment.plan, from);
            return;
        };
        let plan = match Plan::from_bytes(bytes) {
            Ok(plan) if plan.workflow(id.shard.workflow).is_some() => Arc::new(plan),
            Ok(_) => return self.give_up(id, "the plan has no such workflow".to_owned()),
            Err(error) => return self.give_up(id, error.to_string()),
        };
        let needed = plan.blobs();
        let missing: Vec<BlobHash> =
            needed.iter().copied().filter(|&hash| self.blobs.get(hash).is_none()).collect();
        if !missing.is_empty() {
            missing.into_iter().for_each(|hash| self.blobs.fetch(now, hash, from));
            return;
        }
        let blobs = needed
            .into_iter()
            .filter_map(|hash| Some((hash, Arc::clone(self.blobs.get(hash)?))))
            .collect();
        attempt.phase = Phase::Preparing;
        let draws = &attempt.assignment.rows.slice;
        attempt.rows_end = UniqueRows::of(&plan, id.shard.workflow).draws(draws);
        let (assignment, cores) = (attempt.assignment.clone(), attempt.cores.clone());
        let preparation = Preparation { assignment, plan, blobs, cores };
        self.outputs.push(Output::Engine(EngineCommand::Prepare(Box::new(preparation))));
    }

    fn give_up(&mut self, id: AttemptId, message: String) {
        if let Some(attempt) = self.attempts.remove(&id) {
            let why = RefuseAttempt::BadPlan { message };
            self.refuse(attempt.offered_by, id, attempt.assignment.fence, why);
        }
    }

    fn on_blob_missing(&mut self, from: NodeId, hash: BlobHash) {
        let stranded: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, a)| a.phase == Phase::Fetching && a.assignment.plan == hash)
            .filter(|(_, a)| a.offered_by == from) // An earlier leader need not hold it any more.
            .map(|(&id, _)| id)
            .collect();
        for id in stranded {
            self.give_up(id, format!("the manager does not hold the plan {hash}"));
        }
    }

    fn start(
        &mut self,
        now: Time,
        id: AttemptId,
        start_in: Duration,
        job_elapsed: Duration,
        load_elapsed: Duration,
        late: Duration,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if attempt.phase != Phase::Prepared {
            return; // Repeated, or too late.
        }
        attempt.phase = Phase::Running { stopping: None };
        attempt.start = Some((now + start_in, job_elapsed));
        self.outputs.push(Output::Event(Event::AttemptStarted { attempt: id, start_in }));
        self.outputs.push(Output::Engine(EngineCommand::Start {
            attempt: id,
            start_in,
            job_elapsed,
            load_elapsed,
            late,
        }));
    }

    /// The newest version counts, whichever way and in whichever order they come.
    fn steer(&mut self, id: AttemptId, steering: LoadSteering) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if steering.version <= attempt.assignment.steering.version {
            return;
        }
        attempt.assignment.steering = steering.clone();
        match attempt.phase {
            Phase::Preparing | Phase::Prepared | Phase::Running { .. } => {
                let command = EngineCommand::Steer { attempt: id, steering };
                self.outputs.push(Output::Engine(command));
            }
            // Comes with the preparation, or too late.
            Phase::Fetching | Phase::Ended { .. } => {}
        }
    }

    /// Leases only grow while an attempt lives.
    fn lease_rows(&mut self, id: AttemptId, until: u64) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if until <= attempt.assignment.rows.until {
            return;
        }
        attempt.assignment.rows.until = until;
        match attempt.phase {
            Phase::Preparing | Phase::Prepared | Phase::Running { .. } => {
                let command = EngineCommand::LeaseRows { attempt: id, until };
                self.outputs.push(Output::Engine(command));
            }
            // Comes with the preparation, or too late.
            Phase::Fetching | Phase::Ended { .. } => {}
        }
    }

    fn on_stop(&mut self, from: NodeId, attempt: AttemptId, mode: StopMode) {
        if self.attempts.contains_key(&attempt) {
            self.stop_for_leader(attempt, mode);
            return;
        }
        // Its offer was lost, or its end is decided: nobody shall wait for more of it.
        let (end, published) = (AttemptEnd::Stopped, BTreeMap::new());
        let (last_delta, draws_made) = (DeltaSeq::NONE, None);
        let end = AttemptSummary { end, last_delta, published, draws_made };
        self.send(from, Message::AttemptEnded { attempt, end });
    }

    fn stop_for_leader(&mut self, id: AttemptId, mode: StopMode) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.was_stopped_by_leader = true;
        }
        self.stop(id, mode);
    }

    fn stop(&mut self, id: AttemptId, mode: StopMode) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match &mut attempt.phase {
            Phase::Fetching | Phase::Preparing | Phase::Prepared => {
                let is_known_to_engine = attempt.phase != Phase::Fetching;
                if is_known_to_engine {
                    self.outputs.push(Output::Engine(EngineCommand::Discard { attempt: id }));
                }
                self.end(id, AttemptEnd::Stopped, BTreeMap::new(), Some(0));
            }
            Phase::Running { stopping } => {
                if stopping.is_none_or(|known| known < mode) {
                    *stopping = Some(mode);
                    self.outputs.push(Output::Engine(EngineCommand::Stop { attempt: id, mode }));
                }
            }
            Phase::Ended { .. } => {}
        }
    }

    /// The leader has closed the attempt without us: whatever we still hold counts no more.
    fn forget(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.remove(&id) else { return };
        self.finish(id);
        if !matches!(attempt.phase, Phase::Ended { .. } | Phase::Fetching) {
            self.outputs.push(Output::Engine(EngineCommand::Discard { attempt: id }));
        }
        let uncounted_requests = attempt.outbox.requests();
        self.outputs
            .push(Output::Event(Event::AttemptForgotten { attempt: id, uncounted_requests }));
    }

    fn finish(&mut self, id: AttemptId) {
        self.finished.insert(id);
        if self.finished.len() > FINISHED_MAX {
            self.finished.pop_first(); // Ids rise with time: of the oldest job.
        }
    }

    fn forget_what_is_told(&mut self) {
        let told = self.attempts.iter().filter(|(_, attempt)| attempt.is_told());
        let told: Vec<AttemptId> = told.map(|(&id, _)| id).collect();
        for id in told {
            self.attempts.remove(&id);
            self.finish(id);
        }
        if self.attempts.is_empty() {
            self.blobs.retain(|_| false);
        }
    }

    fn on_engine(&mut self, now: Time, event: EngineEvent) {
        match event {
            EngineEvent::Prepared { attempt } => {
                let Some(state) = self.preparing(attempt) else {
                    return self.out_of_turn(attempt, "prepared");
                };
                state.phase = Phase::Prepared;
                let (to, fence) = (state.offered_by, state.assignment.fence);
                let to = self.link_to_leader().unwrap_or(to);
                self.send(to, Message::AttemptAccepted { attempt, fence });
            }
            EngineEvent::Unprepared { attempt, message } => {
                if self.preparing(attempt).is_none() {
                    return self.out_of_turn(attempt, "unprepared");
                }
                self.give_up(attempt, message);
            }
            EngineEvent::Window { attempt, window, figures, draws_made } => {
                // Nothing is added to what has ended: its end says which delta is the last.
                if !self.is(attempt, |phase| matches!(phase, Phase::Running { .. })) {
                    return self.out_of_turn(attempt, "a window");
                }
                let limit = self.config.outbox_bytes;
                let (pressure, bytes) = (self.pressure, self.outbox_bytes());
                let Some(state) = self.attempts.get_mut(&attempt) else { return };
                let span = if bytes > limit {
                    u32::MAX
                } else {
                    windows_at(pressure, state.assignment.window)
                };
                state.outbox.push(attempt, window, *figures, span);
                let is_urgent = state.on_drawn(draws_made);
                self.send_deltas(now, attempt);
                self.renew_soon(now, is_urgent);
            }
            EngineEvent::RowsWanted { attempt } => {
                let Some(state) = self.attempts.get_mut(&attempt) else { return };
                let is_urgent = state.on_rows_wanted();
                self.renew_soon(now, is_urgent);
            }
            EngineEvent::Ended { attempt, end, published, draws_made } => {
                let may_end =
                    |phase: &Phase| !matches!(phase, Phase::Fetching | Phase::Ended { .. });
                if !self.is(attempt, may_end) {
                    return self.out_of_turn(attempt, "its end");
                }
                self.end(attempt, end, published, draws_made);
                self.send_deltas(now, attempt);
            }
        }
    }

    fn is(&self, id: AttemptId, phase: impl Fn(&Phase) -> bool) -> bool {
        self.attempts.get(&id).is_some_and(|attempt| phase(&attempt.phase))
    }

    fn preparing(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.attempts.get_mut(&id).filter(|attempt| attempt.phase == Phase::Preparing)
    }

    fn out_of_turn(&mut self, attempt: AttemptId, what: &'static str) {
        self.outputs.push(Output::Event(Event::OutOfTurn { attempt, what }));
    }

    /// The leader shall hear at once what attempts want of it; if none is reached, with the next
    /// renewal.
    fn renew_soon(&mut self, now: Time, is_urgent: bool) {
        if let Some(leader) = self.link_to_leader().filter(|_| is_urgent) {
            self.renew(now, leader);
        }
    }

    fn end(
        &mut self,
        id: AttemptId,
        end: AttemptEnd,
        published: BTreeMap<String, Value>,
        draws_made: Option<u64>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let end = match (end, self.drain) {
            // Told to stop because the worker leaves: the rest of the load runs elsewhere.
            (AttemptEnd::Stopped, Some(Drain::Stopping)) if !attempt.was_stopped_by_leader => {
                AttemptEnd::Drained
            }
            (end, _) => end,
        };
        let (end, published) = match check_published(&Context::default(), &published) {
            Ok(()) => (end, published),
            Err(message) => (AttemptEnd::Aborted { message }, BTreeMap::new()),
        };
        self.outputs.push(Output::Event(Event::AttemptEnded { attempt: id, end: end.clone() }));
        attempt.outbox.seal();
        let last_delta = attempt.outbox.last();
        let summary = AttemptSummary { end, last_delta, published, draws_made };
        attempt.phase = Phase::Ended { summary, told: None, is_acknowledged: false };
    }

    fn send_deltas(&mut self, now: Time, id: AttemptId) {
        let Some(leader) = self.link_to_leader() else { return };
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        for delta in attempt.outbox.due(now, self.config.resend) {
            let message = Message::Delta(Box::new(delta));
            self.outputs.push(Output::Send { to: leader, message });
        }
        if let Phase::Ended { summary, told, is_acknowledged: false } = &mut attempt.phase
            && told.is_none_or(|told| now >= told + self.config.resend)
        {
            *told = Some(now);
            let message = Message::AttemptEnded { attempt: id, end: summary.clone() };
            self.outputs.push(Output::Send { to: leader, message });
        }
    }

    fn on_drain(&mut self, now: Time) {
        if self.drain.is_none() {
            self.drain = Some(Drain::Waiting { until: now + self.config.drain_limit });
            self.next_renewal = now; // The leader shall know at once.
        }
    }

    fn on_time(&mut self, now: Time) {
        if !self.managers.is_empty() && now >= self.next_renewal {
            self.next_renewal = now + self.config.renewal;
            self.hints = HINTS_MAX;
            let patience = self.last_granted + self.config.renewal * PATIENCE;
            match self.link_to_leader().filter(|_| now < patience) {
                Some(leader) => self.renew(now, leader),
                // No leader is known, reached or answers: any manager may know who leads.
                None => {
                    let managers: Vec<NodeId> = self.managers.iter().copied().collect();
                    managers.into_iter().for_each(|manager| self.renew(now, manager));
                }
            }
        }
        self.follow_lease(now);
        let ids: Vec<AttemptId> = self.attempts.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send_deltas(now, id));
        self.blobs.tick(now);
        self.go_on_draining(now);
    }

    fn follow_lease(&mut self, now: Time) {
        let is_over = now >= self.lease_until;
        if is_over == self.is_suspended || !self.runs_load() && is_over {
            return;
        }
        self.is_suspended = is_over;
        let event = if is_over { Event::LeaseLost } else { Event::LeaseRegained };
        self.outputs.push(Output::Event(event));
    }

    fn go_on_draining(&mut self, now: Time) {
        match self.drain {
            Some(Drain::Waiting { until }) if now >= until => {
                self.drain = Some(Drain::Stopping);
                let ids: Vec<AttemptId> = self.attempts.keys().copied().collect();
                ids.into_iter().for_each(|id| self.stop(id, StopMode::Now));
            }
            Some(Drain::Waiting { .. } | Drain::Stopping) if self.attempts.is_empty() => {
                self.drain = Some(Drain::Done);
                self.outputs.push(Output::Drained);
            }
            Some(_) | None => {}
        }
    }

    fn send_blob_requests(&mut self) {
        let requests = self.blobs.drain();
        self.outputs.extend(requests.map(|(to, message)| Output::Send { to, message }));
    }
}

/// How many windows a delta shall span.
fn windows_at(pressure: Pressure, window: Duration) -> u32 {
    let spanned = match pressure {
        Pressure::None => return 1,
        Pressure::Throttle => Duration::from_secs(2),
        Pressure::Batch => Duration::from_secs(5),
        Pressure::Reject => return u32::MAX,
    };
    u32::try_from(spanned.as_nanos() / window.as_nanos().max(1)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;
