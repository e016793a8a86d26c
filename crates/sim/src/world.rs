//! The world: nodes, links, the client and the faults, in one order of events.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use hyperscale_gate::{Reply, Request, RequestId};
use hyperscale_model::{AttemptId, NodeId, PartId, Role, SplitMix, Time};
use hyperscale_wire::{FrameDecoder, Message, decode_message, encode_frame};

use crate::Options;
use crate::client::{Asked, Client, Learned};
use crate::clock::Clock;
use crate::decided::Trouble;
use crate::engine::Engine;
use crate::host::{Effect, Host, Node, Settings, Stimulus};
use crate::mutation::{Mutation, Tampering, fence_of};
use crate::network::{Frame, Network};
use crate::oracle::Oracle;
use crate::scenario::Scenario;

/// Ids of nodes: gates from 1, then by hundreds the managers and the workers of each datacenter.
const DATACENTER_IDS: u64 = 100;
const FIRST_WORKER: u64 = 10;
/// How often the client looks what is due.
const CLIENT_STEP: Duration = Duration::from_millis(200);
/// How long what is left of finished jobs may take to go.
const AFTERGLOW: Duration = Duration::from_secs(45);
/// Most things that may be about to happen.
const EVENTS_MAX: usize = 20_000;
/// How often the leading manager dies where that is asked for.
pub(crate) const FALLS_EVERY: Duration = Duration::from_secs(20);
/// How long after the last fault everything must be over, beyond the deadlines of jobs.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) enum Event {
    Dial { dialer: NodeId, acceptor: NodeId },
    Opened { node: NodeId, life: u64, peer: NodeId, connection: u64 },
    Closed { node: NodeId, peer: NodeId, connection: u64 },
    Arrive(Frame),
    Start { node: NodeId },
    ClientStep,
    AtGate { gate: NodeId, life: u64, stimulus: Stimulus },
    AtClient { id: RequestId, reply: Box<Reply> },
    Fault,
    Fall,
    Resume { node: NodeId },
    Heal { ways: Vec<(NodeId, NodeId)> },
    Die { way: (NodeId, NodeId), stretch: Duration },
    Quicken { way: (NodeId, NodeId) },
    Break { way: (NodeId, NodeId), connection: u64 },
    Calm,
}

/// What happens next in a world: an event, or the tick of a node.
#[derive(Debug, Clone, Copy)]
enum Next {
    Event(Time),
    Tick(Time, NodeId),
}

impl Next {
    const fn at(self) -> Time {
        match self {
            Self::Event(at) | Self::Tick(at, _) => at,
        }
    }
}

/// A gate or manager that is lost with its disk.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) node: NodeId,
    /// When somebody has it removed, or asks again.
    pub(crate) ask_at: Time,
}

