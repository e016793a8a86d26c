//! The life of a job, by commands and by the API: submitted, watched, cancelled, kept, stopped.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use hyperscale_plan::{CompileOptions, compile};
use hyperscale_web::Submission;
use rustix::process::Signal;
use serde_json::Value;

use crate::system::{Control, Process, WITHIN, World, http, read_json, sums_up, until};

/// Users that need a while for each of their iterations.
fn slow(world: &World, target: &str, seconds: u64) -> PathBuf {
    let text = format!(
        "name: slow\ntarget: http://{target}\nworkflows:\n  main:\n    \
         load: {{ vus: 4, duration: {seconds}s }}\n    graceful_stop: 5s\n    \
         steps: [ {{ get: /delay/20 }} ]\n"
    );
    world.write("slow.yaml", text)
}

fn by_gate<'a>(control: &'a Control, arguments: &'a [&'a str]) -> Vec<&'a OsStr> {
    let gate = [OsStr::new("--gate"), control.gate()];
    arguments.iter().map(OsStr::new).chain(gate).collect()
}

pub(crate) fn submission(test: &str, key: &str) -> String {
    let options = CompileOptions {
        name: "test.yaml",
        sets: &[],
        environment: &|_| None,
        read_file: &|_, _| Err("no files here".to_owned()),
    };
    let compiled = compile(test.as_bytes(), &options).unwrap();
    let submission = Submission {
        key: key.to_owned(),
        plan: compiled.plan,
        blobs: Vec::new(),
        secrets: compiled.secrets,
    };
    serde_json::to_string(&submission).unwrap()
}

#[test]
fn syn_02_a_submission_repeated_with_its_key_gives_one_job() {
    let world = World::new();
    let target = world.target();
    let (control, _workers) = world.system(1);
    let test = |path: &str| {
        format!(
            "target: {}\nworkflows: {{ main: {{ load: {{ vus: 1, iterations: 20 }}, \
             steps: [ {{ get: {path} }} ] }} }}\n",
            target.url("")
        )
    };
    let submit = |body: &str| {
        let (status, body) = http(&control.api, "POST", "/api/v1/jobs", &[], body);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };

    let (status, first) = submit(&submission(&test("/a"), "key"));
    let (again_status, again) = submit(&submission(&test("/a"), "key"));
    let (conflict, problem) = submit(&submission(&test("/b"), "key"));
    let job = first["job"].as_str().unwrap();
    control.until_ended(job);
    let (late_status, late) = submit(&submission(&test("/a"), "key"));

    assert_eq!((status, again_status, late_status), (201, 201, 201));
    assert_eq!(first, again);
    assert_eq!(first, late, "the key is known after the job's end too");
    assert_eq!((conflict, &problem["type"]), (409, &Value::from("key-conflict")), "{problem}");
    assert_eq!(target.counted().requests, 20, "the job ran once");
    assert_eq!(control.get("/jobs").as_array().unwrap().len(), 1);
}

#[test]
fn can_01_a_cancelled_job_stops_and_keeps_its_figures() {
    let world = World::new();
    let target = world.target();
    let (control, _workers) = world.system(2);
    let job = world.submit(&control, &slow(&world, &target.address, 120));
    target.until_counted(20);

    let cancelled = world.run(by_gate(&control, &["cancel", &job]));
    let again = world.run(by_gate(&control, &["cancel", &job]));
    let results = {
        control.until_ended(&job);
        world.run(by_gate(&control, &["results", &job]))
    };
    let late = world.run(by_gate(&control, &["cancel", &job]));

    cancelled.expect(0);
    assert!(cancelled.took < Duration::from_secs(5), "the receipt took {:?}", cancelled.took);
    again.expect(0);
    results.expect(105);
    late.expect(0);
    assert!(late.stdout.contains("cancelled"), "the end does not change: {late}");
    let summary = world.summary(&control, &job);
    sums_up(&summary);
    assert_eq!(summary["status"], "cancelled");
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(target.counted().requests));
    control.until_free(2);
}

#[test]
fn can_03_a_cancelled_workflow_stops_alone_and_its_dependents_do_not_start() {
    let world = World::new();
    let target = world.target();
    let (control, _workers) = world.system(2);
    let text = format!(
        "target: {}\nworkflows:\n  long:\n    load: {{ vus: 1, duration: 120s }}\n    \
         steps: [ {{ get: /delay/10 }} ]\n  short:\n    load: {{ vus: 1, duration: 3s }}\n    \
         steps: [ {{ get: /delay/10 }} ]\n  next:\n    after: [ long ]\n    load: once\n    \
         steps: [ {{ get: /status/404 }} ]\n",
        target.url("")
    );
    let job = world.submit(&control, &world.write("test.yaml", text));
    target.until_counted(20);

    let unknown = world.run(by_gate(&control, &["cancel", &job, "--workflow", "none"]));
    world.run(by_gate(&control, &["cancel", &job, "--workflow", "long", "--now"])).expect(0);

    unknown.refuses(112, &["none"]);
    let summary = world.summary(&control, &job);
    sums_up(&summary);
    assert_eq!(summary["totals"]["outcomes"]["http_4xx"], 0, "`next` never starts");
    let step = |name: &str| {
        let steps = summary["steps"].as_array().unwrap();
        steps.iter().find(|step| step["name"].as_str().unwrap().starts_with(name)).cloned()
    };
    let short = step("short/").unwrap()["totals"]["requests"].as_u64().unwrap();
    assert!(short > 50, "`short` went on to its end: {short}");
}

