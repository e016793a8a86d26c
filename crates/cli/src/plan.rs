//! `hyperscale plan`: what a test would do, without doing it.
//!
//! What follows from the file alone is exact. What depends on the target (how long a request takes)
//! or on machines (what a core sends) is an estimate, and its assumptions stand beside it.

use std::time::Duration;

use hyperscale_plan::expr::{Expr, Value};
use hyperscale_plan::{Action, Datacenters, Load, OnEnd, Pause, Pick, Plan, Split, Step, Workflow};
use hyperscale_report::{count, duration};
use serde::Serialize;

use crate::args::PlanArgs;
use crate::exit::{Exit, Failure};
use crate::jobs::{print, print_json};
use crate::{follow, run, source};

/// Requests per second that a core is taken to send: what a small exchange over a kept connection
/// leaves room for beside checks and captures.
const CORE_RATE: f64 = 10_000.0;
/// Users that a core is taken to hold.
const CORE_USERS: f64 = 20_000.0;

/// What a test would do.
#[derive(Debug, Serialize)]
struct Outline {
    name: String,
    planned_ms: u64,
    deadline_ms: u64,
    /// Each after all that it waits for.
    order: Vec<String>,
    workflows: Vec<WorkflowOutline>,
    requests: Estimate,
    cores: u32,
    workers: u32,
    datacenters: String,
    split: String,
    data: Vec<DataOutline>,
    thresholds: Vec<String>,
    assumptions: Assumptions,
    notes: Vec<String>,
}

/// What estimates rest on.
#[derive(Debug, Clone, Copy, Serialize)]
struct Assumptions {
    latency_ms: u64,
    requests_per_core_and_second: f64,
    users_per_core: f64,
    cores_per_worker: u32,
}

#[derive(Debug, Serialize)]
struct WorkflowOutline {
    name: String,
    after: Vec<String>,
    /// At the latest.
    starts_at_ms: u64,
    duration_ms: u64,
    /// Whether it may end before: its iterations are counted.
    ends_early: bool,
    executor: &'static str,
    /// The line that users or starts per second follow.
    line: Vec<Point>,
    vus_max: u32,
    requests_per_iteration: f64,
    iterations: Estimate,
    requests: Estimate,
    cores: u32,
}

/// Where a line stands at a time after the workflow's start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Point {
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Estimate {
    count: u64,
    exact: bool,
}

#[derive(Debug, Serialize)]
struct DataOutline {
    name: String,
    rows: u64,
    pick: &'static str,
}

pub(crate) fn plan(args: &PlanArgs) -> Result<Exit, Failure> {
    let compiled = source::of(&args.source, &args.load)?;
    for warning in &compiled.warnings {
        follow::say(&format!("{warning}\n"));
    }
    let latency = args.latency;
    let assumptions = Assumptions {
        latency_ms: millis(latency),
        requests_per_core_and_second: CORE_RATE,
        users_per_core: CORE_USERS,
        cores_per_worker: run::cores(args.load.cores),
    };
    let outline = outline(&compiled.plan, assumptions, latency);
    if args.output == "json" {
        print_json(&outline)?
    } else {
        print(&shown(&outline))?
    }
    Ok(Exit::Passed)
}

