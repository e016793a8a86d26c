//! A workflow's steps as a core runs them: requests without holes are bytes already, captures are
//! compiled.

use hyperscale_plan::expr::{CompiledCapture, EvalError, Expr, Template};
use hyperscale_plan::{
    Action, LocalIndex, MetricIndex, Pause, RequestStep, Step, StopScope, Workflow,
};

use crate::connection::Keep;
use crate::request::{Make, Ready};

/// How much of a body is kept for checks and captures.
const KEPT_BYTES_MAX: usize = 16 << 20;

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
pub(crate) struct Op {
    pub(crate) when: Option<Expr>,
    pub(crate) kind: OpKind,
}

#[derive(Debug)]
pub(crate) enum OpKind {
    Request(Box<Request>),
    Pause(Pause),
    Log(Template),
    Set { local: LocalIndex, value: Expr },
    Group(Vec<Op>),
    Repeat { times: Expr, ops: Vec<Op> },
    While { condition: Expr, max: u32, ops: Vec<Op> },
    If { condition: Expr, then: Vec<Op>, otherwise: Vec<Op> },
    Choose { total: u64, choices: Vec<(u64, Vec<Op>)> },
    Parallel(Vec<Op>),
    Stop(StopScope),
    Record { metric: MetricIndex, value: Expr },
}

/// A request with everything that is done about its answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) step: RequestStep,
    /// The bytes, if they are always the same.
    pub(crate) constant: Option<Ready>,
    pub(crate) captures: Vec<CompiledCapture>,
    /// Which answers are kept.
    pub(crate) keep: Keep,
}

impl Program {
    pub(crate) fn new(
        workflow: &Workflow,
        make: Make<'_>,
        sample_bytes: usize,
    ) -> Result<Self, String> {
        let all = |steps: &[Step]| Op::all(steps, make, sample_bytes);
        let program = || -> Result<Self, EvalError> {
            Ok(Self {
                setup: all(&workflow.vu_setup)?,
                steps: all(&workflow.steps)?,
                teardown: all(&workflow.vu_teardown)?,
                finally: all(&workflow.finally)?,
            })
        };
        program().map_err(|error| error.to_string())
    }
}

impl Op {
    fn all(steps: &[Step], make: Make<'_>, sample_bytes: usize) -> Result<Vec<Self>, EvalError> {
        let all = |steps: &[Step]| Self::all(steps, make, sample_bytes);
        let op = |step: &Step| {
            let kind = match &step.action {
                Action::Request(request) => {
                    OpKind::Request(Box::new(Request::new(request, make, sample_bytes)?))
                }
                Action::Pause(pause) => OpKind::Pause(*pause),
                Action::Log(text) => OpKind::Log(text.clone()),
                Action::Set { local, value } => OpKind::Set { local: *local, value: value.clone() },
                Action::Group(steps) => OpKind::Group(all(steps)?),
                Action::Repeat { times, steps } => {
                    OpKind::Repeat { times: times.clone(), ops: all(steps)? }
                }
                Action::While { condition, max, steps } => {
                    OpKind::While { condition: condition.clone(), max: *max, ops: all(steps)? }
                }
                Action::If { condition, then, otherwise } => OpKind::If {
                    condition: condition.clone(),
                    then: all(then)?,
                    otherwise: all(otherwise)?,
                },
                Action::Choose(choices) => {
                    let choices = (choices.iter())
                        .map(|choice| Ok((u64::from(choice.weight), all(&choice.steps)?)))
                        .collect::<Result<Vec<_>, EvalError>>()?;
                    let total = choices.iter().map(|(weight, _)| weight).sum();
                    OpKind::Choose { total, choices }
                }
                Action::Parallel(steps) => OpKind::Parallel(all(steps)?),
                Action::Stop(scope) => OpKind::Stop(*scope),
                Action::Record { metric, value } => {
                    OpKind::Record { metric: *metric, value: value.clone() }
                }
            };
            Ok(Self { when: step.when.clone(), kind })
        };
        steps.iter().map(op).collect()
    }
}

impl Request {
    fn new(step: &RequestStep, make: Make<'_>, sample_bytes: usize) -> Result<Self, EvalError> {
        let captures = (step.captures.iter())
            .map(|capture| CompiledCapture::new(&capture.from))
            .collect::<Result<Vec<_>, _>>()?;
        let keep = if !step.checks.is_empty() || !captures.is_empty() {
            Keep::All(KEPT_BYTES_MAX)
        } else if sample_bytes > 0 {
            Keep::Failed(sample_bytes)
        } else {
            Keep::Nothing
        };
        Ok(Self { constant: Ready::constant(step, make), step: step.clone(), captures, keep })
    }
}
