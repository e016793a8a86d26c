#![expect(clippy::wildcard_enum_match_arm, reason = "tests look at a few messages of many")]

use hyperscale_model::{DeltaSeq, JobId, PartIndex, Pressure};
use hyperscale_plan::expr::{Expr, Var};
use hyperscale_plan::{
    Action, After, DataIndex, DataSource, HttpSettings, Load, LoadSteering, OnEnd, PLAN_FORMAT,
    Pause, Pick, RunSettings, Slice, Step, StepName, Workflow,
};
use hyperscale_wire::{
    AttemptEnd, AttemptPhase, AttemptReport, AttemptSummary, RefuseAttempt, StopMode, StopReason,
};

use super::*;

mod dependencies;
mod leadership;
mod stops;
mod workers;

const GATE: NodeId = NodeId(1);
const MANAGER: NodeId = NodeId(2);
const WORKER: NodeId = NodeId(10);
const FENCE: Fence = Fence(3);

fn part() -> PartId {
    PartId { job: JobId::from_parts(1, 1), part: PartIndex(0) }
}

pub(crate) fn workflow(name: &str, after: After) -> Workflow {
    Workflow {
        name: name.to_owned(),
        after,
        load: Load::ConstantVus { vus: 4, duration: Duration::from_secs(20) },
        steps: Vec::new(),
        locals: Vec::new(),
        publish: Vec::new(),
        start_after: Duration::ZERO,
        graceful_stop: Duration::from_secs(5),
        cores: None,
        on_error: Default::default(),
        vu_setup: Vec::new(),
        vu_teardown: Vec::new(),
        finally: Vec::new(),
    }
}

pub(crate) fn plan(workflows: Vec<Workflow>) -> Plan {
    Plan {
        format: PLAN_FORMAT,
        name: "test".to_owned(),
        description: None,
        labels: BTreeMap::new(),
        vars: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        http: HttpSettings::default(),
        data: Vec::new(),
        workflows,
        steps: vec![StepName { workflow: Default::default(), name: "a/get".to_owned() }],
        checks: Vec::new(),
        metrics: Vec::new(),
        thresholds: Vec::new(),
        run: RunSettings::default(),
        source: None,
    }
}

fn running(attempt: AttemptId) -> AttemptReport {
    AttemptReport {
        attempt,
        phase: AttemptPhase::Running,
        cores: 2,
        steered: 0,
        rows_until: 0,
        rows_wanted: 0,
        job_time: None,
    }
}

/// A manager whose proposals are decided at once.
struct Desk {
    now: Time,
    index: u64,
    manager: Manager,
    sent: Vec<(NodeId, Message)>,
    events: Vec<Event>,
    log: Vec<Vec<u8>>,
    blobs: Vec<Arc<[u8]>>,
    version: u64,
    /// Whether other datacenters have the rest of each load.
    is_shared: bool,
}

impl Desk {
    fn new() -> Self {
        let config = ManagerConfig::new(MANAGER, DatacenterId::from("eu"), WallTime(1_000));
        let mut desk = Self {
            now: Time::ZERO,
            index: 0,
            manager: Manager::new(config),
            sent: Vec::new(),
            events: Vec::new(),
            log: Vec::new(),
            blobs: Vec::new(),
            version: 0,
            is_shared: false,
        };
        desk.input(Input::Leadership { leads: true, leader: Some(MANAGER) });
        desk.input(Input::Confirmed { until: Time::from_nanos(u64::MAX) });
        desk
    }

