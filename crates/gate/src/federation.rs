//! Which datacenters this gate reaches: by the answers to its probes, and by nothing else.
//!
//! That a probe could be sent proves nothing, so the clock of suspicion runs from the last
//! acknowledgement; before the first one, from the first probe.
//!
//! ```text
//! Unknown ──ack──► Reachable ⇄ Suspected ── 30 s ──► Unreachable
//!    └── 15 s silent ────────────▲   ▲  ack: Reachable    │
//!                                    └────────────────────┘
//! ```
//!
//! Reachability says only that: how well a datacenter is comes with its acknowledgements, and what
//! a network fault does to several of them at once is judged over all ([`Federation::may_evict`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hyperscale_model::{DatacenterId, Fence, Incarnation, NodeId, Time};
use hyperscale_resilience::Rtt;
use serde::{Deserialize, Serialize};

/// Settings of the watch over datacenters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FederationConfig {
    /// How often each datacenter is probed.
    pub probe_period: Duration,
    /// How long a probe may take.
    pub probe_timeout: Duration,
    /// So many of them without an answer make a datacenter suspect, but not later than
    /// `suspected_max`.
    pub failures_max: u32,
    /// A datacenter that was silent for so long is suspect in any case.
    pub suspected_max: Duration,
    /// How long a suspect one may stay silent before it counts as unreachable.
    pub unreachable_after: Duration,
    /// So many changes within `flapping_within` hold a datacenter out for `flapping_hold`.
    pub flapping_changes: usize,
    /// See `flapping_changes`.
    pub flapping_within: Duration,
    /// See `flapping_changes`.
    pub flapping_hold: Duration,
    /// How long a datacenter must stay reachable before its outage is over.
    pub stable_after: Duration,
    /// Datacenters that fail within this time fail together.
    pub correlated_within: Duration,
    /// How long the eviction of datacenters that fail together waits.
    pub eviction_delay: Duration,
}

impl FederationConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        probe_period: Duration::from_secs(2),
        probe_timeout: Duration::from_secs(5),
        failures_max: 5,
        suspected_max: Duration::from_secs(15),
        unreachable_after: Duration::from_secs(30),
        flapping_changes: 3,
        flapping_within: Duration::from_secs(120),
        flapping_hold: Duration::from_secs(300),
        stable_after: Duration::from_secs(30),
        correlated_within: Duration::from_secs(30),
        eviction_delay: Duration::from_secs(60),
    };

    /// How long a datacenter may be silent.
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        self.probe_timeout.saturating_mul(self.failures_max).min(self.suspected_max)
    }
}

/// Whether a datacenter can be reached, as far as one gate can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reachability {
    /// It has never answered.
    Unknown,
    /// It answers.
    Reachable,
    /// It has been silent for some time.
    Suspected,
    /// It has been silent for too long.
    Unreachable,
}

/// What it means for new work how a datacenter is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has never answered.
    Unknown,
    /// It answers.
    Reachable,
    /// It answers again, and not for long yet.
    Recovering,
    /// It answers, and comes and goes too often.
    Flapping,
    /// It has been silent for some time.
    Suspected,
    /// It has been silent for too long.
    Unreachable,
}

/// Who leads a datacenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The manager.
    pub(crate) node: NodeId,
    /// The fence by which it leads.
    pub(crate) fence: Fence,
    /// How often that manager has started.
    pub(crate) incarnation: Incarnation,
}

/// The number of a probe; its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProbeSeq(pub u64);

/// What an acknowledgement was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acked {
    /// It is news: what it says of the datacenter counts.
    Fresh,
    /// It comes from an older leader or incarnation, or answers nothing that was asked.
    Stale,
}

/// What has changed; told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It answers, for the first time or again.
    Reached,
    /// It has been silent for some time.
    Suspected,
    /// It has been silent for too long.
    Lost,
    /// It has been reachable for long enough: its outage is over.
    Healed,
}

