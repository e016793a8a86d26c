//! The draws of unique rows that an attempt makes: in order, each once, as far as it may.
//!
//! This is the one thing that cores share while they run, one number that is counted up once an
//! iteration, and only by attempts that read unique rows: a row that a fast core needs must not be
//! left over on a slow one.

use std::sync::atomic::{AtomicU64, Ordering};

use hyperscale_plan::{DataIndex, RowLease, Slice, UniqueRows};

use crate::Work;

#[derive(Debug)]
pub(crate) struct Draws {
    unique: UniqueRows,
    slice: Slice,
    from: u64,
    /// The first draw that finds no row.
    end: u64,
    // Nothing else is published with these two: relaxed access is enough for each draw to be made
    // once.
    next: AtomicU64,
    until: AtomicU64,
}

/// Why an iteration has no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRows {
    /// More must be leased.
    Yet,
    /// They are used up.
    Left,
}

impl Draws {
    /// `None` if the workflow draws nothing.
    pub(crate) fn of(work: &Work) -> Option<Self> {
        let unique = UniqueRows::of(&work.plan, work.workflow());
        let RowLease { slice, from, until } = work.rows.clone();
        let end = unique.draws(&slice);
        let (next, until) = (AtomicU64::new(from), AtomicU64::new(until.min(end)));
        (!unique.is_empty()).then_some(Self { unique, slice, from, end, next, until })
    }

    /// Makes the next draw; gives its number over the whole run.
    pub(crate) fn draw(&self) -> Result<u64, NoRows> {
        let until = self.until.load(Ordering::Relaxed);
        let made = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next < until).then(|| next + 1)
        });
        match made {
            Ok(local) => self.slice.global(local).ok_or(NoRows::Left),
            Err(next) if next < self.end => Err(NoRows::Yet),
            Err(_) => Err(NoRows::Left),
        }
    }

    /// Draws before this one may be made as well.
    pub(crate) fn lease(&self, until: u64) {
        self.until.fetch_max(until.min(self.end), Ordering::Relaxed);
    }

    /// How many draws were made.
    pub(crate) fn made(&self) -> u64 {
        self.next.load(Ordering::Relaxed).saturating_sub(self.from)
    }

    /// The row of a source that a draw gave.
    pub(crate) fn row(&self, source: DataIndex, draw: u64) -> Option<u64> {
        self.unique.row(source, draw)
    }
}
