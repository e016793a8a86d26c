//! The keys of gossip as they lie beside a certificate, and the three steps by which they change.
//!
//! ```text
//!           gossip.key   gossip.key.next   gossip.key.previous
//!               A
//! next          A               B                                all know B before one uses it
//! use           B                                  A             all use B before one forgets A
//! drop          B
//! ```
//!
//! A node seals with the current key and opens with all three, so nodes that are one step apart hear
//! each other, and two steps apart they may not: each step is for all nodes before the next one.
//!
//! Nodes look at the files as they run. Files change one after the other, here and where they are
//! copied to, so what is read counts once two looks in a row have found the same.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyperscale_membership::{ClusterKey, KeyId, KeyPlace, Keys};
use tokio::sync::watch;

use crate::discovery::{LOOK_SOON, pause};
use crate::drive::NodeError;
use crate::observe::{Count, Observer, Part};
use crate::storage::{disk, fill};

/// What all nodes seal their gossip with.
pub(crate) const CURRENT: &str = "gossip.key";
/// What they will seal it with, once all of them know it.
pub(crate) const NEXT: &str = "gossip.key.next";
/// What some of them may still seal it with.
pub(crate) const PREVIOUS: &str = "gossip.key.previous";
/// All files of gossip's keys.
pub(crate) const FILES: [&str; 3] = [NEXT, CURRENT, PREVIOUS];

type Secret = [u8; 32];

/// The gossip keys of a node.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKeys {
    current: Secret,
    next: Option<Secret>,
    previous: Option<Secret>,
}

impl std::fmt::Debug for GossipKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (current, next, previous) = (self.current(), self.next(), self.previous());
        write!(f, "GossipKeys({current:?}, next {next:?}, previous {previous:?})")
    }
}

/// A step on the way from one key to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStep {
    /// A new random key becomes the next one.
    Next,
    /// The same, where there is a next one already, which nobody has used yet.
    NextAnew,
    /// The next one becomes the current one, and that the previous one.
    Use,
    /// The previous one is no key any more.
    Drop,
}

impl GossipKeys {
    /// The keys in a directory with a node's certificate, or of the authority; `None` if it holds no
    /// key of gossip.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or holds no key, or there are others beside a current one that is
    /// missing.
    pub fn read(directory: &Path) -> Result<Option<Self>, NodeError> {
        let read = |name: &str| read_key(&directory.join(name));
        // Opposite to the order in which they change: a key that moves meanwhile is found in one
        // place or in both.
        let (next, current, previous) = (read(NEXT)?, read(CURRENT)?, read(PREVIOUS)?);
        match (current, next.or(previous)) {
            (Some(current), _) => Ok(Some(Self { current, next, previous })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(NodeError::Config(format!(
                "{} is missing, and others lie beside it: it has to hold the key that nodes use \
                 now, 64 hexadecimal digits",
                directory.join(CURRENT).display()
            ))),
        }
    }

    /// What the key is called that is used now.
    #[must_use]
    pub fn current(&self) -> KeyId {
        id(&self.current)
    }

    /// What the next key is called, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<KeyId> {
        self.next.as_ref().map(id)
    }

    /// What the previous key is called, if there is one.
    #[must_use]
    pub fn previous(&self) -> Option<KeyId> {
        self.previous.as_ref().map(id)
    }

    /// What opens and seals datagrams.
    pub(crate) fn keys(&self) -> Keys {
        let key = |secret: &Option<Secret>| secret.as_ref().map(ClusterKey::new);
        Keys {
            current: ClusterKey::new(&self.current),
            next: key(&self.next),
            previous: key(&self.previous),
        }
    }

    /// Writes beside their places the keys that a directory lacks which holds `before`. In the order
    /// in which they are moved there: an old key is the previous one before it is not the current.
    fn write(&self, directory: &Path, before: &Self) -> Result<Vec<Written>, NodeError> {
        let files = [
            (PREVIOUS, self.previous, before.previous),
            (CURRENT, Some(self.current), Some(before.current)),
            (NEXT, self.next, before.next),
        ];
        let changed = files.into_iter().filter(|(_, new, old)| new != old);
        changed.filter_map(|(name, new, _)| Some(Written::new(directory, name, &new?))).collect()
    }

