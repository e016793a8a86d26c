//! Workflows that others wait for, where several datacenters each run a share of them.
//!
//! What waits for a workflow waits until that has ended in all datacenters, and gets what it has
//! published in any of them: so a job means the same in one datacenter and in five. How a workflow
//! ended in a datacenter is decided there and does not change; how it ended in all follows from that
//! alone. So whoever owns the job says the same to each, and nothing has to be remembered here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{EndStatus, JobId, PartId, WorkflowIndex};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Context, Plan, Publish, Split};
use hyperscale_wire::{PartReport, WorkflowState, end_publishing};

use crate::Gate;
use crate::state::PartEnd;

/// A workflow that has ended in all datacenters of its job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settled {
    pub(crate) workflow: WorkflowIndex,
    pub(crate) status: EndStatus,
    pub(crate) published: BTreeMap<String, Value>,
}

/// How a workflow ended in one datacenter.
#[derive(Debug)]
struct End<'a> {
    status: &'a EndStatus,
    at: Duration,
    published: Option<&'a BTreeMap<String, Value>>,
}

impl Gate {
    /// Whether the parts of a job have shares of the same load.
    pub(crate) fn is_shared(&self, job: JobId) -> bool {
        let (Some(state), Some(live)) = (self.state.jobs.get(&job), self.live.get(&job)) else {
            return false;
        };
        live.plan().run.split != Split::Each && state.parts_kept().count() > 1
    }

    /// What a part's datacenter has still to hear of workflows that have ended everywhere.
    pub(crate) fn settled(&self, part: PartId) -> Vec<Settled> {
        let job = part.job;
        let (Some(state), Some(live)) = (self.state.jobs.get(&job), self.live.get(&job)) else {
            return Vec::new();
        };
        let Some(report) = live.report(usize::from(part.part.0)) else { return Vec::new() };
        if !self.is_shared(job) {
            return Vec::new();
        }
        let parts: Vec<(Option<&PartReport>, Option<&PartEnd>)> =
            (state.parts_kept().map(|part| usize::from(part.0)))
                .map(|index| (live.report(index), state.parts[index].1.as_ref()))
                .collect();
        let is_unheard = |workflow: &WorkflowIndex| !report.settled.contains(workflow);
        let waited_for = waited_for(live.plan());
        let unheard = waited_for.into_iter().filter(is_unheard);
        unheard.filter_map(|workflow| settle(live.plan(), workflow, &parts)).collect()
    }
}

/// Workflows that others wait for.
fn waited_for(plan: &Plan) -> BTreeSet<WorkflowIndex> {
    plan.workflows.iter().flat_map(|workflow| workflow.after.workflows.iter().copied()).collect()
}

/// How a workflow ended in all datacenters together; `None` if it has not, or that is not known yet.
fn settle(
    plan: &Plan,
    workflow: WorkflowIndex,
    parts: &[(Option<&PartReport>, Option<&PartEnd>)],
) -> Option<Settled> {
    let ends: Vec<End<'_>> =
        parts.iter().map(|(report, end)| end_in(workflow, *report, *end)).collect::<Option<_>>()?;
    let is_skipped = |end: &&End<'_>| matches!(end.status, EndStatus::Skipped { .. });
    let mut status = EndStatus::combine(ends.iter().map(|end| end.status));
    if status == EndStatus::Completed
        && let Some(skipped) = ends.iter().find(is_skipped)
    {
        status = skipped.status.clone(); // Whoever waits for it is skipped, too.
    }
    let publish = plan.workflow(workflow)?.publish.iter();
    let published: BTreeMap<String, Value> = publish
        .filter_map(|publish| Some((publish.name.clone(), merge(publish, &ends)?)))
        .collect();
    let (status, published) = end_publishing(status, &Context::default(), published);
    Some(Settled { workflow, status, published })
}

fn end_in<'a>(
    workflow: WorkflowIndex,
    report: Option<&'a PartReport>,
    end: Option<&'a PartEnd>,
) -> Option<End<'a>> {
    let reported = report.and_then(|report| {
        let known = report.workflows.get(usize::from(workflow.0))?;
        let WorkflowState::Ended(status) = &known.state else { return None };
        let published = report.published.layers.get(&workflow);
        Some(End { status, at: known.ended.unwrap_or_default(), published })
    });
    // A part that is over without a word on this workflow: one that went well has still to say what
    // it published.
    let silent = end.filter(|end| end.status != EndStatus::Completed);
    let silent = silent.map(|end| End { status: &end.status, at: Duration::MAX, published: None });
    reported.or(silent)
}

/// What a workflow publishes under a name: the value of the datacenter where it ended last, or all
/// values of all of them.
fn merge(publish: &Publish, ends: &[End<'_>]) -> Option<Value> {
    let value = |end: &End<'_>| end.published.and_then(|layer| layer.get(&publish.name).cloned());
    let Some(limit) = publish.collect else {
        let mut in_order: Vec<&End<'_>> = ends.iter().collect();
        in_order.sort_by_key(|end| end.at);
        return in_order.into_iter().rev().find_map(value);
    };
    let values = ends.iter().filter_map(value).flat_map(|value| {
        let Value::List(items) = value else { return vec![value] };
        items.as_ref().clone()
    });
    let all: Vec<Value> = values.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    (!all.is_empty()).then(|| Value::List(Arc::new(all)))
}
