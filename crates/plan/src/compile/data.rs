//! Sources of rows: files become blobs with one JSON value a line.

use std::collections::BTreeSet;

use super::{Compiler, DATA_BYTES_MAX, Fields, cannot_read, items};
use crate::diagnostics::Draft;
use crate::expr::check::SourceNames;
use crate::expr::functions::Ty;
use crate::expr::pattern::select;
use crate::expr::{Expr, Var};
use crate::ir::{DataSource, OnEnd, Pick, Plan, Workflow};
use crate::shape::Consts;
use crate::walk;
use crate::yaml::Node;

/// Most sources of a test.
const SOURCES_MAX: usize = 256;
/// Most values in a JSON file: as a tree each takes about a hundred bytes.
const JSON_VALUES_MAX: usize = 2_000_000;
/// Most columns of a row, and most names that are known of its fields.
const COLUMNS_MAX: usize = 1_000;

const ORIGINS: &[&str] = &["csv", "json", "jsonl", "values"];

/// Rows as they travel.
#[derive(Default)]
struct Rows {
    lines: Vec<u8>,
    count: u64,
    /// The names of the fields if rows are lists.
    columns: Option<Vec<String>>,
    /// What fields the rows have, as long as all have names.
    fields: Option<BTreeSet<String>>,
}

impl Rows {
    fn new() -> Self {
        Self { fields: Some(BTreeSet::new()), ..Self::default() }
    }

    fn push(&mut self, row: &serde_json::Value) -> Result<(), String> {
        match (row.as_object(), &mut self.fields) {
            (Some(object), Some(fields)) => {
                fields.extend(object.keys().take(COLUMNS_MAX).cloned());
                if fields.len() > COLUMNS_MAX {
                    self.fields = None;
                }
            }
            (_, fields) => *fields = None,
        }
        self.write(row)
    }

    fn write(&mut self, row: &impl serde::Serialize) -> Result<(), String> {
        serde_json::to_writer(&mut self.lines, row).map_err(|error| error.to_string())?;
        self.lines.push(b'\n');
        self.count += 1;
        if self.lines.len() > 2 * DATA_BYTES_MAX {
            return Err(format!("its rows take more than {} bytes", 2 * DATA_BYTES_MAX));
        }
        Ok(())
    }
}

impl<'n> Compiler<'n> {
    pub(super) fn data_sources(&mut self, file: Fields<'n>) {
        for (_, key, node) in file.below("data").iter() {
            let Some(name) = self.identifier(key, "a data source") else { continue };
            if self.data.len() >= SOURCES_MAX {
                self.error(key.span, format!("a test has at most {SOURCES_MAX} data sources"));
                return;
            }
            let fields = Fields::of(node);
            let rows = self.rows(key, fields).unwrap_or_default();
            let pick = match self.word(fields.get("pick")).as_deref() {
                Some("random") => Pick::Random,
                Some("shuffle") => Pick::Shuffle,
                Some("unique") => Pick::Unique,
                _ => Pick::Sequential,
            };
            if let Some((key, _)) = fields.entry("on_end")
                && pick != Pick::Unique
            {
                self.collector.push(
                    Draft::error(
                        key.span,
                        "`on_end` goes with `pick: unique`: other rows never end",
                    )
                    .link("data"),
                );
            }
            let on_end = match self.word(fields.get("on_end")).as_deref() {
                Some("recycle") => OnEnd::Recycle,
                _ => OnEnd::Stop,
            };
            let known = match &rows.columns {
                Some(columns) => Some(columns.clone()),
                None => rows.fields.map(|fields| fields.into_iter().collect()),
            };
            let ty = if rows.columns.is_some() { Ty::Text } else { Ty::Any };
            let blob = self.blob(key.span, rows.lines);
            self.runtime.data.push(SourceNames { name: name.clone(), fields: known, ty });
            let Rows { count, columns, .. } = Rows { lines: Vec::new(), fields: None, ..rows };
            self.data.push(DataSource { name, blob, rows: count, columns, pick, on_end });
        }
    }

