//! Evaluation.
//!
//! Conditions over numbers allocate nothing, nor do text methods on the body, on a header or on
//! constants: those look at the answer in place.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::pattern::{kept_path, kept_regex};
use super::value::TEXT_BYTES_MAX;
use super::{
    Answer, BinaryOp, EvalError, Expr, Function, Piece, Scope, Template, UnaryOp, Value, Var, time,
};
use crate::ir::JsonTemplate;

/// Longest random text.
const RANDOM_CHARS_MAX: i64 = 1 << 16;

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError(message.into()))
}

fn answer(scope: &dyn Scope) -> Result<&dyn Answer, EvalError> {
    scope.answer().ok_or_else(|| EvalError("there is no answer here".to_owned()))
}

impl Expr {
    /// The expression's value.
    ///
    /// # Errors
    ///
    /// If a variable has no value, or an operation has none for its operands.
    pub fn eval(&self, scope: &mut dyn Scope) -> Result<Value, EvalError> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Var(var) => variable(var, scope),
            Self::Binary(BinaryOp::And, left, right) => {
                Ok(Value::Bool(left.is_true(scope)? && right.is_true(scope)?))
            }
            Self::Binary(BinaryOp::Or, left, right) => {
                Ok(Value::Bool(left.is_true(scope)? || right.is_true(scope)?))
            }
            Self::Binary(op, left, right) => {
                let left = left.eval(scope)?;
                binary(*op, &left, &right.eval(scope)?)
            }
            Self::InRange(value, low, high) => {
                let value = value.eval(scope)?;
                let is_above = binary(BinaryOp::GreaterEqual, &value, &low.eval(scope)?)?;
                let is_below = binary(BinaryOp::LessEqual, &value, &high.eval(scope)?)?;
                Ok(Value::Bool(is_above == Value::Bool(true) && is_below == Value::Bool(true)))
            }
            Self::Unary(UnaryOp::Not, operand) => Ok(Value::Bool(!operand.is_true(scope)?)),
            Self::Unary(UnaryOp::Negate, operand) => match operand.eval(scope)? {
                Value::Int(number) => number
                    .checked_neg()
                    .map(Value::Int)
                    .ok_or_else(|| EvalError("the number is too large".to_owned())),
                Value::Float(number) => Ok(Value::Float(-number)),
                other => failed(format!("`-` has no meaning for {}", other.kind())),
            },
            Self::Conditional(condition, then, otherwise) => {
                if condition.is_true(scope)? {
                    then.eval(scope)
                } else {
                    otherwise.eval(scope)
                }
            }
            Self::Member(of, name) => match of.eval(scope)? {
                Value::Map(entries) => match entries.get(name) {
                    Some(value) => Ok(value.clone()),
                    None => failed(format!("there is no `{name}`")),
                },
                other => failed(format!("{} has no `{name}`", other.kind())),
            },
            Self::Index(of, index) => {
                let of = of.eval(scope)?;
                element(&of, &index.eval(scope)?)
            }
            Self::List(items) => {
                let items: Result<Vec<Value>, EvalError> =
                    items.iter().map(|item| item.eval(scope)).collect();
                Value::List(Arc::new(items?)).bounded()
            }
            Self::Map(entries) => {
                let entries: Result<_, EvalError> = entries
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), value.eval(scope)?)))
                    .collect();
                Value::Map(Arc::new(entries?)).bounded()
            }
            Self::Call(function, args) => call(*function, args, scope),
        }
    }

    /// Whether the expression, as a condition, holds.
    ///
    /// # Errors
    ///
    /// As [`Expr::eval`], or if the value is neither true nor false.
    pub fn is_true(&self, scope: &mut dyn Scope) -> Result<bool, EvalError> {
        // The common check, without a way through `Value`.
        if let Self::Binary(op @ (BinaryOp::Equal | BinaryOp::NotEqual), left, right) = self
            && let (Self::Var(Var::Status), Self::Literal(Value::Int(wanted))) = (&**left, &**right)
        {
            let is_equal = i64::from(answer(scope)?.status()) == *wanted;
            return Ok(is_equal == (*op == BinaryOp::Equal));
        }
        match self.eval(scope)? {
            Value::Bool(holds) => Ok(holds),
            other => failed(format!("a condition must be true or false, not {}", other.kind())),
        }
    }

    /// How deep it is nested; stops counting beyond the limit.
    pub(crate) fn is_shallow(&self, allowed: usize) -> bool {
        let Some(allowed) = allowed.checked_sub(1) else { return false };
        self.children().iter().all(|child| child.is_shallow(allowed))
    }

    pub(crate) fn children(&self) -> Vec<&Self> {
        match self {
            Self::Literal(_) | Self::Var(_) => Vec::new(),
            Self::Member(of, _) | Self::Unary(_, of) => vec![of],
            Self::Index(a, b) | Self::Binary(_, a, b) => vec![a, b],
            Self::Conditional(a, b, c) | Self::InRange(a, b, c) => vec![a, b, c],
            Self::Call(_, items) | Self::List(items) => items.iter().collect(),
            Self::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        }
    }
}