fn outline(plan: &Plan, assumptions: Assumptions, latency: Duration) -> Outline {
    let order = plan.start_order().unwrap_or_default();
    let mut starts = vec![Duration::ZERO; plan.workflows.len()];
    let mut ends = starts.clone();
    for &index in &order {
        let workflow = &plan.workflows[index];
        let before =
            workflow.after.workflows.iter().filter_map(|needed| ends.get(needed.0 as usize));
        starts[index] = before.max().copied().unwrap_or_default() + workflow.start_after;
        ends[index] = starts[index] + workflow.load.duration();
    }
    let mut notes = Vec::new();
    let workflows: Vec<WorkflowOutline> = (plan.workflows.iter().zip(&starts))
        .map(|(workflow, &start)| of_workflow(plan, workflow, start, latency, &mut notes))
        .collect();
    // Cores are held while a workflow runs: the fullest moment is at some start.
    let held_at = |at: Duration| -> u32 {
        let running = (workflows.iter().zip(starts.iter().zip(&ends)))
            .filter(|(_, (start, end))| **start <= at && at < **end);
        running.map(|(workflow, _)| workflow.cores).sum()
    };
    let cores = starts.iter().map(|&start| held_at(start)).max().unwrap_or(0).max(1);
    let requests = Estimate {
        count: workflows.iter().map(|workflow| workflow.requests.count).sum(),
        exact: workflows.iter().all(|workflow| workflow.requests.exact),
    };
    for (index, source) in plan.data.iter().enumerate() {
        let readers = || {
            let all = workflows.iter().zip(&plan.workflows);
            all.filter(|(_, workflow)| workflow.data().iter().any(|read| read.get() == index))
        };
        // Workflows that use a source have equal parts of its rows.
        let most = readers().map(|(outline, _)| outline.iterations.count).max().unwrap_or(0);
        let needed = most.saturating_mul(readers().count() as u64);
        if source.pick == Pick::Unique && needed > source.rows {
            let then = match source.on_end {
                OnEnd::Stop => "users stop when they are used up",
                OnEnd::Recycle => "they are used again from the start",
            };
            notes.push(format!(
                "`{}` has {} unique rows for about {} iterations: {then}",
                source.name,
                count(source.rows),
                count(needed)
            ));
        }
    }
    let planned = plan.planned_duration();
    let uncut = ends.iter().max().copied().unwrap_or_default();
    if uncut > plan.run.deadline {
        notes.push(format!(
            "the deadline of {} cuts a test of {}",
            duration(plan.run.deadline),
            duration(uncut)
        ));
    }
    Outline {
        name: plan.name.clone(),
        planned_ms: millis(planned),
        deadline_ms: millis(plan.run.deadline),
        order: order.iter().map(|&index| plan.workflows[index].name.clone()).collect(),
        workflows,
        requests,
        cores,
        workers: cores.div_ceil(assumptions.cores_per_worker),
        datacenters: match &plan.run.datacenters {
            Datacenters::All => "all".to_owned(),
            Datacenters::Choose(1) => "one, chosen by the gate".to_owned(),
            Datacenters::Choose(n) => format!("{n}, chosen by the gate"),
            Datacenters::Named(names) => names.join(", "),
        },
        split: match &plan.run.split {
            Split::Weighted => "by cores".to_owned(),
            Split::Even => "evenly".to_owned(),
            Split::Each => "each sends the whole load".to_owned(),
            Split::Shares(shares) => {
                let shares: Vec<String> =
                    shares.iter().map(|(name, share)| format!("{name} {share}")).collect();
                format!("by weights: {}", shares.join(", "))
            }
        },
        data: plan
            .data
            .iter()
            .map(|source| DataOutline {
                name: source.name.clone(),
                rows: source.rows,
                pick: match source.pick {
                    Pick::Sequential => "sequential",
                    Pick::Random => "random",
                    Pick::Shuffle => "shuffle",
                    Pick::Unique => "unique",
                },
            })
            .collect(),
        thresholds: plan.thresholds.iter().map(|t| t.expression.clone()).collect(),
        assumptions,
        notes,
    }
}

