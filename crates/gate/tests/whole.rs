//! A whole system of one gate, one manager and some workers, with the real roles and ledgers, in
//! virtual time. Only the engine is a model: so many requests a window.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hyperscale_gate::{Gate, GateConfig, Reply, Request, RequestId};
use hyperscale_ledger::{Ledger, LedgerConfig, MemoryStore};
use hyperscale_manager::{Manager, ManagerConfig};
use hyperscale_model::{
    AttemptId, ClientId, DatacenterId, Incarnation, NodeId, Outcome, Time, WallTime,
};
use hyperscale_plan::{
    HttpSettings, Load, PLAN_FORMAT, Plan, RunSettings, Secrets, Slice, StepIndex, StepName,
    Workflow,
};
use hyperscale_report::JobResult;
use hyperscale_stats::{Recorder, Sample, WindowFigures};
use hyperscale_wire::{AttemptEnd, Message};
use hyperscale_worker::{EngineCommand, EngineEvent, Worker, WorkerConfig};

const GATE: NodeId = NodeId(1);
const MANAGER: NodeId = NodeId(2);
/// Requests of each user in a window.
const PER_USER: u64 = 3;

/// What the modelled engine runs.
struct Running {
    users: u64,
    next_window: u64,
    last_window: u64,
}

struct World {
    now: Time,
    gate: Gate,
    gate_ledger: Ledger,
    manager: Manager,
    manager_ledger: Ledger,
    workers: BTreeMap<NodeId, Worker>,
    prepared: BTreeMap<(NodeId, AttemptId), u64>,
    running: BTreeMap<(NodeId, AttemptId), Running>,
    sent: u64,
    flying: VecDeque<(NodeId, NodeId, Message)>,
    replies: BTreeMap<RequestId, Reply>,
    result: Option<std::sync::Arc<JobResult>>,
}

fn plan(vus: u32, seconds: u64) -> Plan {
    Plan {
        format: PLAN_FORMAT,
        name: "whole".to_owned(),
        description: None,
        labels: BTreeMap::new(),
        vars: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        http: HttpSettings::default(),
        data: Vec::new(),
        workflows: vec![Workflow {
            name: "front".to_owned(),
            after: Default::default(),
            load: Load::ConstantVus { vus, duration: Duration::from_secs(seconds) },
            steps: Vec::new(),
            locals: Vec::new(),
            publish: Vec::new(),
            start_after: Duration::ZERO,
            graceful_stop: Duration::from_secs(30),
            cores: None,
            on_error: Default::default(),
            vu_setup: Vec::new(),
            vu_teardown: Vec::new(),
            finally: Vec::new(),
        }],
        steps: vec![StepName { workflow: Default::default(), name: "front/get".to_owned() }],
        checks: Vec::new(),
        metrics: Vec::new(),
        thresholds: Vec::new(),
        run: RunSettings::default(),
        source: None,
    }
}

impl World {
    fn new(workers: u64) -> Self {
        let ledger = |node| {
            let store = Box::new(MemoryStore::default());
            Ledger::open(LedgerConfig::new(node), store, node.0, Time::ZERO).unwrap()
        };
        let datacenter = DatacenterId::from("local");
        let mut world = Self {
            now: Time::ZERO,
            gate: Gate::new(GateConfig::new(GATE, WallTime(1_000_000), [7; 32]), 1),
            gate_ledger: ledger(GATE),
            manager: Manager::new(ManagerConfig::new(MANAGER, datacenter, WallTime(1_000_000))),
            manager_ledger: ledger(MANAGER),
            workers: BTreeMap::new(),
            prepared: BTreeMap::new(),
            running: BTreeMap::new(),
            sent: 0,
            flying: VecDeque::new(),
            replies: BTreeMap::new(),
            result: None,
        };
        use hyperscale_ledger::Input as L;
        world.gate_ledger.handle(Time::ZERO, L::Bootstrap { voters: vec![GATE] });
        world.manager_ledger.handle(Time::ZERO, L::Bootstrap { voters: vec![MANAGER] });
        world
            .gate
            .handle(Time::ZERO, hyperscale_gate::Input::ManagerConnected { manager: MANAGER });
        world.manager.handle(Time::ZERO, hyperscale_manager::Input::GateConnected { gate: GATE });
        for id in 10..10 + workers {
            let (worker, incarnation) = (NodeId(id), Incarnation(1));
            world.workers.insert(worker, Worker::new(WorkerConfig::new(2)));
            let connected = hyperscale_manager::Input::WorkerConnected { worker, incarnation };
            world.manager.handle(Time::ZERO, connected);
            let connected = hyperscale_worker::Input::Connected { manager: MANAGER };
            world.workers.get_mut(&worker).unwrap().handle(Time::ZERO, connected);
        }
        world.settle();
        world
    }

