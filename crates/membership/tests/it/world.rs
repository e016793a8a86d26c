//! Members, a network between them and their disks, all from one seed.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_membership::{
    Config, DATAGRAM_BYTES_MAX, Event, Input, MemberState, Membership, Output, PAYLOAD_BYTES_MAX,
};
use hyperscale_model::{Incarnation, NodeId, SplitMix, Time};

/// What sealing adds.
const SEAL_BYTES: usize = DATAGRAM_BYTES_MAX - PAYLOAD_BYTES_MAX;
/// Datagrams that a socket holds for a process that stands still.
const SOCKET_MAX: usize = 256;

/// How the network treats datagrams.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) loss: f64,
    pub(crate) delay_ms: (u64, u64),
    /// How many of 1 take this much longer.
    pub(crate) spikes: f64,
    pub(crate) spike: Duration,
    /// From, to: nothing passes.
    pub(crate) cuts: BTreeSet<(u64, u64)>,
}

impl Network {
    pub(crate) fn calm() -> Self {
        Self {
            loss: 0.0,
            delay_ms: (1, 5),
            spikes: 0.0,
            spike: Duration::ZERO,
            cuts: BTreeSet::new(),
        }
    }

    /// 5 % loss, 50–200 ms, now and then 500 ms more.
    pub(crate) fn rough() -> Self {
        Self {
            loss: 0.05,
            delay_ms: (50, 200),
            spikes: 0.01,
            spike: Duration::from_millis(500),
            ..Self::calm()
        }
    }
}

/// What an observer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Time,
    pub(crate) observer: u64,
    /// How often the observer had started.
    pub(crate) life: u64,
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
    pub(crate) state: MemberState,
}

#[derive(Debug)]
enum Happening {
    Tick(u64),
    Arrival { from: u64, to: u64, bytes: Vec<u8> },
    Wake(u64),
}

#[derive(Debug)]
struct Host {
    membership: Option<Membership>,
    started: Time,
    lives: u64,
    stored: Incarnation,
    seeds: Vec<u64>,
    stands_still_until: Time,
    socket: Vec<(u64, Vec<u8>)>,
    drops_until: Time,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) network: Network,
    pub(crate) changes: Vec<Change>,
    pub(crate) events: Vec<(Time, u64, Event)>,
    pub(crate) datagrams: u64,
    /// Those of them that carry no gossip of their own: pings, answers, requests.
    probes: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    /// The next datagrams from, to are lost.
    pub(crate) lose_next: BTreeMap<(u64, u64), u32>,
    /// Every member's settings.
    pub(crate) tune: fn(&mut Config),
    pub(crate) trace: u64,
    hosts: BTreeMap<u64, Host>,
    happenings: BTreeMap<(Time, u64), Happening>,
    happened: u64,
    random: SplitMix,
}

pub(crate) fn address(node: u64) -> SocketAddr {
    let [high, low] = u16::try_from(node).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7_400))
}

/// The second byte is the kind; 7 is gossip.
fn is_probe(bytes: &[u8]) -> bool {
    bytes.get(1).is_some_and(|&kind| kind != 7)
}

fn node_at(address: SocketAddr) -> u64 {
    match address {
        SocketAddr::V4(v4) => {
            let [_, _, high, low] = v4.ip().octets();
            u64::from(u16::from_be_bytes([high, low]))
        }
        SocketAddr::V6(_) => panic!("the world has no IPv6"),
    }
}

impl World {
    pub(crate) fn new(seed: u64, network: Network) -> Self {
        Self {
            now: Time::ZERO,
            network,
            changes: Vec::new(),
            events: Vec::new(),
            datagrams: 0,
            probes: 0,
            bytes: 0,
            dropped: 0,
            lose_next: BTreeMap::new(),
            tune: |_| {},
            trace: 0xcbf2_9ce4_8422_2325,
            hosts: BTreeMap::new(),
            happenings: BTreeMap::new(),
            happened: 0,
            random: SplitMix::new(seed),
        }
    }

    /// A cluster of `count` nodes that has formed; the first three are everybody's seeds.
    pub(crate) fn formed(seed: u64, network: Network, count: u64) -> Self {
        let mut world = Self::new(seed, Network { cuts: BTreeSet::new(), ..Network::calm() });
        for node in 1..=count {
            world.start(node, &[1, 2, 3]);
        }
        let limit = Duration::from_secs(120);
        let formed = world.run_until(limit, World::is_formed);
        assert!(formed.is_some(), "{count} nodes have not formed in {limit:?} (seed {seed})");
        world.network = network;
        world.run_for(Duration::from_secs(5));
        world.changes.clear();
        world.events.clear();
        world
    }