fn of_workflow(
    plan: &Plan,
    workflow: &Workflow,
    start: Duration,
    latency: Duration,
    notes: &mut Vec<String>,
) -> WorkflowOutline {
    let load = &workflow.load;
    let pass = Pass::of(&workflow.steps);
    let seconds = pass.pause_s + pass.requests * latency.as_secs_f64();
    let fixed = load.arrivals().map(|arrivals| arrivals.total()).or(load.iterations());
    let iterations = match fixed {
        // What users do until the time is over depends on how fast the target is.
        None if seconds > 0.0 => {
            Estimate { count: whole(vu_seconds(load) / seconds), exact: false }
        }
        None => Estimate { count: 0, exact: false },
        Some(count) => Estimate { count, exact: true },
    };
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let requests = Estimate {
        count: whole(iterations.count as f64 * pass.requests),
        exact: iterations.exact && pass.is_exact,
    };
    let rate = peak_rate(load);
    let busy = rate.map(|rate| rate * seconds);
    if let Some(busy) = busy.filter(|&busy| busy > f64::from(load.vus_max())) {
        notes.push(format!(
            "`{}` keeps about {} users busy at its peak, and may have {}: starts would be dropped",
            workflow.name,
            count(whole(busy)),
            count(u64::from(load.vus_max()))
        ));
    }
    let users = f64::from(load.vus_max());
    let request_rate = match rate {
        Some(rate) => rate * pass.requests,
        None if seconds > 0.0 => users * pass.requests / seconds,
        None => 0.0,
    };
    let wanted = (request_rate / CORE_RATE).max(users / CORE_USERS).ceil().max(1.0);
    let estimated = u32::try_from(whole(wanted)).unwrap_or(u32::MAX);
    WorkflowOutline {
        name: workflow.name.clone(),
        after: (workflow.after.workflows.iter())
            .filter_map(|&index| plan.workflow(index))
            .map(|workflow| workflow.name.clone())
            .collect(),
        starts_at_ms: millis(start),
        duration_ms: millis(load.duration()),
        ends_early: load.iterations().is_some(),
        executor: executor(load),
        line: line(load),
        vus_max: load.vus_max(),
        requests_per_iteration: pass.requests,
        iterations,
        requests,
        // What the test says goes before what we guess; one core serves at least one user.
        cores: workflow.cores.unwrap_or(estimated).min(load.vus_max().max(1)),
    }
}

/// What one iteration does, on the average.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pass {
    requests: f64,
    pause_s: f64,
    /// Whether every iteration sends the same number of requests.
    is_exact: bool,
}

impl Pass {
    const NOTHING: Self = Self { requests: 0.0, pause_s: 0.0, is_exact: true };

    fn of(steps: &[Step]) -> Self {
        steps.iter().fold(Self::NOTHING, |sum, step| {
            let one = Self::of_step(step);
            Self {
                requests: sum.requests + one.requests,
                pause_s: sum.pause_s + one.pause_s,
                is_exact: sum.is_exact && one.is_exact,
            }
        })
    }

    fn of_step(step: &Step) -> Self {
        let mut pass = match &step.action {
            Action::Request(request) => {
                Self { requests: 1.0, is_exact: request.retry.is_none(), ..Self::NOTHING }
            }
            Action::Pause(pause) => Self { pause_s: mean_pause(*pause), ..Self::NOTHING },
            Action::Group(steps) | Action::Parallel(steps) => Self::of(steps),
            Action::Repeat { times, steps } => {
                let one = Self::of(steps);
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                match times {
                    Expr::Literal(Value::Int(times)) => one.times((*times).max(0) as f64),
                    _ => Self { is_exact: one.requests <= 0.0, ..one },
                }
            }
            Action::While { steps, .. } => {
                let one = Self::of(steps);
                Self { is_exact: one.requests <= 0.0, ..one }
            }
            Action::If { then, otherwise, .. } => {
                Self::mixed(&[(1.0, Self::of(then)), (1.0, Self::of(otherwise))])
            }
            Action::Choose(choices) => {
                let ways: Vec<(f64, Self)> = (choices.iter())
                    .map(|choice| (f64::from(choice.weight), Self::of(&choice.steps)))
                    .collect();
                Self::mixed(&ways)
            }
            Action::Stop(_) => Self { is_exact: false, ..Self::NOTHING },
            Action::Log(_) | Action::Set { .. } | Action::Record { .. } => Self::NOTHING,
        };
        pass.is_exact &= step.when.is_none() || pass.requests <= 0.0;
        pass
    }

