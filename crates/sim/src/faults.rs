//! What goes wrong: drawn one by one from those kinds that the seed has on, until the calm.

use std::time::Duration;

use hyperscale_gate::{Request, RequestId};
use hyperscale_model::{NodeId, Role, Time};

use crate::host::{Host, Node, Stimulus};
use crate::world::{Event, FALLS_EVERY, Lost, World};

/// How long after a fault its consequences are still on their way.
const AFTERMATH: Duration = Duration::from_secs(30);

/// How long whoever has a node removed waits before asking again.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crash(Role),
    Freeze,
    Cut,
    CutOneWay,
    Slow,
    Flap,
    Fade,
    Drain,
    CutDatacenter,
    FalseDeath,
}

impl World {
    /// The kinds that this world knows.
    fn kinds(&self) -> Vec<Kind> {
        let faults = &self.scenario.faults;
        [
            (faults.crash_gate, Kind::Crash(Role::Gate)),
            (faults.crash_manager, Kind::Crash(Role::Manager)),
            (faults.crash_worker, Kind::Crash(Role::Worker)),
            (faults.freeze, Kind::Freeze),
            (faults.cut, Kind::Cut),
            (faults.cut_one_way, Kind::CutOneWay),
            (faults.slow, Kind::Slow),
            (faults.flap, Kind::Flap),
            (faults.fade, Kind::Fade),
            (faults.drain, Kind::Drain),
            (faults.cut_datacenter, Kind::CutDatacenter),
            (faults.false_death, Kind::FalseDeath),
        ]
        .into_iter()
        .filter_map(|(is_on, kind)| is_on.then_some(kind))
        .collect()
    }

    /// When the next fault comes.
    pub(crate) fn plan_fault(&mut self) {
        let pause = self.scenario.faults.pause;
        if pause > 0 && !self.is_calm && !self.kinds().is_empty() {
            let pause = Duration::from_millis(1 + self.random.below(2 * pause));
            self.schedule(pause, Event::Fault);
        }
    }

