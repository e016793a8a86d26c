use hyperscale_model::{Incarnation, JobId, PartIndex, WorkflowIndex};
use hyperscale_plan::{After, Load, Priority, Workflow};
use proptest::prelude::*;

use super::*;
use crate::tests::{plan, workflow};

const MARGIN: Duration = Duration::from_millis(500);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn part(number: u64) -> PartId {
    PartId { job: JobId::from_parts(number, 1), part: PartIndex(0) }
}

fn worker(number: u64, free: u32) -> Candidate {
    Candidate { worker: NodeId(number), incarnation: Incarnation(1), free }
}

/// A workflow that has one core for so long.
fn of(seconds: u64, after: &[u16]) -> Workflow {
    let workflows = after.iter().map(|&index| WorkflowIndex(index)).collect();
    Workflow {
        load: Load::ConstantVus { vus: 1, duration: secs(seconds) },
        cores: Some(1),
        ..workflow("w", After { workflows, ..After::default() })
    }
}

fn ahead(number: u64, plan: &Plan, stages: Vec<Stage>) -> Ahead<'_> {
    static WHOLE: std::sync::LazyLock<Slice> = std::sync::LazyLock::new(Slice::whole);
    let is_asked = stages.iter().all(|stage| *stage == Stage::Waits);
    Ahead { part: part(number), plan, slice: &WHOLE, elapsed: secs(10), stages, is_asked }
}

fn holds(until: u64) -> Stage {
    Stage::Holds { cores: vec![(NodeId(1), 1)], until: Some(secs(until)) }
}

#[test]
fn dsp_07_who_waits_is_told_when_the_cores_before_it_come_free() {
    let long = plan(vec![of(100, &[])]);
    let short = plan(vec![of(30, &[])]);
    let running = ahead(1, &long, vec![holds(80)]);
    let waiting = |number| ahead(number, &short, vec![Stage::Waits]);

    let said = waits(&[worker(1, 0)], vec![running, waiting(2), waiting(3)], MARGIN);

    assert_eq!(said, [(part(2), secs(70)), (part(3), secs(100) + MARGIN)].into());
}

#[test]
fn dsp_07_who_is_more_urgent_comes_first_whenever_it_came() {
    let long = plan(vec![of(100, &[])]);
    let short = plan(vec![of(30, &[])]);
    let mut urgent = short.clone();
    urgent.run.priority = Priority::High;
    let parts = vec![
        ahead(1, &long, vec![holds(80)]),
        ahead(2, &short, vec![Stage::Waits]),
        ahead(3, &urgent, vec![Stage::Waits]),
    ];

    let said = waits(&[worker(1, 0)], parts, MARGIN);

    assert_eq!(said, [(part(3), secs(70)), (part(2), secs(100) + MARGIN)].into());
}

#[test]
fn dsp_07_what_an_older_job_runs_next_takes_the_cores_first() {
    let chain = plan(vec![of(20, &[]), of(40, &[0])]);
    let short = plan(vec![of(30, &[])]);
    let parts =
        vec![ahead(1, &chain, vec![holds(30), Stage::Waits]), ahead(2, &short, vec![Stage::Waits])];

    let said = waits(&[worker(1, 0)], parts, MARGIN);

    assert_eq!(said, [(part(2), secs(60) + MARGIN)].into(), "20 s of the first, 40 of the second");
}

#[test]
fn dsp_07_nothing_is_said_where_nobody_knows() {
    let long = plan(vec![of(100, &[])]);
    let mut impatient = plan(vec![of(30, &[])]);
    impatient.run.deadline = secs(60);
    // It stands still, and will until someone lets it go on, or its deadline of an hour.
    let paused = Stage::Holds { cores: vec![(NodeId(1), 1)], until: None };
    let parts = vec![ahead(1, &long, vec![paused]), ahead(2, &impatient, vec![Stage::Waits])];

    assert_eq!(waits(&[worker(1, 0)], parts, MARGIN), BTreeMap::new(), "it gives up before");
    let parts = vec![ahead(2, &long, vec![Stage::Waits])];
    assert_eq!(waits(&[], parts, MARGIN), BTreeMap::new(), "nobody has cores");
}

#[test]
fn dsp_07_a_queue_without_end_is_cut_with_at_least() {
    let short = plan(vec![of(10, &[])]);
    let mut parts = vec![ahead(1, &short, vec![holds(20)])];
    parts.extend((2..2_000).map(|number| ahead(number, &short, vec![Stage::Waits])));

    let said = waits(&[worker(1, 0)], parts, MARGIN);

    let last = *said.values().max().unwrap();
    assert_eq!(said[&part(2)], secs(10));
    assert_eq!(said[&part(3)], secs(20) + MARGIN);
    assert!(last >= secs(600), "{last:?}");
    assert_eq!(said.len(), 1_998, "everybody hears something");
}

proptest! {
    /// Whoever is ahead in the order, alone on one core, is never told a longer wait than one
    /// behind it.
    #[test]
    fn dsp_07_the_order_of_the_queue_is_that_of_the_waits(
        lengths in proptest::collection::vec(1u64..60, 1..20), free in 0u32..3,
    ) {
        let plans: Vec<Plan> = lengths.iter().map(|&length| plan(vec![of(length, &[])])).collect();
        let running = plan(vec![of(100, &[])]);
        let mut parts = vec![ahead(1, &running, vec![holds(60)])];
        let waiting = plans.iter().zip(2..);
        parts.extend(waiting.map(|(plan, number)| ahead(number, plan, vec![Stage::Waits])));

        let said = waits(&[worker(1, free)], parts, MARGIN);

        prop_assert_eq!(said.len(), plans.len());
        let waits: Vec<Duration> = said.values().copied().collect();
        prop_assert!(waits.is_sorted(), "{:?}", waits);
        prop_assert_eq!(waits[0], if free == 0 { secs(50) } else { Duration::ZERO });
    }
}

/// Not a test of speed: with work for each pair of core and worker this would not end soon.
#[test]
fn dsp_07_a_thousand_workers_and_a_long_queue_are_played_in_little_time() {
    let workers: Vec<Candidate> = (1..=1_000).map(|number| worker(number, 0)).collect();
    let cores: Vec<(NodeId, u32)> = (1..=1_000).map(|number| (NodeId(number), 4)).collect();
    let mut wide = plan(vec![of(100, &[])]);
    wide.workflows[0].cores = Some(4_000);
    wide.workflows[0].load = Load::ConstantVus { vus: 10_000, duration: secs(10) };
    let mut parts = vec![ahead(1, &wide, vec![Stage::Holds { cores, until: Some(secs(15)) }])];
    parts.extend((2..502).map(|number| ahead(number, &wide, vec![Stage::Waits])));

    let said = waits(&workers, parts, MARGIN);

    assert_eq!(said.len(), 500);
    assert_eq!(said[&part(2)], secs(5));
    assert_eq!(said[&part(12)], secs(5) + 10 * (secs(10) + MARGIN), "each takes all of them");
}
