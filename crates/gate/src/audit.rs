//! The decisions of gates as an audit trail has them.

use hyperscale_model::{Decision, JobId};

use crate::state::Entry;

/// An entry that took effect.
pub(crate) fn decision(index: u64, entry: &Entry) -> Decision {
    let new = |what: &str| Decision::new(index, what);
    let of = |what: &str, job: &JobId| Decision { job: Some(*job), ..new(what) };
    match entry {
        Entry::SessionOpened { gate, .. } => {
            Decision { node: Some(*gate), ..new("gate_takes_part") }
        }
        Entry::SessionEnded { gate, has_left, .. } => {
            let what = if *has_left { "gate_left" } else { "gate_gone" };
            Decision { node: Some(*gate), ..new(what) }
        }
        Entry::JobAccepted { job, key, name, parts, .. } => {
            let places: Vec<&str> = parts.iter().map(|part| part.datacenter.as_str()).collect();
            let detail = format!("{name} for {}", places.join(", "));
            Decision { by: Some(key.client.to_string()), detail, ..of("job_accepted", job) }
        }
        Entry::StartAsked { job, .. } => of("job_start_asked", job),
        Entry::PartMoved { job, part, to, returned, .. } => {
            let why = if returned.is_some() { ", given back" } else { "" };
            let detail = format!("part {} to {to}{why}", part.0);
            Decision { detail, ..of("part_moved", job) }
        }
        Entry::JobStarted { job, .. } => of("job_started", job),
        Entry::CancelAsked { job, by, mode } => {
            let detail = format!("{mode:?}").to_lowercase();
            Decision { by: Some(by.clone()), detail, ..of("cancel_asked", job) }
        }
        Entry::WorkflowCancelAsked { job, workflow, by } => {
            let detail = format!("workflow number {}", workflow.0);
            Decision { by: Some(by.clone()), detail, ..of("workflow_cancel_asked", job) }
        }
        Entry::Steered { job, steer, .. } => {
            let pause = steer.pause.map(|pause| if pause { "pause" } else { "resume" }.to_owned());
            let amounts = steer.amounts.iter();
            let amounts =
                amounts.map(|(index, amount)| format!("workflow {} to {amount}", index.0));
            let all: Vec<String> = pause.into_iter().chain(amounts).collect();
            let by = Some(steer.by.clone());
            Decision { by, detail: all.join(", "), ..of("job_steered", job) }
        }
        Entry::ThresholdBroken { job, expression, .. } => {
            Decision { detail: expression.clone(), ..of("threshold_broken", job) }
        }
        Entry::LimitReached { job, .. } => of("limit_reached", job),
        Entry::PartEnded { job, part, end, .. } => {
            let missing = if end.is_missing { ", never reported" } else { "" };
            let detail = format!("part {}: {}{missing}", part.0, end.status.as_str());
            Decision { detail, ..of("part_ended", job) }
        }
        Entry::JobEnded { job, status, .. } => {
            Decision { detail: status.as_str().to_owned(), ..of("job_ended", job) }
        }
        Entry::JobForgotten { job } => of("job_forgotten", job),
        // It takes no effect.
        Entry::JobSought { job } => of("job_sought", job),
        Entry::NodeRemoved { node, by, .. } => {
            Decision { node: Some(*node), by: Some(by.clone()), ..new("node_removed") }
        }
    }
}
