//! Statistics of running jobs on disk: of each job a whole one, and the changes since.
//!
//! A job's statistics grow with its steps and its time, what is added in a second does not. So what
//! is written each second are the changes, and now and then the gate has all of it written anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hyperscale_gate::Kept;
use hyperscale_model::{Fence, JobId};
use hyperscale_wire::CopyMark;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::drive::NodeError;
use crate::storage::disk;

const WHOLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("whole");
/// By job, fence and position.
const CHANGES: TableDefinition<'_, (&str, u64, u64), &[u8]> = TableDefinition::new("changes");

/// Where they are kept; nowhere without a file.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    file: Option<(PathBuf, Database)>,
}

impl Checkpoints {
    pub(crate) const fn nowhere() -> Self {
        Self { file: None }
    }

    pub(crate) fn open(path: &Path) -> Result<Self, NodeError> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                let error = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
                disk(path, "it is in use by another process")(error)
            }
            error => cannot(path, error),
        })?;
        let tables = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(WHOLE)?;
            transaction.open_table(CHANGES)?;
            Ok(transaction.commit()?)
        };
        tables().map_err(|error| cannot(path, error))?;
        Ok(Self { file: Some((path.to_owned(), database)) })
    }

    /// Stores all of a job's statistics in place of what was there, for good.
    pub(crate) fn put(&self, job: JobId, whole: &[u8]) -> Result<(), NodeError> {
        self.change(job, |name, transaction| {
            forget_changes(name, transaction)?;
            transaction.open_table(WHOLE)?.insert(name, whole)?;
            Ok(())
        })
    }

    /// Adds a change of a job's statistics, for good.
    pub(crate) fn add(&self, job: JobId, mark: CopyMark, change: &[u8]) -> Result<(), NodeError> {
        self.change(job, |name, transaction| {
            let key = (name, mark.fence.0, mark.position);
            transaction.open_table(CHANGES)?.insert(key, change)?;
            Ok(())
        })
    }

    pub(crate) fn forget(&self, job: JobId) -> Result<(), NodeError> {
        self.change(job, |name, transaction| {
            forget_changes(name, transaction)?;
            transaction.open_table(WHOLE)?.remove(name)?;
            Ok(())
        })
    }

    /// All that is kept.
    pub(crate) fn all(&self) -> Result<BTreeMap<JobId, Kept>, NodeError> {
        let Some((path, database)) = &self.file else { return Ok(BTreeMap::new()) };
        let read = || -> Result<BTreeMap<JobId, Kept>, redb::Error> {
            let transaction = database.begin_read()?;
            let mut all = BTreeMap::new();
            for entry in transaction.open_table(WHOLE)?.iter()? {
                let (name, whole) = entry?;
                all.insert(job_of(name.value())?, (whole.value().to_vec(), Vec::new()));
            }
            for entry in transaction.open_table(CHANGES)?.iter()? {
                let (key, change) = entry?;
                let (name, fence, position) = key.value();
                // A job's changes go with its whole statistics, in one transaction.
                if let Some((_, changes)) = all.get_mut(&job_of(name)?) {
                    let mark = CopyMark { fence: Fence(fence), position };
                    changes.push((mark, change.value().to_vec()));
                }
            }
            Ok(all)
        };
        read().map_err(|error| cannot(path, error))
    }

    fn change(
        &self,
        job: JobId,
        change: impl FnOnce(&str, &redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), NodeError> {
        let Some((path, database)) = &self.file else { return Ok(()) };
        let commit = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            change(&job.to_string(), &transaction)?;
            Ok(transaction.commit()?)
        };
        commit().map_err(|error| cannot(path, error))
    }
}

fn job_of(name: &str) -> Result<JobId, redb::Error> {
    name.parse().map_err(|error| redb::Error::Io(std::io::Error::other(error)))
}

fn forget_changes(name: &str, transaction: &redb::WriteTransaction) -> Result<(), redb::Error> {
    let all = (name, 0, 0)..=(name, u64::MAX, u64::MAX);
    transaction.open_table(CHANGES)?.retain_in(all, |_, _| false)?;
    Ok(())
}

fn cannot(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> NodeError {
    disk(path, "checkpoints cannot be read or written")(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(fence: u64, position: u64) -> CopyMark {
        CopyMark { fence: Fence(fence), position }
    }

    #[test]
    fn sta_05_what_was_added_is_found_in_its_order_and_gives_way_to_a_whole_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoints.redb");
        let [one, other] = [1, 2].map(|number| JobId::from_parts(number, number.into()));
        let checkpoints = Checkpoints::open(&path).unwrap();
        checkpoints.put(one, b"whole").unwrap();
        checkpoints.put(other, b"other").unwrap();
        for position in [2, 10, 9_u64] {
            checkpoints.add(one, mark(7, position), &position.to_be_bytes()).unwrap();
        }
        checkpoints.add(other, mark(1, 1), b"x").unwrap();
        drop(checkpoints);

        let checkpoints = Checkpoints::open(&path).unwrap();
        let changes: Vec<_> =
            [2, 9, 10_u64].map(|at| (mark(7, at), at.to_be_bytes().to_vec())).into();
        let others = (b"other".to_vec(), vec![(mark(1, 1), b"x".to_vec())]);
        assert_eq!(
            checkpoints.all().unwrap(),
            [(one, (b"whole".to_vec(), changes)), (other, others.clone())].into()
        );

        checkpoints.put(one, b"anew").unwrap();
        assert_eq!(checkpoints.all().unwrap()[&one], (b"anew".to_vec(), Vec::new()));
        checkpoints.forget(one).unwrap();
        assert_eq!(checkpoints.all().unwrap(), [(other, others)].into());
    }

    #[test]
    fn a_file_that_holds_no_checkpoints_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoints.redb");
        std::fs::write(&path, "this is no database".repeat(500)).unwrap();

        let error = crate::gate::chain(&Checkpoints::open(&path).unwrap_err());

        assert!(error.contains("checkpoints.redb"), "{error}");
    }

    #[test]
    fn nothing_is_kept_nowhere() {
        let checkpoints = Checkpoints::nowhere();
        checkpoints.put(JobId::from_parts(1, 1), b"whole").unwrap();

        assert_eq!(checkpoints.all().unwrap(), BTreeMap::new());
    }
}
