//! What a node keeps on its disk, if it has one.
//!
//! ```text
//! ROLE.json      who this node is in a role, and how often it has started
//! secret.key     seals the secrets of jobs in the ledger
//! ROLE.redb      the log of a role
//! ROLE-blobs/    plans and data that a role needs, by hash
//! checkpoints.redb  statistics of running jobs
//! results/       ended jobs
//! ```
//!
//! Roles share a directory, but no file that one of them may drop: what a manager is done with, the
//! gate beside it may still need.
//!
//! Every file is written whole beside its place, synced, and moved there: a crash leaves the old
//! one or the new one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyperscale_ledger::{DiskStore, MemoryStore, Store};
use hyperscale_model::{BlobHash, Incarnation, JobId, NodeId, Role};
use hyperscale_report::JobResult;
use serde::{Deserialize, Serialize};

use crate::audit::Trail;
use crate::checkpoints::Checkpoints;
use crate::drive::NodeError;

/// A data directory, or none: then nothing outlives the process but results, which may have a
/// place of their own.
#[derive(Debug, Clone)]
pub struct Storage {
    root: Option<PathBuf>,
    results: Option<PathBuf>,
}

/// Who a node is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
}

/// An identity as it lies on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    identity: Identity,
    home: String,
}

impl Storage {
    /// Keeps everything under a directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be made or written.
    pub fn at(root: &Path) -> Result<Self, NodeError> {
        for part in ["gate-blobs", "manager-blobs", "results"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(disk(&path, "this directory cannot be made"))?;
        }
        Ok(Self { root: Some(root.to_owned()), results: Some(root.join("results")) })
    }

    /// Keeps nothing but results, and those only if there is a place for them.
    ///
    /// # Errors
    ///
    /// If that place cannot be made.
    pub fn in_memory(results: Option<&Path>) -> Result<Self, NodeError> {
        if let Some(path) = results {
            fs::create_dir_all(path).map_err(disk(path, "this directory cannot be made"))?;
        }
        Ok(Self { root: None, results: results.map(Path::to_owned) })
    }

    /// Whether others rely on what is kept here.
    pub(crate) const fn is_durable(&self) -> bool {
        self.root.is_some()
    }

    /// Who this node is in this life. Its incarnation is on the disk before anyone hears it. `home`
    /// is the cluster whose ledger the directory is for: in another, what it holds would be a lie.
    pub(crate) fn identity(&self, name: &str, home: &str) -> Result<Identity, NodeError> {
        let fresh = || -> Result<Identity, NodeError> {
            // Zero stands for nobody.
            Ok(Identity { node: NodeId(random()?.max(1)), incarnation: Incarnation(1) })
        };
        let Some(root) = &self.root else { return fresh() };
        let path = root.join(format!("{name}.json"));
        let identity = match fs::read(&path) {
            Ok(bytes) => {
                let known: Stored = serde_json::from_slice(&bytes).map_err(|error| {
                    disk(&path, "this file does not say who the node is")(error.into())
                })?;
                if known.home != home {
                    return Err(NodeError::Config(format!(
                        "{} is the data of a {name} of {}, and this is one of {home}: give it a \
                         directory of its own, or start it where it belongs",
                        root.display(),
                        known.home,
                    )));
                }
                Identity { incarnation: known.identity.incarnation.next(), ..known.identity }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fresh()?,
            Err(error) => return Err(disk(&path, "this file cannot be read")(error)),
        };
        let bytes = serde_json::to_vec(&Stored { identity, home: home.to_owned() })
            .map_err(|error| disk(&path, "the node's identity cannot be written")(error.into()))?;
        put(&path, &bytes)?;
        Ok(identity)
    }

    /// The incarnation that a role's gossip used last.
    pub(crate) fn gossip_incarnation(&self, name: &str) -> Result<Incarnation, NodeError> {
        let Some(root) = &self.root else { return Ok(Incarnation::NONE) };
        let path = root.join(format!("{name}-gossip.json"));
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| disk(&path, "this file holds no incarnation")(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Incarnation::NONE),
            Err(error) => Err(disk(&path, "this file cannot be read")(error)),
        }
    }

    pub(crate) fn put_gossip_incarnation(
        &self,
        name: &str,
        incarnation: Incarnation,
    ) -> Result<(), NodeError> {
        let Some(root) = &self.root else { return Ok(()) };
        let path = root.join(format!("{name}-gossip.json"));
        let bytes = serde_json::to_vec(&incarnation)
            .map_err(|error| disk(&path, "the incarnation cannot be written")(error.into()))?;
        put(&path, &bytes)
    }

    /// The key that seals secrets.
    pub(crate) fn secret_key(&self) -> Result<[u8; 32], NodeError> {
        let mut key = [0; 32];
        fill(&mut key)?;
        let Some(root) = &self.root else { return Ok(key) };
        let path = root.join("secret.key");
        match fs::read(&path) {
            Ok(bytes) => match <[u8; 32]>::try_from(bytes) {
                Ok(known) => Ok(known),
                Err(bytes) => Err(disk(&path, "this file holds no key")(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it has {} bytes instead of 32", bytes.len()),
                ))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                put(&path, &key)?;
                Ok(key)
            }
            Err(error) => Err(disk(&path, "this file cannot be read")(error)),
        }
    }

