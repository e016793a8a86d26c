#![expect(clippy::wildcard_enum_match_arm, reason = "tests look at a few messages of many")]

use std::time::Duration;

use hyperscale_model::{
    AttemptId, AttemptNumber, DeltaSeq, Outcome, PartId, PartIndex, Role, ShardId,
};
use hyperscale_plan::{
    After, Aggregate, Comparison, HttpSettings, Load, PLAN_FORMAT, RunSettings, Secrets, StepIndex,
    StepName, Threshold, ThresholdMetric, Workflow,
};
use hyperscale_report::EventRecord;
use hyperscale_stats::{Delta, Recorder, Sample, WindowFigures};
use hyperscale_wire::{
    DatacenterStatus, NodeState, NodeStatus, PartReport, WorkflowReport, WorkflowState,
};

use super::*;

const GATE: NodeId = NodeId(1);
const MANAGER: NodeId = NodeId(2);

pub(crate) fn workflow(name: &str) -> Workflow {
    Workflow {
        name: name.to_owned(),
        after: After::default(),
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

/// A gate whose proposals are decided at once, and what must outlive it.
struct Desk {
    now: Time,
    lives: u64,
    index: u64,
    gate: Gate,
    log: Vec<Vec<u8>>,
    blobs: Vec<Arc<[u8]>>,
    /// What was not to be dropped, the last time that anything was.
    needed: Option<BTreeSet<hyperscale_model::BlobHash>>,
    checkpoints: BTreeMap<JobId, Kept>,
    /// Bytes of checkpoints that were written whole, and of changes.
    written: [Vec<usize>; 2],
    sent: Vec<Message>,
    replies: Vec<Reply>,
    version: u64,
    /// What the manager answers to probes.
    status: Option<DatacenterStatus>,
    requests: u64,
    workflows: usize,
}

impl Desk {
    fn new() -> Self {
        let config = GateConfig::new(GATE, Incarnation(1), WallTime(1_000), [7; 32]);
        let mut desk = Self {
            now: Time::ZERO,
            lives: 1,
            index: 0,
            gate: Gate::new(config, 1),
            log: Vec::new(),
            blobs: Vec::new(),
            needed: None,
            checkpoints: BTreeMap::new(),
            written: Default::default(),
            sent: Vec::new(),
            replies: Vec::new(),
            version: 0,
            status: None,
            requests: 0,
            workflows: 1,
        };
        desk.lead();
        desk.connect(1);
        desk
    }

    /// The gate dies, and the next one reads what it left behind.
    fn restart(&mut self) {
        self.lives += 1;
        let incarnation = Incarnation(self.lives);
        let config = GateConfig::new(GATE, incarnation, WallTime(1_000), [7; 32]);
        self.gate = Gate::new(config, 2);
        for bytes in self.blobs.clone() {
            self.input(Input::Blob { bytes });
        }
        for (job, kept) in self.checkpoints.clone() {
            self.input(Input::Checkpoint { job, kept });
        }
        for (entry, index) in self.log.clone().into_iter().zip(1..) {
            self.input(Input::Committed { index, entry, proposal: None });
        }
    }

    fn input(&mut self, input: Input) {
        self.gate.handle(self.now, input);
        loop {
            let outputs: Vec<Output> = self.gate.drain().collect();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send { message: Message::Probe { number, .. }, .. } => {
                        if let Some(status) = self.status.clone() {
                            let message = Message::ProbeAck { number, status };
                            self.gate.handle(self.now, Input::Message { from: MANAGER, message });
                        }
                    }
                    Output::Send { message, .. } => self.sent.push(message),
                    Output::Reply { reply, .. } => self.replies.push(reply),
                    Output::StoreBlob { bytes, .. } => self.blobs.push(bytes),
                    Output::DropBlobs { needed } => self.needed = Some(needed),
                    Output::StoreCheckpoint { job, checkpoint } => {
                        self.written[0].push(checkpoint.len());
                        self.checkpoints.insert(job, (checkpoint, Vec::new()));
                    }
                    Output::StoreChange { job, mark, change } => {
                        self.written[1].push(change.len());
                        self.checkpoints.get_mut(&job).unwrap().1.push((mark, change));
                    }
                    Output::Propose { proposal, entry } => {
                        self.log.push(entry.clone());
                        self.index += 1;
                        let (index, proposal) = (self.index, Some(proposal));
                        self.gate.handle(self.now, Input::Committed { index, entry, proposal });
                    }
                    _ => {}
                }
            }
        }
    }

    fn lead(&mut self) {
        self.input(Input::Leadership { leads: true, leader: Some(GATE) });
    }

    fn connect(&mut self, leader_fence: u64) {
        self.input(Input::ManagerConnected { manager: MANAGER });
        self.version += 1;
        let status = DatacenterStatus {
            datacenter: DatacenterId::from("eu"),
            leading: Some(Fence(leader_fence)),
            version: hyperscale_model::Version(self.version),
            managers: 1,
            managers_healthy: 1,
            voters: BTreeSet::new(),
            queue: 0,
            workers: 1,
            cores: 2,
            free_cores: 2,
            nodes: vec![NodeStatus {
                node: NodeId(7),
                role: Role::Worker,
                state: NodeState::Ready,
                cores: 2,
                free_cores: 2,
                software: "1.2.3".to_owned(),
            }],
        };
        self.status = Some(status.clone());
        self.message(Message::DatacenterStatus(status));
    }

    fn message(&mut self, message: Message) {
        self.input(Input::Message { from: MANAGER, message });
    }

    fn ask(&mut self, request: Request) -> Option<Reply> {
        self.requests += 1;
        let (id, client) = (RequestId(self.requests), ClientId::from("test"));
        self.input(Input::Request { id, client, request });
        self.replies.pop()
    }

    /// The events of a job after one.
    fn news(&mut self, job: JobId, after: u64) -> Vec<EventRecord> {
        self.now += Duration::from_secs(1);
        let reply = self.ask(Request::Watch { job, after });
        let Some(Reply::News { events, .. }) = reply else { panic!("no news: {reply:?}") };
        events
    }

    fn submit(&mut self, plan: &Plan) -> PartId {
        let secrets = Secrets([("token".to_owned(), "s3cret".to_owned())].into());
        let (key, plan, blobs) = ("once".to_owned(), plan.to_bytes(), Vec::new());
        let reply = self.ask(Request::Submit { key, plan, blobs, secrets });
        let Some(Reply::Accepted { job }) = reply else { panic!("not accepted: {reply:?}") };
        PartId { job, part: PartIndex(0) }
    }

    /// The manager takes the part and starts it, and tells where its workflows stand.
    fn report(&mut self, part: PartId, fence: u64, seq: u64, state: WorkflowState) -> PartReport {
        let is_ended = matches!(state, WorkflowState::Ended(_));
        let workflow = WorkflowReport {
            state,
            started: Some(Duration::ZERO),
            ended: is_ended.then_some(Duration::from_secs(2)),
        };
        let report = PartReport {
            part,
            fence: Fence(fence),
            seq: hyperscale_model::ProgressSeq(seq),
            workflows: vec![workflow; self.workflows],
            gaps: Vec::new(),
            rows: Vec::new(),
            workers: 1,
            cores: 2,
            late_requests: 0,
            started: Some(WallTime(1_000)),
            inquire: Vec::new(),
            published: Default::default(),
            settled: Default::default(),
            steered: 0,
            pauses: Default::default(),
            job_time: None,
            wait: None,
        };
        self.message(Message::PartReport(Box::new(report.clone())));
        report
    }

    fn end(&mut self, part: PartId, seq: u64, attempts: Vec<(AttemptId, DeltaSeq)>) {
        let status = EndStatus::Completed;
        let report = self.report(part, 1, seq, WorkflowState::Ended(status.clone()));
        let result = hyperscale_wire::PartResult { report, status, attempts };
        self.message(Message::PartEnded(Box::new(result)));
    }

    fn delta(&mut self, part: PartId, seq: u64) -> AttemptId {
        let (job, part) = (part.job, part.part);
        let shard = ShardId { job, part, workflow: Default::default(), shard: Default::default() };
        let attempt = AttemptId { shard, number: AttemptNumber(1) };
        let mut recorder = Recorder::new(1, 0, 0);
        let latency = Duration::from_millis(5);
        let sample = Sample {
            outcome: Outcome::Ok,
            status: Some(200),
            latency,
            service_time: latency,
            first_byte: None,
            connect: None,
            tls: None,
            bytes_in: 1,
            bytes_out: 1,
        };
        recorder.request(StepIndex(0), &sample);
        recorder.iteration(false);
        let figures = WindowFigures { figures: recorder.take(), vus: 1, ..Default::default() };
        let (seq, window) = (DeltaSeq(seq), seq - 1);
        self.message(Message::Delta(Box::new(Delta { attempt, seq, window, span: 1, figures })));
        attempt
    }

    fn ended(&self, part: PartId) -> bool {
        self.gate.state().jobs.get(&part.job).is_some_and(|job| job.ended.is_some())
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.gate.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Tick);
        }
        self.now = end;
    }
}

