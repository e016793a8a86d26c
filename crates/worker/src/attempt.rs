//! One attempt on this worker.
//!
//! ```text
//! Fetching ─► Preparing ─► Prepared ─► Running ─► Ended ─► (forgotten once all is acknowledged)
//!     └───────────┴────────────┴─────────────────►
//! ```

use std::time::Duration;

use hyperscale_model::{NodeId, Time};
use hyperscale_wire::{Assignment, AttemptSummary, StopMode};

use crate::outbox::Outbox;

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) assignment: Assignment,
    pub(crate) cores: Vec<u32>,
    pub(crate) offered_by: NodeId,
    pub(crate) phase: Phase,
    pub(crate) outbox: Outbox,
    pub(crate) was_stopped_by_leader: bool,
    /// When it starts, by this worker's clock, and the job's time then.
    pub(crate) start: Option<(Time, Duration)>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Phase {
    /// Its plan or data are on their way.
    Fetching,
    /// The engine makes ready.
    Preparing,
    /// It waits for its start.
    Prepared,
    /// The engine runs it.
    Running { stopping: Option<StopMode> },
    /// It is over; deltas or its end may still have to be told.
    Ended { summary: AttemptSummary, told: Option<Time>, is_acknowledged: bool },
}

impl Attempt {
    pub(crate) fn new(assignment: Assignment, cores: Vec<u32>, offered_by: NodeId) -> Self {
        let phase = Phase::Fetching;
        let outbox = Outbox::default();
        let (was_stopped_by_leader, start) = (false, None);
        Self { assignment, cores, offered_by, phase, outbox, was_stopped_by_leader, start }
    }

    /// The job's time, once it has started.
    pub(crate) fn job_time(&self, now: Time) -> Option<Duration> {
        let (at, job) = self.start.filter(|(at, _)| now >= *at)?;
        Some(job + now.since(at))
    }

    pub(crate) fn held_cores(&self) -> u32 {
        match self.phase {
            Phase::Fetching | Phase::Preparing | Phase::Prepared | Phase::Running { .. } => {
                self.assignment.cores
            }
            Phase::Ended { .. } => 0,
        }
    }

    /// Another leader, or a new link: what was sent may not have arrived.
    pub(crate) fn resend_all(&mut self) {
        self.outbox.resend_all();
        if let Phase::Ended { told, .. } = &mut self.phase {
            *told = None;
        }
    }

    pub(crate) fn on_end_acknowledged(&mut self) {
        if let Phase::Ended { is_acknowledged, .. } = &mut self.phase {
            *is_acknowledged = true;
        }
    }

    /// Whether nobody needs to hear anything more of it.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self.phase, Phase::Ended { is_acknowledged: true, .. }) && self.outbox.is_empty()
    }

    pub(crate) fn next_resend(&self, resend: Duration) -> Option<Time> {
        let end = match &self.phase {
            Phase::Ended { told, is_acknowledged: false, .. } => {
                Some(told.map_or(Time::ZERO, |told| told + resend))
            }
            Phase::Ended { .. }
            | Phase::Fetching
            | Phase::Preparing
            | Phase::Prepared
            | Phase::Running { .. } => None,
        };
        [end, self.outbox.next_resend(resend)].into_iter().flatten().min()
    }
}
