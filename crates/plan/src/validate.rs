//! The invariants of plans, checked on whatever comes from elsewhere.

use std::time::Duration;

use crate::Plan;
use crate::expr::{EXPR_DEPTH_MAX, Expr, Value, Var};
use crate::ir::{Action, Pause, Workflow};
use crate::load::Load;
use crate::units::DURATION_MAX;
use crate::walk;

/// Most workflows in a plan.
const WORKFLOWS_MAX: usize = 256;
/// Most steps in a plan.
const STEPS_MAX: usize = 2_048;
/// Most users of one workflow.
const VUS_MAX: u32 = 10_000_000;

impl Plan {
    /// Whether all references and limits hold, else what is wrong.
    ///
    /// # Errors
    ///
    /// The first broken rule, in words.
    pub fn validate(&self) -> Result<(), String> {
        if self.workflows.is_empty() {
            return Err("it has no workflow".to_owned());
        }
        if self.workflows.len() > WORKFLOWS_MAX || self.steps.len() > STEPS_MAX {
            return Err(format!("more than {WORKFLOWS_MAX} workflows or {STEPS_MAX} steps"));
        }
        if !are_bounded(settings_of(self)) {
            return Err("a time in its settings is longer than 365 days".to_owned());
        }
        for workflow in &self.workflows {
            let name = &workflow.name;
            if !are_bounded(times_of(workflow)) {
                return Err(format!("workflow `{name}` has a time longer than 365 days"));
            }
            if let Some(missing) =
                workflow.after.workflows.iter().find(|index| self.workflow(**index).is_none())
            {
                return Err(format!("workflow `{name}` waits for number {missing}, which is none"));
            }
            if workflow.load.vus_max() == 0 || workflow.load.vus_max() > VUS_MAX {
                return Err(format!("workflow `{name}` has no users or more than {VUS_MAX}"));
            }
            if !is_sane(&workflow.load) {
                return Err(format!("workflow `{name}` has a rate that is no positive number"));
            }
            if !is_whole(self, workflow) {
                return Err(format!("workflow `{name}` refers to what is not there"));
            }
        }
        match self.start_order() {
            Some(_) => Ok(()),
            None => Err("its workflows wait for each other in a circle".to_owned()),
        }
    }

    /// Indices of the workflows, each after all that it waits for; `None` if there is a circle.
    #[must_use]
    pub fn start_order(&self) -> Option<Vec<usize>> {
        let mut order: Vec<usize> = Vec::with_capacity(self.workflows.len());
        let mut placed = vec![false; self.workflows.len()];
        while order.len() < self.workflows.len() {
            let before = order.len();
            for (index, workflow) in self.workflows.iter().enumerate() {
                let is_ready = workflow
                    .after
                    .workflows
                    .iter()
                    .all(|needed| placed.get(usize::from(needed.0)).copied().unwrap_or(false));
                if !placed[index] && is_ready {
                    placed[index] = true;
                    order.push(index);
                }
            }
            if order.len() == before {
                return None;
            }
        }
        Some(order)
    }
}

/// Whether the parts of a workflow refer to what the plan has.
///
/// Steps need no limit of their depth here: what was read from bytes is as deep as the reader of
/// JSON allows.
fn is_whole(plan: &Plan, workflow: &Workflow) -> bool {
    let locals = workflow.locals.len();
    let mut is_whole = workflow.publish.iter().all(|publish| publish.local.get() < locals);
    walk::roots(workflow, &mut |expr| is_whole &= expr.is_shallow(EXPR_DEPTH_MAX));
    if !is_whole {
        return false;
    }
    walk::expressions(workflow, &mut |expr| {
        is_whole &= match expr {
            Expr::Var(Var::Secret(at)) => usize::from(*at) < plan.secrets.len(),
            Expr::Var(Var::Row(at)) => at.get() < plan.data.len(),
            Expr::Var(Var::Local(at)) => at.get() < locals,
            Expr::Var(Var::Published(workflow, _)) => plan.workflow(*workflow).is_some(),
            Expr::Call(function, args) => args.len() == function.arity(),
            Expr::Literal(Value::Float(number)) => number.is_finite(),
            _ => true,
        };
    });
    walk::steps(workflow, &mut |step| {
        is_whole &= match &step.action {
            Action::Request(request) => {
                request.step.get() < plan.steps.len()
                    && request.checks.iter().all(|check| check.check.get() < plan.checks.len())
                    && request.captures.iter().all(|capture| capture.local.get() < locals)
            }
            Action::Set { local, .. } => local.get() < locals,
            Action::Record { metric, .. } => metric.get() < plan.metrics.len(),
            _ => true,
        };
    });
    is_whole
}

