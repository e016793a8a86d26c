//! How well a datacenter or a node is, read from what is known of it: two tables, each with its
//! first line that fits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How well a datacenter can take work; whether it can be reached is another question. The best is
/// the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatacenterHealth {
    /// It has room.
    Healthy,
    /// It is well and has no free core.
    Busy,
    /// Most of its managers or workers are not well.
    Degraded,
    /// Nobody there can take work.
    Unhealthy,
}

/// What a datacenter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatacenterCounts {
    /// Managers that belong to it, alive or not.
    pub managers: u32,
    /// Those of them that are alive.
    pub managers_alive: u32,
    /// Those of them that are alive and well.
    pub managers_healthy: u32,
    /// Workers that are registered, silent ones too.
    pub workers: u32,
    /// Those of them that are well.
    pub workers_healthy: u32,
    /// Cores that may be given away.
    pub free_cores: u32,
    /// Whether its managers can decide.
    pub has_quorum: bool,
}

impl DatacenterHealth {
    /// The health of a datacenter that has this.
    #[must_use]
    pub const fn of(counts: &DatacenterCounts) -> Self {
        if counts.managers_alive == 0 || counts.workers == 0 || !counts.has_quorum {
            Self::Unhealthy
        } else if most_are_lost(counts.managers, counts.managers_healthy)
            || most_are_lost(counts.workers, counts.workers_healthy)
        {
            Self::Degraded
        } else if counts.free_cores == 0 {
            Self::Busy
        } else {
            Self::Healthy
        }
    }
}

const fn most_are_lost(all: u32, healthy: u32) -> bool {
    all.saturating_sub(healthy) > all / 2
}

/// Work done against the work that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Progress {
    /// Four fifths of it or more, or nothing was expected.
    Normal,
    /// Half of it or more.
    Slow,
    /// A fifth of it or more.
    Degraded,
    /// Less.
    Stuck,
}

impl Progress {
    /// The grade of `done` against `expected`.
    #[must_use]
    pub const fn of(done: u64, expected: u64) -> Self {
        let [done, expected] = [done as u128 * 100, expected as u128];
        if done >= expected * 80 {
            Self::Normal
        } else if done >= expected * 50 {
            Self::Slow
        } else if done >= expected * 20 {
            Self::Degraded
        } else {
            Self::Stuck
        }
    }
}

/// Three signals of a node, none of which replaces another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSignals {
    /// Whether its cluster takes it for alive.
    pub is_alive: bool,
    /// Whether it takes work: by its own word, its capacity, its overload.
    pub is_ready: bool,
    /// How its work goes.
    pub progress: Progress,
    /// How long ago it started.
    pub since_start: Duration,
}

/// What to do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeDecision {
    /// Give it work.
    Route,
    /// Give it no work; what it has stays.
    Drain,
    /// It says that it is well, and nothing moves: look closer.
    Investigate,
    /// Take its work away.
    Evict,
}

/// The health of one node over time.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeHealth {
    /// How often in a row it was stuck.
    stuck: u32,
}

impl NodeHealth {
    /// A starting node is not failed for what it is not yet.
    pub const START_GRACE: Duration = Duration::from_secs(150);
    /// So often in a row a stuck node is looked at before it is out.
    pub const INVESTIGATIONS: u32 = 3;