    /// Delivers everything that can be delivered now.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the world does not settle at {}", self.now);
            if !(self.step_ledgers() | self.step_gate() | self.step_manager() | self.step_workers())
                && self.flying.is_empty()
            {
                return;
            }
            while let Some((from, to, message)) = self.flying.pop_front() {
                let now = self.now;
                if to == GATE {
                    self.gate.handle(now, hyperscale_gate::Input::Message { from, message });
                } else if to == MANAGER {
                    self.manager.handle(now, hyperscale_manager::Input::Message { from, message });
                } else if let Some(worker) = self.workers.get_mut(&to) {
                    worker.handle(now, hyperscale_worker::Input::Message { from, message });
                }
            }
        }
    }

    fn step_ledgers(&mut self) -> bool {
        use hyperscale_gate::Input as G;
        use hyperscale_ledger::Output as L;
        use hyperscale_manager::Input as M;
        let now = self.now;
        let of_gate: Vec<L> = self.gate_ledger.drain().collect();
        let of_manager: Vec<L> = self.manager_ledger.drain().collect();
        let moved = !of_gate.is_empty() || !of_manager.is_empty();
        for output in of_gate {
            match output {
                L::Committed { index, entry, proposal } => {
                    self.gate.handle(now, G::Committed { index, entry, proposal });
                }
                L::Refused { proposal } => self.gate.handle(now, G::Refused { proposal }),
                L::Leadership { leads, .. } => self.gate.handle(now, G::Leadership { leads }),
                _ => {}
            }
        }
        for output in of_manager {
            match output {
                L::Committed { index, entry, proposal } => {
                    self.manager.handle(now, M::Committed { index, entry, proposal });
                }
                L::Refused { proposal } => self.manager.handle(now, M::Refused { proposal }),
                L::Leadership { leads, leader } => {
                    self.manager.handle(now, M::Leadership { leads, leader });
                }
                L::Confirmed { until } => self.manager.handle(now, M::Confirmed { until }),
                _ => {}
            }
        }
        moved
    }

    fn step_gate(&mut self) -> bool {
        use hyperscale_gate::Output as O;
        let outputs: Vec<O> = self.gate.drain().collect();
        let moved = !outputs.is_empty();
        for output in outputs {
            match output {
                O::Send { to, message } => self.flying.push_back((GATE, to, message)),
                O::Propose { proposal, entry } => {
                    let input = hyperscale_ledger::Input::Propose { proposal, entry };
                    self.gate_ledger.handle(self.now, input);
                }
                O::Reply { id, reply } => drop(self.replies.insert(id, reply)),
                O::StoreResult { result } => self.result = Some(result),
                O::Event(hyperscale_gate::Event::Malformed { what, error }) => {
                    panic!("{what}: {error}");
                }
                _ => {}
            }
        }
        moved
    }

    fn step_manager(&mut self) -> bool {
        use hyperscale_manager::Output as O;
        let outputs: Vec<O> = self.manager.drain().collect();
        let moved = !outputs.is_empty();
        for output in outputs {
            match output {
                O::Send { to, message } => self.flying.push_back((MANAGER, to, message)),
                O::Propose { proposal, entry } => {
                    let input = hyperscale_ledger::Input::Propose { proposal, entry };
                    self.manager_ledger.handle(self.now, input);
                }
                O::Event(hyperscale_manager::Event::Malformed { what, error }) => {
                    panic!("{what}: {error}");
                }
                _ => {}
            }
        }
        moved
    }

    fn step_workers(&mut self) -> bool {
        use hyperscale_worker::Output as O;
        let mut moved = false;
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let outputs: Vec<O> = self.workers.get_mut(&id).unwrap().drain().collect();
            moved |= !outputs.is_empty();
            for output in outputs {
                match output {
                    O::Send { to, message } => self.flying.push_back((id, to, message)),
                    O::Engine(command) => self.engine(id, command),
                    O::Event(_) | O::Drained => {}
                }
            }
        }
        moved
    }

    fn engine(&mut self, worker: NodeId, command: EngineCommand) {
        match command {
            EngineCommand::Prepare(preparation) => {
                let attempt = preparation.assignment.attempt;
                let vus = u64::from(preparation.plan.workflows[0].load.vus_max());
                let slice: &Slice = &preparation.assignment.slice;
                self.prepared.insert((worker, attempt), slice.count(vus));
                self.tell(worker, EngineEvent::Prepared { attempt });
            }
            EngineCommand::Start { attempt, job_elapsed, load_elapsed, .. } => {
                let users = self.prepared[&(worker, attempt)];
                let next_window = job_elapsed.as_secs();
                let last_window = next_window + 20 - load_elapsed.as_secs();
                let running = Running { users, next_window, last_window };
                self.running.insert((worker, attempt), running);
            }
            EngineCommand::Suspend { .. } | EngineCommand::Resume { .. } => {}
            EngineCommand::Stop { attempt, .. } => {
                self.running.remove(&(worker, attempt));
                let (end, published) = (AttemptEnd::Stopped, BTreeMap::new());
                self.tell(worker, EngineEvent::Ended { attempt, end, published });
            }
            EngineCommand::Discard { attempt } => drop(self.running.remove(&(worker, attempt))),
        }
    }

    fn tell(&mut self, worker: NodeId, event: EngineEvent) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.handle(self.now, hyperscale_worker::Input::Engine(event));
        }
    }

    /// One window of load on every worker that lives.
    fn load(&mut self) {
        for (worker, attempt) in self.running.keys().copied().collect::<Vec<_>>() {
            let running = self.running.get_mut(&(worker, attempt)).unwrap();
            let (users, window) = (running.users, running.next_window);
            running.next_window += 1;
            let is_over = running.next_window >= running.last_window;
            let mut recorder = Recorder::new(1, 0, 0);
            for _ in 0..users * PER_USER {
                let latency = Duration::from_millis(5);
                recorder.request(
                    StepIndex(0),
                    &Sample {
                        outcome: Outcome::Ok,
                        status: Some(200),
                        latency,
                        service_time: latency,
                        first_byte: None,
                        connect: None,
                        tls: None,
                        bytes_in: 10,
                        bytes_out: 10,
                    },
                );
            }
            self.sent += users * PER_USER;
            let figures =
                Box::new(WindowFigures { figures: recorder.take(), ..Default::default() });
            self.tell(worker, EngineEvent::Window { attempt, window, figures });
            if is_over {
                self.running.remove(&(worker, attempt));
                let (end, published) = (AttemptEnd::Finished, BTreeMap::new());
                self.tell(worker, EngineEvent::Ended { attempt, end, published });
            }
        }
    }

    fn run(&mut self, until: Time) {
        while self.now < until && self.result.is_none() {
            self.now += Duration::from_millis(100);
            if self.now.as_nanos().is_multiple_of(1_000_000_000) {
                self.load();
            }
            let now = self.now;
            self.gate_ledger.handle(now, hyperscale_ledger::Input::Tick);
            self.manager_ledger.handle(now, hyperscale_ledger::Input::Tick);
            self.gate.handle(now, hyperscale_gate::Input::Tick);
            self.manager.handle(now, hyperscale_manager::Input::Tick);
            for worker in self.workers.values_mut() {
                worker.handle(now, hyperscale_worker::Input::Tick);
            }
            self.settle();
        }
    }

    fn submit(&mut self, plan: &Plan) {
        let request = Request::Submit {
            key: "once".to_owned(),
            plan: plan.to_bytes(),
            blobs: Vec::new(),
            secrets: Secrets::default(),
        };
        let (id, client) = (RequestId(1), ClientId::from("test"));
        self.gate.handle(self.now, hyperscale_gate::Input::Request { id, client, request });
        self.settle();
    }
}