    fn input(&mut self, input: Input) {
        self.manager.handle(self.now, input);
        let before = self.index;
        loop {
            assert!(self.index < before + 1_000, "each decision leads to the next, for ever");
            let outputs: Vec<Output> = self.manager.drain().collect();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send { to, message } => self.sent.push((to, message)),
                    Output::Event(event) => self.events.push(event),
                    Output::Propose { proposal, entry } => {
                        self.index += 1;
                        self.log.push(entry.clone());
                        let (index, proposal) = (self.index, Some(proposal));
                        let committed = Input::Committed { index, entry, proposal };
                        self.manager.handle(self.now, committed);
                    }
                    _ => {}
                }
            }
        }
    }

    fn message(&mut self, from: NodeId, message: Message) {
        self.input(Input::Message { from, message });
    }

    /// Ticks whenever that is due.
    fn wait(&mut self, duration: Duration) -> u32 {
        let (end, mut ticks) = (self.now + duration, 0);
        while let Some(next) = self.manager.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Tick);
            ticks += 1;
            assert!(ticks < 10_000, "the manager spins at {}", self.now);
        }
        self.now = end;
        ticks
    }

    fn take(&mut self) -> Vec<(NodeId, Message)> {
        std::mem::take(&mut self.sent)
    }

    fn connect_gate(&mut self) {
        self.input(Input::GateConnected { gate: GATE });
    }

    fn connect_worker(&mut self, worker: NodeId) {
        self.input(Input::WorkerConnected { worker, incarnation: Incarnation(1) });
        self.renew(worker, Vec::new());
    }

    fn renew(&mut self, worker: NodeId, attempts: Vec<AttemptReport>) {
        self.version += 1;
        let version = Version(self.version);
        let report = WorkerReport {
            version,
            cores: 2,
            is_draining: false,
            software: String::new(),
            attempts,
        };
        self.message(worker, Message::RenewLease { sent_at: Time::ZERO, report });
    }

    fn offer(&mut self, plan: &Plan) {
        self.offer_part(part(), plan);
    }

    fn offer_part(&mut self, part: PartId, plan: &Plan) {
        let bytes: Arc<[u8]> = plan.to_bytes().into();
        let hash = hyperscale_blobs::hash_of(&bytes);
        self.blobs.push(Arc::clone(&bytes));
        self.input(Input::Blob { bytes });
        let offer = PartOffer {
            part,
            fence: FENCE,
            plan: hash,
            slice: Slice::whole(),
            rows: Slice::whole(),
            is_shared: self.is_shared,
            window: Duration::from_secs(1),
            secrets: Secrets::default(),
        };
        self.message(GATE, Message::OfferPart(Box::new(offer)));
    }

    fn start(&mut self) {
        let start = Message::StartPart { part: part(), fence: FENCE, start_in: Duration::ZERO };
        self.message(GATE, start);
    }

    fn delta(&mut self, attempt: AttemptId, seq: u64) {
        let figures = hyperscale_stats::WindowFigures { vus: 4, ..Default::default() };
        let (window, seq) = (seq - 1, DeltaSeq(seq));
        let delta = hyperscale_stats::Delta { attempt, seq, window, span: 1, figures };
        self.message(WORKER, Message::Delta(Box::new(delta)));
    }

    fn acknowledge(&mut self, attempt: AttemptId, through: u64) {
        let (through, iterations) = (DeltaSeq(through), 0);
        let (until, pressure) = (Duration::ZERO, Pressure::None);
        let ack = Message::DeltaAck { attempt, through, iterations, until, pressure };
        self.message(GATE, ack);
    }

    /// What the last lease says.
    fn granted(&mut self) -> (Vec<(AttemptId, StopMode)>, Vec<AttemptId>) {
        let granted = self.take().into_iter().rev().find_map(|(_, message)| match message {
            Message::LeaseGranted { stop, forget, .. } => Some((stop, forget)),
            _ => None,
        });
        granted.unwrap()
    }

    /// The manager loses its leadership and has it again.
    fn lead_anew(&mut self) {
        self.input(Input::Leadership { leads: false, leader: None });
        self.input(Input::Leadership { leads: true, leader: Some(MANAGER) });
        self.input(Input::Confirmed { until: Time::from_nanos(u64::MAX) });
    }

    /// The manager dies, and another one with the same ledger leads: nothing of what only a leader
    /// knows is left.
    fn hand_over(&mut self, node: NodeId) {
        let config = ManagerConfig::new(node, DatacenterId::from("eu"), WallTime(1_000));
        self.manager = Manager::new(config);
        for bytes in self.blobs.clone() {
            self.input(Input::Blob { bytes });
        }
        for (entry, index) in self.log.clone().into_iter().zip(1..) {
            self.input(Input::Committed { index, entry, proposal: None });
        }
        self.input(Input::Leadership { leads: true, leader: Some(node) });
        self.input(Input::Confirmed { until: Time::from_nanos(u64::MAX) });
        self.take();
        self.connect_gate();
    }

    /// What the gate is told of the datacenter's free cores.
    fn free_cores(&mut self) -> u32 {
        self.message(GATE, Message::Probe { number: 1, removed: Vec::new() });
        let free = self.sent.iter().rev().find_map(|(_, message)| match message {
            Message::ProbeAck { status, .. } => Some(status.free_cores),
            _ => None,
        });
        free.unwrap()
    }

    fn accept(&mut self, worker: NodeId, attempt: AttemptId) {
        self.message(worker, Message::AttemptAccepted { attempt, fence: Fence(1) });
    }

    fn attempt_ended(&mut self, worker: NodeId, attempt: AttemptId, end: AttemptEnd) {
        let end = AttemptSummary {
            end,
            last_delta: DeltaSeq::NONE,
            published: BTreeMap::new(),
            draws_made: None,
        };
        self.message(worker, Message::AttemptEnded { attempt, end });
    }

    fn part(&self) -> &state::Part {
        &self.manager.state().parts[&part()]
    }

    fn open(&self) -> Vec<(AttemptId, NodeId)> {
        let open = self.manager.state().open_attempts();
        open.map(|(id, attempt)| (id, attempt.worker)).collect()
    }

    fn stop(&mut self, mode: StopMode) {
        let reason = StopReason::Cancelled { by: "someone".to_owned() };
        self.message(GATE, Message::StopPart { part: part(), fence: FENCE, reason, mode });
    }
}

