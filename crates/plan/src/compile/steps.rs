//! Steps: one action each, blocks written out where they are used.

use std::time::Duration;

use super::{Compiler, Fields, items};
use crate::diagnostics::{Draft, Span, one_of};
use crate::expr::check::{Typed, compile_condition, compile_expr, compile_template};
use crate::expr::functions::Ty;
use crate::expr::{Expr, Value};
use crate::ir::{Action, Choice, LocalIndex, MetricIndex, Pause, Step, StopScope};
use crate::keys::{ACTIONS, METHODS, STEP};
use crate::shape::{Consts, expected, place};
use crate::units;
use crate::yaml::{Kind, Node, shorten};

/// Deepest nesting of steps, blocks written out.
const NESTING_MAX: usize = 8;
/// Most steps of a test, blocks written out.
const STEPS_MAX: usize = 10_000;
/// How often a `while` runs at most unless the test says otherwise.
const WHILE_DEFAULT: u32 = 1_000;
const WHILE_MAX: u32 = 1_000_000_000;
/// How often a `repeat` with a constant runs at most.
const REPEAT_MAX: i64 = 1_000_000_000;
const WEIGHT_MAX: u32 = 1_000_000;

/// Where steps stand.
pub(super) struct Place<'n, 'p> {
    pub(super) workflow: u16,
    /// The workflow's name and those of groups, each with `/`.
    pub(super) prefix: String,
    depth: usize,
    /// Blocks around them, the innermost last.
    blocks: Vec<&'n str>,
    /// The longest timeout of a request so far.
    pub(super) longest: &'p mut Duration,
}

impl<'n> Compiler<'n> {
    pub(super) fn workflow_steps(
        &mut self,
        entry: Option<(&'n Node, &'n Node)>,
        workflow: u16,
        name: &str,
        longest: &mut Duration,
    ) -> Vec<Step> {
        let Some((_, list)) = entry else { return Vec::new() };
        let prefix = format!("{name}/");
        let mut place = Place { workflow, prefix, depth: 0, blocks: Vec::new(), longest };
        self.steps(list, &mut place)
    }

    fn steps(&mut self, list: &'n Node, place: &mut Place<'n, '_>) -> Vec<Step> {
        if place.depth >= NESTING_MAX {
            self.collector.push_once(
                Draft::error(begin(list), format!("steps nest at most {NESTING_MAX} levels deep"))
                    .link("limits"),
            );
            return Vec::new();
        }
        place.depth += 1;
        let mut steps = Vec::new();
        for node in items(list) {
            self.step_count += 1;
            if self.step_count > STEPS_MAX {
                let message = format!("a test has at most {STEPS_MAX} steps, blocks written out");
                // One message, wherever in the blocks it happens.
                if self.step_count == STEPS_MAX + 1 {
                    self.collector.push(Draft::error(begin(node), message).link("limits"));
                }
                break;
            }
            steps.extend(self.step(node, place));
        }
        place.depth -= 1;
        steps
    }

    fn step(&mut self, node: &'n Node, place: &mut Place<'n, '_>) -> Option<Step> {
        let Kind::Map(_) = &node.kind else { return None };
        let fields = Fields::of(node);
        let mut actions = fields.iter().filter(|(name, ..)| ACTIONS.contains(name));
        let Some((action, key, value)) = actions.next() else {
            if fields.iter().any(|(name, ..)| !STEP.has(name)) {
                return None; // The unknown key is most likely the action.
            }
            self.collector.push_once(
                Draft::error(begin(node), "the step does nothing")
                    .note(format!("an action is one of: {}", one_of(ACTIONS)))
                    .link("steps"),
            );
            return None;
        };
        if let Some((second, second_key, _)) = actions.next() {
            self.collector.push_once(
                Draft::error(
                    second_key.span,
                    format!("the step has two actions, `{action}` and `{second}`"),
                )
                .note("make two steps of it, each with its own `-`")
                .link("steps"),
            );
            return None;
        }
        let is_request = METHODS.contains(&action) || action == "http";
        if !is_request {
            for (name, key, _) in fields.iter() {
                if name != action && name != "when" && STEP.has(name) {
                    let draft =
                        Draft::error(key.span, format!("`{name}` does not go with `{action}`"));
                    self.collector.push_once(draft.note("it belongs to a request").link("steps"));
                }
            }
        }
        let when = fields.get("when").and_then(|node| self.condition(node, false));
        let action = if is_request {
            let request = self.request(action, key, value, fields, place)?;
            Action::Request(Box::new(request))
        } else {
            self.action(action, key, value, place)?
        };
        Some(Step { when, action })
    }

