//! Figures of the whole binary, beside `wrk`, `oha`, `hey` and `ab` where they are installed.
//!
//! The target runs on the first core, generators in turn on the last. A figure that says how good
//! we are is a ratio within one run, since the machine's speed changes from minute to minute:
//!
//! ```text
//! ratio NAME VALUE          above 1 is better for us
//! figure NAME VALUE UNIT
//! ```

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod clock;
mod failover;
mod honest;
mod http;
mod leader;
mod memory;
mod peers;
mod process;
mod start;

use std::process::{Command, ExitCode};

use anyhow::Context as _;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// So that CI sees that everything runs.
    Quick,
    /// So that the figures mean something.
    Full,
}

type Bench = fn(Effort) -> anyhow::Result<()>;

const BENCHES: &[(&str, &str, Bench)] = &[
    ("record", "recording and merging, against hdrhistogram", record),
    ("tiny", "CPU of a request with a tiny body, 64 connections", peers::tiny),
    ("tls", "the same over TLS 1.3", peers::tls),
    ("body", "CPU of a gigabyte in bodies of 100 KiB", peers::body),
    ("scenario", "CPU of a request of a test with checks, captures and data", peers::scenario),
    ("start", "from exec to the first request", start::start),
    ("memory", "memory of users", memory::users),
    ("growth", "memory after ten times as many requests", memory::growth),
    ("rate", "whether a rate is met, and how late starts are", honest::rate),
    ("stall", "what a stall of the target does to the figures", honest::stall),
    ("failover", "how soon a cluster goes on when a node is killed", failover::failover),
    ("leader", "CPU of a leading manager, by its workers", leader::leader),
    ("overload", "whether a rate beyond the machine is told", honest::overload),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut effort = Effort::Full;
    let mut names = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--quick" => effort = Effort::Quick,
            "--help" | "-h" => {
                println!("bench/run [--quick] [NAME…]\n");
                BENCHES.iter().for_each(|(name, what, _)| println!("{name:10} {what}"));
                return Ok(());
            }
            name if BENCHES.iter().any(|(known, ..)| *known == name) => names.push(arg),
            other => anyhow::bail!("there is no benchmark `{other}`; --help lists them"),
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").context("the load average")?;
    println!("# load average {}", load.trim());
    for (name, _, bench) in BENCHES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            println!("# {name}");
            bench(effort).with_context(|| format!("benchmark {name}"))?;
        }
    }
    Ok(())
}

fn record(_: Effort) -> anyhow::Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["bench", "--quiet", "-p", "hyperscale-stats", "--bench", "histogram"]);
    let status = cargo.status().context("cargo bench")?;
    anyhow::ensure!(status.success(), "cargo bench ended with {status}");
    Ok(())
}
