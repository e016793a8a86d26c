//! Which gate owns a job: the same answer on every gate that sees the same gates alive.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each gate has a weight for each job, and the
//! highest one owns it. A gate that comes takes only what it now weighs most for, one that goes
//! leaves only what it had, and the second highest is where each of its jobs goes: a ring with
//! virtual nodes needs hundreds of points a gate for the same spread. Linear in the gates, which
//! are few.

use hyperscale_model::{JobId, NodeId, SplitMix};

/// The gate that owns a job while these are alive; `None` if none is.
pub(crate) fn owner(job: JobId, gates: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    gates.into_iter().max_by_key(|&gate| rank(job, gate))
}

/// Two gates of one weight are told apart by their ids, never by the order in which they were given.
fn rank(job: JobId, gate: NodeId) -> (u64, NodeId) {
    (weight(job.as_u128(), gate), gate)
}

/// A hash that is equal on every machine and in every version: gates of two builds share jobs.
pub(crate) fn weight(key: u128, node: NodeId) -> u64 {
    let mix = |bits: u64| SplitMix::new(bits).next_u64();
    let [high, low] = [(key >> 64) as u64, (key << 64 >> 64) as u64];
    mix(mix(mix(node.0) ^ high) ^ low)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Jobs as they come: one after another in time, so that most of their bits are equal.
    fn jobs(count: u64) -> impl Iterator<Item = JobId> {
        (0..count).map(|n| JobId::from_parts(1_700_000_000_000 + n / 3, u128::from(n)))
    }

    /// Node ids are random; those counted up are the hard case.
    fn gates(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn dsp_09_owners_are_the_same_in_every_build() {
        let owners: Vec<u64> =
            jobs(12).filter_map(|job| owner(job, gates(5))).map(|gate| gate.0).collect();

        assert_eq!(
            owners,
            [2, 1, 4, 3, 1, 1, 3, 3, 1, 2, 1, 2],
            "jobs moved, although no gate did"
        );
    }

    #[test]
    fn dsp_09_jobs_spread_evenly() {
        for count in [2, 3, 5, 10, 30] {
            let mut owned: BTreeMap<NodeId, u64> = BTreeMap::new();
            for job in jobs(count * 1_000) {
                *owned.entry(owner(job, gates(count)).unwrap()).or_default() += 1;
            }

            let most = owned.values().max().unwrap();
            assert_eq!(owned.len() as u64, count, "each gate owns something");
            assert!(*most <= 1_150, "one of {count} gates owns {most} jobs, the mean is 1000");
        }
    }

    #[test]
    fn dsp_09_a_change_of_one_gate_moves_few_jobs() {
        for count in [2, 3, 5, 10, 30] {
            let (before, after) = (gates(count), gates(count + 1));
            let moved: Vec<(NodeId, NodeId)> = jobs(10_000)
                .map(|job| {
                    (owner(job, before.clone()).unwrap(), owner(job, after.clone()).unwrap())
                })
                .filter(|(from, to)| from != to)
                .collect();

            let allowed = 10_000 / (count + 1) + 500;
            assert!(moved.len() as u64 <= allowed, "{} of {allowed} moved", moved.len());
            assert!(moved.iter().all(|(_, to)| *to == NodeId(count + 1)), "only to the new gate");
        }
    }

    #[test]
    fn dsp_09_without_gates_there_is_no_owner() {
        let job = JobId::from_parts(1, 1);

        assert_eq!(owner(job, []), None);
        assert_eq!(owner(job, gates(1)), Some(NodeId(1)));
    }

    proptest! {
        #[test]
        fn dsp_09_equal_views_have_equal_owners_in_any_order(
            job: u128, ids in proptest::collection::btree_set(any::<u64>(), 1..20), seed: u64,
        ) {
            let job = JobId::from_u128(job);
            let sorted: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
            let mut shuffled = sorted.clone();
            let mut random = SplitMix::new(seed);
            shuffled.sort_by_key(|_| random.next_u64());

            prop_assert_eq!(owner(job, sorted), owner(job, shuffled));
        }

        #[test]
        fn dsp_09_an_owner_hangs_on_nobody_but_itself(
            job: u128, ids in proptest::collection::btree_set(any::<u64>(), 2..20),
        ) {
            let job = JobId::from_u128(job);
            let gates: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
            let first = owner(job, gates.clone()).unwrap();
            let second = owner(job, gates.iter().copied().filter(|&gate| gate != first)).unwrap();

            let without_another: Vec<NodeId> =
                gates.iter().copied().filter(|&gate| gate == first || gate == second).collect();
            prop_assert_eq!(owner(job, without_another), Some(first), "others do not matter");
            prop_assert_eq!(owner(job, [second]), Some(second));
        }
    }
}
