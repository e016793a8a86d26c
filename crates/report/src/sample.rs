//! A small finished job for tests.

use std::time::Duration;

use hyperscale_model::{EndStatus, JobId, NodeId, Outcome, ShardId, Verdict, WallTime};
use hyperscale_plan::{CheckIndex, CompileOptions, StepIndex, compile};
use hyperscale_stats::{Exchange, Figures, Histogram, Recorder, Sample};
use hyperscale_wire::{Gap, GapCause};

use crate::{EventRecord, JobResult, SeriesPoint, Summary, SummaryInput, ThresholdView};

const TEST: &str = r#"
name: webshop
thresholds: ["latency.p95 < 300ms", "failed < 1%"]
workflows:
  browse:
    load: { executor: constant-arrival-rate, rate: 40/s, duration: 4s, max_vus: 5 }
    steps:
      - { name: list, get: "http://127.0.0.1/list", check: ["status == 200"] }
      - { name: pay, get: "http://127.0.0.1/pay" }
"#;

/// Histograms with values in every part of the layout.
pub(crate) fn histograms() -> Vec<Histogram> {
    let of = |values: &mut dyn Iterator<Item = u64>| {
        let mut histogram = Histogram::new();
        values.for_each(|ns| histogram.record_ns(ns));
        histogram
    };
    vec![
        of(&mut (0..5_000).map(|n| n * 777)),
        of(&mut (0..40).map(|n| 1_500 << (n % 33))),
        of(&mut (1..3_000).map(|n| n * n * 1_013)),
        of(&mut [2_047_000, 2_048_000, 2_049_999, 4_095_000, 4_096_001].into_iter()),
        of(&mut [0, 1, 999, 1_000, u64::from(u32::MAX) * 1_000, 1 << 50].into_iter()),
        of(&mut std::iter::once(123_456_789)),
    ]
}

/// A job of four seconds with one broken threshold, one gap and one example.
pub(crate) fn result() -> JobResult {
    let options = CompileOptions {
        name: "webshop.yaml",
        sets: &[],
        environment: &|_| None,
        read_file: &|_, _| Err("no files here".to_owned()),
    };
    let plan = compile(TEST.as_bytes(), &options).unwrap().plan;
    let mut total = Figures::<Histogram>::default();
    let mut series = Vec::new();
    for second in 0..4u64 {
        let mut recorder = Recorder::new(plan.steps.len(), plan.checks.len(), plan.metrics.len());
        for n in 0..80 {
            let is_pay = n % 2 == 1;
            let is_failure = is_pay && n % 10 == 1;
            let latency = Duration::from_micros(900 + n * 137 * (second + 1));
            recorder.request(
                StepIndex(u16::from(is_pay)),
                &Sample {
                    outcome: if is_failure { Outcome::Http5xx } else { Outcome::Ok },
                    status: Some(if is_failure { 503 } else { 200 }),
                    latency,
                    service_time: latency,
                    first_byte: Some(latency),
                    connect: None,
                    tls: None,
                    bytes_in: 1_000,
                    bytes_out: 100,
                },
            );
        }
        let mut figures = recorder.take();
        figures.iterations = 40;
        if !plan.checks.is_empty() {
            let counts = hyperscale_stats::CheckCounts { passed: 38, failed: 2 };
            figures.checks = vec![(CheckIndex(0), counts)];
        }
        total.merge(&figures);
        series.push(SeriesPoint {
            at_ms: second * 1_000,
            length_ms: 1_000,
            vus: 5,
            busiest_core: 410,
            figures,
        });
    }
    let thresholds = [
        ThresholdView {
            expression: "latency.p95 < 300ms".to_owned(),
            passed: true,
            value: Some(41.25),
            broken_since_ms: None,
        },
        ThresholdView {
            expression: "failed < 1%".to_owned(),
            passed: false,
            value: Some(0.1),
            broken_since_ms: Some(1_500),
        },
    ];
    let job = JobId::from_parts(1, 1);
    let gap = Gap {
        shard: ShardId {
            job,
            part: Default::default(),
            workflow: Default::default(),
            shard: Default::default(),
        },
        from: Duration::from_millis(2_000),
        to: Duration::from_millis(2_500),
        starts: 20,
        vu_seconds: 0.0,
        cause: GapCause::WorkerLost,
        worker: NodeId(7),
    };
    let summary = Summary::build(SummaryInput {
        job,
        plan: &plan,
        status: &EndStatus::Completed,
        verdict: Verdict::Broken,
        thresholds: &thresholds,
        gaps: &[gap],
        rows: &[],
        late_requests: 0,
        is_incomplete: false,
        duration: Duration::from_secs(4),
        figures: &total,
        busiest_core: 410,
        busy_time_share: 0.0,
    });
    JobResult {
        workflow_starts_ms: vec![Some(0)],
        summary,
        plan,
        started: Some(WallTime(1_795_486_185_000)),
        series,
        exchanges: vec![Exchange {
            step: StepIndex(1),
            outcome: Outcome::Http5xx,
            at: Duration::from_millis(1_200),
            latency: Duration::from_millis(31),
            request: "GET /pay HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_owned(),
            answer: "HTTP/1.1 503 Service Unavailable\r\n\r\nbusy".to_owned(),
            error: "the answer has status 503".to_owned(),
        }],
        events: vec![EventRecord {
            id: 1,
            at_ms: 0,
            kind: "accepted".to_owned(),
            text: "accepted for eu".to_owned(),
        }],
    }
}