#[test]
fn a_job_that_nobody_has_taken_up_yet_is_not_said_to_be_over() {
    let mut desk = Desk::new();
    let job = desk.submit(&plan(vec![workflow("a")])).job;

    desk.restart();
    let before = desk.ask(Request::Watch { job, after: 0 });
    desk.lead();
    let news = desk.ask(Request::Watch { job, after: 0 });

    let is_not_ready =
        |reply: &Reply| matches!(reply, Reply::Error(e) if e.kind == RequestErrorKind::NotReady);
    assert!(before.as_ref().is_some_and(is_not_ready), "{before:?}");
    assert!(matches!(news, Some(Reply::News { is_over: false, .. })), "{news:?}");
}

#[test]
fn a_threshold_that_broke_after_the_load_had_ended_does_not_stop_the_gate() {
    let mut desk = Desk::new();
    let mut plan = plan(vec![workflow("a")]);
    plan.thresholds.push(Threshold {
        expression: "requests.count < 1".to_owned(),
        metric: ThresholdMetric::Requests,
        aggregate: Aggregate::Count,
        op: Comparison::Less,
        value: 1.0,
        filter: Default::default(),
        abort: false,
        after: Duration::ZERO,
        during: None,
        for_at_least: Duration::ZERO,
    });
    let part = desk.submit(&plan);
    desk.report(part, 1, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(5));
    let attempt = desk.delta(part, 1);
    desk.wait(Duration::from_secs(5));

    desk.end(part, 2, vec![(attempt, DeltaSeq(1))]);

    assert!(desk.ended(part));
}

