//! The state machine: probes, suspicions, deaths, refutations.
//!
//! Every change of a member's state passes `settle`, which is also the only place that tells it.
//! Alarms say when to look again; what is due stands in the state, so an alarm that has been
//! overtaken does nothing.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use hyperscale_model::{Incarnation, NodeId, SplitMix, Time, Version};

use crate::broadcasts::Broadcasts;
use crate::config::Config;
use crate::datagram::{Belief, Datagram, Identity, Kind, Record, Writer};
use crate::health::Health;
use crate::limit::Limit;
use crate::metadata::{Metadata, Versioned};
use crate::suspicion::{Bounds, Suspicion};

/// Nodes that are known at once.
const MEMBERS_MAX: usize = 4_096;
/// Peers that can be configured.
const PEERS_MAX: usize = 64;
/// Probes that run at once: the one whose turn it is, and those of closed links.
const PROBES_MAX: usize = 16;
/// Probes that are made for others at once.
const RELAYS_MAX: usize = 64;
/// A higher jump of an incarnation is no node's own: at the highest rate of refutations it would
/// take three weeks.
const JUMP_MAX: u64 = 1 << 20;
const REFUTATIONS_MAX: usize = 5;
const REFUTATIONS_IN: Duration = Duration::from_secs(10);
const MOVES_MAX: usize = 5;
const MOVES_IN: Duration = Duration::from_secs(300);
/// Records that go with each probe and answer, so that views which missed something are mended.
const SAMPLE: usize = 4;
/// Datagrams of records that answer a node which joins; it learns of further nodes by samples.
const WELCOME_MAX: usize = 4;
/// Unconfirmed and dead peers that are contacted in one period of gossip.
const CONTACTS_MAX: u32 = 5;
/// Between contacts to one peer, doubling from the first to the last.
const CONTACT_FIRST: Duration = Duration::from_secs(1);
const CONTACT_LAST: Duration = Duration::from_secs(5);
/// Between contacts to a peer that was warned about, or is dead: it may be cut off and return.
const CONTACT_RARELY: Duration = Duration::from_secs(30);
/// How many members hear at once from a node that had heard nobody.
const REUNION: usize = 16;
/// For how many rounds of gossip news is passed on, at least.
const GOSSIP_ROUNDS: u32 = 10;
/// Between answers to one node that speaks with an old incarnation.
const END_TOLD: Duration = Duration::from_secs(1);
/// A tick this late means that this node stood still: what it missed is not held against others.
const LATE: Duration = Duration::from_millis(200);

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Where peers are, configured or resolved: all of them, each time.
    Peers(BTreeSet<SocketAddr>),
    /// A datagram arrived and was opened.
    Datagram {
        /// Who sealed it.
        from: NodeId,
        /// What was sealed.
        bytes: Vec<u8>,
    },
    /// A node said something over a link, which is a sign of life like a datagram of its own.
    Heard {
        /// Which.
        node: NodeId,
        /// The life that its link is of.
        incarnation: Incarnation,
    },
    /// The link to a node closed: reason to look at once, and no proof.
    LinkClosed {
        /// Which.
        node: NodeId,
    },
    /// A link or a registration brought a node's metadata.
    Metadata {
        /// Whose.
        node: NodeId,
        /// What.
        said: Versioned,
    },
    /// This node has something new to say about itself.
    SetMetadata(Metadata),
    /// This node is leaving. [`Event::LeaveTold`] says when it may go.
    Leave,
    /// The deadline has come.
    Tick,
}

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Known, and not heard from.
    Unconfirmed,
    /// Heard from, and answering.
    Alive,
    /// It did not answer, and has until the end of the suspicion to say that it lives.
    Suspect,
    /// It did not. This incarnation does not return.
    Dead,
    /// It said that it leaves.
    Left,
}

/// One member as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView {
    /// Which.
    pub node: NodeId,
    /// Its newest known incarnation.
    pub incarnation: Incarnation,
    /// Where it listens for datagrams.
    pub address: SocketAddr,
    /// How it stands.
    pub state: MemberState,
}

/// What a member wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Write this node's incarnation to disk before doing anything that follows.
    StoreIncarnation(Incarnation),
    /// Seal and send; may be lost.
    Datagram {
        /// Where.
        to: SocketAddr,
        /// What, of at most [`PAYLOAD_BYTES_MAX`](crate::PAYLOAD_BYTES_MAX) bytes.
        bytes: Vec<u8>,
    },
    /// A member stands differently. Told once for each node, incarnation and state.
    Member {
        /// Which.
        node: NodeId,
        /// Which life of it.
        incarnation: Incarnation,
        /// How it stands.
        state: MemberState,
    },
    /// A node's metadata changed.
    Metadata {
        /// Whose.
        node: NodeId,
        /// To what.
        said: Versioned,
    },
    /// Drop whatever is kept by this node's id: it was reaped, or never answered. Should it return
    /// it is a new member.
    Forgotten {
        /// Which.
        node: NodeId,
    },
    /// For logs and counters.
    Event(Event),
}

/// What may interest people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer has not answered for as long as [`Config::warn_after`]. Told once for each.
    Silent {
        /// Where it should be.
        address: SocketAddr,
        /// Which, if others spoke of it.
        node: Option<NodeId>,
    },
    /// This node was taken for suspect or dead, and raised its incarnation.
    Refuted {
        /// To this.
        incarnation: Incarnation,
    },
    /// This node refutes too often, and waits.
    RefutationDelayed {
        /// Until then.
        until: Time,
    },
    /// What a node sent or what was said about it was refused.
    Refused {
        /// Which.
        node: NodeId,
        /// Why.
        reason: Refusal,
    },
    /// Configured peers were refused, the others taken.
    PeersRefused {
        /// How many.
        count: usize,
        /// Why.
        reason: Refusal,
    },
    /// This node stood still.
    Late {
        /// For how long.
        by: Duration,
    },
    /// The others have been told that this node leaves.
    LeaveTold,
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot be read, or names another sender than sealed it.
    Unreadable,
    /// Another node uses this node's id.
    OwnId,
    /// An incarnation that is dead or left.
    DeadIncarnation,
    /// An incarnation that a higher one has replaced.
    OldIncarnation,
    /// An incarnation that no node can have reached.
    Jump,
    /// An address outside the allowed ranges, or another one for the same life.
    Address,
    /// More than five changes of addresses in 300 s.
    TooManyMoves,
    /// More nodes or peers than are kept.
    TooMany,
}

