//! Expressions as data: what the parser makes and the engine evaluates.

mod capture;
pub(crate) mod check;
mod eval;
pub(crate) mod functions;
pub(crate) mod lex;
mod parse;
pub(crate) mod pattern;
pub(crate) mod time;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{SplitMix, WorkflowIndex};
use serde::{Deserialize, Serialize};

use crate::ir::{DataIndex, LocalIndex};

pub use capture::CompiledCapture;
/// Deepest nesting of an expression.
pub const EXPR_DEPTH_MAX: usize = 32;

/// Longest expression, in bytes.
pub(crate) const EXPR_BYTES_MAX: usize = 16 << 10;

/// A value of the expression language.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Arc<str>),
    /// A list.
    List(Arc<Vec<Value>>),
    /// Named values, sorted by name.
    Map(Arc<BTreeMap<String, Value>>),
}

/// A compiled expression: names are resolved, types were checked as far as they are known.
/// Durations are numbers of seconds, sizes numbers of bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// A constant.
    Literal(Value),
    /// A variable.
    Var(Var),
    /// A field of a map.
    Member(Box<Expr>, String),
    /// An element of a list or a map.
    Index(Box<Expr>, Box<Expr>),
    /// An operator before its operand.
    Unary(UnaryOp, Box<Expr>),
    /// An operator between its operands.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a ? b : c`.
    Conditional(Box<Expr>, Box<Expr>, Box<Expr>),
    /// A function or method; a method's receiver comes first.
    Call(Function, Vec<Expr>),
    /// A list.
    List(Vec<Expr>),
    /// A map.
    Map(Vec<(String, Expr)>),
    /// `x in low..high`, both ends included.
    InRange(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Var {
    /// A secret, by its place in the plan's list.
    Secret(u16),
    /// The number of the user, from 1 over the whole job.
    VuId,
    /// The number of the user's iteration, from 0.
    VuIteration,
    /// The job's id.
    RunId,
    /// The datacenter's name.
    Datacenter,
    /// Milliseconds since the Unix epoch.
    Now,
    /// The row that the iteration has drawn from a data source.
    Row(DataIndex),
    /// A capture or a `set` variable of the user.
    Local(LocalIndex),
    /// A value that another workflow has published.
    Published(WorkflowIndex, String),
    /// The answer's status. In checks and captures only, as the following.
    Status,
    /// The answer's latency in seconds.
    Latency,
    /// The answer's time to the first byte in seconds.
    FirstByte,
    /// The answer's body in bytes.
    Size,
    /// The answer's body as text.
    Body,
}

/// An operator before its operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryOp {
    /// `!`
    Not,
    /// `-`
    Negate,
}

/// An operator between its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryOp {
    /// `||`
    Or,
    /// `&&`
    And,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `in`
    In,
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// Functions and methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `uuid()`: a random `UUIDv4`.
    Uuid,
    /// `random_int(a, b)`, both ends included.
    RandomInt,
    /// `random_string(n)`: letters and digits.
    RandomString,
    /// `pick(list)`.
    Pick,
    /// `base64(text)`.
    Base64,
    /// `hash("sha256", text)` in hexadecimal digits.
    Hash,
    /// `hmac("sha256", key, text)` in hexadecimal digits.
    Hmac,
    /// `url_encode(text)`.
    UrlEncode,
    /// `json_encode(value)`.
    JsonEncode,
    /// `time_format(millis, "%Y-%m-%d")`.
    TimeFormat,
    /// `header("name")` of the answer; null if absent.
    Header,
    /// `json("$.path")` of the answer's body; null if nothing matches.
    Json,
    /// `x.size()` or `size(x)`.
    Size,
    /// `text.contains(text)`.
    Contains,
    /// `text.startsWith(text)`.
    StartsWith,
    /// `text.endsWith(text)`.
    EndsWith,
    /// `text.matches(regex)`.
    Matches,
    /// `text.lower()`.
    Lower,
    /// `text.upper()`.
    Upper,
    /// `int(x)`.
    Int,
    /// `double(x)`.
    Double,
    /// `string(x)`.
    Text,
}

/// Text with holes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub Vec<Piece>);

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// Text as it is.
    Text(String),
    /// A hole.
    Hole(Expr),
}

impl Template {
    /// A template without holes.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        if text.is_empty() { Self(Vec::new()) } else { Self(vec![Piece::Text(text.to_owned())]) }
    }

    /// The expressions in its holes.
    pub fn holes(&self) -> impl Iterator<Item = &Expr> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Hole(expr) => Some(expr),
        })
    }

    /// The text, if there is no hole.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Where an expression finds the values of its variables.
pub trait Scope {
    /// The value of `var`, which is none of the answer's.
    ///
    /// # Errors
    ///
    /// If it has no value now.
    fn variable(&self, var: &Var) -> Result<Value, EvalError>;

    /// The answer that checks and captures look at.
    fn answer(&self) -> Option<&dyn Answer> {
        None
    }

    /// The user's source of randomness.
    fn random(&mut self) -> &mut SplitMix;
}

/// An answer as checks and captures see it.
pub trait Answer {
    /// The status.
    fn status(&self) -> u16;
    /// From the (intended) start to the last byte.
    fn latency(&self) -> Duration;
    /// From the start to the first byte.
    fn first_byte(&self) -> Duration;
    /// The body's bytes as they arrived.
    fn size(&self) -> u64;
    /// The body, decompressed; empty if it was dropped.
    fn body(&self) -> &[u8];
    /// The first header of that name, whatever its case.
    fn header(&self, name: &str) -> Option<&str>;
    /// The body as JSON, for those who keep what they parsed; `None` makes each look parse it.
    fn json(&self) -> Option<&serde_json::Value> {
        None
    }
    /// The value of a cookie that the answer sets. Looks at one `set-cookie` header only unless
    /// the implementor knows more.
    fn cookie(&self, name: &str) -> Option<&str> {
        let (found, rest) = self.header("set-cookie")?.split_once('=')?;
        (found.trim() == name).then(|| rest.split(';').next().unwrap_or_default().trim())
    }
}

/// An expression that has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

#[cfg(test)]
mod tests;
