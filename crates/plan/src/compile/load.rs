//! Loads: which executor, with which figures.

use std::time::Duration;

use super::{Compiler, Fields, items};
use crate::diagnostics::{Draft, Span};
use crate::keys::{EXECUTORS, Executor};
use crate::load::{Distribution, Load, Stage};
use crate::shape::Consts;
use crate::units::show_duration;
use crate::yaml::{Kind, Node};

/// Most users of one workflow.
const VUS_MAX: u32 = 10_000_000;
/// Users that a rate gets at least and at most unless the test says otherwise.
const DEFAULT_VUS_MIN: u32 = 10;
const DEFAULT_VUS_MAX: u32 = 10_000;
/// How long loads of fixed iterations may take unless the test says otherwise.
const MAX_DURATION_DEFAULT: Duration = Duration::from_secs(600);
const RAMP_DOWN_DEFAULT: Duration = Duration::from_secs(30);
const STAGES_MAX: usize = 1_000;

/// What a stage goes to, before it is known whether it counts users or starts.
#[derive(Clone, Copy)]
enum Axis {
    Vus,
    Rate,
}

impl<'n> Compiler<'n> {
    /// Reads a load. `timeout` is the longest of the workflow's requests.
    pub(super) fn load(&mut self, key: &Node, node: &'n Node, timeout: Duration) -> Option<Load> {
        if let Kind::Scalar(_) = &node.kind {
            return (self.word(Some(node)).as_deref() == Some("once"))
                .then_some(Load::Once { max_duration: MAX_DURATION_DEFAULT });
        }
        let fields = Fields::of(node);
        let executor = self.executor(key, fields)?;
        for (name, key, _) in fields.iter() {
            if name != "executor" && !executor.keys.contains(&name) && crate::keys::LOAD.has(name) {
                let draft = Draft::error(key.span, format!("`{}` has no `{name}`", executor.name))
                    .note(format!("it has: {}", executor.keys.join(", ")));
                self.collector.push(draft.link("load"));
            }
        }
        let is_misspelt = fields.iter().any(|(name, ..)| !crate::keys::LOAD.has(name));
        for required in executor.required {
            if fields.get(required).is_none() && !is_misspelt {
                let message = format!("`{}` needs `{required}`", executor.name);
                self.collector.push(Draft::error(key.span, message).link("load"));
            }
        }
        let is_external = executor.name == "externally-controlled";
        let vus = self.vus(fields.get("vus"), u32::from(!is_external));
        let max_vus = self.vus(fields.get("max_vus"), 1);
        let duration = self.read(fields.get("duration"), Consts::positive).unwrap_or_default();
        let max_duration =
            self.read(fields.get("max_duration"), Consts::positive).unwrap_or(MAX_DURATION_DEFAULT);
        let distribution = match self.word(fields.get("distribution")).as_deref() {
            Some("poisson") => Distribution::Poisson,
            _ => Distribution::Even,
        };
        let load = match executor.name {
            "constant-vus" => Load::ConstantVus { vus: vus.unwrap_or(1), duration },
            "ramping-vus" => {
                let start_vus = self.vus(fields.get("start_vus"), 0).unwrap_or(0);
                let stages = self.stages(fields, Axis::Vus, f64::from(start_vus));
                let stages = stages.into_iter().map(whole_stage).collect();
                let graceful_ramp_down = self
                    .read(fields.get("graceful_ramp_down"), Consts::duration)
                    .unwrap_or(RAMP_DOWN_DEFAULT);
                Load::RampingVus { start_vus, stages, graceful_ramp_down }
            }
            "per-vu-iterations" => Load::PerVuIterations {
                vus: vus.unwrap_or(1),
                iterations: self.iterations(fields.get("iterations")),
                max_duration,
            },
            "shared-iterations" => Load::SharedIterations {
                vus: vus.unwrap_or(1),
                total: self.iterations(fields.get("total")),
                max_duration,
            },
            "constant-arrival-rate" => {
                let rate = self.read(fields.get("rate"), Consts::rate).unwrap_or(1.0);
                if let (false, Some(node)) = (rate > 0.0, fields.get("rate")) {
                    self.error(node.span, "a rate of 0 starts nothing");
                }
                let max_vus = self.arrival_vus(fields, max_vus, rate, timeout);
                Load::ConstantArrivalRate { rate, duration, max_vus, distribution }
            }
            "ramping-arrival-rate" => {
                let start_rate = self.read(fields.get("start_rate"), Consts::rate).unwrap_or(0.0);
                let stages = self.stages(fields, Axis::Rate, start_rate);
                let peak = stages.iter().map(|stage| stage.to).fold(start_rate, f64::max);
                let max_vus = self.arrival_vus(fields, max_vus, peak, timeout);
                Load::RampingArrivalRate { start_rate, stages, max_vus, distribution }
            }
            "externally-controlled" => {
                let max_vus = max_vus.unwrap_or(1);
                let vus = vus.unwrap_or(0);
                if let (true, Some(node)) = (vus > max_vus, fields.get("vus")) {
                    self.error(node.span, format!("more users than `max_vus`, which is {max_vus}"));
                }
                Load::ExternallyControlled { vus, max_vus, duration }
            }
            _ => Load::Once { max_duration },
        };
        if let (Load::RampingVus { .. } | Load::RampingArrivalRate { .. }, Some((key, stages))) =
            (&load, fields.entry("stages"))
        {
            let is_flat = match &load {
                Load::RampingArrivalRate { start_rate, stages, .. } => {
                    stages.iter().all(|stage| stage.to <= 0.0) && *start_rate <= 0.0
                }
                other => other.vus_max() == 0,
            };
            let is_read = match &load {
                Load::RampingVus { stages: read, .. } => read.len() == items(stages).len(),
                Load::RampingArrivalRate { stages: read, .. } => read.len() == items(stages).len(),
                _ => true,
            };
            let problem = if !is_read {
                None
            } else if items(stages).is_empty() {
                Some("there are no stages")
            } else if load.duration().is_zero() {
                Some("the stages take no time")
            } else if is_flat {
                Some("the stages never rise above 0")
            } else {
                None
            };
            if let Some(problem) = problem {
                self.collector.push_once(Draft::error(key.span, problem).link("stages"));
            }
        }
        Some(load)
    }

