//! Worlds in which a test says what goes wrong, and when. All invariants are checked as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{Fence, NodeId, Role, Time, WorkflowIndex};
use hyperscale_plan::{
    After, Datacenters, Distribution, HttpSettings, Load, PLAN_FORMAT, Plan, RunSettings, Split,
    StepName, Workflow,
};
use hyperscale_wire::{Message, encode_frame};

use crate::engine::Habits;
use crate::host::Node;
use crate::scenario::{Datacenter, Faults, Scenario, Test};
use crate::world::{Event, World};
use crate::{Mutation, Options};

mod clocks;
mod distance;
mod leases;
mod spillover;
mod splits;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(second: u64) -> Time {
    Time::from_secs(second)
}

/// A test of one workflow, submitted at this second.
fn test(number: usize, submit_at: u64, load: Load) -> Test {
    let workflow = Workflow {
        name: "w".to_owned(),
        after: After::default(),
        load,
        steps: Vec::new(),
        locals: Vec::new(),
        publish: Vec::new(),
        start_after: Duration::ZERO,
        graceful_stop: seconds(2),
        cores: None,
        on_error: Default::default(),
        vu_setup: Vec::new(),
        vu_teardown: Vec::new(),
        finally: Vec::new(),
    };
    let plan = Plan {
        format: PLAN_FORMAT,
        name: format!("test-{number}"),
        description: None,
        labels: BTreeMap::new(),
        vars: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        http: HttpSettings::default(),
        data: Vec::new(),
        workflows: vec![workflow],
        steps: vec![StepName { workflow: WorkflowIndex(0), name: "w/s".to_owned() }],
        checks: Vec::new(),
        metrics: Vec::new(),
        thresholds: Vec::new(),
        run: RunSettings {
            deadline: seconds(120),
            datacenters: Datacenters::All,
            split: Split::Even,
            ..RunSettings::default()
        },
        source: None,
    };
    Test {
        plan,
        submit_at: at(submit_at),
        cancel: None,
        steers: Vec::new(),
        secret: false,
        blobs: Vec::new(),
    }
}

fn users(vus: u32, duration: Duration) -> Load {
    Load::ConstantVus { vus, duration }
}

fn arrivals(rate: f64, duration: Duration) -> Load {
    Load::ConstantArrivalRate { rate, duration, max_vus: 100, distribution: Distribution::Even }
}

/// A world without any fault of its own.
fn scenario(gates: usize, datacenters: Vec<Datacenter>, tests: Vec<Test>) -> Scenario {
    let habits = Habits {
        pace: 2.0,
        failures: 0.0,
        core_loss: 0.0,
        abort: 0.0,
        unprepared: 0.0,
        ignores_lease: false,
        ignores_pauses: false,
    };
    Scenario {
        gates,
        datacenters,
        tests,
        habits,
        // Faults come, if only from the test: nothing is expected to be as without any.
        faults: Faults { pause: 1, ..Faults::default() },
        // The tests say themselves when faults end, and look no further than the last job's end.
        calm: at(1_000),
        life: at(1_000),
        window: seconds(1),
        checkpoint: seconds(1),
        retention: seconds(300),
        snapshot_after: 10_000,
        drift: 0,
        distance: Duration::ZERO,
        ahead: BTreeMap::new(),
    }
}

fn datacenter(managers: usize, workers: &[u32]) -> Datacenter {
    Datacenter { managers, workers: workers.to_vec() }
}

fn world(scenario: Scenario, seed: u64, mutation: Option<Mutation>) -> World {
    World::of(scenario, seed, &Options { mutation, ..Options::default() })
}

/// What came of a job, as its stored result says.
#[derive(Debug, Clone, PartialEq)]
struct Came {
    status: String,
    requests: u64,
    iterations: u64,
    partial: bool,
}

impl World {
    /// Cuts all links between nodes of different groups; each end finds out within some seconds.
    fn split(&mut self, group: impl Fn(NodeId) -> usize) {
        let ways: Vec<(NodeId, NodeId)> = self.network.links.keys().copied().collect();
        for (a, b) in ways.into_iter().filter(|(a, b)| group(*a) != group(*b)) {
            self.network.cuts.extend([(a, b), (b, a)]);
            self.break_link((a, b), seconds(5));
        }
        self.trouble(seconds(600));
        self.head_trouble_until = self.trouble_until;
    }

    fn heal(&mut self) {
        let cuts = std::mem::take(&mut self.network.cuts);
        self.schedule(Duration::ZERO, Event::Heal { ways: cuts.into_iter().collect() });
        self.trouble_until = self.now + seconds(30);
        self.head_trouble_until = self.trouble_until;
    }

