//! From words to a tree: precedence climbing (Pratt), with CEL's precedences.

use std::ops::Range;

use super::functions::Ty;
use super::lex::{ExprError, Token, lex};
use super::{BinaryOp, EXPR_DEPTH_MAX, UnaryOp, Value};

/// A part of an expression with its place.
#[derive(Debug, Clone)]
pub(crate) struct Ast {
    pub(crate) at: Range<usize>,
    pub(crate) kind: AstKind,
    depth: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum AstKind {
    Literal(Value, Ty),
    Name(String),
    Member(Box<Ast>, String, Range<usize>),
    Index(Box<Ast>, Box<Ast>),
    Unary(UnaryOp, Box<Ast>),
    Binary(BinaryOp, Box<Ast>, Box<Ast>),
    Conditional(Box<Ast>, Box<Ast>, Box<Ast>),
    Call { receiver: Option<Box<Ast>>, name: String, name_at: Range<usize>, args: Vec<Ast> },
    List(Vec<Ast>),
    Map(Vec<(String, Ast)>),
    InRange(Box<Ast>, Box<Ast>, Box<Ast>),
}

struct Parser {
    tokens: Vec<(Token, Range<usize>)>,
    next: usize,
    depth: usize,
}

/// Parses the expression in `text` from `begin` on. If `in_hole`, it ends before the closing `}`.
pub(crate) fn parse(text: &str, begin: usize, in_hole: bool) -> Result<(Ast, usize), ExprError> {
    let (tokens, end) = lex(text, begin, in_hole)?;
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    if *parser.peek() == Token::End {
        let at = begin.saturating_sub(usize::from(in_hole) * 2)..end.max(begin);
        return Err(ExprError::new(at, "an expression is missing"));
    }
    let ast = parser.conditional()?;
    if *parser.peek() != Token::End {
        let found = parser.peek().describe();
        let error = ExprError::new(parser.at(), format!("{found} was not expected"));
        return Err(match parser.peek() {
            Token::Name(word) if word == "and" => error.note("write `&&`"),
            Token::Name(word) if word == "or" => error.note("write `||`"),
            _ => error.note("expected an operator or the end"),
        });
    }
    Ok((ast, end))
}

fn binary_op(sign: &str) -> Option<(u8, BinaryOp)> {
    Some(match sign {
        "||" => (1, BinaryOp::Or),
        "&&" => (2, BinaryOp::And),
        "==" => (3, BinaryOp::Equal),
        "!=" => (3, BinaryOp::NotEqual),
        "<" => (3, BinaryOp::Less),
        "<=" => (3, BinaryOp::LessEqual),
        ">" => (3, BinaryOp::Greater),
        ">=" => (3, BinaryOp::GreaterEqual),
        "+" => (4, BinaryOp::Add),
        "-" => (4, BinaryOp::Subtract),
        "*" => (5, BinaryOp::Multiply),
        "/" => (5, BinaryOp::Divide),
        "%" => (5, BinaryOp::Remainder),
        _ => return None,
    })
}

/// The precedence of comparisons and `in`.
const RELATION: u8 = 3;

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn at(&self) -> Range<usize> {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(0..0, |(_, at)| at.clone())
    }

