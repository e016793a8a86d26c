#![expect(clippy::wildcard_enum_match_arm, reason = "tests look at a few messages of many")]

use hyperscale_model::{
    AttemptNumber, DatacenterId, DeltaSeq, JobId, Outcome, ShardId, WallTime, WorkflowIndex,
};
use hyperscale_plan::{
    Context, HttpSettings, Load, PLAN_FORMAT, RowLease, RunSettings, Secrets, Slice, StepIndex,
    Workflow,
};
use hyperscale_stats::{Recorder, Sample};

use super::*;

mod cores;
mod leases;
mod states;

const LEADER: NodeId = NodeId(1);
const FENCE: Fence = Fence(7);
const LEASE: Duration = Duration::from_secs(10);

fn plan() -> Plan {
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
        workflows: vec![Workflow {
            name: "front".to_owned(),
            after: Default::default(),
            load: Load::ConstantVus { vus: 4, duration: Duration::from_secs(60) },
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
        steps: Vec::new(),
        checks: Vec::new(),
        metrics: Vec::new(),
        thresholds: Vec::new(),
        run: RunSettings::default(),
        source: None,
    }
}

fn attempt(number: u32) -> AttemptId {
    let shard = ShardId {
        job: JobId::from_parts(1, 1),
        part: Default::default(),
        workflow: WorkflowIndex(0),
        shard: Default::default(),
    };
    AttemptId { shard, number: AttemptNumber(number) }
}

fn assignment(number: u32, cores: u32) -> Assignment {
    Assignment {
        attempt: attempt(number),
        fence: FENCE,
        plan: hyperscale_blobs::hash_of(&plan().to_bytes()),
        slice: Slice::whole(),
        cores,
        seat: attempt(number),
        iterations_done: 0,
        load_sent: Duration::ZERO,
        rows: RowLease { slice: Slice::whole(), from: 100, until: 104 },
        steering: Default::default(),
        context: Context::default(),
        secrets: Secrets::default(),
        window: Duration::from_secs(1),
        datacenter: DatacenterId::from("eu"),
        job_started: WallTime(0),
    }
}

/// A worker of two cores with a link to its leader.
struct Bench {
    worker: Worker,
    now: Time,
    /// What the engine has drawn by the next window.
    draws_made: u64,
}

impl Bench {
    fn new() -> Self {
        let worker = Worker::new(WorkerConfig::new(2));
        let mut bench = Self { worker, now: Time::ZERO, draws_made: 0 };
        bench.input(Input::Connected { manager: LEADER });
        bench.grant();
        bench
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.worker.handle(self.now, input);
        self.worker.drain().collect()
    }

    fn hear(&mut self, message: Message) -> Vec<Output> {
        self.input(Input::Message { from: LEADER, message })
    }

    fn grant(&mut self) -> Vec<Output> {
        self.hear(Message::LeaseGranted {
            sent_at: self.now,
            fence: FENCE,
            lease: LEASE,
            stop: Vec::new(),
            forget: Vec::new(),
            steer: Vec::new(),
        })
    }

    fn acknowledge(&mut self, attempt: AttemptId, through: u64, pressure: Pressure) {
        self.hear(Message::DeltaAck {
            attempt,
            through: DeltaSeq(through),
            iterations: 0,
            until: Duration::ZERO,
            pressure,
        });
    }

    fn at(&mut self, millis: u64) -> Vec<Output> {
        self.now = Time::from_millis(millis);
        self.input(Input::Tick)
    }

    fn run(&mut self, cores: u32) -> AttemptId {
        let assignment = assignment(1, cores);
        let (id, hash) = (assignment.attempt, assignment.plan);
        self.hear(Message::OfferAttempt(Box::new(assignment)));
        let bytes = plan().to_bytes();
        self.hear(Message::BlobChunk { hash, offset: 0, total: bytes.len() as u64, bytes });
        self.input(Input::Engine(EngineEvent::Prepared { attempt: id }));
        self.hear(Message::StartAttempt {
            attempt: id,
            fence: FENCE,
            start_in: Duration::ZERO,
            job_elapsed: Duration::ZERO,
            load_elapsed: Duration::ZERO,
            late: Duration::ZERO,
        });
        id
    }

    fn window(&mut self, attempt: AttemptId, window: u64) -> Vec<Output> {
        let mut recorder = Recorder::new(1, 0, 0);
        recorder.request(
            StepIndex(0),
            &Sample {
                outcome: Outcome::Ok,
                status: None,
                latency: Duration::ZERO,
                service_time: Duration::ZERO,
                first_byte: None,
                connect: None,
                tls: None,
                bytes_in: 0,
                bytes_out: 0,
            },
        );
        let figures = Box::new(WindowFigures { figures: recorder.take(), ..Default::default() });
        let draws_made = self.draws_made;
        self.input(Input::Engine(EngineEvent::Window { attempt, window, figures, draws_made }))
    }
}

fn deltas(outputs: &[Output]) -> Vec<(u64, u32, u64)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send { message: Message::Delta(delta), .. } => {
                Some((delta.seq.0, delta.span, delta.figures.figures.requests()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn load_stops_when_the_lease_ends_and_goes_on_when_it_is_back() {
    let mut bench = Bench::new();
    bench.run(2);

    let before = bench.at(9_999);
    let after = bench.at(10_000);
    bench.now = Time::from_millis(12_000);
    let renewed = bench.grant();

    assert!(!before.contains(&Output::Event(Event::LeaseLost)));
    assert!(after.contains(&Output::Event(Event::LeaseLost)));
    let until = bench.now + LEASE;
    assert!(renewed.contains(&Output::Engine(EngineCommand::Lease { until })));
    assert!(renewed.contains(&Output::Event(Event::LeaseRegained)));
}

#[test]
fn a_late_answer_stretches_no_lease() {
    let mut bench = Bench::new();
    bench.run(2);
    bench.now = Time::from_millis(9_500);

    bench.hear(Message::LeaseGranted {
        sent_at: Time::from_millis(1_000),
        fence: FENCE,
        lease: LEASE,
        stop: Vec::new(),
        forget: Vec::new(),
        steer: Vec::new(),
    });

    assert!(bench.worker.holds_lease(Time::from_millis(10_999)));
    assert!(bench.at(11_000).contains(&Output::Event(Event::LeaseLost)));
}

#[test]
fn ldr_08_a_lower_fence_is_refused_with_the_one_held() {
    let mut bench = Bench::new();
    let deposed = NodeId(9);
    let mut offer = assignment(1, 1);
    offer.fence = Fence(6);

    let message = Message::OfferAttempt(Box::new(offer));
    let outputs = bench.input(Input::Message { from: deposed, message });

    let message = Message::StaleFence { subject: Subject::Leadership, held: FENCE };
    assert!(outputs.contains(&Output::Send { to: deposed, message }));
    assert_eq!(bench.worker.free_cores(), 2);
}

#[test]
fn wrk_01_a_full_worker_refuses_at_once() {
    let mut bench = Bench::new();
    bench.run(2);

    let mut offer = assignment(1, 1);
    offer.attempt.shard.workflow = WorkflowIndex(0);
    offer.attempt.shard.shard.0 = 1;
    let (attempt, fence) = (offer.attempt, offer.fence);
    let outputs = bench.hear(Message::OfferAttempt(Box::new(offer)));

    let why = RefuseAttempt::NoCores { free: 0 };
    let message = Message::AttemptRefused { attempt, fence, why };
    assert!(outputs.contains(&Output::Send { to: LEADER, message }));
}

#[test]
fn dsp_12_a_repeated_offer_is_acknowledged_without_a_second_run() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);

    let outputs = bench.hear(Message::OfferAttempt(Box::new(assignment(1, 2))));

    let message = Message::AttemptAccepted { attempt, fence: FENCE };
    assert_eq!(outputs, [Output::Send { to: LEADER, message }]);
}

#[test]
fn deltas_are_sent_again_until_they_are_acknowledged() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);

    assert_eq!(deltas(&bench.window(attempt, 0)), [(1, 1, 1)]);
    assert_eq!(deltas(&bench.window(attempt, 1)), [(2, 1, 1)]);
    assert_eq!(deltas(&bench.at(2_000)), [(1, 1, 1), (2, 1, 1)]);
    bench.acknowledge(attempt, 1, Pressure::None);
    assert_eq!(deltas(&bench.at(4_000)), [(2, 1, 1)]);
    bench.acknowledge(attempt, 2, Pressure::None);
    assert_eq!(deltas(&bench.at(8_000)), []);
}

