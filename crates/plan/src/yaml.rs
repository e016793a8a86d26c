//! YAML as a tree that knows where everything stands, read under hard limits.
//!
//! The parser hands out events; the tree is built from them without recursion. Depth, nodes and
//! text are counted as if aliases were written out, so a file that explodes is refused before it
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::diagnostics::{Draft, Span};

/// Largest file.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting.
pub(crate) const DEPTH_MAX: usize = 64;
/// Most nodes, those of aliases included.
const NODES_MAX: usize = 100_000;
/// Most text in scalars, that of aliases included.
const TEXT_BYTES_MAX: usize = 2 << 20;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// A scalar as it was written.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: Arc<str>,
    /// Without quotes: may be a number, a truth value or nothing.
    pub(crate) is_plain: bool,
    /// Where the text begins in the source if it stands there letter for letter.
    pub(crate) verbatim: Option<u32>,
}

/// What a plain scalar means by the core schema of YAML 1.2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plain<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

impl Scalar {
    pub(crate) fn meaning(&self) -> Plain<'_> {
        let text: &str = &self.text;
        if !self.is_plain {
            return Plain::Text(text);
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
            "true" | "True" | "TRUE" => return Plain::Bool(true),
            "false" | "False" | "FALSE" => return Plain::Bool(false),
            _ => {}
        }
        if let Ok(number) = text.parse::<i64>() {
            return Plain::Int(number);
        }
        if let Some(number) = text.strip_prefix("0x").and_then(|d| i64::from_str_radix(d, 16).ok())
        {
            return Plain::Int(number);
        }
        let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
            && text.contains(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
        match text.parse::<f64>() {
            Ok(number) if is_number && number.is_finite() => Plain::Float(number),
            _ => Plain::Text(text),
        }
    }
}

impl Node {
    pub(crate) fn text(text: &str, span: Span) -> Self {
        let scalar = Scalar { text: text.into(), is_plain: false, verbatim: None };
        Self { span, kind: Kind::Scalar(scalar) }
    }

    /// Something without content at the same place.
    pub(crate) fn clone_place(&self) -> Self {
        Self::text("", self.span)
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.meaning() == Plain::Null)
    }

    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            Kind::Scalar(_) if self.is_null() => "nothing".to_owned(),
            Kind::Scalar(scalar) if scalar.text.is_empty() => "empty text".to_owned(),
            Kind::Scalar(scalar) => format!("`{}`", shorten(&scalar.text)),
        }
    }
}

/// Text that fits into a message.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a subtree costs if it is written out.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    text: usize,
    depth: usize,
}

struct Open {
    node: Node,
    /// The key that waits for its value.
    key: Option<Node>,
    keys: BTreeSet<Arc<str>>,
    anchor: usize,
    cost: Cost,
}

struct Builder<'a> {
    source: u16,
    text: &'a str,
    /// Byte offsets of characters; empty if the text is ASCII.
    offsets: Vec<u32>,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, (Node, Cost)>,
    /// What the copies behind anchors take: each anchor keeps all that it holds.
    kept_nodes: usize,
    spent: Cost,
    root: Option<Node>,
    errors: Vec<Draft>,
}

/// Reads one document.
pub(crate) fn parse(source: u16, text: &str) -> Result<Node, Vec<Draft>> {
    let whole = |message: String| {
        let end = u32::from(!text.is_empty());
        vec![Draft::error(Span { source, start: 0, end }, message).link("limits")]
    };
    if text.len() > FILE_BYTES_MAX {
        let size = text.len();
        return Err(whole(format!("the file has {size} bytes; {FILE_BYTES_MAX} are allowed")));
    }
    if let Some(at) = text.find('\0') {
        let start = u32::try_from(at).unwrap_or(u32::MAX);
        let span = Span { source, start, end: start + 1 };
        return Err(vec![Draft::error(span, "a NUL byte stands in the file").link("yaml")]);
    }
    let offsets = if text.is_ascii() {
        Vec::new()
    } else {
        text.char_indices().map(|(at, _)| u32::try_from(at).unwrap_or(u32::MAX)).collect()
    };
    let mut builder = Builder {
        source,
        text,
        offsets,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        kept_nodes: 0,
        spent: Cost::default(),
        root: None,
        errors: Vec::new(),
    };
    if let Err(error) = builder.run() {
        builder.errors.push(error);
    }
    match builder.root {
        _ if !builder.errors.is_empty() => Err(builder.errors),
        Some(root) => Ok(root),
        None => Err(vec![
            Draft::error(Span { source, start: 0, end: 1 }, "the file is empty")
                .note("the reference begins with the smallest test")
                .link("the-file"),
        ]),
    }
}

