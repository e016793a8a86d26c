//! Workflows: their order, what they give to each other, and their parts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::WorkflowIndex;

use super::{Compiler, Fields, items};
use crate::diagnostics::{Draft, Span};
use crate::expr::check::Runtime;
use crate::ir::{After, LocalIndex, OnError, Publish, Workflow};
use crate::load::Load;
use crate::shape::Consts;
use crate::yaml::{Kind, Node, shorten};

/// Most workflows of a test.
const WORKFLOWS_MAX: usize = 256;
/// Most variables of a workflow.
const LOCALS_MAX: usize = 1_000;
const GRACEFUL_STOP_DEFAULT: Duration = Duration::from_secs(30);
const COLLECT_DEFAULT: u32 = 1_000;
const COLLECT_MAX: u32 = 100_000;

/// A workflow before its steps are read.
struct Outline<'n> {
    name: &'n str,
    key: &'n Node,
    fields: Fields<'n>,
    after: After,
    locals: Vec<String>,
    publish: Vec<Publish>,
}

impl<'n> Compiler<'n> {
    pub(super) fn workflows(&mut self, file: Fields<'n>) -> Vec<Workflow> {
        let Some((section_key, section)) = file.entry("workflows") else { return Vec::new() };
        let entries: Vec<_> = Fields::of(section).iter().collect();
        if entries.is_empty() {
            self.collector.push_once(
                Draft::error(section_key.span, "a test has at least one workflow")
                    .link("workflows"),
            );
        }
        if entries.len() > WORKFLOWS_MAX {
            let message = format!("a test has at most {WORKFLOWS_MAX} workflows");
            self.collector.push(Draft::error(section_key.span, message).link("limits"));
            return Vec::new();
        }
        let names: Vec<&str> = entries.iter().map(|(name, ..)| *name).collect();
        let mut outlines = Vec::with_capacity(entries.len());
        for &(name, key, node) in &entries {
            let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
                && name.len() <= 64;
            if !is_plain {
                self.collector.push_once(
                    Draft::error(
                        key.span,
                        format!("`{}` is no name for a workflow", shorten(name)),
                    )
                    .note("a name has at most 64 letters, digits, `_` and `-`, a letter first"),
                );
            }
            let fields = Fields::of(node);
            let after = self.after(name, fields, &names);
            let locals = self.locals(fields);
            let publish = self.publish(key, fields, &locals);
            outlines.push(Outline { name, key, fields, after, locals, publish });
        }
        let ancestors = self.ancestors(&outlines);
        let data = std::mem::take(&mut self.runtime.data);
        self.runtime = Runtime { secrets: self.secret_names.clone(), data, ..Runtime::default() };
        let mut workflows = Vec::with_capacity(outlines.len());
        for (at, outline) in outlines.iter().enumerate() {
            self.runtime.locals.clone_from(&outline.locals);
            self.runtime.published = BTreeMap::new();
            self.runtime.unreachable = Vec::new();
            for (other, it) in outlines.iter().enumerate() {
                if ancestors.get(at).is_some_and(|before| before.contains(&other)) {
                    let published = it.publish.iter().map(|p| p.name.clone()).collect();
                    (self.runtime.published).insert(it.name.to_owned(), (index(other), published));
                } else if other != at {
                    self.runtime.unreachable.push(it.name.to_owned());
                }
            }
            workflows.push(self.workflow(at, outline));
        }
        workflows
    }

    fn workflow(&mut self, at: usize, outline: &Outline<'n>) -> Workflow {
        let fields = outline.fields;
        let at = u16::try_from(at).unwrap_or(u16::MAX);
        let name = outline.name;
        let each_vu = fields.below("each_vu");
        let mut longest = Duration::ZERO;
        let steps = self.workflow_steps(fields.entry("steps"), at, name, &mut longest);
        if let Some((key, node)) = fields.entry("steps")
            && steps.is_empty()
            && items(node).is_empty()
        {
            self.collector.push_once(Draft::error(key.span, "there are no steps").link("steps"));
        }
        let vu_setup = self.workflow_steps(each_vu.entry("setup"), at, name, &mut longest);
        let vu_teardown = self.workflow_steps(each_vu.entry("teardown"), at, name, &mut longest);
        let finally = self.workflow_steps(fields.entry("finally"), at, name, &mut longest);
        let timeout = if longest.is_zero() { self.defaults.timeout } else { longest };
        let load = fields
            .entry("load")
            .and_then(|(key, node)| self.load(key, node, timeout))
            .unwrap_or(Load::Once { max_duration: Duration::from_secs(1) });
        Workflow {
            name: name.to_owned(),
            after: outline.after.clone(),
            load,
            steps,
            locals: outline.locals.clone(),
            publish: outline.publish.clone(),
            start_after: (self.read(fields.get("start_after"), Consts::duration))
                .unwrap_or_default(),
            graceful_stop: (self.read(fields.get("graceful_stop"), Consts::duration))
                .unwrap_or(GRACEFUL_STOP_DEFAULT),
            cores: self.cores(fields),
            on_error: match self.word(fields.get("on_error")).as_deref() {
                Some("end-iteration") => OnError::EndIteration,
                Some("end-vu") => OnError::EndVu,
                Some("abort") => OnError::Abort,
                _ => OnError::Continue,
            },
            vu_setup,
            vu_teardown,
            finally,
        }
    }

