//! What the table of keys says about a file: unknown keys, missing keys, values of the wrong kind.
//! And the readers of single values, which the compiler uses too.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diagnostics::{Collector, Draft, Span, nearest, one_of};
use crate::expr::check::{Budget, Names, compile_template};
use crate::expr::lex::ExprError;
use crate::expr::{Value, time};
use crate::keys::{Kind, SECTIONS, Section};
use crate::units::{self, UnitError};
use crate::yaml::{self, Node, Plain, Scalar, shorten};

/// What is known before the test runs.
#[derive(Debug)]
pub(crate) struct Consts {
    pub(crate) vars: BTreeMap<String, Value>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) budget: Budget,
}

/// Where in the source an expression's mistake is.
pub(crate) fn place(node: &Node, error: ExprError) -> Draft {
    let span = match &node.kind {
        yaml::Kind::Scalar(Scalar { verbatim: Some(start), .. }) => {
            let offset = |at: usize| start.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
            let start = offset(error.at.start);
            Span { start, end: offset(error.at.end).max(start + 1), ..node.span }
        }
        _ => node.span,
    };
    let draft = Draft::error(span, error.message).link("expressions");
    error.notes.into_iter().fold(draft, Draft::note)
}

/// The message for a value of the wrong kind.
pub(crate) fn expected(node: &Node, wanted: &str) -> Draft {
    Draft::error(node.span, format!("expected {wanted}, found {}", node.describe()))
}

fn unit_error(node: &Node, error: &UnitError) -> Draft {
    let draft = Draft::error(node.span, error.to_string()).link("values");
    match error.hint() {
        Some(hint) => draft.note(hint),
        None => draft,
    }
}

impl Consts {
    pub(crate) const fn names(&self) -> Names<'_> {
        Names {
            vars: &self.vars,
            env: &self.env,
            runtime: None,
            answer: false,
            budget: &self.budget,
        }
    }

    fn scalar(&self, node: &Node, wanted: &str) -> Result<String, Draft> {
        let yaml::Kind::Scalar(scalar) = &node.kind else { return Err(expected(node, wanted)) };
        if scalar.meaning() == Plain::Null {
            return Err(expected(node, wanted));
        }
        if !scalar.text.contains("${") {
            return Ok(scalar.text.to_string());
        }
        let template =
            compile_template(&scalar.text, &self.names()).map_err(|error| place(node, error))?;
        match template.as_literal() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Draft::error(node.span, "this must be known before the test runs")
                .note("only `env`, `vars` and functions without randomness can be used here")),
        }
    }

    pub(crate) fn text(&self, node: &Node) -> Result<String, Draft> {
        self.scalar(node, "text")
    }

    pub(crate) fn bool(&self, node: &Node) -> Result<bool, Draft> {
        match self.scalar(node, "`true` or `false`")?.as_str() {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err(expected(node, "`true` or `false`")),
        }
    }

    pub(crate) fn count(&self, node: &Node) -> Result<u64, Draft> {
        const WANTED: &str = "a whole number";
        let text = self.scalar(node, WANTED)?;
        let digits = text.replace('_', "");
        match digits.parse::<u64>() {
            Ok(number) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
            _ => Err(expected(node, WANTED)),
        }
    }

    /// A whole number between two others.
    pub(crate) fn within(&self, node: &Node, min: u64, max: u64) -> Result<u64, Draft> {
        let number = self.count(node)?;
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        Err(Draft::error(node.span, format!("expected {min} to {max}, found {number}")))
    }

    pub(crate) fn count_u32(&self, node: &Node, min: u32, max: u32) -> Result<u32, Draft> {
        let number = self.within(node, u64::from(min), u64::from(max))?;
        u32::try_from(number).map_err(|_too_large| expected(node, "a smaller number"))
    }

    pub(crate) fn duration(&self, node: &Node) -> Result<Duration, Draft> {
        let text = self.scalar(node, "a duration such as `250ms` or `1m30s`")?;
        units::duration(&text).map_err(|error| unit_error(node, &error))
    }

    /// A duration that is not zero.
    pub(crate) fn positive(&self, node: &Node) -> Result<Duration, Draft> {
        let duration = self.duration(node)?;
        if duration.is_zero() {
            return Err(Draft::error(node.span, "this must be longer than zero"));
        }
        Ok(duration)
    }

    pub(crate) fn rate(&self, node: &Node) -> Result<f64, Draft> {
        let text = self.scalar(node, "a rate such as `500/s` or `30/m`")?;
        units::rate(&text).map_err(|error| unit_error(node, &error))
    }

    pub(crate) fn share(&self, node: &Node) -> Result<f64, Draft> {
        let text = self.scalar(node, "a percentage such as `1%`")?;
        units::share(&text).map_err(|error| unit_error(node, &error))
    }

    /// Milliseconds since the epoch.
    pub(crate) fn instant(&self, node: &Node) -> Result<u64, Draft> {
        const WANTED: &str = "an instant such as `2026-05-01T12:00:00Z`";
        let text = self.scalar(node, WANTED)?;
        time::parse_instant(&text).ok_or_else(|| expected(node, WANTED))
    }

    pub(crate) fn choice(
        &self,
        node: &Node,
        known: &[&'static str],
    ) -> Result<&'static str, Draft> {
        let wanted = quoted(known);
        let text = self.scalar(node, &wanted)?;
        if let Some(found) = known.iter().find(|name| **name == text) {
            return Ok(found);
        }
        let draft = expected(node, &wanted);
        if text == "find-max" {
            return Err(draft.note("`find-max` is not supported yet"));
        }
        Err(match nearest(&text, known.iter().copied()) {
            Some(near) => draft.note(format!("did you mean `{near}`?")),
            None => draft,
        })
    }

    /// One text or a list of texts, each with its node.
    pub(crate) fn texts<'n>(&self, node: &'n Node) -> Result<Vec<(String, &'n Node)>, Draft> {
        match &node.kind {
            yaml::Kind::List(items) => {
                items.iter().map(|item| Ok((self.text(item)?, item))).collect()
            }
            yaml::Kind::Scalar(_) | yaml::Kind::Map(_) => Ok(vec![(self.text(node)?, node)]),
        }
    }
}