#[test]
fn every_workflow_that_shall_stop_is_told_until_it_has() {
    let mut desk = Desk::new();
    desk.workflows = 2;
    let part = desk.submit(&plan(vec![workflow("a"), workflow("b")]));
    desk.report(part, 1, 1, WorkflowState::Running);
    for name in ["a", "b"] {
        let (job, workflow) = (part.job, Some(name.to_owned()));
        let mode = hyperscale_wire::StopMode::Graceful;
        desk.ask(Request::Cancel { job, workflow, mode });
    }
    desk.sent.clear();

    desk.wait(Duration::from_millis(1_500));

    let stops = |sent: &[Message]| {
        let told = sent.iter().filter_map(|message| match message {
            Message::StopWorkflow { workflow, .. } => Some(workflow.0),
            _ => None,
        });
        told.collect::<BTreeSet<u16>>()
    };
    assert_eq!(stops(&desk.sent), [0, 1].into());
    desk.report(part, 1, 2, WorkflowState::Ended(EndStatus::Completed));
    desk.sent.clear();
    desk.wait(Duration::from_secs(5));
    assert_eq!(stops(&desk.sent), [].into());
}

#[test]
fn a_new_leader_gets_the_secrets_of_its_parts_by_another_offer() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.report(part, 1, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(2));
    desk.sent.clear();

    desk.connect(9);
    desk.report(part, 9, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(2));

    let has_secrets = |message: &Message| match message {
        Message::OfferPart(offer) => !offer.secrets.is_empty(),
        _ => false,
    };
    assert!(desk.sent.iter().any(has_secrets), "{:?}", desk.sent);
    desk.message(Message::PartAccepted { part, fence: Fence(2) });
    desk.sent.clear();
    desk.wait(Duration::from_secs(5));
    assert!(!desk.sent.iter().any(has_secrets), "{:?}", desk.sent);
}

