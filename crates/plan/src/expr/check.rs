//! From a tree to a compiled expression: names resolved, types checked, constants folded.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hyperscale_model::{SplitMix, WorkflowIndex};

use super::eval::DIGESTS;
use super::functions::{Form, SIGNATURES, Signature, Ty};
use super::lex::ExprError;
use super::parse::{Ast, AstKind, parse};
use super::pattern::{JSON_PATHS_MAX, REGEXES_MAX, check_json_path, check_regex};
use super::{
    BinaryOp, EvalError, Expr, Function, Piece, Scope, Template, UnaryOp, Value, Var, time,
};
use crate::diagnostics::{nearest, one_of};
use crate::ir::{DataIndex, LocalIndex};

/// Longest text that folding makes; longer ones stay expressions.
const FOLDED_BYTES_MAX: usize = 16 << 10;

/// What a pattern is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PatternKind {
    Json,
    Regex,
}

/// What the constants of a test may cost, so that a small file does not become a huge test.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Cell<usize>,
    /// Regular expressions and JSONPaths that were looked at.
    patterns: RefCell<BTreeMap<PatternKind, BTreeSet<String>>>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self { bytes: Cell::new(8 << 20), patterns: RefCell::default() }
    }

    fn take(&self, at: &Range<usize>, bytes: usize) -> Result<(), ExprError> {
        let left = self.bytes.get().checked_sub(bytes);
        self.bytes.set(left.unwrap_or(0));
        left.map(drop).ok_or_else(|| {
            ExprError::new(at.clone(), "the constants of the test make more than 8 MiB of text")
        })
    }

    /// Counts a pattern, each once. Whether it is a new one, which must be checked.
    pub(crate) fn take_pattern(
        &self,
        at: &Range<usize>,
        kind: PatternKind,
        text: &str,
    ) -> Result<bool, ExprError> {
        let mut patterns = self.patterns.borrow_mut();
        let (what, max) = match kind {
            PatternKind::Json => ("JSONPaths", JSON_PATHS_MAX),
            PatternKind::Regex => ("regular expressions", REGEXES_MAX),
        };
        let known = patterns.entry(kind).or_default();
        if known.contains(text) {
            return Ok(false);
        }
        if known.len() >= max {
            return Err(ExprError::new(at.clone(), format!("a test holds at most {max} {what}")));
        }
        Ok(known.insert(text.to_owned()))
    }
}

/// What an expression may name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) vars: &'a BTreeMap<String, Value>,
    pub(crate) env: &'a BTreeMap<String, String>,
    /// What is there only while the test runs; absent where a value must be known before.
    pub(crate) runtime: Option<&'a Runtime>,
    /// Whether an answer is looked at.
    pub(crate) answer: bool,
    pub(crate) budget: &'a Budget,
}

/// Names of what is there while a workflow runs.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    pub(crate) secrets: Vec<String>,
    pub(crate) data: Vec<SourceNames>,
    pub(crate) locals: Vec<String>,
    /// What the workflows before this one publish.
    pub(crate) published: BTreeMap<String, (WorkflowIndex, Vec<String>)>,
    /// Workflows that this one does not wait for.
    pub(crate) unreachable: Vec<String>,
}

/// What is known of a data source.
#[derive(Debug)]
pub(crate) struct SourceNames {
    pub(crate) name: String,
    /// Its fields, if they are known.
    pub(crate) fields: Option<Vec<String>>,
    /// The type of its fields.
    pub(crate) ty: Ty,
}

/// A compiled expression with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Typed {
    pub(crate) expr: Expr,
    pub(crate) ty: Ty,
}

/// Compiles a whole text as one expression.
pub(crate) fn compile_expr(text: &str, names: &Names<'_>) -> Result<Typed, ExprError> {
    let (ast, _) = parse(text, 0, false)?;
    check(&ast, names)
}

/// Compiles a whole text as a condition: what it gives must be true or false.
pub(crate) fn compile_condition(text: &str, names: &Names<'_>) -> Result<Expr, ExprError> {
    let (ast, _) = parse(text, 0, false)?;
    let typed = check(&ast, names)?;
    if typed.ty.fits(Ty::Bool) {
        return Ok(typed.expr);
    }
    let message = format!("a condition must be true or false, this is {}", typed.ty.words());
    Err(ExprError::new(ast.at, message).note("compare it, as in `status == 200`"))
}