fn variable(var: &Var, scope: &dyn Scope) -> Result<Value, EvalError> {
    Ok(match var {
        Var::Status => Value::Int(i64::from(answer(scope)?.status())),
        Var::Latency => Value::Float(answer(scope)?.latency().as_secs_f64()),
        Var::FirstByte => Value::Float(answer(scope)?.first_byte().as_secs_f64()),
        Var::Size => Value::Int(i64::try_from(answer(scope)?.size()).unwrap_or(i64::MAX)),
        Var::Body => Value::text(&String::from_utf8_lossy(answer(scope)?.body())),
        Var::Secret(_)
        | Var::VuId
        | Var::VuIteration
        | Var::RunId
        | Var::Datacenter
        | Var::Now
        | Var::Row(_)
        | Var::Local(_)
        | Var::Published(_, _) => return scope.variable(var),
    })
}

fn element(of: &Value, index: &Value) -> Result<Value, EvalError> {
    let found = match (of, index) {
        (Value::List(items), Value::Int(at)) => {
            usize::try_from(*at).ok().and_then(|at| items.get(at))
        }
        (Value::Map(entries), Value::Text(key)) => entries.get(&**key),
        _ => return failed(format!("{} has no element by {}", of.kind(), index.kind())),
    };
    found.cloned().ok_or_else(|| EvalError(format!("there is no element `{index}`")))
}

