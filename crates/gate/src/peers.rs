//! The other gates: who takes part, whose proposals go to the ledger, and who holds which blobs.
//!
//! Any gate may propose: it hands its entry to the leader of the ledger, and knows it again once it
//! is decided. Entries are such that proposing one twice changes nothing, so a proposal that may be
//! lost is simply made again.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{BlobHash, Incarnation, NodeId, ProposalId, Time};
use hyperscale_wire::{Message, Subject, decode_value, encode_value};

use crate::request::RequestErrorKind;
use crate::state::Entry;
use crate::{About, Event, Gate, Output, Proposed, Step};

/// Proposals of other gates that may wait for a decision.
const RELAYED_MAX: usize = 10_000;
/// How long nothing is proposed after a refusal.
const QUIET: Duration = Duration::from_millis(50);

impl Gate {
    pub(crate) fn on_gate_connected(&mut self, now: Time, gate: NodeId) {
        let status = self.peers.connect(gate);
        self.send(gate, status);
        self.hear(now, gate);
        self.live.values_mut().for_each(|live| live.copies.connect(gate));
    }

    pub(crate) fn on_disconnected(&mut self, now: Time, node: NodeId) {
        self.managers.remove(&node);
        if self.peers.is_linked(node) {
            self.hear(now, node);
            self.peers.disconnect(node);
            self.on_asker_gone(node);
        }
    }

    /// Notes that a gate was heard of, or that its link has just broken.
    pub(crate) fn hear(&mut self, now: Time, gate: NodeId) {
        if self.peers.is_linked(gate) || self.state.sessions.contains_key(&gate) {
            self.heard.insert(gate, now);
        }
    }

    /// Gossip says that a gate is gone. If its link says otherwise, that is nearer.
    pub(crate) fn on_member_gone(&mut self, now: Time, gate: NodeId) {
        let heard = self.heard.get(&gate).copied().unwrap_or_default();
        if !self.peers.is_linked(gate) || now >= heard + self.config.beat * 2 {
            self.heard.insert(gate, Time::ZERO);
        }
    }

    pub(crate) fn on_leadership(&mut self, now: Time, leads: bool, leader: Option<NodeId>) {
        if leader.is_some() {
            self.peers.note_founded();
        }
        if leads != self.leads {
            self.event(if leads { Event::LeadershipGained } else { Event::LeadershipLost });
            // Nobody was asked to be heard by this gate before.
            self.heard = self.state.sessions.keys().map(|&gate| (gate, now)).collect();
        }
        if leader != self.leader || leads != self.leads {
            // Whatever was on its way may be lost: it is proposed again.
            self.proposed.clear();
        }
        (self.leader, self.leads) = (leader, leads);
    }

    /// Has an entry decided, unless one about the same thing is on its way.
    pub(crate) fn propose(&mut self, now: Time, about: About, entry: &Entry) {
        let may_propose = self.takes_part() || matches!(about, About::Session(_));
        let leader = self.leader.filter(|leader| self.leads || self.peers.is_linked(*leader));
        let Some(leader) = leader.filter(|_| may_propose) else { return };
        if now < self.quiet_until || self.proposed.values().any(|(known, _)| *known == about) {
            return;
        }
        let proposal = self.next_proposal();
        let by = (self.config.node, self.config.incarnation);
        match encode_value(&Proposed { by, proposal, entry: Cow::Borrowed(entry) }) {
            Ok(entry) => {
                self.proposed.insert(proposal, (about, now));
                if self.leads {
                    self.outputs.push(Output::Propose { proposal, entry });
                } else {
                    self.send(leader, Message::Propose { proposal, entry });
                }
            }
            Err(error) => self.malformed("proposal", &error),
        }
    }

    /// Passes another gate's proposal to the ledger that this one leads.
    pub(crate) fn on_propose(&mut self, from: NodeId, proposal: ProposalId, entry: Vec<u8>) {
        let read: Result<Proposed<'_>, _> = decode_value(&entry);
        let is_its_own = match &read {
            Ok(read) => read.by.0 == from && read.proposal == proposal,
            Err(error) => {
                self.malformed("proposal", error);
                false
            }
        };
        if !self.leads || !is_its_own || self.relayed.len() >= RELAYED_MAX {
            self.send(from, Message::ProposalRefused { proposal });
            return;
        }
        let local = self.next_proposal();
        self.relayed.insert(local, (from, proposal));
        self.outputs.push(Output::Propose { proposal: local, entry });
    }

    pub(crate) fn on_refused(&mut self, now: Time, proposal: ProposalId) {
        match self.relayed.remove(&proposal) {
            Some((from, proposal)) => self.send(from, Message::ProposalRefused { proposal }),
            None => self.on_proposal_refused(now, proposal),
        }
    }

    pub(crate) fn on_proposal_refused(&mut self, now: Time, proposal: ProposalId) {
        self.quiet_until = now + QUIET;
        let why = "the gates' ledger has no leader just now; try again";
        match self.proposed.remove(&proposal) {
            Some((About::Submission(key), _)) => {
                self.fail_pending(&key, RequestErrorKind::NotReady, why);
            }
            Some((About::Job(Step::Cancel | Step::CancelWorkflow, job, _), _)) => {
                self.fail_cancels(job, why);
            }
            Some((
                About::Job(..) | About::Session(_) | About::Removal(_) | About::Sought(_),
                _,
            ))
            | None => {}
        }
    }