#[test]
fn bpr_05_pressure_makes_deltas_longer_and_loses_nothing() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);
    bench.acknowledge(attempt, 0, Pressure::Throttle);

    let mut sent = Vec::new();
    for window in 0..6 {
        sent.extend(deltas(&bench.window(attempt, window)));
    }

    assert_eq!(sent, [(1, 2, 2), (2, 2, 2), (3, 2, 2)]);
}

#[test]
fn an_end_is_told_until_it_is_acknowledged_and_frees_the_cores_at_once() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);
    let published = BTreeMap::new();

    let ended =
        EngineEvent::Ended { attempt, end: AttemptEnd::Finished, published, draws_made: Some(0) };
    let outputs = bench.input(Input::Engine(ended));

    let is_end = |output: &Output| {
        matches!(output, Output::Send { message: Message::AttemptEnded { .. }, .. })
    };
    assert_eq!(bench.worker.free_cores(), 2);
    assert!(outputs.iter().any(is_end));
    assert!(bench.at(2_000).iter().any(is_end));
    bench.hear(Message::AttemptEndedAck { attempt });
    assert!(!bench.at(4_000).iter().any(is_end));
}

#[test]
fn shd_03_a_draining_worker_hands_its_load_back_and_leaves() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);

    bench.input(Input::Drain);
    let other = bench.hear(Message::OfferAttempt(Box::new(assignment(2, 1))));
    for second in 1..60 {
        bench.at(second * 1_000);
        bench.grant();
    }
    let stopped = bench.at(60_000);
    let published = BTreeMap::new();
    let ended =
        EngineEvent::Ended { attempt, end: AttemptEnd::Stopped, published, draws_made: Some(0) };
    let told = bench.input(Input::Engine(ended));
    let left = bench.hear(Message::AttemptEndedAck { attempt });

    assert!(other.iter().any(|o| matches!(
        o,
        Output::Send { message: Message::AttemptRefused { why: RefuseAttempt::Draining, .. }, .. }
    )));
    assert!(
        stopped.contains(&Output::Engine(EngineCommand::Stop { attempt, mode: StopMode::Now }))
    );
    assert!(told.iter().any(|o| matches!(
        o,
        Output::Send { message: Message::AttemptEnded { end, .. }, .. }
            if end.end == AttemptEnd::Drained
    )));
    assert!(left.contains(&Output::Drained));
}