/// How a member stands, with what belongs to that.
#[derive(Debug, Clone)]
enum Standing {
    Unconfirmed(Contact),
    Alive,
    Suspect(Suspicion),
    Gone(Gone),
}

/// Efforts to reach a peer.
#[derive(Debug, Clone, Copy)]
struct Contact {
    since: Time,
    next_at: Time,
    tries: u32,
    is_warned: bool,
    /// When a member last spoke of it as living.
    mentioned: Time,
}

#[derive(Debug, Clone, Copy)]
struct Gone {
    has_left: bool,
    /// False if it never was more than unconfirmed.
    is_told: bool,
    until: Time,
    contact_at: Time,
}

impl Standing {
    const fn state(&self) -> MemberState {
        match self {
            Self::Unconfirmed(_) => MemberState::Unconfirmed,
            Self::Alive => MemberState::Alive,
            Self::Suspect(_) => MemberState::Suspect,
            Self::Gone(Gone { has_left: false, .. }) => MemberState::Dead,
            Self::Gone(Gone { has_left: true, .. }) => MemberState::Left,
        }
    }
}

#[derive(Debug, Clone)]
struct Member {
    incarnation: Incarnation,
    address: SocketAddr,
    standing: Standing,
    /// This node's metadata that it has, as it said.
    held_of_us: Option<(Incarnation, Version)>,
    /// The highest incarnation that is dead or has left.
    ended: Incarnation,
    moves: Limit,
    /// Before then it is not told again that it speaks with an old incarnation.
    end_told_until: Time,
}

/// A configured address.
#[derive(Debug, Clone, Copy)]
struct Peer {
    contact: Contact,
    /// Who answered from there.
    node: Option<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    target: NodeId,
    incarnation: Incarnation,
    reason: Reason,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Turn,
    LinkClosed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Direct,
    Indirect,
}

/// A probe for another.
#[derive(Debug, Clone, Copy)]
struct Relay {
    asker: Identity,
    number: u64,
    target: NodeId,
    until: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    ProbePeriod,
    ProbeStage(u64),
    SuspicionEnds(NodeId),
    Gossip,
    Refute,
    ContactPeer(SocketAddr),
    ContactMember(NodeId),
    WarnPeer(SocketAddr),
    WarnMember(NodeId),
    Reap(NodeId),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Leaving,
    Away,
}

/// One node's view of its cluster.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    random: SplitMix,
    incarnation: Incarnation,
    presence: Presence,
    health: Health,
    /// When a member was last heard.
    heard_at: Time,
    members: BTreeMap<NodeId, Member>,
    /// The members that are alive or suspect, so that choosing among them costs no search.
    live: Vec<NodeId>,
    peers: BTreeMap<SocketAddr, Peer>,
    peer_changes: Limit,
    metadata: BTreeMap<NodeId, Versioned>,
    probes: BTreeMap<u64, Probe>,
    relays: BTreeMap<u64, Relay>,
    next_number: u64,
    /// Whose turn to be probed comes, last first.
    turns: Vec<NodeId>,
    news: Broadcasts<(NodeId, NodeId), Record>,
    metadata_news: Broadcasts<NodeId, ()>,
    gossip_at: Option<Time>,
    /// The start of the current period of contacts, and how many were made in it.
    contacts: (Time, u32),
    sampled: NodeId,
    refutations: Limit,
    refute_above: Incarnation,
    alarms: BTreeSet<(Time, Alarm)>,
    outputs: VecDeque<Output>,
}

impl Membership {
    /// A member that knows nobody, in a new incarnation: the first output stores it.
    #[must_use]
    pub fn new(config: Config, now: Time, seed: u64) -> Self {
        let mut random = SplitMix::new(seed);
        let incarnation = config.stored_incarnation.next();
        let first_probe = now + config.probe_period.mul_f64(random.unit());
        Self {
            incarnation,
            presence: Presence::Here,
            health: Health::default(),
            heard_at: now,
            members: BTreeMap::new(),
            live: Vec::new(),
            peers: BTreeMap::new(),
            peer_changes: Limit::default(),
            metadata: BTreeMap::new(),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
            // Answers to an earlier life must not fit.
            next_number: random.next_u64() >> 1,
            turns: Vec::new(),
            news: Broadcasts::new(),
            metadata_news: Broadcasts::new(),
            gossip_at: None,
            contacts: (now, 0),
            sampled: NodeId(0),
            refutations: Limit::default(),
            refute_above: Incarnation::NONE,
            alarms: [(first_probe, Alarm::ProbePeriod)].into(),
            outputs: [Output::StoreIncarnation(incarnation)].into(),
            config,
            random,
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.presence == Presence::Away {
            return;
        }
        self.note_lateness(now);
        match input {
            Input::Peers(addresses) => self.on_peers(now, addresses),
            Input::Datagram { from, bytes } => self.on_datagram(now, from, &bytes),
            Input::Heard { node, incarnation } => self.on_heard(now, node, incarnation),
            Input::LinkClosed { node } => self.probe(now, node, Reason::LinkClosed),
            Input::Metadata { node, said } => self.apply_metadata(now, node, said),
            Input::SetMetadata(metadata) => self.on_set_metadata(metadata),
            Input::Leave => self.on_leave(now),
            Input::Tick => self.on_tick(now),
        }
        self.plan_gossip(now);
    }

    /// When [`Input::Tick`] is due; `None` once this node has left.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.alarms.first().map(|&(at, _)| at)
    }

