//! A node: a role with its ledger or engine, its clock and its disk. It does what a driver does,
//! and may stop between any two things that it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_gate::{
    Gate, GateConfig, Reply, Request, RequestError, RequestErrorKind, RequestId,
};
use hyperscale_ledger::{Ledger, LedgerConfig};
use hyperscale_manager::state::Entry;
use hyperscale_manager::{Manager, ManagerConfig};
use hyperscale_model::{AttemptId, ClientId, DatacenterId, Incarnation, NodeId, Role, Time};
use hyperscale_report::JobResult;
use hyperscale_wire::{Assembly, Message, decode_value, ledger_pieces};
use hyperscale_worker::{EngineCommand, Preparation, Worker, WorkerConfig};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::engine::{Engine, Sent};
use crate::mutation::Mutation;
use crate::scenario::datacenter_name;
use crate::world::Event as Happening;

/// Ticks in a row after which a deadline still lies in the past.
const SPINS_MAX: u32 = 100;
/// Rounds of one node that lead to nothing but more rounds.
const ROUNDS_MAX: u32 = 10_000;

/// What reaches a node.
#[derive(Debug, Clone)]
pub(crate) enum Stimulus {
    Opened {
        peer: NodeId,
        role: Role,
        incarnation: Incarnation,
    },
    Closed {
        peer: NodeId,
    },
    Message {
        from: NodeId,
        message: Message,
    },
    Request {
        id: RequestId,
        request: Request,
    },
    Abandoned {
        id: RequestId,
    },
    /// Gossip says, perhaps wrongly, that a node is dead.
    Gone {
        node: NodeId,
    },
    Drain,
    Tick,
}

/// What a node did that others see.
#[derive(Debug)]
pub(crate) enum Effect {
    Send {
        to: NodeId,
        message: Message,
    },
    Reply {
        id: RequestId,
        reply: Reply,
    },
    /// A result lies on the disk.
    Stored(Arc<JobResult>),
    /// Its ledger's state may have changed.
    Decided,
    /// An entry of the node's ledger was decided.
    Logged {
        index: u64,
        entry: Vec<u8>,
    },
    Sent(Sent),
    /// The engine was told about an attempt.
    Prepared {
        preparation: Box<Preparation>,
    },
    /// The engine was told to start, stop or drop an attempt.
    Commanded {
        attempt: AttemptId,
    },
    /// The worker has nothing left to do and leaves.
    Drained,
    /// Something that must never happen.
    Broken(String),
}

#[derive(Debug)]
pub(crate) enum Node {
    Gate { gate: Box<Gate>, ledger: Ledger, talk: Talk },
    Manager { manager: Box<Manager>, ledger: Ledger, talk: Talk },
    Worker { worker: Box<Worker>, engine: Box<Engine> },
}

/// What ledgers of one cluster say to each other.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    said: u64,
    heard: BTreeMap<NodeId, Assembly>,
}

impl Talk {
    fn hear(
        &mut self,
        now: Time,
        ledger: &mut Ledger,
        from: NodeId,
        (number, offset, total): (u64, u64, u64),
        bytes: Vec<u8>,
    ) {
        let heard = self.heard.entry(from).or_default();
        if let Some(message) = heard.take(number, offset, total, bytes) {
            ledger.handle(now, hyperscale_ledger::Input::Peer { from, message });
        }
    }

    fn say(&mut self, to: NodeId, message: &[u8], effects: &mut Vec<Effect>) {
        self.said += 1;
        let pieces = ledger_pieces(self.said, message);
        effects.extend(pieces.map(|message| Effect::Send { to, message }));
    }
}

/// What all lives of all nodes of a world are set to.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) window: Duration,
    pub(crate) checkpoint: Duration,
    pub(crate) retention: Duration,
    pub(crate) snapshot_after: u64,
    /// What the manager takes the execution lease for; the workers' is the default.
    pub(crate) manager_lease: Duration,
    pub(crate) gates: usize,
    /// How many managers each datacenter has.
    pub(crate) managers: Vec<usize>,
    pub(crate) mutation: Option<Mutation>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) role: Role,
    /// The place of its datacenter; a gate has none.
    pub(crate) place: Option<usize>,
    /// How often it has been started in this world.
    pub(crate) life: u64,
    pub(crate) cores: u32,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) node: Option<Node>,
    pub(crate) is_frozen: bool,
    /// Its ends of links that are up, by peer, with the connection's number.
    pub(crate) open: BTreeMap<NodeId, u64>,
    /// When, in the world's time, it wants to be ticked.
    pub(crate) due: Option<Time>,
    /// After how many outputs it stops.
    pub(crate) crash_after: Option<u32>,
    /// Requests that it owes an answer, since when.
    pub(crate) owed: BTreeMap<RequestId, Time>,
    /// What came while it was frozen.
    pub(crate) missed: Vec<Happening>,
    /// Until when its ledger knows that it leads, by its own clock.
    pub(crate) confirmed_until: Time,
    /// It does not come back once it is down.
    pub(crate) is_leaving: bool,
    /// As it was when it stopped amid what it wanted done: others may have heard of what it decided.
    pub(crate) remains: Option<Node>,
    settings: Settings,
    spins: u32,
}

