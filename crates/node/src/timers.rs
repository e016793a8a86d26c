//! The timers of a node that can be set, and whether they fit together.

use std::time::Duration;

use crate::drive::NodeError;

/// How often a leader shows its followers that it is there.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// The shortest time after which a voter may be given up.
const REAP_MIN: Duration = Duration::from_secs(10);

/// Timers that can be set. All nodes of a cluster should have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// The length of a window of statistics. Shorter shows more and costs more messages.
    pub window: Duration,
    /// How long a worker sends load without hearing from its leader. Longer bridges longer
    /// failovers; shorter moves the load of a dead worker sooner.
    pub execution_lease: Duration,
    /// How often a worker asks for its lease.
    pub renewal: Duration,
    /// How long a leader's authority outlives its last contact with a majority.
    pub leader_lease: Duration,
    /// The shortest silence after which a follower stands for election; the longest is twice that.
    pub election: Duration,
    /// How long an ended job stays at hand.
    pub retention: Duration,
    /// How long running attempts may go on once a worker is told to leave.
    pub drain: Duration,
    /// After how long a voter that is not there gives way to a spare; never, unless set.
    pub reap_voters_after: Option<Duration>,
}

/// Those of them that a ledger has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerTimers {
    pub(crate) election: Duration,
    pub(crate) leader_lease: Duration,
}

impl Timers {
    /// What holds unless it is set otherwise.
    pub const DEFAULT: Self = Self {
        window: Duration::from_secs(1),
        execution_lease: Duration::from_secs(10),
        renewal: Duration::from_secs(1),
        leader_lease: Duration::from_secs(2),
        election: Duration::from_secs(1),
        retention: Duration::from_secs(300),
        drain: Duration::from_secs(60),
        reap_voters_after: None,
    };

    pub(crate) const fn ledger(&self) -> LedgerTimers {
        LedgerTimers { election: self.election, leader_lease: self.leader_lease }
    }

    /// Whether they fit together.
    ///
    /// # Errors
    ///
    /// With the inequality that does not hold, in names and in figures.
    pub fn check(&self) -> Result<(), NodeError> {
        let Self {
            window,
            execution_lease,
            renewal,
            leader_lease,
            election,
            retention,
            reap_voters_after,
            drain: _,
        } = *self;
        let (shortest, longest) = (Duration::from_millis(50), Duration::from_secs(60));
        let rows = [
            (
                shortest <= window && window <= longest,
                format!("window must be from {shortest:?} to {longest:?}, and is {window:?}"),
            ),
            (
                Duration::from_millis(100) <= renewal,
                format!("renewal must be at least 100ms, and is {renewal:?}"),
            ),
            (
                3 * HEARTBEAT <= election,
                format!("election ≥ 3 × heartbeat does not hold: {election:?} < 3 × {HEARTBEAT:?}"),
            ),
            (
                2 * HEARTBEAT <= leader_lease,
                format!(
                    "leader_lease ≥ 2 × heartbeat does not hold: {leader_lease:?} < 2 × \
                     {HEARTBEAT:?}"
                ),
            ),
            (
                execution_lease > leader_lease + 2 * election + 2 * renewal,
                format!(
                    "execution_lease > leader_lease + worst election (2 × election) + 2 × renewal \
                     does not hold: {execution_lease:?} ≤ {leader_lease:?} + 2 × {election:?} + 2 \
                     × {renewal:?} = {:?}",
                    leader_lease + 2 * election + 2 * renewal
                ),
            ),
            (
                retention >= 2 * window,
                format!("retention ≥ 2 × window does not hold: {retention:?} < 2 × {window:?}"),
            ),
            (
                reap_voters_after.is_none_or(|after| after >= REAP_MIN),
                format!(
                    "reap_voters_after must be at least {REAP_MIN:?}, or a node that restarts is \
                     taken for lost; it is {:?}",
                    reap_voters_after.unwrap_or_default()
                ),
            ),
        ];
        let broken: Vec<String> =
            rows.into_iter().filter(|(holds, _)| !holds).map(|(_, text)| text).collect();
        if broken.is_empty() {
            return Ok(());
        }
        Err(NodeError::Config(format!("the timers do not fit: {}", broken.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_gate::GateConfig;
    use hyperscale_ledger::LedgerConfig;
    use hyperscale_manager::ManagerConfig;
    use hyperscale_model::{DatacenterId, Incarnation, NodeId, WallTime};
    use hyperscale_worker::WorkerConfig;

    use super::*;

    #[test]
    fn cfg_01_the_defaults_fit_and_are_those_of_the_roles() {
        let timers = Timers::DEFAULT;
        let manager = ManagerConfig::new(NodeId(1), DatacenterId::from("eu"), WallTime(0));
        let (gate, worker) = (
            GateConfig::new(NodeId(1), Incarnation(1), WallTime(0), [0; 32]),
            WorkerConfig::new(1),
        );
        let ledger = LedgerConfig::new(NodeId(1));

        timers.check().unwrap();

        let theirs = Timers {
            window: gate.window,
            execution_lease: manager.execution_lease,
            renewal: worker.renewal,
            leader_lease: manager.leader_lease,
            election: ledger.election,
            retention: gate.retention,
            drain: worker.drain_limit,
            reap_voters_after: gate.reap_voters_after,
        };
        assert_eq!(timers, theirs);
        assert_eq!((ledger.leader_lease, ledger.heartbeat), (timers.leader_lease, HEARTBEAT));
    }

    #[test]
    fn cfg_02_a_lease_shorter_than_the_worst_failover_is_refused_with_the_sum() {
        let short = Timers { execution_lease: Duration::from_secs(6), ..Timers::DEFAULT };

        let error = short.check().unwrap_err().to_string();

        assert!(error.contains("6s ≤ 2s + 2 × 1s + 2 × 1s = 6s"), "{error}");
        assert!(error.contains("execution_lease > leader_lease + worst election"), "{error}");
    }

    #[test]
    fn cfg_02_every_inequality_is_told_at_once() {
        let bad = Timers {
            window: Duration::from_secs(200),
            renewal: Duration::ZERO,
            election: Duration::from_millis(1),
            leader_lease: Duration::from_millis(1),
            execution_lease: Duration::ZERO,
            ..Timers::DEFAULT
        };

        let error = bad.check().unwrap_err().to_string();

        for name in ["window", "renewal", "election ≥", "leader_lease ≥", "execution_lease >"] {
            assert!(error.contains(name), "{name} is missing in: {error}");
        }
        assert!(error.contains("retention ≥"), "{error}");
    }
}