/// One of three managers, which has heard of the other two.
fn one_of_three(node: NodeId, are_founded: bool) -> Manager {
    let mut config = ManagerConfig::new(node, DatacenterId::from("eu"), WallTime(1_000));
    config.managers = 3;
    let mut manager = Manager::new(config);
    for peer in [2, 3, 4].map(NodeId).into_iter().filter(|peer| *peer != node) {
        manager.handle(Time::ZERO, Input::ManagerConnected { manager: peer });
        assert_eq!(founded_by(&mut manager), None, "{peer} has not said how it stands");
        let message = Message::PeerStatus {
            is_founded: are_founded,
            lost: Vec::new(),
            software: SOFTWARE.to_owned(),
            is_removed: false,
            overload: OverloadState::Healthy,
        };
        manager.handle(Time::ZERO, Input::Message { from: peer, message });
    }
    manager
}

fn founded_by(manager: &mut Manager) -> Option<Vec<NodeId>> {
    manager.drain().find_map(|output| match output {
        Output::Found { voters } => Some(voters),
        _ => None,
    })
}

#[test]
fn one_manager_founds_the_ledger_and_only_where_there_is_none() {
    let all = [2, 3, 4].map(NodeId).to_vec();

    assert_eq!(founded_by(&mut one_of_three(NodeId(2), false)), Some(all));
    assert_eq!(founded_by(&mut one_of_three(NodeId(3), false)), None);
    assert_eq!(founded_by(&mut one_of_three(NodeId(2), true)), None);
}

#[test]
fn syn_05_an_entry_waits_until_a_majority_has_what_it_names() {
    let mut desk = Desk::new();
    desk.manager = one_of_three(MANAGER, true);
    desk.input(Input::Leadership { leads: true, leader: Some(MANAGER) });
    desk.input(Input::Confirmed { until: Time::from_nanos(u64::MAX) });
    desk.connect_gate();
    desk.take();

    desk.offer(&plan(vec![workflow("a", After::default())]));
    let asked: Vec<(NodeId, BlobHash)> = (desk.take().into_iter())
        .filter_map(|(to, message)| match message {
            Message::KeepBlob { hash } => Some((to, hash)),
            _ => None,
        })
        .collect();
    assert_eq!(asked.iter().map(|(to, _)| to.0).collect::<Vec<_>>(), [3, 4]);
    assert!(desk.manager.state().parts.is_empty(), "nobody else holds the plan");

    desk.message(NodeId(4), Message::BlobKept { hash: asked[0].1 });

    assert!(desk.manager.state().parts.contains_key(&part()));
}

#[test]
fn lse_01_an_unconfirmed_leader_renews_no_lease() {
    let mut desk = Desk::new();
    desk.connect_worker(WORKER);
    desk.input(Input::Confirmed { until: Time::from_secs(2) });
    desk.take();

    desk.now = Time::from_secs(2);
    desk.renew(WORKER, Vec::new());

    let answers = desk.take();
    assert!(answers.contains(&(WORKER, Message::NotLeader { leader: None })), "{answers:?}");
    let is_grant = |message: &Message| matches!(message, Message::LeaseGranted { .. });
    assert!(!answers.iter().any(|(_, message)| is_grant(message)), "{answers:?}");
}

