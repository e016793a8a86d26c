//! Which workers run a workflow, with how many cores each: a computation, nothing is changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use hyperscale_model::{Incarnation, NodeId};
use hyperscale_plan::{Load, Slice};

use crate::state::Placement;

/// A worker that may be given cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) worker: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) free: u32,
}

/// A workflow that wants cores.
#[derive(Debug, Clone)]
pub(crate) struct Wish<'a> {
    pub(crate) load: &'a Load,
    /// How many cores its author asked for.
    pub(crate) cores: Option<u32>,
    /// The part's share of its load.
    pub(crate) slice: &'a Slice,
}

impl Wish<'_> {
    /// More cores than users would idle.
    fn useful_cores(&self) -> u32 {
        let units = match self.load.iterations() {
            Some(iterations) => iterations.min(u64::from(self.load.vus_max())),
            None => u64::from(self.load.vus_max()),
        };
        u32::try_from(self.slice.count(units)).unwrap_or(u32::MAX)
    }
}

/// Whether a part has anything to do of a load.
pub(crate) fn has_work(load: &Load, slice: &Slice) -> bool {
    Wish { load, cores: None, slice }.useful_cores() > 0
}

/// Divides the free cores over the wishes, in their order: who asked for a number comes first, the
/// rest share by users with at least one each. A wish that gets none waits.
pub(crate) fn place(wishes: &[Wish<'_>], candidates: &[Candidate]) -> Vec<Option<Vec<Placement>>> {
    let mut free: Vec<Candidate> = candidates.iter().filter(|c| c.free > 0).copied().collect();
    let mut left: u32 = free.iter().map(|candidate| candidate.free).sum();
    let mut granted = vec![0; wishes.len()];
    for (wish, granted) in wishes.iter().zip(&mut granted) {
        if let Some(cores) = wish.cores {
            *granted = cores.min(wish.useful_cores()).min(left);
            left -= *granted;
        }
    }
    let mut sharing: Vec<usize> =
        (0..wishes.len()).filter(|&i| wishes[i].cores.is_none()).collect();
    sharing.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    let mut users_left: u64 = sharing.iter().map(|&i| u64::from(wishes[i].load.vus_max())).sum();
    for (place, &index) in sharing.iter().enumerate() {
        let wish = &wishes[index];
        let users = u64::from(wish.load.vus_max());
        let others = u32::try_from(sharing.len() - place - 1).unwrap_or(u32::MAX);
        let share = (u64::from(left) * users).checked_div(users_left).unwrap_or(1);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        granted[index] = share.clamp(1, (left - others).max(1)).min(wish.useful_cores());
        left -= granted[index];
        users_left -= users;
    }
    (wishes.iter().zip(granted))
        .map(|(wish, cores)| (cores > 0).then(|| spread(cores, wish.slice, &mut free)))
        .collect()
}

/// Takes `cores` from the workers, as evenly as their free cores allow, and cuts the slice by them.
fn spread(cores: u32, slice: &Slice, free: &mut [Candidate]) -> Vec<Placement> {
    let mut taken: BTreeMap<usize, u32> = BTreeMap::new();
    // The most free first; of equals the one with the lowest number.
    let mut by_free: BinaryHeap<(u32, Reverse<NodeId>, usize)> = (free.iter().enumerate())
        .filter(|(_, candidate)| candidate.free > 0)
        .map(|(index, candidate)| (candidate.free, Reverse(candidate.worker), index))
        .collect();
    for _ in 0..cores {
        let Some((left, worker, index)) = by_free.pop() else { break };
        free[index].free -= 1;
        *taken.entry(index).or_default() += 1;
        if left > 1 {
            by_free.push((left - 1, worker, index));
        }
    }
    let weights: Vec<u32> = taken.values().copied().collect();
    (taken.iter().zip(slice.split(&weights)))
        .map(|((&index, &cores), slice)| Placement {
            worker: free[index].worker,
            incarnation: free[index].incarnation,
            cores,
            beside: None,
            slice,
            rows: 0,
        })
        .collect()
}

/// The worker that goes on with a shard: the one with most free cores that has not failed it, or
/// any if all have.
pub(crate) fn choose(
    candidates: &[Candidate],
    wanted: u32,
    has_failed: impl Fn(NodeId) -> bool,
) -> Option<Candidate> {
    let best = |avoid: bool| {
        (candidates.iter())
            .filter(|candidate| candidate.free > 0 && !(avoid && has_failed(candidate.worker)))
            .max_by(|a, b| a.free.cmp(&b.free).then(b.worker.cmp(&a.worker)))
    };
    let chosen = best(true).or_else(|| best(false))?;
    Some(Candidate { free: chosen.free.min(wanted.max(1)), ..*chosen })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn candidate(worker: u64, free: u32) -> Candidate {
        Candidate { worker: NodeId(worker), incarnation: Incarnation(1), free }
    }

    fn vus(vus: u32) -> Load {
        Load::ConstantVus { vus, duration: Duration::from_secs(1) }
    }

    proptest! {
        #[test]
        fn wrk_03_cores_are_never_given_twice_and_each_wish_gets_one_if_it_can(
            free in proptest::collection::vec(0u32..9, 1..6),
            wishes in proptest::collection::vec((1u32..200, proptest::option::of(1u32..6)), 1..6),
        ) {
            let candidates: Vec<Candidate> =
                free.iter().zip(0..).map(|(&free, worker)| candidate(worker, free)).collect();
            let loads: Vec<Load> = wishes.iter().map(|&(users, _)| vus(users)).collect();
            let whole = Slice::whole();
            let wishes: Vec<Wish<'_>> = (loads.iter().zip(&wishes))
                .map(|(load, &(_, cores))| Wish { load, cores, slice: &whole })
                .collect();

            let placed = place(&wishes, &candidates);

            let mut used: BTreeMap<NodeId, u32> = BTreeMap::new();
            for placement in placed.iter().flatten().flatten() {
                *used.entry(placement.worker).or_default() += placement.cores;
            }
            for candidate in &candidates {
                prop_assert!(used.get(&candidate.worker).copied().unwrap_or(0) <= candidate.free);
            }
            let total: u32 = free.iter().sum();
            if total as usize >= 6 * wishes.len() {
                prop_assert!(placed.iter().all(Option::is_some), "{placed:?}");
            }
            for (wish, placed) in wishes.iter().zip(&placed) {
                let users = u64::from(wish.load.vus_max());
                if let Some(shards) = placed {
                    let sum: u64 = shards.iter().map(|shard| shard.slice.count(users)).sum();
                    prop_assert_eq!(sum, users);
                }
            }
        }
    }

    #[test]
    fn dsp_10_a_worker_that_failed_the_shard_is_chosen_only_if_it_is_alone() {
        let both = [candidate(1, 8), candidate(2, 1)];

        let other = choose(&both, 2, |worker| worker == NodeId(1));
        let alone = choose(&both[..1], 2, |worker| worker == NodeId(1));

        assert_eq!(other, Some(candidate(2, 1)));
        assert_eq!(alone, Some(candidate(1, 2)));
    }
}