    fn action(
        &mut self,
        action: &str,
        key: &'n Node,
        node: &'n Node,
        place: &mut Place<'n, '_>,
    ) -> Option<Action> {
        let fields = Fields::of(node);
        Some(match action {
            "pause" => Action::Pause(self.pause(node)?),
            "log" => {
                let text = node.as_text()?;
                let template = compile_template(text, &self.names(false));
                let template =
                    self.ok(template.map_err(|error| crate::shape::place(node, error)))?;
                Action::Log(template)
            }
            "set" => {
                let mut sets = Vec::new();
                for (name, _, node) in fields.iter() {
                    let value = self.expression(node);
                    let local = self.local_index(name);
                    if let (Some(local), Some(value)) = (local, value) {
                        sets.push(Action::Set { local, value: value.expr });
                    }
                }
                self.one_or_group(key, fields, sets)?
            }
            "record" => {
                let mut records = Vec::new();
                for (name, key, node) in fields.iter() {
                    let value = self.expression(node);
                    let metric = self.metric_index(name, key);
                    if let (Some(metric), Some(value)) = (metric, value) {
                        if !matches!(value.ty, Ty::Any | Ty::Bool)
                            && !value.ty.is_number()
                            && !matches!(value.ty, Ty::Duration | Ty::Bytes)
                        {
                            let message =
                                format!("a metric records numbers, this is {}", value.ty.words());
                            self.collector.push(Draft::error(node.span, message).link("metrics"));
                        }
                        records.push(Action::Record { metric, value: value.expr });
                    }
                }
                self.one_or_group(key, fields, records)?
            }
            "use" => self.block(node, place)?,
            "group" => {
                let name = self.read(fields.get("name"), Consts::text)?;
                if name.is_empty() || name.chars().count() > 100 {
                    self.error(node.span, "a group's name has 1 to 100 characters");
                }
                let outer = place.prefix.len();
                place.prefix.push_str(&name);
                place.prefix.push('/');
                let steps = self.inner(fields, "steps", place);
                place.prefix.truncate(outer);
                Action::Group(steps)
            }
            "repeat" => {
                let times_node = fields.get("times")?;
                let times = self.expression(times_node)?;
                if !times.ty.fits(Ty::Int) {
                    let message =
                        format!("`times` is a whole number, this is {}", times.ty.words());
                    self.collector.push_once(Draft::error(times_node.span, message).link("repeat"));
                }
                if let Expr::Literal(value) = &times.expr
                    && !matches!(value, Value::Int(0..=REPEAT_MAX))
                {
                    let message = format!("`times` is 0 to {REPEAT_MAX}, not {value}");
                    self.collector.push_once(Draft::error(times_node.span, message).link("repeat"));
                }
                Action::Repeat { times: times.expr, steps: self.inner(fields, "steps", place) }
            }
            "while" => {
                let condition = fields.get("condition").and_then(|c| self.condition(c, false));
                let max = self
                    .read(fields.get("max"), |consts, node| consts.count_u32(node, 1, WHILE_MAX))
                    .unwrap_or(WHILE_DEFAULT);
                let steps = self.inner(fields, "steps", place);
                Action::While { condition: condition?, max, steps }
            }
            "if" => {
                let condition = fields.get("condition").and_then(|c| self.condition(c, false));
                let then = self.inner(fields, "then", place);
                let otherwise = self.inner(fields, "else", place);
                Action::If { condition: condition?, then, otherwise }
            }
            "choose" => self.choose(key, node, place)?,
            "parallel" => self.parallel(key, node, place)?,
            _ => match self.word(Some(node)).as_deref() {
                Some("vu") => Action::Stop(StopScope::Vu),
                _ => Action::Stop(StopScope::Iteration),
            },
        })
    }

