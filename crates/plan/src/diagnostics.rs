//! What is wrong with a test file, where, and what to do about it.
//!
//! A diagnostic stands for itself: it holds the line that it points at, so whoever prints it needs
//! no file. All of a file come together, sorted by position, at most [`DIAGNOSTICS_MAX`].

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// Most errors that are shown of one file.
pub const DIAGNOSTICS_MAX: usize = 20;

/// Longest part of a source line that is shown.
const LINE_CHARS_MAX: usize = 96;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The test cannot run.
    Error,
    /// The test can run, but may not do what its author expects.
    Warning,
}

/// A place in a source, with the text that stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file's name, or the option that the text was given with.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters of the line are meant.
    pub width: u32,
    /// The line.
    pub text: String,
}

impl Location {
    /// The same place with stars for the characters that are meant.
    fn hidden(mut self) -> Self {
        let begin = self.column.saturating_sub(1) as usize;
        let end = begin + self.width as usize;
        let star = |(at, c)| if (begin..end).contains(&at) { '*' } else { c };
        self.text = self.text.chars().enumerate().map(star).collect();
        self
    }
}

/// One thing that is wrong or doubtful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Where; absent if it concerns no place in particular.
    pub location: Option<Location>,
    /// What was expected and what to do, a line each.
    pub notes: Vec<String>,
    /// The heading of the reference that explains it.
    pub link: Option<&'static str>,
}

/// Why a test was not compiled: at least one error, sorted by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The errors that are shown.
    pub items: Vec<Diagnostic>,
    /// How many more there are.
    pub more: usize,
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Paint::Plain))
    }
}

impl Diagnostics {
    /// The text for a person, with a line break at its end.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut parts: Vec<String> = self.items.iter().map(|item| item.render(paint)).collect();
        if self.more > 0 {
            parts.push(format!("… and {} more\n", self.more));
        }
        parts.join("\n")
    }
}

/// Whether text carries terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Letters only.
    Plain,
    /// With ANSI colours.
    Colour,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Paint::Plain))
    }
}

impl Diagnostic {
    /// The text for a person, with a line break at its end.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let (word, code) = match self.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let mut out = paint.wrap(code, word);
        out.push_str(&paint.wrap("1", &format!(": {}", printable(&self.message))));
        out.push('\n');
        let mut gutter = 2;
        if let Some(location) = &self.location {
            gutter = location.line.to_string().len() + 1;
            render_location(&mut out, location, gutter, code, paint);
        }
        let mut note = |text: &str| {
            let sign = paint.wrap("1;34", &format!("{:gutter$}=", ""));
            out.push_str(&format!("{sign} {}\n", printable(text)));
        };
        self.notes.iter().for_each(|text| note(text));
        if let Some(link) = self.link {
            note(&format!("see docs/test-file.md#{link}"));
        }
        out
    }
}

fn render_location(out: &mut String, at: &Location, gutter: usize, code: &str, paint: Paint) {
    let Location { file, line, column, width, text } = at;
    let blue = |text: &str| paint.wrap("1;34", text);
    let arrow = blue(&format!("{:indent$}-->", "", indent = gutter - 1));
    out.push_str(&format!("{arrow} {file}:{line}:{column}\n"));
    let (shown, offset, width) = window(text, *column as usize - 1, *width as usize);
    let bar = blue(&format!("{:gutter$}|", ""));
    let numbered = blue(&format!("{:<gutter$}|", line.to_string()));
    let carets = paint.wrap(code, &"^".repeat(width));
    out.push_str(&format!("{bar}\n{numbered} {shown}\n{bar} {:offset$}{carets}\n", ""));
}

/// The part of a line around what is meant, how many characters stand before that in it, and how
/// many of it are shown.
fn window(line: &str, column: usize, width: usize) -> (String, usize, usize) {
    let chars: Vec<char> = printable(line).chars().collect();
    let column = column.min(chars.len());
    let begin = if column + width.min(20) > LINE_CHARS_MAX { column.saturating_sub(20) } else { 0 };
    let end = (begin + LINE_CHARS_MAX).min(chars.len());
    let mut shown: String = chars[begin..end].iter().collect();
    let mut offset = column - begin;
    if begin > 0 {
        shown.insert(0, '…');
        offset += 1;
    }
    if end < chars.len() {
        shown.push('…');
    }
    (shown, offset, width.min(end.saturating_sub(column)).max(1))
}

/// Text that cannot steer a terminal, character for character.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                '\u{fffd}'
            }
            c => c,
        })
        .collect()
}

/// A place in one of the texts that a test is compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Span {
    /// 0 is the file, from 1 on overrides.
    pub(crate) source: u16,
    /// Byte offset of the first byte.
    pub(crate) start: u32,
    /// Byte offset after the last byte.
    pub(crate) end: u32,
}

/// A text with a name, that finds lines fast.
#[derive(Debug)]
pub(crate) struct SourceText<'a> {
    name: String,
    pub(crate) text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> SourceText<'a> {
    pub(crate) fn new(name: &str, text: &'a str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            name: name.to_owned(),
            text,
            line_starts: std::iter::once(0).chain(starts).collect(),
        }
    }

    fn locate(&self, span: Span) -> Location {
        let start = floor_boundary(self.text, span.start as usize);
        let end = floor_boundary(self.text, span.end as usize).max(start);
        let line = self.line_starts.partition_point(|&begin| begin <= start).max(1) - 1;
        let begin = self.line_starts[line];
        let text = self.text[begin..].lines().next().unwrap_or_default();
        let line_end = begin + text.len();
        let meant = &self.text[start.min(line_end)..end.min(line_end).max(start.min(line_end))];
        let width = meant.trim_end().chars().count().max(1);
        // A line may be the whole file: keep what the window needs.
        let column = self.text[begin..start.min(line_end)].chars().count();
        let text: String = text.chars().take(column + width.min(200) + 200).collect();
        Location {
            file: self.name.clone(),
            line: to_u32(line + 1),
            column: to_u32(column + 1),
            width: to_u32(width),
            text,
        }
    }
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A diagnostic before its place is looked up.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    severity: Severity,
    span: Option<Span>,
    message: String,
    notes: Vec<String>,
    link: Option<&'static str>,
    /// Whether what stands there must not be shown.
    is_hidden: bool,
}

