//! When a part leaves a datacenter that is busy for another that is free: seldom.
//!
//! Moving costs distance for as long as the part runs, waiting costs once. So the wait must be long
//! and the gain sure, on figures that are new enough to be true.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// Waiting up to this is waited.
const WAIT_MIN: Duration = Duration::from_secs(60);
/// Nothing moves farther than this.
const EXTRA_DISTANCE_MAX: Duration = Duration::from_millis(100);
/// Figures of this age may be true no more.
const AGE_MAX: Duration = Duration::from_secs(30);

/// A datacenter, as a part would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How long the part would wait there, if that can be told.
    pub wait: Option<Duration>,
    /// Whether it can start there now.
    pub is_free: bool,
    /// How far it is, if that was measured.
    pub distance: Option<Duration>,
    /// How old these figures are.
    pub age: Duration,
}

/// Whether a part that would wait in `primary` goes to `other` instead. What is not known speaks
/// against it.
#[must_use]
pub fn spills(primary: &Room, other: &Room) -> bool {
    let (Some(wait), Some(other_wait)) = (primary.wait, other.wait) else { return false };
    let (Some(here), Some(there)) = (primary.distance, other.distance) else { return false };
    wait > WAIT_MIN
        && other.is_free
        && there.saturating_sub(here) <= EXTRA_DISTANCE_MAX
        && other_wait <= wait / 2
        && other.age <= AGE_MAX
}

/// Work with its cores: what runs, with the time that it has left, or what waits, with the time
/// that it will take. `None` if nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Cores that it holds while it runs.
    pub cores: u32,
    /// How long it goes on, once it runs.
    pub lasts: Option<Duration>,
}

