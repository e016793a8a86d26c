//! Rows that come once: which draw gets which row.
//!
//! An iteration that reads `unique` sources makes one *draw*, which gives it a row of each of them.
//! A workflow's draws are numbered over the whole run and cut into [`Slice`]s as its load is, so no
//! two shards make the same draw. Of the workflows that read a source each has an equal part of its
//! rows: they know nothing of each other while they run.
//!
//! Within its slice a shard makes its draws in order and under a [`RowLease`]: whoever goes on after
//! a death begins behind everything that was leased, and so sends no row twice.

use std::collections::BTreeSet;

use hyperscale_model::WorkflowIndex;
use serde::{Deserialize, Serialize};

use crate::ir::{DataIndex, DataSource, OnEnd, Pick, Plan, Workflow};
use crate::slice::Slice;

/// The draws that an attempt may make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowLease {
    /// Its shard's share of the workflow's draws.
    pub slice: Slice,
    /// The first draw, by its number within the slice.
    pub from: u64,
    /// The first that it may not make yet.
    pub until: u64,
}

/// The `unique` sources that a workflow draws from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UniqueRows(Vec<Drawn>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Drawn {
    source: DataIndex,
    rows: u64,
    on_end: OnEnd,
    /// Which of the workflows that read the source this is.
    place: u64,
    readers: u64,
}

impl UniqueRows {
    /// Those of a workflow. Looks at every expression of the plan, unless it has no such source.
    #[must_use]
    pub fn of(plan: &Plan, workflow: WorkflowIndex) -> Self {
        if !plan.data.iter().any(is_unique) {
            return Self::default();
        }
        let read: Vec<BTreeSet<DataIndex>> = plan.workflows.iter().map(Workflow::data).collect();
        let this = usize::from(workflow.0);
        let sources = (plan.data.iter().zip(0..)).filter(|(source, _)| is_unique(source));
        let drawn = sources.filter_map(|(source, index)| {
            let index = DataIndex(index);
            let reads = |read: &BTreeSet<DataIndex>| read.contains(&index);
            read.get(this).filter(|read| reads(read))?;
            let place = read.iter().take(this).filter(|read| reads(read)).count() as u64;
            let readers = read.iter().filter(|read| reads(read)).count() as u64;
            let (rows, on_end) = (source.rows, source.on_end);
            Some(Drawn { source: index, rows, on_end, place, readers })
        });
        Self(drawn.collect())
    }

    /// Whether the workflow draws nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The row of a source that a draw gives, by the draw's number over the whole run; `None` if
    /// they are used up, or if the workflow does not draw from it.
    #[must_use]
    pub fn row(&self, source: DataIndex, draw: u64) -> Option<u64> {
        let drawn = self.0.iter().find(|drawn| drawn.source == source)?;
        let row = draw.checked_mul(drawn.readers)?.checked_add(drawn.place)?;
        match drawn.on_end {
            OnEnd::Stop => (row < drawn.rows).then_some(row),
            OnEnd::Recycle => row.checked_rem(drawn.rows),
        }
    }

    /// How many draws of a slice find a row in every source, over the whole run.
    #[must_use]
    pub fn draws(&self, slice: &Slice) -> u64 {
        let stopping = self.0.iter().filter(|drawn| drawn.on_end == OnEnd::Stop);
        slice.count(stopping.map(Drawn::own_rows).min().unwrap_or(u64::MAX))
    }

    /// The sources whose rows end, each with how many of them belong to a slice of the draws.
    pub fn ending(&self, slice: &Slice) -> impl Iterator<Item = (DataIndex, u64)> {
        let stopping = self.0.iter().filter(|drawn| drawn.on_end == OnEnd::Stop);
        stopping.map(move |drawn| (drawn.source, slice.count(drawn.own_rows())))
    }
}

impl Drawn {
    /// How many rows belong to the workflow.
    fn own_rows(&self) -> u64 {
        self.rows.saturating_sub(self.place).div_ceil(self.readers.max(1))
    }
}

fn is_unique(source: &DataSource) -> bool {
    source.pick == Pick::Unique
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(rows: u64, place: u64, readers: u64, on_end: OnEnd) -> UniqueRows {
        UniqueRows(vec![Drawn { source: DataIndex(0), rows, on_end, place, readers }])
    }

    proptest! {
        #[test]
        fn dat_01_each_row_belongs_to_one_draw_of_one_shard_of_one_workflow(
            rows in 0u64..300,
            readers in 1u64..4,
            datacenters in proptest::collection::vec(1u32..5, 1..4),
            shards in 1usize..5,
        ) {
            let mut given = vec![0; usize::try_from(rows).unwrap()];
            let mut owned = 0;

            for place in 0..readers {
                let unique = drawn(rows, place, readers, OnEnd::Stop);
                let parts = Slice::whole().split(&datacenters);
                for slice in parts.iter().flat_map(|part| part.split_evenly(shards)) {
                    let draws = unique.draws(&slice);
                    owned += draws;
                    for local in 0..draws {
                        let draw = slice.global(local).unwrap();
                        let row = unique.row(DataIndex(0), draw).unwrap();
                        given[usize::try_from(row).unwrap()] += 1;
                    }
                    let next = slice.global(draws).unwrap();
                    prop_assert_eq!(unique.row(DataIndex(0), next), None, "its rows are used up");
                }
            }

            prop_assert!(given.iter().all(|&times| times == 1), "{given:?}");
            prop_assert_eq!(owned, rows);
        }

        #[test]
        fn dat_01_recycled_rows_come_in_rounds(rows in 1u64..50, readers in 1u64..4) {
            let mut given = vec![0; usize::try_from(rows).unwrap()];

            for place in 0..readers {
                let unique = drawn(rows, place, readers, OnEnd::Recycle);
                for draw in 0..rows {
                    let row = unique.row(DataIndex(0), draw).unwrap();
                    given[usize::try_from(row).unwrap()] += 1;
                }
            }

            prop_assert!(given.iter().all(|&times| times == readers), "{given:?}");
        }
    }

    #[test]
    fn dat_01_the_shortest_source_ends_the_draws() {
        let source = |index, rows, on_end| Drawn {
            source: DataIndex(index),
            rows,
            on_end,
            place: 0,
            readers: 1,
        };
        let unique = UniqueRows(vec![
            source(0, 9, OnEnd::Stop),
            source(1, 4, OnEnd::Stop),
            source(2, 2, OnEnd::Recycle),
        ]);

        let whole = Slice::whole();
        assert_eq!(unique.draws(&whole), 4);
        assert_eq!(unique.row(DataIndex(2), 3), Some(1));
        let ending: Vec<_> = unique.ending(&whole).collect();
        assert_eq!(
            ending,
            [(DataIndex(0), 9), (DataIndex(1), 4)],
            "five rows of the first are left"
        );
    }

    #[test]
    fn dat_01_no_rows_are_used_up_from_the_start() {
        for on_end in [OnEnd::Stop, OnEnd::Recycle] {
            assert_eq!(drawn(0, 0, 1, on_end).row(DataIndex(0), 0), None);
        }
    }
}