impl<'a> Builder<'a> {
    fn run(&mut self) -> Result<(), Draft> {
        let mut parser: Parser<'a, StrInput<'a>> = Parser::new_from_str(self.text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, at) = event.map_err(|error| {
                let start = self.byte(error.marker().index());
                let span = Span { source: self.source, start, end: start + 1 };
                explain(span, error.info())
            })?;
            let span = Span {
                source: self.source,
                start: self.byte(at.start.index()),
                end: self.byte(at.end.index()),
            };
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Draft::error(span, "a test file holds one document")
                            .note("remove the `---` line and what follows it")
                            .link("yaml"));
                    }
                }
                Event::Alias(anchor) => {
                    let Some((node, cost)) = self.anchors.get(&anchor) else {
                        return Err(Draft::error(span, "an alias refers to itself").link("yaml"));
                    };
                    let (mut node, cost) = (node.clone(), *cost);
                    node.span = span;
                    self.add(node, cost)?;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_tag(span, tag.is_some())?;
                    let (node, cost) = self.scalar(span, &text, style);
                    if anchor > 0 {
                        self.keep(anchor, &node, cost)?;
                    }
                    self.add(node, cost)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.refuse_tag(span, tag.is_some())?;
                    self.open(span, Kind::List(Vec::new()), anchor)?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.refuse_tag(span, tag.is_some())?;
                    self.open(span, Kind::Map(Vec::new()), anchor)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            }
        }
        Ok(())
    }

    fn byte(&self, index: usize) -> u32 {
        let end = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        if self.offsets.is_empty() {
            u32::try_from(index).unwrap_or(u32::MAX).min(end)
        } else {
            self.offsets.get(index).copied().unwrap_or(end)
        }
    }

    fn refuse_tag(&self, span: Span, has_tag: bool) -> Result<(), Draft> {
        if has_tag {
            return Err(Draft::error(span, "tags such as `!name` have no meaning here")
                .note("put text that begins with `!` in quotes")
                .link("yaml"));
        }
        Ok(())
    }

    fn scalar(&self, mut span: Span, text: &str, style: ScalarStyle) -> (Node, Cost) {
        // The parser's spans take in the blanks after a scalar.
        if let Some(written) = self.text.get(span.start as usize..span.end as usize) {
            span.end = span.start + u32::try_from(written.trim_end().len()).unwrap_or(0);
        }
        let is_plain = style == ScalarStyle::Plain;
        let start = span.start + u32::from(!is_plain);
        let stands = self.text.get(start as usize..).is_some_and(|rest| rest.starts_with(text));
        let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        let verbatim = (stands && !is_block).then_some(start);
        let scalar = Scalar { text: text.into(), is_plain, verbatim };
        let cost = Cost { nodes: 1, text: text.len(), depth: 0 };
        (Node { span, kind: Kind::Scalar(scalar) }, cost)
    }

    fn open(&mut self, span: Span, kind: Kind, anchor: usize) -> Result<(), Draft> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(Draft::error(span, format!("nested more than {DEPTH_MAX} levels deep"))
                .link("limits"));
        }
        let cost = Cost { nodes: 1, text: 0, depth: 1 };
        let node = Node { span, kind };
        self.stack.push(Open { node, key: None, keys: BTreeSet::new(), anchor, cost });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Draft> {
        let Some(mut open) = self.stack.pop() else { return Ok(()) };
        // The end of a block collection is where the next thing begins: keep to its own text.
        open.node.span.end = match last_end(&open.node) {
            Some(last) if end.start >= end.end => last,
            _ => end.end.max(open.node.span.end),
        };
        if open.anchor > 0 {
            self.keep(open.anchor, &open.node, open.cost)?;
        }
        self.spent.nodes = self.spent.nodes.saturating_sub(open.cost.nodes);
        self.spent.text = self.spent.text.saturating_sub(open.cost.text);
        self.add(open.node, open.cost)
    }

    fn keep(&mut self, anchor: usize, node: &Node, cost: Cost) -> Result<(), Draft> {
        self.kept_nodes += cost.nodes;
        if self.kept_nodes > NODES_MAX {
            let message = format!("anchors hold more than {NODES_MAX} values");
            return Err(Draft::error(node.span, message).link("limits"));
        }
        self.anchors.insert(anchor, (node.clone(), cost));
        Ok(())
    }

    /// Puts a whole node where it belongs.
    fn add(&mut self, node: Node, cost: Cost) -> Result<(), Draft> {
        self.spent.nodes += cost.nodes;
        self.spent.text += cost.text;
        if self.spent.nodes > NODES_MAX || self.spent.text > TEXT_BYTES_MAX {
            let what = if self.spent.nodes > NODES_MAX {
                format!("more than {NODES_MAX} values")
            } else {
                format!("more than {TEXT_BYTES_MAX} bytes of text")
            };
            return Err(Draft::error(node.span, format!("the file holds {what}"))
                .note("aliases count as if they were written out")
                .link("limits"));
        }
        if self.stack.len() + cost.depth > DEPTH_MAX {
            return Err(Draft::error(
                node.span,
                format!("nested more than {DEPTH_MAX} levels deep"),
            )
            .link("limits"));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.cost.nodes += cost.nodes;
        open.cost.text += cost.text;
        open.cost.depth = open.cost.depth.max(cost.depth + 1);
        match &mut open.node.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries) => match open.key.take() {
                None => {
                    match &node.kind {
                        Kind::Scalar(scalar) => {
                            if &*scalar.text == "<<" && scalar.is_plain {
                                self.errors.push(
                                    Draft::error(node.span, "merge keys (`<<`) are not supported")
                                        .note("name shared steps in `blocks`, shared settings in `defaults`").link("yaml"),
                                );
                            } else if !open.keys.insert(scalar.text.clone()) {
                                let name = shorten(&scalar.text);
                                let message = format!("the key `{name}` is given twice");
                                self.errors.push(Draft::error(node.span, message).link("yaml"));
                            }
                        }
                        Kind::List(_) | Kind::Map(_) => {
                            return Err(Draft::error(node.span, "a key must be text").note(
                                "text with `{`, `}`, `[` or `]` at its start must be put in quotes",
                            ).link("yaml"));
                        }
                    }
                    open.key = Some(node);
                }
                Some(key) => entries.push((key, node)),
            },
            Kind::Scalar(_) => {}
        }
        if self.errors.len() > 100 {
            self.root = None;
            return Err(Draft::error(
                Span { source: self.source, ..Span::default() },
                "too many errors",
            ));
        }
        Ok(())
    }
}

