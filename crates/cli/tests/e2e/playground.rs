//! A whole cluster that one command starts, breaks and ends.

use std::ffi::OsStr;
use std::path::Path;

use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value;

use crate::system::{
    Ended, Process, WITHIN, World, get_json, is_whole, read_json, try_http, until,
};

/// A playground in a directory of the world.
pub(crate) struct Playground {
    pub(crate) process: Process,
    /// The APIs of its gates, by place.
    pub(crate) apis: Vec<String>,
}

impl Playground {
    #[track_caller]
    pub(crate) fn start(world: &World, words: &[&str]) -> Self {
        let process = world.start(["playground", "--dir", "playground"].iter().chain(words));
        process.announced("ready: ");
        let apis = (read_state(world)["nodes"].as_array().unwrap().iter())
            .filter_map(|node| node["api"].as_str().map(str::to_owned))
            .collect();
        Self { process, apis }
    }

    /// All gates, as a client names them.
    pub(crate) fn gates(&self) -> String {
        self.apis.join(",")
    }
}

/// Does something to a playground.
#[track_caller]
pub(crate) fn play(world: &World, words: &[&str]) -> Ended {
    world.run(["playground"].iter().chain(words).chain(&["--dir", "playground"]))
}

#[track_caller]
pub(crate) fn read_state(world: &World) -> Value {
    read_json(&world.path("playground/playground.json"))
}

/// The processes of a playground, itself included.
fn processes(world: &World) -> Vec<u64> {
    let state = read_state(world);
    let nodes = state["nodes"].as_array().unwrap().iter().filter_map(|node| node["pid"].as_u64());
    nodes.chain(state["pid"].as_u64()).collect()
}

fn lives(pid: u64) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    test_kill_process(pid).is_ok()
}

fn log(world: &World, node: &str) -> String {
    std::fs::read_to_string(world.path(&format!("playground/{node}.log"))).unwrap()
}

/// The gate whose log says that it owns the last job.
#[track_caller]
pub(crate) fn owner(world: &World, gates: usize) -> String {
    until("a gate that owns the job", WITHIN, || {
        (0..gates).map(|n| format!("gate-{n}")).find(|gate| log(world, gate).contains("accepted"))
    })
}

/// What submits a test, follows it to its end, and leaves its summary.
pub(crate) fn submission<'a>(file: &'a Path, gates: &'a str) -> [&'a OsStr; 7] {
    let words = ["submit", "", "--watch", "--gate", gates, "--out", "json=summary.json"];
    let mut words = words.map(OsStr::new);
    words[1] = file.as_os_str();
    words
}

#[test]
fn a_playground_is_broken_and_mended_and_leaves_nothing_behind() {
    let world = World::new();
    let target = world.target();
    let sizes = ["--gates", "3", "--datacenters", "1", "--managers", "1", "--workers", "2"];
    let playground = Playground::start(&world, &sizes);
    let pids = processes(&world);
    assert_eq!(pids.len(), 3 + 1 + 2 + 1, "each node is a process");
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ rate: 100/s, duration: 10s, max_vus: 100 }}, \
         steps: [ {{ get: / }} ] }} }}\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let job = world.start(submission(&file, &playground.gates()));
    target.until_counted(200);

    let owner = owner(&world, 3);
    play(&world, &["kill", &owner]).expect(0);
    play(&world, &["kill", &owner]).refuses(104, &["does not run", "restart"]);

    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);

    // It comes back, at the same place.
    play(&world, &["restart", &owner]).expect(0);
    let place: usize = owner.trim_start_matches("gate-").parse().unwrap();
    until("the job, at the gate that was killed", WITHIN, || {
        let jobs = get_json(&playground.apis[place], "/api/v1/jobs")?;
        (jobs.as_array()?.len() == 1).then_some(())
    });

    let all = processes(&world);
    playground.process.signal(Signal::INT);
    playground.process.end(WITHIN).expect(0);
    let left: Vec<u64> = all.into_iter().filter(|pid| lives(*pid)).collect();
    assert_eq!(left, Vec::<u64>::new(), "processes outlive their playground");
    play(&world, &["list"]).refuses(112, &["no playground runs in"]);
}