    fn vus(&mut self, node: Option<&Node>, min: u32) -> Option<u32> {
        self.read(node, |consts, node| consts.count_u32(node, min, VUS_MAX))
    }

    fn iterations(&mut self, node: Option<&Node>) -> u64 {
        self.read(node, |consts, node| consts.within(node, 1, 1_000_000_000_000)).unwrap_or(1)
    }

    /// The executor by its name, or the only one that the keys fit.
    fn executor(&mut self, key: &Node, fields: Fields<'n>) -> Option<&'static Executor> {
        if let Some(node) = fields.get("executor") {
            let name = self.word(Some(node))?;
            return EXECUTORS.iter().find(|executor| executor.name == name);
        }
        let given: Vec<&str> =
            fields.iter().map(|(name, ..)| name).filter(|n| crate::keys::LOAD.has(n)).collect();
        let fits = |executor: &&Executor| {
            !executor.required.is_empty()
                && given.iter().all(|name| executor.keys.contains(name))
                && executor.required.iter().all(|name| given.contains(name))
        };
        let fitting: Vec<&Executor> = EXECUTORS.iter().filter(fits).collect();
        match fitting.as_slice() {
            [only] => return Some(only),
            // Only the two that follow a line share their required keys.
            [_, _, ..] => {
                let stages = fields.get("stages").map(items).unwrap_or_default();
                let is_rate = stages.iter().any(|stage| {
                    let to = Fields::of(stage).get("to").map(|to| self.consts.text(to));
                    matches!(to, Some(Ok(text)) if text.contains('/'))
                });
                let name = if is_rate { "ramping-arrival-rate" } else { "ramping-vus" };
                return fitting.into_iter().find(|executor| executor.name == name);
            }
            [] => {}
        }
        if fields.iter().any(|(name, ..)| !crate::keys::LOAD.has(name)) {
            return None; // The unknown key may be the one that decides.
        }
        let mut draft =
            Draft::error(key.span, format!("no executor goes with {}", given.join(", ")))
                .link("load");
        if given.is_empty() {
            draft = Draft::error(key.span, "the load is empty").link("load");
        }
        // The executor that most of the keys belong to.
        let shared =
            |executor: &Executor| given.iter().filter(|name| executor.keys.contains(name)).count();
        let most = EXECUTORS.iter().map(shared).max().unwrap_or(0);
        for executor in EXECUTORS.iter().filter(|executor| shared(executor) == most).take(4) {
            let needs = match executor.required {
                [] => "nothing".to_owned(),
                required => required.join(", "),
            };
            let may: Vec<&str> = (executor.keys.iter().copied())
                .filter(|k| !executor.required.contains(k))
                .collect();
            let may = if may.is_empty() {
                String::new()
            } else {
                format!("; may have {}", may.join(", "))
            };
            draft = draft.note(format!("`{}` needs {needs}{may}", executor.name));
        }
        self.collector.push_once(draft);
        None
    }

    fn stages(&mut self, fields: Fields<'n>, axis: Axis, start: f64) -> Vec<Stage<f64>> {
        let mut stages = Vec::new();
        let mut last = start;
        let list = fields.get("stages").map(items).unwrap_or_default();
        for stage in list {
            if stages.len() >= STAGES_MAX {
                self.error(stage.span, format!("a load has at most {STAGES_MAX} stages"));
                break;
            }
            let fields = Fields::of(stage);
            let begin = Span { end: stage.span.start + 1, ..stage.span };
            match (fields.get("to"), fields.get("over"), fields.get("hold")) {
                (None, None, Some(hold)) => {
                    let over = self.read(Some(hold), Consts::duration).unwrap_or_default();
                    stages.push(Stage { to: last, over });
                }
                (Some(to), Some(over), None) => {
                    last = match axis {
                        Axis::Vus => f64::from(self.stage_vus(to)),
                        Axis::Rate => self.stage_rate(to),
                    };
                    let over = self.read(Some(over), Consts::duration).unwrap_or_default();
                    stages.push(Stage { to: last, over });
                }
                (Some(_), None, None) => {
                    self.collector.push_once(
                        Draft::error(begin, "the stage does not say how long it takes")
                            .note("write `{ to: 100, over: 1m }`; `over: 0s` jumps")
                            .link("stages"),
                    );
                }
                _ => {
                    self.collector.push_once(
                        Draft::error(begin, "a stage is `{ to, over }` or `{ hold }`")
                            .link("stages"),
                    );
                }
            }
        }
        stages
    }

    fn stage_vus(&mut self, to: &Node) -> u32 {
        if self.consts.text(to).is_ok_and(|text| text.contains('/')) {
            self.collector.push_once(
                Draft::error(to.span, "this is a rate, but the stages count users")
                    .note("`ramping-arrival-rate` follows a rate")
                    .link("stages"),
            );
            return 1;
        }
        self.vus(Some(to), 0).unwrap_or(1)
    }

    fn stage_rate(&mut self, to: &Node) -> f64 {
        self.read(Some(to), Consts::rate).unwrap_or(1.0)
    }

    /// The users of an arrival rate: as given, or enough for the rate while each takes as long as
    /// the timeout lets it.
    fn arrival_vus(
        &mut self,
        fields: Fields<'n>,
        given: Option<u32>,
        peak: f64,
        timeout: Duration,
    ) -> u32 {
        let needed = ceil_u32(peak * timeout.as_secs_f64());
        let Some(given) = given else { return needed.clamp(DEFAULT_VUS_MIN, DEFAULT_VUS_MAX) };
        if let (true, Some((key, _))) = (given < needed, fields.entry("max_vus")) {
            let timeout = show_duration(timeout);
            self.collector.push(
                Draft::warning(
                    key.span,
                    format!("starts will be dropped if the target becomes slow: {given} users are too few"),
                )
                .note(format!("{peak}/s for as long as the timeout of {timeout} needs {needed} users"))
                .link("load"),
            );
        }
        given
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to the range"
)]
fn ceil_u32(number: f64) -> u32 {
    number.ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "these were read as u32"
)]
fn whole_stage(stage: Stage<f64>) -> Stage<u32> {
    Stage { to: stage.to as u32, over: stage.over }
}