#[test]
fn a_stop_of_an_attempt_that_never_arrived_is_its_end() {
    let mut bench = Bench::new();
    let attempt = attempt(1);

    let mode = StopMode::Graceful;
    let outputs = bench.hear(Message::StopAttempt { attempt, fence: FENCE, mode });

    let is_end = |output: &Output| match output {
        Output::Send { message: Message::AttemptEnded { end, .. }, .. } => {
            end.end == AttemptEnd::Stopped
        }
        _ => false,
    };
    assert!(outputs.iter().any(is_end));
}

#[test]
fn dsp_12_an_offer_that_comes_late_does_not_bring_an_attempt_back() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);
    let (end, published) = (AttemptEnd::Finished, BTreeMap::new());
    bench.input(Input::Engine(EngineEvent::Ended { attempt, end, published, draws_made: Some(7) }));
    bench.hear(Message::AttemptEndedAck { attempt });

    bench.hear(Message::OfferAttempt(Box::new(assignment(1, 2))));

    assert_eq!(bench.worker.free_cores(), 2);
}

#[test]
fn orp_04_an_attempt_beside_another_of_its_workflow_has_the_same_cores() {
    let mut bench = Bench::new();
    let first = bench.run(2);
    let mut beside = assignment(1, 2);
    beside.attempt.shard.shard = hyperscale_model::ShardIndex(1);
    beside.seat = first;
    let mut alone = assignment(1, 1);
    alone.attempt.shard.shard = hyperscale_model::ShardIndex(2);
    alone.seat = alone.attempt;

    let taken = bench.hear(Message::OfferAttempt(Box::new(beside)));
    let refused = bench.hear(Message::OfferAttempt(Box::new(alone)));

    let cores = taken.iter().find_map(|output| match output {
        Output::Engine(EngineCommand::Prepare(preparation)) => Some(preparation.cores.clone()),
        _ => None,
    });
    assert_eq!(cores, Some(vec![0, 1]));
    assert_eq!(bench.worker.free_cores(), 0);
    let is_refusal = |output: &Output| {
        let why = RefuseAttempt::NoCores { free: 0 };
        matches!(output, Output::Send { message: Message::AttemptRefused { why: known, .. }, .. }
            if *known == why)
    };
    assert!(refused.iter().any(is_refusal), "{refused:?}");
}

fn steering(version: u64) -> hyperscale_plan::LoadSteering {
    hyperscale_plan::LoadSteering { version, ..Default::default() }
}

fn steered(outputs: &[Output]) -> Vec<u64> {
    let commands = outputs.iter().filter_map(|output| match output {
        Output::Engine(EngineCommand::Steer { steering, .. }) => Some(steering.version),
        _ => None,
    });
    commands.collect()
}