#[test]
fn sta_05_figures_count_only_from_whoever_leads() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.report(part, 1, 1, WorkflowState::Running);
    let attempt = desk.delta(part, 1);
    desk.wait(Duration::from_secs(4));
    desk.sent.clear();

    // Another leads, and has said so in a report before anything else.
    desk.report(part, 9, 1, WorkflowState::Running);
    desk.delta(part, 2);
    desk.wait(Duration::from_secs(4));
    let acknowledged = |message: &Message| match message {
        Message::DeltaAck { attempt: of, through, .. } if *of == attempt => Some(*through),
        _ => None,
    };
    assert_eq!(desk.sent.iter().find_map(acknowledged), None);

    // The next leader hears again of all that was counted, and may go on.
    desk.connect(9);
    desk.wait(Duration::from_secs(4));
    assert_eq!(desk.sent.iter().find_map(acknowledged), Some(DeltaSeq(1)));
    desk.sent.clear();
    desk.delta(part, 2);
    desk.wait(Duration::from_secs(4));
    assert_eq!(desk.sent.iter().find_map(acknowledged), Some(DeltaSeq(2)));
}

#[test]
fn a_gate_that_dies_between_a_parts_end_and_its_jobs_waits_for_the_statistics() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.report(part, 1, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(40));
    let attempt = desk.delta(part, 1);
    desk.wait(Duration::from_secs(2));
    desk.end(part, 2, vec![(attempt, DeltaSeq(2))]);

    desk.restart();
    desk.lead();
    assert!(!desk.ended(part), "the second delta is still on its way");
    desk.connect(1);
    desk.delta(part, 2);
    desk.wait(Duration::from_secs(1));

    assert!(desk.ended(part));
    let end = desk.gate.state().jobs[&part.job].ended.clone();
    assert!(end.is_some_and(|end| !end.partial));
}

#[test]
fn a_report_after_a_restart_does_not_stand_for_the_secrets() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.report(part, 1, 1, WorkflowState::Running);
    let (job, workflow, mode) = (part.job, None, hyperscale_wire::StopMode::Graceful);
    desk.ask(Request::Cancel { job, workflow, mode });
    desk.restart();
    desk.lead();
    desk.connect(9);
    desk.report(part, 9, 1, WorkflowState::Running);
    desk.sent.clear();

    desk.wait(Duration::from_secs(2));

    let is_offer = |message: &Message| matches!(message, Message::OfferPart(_));
    let is_stop = |message: &Message| matches!(message, Message::StopPart { .. });
    assert!(desk.sent.iter().any(is_offer), "{:?}", desk.sent);
    assert!(desk.sent.iter().any(is_stop), "{:?}", desk.sent);
}

#[test]
fn a_part_that_was_given_up_is_stopped_when_its_datacenter_is_heard_of_again() {
    let mut desk = Desk::new();
    let mut plan = plan(vec![workflow("a")]);
    plan.run.deadline = Duration::from_secs(60);
    let part = desk.submit(&plan);
    desk.wait(Duration::from_secs(400));
    assert!(desk.ended(part), "the datacenter's wait is over");
    desk.sent.clear();

    desk.report(part, 1, 1, WorkflowState::Running);

    let is_stop = |message: &Message| {
        matches!(message, Message::StopPart { mode: hyperscale_wire::StopMode::Now, .. })
    };
    assert!(desk.sent.iter().any(is_stop), "{:?}", desk.sent);
}

#[test]
fn api_01_nodes_are_listed_as_their_leader_told_them() {
    let mut desk = Desk::new();
    let list = |desk: &mut Desk| match desk.ask(Request::Nodes) {
        Some(Reply::Nodes(nodes)) => nodes,
        other => panic!("no nodes: {other:?}"),
    };

    let rows: Vec<_> =
        list(&mut desk).iter().map(|n| (n.node, n.role, n.state, n.is_fresh)).collect();
    desk.now += Duration::from_secs(60);
    let later = list(&mut desk);

    let gate = (GATE, Role::Gate, NodeState::Leading, true);
    let worker = (NodeId(7), Role::Worker, NodeState::Ready, true);
    assert_eq!(rows, [gate, worker]);
    assert!(!later[1].is_fresh, "nobody has spoken for a minute");
}

