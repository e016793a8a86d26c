//! The invariants of plans, checked on whatever comes from elsewhere.

use crate::Plan;
use crate::expr::{Expr, Piece, Template, Var};
use crate::ir::{Action, Auth, Body, JsonTemplate, RequestStep, Step, Workflow};
use crate::load::Load;

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
        for workflow in &self.workflows {
            let name = &workflow.name;
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
            let within = Within { plan: self, workflow };
            let all =
                [&workflow.steps, &workflow.vu_setup, &workflow.vu_teardown, &workflow.finally];
            if !all.into_iter().all(|steps| within.steps(steps)) {
                return Err(format!(
                    "workflow `{name}` has a step that refers to what is not there"
                ));
            }
            if !workflow.publish.iter().all(|p| p.local.get() < workflow.locals.len()) {
                return Err(format!("workflow `{name}` publishes what is not there"));
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
/// Nesting needs no limit here: what was read from bytes is as deep as the reader of JSON allows.
#[derive(Clone, Copy)]
struct Within<'p> {
    plan: &'p Plan,
    workflow: &'p Workflow,
}

impl Within<'_> {
    fn steps(self, steps: &[Step]) -> bool {
        steps.iter().all(|step| {
            step.when.as_ref().is_none_or(|when| self.expr(when)) && self.action(&step.action)
        })
    }

    fn action(self, action: &Action) -> bool {
        match action {
            Action::Request(request) => self.request(request),
            Action::Pause(_) | Action::Stop(_) => true,
            Action::Log(template) => self.template(template),
            Action::Set { local, value } => {
                local.get() < self.workflow.locals.len() && self.expr(value)
            }
            Action::Group(steps) | Action::Parallel(steps) => self.steps(steps),
            Action::Repeat { times, steps } => self.expr(times) && self.steps(steps),
            Action::While { condition, max: _, steps } => self.expr(condition) && self.steps(steps),
            Action::If { condition, then, otherwise } => {
                self.expr(condition) && self.steps(then) && self.steps(otherwise)
            }
            Action::Choose(choices) => choices.iter().all(|choice| self.steps(&choice.steps)),
            Action::Record { metric, value } => {
                metric.get() < self.plan.metrics.len() && self.expr(value)
            }
        }
    }

    fn request(self, request: &RequestStep) -> bool {
        let body = match &request.body {
            Body::Empty | Body::Bytes(_) | Body::File(_) => true,
            Body::Json(json) => self.json(json),
            Body::Form(fields) => fields.iter().all(|(_, template)| self.template(template)),
            Body::Text(template) => self.template(template),
        };
        let auth = match &request.auth {
            None => true,
            Some(Auth::Basic { user, password }) => self.template(user) && self.template(password),
            Some(Auth::Bearer(token)) => self.template(token),
        };
        body && auth
            && request.step.get() < self.plan.steps.len()
            && self.template(&request.url)
            && request.headers.iter().chain(&request.query).all(|(_, t)| self.template(t))
            && (request.checks.iter()).all(|check| {
                check.check.get() < self.plan.checks.len() && self.expr(&check.condition)
            })
            && (request.captures.iter())
                .all(|capture| capture.local.get() < self.workflow.locals.len())
    }

    fn json(self, json: &JsonTemplate) -> bool {
        match json {
            JsonTemplate::Constant(_) => true,
            JsonTemplate::Text(template) => self.template(template),
            JsonTemplate::Hole(expr) => self.expr(expr),
            JsonTemplate::List(items) => items.iter().all(|item| self.json(item)),
            JsonTemplate::Object(entries) => entries.iter().all(|(_, value)| self.json(value)),
        }
    }

    fn template(self, template: &Template) -> bool {
        template.0.iter().all(|piece| match piece {
            Piece::Text(_) => true,
            Piece::Hole(expr) => self.expr(expr),
        })
    }

    fn expr(self, expr: &Expr) -> bool {
        expr.is_sound() && self.names(expr)
    }

    fn names(self, expr: &Expr) -> bool {
        let is_there = match expr {
            Expr::Var(Var::Secret(at)) => usize::from(*at) < self.plan.secrets.len(),
            Expr::Var(Var::Row(at)) => at.get() < self.plan.data.len(),
            Expr::Var(Var::Local(at)) => at.get() < self.workflow.locals.len(),
            Expr::Var(Var::Published(workflow, _)) => self.plan.workflow(*workflow).is_some(),
            _ => true,
        };
        is_there && expr.children().into_iter().all(|child| self.names(child))
    }
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