    fn cores(&mut self, fields: Fields<'n>) -> Option<u32> {
        let node = fields.get("cores");
        let node = node.filter(|node| !matches!(self.consts.text(node).as_deref(), Ok("auto")));
        self.read(node, |consts, node| consts.count_u32(node, 1, 1_000_000))
    }

    fn after(&mut self, own: &str, fields: Fields<'n>, names: &[&str]) -> After {
        let Some(node) = fields.get("after") else { return After::default() };
        let (list, any_end) = match &node.kind {
            Kind::Map(_) => (Fields::of(node).get("any"), true),
            Kind::List(_) | Kind::Scalar(_) => (Some(node), false),
        };
        let mut workflows: Vec<WorkflowIndex> = Vec::new();
        for (name, node) in self.read(list, Consts::texts).unwrap_or_default() {
            match names.iter().position(|known| *known == name) {
                _ if name == own => {
                    let draft = Draft::error(node.span, "a workflow cannot wait for itself");
                    self.collector.push(draft.link("after"));
                }
                Some(at) if !workflows.contains(&index(at)) => workflows.push(index(at)),
                Some(_) => {}
                None => {
                    let others = names.iter().copied().filter(|name| *name != own);
                    let draft = Self::unknown(node.span, "workflow", &name, others);
                    self.collector.push(draft.link("after"));
                }
            }
        }
        After { workflows, any_end }
    }

    /// For each workflow those that have ended when it starts. Refuses circles.
    fn ancestors(&mut self, outlines: &[Outline<'n>]) -> Vec<BTreeSet<usize>> {
        let mut ancestors: Vec<BTreeSet<usize>> = outlines
            .iter()
            .map(|outline| outline.after.workflows.iter().map(|w| usize::from(w.0)).collect())
            .collect();
        // At most 256 workflows: as many rounds as the longest chain has links.
        loop {
            let before: usize = ancestors.iter().map(BTreeSet::len).sum();
            for at in 0..ancestors.len() {
                let further: BTreeSet<usize> = ancestors[at]
                    .iter()
                    .filter_map(|other| ancestors.get(*other))
                    .flatten()
                    .copied()
                    .collect();
                ancestors[at].extend(further);
            }
            if ancestors.iter().map(BTreeSet::len).sum::<usize>() == before {
                break;
            }
        }
        let circle: Vec<usize> =
            (0..outlines.len()).filter(|at| ancestors[*at].contains(at)).collect();
        if let Some(first) = circle.first().and_then(|at| outlines.get(*at)) {
            let names: Vec<&str> =
                circle.iter().filter_map(|at| outlines.get(*at)).map(|o| o.name).collect();
            let span = first.fields.entry("after").map_or(first.key.span, |(key, _)| key.span);
            self.collector.push(
                Draft::error(span, "workflows wait for each other in a circle")
                    .note(format!("in it: {}", names.join(", ")))
                    .link("after"),
            );
        }
        ancestors
    }

    /// The names that captures and `set` of a workflow give values to, sorted.
    fn locals(&mut self, fields: Fields<'n>) -> Vec<String> {
        let mut names = BTreeSet::new();
        let mut seen_blocks = BTreeSet::new();
        let each_vu = fields.below("each_vu");
        // A work list, not recursion: blocks can form chains as long as the file.
        let mut lists: Vec<&'n Node> = [
            fields.get("steps"),
            fields.get("finally"),
            each_vu.get("setup"),
            each_vu.get("teardown"),
        ]
        .into_iter()
        .flatten()
        .collect();
        while let Some(list) = lists.pop() {
            for step in items(list) {
                let step = Fields::of(step);
                for (name, key, node) in step.iter() {
                    match name {
                        "capture" | "set" => {
                            for (_, key, _) in Fields::of(node).iter() {
                                self.local(key, &mut names);
                            }
                        }
                        "use" => {
                            if let Some(name) = node.as_text()
                                && let Some(block) = self.blocks.get(name)
                                && seen_blocks.insert(name)
                            {
                                lists.push(block);
                            }
                        }
                        "parallel" => lists.push(node),
                        "choose" => {
                            lists.extend(
                                items(node).iter().filter_map(|c| Fields::of(c).get("steps")),
                            );
                        }
                        "group" | "repeat" | "while" | "if" => {
                            let inner = Fields::of(node);
                            lists.extend(
                                ["steps", "then", "else"].iter().filter_map(|k| inner.get(k)),
                            );
                        }
                        _ => {}
                    }
                    if names.len() > LOCALS_MAX {
                        let message = format!("a workflow has at most {LOCALS_MAX} variables");
                        self.collector.push_once(Draft::error(key.span, message).link("limits"));
                        return Vec::new();
                    }
                }
            }
        }
        names.into_iter().collect()
    }

