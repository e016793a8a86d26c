//! Every expression of a plan's parts, for those who check or count what they name.

use std::collections::BTreeSet;

use crate::expr::{Expr, Var};
use crate::ir::{Action, Auth, Body, DataIndex, JsonTemplate, RequestStep, Step, Workflow};

/// Looks at every step of a workflow, inner ones after those around them.
pub(crate) fn steps<'p>(workflow: &'p Workflow, look: &mut impl FnMut(&'p Step)) {
    fn below<'p>(steps: &'p [Step], look: &mut impl FnMut(&'p Step)) {
        for step in steps {
            look(step);
            match &step.action {
                Action::Group(steps)
                | Action::Parallel(steps)
                | Action::Repeat { steps, .. }
                | Action::While { steps, .. } => below(steps, look),
                Action::If { then, otherwise, .. } => {
                    below(then, look);
                    below(otherwise, look);
                }
                Action::Choose(choices) => {
                    choices.iter().for_each(|choice| below(&choice.steps, look));
                }
                Action::Request(_)
                | Action::Pause(_)
                | Action::Log(_)
                | Action::Set { .. }
                | Action::Stop(_)
                | Action::Record { .. } => {}
            }
        }
    }
    let Workflow { steps, vu_setup, vu_teardown, finally, .. } = workflow;
    for steps in [steps, vu_setup, vu_teardown, finally] {
        below(steps, look);
    }
}

/// Looks at every expression of a workflow and at every part of it.
pub(crate) fn expressions(workflow: &Workflow, look: &mut impl FnMut(&Expr)) {
    roots(workflow, &mut |expr| of_expr(expr, look));
}

impl Workflow {
    /// The data sources whose rows it reads.
    #[must_use]
    pub fn data(&self) -> BTreeSet<DataIndex> {
        let mut read = BTreeSet::new();
        expressions(self, &mut |expr| {
            if let Expr::Var(Var::Row(source)) = expr {
                read.insert(*source);
            }
        });
        read
    }
}

/// Looks at every whole expression of a workflow.
pub(crate) fn roots(workflow: &Workflow, look: &mut impl FnMut(&Expr)) {
    steps(workflow, &mut |step| {
        step.when.iter().for_each(&mut *look);
        match &step.action {
            Action::Request(request) => of_request(request, look),
            Action::Log(template) => template.holes().for_each(&mut *look),
            Action::Set { local: _, value: expr }
            | Action::Record { metric: _, value: expr }
            | Action::Repeat { times: expr, .. }
            | Action::While { condition: expr, .. }
            | Action::If { condition: expr, .. } => look(expr),
            Action::Pause(_)
            | Action::Stop(_)
            | Action::Group(_)
            | Action::Parallel(_)
            | Action::Choose(_) => {}
        }
    });
}

fn of_request(request: &RequestStep, look: &mut impl FnMut(&Expr)) {
    request.url.holes().for_each(&mut *look);
    for (_, template) in request.headers.iter().chain(&request.query) {
        template.holes().for_each(&mut *look);
    }
    match &request.body {
        Body::Empty | Body::Bytes(_) | Body::File(_) => {}
        Body::Json(json) => of_json(json, look),
        Body::Form(fields) => {
            fields.iter().for_each(|(_, template)| template.holes().for_each(&mut *look))
        }
        Body::Text(template) => template.holes().for_each(&mut *look),
    }
    match &request.auth {
        None => {}
        Some(Auth::Basic { user, password }) => {
            user.holes().for_each(&mut *look);
            password.holes().for_each(&mut *look);
        }
        Some(Auth::Bearer(token)) => token.holes().for_each(&mut *look),
    }
    request.checks.iter().for_each(|check| look(&check.condition));
}

fn of_json(json: &JsonTemplate, look: &mut impl FnMut(&Expr)) {
    match json {
        JsonTemplate::Constant(_) => {}
        JsonTemplate::Text(template) => template.holes().for_each(&mut *look),
        JsonTemplate::Hole(expr) => look(expr),
        JsonTemplate::List(items) => items.iter().for_each(|item| of_json(item, look)),
        JsonTemplate::Object(entries) => {
            entries.iter().for_each(|(_, value)| of_json(value, look));
        }
    }
}

fn of_expr(expr: &Expr, look: &mut impl FnMut(&Expr)) {
    look(expr);
    expr.children().into_iter().for_each(|child| of_expr(child, look));
}