/// How many datacenters failed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Correlation {
    /// One.
    None,
    /// Two.
    Low,
    /// Three.
    Medium,
    /// Four or more.
    High,
}

impl Correlation {
    const fn of(failed: usize) -> Self {
        match failed {
            0 | 1 => Self::None,
            2 => Self::Low,
            3 => Self::Medium,
            _ => Self::High,
        }
    }
}

/// Probes without an answer that are remembered; an answer to an older one says nothing.
const PROBES_OPEN_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
enum State {
    /// Probed since then, if it was.
    Unknown {
        probed_at: Option<Time>,
    },
    /// `outage` until it has been reachable for long enough.
    Reachable {
        last_ack: Time,
        outage: Option<Recovery>,
    },
    Suspected {
        since: Time,
    },
    Unreachable {
        since: Time,
    },
}

#[derive(Debug, Clone, Copy)]
struct Recovery {
    over_at: Time,
}

/// What this gate knows of how one datacenter is reached.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    state: State,
    leader: Option<Leader>,
    rtt: Option<Rtt>,
    last_probe: ProbeSeq,
    /// The newest probes without an answer, the oldest first.
    open: VecDeque<(ProbeSeq, Time)>,
    /// When it was lost or reached again lately, the oldest first; never more than make it flap.
    changes: VecDeque<Time>,
    held_until: Time,
    failed_at: Option<Time>,
    /// The most that failed together with it, the last time that it failed.
    together: Correlation,
}

impl Watch {
    const fn new() -> Self {
        Self {
            state: State::Unknown { probed_at: None },
            leader: None,
            rtt: None,
            last_probe: ProbeSeq(0),
            open: VecDeque::new(),
            changes: VecDeque::new(),
            held_until: Time::ZERO,
            failed_at: None,
            together: Correlation::None,
        }
    }

    /// Whether it can be reached.
    #[must_use]
    pub(crate) const fn reachability(&self) -> Reachability {
        match self.state {
            State::Unknown { .. } => Reachability::Unknown,
            State::Reachable { .. } => Reachability::Reachable,
            State::Suspected { .. } => Reachability::Suspected,
            State::Unreachable { .. } => Reachability::Unreachable,
        }
    }

    /// What that means for new work.
    #[must_use]
    pub(crate) fn standing(&self, now: Time) -> Standing {
        match self.state {
            State::Unknown { .. } => Standing::Unknown,
            State::Suspected { .. } => Standing::Suspected,
            State::Unreachable { .. } => Standing::Unreachable,
            State::Reachable { .. } if now < self.held_until => Standing::Flapping,
            State::Reachable { outage: Some(outage), .. } if now < outage.over_at => {
                Standing::Recovering
            }
            State::Reachable { .. } => Standing::Reachable,
        }
    }

    /// Who leads it, as far as is known.
    #[must_use]
    pub(crate) const fn leader(&self) -> Option<Leader> {
        self.leader
    }

    /// How far away it is, if that was measured.
    #[must_use]
    pub(crate) const fn rtt(&self) -> Option<&Rtt> {
        self.rtt.as_ref()
    }

    /// How many failed together with it, the last time that it failed.
    #[cfg(test)]
    pub(crate) const fn correlation(&self) -> Correlation {
        self.together
    }

    /// Whether the leader has left two probes without an answer: then another may lead, and all
    /// managers of the datacenter should be probed.
    #[must_use]
    pub(crate) fn is_leader_silent(&self, now: Time, config: &FederationConfig) -> bool {
        match self.state {
            State::Reachable { last_ack, .. } => now >= last_ack + config.probe_period * 2,
            State::Unknown { .. } | State::Suspected { .. } | State::Unreachable { .. } => true,
        }
    }

    fn probe(&mut self, now: Time) -> ProbeSeq {
        if let State::Unknown { probed_at: probed_at @ None } = &mut self.state {
            *probed_at = Some(now);
        }
        self.last_probe = ProbeSeq(self.last_probe.0 + 1);
        self.open.push_back((self.last_probe, now));
        if self.open.len() > PROBES_OPEN_MAX {
            self.open.pop_front();
        }
        self.last_probe
    }