#[test]
fn syn_03_a_new_leader_calls_its_workers_until_they_answer() {
    let mut desk = Desk::new();
    desk.connect_worker(WORKER);
    desk.lead_anew();
    desk.take();
    desk.wait(Duration::from_millis(700));
    let calls = |sent: Vec<(NodeId, Message)>| {
        sent.iter().filter(|(_, message)| matches!(message, Message::Lead { .. })).count()
    };
    assert_eq!(calls(desk.take()), 1);

    desk.renew(WORKER, Vec::new());
    desk.wait(Duration::from_secs(10));

    assert_eq!(calls(desk.take()), 0);
}

#[test]
fn a_manager_without_a_gate_waits_instead_of_spinning() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let (attempt, _) = desk.manager.state().open_attempts().next().unwrap();
    desk.input(Input::Disconnected { node: GATE });
    desk.delta(attempt, 1);

    let ticks = desk.wait(Duration::from_secs(10));

    assert!(ticks < 100, "{ticks} ticks in 10 s");
}

#[test]
fn an_attempt_is_not_offered_to_a_later_life_of_its_worker() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    // What was counted is not known to the new leader before the gate says so: nothing is closed.
    desk.input(Input::Disconnected { node: GATE });
    desk.lead_anew();
    desk.take();

    let incarnation = Incarnation(2);
    desk.input(Input::WorkerConnected { worker: WORKER, incarnation });
    desk.renew(WORKER, Vec::new());
    desk.wait(Duration::from_secs(3));

    let offers = desk.take().into_iter().filter(|(_, m)| matches!(m, Message::OfferAttempt(_)));
    assert_eq!(offers.count(), 0);
}

#[test]
fn a_part_that_is_stopped_before_its_start_ends_with_all_its_workflows() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    let after = After { workflows: vec![WorkflowIndex(0)], any_end: true };
    desk.offer(&plan(vec![workflow("a", After::default()), workflow("b", after)]));

    desk.stop(StopMode::Graceful);

    let ended = desk.manager.state().parts[&part()].ended.clone();
    assert_eq!(ended, Some(EndStatus::Cancelled { by: "someone".to_owned() }));
}

#[test]
fn a_worker_that_missed_an_acknowledgement_gets_it_again() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let (attempt, _) = desk.manager.state().open_attempts().next().unwrap();
    desk.delta(attempt, 1);
    desk.acknowledge(attempt, 1);
    desk.take();

    desk.delta(attempt, 1);

    let is_ack = |(to, message): &(NodeId, Message)| {
        *to == WORKER && matches!(message, Message::DeltaAck { through: DeltaSeq(1), .. })
    };
    assert!(desk.take().iter().any(is_ack));
}

#[test]
fn a_report_that_comes_late_makes_no_worker_forget() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.renew(WORKER, Vec::new());
    desk.take();
    let shard = hyperscale_model::ShardId {
        job: part().job,
        part: part().part,
        workflow: WorkflowIndex(0),
        shard: Default::default(),
    };
    let attempt = AttemptId { shard, number: hyperscale_model::AttemptNumber(1) };
    desk.version = 0;

    desk.renew(WORKER, vec![running(attempt)]);

    let is_forget = |(_, message): &(NodeId, Message)| matches!(message, Message::LeaseGranted { forget, .. } if !forget.is_empty());
    assert!(!desk.take().iter().any(is_forget));
}

#[test]
fn a_worker_forgets_a_lost_attempt_only_once_the_gate_has_counted_it() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let (attempt, _) = desk.manager.state().open_attempts().next().unwrap();
    desk.renew(WORKER, vec![running(attempt)]);
    desk.delta(attempt, 1);
    desk.input(Input::Disconnected { node: WORKER });
    desk.wait(Duration::from_secs(15));
    assert!(desk.manager.state().attempt(attempt).unwrap().closed.is_some());
    desk.take();

    desk.input(Input::WorkerConnected { worker: WORKER, incarnation: Incarnation(1) });
    desk.renew(WORKER, vec![running(attempt)]);
    let (stop, forget) = desk.granted();
    assert_eq!((stop, forget), (vec![(attempt, StopMode::Now)], vec![]));
    desk.acknowledge(attempt, 1);
    desk.renew(WORKER, vec![running(attempt)]);

    let (stop, forget) = desk.granted();
    assert_eq!((stop, forget), (vec![], vec![attempt]));
}