/// Compiles text with `${…}` holes. Adjacent constants become one.
pub(crate) fn compile_template(text: &str, names: &Names<'_>) -> Result<Template, ExprError> {
    let mut pieces = Vec::new();
    let mut constant = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('$') {
        let dollar = at + found;
        constant.push_str(&text[at..dollar]);
        if text[dollar..].starts_with("$${") {
            constant.push_str("${");
            at = dollar + 3;
        } else if text[dollar..].starts_with("${") {
            let (ast, end) = parse(text, dollar + 2, true)?;
            match check(&ast, names)?.expr {
                Expr::Literal(value) => {
                    names.budget.take(&ast.at, value.weight())?;
                    constant.push_str(&value.to_string());
                }
                expr => {
                    if !constant.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut constant)));
                    }
                    pieces.push(Piece::Hole(expr));
                }
            }
            at = end + 1;
        } else {
            constant.push('$');
            at = dollar + 1;
        }
    }
    constant.push_str(&text[at..]);
    if !constant.is_empty() {
        pieces.push(Piece::Text(constant));
    }
    Ok(Template(pieces))
}

/// Compiles text that may be one hole as a whole; the value then keeps its type.
pub(crate) fn compile_whole(text: &str, names: &Names<'_>) -> Result<Option<Typed>, ExprError> {
    if !text.starts_with("${") {
        return Ok(None);
    }
    let (ast, end) = parse(text, 2, true)?;
    if end + 1 == text.len() { check(&ast, names).map(Some) } else { Ok(None) }
}

/// The scope of constants: nothing is there.
struct Nothing(SplitMix);

impl Scope for Nothing {
    fn variable(&self, _: &Var) -> Result<Value, EvalError> {
        Err(EvalError("not known before the test runs".to_owned()))
    }

    fn random(&mut self) -> &mut SplitMix {
        &mut self.0
    }
}

fn fold(at: &Range<usize>, expr: Expr, ty: Ty, names: &Names<'_>) -> Result<Typed, ExprError> {
    let is_constant = expr.children().iter().all(|child| matches!(child, Expr::Literal(_)))
        && !matches!(expr, Expr::Literal(_) | Expr::Var(_));
    let is_pure = match &expr {
        Expr::Call(function, _) => {
            SIGNATURES.iter().any(|signature| signature.function == *function && signature.is_pure)
        }
        _ => true,
    };
    let weight: usize = expr
        .children()
        .iter()
        .map(|child| match child {
            Expr::Literal(value) => value.weight(),
            _ => 0,
        })
        .sum();
    if !is_constant || !is_pure || weight > FOLDED_BYTES_MAX {
        return Ok(Typed { expr, ty });
    }
    match expr.eval(&mut Nothing(SplitMix::new(0))) {
        Ok(value) => {
            names.budget.take(at, value.weight())?;
            let ty = if ty == Ty::Any { type_of(&value) } else { ty };
            Ok(Typed { expr: Expr::Literal(value), ty })
        }
        Err(error) => Err(ExprError::new(at.clone(), error.0)),
    }
}

fn type_of(value: &Value) -> Ty {
    match value {
        Value::Null => Ty::Null,
        Value::Bool(_) => Ty::Bool,
        Value::Int(_) => Ty::Int,
        Value::Float(_) => Ty::Float,
        Value::Text(_) => Ty::Text,
        Value::List(_) => Ty::List,
        Value::Map(_) => Ty::Map,
    }
}

fn boxed(typed: Typed) -> Box<Expr> {
    Box::new(typed.expr)
}

