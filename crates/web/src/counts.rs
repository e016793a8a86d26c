//! What the API counts.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use hyperscale_gate::JobView;
use hyperscale_model::{EndStatus, JobState};
use hyperscale_node::{family_head, sample};

use crate::operations::{OPERATIONS, Operation};

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What the API counts beside what its process does.
#[derive(Debug)]
pub(crate) struct Counts {
    /// By operation, the last for requests of none, and class of status.
    answers: Vec<[AtomicU64; CLASSES.len()]>,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) rate_limited: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) events_dropped: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            answers: (0..=OPERATIONS.len()).map(|_| Default::default()).collect(),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            rate_limited: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            events_dropped: AtomicU64::new(0),
        }
    }
}

impl Counts {
    /// Counts an answer to a request for an operation, or for none.
    pub(crate) fn answered(&self, operation: Option<&Operation>, status: StatusCode) {
        let place = operation
            .and_then(|wanted| OPERATIONS.iter().position(|known| known.id == wanted.id))
            .unwrap_or(OPERATIONS.len());
        let class = usize::from(status.as_u16() / 100).saturating_sub(2).min(CLASSES.len() - 1);
        if let Some(count) = self.answers.get(place).and_then(|classes| classes.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counts in Prometheus' text format, with the jobs if the gate told them.
    pub(crate) fn text(&self, jobs: Option<&[JobView]>) -> String {
        let mut text = String::new();
        let name = "hyperscale_web_requests_total";
        family_head(&mut text, name, "Answers of the API, by operation and status.", false);
        let ids = OPERATIONS.iter().map(|operation| operation.id).chain(["none"]);
        for (id, classes) in ids.zip(&self.answers) {
            for (class, count) in CLASSES.iter().zip(classes) {
                let labels = [("operation", id), ("status", class)];
                sample(&mut text, name, &labels, count.load(Ordering::Relaxed));
            }
        }
        let plain = [
            ("hyperscale_web_open_connections", "Connections of clients.", &self.connections),
            (
                "hyperscale_web_connections_refused_total",
                "Connections that were refused since there were too many.",
                &self.connections_refused,
            ),
            (
                "hyperscale_web_rate_limited_total",
                "Requests that came too fast.",
                &self.rate_limited,
            ),
            (
                "hyperscale_web_shed_total",
                "Requests that were refused since the gate had too much to do.",
                &self.shed,
            ),
            (
                "hyperscale_web_events_dropped_total",
                "Events of jobs that a client was too slow to see.",
                &self.events_dropped,
            ),
        ];
        for (name, help, count) in plain {
            family_head(&mut text, name, help, !name.ends_with("_total"));
            sample(&mut text, name, &[], count.load(Ordering::Relaxed));
        }
        if let Some(jobs) = jobs {
            of_jobs(&mut text, jobs);
        }
        text
    }
}

fn of_jobs(text: &mut String, jobs: &[JobView]) {
    let status = |job: &JobView| match &job.state {
        JobState::Accepted => "accepted",
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Stopping { .. } => "stopping",
        // No job is skipped.
        JobState::Ended(EndStatus::Completed | EndStatus::Skipped { .. }) => "completed",
        JobState::Ended(EndStatus::Failed { .. }) => "failed",
        JobState::Ended(EndStatus::Cancelled { .. }) => "cancelled",
        JobState::Ended(EndStatus::TimedOut) => "timed_out",
    };
    let count = |wanted: &str| jobs.iter().filter(|job| status(job) == wanted).count() as u64;
    let all = [
        "accepted",
        "queued",
        "running",
        "stopping",
        "completed",
        "failed",
        "cancelled",
        "timed_out",
    ];
    let name = "hyperscale_gate_known_jobs";
    family_head(text, name, "Jobs at hand, by status: those that live or ended lately.", true);
    for wanted in all {
        sample(text, name, &[("status", wanted)], count(wanted));
    }
    let name = "hyperscale_gate_live_jobs";
    family_head(text, name, "Jobs that have not ended.", true);
    sample(text, name, &[], all[..4].iter().map(|wanted| count(wanted)).sum());
}
