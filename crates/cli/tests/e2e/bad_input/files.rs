//! Test files that are none, or that would take the machine down.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::system::{Ended, Process, WITHIN, World};

/// Reads a test file within 256 MiB of memory, however it is read.
#[track_caller]
fn read(world: &World, command: &str, file: &Path) -> Ended {
    let mut limited = world.shell("ulimit -v 262144; exec \"$0\" \"$@\"");
    limited.arg(command).arg(file);
    let ended = Process::start(&mut limited).end(WITHIN);
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
    assert!(ended.took < limit, "{ended}");
    ended
}

#[track_caller]
fn refused(world: &World, file: &Path, words: &[&str]) {
    for command in ["validate", "run", "submit"] {
        read(world, command, file).refuses(104, words);
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let world = World::new();
    refused(&world, Path::new("nowhere.yaml"), &["nowhere.yaml", "No such file"]);
    std::fs::create_dir(world.path("directory")).unwrap();
    refused(&world, Path::new("directory"), &["directory", "Is a directory"]);
    refused(&world, Path::new("/proc/self/mem"), &["/proc/self/mem"]);
}

#[test]
fn files_without_a_test_are_refused() {
    let world = World::new();
    let refuses = |bytes: &[u8], words: &[&str]| {
        refused(&world, &world.write("test.yaml", bytes), words);
    };
    refuses(b"", &["test.yaml", "empty"]);
    refuses(b"\n\n# nothing\n", &["test.yaml"]);
    refuses(b"\x7fELF\x02\x01\x01\x00\x00\xff\xfe\x00", &["test.yaml", "UTF-8"]);
    refuses(&[0; 1000], &["test.yaml"]);
    refuses(b"\xef\xbb\xbf", &["test.yaml"]);
    refuses(b"\xff\xfeh\0e\0l\0l\0o\0", &["test.yaml", "UTF-8"]);
}

#[test]
fn files_that_are_huge_are_refused_unread() {
    let world = World::new();
    let huge = world.path("huge.yaml");
    File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    refused(&world, &huge, &["huge.yaml", "bytes"]);
    refused(&world, Path::new("/dev/zero"), &["/dev/zero", "bytes"]);
    let lines = world.write("lines.yaml", "a: b\n".repeat((20 << 20) / 5));
    refused(&world, &lines, &["lines.yaml", "bytes"]);
}

#[test]
fn files_that_nest_without_end_are_refused() {
    let world = World::new();
    let deep: [(&str, String); 4] = [
        ("lists", "[".repeat(500_000)),
        ("maps", "{a: ".repeat(200_000)),
        ("dashes", "- ".repeat(400_000)),
        ("indents", (0..1_400).map(|n| format!("{}a:\n", " ".repeat(n))).collect()),
    ];
    for (name, text) in deep {
        let file = world.write("deep.yaml", text);
        let ended = read(&world, "validate", &file);
        ended.refuses(104, &["deep.yaml"]);
        assert!(ended.stderr.len() < 4_000, "{name}: {} bytes are said", ended.stderr.len());
    }
}

#[test]
fn files_that_explode_or_turn_in_circles_are_refused() {
    let world = World::new();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..40 {
        let again = format!("*a{}, ", n - 1).repeat(9);
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", again.trim_end_matches(", ")));
    }
    refused(&world, &world.write("bomb.yaml", bomb), &["bomb.yaml"]);
    refused(&world, &world.write("self.yaml", "a: &a [ *a ]\n"), &["self.yaml"]);
    let of_blocks = |blocks: &str| {
        format!(
            "target: http://127.0.0.1:1\nblocks:\n{blocks}workflows: {{ main: {{ load: once, \
             steps: [ {{ use: a }} ] }} }}\n"
        )
    };
    let circle = of_blocks("  a: [ { use: b } ]\n  b: [ { use: c } ]\n  c: [ { use: a } ]\n");
    refused(&world, &world.write("circle.yaml", circle), &["circle.yaml", "`a`"]);
    // Twice as many steps with each block.
    let mut doubling: String = (0..40)
        .map(|n| {
            let next = n + 1;
            format!("  b{n}: [ {{ use: b{next} }}, {{ use: b{next} }} ]\n")
        })
        .collect();
    doubling.push_str("  b40: [ { get: / } ]\n  a: [ { use: b0 } ]\n");
    refused(&world, &world.write("steps.yaml", of_blocks(&doubling)), &["steps.yaml"]);
}

#[test]
fn data_files_that_are_missing_or_huge_are_named() {
    let world = World::new();
    let test = |file: &str| -> PathBuf {
        let text = format!(
            "target: http://127.0.0.1:1\ndata: {{ rows: {{ csv: {file} }} }}\nworkflows: {{ \
             main: {{ load: once, steps: [ {{ get: \"/${{rows.a}}\" }} ] }} }}\n"
        );
        world.write("test.yaml", text)
    };
    refused(&world, &test("none.csv"), &["none.csv", "No such file"]);
    File::create(world.path("huge.csv")).unwrap().set_len(100 << 20).unwrap();
    refused(&world, &test("huge.csv"), &["huge.csv", "bytes"]);
    world.write("binary.csv", b"a,b\n\xff\xfe\x00,1\n");
    refused(&world, &test("binary.csv"), &["binary.csv"]);
}

#[test]
fn flags_that_make_no_sense_are_refused_with_what_was_expected() {
    let world = World::new();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["run"], &["FILE|URL"]),
        (&["run", "http://127.0.0.1:1", "--vus", "many"], &["--vus", "many"]),
        (&["run", "http://127.0.0.1:1", "--vus", "0"], &["vus"]),
        (&["run", "http://127.0.0.1:1", "--duration", "10"], &["duration"]),
        (&["run", "http://127.0.0.1:1", "--duration=-1s"], &["duration"]),
        (&["run", "http://127.0.0.1:1", "--rate", "fast"], &["fast"]),
        (&["run", "http://127.0.0.1:1", "--rate", "1/s", "-n", "5"], &["exclude"]),
        (&["run", "http://", "-n", "1"], &["http://"]),
        (&["run", "http://127.0.0.1:99999", "-n", "1"], &["99999"]),
        (&["run", "http://127.0.0.1:1", "-H", "no colon"], &["no colon"]),
        (&["run", "http://127.0.0.1:1", "--out", "pdf=x"], &["pdf", "json=PATH"]),
        (&["run", "http://127.0.0.1:1", "--set", "workflows.main.load.vus"], &["path=value"]),
        (&["run", "http://127.0.0.1:1", "--set", "nowhere.at=1"], &["nowhere"]),
        (&["frobnicate"], &["frobnicate"]),
    ];
    for (arguments, words) in cases {
        world.run(arguments).refuses(104, words);
    }
    world.run(["status", "job_nonsense"]).refuses(104, &["job_nonsense"]);
    world.run(["serve", "--roles", "king"]).refuses(104, &["king"]);
    world.run(["worker"]).refuses(104, &["--join"]);
    world.run(["worker", "--join", "127.0.0.1:1"]).refuses(104, &["--certs"]);
    world.run(["serve", "--api", "0.0.0.0:0"]).refuses(104, &["--token"]);
    world.run(["serve", "--token", "a:king:12345678"]).refuses(104, &["NAME:ROLE:TOKEN"]);
}