fn check(ast: &Ast, names: &Names<'_>) -> Result<Typed, ExprError> {
    let (expr, ty) = match &ast.kind {
        AstKind::Literal(value, ty) => (Expr::Literal(value.clone()), *ty),
        AstKind::Name(name) => return name_of(name, &ast.at, names),
        AstKind::Member(of, name, name_at) => return member(ast, of, name, name_at, names),
        AstKind::Index(of, index) => {
            let (of_typed, index_typed) = (check(of, names)?, check(index, names)?);
            match of_typed.ty {
                Ty::Any => {}
                Ty::List => require(&index.at, index_typed.ty, Ty::Int)?,
                Ty::Map => require(&index.at, index_typed.ty, Ty::Text)?,
                other => {
                    let message = format!("{} has no elements", other.words());
                    return Err(ExprError::new(of.at.clone(), message));
                }
            }
            (Expr::Index(boxed(of_typed), boxed(index_typed)), Ty::Any)
        }
        AstKind::Unary(op, operand) => {
            let typed = check(operand, names)?;
            let ty = match op {
                UnaryOp::Not => {
                    require(&operand.at, typed.ty, Ty::Bool)?;
                    Ty::Bool
                }
                UnaryOp::Negate => {
                    if !typed.ty.is_number() {
                        require(&operand.at, typed.ty, Ty::Float)?;
                    }
                    typed.ty
                }
            };
            (Expr::Unary(*op, boxed(typed)), ty)
        }
        AstKind::Binary(op, left, right) => {
            let (l, r) = (check(left, names)?, check(right, names)?);
            let ty = binary_type(*op, (left, &l), (right, &r))?;
            (Expr::Binary(*op, boxed(l), boxed(r)), ty)
        }
        AstKind::InRange(value, low, high) => {
            let (v, l, h) = (check(value, names)?, check(low, names)?, check(high, names)?);
            binary_type(BinaryOp::GreaterEqual, (value, &v), (low, &l))?;
            binary_type(BinaryOp::LessEqual, (value, &v), (high, &h))?;
            (Expr::InRange(boxed(v), boxed(l), boxed(h)), Ty::Bool)
        }
        AstKind::Conditional(condition, then, otherwise) => {
            let c = check(condition, names)?;
            require(&condition.at, c.ty, Ty::Bool)?;
            let (t, o) = (check(then, names)?, check(otherwise, names)?);
            let ty = if t.ty == o.ty { t.ty } else { Ty::Any };
            (Expr::Conditional(boxed(c), boxed(t), boxed(o)), ty)
        }
        AstKind::List(items) => {
            let items: Result<Vec<Expr>, ExprError> =
                items.iter().map(|item| Ok(check(item, names)?.expr)).collect();
            (Expr::List(items?), Ty::List)
        }
        AstKind::Map(entries) => {
            let entries: Result<Vec<_>, ExprError> = entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), check(value, names)?.expr)))
                .collect();
            (Expr::Map(entries?), Ty::Map)
        }
        AstKind::Call { receiver, name, name_at, args } => {
            let receiver = receiver.as_deref();
            return function(ast, receiver, (name, name_at), args, names);
        }
    };
    fold(&ast.at, expr, ty, names)
}

fn require(at: &Range<usize>, found: Ty, wanted: Ty) -> Result<(), ExprError> {
    if found.fits(wanted) {
        return Ok(());
    }
    let message = format!("expected {}, found {}", wanted.words(), found.words());
    Err(ExprError::new(at.clone(), message))
}

fn is_zero(typed: &Typed) -> bool {
    matches!(&typed.expr, Expr::Literal(Value::Int(0)))
}

