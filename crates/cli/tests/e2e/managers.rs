//! A datacenter of several managers, of which the leading one dies.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::recorder::Recorder;
use crate::system::{Control, Process, WITHIN, World, free_addresses, is_whole, read_json, until};

const MANAGERS: usize = 3;
const WORKERS: usize = 2;
const LEADS: &str = "this manager leads";

/// Nodes that have certificates of one authority.
struct Datacenter {
    control: Control,
    managers: Vec<Process>,
    addresses: Vec<String>,
    certificates: PathBuf,
    workers: Vec<Process>,
}

impl Datacenter {
    #[track_caller]
    fn start(world: &World) -> Self {
        Self::with_cores(world, 1)
    }

    /// With so many cores for each worker.
    #[track_caller]
    fn with_cores(world: &World, cores: usize) -> Self {
        let certificates = world.certificates("local");
        let addresses = free_addresses(MANAGERS);
        let managers =
            (0..MANAGERS).map(|place| manager(world, &certificates, &addresses, place)).collect();
        let all = addresses.join(",");
        let node = |role: &str, more: &[&str]| {
            let mut arguments = vec![OsStr::new(role), OsStr::new("--join"), OsStr::new(&all)];
            arguments.extend([OsStr::new("--certs"), certificates.as_os_str()]);
            arguments.extend(more.iter().map(OsStr::new));
            world.start(arguments)
        };
        let process = node("gate", &["--api", "127.0.0.1:0", "--data-dir", "gate"]);
        let api = process.announced("API on http://").trim_end_matches("/api/v1").to_owned();
        let control = Control { process, nodes: all.clone(), api };
        let given = cores.to_string();
        let workers = (0..WORKERS).map(|_| node("worker", &["--cores", &given])).collect();
        control.until_free(WORKERS * cores);
        Self { control, managers, addresses, certificates, workers }
    }

    fn submit(&self, world: &World, file: &Path) -> Process {
        world.start([
            OsStr::new("submit"),
            file.as_os_str(),
            OsStr::new("--watch"),
            OsStr::new("--gate"),
            self.control.gate(),
            OsStr::new("--out"),
            OsStr::new("json=summary.json"),
        ])
    }

    /// The place of a manager that has said that it leads, other than those that are dead.
    #[track_caller]
    fn leader(&self, dead: &[usize]) -> usize {
        until("a leading manager", WITHIN, || {
            let alive = (0..MANAGERS).filter(|place| !dead.contains(place));
            alive.into_iter().find(|&place| self.managers[place].stderr.text().contains(LEADS))
        })
    }
}

#[track_caller]
fn manager(world: &World, certificates: &Path, addresses: &[String], place: usize) -> Process {
    let others = addresses.iter().enumerate().filter(|(other, _)| *other != place);
    let peers: Vec<&str> = others.map(|(_, address)| address.as_str()).collect();
    let (peers, data) = (peers.join(","), format!("manager-{place}"));
    let process = world.start([
        OsStr::new("manager"),
        OsStr::new("--listen"),
        OsStr::new(&addresses[place]),
        OsStr::new("--peers"),
        OsStr::new(&peers),
        OsStr::new("--certs"),
        certificates.as_os_str(),
        OsStr::new("--data-dir"),
        OsStr::new(&data),
        OsStr::new("--log"),
        OsStr::new("info"),
    ]);
    process.announced("listening for nodes on ");
    process
}

#[test]
fn orp_02_the_leading_manager_is_killed_and_nothing_restarts() {
    let world = World::new();
    let target = world.target();
    let mut datacenter = Datacenter::start(&world);
    let text = format!(
        "target: {}\nworkflows:\n  main:\n    load: {{ rate: 100/s, duration: 20s, max_vus: 100 }}\n    \
         cores: {WORKERS}\n    steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let job = datacenter.submit(&world, &file);
    target.until_counted(300);

    let first = datacenter.leader(&[]);
    datacenter.managers[first].kill();
    let second = datacenter.leader(&[first]);

    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);

    // The dead one comes back, and so its successor may go.
    let Datacenter { certificates, addresses, .. } = &datacenter;
    let again = manager(&world, certificates, addresses, first);
    again.stderr.wait_for("link up", &again.stdout);
    datacenter.managers[first] = again;
    let before = target.counted().requests;
    let job = datacenter.submit(&world, &file);
    target.until_counted(before + 300);
    datacenter.managers[second].kill();

    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests - before);
}