    fn times(self, times: f64) -> Self {
        Self { requests: self.requests * times, pause_s: self.pause_s * times, ..self }
    }

    fn mixed(ways: &[(f64, Self)]) -> Self {
        let all: f64 = ways.iter().map(|(weight, _)| weight).sum();
        let all = if all > 0.0 { all } else { 1.0 };
        let mean = |of: &dyn Fn(&Self) -> f64| {
            ways.iter().map(|(weight, pass)| weight / all * of(pass)).sum::<f64>()
        };
        let (requests, pause_s) = (mean(&|pass| pass.requests), mean(&|pass| pass.pause_s));
        let is_same = |pass: &Self| (pass.requests - requests).abs() < 1e-9 && pass.is_exact;
        Self { requests, pause_s, is_exact: ways.iter().all(|(_, pass)| is_same(pass)) }
    }
}

fn mean_pause(pause: Pause) -> f64 {
    match pause {
        Pause::Constant(time) => time.as_secs_f64(),
        Pause::Uniform { min, max } => (min + max).as_secs_f64() / 2.0,
        Pause::Normal { mean, .. } | Pause::Exponential { mean } => mean.as_secs_f64(),
    }
}

const fn executor(load: &Load) -> &'static str {
    match load {
        Load::ConstantVus { .. } => "constant-vus",
        Load::RampingVus { .. } => "ramping-vus",
        Load::PerVuIterations { .. } => "per-vu-iterations",
        Load::SharedIterations { .. } => "shared-iterations",
        Load::ConstantArrivalRate { .. } => "constant-arrival-rate",
        Load::RampingArrivalRate { .. } => "ramping-arrival-rate",
        Load::ExternallyControlled { .. } => "externally-controlled",
        Load::Once { .. } => "once",
    }
}

/// The points between which the load is a line.
fn line(load: &Load) -> Vec<Point> {
    let of_vus = |at: Duration, vus| Point { at_ms: millis(at), vus: Some(vus), rate: None };
    let of_rate = |at: Duration, rate| Point { at_ms: millis(at), vus: None, rate: Some(rate) };
    let mut at = Duration::ZERO;
    match load {
        Load::RampingVus { start_vus, stages, .. } => std::iter::once(of_vus(at, *start_vus))
            .chain(stages.iter().map(|stage| {
                at += stage.over;
                of_vus(at, stage.to)
            }))
            .collect(),
        Load::RampingArrivalRate { start_rate, stages, .. } => {
            std::iter::once(of_rate(at, *start_rate))
                .chain(stages.iter().map(|stage| {
                    at += stage.over;
                    of_rate(at, stage.to)
                }))
                .collect()
        }
        Load::ConstantArrivalRate { rate, duration, .. } => {
            vec![of_rate(at, *rate), of_rate(*duration, *rate)]
        }
        Load::ConstantVus { vus, .. }
        | Load::PerVuIterations { vus, .. }
        | Load::SharedIterations { vus, .. }
        | Load::ExternallyControlled { vus, .. } => {
            vec![of_vus(at, *vus), of_vus(load.duration(), *vus)]
        }
        Load::Once { .. } => vec![of_vus(at, 1)],
    }
}

fn peak_rate(load: &Load) -> Option<f64> {
    match load {
        Load::ConstantArrivalRate { rate, .. } => Some(*rate),
        Load::RampingArrivalRate { start_rate, stages, .. } => {
            Some(stages.iter().map(|stage| stage.to).fold(*start_rate, f64::max))
        }
        Load::ConstantVus { .. }
        | Load::RampingVus { .. }
        | Load::PerVuIterations { .. }
        | Load::SharedIterations { .. }
        | Load::ExternallyControlled { .. }
        | Load::Once { .. } => None,
    }
}