fn binary(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, EvalError> {
    use std::cmp::Ordering;
    let ordered = |holds: fn(Ordering) -> bool| match left.order(right) {
        Some(order) => Ok(Value::Bool(holds(order))),
        None => failed(format!("{} cannot be compared with {}", left.kind(), right.kind())),
    };
    match op {
        BinaryOp::Equal => Ok(Value::Bool(left.equals(right))),
        BinaryOp::NotEqual => Ok(Value::Bool(!left.equals(right))),
        BinaryOp::Less => ordered(Ordering::is_lt),
        BinaryOp::LessEqual => ordered(Ordering::is_le),
        BinaryOp::Greater => ordered(Ordering::is_gt),
        BinaryOp::GreaterEqual => ordered(Ordering::is_ge),
        BinaryOp::In => match right {
            Value::List(items) => Ok(Value::Bool(items.iter().any(|item| item.equals(left)))),
            Value::Map(entries) => match left {
                Value::Text(key) => Ok(Value::Bool(entries.contains_key(&**key))),
                _ => Ok(Value::Bool(false)),
            },
            _ => failed(format!("`in` needs a list or a map, not {}", right.kind())),
        },
        BinaryOp::And | BinaryOp::Or => failed("`&&` and `||` decide before their right side"),
        BinaryOp::Add
        | BinaryOp::Subtract
        | BinaryOp::Multiply
        | BinaryOp::Divide
        | BinaryOp::Remainder => arithmetic(op, left, right),
    }
}

fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, EvalError> {
    if let (Value::Int(a), Value::Int(b)) = (left, right) {
        let result = match op {
            BinaryOp::Add => a.checked_add(*b),
            BinaryOp::Subtract => a.checked_sub(*b),
            BinaryOp::Multiply => a.checked_mul(*b),
            _ if *b == 0 => return failed("division by zero"),
            BinaryOp::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        };
        return result
            .map(Value::Int)
            .ok_or_else(|| EvalError("the number is too large".to_owned()));
    }
    if let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) {
        let result = match op {
            BinaryOp::Add => a + b,
            BinaryOp::Subtract => a - b,
            BinaryOp::Multiply => a * b,
            BinaryOp::Divide => a / b,
            _ => a % b,
        };
        return if result.is_finite() {
            Ok(Value::Float(result))
        } else {
            failed("the result is no number")
        };
    }
    match (op, left, right) {
        (BinaryOp::Add, Value::Text(a), Value::Text(b)) => {
            if a.len() + b.len() > TEXT_BYTES_MAX {
                return failed("the text is too long");
            }
            Ok(Value::Text([&**a, &**b].concat().into()))
        }
        (BinaryOp::Add, Value::List(a), Value::List(b)) => {
            Value::List(Arc::new(a.iter().chain(b.iter()).cloned().collect())).bounded()
        }
        _ => failed(format!("no such operation on {} and {}", left.kind(), right.kind())),
    }
}

/// Calls `look` with the expression's text, in place where that is possible. `null` is `None`.
fn with_text<R>(
    expr: &Expr,
    scope: &mut dyn Scope,
    look: impl FnOnce(Option<&str>) -> R,
) -> Result<R, EvalError> {
    match expr {
        Expr::Literal(Value::Text(text)) => Ok(look(Some(text))),
        Expr::Var(Var::Body) => Ok(look(Some(&String::from_utf8_lossy(answer(scope)?.body())))),
        Expr::Call(Function::Header, args) if args.len() == 1 => {
            let name = args[0].eval(scope)?;
            let Value::Text(name) = &name else { return failed("a header's name is text") };
            Ok(look(answer(scope)?.header(name)))
        }
        _ => match expr.eval(scope)? {
            Value::Null => Ok(look(None)),
            Value::Text(text) => Ok(look(Some(&text))),
            other => Ok(look(Some(&other.to_string()))),
        },
    }
}