impl Draft {
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span: Some(span),
            message: message.into(),
            notes: Vec::new(),
            link: None,
            is_hidden: false,
        }
    }

    /// Shows stars instead of the text: messages end up in logs.
    pub(crate) fn hidden(mut self) -> Self {
        self.is_hidden = true;
        self
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    pub(crate) fn nowhere(mut self) -> Self {
        self.span = None;
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn link(mut self, link: &'static str) -> Self {
        self.link = self.link.or(Some(link));
        self
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    errors: Vec<Draft>,
    warnings: Vec<Draft>,
    wrong: BTreeSet<Span>,
    overflown: usize,
}

/// Most diagnostics that are kept before they are sorted: enough to show the first, few enough
/// for a file of nothing but mistakes.
const COLLECTED_MAX: usize = 1_000;

impl Collector {
    pub(crate) fn push(&mut self, draft: Draft) {
        let list = match draft.severity {
            Severity::Error => {
                self.wrong.extend(draft.span);
                &mut self.errors
            }
            Severity::Warning => &mut self.warnings,
        };
        if list.len() < COLLECTED_MAX {
            list.push(draft);
        } else if draft.severity == Severity::Error {
            self.overflown += 1;
        }
    }

    /// Adds an error unless there is one at the same place: what reads a value a second time has
    /// nothing new to say.
    pub(crate) fn push_once(&mut self, draft: Draft) {
        if draft.span.is_none_or(|span| !self.wrong.contains(&span)) {
            self.push(draft);
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Whether so much is wrong that more would help nobody.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() >= COLLECTED_MAX
    }

    /// Drops the errors in lines that `is_known` picks.
    pub(crate) fn forget_lines(
        &mut self,
        sources: &[SourceText<'_>],
        is_known: impl Fn(&str) -> bool,
    ) {
        self.errors.retain(|draft| {
            let place =
                draft.span.and_then(|span| Some((sources.get(usize::from(span.source))?, span)));
            place.is_none_or(|(source, span)| !is_known(&source.locate(span).text))
        });
    }

    /// The warnings, or the errors if there is one.
    pub(crate) fn finish(self, sources: &[SourceText<'_>]) -> Result<Vec<Diagnostic>, Diagnostics> {
        let resolve = |draft: &Draft| Diagnostic {
            severity: draft.severity,
            message: draft.message.clone(),
            location: draft
                .span
                .and_then(|span| Some(sources.get(usize::from(span.source))?.locate(span)))
                .map(|place| if draft.is_hidden { place.hidden() } else { place }),
            notes: draft.notes.clone(),
            link: draft.link,
        };
        let sorted = |mut drafts: Vec<Draft>| {
            drafts.sort_by_key(|draft| draft.span.unwrap_or_default());
            // A block that is used twice says the same thing twice, but not always in a row.
            let mut seen = BTreeSet::new();
            drafts.retain(|draft| seen.insert((draft.span, draft.message.clone())));
            drafts
        };
        if self.errors.is_empty() {
            return Ok(sorted(self.warnings).iter().take(DIAGNOSTICS_MAX).map(resolve).collect());
        }
        let errors = sorted(self.errors);
        let items: Vec<Diagnostic> = errors.iter().take(DIAGNOSTICS_MAX).map(resolve).collect();
        let more = errors.len() - items.len() + self.overflown;
        Err(Diagnostics { items, more })
    }
}

/// Longest names that are compared: the work of a comparison is their product.
const NEAREST_CHARS_MAX: usize = 48;

/// The known name that `name` is most likely a slip of.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    if length > NEAREST_CHARS_MAX {
        return None;
    }
    let allowed = match length {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= NEAREST_CHARS_MAX)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal
/// string alignment), with letters compared whatever their case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows = [vec![0; b.len() + 1], (0..=b.len()).collect(), vec![0; b.len() + 1]];
    for i in 1..=a.len() {
        rows[2][0] = i;
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[1][j] + 1).min(rows[2][j - 1] + 1).min(rows[1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[0][j - 2] + 1);
            }
            rows[2][j] = best;
        }
        rows.rotate_left(1);
    }
    rows[1][b.len()]
}

/// `a`, `b` or `c`, in one line that stays readable.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.len().min(30);
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        write!(text, " and {} more", names.len() - shown).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_for_slips_only() {
        let known = ["stages", "start_rate", "max_vus"];

        assert_eq!(nearest("stagse", known), Some("stages"));
        assert_eq!(nearest("maxvus", known), Some("max_vus"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn text_of_a_file_cannot_steer_the_terminal() {
        let source = SourceText::new("t.yaml", "a\x1b[2J: b\n");
        let mut collector = Collector::default();
        collector.push(Draft::error(Span { source: 0, start: 0, end: 5 }, "odd \x07 key"));

        let text = collector.finish(&[source]).unwrap_err().to_string();

        assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text:?}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = "x".repeat(100_000);
        let source = SourceText::new("t.yaml", &line);
        let mut collector = Collector::default();
        collector.push(Draft::error(Span { source: 0, start: 50_000, end: 50_003 }, "here"));

        let text = collector.finish(&[source]).unwrap_err().to_string();

        assert!(text.contains("t.yaml:1:50001") && text.len() < 1_000, "{text}");
    }
}