    /// Warns of sources that nobody reads and of unique rows that are too few.
    pub(super) fn data_use(&mut self, file: Fields<'n>, plan: &Plan) {
        let mut readers: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); plan.data.len()];
        for (at, workflow) in plan.workflows.iter().enumerate() {
            walk::expressions(workflow, &mut |expr| {
                if let Expr::Var(Var::Row(source)) = expr
                    && let Some(readers) = readers.get_mut(source.get())
                {
                    readers.insert(at);
                }
            });
        }
        for (source, readers) in plan.data.iter().zip(readers) {
            let Some((key, _)) = file.below("data").entry(&source.name) else { continue };
            let name = &source.name;
            if readers.is_empty() {
                let message = format!("the data source `{name}` is never used");
                self.collector.push(Draft::warning(key.span, message).link("data"));
            }
            if source.pick != Pick::Unique {
                continue;
            }
            let workflows = || readers.iter().filter_map(|at| plan.workflows.get(*at));
            for workflow in workflows() {
                let steps = workflow.vu_setup.clone();
                let setup = Workflow {
                    vu_setup: Vec::new(),
                    vu_teardown: Vec::new(),
                    finally: Vec::new(),
                    steps,
                    ..workflow.clone()
                };
                if setup.data().iter().any(|read| plan.data.get(read.get()) == Some(source)) {
                    let at = &workflow.name;
                    let message = format!("the users' setup in `{at}` has no row of `{name}`");
                    self.collector.push(
                        Draft::error(key.span, message)
                            .note("only an iteration draws rows that come once")
                            .link("data"),
                    );
                }
            }
            if source.on_end != OnEnd::Stop {
                continue;
            }
            let iterations = workflows().filter_map(|workflow| {
                let arrivals = || workflow.load.arrivals().map(|arrivals| arrivals.total());
                workflow.load.iterations().or_else(arrivals)
            });
            let (most, parts) = (iterations.max().unwrap_or(0), readers.len() as u64);
            if most.saturating_mul(parts) > source.rows {
                let rows = source.rows;
                let message = format!("`{name}` runs out: it has {rows} rows");
                let each = if parts == 1 {
                    format!(
                        "the load that uses it plans {most} iterations, each needs a row of its own"
                    )
                } else {
                    format!(
                        "{parts} workflows that use it have equal parts of them, and one plans \
                         {most} iterations, each with a row of its own"
                    )
                };
                self.collector.push(
                    Draft::warning(key.span, message)
                        .note(each)
                        .note("users without a row stop; `on_end: recycle` starts over")
                        .link("data"),
                );
            }
        }
    }

    fn rows(&mut self, key: &Node, fields: Fields<'n>) -> Option<Rows> {
        let mut origins = ORIGINS.iter().filter_map(|name| fields.entry(name));
        let (origin, second) = (origins.next(), origins.next());
        let Some((origin_key, origin)) = origin else {
            let name = key.as_text().unwrap_or_default();
            self.collector.push(
                Draft::error(key.span, format!("`{name}` does not say where its rows come from"))
                    .note("give one of `csv`, `json`, `jsonl` and `values`")
                    .link("data"),
            );
            return None;
        };
        if let Some((second, _)) = second {
            let message = format!(
                "rows come from one place: `{}` or `{}`",
                origin_key.as_text().unwrap_or_default(),
                second.as_text().unwrap_or_default()
            );
            self.collector.push(Draft::error(second.span, message).link("data"));
            return None;
        }
        let kind = origin_key.as_text().unwrap_or_default();
        for (name, belongs) in [("columns", "csv"), ("delimiter", "csv"), ("at", "json")] {
            if let Some((key, _)) = fields.entry(name)
                && kind != belongs
            {
                let message = format!("`{name}` goes with `{belongs}`");
                self.collector.push(Draft::error(key.span, message).link("data"));
            }
        }
        let rows = if kind == "values" {
            self.values(origin)
        } else {
            let path = self.read(Some(origin), Consts::text)?;
            let rows = (self.options.read_file)(&path, DATA_BYTES_MAX)
                .map_err(|error| cannot_read(origin, &path, &error))
                .and_then(|bytes| {
                    match kind {
                        "csv" => self.csv(&bytes, fields),
                        "jsonl" => json_lines(&bytes),
                        _ => self.json(&bytes, fields),
                    }
                    .map_err(|problem| {
                        let problem: Draft = problem.into_draft(origin, &path);
                        problem.link("data")
                    })
                });
            self.ok(rows)?
        };
        if rows.count == 0 {
            self.collector.push_once(Draft::error(origin.span, "there are no rows").link("data"));
        }
        Some(rows)
    }

    fn values(&mut self, node: &Node) -> Rows {
        let mut rows = Rows::new();
        for item in items(node) {
            let row = self.constant_json(item).and_then(|row| {
                rows.push(&row).map_err(|problem| Draft::error(item.span, problem))
            });
            self.ok(row);
        }
        rows
    }

    fn csv(&self, bytes: &[u8], fields: Fields<'n>) -> Result<Rows, Problem> {
        let delimiter = match fields.get("delimiter") {
            None => b',',
            Some(node) => match self.consts.text(node).map_err(Problem::There)?.as_bytes() {
                b"\\t" => b'\t',
                [delimiter] => *delimiter,
                _ => {
                    let draft = Draft::error(node.span, "a delimiter is one ASCII character");
                    return Err(Problem::There(draft));
                }
            },
        };
        let given: Option<Vec<String>> = match fields.get("columns") {
            None => None,
            Some(node) => {
                let texts = self.consts.texts(node).map_err(Problem::There)?;
                Some(texts.into_iter().map(|(text, _)| text).collect())
            }
        };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(bytes);
        let mut rows = Rows::default();
        let mut columns = given;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| Problem::File(error.to_string()))? {
            if columns.is_none() {
                columns = Some(record.iter().map(|name| name.trim().to_owned()).collect());
                continue;
            }
            let expected = columns.as_ref().map_or(0, Vec::len);
            if record.len() != expected {
                let line = record.position().map_or(0, csv::Position::line);
                let found = record.len();
                let message = format!(
                    "line {line} has not as many fields ({found}) as there are columns ({expected})"
                );
                return Err(Problem::File(message));
            }
            let row: Vec<&str> = record.iter().collect();
            rows.write(&row).map_err(Problem::File)?;
        }
        let columns = columns.unwrap_or_default();
        let mut seen = BTreeSet::new();
        for column in &columns {
            if column.is_empty() || !seen.insert(column) {
                let message = format!("the columns have an empty or doubled name: `{column}`");
                return Err(Problem::File(message));
            }
        }
        if columns.len() > COLUMNS_MAX {
            return Err(Problem::File(format!("it has more than {COLUMNS_MAX} columns")));
        }
        rows.columns = Some(columns);
        Ok(rows)
    }

    fn json(&self, bytes: &[u8], fields: Fields<'n>) -> Result<Rows, Problem> {
        let values = bytes.iter().filter(|byte| b",[{".contains(byte)).count();
        if values > JSON_VALUES_MAX {
            let message = format!("it has more than {JSON_VALUES_MAX} values; write it as `jsonl`");
            return Err(Problem::File(message));
        }
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| Problem::File(error.to_string()))?;
        let at = fields.get("at");
        let path = match at {
            Some(node) => self.consts.text(node).map_err(Problem::There)?,
            None => "$".to_owned(),
        };
        let found = select(&path, &json).map_err(|error| match at {
            Some(node) => {
                Problem::There(Draft::error(node.span, format!("`{path}` is no JSONPath: {error}")))
            }
            None => Problem::File(error),
        })?;
        let mut rows = Rows::new();
        for row in &found {
            rows.push(row).map_err(Problem::File)?;
        }
        Ok(rows)
    }
}

/// Where a problem with rows lies.
enum Problem {
    /// In the file.
    File(String),
    /// In the test.
    There(Draft),
}

impl Problem {
    fn into_draft(self, node: &Node, path: &str) -> Draft {
        match self {
            Self::File(problem) => Draft::error(node.span, format!("`{path}`: {problem}")),
            Self::There(draft) => draft,
        }
    }
}

fn json_lines(bytes: &[u8]) -> Result<Rows, Problem> {
    let mut rows = Rows::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row: serde_json::Value = serde_json::from_slice(line)
            .map_err(|error| Problem::File(format!("line {}: {error}", at + 1)))?;
        rows.push(&row).map_err(Problem::File)?;
    }
    Ok(rows)
}
