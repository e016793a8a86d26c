//! Log-linear histograms of one fixed layout, so that merging is addition.
//!
//! The layout is that of HDR histograms with 3 significant digits from 1 µs up: values below
//! 2,048 µs have a bucket each, and every octave above has 1,024. Buckets live in pages of one
//! octave that are allocated when the first value falls into them: a typical distribution needs
//! 2 to 5 pages of 8 KiB, where a flat array needs 190 KiB. `benches/histogram.rs` compares it
//! with the `hdrhistogram` crate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets in a page.
const PAGE: usize = 1_024;
/// Pages up to 2³² µs, which is more than an hour.
const PAGES: usize = 23;
/// The largest value that is told apart from larger ones, in µs.
const VALUE_MAX_US: u64 = (1 << 32) - 1;

/// How often which duration occurred.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "SparseHistogram", into = "SparseHistogram")]
pub struct Histogram {
    pages: [Option<Box<[u64; PAGE]>>; PAGES],
    count: u64,
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
}

/// A histogram as it travels: its non-empty buckets in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "SparseParts", into = "SparseParts")]
pub struct SparseHistogram {
    /// (bucket, count), by bucket.
    buckets: Vec<(u16, u64)>,
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
}

impl From<SparseHistogram> for Histogram {
    fn from(sparse: SparseHistogram) -> Self {
        sparse.to_dense()
    }
}

impl From<Histogram> for SparseHistogram {
    fn from(dense: Histogram) -> Self {
        dense.to_sparse()
    }
}

/// The serialized form: buckets, sum, smallest, largest.
type SparseParts = (Vec<(u16, u64)>, u64, u64, u64);

impl TryFrom<SparseParts> for SparseHistogram {
    type Error = InvalidHistogram;

    fn try_from((buckets, sum_ns, min_ns, max_ns): SparseParts) -> Result<Self, Self::Error> {
        Self::from_parts(buckets, sum_ns, min_ns, max_ns)
    }
}

impl From<SparseHistogram> for SparseParts {
    fn from(histogram: SparseHistogram) -> Self {
        (histogram.buckets, histogram.sum_ns, histogram.min_ns, histogram.max_ns)
    }
}

/// Buckets that are no histogram: out of order, empty or beyond the layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the histogram's buckets are out of order, empty or beyond the layout")]
pub struct InvalidHistogram;

#[expect(clippy::cast_possible_truncation, reason = "below PAGES * PAGE, asserted below")]
const fn bucket_of(value_us: u64) -> usize {
    let value = if value_us > VALUE_MAX_US { VALUE_MAX_US } else { value_us };
    if value < 2 * PAGE as u64 {
        value as usize
    } else {
        let shift = 53 - value.leading_zeros(); // Leaves 11 bits: 1,024 to 2,047.
        ((shift as usize) << 10) + (value >> shift) as usize
    }
}