    /// Takes a leader unless a newer one is known.
    fn adopt(&mut self, leader: Leader) -> bool {
        let is_current = self.leader.is_none_or(|held| {
            let is_same = held.node == leader.node && held.fence == leader.fence;
            held.fence < leader.fence || is_same && held.incarnation <= leader.incarnation
        });
        if is_current {
            self.leader = Some(leader);
        }
        is_current
    }

    fn on_ack(
        &mut self,
        now: Time,
        config: &FederationConfig,
        probe: ProbeSeq,
        leader: Leader,
    ) -> (Acked, Option<Change>) {
        // A leader is one by its fence, even if its answer is no sign of life.
        if !self.adopt(leader) {
            return (Acked::Stale, None);
        }
        let Some(place) = self.open.iter().position(|&(open, _)| open == probe) else {
            return (Acked::Stale, None);
        };
        if let Some((_, sent_at)) = self.open.remove(place) {
            let rtt = now.since(sent_at);
            match &mut self.rtt {
                Some(known) => known.measure(now, rtt),
                None => self.rtt = Some(Rtt::first(now, rtt)),
            }
        }
        let change = match self.state {
            State::Reachable { outage, .. } => {
                self.state = State::Reachable { last_ack: now, outage };
                None
            }
            State::Unknown { .. } => {
                self.state = State::Reachable { last_ack: now, outage: None };
                Some(Change::Reached)
            }
            State::Suspected { .. } | State::Unreachable { .. } => {
                self.count_change(now, config);
                let over_at = self.held_until.max(now + config.stable_after);
                let outage = Some(Recovery { over_at });
                self.state = State::Reachable { last_ack: now, outage };
                Some(Change::Reached)
            }
        };
        (Acked::Fresh, change)
    }

    fn tick(&mut self, now: Time, config: &FederationConfig) -> Option<Change> {
        if now < self.next_deadline(config)? {
            return None;
        }
        match self.state {
            State::Reachable { last_ack, outage: Some(_) }
                if now < last_ack + config.silence_max() =>
            {
                self.state = State::Reachable { last_ack, outage: None };
                Some(Change::Healed)
            }
            State::Reachable { .. } => {
                self.count_change(now, config);
                self.suspect(now)
            }
            State::Unknown { .. } => self.suspect(now),
            State::Suspected { .. } => {
                self.state = State::Unreachable { since: now };
                Some(Change::Lost)
            }
            State::Unreachable { .. } => None,
        }
    }

    fn suspect(&mut self, now: Time) -> Option<Change> {
        self.state = State::Suspected { since: now };
        self.failed_at = Some(now);
        self.together = Correlation::None;
        Some(Change::Suspected)
    }

    fn next_deadline(&self, config: &FederationConfig) -> Option<Time> {
        match self.state {
            State::Unknown { probed_at } => Some(probed_at? + config.silence_max()),
            State::Reachable { last_ack, outage } => {
                let silent_at = last_ack + config.silence_max();
                Some(outage.map_or(silent_at, |outage| outage.over_at.min(silent_at)))
            }
            State::Suspected { since } => Some(since + config.unreachable_after),
            State::Unreachable { .. } => None,
        }
    }

    /// It went, or came back.
    fn count_change(&mut self, now: Time, config: &FederationConfig) {
        self.changes.push_back(now);
        self.changes.retain(|&change| now < change + config.flapping_within);
        if self.changes.len() > config.flapping_changes {
            self.changes.pop_front();
        }
        if self.changes.len() >= config.flapping_changes {
            self.held_until = now + config.flapping_hold;
        }
    }
}

/// What this gate knows of how all datacenters are reached.
#[derive(Debug, Clone)]
pub(crate) struct Federation {
    config: FederationConfig,
    watches: BTreeMap<DatacenterId, Watch>,
}

