//! Exact shares of a load: over datacenters, workers and cores.
//!
//! Starts, users and iterations are numbered over the whole workflow. A slice owns every number
//! whose remainder it holds, so slices of one cut share no number and miss none: whatever is
//! planned at any instant, the sum over the slices is the plan, exactly. (k6 calls the same idea
//! execution segments and striped offsets.)

use serde::{Deserialize, Serialize};

/// A fixed share of a workflow's load.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slice {
    /// From the outermost cut inward. Each cut renumbers what it keeps from 0 without holes.
    cuts: Vec<Cut>,
}

/// Of each `of` consecutive numbers, those at the places `keep` (ascending).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cut {
    of: u32,
    keep: Vec<u32>,
}

impl Slice {
    /// Everything.
    #[must_use]
    pub const fn whole() -> Self {
        Self { cuts: Vec::new() }
    }

    /// Divides the slice in proportion to `weights`; a weight of 0 gets nothing.
    ///
    /// Places go to the weights by the smooth weighted round-robin, so that each prefix of the
    /// numbers is divided as evenly as whole numbers allow.
    #[must_use]
    pub fn split(&self, weights: &[u32]) -> Vec<Self> {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let weights: Vec<i64> = weights.iter().map(|w| i64::from(w / divisor)).collect();
        let total: i64 = weights.iter().sum();
        let mut keep = vec![Vec::new(); weights.len()];
        let mut credit = vec![0; weights.len()];
        for place in 0..total {
            let mut best = 0;
            for (index, weight) in weights.iter().enumerate() {
                credit[index] += weight;
                if credit[index] > credit[best] {
                    best = index;
                }
            }
            credit[best] -= total;
            keep[best].push(u32::try_from(place).unwrap_or(u32::MAX));
        }
        let of = u32::try_from(total).unwrap_or(u32::MAX);
        keep.into_iter()
            .map(|keep| {
                let mut cuts = self.cuts.clone();
                if of != 1 || keep.is_empty() {
                    cuts.push(Cut { of, keep });
                }
                Self { cuts }
            })
            .collect()
    }

    /// Divides the slice into `n` equal ones.
    #[must_use]
    pub fn split_evenly(&self, n: usize) -> Vec<Self> {
        self.split(&vec![1; n])
    }

    /// What this slice is of another one, instead of everything.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        Self { cuts: outer.cuts.iter().chain(&self.cuts).cloned().collect() }
    }

    /// How many of the first `total` numbers belong to the slice.
    #[must_use]
    pub fn count(&self, total: u64) -> u64 {
        self.cuts.iter().fold(total, |total, cut| {
            let of = u64::from(cut.of.max(1));
            let whole = (total / of).saturating_mul(cut.keep.len() as u64);
            whole + cut.keep.partition_point(|&place| u64::from(place) < total % of) as u64
        })
    }

    /// The number, over the whole load, of the slice's own `local`-th (from 0). `None` if the
    /// slice is empty.
    #[must_use]
    pub fn global(&self, local: u64) -> Option<u64> {
        self.cuts.iter().rev().try_fold(local, |local, cut| {
            let kept = u64::try_from(cut.keep.len()).ok().filter(|&kept| kept > 0)?;
            let place = usize::try_from(local % kept).ok()?;
            (local / kept).checked_mul(u64::from(cut.of))?.checked_add(u64::from(cut.keep[place]))
        })
    }

    /// The slice's share of the whole, from 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "cuts are small")]
    pub fn share(&self) -> f64 {
        self.cuts.iter().map(|cut| cut.keep.len() as f64 / f64::from(cut.of.max(1))).product()
    }

    /// Whether nothing belongs to the slice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cuts.iter().any(|cut| cut.keep.is_empty())
    }

    /// Whether the slice, which may come from another node, keeps its own rules.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.cuts.len() <= 8
            && self.cuts.iter().all(|cut| {
                cut.of <= 1 << 20
                    && cut.keep.is_sorted_by(|a, b| a < b)
                    && cut.keep.last().is_none_or(|&last| last < cut.of)
            })
    }
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_sum_to_the_whole_at_every_prefix(
            outer in proptest::collection::vec(0u32..9, 1..6),
            inner in 1usize..9,
            total in 0u64..100_000,
        ) {
            prop_assume!(outer.iter().sum::<u32>() > 0);

            let leaves: Vec<Slice> = Slice::whole()
                .split(&outer)
                .iter()
                .flat_map(|slice| slice.split_evenly(inner))
                .collect();

            let sum: u64 = leaves.iter().map(|slice| slice.count(total)).sum();
            prop_assert_eq!(sum, total);
            prop_assert!(leaves.iter().all(Slice::is_valid));
        }

        #[test]
        fn each_number_belongs_to_one_part(
            weights in proptest::collection::vec(0u32..9, 1..6), inner in 1usize..5,
        ) {
            prop_assume!(weights.iter().sum::<u32>() > 0);
            let mut owners = vec![0; 1_000];

            for slice in Slice::whole().split(&weights) {
                for slice in slice.split_evenly(inner) {
                    for local in 0..slice.count(1_000) {
                        owners[usize::try_from(slice.global(local).unwrap()).unwrap()] += 1;
                    }
                }
            }

            prop_assert!(owners.iter().all(|&owners| owners == 1), "{owners:?}");
        }

        #[test]
        fn shares_follow_the_weights_at_every_prefix(
            a in 1u32..50, b in 1u32..50, total in 0u64..10_000,
        ) {
            let slices = Slice::whole().split(&[a, b]);

            let ideal = total as f64 * f64::from(a) / f64::from(a + b);
            let real = slices[0].count(total) as f64;
            prop_assert!((real - ideal).abs() <= 1.0, "{real} of {total} instead of {ideal}");
        }
    }

    #[test]
    fn a_slice_within_another_is_a_cut_of_it() {
        let (outer, inner) = (Slice::whole().split(&[1, 2]), Slice::whole().split_evenly(3));

        assert_eq!(inner[1].within(&outer[1]), outer[1].split_evenly(3)[1]);
        assert_eq!(inner[1].within(&Slice::whole()), inner[1]);
    }

    #[test]
    fn an_empty_slice_owns_nothing() {
        let slices = Slice::whole().split(&[0, 1]);

        assert!(slices[0].is_empty());
        assert_eq!(slices[0].count(1_000_000), 0);
        assert_eq!(slices[0].global(0), None);
        assert_eq!(slices[1].count(7), 7);
    }
}
