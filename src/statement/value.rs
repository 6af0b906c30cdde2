//! Values, as expressions of the tree.

use bolt_wire::packstream::Value as Packed;
use open_cypher::ast::{
    BinaryOperator, Expr, ExprKind, FunctionInvocation, IntegerRadix, Literal as Tree, LiteralKind,
    ParameterName, UnaryOperator,
};

use super::form::{Computed, Literal, Path, Value};

/// Functions without arguments whose value may be another in each run, and is never null.
const FUNCTIONS: [&str; 8] =
    ["timestamp", "datetime", "localdatetime", "date", "time", "localtime", "randomUUID", "rand"];

/// A value of which nothing but the request itself decides, or a clock.
pub(super) fn value(text: &str, expression: &Expr) -> Result<Value, &'static str> {
    match &expression.kind {
        ExprKind::Parameter(_) | ExprKind::Property { .. } => path(expression).map(Value::Parameter),
        ExprKind::Literal(tree) => literal(text, expression, tree, false).map(Value::Literal),
        ExprKind::Unary { operator, operand } if operator.kind == UnaryOperator::Minus => match &operand.kind
        {
            ExprKind::Literal(tree) => literal(text, expression, tree, true).map(Value::Literal),
            _ => Err(NOT_A_VALUE),
        },
        ExprKind::Function(call) => function(call).map(Value::Function),
        _ => Err(NOT_A_VALUE),
    }
}

/// A value, or one that is computed with the property that it is for, which `is_target` knows.
pub(super) fn assigned(
    text: &str,
    expression: &Expr,
    is_target: &impl Fn(&Expr) -> bool,
) -> Result<Value, &'static str> {
    match value(text, expression) {
        Ok(value) => Ok(value),
        Err(_) => computed(text, expression, is_target).map(Value::Computed),
    }
}

fn computed(
    text: &str,
    expression: &Expr,
    is_target: &impl Fn(&Expr) -> bool,
) -> Result<Computed, &'static str> {
    if is_target(expression) {
        return Ok(Computed::Target);
    }
    let inner = |expression| computed(text, expression, is_target).map(Box::new);
    match &expression.kind {
        ExprKind::Parenthesized(inside) => computed(text, inside, is_target),
        ExprKind::Binary { left, operator, right } => {
            let sign = match operator.kind {
                BinaryOperator::Add => "+",
                BinaryOperator::Subtract => "-",
                BinaryOperator::Multiply => "*",
                _ => return Err(NOT_A_VALUE),
            };
            Ok(Computed::Binary(inner(left)?, sign, inner(right)?))
        }
        ExprKind::Function(call) if is_coalesce(call) => match call.arguments.as_slice() {
            [first, second] => Ok(Computed::Coalesce(inner(first)?, inner(second)?)),
            _ => Err(NOT_A_VALUE),
        },
        _ => match value(text, expression)? {
            // Parameters are asked to be numbers: Neo4j refuses some mixtures of types only where it sees them as parameters.
            value @ Value::Parameter(_) => Ok(Computed::Value(Box::new(value))),
            value @ Value::Literal(_) if is_number(expression) => Ok(Computed::Value(Box::new(value))),
            _ => Err("it computes with something else than numbers"),
        },
    }
}

fn is_number(expression: &Expr) -> bool {
    match &expression.kind {
        ExprKind::Literal(tree) => matches!(tree.kind, LiteralKind::Integer(_) | LiteralKind::Float(_)),
        ExprKind::Unary { operand, .. } => is_number(operand),
        _ => false,
    }
}

fn is_coalesce(call: &FunctionInvocation) -> bool {
    let [name] = call.name.parts.as_slice() else { return false };
    call.quantifier.is_none() && !name.kind.escaped && name.kind.text.eq_ignore_ascii_case("coalesce")
}

const NOT_A_VALUE: &str = "a value is neither a parameter nor a literal";

/// `$a` or `$a.b.c`.
pub(super) fn path(expression: &Expr) -> Result<Path, &'static str> {
    let mut names = Vec::new();
    let mut at = expression;
    loop {
        match &at.kind {
            ExprKind::Parameter(parameter) => {
                names.push(match &parameter.name {
                    ParameterName::Named(name) | ParameterName::Positional(name) => name.as_str().into(),
                    _ => return Err("a parameter has an unknown form"),
                });
                names.reverse();
                return Ok(names.into());
            }
            ExprKind::Property { expression, key } => {
                names.push(key.kind.text.as_str().into());
                at = expression;
            }
            _ => return Err(NOT_A_VALUE),
        }
    }
}

fn function(call: &FunctionInvocation) -> Result<&'static str, &'static str> {
    let [name] = call.name.parts.as_slice() else { return Err("a value calls a function of a library") };
    if !call.arguments.is_empty() || call.quantifier.is_some() || name.kind.escaped {
        return Err("a value calls a function");
    }
    let known = FUNCTIONS.iter().find(|known| known.eq_ignore_ascii_case(&name.kind.text));
    known.copied().ok_or("a value calls a function")
}

fn literal(text: &str, whole: &Expr, tree: &Tree, negative: bool) -> Result<Literal, &'static str> {
    let source = whole.span.text(text).ok_or("a literal has no source")?;
    let packed = match &tree.kind {
        LiteralKind::Integer(integer) => {
            let plain = integer.radix == IntegerRadix::Decimal && is_plain_integer(&integer.text);
            let number: i64 = match integer.text.parse() {
                Ok(number) if plain => number,
                _ => return Err("an integer is not spelt in plain decimal digits"),
            };
            Some(Packed::Integer(if negative { -number } else { number }))
        }
        LiteralKind::Float(float) if is_plain_float(&float.text) => None,
        LiteralKind::Float(_) => return Err("a float is not spelt as digits.digits"),
        _ if negative => return Err(NOT_A_VALUE),
        LiteralKind::Boolean(boolean) => Some(Packed::Boolean(*boolean)),
        LiteralKind::String(string) if is_plain_string(source) => Some(Packed::from(string.value.as_str())),
        LiteralKind::String(_) => return Err("a string has an unusual escape"),
        LiteralKind::Null => None,
        _ => return Err("a literal has an unknown form"),
    };
    let null = matches!(tree.kind, LiteralKind::Null);
    let bytes = packed.map(|packed| packed.to_bytes().into_boxed_slice());
    Ok(Literal { source: source.into(), bytes, null })
}

fn is_plain_integer(text: &str) -> bool {
    text == "0" || text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')
}

fn is_plain_float(text: &str) -> bool {
    let Some((whole, fraction)) = text.split_once('.') else { return false };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(fraction) && text.len() <= 40
}

/// True if every escape means the same to the parser and to Neo4j, and no quote is doubled.
fn is_plain_string(source: &str) -> bool {
    let Some(quote) = source.chars().next() else { return false };
    let Some(inner) = source.get(1..source.len().saturating_sub(1)) else { return false };
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        if character == quote {
            return false;
        }
        if character == '\\'
            && !matches!(characters.next(), Some('\\' | '\'' | '"' | 'b' | 'f' | 'n' | 'r' | 't'))
        {
            return false;
        }
    }
    true
}