    fn inner(&mut self, fields: Fields<'n>, name: &str, place: &mut Place<'n, '_>) -> Vec<Step> {
        fields.get(name).map(|list| self.steps(list, place)).unwrap_or_default()
    }

    /// Actions of one step: a condition before it is looked at once for all of them.
    fn one_or_group(
        &mut self,
        key: &Node,
        fields: Fields<'n>,
        mut actions: Vec<Action>,
    ) -> Option<Action> {
        match actions.len() {
            0 => {
                if fields.0.is_empty() {
                    let draft = Draft::error(key.span, "nothing is named here").link("steps");
                    self.collector.push_once(draft);
                }
                None
            }
            1 => actions.pop(),
            _ => Some(Action::Group(
                actions.into_iter().map(|action| Step { when: None, action }).collect(),
            )),
        }
    }

    fn block(&mut self, node: &'n Node, place: &mut Place<'n, '_>) -> Option<Action> {
        let name = node.as_text()?;
        let Some((known, list)) = self.blocks.get_key_value(name) else {
            let draft = Self::unknown(node.span, "block", name, self.blocks.keys().copied());
            self.collector.push_once(draft.link("steps"));
            return None;
        };
        let (known, list) = (*known, *list);
        if let Some(at) = place.blocks.iter().position(|block| *block == known) {
            let way: Vec<&str> = place.blocks[at..].iter().copied().chain([known]).collect();
            self.collector.push_once(
                Draft::error(node.span, format!("the block `{}` uses itself", shorten(name)))
                    .note(format!("by way of {}", way.join(" → ")))
                    .note("`repeat` and `while` run steps several times")
                    .link("steps"),
            );
            return None;
        }
        self.used_blocks.insert(known);
        place.blocks.push(known);
        let steps = self.steps(list, place);
        place.blocks.pop();
        Some(Action::Group(steps))
    }

    fn choose(&mut self, key: &Node, node: &'n Node, place: &mut Place<'n, '_>) -> Option<Action> {
        let Kind::List(_) = &node.kind else { return None };
        let mut choices = Vec::new();
        let mut sum = 0u64;
        for choice in items(node) {
            let fields = Fields::of(choice);
            let weight = self
                .read(fields.get("weight"), |consts, node| consts.count_u32(node, 0, WEIGHT_MAX))
                .unwrap_or(1);
            sum += u64::from(weight);
            choices.push(Choice { weight, steps: self.inner(fields, "steps", place) });
        }
        if sum == 0 {
            self.collector.push_once(
                Draft::error(key.span, "nothing can be chosen: there is no weight above 0")
                    .link("choose"),
            );
            return None;
        }
        Some(Action::Choose(choices))
    }

    fn parallel(
        &mut self,
        key: &Node,
        node: &'n Node,
        place: &mut Place<'n, '_>,
    ) -> Option<Action> {
        for step in items(node) {
            let other = Fields::of(step).iter().find(|(name, ..)| {
                ACTIONS.contains(name) && !METHODS.contains(name) && *name != "http"
            });
            if let Some((name, key, _)) = other {
                let message = format!("`{name}` cannot stand in `parallel`");
                let draft = Draft::error(key.span, message).note("only requests run in parallel");
                self.collector.push_once(draft.link("steps"));
            }
        }
        let steps = self.steps(node, place);
        if items(node).is_empty() {
            self.collector.push_once(Draft::error(key.span, "there are no steps").link("steps"));
        }
        Some(Action::Parallel(steps))
    }