fn binary_type(
    op: BinaryOp,
    (left_ast, left): (&Ast, &Typed),
    (right_ast, right): (&Ast, &Typed),
) -> Result<Ty, ExprError> {
    let whole = left_ast.at.start..right_ast.at.end;
    let (l, r) = (left.ty, right.ty);
    let is_either_any = l == Ty::Any || r == Ty::Any;
    // A bare number where a unit belongs.
    let lacks_unit = |bare: (&Ast, &Typed), other: Ty| {
        let form = if other == Ty::Duration { "`500ms` or `2s`" } else { "`512B` or `1KiB`" };
        let is_bare = matches!(bare.1.ty, Ty::Int | Ty::Float)
            && matches!(other, Ty::Duration | Ty::Bytes)
            && !is_zero(bare.1);
        is_bare.then(|| {
            ExprError::new(
                bare.0.at.clone(),
                format!("this number lacks a unit: it is compared with {}", other.words()),
            )
            .note(format!("write {form}"))
        })
    };
    let comparable = |a: Ty, b: Ty| {
        (a.is_number() && b.is_number())
            || a == b
            || (is_zero(left) && matches!(b, Ty::Duration | Ty::Bytes))
            || (is_zero(right) && matches!(a, Ty::Duration | Ty::Bytes))
    };
    let mismatch =
        |verb: &str| ExprError::new(whole.clone(), format!("{} {verb} {}", l.words(), r.words()));
    match op {
        BinaryOp::And | BinaryOp::Or => {
            require(&left_ast.at, l, Ty::Bool)?;
            require(&right_ast.at, r, Ty::Bool)?;
            Ok(Ty::Bool)
        }
        BinaryOp::In => {
            if !matches!(r, Ty::Any | Ty::List | Ty::Map) {
                return Err(ExprError::new(
                    right_ast.at.clone(),
                    format!("`in` needs a list, a map or a range, found {}", r.words()),
                )
                .note("write `status in [200, 204]` or `status in 200..299`"));
            }
            Ok(Ty::Bool)
        }
        BinaryOp::Equal
        | BinaryOp::NotEqual
        | BinaryOp::Less
        | BinaryOp::LessEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterEqual => {
            if let Some(error) =
                lacks_unit((right_ast, right), l).or_else(|| lacks_unit((left_ast, left), r))
            {
                return Err(error);
            }
            let is_equality = matches!(op, BinaryOp::Equal | BinaryOp::NotEqual);
            let is_null = is_equality && (l == Ty::Null || r == Ty::Null);
            if !is_equality {
                for (ast, ty) in [(left_ast, l), (right_ast, r)] {
                    if matches!(ty, Ty::Null | Ty::Bool | Ty::List | Ty::Map) {
                        let message = format!("{} has no order", ty.words());
                        return Err(ExprError::new(ast.at.clone(), message));
                    }
                }
            }
            if is_either_any || is_null || comparable(l, r) {
                return Ok(Ty::Bool);
            }
            Err(mismatch("cannot be compared with"))
        }
        BinaryOp::Add => match (l, r) {
            _ if is_either_any => Ok(Ty::Any),
            (Ty::Int, Ty::Int) => Ok(Ty::Int),
            _ if l.is_number() && r.is_number() => Ok(Ty::Float),
            (Ty::Text, Ty::Text) => Ok(Ty::Text),
            (Ty::List, Ty::List) => Ok(Ty::List),
            (Ty::Duration, Ty::Duration) | (Ty::Bytes, Ty::Bytes) => Ok(l),
            _ if l == Ty::Text || r == Ty::Text => {
                Err(mismatch("cannot be added to").note("turn a value into text with `string(x)`"))
            }
            _ => Err(mismatch("cannot be added to")),
        },
        BinaryOp::Subtract | BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Remainder => {
            match (l, r) {
                _ if is_either_any => Ok(Ty::Any),
                (Ty::Int, Ty::Int) => Ok(Ty::Int),
                _ if l.is_number() && r.is_number() => Ok(Ty::Float),
                (Ty::Duration, Ty::Duration) | (Ty::Bytes, Ty::Bytes) => match op {
                    BinaryOp::Subtract => Ok(l),
                    BinaryOp::Divide => Ok(Ty::Float),
                    _ => Err(mismatch("does not go with")),
                },
                (Ty::Duration | Ty::Bytes, Ty::Int | Ty::Float) if op != BinaryOp::Subtract => {
                    Ok(l)
                }
                (Ty::Int | Ty::Float, Ty::Duration | Ty::Bytes) if op == BinaryOp::Multiply => {
                    Ok(r)
                }
                _ => Err(mismatch("does not go with")),
            }
        }
    }
}

const NAMESPACES: [&str; 5] = ["vars", "env", "secrets", "vu", "run"];
const ANSWER_NAMES: [&str; 5] = ["status", "latency", "first_byte", "size", "body"];
const PLAIN_NAMES: [&str; 2] = ["datacenter", "now"];

/// Names that captures, data sources and workflows must not take.
pub(crate) fn is_reserved(name: &str) -> bool {
    NAMESPACES.contains(&name)
        || ANSWER_NAMES.contains(&name)
        || PLAIN_NAMES.contains(&name)
        || ["in", "true", "false", "null"].contains(&name)
}

fn late(at: &Range<usize>, name: &str) -> ExprError {
    ExprError::new(at.clone(), format!("`{name}` is not known before the test runs"))
        .note("only `env` and `vars` can be read here")
}