    /// Decides from the signals now.
    pub const fn assess(&mut self, signals: &NodeSignals) -> NodeDecision {
        let is_starting = signals.since_start.as_nanos() < Self::START_GRACE.as_nanos();
        let is_stuck = matches!(signals.progress, Progress::Stuck);
        if !signals.is_alive {
            return if is_starting { NodeDecision::Drain } else { NodeDecision::Evict };
        }
        if !signals.is_ready {
            return NodeDecision::Drain;
        }
        if !is_stuck || is_starting {
            self.stuck = 0;
            return NodeDecision::Route;
        }
        self.stuck = self.stuck.saturating_add(1);
        if self.stuck > Self::INVESTIGATIONS {
            NodeDecision::Evict
        } else {
            NodeDecision::Investigate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published table again, written as one line per row.
    fn expected(counts: &DatacenterCounts) -> DatacenterHealth {
        let lost = |all: u32, healthy: u32| 2 * (all - healthy) > all;
        match counts {
            DatacenterCounts { managers_alive: 0, .. }
            | DatacenterCounts { workers: 0, .. }
            | DatacenterCounts { has_quorum: false, .. } => DatacenterHealth::Unhealthy,
            counts if lost(counts.managers, counts.managers_healthy) => DatacenterHealth::Degraded,
            counts if lost(counts.workers, counts.workers_healthy) => DatacenterHealth::Degraded,
            DatacenterCounts { free_cores: 0, .. } => DatacenterHealth::Busy,
            _ => DatacenterHealth::Healthy,
        }
    }

    #[test]
    fn mem_09_datacenters_are_classified_as_published() {
        for managers in 1..6 {
            for managers_alive in 0..=managers {
                for managers_healthy in 0..=managers_alive {
                    for (workers, workers_healthy) in
                        (0..8).flat_map(|n| (0..=n).map(move |h| (n, h)))
                    {
                        for (free_cores, has_quorum) in
                            [(0, true), (1, true), (0, false), (9, false)]
                        {
                            let counts = DatacenterCounts {
                                managers,
                                managers_alive,
                                managers_healthy,
                                workers,
                                workers_healthy,
                                free_cores,
                                has_quorum,
                            };
                            assert_eq!(
                                DatacenterHealth::of(&counts),
                                expected(&counts),
                                "{counts:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn mem_09_half_of_the_workers_lost_is_no_majority() {
        let counts = DatacenterCounts {
            managers: 3,
            managers_alive: 2,
            managers_healthy: 2,
            workers: 4,
            workers_healthy: 2,
            free_cores: 8,
            has_quorum: true,
        };

        assert_eq!(DatacenterHealth::of(&counts), DatacenterHealth::Healthy);
        let one_less = DatacenterCounts { workers_healthy: 1, ..counts };
        assert_eq!(DatacenterHealth::of(&one_less), DatacenterHealth::Degraded);
        let one_of_three = DatacenterCounts { managers_healthy: 1, ..counts };
        assert_eq!(DatacenterHealth::of(&one_of_three), DatacenterHealth::Degraded);
    }

    #[test]
    fn mem_09_progress_is_graded_at_80_50_and_20_percent() {
        let grades = [100, 80, 79, 50, 49, 20, 19, 0].map(|done| Progress::of(done, 100));

        let [normal, slow, degraded, stuck] =
            [Progress::Normal, Progress::Slow, Progress::Degraded, Progress::Stuck];
        assert_eq!(grades, [normal, normal, slow, slow, degraded, degraded, stuck, stuck]);
        assert_eq!(Progress::of(0, 0), Progress::Normal, "nothing was expected");
    }

    #[test]
    fn mem_09_nodes_are_decided_on_as_published() {
        let grades = [Progress::Normal, Progress::Slow, Progress::Degraded, Progress::Stuck];
        for secs in [0, 149, 150, 1_000] {
            for progress in grades {
                for [is_alive, is_ready] in
                    [[false, false], [false, true], [true, false], [true, true]]
                {
                    let since_start = Duration::from_secs(secs);
                    let signals = NodeSignals { is_alive, is_ready, progress, since_start };
                    let decision = NodeHealth::default().assess(&signals);
                    let expected = match (is_alive, is_ready, progress, secs < 150) {
                        (false, _, _, true) | (true, false, _, _) => NodeDecision::Drain,
                        (false, _, _, false) => NodeDecision::Evict,
                        (true, true, Progress::Stuck, false) => NodeDecision::Investigate,
                        (true, true, _, _) => NodeDecision::Route,
                    };
                    assert_eq!(decision, expected, "{signals:?}");
                }
            }
        }
    }

    #[test]
    fn mem_09_a_stuck_node_is_out_after_three_looks_in_a_row() {
        let mut node = NodeHealth::default();
        let since_start = Duration::from_secs(200);
        let stuck =
            NodeSignals { is_alive: true, is_ready: true, progress: Progress::Stuck, since_start };
        let moves = NodeSignals { progress: Progress::Slow, ..stuck };

        let mut decide = |signals: &NodeSignals| node.assess(signals);

        assert_eq!([stuck; 2].map(|signals| decide(&signals)), [NodeDecision::Investigate; 2]);
        assert_eq!(decide(&moves), NodeDecision::Route);
        assert_eq!([stuck; 3].map(|signals| decide(&signals)), [NodeDecision::Investigate; 3]);
        assert_eq!(decide(&stuck), NodeDecision::Evict);
    }
}