#[test]
fn events_of_an_earlier_life_are_told_once_and_their_ids_are_not_used_again() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    let job = part.job;
    desk.message(Message::PartAccepted { part, fence: Fence(1) });
    desk.report(part, 1, 1, WorkflowState::Running);
    let before = desk.news(job, 0);
    let last = before.last().unwrap().id;

    desk.wait(Duration::from_secs(2));
    desk.restart();
    desk.lead();
    desk.connect(1);
    desk.report(part, 1, 2, WorkflowState::Running);

    assert_eq!(desk.news(job, 0), before, "nothing is forgotten, nothing is told again");
    desk.end(part, 3, Vec::new());
    let after = desk.news(job, last);
    assert!(after.iter().any(|event| event.text.contains("completed")), "{after:?}");
}

#[test]
fn syn_01_a_gate_that_has_just_started_asks_to_try_again() {
    let mut desk = Desk::new();
    let mut plan = plan(vec![workflow("a")]);
    plan.run.datacenters = hyperscale_plan::Datacenters::Named(vec!["us".to_owned()]);
    let refusal = |desk: &mut Desk| {
        let (key, plan) = (desk.now.to_string(), plan.to_bytes());
        let (blobs, secrets) = (Vec::new(), Secrets::default());
        match desk.ask(Request::Submit { key, plan, blobs, secrets }) {
            Some(Reply::Error(error)) => error.kind,
            other => panic!("not refused: {other:?}"),
        }
    };

    let early = refusal(&mut desk);
    desk.wait(Duration::from_secs(6));
    let later = refusal(&mut desk);

    assert_eq!((early, later), (RequestErrorKind::NotReady, RequestErrorKind::NoDatacenter));
}

impl Desk {
    fn steer(&mut self, job: JobId, pause: Option<bool>, scale: &[(&str, &str)]) -> Reply {
        let pair =
            |(workflow, amount): &(&str, &str)| ((*workflow).to_owned(), (*amount).to_owned());
        let scale = scale.iter().map(pair).collect();
        self.ask(Request::Steer { job, pause, scale }).unwrap()
    }

    /// The versions that the datacenter was told.
    fn steered(&mut self) -> Vec<(u64, bool)> {
        let sent = std::mem::take(&mut self.sent);
        let told = sent.into_iter().filter_map(|message| match message {
            Message::SteerPart { steering, .. } => Some((steering.version, steering.is_paused)),
            _ => None,
        });
        told.collect()
    }
}

#[track_caller]
fn refused(reply: Reply, kind: RequestErrorKind, part: &str) {
    match reply {
        Reply::Error(error) if error.kind == kind && error.message.contains(part) => {}
        other => panic!("expected {kind:?} with `{part}`, got {other:?}"),
    }
}

#[test]
fn dat_02_a_change_is_told_until_the_datacenter_reports_it() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    let report = desk.report(part, 1, 1, WorkflowState::Running);
    desk.sent.clear();

    let reply = desk.steer(part.job, Some(true), &[]);
    let at_once = desk.steered();
    desk.wait(Duration::from_secs(3));
    let again = desk.steered();
    let version = desk.gate.state().jobs[&part.job].steering_version();
    let seq = hyperscale_model::ProgressSeq(2);
    let report = PartReport { seq, steered: version, ..report };
    desk.message(Message::PartReport(Box::new(report)));
    desk.steered();
    desk.wait(Duration::from_secs(3));

    assert!(matches!(reply, Reply::Job(view) if view.paused));
    assert_eq!(at_once, [(version, true)]);
    assert!(again.len() >= 2, "{again:?}");
    assert_eq!(desk.steered(), [], "it has it");
}

#[test]
fn dat_02_the_next_life_of_the_owner_tells_the_newest_value_and_its_event_once() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.report(part, 1, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(2));
    let (job, paused) = (part.job, Some(true));
    desk.steer(job, paused, &[("a", "3")]);
    desk.steer(job, Some(false), &[]);
    desk.restart();
    desk.lead();
    desk.connect(9);
    desk.report(part, 9, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(2));
    desk.restart();
    desk.lead();
    desk.connect(10);
    desk.sent.clear();
    desk.report(part, 10, 1, WorkflowState::Running);
    desk.wait(Duration::from_secs(2));

    let version = desk.gate.state().jobs[&job].steering_version();
    let told = desk.steered();
    assert!(!told.is_empty() && told.iter().all(|known| *known == (version, false)), "{told:?}");
    let events = desk.news(job, 0);
    let texts: Vec<&str> = (events.iter())
        .filter(|event| matches!(event.kind.as_str(), "paused" | "resumed" | "scaled"))
        .map(|event| event.text.as_str())
        .collect();
    assert_eq!(texts, ["test paused the load, scaled a to 3 users", "test resumed the load"]);
}