    pub(crate) fn start(&mut self, node: u64, seeds: &[u64]) {
        let (now, seed) = (self.now, self.random.next_u64());
        let host = self.hosts.entry(node).or_insert_with(|| Host {
            membership: None,
            started: now,
            lives: 0,
            stored: Incarnation::NONE,
            seeds: Vec::new(),
            stands_still_until: Time::ZERO,
            socket: Vec::new(),
            drops_until: Time::ZERO,
        });
        assert!(host.membership.is_none(), "node {node} runs already");
        host.lives += 1;
        host.seeds = seeds.to_vec();
        // Each life has a clock of its own.
        host.started = now;
        let mut config = Config::new(NodeId(node), address(node), host.stored);
        (self.tune)(&mut config);
        host.membership = Some(Membership::new(config, Time::ZERO, seed));
        let peers = seeds.iter().map(|&seed| address(seed)).collect();
        self.input(node, Input::Peers(peers));
    }

    pub(crate) fn crash(&mut self, node: u64) {
        let host = self.hosts.get_mut(&node).unwrap();
        host.membership = None;
        host.socket.clear();
        host.stands_still_until = Time::ZERO;
    }

    pub(crate) fn restart(&mut self, node: u64) {
        let seeds = self.hosts[&node].seeds.clone();
        self.start(node, &seeds);
    }

    /// The process stands still; its socket does not.
    pub(crate) fn pause(&mut self, node: u64, length: Duration) {
        let until = self.now + length;
        self.hosts.get_mut(&node).unwrap().stands_still_until = until;
        self.schedule(until, Happening::Wake(node));
    }

    /// Nothing reaches or leaves the node.
    pub(crate) fn drop_all(&mut self, node: u64, length: Duration) {
        let until = self.now + length;
        self.hosts.get_mut(&node).unwrap().drops_until = until;
    }