    pub(crate) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let kinds = self.kinds();
        let is_left_out = self.faults < u128::BITS && self.skip >> self.faults & 1 == 1;
        self.faults += 1;
        if let Some(&kind) = self.one_of(&kinds)
            && !is_left_out
        {
            self.break_something(kind);
        }
        self.plan_fault();
    }

    /// The manager that leads dies, and comes back after a while.
    pub(crate) fn fall(&mut self) {
        if self.is_calm {
            return;
        }
        let leads = |host: &&Host| match &host.node {
            Some(Node::Manager { manager, .. }) => manager.leading().is_some(),
            // Of one gate nobody could take over.
            Some(Node::Gate { gate, .. }) => {
                self.scenario.gates > 1 && gate.owned().next().is_some()
            }
            Some(Node::Worker { .. }) | None => false,
        };
        let leaders: Vec<NodeId> = self.hosts.values().filter(leads).map(|host| host.id).collect();
        if let Some(&leader) = self.one_of(&leaders) {
            self.crash(leader);
        }
        self.schedule(FALLS_EVERY, Event::Fall);
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let place = usize::try_from(self.random.below(all.len() as u64)).unwrap_or(0);
        all.get(place)
    }

    fn any_node(&mut self, role: Option<Role>) -> Option<NodeId> {
        let up = self.hosts.values().filter(|host| host.is_up() && !host.is_frozen);
        let nodes: Vec<NodeId> =
            up.filter(|host| role.is_none_or(|role| host.role == role)).map(|h| h.id).collect();
        self.one_of(&nodes).copied()
    }

    fn any_way(&mut self) -> Option<(NodeId, NodeId)> {
        let ways: Vec<(NodeId, NodeId)> = self.network.links.keys().copied().collect();
        self.one_of(&ways).copied()
    }

    /// Something is in the way for so long, and a little longer until links are back.
    pub(crate) fn trouble(&mut self, stretch: Duration) {
        self.trouble_until = self.trouble_until.max(self.now + stretch + AFTERMATH);
    }

    /// As [`World::trouble`], of what lies between the gate and the managers too, if it concerns
    /// one of them.
    fn trouble_of(&mut self, node: NodeId, stretch: Duration) {
        self.trouble(stretch);
        if self.role(node) != Some(Role::Worker) {
            self.head_trouble_until = self.trouble_until;
        }
    }

    /// A stretch of time: mostly short, sometimes longer than every lease.
    fn stretch(&mut self) -> Duration {
        let longest = [800, 5_000, 25_000][usize::try_from(self.random.below(3)).unwrap_or(0)];
        Duration::from_millis(50 + self.random.below(longest))
    }

    fn break_something(&mut self, kind: Kind) {
        self.note(|| format!("fault {kind:?}"));
        match kind {
            Kind::Crash(role) => {
                let Some(node) = self.any_node(Some(role)) else { return };
                if self.scenario.faults.crash_between && self.random.chance(0.5) {
                    let outputs = 1 + u32::try_from(self.random.below(40)).unwrap_or(0);
                    let writes = usize::try_from(self.random.below(20)).unwrap_or(0);
                    let is_torn = self.random.chance(0.5);
                    let Some(host) = self.hosts.get_mut(&node) else { return };
                    if is_torn && role != Role::Worker {
                        host.disk.0.borrow_mut().writes_left = Some(writes);
                    } else {
                        host.crash_after = Some(outputs);
                    }
                } else {
                    self.crash(node);
                }
            }
            Kind::Freeze => {
                let Some(node) = self.any_node(None) else { return };
                let stretch = self.stretch();
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.is_frozen = true;
                }
                self.trouble_of(node, stretch);
                self.schedule(stretch, Event::Resume { node });
                // Whoever waits for it gives the link up before it is back, or not.
                let ways = self.ways_of(node);
                for way in ways {
                    let patience = Duration::from_millis(3_000 + self.random.below(9_000));
                    if patience < stretch {
                        self.break_link(way, patience);
                    }
                }
            }
            Kind::Cut | Kind::CutOneWay => {
                let Some((a, b)) = self.any_way() else { return };
                let stretch = self.stretch();
                let forth = self.random.chance(0.5);
                let mut ways = vec![(a, b), (b, a)];
                if kind == Kind::CutOneWay {
                    ways.remove(usize::from(forth));
                }
                self.network.cuts.extend(ways.iter().copied());
                self.trouble_of(a, stretch);
                self.schedule(stretch, Event::Heal { ways });
                let patience = Duration::from_millis(2_000 + self.random.below(10_000));
                if patience < stretch {
                    self.break_link((a, b), patience);
                }
            }
            Kind::Slow => {
                let Some(way) = self.any_way() else { return };
                let slowness = Duration::from_millis(self.random.below(4_000));
                if let Some(link) = self.network.links.get_mut(&way) {
                    link.slowness = slowness;
                }
                let stretch = self.stretch();
                self.trouble_of(way.0, stretch);
                self.schedule(stretch, Event::Quicken { way });
            }
            Kind::Fade => {
                // A link gets worse and worse, and then dies for a while.
                let ways: Vec<(NodeId, NodeId)> = (self.network.links.keys().copied())
                    .filter(|way| self.role(way.1) == Some(Role::Manager))
                    .collect();
                let Some(&(a, b)) = self.one_of(&ways) else { return };
                let slowness = Duration::from_millis(2_000 + self.random.below(2_000));
                if let Some(link) = self.network.links.get_mut(&(a, b)) {
                    link.slowness = slowness;
                }
                let until = Duration::from_secs(6);
                let stretch = Duration::from_millis(12_000 + self.random.below(8_000));
                self.trouble_of(a, until + stretch);
                self.schedule(until, Event::Die { way: (a, b), stretch });
            }
            Kind::FalseDeath => {
                let Some((a, b)) = self.any_way() else { return };
                let (hearer, node) = if self.random.chance(0.5) { (a, b) } else { (b, a) };
                self.trouble_of(hearer, Duration::ZERO);
                self.stimulate(hearer, Stimulus::Gone { node });
            }
            Kind::CutDatacenter => {
                let places: Vec<usize> = (0..self.scenario.datacenters.len()).collect();
                let Some(&place) = self.one_of(&places) else { return };
                let managers = self.managers_at(Some(place));
                let is_between = |(a, b): &(NodeId, NodeId)| {
                    let far = [(a, b), (b, a)].into_iter().find(|(m, _)| managers.contains(m));
                    far.is_some_and(|(_, other)| self.role(*other) == Some(Role::Gate))
                };
                let ways: Vec<(NodeId, NodeId)> =
                    self.network.links.keys().copied().filter(is_between).collect();
                let both: Vec<(NodeId, NodeId)> =
                    ways.iter().flat_map(|&(a, b)| [(a, b), (b, a)]).collect();
                let stretch = Duration::from_millis(2_000 + self.random.below(70_000));
                self.network.cuts.extend(both.iter().copied());
                self.trouble(stretch);
                self.head_trouble_until = self.trouble_until;
                self.schedule(stretch, Event::Heal { ways: both });
                // Most links notice before they are whole again.
                for way in ways {
                    let patience = Duration::from_millis(4_000 + self.random.below(8_000));
                    self.break_link(way, patience);
                }
            }
            Kind::Flap => {
                let Some(way) = self.any_way() else { return };
                self.break_link(way, Duration::ZERO);
            }
            Kind::Drain => {
                let Some(node) = self.any_node(Some(Role::Worker)) else { return };
                let place = self.hosts.get(&node).and_then(|host| host.place);
                let workers = self.hosts.values().filter(|host| host.role == Role::Worker);
                let workers = workers.filter(|host| host.place == place && !host.is_leaving);
                // Someone must be left to do the work.
                if workers.count() < 2 {
                    return;
                }
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.is_leaving = true;
                }
                self.trouble(Duration::from_secs(65)); // It may finish what it runs.
                self.stimulate(node, Stimulus::Drain);
            }
        }
    }

    pub(crate) fn die(&mut self, (a, b): (NodeId, NodeId), stretch: Duration) {
        if self.is_calm {
            return;
        }
        // What was on its way to the worker arrives, late, while nothing of the worker does.
        let mut ways = vec![(a, b)];
        if self.random.chance(0.3) {
            ways.push((b, a));
        }
        self.network.cuts.extend(ways.iter().copied());
        self.schedule(stretch, Event::Heal { ways });
        self.schedule(stretch, Event::Quicken { way: (a, b) });
        let patience = Duration::from_millis(4_000 + self.random.below(8_000));
        self.break_link((a, b), patience);
    }

    pub(crate) fn ways_of(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        let ways = self.network.links.keys().copied();
        ways.filter(|(a, b)| *a == node || *b == node).collect()
    }

    /// Breaks the connection of a link after a while; each end learns of it by itself.
    pub(crate) fn break_link(&mut self, way: (NodeId, NodeId), after: Duration) {
        let connection = self.network.links.get(&way).and_then(|link| link.connection);
        if let Some(connection) = connection {
            self.schedule(after, Event::Break { way, connection });
        }
    }

    pub(crate) fn break_connection(&mut self, (a, b): (NodeId, NodeId), connection: u64) {
        if !self.network.broken.insert(connection) {
            return;
        }
        self.trouble_of(a, Duration::ZERO);
        for (node, peer) in [(a, b), (b, a)] {
            let delay = Duration::from_millis(self.random.below(3_000));
            self.schedule(delay, Event::Closed { node, peer, connection });
        }
    }

    /// Stops a node at once, and brings it back after a while.
    pub(crate) fn crash(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.is_up()) else { return };
        host.crash();
        self.after_crash(node);
    }

    /// What the others notice of a stopped node, and how it comes back.
    pub(crate) fn after_crash(&mut self, node: NodeId) {
        self.note(|| format!("{node} stops"));
        if let Some(host) = self.hosts.get_mut(&node) {
            host.open.clear();
        }
        for (a, b) in self.ways_of(node) {
            let peer = if a == node { b } else { a };
            let is_silent = self.random.chance(0.3);
            // A dead process says so by its system; a dead machine does not.
            let notice = if is_silent { 3_000 + self.random.below(9_000) } else { 20 };
            if let Some(link) = self.network.links.get_mut(&(a, b)) {
                if let Some(connection) = link.connection {
                    let notice = Duration::from_millis(notice);
                    self.schedule(notice, Event::Closed { node: peer, peer: node, connection });
                }
                if a == node
                    && let Some(link) = self.network.links.get_mut(&(a, b))
                {
                    link.connection = None;
                }
            }
        }
        let is_leaving = self.hosts.get(&node).is_some_and(|host| host.is_leaving);
        let is_worker = self.role(node) == Some(Role::Worker);
        if is_leaving {
            self.retire(node);
            return;
        }
        let pause = if self.is_calm { Duration::from_secs(1) } else { self.stretch() };
        self.trouble_of(node, pause);
        if is_worker && self.scenario.faults.lose_disk && self.random.chance(0.5) {
            let (cores, place) =
                self.hosts.get(&node).map_or((1, None), |host| (host.cores, host.place));
            self.retire(node);
            self.recruit(pause, cores, place);
        } else if self.may_be_replaced(node) && self.random.chance(0.5) {
            self.replace(node, pause);
        } else {
            self.schedule(pause, Event::Start { node });
        }
    }

    /// Whether a gate or manager that has just stopped may be lost for good. That is safe for one of
    /// three that are all there, and vote, and have what was decided.
    fn may_be_replaced(&self, node: NodeId) -> bool {
        let Some(host) = self.hosts.get(&node).filter(|host| host.role != Role::Worker) else {
            return false;
        };
        let all: Vec<NodeId> = self.peers_at(host.role, host.place);
        let is_well = |peer: &NodeId| *peer == node || self.votes_among(*peer, &all);
        self.scenario.faults.replace
            && !self.is_calm
            && all.len() >= 3
            && !self.lost.contains_key(&host.place)
            && all.iter().all(is_well)
    }

    /// Whether a node is well and knows these, and nobody else, as voters of its ledger.
    fn votes_among(&self, node: NodeId, all: &[NodeId]) -> bool {
        let Some(host) = self.hosts.get(&node).filter(|host| !host.is_frozen) else { return false };
        match &host.node {
            Some(Node::Gate { ledger, .. } | Node::Manager { ledger, .. }) => {
                let status = ledger.status();
                !status.is_changing && status.voters.into_iter().eq(all.iter().copied())
            }
            Some(Node::Worker { .. }) | None => false,
        }
    }

    /// A gate or manager is lost with its disk; after a while a new one comes in its place, and
    /// somebody has the lost one removed.
    fn replace(&mut self, node: NodeId, pause: Duration) {
        let Some(host) = self.hosts.get(&node) else { return };
        let (role, place) = (host.role, host.place);
        self.retire(node);
        let peers = self.peers_at(role, place);
        let highest = self.hosts.keys().next_back().map_or(0, |id| id.0);
        let fresh = NodeId(highest + 1);
        self.note(|| format!("{node} is lost with its disk, {fresh} comes in its place"));
        self.add(fresh, role, place, 0);
        peers.iter().for_each(|&peer| self.link(fresh, peer));
        if role == Role::Gate {
            self.gates.iter_mut().filter(|gate| **gate == node).for_each(|gate| *gate = fresh);
            let managers: Vec<NodeId> = (0..self.scenario.datacenters.len())
                .flat_map(|place| self.managers_at(Some(place)))
                .collect();
            managers.into_iter().for_each(|manager| self.link(manager, fresh));
        } else {
            self.gates.clone().into_iter().for_each(|gate| self.link(fresh, gate));
            let workers = self.peers_at(Role::Worker, place);
            workers.into_iter().for_each(|worker| self.link(worker, fresh));
        }
        let ask_at = self.now + self.stretch();
        self.lost.insert(place, Lost { node, ask_at });
        self.schedule(pause, Event::Start { node: fresh });
    }

    /// Somebody has lost nodes removed, at any gate, until others vote in their place.
    pub(crate) fn replace_lost(&mut self) {
        let lost: Vec<(Option<usize>, NodeId, Time)> =
            self.lost.iter().map(|(&place, lost)| (place, lost.node, lost.ask_at)).collect();
        for (place, node, ask_at) in lost {
            let role = if place.is_none() { Role::Gate } else { Role::Manager };
            let all = self.peers_at(role, place);
            if all.iter().all(|peer| self.votes_among(*peer, &all)) {
                self.note(|| format!("{node} is replaced"));
                self.lost.remove(&place);
                continue;
            }
            // What is missing is in everybody's way.
            self.trouble(Duration::ZERO);
            self.head_trouble_until = self.trouble_until;
            if self.now < ask_at {
                continue;
            }
            if let Some(lost) = self.lost.get_mut(&place) {
                lost.ask_at = self.now + ASK_AGAIN;
            }
            let id = RequestId(u64::MAX - self.now.as_nanos());
            let gate = usize::try_from(self.random.below(self.gates.len() as u64)).unwrap_or(0);
            self.ask_gate(gate, Stimulus::Request { id, request: Request::Remove { node } });
        }
    }

    /// The node never comes back.
    pub(crate) fn retire(&mut self, node: NodeId) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.crash();
            host.is_leaving = true;
        }
        for (a, b) in self.ways_of(node) {
            let connection = self.network.links.remove(&(a, b)).and_then(|link| link.connection);
            if let Some(connection) = connection {
                let (node, peer) = if a == node { (b, a) } else { (a, b) };
                let notice = Duration::from_millis(100);
                self.schedule(notice, Event::Closed { node, peer, connection });
            }
        }
    }

    /// A new worker joins.
    fn recruit(&mut self, after: Duration, cores: u32, place: Option<usize>) {
        let highest = self.hosts.keys().next_back().map_or(0, |id| id.0);
        let node = NodeId(highest + 1);
        self.add(node, Role::Worker, place, cores);
        self.managers_at(place).into_iter().for_each(|manager| self.link(node, manager));
        self.schedule(after, Event::Start { node });
    }

    /// All faults end; what is down comes back.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
        self.trouble(Duration::ZERO);
        self.head_trouble_until = self.trouble_until;
        self.note(|| "calm".to_owned());
        self.network.cuts.clear();
        self.network.loss = 0.0;
        self.network.links.values_mut().for_each(|link| link.slowness = Duration::ZERO);
        self.release();
        for host in self.hosts.values_mut() {
            host.crash_after = None;
            host.disk.0.borrow_mut().writes_left = None;
        }
        let frozen: Vec<NodeId> =
            self.hosts.values().filter(|host| host.is_frozen).map(|host| host.id).collect();
        frozen.into_iter().for_each(|node| self.resume(node));
    }
}