#[test]
fn watching_resumes_when_the_gate_comes_back_and_tells_the_end_once() {
    let world = World::new();
    let target = world.target();
    let (mut control, _workers) = world.system(1);
    let job = world.submit(&control, &slow(&world, &target.address, 12));
    let watching = world.start(by_gate(&control, &["watch", &job, "--out", "json=watched.json"]));
    watching.stderr.wait_for("users", &watching.stdout);

    control.process.kill();
    let control = world.control_at(&control.nodes, &control.api);

    let ended = watching.end(2 * WITHIN);
    ended.expect(0);
    for event in ["accepted for", "main started", "main completed", "the job ended"] {
        let told = ended.stderr.lines().filter(|line| line.contains(event)).count();
        assert_eq!(told, 1, "`{event}` is told once: {ended}");
    }
    let summary = read_json(&world.path("watched.json"));
    sums_up(&summary);
    assert_eq!(summary["status"], "completed");
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(target.counted().requests));
    assert_eq!(summary, world.summary(&control, &job));
}

#[test]
fn results_come_in_all_kinds_and_outlive_the_gate() {
    let world = World::new();
    let target = world.target();
    let (mut control, _workers) = world.system(1);
    let text = format!(
        "name: kinds\ntarget: {}\nthresholds: [ \"failed < 1%\" ]\nworkflows: {{ main: {{ \
         load: {{ vus: 2, iterations: 30 }}, steps: [ {{ get: / }} ] }} }}\n",
        target.url("")
    );
    let job = world.submit(&control, &world.write("test.yaml", text));
    control.until_ended(&job);
    control.process.kill();
    let control = world.control_at(&control.nodes, &control.api);
    control.until_free(1);

    let listed = world.run(by_gate(&control, &["jobs", "--output", "json"]));
    let status = world.run(by_gate(&control, &["status", &job]));
    let mut arguments = vec!["results", &job];
    let outs = ["json=a.json", "csv=a.csv", "html=a.html", "junit=a.xml"];
    arguments.extend(outs.iter().flat_map(|out| ["--out", *out]));
    let results = world.run(by_gate(&control, &arguments));

    listed.expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed[0]["job"], job.as_str(), "{listed}");
    assert_eq!(listed[0]["state"]["status"], "completed", "{listed}");
    status.expect(0);
    assert!(status.stdout.contains("kinds") && status.stdout.contains("completed"), "{status}");
    results.expect(0);
    assert_eq!(read_json(&world.path("a.json"))["totals"]["requests"], 60);
    let read = |name: &str| std::fs::read_to_string(world.path(name)).unwrap();
    assert!(read("a.csv").lines().count() > 1);
    assert!(read("a.html").starts_with("<!doctype html>"), "{}", &read("a.html")[..80]);
    assert!(read("a.xml").contains("<testsuite"));
    for name in ["a.json", "a.csv", "a.html", "a.xml"] {
        assert!(results.stdout.contains(name), "{name} is not named: {results}");
    }
}

#[test]
fn a_broken_threshold_ends_with_99_and_an_aborting_one_stops_the_load() {
    let world = World::new();
    let target = world.target();
    let text = |more: &str, load: &str| {
        format!(
            "target: {}\n{more}\nworkflows: {{ main: {{ load: {load}, on_error: continue, \
             steps: [ {{ get: /status/503 }} ] }} }}\n",
            target.url("")
        )
    };
    let broken = text("thresholds: [ \"failed < 1%\" ]", "{ vus: 1, iterations: 20 }");
    let aborts = text(
        "thresholds: [ { expect: \"failed < 1%\", abort: true } ]",
        "{ rate: 100/s, duration: 120s, max_vus: 20 }",
    );

    let (broken, summary) = world.run_test(&world.write("broken.yaml", broken), &[]);
    let (aborted, stopped) = world.run_test(&world.write("aborts.yaml", aborts), &[]);

    broken.expect(99);
    assert!(broken.stdout.contains("failed < 1%"), "{broken}");
    assert_eq!(summary["status"], "completed");
    assert_eq!(summary["totals"]["outcomes"]["http_5xx"], 20);
    aborted.expect(99);
    assert!(aborted.took < Duration::from_secs(30), "{aborted}");
    assert_eq!(stopped["status"], "failed");
}

#[test]
fn a_test_that_stops_itself_ends_with_108() {
    let world = World::new();
    let target = world.target();
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ vus: 2, duration: 120s }}, on_error: abort, \
         steps: [ {{ get: /status/503 }} ] }} }}\n",
        target.url("")
    );

    let (ended, summary) = world.run_test(&world.write("test.yaml", text), &[]);

    ended.expect(108);
    assert_eq!(summary["status"], "failed");
    sums_up(&summary);
}

