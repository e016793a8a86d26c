//! What a process counts, and how it tells of errors that nobody waits for.
//!
//! An error in the background must neither vanish nor fill a log: [`Observer::trouble`] counts each,
//! and says whether it is to be logged now. One line a minute and key is; it carries how many were
//! held back since the last.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyperscale_membership::{KeyPlace, MemberState};
use hyperscale_model::{OverloadState, Role, Time};

use crate::clock::Clock;

/// Between two lines about the same trouble.
const QUIET: Duration = Duration::from_secs(60);
/// Troubles that are told apart; beyond that the one told longest ago is forgotten.
const KEYS_MAX: usize = 1_000;

/// Where in a process an error came up: the label of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of parts")]
pub enum Part {
    Gate,
    Manager,
    Worker,
    Link,
    Web,
    Traces,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Gate, Self::Manager, Self::Worker, Self::Link, Self::Web, Self::Traces];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Manager => "manager",
            Self::Worker => "worker",
            Self::Link => "link",
            Self::Web => "web",
            Self::Traces => "traces",
        }
    }
}

/// A metric with all its label values.
struct Family {
    name: &'static str,
    help: &'static str,
    is_gauge: bool,
    label: &'static str,
}

macro_rules! counts {
    ($($family:literal $kind:ident $label:literal $help:literal { $($variant:ident = $value:literal,)* })*) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the table of metrics says what they are")]
        pub enum Count { $($($variant,)*)* }

        impl Count {
            const ALL: &[(Self, &'static str, &'static str)] =
                &[$($((Self::$variant, $family, $value),)*)*];
        }

        const FAMILIES: &[Family] = &[
            $(Family { name: $family, help: $help, is_gauge: counts!(@ $kind), label: $label },)*
        ];
    };
    (@ gauge) => { true };
    (@ counter) => { false };
}

counts! {
    "hyperscale_gate_jobs_accepted_total" counter "" "Jobs that were accepted." {
        JobAccepted = "",
    }
    "hyperscale_gate_jobs_refused_total" counter "" "Submissions that were refused." {
        JobRefused = "",
    }
    "hyperscale_gate_jobs_ended_total" counter "status" "Jobs that ended, by their status." {
        JobCompleted = "completed",
        JobFailed = "failed",
        JobCancelled = "cancelled",
        JobTimedOut = "timed_out",
    }
    "hyperscale_gate_gates_lost_total" counter "" "Gates that were found gone, by this one too." {
        GateLost = "",
    }
    "hyperscale_gate_jobs_taken_over_total" counter ""
        "Jobs of another gate, or of an earlier life, that this one owns now." {
        JobTakenOver = "",
    }
    "hyperscale_gate_datacenters_total" counter "change" "Datacenters that went silent." {
        DatacenterSuspected = "suspected",
        DatacenterLost = "lost",
    }
    "hyperscale_gate_parts_moved_total" counter ""
        "Parts that another datacenter got, since theirs did not accept them in time or had no cores for them soon." {
        PartMoved = "",
    }
    "hyperscale_members_total" counter "change" "What gossip said of other nodes." {
        MemberAlive = "alive",
        MemberSuspected = "suspected",
        MemberDead = "dead",
    }
    "hyperscale_members" gauge "state" "Other nodes, by how gossip has them at this moment." {
        MembersAlive = "alive",
        MembersSuspect = "suspect",
    }
    "hyperscale_datagrams_total" counter "fate" "Datagrams of gossip that did not get through." {
        DatagramRefused = "refused",
        DatagramUnknownKey = "unknown_key",
        DatagramDropped = "dropped",
    }
    "hyperscale_gossip_datagrams_opened_total" counter "key"
        "Datagrams of gossip that were heard, by which of this node's keys they were sealed with." {
        OpenedWithCurrent = "current",
        OpenedWithNext = "next",
        OpenedWithPrevious = "previous",
    }
    "hyperscale_gossip_key" gauge "key"
        "The ids of this node's gossip keys as numbers, 0 where it has none; `hyperscale cluster keys list` shows those of files." {
        KeyCurrent = "current",
        KeyNext = "next",
        KeyPrevious = "previous",
    }
    "hyperscale_gate_replies_unwanted_total" counter ""
        "Replies that came when the client had gone." {
        ReplyUnwanted = "",
    }
    "hyperscale_manager_parts_total" counter "outcome" "Parts of jobs, by what became of them." {
        PartAccepted = "accepted",
        PartRefused = "refused",
        PartEnded = "ended",
    }
    "hyperscale_manager_attempts_total" counter "outcome" "Attempts that were lost, and those that took their place." {
        AttemptReopened = "reopened",
        AttemptLost = "lost",
    }
    "hyperscale_manager_workers_joined_total" counter "" "Workers that joined." {
        WorkerJoined = "",
    }
    "hyperscale_manager_late_requests_total" counter ""
        "Requests in statistics that came after their attempt was closed." {
        LateRequests = "",
    }
    "hyperscale_worker_attempts_total" counter "outcome" "Attempts, by what became of them." {
        AttemptStarted = "started",
        AttemptRefused = "refused",
        AttemptEnded = "ended",
        AttemptForgotten = "forgotten",
    }
    "hyperscale_worker_leases_lost_total" counter ""
        "How often load stopped since no leader answered." {
        LeaseLost = "",
    }
    "hyperscale_node_leaderships_total" counter "change" "Leadership of a ledger, won and lost." {
        LeadershipGained = "gained",
        LeadershipLost = "lost",
    }
    "hyperscale_node_overloads_total" counter "" "How often this process was found slower than before." {
        Overloaded = "",
    }
    "hyperscale_node_stale_fences_total" counter ""
        "Messages of deposed senders that were refused." {
        StaleFence = "",
    }
    "hyperscale_link_peers_linked" gauge "role"
        "Links that are up, by the role at the other end; one within the process counts at both ends." {
        LinkedClients = "client",
        LinkedGates = "gate",
        LinkedManagers = "manager",
        LinkedWorkers = "worker",
    }
    "hyperscale_link_frames_dropped_total" counter "reason"
        "Frames that were not sent, or not heard; what matters is sent again." {
        DroppedNoLink = "no_link",
        DroppedOldLink = "old_link",
        DroppedSlow = "slow",
        DroppedSlowControl = "slow_control",
    }
    "hyperscale_traces_spans_total" counter "outcome"
        "Spans of traces, by what became of them: taken by the collector, refused by it, or given up." {
        SpanExported = "exported",
        SpanRefused = "refused",
        SpanDropped = "dropped",
    }
}

