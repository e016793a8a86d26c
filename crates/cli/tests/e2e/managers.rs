//! A datacenter of several managers, of which the leading one dies.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::system::{Control, Process, WITHIN, World, free_addresses, is_whole, until};

const MANAGERS: usize = 3;
const WORKERS: usize = 2;
const LEADS: &str = "this manager leads";

/// Nodes that have certificates of one authority.
struct Datacenter {
    control: Control,
    managers: Vec<Process>,
    addresses: Vec<String>,
    certificates: PathBuf,
    _workers: Vec<Process>,
}

impl Datacenter {
    #[track_caller]
    fn start(world: &World) -> Self {
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
        let workers = (0..WORKERS).map(|_| node("worker", &["--cores", "1"])).collect();
        control.until_free(WORKERS);
        Self { control, managers, addresses, certificates, _workers: workers }
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