#[test]
fn dat_02_a_worker_follows_the_newest_value_by_whichever_way_it_comes() {
    let mut bench = Bench::new();
    bench.run(2);
    let attempt = attempt(1);
    let message =
        |version| Message::SteerAttempt { attempt, fence: FENCE, steering: steering(version) };
    let lease = |now, version| Message::LeaseGranted {
        sent_at: now,
        fence: FENCE,
        lease: LEASE,
        stop: Vec::new(),
        forget: Vec::new(),
        steer: vec![(attempt, steering(version))],
    };

    assert_eq!(steered(&bench.hear(message(2))), [2]);
    assert_eq!(steered(&bench.hear(message(2))), [0; 0], "a copy changes nothing");
    assert_eq!(steered(&bench.hear(message(1))), [0; 0], "an older value is late");
    assert_eq!(steered(&bench.hear(lease(bench.now, 1))), [0; 0]);
    assert_eq!(steered(&bench.hear(lease(bench.now, 3))), [3], "the message was lost");
    let below = Message::SteerAttempt { attempt, fence: Fence(0), steering: steering(9) };
    assert_eq!(steered(&bench.hear(below)), [0; 0], "a deposed leader steers nothing");
}

/// The rows that an attempt has been leased and would like to have, as the last report says.
fn rows_reported(outputs: &[Output]) -> Option<(u64, u64)> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Send { message: Message::RenewLease { report, .. }, .. } => {
            report.attempts.first().map(|attempt| (attempt.rows_until, attempt.rows_wanted))
        }
        _ => None,
    })
}

fn lease_rows(until: u64) -> Message {
    Message::LeaseRows { attempt: attempt(1), fence: FENCE, until }
}

#[test]
fn dat_01_users_that_wait_for_rows_make_the_worker_ask_at_once_and_once() {
    let mut bench = Bench::new();
    bench.run(1);
    let wanted = || Input::Engine(EngineEvent::RowsWanted { attempt: attempt(1) });

    let first = bench.input(wanted());
    let again = bench.input(wanted());
    bench.now += Duration::from_secs(1);
    let renewed = bench.input(Input::Tick);

    assert_eq!(rows_reported(&first), Some((104, 112)));
    assert_eq!(rows_reported(&again), None, "the other core waits for the same rows");
    assert_eq!(rows_reported(&renewed), Some((104, 112)), "what may be lost is repeated");
}

#[test]
fn dat_01_rows_are_asked_for_before_they_are_used_up() {
    let mut bench = Bench::new();
    bench.run(1);
    bench.hear(lease_rows(150));

    bench.draws_made = 2;
    let slow = bench.window(attempt(1), 0);
    bench.draws_made = 22;
    let fast = bench.window(attempt(1), 1);

    assert_eq!(rows_reported(&slow), None, "2 a second: it has rows for 20 s");
    assert_eq!(rows_reported(&fast), Some((150, 222)), "20 a second: rows for 5 s");
}

#[test]
fn dat_01_a_lease_of_rows_only_grows_and_reaches_the_engine_once() {
    let mut bench = Bench::new();
    bench.run(1);
    let leased = |outputs: Vec<Output>| {
        outputs.iter().any(|output| {
            matches!(output, Output::Engine(EngineCommand::LeaseRows { until: 120, .. }))
        })
    };

    assert!(leased(bench.hear(lease_rows(120))));
    assert!(!leased(bench.hear(lease_rows(120))), "repeated");
    let late = bench.hear(lease_rows(110));
    assert!(!late.iter().any(|output| matches!(output, Output::Engine(_))), "{late:?}");
    let deposed = Message::LeaseRows { attempt: attempt(1), fence: Fence(0), until: 200 };
    let refused = bench.hear(deposed);
    assert!(!refused.iter().any(|output| matches!(output, Output::Engine(_))), "{refused:?}");

    // The next leader says the newest in its offer, if the last word of the old one was lost.
    let rows = RowLease { slice: Slice::whole(), from: 100, until: 130 };
    let offer = Assignment { fence: Fence(9), rows, ..assignment(1, 1) };
    let offered = bench.hear(Message::OfferAttempt(Box::new(offer)));
    let command = EngineCommand::LeaseRows { attempt: attempt(1), until: 130 };
    assert!(offered.contains(&Output::Engine(command)), "{offered:?}");
}

#[test]
fn dat_01_an_end_says_how_many_rows_were_drawn_if_that_is_known() {
    let mut bench = Bench::new();
    bench.run(1);
    let made = |outputs: Vec<Output>| {
        outputs.into_iter().find_map(|output| match output {
            Output::Send { message: Message::AttemptEnded { end, .. }, .. } => Some(end.draws_made),
            _ => None,
        })
    };

    let unknown = Message::StopAttempt { attempt: attempt(2), fence: FENCE, mode: StopMode::Now };
    assert_eq!(made(bench.hear(unknown)), Some(None), "it may have been here and be forgotten");
    let (end, published) = (AttemptEnd::Finished, BTreeMap::new());
    let ended = EngineEvent::Ended { attempt: attempt(1), end, published, draws_made: Some(3) };
    assert_eq!(made(bench.input(Input::Engine(ended))), Some(Some(3)));
}