impl Count {
    pub(crate) const fn linked(role: Role) -> Self {
        match role {
            Role::Client => Self::LinkedClients,
            Role::Gate => Self::LinkedGates,
            Role::Manager => Self::LinkedManagers,
            Role::Worker => Self::LinkedWorkers,
        }
    }

    /// Members that stand so, if they are counted.
    pub(crate) const fn members(state: MemberState) -> Option<Self> {
        match state {
            MemberState::Alive => Some(Self::MembersAlive),
            MemberState::Suspect => Some(Self::MembersSuspect),
            MemberState::Unconfirmed | MemberState::Dead | MemberState::Left => None,
        }
    }

    /// A datagram that a key has opened.
    pub(crate) const fn opened(key: KeyPlace) -> Self {
        match key {
            KeyPlace::Current => Self::OpenedWithCurrent,
            KeyPlace::Next => Self::OpenedWithNext,
            KeyPlace::Previous => Self::OpenedWithPrevious,
        }
    }

    /// Which key that is.
    pub(crate) const fn key(key: KeyPlace) -> Self {
        match key {
            KeyPlace::Current => Self::KeyCurrent,
            KeyPlace::Next => Self::KeyNext,
            KeyPlace::Previous => Self::KeyPrevious,
        }
    }
}

/// Counts and troubles of one process.
#[derive(Debug)]
pub struct Observer {
    clock: Clock,
    counts: Vec<AtomicU64>,
    troubles: Vec<AtomicU64>,
    throttle: Mutex<Throttle>,
    /// An index into the states of overload.
    overload: AtomicU8,
}