fn name_of(name: &str, at: &Range<usize>, names: &Names<'_>) -> Result<Typed, ExprError> {
    let var = |var: Var, ty: Ty| Ok(Typed { expr: Expr::Var(var), ty });
    let index = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
    if names.answer {
        let found = match name {
            "status" => Some((Var::Status, Ty::Int)),
            "latency" => Some((Var::Latency, Ty::Duration)),
            "first_byte" => Some((Var::FirstByte, Ty::Duration)),
            "size" => Some((Var::Size, Ty::Bytes)),
            "body" => Some((Var::Body, Ty::Text)),
            _ => None,
        };
        if let Some((found, ty)) = found {
            return var(found, ty);
        }
    }
    if let Some(runtime) = names.runtime {
        match name {
            "datacenter" => return var(Var::Datacenter, Ty::Text),
            "now" => return var(Var::Now, Ty::Int),
            _ => {}
        }
        if let Some(at) = runtime.locals.iter().position(|local| local == name) {
            return var(Var::Local(LocalIndex(index(at))), Ty::Any);
        }
        if let Some(at) = runtime.data.iter().position(|source| source.name == name) {
            return var(Var::Row(DataIndex(index(at))), Ty::Any);
        }
    } else if PLAIN_NAMES.contains(&name) {
        return Err(late(at, name));
    }
    if NAMESPACES.contains(&name) {
        return Err(ExprError::new(at.clone(), format!("`{name}` is no value by itself"))
            .note(format!("name what you mean: `{name}.…`")));
    }
    if ANSWER_NAMES.contains(&name) {
        return Err(ExprError::new(
            at.clone(),
            format!("there is no answer whose `{name}` could be read"),
        )
        .note("only `check` looks at an answer; `capture` its values for later steps"));
    }
    if let Some(runtime) = names.runtime {
        if runtime.published.contains_key(name) {
            return Err(ExprError::new(at.clone(), format!("`{name}` is a workflow, no value"))
                .note(format!("name what it publishes: `{name}.…`")));
        }
        if runtime.unreachable.iter().any(|other| other == name) {
            return Err(not_awaited(at, name));
        }
    }
    Err(unknown(name, at, names))
}

fn not_awaited(at: &Range<usize>, name: &str) -> ExprError {
    ExprError::new(
        at.clone(),
        format!("the workflow `{name}` is not among those that this one waits for"),
    )
    .note(format!("add `after: [ {name} ]`"))
}

fn unknown(name: &str, at: &Range<usize>, names: &Names<'_>) -> ExprError {
    let mut known: Vec<&str> = NAMESPACES.to_vec();
    if let Some(runtime) = names.runtime {
        known.extend(PLAIN_NAMES);
        known.extend(runtime.locals.iter().map(String::as_str));
        known.extend(runtime.data.iter().map(|source| source.name.as_str()));
        known.extend(runtime.published.keys().map(String::as_str));
    }
    if names.answer {
        known.extend(ANSWER_NAMES);
    }
    suggest(
        ExprError::new(at.clone(), format!("unknown name `{name}`")),
        name,
        &known,
        "known names",
    )
}

fn suggest(error: ExprError, name: &str, known: &[&str], what: &str) -> ExprError {
    match nearest(name, known.iter().copied()) {
        Some(near) => error.note(format!("did you mean `{near}`?")),
        None if known.is_empty() => error,
        None => error.note(format!("{what}: {}", one_of(known.iter().copied()))),
    }
}