#[test]
fn wrk_03_two_lost_shards_do_not_get_the_same_core() {
    let mut desk = Desk::new();
    desk.connect_gate();
    let (first, second, third) = (NodeId(11), NodeId(12), NodeId(13));
    let mut workflows = vec![workflow("a", After::default()), workflow("b", After::default())];
    workflows.iter_mut().for_each(|workflow| workflow.cores = Some(2));
    for worker in [first, second] {
        desk.connect_worker(worker);
    }
    desk.offer(&plan(workflows));
    desk.start();
    assert_eq!(desk.manager.state().open_attempts().count(), 4);
    // All four are lost at once; the worker that takes their place has two cores.
    for node in [first, second] {
        desk.input(Input::Disconnected { node });
    }
    desk.wait(Duration::from_secs(11));
    desk.connect_worker(third);
    desk.wait(Duration::from_secs(3));

    let mut given: BTreeMap<NodeId, u32> = BTreeMap::new();
    for (_, attempt) in desk.manager.state().open_attempts() {
        *given.entry(attempt.worker).or_default() += attempt.cores;
    }
    assert_eq!(given, [(third, 2)].into());
}

#[test]
fn a_test_that_asks_to_stop_is_heard_even_if_its_attempt_is_closed_at_once() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    let later = After { workflows: vec![WorkflowIndex(0)], any_end: false };
    desk.offer(&plan(vec![workflow("a", After::default()), workflow("b", later)]));
    desk.start();
    let (attempt, _) = desk.manager.state().open_attempts().next().unwrap();
    desk.renew(WORKER, vec![running(attempt)]);

    let message = "enough".to_owned();
    let end = hyperscale_wire::AttemptSummary {
        end: hyperscale_wire::AttemptEnd::Aborted { message: message.clone() },
        last_delta: DeltaSeq::NONE,
        published: BTreeMap::new(),
        draws_made: None,
    };
    desk.message(WORKER, Message::AttemptEnded { attempt, end });

    let cause = hyperscale_model::FailureCause::Test { message };
    let ended = desk.manager.state().parts[&part()].ended.clone();
    assert_eq!(ended, Some(EndStatus::Failed { cause }));
}

#[test]
fn orp_04_a_lost_shard_goes_on_beside_a_sibling_if_no_core_is_free() {
    let mut desk = Desk::new();
    desk.connect_gate();
    let (lost, left) = (NodeId(11), NodeId(12));
    desk.connect_worker(lost);
    desk.connect_worker(left);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let open = |desk: &Desk| -> Vec<(AttemptId, NodeId, AttemptId)> {
        let open = desk.manager.state().open_attempts();
        open.map(|(id, attempt)| (id, attempt.worker, attempt.seat)).collect()
    };
    let first = open(&desk);
    assert_eq!(first.len(), 2, "one shard a worker, each with both cores");
    for (attempt, worker, _) in &first {
        desk.message(*worker, Message::AttemptAccepted { attempt: *attempt, fence: Fence(1) });
        desk.renew(*worker, vec![running(*attempt)]);
    }

    let stays = first.iter().find(|(_, worker, _)| *worker == left).unwrap().0;
    desk.input(Input::Disconnected { node: lost });
    for _ in 0..15 {
        desk.wait(Duration::from_secs(1));
        desk.renew(left, vec![running(stays)]);
    }

    let second = open(&desk);
    let taken = second.iter().find(|(attempt, ..)| *attempt != stays).copied().unwrap();
    assert_eq!((taken.0.number.0, taken.1, taken.2), (2, left, stays));
    assert_eq!(desk.manager.state().cores_used(left), 2, "shared cores count once");
}

fn steering(version: u64, is_paused: bool) -> hyperscale_plan::Steering {
    hyperscale_plan::Steering { version, is_paused, ..Default::default() }
}

impl Desk {
    fn steer(&mut self, steering: hyperscale_plan::Steering) {
        self.message(GATE, Message::SteerPart { part: part(), fence: FENCE, steering });
    }

    /// Runs a part of one workflow on a worker; gives its attempt.
    fn run(&mut self) -> AttemptId {
        self.run_plan(&plan(vec![workflow("a", After::default())]))
    }

    fn run_plan(&mut self, plan: &Plan) -> AttemptId {
        self.connect_gate();
        self.connect_worker(WORKER);
        self.offer(plan);
        self.start();
        self.wait(Duration::from_millis(10));
        let (attempt, _) = self.manager.state().open_attempts().next().unwrap();
        self.message(WORKER, Message::AttemptAccepted { attempt, fence: Fence(1) });
        self.wait(Duration::from_millis(300));
        self.renew(WORKER, vec![running(attempt)]);
        self.take();
        attempt
    }