/// The largest value in µs that falls into the bucket.
const fn highest_of(bucket: usize) -> u64 {
    if bucket < 2 * PAGE {
        bucket as u64
    } else {
        let shift = (bucket >> 10) - 1;
        let top = (bucket - (shift << 10)) as u64;
        ((top + 1) << shift) - 1
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Histogram {
    /// A histogram of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        self.record_ns(nanos(duration));
    }

    /// Counts one duration given in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        let bucket = bucket_of(ns / 1_000);
        let page = self.pages[bucket / PAGE].get_or_insert_with(|| Box::new([0; PAGE]));
        page[bucket % PAGE] += 1;
        self.min_ns = if self.count == 0 { ns } else { self.min_ns.min(ns) };
        self.max_ns = self.max_ns.max(ns);
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.count += 1;
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &SparseHistogram) {
        let mut added = 0;
        for &(bucket, count) in &other.buckets {
            let bucket = usize::from(bucket);
            let page = self.pages[bucket / PAGE].get_or_insert_with(|| Box::new([0; PAGE]));
            page[bucket % PAGE] += count;
            added += count;
        }
        if added > 0 {
            self.min_ns =
                if self.count == 0 { other.min_ns } else { self.min_ns.min(other.min_ns) };
            self.max_ns = self.max_ns.max(other.max_ns);
            self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
            self.count += added;
        }
    }

    /// Adds what `other` counted.
    pub fn merge_dense(&mut self, other: &Self) {
        self.merge(&other.to_sparse());
    }

    /// The non-empty buckets.
    #[must_use]
    pub fn to_sparse(&self) -> SparseHistogram {
        SparseHistogram {
            buckets: self.buckets().map(|(bucket, count)| (bucket_number(bucket), count)).collect(),
            sum_ns: self.sum_ns,
            min_ns: self.min_ns,
            max_ns: self.max_ns,
        }
    }

    /// Takes what was counted and starts at zero, keeping the pages.
    pub fn take_sparse(&mut self) -> SparseHistogram {
        if self.count == 0 {
            return SparseHistogram::default();
        }
        let taken = self.to_sparse();
        for &(bucket, _) in &taken.buckets {
            let bucket = usize::from(bucket);
            if let Some(page) = &mut self.pages[bucket / PAGE] {
                page[bucket % PAGE] = 0;
            }
        }
        (self.count, self.sum_ns, self.min_ns, self.max_ns) = (0, 0, 0, 0);
        taken
    }

    fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.pages.iter().enumerate().flat_map(|(number, page)| {
            page.iter().flat_map(move |page| {
                page.iter()
                    .enumerate()
                    .filter(|(_, count)| **count > 0)
                    .map(move |(slot, &count)| (number * PAGE + slot, count))
            })
        })
    }

    /// How many durations were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The smallest; zero if there was none.
    #[must_use]
    pub const fn min(&self) -> Duration {
        Duration::from_nanos(self.min_ns)
    }

    /// The largest; zero if there was none.
    #[must_use]
    pub const fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The sum of all.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The mean; zero if there was none.
    #[must_use]
    pub const fn mean(&self) -> Duration {
        Duration::from_nanos(match self.sum_ns.checked_div(self.count) {
            Some(mean) => mean,
            None => 0,
        })
    }

    /// The standard deviation, exact to the bucket.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a deviation needs no 64 bits")]
    pub fn deviation(&self) -> Duration {
        if self.count == 0 {
            return Duration::ZERO;
        }
        let mean = self.mean().as_secs_f64();
        let squares: f64 = self
            .buckets()
            .map(|(bucket, count)| {
                let off = highest_of(bucket) as f64 / 1e6 - mean;
                off * off * count as f64
            })
            .sum();
        Duration::from_secs_f64((squares / self.count as f64).sqrt())
    }

    /// The smallest value that at least `percent` per cent of all do not exceed, exact to the
    /// bucket and never beyond the largest; zero if there was none.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ranks are positive, and 53 bits of them suffice"
    )]
    pub fn percentile(&self, percent: f64) -> Duration {
        let share = (percent / 100.0).clamp(0.0, 1.0);
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.buckets() {
            seen += count;
            if seen >= rank {
                let value = Duration::from_micros(highest_of(bucket));
                return value.clamp(self.min(), self.max());
            }
        }
        Duration::ZERO
    }

    /// Each non-empty bucket's largest value and its count, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets().map(|(bucket, count)| (Duration::from_micros(highest_of(bucket)), count))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the layout has fewer than 2^16 buckets")]
const fn bucket_number(bucket: usize) -> u16 {
    bucket as u16
}

const _: () = assert!(PAGES * PAGE <= u16::MAX as usize);
const _: () = assert!(bucket_of(u64::MAX) < PAGES * PAGE);

impl SparseHistogram {
    /// A histogram of these buckets.
    ///
    /// # Errors
    ///
    /// If they are not ascending, one is empty or beyond the layout, or the extremes are swapped.
    pub fn from_parts(
        buckets: Vec<(u16, u64)>,
        sum_ns: u64,
        min_ns: u64,
        max_ns: u64,
    ) -> Result<Self, InvalidHistogram> {
        let is_valid = buckets.is_sorted_by(|a, b| a.0 < b.0)
            && buckets.last().is_none_or(|last| usize::from(last.0) < PAGES * PAGE)
            && buckets.iter().all(|&(_, count)| count > 0)
            && min_ns <= max_ns;
        if is_valid { Ok(Self { buckets, sum_ns, min_ns, max_ns }) } else { Err(InvalidHistogram) }
    }

