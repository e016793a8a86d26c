//! One test over several datacenters means what it means in one: it travels by itself, is set up and
//! cleaned up once, starts when all are ready, stops everywhere, and has one summary.
//!
//! That a lost node is noticed and its load moved is in `faults.rs` and `chaos.rs`.

use serde_json::Value;

use crate::playground::{Playground, play};
use crate::recorder::Recorder;
use crate::system::{Ended, Process, WITHIN, World, get_json, read_json, until};

const SIZES: [&str; 8] =
    ["--gates", "1", "--datacenters", "2", "--managers", "1", "--workers", "1"];

/// A test for both datacenters.
fn test(world: &World, target: &Recorder, rest: &str) -> String {
    let head = format!("target: {}\nrun: {{ datacenters: all, split: even }}\n", target.url);
    world.write("test.yaml", head + rest).display().to_string()
}

#[track_caller]
fn submit(world: &World, playground: &Playground, file: &str) -> Process {
    let gates = playground.gates();
    world.start(["submit", file, "--watch", "--gate", &gates, "--out", "json=summary.json"])
}

#[track_caller]
fn summary(world: &World, ended: &Ended) -> Value {
    let path = world.path("summary.json");
    assert!(path.exists(), "there is no summary: {ended}");
    read_json(&path)
}

/// Two datacenters with free cores, and what they are to send load to.
#[track_caller]
fn ready() -> (World, Recorder, Playground) {
    let (world, target) = (World::new(), Recorder::start());
    let playground = Playground::start(&world, &SIZES);
    until("free cores in both datacenters", WITHIN, || {
        let cluster = get_json(&playground.apis[0], "/api/v1/cluster")?;
        let is_free =
            |known: &&Value| known["is_fresh"] == true && known["free_cores"].as_u64() > Some(0);
        let free = cluster["datacenters"].as_array()?.iter().filter(is_free).count();
        (free == 2).then_some(())
    });
    (world, target, playground)
}

#[test]
fn dag_03_setup_and_teardown_run_once_in_all_datacenters_and_the_summary_is_one() {
    let (world, target, playground) = ready();
    let file = test(
        &world,
        &target,
        "workflows:\n  login:\n    load: once\n    steps:\n      - pause: 2s\n      - post: /login\n        \
         capture: { token: { json: \"$.token\" } }\n    publish: [ token ]\n  \
         items:\n    after: [ login ]\n    load: { rate: 40/s, duration: 4s, max_vus: 40 }\n    \
         steps: [ { get: \"/items/${login.token}\" } ]\n  \
         cleanup:\n    after: { any: [ items ] }\n    load: once\n    steps: [ { post: /cleanup } ]\n",
    );

    let ended = submit(&world, &playground, &file).end(WITHIN);
    ended.expect(0);

    let paths = target.paths();
    let times = |path: &str| paths.iter().filter(|known| *known == path).count();
    assert_eq!((times("/login"), times("/cleanup")), (1, 1), "{paths:?}");
    assert_eq!(paths.first().map(String::as_str), Some("/login"), "all wait for it");
    assert_eq!(paths.last().map(String::as_str), Some("/cleanup"), "it waits for all");
    // The token of the one login reached both datacenters.
    assert_eq!(times("/items/token-1"), 160, "{paths:?}");
    let summary = summary(&world, &ended);
    assert_eq!(summary["status"], "completed", "{summary:#}");
    assert_eq!(summary["totals"]["requests"], 162, "merged: {summary:#}");
    let told = |words: &str| ended.stderr.lines().filter(|line| line.contains(words)).count();
    assert_eq!(told("the job ended"), 1, "{ended}");
    for part in ["dc-0 ended its part: completed", "dc-1 ended its part: completed"] {
        assert_eq!(told(part), 1, "{ended}");
    }
}

#[test]
fn dag_02_a_setup_that_fails_in_one_datacenter_skips_the_rest_in_all() {
    let (world, target, playground) = ready();
    let file = test(
        &world,
        &target,
        "workflows:\n  login:\n    load: once\n    on_error: abort\n    steps:\n      - post: /login\n        \
         check: [ status == 201 ]\n        capture: { token: { json: \"$.nothing\" } }\n    \
         publish: [ token ]\n  items:\n    after: [ login ]\n    \
         load: { rate: 40/s, duration: 4s, max_vus: 40 }\n    \
         steps: [ { get: \"/items/${login.token}\" } ]\n",
    );

    let ended = submit(&world, &playground, &file).end(WITHIN);

    assert_ne!(ended.status.code(), Some(0), "{ended}");
    assert_eq!(target.paths(), ["/login"], "nobody goes on without it: {ended}");
}

