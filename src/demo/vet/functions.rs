//! Functions and procedures: which are known to agree with Neo4j.

use bolt_wire::message::Failure;
use grafeo_common::types::Value;
use grafeo_engine::query::LogicalExpression as Expression;
use grafeo_engine::query::plan::CallProcedureOp;

use crate::demo::refusal::{syntax, unsupported};

/// Functions that give what Neo4j gives, in lower case.
const FUNCTIONS: &str = "abs acos asin atan atan2 ceil coalesce cos cot date degrees duration e elementid endnode exists \
    exp floor haslabel head id keys labels last left length localdatetime log log10 ltrim nodes pi \
    properties radians rand range relationships replace reverse right round rtrim sign sin size \
    split sqrt startnode substring tail tan time timestamp toboolean tofloat tointeger tolower \
    tostring toupper trim type";

/// Functions of Neo4j that the engine lacks or gets wrong, and aggregations where the plan has none.
const OTHERS: &str = "avg btrim char_length character_length collect cosh coth count datetime elementid file haversin \
    isempty isnan linenumber localtime lower max min normalize nullif percentilecont point \
    randomuuid sinh stdev sum tanh tobooleanlist tobooleanornull tofloatlist tofloatornull \
    tointegerlist tointegerornull tostringlist tostringornull upper uuid valuetype vector";

pub(super) fn function(name: &str, args: &[Expression]) -> Result<(), Failure> {
    let lower = name.to_lowercase();
    let literal = |arg: Option<&Expression>| {
        matches!(arg, Some(Expression::Literal(Value::Int64(_) | Value::String(_)) | Expression::Id(_)))
    };
    match lower.as_str() {
        "tostring" if !literal(args.first()) => Err(unsupported("toString of anything but a literal")),
        "round" if args.len() > 1 => Err(unsupported("round with a precision")),
        known if listed(FUNCTIONS, known) => Ok(()),
        known if listed(OTHERS, known) || known.contains('.') => {
            Err(unsupported(format!("the function {name}()")))
        }
        _ => Err(syntax(format!("Unknown function '{name}'"))),
    }
}

pub(super) fn procedure(op: &CallProcedureOp) -> Result<(), Failure> {
    let name = op.name.join(".");
    let known = ["db.relationshipTypes", "db.propertyKeys"];
    if name.starts_with("grafeo.") || (name.starts_with("db.") && !known.contains(&name.as_str())) {
        return Err(unsupported(format!("the procedure {name}")));
    }
    Ok(())
}

fn listed(names: &str, name: &str) -> bool {
    names.split(' ').any(|listed| listed == name)
}