    fn local(&mut self, key: &Node, names: &mut BTreeSet<String>) {
        let Some(name) = self.identifier(key, "a variable") else { return };
        if self.data.iter().any(|source| source.name == name) {
            let message = format!("`{name}` is a data source already");
            self.collector.push_once(Draft::error(key.span, message));
        }
        names.insert(name);
    }

    fn publish(&mut self, own: &Node, fields: Fields<'n>, locals: &[String]) -> Vec<Publish> {
        let Some((key, node)) = fields.entry("publish") else { return Vec::new() };
        let wanted: Vec<(String, Span, Option<u32>, String)> = match &node.kind {
            Kind::Map(_) => {
                let mut wanted = Vec::new();
                for (name, name_key, value) in Fields::of(node).iter() {
                    if self.identifier(name_key, "a published value").is_none() {
                        continue;
                    }
                    let inner = Fields::of(value);
                    let (local, collect) = match &value.kind {
                        Kind::Map(_) => {
                            let limit = self.read(inner.get("limit"), |consts, node| {
                                consts.count_u32(node, 1, COLLECT_MAX)
                            });
                            (inner.get("collect"), Some(limit.unwrap_or(COLLECT_DEFAULT)))
                        }
                        Kind::Scalar(_) | Kind::List(_) => (Some(value), None),
                    };
                    let span = local.map_or(name_key.span, |node| node.span);
                    if let Some(local) = self.read(local, Consts::text) {
                        wanted.push((name.to_owned(), span, collect, local));
                    }
                }
                wanted
            }
            Kind::List(_) | Kind::Scalar(_) => {
                let texts = self.read(Some(node), Consts::texts).unwrap_or_default();
                texts
                    .into_iter()
                    .map(|(text, node)| (text.clone(), node.span, None, text))
                    .collect()
            }
        };
        let own_name = own.as_text().unwrap_or_default();
        if own_name.contains('-') {
            self.collector.push(
                Draft::error(key.span, format!("nothing can read what `{own_name}` publishes"))
                    .note("in `${…}` a name with `-` would be a subtraction; rename the workflow")
                    .link("publish"),
            );
        }
        if self.data.iter().any(|source| source.name == own_name)
            || crate::expr::check::is_reserved(own_name)
        {
            let message = format!("`{own_name}` means something else in expressions already");
            self.collector.push(
                Draft::error(own.span, message)
                    .note("a workflow that publishes needs a name of its own")
                    .link("publish"),
            );
        }
        let mut published: Vec<Publish> = Vec::new();
        for (name, span, collect, local) in wanted {
            match locals.iter().position(|known| *known == local) {
                Some(_) if published.iter().any(|other| other.name == name) => {
                    self.error(span, format!("`{name}` is published twice"));
                }
                Some(at) => {
                    let local = LocalIndex(u16::try_from(at).unwrap_or(u16::MAX));
                    published.push(Publish { name, local, collect });
                }
                None => {
                    let known = locals.iter().map(String::as_str);
                    let draft = Self::unknown(span, "capture or variable", &local, known);
                    self.collector.push(draft.link("publish"));
                }
            }
        }
        published
    }
}

fn index(at: usize) -> WorkflowIndex {
    // At most 256 workflows.
    WorkflowIndex(u16::try_from(at).unwrap_or(u16::MAX))
}
