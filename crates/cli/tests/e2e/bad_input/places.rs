//! Disks that are full, read-only or damaged; ports that are taken; gates that are not there.

use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::system::{Ended, Process, WITHIN, World, until};

fn test(world: &World, url: &str) -> PathBuf {
    let text = format!(
        "target: {url}\nworkflows: {{ main: {{ load: {{ vus: 2, iterations: 10 }}, \
         steps: [ {{ get: / }} ] }} }}\n"
    );
    world.write("test.yaml", text)
}

const SERVE: [&str; 8] = [
    "serve",
    "--roles",
    "gate,manager",
    "--listen",
    "127.0.0.1:0",
    "--api",
    "127.0.0.1:0",
    "--data-dir",
];

#[test]
fn results_that_cannot_be_written_end_with_113_and_are_shown_all_the_same() {
    let world = World::new();
    let target = world.target();
    let file = test(&world, &target.url(""));

    for out in ["json=/dev/full", "html=/dev/full"] {
        let ended = world.run(["run".as_ref(), file.as_os_str(), "--out".as_ref(), out.as_ref()]);
        ended.refuses(113, &["/dev/full", "No space left"]);
        assert!(ended.stdout.contains("20 requests") || ended.stdout.contains("20"), "{ended}");
    }
    assert_eq!(target.counted().requests, 40);
    // What can be known before is said before.
    let before = target.counted().requests;
    let nowhere = world.run([
        "run".as_ref(),
        file.as_os_str(),
        "--out".as_ref(),
        OsStr::new("json=no/where/a.json"),
    ]);
    nowhere.refuses(113, &["no/where"]);
    assert_eq!(target.counted().requests, before, "nothing was sent");
}

/// A file that may not grow is a disk that is full.
#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let world = World::new();
    let mut command = world.shell("trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"");
    command.args(SERVE).arg("data");

    let ended = Process::start(&mut command).end(WITHIN);

    ended.refuses(113, &["data/", "File too large"]);
}

/// In a place of its own, which ends with the process; `None` if this user may not make one.
fn mounted(world: &World, options: &str, then: &str) -> Option<Command> {
    let place = world.path("mount");
    std::fs::create_dir_all(&place).unwrap();
    let mount = format!("mount -t tmpfs -o {options} tmpfs '{}'", place.display());
    let in_namespace = |script: String| {
        let mut command = world.of("unshare");
        command.args(["--mount", "sh", "-c"]).arg(script).arg(env!("CARGO_BIN_EXE_hyperscale"));
        command
    };
    if !Process::start(&mut in_namespace(mount.clone())).end(WITHIN).status.success() {
        println!("SKIPPED: this user may mount nothing");
        return None;
    }
    Some(in_namespace(format!("{mount} && {then} exec \"$0\" \"$@\"")))
}

#[test]
fn syn_07_a_disk_that_fills_up_stops_the_gate_with_words_and_acknowledges_nothing() {
    let world = World::new();
    let target = world.target();
    let Some(mut command) = mounted(&world, "size=12m", "") else { return };
    command.args(SERVE).arg(world.path("mount/data"));
    let serve = Process::start(&mut command);
    let api = serve.announced("API on http://").trim_end_matches("/api/v1").to_owned();
    until("a gate that leads", WITHIN, || {
        let views = crate::system::http(&api, "GET", "/api/v1/datacenters", &[], "").1;
        views.contains("is_fresh").then_some(())
    });
    let inside = PathBuf::from(format!("/proc/{}/root", serve.id()));
    let place = inside.join(world.path("mount/filler").strip_prefix("/").unwrap());
    let mut filler = std::fs::File::create(place).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}
    let file = test(&world, &target.url(""));

    let submitted =
        world.run(["submit".as_ref(), file.as_os_str(), "--gate".as_ref(), OsStr::new(&api)]);
    let ended = serve.end(WITHIN);

    submitted.expect(112);
    assert_eq!(submitted.stdout, "", "no job is acknowledged");
    ended.refuses(113, &["No space left"]);
    assert!(ended.took < Duration::from_secs(10), "{ended}");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let world = World::new();
    let file = world.write("file", "");
    let under = file.join("data");
    let serve = |data: &Path| -> Ended {
        world.run(SERVE.iter().map(OsStr::new).chain([data.as_os_str()]))
    };
    serve(&under).refuses(113, &["file/data", "Not a directory"]);
    if let Some(mut command) = mounted(&world, "ro", "") {
        command.args(SERVE).arg(world.path("mount/data"));
        Process::start(&mut command).end(WITHIN).refuses(113, &["mount/data", "Read-only"]);
    }
}

