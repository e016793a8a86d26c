//! Which deltas of one attempt have been counted.

use std::collections::BTreeSet;

use hyperscale_model::DeltaSeq;
use serde::{Deserialize, Serialize};

/// How many deltas may have arrived above a missing one. The sender resends what is missing, so
/// refusing the rest for a while loses nothing.
const ABOVE_MAX: usize = 1_024;

/// The contiguous prefix of an attempt's deltas that was counted, and those above it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Watermark {
    contiguous: DeltaSeq,
    above: BTreeSet<DeltaSeq>,
}

/// What a receiver does with a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Counts it: it is the first time.
    New,
    /// Drops it: it was counted before.
    Duplicate,
    /// Drops it for now: too much before it is missing.
    TooFar,
}

impl Watermark {
    /// Notes the arrival of a delta and says what to do with it.
    pub fn arrive(&mut self, seq: DeltaSeq) -> Arrival {
        if seq <= self.contiguous || self.above.contains(&seq) {
            return Arrival::Duplicate;
        }
        if seq == self.contiguous.next() {
            self.contiguous = seq;
            while self.above.remove(&self.contiguous.next()) {
                self.contiguous = self.contiguous.next();
            }
            return Arrival::New;
        }
        if self.above.len() >= ABOVE_MAX {
            return Arrival::TooFar;
        }
        self.above.insert(seq);
        Arrival::New
    }

    /// The last delta up to which all were counted: what is acknowledged, since the sender drops
    /// whatever is.
    #[must_use]
    pub const fn contiguous(&self) -> DeltaSeq {
        self.contiguous
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sta_04_each_delta_counts_once_in_any_order(
            arrivals in proptest::collection::vec(1u64..60, 0..300),
        ) {
            let mut watermark = Watermark::default();
            let mut counted = BTreeSet::new();

            for seq in arrivals {
                let arrival = watermark.arrive(DeltaSeq(seq));
                prop_assert_eq!(arrival == Arrival::New, counted.insert(seq), "delta {}", seq);
            }

            let contiguous = (1..).take_while(|seq| counted.contains(seq)).last().unwrap_or(0);
            prop_assert_eq!(watermark.contiguous(), DeltaSeq(contiguous));
        }
    }

    #[test]
    fn what_is_held_above_a_hole_is_bounded() {
        let mut watermark = Watermark::default();

        let held = (2..5_000).filter(|&s| watermark.arrive(DeltaSeq(s)) == Arrival::New).count();

        assert_eq!(held, ABOVE_MAX);
        assert_eq!(watermark.arrive(DeltaSeq(1)), Arrival::New);
        assert_eq!(watermark.contiguous(), DeltaSeq(ABOVE_MAX as u64 + 1));
    }
}
