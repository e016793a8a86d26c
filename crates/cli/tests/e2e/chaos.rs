//! Steady submissions to a whole cluster whose nodes are killed, frozen, cut off and slowed down at
//! random, and lose their gossip and their disks.
//!
//! `HYPERSCALE_E2E=long cargo test --release -p hyperscale --test e2e chaos` is the run of five
//! minutes that guards a release, `HYPERSCALE_E2E=nightly` that of half an hour. In both some faults
//! last until nodes are given up. The seed is printed first; `HYPERSCALE_SEED` sets it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyperscale_model::SplitMix;
use serde_json::Value;

use crate::faults::never_above;
use crate::playground::{Playground, play, read_state};
use crate::system::{
    Ended, Process, Target, WITHIN, World, get_json, is_long, is_nightly, now, read_json, sums_up,
    until,
};

/// Requests per second of a job.
const RATE: u64 = 20;
const DATACENTERS: [&str; 2] = ["dc-0", "dc-1"];
const MANAGERS: &str = "3";
const WORKERS: &str = "2";
/// Shards of a job at most; each may be early by a start within a second.
const SHARDS: u64 = 4;
/// How late a start may be that is not dropped, and its share of a second.
const LATE: f64 = 0.025;

/// How a run goes.
struct Course {
    faults: Duration,
    /// Between two submissions.
    submit_every: Duration,
    /// Of the load of a job, in seconds.
    job_seconds: u64,
}

fn course() -> Course {
    if is_long() {
        // Less than the cores of a datacenter take.
        let submit_every = Duration::from_secs(5);
        let minutes = if is_nightly() { 30 } else { 5 };
        Course { faults: Duration::from_secs(60 * minutes), submit_every, job_seconds: 10 }
    } else {
        let submit_every = Duration::from_secs(2);
        Course { faults: Duration::from_secs(28), submit_every, job_seconds: 6 }
    }
}

/// What is broken, and until when.
struct Broken {
    /// A node, or a datacenter that is cut off.
    node: String,
    fault: Fault,
    until: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    /// Nobody reaches it.
    Cut,
    /// All that it says and hears comes late, and some of its gossip never.
    Slow,
    /// Killed, and what was on its disk is gone.
    Lost,
}

/// How late that is, and how much of 100.
const DELAY: &str = "100ms";
const LOSS: &str = "10";

/// A submitted job: the client that follows it, and what it is aimed at.
struct Submitted {
    name: String,
    client: Process,
    target: Target,
}

/// One that has ended.
struct Outcome {
    name: String,
    /// As the client was told, if it was accepted.
    job: Option<String>,
    ended: Ended,
    summary: Option<Value>,
    target: Target,
}

struct Chaos {
    world: World,
    playground: Playground,
    random: SplitMix,
    started: Instant,
    seconds: u64,
}

