//! Terminals and pipes that go away, and machines that have nothing left to give.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::system::{Process, Target, WITHIN, World, outcomes, read_json, sums_up};

fn slow(world: &World, target: &Target, load: &str) -> PathBuf {
    let text = format!(
        "target: {}\nworkflows: {{ main: {{ load: {load}, steps: [ {{ get: /delay/20 }} ] }} }}\n",
        target.url("")
    );
    world.write("slow.yaml", text)
}

#[test]
fn a_closed_pipe_ends_with_a_code_and_without_a_panic() {
    let world = World::new();
    let target = world.target();
    let file = slow(&world, &target, "{ vus: 2, iterations: 5 }");
    for arguments in ["run \"$@\"", "--help", "schema", "validate \"$@\"", "help run"] {
        let script = format!("{{ \"$0\" {arguments}; echo \"code $?\" >&2; }} | true");
        let mut command = world.shell(&script);
        command.arg(&file);

        let ended = Process::start(&mut command).end(WITHIN);

        ended.expect_no_panic();
        let code = ended.stderr.lines().find_map(|line| line.strip_prefix("code "));
        assert!(matches!(code, Some("0" | "113")), "{arguments}: {ended}");
    }
    let mut command = world.shell("\"$0\" run \"$@\" | head -1");
    command.arg(&file);
    let ended = Process::start(&mut command).end(WITHIN);
    ended.expect_no_panic();
    assert_eq!(ended.stdout.lines().count(), 1, "{ended}");
    // Both outputs closed: the load still ends by itself.
    let before = target.counted().requests;
    let mut command = world.shell("exec \"$0\" run \"$@\" >&- 2>&-");
    command.arg(&file);
    let ended = Process::start(&mut command).end(WITHIN);
    assert!(matches!(ended.status.code(), Some(0 | 113)), "{ended}");
    assert_eq!(target.counted().requests, before + 10);
}

#[test]
fn a_terminal_that_is_closed_stops_the_test_gracefully() {
    let world = World::new();
    let target = world.target();
    let file = slow(&world, &target, "{ vus: 2, duration: 120s }");
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal: OwnedFd = openpt(flags).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let inside = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
    let mut command = world.of("setsid");
    command
        .args(["--ctty", env!("CARGO_BIN_EXE_hyperscale"), "run"])
        .arg(&file)
        .args(["--out", "json=summary.json"])
        .env_remove("NO_COLOR")
        .env_remove("CI")
        .env("TERM", "xterm-256color")
        .stdin(inside())
        .stdout(inside())
        .stderr(inside());
    let running = Process::start_as_it_is(&mut command);
    // Somebody has to read what the screen shows.
    let reader = File::from(terminal.try_clone().unwrap());
    let shown = std::thread::spawn(move || {
        let mut reader = reader;
        let mut some = vec![0; 4_096];
        std::io::Read::read(&mut reader, &mut some).map(|read| {
            some.truncate(read);
            (some, reader)
        })
    });
    target.until_counted(20);
    let (screen, reader) = shown.join().unwrap().unwrap();
    assert!(!screen.is_empty(), "a screen is drawn");

    drop(reader);
    drop(terminal);

    let ended = running.end(Duration::from_secs(20));
    ended.expect(105);
    let summary = read_json(&world.path("summary.json"));
    sums_up(&summary);
    assert_eq!(summary["status"], "cancelled");
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(target.counted().requests));
}

#[test]
fn a_process_out_of_descriptors_counts_what_it_could_not_send_and_says_why() {
    let world = World::new();
    let target = world.target();
    let file = slow(&world, &target, "{ vus: 100, duration: 2s }");
    let mut command = world.shell("ulimit -n 48; exec \"$0\" run \"$@\" --out json=summary.json");
    command.arg(&file);

    let ended = Process::start(&mut command).end(WITHIN);

    ended.expect(0);
    let summary = read_json(&world.path("summary.json"));
    sums_up(&summary);
    let outcomes = outcomes(&summary);
    assert!(outcomes["ok"] > 0 && outcomes["connect"] > 0, "{outcomes:?}");
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert!(ended.stdout.contains("Too many open files"), "{ended}");
    assert_eq!(outcomes["ok"], target.counted().requests);
}

#[test]
fn a_process_that_may_hardly_open_anything_says_so() {
    let world = World::new();
    let target = world.target();
    let file = slow(&world, &target, "{ vus: 2, iterations: 3 }");
    for descriptors in [4, 8, 12, 16] {
        let mut command = world.shell(&format!("ulimit -n {descriptors}; exec \"$0\" run \"$@\""));
        command.arg(&file);

        let ended = Process::start(&mut command).end(WITHIN);

        ended.expect_no_panic();
        if ended.status.code() != Some(0) {
            assert!(ended.stderr.contains("Too many open files"), "{descriptors}: {ended}");
        }
        assert!(ended.took < Duration::from_secs(15), "{descriptors}: {ended}");
    }
}