    fn freeze(&mut self, node: NodeId, stretch: Duration) {
        self.hosts.get_mut(&node).unwrap().is_frozen = true;
        self.trouble(stretch);
        self.head_trouble_until = self.trouble_until;
        self.schedule(stretch, Event::Resume { node });
        for way in self.ways_of(node) {
            self.break_link(way, seconds(6));
        }
    }

    /// Everybody of a role.
    fn all(&self, role: Role) -> Vec<NodeId> {
        self.hosts.values().filter(|host| host.role == role).map(|host| host.id).collect()
    }

    fn fence_of_leader(&self, node: NodeId) -> Option<Fence> {
        match self.hosts.get(&node)?.node.as_ref()? {
            Node::Manager { manager, .. } => manager.leading(),
            Node::Gate { .. } | Node::Worker { .. } => None,
        }
    }

    /// The manager that leads with the highest fence, if it is confirmed.
    fn leading_manager(&self) -> Option<NodeId> {
        let managers = self.all(Role::Manager).into_iter();
        let confirmed = managers.filter(|node| {
            let host = &self.hosts[node];
            let local = host.clock.local(self.now);
            match host.node.as_ref() {
                Some(Node::Manager { manager, .. }) => manager.leading_at(local).is_some(),
                Some(Node::Gate { .. } | Node::Worker { .. }) | None => false,
            }
        });
        confirmed.max_by_key(|node| self.fence_of_leader(*node))
    }

    /// The gate that leads the gates' ledger and hears of a majority.
    fn leading_gate(&self) -> Option<NodeId> {
        self.all(Role::Gate).into_iter().find(|node| {
            let host = &self.hosts[node];
            let local = host.clock.local(self.now);
            match host.node.as_ref() {
                Some(Node::Gate { gate, .. }) => gate.leads() && gate.has_quorum(local),
                Some(Node::Manager { .. } | Node::Worker { .. }) | None => false,
            }
        })
    }

    /// The last entry of the gates' ledger that a gate knows.
    fn applied(&self, node: NodeId) -> u64 {
        match self.hosts[&node].node.as_ref() {
            Some(Node::Gate { ledger, .. } | Node::Manager { ledger, .. }) => {
                ledger.status().applied
            }
            Some(Node::Worker { .. }) | None => 0,
        }
    }

    fn term(&self, node: NodeId) -> u64 {
        match self.hosts[&node].node.as_ref() {
            Some(Node::Gate { ledger, .. } | Node::Manager { ledger, .. }) => ledger.status().term,
            Some(Node::Worker { .. }) | None => 0,
        }
    }

    /// Whether all that are up of a role hold the same decided state.
    fn agree(&self, role: Role) -> bool {
        let states: Vec<String> = (self.all(role).iter())
            .filter_map(|node| match self.hosts[node].node.as_ref()? {
                Node::Gate { gate, .. } => Some(format!("{:?}", gate.state())),
                Node::Manager { manager, .. } => Some(format!("{:?}", manager.state())),
                Node::Worker { .. } => None,
            })
            .collect();
        states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Lives until the client has learned all that it wants; gives what came of each job.
    #[track_caller]
    fn finish(&mut self) -> BTreeMap<String, Came> {
        let limit = self.now + seconds(120);
        while !self.is_quiet() && self.broken().is_none() {
            assert!(self.now < limit, "{} is not over", self.oracle.open());
            let next = self.now + seconds(1);
            self.live_until(next);
        }
        assert_eq!(self.broken(), None, "at {}", self.now);
        let gates = self.all(Role::Gate);
        let results = gates.iter().flat_map(|gate| {
            let disk = self.hosts[gate].disk.0.borrow();
            disk.results.values().cloned().collect::<Vec<_>>()
        });
        let mut came = BTreeMap::new();
        for result in results {
            let totals = &result.summary.totals;
            let this = Came {
                status: result.summary.status.clone(),
                requests: totals.requests,
                iterations: totals.iterations,
                partial: result.summary.partial,
            };
            let known = came.entry(result.plan.name.clone()).or_insert_with(|| this.clone());
            assert_eq!(*known, this, "two results of {}", result.plan.name);
        }
        came
    }

    /// What has arrived of a kind from a node since then.
    fn heard_from(
        &self,
        node: NodeId,
        since: Time,
        is: impl Fn(&Message) -> bool,
    ) -> Vec<(Time, NodeId)> {
        let heard = self.heard.iter().filter(|(at, from, ..)| *from == node && *at >= since);
        heard.filter(|(.., message)| is(message)).map(|(at, _, to, _)| (*at, *to)).collect()
    }
}

/// Whether a message gives load to a worker or lets it go on.
fn is_of_load(message: &Message) -> bool {
    matches!(
        message,
        Message::OfferAttempt(_) | Message::StartAttempt { .. } | Message::LeaseGranted { .. }
    )
}
