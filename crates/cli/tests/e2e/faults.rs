//! Processes that are killed and frozen while load runs.
//!
//! `HYPERSCALE_E2E=long cargo test --release -p hyperscale --test e2e faults` is the run of a minute
//! that guards a release: a worker is killed at 20 s, another is frozen from 30 s to 45 s.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::system::{Control, Counted, Target, WITHIN, World, is_long, read_json, sums_up, until};

const RATE: u64 = 300;
/// Workers that share the load evenly.
const WORKERS: u64 = 3;
/// Starts that are later than this are dropped by the engine; what is not, may come so late.
const LATE: f64 = 0.025;

/// When what happens, in seconds of load.
struct Course {
    duration: usize,
    kill_at: usize,
    freeze_at: usize,
    wake_at: usize,
}

fn course() -> Course {
    if is_long() {
        Course { duration: 60, kill_at: 20, freeze_at: 30, wake_at: 45 }
    } else {
        // The killed worker's load goes on elsewhere about 11 s later, when its lease has ended.
        Course { duration: 24, kill_at: 3, freeze_at: 16, wake_at: 20 }
    }
}

fn test(world: &World, target: &Target, seconds: usize) -> PathBuf {
    let text = format!(
        "name: faults\ntarget: {}\nworkflows:\n  main:\n    load: {{ rate: {RATE}/s, \
         duration: {seconds}s, max_vus: 300 }}\n    steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    world.write("faults.yaml", text)
}

/// Waits until load has reached a target for so many seconds.
#[track_caller]
fn until_second(target: &Target, second: usize) {
    until(&format!("second {second} of the load"), 2 * WITHIN, || {
        (of_load(&target.counted()).len() > second).then_some(())
    });
}

/// Requests by the second since the first.
fn of_load(counted: &Counted) -> Vec<u64> {
    counted.per_second.iter().copied().skip_while(|count| *count == 0).collect()
}

#[track_caller]
fn never_above_the_plan(counted: &Counted) {
    let rate = RATE as f64;
    // Before a release, on a machine of its own; elsewhere a process may have to wait for a core.
    let slack = if is_long() { rate * 0.01 + 1.0 } else { rate * (0.01 + LATE) + 1.0 };
    never_above(counted, rate, slack);
}

/// However long one looks, and from wherever, there is no more than the rate and some slack.
#[track_caller]
pub(crate) fn never_above(counted: &Counted, rate: f64, slack: f64) {
    let seconds = of_load(counted);
    for from in 0..seconds.len() {
        let mut sum = 0;
        for (count, seconds_so_far) in seconds[from..].iter().zip(1u32..) {
            sum += count;
            let allowed = rate * f64::from(seconds_so_far) + slack;
            assert!(
                sum as f64 <= allowed,
                "{sum} requests in {seconds_so_far} s from second {from} on, {allowed} at most: \
                 {seconds:?}"
            );
        }
    }
}

#[test]
fn orp_04_a_killed_and_a_frozen_worker_cost_only_what_is_listed() {
    let world = World::alone();
    let target = world.target();
    let control = world.control();
    let mut workers: Vec<_> = (0..WORKERS).map(|_| world.worker(&control)).collect();
    // Each core is in use, so what is lost goes on beside what is left.
    control.until_free(workers.len());
    let Course { duration, kill_at, freeze_at, wake_at } = course();
    let file = test(&world, &target, duration);
    let job = world.start([
        OsStr::new("submit"),
        file.as_os_str(),
        OsStr::new("--watch"),
        OsStr::new("--gate"),
        control.gate(),
        OsStr::new("--out"),
        OsStr::new("json=summary.json"),
    ]);

    until_second(&target, kill_at);
    workers[0].kill();
    until_second(&target, freeze_at);
    workers[1].signal(Signal::STOP);
    until_second(&target, wake_at);
    workers[1].signal(Signal::CONT);

    let ended = job.end(2 * WITHIN);
    ended.expect(0);
    let counted = target.counted();
    let summary = read_json(&world.path("summary.json"));
    println!("{}", told(&summary, &counted));
    sums_up(&summary);
    assert_eq!(summary["status"], "completed");
    assert_eq!(summary["partial"], true);
    never_above_the_plan(&counted);
    accounts_for_all(&summary, &counted, duration as u64);
}

/// What a run under faults came to, for whoever reads along.
fn told(summary: &Value, counted: &Counted) -> String {
    let mut text = format!(
        "target {} requests, report {}, late {}, dropped {}, by the second {:?}\n",
        counted.requests,
        summary["totals"]["requests"],
        summary["late_requests"],
        summary["totals"]["dropped"],
        of_load(counted),
    );
    for gap in summary["gaps"].as_array().unwrap() {
        writeln!(text, "gap {gap}").unwrap();
    }
    text
}

#[track_caller]
fn accounts_for_all(summary: &Value, counted: &Counted, seconds: u64) {
    let number = |value: &Value| value.as_u64().unwrap();
    let reported = number(&summary["totals"]["requests"]);
    let late = number(&summary["late_requests"]);
    // A window of one worker, and what was on its way when that window ended.
    let window = RATE / WORKERS + RATE / WORKERS / 4;
    assert!(reported + late <= counted.requests, "more is reported than was sent");
    let unseen = counted.requests - reported - late;
    assert!(unseen <= window, "{unseen} requests are missing, {window} at most");
    let gaps = summary["gaps"].as_array().unwrap();
    assert!(!gaps.is_empty(), "the killed worker's gap is listed");
    for gap in gaps {
        let (from, to) = (number(&gap["from_ms"]), number(&gap["to_ms"]));
        assert!(from < to && to <= seconds * 1_000 + 500, "{gap}");
        // A third of the rate for as long as it lasted.
        let planned = (to - from) * RATE / WORKERS / 1_000;
        assert!(number(&gap["starts"]).abs_diff(planned) <= 2, "{planned} planned: {gap}");
    }
    let missing: u64 = gaps.iter().map(|gap| number(&gap["starts"])).sum();
    let dropped = number(&summary["totals"]["dropped"]);
    let planned = RATE * seconds;
    // A gap begins where the last window that was counted ends; a core that came to that end late
    // has counted starts of its lateness in it.
    let blurred = (RATE / WORKERS * 25).div_ceil(1_000) * gaps.len() as u64;
    let sum = reported + missing + dropped;
    assert!(
        sum.abs_diff(planned) <= blurred,
        "{reported} sent, {missing} in gaps, {dropped} dropped of {planned}"
    );
}

#[test]
fn syn_05_a_killed_gate_goes_on_where_it_was_and_loses_nothing() {
    let world = World::alone();
    let target = world.target();
    let mut control = world.control();
    let _workers: Vec<_> = (0..WORKERS).map(|_| world.worker_of(&control, 1)).collect();
    control.until_free(3);
    let seconds = if is_long() { 60 } else { 12 };
    let job = world.submit(&control, &test(&world, &target, seconds));

    for kill_at in [2, 5] {
        until_second(&target, kill_at);
        control.process.kill();
        control = world.control_at(&control.nodes, &control.api);
    }

    let summary = world.summary(&control, &job);
    let counted = target.counted();
    println!("{}", told(&summary, &counted));
    sums_up(&summary);
    assert_eq!(summary["status"], "completed");
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(counted.requests));
    assert_eq!(summary["late_requests"], 0);
    assert_eq!(summary["gaps"], Value::Array(Vec::new()), "load goes on under its leases");
    never_above_the_plan(&counted);
}