    pub(crate) fn input(&mut self, node: u64, input: Input) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(membership) = &mut host.membership else { return };
        let local = Time::ZERO + now.since(host.started);
        membership.handle(local, input);
        let outputs: Vec<Output> = membership.drain().collect();
        if let Some(due) = membership.next_deadline() {
            let at = host.started + due.since(Time::ZERO);
            self.schedule(at, Happening::Tick(node));
        }
        for output in outputs {
            self.output(node, output);
        }
    }

    fn output(&mut self, node: u64, output: Output) {
        match output {
            Output::StoreIncarnation(incarnation) => {
                let host = self.hosts.get_mut(&node).unwrap();
                assert!(incarnation > host.stored, "{incarnation} after {}", host.stored);
                host.stored = incarnation;
            }
            Output::Datagram { to, bytes } => self.transmit(node, node_at(to), bytes),
            Output::Member { node: NodeId(subject), incarnation, state } => {
                self.mix(&[node, subject, incarnation.0, state as u64]);
                self.changes.push(Change {
                    at: self.now,
                    observer: node,
                    life: self.hosts[&node].lives,
                    node: subject,
                    incarnation: incarnation.0,
                    state,
                });
            }
            Output::Event(event) => self.events.push((self.now, node, event)),
            Output::Metadata { .. } | Output::Forgotten { .. } => {}
        }
    }

    fn transmit(&mut self, from: u64, to: u64, bytes: Vec<u8>) {
        assert!(bytes.len() <= PAYLOAD_BYTES_MAX, "a datagram of {} bytes", bytes.len());
        self.datagrams += 1;
        self.probes += u64::from(is_probe(&bytes));
        self.bytes += (bytes.len() + SEAL_BYTES) as u64;
        self.mix(&[from, to, bytes.len() as u64]);
        let (low, high) = self.network.delay_ms;
        let delay_us = low * 1_000 + self.random.below((high - low) * 1_000 + 1);
        let mut delay = Duration::from_micros(delay_us);
        if self.random.chance(self.network.spikes) {
            delay += self.network.spike;
        }
        let is_lost = self.random.chance(self.network.loss)
            || self.network.cuts.contains(&(from, to))
            || [from, to]
                .iter()
                .any(|node| self.hosts.get(node).is_some_and(|host| host.drops_until > self.now));
        let is_chosen = self.lose_next.get_mut(&(from, to)).is_some_and(|left| {
            let chosen = *left > 0;
            *left -= u32::from(chosen);
            chosen
        });
        if is_lost || is_chosen {
            self.dropped += 1;
            return;
        }
        self.schedule(self.now + delay, Happening::Arrival { from, to, bytes });
    }

    fn mix(&mut self, words: &[u64]) {
        for &word in words.iter().chain(&[self.now.as_nanos()]) {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    fn schedule(&mut self, at: Time, happening: Happening) {
        self.happened += 1;
        self.happenings.insert((at.max(self.now), self.happened), happening);
    }

    /// Does the next thing, if it happens before `end`.
    fn step(&mut self, end: Time) -> bool {
        match self.happenings.first_key_value() {
            Some((&(at, _), _)) if at <= end => {}
            _ => {
                self.now = end;
                return false;
            }
        }
        let ((at, _), happening) = self.happenings.pop_first().unwrap();
        self.now = at;
        match happening {
            Happening::Tick(node) => {
                let Some(host) = self.hosts.get(&node) else { return true };
                if host.stands_still_until > at {
                    return true; // It wakes later.
                }
                let local = Time::ZERO + at.since(host.started);
                let due = host.membership.as_ref().and_then(Membership::next_deadline);
                if due.is_some_and(|due| due <= local) {
                    self.input(node, Input::Tick);
                }
            }
            Happening::Arrival { from, to, bytes } => {
                let Some(host) = self.hosts.get_mut(&to) else { return true };
                if host.stands_still_until > at {
                    if host.socket.len() < SOCKET_MAX {
                        host.socket.push((from, bytes));
                    }
                    return true;
                }
                self.input(to, Input::Datagram { from: NodeId(from), bytes });
            }
            Happening::Wake(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return true };
                if host.stands_still_until > at {
                    return true;
                }
                let waiting = std::mem::take(&mut host.socket);
                // The worst order: timers first.
                self.input(node, Input::Tick);
                for (from, bytes) in waiting {
                    self.input(node, Input::Datagram { from: NodeId(from), bytes });
                }
            }
        }
        true
    }

    pub(crate) fn run_for(&mut self, length: Duration) {
        let end = self.now + length;
        while self.step(end) {}
    }

    /// How long it took, if it came to be.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        is_so: impl Fn(&World) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        while self.now.since(begin) < limit {
            self.run_for(Duration::from_millis(100));
            if is_so(self) {
                return Some(self.now.since(begin));
            }
        }
        None
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (u64, &Membership)> {
        self.hosts.iter().filter_map(|(&node, host)| Some((node, host.membership.as_ref()?)))
    }

    pub(crate) fn membership(&self, node: u64) -> &Membership {
        self.hosts[&node].membership.as_ref().unwrap()
    }

    pub(crate) fn stored(&self, node: u64) -> u64 {
        self.hosts[&node].stored.0
    }

    pub(crate) fn state(&self, observer: u64, node: u64) -> Option<MemberState> {
        self.membership(observer).member(NodeId(node)).map(|member| member.state)
    }

    /// Every running node sees every other alive.
    pub(crate) fn is_formed(&self) -> bool {
        let running: BTreeSet<u64> = self.running().map(|(node, _)| node).collect();
        self.running().all(|(node, membership)| {
            let alive = membership.members().filter(|member| member.state == MemberState::Alive);
            let mut alive: BTreeSet<u64> = alive.map(|member| member.node.0).collect();
            alive.insert(node);
            alive == running
        })
    }

    /// How many observers were told this of a node.
    pub(crate) fn told(&self, node: u64, state: MemberState) -> usize {
        let told = |change: &&Change| change.node == node && change.state == state;
        self.changes.iter().filter(told).count()
    }

    pub(crate) fn probes(&self) -> u64 {
        self.probes
    }

    pub(crate) fn random(&mut self) -> &mut SplitMix {
        &mut self.random
    }

    /// What must hold in each world: told once, no step left out, never backward in one life.
    #[track_caller]
    pub(crate) fn assert_orderly(&self) {
        let mut last: BTreeMap<(u64, u64, u64), (u64, MemberState)> = BTreeMap::new();
        for change in &self.changes {
            let Change { at, observer, life, node, incarnation, state } = *change;
            if let Some((before, was)) = last.insert((observer, life, node), (incarnation, state)) {
                assert!(incarnation >= before, "{at}: {observer} fell back with {change:?}");
                if incarnation == before {
                    assert!(was < state, "{at}: {observer} was told {state:?} after {was:?}");
                    let is_death = state == MemberState::Dead;
                    assert!(
                        !is_death || was == MemberState::Suspect,
                        "{at}: {observer} saw {node} go from {was:?} to Dead"
                    );
                    let is_accused = matches!(state, MemberState::Suspect | MemberState::Dead);
                    assert!(
                        !is_accused || was != MemberState::Unconfirmed,
                        "{at}: {observer} accused {node}, which it never heard"
                    );
                } else {
                    let is_fresh = matches!(state, MemberState::Alive | MemberState::Unconfirmed);
                    assert!(is_fresh, "{at}: {observer} was told {state:?} of a new life first");
                }
            }
        }
    }
}
