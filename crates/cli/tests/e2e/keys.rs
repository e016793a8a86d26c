//! The key of gossip is changed, in files and under nodes that run.

use serde_json::Value;

use crate::playground::submission;
use crate::system::{
    Ended, Process, WITHIN, World, free_addresses, get_json, http, is_whole, now, until,
};

/// Nodes that gossip among themselves: three gates; a manager and two workers. Each hears of two.
const OTHERS: u64 = 2;

/// A node with certificates of its own, in a directory of its name.
struct Node {
    name: &'static str,
    process: Process,
    /// Where it shows its metrics.
    metrics: String,
}

impl Node {
    #[track_caller]
    fn metric(&self, sample: &str) -> u64 {
        let (status, text) = http(&self.metrics, "GET", "/metrics", &[], "");
        assert_eq!(status, 200, "{text}");
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
    }

    /// The id of a key that it has, 0 if it has none.
    #[track_caller]
    fn key(&self, place: &str) -> u64 {
        self.metric(&format!("hyperscale_gossip_key{{key=\"{place}\"}}"))
    }

    /// Datagrams that it has opened with a key.
    #[track_caller]
    fn opened(&self, place: &str) -> u64 {
        self.metric(&format!("hyperscale_gossip_datagrams_opened_total{{key=\"{place}\"}}"))
    }

    /// Datagrams of which it has no key.
    #[track_caller]
    fn unknown(&self) -> u64 {
        self.metric("hyperscale_datagrams_total{fate=\"unknown_key\"}")
    }

    /// How often gossip said of another node that it is so.
    #[track_caller]
    fn members(&self, change: &str) -> u64 {
        self.metric(&format!("hyperscale_members_total{{change=\"{change}\"}}"))
    }

    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let what = format!("{}: {what}\n{}", self.name, self.process.stderr.text());
        until(&what, WITHIN, || is_so(self).then_some(()));
    }
}

/// What a cluster's nodes are started with.
struct Places {
    gates: Vec<String>,
    manager: String,
}

impl Places {
    #[track_caller]
    fn gate(&self, world: &World, place: usize) -> Node {
        let name = ["gate-0", "gate-1", "gate-2"][place];
        let others = self.gates.iter().enumerate().filter(|(other, _)| *other != place);
        let others: Vec<&str> = others.map(|(_, address)| address.as_str()).collect();
        let (others, data) = (others.join(","), format!("{name}-data"));
        let words = ["gate", "--listen", &self.gates[place], "--gates", &others, "--join"];
        let more = [&self.manager, "--api", "127.0.0.1:0", "--api-rate", "10000"];
        let last = ["--api-burst", "10000", "--data-dir", &data];
        start(world, name, &[&words[..], &more, &last].concat(), "API on http://")
    }

    #[track_caller]
    fn manager(&self, world: &World) -> Node {
        let words = ["manager", "--listen", &self.manager, "--data-dir", "manager-data"];
        start(world, "manager", &[&words[..], &METRICS].concat(), SHOWN)
    }

    #[track_caller]
    fn worker(&self, world: &World, name: &'static str) -> Node {
        let words = ["worker", "--join", &self.manager, "--cores", "1"];
        start(world, name, &[&words[..], &METRICS].concat(), SHOWN)
    }
}

const METRICS: [&str; 2] = ["--metrics", "127.0.0.1:0"];
const SHOWN: &str = "metrics on http://";

#[track_caller]
fn start(world: &World, name: &'static str, words: &[&str], announced: &str) -> Node {
    let process = world.start(words.iter().chain(&["--log", "info", "--certs", name]));
    let address = process.announced(announced);
    let metrics = address.split('/').next().unwrap_or_default().to_owned();
    Node { name, process, metrics }
}

/// Makes an authority, `ca`, and certificates of nodes by their names.
#[track_caller]
fn certificates(world: &World, names: &[&str]) {
    world.run(["cert", "init", "--out", "ca"]).expect(0);
    for name in names {
        certificate(world, name);
    }
}

#[track_caller]
fn certificate(world: &World, name: &str) {
    let role = name.split('-').next().unwrap();
    world.run(["cert", "node", "--ca", "ca", "--out", name, "--roles", role]).expect(0);
}

#[track_caller]
fn keys(world: &World, step: &str, directories: &[&str]) -> Ended {
    world.run(["cluster", "keys", step].iter().chain(directories))
}

/// What a directory's keys are called, in metrics.
#[track_caller]
fn listed(world: &World, directory: &str) -> [Option<u64>; 3] {
    let list = keys(world, "list", &[directory, "--output", "json"]);
    list.expect(0);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(list[0]["directory"], directory, "{list:#}");
    ["current", "next", "previous"].map(|place| list[0][place]["number"].as_u64())
}