/// Whatever was acknowledged is there after a crash at once.
#[test]
fn syn_05_what_was_acknowledged_survives_a_crash_right_after() {
    let world = World::new();
    let target = world.target();
    let (mut control, _workers) = world.system(1);
    let rounds = if is_long() { 50 } else { 4 };
    let mut jobs = Vec::new();
    for _ in 0..rounds {
        let job = world.submit(&control, &test(&world, &target, 60));
        control = crash(&world, control);
        let cancelled = world.run([
            OsStr::new("cancel"),
            OsStr::new(&job),
            OsStr::new("--now"),
            OsStr::new("--gate"),
            control.gate(),
        ]);
        cancelled.expect(0);
        control = crash(&world, control);
        jobs.push(job);
    }

    for job in &jobs {
        let end = control.until_ended(job);
        assert_eq!(end["state"]["status"], "cancelled", "{end}");
    }
    assert_eq!(control.get("/jobs").as_array().unwrap().len(), jobs.len());
}

fn crash(world: &World, mut control: Control) -> Control {
    control.process.kill();
    world.control_at(&control.nodes, &control.api)
}

/// A worker that dies takes nothing of the others with it, and one that starts anew is used.
#[test]
fn syn_04_a_worker_that_starts_anew_takes_what_was_lost() {
    let world = World::new();
    let target = world.target();
    let (control, mut workers) = world.system(1);
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ executor: shared-iterations, vus: 2, \
         total: 300 }}, steps: [ {{ get: /delay/20 }} ] }} }}\n",
        target.url("")
    );
    let job = world.submit(&control, &world.write("test.yaml", text));
    target.until_counted(100);

    workers[0].kill();
    let _again = world.worker(&control);
    let summary = world.summary(&control, &job);

    let (iterations, counted) = (&summary["totals"]["iterations"], target.counted().requests);
    sums_up(&summary);
    assert_eq!(summary["status"], "completed");
    assert_eq!(iterations, 300, "what was not reported is done again");
    assert!((300..=300 + 120).contains(&counted), "{counted} at the target");
}