#[test]
fn a_test_travels_by_itself_with_its_data() {
    let (world, target, playground) = ready();
    let rows = (0..200).fold("n\n".to_owned(), |rows, n| format!("{rows}{n}\n"));
    let data = world.write("rows.csv", rows);
    let file = test(
        &world,
        &target,
        "data: { rows: { csv: rows.csv, pick: unique } }\nworkflows:\n  main:\n    \
         load: { rate: 20/s, duration: 5s, max_vus: 20 }\n    steps: [ { get: \"/${rows.n}\" } ]\n",
    );

    let gates = playground.gates();
    let submitted = world.run(["submit", &file, "--gate", &gates]);
    submitted.expect(0);
    // Whoever submitted it goes away, and its files with it.
    std::fs::remove_file(data).unwrap();
    std::fs::remove_file(file).unwrap();
    let job = submitted.stdout.trim().to_owned();
    until("the end of the job", WITHIN, || {
        let view = get_json(&playground.apis[0], &format!("/api/v1/jobs/{job}"))?;
        (view["state"]["state"] == "ended").then_some(())
    });

    let mut paths = target.paths();
    assert_eq!(paths.len(), 100);
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 100, "each row was sent once, whichever datacenter sent it");
}

#[test]
fn nobody_starts_before_all_datacenters_are_ready() {
    let (world, target, playground) = ready();
    play(&world, &["freeze", "dc-1-manager-0"]).expect(0);
    let file = test(
        &world,
        &target,
        "workflows:\n  main:\n    load: { rate: 20/s, duration: 3s, max_vus: 20 }\n    \
         steps: [ { get: / } ]\n",
    );
    // By name, which is a promise: nobody else takes its place.
    let text = std::fs::read_to_string(&file).unwrap();
    world.write("test.yaml", text.replace("datacenters: all", "datacenters: [dc-0, dc-1]"));

    let client = submit(&world, &playground, &file);
    client.stderr.wait_for("dc-0 accepted its part", &client.stdout);
    // It has had a second of its time when the other hears of it.
    until("a second job that has run in the first datacenter alone", WITHIN, || {
        let alone = world.write("alone.yaml", format!(
            "target: {}\nrun: {{ datacenters: [dc-0] }}\nworkflows:\n  main:\n    load: once\n    \
             steps: [ {{ get: /alone }} ]\n",
            target.url
        ));
        let gates = playground.gates();
        let ended = world.run(["submit", alone.to_str().unwrap(), "--watch", "--gate", &gates]);
        (ended.status.code() == Some(0)).then_some(())
    });
    assert_eq!(target.paths(), ["/alone"], "the first datacenter waits for the second");
    play(&world, &["thaw", "dc-1-manager-0"]).expect(0);

    client.end(WITHIN).expect(0);
    assert_eq!(target.paths().iter().filter(|path| *path == "/").count(), 60);
}

#[test]
fn a_threshold_that_is_broken_by_all_together_stops_all() {
    let (world, target, playground) = ready();
    // Neither datacenter sends that much by itself.
    let file = test(
        &world,
        &target,
        "thresholds: [ { expect: requests.count < 150, abort: true } ]\nworkflows:\n  main:\n    \
         load: { rate: 40/s, duration: 60s, max_vus: 40 }\n    steps: [ { get: / } ]\n",
    );

    let ended = submit(&world, &playground, &file).end(WITHIN);

    ended.expect(99);
    let summary = summary(&world, &ended);
    assert_eq!(summary["totals"]["requests"], target.paths().len() as u64, "{summary:#}");
    assert!(target.paths().len() < 60 * 40 / 2, "it ended long before its time: {summary:#}");
    for part in ["dc-0 ended its part", "dc-1 ended its part"] {
        assert!(ended.stderr.contains(part), "{ended}");
    }
}