impl Observer {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn start() -> Arc<Self> {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            clock: Clock::start(),
            counts: zeros(Count::ALL.len()),
            troubles: zeros(Part::ALL.len()),
            throttle: Mutex::new(Throttle::new(QUIET, KEYS_MAX)),
            overload: AtomicU8::new(0),
        })
    }

    /// The process's clock.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// How overloaded the process is, by its own last word.
    #[must_use]
    pub fn overload(&self) -> OverloadState {
        let place = usize::from(self.overload.load(Ordering::Relaxed));
        OverloadState::ALL.get(place).copied().unwrap_or_default()
    }

    /// Notes how overloaded the process is: for whoever watches it.
    pub fn set_overload(&self, state: OverloadState) {
        self.overload.store(state as u8, Ordering::Relaxed);
    }

    /// Counts one more.
    pub fn count(&self, what: Count) {
        self.add(what, 1);
    }

    /// Counts so many more.
    pub fn add(&self, what: Count, more: u64) {
        if let Some(count) = self.counts.get(what as usize) {
            count.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Says what a gauge shows from now on.
    pub(crate) fn set(&self, what: Count, value: u64) {
        if let Some(count) = self.counts.get(what as usize) {
            count.store(value, Ordering::Relaxed);
        }
    }

    /// Takes back one of a gauge.
    pub(crate) fn less(&self, what: Count) {
        if let Some(count) = self.counts.get(what as usize) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts an error that nobody waits for. If it is to be logged now: how many of the same key
    /// were held back since the last line.
    #[must_use = "the line is for the caller to write, with its fields"]
    pub fn trouble(&self, part: Part, what: &'static str, whom: impl Display) -> Option<u64> {
        if let Some(count) = self.troubles.get(part as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.note(self.clock.now(), (part, what, whom.to_string()))
    }

    /// All counts in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let of = |count: Option<&AtomicU64>| count.map_or(0, |c| c.load(Ordering::Relaxed));
        for family in FAMILIES {
            family_head(&mut text, family.name, family.help, family.is_gauge);
            for &(count, name, value) in Count::ALL {
                if name == family.name {
                    let labels: &[(&str, &str)] = &[(family.label, value)];
                    let labels = if family.label.is_empty() { &[] } else { labels };
                    sample(&mut text, name, labels, of(self.counts.get(count as usize)));
                }
            }
        }
        let name = "hyperscale_node_background_errors_total";
        family_head(&mut text, name, "Errors that nobody waited for, by part.", false);
        for part in Part::ALL {
            let count = of(self.troubles.get(part as usize));
            sample(&mut text, name, &[("part", part.as_str())], count);
        }
        let name = "hyperscale_node_overload";
        let help = "How slow this process is: 0 healthy, 1 busy, 2 stressed, 3 overloaded.";
        family_head(&mut text, name, help, true);
        sample(&mut text, name, &[], self.overload() as u64);
        text
    }
}

/// Writes what stands before the samples of a metric, in Prometheus' text format.
pub fn family_head(text: &mut String, name: &str, help: &str, is_gauge: bool) {
    let kind = if is_gauge { "gauge" } else { "counter" };
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// Writes a sample of a metric. Label values come from closed sets and need no escapes.
pub fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    text.push_str(name);
    for (at, (label, value)) in labels.iter().enumerate() {
        let before = if at == 0 { '{' } else { ',' };
        text.push(before);
        text.push_str(&format!("{label}=\"{value}\""));
    }
    let after = if labels.is_empty() { "" } else { "}" };
    text.push_str(&format!("{after} {value}\n"));
}

type Key = (Part, &'static str, String);

/// Which troubles are told now, and which are only counted.
#[derive(Debug)]
struct Throttle {
    quiet: Duration,
    keys_max: usize,
    told: BTreeMap<Key, Told>,
}

#[derive(Debug)]
struct Told {
    at: Time,
    held_back: u64,
}

impl Throttle {
    fn new(quiet: Duration, keys_max: usize) -> Self {
        Self { quiet, keys_max, told: BTreeMap::new() }
    }

    fn note(&mut self, now: Time, key: Key) -> Option<u64> {
        if let Some(told) = self.told.get_mut(&key) {
            if now < told.at + self.quiet {
                told.held_back += 1;
                return None;
            }
            told.at = now;
            return Some(std::mem::take(&mut told.held_back));
        }
        if self.told.len() >= self.keys_max {
            let oldest =
                self.told.iter().min_by_key(|(_, told)| told.at).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.told.remove(&oldest);
            }
        }
        self.told.insert(key, Told { at: now, held_back: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(whom: &str) -> Key {
        (Part::Link, "no link", whom.to_owned())
    }

    #[test]
    fn err_01_a_trouble_is_told_once_a_minute_with_what_was_held_back() {
        let mut throttle = Throttle::new(Duration::from_secs(60), 10);
        let mut told = Vec::new();

        for second in 0..=120 {
            if let Some(held_back) = throttle.note(Time::from_millis(second * 1_000), key("a")) {
                told.push((second, held_back));
            }
        }

        assert_eq!(told, [(0, 0), (60, 59), (120, 59)]);
    }

    #[test]
    fn err_01_troubles_of_different_keys_are_told_apart_within_a_bound() {
        let mut throttle = Throttle::new(Duration::from_secs(60), 2);

        assert_eq!(throttle.note(Time::from_millis(1), key("a")), Some(0));
        assert_eq!(throttle.note(Time::from_millis(2), key("b")), Some(0));
        assert_eq!(throttle.note(Time::from_millis(3), key("c")), Some(0));

        assert_eq!(throttle.told.len(), 2);
        assert_eq!(throttle.note(Time::from_millis(4), key("b")), None, "the newest are kept");
    }

    #[test]
    fn met_01_every_count_is_shown_once_with_its_name_by_the_rules() {
        let observer = Observer::start();
        observer.add(Count::LateRequests, 7);
        observer.count(Count::LinkedWorkers);
        assert_eq!(observer.trouble(Part::Web, "a test", "nobody"), Some(0));

        let text = observer.text();

        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), Count::ALL.len() + Part::ALL.len() + 1);
        assert!(text.contains("\nhyperscale_manager_late_requests_total 7\n"), "{text}");
        assert!(text.contains("\nhyperscale_link_peers_linked{role=\"worker\"} 1\n"), "{text}");
        assert!(text.contains("background_errors_total{part=\"web\"} 1\n"), "{text}");
        for family in FAMILIES {
            assert_eq!(family.name.ends_with("_total"), !family.is_gauge, "{}", family.name);
            assert!(family.name.starts_with("hyperscale_"), "{}", family.name);
        }
    }

    #[test]
    fn counts_stand_in_the_order_of_their_table() {
        for (at, (count, _, _)) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, at);
        }
        for (at, part) in Part::ALL.iter().enumerate() {
            assert_eq!(*part as usize, at);
        }
    }
}
