//! Values, as expressions of the tree.

use bolt_wire::packstream::Value as Packed;
use open_cypher::ast::{
    Expr, ExprKind, FunctionInvocation, IntegerRadix, Literal as Tree, LiteralKind, ParameterName,
    UnaryOperator,
};

use super::form::{Literal, Path, Value};

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
