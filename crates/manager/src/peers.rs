//! The other managers of the datacenter: what they are told, and who holds which blobs.

use std::collections::BTreeSet;

use hyperscale_model::{BlobHash, NodeId, PartId, Time};
use hyperscale_wire::Message;

use crate::{Event, Leadership, Manager, Output};

impl Manager {
    pub(crate) fn on_manager_connected(&mut self, manager: NodeId) {
        let status = self.peers.connect(manager);
        self.send(manager, status);
    }

    /// Founds the datacenter's ledger if that is this manager's to do.
    pub(crate) fn found(&mut self) {
        if let Some(voters) = self.peers.found() {
            self.outputs.push(Output::Found { voters });
        }
    }

    /// When this manager says something to everybody, so that its links are heard of.
    pub(crate) fn next_beat(&self) -> Option<Time> {
        (self.config.managers > 1).then_some(self.next_beat)
    }

    pub(crate) fn beat(&mut self, now: Time) {
        if self.config.managers == 1 || now < self.next_beat {
            return;
        }
        self.next_beat = now + self.config.report;
        let peers: Vec<NodeId> = self.peers.linked().collect();
        for peer in peers {
            let status = self.peers.status(peer);
            self.send(peer, status);
        }
        self.fetch_what_is_needed(now);
        let trouble = self.managers().trouble();
        if let Leadership::Leading(leading) = &mut self.leadership
            && let Some(crossing) = leading.alarm.observe(now, trouble)
        {
            self.event(Event::ManagersTrouble(crossing));
        }
        if self.leading_at(now).is_some() {
            return; // A leader tells more, and as often.
        }
        let leader = self.other_leader();
        let linked = self.workers.iter().filter(|(_, view)| view.is_connected);
        let workers: Vec<NodeId> = linked.map(|(&worker, _)| worker).collect();
        workers.into_iter().for_each(|worker| self.send(worker, Message::NotLeader { leader }));
        if self.leading().is_none() {
            let status = self.datacenter_status(now);
            for gate in self.gates.clone() {
                self.send(gate, Message::DatacenterStatus(status.clone()));
            }
        }
    }

    /// The leader has who is there vote instead of who is out.
    pub(crate) fn review_electorate(&mut self, now: Time) {
        // Whoever only believes to lead is refused by the ledger.
        if self.leading().is_none() {
            return;
        }
        if let Some(change) = self.peers.review_electorate(now) {
            self.outputs.push(Output::ChangeElectorate(change));
        }
    }

    pub(crate) fn on_keep_blob(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        if let Some(answer) = self.peers.on_keep(now, from, hash, &mut self.blobs) {
            self.send(from, answer);
        }
    }

    pub(crate) fn on_blob_stored(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        if let Some(answer) = self.peers.on_stored(from, hash) {
            self.send(from, answer);
        }
        self.fetch_what_is_needed(now); // A plan names more.
    }

    pub(crate) fn on_blob_kept(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.kept.entry(hash).or_default().insert(from);
            self.accept_what_is_fetched(now);
        }
    }

    pub(crate) fn on_blob_missing(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        self.peers.on_missing(from, hash);
        self.fetch_what_is_needed(now);
    }

    /// Whether a majority of managers, this one included, has stored these blobs; asks for it if not.
    pub(crate) fn is_with_majority(
        &mut self,
        now: Time,
        part: PartId,
        hashes: &BTreeSet<BlobHash>,
    ) -> bool {
        let Leadership::Leading(leading) = &self.leadership else { return false };
        // What it names must not be dropped while its entry is on its way.
        hashes.iter().for_each(|&hash| self.peers.keep(now, hash));
        let majority = self.peers.majority();
        let holders = |hash| {
            let others = leading.kept.get(hash).into_iter().flatten();
            1 + others.filter(|manager| self.peers.votes(**manager)).count()
        };
        if hashes.iter().all(|hash| holders(hash) >= majority) {
            return true;
        }
        let Some(offered) = self.offers.get_mut(&part) else { return false };
        if offered.asked_at.is_none_or(|asked| now >= asked + self.config.resend) {
            offered.asked_at = Some(now);
            let peers: Vec<NodeId> = self.peers.linked_voters().collect();
            for (&hash, peer) in
                hashes.iter().flat_map(|hash| peers.iter().map(move |p| (hash, *p)))
            {
                self.send(peer, Message::KeepBlob { hash });
            }
        }
        false
    }

    /// Fetches what the state names and this manager does not hold, from whoever holds it.
    pub(crate) fn fetch_what_is_needed(&mut self, now: Time) {
        let parts: Vec<(BlobHash, NodeId)> =
            self.state.parts.values().map(|part| (part.plan, part.gate)).collect();
        for (plan, gate) in parts {
            if self.blobs.get(plan).is_none() {
                self.fetch_from_any(now, plan, gate);
                continue;
            }
            let named = self.plan(plan).map(|plan| plan.blobs()).unwrap_or_default();
            for hash in named {
                self.fetch_from_any(now, hash, gate);
            }
        }
    }

    fn fetch_from_any(&mut self, now: Time, hash: BlobHash, gate: NodeId) {
        let leader = self.other_leader().filter(|leader| self.peers.is_linked(*leader));
        let gate = self.gates.get(&gate).copied();
        let sources: Vec<NodeId> =
            leader.into_iter().chain(self.peers.linked()).chain(gate).collect();
        self.peers.fetch(now, hash, &sources, &mut self.blobs);
    }
}