#[test]
fn sta_03_a_job_without_faults_counts_exactly_what_was_sent() {
    let mut world = World::new(3);
    world.run(Time::from_secs(2));

    world.submit(&plan(7, 20));
    world.run(Time::from_secs(60));

    assert!(matches!(world.replies[&RequestId(1)], Reply::Accepted { .. }), "{:?}", world.replies);
    let result = world.result.expect("the job ends");
    assert_eq!(result.summary.status, "completed");
    assert_eq!(result.summary.totals.requests, world.sent);
    assert_eq!(world.sent, 7 * PER_USER * 20);
    assert!(!result.summary.partial);
}

#[test]
fn orp_04_a_dead_workers_load_goes_on_elsewhere_after_its_lease_and_the_gap_is_told() {
    let mut world = World::new(3);
    world.run(Time::from_secs(2));
    let mut plan = plan(6, 20);
    plan.workflows[0].cores = Some(3); // One core of each worker: the others have room.
    world.submit(&plan);
    world.run(Time::from_secs(5));

    let dead = *world.workers.keys().next().unwrap();
    world.workers.remove(&dead);
    world.running.retain(|(worker, _), _| *worker != dead);
    let node = dead;
    world.manager.handle(world.now, hyperscale_manager::Input::Disconnected { node });
    world.run(Time::from_secs(60));

    let result = world.result.expect("the job ends");
    assert_eq!(result.summary.status, "completed");
    assert_eq!(result.summary.totals.requests, world.sent, "what arrived is what was sent");
    assert!(result.summary.partial, "load is missing");
    assert_eq!(result.summary.gaps.len(), 1, "{:?}", result.summary.gaps);
    let gap = &result.summary.gaps[0];
    assert!(gap.to_ms - gap.from_ms <= 13_500, "the load is back within lease + 3 s: {gap:?}");
}
