//! The file of settings.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use hyperscale_plan::nearest;
use toml::de::{DeTable, DeValue};

use super::{Kind, SETTINGS};
use crate::exit::{Exit, Failure};

/// Larger files are no settings.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where something stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    file: String,
    line: usize,
    column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A file's settings, as the text that flags would have.
#[derive(Debug)]
pub(super) struct File {
    values: BTreeMap<&'static str, (Vec<String>, Place)>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let cannot = |error: &std::io::Error| {
            Failure::caused(Exit::Io, &format!("cannot read the configuration {name}"), error)
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| cannot(&error))?;
        Self::parse(&name, &text)
    }

    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        match DeTable::parse(text) {
            Err(error) => {
                let place = place(name, text, error.span().map_or(0, |span| span.start));
                let message = format!("error: {}\n  --> {place}", error.message());
                errors.push((0, message));
            }
            Ok(table) => {
                for (key, value) in table.get_ref() {
                    let start = key.span().start;
                    let at = place(name, text, start);
                    let key: &str = key.get_ref();
                    let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
                        let known = SETTINGS.iter().map(|setting| setting.key);
                        let hint = match nearest(key, known.clone()) {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => {
                                let known: Vec<&str> = known.collect();
                                format!("expected one of: {}", known.join(", "))
                            }
                        };
                        let message =
                            format!("error: unknown key `{key}`\n  --> {at}\n   = {hint}");
                        errors.push((start, message));
                        continue;
                    };
                    let at = place(name, text, value.span().start);
                    match texts(setting.kind, value.get_ref()) {
                        Ok(texts) => {
                            values.insert(setting.key, (texts, at));
                        }
                        Err(expected) => {
                            let kind = kind_of(value.get_ref());
                            let message = format!(
                                "error: `{key}` is {kind}\n  --> {at}\n   = expected {expected}"
                            );
                            errors.push((start, message));
                        }
                    }
                }
            }
        }
        if errors.is_empty() {
            return Ok(Self { values });
        }
        // As they stand in the file, whatever the order of the table.
        errors.sort_unstable();
        let errors: Vec<String> = errors.into_iter().map(|(_, message)| message).collect();
        let message = format!("the configuration is invalid\n\n{}", errors.join("\n\n"));
        Err(Failure::new(Exit::Invalid, message))
    }

    pub(super) fn values(&self, key: &str) -> Option<&[String]> {
        self.values.get(key).map(|(values, _)| values.as_slice())
    }

    pub(super) fn place(&self, key: &str) -> Option<Place> {
        self.values.get(key).map(|(_, place)| place.clone())
    }
}

/// What a flag would have for a value of the file.
fn texts(kind: Kind, value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    match (kind, value) {
        (Kind::Text | Kind::Secret, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Text | Kind::Secret, _) => Err("text in quotes"),
        (Kind::Count, DeValue::Integer(number)) => Ok(vec![number.to_string()]),
        (Kind::Count, _) => Err("a whole number"),
        (Kind::List | Kind::Tokens, DeValue::Array(all)) => all
            .iter()
            .map(|value| match value.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err("a list of texts in quotes"),
            })
            .collect(),
        (Kind::List | Kind::Tokens, _) => Err("a list of texts, such as [\"a\", \"b\"]"),
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn place(name: &str, text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[start..].chars().count() + 1;
    Place { file: name.to_owned(), line, column }
}