/// One world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) random: SplitMix,
    pub(crate) scenario: Scenario,
    pub(crate) hosts: BTreeMap<NodeId, Host>,
    pub(crate) network: Network,
    pub(crate) client: Client,
    pub(crate) oracle: Oracle,
    pub(crate) is_calm: bool,
    queue: BTreeMap<(Time, u64), Event>,
    order: u64,
    settings: Settings,
    trace: DefaultHasher,
    is_traced: bool,
    broken: Option<String>,
    /// Until when something is, or was, in the way of everybody's work.
    pub(crate) trouble_until: Time,
    /// Until when something is, or was, in the way between the gate and the manager.
    pub(crate) head_trouble_until: Time,
    tampering: Tampering,
    /// Since when nothing has been left to do.
    quiet_since: Option<Time>,
    /// The gates that the client knows, in its order.
    pub(crate) gates: Vec<NodeId>,
    /// Gates and managers that are lost with their disks and not replaced yet, by their place.
    pub(crate) lost: BTreeMap<Option<usize>, Lost>,
    /// How many faults there have been, and which of them are left out.
    pub(crate) faults: u32,
    pub(crate) skip: u128,
    /// What has arrived, when, from whom, at whom: only directed tests look at it.
    #[cfg(test)]
    pub(crate) heard: Vec<(Time, NodeId, NodeId, Message)>,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let mut scenario = Scenario::draw(seed, options.kind, options.faults);
        scenario.limit(options);
        Self::of(scenario, seed, options)
    }

    pub(crate) fn of(mut scenario: Scenario, seed: u64, options: &Options) -> Self {
        scenario.habits.ignores_lease = options.mutation == Some(Mutation::IgnoreLease);
        scenario.habits.ignores_pauses = options.mutation == Some(Mutation::ForgetSteering);
        let mut random = SplitMix::new(!seed);
        let settings = Settings {
            window: scenario.window,
            checkpoint: scenario.checkpoint,
            retention: scenario.retention,
            snapshot_after: scenario.snapshot_after,
            manager_lease: Duration::from_secs(
                if options.mutation == Some(Mutation::EarlyRedispatch) { 3 } else { 10 },
            ),
            gates: scenario.gates,
            managers: scenario.datacenters.iter().map(|datacenter| datacenter.managers).collect(),
            mutation: options.mutation,
        };
        let client = Client::new(scenario.tests.clone(), scenario.gates, random.fork());
        let mut world = Self {
            now: Time::ZERO,
            oracle: Oracle::new(&scenario),
            hosts: BTreeMap::new(),
            network: Network::default(),
            client,
            is_calm: false,
            queue: BTreeMap::new(),
            order: 0,
            settings,
            trace: DefaultHasher::new(),
            is_traced: options.trace,
            broken: None,
            trouble_until: Time::ZERO,
            head_trouble_until: Time::ZERO,
            tampering: Tampering::default(),
            quiet_since: None,
            gates: Vec::new(),
            lost: BTreeMap::new(),
            faults: 0,
            skip: options.skip,
            #[cfg(test)]
            heard: Vec::new(),
            random,
            scenario,
        };
        world.tampering.mutation = options.mutation;
        let gates: Vec<NodeId> = (1..).take(world.scenario.gates).map(NodeId).collect();
        world.gates.clone_from(&gates);
        for (&gate, place) in gates.iter().zip(0..) {
            world.add(gate, Role::Gate, None, 0);
            // Of two gates, as of two managers, the one with the higher id calls.
            gates[..place].iter().for_each(|&peer| world.link(gate, peer));
        }
        for (place, datacenter) in world.scenario.datacenters.clone().into_iter().enumerate() {
            let first = (place as u64 + 1) * DATACENTER_IDS;
            let place = Some(place);
            for id in (first..).take(datacenter.managers).map(NodeId) {
                world.add(id, Role::Manager, place, 0);
            }
            let managers = world.managers_at(place);
            for (&manager, index) in managers.iter().zip(0..) {
                gates.iter().for_each(|&gate| world.link(manager, gate));
                managers[..index].iter().for_each(|&peer| world.link(manager, peer));
            }
            for (cores, id) in datacenter.workers.into_iter().zip(first + FIRST_WORKER..) {
                world.add(NodeId(id), Role::Worker, place, cores);
                managers.iter().for_each(|&manager| world.link(NodeId(id), manager));
            }
        }
        for host in world.hosts.values() {
            let forgets = options.mutation == Some(Mutation::LoseWrites);
            host.disk.0.borrow_mut().forgets_batches = forgets;
        }
        let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
        nodes.into_iter().for_each(|node| world.start(node));
        world.schedule(CLIENT_STEP, Event::ClientStep);
        let calm = world.scenario.calm;
        world.schedule(calm - Time::ZERO, Event::Calm);
        world.network.loss = if world.scenario.faults.lossy { 0.05 } else { 0.0 };
        world.plan_fault();
        if options.falls {
            world.schedule(FALLS_EVERY, Event::Fall);
        }
        world
    }

    pub(crate) fn managers_at(&self, place: Option<usize>) -> Vec<NodeId> {
        self.peers_at(Role::Manager, place)
    }

    /// The nodes of one role at one place that have not left.
    pub(crate) fn peers_at(&self, role: Role, place: Option<usize>) -> Vec<NodeId> {
        let here = |host: &&Host| host.role == role && host.place == place && !host.is_leaving;
        self.hosts.values().filter(here).map(|host| host.id).collect()
    }

    pub(crate) fn add(&mut self, id: NodeId, role: Role, place: Option<usize>, cores: u32) {
        let host = Host::new(id, role, place, cores, self.settings.clone());
        self.hosts.insert(id, host);
    }

    pub(crate) fn link(&mut self, dialer: NodeId, acceptor: NodeId) {
        let mut delay = Duration::from_micros(100 + self.random.below(20_000));
        let host = |node| self.hosts.get(&node).map(|host: &Host| (host.role, host.place));
        let (one, other) = (host(dialer), host(acceptor));
        let are_gates = [one, other].iter().all(|host| host.is_some_and(|h| h.0 == Role::Gate));
        if are_gates || one.map(|host| host.1) != other.map(|host| host.1) {
            delay += self.scenario.distance;
        }
        self.network.add(dialer, acceptor, delay);
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), event);
    }

    /// Notes what must never happen; the first counts.
    pub(crate) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.is_traced {
            crate::trace_line(self.now, &what());
        }
    }

    /// Lives until everything is over, or something is broken.
    pub(crate) fn run(mut self) -> (Option<(Time, String)>, Time, u64) {
        self.live();
        let broken = self.broken.take().map(|what| (self.now, what));
        (broken, self.now, self.trace.finish())
    }

    /// As [`World::run`], to look at it then.
    pub(crate) fn live(&mut self) {
        let mut limit = None;
        while self.broken.is_none() {
            let next = self.next();
            self.now = self.now.max(next.map_or(self.now + PATIENCE, Next::at));
            if self.is_calm {
                let limit = *limit.get_or_insert_with(|| self.oracle.limit(self.now) + PATIENCE);
                let is_quiet = self.is_quiet();
                self.quiet_since = self.quiet_since.filter(|_| is_quiet);
                if is_quiet {
                    let since = *self.quiet_since.get_or_insert(self.now);
                    if self.now >= self.scenario.life && self.now >= since + AFTERGLOW {
                        break;
                    }
                }
                if self.now > limit && !is_quiet {
                    let open = self.oracle.open();
                    let wishes = self.client.wishes.iter().filter(|wish| !wish.is_done());
                    let wishes: Vec<_> = wishes.map(|wish| wish.job).collect();
                    self.fail(format!(
                        "INV-6: not over in time: {open}; client waits for {wishes:?}"
                    ));
                    break;
                }
            }
            self.take(next);
        }
        if self.broken.is_none() {
            self.check_rest();
        }
    }

    /// What happens next.
    fn next(&self) -> Option<Next> {
        let tick = self.hosts.values().filter(|host| !host.is_frozen);
        let tick = tick.filter_map(|host| Some((host.due?, host.id))).min();
        let event = self.queue.keys().next().map(|(at, _)| *at);
        match (event, tick) {
            (Some(at), Some((due, _))) if at <= due => Some(Next::Event(at)),
            (_, Some((due, node))) => Some(Next::Tick(due, node)),
            (Some(at), None) => Some(Next::Event(at)),
            (None, None) => None,
        }
    }

    fn take(&mut self, next: Option<Next>) {
        match next {
            Some(Next::Event(_)) => {
                if let Some((_, event)) = self.queue.pop_first() {
                    self.happen(event);
                }
            }
            Some(Next::Tick(_, node)) => self.stimulate(node, Stimulus::Tick),
            None => {}
        }
    }

    /// Lives until then, or until something is broken.
    #[cfg(test)]
    pub(crate) fn live_until(&mut self, end: Time) {
        while self.broken.is_none() {
            let next = self.next().filter(|next| next.at() <= end);
            if next.is_none() {
                break;
            }
            self.now = self.now.max(next.map_or(end, Next::at));
            self.take(next);
        }
        self.now = self.now.max(end);
    }

    /// What must never happen and did.
    #[cfg(test)]
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.client.wishes.iter().all(crate::client::Wish::is_done) && self.oracle.is_over()
    }

    fn happen(&mut self, event: Event) {
        if let Some(host) = Self::subject(&event).and_then(|node| self.hosts.get_mut(&node))
            && host.is_frozen
        {
            host.missed.push(event);
            return;
        }
        match event {
            Event::Dial { dialer, acceptor } => self.dial(dialer, acceptor),
            Event::Opened { node, life, peer, connection } => {
                self.open_end(node, life, peer, connection);
            }
            Event::Closed { node, peer, connection } => self.close_end(node, peer, connection),
            Event::Arrive(frame) => self.arrive(frame),
            Event::Start { node } => self.start(node),
            Event::ClientStep => self.step_client(),
            Event::AtGate { gate, life, stimulus } => {
                if self.hosts.get(&gate).is_some_and(|host| host.life == life && host.is_up()) {
                    self.stimulate(gate, stimulus);
                }
            }
            Event::AtClient { id, reply } => self.tell_client(id, &reply),
            Event::Fault => self.fault(),
            Event::Fall => self.fall(),
            Event::Resume { node } => self.resume(node),
            Event::Heal { ways } => {
                self.network.cuts.retain(|way| !ways.contains(way));
                self.release();
            }
            Event::Die { way, stretch } => self.die(way, stretch),
            Event::Quicken { way } => {
                if let Some(link) = self.network.links.get_mut(&way) {
                    link.slowness = Duration::ZERO;
                }
            }
            Event::Break { way, connection } => self.break_connection(way, connection),
            Event::Calm => self.calm(),
        }
    }

    /// A frozen node goes on, with everything that has come meanwhile.
    pub(crate) fn resume(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.is_frozen) else { return };
        host.is_frozen = false;
        let missed = std::mem::take(&mut host.missed);
        // Its clock went on. What its own time brings and what others said wait for it, and nothing
        // says which it takes up first.
        let is_tick_first = self.random.chance(0.5);
        if is_tick_first {
            self.stimulate(node, Stimulus::Tick);
        }
        missed.into_iter().for_each(|event| self.happen(event));
        if !is_tick_first {
            self.stimulate(node, Stimulus::Tick);
        }
    }

    /// Sends on what a cut has held back.
    pub(crate) fn release(&mut self) {
        for frame in self.network.release() {
            let now = self.now;
            let (from, to) = (frame.from, frame.to);
            if let Some(arrival) = self.network.arrival(&mut self.random, now, from, to) {
                self.schedule(arrival - now, Event::Arrive(frame));
            }
        }
    }

    /// The node that an event happens to, if it has to be awake for it.
    fn subject(event: &Event) -> Option<NodeId> {
        match event {
            Event::Opened { node, .. } | Event::Closed { node, .. } => Some(*node),
            Event::Arrive(frame) => Some(frame.to),
            Event::AtGate { gate, .. } => Some(*gate),
            _ => None,
        }
    }

    pub(crate) fn start(&mut self, node: NodeId) {
        let drift = self.random.below(2 * self.scenario.drift + 1);
        let drift =
            i32::try_from(drift).unwrap_or(0) - i32::try_from(self.scenario.drift).unwrap_or(0);
        let ahead = self.scenario.ahead.get(&node).copied().unwrap_or(0);
        let clock = Clock::new(self.now, drift).ahead_by(ahead);
        let seed = self.random.next_u64();
        let engine = Engine::new(self.scenario.habits, self.random.fork());
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node).filter(|host| !host.is_up()) else { return };
        let effects = host.start(now, clock, seed, engine);
        self.oracle.on_start(node);
        self.note(|| format!("{node} starts"));
        self.follow(node, effects);
        if self.hosts.get(&node).is_some_and(|host| !host.is_up()) {
            return self.after_crash(node);
        }
        let ways: Vec<(NodeId, NodeId)> =
            self.network.links.keys().filter(|(a, b)| *a == node || *b == node).copied().collect();
        for (dialer, acceptor) in ways {
            self.redial(dialer, acceptor);
        }
    }

    /// Has the opening end try again soon.
    fn redial(&mut self, dialer: NodeId, acceptor: NodeId) {
        let pause = Duration::from_millis(20 + self.random.below(800));
        let Some(link) = self.network.links.get_mut(&(dialer, acceptor)) else { return };
        if link.connection.is_none() && !link.is_dialing {
            link.is_dialing = true;
            self.schedule(pause, Event::Dial { dialer, acceptor });
        }
    }

    fn dial(&mut self, dialer: NodeId, acceptor: NodeId) {
        let Some(link) = self.network.links.get_mut(&(dialer, acceptor)) else { return };
        link.is_dialing = false;
        let delay = link.delay + link.slowness;
        let is_free = link.connection.is_none();
        let ready = |node: NodeId| {
            self.hosts.get(&node).filter(|host| host.is_up() && !host.is_frozen).map(|h| h.life)
        };
        let (Some(from), Some(to)) = (ready(dialer), ready(acceptor)) else {
            return self.redial(dialer, acceptor);
        };
        let is_cut = self.network.is_cut(dialer, acceptor) || self.network.is_cut(acceptor, dialer);
        if !is_free || is_cut {
            return self.redial(dialer, acceptor);
        }
        let connection = self.network.connect(self.now, dialer, acceptor);
        let (node, life, peer) = (acceptor, to, dialer);
        self.schedule(delay, Event::Opened { node, life, peer, connection });
        let (node, life, peer) = (dialer, from, acceptor);
        self.schedule(delay * 2, Event::Opened { node, life, peer, connection });
    }

    fn open_end(&mut self, node: NodeId, life: u64, peer: NodeId, connection: u64) {
        let Some(other) = self.hosts.get(&peer) else { return };
        let (role, incarnation) = (other.role, other.incarnation());
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if !host.is_up() || host.life != life {
            return;
        }
        // Overtaken by the next connection, or broken before it was up.
        let is_old = host.open.get(&peer).is_some_and(|known| *known > connection);
        if is_old || self.network.broken.contains(&connection) {
            return;
        }
        let before = host.open.insert(peer, connection);
        self.network.lives.insert((connection, node), life);
        if before.is_some() {
            self.stimulate(node, Stimulus::Closed { peer });
        }
        self.stimulate(node, Stimulus::Opened { peer, role, incarnation });
    }

    fn close_end(&mut self, node: NodeId, peer: NodeId, connection: u64) {
        let mut is_ours = false;
        if let Some(host) = self.hosts.get_mut(&node)
            && host.open.get(&peer) == Some(&connection)
        {
            host.open.remove(&peer);
            is_ours = true;
        }
        if is_ours {
            self.stimulate(node, Stimulus::Closed { peer });
        }
        if let Some(link) = self.network.links.get_mut(&(node, peer))
            && link.connection == Some(connection)
        {
            link.connection = None;
            self.redial(node, peer);
        }
    }

    fn arrive(&mut self, frame: Frame) {
        let Some(host) = self.hosts.get(&frame.to) else { return };
        if host.life != frame.receiver_life || !host.is_up() {
            return;
        }
        let is_of_link = host.open.get(&frame.from) == Some(&frame.connection)
            && !self.network.broken.contains(&frame.connection);
        // A copy comes only after its connection is gone, and never from an earlier worker.
        let may_straggle = frame.is_straggler && !is_of_link && !self.is_calm && {
            let is_same = |from: &Host| from.life == frame.sender_life || from.role != Role::Worker;
            host.open.contains_key(&frame.from) && self.hosts.get(&frame.from).is_some_and(is_same)
        };
        if is_of_link == frame.is_straggler || (frame.is_straggler && !may_straggle) {
            return;
        }
        if self.network.is_cut(frame.from, frame.to) {
            self.network.hold(frame);
            return;
        }
        let mut decoder = FrameDecoder::default();
        decoder.feed(&frame.bytes);
        let message = match decoder.next_frame() {
            Ok(Some(body)) => decode_message(&body),
            other => return self.fail(format!("a frame is cut wrongly: {other:?}")),
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => return self.fail(format!("a message cannot be read: {error}")),
        };
        let (from, to) = (frame.from, frame.to);
        let roles = (self.role(from), self.role(to));
        if let (Some(sender), Some(receiver)) = roles
            && !message.may_pass(sender, receiver)
        {
            let name = message.name();
            return self.fail(format!("a {sender} says {name} to a {receiver}"));
        }
        (self.now, from, to).hash(&mut self.trace);
        frame.bytes.hash(&mut self.trace);
        self.note(|| format!("{from} -> {to} {message:?}"));
        if let Message::ProbeAck { status, .. } = &message
            && status.leading.is_some()
        {
            self.oracle.on_answer(self.now, to, status.datacenter.clone());
        }
        #[cfg(test)]
        self.heard.push((self.now, from, to, message.clone()));
        self.deliver(from, to, message);
    }

    /// Gives a message to its receiver, and sees that no deposed sender is obeyed.
    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let Some(host) = self.hosts.get(&to) else { return };
        let mut heard = message.clone();
        let held = self.oracle.held(host, &mut heard);
        let is_stale = self.oracle.is_stale(host, &message);
        let before = is_stale.then(|| authority(host, &message)).flatten();
        if self.tampering.mutation.is_some() {
            self.tampering.hear(from, &message);
            let now = host.clock.local(self.now);
            let Some(tampered) = self.tampering.tamper(heard, held, now) else { return };
            heard = tampered;
            if self.role(to) == Some(Role::Gate) && self.role(from) == Some(Role::Manager) {
                self.tampering.tamper_delta(&mut heard);
            }
        }
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&to).filter(|host| host.is_up()) else { return };
        let effects = host.handle(now, Stimulus::Message { from, message: heard });
        let has_obeyed = match &message {
            Message::OfferAttempt(assignment) => commands(&effects, assignment.attempt),
            Message::StartAttempt { attempt, .. } | Message::StopAttempt { attempt, .. } => {
                commands(&effects, *attempt)
            }
            _ => before != authority(host, &message),
        };
        let has_refused = effects.iter().any(|effect| match effect {
            // A leader that is not certain of its lead takes no offer at all.
            Effect::Send { message, .. } => {
                matches!(message, Message::StaleFence { .. } | Message::PartRefused { .. })
            }
            _ => false,
        });
        let is_alive = self.hosts.get(&to).is_some_and(Host::is_up);
        if is_stale && is_alive && (has_obeyed || !has_refused) {
            let name = message.name();
            self.fail(format!("INV-11: {to} did not refuse a {name} of a deposed sender"));
        }
        if let Message::LeaseGranted { sent_at, lease, .. } = &message
            && !is_stale
        {
            self.oracle.on_lease(to, *sent_at + *lease);
        }
        self.after(to, effects);
    }

    pub(crate) fn role(&self, node: NodeId) -> Option<Role> {
        self.hosts.get(&node).map(|host| host.role)
    }

    /// Lets something happen to a node, and everything that follows from it.
    pub(crate) fn stimulate(&mut self, node: NodeId, stimulus: Stimulus) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.is_up()) else { return };
        let effects = host.handle(now, stimulus);
        self.after(node, effects);
    }

    fn after(&mut self, node: NodeId, effects: Vec<Effect>) {
        let has_stopped = self.hosts.get(&node).is_some_and(|host| !host.is_up());
        self.follow(node, effects);
        if self.role(node) == Some(Role::Manager)
            && let Err(what) = self.oracle.on_managers(self.now, &self.hosts)
        {
            self.fail(what);
        }
        if let Some(host) = self.hosts.get_mut(&node) {
            host.remains = None;
        }
        if has_stopped {
            self.after_crash(node);
        }
    }

    fn follow(&mut self, node: NodeId, effects: Vec<Effect>) {
        let mut is_undecided = effects.iter().any(|effect| matches!(effect, Effect::Decided));
        for effect in effects {
            if is_undecided && matches!(effect, Effect::Reply { .. }) {
                is_undecided = false;
                self.check_decided(node);
            }
            match effect {
                Effect::Send { to, mut message } => {
                    let checked = self.oracle.on_send(self.now, self.hosts.get(&node), &message);
                    if let Err(what) = checked {
                        self.fail(what);
                    }
                    if let Some((answer, is_swallowed)) =
                        self.tampering.answer(self.hosts.get(&to), &message)
                    {
                        self.deliver(to, node, answer);
                        if is_swallowed {
                            continue;
                        }
                    }
                    match encode_frame(&message) {
                        Ok(bytes) => {
                            // Reports have an order of their own, which late ones must not break.
                            let is_command = fence_of(&mut message).is_some()
                                || matches!(message, Message::PartReport(_));
                            self.send(node, to, bytes, is_command);
                        }
                        Err(error) => {
                            self.fail(format!("{} is too large: {error}", message.name()))
                        }
                    }
                }
                Effect::Reply { id, reply } => self.reply(node, id, reply),
                Effect::Logged { index, entry } => {
                    let Some(host) = self.hosts.get(&node) else { continue };
                    let logged = self.oracle.on_logged(
                        (self.now, self.trouble_until),
                        host,
                        (index, entry),
                        &self.hosts,
                    );
                    if let Err(what) = logged {
                        self.fail(what);
                    }
                }
                Effect::Stored(result) => {
                    if let Err(what) = self.oracle.on_stored(&result) {
                        self.fail(what);
                    }
                }
                Effect::Decided | Effect::Commanded { .. } => {}
                Effect::Sent(sent) => {
                    let Some(host) = self.hosts.get(&node) else { continue };
                    let is_lossy = self.network.loss > 0.0;
                    let trouble = if is_lossy { self.now } else { self.trouble_until };
                    let between =
                        (host.clock.world(sent.between.0), host.clock.world(sent.between.1));
                    if let Err(what) = self.oracle.on_load(trouble, between, &sent) {
                        self.fail(what);
                    }
                }
                Effect::Prepared { preparation } => {
                    let Some(host) = self.hosts.get(&node) else { continue };
                    if let Err(what) = self.oracle.on_prepared(host, &preparation) {
                        self.fail(what);
                    }
                }
                Effect::Drained => self.retire(node),
                Effect::Broken(what) => self.fail(what),
            }
        }
        if is_undecided {
            self.check_decided(node);
        }
    }

    fn check_decided(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node) else { return };
        if let Err(what) = self.oracle.on_decided(self.now, host, &self.hosts) {
            self.fail(what);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>, is_command: bool) {
        let Some(host) = self.hosts.get(&from) else { return };
        let Some(&connection) = host.open.get(&to) else { return };
        let sender_life = host.life;
        let Some(now_lives) = self.hosts.get(&to).map(|host| host.life) else { return };
        let opened = self.network.lives.get(&(connection, to));
        let receiver_life = opened.copied().unwrap_or(now_lives);
        let now = self.now;
        let Some(arrival) = self.network.arrival(&mut self.random, now, from, to) else { return };
        let is_straggler = false;
        let frame = Frame { from, to, connection, sender_life, receiver_life, bytes, is_straggler };
        let faults = &self.scenario.faults;
        let kinds = f64::from(u8::from(faults.stragglers) + u8::from(faults.copies));
        // Late commands are what fences are for.
        let chance = kinds * if is_command { 0.2 } else { 0.04 };
        if !self.is_calm && self.random.chance(chance) {
            let longest = if is_command { 20_000 } else { 5_000 };
            let late = Duration::from_millis(self.random.below(longest));
            let copy = Frame { is_straggler: true, ..frame.clone() };
            self.schedule(arrival - now + late, Event::Arrive(copy));
        }
        self.schedule(arrival - now, Event::Arrive(frame));
    }

    fn step_client(&mut self) {
        self.schedule(CLIENT_STEP, Event::ClientStep);
        let retention = self.scenario.retention;
        let is_lossy = self.network.loss > 0.0;
        let all = if is_lossy { self.now } else { self.trouble_until };
        let head = if is_lossy { self.now } else { self.head_trouble_until };
        let trouble = Trouble { all, head };
        if let Err(what) = self.oracle.on_time(self.now, trouble, retention, &self.hosts) {
            self.fail(what);
        }
        if self.queue.len() > EVENTS_MAX {
            self.fail("INV-8: more and more messages are on their way".to_owned());
        }
        self.replace_lost();
        let (requests, abandoned) = self.client.tick(self.now);
        for Asked { gate, id, request } in requests {
            self.ask_gate(gate, Stimulus::Request { id, request });
        }
        for (gate, id) in abandoned {
            self.ask_gate(gate, Stimulus::Abandoned { id });
        }
    }

    pub(crate) fn ask_gate(&mut self, gate: usize, stimulus: Stimulus) {
        let delay = Duration::from_micros(200 + self.random.below(20_000));
        let Some(&gate) = self.gates.get(gate) else { return };
        if let Some(life) = self.hosts.get(&gate).filter(|host| host.is_up()).map(|h| h.life) {
            if let Stimulus::Request { request: Request::Submit { .. }, .. } = &stimulus {
                self.note(|| "the client submits".to_owned());
            }
            self.schedule(delay, Event::AtGate { gate, life, stimulus });
        }
    }

    fn reply(&mut self, gate: NodeId, id: RequestId, reply: Reply) {
        let Some(host) = self.hosts.get(&gate) else { return };
        if let Err(what) = self.oracle.on_reply(host, &reply) {
            self.fail(what);
        }
        let delay = Duration::from_micros(200 + self.random.below(20_000));
        self.schedule(delay, Event::AtClient { id, reply: Box::new(reply) });
    }

    fn tell_client(&mut self, id: RequestId, reply: &Reply) {
        let learned = self.client.on_reply(self.now, id, reply);
        if !matches!(learned, Learned::Nothing) {
            format!("{learned:?}").hash(&mut self.trace);
            self.note(|| format!("the client learns {learned:?}"));
        }
        if let Err(what) = self.oracle.on_learned(&learned) {
            self.fail(what);
        }
    }

    /// What must be true once nothing is left to do.
    fn check_rest(&mut self) {
        let checked = self.oracle.check_rest(&self.hosts);
        // Whoever leads next finds all workers alive, and what they run goes on.
        let are_many = self.scenario.datacenters.iter().all(|at| at.managers > 1);
        let has_successor = are_many && self.scenario.faults.pause == 0;
        let checked = match checked {
            Ok(()) if has_successor => self.oracle.check_nothing_lost(),
            checked => checked,
        };
        if let Err(what) = checked {
            self.fail(what);
        }
    }
}

/// Whether the engine was told anything about an attempt.
fn commands(effects: &[Effect], of: AttemptId) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Prepared { preparation } => preparation.assignment.attempt == of,
        Effect::Commanded { attempt } => *attempt == of,
        _ => false,
    })
}

/// What a gate's command may change of a part.
fn authority(host: &Host, message: &Message) -> Option<String> {
    let Some(Node::Manager { manager, .. }) = &host.node else { return None };
    let part: PartId = match message {
        Message::OfferPart(offer) => offer.part,
        Message::StartPart { part, .. }
        | Message::StopPart { part, .. }
        | Message::StopWorkflow { part, .. }
        | Message::SettleWorkflow { part, .. }
        | Message::SteerPart { part, .. } => *part,
        _ => return None,
    };
    let part = manager.state().parts.get(&part)?;
    let stopped: Vec<_> = part.workflows.iter().map(|workflow| &workflow.stopped_by).collect();
    let settled: Vec<_> = part.workflows.iter().map(|workflow| &workflow.settled).collect();
    let steered = part.steering.version;
    Some(format!(
        "{:?} {:?} {:?} {steered} {stopped:?} {settled:?}",
        part.fence, part.started, part.stop
    ))
}
