//! What openraft counts its batches with.
//!
//! Stands in for the crate of the same name, whose 0.2.3 fills tables of 27 MB for scales that
//! nobody uses as soon as one histogram exists: most of the memory and of the start-up time of a
//! small test. Written anew for the interface that openraft uses; bounds of buckets are computed.
//! Goes once the crate fills its tables by need.

use std::fmt;
use std::marker::PhantomData;

/// Buckets of a power of two.
const PER_POWER: u64 = 4;
/// Buckets in all: 0 to 3 alone, then four for each of 62 powers.
const BUCKETS: usize = 252;

/// Counts of values by logarithmic buckets; a quarter of a power of two each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Empty until something is counted.
    counts: Vec<u64>,
    total: u64,
    slot: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// An empty one; it takes no memory before its first value.
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: Vec::new(), total: 0, slot: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts.resize(BUCKETS, 0);
        if let Some(bucket) = self.counts.get_mut(bucket_of(value)) {
            *bucket = bucket.saturating_add(count);
            self.total = self.total.saturating_add(count);
        }
    }

    /// Values counted.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The lower bound of the bucket below whose end lies a share of the values, in thousandths.
    fn permille(&self, share: u64) -> u64 {
        let wanted = (u128::from(self.total) * u128::from(share)).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (count, bucket) in self.counts.iter().zip(0..) {
            seen += u128::from(*count);
            if seen >= wanted {
                return lower_bound(bucket);
            }
        }
        0
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }
}

fn bucket_of(value: u64) -> usize {
    let bucket = match value.checked_ilog2() {
        Some(power) if power >= 2 => {
            u64::from(power - 1) * PER_POWER + (value >> (power - 2)) % PER_POWER
        }
        Some(_) | None => value,
    };
    usize::try_from(bucket).unwrap_or(BUCKETS - 1)
}

const fn lower_bound(bucket: u64) -> u64 {
    if bucket < PER_POWER {
        bucket
    } else {
        (PER_POWER + bucket % PER_POWER) << (bucket / PER_POWER - 1)
    }
}

/// Percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 % of the values are below.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// Half.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]")
    }
}

/// Histograms, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()>(Vec<(String, Histogram<T>)>);

impl<T> AsciiChart<T> {
    /// One without lines.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a line.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.0.push((name.to_owned(), histogram));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, of)| writeln!(f, "{name}: {}", of.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_lies_in_the_bucket_whose_bounds_hold_it() {
        let edges = (2..64).flat_map(|power| {
            let edge = 1u64 << power;
            [edge - 1, edge, edge + 1, edge | edge >> 1, edge | edge >> 2]
        });
        for value in (0..5_000).chain(edges).chain([u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS, "{value}");
            assert!(lower_bound(bucket as u64) <= value, "{value}");
            if bucket + 1 < BUCKETS {
                assert!(value < lower_bound(bucket as u64 + 1), "{value}");
            }
        }
    }

    #[test]
    fn percentiles_count_from_the_smallest() {
        let mut histogram = Histogram::<()>::new();
        (0..100).for_each(|_| histogram.record(1));
        histogram.record_n(1_024, 100);

        let stats = histogram.percentile_stats();

        assert_eq!((stats.samples, stats.p50, stats.p90), (200, 1, 1_024));
    }
}
