//! Regular expressions and JSONPaths: checked once, compiled once per thread, under limits, since
//! they come from test files and from other nodes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use regex::{Regex, RegexBuilder};
use serde_json_path::JsonPath;

use super::Value;

/// Longest pattern.
const PATTERN_BYTES_MAX: usize = 4 << 10;
/// Most patterns of a test, and most compiled ones that a thread keeps: those of one test never push
/// each other out. A regular expression can take a millisecond and 512 KiB to compile.
pub(crate) const REGEXES_MAX: usize = 256;
/// Largest compiled regular expression.
const REGEX_BYTES_MAX: usize = 512 << 10;
pub(crate) const JSON_PATHS_MAX: usize = 1_024;
/// Deepest nesting in a path: the library's parser tries alternatives at each level.
const PATH_NESTING_MAX: usize = 6;

/// Most `..` in a path: each looks at all of what the one before found.
const DESCENTS_MAX: usize = 2;

/// A path and whether it can match one place only.
pub(crate) struct Path {
    path: JsonPath,
    is_singular: bool,
}

pub(crate) fn compile_regex(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("it has more than {PATTERN_BYTES_MAX} bytes"));
    }
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(1 << 20)
        .nest_limit(50)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it needs too much memory".to_owned(),
            other => {
                let text = other.to_string();
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        })
}

/// A regular expression that will compile, else why not.
pub(crate) fn check_regex(pattern: &str) -> Result<(), String> {
    compile_regex(pattern).map(drop)
}

pub(crate) fn compile_path(path: &str) -> Result<Path, String> {
    if path.len() > PATTERN_BYTES_MAX {
        return Err(format!("it has more than {PATTERN_BYTES_MAX} bytes"));
    }
    let mut nesting = 0usize;
    let mut quote = None;
    let mut bare = String::new();
    for c in path.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, c) => {
                bare.push(c);
                match c {
                    '(' | '[' | '!' => nesting += 1,
                    ')' | ']' => nesting = nesting.saturating_sub(1),
                    _ => {}
                }
            }
        }
        if nesting > PATH_NESTING_MAX {
            return Err("it is nested too deep".to_owned());
        }
    }
    if bare.matches("..").count() > DESCENTS_MAX {
        return Err(format!("it has more than {DESCENTS_MAX} `..`"));
    }
    let is_singular = !bare.contains(['*', '?', ':', ',']) && !bare.contains("..");
    match JsonPath::parse(path) {
        Ok(path) => Ok(Path { path, is_singular }),
        Err(_) if !path.starts_with('$') => Err("a JSONPath begins with `$`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A path that will compile, else why not.
pub(crate) fn check_json_path(path: &str) -> Result<(), String> {
    compile_path(path).map(drop)
}

impl Path {
    /// What the path finds: the value or null, or a list if it can match several.
    pub(crate) fn find(&self, json: &serde_json::Value) -> Value {
        let nodes = self.path.query(json);
        if self.is_singular {
            nodes.first().map_or(Value::Null, Value::from_json)
        } else {
            Value::List(nodes.iter().map(|node| Value::from_json(node)).collect::<Vec<_>>().into())
        }
    }

    /// All places that match.
    pub(crate) fn all<'j>(&self, json: &'j serde_json::Value) -> Vec<&'j serde_json::Value> {
        self.path.query(json).all()
    }
}

/// The rows that a path selects: the elements of a list, or all matches.
pub(crate) fn select(
    path: &str,
    json: &serde_json::Value,
) -> Result<Vec<serde_json::Value>, String> {
    let path = compile_path(path)?;
    Ok(match path.all(json).as_slice() {
        [serde_json::Value::Array(items)] if path.is_singular => items.clone(),
        matches => matches.iter().map(|&value| value.clone()).collect(),
    })
}

thread_local! {
    static REGEXES: RefCell<BTreeMap<String, Rc<Regex>>> = RefCell::default();
    static PATHS: RefCell<BTreeMap<String, Rc<Path>>> = RefCell::default();
}

/// Keeps what was compiled; starts over when there is too much of it.
fn kept<T>(
    map: &RefCell<BTreeMap<String, Rc<T>>>,
    pattern: &str,
    max: usize,
    compile: impl Fn(&str) -> Result<T, String>,
) -> Result<Rc<T>, String> {
    if let Some(known) = map.borrow().get(pattern) {
        return Ok(Rc::clone(known));
    }
    let compiled = Rc::new(compile(pattern)?);
    let mut map = map.borrow_mut();
    if map.len() >= max {
        map.clear();
    }
    map.insert(pattern.to_owned(), Rc::clone(&compiled));
    Ok(compiled)
}

pub(crate) fn kept_regex(pattern: &str) -> Result<Rc<Regex>, String> {
    REGEXES.with(|map| kept(map, pattern, REGEXES_MAX, compile_regex))
}

pub(crate) fn kept_path(path: &str) -> Result<Rc<Path>, String> {
    PATHS.with(|map| kept(map, path, JSON_PATHS_MAX, compile_path))
}