fn last_end(node: &Node) -> Option<u32> {
    match &node.kind {
        Kind::Scalar(_) => Some(node.span.end),
        Kind::List(items) => items.last().map(|item| item.span.end),
        Kind::Map(entries) => entries.last().map(|(key, value)| value.span.end.max(key.span.end)),
    }
}

fn explain(span: Span, info: &str) -> Draft {
    if info.contains("recursion limit") {
        return Draft::error(span, format!("nested more than {DEPTH_MAX} levels deep"))
            .link("limits");
    }
    let draft = Draft::error(span, format!("this is not valid YAML: {info}")).link("yaml");
    let note = if info.contains("tab") {
        "indent with spaces"
    } else if info.contains("mapping values") || info.contains("simple key") {
        "check the indentation of this line and the one before; put text that holds `: ` in quotes"
    } else if info.contains("flow sequence") || info.contains("flow mapping") {
        "a bracket may be open still; inside `[…]` and `{…}` put text that holds `,` or brackets in quotes"
    } else if info.contains("unknown anchor") {
        "put text that begins with `*` in quotes"
    } else {
        return draft;
    };
    draft.note(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_error(text: &str) -> String {
        format!("{:?}", parse(0, text).unwrap_err().first())
    }

    #[test]
    fn places_are_bytes_of_the_source() {
        let text = "é: [ äb, \"c d\" ]\n";

        let root = parse(0, text).unwrap();

        let Kind::Map(entries) = &root.kind else { panic!("no map: {root:?}") };
        let Kind::List(items) = &entries[0].1.kind else { panic!("no list: {root:?}") };
        let cut = |span: Span| &text[span.start as usize..span.end as usize];
        assert_eq!(cut(entries[0].0.span), "é");
        assert_eq!(cut(items[0].span), "äb");
        assert_eq!(cut(items[1].span), "\"c d\"");
    }

    #[test]
    fn hostile_files_end_in_an_error() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(first_error(&bomb).contains("holds more than"), "{}", first_error(&bomb));
        assert!(first_error(&"[".repeat(100_000)).contains("nested"));
        assert!(first_error(&"{a: ".repeat(100_000)).contains("nested"));
        assert!(first_error(&"- ".repeat(100_000)).contains("nested"));
        assert!(first_error("a: &a [*a]").contains("alias"));
        assert!(first_error("a: 1\na: 2").contains("given twice"));
        assert!(first_error("a: b\0").contains("NUL"));
        assert!(first_error(&"x".repeat(FILE_BYTES_MAX + 1)).contains("bytes"));
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(900_000), ["*a"; 1_000].join(","));
        assert!(first_error(&long).contains("bytes of text"));
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let meaning = |text: &str| {
            let scalar = Scalar { text: text.into(), is_plain: true, verbatim: None };
            format!("{:?}", scalar.meaning())
        };

        assert_eq!(meaning("yes"), "Text(\"yes\")");
        assert_eq!(meaning("12"), "Int(12)");
        assert_eq!(meaning("1e3"), "Float(1000.0)");
        assert_eq!(meaning("0x1f"), "Int(31)");
        assert_eq!(meaning("1.2.3"), "Text(\"1.2.3\")");
        assert_eq!(meaning("~"), "Null");
    }
}
