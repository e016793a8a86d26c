//! A workflow's steps as a core runs them: requests are bytes already.

use hyperscale_plan::expr::{Expr, Value};
use hyperscale_plan::{Action, Pause, Step, StopScope, Workflow};

use crate::request::Ready;

/// A workflow, ready to be run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) setup: Vec<Op>,
    pub(crate) steps: Vec<Op>,
    pub(crate) teardown: Vec<Op>,
    pub(crate) finally: Vec<Op>,
}

/// A step, ready to be run.
#[derive(Debug)]
pub(crate) enum Op {
    Request(Box<Ready>),
    Pause(Pause),
    Group(Vec<Op>),
    Repeat { times: u64, ops: Vec<Op> },
    Choose { total: u64, choices: Vec<(u64, Vec<Op>)> },
    Stop(StopScope),
}

impl Program {
    pub(crate) fn new(workflow: &Workflow) -> Result<Self, String> {
        let all = |steps: &[Step]| steps.iter().map(Op::new).collect::<Result<Vec<_>, _>>();
        if !workflow.publish.is_empty() {
            return Err("this engine publishes no values".to_owned());
        }
        Ok(Self {
            setup: all(&workflow.vu_setup)?,
            steps: all(&workflow.steps)?,
            teardown: all(&workflow.vu_teardown)?,
            finally: all(&workflow.finally)?,
        })
    }
}

impl Op {
    fn new(step: &Step) -> Result<Self, String> {
        let all = |steps: &[Step]| steps.iter().map(Self::new).collect::<Result<Vec<_>, _>>();
        if step.when.is_some() {
            return Err("this engine runs no conditions".to_owned());
        }
        Ok(match &step.action {
            Action::Request(request) => Self::Request(Box::new(Ready::new(request)?)),
            Action::Pause(pause) => Self::Pause(*pause),
            Action::Group(steps) => Self::Group(all(steps)?),
            Action::Repeat { times: Expr::Literal(Value::Int(times)), steps } => {
                Self::Repeat { times: u64::try_from(*times).unwrap_or(0), ops: all(steps)? }
            }
            Action::Choose(choices) => {
                let choices = (choices.iter())
                    .map(|choice| Ok((u64::from(choice.weight), all(&choice.steps)?)))
                    .collect::<Result<Vec<_>, String>>()?;
                let total = choices.iter().map(|(weight, _)| weight).sum();
                Self::Choose { total, choices }
            }
            Action::Stop(scope) => Self::Stop(*scope),
            Action::Log(_)
            | Action::Set { .. }
            | Action::Repeat { .. }
            | Action::While { .. }
            | Action::If { .. }
            | Action::Parallel(_)
            | Action::Record { .. } => {
                return Err("this engine runs no expressions".to_owned());
            }
        })
    }
}