#[test]
fn sec_03_the_key_of_gossip_is_changed_under_nodes_that_run() {
    let world = World::alone();
    let target = world.target();
    let names = ["gate-0", "gate-1", "gate-2", "manager", "worker-0", "worker-1"];
    certificates(&world, &names);
    certificate(&world, "worker-late"); // It will have missed everything.
    let all: Vec<&str> = ["ca"].into_iter().chain(names).collect();
    let mut addresses = free_addresses(4);
    let places = Places { manager: addresses.remove(3), gates: addresses };
    let mut nodes: Vec<Node> = (0..3).map(|place| places.gate(&world, place)).collect();
    nodes.push(places.manager(&world));
    nodes.extend(["worker-0", "worker-1"].map(|name| places.worker(&world, name)));
    for node in &nodes {
        node.until("it hears of all others", |node| node.members("alive") >= OTHERS);
    }
    for gate in &nodes[..3] {
        until("all gates and cores", WITHIN, || {
            let cluster = get_json(&gate.metrics, "/api/v1/cluster")?;
            let gates = cluster["gates"].as_array()?.iter();
            let ready = gates.filter(|gate| gate["has_session"] == true).count();
            (ready == 3 && cluster["datacenters"][0]["free_cores"] == 2).then_some(())
        });
    }
    let [Some(old), None, None] = listed(&world, "ca") else { panic!("ca has one key") };
    let seconds = 45;
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ rate: 100/s, duration: {seconds}s, max_vus: \
         100 }}, steps: [ {{ get: / }} ] }} }}\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);
    let gates: Vec<&str> = nodes[..3].iter().map(|gate| gate.metrics.as_str()).collect();
    let gates = gates.join(",");
    let mut job = world.start(submission(&file, &gates));
    target.until_counted(100);
    let began = now();

    keys(&world, "next", &all).expect(0);
    let [Some(current), Some(new), None] = listed(&world, "ca") else {
        panic!("ca has a next key")
    };
    assert_eq!(current, old);
    for node in &nodes {
        node.until("it knows the next key", |node| node.key("next") == new);
    }
    // A gate and the manager go first: each has to be heard by whoever has not yet.
    keys(&world, "use", &["gate-0", "manager"]).expect(0);
    for (place, node) in nodes.iter().enumerate() {
        let (what, key) = match place {
            0 | 3 => ("it hears those that use the old key still", "previous"),
            _ => ("it hears those that use the new key already", "next"),
        };
        node.until(what, |node| node.opened(key) > 0);
    }
    keys(&world, "use", &all).expect(0);
    for node in &nodes {
        node.until("it uses the new key, and knows the old one", |node| {
            [node.key("current"), node.key("previous")] == [new, old]
        });
    }
    keys(&world, "drop", &all).expect(0);
    for node in &nodes {
        node.until("it has forgotten the old key", |node| node.key("previous") == 0);
    }
    let heard: Vec<u64> = nodes.iter().map(|node| node.opened("current")).collect();
    for (node, heard) in nodes.iter().zip(heard) {
        node.until("it hears others", |node| node.opened("current") > heard + OTHERS);
    }

    println!("three steps took {:?}", began.elapsed());
    assert!(job.is_running(), "the steps took longer than the job of {seconds} s");
    for node in &nodes {
        // A machine that is busy may be late to answer, which is refuted in time.
        let changes = ["alive", "dead"].map(|change| node.members(change));
        let log = node.process.stderr.text();
        assert_eq!(changes[1], 0, "{}: a member was missed\n{log}", node.name);
        assert!(changes[0] >= OTHERS, "{}: a member was never heard\n{log}", node.name);
        assert_eq!(node.unknown(), 0, "{}: a key was missing\n{log}", node.name);
    }
    job.end(2 * WITHIN).expect(0);
    is_whole(&world, target.counted().requests);

    // Nodes that start afterwards take part: one of before, and one of today.
    nodes[1].process.kill();
    nodes[1] = places.gate(&world, 1);
    certificate(&world, "worker-2");
    nodes.push(places.worker(&world, "worker-2"));
    for node in [&nodes[1], &nodes[6]] {
        node.until("it hears of others", |node| node.members("alive") >= OTHERS);
        assert_eq!([node.key("current"), node.unknown()], [new, 0]);
    }

    // One that has missed everything is not heard, so nobody calls it, and the others say why ...
    let mut late = places.worker(&world, "worker-late");
    let manager = &nodes[3];
    assert_eq!(late.key("current"), old);
    manager.until("it counts datagrams of an old key", |node| node.unknown() > 0);
    let said = manager.process.stderr.wait_for("a key that is not known", &manager.process.stdout);
    assert!(said.contains(&format!("{old:08x}")), "the key is not named: {said}");
    assert_eq!(late.members("alive"), 0);
    // ... until it is given the key, without a restart; half of it changes nothing.
    world.write("worker-late/gossip.key", "0123");
    let said = late.process.stderr.wait_for("gossip keys are of no use", &late.process.stdout);
    assert!(said.contains("64 hexadecimal digits"), "what is expected is not said: {said}");
    assert!(late.process.is_running());
    assert_eq!(late.key("current"), old);
    std::fs::copy(world.path("ca/gossip.key"), world.path("worker-late/gossip.key")).unwrap();
    late.until("it uses the new key", |node| node.key("current") == new);
    late.until("it hears of others", |node| node.members("alive") >= OTHERS);
}