#[test]
fn dsp_07_a_job_that_waits_in_one_datacenter_moves_to_another_once_that_has_cores() {
    let (world, target, playground) = ready();
    let gates = playground.gates();
    let api = &playground.apis[0];
    let long = |place: &str| {
        let file = world.write(
            &format!("{place}.yaml"),
            format!(
                "target: {}\nrun: {{ datacenters: [ {place} ] }}\nworkflows:\n  main:\n    \
                 load: {{ rate: 2/s, duration: 300s, max_vus: 2 }}\n    steps: [ {{ get: /{place} }} ]\n",
                target.url
            ),
        );
        let submitted =
            world.run(["submit", &file.display().to_string(), "--gate", gates.as_str()]);
        submitted.expect(0);
        submitted.stdout.trim().to_owned()
    };
    let view = |job: &str| get_json(api, &format!("/api/v1/jobs/{job}"));
    let others = ["dc-0", "dc-1"].map(|place| (place, long(place)));
    until("load in both datacenters", WITHIN, || {
        let paths = target.paths();
        others.iter().all(|(place, _)| paths.contains(&format!("/{place}"))).then_some(())
    });

    let file = world.write(
        "short.yaml",
        format!(
            "target: {}\nworkflows:\n  main:\n    load: {{ rate: 20/s, duration: 3s, max_vus: 20 }}\n    \
             steps: [ {{ get: /short }} ]\n",
            target.url
        ),
    );
    let short = submit(&world, &playground, &file.display().to_string());
    let place = until("a job that waits", WITHIN, || {
        let jobs = get_json(api, "/api/v1/jobs")?;
        let waits = |job: &&Value| job["state"]["state"] == "queued";
        let job = jobs.as_array()?.iter().find(waits)?;
        Some(job["datacenters"][0].as_str()?.to_owned())
    });
    let (other, in_the_way) = others.iter().find(|(known, _)| *known != place).unwrap();
    world.run(["cancel", in_the_way, "--gate", gates.as_str()]).expect(0);
    let ended = short.end(WITHIN);
    ended.expect(0);

    let told = |words: &str| ended.stderr.lines().filter(|line| line.contains(words)).count();
    assert_eq!(told("main waits for cores, for about "), 1, "{ended}");
    assert_eq!(told(&format!("{place} has no cores for it yet, {other} is asked instead")), 1);
    assert_eq!(told(&format!("{other} ended its part: completed")), 1, "{ended}");
    let sent = target.paths().iter().filter(|path| *path == "/short").count();
    assert_eq!(sent, 60, "it ran once");
    let summary = summary(&world, &ended);
    assert_eq!(summary["totals"]["requests"], 60, "{summary:#}");
    let stays = &others.iter().find(|(known, _)| *known == place).unwrap().1;
    assert_eq!(view(stays).unwrap()["state"]["state"], "running", "a name is a promise");
}

#[test]
fn tmo_07_gates_on_three_continents_take_jobs_and_go_on_without_the_one_that_leads() {
    let (world, target) = (World::new(), Recorder::start());
    let sizes = ["--gates", "3", "--datacenters", "1", "--managers", "1", "--workers", "1"];
    let playground = Playground::start(&world, &sizes);
    // Round trips of 320 ms between gates and to the datacenter.
    for gate in ["gate-0", "gate-1", "gate-2"] {
        play(&world, &["slow", gate, "160ms"]).expect(0);
    }
    let file = test_of_one(&world, &target);
    let submitted = |what: &str| {
        until(what, WITHIN, || {
            let submitted = world.run(["submit", &file, "--gate", &playground.gates()]);
            submitted.status.success().then(|| submitted.stdout.trim().to_owned())
        })
    };
    let ended = |job: &str, at: &str| {
        until("the end of a job", WITHIN, || {
            let view = get_json(at, &format!("/api/v1/jobs/{job}"))?;
            (view["state"]["state"] == "ended").then_some(view)
        })
    };

    let job = submitted("gates that are far apart and take jobs");
    assert_eq!(ended(&job, &playground.apis[0])["state"]["status"], "completed");
    assert_eq!(target.paths().len(), 20);

    let cluster = get_json(&playground.apis[0], "/api/v1/cluster").unwrap();
    let leads = |node: &Value| node["leads"] == true;
    let leader = cluster["gates"].as_array().unwrap().iter().position(leads);
    assert!(leader.is_some(), "{cluster:#}");
    let list = play(&world, &["list", "--output", "json"]);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let leader = &cluster["gates"][leader.unwrap()]["node"];
    let nodes = list["nodes"].as_array().unwrap();
    let place = nodes.iter().find(|node| node["node"] == *leader).unwrap();
    let name = place["name"].as_str().unwrap();
    play(&world, &["kill", name]).expect(0);
    let left = (0..3).find(|gate| format!("gate-{gate}") != name).unwrap();

    let job = submitted("jobs without the gate that led");
    assert_eq!(ended(&job, &playground.apis[left])["state"]["status"], "completed");
    assert_eq!(target.paths().len(), 40);
}

fn test_of_one(world: &World, target: &Recorder) -> String {
    let rest = "workflows:\n  main:\n    load: { rate: 20/s, duration: 1s, max_vus: 20 }\n    \
                steps: [ { get: / } ]\n";
    let file = world.write("one.yaml", format!("target: {}\n{rest}", target.url));
    file.display().to_string()
}