impl Chaos {
    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.random.next_u64() % count as u64).unwrap()
    }

    fn say(&self, text: &str) {
        println!("{:>6.2} s  {text}", self.started.elapsed().as_secs_f64());
    }

    fn submit(&mut self, number: usize) -> Submitted {
        let name = format!("chaos-{number}");
        let target = self.world.target();
        let places = match self.pick(3) {
            0 => DATACENTERS[0].to_owned(),
            1 => DATACENTERS[1].to_owned(),
            _ => DATACENTERS.join(", "),
        };
        let text = format!(
            "name: {name}\ntarget: {}\nrun: {{ datacenters: [{places}] }}\nworkflows:\n  main:\n    \
             load: {{ rate: {RATE}/s, duration: {}s, max_vus: 40 }}\n    steps: [ {{ get: / }} ]\n",
            target.url(""),
            self.seconds,
        );
        let file = self.world.write(&format!("{name}.yaml"), text);
        let mut gates = self.playground.apis.clone();
        let first = self.pick(gates.len());
        gates.rotate_left(first);
        self.say(&format!("{name} for {places} through gate-{first} first"));
        let (file, gates) = (file.display().to_string(), gates.join(","));
        let out = format!("json={name}.json");
        let words = ["submit", &file, "--watch", "--gate", &gates, "--out", &out];
        Submitted { name, client: self.world.start(words), target }
    }

    fn break_something(&mut self) -> Broken {
        let state = read_state(&self.world);
        let nodes = state["nodes"].as_array().unwrap();
        let node = nodes[self.pick(nodes.len())]["name"].as_str().unwrap().to_owned();
        let fault = match self.pick(9) {
            0 | 1 => Fault::Killed,
            2 | 3 => Fault::Frozen,
            4 | 5 => Fault::Cut,
            6 | 7 => Fault::Slow,
            // A worker has nothing on its disk. And of two that vote both are needed.
            _ if node.contains("worker") || !self.all_vote() => Fault::Killed,
            _ => Fault::Lost,
        };
        let is_whole = fault == Fault::Cut && self.pick(3) == 0;
        let node = if is_whole { DATACENTERS[self.pick(2)].to_owned() } else { node };
        let words = match fault {
            Fault::Killed | Fault::Lost => vec!["kill", &node],
            Fault::Frozen => vec!["freeze", &node],
            Fault::Cut => vec!["cut", &node],
            Fault::Slow => vec!["slow", &node, DELAY],
        };
        play(&self.world, &words).expect(0);
        if fault == Fault::Slow {
            play(&self.world, &["lose", &node, LOSS]).expect(0);
        }
        // Long enough for a lease to end and a death to be told, once in a while.
        let is_grave = is_long() && self.pick(5) == 0;
        let least = if is_grave { 10_000 } else { 500 };
        let wait = Duration::from_millis(least + self.random.next_u64() % (3_500 + least));
        let and_its_disk = if fault == Fault::Lost { " and its disk" } else { "" };
        self.say(&format!("{}{and_its_disk} for {wait:?}", words.join(" ")));
        Broken { node, fault, until: now() + wait }
    }

    fn mend(&self, broken: &Broken) {
        let node = broken.node.as_str();
        let words = match broken.fault {
            Fault::Killed | Fault::Lost => vec!["restart", node],
            Fault::Frozen => vec!["thaw", node],
            Fault::Cut | Fault::Slow => vec!["heal"],
        };
        let lost = (broken.fault == Fault::Lost).then(|| self.lose_disk(node));
        play(&self.world, &words).expect(0);
        self.say(&words.join(" "));
        if let Some(lost) = lost {
            self.replace(&lost);
        }
    }

    /// Takes a dead node's disk away; gives the id that was on it.
    fn lose_disk(&self, node: &str) -> String {
        let state = read_state(&self.world);
        let known = state["nodes"].as_array().unwrap().iter().find(|known| known["name"] == node);
        let id = known.unwrap()["node"].as_str().unwrap().to_owned();
        std::fs::remove_dir_all(self.world.path("playground").join("data").join(node)).unwrap();
        id
    }

    /// What an operator does about a node that will not come back.
    fn replace(&self, lost: &str) {
        let gates = self.playground.apis.join(",");
        let limit = now() + WITHIN;
        loop {
            let ended = self.world.run(["cluster", "remove", lost, "--gate", &gates]);
            ended.expect_no_panic();
            // It may have been there for too short a time for anybody to know it.
            if ended.status.code() == Some(0) || ended.stderr.contains("is known here") {
                break;
            }
            if now() >= limit {
                tell_all(self, &[]);
                panic!("{lost} is not removed: {ended}");
            }
        }
        self.say(&format!("removed {lost}"));
    }

    /// Whether three gates and three managers of each datacenter vote, as all gates know.
    fn all_vote(&self) -> bool {
        self.playground.apis.iter().all(|api| {
            let cluster = get_json(api, "/api/v1/cluster").unwrap_or_default();
            let (Some(gates), Some(datacenters)) =
                (cluster["gates"].as_array(), cluster["datacenters"].as_array())
            else {
                return false;
            };
            let votes = |gate: &&Value| gate["votes"] == true && gate["has_session"] == true;
            let is_full = |known: &Value| known["voters"].as_array().is_some_and(|v| v.len() == 3);
            gates.iter().filter(votes).count() == 3 && datacenters.iter().all(is_full)
        })
    }

    /// Waits until everybody is there and nothing runs.
    fn until_whole(&self) {
        for api in &self.playground.apis {
            until("a whole cluster with free cores", WITHIN, || {
                let cluster = get_json(api, "/api/v1/cluster")?;
                let part = |gate: &&Value| gate["has_session"] == true;
                let gates = cluster["gates"].as_array()?.iter().filter(part).count();
                let free = |known: &&Value| {
                    known["is_fresh"] == true && known["free_cores"].as_u64() == Some(2)
                };
                let datacenters = cluster["datacenters"].as_array()?.iter().filter(free).count();
                (gates == self.playground.apis.len() && datacenters == DATACENTERS.len())
                    .then_some(())
            });
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("HYPERSCALE_SEED").ok().map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % 1_000_000
    })
}