    /// What is to be done, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> + use<> {
        std::mem::take(&mut self.outputs).into_iter()
    }

    /// This node's incarnation.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// All nodes that are remembered, without this one.
    pub fn members(&self) -> impl Iterator<Item = MemberView> {
        self.members.iter().map(|(&node, member)| MemberView {
            node,
            incarnation: member.incarnation,
            address: member.address,
            state: member.standing.state(),
        })
    }

    /// One of them.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<MemberView> {
        self.members.get(&node).map(|member| MemberView {
            node,
            incarnation: member.incarnation,
            address: member.address,
            state: member.standing.state(),
        })
    }

    /// The newest metadata of a node, this one included.
    #[must_use]
    pub fn metadata(&self, node: NodeId) -> Option<&Versioned> {
        self.metadata.get(&node)
    }

    /// Whether what a life of a node says on a link may be listened to: not if it is dead. A link
    /// says the incarnation with which it began; since then the node may have refuted.
    #[must_use]
    pub fn admits(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.members.get(&node).is_none_or(|member| incarnation > member.ended)
    }

    fn on_peers(&mut self, now: Time, addresses: BTreeSet<SocketAddr>) {
        let mut wanted = addresses;
        wanted.remove(&self.config.address);
        let told = wanted.len();
        wanted.retain(|&address| self.config.allows(address));
        if wanted.len() < told {
            self.refuse_peers(told - wanted.len(), Refusal::Address);
        }
        if wanted.len() > PEERS_MAX {
            self.refuse_peers(wanted.len() - PEERS_MAX, Refusal::TooMany);
            wanted = wanted.into_iter().take(PEERS_MAX).collect();
        }
        if self.peers.keys().eq(wanted.iter()) {
            return;
        }
        let is_change = !self.peers.is_empty();
        if is_change && self.peer_changes.take(now, MOVES_MAX, MOVES_IN).is_err() {
            self.refuse_peers(wanted.len(), Refusal::TooManyMoves);
            return;
        }
        self.peers.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if !self.peers.contains_key(&address) {
                let contact = self.new_contact(now);
                self.peers.insert(address, Peer { contact, node: None });
                self.alarms.insert((contact.next_at, Alarm::ContactPeer(address)));
                self.alarms.insert((now + self.config.warn_after, Alarm::WarnPeer(address)));
            }
        }
    }

    fn on_datagram(&mut self, now: Time, from: NodeId, bytes: &[u8]) {
        let datagram = match Datagram::decode(bytes) {
            Ok(datagram) if datagram.sender.node == from => datagram,
            Ok(_) | Err(_) => return self.refuse(from, Refusal::Unreadable),
        };
        let sender = datagram.sender;
        if sender.node == self.config.node {
            self.on_own_datagram(&datagram);
            return;
        }
        if let Err(reason) = self.admit(now, sender) {
            self.refuse(sender.node, reason);
            self.tell_its_end(now, sender);
            // After a cut each side is dead to the other, so what is said of this node must be heard
            // even from the dead, else neither would ever raise its incarnation.
            let of_us = |record: &&Record| {
                record.subject.node == self.config.node && record.belief == Belief::Dead
            };
            if let Some(record) = datagram.records.iter().find(of_us).copied() {
                self.on_said_of_us(now, &record);
            }
            return;
        }
        self.note_silence(now);
        if let Some(member) = self.members.get_mut(&sender.node) {
            member.held_of_us = datagram.held;
        }
        for record in &datagram.records {
            self.apply_record(now, record);
        }
        for (node, said) in datagram.metadata {
            self.apply_metadata(now, node, said);
        }
        match datagram.kind {
            Kind::Join { to } => self.welcome(sender, to),
            Kind::Welcome { to } => {
                if let Some(peer) = self.peers.get_mut(&to) {
                    peer.node = Some(sender.node);
                }
            }
            Kind::Ping { number } => self.send_to(sender, Kind::Ack { number }),
            Kind::Ack { number } => self.on_ack(sender.node, number),
            Kind::PingRequest { number, target } => {
                self.on_ping_request(now, sender, number, target);
            }
            Kind::Vouch { number } => drop(self.probes.remove(&number)),
            Kind::Gossip => {}
        }
    }

    /// A configured address is this node's own, or another node has its id.
    fn on_own_datagram(&mut self, datagram: &Datagram) {
        match datagram.kind {
            Kind::Join { to } if datagram.sender.address == self.config.address => {
                self.peers.remove(&to);
            }
            _ => self.refuse(datagram.sender.node, Refusal::OwnId),
        }
    }

    /// Decides whether a sender is listened to. If so, it is heard from: alive, unless it is suspect
    /// and has not heard of that.
    fn admit(&mut self, now: Time, sender: Identity) -> Result<(), Refusal> {
        if !self.config.allows(sender.address) {
            return Err(Refusal::Address);
        }
        let Some(member) = self.members.get(&sender.node) else {
            if self.members.len() >= MEMBERS_MAX {
                return Err(Refusal::TooMany);
            }
            self.settle(now, sender, Standing::Alive);
            return Ok(());
        };
        if sender.incarnation > member.incarnation {
            self.check_raise(now, sender)?;
            self.settle(now, sender, Standing::Alive);
            return Ok(());
        }
        let is_same = sender.incarnation == member.incarnation;
        match member.standing {
            Standing::Gone(_) => Err(Refusal::DeadIncarnation),
            _ if !is_same => Err(Refusal::OldIncarnation),
            Standing::Unconfirmed(_) => {
                self.settle(now, sender, Standing::Alive);
                Ok(())
            }
            // Two processes share an id and an incarnation, say by a copied data directory.
            _ if sender.address != member.address => Err(Refusal::Address),
            Standing::Alive | Standing::Suspect(_) => Ok(()),
        }
    }

    /// Whether a node may have reached this higher incarnation, and its address.
    fn check_raise(&mut self, now: Time, subject: Identity) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(&subject.node) else { return Ok(()) };
        if subject.incarnation.0.saturating_sub(member.incarnation.0) > JUMP_MAX {
            return Err(Refusal::Jump);
        }
        if subject.address != member.address {
            let moved = member.moves.take(now, MOVES_MAX, MOVES_IN);
            moved.map_err(|_until| Refusal::TooManyMoves)?;
        }
        Ok(())
    }

    /// A node that speaks with a dead or replaced incarnation may not know it, so that it can raise
    /// it.
    fn tell_its_end(&mut self, now: Time, sender: Identity) {
        let Some(member) = self.members.get_mut(&sender.node) else { return };
        let belief = match member.standing.state() {
            MemberState::Left => return,
            MemberState::Dead => Belief::Dead,
            MemberState::Unconfirmed | MemberState::Alive | MemberState::Suspect => Belief::Alive,
        };
        let is_old = sender.incarnation < member.incarnation || belief == Belief::Dead;
        if is_old && member.end_told_until <= now && self.config.allows(sender.address) {
            member.end_told_until = now + END_TOLD;
            let subject = Identity { incarnation: member.incarnation, ..sender };
            let mut writer = Writer::new(Kind::Gossip, self.identity(), None);
            writer.record(&Record { subject, belief });
            self.outputs.push_back(Output::Datagram { to: sender.address, bytes: writer.finish() });
        }
    }

    fn on_heard(&mut self, now: Time, node: NodeId, incarnation: Incarnation) {
        // Who is not known has no address yet; its datagrams will bring it.
        let Some(member) = self.members.get(&node) else { return };
        if incarnation <= member.ended {
            return self.refuse(node, Refusal::DeadIncarnation);
        }
        // It may have refuted since the link began.
        let incarnation = incarnation.max(member.incarnation);
        let sender = Identity { node, incarnation, address: member.address };
        if let Err(reason) = self.admit(now, sender) {
            self.refuse(node, reason);
        }
    }

    fn on_ack(&mut self, from: NodeId, number: u64) {
        if self.probes.get(&number).is_some_and(|probe| probe.target == from) {
            if let Some(Probe { stage: Stage::Direct, .. }) = self.probes.remove(&number) {
                self.health.better();
            }
        } else if self.relays.get(&number).is_some_and(|relay| relay.target == from)
            && let Some(relay) = self.relays.remove(&number)
        {
            self.send_to(relay.asker, Kind::Vouch { number: relay.number });
        }
    }

    fn on_ping_request(&mut self, now: Time, asker: Identity, number: u64, target: NodeId) {
        let Some(address) = self.live_address(target) else { return };
        if self.relays.len() >= RELAYS_MAX {
            return; // As if the request had been lost.
        }
        let until = now + self.config.probe_period * 3;
        let ours = self.take_number();
        self.relays.insert(ours, Relay { asker, number, target, until });
        self.send(Kind::Ping { number: ours }, address, Some(target));
    }

    fn on_set_metadata(&mut self, metadata: Metadata) {
        let held = self.metadata.get(&self.config.node);
        let version = match held {
            Some(held) if held.incarnation == self.incarnation => held.version.next(),
            _ => Version(1),
        };
        let said = Versioned { incarnation: self.incarnation, version, metadata };
        self.metadata.insert(self.config.node, said);
        self.metadata_news.insert(self.config.node, ());
    }

    /// The one place that decides about a node's metadata, whichever path brought it.
    fn apply_metadata(&mut self, now: Time, node: NodeId, said: Versioned) {
        let is_own = node == self.config.node;
        let has_room = self.metadata.contains_key(&node) || self.metadata.len() < MEMBERS_MAX;
        let is_dead = !self.admits(node, said.incarnation);
        if is_own || is_dead || !has_room || !said.is_newer_than(self.metadata.get(&node)) {
            return;
        }
        if !self.members.contains_key(&node) {
            self.alarms.insert((now + self.config.reap_after, Alarm::Reap(node)));
        }
        self.metadata.insert(node, said.clone());
        self.metadata_news.insert(node, ());
        self.outputs.push_back(Output::Metadata { node, said });
    }

    fn on_leave(&mut self, now: Time) {
        if self.presence != Presence::Here {
            return;
        }
        self.presence = Presence::Leaving;
        let record = Record { subject: self.identity(), belief: Belief::Left };
        self.tell(&record);
        self.gossip(self.config.gossip_fanout);
        self.alarms.insert((now + self.config.leave_for, Alarm::Gone));
    }

    fn on_tick(&mut self, now: Time) {
        while let Some(&(due, alarm)) = self.alarms.first()
            && due <= now
        {
            self.alarms.pop_first();
            match alarm {
                Alarm::ProbePeriod => self.on_probe_period(now),
                Alarm::ProbeStage(number) => self.on_probe_stage(now, number),
                Alarm::SuspicionEnds(node) => self.on_suspicion_ends(now, node),
                Alarm::Gossip => {
                    self.gossip_at = None;
                    self.gossip(self.config.gossip_fanout);
                }
                Alarm::Refute => self.refute(now),
                Alarm::ContactPeer(address) => self.contact_peer(now, address),
                Alarm::ContactMember(node) => self.contact_member(now, node),
                Alarm::WarnPeer(address) => self.warn_of_peer(now, address),
                Alarm::WarnMember(node) => self.warn_of_member(now, node),
                Alarm::Reap(node) => self.reap(now, node),
                Alarm::Gone => {
                    self.presence = Presence::Away;
                    self.alarms.clear();
                    self.outputs.push_back(Output::Event(Event::LeaveTold));
                }
            }
        }
    }

    /// After standing still this node's own waits prove nothing: its probes are dropped, and
    /// suspects get the time back, since their answers may lie unread.
    fn note_lateness(&mut self, now: Time) {
        let late = self.next_deadline().map_or(Duration::ZERO, |due| now.since(due));
        if late < LATE {
            return;
        }
        self.health.worse(2);
        self.outputs.push_back(Output::Event(Event::Late { by: late }));
        let dropped = std::mem::take(&mut self.probes);
        self.postpone_suspicions(now, late);
        self.on_tick(now);
        for probe in dropped.into_values().filter(|probe| probe.reason == Reason::LinkClosed) {
            self.probe(now, probe.target, Reason::LinkClosed);
        }
    }

    /// While nothing at all was heard it was this node that was cut off, and refutations passed it by.
    fn note_silence(&mut self, now: Time) {
        if self.is_deaf(now) {
            self.health.worse(1);
            self.postpone_suspicions(now, now.since(self.heard_at));
            // What this node refuted meanwhile may have reached nobody, and waits are running out.
            if self.presence == Presence::Here {
                self.tell(&Record { subject: self.identity(), belief: Belief::Alive });
                self.gossip(REUNION);
            }
        }
        self.heard_at = now;
    }

    /// Each period brings an answer to this node's own probe, if anybody can be heard; one may be
    /// lost.
    fn is_deaf(&self, now: Time) -> bool {
        now.since(self.heard_at) > self.config.probe_period * 2
    }

    fn postpone_suspicions(&mut self, now: Time, lost: Duration) {
        let mut suspects = Vec::new();
        for node in &self.live {
            if let Some(member) = self.members.get_mut(node)
                && let Standing::Suspect(suspicion) = &mut member.standing
            {
                suspicion.postpone(now, lost);
                self.alarms.insert((suspicion.deadline(), Alarm::SuspicionEnds(*node)));
                suspects.extend(record_of(*node, member));
            }
        }
        // What was said of them meanwhile may have reached nobody.
        suspects.iter().for_each(|record| self.tell(record));
    }

    fn on_probe_period(&mut self, now: Time) {
        let period = self.health.stretch(self.config.probe_period);
        self.alarms.insert((now + period, Alarm::ProbePeriod));
        self.relays.retain(|_, relay| relay.until > now);
        if let Some(target) = self.next_turn() {
            self.probe(now, target, Reason::Turn);
        }
    }

    /// Each in turn, in an order that changes from round to round, so that nobody waits longer than
    /// two rounds.
    fn next_turn(&mut self) -> Option<NodeId> {
        for _ in 0..2 {
            while let Some(node) = self.turns.pop() {
                if self.live.binary_search(&node).is_ok() {
                    return Some(node);
                }
            }
            self.turns.clone_from(&self.live);
            for place in (1..self.turns.len()).rev() {
                self.turns.swap(place, below(&mut self.random, place + 1));
            }
        }
        None
    }

    fn probe(&mut self, now: Time, target: NodeId, reason: Reason) {
        let Some(address) = self.live_address(target) else { return };
        let Some(incarnation) = self.members.get(&target).map(|member| member.incarnation) else {
            return;
        };
        let runs = |probe: &Probe| (probe.target, probe.reason) == (target, reason);
        if self.probes.values().any(runs) {
            return;
        }
        if self.probes.len() >= PROBES_MAX {
            self.turns.push(target);
            return;
        }
        let number = self.take_number();
        let stage = Stage::Direct;
        self.probes.insert(number, Probe { target, incarnation, reason, stage });
        let timeout = self.health.stretch(self.config.probe_timeout);
        self.alarms.insert((now + timeout, Alarm::ProbeStage(number)));
        self.send(Kind::Ping { number }, address, Some(target));
    }

    fn on_probe_stage(&mut self, now: Time, number: u64) {
        let Some(probe) = self.probes.get_mut(&number) else { return };
        match probe.stage {
            Stage::Direct => {
                probe.stage = Stage::Indirect;
                let target = probe.target;
                // A detour has twice the way.
                let timeout = self.health.stretch(self.config.probe_timeout * 2);
                self.alarms.insert((now + timeout, Alarm::ProbeStage(number)));
                self.ask_others(number, target);
            }
            Stage::Indirect => {
                if let Some(probe) = self.probes.remove(&number) {
                    self.on_probe_failed(now, &probe);
                }
            }
        }
    }

    fn ask_others(&mut self, number: u64, target: NodeId) {
        // Among two or three nodes there is nobody to ask, so the direct way is tried again too.
        if let Some(address) = self.live_address(target) {
            self.send(Kind::Ping { number }, address, Some(target));
        }
        for helper in self.some_live(self.config.indirect_probes, Some(target)) {
            if let Some(address) = self.live_address(helper) {
                self.send(Kind::PingRequest { number, target }, address, Some(helper));
            }
        }
    }

    fn on_probe_failed(&mut self, now: Time, probe: &Probe) {
        let is_same_life = self
            .members
            .get(&probe.target)
            .is_some_and(|member| member.incarnation == probe.incarnation);
        if is_same_life {
            self.suspect(now, probe.target, self.config.node);
            let member = self.members.get_mut(&probe.target);
            if let (Reason::LinkClosed, Some(member)) = (probe.reason, member)
                && let Standing::Suspect(suspicion) = &mut member.standing
            {
                suspicion.close_link();
                let ends = suspicion.deadline().max(now);
                self.alarms.insert((ends, Alarm::SuspicionEnds(probe.target)));
            }
        }
        self.health.worse(1);
    }

    /// Somebody, perhaps this node, got no answer from a member in its present incarnation.
    fn suspect(&mut self, now: Time, node: NodeId, accuser: NodeId) {
        let bounds = self.bounds();
        let member_count = u32::try_from(self.live.len() + 1).unwrap_or(u32::MAX);
        let Some(member) = self.members.get_mut(&node) else { return };
        let (incarnation, address) = (member.incarnation, member.address);
        let subject = Identity { node, incarnation, address };
        match &mut member.standing {
            Standing::Alive => {
                let suspicion = Suspicion::new(now, bounds, member_count, accuser);
                self.settle(now, subject, Standing::Suspect(suspicion));
            }
            Standing::Suspect(suspicion) => {
                if suspicion.confirm(accuser) {
                    self.alarms.insert((suspicion.deadline().max(now), Alarm::SuspicionEnds(node)));
                    self.tell(&Record { subject, belief: Belief::Suspect { accuser } });
                }
            }
            Standing::Unconfirmed(_) | Standing::Gone(_) => {}
        }
    }

    fn on_suspicion_ends(&mut self, now: Time, node: NodeId) {
        let is_deaf = self.is_deaf(now);
        let Some(Member { standing: Standing::Suspect(suspicion), .. }) = self.members.get(&node)
        else {
            return;
        };
        let due = if is_deaf { suspicion.deadline_unheard() } else { suspicion.deadline() };
        if due > now {
            self.alarms.insert((due, Alarm::SuspicionEnds(node)));
        } else {
            self.end(now, node, false);
        }
    }

    /// A member is dead or has left, seen or heard of. The one place where that happens.
    fn end(&mut self, now: Time, node: NodeId, has_left: bool) {
        let Some(member) = self.members.get(&node) else { return };
        let (incarnation, address) = (member.incarnation, member.address);
        let subject = Identity { node, incarnation, address };
        let is_told = match member.standing {
            Standing::Gone(_) => return,
            Standing::Unconfirmed(_) => {
                self.outputs.push_back(Output::Forgotten { node });
                false
            }
            Standing::Alive if !has_left => {
                // The suspicion was missed here; whoever watches sees each step.
                let suspicion = Suspicion::new(now, self.bounds(), 1, node);
                self.settle(now, subject, Standing::Suspect(suspicion));
                true
            }
            Standing::Alive | Standing::Suspect(_) => true,
        };
        let until = now + self.config.reap_after;
        let gone = Gone { has_left, is_told, until, contact_at: now + CONTACT_RARELY };
        self.settle(now, subject, Standing::Gone(gone));
    }

    /// Takes what another node believes.
    fn apply_record(&mut self, now: Time, record: &Record) {
        let Record { subject, belief } = *record;
        if subject.node == self.config.node {
            return self.on_said_of_us(now, record);
        }
        if !self.config.allows(subject.address) {
            return self.refuse(subject.node, Refusal::Address);
        }
        let Some(member) = self.members.get_mut(&subject.node) else {
            // The end of a node that was never known here is no news, else the dead would be passed
            // round for ever.
            if matches!(belief, Belief::Alive | Belief::Suspect { .. }) {
                self.meet(now, subject);
            }
            return;
        };
        if subject.incarnation < member.incarnation {
            return;
        }
        if subject.incarnation > member.incarnation {
            if let Err(reason) = self.check_raise(now, subject) {
                return self.refuse(subject.node, reason);
            }
            self.raise(now, subject, belief);
        }
        match belief {
            Belief::Alive => self.mention(now, subject.node),
            Belief::Suspect { accuser } => {
                self.mention(now, subject.node);
                self.suspect(now, subject.node, accuser);
            }
            Belief::Dead => self.end(now, subject.node, false),
            Belief::Left => self.end(now, subject.node, true),
        }
    }

    /// Others know of a higher incarnation.
    fn raise(&mut self, now: Time, subject: Identity, belief: Belief) {
        let Some(member) = self.members.get_mut(&subject.node) else { return };
        match member.standing {
            // It refuted, and is heard from by others: still alive, having been heard from here.
            Standing::Alive | Standing::Suspect(_) => self.settle(now, subject, Standing::Alive),
            Standing::Unconfirmed(contact) => {
                self.settle(now, subject, Standing::Unconfirmed(contact));
            }
            Standing::Gone(_) => match belief {
                Belief::Alive | Belief::Suspect { .. } => self.meet(now, subject),
                // It returned and ended without having been seen here.
                Belief::Dead | Belief::Left => {
                    member.incarnation = subject.incarnation;
                    member.ended = subject.incarnation;
                }
            },
        }
    }

    /// A node of which others speak, and which has not been heard from.
    fn meet(&mut self, now: Time, subject: Identity) {
        if self.members.len() >= MEMBERS_MAX {
            return self.refuse(subject.node, Refusal::TooMany);
        }
        let contact = self.new_contact(now);
        self.settle(now, subject, Standing::Unconfirmed(contact));
    }

    fn mention(&mut self, now: Time, node: NodeId) {
        if let Some(Member { standing: Standing::Unconfirmed(contact), .. }) =
            self.members.get_mut(&node)
        {
            contact.mentioned = now;
        }
    }

    fn on_said_of_us(&mut self, now: Time, record: &Record) {
        let said = record.subject.incarnation;
        let is_wrong = match record.belief {
            // A life that this node does not remember, say since its disk was restored.
            Belief::Alive => said > self.incarnation,
            Belief::Suspect { .. } | Belief::Dead | Belief::Left => said >= self.incarnation,
        };
        if !is_wrong || self.presence != Presence::Here {
            return;
        }
        if said.0.saturating_sub(self.incarnation.0) > JUMP_MAX {
            return self.refuse(self.config.node, Refusal::Jump);
        }
        if said > self.refute_above {
            self.refute_above = said;
            self.refute(now);
        }
    }

    fn refute(&mut self, now: Time) {
        if self.refute_above < self.incarnation || self.presence != Presence::Here {
            return;
        }
        match self.refutations.take(now, REFUTATIONS_MAX, REFUTATIONS_IN) {
            Ok(()) => {
                self.incarnation = self.refute_above.next();
                self.outputs.push_back(Output::StoreIncarnation(self.incarnation));
                // What a dead life said is refused; this one says it anew.
                if let Some(own) = self.metadata.get_mut(&self.config.node) {
                    (own.incarnation, own.version) = (self.incarnation, Version(1));
                }
                let refuted = Event::Refuted { incarnation: self.incarnation };
                self.outputs.push_back(Output::Event(refuted));
                self.tell(&Record { subject: self.identity(), belief: Belief::Alive });
                self.health.worse(1);
                self.gossip(self.config.gossip_fanout);
            }
            Err(until) => {
                self.alarms.insert((until, Alarm::Refute));
                self.outputs.push_back(Output::Event(Event::RefutationDelayed { until }));
            }
        }
    }

    fn contact_peer(&mut self, now: Time, address: SocketAddr) {
        let Some(peer) = self.peers.get(&address) else { return };
        if peer.contact.next_at > now {
            return;
        }
        let is_live = peer.node.is_some_and(|node| self.live_address(node).is_some());
        let contact = peer.contact;
        let next = if is_live {
            // Nothing to do unless that node dies: then the address may hold another.
            Contact { next_at: now + CONTACT_RARELY, ..contact }
        } else if self.may_contact(now) {
            self.send(Kind::Join { to: address }, address, None);
            self.next_contact(now, contact)
        } else {
            Contact { next_at: self.contacts.0 + self.config.gossip_period, ..contact }
        };
        self.alarms.insert((next.next_at, Alarm::ContactPeer(address)));
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.contact = next;
        }
    }

    fn contact_member(&mut self, now: Time, node: NodeId) {
        let may = self.may_contact(now);
        let Some(member) = self.members.get(&node) else { return };
        let (address, standing) = (member.address, member.standing.clone());
        let again = match standing {
            Standing::Unconfirmed(contact) if contact.next_at <= now => {
                let next = if may {
                    self.next_contact(now, contact)
                } else {
                    Contact { next_at: self.contacts.0 + self.config.gossip_period, ..contact }
                };
                if let Some(member) = self.members.get_mut(&node) {
                    member.standing = Standing::Unconfirmed(next);
                }
                Some(next.next_at)
            }
            // It may have been cut off: then it learns that it is taken for dead.
            Standing::Gone(gone) if !gone.has_left && gone.contact_at <= now => {
                let contact_at = now + CONTACT_RARELY;
                if let Some(member) = self.members.get_mut(&node) {
                    member.standing = Standing::Gone(Gone { contact_at, ..gone });
                }
                Some(contact_at)
            }
            Standing::Unconfirmed(_)
            | Standing::Alive
            | Standing::Suspect(_)
            | Standing::Gone(_) => None,
        };
        match again {
            Some(at) => {
                self.alarms.insert((at, Alarm::ContactMember(node)));
                if may {
                    let number = self.take_number();
                    self.send(Kind::Ping { number }, address, Some(node));
                }
            }
            None if may => self.contacts.1 -= 1, // Not used.
            None => {}
        }
    }

    /// Whether one more contact fits into this period.
    fn may_contact(&mut self, now: Time) -> bool {
        if now >= self.contacts.0 + self.config.gossip_period {
            self.contacts = (now, 0);
        }
        let may = self.contacts.1 < CONTACTS_MAX;
        self.contacts.1 += u32::from(may);
        may
    }

    /// The first contact comes soon, but not of all nodes at once.
    fn new_contact(&mut self, now: Time) -> Contact {
        let next_at = now + self.config.gossip_period.mul_f64(self.random.unit());
        Contact { since: now, next_at, tries: 0, is_warned: false, mentioned: now }
    }

    fn next_contact(&mut self, now: Time, contact: Contact) -> Contact {
        let doubled = CONTACT_FIRST * (1 << contact.tries.min(8));
        let longest = if contact.is_warned { CONTACT_RARELY } else { CONTACT_LAST };
        let wait = if contact.is_warned { longest } else { doubled.min(longest) };
        let spread = 0.75 + self.random.unit() / 2.0;
        Contact { next_at: now + wait.mul_f64(spread), tries: contact.tries + 1, ..contact }
    }

    fn warn_of_peer(&mut self, now: Time, address: SocketAddr) {
        if let Some(Peer { contact, node: None }) = self.peers.get_mut(&address)
            && contact.since + self.config.warn_after <= now
            && !contact.is_warned
        {
            contact.is_warned = true;
            self.outputs.push_back(Output::Event(Event::Silent { address, node: None }));
        }
    }

    fn warn_of_member(&mut self, now: Time, node: NodeId) {
        if let Some(Member { standing: Standing::Unconfirmed(contact), address, .. }) =
            self.members.get_mut(&node)
            && contact.since + self.config.warn_after <= now
            && !contact.is_warned
        {
            contact.is_warned = true;
            let address = *address;
            self.outputs.push_back(Output::Event(Event::Silent { address, node: Some(node) }));
        }
    }

    fn reap(&mut self, now: Time, node: NodeId) {
        let (due, is_told) = match self.members.get(&node).map(|member| &member.standing) {
            Some(Standing::Gone(gone)) => (gone.until, gone.is_told),
            Some(Standing::Unconfirmed(contact)) => {
                (contact.mentioned + self.config.reap_after, true)
            }
            Some(Standing::Alive | Standing::Suspect(_)) => return,
            None => (now, false), // Metadata of a node that never came.
        };
        if due > now {
            self.alarms.insert((due, Alarm::Reap(node)));
            return;
        }
        self.members.remove(&node);
        self.metadata.remove(&node);
        self.metadata_news.remove(node);
        if is_told {
            self.outputs.push_back(Output::Forgotten { node });
        }
    }

    /// Changes how a member stands: keeps the index, sets the alarms, tells whoever watches, and
    /// passes it on.
    fn settle(&mut self, now: Time, subject: Identity, standing: Standing) {
        let Identity { node, incarnation, address } = subject;
        let state = standing.state();
        let place = self.live.binary_search(&node);
        match (state, place) {
            (MemberState::Alive | MemberState::Suspect, Err(place)) => {
                self.live.insert(place, node);
                let turn = below(&mut self.random, self.turns.len() + 1);
                self.turns.insert(turn, node);
            }
            (MemberState::Unconfirmed | MemberState::Dead | MemberState::Left, Ok(place)) => {
                self.live.remove(place);
            }
            _ => {}
        }
        let (belief, is_told) = match &standing {
            Standing::Unconfirmed(contact) => {
                self.alarms.insert((contact.next_at.max(now), Alarm::ContactMember(node)));
                let warn_at = contact.since + self.config.warn_after;
                self.alarms.insert((warn_at.max(now), Alarm::WarnMember(node)));
                let reap_at = contact.mentioned + self.config.reap_after;
                self.alarms.insert((reap_at.max(now), Alarm::Reap(node)));
                (Belief::Alive, true)
            }
            Standing::Alive => (Belief::Alive, true),
            Standing::Suspect(suspicion) => {
                self.alarms.insert((suspicion.deadline(), Alarm::SuspicionEnds(node)));
                (Belief::Suspect { accuser: suspicion.accuser() }, true)
            }
            Standing::Gone(gone) => {
                self.alarms.insert((gone.until, Alarm::Reap(node)));
                self.alarms.insert((gone.contact_at, Alarm::ContactMember(node)));
                let belief = if gone.has_left { Belief::Left } else { Belief::Dead };
                (belief, gone.is_told)
            }
        };
        let member = self.members.entry(node).or_insert_with(|| Member {
            incarnation: Incarnation::NONE,
            address,
            standing: Standing::Alive,
            held_of_us: None,
            ended: Incarnation::NONE,
            moves: Limit::default(),
            end_told_until: now,
        });
        // Others were told that it lives when it was only heard of.
        let is_confirmed = incarnation == member.incarnation && state == MemberState::Alive;
        member.incarnation = incarnation;
        member.address = address;
        member.standing = standing;
        if matches!(state, MemberState::Dead | MemberState::Left) {
            member.ended = incarnation;
        }
        if is_told {
            self.outputs.push_back(Output::Member { node, incarnation, state });
        }
        if !is_confirmed {
            self.tell(&Record { subject, belief });
        }
    }

    /// Puts a record among the news, in place of what it overtakes.
    fn tell(&mut self, record: &Record) {
        let node = record.subject.node;
        let key = match record.belief {
            Belief::Suspect { accuser } => (node, accuser),
            Belief::Alive | Belief::Dead | Belief::Left => (node, node),
        };
        let is_confirmation = key.0 != key.1
            && self.members.get(&node).is_some_and(|member| match &member.standing {
                Standing::Suspect(suspicion) => suspicion.accuser() != key.1,
                _ => false,
            });
        if !is_confirmation {
            self.news.remove_range((node, NodeId(0))..=(node, NodeId(u64::MAX)));
        }
        self.news.insert(key, *record);
    }

    fn plan_gossip(&mut self, now: Time) {
        let has_news = !self.news.is_empty() || !self.metadata_news.is_empty();
        if has_news && self.gossip_at.is_none() && self.presence != Presence::Away {
            let at = now + self.config.gossip_period;
            self.gossip_at = Some(at);
            self.alarms.insert((at, Alarm::Gossip));
        }
    }

    fn gossip(&mut self, fanout: usize) {
        for node in self.some_live(fanout, None) {
            if let Some(address) = self.live_address(node) {
                self.send(Kind::Gossip, address, Some(node));
            }
        }
    }

    fn welcome(&mut self, joiner: Identity, to: SocketAddr) {
        let mut records: VecDeque<Record> = self
            .members
            .iter()
            .filter(|&(&node, _)| node != joiner.node)
            .filter_map(|(&node, member)| record_of(node, member))
            .filter(|record| matches!(record.belief, Belief::Alive | Belief::Suspect { .. }))
            .collect();
        // Whoever does not fit now is not the same for each that joins.
        let start = below(&mut self.random, records.len());
        records.rotate_left(start);
        for sent in 0..WELCOME_MAX {
            if sent > 0 && records.is_empty() {
                break;
            }
            let held = self.metadata.get(&joiner.node).map(Versioned::order);
            let mut writer = Writer::new(Kind::Welcome { to }, self.identity(), held);
            if sent == 0
                && let Some(own) = self.metadata.get(&self.config.node)
            {
                writer.metadata(self.config.node, own);
            }
            while let Some(record) = records.front()
                && writer.record(record)
            {
                records.pop_front();
            }
            self.outputs.push_back(Output::Datagram { to: joiner.address, bytes: writer.finish() });
        }
    }

    fn send_to(&mut self, receiver: Identity, kind: Kind) {
        self.send(kind, receiver.address, Some(receiver.node));
    }

    /// Sends, and fills the datagram with what the receiver may not know.
    fn send(&mut self, kind: Kind, to: SocketAddr, receiver: Option<NodeId>) {
        let member = receiver.and_then(|node| Some((node, self.members.get(&node)?)));
        let held = receiver.and_then(|node| self.metadata.get(&node)).map(Versioned::order);
        let mut writer = Writer::new(kind, self.identity(), held);
        let is_probe = matches!(kind, Kind::Ping { .. } | Kind::Ack { .. });
        let mut is_live = false;
        if let Some((node, member)) = member {
            is_live = matches!(member.standing, Standing::Alive | Standing::Suspect(_));
            // A suspect must hear of it first of all, to refute.
            if let Some(record) = record_of(node, member)
                && matches!(record.belief, Belief::Suspect { .. } | Belief::Dead)
            {
                writer.record(&record);
            }
            if let Some(own) = self.metadata.get(&self.config.node)
                && is_probe
                && member.held_of_us.is_none_or(|held| held < own.order())
            {
                writer.metadata(self.config.node, own);
            }
        }
        if is_live {
            let most = self.transmissions();
            self.news.send(most, |_, record| writer.record(record));
            let metadata = &self.metadata;
            self.metadata_news.send(most, |node, ()| {
                metadata.get(&node).is_some_and(|said| writer.metadata(node, said))
            });
        }
        if is_probe && is_live {
            self.sample(&mut writer);
        }
        self.outputs.push_back(Output::Datagram { to, bytes: writer.finish() });
    }

    fn sample(&mut self, writer: &mut Writer) {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.members.range((Excluded(self.sampled), Unbounded));
        let before = self.members.range(..=self.sampled);
        let records = after
            .chain(before)
            .take(4 * SAMPLE)
            .filter_map(|(&node, member)| record_of(node, member));
        let mut last = self.sampled;
        for record in records.take(SAMPLE) {
            if !writer.record(&record) {
                break;
            }
            last = record.subject.node;
        }
        self.sampled = last;
    }

    /// How often a piece of news is sent: so often that a cluster of this size hears of it, and for
    /// so many rounds that a short outage does not swallow it.
    fn transmissions(&self) -> u32 {
        let node_count = self.live.len() + 1;
        let by_size = 3 * (usize::BITS - node_count.leading_zeros());
        let in_round = self.config.gossip_fanout.min(self.live.len());
        by_size.max(GOSSIP_ROUNDS * u32::try_from(in_round).unwrap_or(u32::MAX))
    }

    fn some_live(&mut self, count: usize, but: Option<NodeId>) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(count);
        let available = self.live.len()
            - usize::from(but.is_some_and(|node| self.live.binary_search(&node).is_ok()));
        while chosen.len() < count.min(available) {
            let place = below(&mut self.random, self.live.len());
            match self.live.get(place) {
                Some(&node) if Some(node) != but && !chosen.contains(&node) => chosen.push(node),
                _ => {}
            }
        }
        chosen
    }

    fn live_address(&self, node: NodeId) -> Option<SocketAddr> {
        let member = self.members.get(&node)?;
        matches!(member.standing, Standing::Alive | Standing::Suspect(_)).then_some(member.address)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            longest: self.health.stretch(self.config.suspicion_base),
            base: self.config.suspicion_base,
            shortest: self.config.suspicion_min,
            cap: self.config.suspicion_max,
        }
    }

    const fn identity(&self) -> Identity {
        Identity {
            node: self.config.node,
            incarnation: self.incarnation,
            address: self.config.address,
        }
    }

    const fn take_number(&mut self) -> u64 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }

    fn refuse(&mut self, node: NodeId, reason: Refusal) {
        self.outputs.push_back(Output::Event(Event::Refused { node, reason }));
    }

    fn refuse_peers(&mut self, count: usize, reason: Refusal) {
        self.outputs.push_back(Output::Event(Event::PeersRefused { count, reason }));
    }
}

/// What this node may tell of a member: nothing of whom it has not heard from.
fn record_of(node: NodeId, member: &Member) -> Option<Record> {
    let belief = match &member.standing {
        Standing::Unconfirmed(_) => return None,
        Standing::Alive => Belief::Alive,
        Standing::Suspect(suspicion) => Belief::Suspect { accuser: suspicion.accuser() },
        Standing::Gone(Gone { has_left: false, .. }) => Belief::Dead,
        Standing::Gone(Gone { has_left: true, .. }) => Belief::Left,
    };
    let (incarnation, address) = (member.incarnation, member.address);
    Some(Record { subject: Identity { node, incarnation, address }, belief })
}

/// A random place below a length, or 0.
fn below(random: &mut SplitMix, len: usize) -> usize {
    usize::try_from(random.below(len as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
