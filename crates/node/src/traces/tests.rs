use std::collections::BTreeSet;

use hyperscale_model::{
    AttemptNumber, FailureCause, Fence, PartIndex, ShardId, ShardIndex, WorkflowIndex,
};

use super::*;
use crate::observe::Observer;

const CREATED: u64 = 1_700_000_000_000;

fn job() -> JobId {
    JobId::from_parts(CREATED, 7)
}

fn part(index: u16) -> PartId {
    PartId { job: job(), part: PartIndex(index) }
}

fn attempt(part: u16, workflow: u16, shard: u16, number: u32) -> AttemptId {
    let (workflow, shard) = (WorkflowIndex(workflow), ShardIndex(shard));
    let shard = ShardId { job: job(), part: PartIndex(part), workflow, shard };
    AttemptId { shard, number: AttemptNumber(number) }
}

/// A role that records, and where its spans go.
struct Bench {
    traces: Traces,
    spans: Arc<SpanQueue>,
    zero: WallTime,
}

impl Bench {
    fn new(role: Role) -> Self {
        let observer = Observer::start();
        let (clock, spans) = (observer.clock(), SpanQueue::new(observer));
        let (datacenter, name) = (DatacenterId::from("eu"), "blue".to_owned());
        let source =
            Source { role, node: NodeId(3), datacenter, cluster: name.clone(), environment: name };
        let zero = clock.wall_at_zero();
        Self { traces: Traces::new(source, clock, Arc::clone(&spans)), spans, zero }
    }

    fn at(&self, millis: u64) -> WallTime {
        self.zero + Duration::from_millis(millis)
    }

    #[track_caller]
    fn one(&self) -> Span {
        let mut spans = self.spans.take();
        assert_eq!(spans.len(), 1, "exactly one span is over: {spans:?}");
        spans.remove(0)
    }
}

fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn value(span: &Span, key: &str) -> Option<Value> {
    span.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
}

fn names(span: &Span) -> Vec<&str> {
    span.moments.iter().map(|moment| moment.name).collect()
}

#[test]
fn obs_01_ids_follow_from_what_they_name_and_none_is_of_two() {
    let mut all = vec![Subject::Job(job())];
    all.extend((0..20).map(|index| Subject::Part(part(index))));
    for (workflow, shard, number) in (0..20).flat_map(|w| (0..20).map(move |s| (w, s, 1 + w + s))) {
        all.extend(
            (0..3).map(|part| Subject::Attempt(attempt(part, workflow, shard, u32::from(number)))),
        );
    }

    let ids: BTreeSet<SpanId> = all.iter().map(|subject| subject.span()).collect();
    let again: BTreeSet<SpanId> = all.iter().map(|subject| subject.span()).collect();

    assert_eq!(ids.len(), all.len(), "two subjects of one trace have one id");
    assert_eq!(ids, again);
    assert!(!ids.contains(&SpanId(0)), "zero is no id");
    let other = JobId::from_parts(CREATED, 8);
    assert_ne!(Subject::Job(job()).span(), Subject::Job(other).span());
    // They are part of what users see: nodes of different versions must agree.
    assert_eq!(Subject::Job(job()).span().to_string(), "beade101b81b5186");
    assert_eq!(Subject::Attempt(attempt(1, 2, 3, 4)).span().to_string(), "928c729654d36843");
}

#[test]
fn obs_01_parents_are_known_to_those_who_do_not_export_them() {
    let (job, part) = (Subject::Job(job()), Subject::Part(part(4)));
    let attempt = Subject::Attempt(attempt(4, 2, 1, 3));

    assert_eq!(job.parent(), None);
    assert_eq!(part.parent(), Some(job.span()));
    assert_eq!(attempt.parent(), Some(part.span()));
    for subject in [job, part, attempt] {
        assert_eq!(subject.trace().to_string(), format!("{:032x}", self::job().as_u128()));
    }
}

#[test]
fn obs_01_a_worker_tells_of_an_attempt_once_its_end_is_decided() {
    let mut bench = Bench::new(Role::Worker);
    let (attempt, end) = (attempt(0, 0, 0, 1), AttemptEnd::Finished);

    let start_in = Duration::from_millis(50);
    bench.traces.on_worker(ms(100), &WorkerEvent::AttemptReceived { attempt });
    bench.traces.on_worker(ms(150), &WorkerEvent::AttemptStarted { attempt, start_in });
    bench.traces.on_worker(ms(900), &WorkerEvent::AttemptEnded { attempt, end: end.clone() });
    assert!(bench.spans.take().is_empty(), "the leader may have closed it already");
    bench.traces.on_worker(ms(950), &WorkerEvent::AttemptEndAcknowledged { attempt, end });

    let span = bench.one();
    assert_eq!((span.start, span.end), (bench.at(100), bench.at(900)));
    assert_eq!(span.moments[0].at, bench.at(200), "load starts when it is told to");
    assert_eq!(names(&span), ["load started"]);
    assert_eq!(span.failure, None);
    assert_eq!(value(&span, "hyperscale.attempt"), Some(Value::Number(1)));
    assert_eq!(value(&span, "hyperscale.status"), Some(text("finished")));
}