    fn advance(&mut self) -> (Token, Range<usize>) {
        let word = (self.peek().clone(), self.at());
        self.next += 1;
        word
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<Range<usize>, ExprError> {
        let at = self.at();
        if self.eat(sign) {
            return Ok(at);
        }
        let found = self.peek().describe();
        Err(ExprError::new(at, format!("expected `{sign}`, found {found}")))
    }

    fn node(&self, at: Range<usize>, kind: AstKind, children: &[usize]) -> Result<Ast, ExprError> {
        let depth = 1 + children.iter().copied().max().unwrap_or(0);
        if depth > EXPR_DEPTH_MAX {
            return Err(too_deep(at));
        }
        Ok(Ast { at, kind, depth })
    }

    fn conditional(&mut self) -> Result<Ast, ExprError> {
        self.depth += 1;
        if self.depth > EXPR_DEPTH_MAX {
            return Err(too_deep(self.at()));
        }
        let condition = self.binary(0)?;
        let ast = if self.eat("?") {
            let then = self.conditional()?;
            self.expect(":")?;
            let otherwise = self.conditional()?;
            let at = condition.at.start..otherwise.at.end;
            let depths = [condition.depth, then.depth, otherwise.depth];
            let kind = AstKind::Conditional(condition.into(), then.into(), otherwise.into());
            self.node(at, kind, &depths)?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(ast)
    }

    fn binary(&mut self, min: u8) -> Result<Ast, ExprError> {
        let mut left = self.unary()?;
        loop {
            let is_in = matches!(self.peek(), Token::Name(word) if word == "in");
            if is_in && RELATION > min {
                self.next += 1;
                let low = self.binary(RELATION)?;
                if self.eat("..") {
                    let high = self.binary(RELATION)?;
                    let at = left.at.start..high.at.end;
                    let depths = [left.depth, low.depth, high.depth];
                    left = self.node(
                        at,
                        AstKind::InRange(left.into(), low.into(), high.into()),
                        &depths,
                    )?;
                } else {
                    let at = left.at.start..low.at.end;
                    let depths = [left.depth, low.depth];
                    left = self.node(
                        at,
                        AstKind::Binary(BinaryOp::In, left.into(), low.into()),
                        &depths,
                    )?;
                }
                continue;
            }
            let Token::Sign(sign) = self.peek() else { return Ok(left) };
            let Some((precedence, op)) = binary_op(sign).filter(|(p, _)| *p > min) else {
                return Ok(left);
            };
            self.next += 1;
            let right = self.binary(precedence)?;
            let at = left.at.start..right.at.end;
            let depths = [left.depth, right.depth];
            left = self.node(at, AstKind::Binary(op, left.into(), right.into()), &depths)?;
        }
    }

    fn unary(&mut self) -> Result<Ast, ExprError> {
        let start = self.at().start;
        let op = if self.eat("!") {
            UnaryOp::Not
        } else if self.eat("-") {
            UnaryOp::Negate
        } else {
            return self.postfix();
        };
        self.depth += 1;
        if self.depth > EXPR_DEPTH_MAX {
            return Err(too_deep(self.at()));
        }
        let operand = self.unary()?;
        self.depth -= 1;
        let depth = [operand.depth];
        self.node(start..operand.at.end, AstKind::Unary(op, operand.into()), &depth)
    }

    fn postfix(&mut self) -> Result<Ast, ExprError> {
        let mut ast = self.primary()?;
        loop {
            if self.eat(".") {
                let (Token::Name(name), name_at) = self.advance() else {
                    self.next -= 1;
                    let found = self.peek().describe();
                    let message = format!("expected a name after `.`, found {found}");
                    return Err(ExprError::new(self.at(), message));
                };
                let mut depths = vec![ast.depth];
                if matches!(self.peek(), Token::Sign("(")) {
                    let (args, end) = self.arguments()?;
                    depths.extend(args.iter().map(|arg| arg.depth));
                    let at = ast.at.start..end;
                    let receiver = Some(Box::new(ast));
                    ast =
                        self.node(at, AstKind::Call { receiver, name, name_at, args }, &depths)?;
                } else {
                    let at = ast.at.start..name_at.end;
                    ast = self.node(at, AstKind::Member(ast.into(), name, name_at), &depths)?;
                }
            } else if self.eat("[") {
                let index = self.conditional()?;
                let end = self.expect("]")?.end;
                let depths = [ast.depth, index.depth];
                let at = ast.at.start..end;
                ast = self.node(at, AstKind::Index(ast.into(), index.into()), &depths)?;
            } else {
                return Ok(ast);
            }
        }
    }

    fn arguments(&mut self) -> Result<(Vec<Ast>, usize), ExprError> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !matches!(self.peek(), Token::Sign(")")) {
            args.push(self.conditional()?);
            if !self.eat(",") {
                break;
            }
        }
        Ok((args, self.expect(")")?.end))
    }

    fn primary(&mut self) -> Result<Ast, ExprError> {
        let (token, at) = self.advance();
        match token {
            Token::Literal(value, ty) => self.node(at, AstKind::Literal(value, ty), &[]),
            Token::Name(name) if matches!(self.peek(), Token::Sign("(")) => {
                let (args, end) = self.arguments()?;
                let depths: Vec<usize> = args.iter().map(|arg| arg.depth).collect();
                let kind = AstKind::Call { receiver: None, name, name_at: at.clone(), args };
                self.node(at.start..end, kind, &depths)
            }
            Token::Name(name) => self.node(at, AstKind::Name(name), &[]),
            Token::Sign("(") => {
                let inner = self.conditional()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                let mut items = Vec::new();
                while !matches!(self.peek(), Token::Sign("]")) {
                    items.push(self.conditional()?);
                    if !self.eat(",") {
                        break;
                    }
                }
                let end = self.expect("]")?.end;
                let depths: Vec<usize> = items.iter().map(|item| item.depth).collect();
                self.node(at.start..end, AstKind::List(items), &depths)
            }
            Token::Sign("{") => {
                let mut entries = Vec::new();
                while !matches!(self.peek(), Token::Sign("}")) {
                    let key = match self.advance() {
                        (Token::Name(name), _) => name,
                        (Token::Literal(Value::Text(text), _), _) => text.to_string(),
                        (other, at) => {
                            let found = other.describe();
                            return Err(ExprError::new(
                                at,
                                format!("expected a key, found {found}"),
                            ));
                        }
                    };
                    self.expect(":")?;
                    entries.push((key, self.conditional()?));
                    if !self.eat(",") {
                        break;
                    }
                }
                let end = self.expect("}")?.end;
                let depths: Vec<usize> = entries.iter().map(|(_, value)| value.depth).collect();
                self.node(at.start..end, AstKind::Map(entries), &depths)
            }
            other => {
                let found = other.describe();
                Err(ExprError::new(at, format!("expected a value, found {found}")))
            }
        }
    }
}

fn too_deep(at: Range<usize>) -> ExprError {
    ExprError::new(at, format!("an expression is nested at most {EXPR_DEPTH_MAX} levels deep"))
        .note("put a part of it into a variable with `set`")
}
