//! Where a ledger's log lies.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

/// What a ledger node must find again after any crash, as bytes that only the ledger reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The vote.
    pub vote: Option<Vec<u8>>,
    /// The last entry that is known to be decided.
    pub committed: Option<Vec<u8>>,
    /// The last entry that a snapshot took the place of.
    pub purged: Option<Vec<u8>>,
    /// The newest snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// The log's entries by index, ascending.
    pub entries: Vec<(u64, Vec<u8>)>,
}

/// One change of what a node must find again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The vote.
    Vote(Vec<u8>),
    /// The last entry that is known to be decided; may be lost.
    Committed(Vec<u8>),
    /// An entry.
    Append(u64, Vec<u8>),
    /// All entries from this index on are void.
    TruncateFrom(u64),
    /// All entries up to this index are in a snapshot; with the bytes that say so.
    PurgeThrough(u64, Vec<u8>),
    /// A snapshot, in place of the one before.
    Snapshot(Vec<u8>),
}

/// A place for a ledger's log.
///
/// `write` returns when all of the batch would survive a crash. A crash before that leaves a prefix
/// of the batch, or nothing of it; never a part of one change.
pub trait Store {
    /// What was written by all lives of this node.
    ///
    /// # Errors
    ///
    /// If the place cannot be read, or holds something else.
    fn recover(&mut self) -> io::Result<Recovered>;

    /// Writes a batch for good.
    ///
    /// # Errors
    ///
    /// If the place is full, read-only or broken: the node must stop.
    fn write(&mut self, batch: &[Write]) -> io::Result<()>;
}

/// A log in memory: for jobs that need no memory of earlier lives, and for simulated disks.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Recovered);

impl Store for MemoryStore {
    fn recover(&mut self) -> io::Result<Recovered> {
        Ok(self.0.clone())
    }

    fn write(&mut self, batch: &[Write]) -> io::Result<()> {
        let Recovered { vote, committed, purged, snapshot, entries } = &mut self.0;
        for change in batch {
            match change {
                Write::Vote(bytes) => *vote = Some(bytes.clone()),
                Write::Committed(bytes) => *committed = Some(bytes.clone()),
                Write::Append(index, bytes) => entries.push((*index, bytes.clone())),
                Write::TruncateFrom(from) => entries.retain(|(index, _)| index < from),
                Write::PurgeThrough(through, bytes) => {
                    entries.retain(|(index, _)| index > through);
                    *purged = Some(bytes.clone());
                }
                Write::Snapshot(bytes) => *snapshot = Some(bytes.clone()),
            }
        }
        Ok(())
    }
}

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");

/// A log on disk: each batch is one transaction of redb.
#[derive(Debug)]
pub struct DiskStore {
    path: PathBuf,
    database: Database,
}

impl DiskStore {
    /// Opens the log in `path`, or starts one there.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, is in use by another process, or is no log.
    pub fn open(path: &Path) -> io::Result<Self> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                let message = "it is in use by another process";
                io::Error::new(io::ErrorKind::ResourceBusy, message)
            }
            error => named(path, error),
        })?;
        let store = Self { path: path.to_owned(), database };
        let tables = || -> Result<(), redb::Error> {
            let transaction = store.database.begin_write()?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(STATE)?;
            Ok(transaction.commit()?)
        };
        tables().map_err(|error| named(path, error))?;
        Ok(store)
    }

    fn read(&self) -> Result<Recovered, redb::Error> {
        let transaction = self.database.begin_read()?;
        let state = transaction.open_table(STATE)?;
        let value = |key| -> Result<Option<Vec<u8>>, redb::Error> {
            Ok(state.get(key)?.map(|bytes| bytes.value().to_vec()))
        };
        let mut entries = Vec::new();
        for entry in transaction.open_table(ENTRIES)?.iter()? {
            let (index, bytes) = entry?;
            entries.push((index.value(), bytes.value().to_vec()));
        }
        Ok(Recovered {
            vote: value("vote")?,
            committed: value("committed")?,
            purged: value("purged")?,
            snapshot: value("snapshot")?,
            entries,
        })
    }

    fn commit(&self, batch: &[Write]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut state = transaction.open_table(STATE)?;
            for change in batch {
                match change {
                    Write::Vote(bytes) => drop(state.insert("vote", bytes.as_slice())?),
                    Write::Committed(bytes) => drop(state.insert("committed", bytes.as_slice())?),
                    Write::Append(index, bytes) => drop(entries.insert(index, bytes.as_slice())?),
                    Write::TruncateFrom(from) => entries.retain_in(*from.., |_, _| false)?,
                    Write::PurgeThrough(through, bytes) => {
                        entries.retain_in(..=*through, |_, _| false)?;
                        drop(state.insert("purged", bytes.as_slice())?);
                    }
                    Write::Snapshot(bytes) => drop(state.insert("snapshot", bytes.as_slice())?),
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Store for DiskStore {
    fn recover(&mut self) -> io::Result<Recovered> {
        self.read().map_err(|error| named(&self.path, error))
    }

    fn write(&mut self, batch: &[Write]) -> io::Result<()> {
        self.commit(batch).map_err(|error| named(&self.path, error))
    }
}

fn named(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("the ledger {} cannot be used: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<Write> {
        let mut batch: Vec<Write> =
            (1..=9).map(|index| Write::Append(index, vec![u8::try_from(index).unwrap()])).collect();
        batch.extend([
            Write::Vote(vec![1]),
            Write::TruncateFrom(8),
            Write::PurgeThrough(2, vec![2]),
            Write::Snapshot(vec![3]),
            Write::Committed(vec![4]),
        ]);
        batch
    }

    #[test]
    fn syn_05_what_was_written_is_found_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.redb");
        let mut memory = MemoryStore::default();
        memory.write(&batch()).unwrap();

        DiskStore::open(&path).unwrap().write(&batch()).unwrap();
        let recovered = DiskStore::open(&path).unwrap().recover().unwrap();

        assert_eq!(recovered, memory.recover().unwrap());
        assert_eq!(recovered.entries.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_file_that_is_no_log_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.redb");
        std::fs::write(&path, "this is no database".repeat(500)).unwrap();

        let error = DiskStore::open(&path).unwrap_err().to_string();

        assert!(error.contains("ledger.redb"), "{error}");
    }
}