/// History is a courtesy: a machine that has no place for it, as many containers, runs tests too.
#[test]
fn a_run_whose_history_cannot_be_kept_says_so_and_runs() {
    let world = World::new();
    let target = world.target();
    let file = test(&world, &target.url(""));
    let state = world.write("state-file", "");
    let mut command = world.command();
    command.env("XDG_STATE_HOME", &state).arg("run").arg(&file);

    let ended = Process::start(&mut command).end(WITHIN);

    ended.expect(0);
    assert!(ended.stderr.contains("state-file"), "{ended}");
    assert_eq!(target.counted().requests, 20);
    // The same if the disk turns out to be full only when it is over.
    let mut command = world.shell("trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"");
    command.arg("run").arg(&file);
    let ended = Process::start(&mut command).end(WITHIN);
    ended.expect(0);
    assert!(ended.stderr.contains("not kept"), "{ended}");
    assert!(ended.stdout.contains("requests 20"), "{ended}");
}

#[test]
fn a_port_in_use_is_said_with_106() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let listener = TcpListener::bind(taken.unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();

    let api = world.run([
        "serve",
        "--roles",
        "gate,manager",
        "--listen",
        "127.0.0.1:0",
        "--api",
        &address,
        "--data-dir",
        "data",
    ]);
    let nodes = world.run([
        "serve",
        "--roles",
        "gate,manager",
        "--listen",
        &address,
        "--api",
        "127.0.0.1:0",
        "--data-dir",
        "data",
    ]);
    let target = world.run(["target", "--listen", &address]);

    for refused in [api, nodes, target] {
        refused.refuses(106, &[&address, "in use"]);
    }
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let world = World::new();
    let _control = world.control();

    let second = world.run(SERVE.iter().copied().chain(["data"]));

    second.refuses(113, &["data/", "in use"]);
}

#[test]
fn a_gate_that_is_not_there_or_is_none_is_said_with_112() {
    let world = World::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let target = world.target();
    let job = "job_01j00000000000000000000000";

    let gone = world.run(["jobs", "--gate", &nobody]);
    let no_gate = world.run(["jobs", "--gate", &target.address]);
    let no_address = world.run(["jobs", "--gate", "no address"]);
    let control = world.control();
    let unknown: Vec<Ended> = ["status", "watch", "cancel", "results"]
        .map(|command| world.run([command, job, "--gate", &control.api]))
        .into();

    gone.refuses(112, &[&nobody, "refused"]);
    no_gate.refuses(112, &["404"]);
    no_address.refuses(112, &["no address"]);
    for ended in unknown {
        assert!(matches!(ended.status.code(), Some(104 | 112)), "{ended}");
        assert!(ended.took < Duration::from_secs(10), "{ended}");
    }
}

/// Bytes that have rotted, wherever they are: a clear refusal, or no difference. Never a panic, a
/// hang, or a start that forgets.
#[test]
fn syn_06_a_damaged_data_directory_is_refused_or_whole() {
    let world = World::new();
    let target = world.target();
    let (mut control, mut workers) = world.system(1);
    let job = world.submit(&control, &test(&world, &target.url("")));
    control.until_ended(&job);
    workers.clear();
    control.process.kill();
    let data = world.path("data");
    let good = world.path("good");
    copy(&data, &good);
    let serve = |what: &str| {
        let serve = world.start(SERVE.iter().copied().chain(["data"]));
        let start = crate::system::now();
        loop {
            let said = serve.stdout.text();
            if let Some(at) = said.find("API on http://") {
                let api = said[at..].lines().next().unwrap().trim_start_matches("API on http://");
                let api = api.trim_end_matches("/api/v1");
                let jobs = until(&format!("an answer, {what}"), WITHIN, || {
                    let jobs = crate::system::try_http(api, "GET", "/api/v1/jobs", &[], "");
                    match jobs {
                        Ok((200, jobs)) => Some(Ok(jobs)),
                        Ok((status, body)) if status != 503 => Some(Err(body)),
                        Ok(_) => None,
                        Err(error) => Some(Err(error.to_string())),
                    }
                });
                match jobs {
                    Ok(jobs) => {
                        assert!(jobs.contains(&job), "{what}: the job is forgotten: {jobs}")
                    }
                    // It has found out while it answered.
                    Err(_) => serve.end(WITHIN).refuses(113, &[]),
                }
                return;
            }
            if !serve_is_running(&serve) {
                let ended = serve.end(WITHIN);
                // A certificate that cannot be read is a setting that is invalid.
                let code = if what.contains("certificates") { 104 } else { 113 };
                assert_eq!(ended.status.code(), Some(code), "{what}: {ended}");
                assert!(ended.stderr.contains("data/"), "{what}: the place is not named: {ended}");
                ended.expect_no_panic();
                return;
            }
            assert!(start.elapsed() < WITHIN, "{what}: neither up nor refused");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    let files: Vec<PathBuf> = walk(&good);
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        let name = file.strip_prefix(&good).unwrap();
        let rounds = if name.extension().is_some_and(|kind| kind == "redb") { 24 } else { 2 };
        for round in 0..rounds {
            let mut damaged = bytes.clone();
            let at = bytes.len() * round / rounds;
            let what = if round % 2 == 0 {
                let end = (at + 64).min(damaged.len());
                damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
                format!("{} with rot at {at}", name.display())
            } else {
                damaged.truncate(at);
                format!("{} cut at {at}", name.display())
            };
            std::fs::remove_dir_all(&data).unwrap();
            copy(&good, &data);
            std::fs::write(data.join(name), damaged).unwrap();
            serve(&what);
        }
    }
    assert_eq!(target.counted().requests, 20);
}

fn serve_is_running(process: &Process) -> bool {
    // A zombie has ended too.
    std::fs::read_to_string(format!("/proc/{}/stat", process.id()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in walk(from) {
        let place = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(file, place).unwrap();
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