    fn pause(&mut self, node: &Node) -> Option<Pause> {
        if let Kind::Map(_) = node.kind {
            let fields = Fields::of(node);
            let mean = self.read(fields.get("normal"), Consts::duration);
            let sd = self.read(fields.get("sd"), Consts::duration);
            let exponential = self.read(fields.get("exponential"), Consts::duration);
            return match (mean, sd, exponential) {
                (Some(mean), Some(sd), None) => Some(Pause::Normal { mean, sd }),
                (None, None, Some(mean)) => Some(Pause::Exponential { mean }),
                _ => {
                    self.collector.push_once(
                        Draft::error(
                            begin(node),
                            "a pause is `{ normal, sd }` or `{ exponential }`",
                        )
                        .note("for example `{ normal: 2s, sd: 500ms }`")
                        .link("pauses"),
                    );
                    None
                }
            };
        }
        let text = self.read(Some(node), Consts::text)?;
        let (low, high) = match text.split_once("..") {
            Some((low, high)) => (low, high),
            None => (text.as_str(), text.as_str()),
        };
        match (units::duration(low), units::duration(high)) {
            (Ok(min), Ok(max)) if min == max => Some(Pause::Constant(min)),
            (Ok(min), Ok(max)) if min < max => Some(Pause::Uniform { min, max }),
            (Ok(_), Ok(_)) => {
                let draft = Draft::error(node.span, format!("{low} is longer than {high}"));
                self.collector.push(draft.link("pauses"));
                None
            }
            (Err(error), _) | (_, Err(error)) => {
                let draft = Draft::error(node.span, error.to_string()).link("pauses");
                self.collector.push_once(
                    draft.note("a pause is like `2s`, `1s..3s`, `{ normal: 2s, sd: 500ms }` or `{ exponential: 2s }`"),
                );
                None
            }
        }
    }

    pub(super) fn condition(&mut self, node: &Node, answer: bool) -> Option<Expr> {
        let Some(text) = node.as_text() else {
            self.collector.push_once(expected(node, "a condition").link("expressions"));
            return None;
        };
        let condition = compile_condition(text, &self.names(answer)).map_err(|e| place(node, e));
        self.ok(condition)
    }

    fn expression(&mut self, node: &Node) -> Option<Typed> {
        let Some(text) = node.as_text() else {
            self.collector.push_once(expected(node, "an expression").link("expressions"));
            return None;
        };
        let typed = compile_expr(text, &self.names(false)).map_err(|error| {
            let draft = place(node, error);
            if text.chars().all(|c| c.is_ascii_alphanumeric() || " -_".contains(c)) {
                draft.note(format!("text needs quotes of its own: `'\"{text}\"'`"))
            } else {
                draft
            }
        });
        self.ok(typed)
    }

    pub(super) fn local_index(&self, name: &str) -> Option<LocalIndex> {
        let at = self.runtime.locals.iter().position(|local| local == name)?;
        u16::try_from(at).ok().map(LocalIndex)
    }

    fn metric_index(&mut self, name: &str, key: &Node) -> Option<MetricIndex> {
        let found = self.metrics.iter().position(|metric| metric.name == name);
        if found.is_none() {
            let known: Vec<String> = self.metrics.iter().map(|m| m.name.clone()).collect();
            let draft = Self::unknown(key.span, "metric", name, known.iter().map(String::as_str));
            self.collector.push_once(draft.note("declare it under `metrics`").link("metrics"));
        }
        found.and_then(|at| u16::try_from(at).ok()).map(MetricIndex)
    }
}

/// The first letter of something large.
pub(super) fn begin(node: &Node) -> Span {
    Span { end: node.span.start.saturating_add(1), ..node.span }
}