    /// Opens this gate's session, and ends those of gates that are gone.
    pub(crate) fn review_sessions(&mut self, now: Time) {
        let wait = self.config.decision_wait;
        self.proposed.retain(|_, (_, since)| now < *since + wait);
        let (gate, incarnation) = (self.config.node, self.config.incarnation);
        if self.is_leaving {
            if self.takes_part() && self.config.gates > 1 {
                let entry = Entry::SessionEnded { gate, incarnation, has_left: true };
                self.propose(now, About::Session(gate), &entry);
            }
            return;
        }
        if !self.takes_part() {
            if !self.peers.votes(gate) {
                return; // It follows, and owns nothing before it votes.
            }
            self.propose(now, About::Session(gate), &Entry::SessionOpened { gate, incarnation });
            return;
        }
        if !self.leads {
            return;
        }
        let gone: Vec<(NodeId, Incarnation)> = (self.state.sessions.iter())
            .filter(|(gate, _)| **gate != self.config.node)
            .filter(|(gate, _)| {
                let patience = match self.peers.is_linked(**gate) {
                    true => self.config.session_silence,
                    false => self.config.session_grace,
                };
                let heard = self.heard.get(gate).copied().unwrap_or_default();
                now >= heard + patience
            })
            .map(|(&gate, &incarnation)| (gate, incarnation))
            .collect();
        for (gate, incarnation) in gone {
            let has_left = false;
            let entry = Entry::SessionEnded { gate, incarnation, has_left };
            self.propose(now, About::Session(gate), &entry);
        }
    }

    /// Whether some gate that takes part may have to be given up soon.
    pub(crate) fn misses_someone(&self) -> bool {
        let others = self.state.sessions.keys().filter(|gate| **gate != self.config.node);
        self.leads && others.into_iter().any(|gate| !self.peers.is_linked(*gate))
    }

    pub(crate) fn beat(&mut self, now: Time) {
        if let Some(voters) = self.peers.found() {
            self.outputs.push(Output::Found { voters });
        }
        if self.config.gates == 1 || now < self.next_beat {
            return;
        }
        self.next_beat = now + self.config.beat;
        let peers: Vec<NodeId> = self.peers.linked().collect();
        for peer in peers {
            let status = self.peers.status(peer);
            self.send(peer, status);
        }
        self.fetch_what_is_needed(now);
    }

    /// Fetches what the state names and this gate does not hold, from whoever holds it.
    pub(crate) fn fetch_what_is_needed(&mut self, now: Time) {
        let mut missing = self.named_by_jobs();
        missing.retain(|(hash, _)| self.blobs.get(*hash).is_none());
        for (hash, owner) in missing {
            let owner = Some(owner).filter(|owner| self.peers.is_linked(*owner));
            let sources: Vec<NodeId> = owner.into_iter().chain(self.peers.linked()).collect();
            self.peers.fetch(now, hash, &sources, &mut self.blobs);
        }
    }

    pub(crate) fn on_blob(&mut self, now: Time, from: NodeId, hash: BlobHash, bytes: Arc<[u8]>) {
        if self.take_whole_copy(hash, &bytes) {
            return;
        }
        self.outputs.push(Output::StoreBlob { hash, bytes });
        if let Some(answer) = self.peers.on_stored(from, hash) {
            self.send(from, answer);
        }
        self.fetch_what_is_needed(now); // A plan names more.
    }

    pub(crate) fn on_blob_kept(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        for pending in self.pending.values_mut() {
            pending.spread.on_kept(from, hash);
        }
        for live in self.live.values_mut() {
            if let Some(ending) = &mut live.ending {
                ending.spread.on_kept(from, hash);
            }
        }
        self.review_pending(now);
    }

    /// Asks others to keep blobs that an entry is about to name. True once a majority holds them.
    pub(crate) fn is_spread(&mut self, now: Time, spread: &mut Spread) -> bool {
        spread.hashes.iter().for_each(|&hash| self.peers.keep(now, hash));
        let wanted = self.peers.majority() - 1;
        let has_enough = |hash: &BlobHash| {
            let holders = spread.holders.iter().filter(|(_, known)| known == hash);
            holders.filter(|(gate, _)| self.peers.votes(*gate)).count() >= wanted
        };
        if spread.hashes.iter().all(has_enough) {
            return true;
        }
        if spread.asked_at.is_none_or(|asked| now >= asked + self.config.resend) {
            spread.asked_at = Some(now);
            let peers: Vec<NodeId> = self.peers.linked_voters().collect();
            for (&hash, &peer) in
                spread.hashes.iter().flat_map(|h| peers.iter().map(move |p| (h, p)))
            {
                if !spread.holders.contains(&(peer, hash)) {
                    self.send(peer, Message::KeepBlob { hash });
                }
            }
        }
        false
    }

    pub(crate) fn refuse_stale(
        &mut self,
        from: NodeId,
        job: hyperscale_model::JobId,
        fence: hyperscale_model::Fence,
        held: hyperscale_model::Fence,
    ) {
        self.event(Event::StaleFence { from, fence, held });
        self.send(from, Message::StaleFence { subject: Subject::Job(job), held });
    }
}

/// Blobs on their way to a majority of gates.
#[derive(Debug)]
pub(crate) struct Spread {
    hashes: BTreeSet<BlobHash>,
    holders: BTreeSet<(NodeId, BlobHash)>,
    asked_at: Option<Time>,
}

impl Spread {
    pub(crate) const fn new(hashes: BTreeSet<BlobHash>) -> Self {
        Self { hashes, holders: BTreeSet::new(), asked_at: None }
    }

    pub(crate) fn on_kept(&mut self, from: NodeId, hash: BlobHash) {
        if self.hashes.contains(&hash) {
            self.holders.insert((from, hash));
        }
    }
}