#[test]
fn dat_02_a_copy_of_a_change_that_was_overruled_changes_nothing() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.steer(part.job, Some(true), &[]);
    let copy = desk.log.last().cloned().unwrap();
    desk.steer(part.job, Some(false), &[]);

    desk.index += 1;
    let index = desk.index;
    desk.input(Input::Committed { index, entry: copy, proposal: None });

    assert!(!desk.gate.state().jobs[&part.job].steering().is_paused);
}

#[test]
fn dat_02_what_makes_no_sense_is_refused_with_the_reason() {
    let mut desk = Desk::new();
    let mut plan = plan(vec![workflow("a"), workflow("b"), workflow("c")]);
    let duration = Duration::from_secs(20);
    plan.workflows[1].load = Load::Once { max_duration: duration };
    plan.workflows[2].load = Load::ExternallyControlled { vus: 1, max_vus: 5, duration };
    let job = desk.submit(&plan).job;
    let cannot = RequestErrorKind::CannotSteer;

    refused(desk.steer(job, None, &[("d", "1")]), RequestErrorKind::NotFound, "it has a, b, c");
    refused(desk.steer(job, None, &[("b", "1")]), cannot, "can be paused, not scaled");
    refused(desk.steer(job, None, &[("c", "6")]), cannot, "at most its 5 `max_vus`");
    refused(desk.steer(job, None, &[("a", "2"), ("c", "6")]), cannot, "`c` cannot be scaled so");
    let other = JobId::from_parts(9, 9);
    refused(desk.steer(other, Some(true), &[]), RequestErrorKind::NotFound, "no such job");
    assert_eq!(desk.gate.state().jobs[&job].steers, [], "nothing of it was decided");
    let mode = hyperscale_wire::StopMode::Graceful;
    desk.ask(Request::Cancel { job, workflow: None, mode });
    refused(desk.steer(job, Some(true), &[]), cannot, "the job is stopping");
}

#[test]
fn sta_05_what_is_written_each_second_is_what_was_added_in_it_and_a_restart_finds_all() {
    let mut desk = Desk::new();
    let part = desk.submit(&plan(vec![workflow("a")]));
    desk.message(Message::PartAccepted { part, fence: desk.gate.state().jobs[&part.job].fence });
    desk.report(part, 1, 1, WorkflowState::Running);
    let second = Duration::from_secs(1);
    for seq in 1..=2_000 {
        let attempt = desk.delta(part, seq);
        desk.wait(second);
        assert_eq!(attempt.number, AttemptNumber(1));
    }

    let [whole, changes] = desk.written.clone();
    assert!(whole.len() + changes.len() >= 2_000, "each second is on the disk");
    assert!((2..10).contains(&whole.len()), "{} times all of it", whole.len());
    let (added, all): (usize, usize) = (changes.iter().sum(), whole.iter().sum());
    assert!(all < added, "{all} bytes of whole ones for {added} that were added");

    desk.restart();
    desk.lead();
    desk.connect(1);
    let Some(Reply::News { view, .. }) = desk.ask(Request::Watch { job: part.job, after: 0 })
    else {
        panic!("no news")
    };
    assert_eq!(view.unwrap().iterations, 2_000);
}

#[test]
fn syn_05_what_an_earlier_life_has_promised_to_keep_is_kept_until_an_entry_may_have_named_it() {
    let mut desk = Desk::new();
    let promised: Arc<[u8]> = b"the result of a job whose end is on its way".as_slice().into();
    desk.blobs.push(Arc::clone(&promised));
    desk.needed = None;

    desk.restart();
    desk.lead();
    desk.connect(2);

    let needed = desk.needed.expect("a session drops what nothing names");
    assert!(needed.contains(&hyperscale_blobs::hash_of(&promised)));
}