    pub(crate) fn ledger(&self, name: &str) -> Result<Box<dyn Store>, NodeError> {
        match &self.root {
            None => Ok(Box::new(MemoryStore::default())),
            Some(root) => {
                let path = root.join(format!("{name}.redb"));
                let store =
                    DiskStore::open(&path).map_err(disk(&path, "the ledger cannot be opened"))?;
                Ok(Box::new(store))
            }
        }
    }

    /// Where a role notes what its ledger decides, if anything is kept.
    pub(crate) fn trail(&self, name: &str) -> Result<Option<Trail>, NodeError> {
        let Some(root) = &self.root else { return Ok(None) };
        let path = root.join(format!("{name}-audit.jsonl"));
        let trail = Trail::open(path.clone());
        trail.map(Some).map_err(disk(&path, "the audit trail cannot be opened"))
    }

    pub(crate) fn put_blob(
        &self,
        role: Role,
        hash: BlobHash,
        bytes: &[u8],
    ) -> Result<(), NodeError> {
        let Some(root) = &self.root else { return Ok(()) };
        let path = root.join(blobs_of(role)).join(hash.to_string());
        if path.exists() { Ok(()) } else { put(&path, bytes) }
    }

    pub(crate) fn drop_blobs(
        &self,
        role: Role,
        needed: &BTreeSet<BlobHash>,
    ) -> Result<(), NodeError> {
        for (name, path) in self.files(&blobs_of(role))? {
            if !needed.iter().any(|hash| hash.to_string() == name) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn blobs(&self, role: Role) -> Result<Vec<Arc<[u8]>>, NodeError> {
        let read = |(_, path): (String, PathBuf)| {
            fs::read(&path).map(Arc::from).map_err(disk(&path, "this file cannot be read"))
        };
        self.files(&blobs_of(role))?.into_iter().map(read).collect()
    }

    /// Where a gate keeps statistics of running jobs.
    pub(crate) fn checkpoints(&self) -> Result<Checkpoints, NodeError> {
        match &self.root {
            Some(root) => Checkpoints::open(&root.join("checkpoints.redb")),
            None => Ok(Checkpoints::nowhere()),
        }
    }

    pub(crate) fn put_result(&self, result: &JobResult) -> Result<(), NodeError> {
        let Some(results) = &self.results else { return Ok(()) };
        let path = results.join(format!("{}.json", result.summary.job));
        let bytes = serde_json::to_vec(result)
            .map_err(|error| disk(&path, "the result cannot be written")(error.into()))?;
        put(&path, &bytes)
    }

    /// The result of an ended job.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read.
    pub fn result(&self, job: JobId) -> Result<Option<JobResult>, NodeError> {
        let Some(results) = &self.results else { return Ok(None) };
        let path = results.join(format!("{job}.json"));
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| disk(&path, "this file holds no result")(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk(&path, "this file cannot be read")(error)),
        }
    }

    fn files(&self, part: &str) -> Result<Vec<(String, PathBuf)>, NodeError> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let path = root.join(part);
        let mut files = Vec::new();
        for entry in fs::read_dir(&path).map_err(disk(&path, "this directory cannot be read"))? {
            let entry = entry.map_err(disk(&path, "this directory cannot be read"))?;
            if let Ok(name) = entry.file_name().into_string()
                && !name.ends_with(".new")
            {
                files.push((name, entry.path()));
            }
        }
        files.sort();
        Ok(files)
    }
}

fn blobs_of(role: Role) -> String {
    format!("{}-blobs", role.as_str())
}

/// A random number from the system.
pub(crate) fn random() -> Result<u64, NodeError> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), NodeError> {
    getrandom::fill(bytes).map_err(|error| NodeError::Io {
        what: "the system gives no random numbers".to_owned(),
        source: error.into(),
    })
}

/// What to say of a file that cannot be used.
pub(crate) fn disk(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    let path = path.display().to_string();
    move |source| NodeError::Disk { path, what, source }
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    let write = || -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(disk(path, "this file cannot be written"))
}

fn remove(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(disk(path, "this file cannot be removed")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_role_drops_the_other_still_finds() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::at(directory.path()).unwrap();
        let hash = BlobHash([7; 32]);
        for role in [Role::Gate, Role::Manager] {
            storage.put_blob(role, hash, b"plan").unwrap();
        }

        storage.drop_blobs(Role::Manager, &BTreeSet::new()).unwrap();

        assert!(storage.blobs(Role::Manager).unwrap().is_empty());
        assert_eq!(storage.blobs(Role::Gate).unwrap(), [Arc::from(*b"plan")]);
    }

    #[test]
    fn a_node_is_the_same_in_each_life_and_counts_them() {
        let directory = tempfile::tempdir().unwrap();
        let lives: Vec<Identity> = (0..3)
            .map(|_| Storage::at(directory.path()).unwrap().identity("gate", "a/b").unwrap())
            .collect();
        let elsewhere = Storage::at(directory.path()).unwrap().identity("gate", "a/c").unwrap_err();

        assert!(lives.iter().all(|life| life.node == lives[0].node));
        let incarnations: Vec<u64> = lives.iter().map(|life| life.incarnation.0).collect();
        assert_eq!(incarnations, [1, 2, 3]);
        assert!(elsewhere.to_string().contains("a gate of a/b, and this is one of a/c"));
    }
}