fn member(
    ast: &Ast,
    of: &Ast,
    name: &str,
    name_at: &Range<usize>,
    names: &Names<'_>,
) -> Result<Typed, ExprError> {
    let AstKind::Name(space) = &of.kind else {
        return field(ast, check(of, names)?, (name, name_at), Ty::Any, names);
    };
    let is_local = names.runtime.is_some_and(|r| r.locals.iter().any(|local| local == space));
    let missing = |what: &str, known: &[&str], fix: &str| {
        let error = ExprError::new(name_at.clone(), format!("unknown {what} `{name}`"));
        let error = suggest(error, name, known, "known");
        if fix.is_empty() { error } else { error.note(fix) }
    };
    if is_local {
        return field(ast, check(of, names)?, (name, name_at), Ty::Any, names);
    }
    fn known_keys(keys: Vec<&String>) -> Vec<&str> {
        keys.into_iter().map(String::as_str).collect()
    }
    match space.as_str() {
        "vars" => match names.vars.get(name) {
            Some(value) => Ok(Typed { expr: Expr::Literal(value.clone()), ty: type_of(value) }),
            None => Err(missing("variable", &known_keys(names.vars.keys().collect()), "")),
        },
        "env" => match names.env.get(name) {
            Some(value) => Ok(Typed { expr: Expr::Literal(Value::text(value)), ty: Ty::Text }),
            None => Err(missing(
                "environment variable",
                &known_keys(names.env.keys().collect()),
                "only variables that are declared under `env` can be read",
            )),
        },
        "secrets" => {
            let Some(runtime) = names.runtime else { return Err(late(&ast.at, "secrets")) };
            match runtime.secrets.iter().position(|secret| secret == name) {
                Some(at) => {
                    let var = Var::Secret(u16::try_from(at).unwrap_or(u16::MAX));
                    Ok(Typed { expr: Expr::Var(var), ty: Ty::Text })
                }
                None => Err(missing(
                    "secret",
                    &known_keys(runtime.secrets.iter().collect()),
                    "only secrets that are declared under `secrets` can be read",
                )),
            }
        }
        "vu" | "run" => {
            if names.runtime.is_none() {
                return Err(late(&ast.at, &format!("{space}.{name}")));
            }
            let (var, ty) = match (space.as_str(), name) {
                ("vu", "id") => (Var::VuId, Ty::Int),
                ("vu", "iteration") => (Var::VuIteration, Ty::Int),
                ("run", "id") => (Var::RunId, Ty::Text),
                ("vu", _) => return Err(missing("field", &["id", "iteration"], "")),
                _ => return Err(missing("field", &["id"], "")),
            };
            Ok(Typed { expr: Expr::Var(var), ty })
        }
        _ => {
            let Some(runtime) = names.runtime else {
                return field(ast, check(of, names)?, (name, name_at), Ty::Any, names);
            };
            if let Some((workflow, published)) = runtime.published.get(space) {
                if !published.iter().any(|known| known == name) {
                    let known: Vec<&str> = published.iter().map(String::as_str).collect();
                    let fix = format!("`{space}` gives what stands in its `publish`");
                    return Err(missing("published value", &known, &fix));
                }
                let var = Var::Published(*workflow, name.to_owned());
                return Ok(Typed { expr: Expr::Var(var), ty: Ty::Any });
            }
            if runtime.unreachable.iter().any(|other| other == space)
                && !runtime.data.iter().any(|source| source.name == *space)
            {
                return Err(not_awaited(&of.at, space));
            }
            let source = runtime.data.iter().find(|source| source.name == *space);
            if let Some(SourceNames { fields: Some(fields), .. }) = source
                && !fields.iter().any(|known| known == name)
            {
                let known: Vec<&str> = fields.iter().map(String::as_str).collect();
                let error =
                    ExprError::new(name_at.clone(), format!("`{space}` has no field `{name}`"));
                return Err(suggest(error, name, &known, "known"));
            }
            let ty = source.map_or(Ty::Any, |source| source.ty);
            field(ast, check(of, names)?, (name, name_at), ty, names)
        }
    }
}

fn field(
    ast: &Ast,
    of: Typed,
    (name, name_at): (&str, &Range<usize>),
    ty: Ty,
    names: &Names<'_>,
) -> Result<Typed, ExprError> {
    if !matches!(of.ty, Ty::Any | Ty::Map) {
        let error =
            ExprError::new(name_at.clone(), format!("{} has no field `{name}`", of.ty.words()));
        let is_method = SIGNATURES.iter().any(|s| s.name == name && s.form != Form::Global);
        return Err(if is_method { error.note(format!("call it: `.{name}()`")) } else { error });
    }
    fold(&ast.at, Expr::Member(boxed(of), name.to_owned()), ty, names)
}

