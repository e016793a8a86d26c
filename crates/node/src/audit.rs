//! The audit trail of a role: what its ledger decided, one JSON object a line, in its data directory.
//!
//! It is made from the ledger, which a restart tells again from its last snapshot on, so a line is
//! written only if its index is beyond the last one. What lies in a snapshot that came from another
//! node is missing in the trail of this one, and is in that of the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyperscale_model::{Decision, WallTime};
use serde::Serialize;

use crate::observe::{Observer, Part};

/// A file that is larger makes place for a new one.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Where a role writes its trail.
#[derive(Debug)]
pub(crate) struct Trail {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// The index of the last line.
    last: u64,
}

/// A role's trail, if anything of it is kept.
#[derive(Debug)]
pub(crate) struct Audit {
    trail: Option<Trail>,
    part: Part,
    observer: Arc<Observer>,
}

impl Audit {
    pub(crate) const fn new(trail: Option<Trail>, part: Part, observer: Arc<Observer>) -> Self {
        Self { trail, part, observer }
    }

    /// Adds a decision. What cannot be written is told, and decided all the same.
    pub(crate) fn note(&mut self, decision: &Decision) {
        let wall = self.observer.clock().wall();
        if let Some(Err(error)) = self.trail.as_mut().map(|trail| trail.add(wall, decision))
            && let Some(held_back) = self.observer.trouble(self.part, "audit trail", "")
        {
            tracing::error!(%error, held_back, "the audit trail cannot be written");
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    /// When this node heard of it, in milliseconds since 1970.
    at_ms: u64,
    #[serde(flatten)]
    decision: &'a Decision,
}

impl Trail {
    /// Goes on with a trail, or begins one.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let last = last_index(&path)?.max(last_index(&earlier(&path))?);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, last })
    }

    /// Adds a decision, unless it is there.
    pub(crate) fn add(&mut self, at: WallTime, decision: &Decision) -> io::Result<()> {
        if decision.index <= self.last {
            return Ok(());
        }
        if self.bytes >= FILE_BYTES_MAX {
            fs::rename(&self.path, earlier(&self.path))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.bytes = 0;
        }
        let mut line = serde_json::to_vec(&Line { at_ms: at.0, decision })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        self.last = decision.index;
        Ok(())
    }
}

/// The file before.
fn earlier(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

/// The highest index in a file. A last line that was torn counts for nothing.
fn last_index(path: &Path) -> io::Result<u64> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut last = 0;
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(decision) = serde_json::from_slice::<Decision>(&line?) {
            last = last.max(decision.index);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str::<Decision>(l).unwrap().index).collect()
    }

    #[test]
    fn a_trail_has_each_decision_once_whatever_the_ledger_tells_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate-audit.jsonl");
        for told in [1..4, 1..6] {
            let mut trail = Trail::open(path.clone()).unwrap();
            told.for_each(|n| trail.add(WallTime(n), &Decision::new(n, "job_ended")).unwrap());
        }

        assert_eq!(lines(&path), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_trail_that_is_full_goes_on_in_a_new_file_and_knows_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate-audit.jsonl");
        let mut trail = Trail::open(path.clone()).unwrap();
        trail.add(WallTime(1), &Decision::new(1, "job_ended")).unwrap();
        trail.bytes = FILE_BYTES_MAX;
        trail.add(WallTime(2), &Decision::new(2, "job_ended")).unwrap();
        fs::write(&path, b"{\"at_ms\":3,\"ind").unwrap(); // Torn.

        let mut trail = Trail::open(path.clone()).unwrap();
        trail.add(WallTime(2), &Decision::new(1, "job_ended")).unwrap();

        assert_eq!(lines(&earlier(&path)), [1]);
        assert_eq!(fs::read(&path).unwrap(), b"{\"at_ms\":3,\"ind", "it was there");
    }
}