impl Federation {
    /// Nothing known yet.
    #[must_use]
    pub(crate) const fn new(config: FederationConfig) -> Self {
        Self { config, watches: BTreeMap::new() }
    }

    /// A probe is being sent to a manager of the datacenter: it carries this number, and no other
    /// probe does.
    pub(crate) fn probe(&mut self, now: Time, datacenter: &DatacenterId) -> ProbeSeq {
        self.watches.entry(datacenter.clone()).or_insert_with(Watch::new).probe(now)
    }

    /// A leader has answered a probe. One with a higher fence is the leader from now on, whatever
    /// the answer is worth otherwise.
    pub(crate) fn on_ack(
        &mut self,
        now: Time,
        datacenter: &DatacenterId,
        probe: ProbeSeq,
        leader: Leader,
    ) -> (Acked, Option<Change>) {
        match self.watches.get_mut(datacenter) {
            Some(watch) => watch.on_ack(now, &self.config, probe, leader),
            None => (Acked::Stale, None),
        }
    }

    /// A manager says of its own accord that it leads. No life: this path may work only one way.
    /// Answers whether it is the leader now.
    pub(crate) fn on_leader(&mut self, datacenter: &DatacenterId, leader: Leader) -> bool {
        self.watches.entry(datacenter.clone()).or_insert_with(Watch::new).adopt(leader)
    }

    /// Looks at the clock; answers with what has changed.
    pub(crate) fn tick(&mut self, now: Time) -> Vec<(DatacenterId, Change)> {
        let changes: Vec<(DatacenterId, Change)> = (self.watches.iter_mut())
            .filter_map(|(datacenter, watch)| {
                Some((datacenter.clone(), watch.tick(now, &self.config)?))
            })
            .collect();
        if changes.iter().any(|(_, change)| *change == Change::Suspected) {
            self.correlate(now);
        }
        changes
    }

    /// When [`Federation::tick`] is due.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.watches.values().filter_map(|watch| watch.next_deadline(&self.config)).min()
    }

    /// What is known of one.
    #[must_use]
    pub(crate) fn get(&self, datacenter: &DatacenterId) -> Option<&Watch> {
        self.watches.get(datacenter)
    }

    /// All, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&DatacenterId, &Watch)> {
        self.watches.iter()
    }

    /// Whether the leader of a datacenter is silent, as [`Watch::is_leader_silent`].
    #[must_use]
    pub(crate) fn is_leader_silent(&self, now: Time, datacenter: &DatacenterId) -> bool {
        self.get(datacenter).is_none_or(|watch| watch.is_leader_silent(now, &self.config))
    }

    /// Whether this gate may act on the loss of a datacenter. If several failed together, the fault
    /// is rather in the network, and may pass. One gate's word is not enough in any case.
    #[must_use]
    pub(crate) fn may_evict(&self, now: Time, datacenter: &DatacenterId) -> bool {
        self.get(datacenter).is_some_and(|watch| match watch.state {
            State::Unreachable { since } if watch.together >= Correlation::Medium => {
                now >= since + self.config.eviction_delay
            }
            State::Unreachable { .. } => true,
            State::Unknown { .. } | State::Reachable { .. } | State::Suspected { .. } => false,
        })
    }

    /// All that failed within the time before now have failed together. A group is complete before
    /// its first datacenter can be evicted, since suspicion lasts at least as long.
    fn correlate(&mut self, now: Time) {
        let earliest = now.saturating_sub(self.config.correlated_within);
        let is_in = |watch: &Watch| watch.failed_at.is_some_and(|failed| failed >= earliest);
        let together = Correlation::of(self.watches.values().filter(|watch| is_in(watch)).count());
        for watch in self.watches.values_mut().filter(|watch| is_in(watch)) {
            watch.together = watch.together.max(together);
        }
    }
}

#[cfg(test)]
mod tests;