/// `a`, `b` or `c`.
fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The section of that name.
pub(crate) fn section(name: &str) -> &'static Section {
    SECTIONS.into_iter().find(|section| section.name == name).unwrap_or(SECTIONS[0])
}

/// Compares a tree with the table.
pub(crate) struct Shape<'a> {
    pub(crate) consts: &'a Consts,
    pub(crate) collector: &'a mut Collector,
}

impl Shape<'_> {
    /// Checks a mapping. What is missing is reported `at` the key that leads to it.
    pub(crate) fn section(&mut self, node: &Node, section: &'static Section, at: Span) {
        let yaml::Kind::Map(entries) = &node.kind else {
            let draft = expected(node, "a mapping").link(section.anchor);
            self.collector.push(match section.name {
                "step" => {
                    draft.note("a step is like `get: /products` or `pause: 1s`, after its `-`")
                }
                "stage" => draft.note("a stage is like `{ to: 100, over: 1m }` or `{ hold: 5m }`"),
                "capture" => draft.note("a capture is like `{ json: \"$.id\" }`"),
                "load" => draft.note("a load is like `{ vus: 50, duration: 30s }`"),
                _ => draft.note(format!("with the keys: {}", one_of(section.names()))),
            });
            return;
        };
        let mut is_misspelt = false;
        for (key, value) in entries {
            let name = key.as_text().unwrap_or_default();
            match section.keys.iter().find(|known| known.name == name) {
                Some(known) => self.value(value, &known.kind, key, section.anchor),
                None => {
                    is_misspelt = true;
                    self.collector.push(unknown_key(key, name, section));
                }
            }
            if self.collector.is_full() {
                return;
            }
        }
        // A key that is not known is most likely the one that is missing.
        for required in section.required.iter().filter(|_| !is_misspelt) {
            let is_there = entries.iter().any(|(key, _)| key.as_text() == Some(required));
            if !is_there {
                let message = format!("`{required}` is missing");
                self.collector.push(Draft::error(at, message).link(section.anchor));
            }
        }
    }

    fn value(&mut self, node: &Node, kind: &'static Kind, key: &Node, link: &'static str) {
        match (kind, &node.kind) {
            (Kind::Section(name), _) if *name == "env" && node.is_null() => {}
            (Kind::Section(name), _) => self.section(node, section(name), key.span),
            (Kind::List(item_kind), yaml::Kind::List(items)) => {
                for item in items {
                    // Items have no key: what one lacks is reported where it begins.
                    let mut start = item.clone_place();
                    start.span.end = start.span.start + 1;
                    self.value(item, item_kind, &start, link);
                }
            }
            (Kind::Map(value_kind), yaml::Kind::Map(entries)) => {
                for (key, value) in entries {
                    self.value(value, value_kind, key, link);
                }
            }
            (Kind::OneOf(kinds), _) => self.alternatives(node, kinds, key, link),
            (Kind::Unsupported, _) => {
                let name = key.as_text().unwrap_or_default();
                let message = format!("`{name}` is not supported yet");
                self.collector.push(Draft::error(key.span, message).link(link));
            }
            (Kind::List(_) | Kind::Map(_), _) => {
                let draft = expected(node, &words(kind)).link(link);
                self.collector.push(draft);
            }
            _ => {
                if let Err(draft) = self.leaf(node, kind) {
                    self.collector.push(draft.link(link));
                }
            }
        }
    }

    fn alternatives(
        &mut self,
        node: &Node,
        kinds: &'static [Kind],
        key: &Node,
        link: &'static str,
    ) {
        let mut fitting = kinds.iter().filter(|kind| has_form(kind, node));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) if matches!(node.kind, yaml::Kind::Scalar(_)) => {
                if let Err(draft) = self.leaf(node, only) {
                    let others = kinds.iter().filter(|kind| !has_form(kind, node)).map(words);
                    let others: Vec<String> = others.collect();
                    let note = format!("or {}", others.join(" or "));
                    self.collector.push(draft.note(note).link(link));
                }
            }
            (Some(only), None) => self.value(node, only, key, link),
            (Some(_), Some(_)) if kinds.iter().any(|kind| self.leaf(node, kind).is_ok()) => {}
            _ => {
                let all: Vec<String> = kinds.iter().map(words).collect();
                let draft = expected(node, &all.join(" or ")).link(link);
                self.collector.push(draft);
            }
        }
    }

    /// Checks a value that is no collection.
    fn leaf(&self, node: &Node, kind: &Kind) -> Result<(), Draft> {
        let consts = self.consts;
        match kind {
            Kind::Text | Kind::File => consts.text(node).map(drop),
            Kind::Bool => consts.bool(node).map(drop),
            Kind::Count => consts.count(node).map(drop),
            Kind::Duration => consts.duration(node).map(drop),
            Kind::Rate => consts.rate(node).map(drop),
            Kind::Share => consts.share(node).map(drop),
            Kind::Instant => consts.instant(node).map(drop),
            Kind::Choice(known) => consts.choice(node, known).map(drop),
            Kind::Template | Kind::Expr if has_form(kind, node) && !node.is_null() => Ok(()),
            Kind::Json => Ok(()),
            Kind::Template
            | Kind::Expr
            | Kind::Section(_)
            | Kind::List(_)
            | Kind::Map(_)
            | Kind::OneOf(_)
            | Kind::Unsupported => Err(expected(node, &words(kind))),
        }
    }
}