fn call(function: Function, args: &[Expr], scope: &mut dyn Scope) -> Result<Value, EvalError> {
    let wrong = || failed("a function has the wrong number of arguments");
    match (function, args) {
        (Function::Contains | Function::StartsWith | Function::EndsWith, [text, part]) => {
            let part = part.eval(scope)?;
            let Value::Text(part) = &part else { return failed("the text to look for is no text") };
            let part: &str = part;
            with_text(text, scope, |text| {
                Value::Bool(text.is_some_and(|text| match function {
                    Function::Contains => text.contains(part),
                    Function::StartsWith => text.starts_with(part),
                    _ => text.ends_with(part),
                }))
            })
        }
        (Function::Matches, [text, pattern]) => {
            let pattern = pattern.eval(scope)?;
            let Value::Text(pattern) = &pattern else { return failed("the pattern is no text") };
            let regex = kept_regex(pattern).map_err(EvalError)?;
            with_text(text, scope, |text| {
                Value::Bool(text.is_some_and(|text| regex.is_match(text)))
            })
        }
        (Function::Lower, [text]) => with_text(text, scope, |text| {
            text.map_or(Value::Null, |t| t.to_lowercase().as_str().into())
        }),
        (Function::Upper, [text]) => with_text(text, scope, |text| {
            text.map_or(Value::Null, |t| t.to_uppercase().as_str().into())
        }),
        (Function::Base64, [text]) => with_text(text, scope, |text| {
            let text = text.unwrap_or_default();
            Value::Text(base64::engine::general_purpose::STANDARD.encode(text).into())
        }),
        (Function::UrlEncode, [text]) => with_text(text, scope, |text| {
            let mut out = String::new();
            url_encode(text.unwrap_or_default(), &mut out);
            Value::Text(out.into())
        }),
        (Function::Hash, [name, text]) => {
            let name = name.eval(scope)?.to_string();
            with_text(text, scope, |text| digest(&name, None, text.unwrap_or_default()))?
        }
        (Function::Hmac, [name, key, text]) => {
            let name = name.eval(scope)?.to_string();
            let key = key.eval(scope)?.to_string();
            with_text(text, scope, |text| digest(&name, Some(&key), text.unwrap_or_default()))?
        }
        (Function::Header, [name]) => {
            let name = name.eval(scope)?;
            let Value::Text(name) = &name else { return failed("a header's name is text") };
            Ok(answer(scope)?.header(name).map_or(Value::Null, Value::text))
        }
        (Function::Json, [path]) => {
            let path = path.eval(scope)?;
            let Value::Text(path) = &path else { return failed("the path is no text") };
            let path = kept_path(path).map_err(EvalError)?;
            let answer = answer(scope)?;
            if let Some(json) = answer.json() {
                return Ok(path.find(json));
            }
            match serde_json::from_slice(answer.body()) {
                Ok(json) => Ok(path.find(&json)),
                Err(error) => failed(format!("the body is no JSON: {error}")),
            }
        }
        (Function::Size, [of]) => {
            let size = match of {
                Expr::Var(Var::Body) => {
                    with_text(of, scope, |t| t.map_or(0, |t| t.chars().count()))?
                }
                _ => match of.eval(scope)? {
                    Value::Null => 0,
                    Value::Text(text) => text.chars().count(),
                    Value::List(items) => items.len(),
                    Value::Map(entries) => entries.len(),
                    other => return failed(format!("{} has no size", other.kind())),
                },
            };
            Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
        }
        (Function::Uuid, []) => Ok(Value::Text(uuid(scope).into())),
        (Function::RandomInt, [low, high]) => {
            let (low, high) = (low.eval(scope)?, high.eval(scope)?);
            let (Value::Int(low), Value::Int(high)) = (low, high) else {
                return failed("random_int needs whole numbers");
            };
            if low > high {
                return failed(format!("random_int: {low} is more than {high}"));
            }
            let count = high.wrapping_sub(low).cast_unsigned();
            let random = scope.random();
            let offset = match count.checked_add(1) {
                Some(bound) => random.below(bound),
                None => random.next_u64(),
            };
            Ok(Value::Int(low.wrapping_add_unsigned(offset)))
        }
        (Function::RandomString, [count]) => {
            const LETTERS: &[u8; 62] =
                b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
            let count = count.eval(scope)?;
            let Value::Int(count @ 0..=RANDOM_CHARS_MAX) = count else {
                return failed(format!("random_string takes 0 to {RANDOM_CHARS_MAX}"));
            };
            let random = scope.random();
            let text: String = (0..count)
                .filter_map(|_| LETTERS.get(usize::try_from(random.below(62)).ok()?))
                .map(|&letter| char::from(letter))
                .collect();
            Ok(Value::Text(text.into()))
        }
        (Function::Pick, [list]) => match list.eval(scope)? {
            Value::List(items) if !items.is_empty() => {
                let at = scope.random().below(items.len() as u64);
                Ok(usize::try_from(at)
                    .ok()
                    .and_then(|at| items.get(at))
                    .cloned()
                    .unwrap_or_default())
            }
            Value::List(_) => failed("pick: the list is empty"),
            other => failed(format!("pick needs a list, not {}", other.kind())),
        },
        (Function::JsonEncode, [value]) => {
            Ok(Value::Text(value.eval(scope)?.to_json().to_string().into()))
        }
        (Function::TimeFormat, [millis, format]) => {
            let millis = millis.eval(scope)?;
            let Value::Int(millis) = millis else { return failed("an instant is a whole number") };
            with_text(format, scope, |format| {
                Value::Text(time::format(millis, format.unwrap_or_default()).into())
            })
        }
        (Function::Int, [value]) => to_int(&value.eval(scope)?),
        (Function::Double, [value]) => {
            let value = value.eval(scope)?;
            let number = match &value {
                Value::Text(text) => text.trim().parse::<f64>().ok().filter(|n| n.is_finite()),
                other => other.as_f64(),
            };
            number.map_or_else(|| failed(format!("`{value}` is no number")), |n| Ok(n.into()))
        }
        (Function::Text, [value]) => Ok(match value.eval(scope)? {
            text @ Value::Text(_) => text,
            other => Value::Text(other.to_string().into()),
        }),
        _ => wrong(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn to_int(value: &Value) -> Result<Value, EvalError> {
    let number = match value {
        Value::Int(number) => Some(*number),
        Value::Float(number) if number.abs() < 9e15 => Some(number.trunc() as i64),
        Value::Text(text) => text.trim().parse().ok(),
        Value::Bool(value) => Some(i64::from(*value)),
        _ => None,
    };
    number.map_or_else(|| failed(format!("`{value}` is no whole number")), |n| Ok(Value::Int(n)))
}

fn hex(bytes: &[u8]) -> Value {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    Value::Text(text.into())
}

/// Digests that `hash` and `hmac` know.
pub(crate) const DIGESTS: [&str; 3] = ["sha256", "sha384", "sha512"];

fn digest(name: &str, key: Option<&str>, text: &str) -> Result<Value, EvalError> {
    macro_rules! with {
        ($kind:ty) => {
            match key {
                None => Ok(hex(&<$kind>::digest(text))),
                Some(key) => match Hmac::<$kind>::new_from_slice(key.as_bytes()) {
                    Ok(mut mac) => {
                        mac.update(text.as_bytes());
                        Ok(hex(&mac.finalize().into_bytes()))
                    }
                    Err(error) => failed(error.to_string()),
                },
            }
        };
    }
    match name {
        "sha256" => with!(Sha256),
        "sha384" => with!(Sha384),
        "sha512" => with!(Sha512),
        _ => failed(format!("`{name}` is no known digest")),
    }
}

/// Everything but the unreserved characters of RFC 3986 becomes `%XX`.
pub(crate) fn url_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
}

fn uuid(scope: &mut dyn Scope) -> String {
    let random = scope.random();
    let bits = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{bits:032x}");
    let (a, b, c, d, e) =
        (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

impl Template {
    /// Appends the text to `out`.
    ///
    /// # Errors
    ///
    /// If a hole has no value; `out` then holds what came before it.
    pub fn render(&self, scope: &mut dyn Scope, out: &mut String) -> Result<(), EvalError> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Hole(expr) => match expr.eval(scope)? {
                    Value::Text(text) => out.push_str(&text),
                    value => write!(out, "{value}").unwrap_or_default(),
                },
            }
        }
        Ok(())
    }
}

impl JsonTemplate {
    /// Appends the JSON text to `out`.
    ///
    /// # Errors
    ///
    /// If a hole has no value.
    pub fn render(&self, scope: &mut dyn Scope, out: &mut String) -> Result<(), EvalError> {
        match self {
            Self::Constant(text) => out.push_str(text),
            Self::Text(template) => {
                let mut text = String::new();
                template.render(scope, &mut text)?;
                quote(&text, out);
            }
            Self::Hole(expr) => match expr.eval(scope)? {
                Value::Text(text) => quote(&text, out),
                value => write!(out, "{}", value.to_json()).unwrap_or_default(),
            },
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.render(scope, out)?;
                }
                out.push(']');
            }
            Self::Object(entries) => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    quote(key, out);
                    out.push(':');
                    value.render(scope, out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }
}

/// Appends `text` as a JSON string.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out.push('"');
}
