//! `hyperscale cluster keys`: the keys of gossip, as they lie beside certificates.

use std::path::PathBuf;

use hyperscale_node::{GossipKeys, KeyId, KeyStep, NodeError, change_keys};
use serde::Serialize;

use crate::args::{KeyDirectories, KeysCommand};
use crate::exit::{Exit, Failure};
use crate::jobs::{print, print_json};

pub(crate) fn keys(command: KeysCommand) -> Result<Exit, Failure> {
    let (KeyDirectories { directories }, step) = match command {
        KeysCommand::List { of, output } => return list(&of.directories, &output),
        KeysCommand::Next { of, force: false } => (of, KeyStep::Next),
        KeysCommand::Next { of, force: true } => (of, KeyStep::NextAnew),
        KeysCommand::Use(of) => (of, KeyStep::Use),
        KeysCommand::Drop(of) => (of, KeyStep::Drop),
    };
    let held = change_keys(&directories, step)
        .map_err(|error| refused("the keys stay as they are", &error))?;
    let held: Vec<Shown> = directories.iter().zip(held.iter().map(Some)).map(Shown::new).collect();
    print(&table(&held))?;
    let then = match step {
        KeyStep::Next | KeyStep::NextAnew => {
            "`use` it once hyperscale_gossip_key{key=\"next\"} of every node shows it"
        }
        KeyStep::Use => {
            "`drop` the previous key once hyperscale_gossip_key{key=\"current\"} of every node shows \
             the new one"
        }
        KeyStep::Drop => "that ends the change",
    };
    print(&format!(
        "\nif nodes read other directories than these, make gossip.key* the same there; {then}"
    ))?;
    Ok(Exit::Passed)
}

fn list(directories: &[PathBuf], output: &str) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for directory in directories {
        let keys = GossipKeys::read(directory);
        all.push(keys.map_err(|error| refused("the keys cannot be listed", &error))?);
    }
    let all: Vec<Shown> =
        directories.iter().zip(all.iter().map(Option::as_ref)).map(Shown::new).collect();
    if output == "json" {
        print_json(&all)?;
    } else {
        print(&table(&all))?;
    }
    Ok(Exit::Passed)
}

fn refused(what: &str, error: &NodeError) -> Failure {
    let exit = match error {
        NodeError::Disk { .. } | NodeError::Io { .. } => Exit::Io,
        _ => Exit::Invalid,
    };
    Failure::caused(exit, what, error)
}

/// The keys of a directory, as they are shown.
#[derive(Debug, Serialize)]
struct Shown {
    directory: PathBuf,
    current: Option<ShownKey>,
    next: Option<ShownKey>,
    previous: Option<ShownKey>,
}

#[derive(Debug, Serialize)]
struct ShownKey {
    id: String,
    /// The id as metrics have it.
    number: u32,
}

impl ShownKey {
    fn new(id: KeyId) -> Self {
        Self { id: id.to_string(), number: id.as_number() }
    }
}

impl Shown {
    fn new((directory, keys): (&PathBuf, Option<&GossipKeys>)) -> Self {
        Self {
            directory: directory.clone(),
            current: keys.map(GossipKeys::current).map(ShownKey::new),
            next: keys.and_then(GossipKeys::next).map(ShownKey::new),
            previous: keys.and_then(GossipKeys::previous).map(ShownKey::new),
        }
    }
}

/// The ids as the log of a node has them, each with the number that its metrics show.
fn table(all: &[Shown]) -> String {
    let of = |key: &Option<ShownKey>| match key {
        Some(ShownKey { id, number }) => format!("{id} ({number})"),
        None => "-".to_owned(),
    };
    let width = all.iter().map(|shown| shown.directory.display().to_string().len()).max();
    let width = width.unwrap_or(0).max("directory".len());
    let row = |directory: &str, [current, next, previous]: [String; 3]| {
        format!("{directory:<width$}  {current:<21}  {next:<21}  {previous}").trim_end().to_owned()
    };
    let head = ["current", "next", "previous"].map(str::to_owned);
    let mut lines = vec![row("directory", head)];
    lines.extend(all.iter().map(|shown| {
        let directory = shown.directory.display().to_string();
        row(&directory, [of(&shown.current), of(&shown.next), of(&shown.previous)])
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_by_what_they_are_called() {
        let key = |id: u32| Some(ShownKey { id: format!("{id:08x}"), number: id });
        let shown = |directory: &str, current, next, previous| Shown {
            directory: PathBuf::from(directory),
            current,
            next,
            previous,
        };

        let text = table(&[
            shown("ca", key(0xffff_ffff), key(1), None),
            shown("certificates", None, None, None),
        ]);

        assert_eq!(
            text,
            "directory     current                next                   previous\n\
             ca            ffffffff (4294967295)  00000001 (1)           -\n\
             certificates  -                      -                      -"
        );
    }
}