    /// What workers were told of steering, at once and with their leases.
    fn steered(&mut self) -> (Vec<LoadSteering>, Vec<LoadSteering>) {
        let (mut told, mut granted) = (Vec::new(), Vec::new());
        for (_, message) in self.take() {
            match message {
                Message::SteerAttempt { steering, .. } => told.push(steering),
                Message::LeaseGranted { steer, .. } => {
                    granted.extend(steer.into_iter().map(|(_, steering)| steering));
                }
                _ => {}
            }
        }
        (told, granted)
    }
}

#[test]
fn dat_02_a_change_goes_to_workers_at_once_and_with_each_lease_until_they_have_it() {
    let mut desk = Desk::new();
    let attempt = desk.run();

    desk.steer(steering(7, true));
    let (told, _) = desk.steered();
    desk.renew(WORKER, vec![running(attempt)]);
    let (_, missed) = desk.steered();
    desk.renew(WORKER, vec![AttemptReport { steered: 1, ..running(attempt) }]);
    let (_, heard) = desk.steered();

    assert!(told.iter().all(|steering| steering.pauses.is_paused(Duration::from_secs(5))));
    assert_eq!((told.len(), missed.len(), heard.len()), (1, 1, 0), "told until it has it");
}

#[test]
fn dat_02_an_older_value_never_comes_back_after_a_takeover() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    desk.steer(steering(7, true));
    desk.steer(steering(9, false));
    desk.lead_anew();
    desk.take();

    desk.steer(steering(7, true));
    desk.renew(WORKER, vec![AttemptReport { steered: 1, ..running(attempt) }]);

    let (told, granted) = desk.steered();
    let part = &desk.manager.state().parts[&part()];
    assert_eq!((part.steering.version, part.steering.is_paused), (9, false));
    assert_eq!(told, [], "an old value is no news");
    assert_eq!(granted.len(), 1, "the new leader goes on telling");
    assert!(!granted[0].pauses.is_paused(Duration::from_secs(5)));
}

#[test]
fn dat_02_a_stop_ends_a_pause_lest_what_runs_after_it_waits_for_ever() {
    let mut desk = Desk::new();
    desk.run();
    desk.steer(steering(7, true));

    desk.stop(StopMode::Graceful);
    desk.steer(steering(8, true));

    let part = &desk.manager.state().parts[&part()];
    assert!(!part.steering.is_paused);
    assert!(!part.pauses.is_paused(Duration::from_secs(60)));
}

#[test]
fn dat_02_a_paused_load_is_not_over_when_its_time_would_be() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    desk.steer(steering(7, true));

    for _ in 0..60 {
        desk.wait(Duration::from_secs(1));
        desk.renew(WORKER, vec![AttemptReport { steered: 1, ..running(attempt) }]);
    }
    // Its worker is gone then: what is left of the load runs elsewhere.
    let other = NodeId(11);
    desk.connect_worker(other);
    for _ in 0..20 {
        desk.wait(Duration::from_secs(1));
        desk.renew(other, Vec::new());
    }

    let open: Vec<_> = desk.manager.state().open_attempts().map(|(id, a)| (id, a.worker)).collect();
    assert_eq!(open.len(), 1, "the load has 20 s, and stood still for most of a minute");
    assert_eq!(open[0].1, other);
    let offers = desk.take().into_iter().filter_map(|(_, message)| match message {
        Message::OfferAttempt(assignment) => Some(*assignment),
        _ => None,
    });
    let offer = offers.last().unwrap();
    assert!(offer.steering.pauses.is_paused(Duration::from_secs(80)), "it starts as it is steered");
    // The lost worker said within about a second that it had stopped.
    assert!(offer.load_sent < Duration::from_secs(3), "{:?}", offer.load_sent);
}

#[test]
fn a_test_that_asks_to_stop_while_its_part_stops_is_heard_once() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    desk.delta(attempt, 1);
    desk.stop(StopMode::Graceful);
    desk.input(Input::Disconnected { node: GATE });
    let decided = desk.index;

    // Its last delta is not acknowledged, with the gate out of reach: the attempt stays open.
    let end = AttemptEnd::Aborted { message: "enough".to_owned() };
    let (published, draws_made) = (BTreeMap::new(), None);
    let end = AttemptSummary { end, last_delta: DeltaSeq(2), published, draws_made };
    desk.message(WORKER, Message::AttemptEnded { attempt, end });
    let ticks = desk.wait(Duration::from_secs(3));

    assert!(desk.manager.state().attempt(attempt).unwrap().closed.is_none());
    assert_eq!(desk.index, decided, "the part stops already: nothing is left to decide");
    assert!(ticks < 100, "{ticks} reviews in 3 s");
}