#[test]
fn obs_01_a_worker_leaves_what_was_closed_without_it_to_the_leader() {
    let mut bench = Bench::new(Role::Worker);
    let (attempt, end) = (attempt(0, 0, 0, 1), AttemptEnd::Finished);

    bench.traces.on_worker(ms(1), &WorkerEvent::AttemptReceived { attempt });
    bench.traces.on_worker(ms(2), &WorkerEvent::AttemptEnded { attempt, end });
    let forgotten = WorkerEvent::AttemptForgotten { attempt, uncounted_requests: 5 };
    bench.traces.on_worker(ms(3), &forgotten);

    assert!(bench.spans.take().is_empty());
}

#[test]
fn obs_01_the_leader_tells_of_a_lost_attempt_as_an_error() {
    let mut bench = Bench::new(Role::Manager);
    let (attempt, worker, cause) = (attempt(0, 1, 0, 2), NodeId(9), GapCause::WorkerLost);

    let (started, counted_until) = (Some(bench.at(100)), Some(bench.at(600)));
    let lost = ManagerEvent::AttemptLost { attempt, worker, cause, started, counted_until };
    bench.traces.on_manager(ms(900), &lost);

    let span = bench.one();
    assert_eq!(span.subject, Subject::Attempt(attempt));
    assert_eq!((span.start, span.end), (bench.at(100), bench.at(900)));
    assert_eq!(span.failure.as_ref().map(|failure| failure.kind), Some("worker_lost"));
    assert_eq!(value(&span, "error.type"), Some(text("worker_lost")));
    assert_eq!(value(&span, "hyperscale.worker"), Some(text(worker)));
    assert_eq!(span.moments[0].at, bench.at(600), "the gap begins where its figures end");
}

#[test]
fn obs_01_a_part_says_that_another_has_led_before() {
    let mut bench = Bench::new(Role::Manager);
    let (part, status) = (part(0), EndStatus::Completed);

    bench.traces.on_manager(ms(500), &ManagerEvent::LeadershipGained { fence: Fence(8) });
    let started = Some(bench.at(100));
    let ended = ManagerEvent::PartEnded { part, status: status.clone(), started };
    bench.traces.on_manager(ms(900), &ended);
    let taken_over = bench.one();
    bench.traces.on_manager(ms(1_000), &ManagerEvent::PartAccepted { part });
    let started = Some(bench.at(1_050));
    bench.traces.on_manager(ms(1_500), &ManagerEvent::PartEnded { part, status, started });
    let own = bench.one();

    assert_eq!(taken_over.start, bench.at(100));
    assert_eq!(names(&taken_over), ["load started", "part taken over"]);
    assert_eq!(own.start, bench.at(1_000));
    assert_eq!(names(&own), ["load started"]);
}

#[test]
fn obs_01_a_job_tells_its_test_its_takeovers_and_why_it_failed() {
    let mut bench = Bench::new(Role::Gate);
    let (job, to) = (job(), DatacenterId::from("us"));
    let cause = FailureCause::Poison { workers: 3 };

    bench.traces.on_gate(ms(10), &GateEvent::JobTakenOver { job, fence: Fence(4) });
    bench.traces.on_gate(ms(20), &GateEvent::PartMoved { job, to });
    let (test, status) = ("shop".to_owned(), EndStatus::Failed { cause });
    bench.traces.on_gate(ms(90), &GateEvent::JobEnded { job, test, status, started: None });

    let span = bench.one();
    assert_eq!((span.start, span.end), (WallTime(CREATED), bench.at(90)));
    assert_eq!(names(&span), ["job taken over", "part moved"]);
    assert_eq!(value(&span, "hyperscale.test"), Some(text("shop")));
    assert_eq!(span.failure, Some(failure("poison", "it took 3 workers down")));
}

#[test]
fn obs_01_what_is_kept_of_open_spans_has_a_bound() {
    let mut bench = Bench::new(Role::Worker);
    let (attempt, end) = (attempt(0, 0, 0, 1), AttemptEnd::Stopped);

    bench.traces.on_worker(ms(1), &WorkerEvent::AttemptReceived { attempt });
    for _ in 0..MOMENTS_MAX {
        bench.traces.on_worker(ms(2), &WorkerEvent::LeaseLost);
        bench.traces.on_worker(ms(3), &WorkerEvent::LeaseRegained);
    }
    bench.traces.on_worker(ms(4), &WorkerEvent::AttemptEndAcknowledged { attempt, end });
    let span = bench.one();
    for later in 0..OPEN_MAX as u64 + 5 {
        let job = JobId::from_parts(CREATED + later, 0);
        let shard = ShardId { job, ..attempt.shard };
        let attempt = AttemptId { shard, ..attempt };
        bench.traces.on_worker(ms(5), &WorkerEvent::AttemptReceived { attempt });
    }

    assert_eq!(span.moments.len(), MOMENTS_MAX);
    assert_eq!(span.moments_dropped as usize, MOMENTS_MAX, "the rest is counted");
    assert_eq!(bench.traces.0.map(|recorder| recorder.open.len()), Some(OPEN_MAX));
}
