//! `hyperscale playground`: a whole cluster as processes of this binary on the loopback, for people
//! who want to see what becomes of a test when something breaks.
//!
//! One process starts all nodes, owns them, and ends them. Between any two nodes that talk stand
//! relays of it, so that what they say can be cut, slowed and lost. The subcommands ask it over a socket in
//! its directory: only whoever may use that directory can.

mod control;
mod layout;
mod relay;
mod world;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{PlaceArgs, PlaygroundArgs, PlaygroundCommand};
use crate::exit::{Exit, Failure};
use crate::follow::{Signals, say};
use crate::jobs::{print, print_json};
use crate::playground::control::{Control, Wish, ask};
use crate::playground::layout::Shape;
use crate::playground::world::{Seen, World};

/// How long all nodes may take until they work.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How often it is looked at whether a node has ended by itself.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub(crate) async fn playground(args: PlaygroundArgs) -> Result<Exit, Failure> {
    let Some(command) = args.command else {
        let shape = Shape {
            gates: args.gates,
            datacenters: args.datacenters,
            managers: args.managers,
            workers: args.workers,
            cores: args.cores,
        };
        return run(shape, &args.place).await;
    };
    let mut as_json = false;
    let (place, wish) = match command {
        PlaygroundCommand::List { place, output } => {
            as_json = output == "json";
            (place, Wish::List)
        }
        PlaygroundCommand::Kill { name, place } => (place, Wish::Kill { name }),
        PlaygroundCommand::Freeze { name, place } => (place, Wish::Freeze { name }),
        PlaygroundCommand::Thaw { name, place } => (place, Wish::Thaw { name }),
        PlaygroundCommand::Restart { name, place } => (place, Wish::Restart { name }),
        PlaygroundCommand::Cut { names, place } => (place, Wish::Cut { names }),
        PlaygroundCommand::Slow { name, delay, place } => (place, Wish::Slow { name, delay }),
        PlaygroundCommand::Lose { name, loss, place } => (place, Wish::Lose { name, loss }),
        PlaygroundCommand::Heal { place } => (place, Wish::Heal),
    };
    let is_list = matches!(wish, Wish::List);
    let (text, seen) = ask(&directory(&place)?, &wish).await?;
    match (is_list, as_json) {
        (true, true) => print_json(&seen)?,
        (true, false) => print(&table(&seen))?,
        (false, _) => print(&text)?,
    }
    Ok(Exit::Passed)
}

/// Runs a playground until it is interrupted.
async fn run(shape: Shape, place: &PlaceArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let directory = directory(place)?;
    prepare(&directory, place.dir.is_none()).await?;
    // What was made is removed however this ends.
    let _removed = place.dir.is_none().then(|| Removed(directory.clone()));
    let mut control = Control::listen(&directory)?;
    let mut world = World::start(shape, &directory).await?;
    tokio::select! {
        ready = tokio::time::timeout(READY_WITHIN, world.until_ready()) => match ready {
            Ok(ready) => ready?,
            Err(_late) => return Err(world.not_ready(READY_WITHIN)),
        },
        () = signals.next() => {
            say("interrupted before it was ready: all nodes are stopped");
            return Ok(Exit::Interrupted);
        }
    }
    world.write_state()?;
    print(&introduction(&world.seen(), shape, place.dir.as_deref()))?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = signals.next() => break,
            _ = look.tick() => {
                for text in world.reap() {
                    say(&text);
                }
            }
            asked = control.next() => {
                let Some((wish, answer)) = asked else { continue };
                let told = world.grant(wish).await;
                answer.send(told.map(|text| (text, world.seen()))).await;
            }
        }
    }
    say("stopping all nodes");
    drop(world);
    control::forget(&directory);
    Ok(Exit::Passed)
}

/// A directory that goes when this does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(&format!("{} is left behind: {error}", self.0.display()));
        }
    }
}

/// Where a playground lies: its user's own place, unless told otherwise.
fn directory(place: &PlaceArgs) -> Result<PathBuf, Failure> {
    let own = || {
        let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        base.or_else(home).map(|base| base.join("hyperscale").join("playground"))
    };
    let none = || Failure::new(Exit::Invalid, "there is no HOME for a playground: name a --dir");
    let path = place.dir.clone().or_else(own).ok_or_else(none)?;
    std::path::absolute(&path)
        .map_err(|error| Failure::caused(Exit::Io, &format!("{}", path.display()), &error))
}