#[test]
fn shd_02_a_leading_manager_and_a_worker_are_drained_and_the_load_goes_on() {
    let world = World::new();
    let target = world.target();
    let mut datacenter = Datacenter::start(&world);
    let text = format!(
        "target: {}\nworkflows:\n  main:\n    load: {{ rate: 100/s, duration: 15s, max_vus: 100 }}\n    \
         steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let job = datacenter.submit(&world, &file);
    target.until_counted(200);
    let first = datacenter.leader(&[]);
    let cluster = datacenter.control.get("/cluster");
    let leader = cluster["datacenters"][0]["leader"].as_str().unwrap().to_owned();
    let drain = |node: &str| {
        let mut words: Vec<&OsStr> = ["cluster", "drain", node, "--gate"].map(OsStr::new).into();
        words.push(datacenter.control.gate());
        world.run(words)
    };

    let drained = drain(&leader);

    drained.expect(0);
    assert!(drained.stdout.contains("has left"), "{drained}");
    let left = datacenter.managers.remove(first);
    assert!(left.stderr.text().contains("this manager leads no more"), "it handed over");
    left.end(WITHIN).expect(0);
    let nodes = datacenter.control.get("/nodes");
    let worker = nodes.as_array().unwrap().iter().find(|node| node["role"] == "worker").unwrap();
    // It finishes what it runs.
    let drained = drain(worker["node"].as_str().unwrap());
    drained.expect(0);

    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
    drain("node_0000000000000001").refuses(112, &["no node node_0000000000000001"]);
}

#[test]
fn a_manager_that_lost_its_disk_is_replaced_while_a_job_runs() {
    let world = World::new();
    let target = world.target();
    let mut datacenter = Datacenter::start(&world);
    let text = format!(
        "target: {}\nworkflows:\n  main:\n    load: {{ rate: 100/s, duration: 25s, max_vus: 100 }}\n    \
         cores: {WORKERS}\n    steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let job = datacenter.submit(&world, &file);
    target.until_counted(200);
    let first = datacenter.leader(&[]);
    let cluster = datacenter.control.get("/cluster");
    let lost = cluster["datacenters"][0]["leader"].as_str().unwrap().to_owned();

    datacenter.managers[first].kill();
    std::fs::remove_dir_all(world.path(&format!("manager-{first}"))).unwrap();
    let Datacenter { certificates, addresses, .. } = &datacenter;
    datacenter.managers[first] = manager(&world, certificates, addresses, first);
    let second = datacenter.leader(&[first]);
    // The gate has to have heard of the new leader before it can tell it anything.
    until("a datacenter that is led again", WITHIN, || {
        let cluster = datacenter.control.get("/cluster");
        let leader = cluster["datacenters"][0]["leader"].as_str()?.to_owned();
        (leader != lost).then_some(())
    });
    let mut words: Vec<&OsStr> = ["cluster", "remove", &lost, "--gate"].map(OsStr::new).into();
    words.push(datacenter.control.gate());
    let removed = world.run(words);
    removed.expect(0);
    until("three managers that decide", WITHIN, || {
        let cluster = datacenter.control.get("/cluster");
        let voters = cluster["datacenters"][0]["voters"].as_array()?.clone();
        (voters.len() == MANAGERS && !voters.contains(&lost.as_str().into())).then_some(())
    });

    datacenter.managers[second].kill();
    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
}

#[test]
fn dat_02_a_paused_job_stays_so_while_its_leading_manager_dies() {
    let world = World::new();
    let target = world.target();
    let mut datacenter = Datacenter::start(&world);
    let text = format!(
        "target: {}\nworkflows:\n  main:\n    load: {{ executor: externally-controlled, vus: 2, \
         max_vus: 4, duration: 15s }}\n    cores: {WORKERS}\n    steps: [ {{ get: / }}, {{ pause: 50ms }} ]\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let watched = datacenter.submit(&world, &file);
    target.until_counted(100);
    let job = datacenter.control.get("/jobs")[0]["job"].as_str().unwrap().to_owned();
    let steer = |words: &[&str]| {
        let words = ["jobs"].iter().chain(words).map(OsStr::new);
        world.run(words.chain([OsStr::new("--gate"), datacenter.control.gate()])).expect(0);
    };

    let of_two = target.counts_within(Duration::from_secs(2));
    steer(&["pause", &job]);
    target.counts_within(Duration::from_secs(2));
    let first = datacenter.leader(&[]);
    let paused = target.counts_within(Duration::from_secs(1));
    datacenter.managers[first].kill();
    datacenter.leader(&[first]);
    let after_takeover = target.counts_within(Duration::from_secs(3));
    let steer = |words: &[&str]| {
        let words = ["jobs"].iter().chain(words).map(OsStr::new);
        world.run(words.chain([OsStr::new("--gate"), datacenter.control.gate()])).expect(0);
    };
    steer(&["scale", &job, "main=4"]);
    let scaled_while_paused = target.counts_within(Duration::from_secs(2));
    steer(&["resume", &job]);
    target.counts_within(Duration::from_secs(2));
    let of_four = target.counts_within(Duration::from_secs(2));

    assert_eq!((paused, after_takeover, scaled_while_paused), (0, 0, 0), "the load stands still");
    assert!(of_four * 2 > of_two * 3, "{of_four} requests of 4 users, {of_two} of 2");
    watched.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);
}

#[test]
fn a_worker_finds_its_manager_in_a_file_that_is_written_later() {
    let world = World::new();
    let control = world.control();
    let certificates = world.path("data/development-certificates/worker");
    let file = world.write("managers", "# none yet\n");
    let seed = format!("@{}", file.display());
    let words = ["worker", "--cores", "1", "--join", &seed, "--certs"].map(OsStr::new);
    let worker = world.start(words.into_iter().chain([certificates.as_os_str()]));
    worker.stderr.wait_for("nobody to call; looking again", &worker.stdout);

    world.write("managers", format!("{} # the only one\n", control.nodes));

    control.until_free(1);
}

#[test]
fn dat_01_no_row_is_sent_twice_though_a_worker_and_the_leading_manager_are_killed() {
    let world = World::new();
    let target = Recorder::start();
    let mut datacenter = Datacenter::with_cores(&world, 2);
    const ROWS: u64 = 20_000;
    world.write("rows.csv", (0..ROWS).fold("n\n".to_owned(), |rows, n| format!("{rows}{n}\n")));
    // Users and starts draw from the same rows, each on both workers.
    let text = format!(
        "target: {}\ndata: {{ rows: {{ csv: rows.csv, pick: unique }} }}\nworkflows:\n  \
         users:\n    load: {{ vus: 4, duration: 20s }}\n    cores: 2\n    \
         steps: [ {{ get: \"/${{rows.n}}\" }}, {{ pause: 20ms }} ]\n  \
         starts:\n    load: {{ rate: 50/s, duration: 20s, max_vus: 20 }}\n    cores: 2\n    \
         steps: [ {{ get: \"/${{rows.n}}\" }} ]\n",
        target.url
    );
    let job = datacenter.submit(&world, &world.write("rows.yaml", text));
    until("load", WITHIN, || (target.paths().len() > 500).then_some(()));

    let leader = datacenter.leader(&[]);
    datacenter.workers[0].kill();
    datacenter.managers[leader].kill();

    job.end(2 * WITHIN).expect(0);
    let summary = read_json(&world.path("summary.json"));
    let mut received: BTreeMap<String, u64> = BTreeMap::new();
    target.paths().into_iter().for_each(|path| *received.entry(path).or_default() += 1);
    let twice: Vec<_> = received.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "rows were sent twice: {twice:?}");
    let rows = &summary["rows"][0];
    println!("{} rows reached the target: {rows}", received.len());
    let [all, sent, left, possibly] =
        ["rows", "sent", "left", "possibly_sent"].map(|name| rows[name].as_u64().unwrap());
    assert_eq!((all, sent + left + possibly), (ROWS, ROWS), "{rows}");
    let received = received.len() as u64;
    assert!(sent <= received && received <= sent + possibly, "{received} were sent: {rows}");
    assert!(possibly > 0, "nobody knows all of what the killed worker sent: {rows}");
    let gaps = summary["gaps"].as_array().unwrap();
    assert!(!gaps.is_empty(), "a worker was lost");
}
