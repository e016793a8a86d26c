//! A short sweep, and equal traces in equal processes.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::process::Command;

use hyperscale_sim::{Kind, Options, run};

#[test]
fn chs_01_no_seed_breaks_an_invariant() {
    let options = Options { faults: true, ..Options::default() };
    for seed in 0..12 {
        if let Some(violation) = run(seed, &options).violation {
            panic!("{violation}");
        }
    }
}

#[test]
fn chs_01_without_faults_everything_is_counted() {
    for seed in 0..4 {
        if let Some(violation) = run(seed, &Options::default()).violation {
            panic!("{violation}");
        }
    }
}

#[test]
fn ldr_01_several_managers_break_no_invariant_under_faults() {
    let options = Options { kind: Kind::Cluster, faults: true, ..Options::default() };
    for seed in 0..3 {
        if let Some(violation) = run(seed, &options).violation {
            panic!("{violation}");
        }
    }
}

#[test]
fn orp_02_sta_05_nothing_restarts_and_all_is_counted_when_leaders_die() {
    let options = Options { kind: Kind::Cluster, falls: true, ..Options::default() };
    for seed in 0..3 {
        if let Some(violation) = run(seed, &options).violation {
            panic!("{violation}");
        }
    }
}

/// The trace's hash, as a process of its own prints it.
fn trace(world: &str, seed: u64) -> String {
    let seeds = format!("{seed}..{}", seed + 1);
    let arguments = ["--seeds", &seeds, "--world", world, "--trace"];
    let output = Command::new(env!("CARGO_BIN_EXE_hyperscale-sim")).args(arguments).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.lines().find(|line| line.starts_with("trace=")).unwrap().to_owned()
}

#[test]
fn chs_02_equal_seeds_give_equal_traces_in_two_processes() {
    for world in ["local", "cluster"] {
        assert_eq!(trace(world, 7), trace(world, 7));
        assert_ne!(trace(world, 7), trace(world, 8));
    }
}