#[test]
fn chs_03_every_accepted_job_ends_whatever_node_dies() {
    let seed = seed();
    println!("HYPERSCALE_SEED={seed}");
    let Course { faults, submit_every, job_seconds } = course();
    let world = World::alone();
    let sizes = ["--datacenters", "2", "--managers", MANAGERS, "--workers", WORKERS];
    let playground = Playground::start(&world, &sizes);
    let (random, started) = (SplitMix::new(seed), now());
    let mut chaos = Chaos { world, playground, random, started, seconds: job_seconds };
    let mut broken: Option<Broken> = None;
    let mut submitted = Vec::new();
    let (mut next_submission, mut next_fault) = (started, started + submit_every / 2);

    while now() < started + faults {
        if now() >= next_submission {
            submitted.push(chaos.submit(submitted.len()));
            next_submission += submit_every;
        }
        match &broken {
            Some(known) if now() >= known.until => {
                chaos.mend(known);
                broken = None;
                let pause = Duration::from_millis(1_000 + chaos.random.next_u64() % 2_000);
                next_fault = now() + pause;
            }
            None if now() >= next_fault => broken = Some(chaos.break_something()),
            Some(_) | None => {}
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    if let Some(known) = &broken {
        chaos.mend(known);
    }

    let outcomes: Vec<Outcome> =
        submitted.into_iter().map(|submitted| end(&chaos.world, submitted)).collect();
    told(&outcomes);
    let without_end = outcomes.iter().filter(|outcome| outcome.summary.is_none());
    let endless: Vec<&str> = without_end.filter_map(|outcome| outcome.job.as_deref()).collect();
    if !endless.is_empty() {
        tell_all(&chaos, &endless);
    }
    chaos.until_whole();
    outcomes.iter().for_each(|outcome| check(outcome, job_seconds));
    let accepted = outcomes.iter().filter(|outcome| outcome.job.is_some()).count();
    let completed = outcomes.iter().filter(|outcome| is_completed(outcome)).count();
    assert!(accepted * 2 > outcomes.len(), "{accepted} of {} were accepted", outcomes.len());
    if is_long() {
        assert!(completed * 100 >= accepted * 99, "{completed} of {accepted} were completed");
    }
    nothing_is_doubled_or_forgotten(&chaos, &outcomes);
}

fn end(world: &World, submitted: Submitted) -> Outcome {
    let Submitted { name, client, target } = submitted;
    let ended = client.end_or_kill(2 * WITHIN);
    let job = ended.stderr.lines().find(|line| line.starts_with("job_")).map(str::to_owned);
    let path = world.path(&format!("{name}.json"));
    let summary = path.exists().then(|| read_json(&path));
    Outcome { name, job, ended, summary, target }
}

fn is_completed(outcome: &Outcome) -> bool {
    outcome.summary.as_ref().is_some_and(|summary| summary["status"] == "completed")
}

/// What came of it, for whoever reads along.
fn told(outcomes: &[Outcome]) {
    for Outcome { name, job, ended, summary, target } in outcomes {
        let code = ended.status.code();
        let counted = target.counted().requests;
        match (job, summary) {
            (Some(job), Some(summary)) => {
                let status = &summary["status"];
                let partial = if summary["partial"] == true { " partial" } else { "" };
                let totals = &summary["totals"];
                let gaps = summary["gaps"].as_array().map_or(0, Vec::len);
                println!(
                    "{name} {job} {status}{partial}: {} requests, {counted} counted, {} dropped, \
                     {gaps} gaps, late {}",
                    totals["requests"], totals["dropped"], summary["late_requests"]
                );
            }
            (job, _) => println!("{name} {job:?} ended with {code:?}: {}", ended.stderr),
        }
    }
}

/// Prints what every gate and the logs say when these jobs are not as they should be.
fn tell_all(chaos: &Chaos, jobs: &[&str]) {
    for api in &chaos.playground.apis {
        let paths = jobs.iter().map(|job| format!("/api/v1/jobs/{job}"));
        for path in paths.chain(["/api/v1/cluster".to_owned()]) {
            println!("{api}{path}: {:#}", get_json(api, &path).unwrap_or_default());
        }
    }
    for node in read_state(&chaos.world)["nodes"].as_array().unwrap() {
        let log = std::fs::read_to_string(node["log"].as_str().unwrap()).unwrap_or_default();
        let name = node["name"].as_str().unwrap();
        log.lines().for_each(|line| println!("{name}: {line}"));
    }
}

/// What was accepted has ended, its figures are what the target has seen, and never was there more
/// load than planned. What was not accepted has sent nothing.
#[track_caller]
fn check(outcome: &Outcome, seconds: u64) {
    let Outcome { name, job, ended, summary, target } = outcome;
    ended.expect_no_panic();
    let counted = target.counted();
    let Some(job) = job else {
        // Refused, or cut off before it was known: then somebody else knows what became of it.
        assert_eq!(ended.status.code(), Some(112), "{name}: {ended}");
        return;
    };
    let Some(summary) = summary else {
        panic!("{name} {job} was accepted and has no end: {ended}")
    };
    sums_up(summary);
    let status = summary["status"].as_str().unwrap();
    let requests = summary["totals"]["requests"].as_u64().unwrap();
    let late = summary["late_requests"].as_u64().unwrap();
    let has_cause = !summary["cause"].is_null();
    assert!(
        status == "completed" || has_cause,
        "{name} {job} {status} without a cause: {summary:#}"
    );
    never_above(&counted, RATE as f64, RATE as f64 * LATE + SHARDS as f64);
    let planned = RATE * seconds;
    assert!(counted.requests <= planned + SHARDS, "{name}: {} of {planned}", counted.requests);
    if summary["partial"] == true {
        assert!(requests + late <= counted.requests, "{name} {job} reports too much: {summary:#}");
    } else {
        assert_eq!(requests, counted.requests, "{name} {job}: {summary:#}");
    }
    if status == "completed" {
        let total = |name: &str| summary["totals"][name].as_u64().unwrap();
        let gaps = summary["gaps"].as_array().unwrap();
        let in_gaps: u64 = gaps.iter().map(|gap| gap["starts"].as_u64().unwrap()).sum();
        let accounted = total("iterations") + total("iterations_cut") + total("dropped") + in_gaps;
        // The starts of a gap are computed from its time.
        let rounding = if gaps.is_empty() { 0 } else { SHARDS };
        assert!(
            accounted.abs_diff(planned) <= rounding,
            "{name} {job} accounts for {accounted} of {planned} starts: {summary:#}"
        );
    }
}

/// So many jobs are surely at hand at the end: gates forget a job 5 minutes after its end, and one was
/// submitted every 5 s.
const AT_HAND: usize = 40;

#[track_caller]
fn nothing_is_doubled_or_forgotten(chaos: &Chaos, outcomes: &[Outcome]) {
    for api in &chaos.playground.apis {
        let jobs = all_ended(chaos, api);
        let mut known: BTreeMap<&str, &Value> = BTreeMap::new();
        for job in jobs.as_array().unwrap() {
            let name = job["name"].as_str().unwrap();
            assert!(known.insert(name, job).is_none(), "{name} is known twice: {jobs:#}");
        }
        for Outcome { name, job, summary, .. } in outcomes.iter().rev().take(AT_HAND) {
            let (Some(job), Some(summary)) = (job, summary) else { continue };
            let Some(known) = known.get(name.as_str()) else { panic!("{api} forgot {name} {job}") };
            assert_eq!(known["job"].as_str(), Some(job.as_str()), "{name} has two jobs");
            assert_eq!(known["state"]["status"], summary["status"], "{name} has ended twice");
        }
    }
}

/// The jobs as a gate knows them, which may hear of the last decisions a little later than whoever
/// asked for them.
#[track_caller]
fn all_ended(chaos: &Chaos, api: &str) -> Value {
    let limit = now() + WITHIN;
    loop {
        let jobs = get_json(api, "/api/v1/jobs").unwrap();
        let open = jobs.as_array().unwrap().iter().filter(|job| job["state"]["state"] != "ended");
        let open: Vec<&str> = open.map(|job| job["job"].as_str().unwrap()).collect();
        if open.is_empty() {
            return jobs;
        }
        if now() >= limit {
            tell_all(chaos, &open);
            panic!("{api} has not heard of the end of {open:?}: {jobs:#}");
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