    /// Removes what a directory holds beside these.
    fn remove_others(&self, directory: &Path) -> Result<(), NodeError> {
        let others = [(NEXT, self.next), (PREVIOUS, self.previous)];
        for (name, _) in others.into_iter().filter(|(_, held)| held.is_none()) {
            let path = directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(disk(&path, "this key cannot be removed")(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(disk(directory, "this directory cannot be written"))
    }
}

fn id(secret: &Secret) -> KeyId {
    ClusterKey::new(secret).id()
}

/// Takes a step in all of these directories, or in none if one of them does not fit. What each holds
/// afterwards, in their order.
///
/// A step that was cut short, by a full disk say, is taken to its end by taking it again.
///
/// # Errors
///
/// If a directory does not fit, which says which and why, or one cannot be read or written.
pub fn change_keys(directories: &[PathBuf], step: KeyStep) -> Result<Vec<GossipKeys>, NodeError> {
    let mut all = Vec::new();
    for directory in directories {
        let keys = GossipKeys::read(directory)?.ok_or_else(|| {
            let message = format!(
                "{} holds no {CURRENT}: name directories that `hyperscale cert` has written",
                directory.display()
            );
            NodeError::Config(message)
        })?;
        all.push((directory.as_path(), keys));
    }
    let after = match step {
        KeyStep::Next | KeyStep::NextAnew => {
            let mut fresh = [0; 32];
            fill(&mut fresh)?;
            with_next(&all, step == KeyStep::NextAnew, fresh)
        }
        KeyStep::Use => with_next_used(&all),
        KeyStep::Drop => without_previous(&all),
    };
    let after = after.map_err(NodeError::Config)?;
    let mut known = BTreeSet::new();
    let mut written = Vec::new();
    for ((directory, before), after) in all.iter().zip(&after) {
        let place = fs::canonicalize(directory);
        let place = place.map_err(disk(directory, "this directory cannot be read"))?;
        if known.insert(place) {
            written.push((*directory, after, after.write(directory, before)?));
        }
    }
    // Whatever can fail has not, most likely. New keys come before old ones go: whenever this is cut
    // short, a directory has all that it needs before the step or after it.
    for (directory, after, files) in written {
        files.into_iter().try_for_each(Written::put)?;
        after.remove_others(directory)?;
    }
    Ok(after)
}

type Held<'a> = (&'a Path, GossipKeys);

/// Whoever has another current key is of another cluster, or has missed a step.
fn check_same_current(all: &[Held<'_>]) -> Result<(), String> {
    let Some((first, known)) = all.first() else { return Ok(()) };
    match all.iter().find(|(_, keys)| keys.current != known.current) {
        None => Ok(()),
        Some((other, keys)) => Err(format!(
            "{} uses the key {}, and {} uses {}: first take the step there that one of them has \
             missed",
            first.display(),
            known.current(),
            other.display(),
            keys.current(),
        )),
    }
}

fn with_next(all: &[Held<'_>], anew: bool, fresh: Secret) -> Result<Vec<GossipKeys>, String> {
    for (directory, keys) in all {
        let directory = directory.display();
        if let Some(previous) = keys.previous() {
            return Err(format!(
                "{directory} still has {previous} as its previous key: `drop` that first, once no \
                 node uses it"
            ));
        }
        if let Some(next) = keys.next().filter(|_| !anew) {
            return Err(format!(
                "{directory} has {next} as its next key already: `use` it, or say --force to have \
                 another one in its place"
            ));
        }
    }
    check_same_current(all)?;
    Ok(all.iter().map(|(_, keys)| GossipKeys { next: Some(fresh), ..keys.clone() }).collect())
}

fn with_next_used(all: &[Held<'_>]) -> Result<Vec<GossipKeys>, String> {
    // From which key to which, where the step is to be taken, was taken, or was cut short.
    let change = |keys: &GossipKeys| match (keys.next, keys.previous) {
        (Some(next), _) if next != keys.current => Some((Some(keys.current), next)),
        (Some(next), previous) => Some((previous, next)),
        (None, Some(previous)) => Some((Some(previous), keys.current)),
        (None, None) => None,
    };
    let mut first: Option<(&Path, (Option<Secret>, Secret))> = None;
    for (directory, keys) in all {
        let Some(change) = change(keys) else {
            return Err(format!(
                "{} has no next key: `next` writes one, in all directories at once",
                directory.display()
            ));
        };
        let Some((known, expected)) = first else {
            first = Some((directory, change));
            continue;
        };
        if change != expected {
            let told = |(from, to): (Option<Secret>, Secret)| match from {
                Some(from) => format!("from {} to {}", id(&from), id(&to)),
                None => format!("to {}", id(&to)),
            };
            return Err(format!(
                "{} changes {}, and {} {}: all must change from the same key to the same",
                known.display(),
                told(expected),
                directory.display(),
                told(change),
            ));
        }
    }
    if let Some((directory, keys)) = all.first()
        && all.iter().all(|(_, keys)| keys.next.is_none())
    {
        return Err(format!(
            "{} uses {} already, and has no next key; `drop` ends the change",
            directory.display(),
            keys.current()
        ));
    }
    let changed = all.iter().map(|(_, keys)| match change(keys) {
        Some((previous, current)) => GossipKeys { current, previous, next: None },
        None => keys.clone(),
    });
    Ok(changed.collect())
}

fn without_previous(all: &[Held<'_>]) -> Result<Vec<GossipKeys>, String> {
    check_same_current(all)?;
    if let Some((directory, next)) =
        all.iter().find_map(|(directory, keys)| Some((directory, keys.next()?)))
    {
        return Err(format!(
            "{} has not used its next key {next}: `use` it first",
            directory.display()
        ));
    }
    if all.iter().all(|(_, keys)| keys.previous.is_none()) {
        let all: Vec<String> = all.iter().map(|(path, _)| path.display().to_string()).collect();
        return Err(format!("there is no previous key in {}", all.join(", ")));
    }
    Ok(all.iter().map(|(_, keys)| GossipKeys { previous: None, ..keys.clone() }).collect())
}

/// A key as a file holds it.
pub(crate) fn text_of(secret: &Secret) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_key(text: &str) -> Option<Secret> {
    let text = text.trim();
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, place) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(key)
}

/// The key that a file holds, if it is there.
pub(crate) fn read_key(path: &Path) -> Result<Option<Secret>, NodeError> {
    match fs::read_to_string(path) {
        Ok(text) => parse_key(&text).map(Some).ok_or_else(|| {
            let what = "it holds no key of 64 hexadecimal digits";
            NodeError::Config(format!("{}: {what}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk(path, "this file cannot be read")(error)),
    }
}

/// A key that is written whole, beside its place; it goes if it is not put there.
#[derive(Debug)]
struct Written {
    beside: PathBuf,
    path: PathBuf,
}

impl Written {
    fn new(directory: &Path, name: &str, secret: &Secret) -> Result<Self, NodeError> {
        let path = directory.join(name);
        let written = Self { beside: directory.join(format!("{name}.part")), path };
        let write = || -> io::Result<()> {
            written.remove()?;
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create_new(true).mode(0o600).open(&written.beside)?;
            // It is for whoever runs the node, who may be another than who changes keys.
            let (ours, theirs) = (file.metadata()?, fs::metadata(directory.join(CURRENT))?);
            if (ours.uid(), ours.gid()) != (theirs.uid(), theirs.gid()) {
                fchown(&file, Some(theirs.uid()), Some(theirs.gid()))?;
            }
            file.write_all(text_of(secret).as_bytes())?;
            file.sync_all()
        };
        write().map_err(disk(&written.path, "this key cannot be written"))?;
        Ok(written)
    }

    fn put(self) -> Result<(), NodeError> {
        fs::rename(&self.beside, &self.path).map_err(disk(&self.path, "this key cannot be written"))
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(path = %self.beside.display(), %error, "a file is left behind");
        }
    }
}

/// Looks at the keys of a directory again and again, and hands on what they have become, as long as
/// somebody wants to know. What cannot be used changes nothing.
pub(crate) async fn follow(
    directory: PathBuf,
    held: GossipKeys,
    changed: watch::Sender<Keys>,
    observer: Arc<Observer>,
) {
    let mut followed = Followed { seen: held.clone(), held };
    loop {
        pause(LOOK_SOON).await;
        if changed.is_closed() {
            return;
        }
        match followed.look(&directory) {
            Ok(None) => {}
            Ok(Some(held)) => {
                changed.send_replace(held.keys());
                show(held, &observer);
            }
            Err(error) => {
                if let Some(held_back) = observer.trouble(Part::Link, "gossip keys", "") {
                    let error = crate::gate::chain(&error);
                    tracing::warn!(error, held_back, "gossip keys are of no use and not taken");
                }
            }
        }
    }
}

/// The keys that a node has, and what lay on its disk when it looked last.
#[derive(Debug)]
struct Followed {
    held: GossipKeys,
    seen: GossipKeys,
}

impl Followed {
    /// The keys, if they are others from now on.
    fn look(&mut self, directory: &Path) -> Result<Option<&GossipKeys>, NodeError> {
        let found = GossipKeys::read(directory)?.ok_or_else(|| {
            let path = directory.join(CURRENT);
            NodeError::Config(format!("{} is there no more", path.display()))
        })?;
        let is_settled = found == self.seen;
        self.seen = found;
        if !is_settled || self.seen == self.held {
            return Ok(None);
        }
        self.held = self.seen.clone();
        Ok(Some(&self.held))
    }
}

/// Says which keys a node has: the words for its log, the numbers for its metrics.
pub(crate) fn show(held: &GossipKeys, observer: &Observer) {
    let keys = held.keys();
    let shown = |id: Option<KeyId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let (next, previous) = (shown(held.next()), shown(held.previous()));
    tracing::info!(current = %held.current(), next, previous, "gossip keys read");
    for place in [KeyPlace::Current, KeyPlace::Next, KeyPlace::Previous] {
        let key = keys.iter().find(|(known, _)| *known == place);
        let number = key.map_or(0, |(_, key)| key.id().as_number());
        observer.set(Count::key(place), u64::from(number));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const A: Secret = [1; 32];
    const B: Secret = [2; 32];
    const C: Secret = [3; 32];

    /// Directories with keys, each with its current, next and previous one.
    struct Directories {
        root: tempfile::TempDir,
        all: Vec<PathBuf>,
    }

    impl Directories {
        fn new(held: &[(Secret, Option<Secret>, Option<Secret>)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let mut all = Vec::new();
            for (place, &(current, next, previous)) in held.iter().enumerate() {
                let path = root.path().join(format!("n{place}"));
                fs::create_dir(&path).unwrap();
                let files = [(CURRENT, Some(current)), (NEXT, next), (PREVIOUS, previous)];
                for (name, secret) in files {
                    if let Some(secret) = secret {
                        fs::write(path.join(name), text_of(&secret)).unwrap();
                    }
                }
                all.push(path);
            }
            Self { root, all }
        }

        fn held(&self) -> Vec<(Secret, Option<Secret>, Option<Secret>)> {
            let read = |path: &PathBuf| GossipKeys::read(path).unwrap().unwrap();
            let parts = |keys: GossipKeys| (keys.current, keys.next, keys.previous);
            self.all.iter().map(read).map(parts).collect()
        }

        /// A step is refused with these words, and nothing has changed.
        #[track_caller]
        fn refuses(&self, step: KeyStep, words: &[&str]) {
            let before = self.held();
            let error = change_keys(&self.all, step).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "`{word}` is not said: {error}");
            }
            assert_eq!(self.held(), before, "a step that was refused changed something");
        }
    }

    #[test]
    fn sec_03_three_steps_change_the_key_of_all_directories() {
        let nodes = Directories::new(&[(A, None, None), (A, None, None)]);

        change_keys(&nodes.all, KeyStep::Next).unwrap();
        let next = nodes.held()[0].1.unwrap();
        assert_eq!(nodes.held(), [(A, Some(next), None); 2], "the same everywhere");
        let mode = fs::metadata(nodes.all[0].join(NEXT)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may read a key");
        change_keys(&nodes.all, KeyStep::Use).unwrap();
        assert_eq!(nodes.held(), [(next, None, Some(A)); 2]);
        change_keys(&nodes.all, KeyStep::Drop).unwrap();

        assert_eq!(nodes.held(), [(next, None, None); 2]);
        let left = fs::read_dir(&nodes.all[0]).unwrap().count();
        assert_eq!(left, 1, "something else was left behind");
    }

    #[test]
    fn sec_03_wrong_orders_are_refused_and_change_nothing() {
        let plain = Directories::new(&[(A, None, None), (A, None, None)]);
        plain.refuses(KeyStep::Use, &["n0 has no next key"]);
        plain.refuses(KeyStep::Drop, &["no previous key in", "n0", "n1"]);
        let some = Directories::new(&[(A, Some(B), None), (A, None, None)]);
        some.refuses(KeyStep::Use, &["n1 has no next key"]);
        some.refuses(KeyStep::Next, &["n0 has", "as its next key already", "--force"]);
        some.refuses(KeyStep::Drop, &["n0 has not used its next key"]);
        let strangers = Directories::new(&[(A, None, None), (C, None, None)]);
        let (a, c) = (id(&A).to_string(), id(&C).to_string());
        strangers.refuses(KeyStep::Next, &["n0", &a, "n1", &c, "missed"]);
        strangers.refuses(KeyStep::NextAnew, &["n0", "n1"]);
        let apart = Directories::new(&[(A, Some(B), None), (A, Some(C), None)]);
        apart.refuses(KeyStep::Use, &["n0 changes from", "n1 from", "the same"]);
        let apart = Directories::new(&[(A, Some(B), None), (C, Some(B), None)]);
        apart.refuses(KeyStep::Use, &["n0 changes from", "n1 from"]);
        let behind = Directories::new(&[(B, None, Some(A)), (A, Some(B), None)]);
        behind.refuses(KeyStep::Drop, &["n0", "n1", "missed"]);
        let undropped = Directories::new(&[(B, None, Some(A)), (B, None, None)]);
        undropped.refuses(KeyStep::Next, &["n0 still has", "drop"]);
        undropped.refuses(KeyStep::NextAnew, &["n0 still has", "drop"]);
        let used = Directories::new(&[(B, None, Some(A)), (B, None, Some(A))]);
        used.refuses(KeyStep::Use, &["n0 uses", "already"]);
    }

    #[test]
    fn sec_03_directories_that_cannot_be_used_are_named() {
        let mut nodes = Directories::new(&[(A, None, None), (A, None, None)]);
        fs::write(nodes.all[1].join(CURRENT), "0123").unwrap();
        let refused = change_keys(&nodes.all, KeyStep::Next).unwrap_err().to_string();
        assert!(refused.contains("n1/gossip.key: it holds no key of 64"), "{refused}");
        assert!(!nodes.all[0].join(NEXT).exists(), "the first was changed all the same");

        fs::remove_file(nodes.all[1].join(CURRENT)).unwrap();
        let refused = change_keys(&nodes.all, KeyStep::Next).unwrap_err().to_string();
        assert!(refused.contains("n1 holds no gossip.key"), "{refused}");

        fs::write(nodes.all[1].join(NEXT), text_of(&B)).unwrap();
        let refused = GossipKeys::read(&nodes.all[1]).unwrap_err().to_string();
        assert!(refused.contains("n1/gossip.key is missing"), "{refused}");

        nodes.all.push(nodes.root.path().join("nowhere"));
        nodes.all.remove(1);
        let refused = change_keys(&nodes.all, KeyStep::Next).unwrap_err().to_string();
        assert!(refused.contains("nowhere holds no gossip.key"), "{refused}");
    }

    #[test]
    fn sec_03_a_step_that_was_cut_short_is_taken_to_its_end() {
        // Before, after each write of `use`, and after it.
        let cut = Directories::new(&[
            (A, Some(B), None),
            (A, Some(B), Some(A)),
            (B, Some(B), Some(A)),
            (B, None, Some(A)),
        ]);
        change_keys(&cut.all, KeyStep::Use).unwrap();
        assert_eq!(cut.held(), [(B, None, Some(A)); 4]);

        let cut = Directories::new(&[(B, None, None), (B, None, Some(A))]);
        change_keys(&cut.all, KeyStep::Drop).unwrap();
        assert_eq!(cut.held(), [(B, None, None); 2]);

        let cut = Directories::new(&[(A, Some(B), None), (A, None, None)]);
        change_keys(&cut.all, KeyStep::NextAnew).unwrap();
        let next = cut.held()[0].1;
        assert_eq!(cut.held(), [(A, next, None); 2]);
        assert_ne!(next, Some(B));
    }

    #[test]
    fn sec_03_a_directory_that_cannot_be_written_keeps_the_others_from_changing() {
        let nodes = Directories::new(&[(A, Some(B), None), (A, Some(B), None)]);
        // Also for who may write everything: a directory in the place of a file.
        let obstacle = nodes.all[1].join("gossip.key.previous.part");
        fs::create_dir(&obstacle).unwrap();

        let error = change_keys(&nodes.all, KeyStep::Use).unwrap_err();

        assert!(error.to_string().contains("n1/gossip.key.previous"), "{error}");
        assert_eq!(nodes.held(), [(A, Some(B), None); 2]);
        let left = fs::read_dir(&nodes.all[0]).unwrap().count();
        assert_eq!(left, 2, "something was left behind");
        fs::remove_dir(&obstacle).unwrap();
        change_keys(&nodes.all, KeyStep::Use).unwrap();
        assert_eq!(nodes.held(), [(B, None, Some(A)); 2]);
    }

    #[test]
    fn sec_03_a_directory_may_be_named_twice() {
        let mut nodes = Directories::new(&[(A, Some(B), None)]);
        nodes.all.push(nodes.all[0].clone());

        change_keys(&nodes.all, KeyStep::Use).unwrap();

        assert_eq!(nodes.held(), [(B, None, Some(A)); 2]);
    }

    #[test]
    fn sec_03_a_node_takes_keys_that_stay_and_keeps_its_own_when_it_cannot() {
        let nodes = Directories::new(&[(A, None, None)]);
        let directory = &nodes.all[0];
        let held = GossipKeys::read(directory).unwrap().unwrap();
        let mut followed = Followed { seen: held.clone(), held };
        let write = |text: &str| fs::write(directory.join(CURRENT), text).unwrap();

        assert!(followed.look(directory).unwrap().is_none());
        change_keys(&nodes.all, KeyStep::Next).unwrap();
        assert!(followed.look(directory).unwrap().is_none(), "it may be half of a change");
        let taken = followed.look(directory).unwrap().cloned().unwrap();
        assert_eq!(taken.current(), id(&A));
        assert!(taken.next().is_some());
        assert!(followed.look(directory).unwrap().is_none(), "told once");

        for broken in ["0123", "", "no key", &"g".repeat(64)] {
            write(broken);
            let error = followed.look(directory).unwrap_err().to_string();
            assert!(error.contains("gossip.key: it holds no key"), "{error}");
            followed.look(directory).unwrap_err();
            assert_eq!(followed.held, taken, "`{broken}` changed the keys");
        }
        fs::remove_file(directory.join(NEXT)).unwrap();
        fs::remove_file(directory.join(CURRENT)).unwrap();
        let error = followed.look(directory).unwrap_err().to_string();
        assert!(error.contains("gossip.key is there no more"), "{error}");
        assert_eq!(followed.held, taken, "a missing file changed the keys");

        write(&text_of(&C));
        assert!(followed.look(directory).unwrap().is_none());
        write(&text_of(&B));
        assert!(followed.look(directory).unwrap().is_none(), "it changes still");
        assert_eq!(followed.look(directory).unwrap().unwrap().current(), id(&B));
    }

    #[test]
    fn sec_03_metrics_show_which_keys_a_node_has() {
        let observer = Observer::start();
        show(&GossipKeys { current: A, next: Some(B), previous: None }, &observer);

        let text = observer.text();

        for (place, number) in
            [("current", id(&A).as_number()), ("next", id(&B).as_number()), ("previous", 0)]
        {
            let line = format!("hyperscale_gossip_key{{key=\"{place}\"}} {number}\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }
}
