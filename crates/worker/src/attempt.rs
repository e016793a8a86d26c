//! One attempt on this worker.
//!
//! ```text
//! Fetching ─► Preparing ─► Prepared ─► Running ─► Ended ─► (forgotten once all is acknowledged)
//!     └───────────┴────────────┴─────────────────►
//! ```

use std::time::Duration;

use hyperscale_model::{NodeId, Time};
use hyperscale_wire::{Assignment, AttemptEnd, AttemptSummary, StopMode};

use crate::outbox::Outbox;

/// For how long, at the pace of the last window, an attempt wants to hold unique rows. If it dies,
/// nobody knows which of them it sent; with fewer, its leader decides about rows more often, and a
/// slow decision stops its users.
const ROWS_AHEAD: Duration = Duration::from_secs(5);
/// How many rows users that wait ask for.
const ROWS_STEP_MIN: u64 = 8;
const ROWS_STEP_MAX: u64 = 1_000;

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
    /// Draws of unique rows that it had made by its last window.
    draws_made: u64,
    /// Up to which draw it would like to be leased rows.
    pub(crate) rows_wanted: u64,
    /// The first draw that finds no row, once the plan is known.
    pub(crate) rows_end: u64,
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
        let rows_wanted = assignment.rows.until;
        Self {
            assignment,
            cores,
            offered_by,
            phase,
            outbox,
            was_stopped_by_leader: false,
            start: None,
            draws_made: 0,
            rows_wanted,
            rows_end: 0,
        }
    }

    /// The job's time, once it has started.
    pub(crate) fn job_time(&self, now: Time) -> Option<Duration> {
        let (at, job) = self.start.filter(|(at, _)| now >= *at)?;
        Some(job + now.since(at))
    }

    /// Takes how many draws of unique rows it has made by the end of a window, and wants rows for
    /// a while at the pace of that window once half of them are used up. True if the leader should
    /// hear of it at once.
    pub(crate) fn on_drawn(&mut self, draws_made: u64) -> bool {
        let drawn = draws_made.saturating_sub(self.draws_made);
        self.draws_made = self.draws_made.max(draws_made);
        let window = self.assignment.window.as_nanos().max(1);
        let windows = u64::try_from(ROWS_AHEAD.as_nanos() / window).unwrap_or(u64::MAX).max(1);
        let ahead = drawn.saturating_mul(windows);
        let next = self.assignment.rows.from.saturating_add(self.draws_made);
        let is_short = self.assignment.rows.until < next.saturating_add(ahead / 2);
        is_short && self.want_rows(next.saturating_add(ahead))
    }

    /// Its users wait for rows: twice as many as it had so far may do.
    pub(crate) fn on_rows_wanted(&mut self) -> bool {
        let rows = &self.assignment.rows;
        let step = rows.until.saturating_sub(rows.from).clamp(ROWS_STEP_MIN, ROWS_STEP_MAX);
        self.want_rows(rows.until.saturating_add(step))
    }

    fn want_rows(&mut self, until: u64) -> bool {
        // What was asked for and has not come is repeated with each renewal.
        let is_asked = self.rows_wanted > self.assignment.rows.until;
        self.rows_wanted = self.rows_wanted.max(until.min(self.rows_end));
        !is_asked && self.rows_wanted > self.assignment.rows.until
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

    /// Returns how it ended, the first time that its end is acknowledged.
    pub(crate) fn on_end_acknowledged(&mut self) -> Option<AttemptEnd> {
        match &mut self.phase {
            Phase::Ended { summary, is_acknowledged, .. } => {
                let was_acknowledged = std::mem::replace(is_acknowledged, true);
                (!was_acknowledged).then(|| summary.end.clone())
            }
            Phase::Fetching | Phase::Preparing | Phase::Prepared | Phase::Running { .. } => None,
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