fn function(
    ast: &Ast,
    receiver: Option<&Ast>,
    (name, name_at): (&str, &Range<usize>),
    args: &[Ast],
    names: &Names<'_>,
) -> Result<Typed, ExprError> {
    let wanted = if receiver.is_some() { Form::Method } else { Form::Global };
    let fits = |signature: &&Signature| signature.form == wanted || signature.form == Form::Either;
    let Some(signature) = SIGNATURES.iter().filter(fits).find(|s| s.name == name) else {
        let what = if receiver.is_some() { "method" } else { "function" };
        let known: Vec<&str> = SIGNATURES.iter().filter(fits).map(|s| s.name).collect();
        let error = ExprError::new(name_at.clone(), format!("unknown {what} `{name}`"));
        return Err(match SIGNATURES.iter().find(|s| s.name == name) {
            Some(other) => error.note(format!("write it as `{}`", other.example)),
            None => suggest(error, name, &known, "known"),
        });
    };
    if signature.needs_answer && !names.answer {
        return Err(ExprError::new(
            name_at.clone(),
            format!("there is no answer that `{name}` could look at"),
        )
        .note("only `check` looks at an answer; `capture` its values for later steps"));
    }
    let all: Vec<&Ast> = receiver.into_iter().chain(args).collect();
    if all.len() != signature.params.len() {
        let own = usize::from(receiver.is_some());
        let (wanted, found) = (signature.params.len() - own, args.len());
        let plural = if wanted == 1 { "" } else { "s" };
        let message = format!("`{name}` takes {wanted} argument{plural}, not {found}");
        return Err(ExprError::new(ast.at.clone(), message)
            .note(format!("for example `{}`", signature.example)));
    }
    let mut compiled = Vec::with_capacity(all.len());
    for (arg, wanted) in all.iter().zip(signature.params) {
        let typed = check(arg, names)?;
        require(&arg.at, typed.ty, *wanted)
            .map_err(|e| e.note(format!("for example `{}`", signature.example)))?;
        compiled.push(typed.expr);
    }
    check_constants(signature.function, &all, &compiled, names)?;
    fold(&ast.at, Expr::Call(signature.function, compiled), signature.returns, names)
}

/// Arguments whose value decides whether a call makes sense.
fn check_constants(
    function: Function,
    asts: &[&Ast],
    args: &[Expr],
    names: &Names<'_>,
) -> Result<(), ExprError> {
    let text = |at: usize| match args.get(at) {
        Some(Expr::Literal(Value::Text(text))) => Some(&**text),
        _ => None,
    };
    let number = |at: usize| match args.get(at) {
        Some(Expr::Literal(Value::Int(number))) => Some(*number),
        _ => None,
    };
    let refused = |at: usize, message: String| Err(ExprError::new(asts[at].at.clone(), message));
    let pattern = match function {
        Function::Json => text(0).map(|path| (PatternKind::Json, path)),
        Function::Matches => text(1).map(|regex| (PatternKind::Regex, regex)),
        _ => None,
    };
    if let Some((kind, pattern)) = pattern
        && !names.budget.take_pattern(&asts[0].at, kind, pattern)?
    {
        return Ok(());
    }
    match function {
        Function::Json => match text(0) {
            None => refused(0, "the path must be constant text".to_owned()),
            Some(path) => check_json_path(path)
                .or_else(|error| refused(0, format!("`{path}` is no JSONPath: {error}"))),
        },
        Function::Matches => match text(1).map(check_regex) {
            Some(Err(error)) => refused(1, format!("this is no regular expression: {error}")),
            Some(Ok(())) | None => Ok(()),
        },
        Function::Hash | Function::Hmac => match text(0) {
            Some(name) if !DIGESTS.contains(&name) => {
                refused(0, format!("`{name}` is no known digest"))
                    .map_err(|error| error.note(format!("known: {}", one_of(DIGESTS))))
            }
            _ => Ok(()),
        },
        Function::TimeFormat => match text(1).and_then(time::unknown_directive) {
            Some(unknown) => refused(1, format!("`%{unknown}` has no meaning in a format"))
                .map_err(|error| error.note("known: %Y %m %d %H %M %S %L %s %j %a %b %F %T %%")),
            None => Ok(()),
        },
        Function::RandomInt => match (number(0), number(1)) {
            (Some(low), Some(high)) if low > high => {
                refused(0, format!("{low} is more than {high}"))
            }
            _ => Ok(()),
        },
        Function::RandomString => match number(0) {
            Some(count) if !(0..=1 << 16).contains(&count) => {
                refused(0, "a random text has 0 to 65536 characters".to_owned())
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