    /// The buckets with their counts, ascending.
    #[must_use]
    pub fn buckets(&self) -> &[(u16, u64)] {
        &self.buckets
    }

    /// The exact sum, smallest and largest value, in nanoseconds.
    #[must_use]
    pub const fn extremes(&self) -> (u64, u64, u64) {
        (self.sum_ns, self.min_ns, self.max_ns)
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// Whether nothing was counted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        let mine = std::mem::take(&mut self.buckets);
        let mut merged = Vec::with_capacity(mine.len().max(other.buckets.len()));
        let (mut a, mut b) =
            (mine.into_iter().peekable(), other.buckets.iter().copied().peekable());
        while let (Some(&(left, left_count)), Some(&(right, right_count))) = (a.peek(), b.peek()) {
            match left.cmp(&right) {
                std::cmp::Ordering::Less => merged.extend(a.next()),
                std::cmp::Ordering::Greater => merged.extend(b.next()),
                std::cmp::Ordering::Equal => {
                    merged.push((left, left_count + right_count));
                    a.next();
                    b.next();
                }
            }
        }
        merged.extend(a);
        merged.extend(b);
        self.buckets = merged;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The same counts, ready for percentiles.
    #[must_use]
    pub fn to_dense(&self) -> Histogram {
        let mut dense = Histogram::new();
        dense.merge(self);
        dense
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        values.iter().for_each(|&ns| histogram.record_ns(ns));
        histogram
    }

    proptest! {
        #[test]
        fn buckets_keep_three_digits(us in 0u64..=VALUE_MAX_US) {
            let highest = highest_of(bucket_of(us));

            prop_assert!(highest >= us);
            prop_assert!(highest - us <= us / 1_000, "{us} became {highest}");
        }

        #[test]
        fn sta_02_merges_do_not_depend_on_order_or_grouping(
            values in proptest::collection::vec(0u64..10_000_000_000, 0..200), cut in 0usize..200,
        ) {
            let (left, right) = values.split_at(cut.min(values.len()));
            let whole = of(&values).to_sparse();

            let mut forward = of(left).to_sparse();
            forward.merge(&of(right).to_sparse());
            let mut backward = of(right);
            backward.merge(&of(left).to_sparse());

            prop_assert_eq!(&forward, &whole);
            prop_assert_eq!(&backward.to_sparse(), &whole);
        }

        #[test]
        fn sta_08_percentiles_are_exact_to_the_bucket(
            mut values in proptest::collection::vec(1_000u64..10_000_000_000, 1..300),
            percent in 0.0..=100.0f64,
        ) {
            let found = of(&values).percentile(percent).as_nanos() as f64;

            values.sort_unstable();
            let rank = values.len() as f64 * percent / 100.0;
            let before = (1..values.len()).take_while(|&n| (n as f64) < rank).count();
            let exact = values[before] as f64;
            prop_assert!((found - exact).abs() <= exact * 0.001 + 1_000.0, "{found}, not {exact}");
        }

        #[test]
        fn taking_leaves_nothing(values in proptest::collection::vec(0u64..1 << 40, 0..50)) {
            let mut histogram = of(&values);

            let first = histogram.take_sparse();
            let second = histogram.take_sparse();

            prop_assert_eq!(first.count(), values.len() as u64);
            prop_assert_eq!(second, SparseHistogram::default());
        }
    }

    #[test]
    fn sta_09_extremes_are_kept_and_nothing_is_lost() {
        let histogram = of(&[200_000, 0, u64::MAX]);

        assert_eq!(histogram.count(), 3);
        assert_eq!(histogram.max(), Duration::from_nanos(u64::MAX));
        assert_eq!(histogram.min(), Duration::ZERO);
        assert_eq!(histogram.percentile(50.0), Duration::from_micros(200));
    }

    #[test]
    fn buckets_out_of_order_are_refused() {
        assert!(SparseHistogram::from_parts(vec![(5, 1), (4, 1)], 0, 0, 0).is_err());
        assert!(SparseHistogram::from_parts(vec![(5, 0)], 0, 0, 0).is_err());
        assert!(SparseHistogram::from_parts(vec![(u16::MAX, 1)], 0, 0, 0).is_err());
        assert!(SparseHistogram::from_parts(vec![(5, 1)], 0, 9, 3).is_err());
    }
}