impl Host {
    pub(crate) fn new(
        id: NodeId,
        role: Role,
        place: Option<usize>,
        cores: u32,
        settings: Settings,
    ) -> Self {
        Self {
            id,
            role,
            place,
            life: 0,
            cores,
            clock: Clock::new(Time::ZERO, 0),
            disk: Disk::default(),
            node: None,
            is_frozen: false,
            open: BTreeMap::new(),
            due: None,
            crash_after: None,
            owed: BTreeMap::new(),
            missed: Vec::new(),
            confirmed_until: Time::ZERO,
            is_leaving: false,
            remains: None,
            settings,
            spins: 0,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.disk.0.borrow().incarnation)
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// Starts the next life.
    pub(crate) fn start(
        &mut self,
        world: Time,
        clock: Clock,
        seed: u64,
        engine: Engine,
    ) -> Vec<Effect> {
        self.life += 1;
        self.clock = clock;
        self.disk.0.borrow_mut().incarnation += 1;
        (self.spins, self.crash_after, self.confirmed_until) = (0, None, Time::ZERO);
        let mut effects = Vec::new();
        let wall = self.clock.wall_at_zero();
        let mut config = LedgerConfig::new(self.id);
        config.snapshot_after = self.settings.snapshot_after;
        match self.role {
            Role::Gate => {
                let mut settings = GateConfig::new(self.id, self.incarnation(), wall, [7; 32]);
                settings.gates = self.settings.gates;
                settings.window = self.settings.window;
                settings.checkpoint = self.settings.checkpoint;
                settings.retention = self.settings.retention;
                settings.part_wait = Duration::from_secs(100);
                let mut gate = Gate::new(settings, seed);
                let blobs: Vec<_> = self.disk.0.borrow().blobs.values().cloned().collect();
                for bytes in blobs {
                    gate.handle(Time::ZERO, hyperscale_gate::Input::Blob { bytes });
                }
                let checkpoints = self.disk.0.borrow().checkpoints.clone();
                for (job, kept) in checkpoints {
                    let input = hyperscale_gate::Input::Checkpoint { job, kept };
                    gate.handle(Time::ZERO, input);
                }
                match Ledger::open(config, Box::new(self.disk.clone()), seed, Time::ZERO) {
                    Ok(ledger) => {
                        use hyperscale_gate::Input as I;
                        let input = if ledger.is_founded() { I::Founded } else { I::Tick };
                        gate.handle(Time::ZERO, input);
                        let (gate, talk) = (Box::new(gate), Talk::default());
                        self.node = Some(Node::Gate { gate, ledger, talk });
                    }
                    Err(error) => effects.push(Effect::Broken(format!("the ledger: {error}"))),
                }
            }
            Role::Manager => {
                let place = self.place.unwrap_or(0);
                let datacenter = DatacenterId::from(datacenter_name(place).as_str());
                let mut settings = ManagerConfig::new(self.id, datacenter, wall);
                settings.execution_lease = self.settings.manager_lease;
                settings.managers = self.settings.managers.get(place).copied().unwrap_or(1);
                let mut manager = Manager::new(settings);
                let blobs: Vec<_> = self.disk.0.borrow().blobs.values().cloned().collect();
                for bytes in blobs {
                    manager.handle(Time::ZERO, hyperscale_manager::Input::Blob { bytes });
                }
                match Ledger::open(config, Box::new(self.disk.clone()), seed, Time::ZERO) {
                    Ok(ledger) => {
                        use hyperscale_manager::Input as I;
                        let input = if ledger.is_founded() { I::Founded } else { I::Tick };
                        manager.handle(Time::ZERO, input);
                        let (manager, talk) = (Box::new(manager), Talk::default());
                        self.node = Some(Node::Manager { manager, ledger, talk });
                    }
                    Err(error) => effects.push(Effect::Broken(format!("the ledger: {error}"))),
                }
            }
            Role::Worker | Role::Client => {
                let worker = Worker::new(WorkerConfig::new(self.cores));
                let (worker, engine) = (Box::new(worker), Box::new(engine));
                self.node = Some(Node::Worker { worker, engine });
            }
        }
        self.pump(Time::ZERO, &mut effects);
        self.plan_tick(world);
        effects
    }

    /// Stops at once. The disk keeps what was written.
    pub(crate) fn crash(&mut self) {
        self.node = None;
        self.due = None;
        self.is_frozen = false;
        self.crash_after = None;
        self.missed.clear();
        self.owed.clear();
        self.disk.0.borrow_mut().crash();
    }

    /// Lets something happen to the node, and everything that follows from it.
    pub(crate) fn handle(&mut self, world: Time, stimulus: Stimulus) -> Vec<Effect> {
        let now = self.clock.local(world);
        let mut effects = Vec::new();
        let is_tick = matches!(stimulus, Stimulus::Tick);
        match &mut self.node {
            Some(Node::Gate { gate, ledger, talk }) => {
                use hyperscale_gate::Input as I;
                match stimulus {
                    Stimulus::Opened { peer, role: Role::Gate, .. } => {
                        talk.heard.remove(&peer);
                        gate.handle(now, I::GateConnected { gate: peer });
                    }
                    Stimulus::Opened { peer, .. } => {
                        gate.handle(now, I::ManagerConnected { manager: peer });
                    }
                    Stimulus::Closed { peer } => gate.handle(now, I::Disconnected { node: peer }),
                    Stimulus::Message {
                        from,
                        message: Message::Ledger { number, offset, total, bytes },
                    } => talk.hear(now, ledger, from, (number, offset, total), bytes),
                    Stimulus::Message { from, message } => {
                        gate.handle(now, I::Message { from, message });
                    }
                    Stimulus::Request { id, request } => {
                        self.owed.insert(id, world);
                        let client = ClientId::from("client");
                        gate.handle(now, I::Request { id, client, request });
                    }
                    Stimulus::Abandoned { id } => {
                        self.owed.remove(&id);
                        gate.handle(now, I::RequestAbandoned { id });
                    }
                    Stimulus::Gone { node } => gate.handle(now, I::MemberGone { node }),
                    Stimulus::Drain => {}
                    Stimulus::Tick => {
                        ledger.handle(now, hyperscale_ledger::Input::Tick);
                        gate.handle(now, I::Tick);
                    }
                }
            }
            Some(Node::Manager { manager, ledger, talk }) => {
                use hyperscale_manager::Input as I;
                match stimulus {
                    Stimulus::Opened { peer, role: Role::Gate, .. } => {
                        manager.handle(now, I::GateConnected { gate: peer });
                    }
                    Stimulus::Opened { peer, role: Role::Manager, .. } => {
                        talk.heard.remove(&peer);
                        manager.handle(now, I::ManagerConnected { manager: peer });
                    }
                    Stimulus::Opened { peer: worker, incarnation, .. } => {
                        manager.handle(now, I::WorkerConnected { worker, incarnation });
                    }
                    Stimulus::Message {
                        from,
                        message: Message::Ledger { number, offset, total, bytes },
                    } => talk.hear(now, ledger, from, (number, offset, total), bytes),
                    Stimulus::Closed { peer } => {
                        manager.handle(now, I::Disconnected { node: peer });
                    }
                    Stimulus::Message { from, message } => {
                        manager.handle(now, I::Message { from, message });
                    }
                    Stimulus::Gone { node } => manager.handle(now, I::MemberGone { node }),
                    Stimulus::Request { .. } | Stimulus::Abandoned { .. } | Stimulus::Drain => {}
                    Stimulus::Tick => {
                        ledger.handle(now, hyperscale_ledger::Input::Tick);
                        manager.handle(now, I::Tick);
                    }
                }
            }
            Some(Node::Worker { worker, engine }) => {
                use hyperscale_worker::Input as I;
                match stimulus {
                    Stimulus::Opened { peer, .. } => {
                        worker.handle(now, I::Connected { manager: peer });
                    }
                    Stimulus::Closed { peer } => {
                        worker.handle(now, I::Disconnected { manager: peer });
                    }
                    Stimulus::Message { from, message } => {
                        worker.handle(now, I::Message { from, message });
                    }
                    Stimulus::Request { .. }
                    | Stimulus::Abandoned { .. }
                    | Stimulus::Gone { .. } => {}
                    Stimulus::Drain => worker.handle(now, I::Drain),
                    Stimulus::Tick => {
                        if worker.next_deadline().is_some_and(|at| at <= now) {
                            worker.handle(now, I::Tick);
                        }
                        Self::obey(worker, engine, now, &mut effects);
                        if engine.next_deadline().is_some_and(|at| at <= now) {
                            engine.tick(now);
                        }
                    }
                }
            }
            None => return effects,
        }
        self.pump(now, &mut effects);
        if self.is_up() {
            self.plan_tick(world);
            self.watch_spinning(world, is_tick, &mut effects);
        }
        effects
    }

    fn plan_tick(&mut self, world: Time) {
        let next = match &self.node {
            Some(Node::Gate { gate, ledger, .. }) => [gate.next_deadline(), ledger.next_deadline()],
            Some(Node::Manager { manager, ledger, .. }) => {
                [manager.next_deadline(), ledger.next_deadline()]
            }
            Some(Node::Worker { worker, engine }) => {
                [worker.next_deadline(), engine.next_deadline()]
            }
            None => [None, None],
        };
        let next = next.into_iter().flatten().min();
        self.due = next.map(|local| self.clock.world(local).max(world));
    }

    /// A deadline that lies in the past after its tick would keep a real node busy for nothing.
    fn watch_spinning(&mut self, world: Time, is_tick: bool, effects: &mut Vec<Effect>) {
        let is_overdue = self.due.is_some_and(|due| due <= world);
        if is_tick && is_overdue {
            self.spins += 1;
            self.due = Some(world + Duration::from_millis(1));
            if self.spins >= SPINS_MAX {
                let role = self.role;
                let what = format!("the {role} spins: its deadline stays in the past");
                effects.push(Effect::Broken(what));
            }
        } else if is_tick {
            self.spins = 0;
        }
    }

    fn has(&self, mutation: Mutation) -> bool {
        self.settings.mutation == Some(mutation)
    }

    /// Counts an output; true if the node stops after it.
    fn stops_here(&mut self) -> bool {
        let Some(left) = &mut self.crash_after else { return false };
        *left = left.saturating_sub(1);
        *left == 0
    }

    /// Passes on whatever the role and what is beside it want done, until neither wants anything.
    fn pump(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.disk.0.borrow_mut().dropped.clear();
        for round in 0.. {
            if round > ROUNDS_MAX {
                effects.push(Effect::Broken(format!("the {} does not come to rest", self.role)));
                return;
            }
            let Some(mut node) = self.node.take() else { return };
            let outcome = match &mut node {
                Node::Gate { gate, ledger, talk } => {
                    self.pump_gate(now, (gate, ledger, talk), effects)
                }
                Node::Manager { manager, ledger, talk } => {
                    self.pump_manager(now, (manager, ledger, talk), effects)
                }
                Node::Worker { worker, engine } => self.pump_worker(now, worker, engine, effects),
            };
            self.node = Some(node);
            match outcome {
                Pumped::Moved => {}
                Pumped::Rests => return,
                Pumped::Stopped => {
                    self.remains = self.node.take();
                    self.crash();
                    return;
                }
            }
        }
    }

    fn pump_gate(
        &mut self,
        now: Time,
        (gate, ledger, talk): (&mut Gate, &mut Ledger, &mut Talk),
        effects: &mut Vec<Effect>,
    ) -> Pumped {
        use hyperscale_gate::{Event, Input as I, Output as O};
        use hyperscale_ledger::Output as L;
        let decided: Vec<L> = ledger.drain().collect();
        let mut moved = !decided.is_empty();
        for output in decided {
            match output {
                L::Committed { index, entry, proposal } => {
                    effects.push(Effect::Logged { index, entry: entry.clone() });
                    gate.handle(now, I::Committed { index, entry, proposal });
                    effects.push(Effect::Decided);
                }
                L::Refused { proposal } => gate.handle(now, I::Refused { proposal }),
                L::Leadership { leads, leader } => {
                    gate.handle(now, I::Leadership { leads, leader });
                }
                L::Electorate(electorate) => gate.handle(now, I::Electorate(electorate)),
                L::TakeSnapshot { index } => gate.handle(now, I::TakeSnapshot { index }),
                L::Restored { snapshot } => gate.handle(now, I::Restored { snapshot }),
                L::Failed { .. } => return Pumped::Stopped,
                L::Send { to, message } => talk.say(to, &message, effects),
                L::Confirmed { .. } => {}
            }
        }
        let outputs: Vec<O> = gate.drain().collect();
        moved |= !outputs.is_empty();
        for output in outputs {
            if self.stops_here() {
                return Pumped::Stopped;
            }
            match output {
                O::Found { voters } => {
                    ledger.handle(now, hyperscale_ledger::Input::Bootstrap { voters });
                }
                O::ChangeElectorate(change) => {
                    ledger.handle(now, hyperscale_ledger::Input::Change(change));
                }
                O::Removed | O::Leave => return Pumped::Stopped,
                O::Send { to, message } => effects.push(Effect::Send { to, message }),
                O::Propose { proposal, entry } => {
                    ledger.handle(now, hyperscale_ledger::Input::Propose { proposal, entry });
                }
                O::Reply { id, reply } => {
                    self.owed.remove(&id);
                    let reply = self.look_up(reply);
                    effects.push(Effect::Reply { id, reply });
                }
                O::StoreBlob { hash, bytes } => {
                    self.disk.0.borrow_mut().blobs.insert(hash, bytes);
                }
                O::DropBlobs { needed } => {
                    self.disk.0.borrow_mut().drop_blobs(&needed);
                }
                O::StoreCheckpoint { job, checkpoint } => {
                    if !self.has(Mutation::LoseCheckpoints) {
                        let kept = (checkpoint, Vec::new());
                        self.disk.0.borrow_mut().checkpoints.insert(job, kept);
                    }
                }
                O::StoreChange { job, mark, change } => {
                    if let Some((_, changes)) = self.disk.0.borrow_mut().checkpoints.get_mut(&job)
                        && !self.has(Mutation::LoseChanges)
                    {
                        changes.push((mark, change));
                    }
                }
                O::DropCheckpoint { job } => {
                    self.disk.0.borrow_mut().checkpoints.remove(&job);
                }
                O::StoreResult { result } => {
                    let job = result.summary.job;
                    self.disk.0.borrow_mut().results.insert(job, Arc::clone(&result));
                    effects.push(Effect::Stored(result));
                }
                O::Snapshot { snapshot, .. } => {
                    ledger.handle(now, hyperscale_ledger::Input::Snapshot { snapshot });
                }
                O::Event(Event::Malformed { what, error }) => {
                    effects.push(Effect::Broken(format!("gate: {what}: {error}")));
                }
                O::Decided(_) | O::Event(_) => {}
            }
        }
        if moved { Pumped::Moved } else { Pumped::Rests }
    }

    /// What a driver answers from where it keeps results.
    fn look_up(&self, reply: Reply) -> Reply {
        let Reply::Stored { job } = reply else { return reply };
        match self.disk.0.borrow().results.get(&job) {
            Some(result) => Reply::Results(Arc::clone(result)),
            None => Reply::Error(RequestError {
                kind: RequestErrorKind::NotFound,
                message: "there is no such job here".to_owned(),
            }),
        }
    }

    fn pump_manager(
        &mut self,
        now: Time,
        (manager, ledger, talk): (&mut Manager, &mut Ledger, &mut Talk),
        effects: &mut Vec<Effect>,
    ) -> Pumped {
        use hyperscale_ledger::Output as L;
        use hyperscale_manager::{Event, Input as I, Output as O};
        let decided: Vec<L> = ledger.drain().collect();
        let mut moved = !decided.is_empty();
        for output in decided {
            match output {
                L::Committed { index, entry, proposal } => {
                    effects.push(Effect::Logged { index, entry: entry.clone() });
                    manager.handle(now, I::Committed { index, entry, proposal });
                    effects.push(Effect::Decided);
                }
                L::Refused { proposal } => manager.handle(now, I::Refused { proposal }),
                L::Leadership { leads: false, .. } if self.has(Mutation::IgnoreLeadershipLoss) => {}
                L::Leadership { leads, leader } => {
                    self.confirmed_until = Time::ZERO;
                    manager.handle(now, I::Leadership { leads, leader });
                }
                L::Confirmed { until } => {
                    self.confirmed_until = until;
                    let is_endless = self.has(Mutation::ServeUnconfirmed)
                        || self.has(Mutation::IgnoreLeadershipLoss);
                    let until = if is_endless { Time::from_nanos(u64::MAX) } else { until };
                    manager.handle(now, I::Confirmed { until });
                }
                L::Electorate(electorate) => manager.handle(now, I::Electorate(electorate)),
                L::TakeSnapshot { index } => manager.handle(now, I::TakeSnapshot { index }),
                L::Restored { snapshot } => manager.handle(now, I::Restored { snapshot }),
                L::Failed { .. } => return Pumped::Stopped,
                L::Send { to, message } => {
                    talk.say(to, &message, effects);
                }
            }
        }
        let outputs: Vec<O> = manager.drain().collect();
        moved |= !outputs.is_empty();
        for output in outputs {
            if self.stops_here() {
                return Pumped::Stopped;
            }
            match output {
                O::Found { voters } => {
                    ledger.handle(now, hyperscale_ledger::Input::Bootstrap { voters });
                }
                O::ChangeElectorate(change) => {
                    ledger.handle(now, hyperscale_ledger::Input::Change(change));
                }
                O::Removed | O::Leave => return Pumped::Stopped,
                O::Send { to, message } => effects.push(Effect::Send { to, message }),
                O::Propose { proposal, entry } => {
                    if self.has(Mutation::SkipBarrier) && is_barrier(&entry) {
                        let index = ledger.status().applied + 1;
                        let (entry, proposal) = (entry.clone(), Some(proposal));
                        manager.handle(now, I::Committed { index, entry, proposal });
                    }
                    ledger.handle(now, hyperscale_ledger::Input::Propose { proposal, entry });
                }
                O::StoreBlob { hash, bytes } => {
                    self.disk.0.borrow_mut().blobs.insert(hash, bytes);
                }
                O::DropBlobs { needed } => {
                    self.disk.0.borrow_mut().drop_blobs(&needed);
                }
                O::Snapshot { snapshot, .. } => {
                    ledger.handle(now, hyperscale_ledger::Input::Snapshot { snapshot });
                }
                // The sender may have been given up while its answer was under way.
                O::Event(Event::Malformed { what: "blob", .. }) => {}
                O::Event(Event::Malformed { what, error }) => {
                    effects.push(Effect::Broken(format!("manager: {what}: {error}")));
                }
                O::Decided(_) | O::Event(_) => {}
            }
        }
        if moved { Pumped::Moved } else { Pumped::Rests }
    }

    fn pump_worker(
        &mut self,
        now: Time,
        worker: &mut Worker,
        engine: &mut Engine,
        effects: &mut Vec<Effect>,
    ) -> Pumped {
        let moved = Self::obey(worker, engine, now, effects);
        if moved && self.stops_here() {
            return Pumped::Stopped;
        }
        let (sent, events) = engine.drain();
        effects.extend(sent.into_iter().map(Effect::Sent));
        let has_news = !events.is_empty();
        for event in events {
            worker.handle(now, hyperscale_worker::Input::Engine(event));
        }
        if moved || has_news { Pumped::Moved } else { Pumped::Rests }
    }

    fn obey(
        worker: &mut Worker,
        engine: &mut Engine,
        now: Time,
        effects: &mut Vec<Effect>,
    ) -> bool {
        use hyperscale_worker::Output as O;
        let outputs: Vec<O> = worker.drain().collect();
        let moved = !outputs.is_empty();
        for output in outputs {
            match output {
                O::Send { to, message } => effects.push(Effect::Send { to, message }),
                O::Engine(command) => {
                    match &command {
                        EngineCommand::Prepare(preparation) => {
                            effects.push(Effect::Prepared { preparation: preparation.clone() });
                        }
                        EngineCommand::Start { attempt, .. }
                        | EngineCommand::Steer { attempt, .. }
                        | EngineCommand::Stop { attempt, .. }
                        | EngineCommand::Discard { attempt } => {
                            effects.push(Effect::Commanded { attempt: *attempt });
                        }
                        EngineCommand::Lease { .. } | EngineCommand::LeaseRows { .. } => {}
                    }
                    engine.command(now, command);
                }
                O::Event(_) => {}
                O::Drained => effects.push(Effect::Drained),
            }
        }
        moved
    }
}

/// Whether an entry is the one by which a leader starts.
pub(crate) fn is_barrier(entry: &[u8]) -> bool {
    matches!(decode_value(entry), Ok(Entry::LeaderStarted { .. }))
}

#[derive(Debug, PartialEq, Eq)]
enum Pumped {
    Moved,
    Rests,
    Stopped,
}
