//! Several gates, of which those die that own the job.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::jobs::submission;
use crate::system::{
    Process, WITHIN, World, free_addresses, get_json, is_whole, now, try_http, until,
};

const GATES: usize = 3;
const WORKERS: usize = 2;

/// Three gates, and two datacenters of one manager and two workers each.
struct System {
    gates: Vec<Gate>,
    addresses: Vec<String>,
    managers: String,
    certificates: PathBuf,
    _nodes: Vec<Process>,
}

struct Gate {
    process: Process,
    api: String,
}

impl System {
    #[track_caller]
    fn start(world: &World) -> Self {
        let certificates = world.certificates("local");
        let addresses = free_addresses(GATES);
        let mut nodes = Vec::new();
        let mut managers = Vec::new();
        for datacenter in ["dc0", "dc1"] {
            let own = world.certificates(datacenter);
            let node = |role: &str, more: &[&str]| {
                let words = [role, "--datacenter", datacenter, "--certs"];
                let words = words.into_iter().map(OsStr::new).chain([own.as_os_str()]);
                world.start(words.chain(more.iter().map(OsStr::new)))
            };
            let manager = node("manager", &["--listen", "127.0.0.1:0", "--data-dir", datacenter]);
            let address = manager.announced("listening for nodes on ");
            nodes.push(manager);
            for _ in 0..WORKERS {
                nodes.push(node("worker", &["--join", &address, "--cores", "1"]));
            }
            managers.push(address);
        }
        let managers = managers.join(",");
        let gates = (0..GATES)
            .map(|place| gate(world, &certificates, &addresses, &managers, place))
            .collect();
        let system = Self { gates, addresses, managers, certificates, _nodes: nodes };
        for gate in &system.gates {
            until("both datacenters with their workers", WITHIN, || {
                let known = get_json(&gate.api, "/api/v1/datacenters")?;
                let free: u64 =
                    known.as_array()?.iter().filter_map(|d| d["free_cores"].as_u64()).sum();
                (free == 2 * WORKERS as u64).then_some(())
            });
            until("all gates take part", WITHIN, || {
                let cluster = get_json(&gate.api, "/api/v1/cluster")?;
                let gates = cluster["gates"].as_array()?.iter();
                let ready = gates.filter(|gate| gate["has_session"] == true).count();
                (ready == GATES && cluster["quorum"]["can_decide"] == true).then_some(())
            });
        }
        system
    }

    fn submit(&self, world: &World, file: &Path) -> Process {
        let apis: Vec<&str> = self.gates.iter().map(|gate| gate.api.as_str()).collect();
        world.start([
            OsStr::new("submit"),
            file.as_os_str(),
            OsStr::new("--watch"),
            OsStr::new("--gate"),
            OsStr::new(&apis.join(",")),
            OsStr::new("--out"),
            OsStr::new("json=summary.json"),
        ])
    }

    /// The place of the gate that owns the last job, as its log says; those in `dead` do not count.
    #[track_caller]
    fn owner(&self, words: &str, dead: &[usize]) -> usize {
        until("a gate that owns the job", WITHIN, || {
            let alive = (0..GATES).filter(|place| !dead.contains(place));
            alive.into_iter().find(|&p| self.gates[p].process.stderr.text().contains(words))
        })
    }
}

#[track_caller]
fn gate(
    world: &World,
    certificates: &Path,
    addresses: &[String],
    managers: &str,
    place: usize,
) -> Gate {
    let others = addresses.iter().enumerate().filter(|(other, _)| *other != place);
    let others: Vec<&str> = others.map(|(_, address)| address.as_str()).collect();
    let (others, data) = (others.join(","), format!("gate-{place}"));
    let words = [
        "gate",
        "--listen",
        &addresses[place],
        "--gates",
        &others,
        "--join",
        managers,
        "--data-dir",
        &data,
        "--api",
        "127.0.0.1:0",
        "--log",
        "info",
        "--api-rate",
        "10000",
        "--api-burst",
        "10000",
        "--certs",
    ];
    let words = words.iter().map(OsStr::new).chain([certificates.as_os_str()]);
    let process = world.start(words);
    let api = process.announced("API on http://").trim_end_matches("/api/v1").to_owned();
    Gate { process, api }
}

