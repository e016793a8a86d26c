//! Words of the expression language.

use std::ops::Range;

use super::functions::Ty;
use super::{EXPR_BYTES_MAX, Value};
use crate::units;

/// What is wrong with an expression, by its place in the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExprError {
    pub(crate) at: Range<usize>,
    pub(crate) message: String,
    pub(crate) notes: Vec<String>,
}

impl ExprError {
    pub(crate) fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), notes: Vec::new() }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Literal(Value, Ty),
    Name(String),
    /// An operator, bracket or separator.
    Sign(&'static str),
    End,
}

impl Token {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Literal(value, _) => format!("`{value}`"),
            Self::Name(name) => format!("`{name}`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// A word and its place.
pub(crate) type Placed = (Token, Range<usize>);

/// Longer signs first.
const SIGNS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "..", "<", ">", "!", "+", "-", "*", "/", "%", "(", ")",
    "[", "]", "{", "}", ",", ":", "?", ".",
];

/// The words of `text` from `begin` on. If `in_hole`, they end before the `}` that closes it.
/// Returns the words with their places and where they end.
pub(crate) fn lex(
    text: &str,
    begin: usize,
    in_hole: bool,
) -> Result<(Vec<Placed>, usize), ExprError> {
    let mut tokens = Vec::new();
    let mut at = begin;
    let mut braces = 0usize;
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        at += blank;
        let rest = &text[at..];
        if at - begin > EXPR_BYTES_MAX {
            let message = format!("an expression has at most {EXPR_BYTES_MAX} bytes");
            return Err(ExprError::new(begin..begin + 1, message));
        }
        let Some(first) = rest.chars().next() else {
            if in_hole {
                let open = begin.saturating_sub(2)..begin;
                return Err(ExprError::new(open, "`${` is never closed")
                    .note("end the hole with `}`; write `$${` for the characters `${`"));
            }
            tokens.push((Token::End, at..at));
            return Ok((tokens, at));
        };
        let (token, length) = match first {
            '0'..='9' => number(rest, at)?,
            '"' | '\'' => string(rest, at, first)?,
            c if c.is_alphabetic() || c == '_' => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                let word = &rest[..end.unwrap_or(rest.len())];
                let token = match word {
                    "true" => Token::Literal(Value::Bool(true), Ty::Bool),
                    "false" => Token::Literal(Value::Bool(false), Ty::Bool),
                    "null" => Token::Literal(Value::Null, Ty::Null),
                    _ => Token::Name(word.to_owned()),
                };
                (token, word.len())
            }
            _ => {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let Some(sign) = sign else { return Err(stray(rest, at, first)) };
                match sign {
                    "{" => braces += 1,
                    "}" if in_hole && braces == 0 => {
                        tokens.push((Token::End, at..at));
                        return Ok((tokens, at));
                    }
                    "}" => braces = braces.saturating_sub(1),
                    _ => {}
                }
                (Token::Sign(sign), sign.len())
            }
        };
        tokens.push((token, at..at + length));
        at += length;
    }
}

fn stray(rest: &str, at: usize, first: char) -> ExprError {
    let error = ExprError::new(at..at + first.len_utf8(), format!("`{first}` has no meaning here"));
    match first {
        '=' => error.note("compare with `==`"),
        '&' => error.note("write `&&` for and"),
        '|' => error.note("write `||` for or"),
        '$' if rest.starts_with("${") => error.note("a condition needs no `${…}` around names"),
        _ => error,
    }
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), ExprError> {
    let digits = |from: usize| {
        rest[from..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| from + n)
    };
    let mut end = digits(0);
    let is_digit = |place: usize| rest.as_bytes().get(place).is_some_and(u8::is_ascii_digit);
    let mut is_float = false;
    if rest[end..].starts_with('.') && is_digit(end + 1) {
        end = digits(end + 1);
        is_float = true;
    }
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        if is_digit(end + 1 + sign) {
            end = digits(end + 1 + sign);
            is_float = true;
        }
    }
    // A unit: letters at once after the number, and more numbers with units, as in `1m30s`.
    let unit_end = rest[end..]
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == 'µ'))
        .map_or(rest.len(), |n| end + n);
    if unit_end > end {
        let word = &rest[..unit_end];
        if let Ok(duration) = units::duration(word) {
            let value = Value::Float(duration.as_secs_f64());
            return Ok((Token::Literal(value, Ty::Duration), unit_end));
        }
        if let Ok(bytes) = units::size(word) {
            let value = Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX));
            return Ok((Token::Literal(value, Ty::Bytes), unit_end));
        }
        return Err(ExprError::new(
            at..at + unit_end,
            format!("`{word}` is no number with a unit"),
        )
        .note("units are ns, us, ms, s, m, h, d and B, KiB, MiB, GiB, KB, MB, GB"));
    }
    let word = &rest[..end];
    let too_large = || ExprError::new(at..at + end, format!("the number `{word}` is too large"));
    let token = if is_float {
        let number = word.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(too_large)?;
        Token::Literal(Value::Float(number), Ty::Float)
    } else {
        let number = word.parse::<i64>().ok().ok_or_else(too_large)?;
        Token::Literal(Value::Int(number), Ty::Int)
    };
    Ok((token, end))
}

fn string(rest: &str, at: usize, quote: char) -> Result<(Token, usize), ExprError> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((place, c)) = chars.next() {
        match c {
            c if c == quote => {
                return Ok((Token::Literal(Value::Text(text.into()), Ty::Text), place + 1));
            }
            '\\' => {
                let Some((_, escaped)) = chars.next() else { break };
                let decoded = match escaped {
                    'n' => Some('\n'),
                    't' => Some('\t'),
                    'r' => Some('\r'),
                    '\\' | '"' | '\'' | '/' => Some(escaped),
                    'u' | 'x' => {
                        let count = if escaped == 'u' { 4 } else { 2 };
                        let code = (0..count)
                            .try_fold(0, |code, _| Some(code << 4 | chars.next()?.1.to_digit(16)?));
                        code.and_then(char::from_u32)
                    }
                    _ => None,
                };
                let span = at + place..at + place + 1 + escaped.len_utf8();
                text.push(decoded.ok_or_else(|| {
                    ExprError::new(span, format!("`\\{escaped}` is no escape"))
                        .note("known are \\n \\t \\r \\\\ \\\" \\' \\xHH \\uHHHH")
                })?);
            }
            c => text.push(c),
        }
    }
    Err(ExprError::new(at..at + rest.len(), "the text is never closed").note(format!(
        "end it with {quote}; inside `[…]` and `{{…}}` of YAML put an expression with a comma in quotes"
    )))
}