/// The area under the line of users.
fn vu_seconds(load: &Load) -> f64 {
    let points = line(load);
    let area = |pair: &[Point]| {
        let [from, to] = pair else { return 0.0 };
        let users = f64::from(from.vus.unwrap_or(0)) + f64::from(to.vus.unwrap_or(0));
        users / 2.0 * Duration::from_millis(to.at_ms - from.at_ms).as_secs_f64()
    };
    points.windows(2).map(area).sum()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and never negative"
)]
fn whole(estimate: f64) -> u64 {
    estimate.round().max(0.0) as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn time(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if ms > 0 => format!("{ms}ms"),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, 0, 0) => format!("{hours}h"),
        (hours, minutes, 0) => format!("{hours}h{minutes:02}m"),
        (hours, minutes, seconds) => format!("{hours}h{minutes:02}m{seconds:02}s"),
    }
}

fn about(estimate: Estimate) -> String {
    let sign = if estimate.exact { "" } else { "~" };
    format!("{sign}{}", count(estimate.count))
}

/// A count with its noun.
fn of(many: u64, noun: &str) -> String {
    let plural = if many == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(many))
}

fn of_about(estimate: Estimate, noun: &str) -> String {
    let sign = if estimate.exact { "" } else { "~" };
    format!("{sign}{}", of(estimate.count, noun))
}

fn shown_line(workflow: &WorkflowOutline) -> String {
    let value = |point: &Point| match (point.rate, point.vus) {
        (Some(rate), _) => format!("{rate}/s"),
        (None, Some(1)) => "1 user".to_owned(),
        (None, Some(vus)) => format!("{} users", count(u64::from(vus))),
        (None, None) => String::new(),
    };
    let is_flat = workflow.line.windows(2).all(|pair| value(&pair[0]) == value(&pair[1]));
    match workflow.line.first() {
        Some(first) if is_flat => value(first),
        _ => {
            let at = |point: &Point| format!("{} at +{}", value(point), time(point.at_ms));
            workflow.line.iter().map(at).collect::<Vec<_>>().join(", ")
        }
    }
}