#[test]
fn a_playground_cuts_slows_and_freezes_and_says_what_it_cannot() {
    let world = World::new();
    let words = ["--gates", "1", "--datacenters", "2", "--managers", "1", "--workers", "1"];
    let playground = Playground::start(&world, &words);
    let is_fresh = |datacenter: &str| {
        let known = get_json(&playground.apis[0], "/api/v1/datacenters").unwrap();
        let known = known.as_array().unwrap().iter();
        let found: Vec<_> = known.filter(|known| known["datacenter"] == datacenter).collect();
        found[0]["is_fresh"] == true
    };
    let until_it_is = |datacenter: &str, fresh: bool| {
        let what = format!("{datacenter} is fresh: {fresh}");
        until(&what, WITHIN, || (is_fresh(datacenter) == fresh).then_some(()));
    };

    play(&world, &["cut", "dc-1"]).expect(0);
    until_it_is("dc-1", false);
    assert!(is_fresh("dc-0"), "the other datacenter is not cut off");
    play(&world, &["slow", "gate-0", "10ms"]).expect(0);
    let list = play(&world, &["list", "--output", "json"]);
    list.expect(0);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let cluster = get_json(&playground.apis[0], "/api/v1/cluster").unwrap();
    let nodes = list["nodes"].as_array().unwrap();
    let id_of =
        |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap()["node"].clone();
    assert_eq!(cluster["gate"], id_of("gate-0"));
    assert_eq!(cluster["datacenters"][1]["leader"], id_of("dc-1-manager-0"));
    let faults = list["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 2, "{faults:?}");
    let cut: Vec<_> = faults.iter().filter(|fault| fault["is_cut"] == true).collect();
    assert_eq!(cut[0]["between"], serde_json::json!(["gate-0", "dc-1-manager-0"]));
    play(&world, &["heal"]).expect(0);
    until_it_is("dc-1", true);

    play(&world, &["freeze", "dc-0-manager-0"]).expect(0);
    until_it_is("dc-0", false);
    play(&world, &["thaw", "dc-0-manager-0"]).expect(0);
    until_it_is("dc-0", true);

    // Whatever else it looks at meanwhile, each question is answered.
    for _ in 0..100 {
        play(&world, &["list"]).expect(0);
    }
    let unknown = play(&world, &["kill", "gate-7"]);
    unknown.refuses(104, &["no node `gate-7`", "gate-0", "dc-1-worker-0"]);
    let apart = ["cut", "gate-0", "dc-0-worker-0"];
    play(&world, &apart).refuses(104, &["gate-0 and dc-0-worker-0 do not talk"]);
    let again = world.run(["playground", "--dir", "playground"]);
    again.refuses(104, &["a playground runs in", "already"]);
}

/// A metric of a gate, by its name with its labels.
fn metric(api: &str, name: &str) -> Option<u64> {
    let (_, text) = try_http(api, "GET", "/metrics", &[], "").ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.find_map(|value| value.strip_prefix(' ')?.parse().ok())
}

#[test]
fn mem_02_mem_05_gossip_hears_of_a_cut_and_of_its_end_and_of_no_death_in_bad_weather() {
    let world = World::new();
    let playground = Playground::start(&world, &["--gates", "3", "--workers", "1"]);
    let until_alive = |what: &str, counts: [u64; 3]| {
        until(what, WITHIN, || {
            let found: Vec<_> = (playground.apis.iter())
                .map(|api| metric(api, "hyperscale_members{state=\"alive\"}"))
                .collect();
            (found == counts.map(Some)).then_some(())
        });
    };
    until_alive("gates that know each other", [2, 2, 2]);

    let dead = || {
        let name = "hyperscale_members_total{change=\"dead\"}";
        let found = playground.apis.iter().map(|api| metric(api, name).unwrap());
        found.collect::<Vec<u64>>()
    };
    let heard = || {
        let name = "hyperscale_gossip_datagrams_opened_total{key=\"current\"}";
        metric(&playground.apis[2], name).unwrap()
    };

    // What is late and lost is no death.
    play(&world, &["lose", "gate-2", "20"]).expect(0);
    play(&world, &["slow", "gate-2", "50ms"]).expect(0);
    let list = play(&world, &["list"]);
    assert!(list.stdout.contains("slowed by 50 ms, 20 % of gossip is lost"), "{}", list.stdout);
    let before = heard();
    until("40 datagrams through bad weather", WITHIN, || (heard() >= before + 40).then_some(()));
    assert_eq!(dead(), [0, 0, 0]);

    play(&world, &["cut", "gate-2"]).expect(0);
    until("a death at all that are left, and two at the other", WITHIN, || {
        (dead() == [1, 1, 2]).then_some(())
    });

    play(&world, &["heal"]).expect(0);
    until_alive("all of them again", [2, 2, 2]);

    // Its manager knows by gossip, too, what the worker is.
    until("what a worker says of itself", WITHIN, || {
        let said = "a member says what it is";
        let lines = log(&world, "dc-0-manager-0");
        let mut lines = lines.lines().filter(|line| line.contains(said));
        lines.any(|line| line.contains("role=worker") && line.contains("cores=1")).then_some(())
    });
}

#[test]
fn orp_07_who_watches_at_a_gate_that_is_cut_off_goes_to_the_new_owner() {
    let world = World::new();
    let target = world.target();
    let playground = Playground::start(&world, &["--gates", "3", "--workers", "1"]);
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ rate: 50/s, duration: 10s, max_vus: 100 }}, \
         steps: [ {{ get: / }} ] }} }}\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let gates = playground.gates();
    let job =
        world.run([OsStr::new("submit"), file.as_os_str(), "--gate".as_ref(), gates.as_ref()]);
    job.expect(0);
    let job = job.stdout.trim().to_owned();
    target.until_counted(50);
    let owner = owner(&world, 3);
    let place: usize = owner.trim_start_matches("gate-").parse().unwrap();
    let mut gates = playground.apis.clone();
    gates.rotate_left(place);
    let gates = gates.join(",");
    let watch = ["watch", &job, "--gate", &gates, "--out", "json=summary.json"];
    let watching = world.start(watch);
    watching.stderr.wait_for("accepted", &watching.stdout);

    play(&world, &["cut", &owner]).expect(0);

    // Until then nothing is mended.
    watching.end(WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
}

#[test]
fn a_playground_that_is_killed_leaves_no_node_behind() {
    let world = World::new();
    let mut playground = Playground::start(&world, &["--gates", "1", "--workers", "2"]);
    let all = processes(&world);
    play(&world, &["freeze", "dc-0-worker-1"]).expect(0);

    playground.process.kill();

    until("the end of all nodes", WITHIN, || (!all.iter().any(|pid| lives(*pid))).then_some(()));
    play(&world, &["list"]).refuses(112, &["no playground runs in"]);
}

#[test]
fn sizes_that_no_ledger_has_and_places_that_are_taken_are_refused() {
    let world = World::new();
    world.write("taken", "");
    std::fs::create_dir(world.path("full")).unwrap();
    world.write("full/file", "");

    world.run(["playground", "--gates", "2"]).refuses(104, &["1, 3 or 5"]);
    world.run(["playground", "--managers", "4"]).refuses(104, &["1, 3 or 5"]);
    world.run(["playground", "--dir", "taken"]).refuses(113, &["taken"]);
    world.run(["playground", "--dir", "full"]).refuses(104, &["is not empty"]);
    play(&world, &["list"]).refuses(112, &["no playground runs in"]);
}