impl Desk {
    /// Lets time pass while the worker refuses whatever it is offered; counts that.
    fn refuse_for(&mut self, seconds: u64) -> usize {
        let mut refused = 0;
        for _ in 0..seconds * 4 {
            for (to, message) in self.take() {
                let Message::OfferAttempt(offer) = message else { continue };
                let (attempt, fence) = (offer.attempt, offer.fence);
                let why = RefuseAttempt::NoCores { free: 0 };
                self.message(to, Message::AttemptRefused { attempt, fence, why });
                refused += 1;
            }
            self.wait(Duration::from_millis(250));
            self.renew(WORKER, Vec::new());
        }
        refused
    }
}

#[test]
fn mem_10_a_worker_that_refuses_again_and_again_is_left_alone_for_a_while() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default()), workflow("b", After::default())]));
    desk.start();

    let first = desk.refuse_for(8);

    assert!((3..=4).contains(&first), "two shards, of which one may be tried twice: {first}");
    assert!(desk.refuse_for(6) > 0, "after ten seconds it is tried again");
}

#[test]
fn obs_04_a_leader_that_is_overloaded_is_told_once_and_once_when_it_is_well() {
    let mut desk = Desk::new();
    desk.manager.config.managers = 3; // So that it says something each second.
    let mut told = Vec::new();
    for second in 0..60 {
        desk.now = Time::from_secs(second);
        let input = match second {
            10 => Input::Overload(OverloadState::Overloaded),
            30 => Input::Overload(OverloadState::Healthy),
            _ => Input::Tick,
        };
        desk.manager.handle(desk.now, input);
        for output in desk.manager.drain() {
            if let Output::Event(Event::ManagersTrouble(crossing)) = output {
                told.push((second, crossing));
            }
        }
    }

    let (none, trouble) = (None, Some(ManagersTrouble::AllUnhealthy));
    let expected =
        [(15, Crossing { from: none, to: trouble }), (35, Crossing { from: trouble, to: none })];
    assert_eq!(told, expected, "it is the only one, and so all of them");
}

/// A plan whose users draw from so many unique rows, with their blob.
fn drawing(rows: u64) -> (Plan, Arc<[u8]>) {
    let blob: Arc<[u8]> =
        (0..rows).map(|row| format!("{row}\n")).collect::<String>().into_bytes().into();
    let source = DataSource {
        name: "users".to_owned(),
        blob: hyperscale_blobs::hash_of(&blob),
        rows,
        columns: None,
        pick: Pick::Unique,
        on_end: OnEnd::Stop,
    };
    let reads = Expr::Var(Var::Row(DataIndex(0)));
    let pause = Action::Pause(Pause::Constant(Duration::ZERO));
    let mut workflow = workflow("a", After::default());
    workflow.steps = vec![Step { when: Some(reads), action: pause }];
    (Plan { data: vec![source], ..plan(vec![workflow]) }, blob)
}

impl Desk {
    /// Runs a part that draws from so many unique rows.
    fn run_drawing(&mut self, rows: u64) -> AttemptId {
        let (plan, bytes) = drawing(rows);
        self.input(Input::Blob { bytes });
        self.run_plan(&plan)
    }

    /// The worker asks for rows; gives up to which it has been leased them since the last call.
    fn want_rows(&mut self, attempt: AttemptId, has: u64, wanted: u64) -> Vec<u64> {
        self.take();
        let report = AttemptReport { rows_until: has, rows_wanted: wanted, ..running(attempt) };
        self.renew(WORKER, vec![report]);
        let leases = self.take().into_iter().filter_map(|(_, message)| match message {
            Message::LeaseRows { until, .. } => Some(until),
            _ => None,
        });
        leases.collect()
    }

    /// The worker is lost, and another one takes over; gives the rows that it is leased.
    fn lose_worker(&mut self) -> (u64, u64) {
        let other = NodeId(11);
        self.connect_worker(other);
        self.input(Input::Disconnected { node: WORKER });
        for _ in 0..15 {
            self.wait(Duration::from_secs(1));
            self.renew(other, Vec::new());
        }
        self.offered_rows()
    }

