//! `--set path=value`: values that take the place of what the file says.

use crate::diagnostics::{Collector, Draft, Span};
use crate::yaml::{self, Kind, Node, shorten};

/// Puts each value at its path. What stands there is checked later, as if the file said it.
pub(super) fn apply(root: &mut Node, sets: &[(String, String)], collector: &mut Collector) {
    for (index, (path, value)) in sets.iter().enumerate() {
        let source = u16::try_from(index + 1).unwrap_or(u16::MAX);
        // The value is read in place, so that its errors point into `path=value`.
        let begin = path.len() + 1;
        let read = if value.trim().is_empty() {
            let at = to_u32(begin);
            Ok(Node::text(value, Span { source, start: at, end: at + 1 }))
        } else {
            yaml::parse(source, &format!("{}{value}", " ".repeat(begin)))
        };
        let outcome =
            read.and_then(|value| put(root, source, path, value).map_err(|draft| vec![draft]));
        if let Err(drafts) = outcome {
            drafts.into_iter().for_each(|draft| collector.push(draft));
        }
    }
}

fn put(root: &mut Node, source: u16, path: &str, value: Node) -> Result<(), Draft> {
    if path.split('.').count() > yaml::DEPTH_MAX {
        let span = Span { source, start: 0, end: to_u32(path.len()) };
        return Err(Draft::error(span, "the path has too many parts"));
    }
    let mut node = root;
    let mut start = 0;
    for segment in path.split('.') {
        let span = Span { source, start: to_u32(start), end: to_u32(start + segment.len().max(1)) };
        start += segment.len() + 1;
        if segment.is_empty() {
            return Err(Draft::error(span, "a name is missing in the path")
                .note("a path is like `workflows.browse.load.max_vus`; places of a list are numbers from 0"));
        }
        if node.is_null() {
            node.kind = Kind::Map(Vec::new());
        }
        node = match &mut node.kind {
            Kind::Map(entries) => {
                let found = entries.iter().position(|(key, _)| key.as_text() == Some(segment));
                let at = found.unwrap_or(entries.len());
                if found.is_none() {
                    let empty = Node { span, kind: Kind::Map(Vec::new()) };
                    entries.push((Node::text(segment, span), empty));
                }
                &mut entries[at].1
            }
            Kind::List(items) => {
                let count = items.len();
                match segment.parse::<usize>().ok().and_then(|at| items.get_mut(at)) {
                    Some(item) => item,
                    None => {
                        return Err(Draft::error(
                            span,
                            format!("`{}` is no place in a list of {count}", shorten(segment)),
                        )
                        .note("places of a list are numbers from 0"));
                    }
                }
            }
            Kind::Scalar(scalar) => {
                let text = shorten(&scalar.text);
                return Err(Draft::error(
                    span,
                    format!("the path leads into `{text}`, which has no parts"),
                ));
            }
        };
    }
    *node = value;
    Ok(())
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