#[test]
fn sec_03_steps_out_of_order_are_refused_and_say_where() {
    let world = World::new();
    certificates(&world, &["gate-0", "worker-0"]);
    let all = ["ca", "gate-0", "worker-0"];
    let is = |held: &[Option<u64>; 3]| all.map(|directory| listed(&world, directory) == *held);
    let first @ [Some(old), None, None] = listed(&world, "ca") else { panic!("ca has one key") };
    assert_eq!(is(&first), [true; 3], "`cert` hands the key on");

    keys(&world, "use", &all).refuses(104, &["ca has no next key"]);
    keys(&world, "drop", &all).refuses(104, &["no previous key", "worker-0"]);
    keys(&world, "list", &[]).refuses(104, &["<DIR>"]);
    let missing = keys(&world, "next", &["ca", "gate-0", "nowhere"]);
    missing.refuses(104, &["nowhere holds no gossip.key", "hyperscale cert"]);
    assert_eq!(is(&first), [true; 3], "a step that was refused changed something");

    let next = keys(&world, "next", &["ca", "gate-0"]);
    next.expect(0);
    assert!(next.stdout.contains("gossip_key{key=\"next\"}"), "what to look at: {next}");
    let second @ [_, Some(new), None] = listed(&world, "ca") else { panic!("ca has a next key") };
    keys(&world, "use", &all).refuses(104, &["worker-0 has no next key"]);
    keys(&world, "next", &all).refuses(104, &["ca has", "already", "--force"]);
    assert_eq!(is(&second), [true, true, false]);
    keys(&world, "next", &["--force", "ca", "gate-0", "worker-0"]).expect(0);
    let third @ [_, Some(another), None] = listed(&world, "ca") else {
        panic!("ca has a next key")
    };
    assert_ne!(new, another);
    assert_eq!(is(&third), [true; 3]);
    // A node that comes meanwhile has all that the others have.
    certificate(&world, "worker-1");
    assert_eq!(listed(&world, "worker-1"), third);

    keys(&world, "use", &["gate-0"]).expect(0);
    keys(&world, "drop", &all).refuses(104, &["ca", "gate-0", "missed"]);
    keys(&world, "next", &["--force", "ca", "worker-0"]).expect(0);
    keys(&world, "use", &all).refuses(104, &["ca changes from", "gate-0 from"]);
    std::fs::copy(world.path("worker-1/gossip.key.next"), world.path("ca/gossip.key.next"))
        .unwrap();
    std::fs::copy(world.path("ca/gossip.key.next"), world.path("worker-0/gossip.key.next"))
        .unwrap();
    keys(&world, "use", &all).expect(0);
    assert_eq!(is(&[Some(another), None, Some(old)]), [true; 3]);
    keys(&world, "next", &all).refuses(104, &["still has", "`drop`"]);
    keys(&world, "use", &all).refuses(104, &["already", "no next key"]);
    keys(&world, "drop", &all).expect(0);
    assert_eq!(is(&[Some(another), None, None]), [true; 3]);

    // What is damaged is named: to whoever changes keys, and at the start of a node.
    world.write("gate-0/gossip.key.next", "no key");
    let said = ["gate-0/gossip.key.next", "64 hexadecimal digits"];
    keys(&world, "next", &all).refuses(104, &said);
    let start = ["gate", "--join", "127.0.0.1:1", "--certs", "gate-0", "--api", "127.0.0.1:0"];
    world.run(start).refuses(104, &said);
    assert!(!world.path("ca/gossip.key.next").exists());
}