fn test_of(url: &str, seconds: u32) -> String {
    format!(
        "target: {url}\nrun: {{ datacenters: [dc0, dc1] }}\nworkflows:\n  main:\n    \
         load: {{ rate: 100/s, duration: {seconds}s, max_vus: 100 }}\n    \
         steps: [ {{ get: / }} ]\n"
    )
}

#[test]
fn orp_01_the_owner_of_a_job_is_killed_and_another_gate_goes_on() {
    let world = World::new();
    let target = world.target();
    let mut system = System::start(&world);
    let file = world.write("test.yaml", test_of(&target.url(""), 20));
    let job = system.submit(&world, &file);
    target.until_counted(300);

    let first = system.owner("job accepted", &[]);
    system.gates[first].process.kill();
    let killed = now();
    let second = system.owner("job taken over", &[first]);
    let taken_over = killed.elapsed();
    // Gossip comes to the same conclusion.
    system.gates[second]
        .process
        .stderr
        .wait_for("state=Dead", &system.gates[second].process.stdout);

    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
    assert!(taken_over < WITHIN / 6, "the job was taken over after {taken_over:?}");

    // The dead one comes back and owns nothing; then its successor may go.
    let System { addresses, managers, certificates, .. } = &system;
    let again = gate(&world, certificates, addresses, managers, first);
    again.process.stderr.wait_for("a gate takes part", &again.process.stdout);
    system.gates[first] = again;
    let before = target.counted().requests;
    let job = system.submit(&world, &file);
    target.until_counted(before + 300);
    system.gates[second].process.kill();

    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests - before);
    // Any gate that is alive knows both jobs and how they ended.
    for (place, gate) in system.gates.iter().enumerate().filter(|(place, _)| *place != second) {
        let jobs: Value = get_json(&gate.api, "/api/v1/jobs").unwrap();
        let states: Vec<&Value> =
            jobs.as_array().unwrap().iter().map(|job| &job["state"]).collect();
        assert_eq!(states.len(), 2, "gate {place}: {jobs:#}");
    }
}

#[test]
fn shd_01_a_gate_that_leaves_hands_its_jobs_over() {
    let world = World::new();
    let target = world.target();
    let mut system = System::start(&world);
    let file = world.write("test.yaml", test_of(&target.url(""), 15));
    let job = system.submit(&world, &file);
    target.until_counted(200);

    let first = system.owner("job accepted", &[]);
    let leaving = system.gates.remove(first);
    leaving.process.signal(Signal::TERM);

    let left = leaving.process.end(WITHIN);
    left.expect(0);
    assert!(left.took < WITHIN / 2, "{left}");
    let gates = &system.gates;
    until("a gate that took the job over", WITHIN, || {
        gates.iter().find(|gate| gate.process.stderr.text().contains("job taken over"))
    });
    until("both others know that it left, and did not die", WITHIN, || {
        let heard = gates.iter().filter(|g| g.process.stderr.text().contains("a gate has left"));
        (heard.count() == 2).then_some(())
    });
    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
}