fn shown(outline: &Outline) -> String {
    let mut lines = vec![format!(
        "{}: {}, {}, at most {} (deadline {})",
        outline.name,
        of(outline.workflows.len() as u64, "workflow"),
        of_about(outline.requests, "request"),
        time(outline.planned_ms),
        time(outline.deadline_ms)
    )];
    lines.push(format!("order         {}", outline.order.join(" → ")));
    for name in &outline.order {
        let Some(workflow) = outline.workflows.iter().find(|workflow| workflow.name == *name)
        else {
            continue;
        };
        lines.push(String::new());
        let after = match workflow.after.as_slice() {
            [] => String::new(),
            after => format!(", after {}", after.join(" and ")),
        };
        lines.push(format!("{name}  ({}{after})", workflow.executor));
        let latest = if workflow.after.is_empty() { "" } else { ", or as soon as it may" };
        let most = if workflow.ends_early { " at most" } else { "" };
        lines.push(format!(
            "  when        +{} for {}{most}{latest}",
            time(workflow.starts_at_ms),
            time(workflow.duration_ms)
        ));
        lines.push(format!("  load        {}", shown_line(workflow)));
        lines.push(format!("  users       {} at most", count(u64::from(workflow.vus_max))));
        lines.push(format!(
            "  iterations  {}, with {} each: {}",
            about(workflow.iterations),
            (workflow.requests_per_iteration * 100.0).round() / 100.0,
            of_about(workflow.requests, "request")
        ));
        lines.push(format!("  cores       ~{}", workflow.cores));
    }
    lines.push(String::new());
    for data in &outline.data {
        lines.push(format!(
            "data          {}: {} rows, {}",
            data.name,
            count(data.rows),
            data.pick
        ));
    }
    for threshold in &outline.thresholds {
        lines.push(format!("threshold     {threshold}"));
    }
    lines.push(format!("datacenters   {}; split {}", outline.datacenters, outline.split));
    let Assumptions { latency_ms, cores_per_worker, .. } = outline.assumptions;
    lines.push(format!(
        "needs         ~{} at its fullest: {} of {}",
        of(u64::from(outline.cores), "core"),
        of(u64::from(outline.workers), "worker"),
        of(u64::from(cores_per_worker), "core")
    ));
    lines.push(format!(
        "~ estimated, if a request takes {latency_ms} ms (--latency) and a core sends {} requests \
         a second or holds {} users",
        count(whole(CORE_RATE)),
        count(whole(CORE_USERS))
    ));
    lines.extend(outline.notes.iter().map(|note| format!("! {note}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use hyperscale_plan::{CompileOptions, compile};

    use super::*;

    fn outline_of(test: &str) -> Outline {
        let options = CompileOptions {
            name: "test.yaml",
            sets: &[],
            environment: &|_| None,
            read_file: &|_, _| Err("no files here".to_owned()),
        };
        let plan = compile(test.as_bytes(), &options).unwrap_or_else(|e| panic!("{e}")).plan;
        let assumptions = Assumptions {
            latency_ms: 100,
            requests_per_core_and_second: CORE_RATE,
            users_per_core: CORE_USERS,
            cores_per_worker: 2,
        };
        outline(&plan, assumptions, Duration::from_millis(100))
    }

    #[test]
    fn pln_01_what_the_file_says_is_exact() {
        let outline = outline_of(
            "target: http://a\nworkflows:\n  \
            login: { load: once, steps: [ { get: /l } ] }\n  \
            browse:\n    after: [ login ]\n    load: { rate: 50/s, duration: 1m, max_vus: 100 }\n    \
            steps: [ { get: /a }, { repeat: { times: 2, steps: [ { get: /b } ] } } ]\n",
        );

        let browse = &outline.workflows[1];
        assert_eq!((browse.iterations.count, browse.iterations.exact), (3_000, true));
        assert_eq!((browse.requests.count, browse.requests.exact), (9_000, true));
        assert_eq!((outline.requests.count, outline.requests.exact), (9_001, true));
        assert_eq!(outline.order, ["login", "browse"]);
        assert_eq!(browse.starts_at_ms, outline.workflows[0].duration_ms);
    }

    #[test]
    fn pln_01_what_depends_on_the_target_is_an_estimate() {
        let outline = outline_of(
            "target: http://a\nworkflows:\n  \
            browse:\n    load: { vus: 10, duration: 100s }\n    \
            steps: [ { get: /a }, { pause: 900ms } ]\n",
        );

        let browse = &outline.workflows[0];
        assert_eq!((browse.iterations.count, browse.iterations.exact), (1_000, false));
        assert_eq!(browse.line[0], Point { at_ms: 0, vus: Some(10), rate: None });
        assert!(
            shown(&outline).contains("~1,000, with 1 each: ~1,000 requests"),
            "{}",
            shown(&outline)
        );
    }

    #[test]
    fn pln_02_loads_at_once_add_up_and_loads_in_turn_do_not() {
        let test = |after: &str| {
            format!(
                "target: http://a\nworkflows:\n  \
                 one: {{ load: {{ rate: 25000/s, duration: 1m, max_vus: 5000 }}, steps: [ {{ get: /a }} ] }}\n  \
                 two: {{ {after} load: {{ rate: 15000/s, duration: 1m, max_vus: 5000 }}, steps: [ {{ get: /a }} ] }}\n"
            )
        };

        let (at_once, in_turn) = (outline_of(&test("")), outline_of(&test("after: [ one ],")));

        assert_eq!((at_once.cores, at_once.workers), (5, 3));
        assert_eq!((in_turn.cores, in_turn.workers), (3, 2));
    }

    #[test]
    fn pln_03_a_rate_that_users_cannot_carry_is_said_beforehand() {
        let outline = outline_of(
            "target: http://a\nworkflows:\n  \
            slow:\n    load: { rate: 100/s, duration: 1m, max_vus: 50 }\n    \
            steps: [ { get: /a }, { pause: 1s } ]\n",
        );

        assert!(outline.notes[0].contains("about 110 users"), "{:?}", outline.notes);
    }
}