/// Whether times may be added without an overflow: their limit is that of test files, and there are
/// at most as many as fit into a plan.
fn are_bounded(mut times: impl Iterator<Item = Duration>) -> bool {
    times.all(|time| time <= DURATION_MAX)
}

fn settings_of(plan: &Plan) -> impl Iterator<Item = Duration> {
    let http = &plan.http;
    let always = [plan.run.deadline, http.connect_timeout, http.tls_timeout];
    let maybe = [
        http.max_age,
        http.idle,
        http.first_byte_timeout,
        http.dns.ttl,
        plan.run.max_latency,
        plan.run.best_effort.map(|effort| effort.deadline),
    ];
    let thresholds = plan.thresholds.iter().flat_map(|threshold| {
        let during = threshold.during.unwrap_or_default();
        [threshold.after, threshold.for_at_least, during.0, during.1]
    });
    always.into_iter().chain(maybe.into_iter().flatten()).chain(thresholds)
}

fn times_of(workflow: &Workflow) -> impl Iterator<Item = Duration> {
    let mut times = vec![workflow.start_after, workflow.graceful_stop];
    match &workflow.load {
        Load::ConstantVus { duration, .. }
        | Load::ConstantArrivalRate { duration, .. }
        | Load::ExternallyControlled { duration, .. } => times.push(*duration),
        Load::PerVuIterations { max_duration, .. }
        | Load::SharedIterations { max_duration, .. }
        | Load::Once { max_duration } => times.push(*max_duration),
        Load::RampingVus { stages, graceful_ramp_down, .. } => {
            times.push(*graceful_ramp_down);
            times.extend(stages.iter().map(|stage| stage.over));
        }
        Load::RampingArrivalRate { stages, .. } => {
            times.extend(stages.iter().map(|stage| stage.over));
        }
    }
    walk::steps(workflow, &mut |step| match &step.action {
        Action::Request(request) => {
            times.push(request.timeout);
            times.extend(request.retry.as_ref().map(|retry| retry.backoff));
        }
        Action::Pause(Pause::Constant(time) | Pause::Exponential { mean: time }) => {
            times.push(*time);
        }
        Action::Pause(Pause::Uniform { min: a, max: b } | Pause::Normal { mean: a, sd: b }) => {
            times.extend([*a, *b]);
        }
        Action::Log(_)
        | Action::Set { .. }
        | Action::Group(_)
        | Action::Repeat { .. }
        | Action::While { .. }
        | Action::If { .. }
        | Action::Choose(_)
        | Action::Parallel(_)
        | Action::Stop(_)
        | Action::Record { .. } => {}
    });
    times.into_iter()
}

fn is_sane(load: &Load) -> bool {
    let is_rate = |rate: f64| rate.is_finite() && (0.0..=1e9).contains(&rate);
    match load {
        Load::ConstantArrivalRate { rate, .. } => is_rate(*rate) && *rate > 0.0,
        Load::RampingArrivalRate { start_rate, stages, .. } => {
            is_rate(*start_rate) && stages.iter().all(|stage| is_rate(stage.to))
        }
        Load::ConstantVus { .. }
        | Load::RampingVus { .. }
        | Load::PerVuIterations { .. }
        | Load::SharedIterations { .. }
        | Load::ExternallyControlled { .. }
        | Load::Once { .. } => true,
    }
}