#[test]
fn a_gate_that_lost_its_disk_is_replaced_by_what_comes_up_in_its_place() {
    let world = World::new();
    let target = world.target();
    let mut system = System::start(&world);
    let lost = get_json(&system.gates[0].api, "/api/v1/cluster").unwrap()["gate"].clone();
    let lost = lost.as_str().unwrap();
    system.gates[0].process.kill();
    std::fs::remove_dir_all(world.path("gate-0")).unwrap();
    let System { addresses, managers, certificates, .. } = &system;
    let fresh = gate(&world, certificates, addresses, managers, 0);
    let votes = |gate: &Gate, wanted: usize| {
        let cluster = get_json(&gate.api, "/api/v1/cluster")?;
        let gates = cluster["gates"].as_array()?.iter();
        let voting = gates.filter(|g| g["votes"] == true && g["has_session"] == true);
        (voting.count() == wanted).then_some(())
    };
    until("a spare in place of the dead", WITHIN, || {
        let cluster = get_json(&fresh.api, "/api/v1/cluster")?;
        (cluster["gates"][0]["votes"] == false && cluster["quorum"]["can_decide"] == false)
            .then_some(())
    });

    let removed = world.run(["cluster", "remove", lost, "--gate", &system.gates[1].api]);

    removed.expect(0);
    assert!(removed.stdout.contains("gates 3"), "{removed}");
    until("three gates that decide", WITHIN, || votes(&system.gates[1], GATES));
    // It decides with one of the others: so one of them may die, although one was lost for good.
    system.gates[0] = fresh;
    let file = world.write("test.yaml", test_of(&target.url(""), 10));
    let job = system.submit(&world, &file);
    target.until_counted(100);
    system.gates[1].process.kill();
    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);

    // Who looks back finds what was decided, by whom.
    let trail = std::fs::read_to_string(world.path("gate-2/gate-audit.jsonl")).unwrap();
    let lines: Vec<Value> = trail.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let removed = lines.iter().find(|line| line["what"] == "node_removed").unwrap();
    assert_eq!((&removed["node"], &removed["by"]), (&lost.into(), &"anonymous".into()));
    let of_job = |what: &str| lines.iter().filter(|line| line["what"] == what).count();
    assert_eq!((of_job("job_accepted"), of_job("job_ended")), (1, 1), "{trail}");
    let indexes: Vec<u64> = lines.iter().filter_map(|line| line["index"].as_u64()).collect();
    assert!(indexes.is_sorted_by(|one, next| one < next), "{trail}");
}

/// What a gate says to a submission, and after how long.
#[track_caller]
fn submit(gate: &Gate, key: &str) -> (u16, Value, Duration) {
    let body = submission(&test_of("http://127.0.0.1:1", 1), key);
    let asked = now();
    let (status, answer) = try_http(&gate.api, "POST", "/api/v1/jobs", &[], &body).unwrap();
    (status, serde_json::from_str(&answer).unwrap(), asked.elapsed())
}

#[track_caller]
fn quorum(gate: &Gate) -> Value {
    get_json(&gate.api, "/api/v1/cluster").unwrap()["quorum"].clone()
}

/// How soon a gate that cannot have anything decided says so.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);

#[test]
fn ldr_05_a_gate_without_the_others_refuses_and_says_who_is_missing() {
    let world = World::new();
    let mut system = System::start(&world);
    let whole = world.run(["cluster", "status", "--gate", &system.gates[2].api]);
    whole.expect(0);
    assert!(whole.stdout.starts_with("the gates decide: 3 of 3 reached"), "{whole}");
    assert!(whole.stdout.contains("takes part, leads"), "{whole}");
    assert!(whole.stdout.contains("dc1 ") && whole.stdout.contains("(fence "), "{whole}");

    system.gates[0].process.kill();
    system.gates[1].process.kill();
    let (status, problem, took) = submit(&system.gates[2], "alone");

    assert_eq!((status, &problem["type"]), (503, &Value::from("not-ready")), "{problem}");
    assert!(took < REFUSED_WITHIN, "refused after {took:?}: {problem}");
    let quorum = quorum(&system.gates[2]);
    assert_eq!((&quorum["reached"], &quorum["can_decide"]), (&1.into(), &false.into()));
    let asked = now();
    let alone = world.run(["cluster", "status", "--gate", &system.gates[2].api]);
    assert!(asked.elapsed() < REFUSED_WITHIN, "answered after {:?}", asked.elapsed());
    alone.expect(0);
    assert!(alone.stdout.contains("NOTHING IS DECIDED"), "{alone}");
    assert!(alone.stdout.contains("2 of 3 gates are out of reach"), "{alone}");
    let file = world.write("test.yaml", test_of("http://127.0.0.1:1", 1));
    let words = [OsStr::new("submit"), file.as_os_str(), OsStr::new("--gate")];
    let refused = world.run(words.into_iter().chain([OsStr::new(&system.gates[2].api)]));
    refused.refuses(112, &["this gate reaches 1 of 3 gates"]);

    let System { addresses, managers, certificates, .. } = &system;
    system.gates[0] = gate(&world, certificates, addresses, managers, 0);
    until("a submission that is accepted again", WITHIN, || {
        (submit(&system.gates[2], "together").0 == 201).then_some(())
    });
    let jobs = get_json(&system.gates[2].api, "/api/v1/jobs").unwrap();
    assert_eq!(jobs.as_array().unwrap().len(), 1, "what was refused did not run: {jobs:#}");
}