/// How long work of `needed` cores waits behind a queue that is served in order. `None` if that
/// cannot be told: there will never be room, or what must end first has no known end.
#[must_use]
pub fn expected_wait(
    free: u32,
    running: &[Work],
    queue: impl IntoIterator<Item = Work>,
    needed: u32,
) -> Option<Duration> {
    let mut free = u64::from(free);
    let mut now = Duration::ZERO;
    let mut ends: BinaryHeap<Reverse<(Duration, u32)>> =
        (running.iter()).filter_map(|work| Some(Reverse((work.lasts?, work.cores)))).collect();
    let mut waiting: VecDeque<Work> = queue.into_iter().collect();
    loop {
        let next = waiting.front().map_or(needed, |work| work.cores);
        while free < u64::from(next) {
            let Reverse((at, cores)) = ends.pop()?;
            now = at;
            free += u64::from(cores);
        }
        let Some(work) = waiting.pop_front() else { return Some(now) };
        free -= u64::from(work.cores);
        if let Some(lasts) = work.lasts {
            ends.push(Reverse((now + lasts, work.cores)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const PRIMARY: Room = Room {
        wait: Some(secs(100)),
        is_free: false,
        distance: Some(Duration::from_millis(10)),
        age: secs(0),
    };
    const OTHER: Room = Room {
        wait: Some(secs(0)),
        is_free: true,
        distance: Some(Duration::from_millis(110)),
        age: secs(30),
    };

    fn work(cores: u32, lasts_secs: u64) -> Work {
        Work { cores, lasts: Some(secs(lasts_secs)) }
    }

    #[test]
    fn dsp_07_all_conditions_must_hold() {
        assert!(spills(&PRIMARY, &OTHER));

        let primary = |wait| Room { wait, ..PRIMARY };
        let far = Some(Duration::from_millis(111));
        let rows = [
            ("the wait is short enough", primary(Some(secs(60))), OTHER),
            ("the wait is not known", primary(None), OTHER),
            ("the other is not free now", PRIMARY, Room { is_free: false, ..OTHER }),
            ("it is too far", PRIMARY, Room { distance: far, ..OTHER }),
            ("the wait is not halved", PRIMARY, Room { wait: Some(secs(51)), ..OTHER }),
            ("the figures are old", PRIMARY, Room { age: Duration::from_millis(30_001), ..OTHER }),
            ("its distance is not known", PRIMARY, Room { distance: None, ..OTHER }),
            ("the own distance is not known", Room { distance: None, ..PRIMARY }, OTHER),
            ("its wait is not known", PRIMARY, Room { wait: None, ..OTHER }),
        ];
        for (why, primary, other) in rows {
            assert!(!spills(&primary, &other), "{why}");
        }
        assert!(spills(&primary(Some(Duration::from_millis(60_001))), &OTHER));
        assert!(spills(&PRIMARY, &Room { wait: Some(secs(50)), ..OTHER }));
    }

    /// The table again, in plain numbers of seconds and milliseconds.
    #[test]
    fn dsp_07_the_table_has_no_other_way_to_spill() {
        let ms = Duration::from_millis;
        for wait in [0, 59, 60, 61, 500] {
            for (other_wait, is_free) in
                [(0, true), (30, true), (31, true), (250, true), (0, false)]
            {
                for (here, there) in [(0, 0), (0, 100), (0, 101), (150, 250), (150, 251), (250, 0)]
                {
                    for age in [0, 30, 31] {
                        let primary =
                            Room { wait: Some(secs(wait)), distance: Some(ms(here)), ..PRIMARY };
                        let other = Room {
                            wait: Some(secs(other_wait)),
                            is_free,
                            distance: Some(ms(there)),
                            age: secs(age),
                        };
                        let expected = wait > 60
                            && is_free
                            && there <= here + 100
                            && 2 * other_wait <= wait
                            && age <= 30;
                        assert_eq!(spills(&primary, &other), expected, "{primary:?} to {other:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn dsp_07_the_wait_is_that_of_a_queue_in_order() {
        assert_eq!(expected_wait(4, &[], [], 4), Some(secs(0)));
        assert_eq!(expected_wait(1, &[work(3, 40)], [], 4), Some(secs(40)));
        // The first in the queue starts at 40 s and holds its cores until 140 s.
        let queue = [work(4, 100)];
        assert_eq!(expected_wait(1, &[work(3, 40)], queue, 4), Some(secs(140)));
        assert_eq!(expected_wait(1, &[work(4, 40)], queue, 1), Some(secs(40)), "not out of turn");
    }

    #[test]
    fn dsp_07_a_wait_without_an_end_is_not_told() {
        let endless = Work { cores: 4, lasts: None };

        assert_eq!(expected_wait(0, &[endless], [], 1), None);
        assert_eq!(expected_wait(4, &[], [endless], 1), None);
        assert_eq!(expected_wait(4, &[work(4, 10)], [], 9), None, "there are not so many cores");
    }

    proptest! {
        #[test]
        fn dsp_07_the_wait_is_what_happens_second_by_second(
            free in 0u32..4,
            running in proptest::collection::vec((1u32..5, 1u64..60), 0..8),
            queue in proptest::collection::vec((1u32..8, 1u64..60), 0..8),
            needed in 1u32..8,
        ) {
            let running: Vec<Work> = running.into_iter().map(|(cores, lasts)| work(cores, lasts)).collect();
            let queue: Vec<Work> = queue.into_iter().map(|(cores, lasts)| work(cores, lasts)).collect();
            let total = free + running.iter().map(|work| work.cores).sum::<u32>();

            let expected = (queue.iter().all(|work| work.cores <= total) && needed <= total).then(|| {
                let mut ends: Vec<(u64, u32)> =
                    running.iter().map(|work| (work.lasts.unwrap().as_secs(), work.cores)).collect();
                let mut queue = queue.clone();
                queue.push(work(needed, 1));
                for second in 0.. {
                    ends.retain(|(end, _)| *end > second);
                    let mut used: u32 = ends.iter().map(|(_, cores)| cores).sum();
                    while !queue.is_empty() && used + queue[0].cores <= total {
                        let next = queue.remove(0);
                        used += next.cores;
                        ends.push((second + next.lasts.unwrap().as_secs(), next.cores));
                    }
                    if queue.is_empty() {
                        return secs(second);
                    }
                }
                unreachable!("each second something ends")
            });
            prop_assert_eq!(expected_wait(free, &running, queue, needed), expected);
        }
    }
}