    fn offered_rows(&mut self) -> (u64, u64) {
        let offers = self.take().into_iter().rev().find_map(|(_, message)| match message {
            Message::OfferAttempt(assignment) => Some(assignment),
            _ => None,
        });
        let rows = offers.unwrap().rows;
        (rows.from, rows.until)
    }

    fn rows_reported(&mut self) -> Vec<(u64, u64)> {
        self.wait(Duration::from_secs(2));
        let report = self.take().into_iter().rev().find_map(|(_, message)| match message {
            Message::PartReport(report) => Some(report.rows),
            Message::PartEnded(result) => Some(result.report.rows),
            _ => None,
        });
        report.unwrap().into_iter().map(|rows| (rows.sent, rows.possibly_sent)).collect()
    }
}

#[test]
fn dat_01_a_takeover_begins_behind_all_that_was_leased() {
    let mut desk = Desk::new();
    let attempt = desk.run_drawing(1_000);

    assert_eq!(desk.want_rows(attempt, 16, 50), [50], "four users began with four rows each");
    let (from, until) = desk.lose_worker();

    assert_eq!((from, until), (50, 66));
    assert_eq!(desk.rows_reported(), [(0, 50)], "nobody knows which of them were sent");
}

#[test]
fn dat_01_rows_that_a_worker_has_not_drawn_are_used() {
    let mut desk = Desk::new();
    let attempt = desk.run_drawing(1_000);
    desk.connect_worker(NodeId(11));

    let (end, last_delta, published) = (AttemptEnd::Drained, DeltaSeq::NONE, BTreeMap::new());
    let end = AttemptSummary { end, last_delta, published, draws_made: Some(3) };
    desk.message(WORKER, Message::AttemptEnded { attempt, end });

    assert_eq!(desk.offered_rows(), (3, 19));
    // The next one has not started: it has sent nothing.
    assert_eq!(desk.rows_reported(), [(3, 0)]);
}

#[test]
fn dat_01_rows_of_an_attempt_that_never_started_are_used() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    let (plan, bytes) = drawing(1_000);
    desk.input(Input::Blob { bytes });
    desk.offer(&plan);
    desk.start();
    desk.wait(Duration::from_millis(10));
    assert_eq!(desk.offered_rows(), (0, 16));

    assert_eq!(desk.lose_worker(), (0, 16));
}

#[test]
fn dat_01_a_lease_of_rows_is_told_until_it_is_heard_and_ends_with_the_rows() {
    let mut desk = Desk::new();
    let attempt = desk.run_drawing(40);

    assert_eq!(desk.want_rows(attempt, 16, 100), [40], "there are no others");
    assert_eq!(desk.want_rows(attempt, 16, 100), [40], "its worker has not heard of it");
    assert!(desk.want_rows(attempt, 40, 100).is_empty());
    desk.lead_anew();
    assert_eq!(desk.want_rows(attempt, 16, 100), [40], "the next leader knows it as well");
    desk.acknowledge(attempt, 0);

    assert_eq!(desk.lose_worker(), (40, 40), "nothing that may have been sent is sent again");
}

#[test]
fn dat_01_what_an_attempt_is_leased_after_its_end_is_nobodys() {
    let mut desk = Desk::new();
    let attempt = desk.run_drawing(1_000);
    let (from, _) = desk.lose_worker();

    assert!(desk.want_rows(attempt, 16, 500).is_empty(), "it is closed");
    let late = Entry::RowsLeased { attempt, until: 500 };
    assert_eq!(desk.manager.state().clone().apply(&late), state::Applied::Ignored);
    assert_eq!(from, 16);
}

#[test]
fn dat_02_a_worker_that_heard_of_neither_a_pause_nor_its_end_may_have_sent_on() {
    let (mut desk, other) = (Desk::new(), NodeId(11));
    desk.run();
    desk.connect_worker(other);
    desk.wait(Duration::from_secs(2));
    desk.input(Input::Disconnected { node: WORKER });
    desk.steer(steering(1, true));
    desk.wait(Duration::from_secs(1));
    desk.renew(other, Vec::new());
    desk.steer(steering(2, false));
    for _ in 0..12 {
        desk.wait(Duration::from_secs(1));
        desk.renew(other, Vec::new());
    }

    let sent = desk.take().into_iter().find_map(|(_, message)| match message {
        Message::OfferAttempt(assignment) => Some(assignment.load_sent),
        _ => None,
    });

    // It has its lease for 10 s from its last renewal, and knows of no pause until then.
    assert!(sent.unwrap() >= Duration::from_secs(10), "{sent:?}");
}