#[test]
fn ldr_05_a_gate_whose_others_hang_refuses_in_time() {
    let world = World::new();
    let system = System::start(&world);
    for gate in &system.gates[..2] {
        gate.process.signal(Signal::STOP);
    }

    let (status, problem, took) = submit(&system.gates[2], "alone");

    assert_eq!((status, &problem["type"]), (503, &Value::from("not-ready")), "{problem}");
    assert!(took < REFUSED_WITHIN, "refused after {took:?}: {problem}");
    for gate in &system.gates[..2] {
        gate.process.signal(Signal::CONT);
    }
    until("a submission that is accepted again", WITHIN, || {
        (submit(&system.gates[2], "together").0 == 201).then_some(())
    });
}

impl System {
    /// Steers a job by way of a gate; gives the answer's line.
    #[track_caller]
    fn steer(&self, world: &World, place: usize, words: &[&str]) -> String {
        let words = ["jobs"].iter().chain(words).chain(&["--gate"]);
        let words: Vec<&str> = words.copied().chain([self.gates[place].api.as_str()]).collect();
        let ended = world.run(&words);
        ended.expect(0);
        ended.stdout
    }
}

#[test]
fn dat_02_a_job_is_paused_resumed_and_scaled_while_its_owner_dies() {
    let world = World::new();
    let target = world.target();
    let mut system = System::start(&world);
    let file = world.write("test.yaml", test_of(&target.url(""), 20));
    let watched = system.submit(&world, &file);
    target.until_counted(200);
    let first = system.owner("job accepted", &[]);
    let other = (first + 1) % GATES;
    let jobs = get_json(&system.gates[other].api, "/api/v1/jobs").unwrap();
    let job = jobs[0]["job"].as_str().unwrap().to_owned();

    // Through a gate that does not own it.
    let line = system.steer(&world, other, &["pause", &job]);
    assert!(line.contains("paused"), "{line}");
    target.counts_within(Duration::from_secs(2));
    let while_paused = target.counts_within(Duration::from_secs(2));
    system.gates[first].process.kill();
    let second = system.owner("job taken over", &[first]);
    let after_takeover = target.counts_within(Duration::from_secs(3));
    system.steer(&world, other, &["resume", &job]);
    target.counts_within(Duration::from_secs(2));
    let resumed = target.counts_within(Duration::from_secs(3));
    let third = (0..GATES).find(|place| *place != first && *place != second).unwrap();
    system.steer(&world, third, &["scale", &job, "main=40/s"]);
    target.counts_within(Duration::from_secs(2));
    let scaled = target.counts_within(Duration::from_secs(3));
    let too_much = ["jobs", "scale", &job, "main=101/s", "--gate", &system.gates[third].api];
    world.run(too_much).refuses(112, &["at most its rate 100/s"]);

    assert_eq!((while_paused, after_takeover), (0, 0), "the load stands still");
    assert!((240..=360).contains(&resumed), "{resumed} requests in 3 s of 100/s");
    assert!((80..=160).contains(&scaled), "{scaled} requests in 3 s of 40/s");
    watched.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
    let result =
        get_json(&system.gates[third].api, &format!("/api/v1/jobs/{job}/results")).unwrap();
    let events = result["events"].as_array().unwrap();
    for kind in ["paused", "resumed", "scaled"] {
        let count = events.iter().filter(|event| event["kind"] == kind).count();
        assert_eq!(count, 1, "{kind}: {events:#?}");
    }
}
