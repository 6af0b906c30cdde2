//! Neo4j's own functions: which give the same result on the same data, and what they show of a node.

use open_cypher::ast::{Expr, ExprKind, FunctionInvocation, LiteralKind};

use super::kinds::{Kind, Kinds};
use crate::statement::form::Path;
use crate::statement::value::path;

/// Functions whose result depends on nothing but their arguments and the data, in the order of the alphabet.
#[rustfmt::skip]
const PURE: [&str; 105] = [
    "abs", "acos", "allshortestpaths", "asin", "atan", "atan2", "avg", "btrim", "ceil", "char_length",
    "character_length", "coalesce", "collect", "cos", "cosh", "cot", "coth", "count", "datetime.fromepoch",
    "datetime.fromepochmillis", "degrees", "duration", "duration.between", "duration.indays",
    "duration.inmonths", "duration.inseconds", "e", "elementid", "endnode", "exists", "exp", "floor",
    "haversin", "head", "id", "isempty", "isnan", "keys", "labels", "last", "left", "length", "log",
    "log10", "lower", "ltrim", "max", "min", "nodes", "normalize", "nullif", "percentilecont",
    "percentiledisc", "pi", "point", "point.distance", "point.withinbbox", "properties", "radians", "range",
    "relationships", "replace", "reverse", "right", "round", "rtrim", "shortestpath", "sign", "sin", "sinh",
    "size", "split", "sqrt", "startnode", "stdev", "stdevp", "substring", "sum", "tail", "tan", "tanh",
    "toboolean", "tobooleanlist", "tobooleanornull", "tofloat", "tofloatlist", "tofloatornull", "tointeger",
    "tointegerlist", "tointegerornull", "tolower", "tostring", "tostringlist", "tostringornull", "toupper",
    "trim", "type", "upper", "valuetype", "vector", "vector.similarity.cosine",
    "vector.similarity.euclidean", "vector_dimension_count", "vector_distance", "vector_norm",
];

/// Types that have a clock: called with too little they tell the time of the call.
const CLOCKS: [&str; 5] = ["date", "datetime", "localdatetime", "localtime", "time"];

/// What a function makes of a node, a relationship or a path that it is given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    /// It looks at nothing that can change.
    Blind,
    /// It passes it on.
    Carry,
    /// It gives nodes or relationships.
    Give,
    /// It shows the labels.
    Labels,
    /// It shows the properties.
    Properties,
    /// It may look at anything.
    Open,
}

/// The function's full name in small letters.
pub(super) fn name(call: &FunctionInvocation) -> String {
    let parts: Vec<_> = call.name.parts.iter().map(|part| part.kind.text.as_str()).collect();
    parts.join(".").to_ascii_lowercase()
}

/// What a function makes of what it is given.
pub(super) fn usage(name: &str) -> Use {
    match name {
        "count" | "elementid" | "exists" | "id" | "isempty" | "length" | "size" | "type" | "valuetype" => {
            Use::Blind
        }
        "coalesce" | "collect" | "head" | "last" | "max" | "min" | "nullif" | "reverse" | "tail" => {
            Use::Carry
        }
        "allshortestpaths" | "endnode" | "nodes" | "relationships" | "shortestpath" | "startnode" => {
            Use::Give
        }
        "labels" => Use::Labels,
        "keys" | "properties" => Use::Properties,
        _ => Use::Open,
    }
}

/// Why an answer with a clock in it may not be kept.
pub(in crate::statement) const CLOCK: &str = "it reads the clock, or may";

/// Says why an answer with this call may not be kept; or which parameter must not be a map, or it reads the clock.
pub(super) fn judge(call: &FunctionInvocation, kinds: &Kinds<'_>) -> Result<Option<Path>, &'static str> {
    judge_plain(call, kinds).map(|()| None).or_else(|reason| match call.arguments.as_slice() {
        [argument] if reason == CLOCK => path(argument).map(Some).map_err(|_| reason),
        _ => Err(reason),
    })
}

fn judge_plain(call: &FunctionInvocation, kinds: &Kinds<'_>) -> Result<(), &'static str> {
    let name = name(call);
    let (first, rest) = name.split_once('.').unwrap_or((&name, ""));
    match (first, rest) {
        _ if PURE.binary_search(&name.as_str()).is_ok() => Ok(()),
        (first, "") if CLOCKS.contains(&first) => match call.arguments.as_slice() {
            [argument] if is_moment(argument, kinds) => Ok(()),
            _ => Err(CLOCK),
        },
        (first, "truncate") if CLOCKS.contains(&first) => match call.arguments.as_slice() {
            [_, _, ..] => Ok(()),
            _ => Err("it reads the clock"),
        },
        (first, "statement" | "transaction" | "realtime") if CLOCKS.contains(&first) => {
            Err("it reads the clock")
        }
        ("timestamp", "") => Err("it reads the clock"),
        ("rand" | "randomuuid", "") => Err("it draws random values"),
        ("file" | "linenumber", "") => Err("it loads a file"),
        ("graph", _) => Err("it chooses a graph"),
        _ => Err("it calls a function that is not known to give the same result each time"),
    }
}

/// True for what cannot be a map that names nothing but a time zone: this asks for the time of the call.
fn is_moment(argument: &Expr, kinds: &Kinds<'_>) -> bool {
    match &argument.kind {
        ExprKind::Parenthesized(inner) => is_moment(inner, kinds),
        // No property of a node is a map.
        ExprKind::Property { expression, .. } => kinds.of_expr(expression) == Kind::Graph,
        ExprKind::Literal(literal) => matches!(literal.kind, LiteralKind::String(_)),
        ExprKind::Map(entries) => entries.iter().any(|entry| MOMENT.contains(&entry.key.kind.text.as_str())),
        ExprKind::Binary { .. } => true,
        ExprKind::Function(call) => {
            let name = name(call);
            CLOCKS.contains(&name.as_str()) || TEXTS.contains(&name.as_str())
        }
        _ => false,
    }
}

/// Entries of a map of which one is enough to name a moment.
const MOMENT: [&str; 7] = ["date", "datetime", "epochMillis", "epochSeconds", "hour", "time", "year"];

/// Functions that give a string, if anything.
const TEXTS: [&str; 4] = ["left", "replace", "substring", "tostring"];

#[cfg(test)]
mod tests {
    use super::PURE;

    #[test]
    fn the_list_is_in_order() {
        assert!(PURE.is_sorted());
    }
}
