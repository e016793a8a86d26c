//! Buckets as they are kept: a few bytes each instead of sixteen.
//!
//! Most buckets lie next to each other and most counts are small. So each bucket is the gap from the
//! one before and its count, both as base-128 numbers (LEB128): a histogram of a busy window takes
//! some 3 KB instead of 20, and a report keeps hundreds of them for each step.

/// Buckets with their counts, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Packed {
    bytes: Box<[u8]>,
    len: u32,
}

impl Packed {
    /// How many buckets there are.
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> Buckets<'_> {
        Buckets { bytes: &self.bytes, bucket: 0 }
    }
}

impl FromIterator<(u16, u64)> for Packed {
    /// Packs buckets, which must come in ascending order.
    fn from_iter<I: IntoIterator<Item = (u16, u64)>>(buckets: I) -> Self {
        let buckets = buckets.into_iter();
        let mut bytes = Vec::with_capacity(buckets.size_hint().0 * 3);
        let (mut last, mut len) = (0, 0);
        for (bucket, count) in buckets {
            debug_assert!(bucket >= last, "buckets ascend");
            push(&mut bytes, u64::from(bucket.saturating_sub(last)));
            push(&mut bytes, count);
            (last, len) = (bucket, len + 1);
        }
        Self { bytes: bytes.into_boxed_slice(), len }
    }
}

fn push(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Unpacks buckets.
#[derive(Debug, Clone)]
pub(crate) struct Buckets<'a> {
    bytes: &'a [u8],
    bucket: u16,
}

impl Buckets<'_> {
    fn number(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
            shift += 7;
        }
    }
}

impl Iterator for Buckets<'_> {
    type Item = (u16, u64);

    fn next(&mut self) -> Option<(u16, u64)> {
        let gap = self.number()?;
        self.bucket += u16::try_from(gap).ok()?;
        Some((self.bucket, self.number()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A bucket takes two bytes at least.
        (0, Some(self.bytes.len() / 2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            buckets in proptest::collection::btree_map(any::<u16>(), 1u64.., 0..300),
        ) {
            let packed: Packed = buckets.iter().map(|(&bucket, &count)| (bucket, count)).collect();

            prop_assert_eq!(packed.len(), buckets.len());
            prop_assert!(packed.iter().eq(buckets));
        }
    }

    #[test]
    fn neighbours_with_small_counts_take_two_bytes_each() {
        let packed: Packed = (1_000..2_000).map(|bucket| (bucket, 7)).collect();

        assert!(packed.bytes.len() <= 2 * 1_000 + 1, "{} bytes", packed.bytes.len());
    }
}