/// Makes the directory, for this user only; what a dead playground has left in the usual place goes.
async fn prepare(directory: &Path, is_usual: bool) -> Result<(), Failure> {
    let shown = directory.display();
    let is_empty = std::fs::read_dir(directory).map_or(true, |mut all| all.next().is_none());
    if !is_empty {
        if control::is_answered(directory).await {
            let message = format!(
                "a playground runs in {shown} already: interrupt it first, or name another place \
                 with --dir"
            );
            return Err(Failure::new(Exit::Invalid, message));
        }
        let left = control::left_over(directory);
        if !left.is_empty() {
            let message = format!(
                "a playground in {shown} has died and left nodes behind: end {} and remove {shown}",
                left.join(", ")
            );
            return Err(Failure::new(Exit::Invalid, message));
        }
        if !is_usual {
            let message = format!("{shown} is not empty: name a directory that is, or a new one");
            return Err(Failure::new(Exit::Invalid, message));
        }
        std::fs::remove_dir_all(directory).map_err(|error| cannot(directory, &error))?;
    }
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory).map_err(|error| cannot(directory, &error))
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::caused(Exit::Io, &format!("cannot use {}", path.display()), error)
}

/// What there is, and what to try.
fn introduction(seen: &Seen, shape: Shape, directory: Option<&Path>) -> String {
    let Shape { gates, datacenters, managers, workers, cores } = shape;
    let many = |count: u32, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let mut text = format!(
        "ready: {}, {} with {} and {} each, {} in all\ndata and logs: {}\n\n",
        many(gates.into(), "gate"),
        many(datacenters.into(), "datacenter"),
        many(managers.into(), "manager"),
        many(workers.into(), "worker"),
        many(u32::from(datacenters) * u32::from(workers) * cores, "core"),
        seen.directory.display(),
    );
    let apis: Vec<String> =
        seen.nodes.iter().filter_map(|node| node.api).map(|api| api.to_string()).collect();
    for (node, api) in seen.nodes.iter().zip(&apis) {
        text.push_str(&format!("  {:<8} http://{api}/api/v1\n", node.name));
    }
    let gates = apis.join(",");
    let place = directory.map_or(String::new(), |path| format!(" --dir {}", path.display()));
    text.push_str(&format!(
        "\nin another terminal:\n  hyperscale target\n  hyperscale submit http://127.0.0.1:8080 \
         --rate 100/s --duration 1m --watch --gate {gates}\n  hyperscale cluster status --gate {gates}\n"
    ));
    for what in
        ["list", "kill gate-0", "restart gate-0", "freeze dc-0-worker-0", "cut dc-0", "heal"]
    {
        text.push_str(&format!("  hyperscale playground {what}{place}\n"));
    }
    text.push_str("\nan interrupt (Ctrl-C) ends all of it");
    text
}

/// The nodes as a table, and what is wrong between them.
fn table(seen: &Seen) -> String {
    let mut lines = Vec::new();
    for node in &seen.nodes {
        let pid = node.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let api = node.api.map_or(String::new(), |api| format!("API http://{api}/api/v1"));
        let id = node.node.map_or("-".to_owned(), |id| id.to_string());
        let (name, state) = (&node.name, node.state.as_str());
        let line = format!("{name:<18} {id:<21} {state:<8} {pid:>8}  {api}");
        lines.push(line.trim_end().to_owned());
    }
    for fault in &seen.faults {
        let parts = [
            fault.is_cut.then(|| "cut".to_owned()),
            (fault.delay_ms > 0).then(|| format!("slowed by {} ms", fault.delay_ms)),
            (fault.loss > 0).then(|| format!("{} % of gossip is lost", fault.loss)),
        ];
        let what = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        lines.push(format!("{} and {}: {what}", fault.between.0, fault.between.1));
    }
    lines.join("\n")
}

/// Writes a file that only this user can read.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| cannot(path, &error))
}