#[test]
fn a_job_whose_time_is_over_ends_with_102() {
    let world = World::new();
    let target = world.target();
    let text = format!(
        "target: {}\nrun: {{ deadline: 2s }}\nworkflows: {{ main: {{ \
         load: {{ vus: 2, duration: 60s }}, graceful_stop: 1s, steps: [ {{ get: /delay/10 }} ] }} }}\n",
        target.url("")
    );

    let (ended, summary) = world.run_test(&world.write("test.yaml", text), &[]);

    ended.expect(102);
    sums_up(&summary);
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(target.counted().requests));
}

#[test]
fn an_interrupted_run_ends_gracefully_with_its_summary() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let world = World::new();
        let target = world.target();
        let file = slow(&world, &target.address, 120);
        let running = world.start([
            OsStr::new("run"),
            file.as_os_str(),
            OsStr::new("--out"),
            OsStr::new("json=summary.json"),
        ]);
        target.until_counted(20);

        running.signal(signal);

        let ended = running.end(WITHIN);
        ended.expect(105);
        assert!(ended.stdout.contains("cancelled"), "a summary is shown: {ended}");
        let summary = read_json(&world.path("summary.json"));
        sums_up(&summary);
        assert_eq!(summary["status"], "cancelled");
        assert_eq!(summary["totals"]["outcomes"]["cancelled"], 0, "nothing was cut: {summary}");
        assert_eq!(summary["totals"]["requests"].as_u64(), Some(target.counted().requests));
    }
}

#[test]
fn a_second_interrupt_cuts_what_runs() {
    let world = World::new();
    let target = world.target();
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ vus: 3, duration: 120s }}, \
         steps: [ {{ get: /stall, timeout: 100s }} ], graceful_stop: 100s }} }}\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let running = world.start([
        OsStr::new("run"),
        file.as_os_str(),
        OsStr::new("--out"),
        OsStr::new("json=summary.json"),
    ]);
    target.until_counted(3);

    running.signal(Signal::INT);
    running.stderr.wait_for("interrupt again", &running.stdout);
    running.signal(Signal::INT);

    let ended = running.end(WITHIN);
    ended.expect(105);
    assert!(ended.took < Duration::from_secs(20), "{ended}");
    let summary = read_json(&world.path("summary.json"));
    sums_up(&summary);
    assert_eq!(summary["totals"]["outcomes"]["cancelled"], 3, "{summary}");
}

#[test]
fn shd_03_a_worker_asked_to_stop_finishes_what_runs_and_takes_nothing_new() {
    let world = World::new();
    let target = world.target();
    let (control, mut workers) = world.system(1);
    let job = world.submit(&control, &slow(&world, &target.address, 6));
    target.until_counted(20);

    let worker = workers.remove(0);
    worker.signal(Signal::TERM);
    worker.stderr.wait_for("finishing what runs", &worker.stdout);

    let left = worker.end(WITHIN);
    left.expect(0);
    let summary = world.summary(&control, &job);
    sums_up(&summary);
    assert_eq!(summary["status"], "completed");
    assert_eq!(summary["partial"], false, "{summary}");
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(target.counted().requests));
    until("a datacenter without workers", WITHIN, || {
        (control.get("/datacenters")[0]["workers"] == 0).then_some(())
    });
}

#[test]
fn shd_04_a_second_signal_ends_a_worker_at_once_and_its_port_is_free_again() {
    let world = World::new();
    let target = world.target();
    let (control, mut workers) = world.system(1);
    let _job = world.submit(&control, &slow(&world, &target.address, 50));
    target.until_counted(20);

    let worker = workers.remove(0);
    worker.signal(Signal::TERM);
    worker.stderr.wait_for("finishing what runs", &worker.stdout);
    worker.signal(Signal::TERM);
    let left = worker.end(WITHIN);
    let Control { process, nodes, api } = control;
    process.signal(Signal::TERM);
    let gone = process.end(WITHIN);
    let again = world.control_at(&nodes, &api);

    left.expect(0);
    assert!(left.took < Duration::from_secs(5), "{left}");
    gone.expect(0);
    assert!(gone.took < Duration::from_secs(5), "{gone}");
    assert_eq!((again.nodes, again.api), (nodes, api), "the same ports");
}

#[test]
fn wrk_05_a_job_without_workers_says_so_and_waits_for_them() {
    let world = World::new();
    let target = world.target();
    let control = world.control();
    until("a datacenter", WITHIN, || {
        control.get("/datacenters").as_array().filter(|all| !all.is_empty()).map(|_| ())
    });
    let file = world.write(
        "test.yaml",
        format!(
            "target: {}\nworkflows: {{ main: {{ load: {{ vus: 1, iterations: 5 }}, \
             steps: [ {{ get: / }} ] }} }}\n",
            target.url("")
        ),
    );

    let job = world.submit(&control, &file);
    let before = control.get(&format!("/jobs/{job}"));
    let _worker: Process = world.worker(&control);
    let summary = world.summary(&control, &job);

    assert_ne!(before["state"]["state"], "ended", "{before}");
    assert_eq!(summary["totals"]["requests"], 5);
}
