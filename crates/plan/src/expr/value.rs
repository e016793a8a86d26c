//! Values: truth, text, JSON.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{EvalError, Value};

/// Deepest value: JSON as it is read, with room for what expressions wrap around it.
const DEPTH_MAX: usize = 256;
/// Most values in a value, and most bytes of its text, with shared parts written out: a variable
/// that is doubled in a loop must not become a terabyte of JSON.
const NODES_MAX: usize = 1 << 18;
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

impl Value {
    /// A text value.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Arc::from(text))
    }

    /// The value as JSON. Numbers that JSON lacks become null.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect(),
            ),
        }
    }

    /// The value that JSON stands for. Whole numbers beyond 64 bits become floating.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or_default()),
            },
            serde_json::Value::String(text) => Self::text(text),
            serde_json::Value::Array(items) => {
                Self::List(Arc::new(items.iter().map(Self::from_json).collect()))
            }
            serde_json::Value::Object(entries) => {
                let entries: BTreeMap<String, Self> = entries
                    .iter()
                    .map(|(key, value)| (key.clone(), Self::from_json(value)))
                    .collect();
                Self::Map(Arc::new(entries))
            }
        }
    }

    /// What kind of value it is, in words.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// The number, as far as an `f64` can hold it.
    #[expect(clippy::cast_precision_loss, reason = "for comparison with a floating number")]
    pub(crate) const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Equality as the language has it: numbers by their value.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Int(_) | Self::Float(_), Self::Int(_) | Self::Float(_)) => {
                self.as_f64() == other.as_f64()
            }
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b.iter()).all(|((ka, a), (kb, b))| ka == kb && a.equals(b))
            }
            _ => self == other,
        }
    }

    /// The order of numbers and of texts; none between others.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => self.as_f64()?.partial_cmp(&other.as_f64()?),
        }
    }

    /// The value, unless it has become too large or too deep to be walked.
    pub(crate) fn bounded(self) -> Result<Self, EvalError> {
        fn walk(value: &Value, depth: usize, nodes: &mut usize, text: &mut usize) -> bool {
            let Some(left) = nodes.checked_sub(1) else { return false };
            *nodes = left;
            let mut take = |bytes: usize| match text.checked_sub(bytes) {
                Some(left) => {
                    *text = left;
                    true
                }
                None => false,
            };
            match value {
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => true,
                Value::Text(text) => take(text.len()),
                Value::List(items) => {
                    depth > 0 && items.iter().all(|item| walk(item, depth - 1, nodes, text))
                }
                Value::Map(entries) => {
                    depth > 0
                        && entries.keys().all(|key| take(key.len()))
                        && entries.values().all(|item| walk(item, depth - 1, nodes, text))
                }
            }
        }
        let (mut nodes, mut text) = (NODES_MAX, TEXT_BYTES_MAX);
        if walk(&self, DEPTH_MAX, &mut nodes, &mut text) {
            Ok(self)
        } else {
            Err(EvalError("the value has become too large".to_owned()))
        }
    }

    /// The bytes of text that it takes in a plan.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) => 8,
            Self::Text(text) => text.len() + 8,
            Self::List(items) => items.iter().map(Self::weight).sum::<usize>() + 8,
            Self::Map(entries) => {
                entries.iter().map(|(key, value)| key.len() + value.weight()).sum::<usize>() + 8
            }
        }
    }
}

/// As it stands in a template: text as it is, `null` as nothing, lists and maps as JSON.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::List(_) | Self::Map(_) => write!(f, "{}", self.to_json()),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}
