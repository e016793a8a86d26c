//! `hyperscale-sim --seeds FROM..TO [--minutes M] [--world local|cluster|reference] [--falls] [--no-faults]
//! [--mutation NAME] [--trace] [--shrink] [--calm SECOND] [--without KINDS] [--skip BITS]`, or
//! `hyperscale-sim --mutations --seeds FROM..TO`, which breaks each rule in turn.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]
#![expect(clippy::disallowed_methods, reason = "its own speed is measured")]

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyperscale_sim::{Kind, Mutation, Options, fault_names, run, shrink};

const USAGE: &str = "usage: hyperscale-sim --seeds FROM..TO [--minutes M] [--world local|cluster|reference] \
                     [--falls] [--no-faults] [--mutation NAME] [--trace] [--shrink] [--calm SECOND] \
                     [--without KINDS] [--skip BITS]
       hyperscale-sim --mutations --seeds FROM..TO";

struct Arguments {
    seeds: Range<u64>,
    limit: Option<Duration>,
    options: Options,
    is_shrunk: bool,
    are_mutations: bool,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)) {
        Ok(arguments) if arguments.are_mutations => mutations(&arguments),
        Ok(arguments) => sweep(&arguments),
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut seeds = None;
    let (mut limit, mut is_shrunk, mut are_mutations) = (None, false, false);
    let mut options = Options { faults: true, ..Options::default() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--seeds" => seeds = Some(range(&value()?)?),
            "--minutes" => {
                let minutes: f64 =
                    value()?.parse().map_err(|error| format!("--minutes: {error}"))?;
                limit = Some(Duration::from_secs_f64(minutes.clamp(0.0, 1e6) * 60.0));
            }
            "--world" => match value()?.as_str() {
                "local" => options.kind = Kind::Local,
                "cluster" => options.kind = Kind::Cluster,
                "reference" => options.kind = Kind::Reference,
                other => return Err(format!("there is no world `{other}`\n{USAGE}")),
            },
            "--mutation" => options.mutation = Some(value()?.parse()?),
            "--falls" => options.falls = true,
            "--no-faults" => options.faults = false,
            "--calm" => {
                let second = value()?.parse().map_err(|error| format!("--calm: {error}"))?;
                options.calm = Some(second);
            }
            "--without" => {
                for name in value()?.split(',') {
                    let bit = fault_names().iter().position(|known| *known == name);
                    let known =
                        || format!("there is no fault `{name}`: {}", fault_names().join(", "));
                    options.without |= 1 << bit.ok_or_else(known)?;
                }
            }
            "--skip" => {
                options.skip = u128::from_str_radix(&value()?, 16)
                    .map_err(|error| format!("--skip: {error}"))?;
            }
            "--shrink" => is_shrunk = true,
            "--mutations" => are_mutations = true,
            "--trace" => options.trace = true,
            other => return Err(format!("`{other}` is not known\n{USAGE}")),
        }
    }
    let seeds = seeds.ok_or_else(|| USAGE.to_owned())?;
    Ok(Arguments { seeds, limit, options, is_shrunk, are_mutations })
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}` is no range of seeds such as 0..200");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) => Ok(from..to),
        _ => Err(wrong()),
    }
}

/// Breaks each rule in turn, and says how many seeds it takes until that is seen.
fn mutations(arguments: &Arguments) -> ExitCode {
    let mut unseen = 0u8;
    for &mutation in Mutation::ALL {
        let found = arguments.seeds.clone().zip(1u64..).find_map(|(seed, count)| {
            let options = Options {
                mutation: Some(mutation),
                kind: mutation.kind(),
                falls: mutation.needs_takeovers(),
                ..arguments.options
            };
            run(seed, &options).violation.map(|violation| (count, violation))
        });
        match found {
            Some((count, violation)) => {
                println!("{mutation}: seen after {count} seeds: {}", violation.what);
            }
            None => {
                unseen = unseen.saturating_add(1);
                println!("{mutation}: NOT SEEN");
            }
        }
    }
    println!("mutations={} unseen={unseen}", Mutation::ALL.len());
    ExitCode::from(u8::from(unseen > 0))
}

fn sweep(arguments: &Arguments) -> ExitCode {
    let start = Instant::now();
    let (mut seeds, mut violations, mut lived) = (0u64, 0u64, Duration::ZERO);
    for seed in arguments.seeds.clone() {
        if arguments.limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        let outcome = run(seed, &arguments.options);
        seeds += 1;
        lived += outcome.virtual_time;
        if let Some(violation) = outcome.violation {
            violations += 1;
            println!("{violation}");
            if arguments.is_shrunk {
                let shrunk = run(seed, &shrink(seed, &arguments.options));
                shrunk.violation.iter().for_each(|violation| println!("shrunk: {violation}"));
            }
        }
        if arguments.options.trace {
            println!("trace={:016x}", outcome.trace);
        }
    }
    let speed = lived.as_secs_f64() / start.elapsed().as_secs_f64().max(1e-9);
    println!("seeds={seeds} violations={violations} virtual_seconds_per_second={speed:.0}");
    ExitCode::from(u8::from(violations > 0))
}