fn unknown_key(key: &Node, name: &str, section: &'static Section) -> Draft {
    let draft = Draft::error(key.span, format!("unknown key `{}`", shorten(name)));
    let draft = draft.link(section.anchor);
    if let Some(near) = nearest(name, section.names()) {
        return draft.note(format!("did you mean `{near}`?"));
    }
    if section.name == "step"
        && ["grpc", "websocket", "sse", "tcp", "udp", "graphql"].contains(&name)
    {
        return draft.note(format!("the protocol `{name}` is not supported yet; HTTP is"));
    }
    if section.name == "check" {
        return draft.note("a check is text such as `status == 200`, or has name, expect and warn");
    }
    let elsewhere: Vec<&str> =
        SECTIONS.iter().filter(|other| other.has(name)).map(|other| other.name).collect();
    let known = format!("expected one of: {}", one_of(section.names()));
    if elsewhere.is_empty() || elsewhere.len() > 3 {
        return draft.note(known);
    }
    let places = elsewhere.iter().map(|place| format!("`{place}`")).collect::<Vec<_>>().join(", ");
    draft.note(known).note(format!("`{name}` is a key of {places}"))
}

/// Whether a node looks like a kind: a list, a mapping, or neither.
fn has_form(kind: &Kind, node: &Node) -> bool {
    match kind {
        Kind::Section(_) | Kind::Map(_) => matches!(node.kind, yaml::Kind::Map(_)),
        Kind::List(_) => matches!(node.kind, yaml::Kind::List(_)),
        Kind::Json | Kind::Unsupported => true,
        Kind::OneOf(kinds) => kinds.iter().any(|kind| has_form(kind, node)),
        Kind::Text
        | Kind::Template
        | Kind::Expr
        | Kind::Bool
        | Kind::Count
        | Kind::Duration
        | Kind::Rate
        | Kind::Share
        | Kind::Instant
        | Kind::File
        | Kind::Choice(_) => matches!(node.kind, yaml::Kind::Scalar(_)),
    }
}

/// A kind in words, as they stand in messages and in the reference.
pub(crate) fn words(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Template => "text with holes".to_owned(),
        Kind::Expr => "an expression".to_owned(),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Count => "a whole number".to_owned(),
        Kind::Duration => "a duration".to_owned(),
        Kind::Rate => "a rate".to_owned(),
        Kind::Share => "a percentage".to_owned(),
        Kind::Instant => "an instant".to_owned(),
        Kind::File => "a file".to_owned(),
        Kind::Json => "any value".to_owned(),
        Kind::Choice(names) => quoted(names),
        Kind::Section(name) => match section(name).heading {
            heading if heading == section("step").heading => "a step".to_owned(),
            heading => format!("a mapping ({})", heading.to_lowercase()),
        },
        Kind::List(inner) => match inner {
            Kind::Section("step") => "a list of steps".to_owned(),
            inner => format!("a list, each {}", words(inner)),
        },
        Kind::Map(inner) => format!("a mapping from names, each to {}", words(inner)),
        Kind::OneOf(kinds) => kinds.iter().map(words).collect::<Vec<_>>().join(" or "),
        Kind::Unsupported => "nothing yet".to_owned(),
    }
}
