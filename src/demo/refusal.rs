//! What the demo server says no with: the engine's errors in Neo4j's codes, and what the demo does not do.

use bolt_wire::message::Failure;
use grafeo_common::utils::error::{Error, ErrorCode};

/// The statement is wrong.
pub(super) const SYNTAX: &str = "Neo.ClientError.Statement.SyntaxError";
/// The demo engine does not do this; Neo4j does.
const UNSUPPORTED: &str = "Neo.ClientError.Statement.UnsupportedOperationError";

/// A statement that Neo4j would run and the demo engine cannot.
pub(super) fn unsupported(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        UNSUPPORTED,
        "50N42",
        format!(
            "Sidebolt demo: {what} is not supported by the built-in demo graph, which is not Neo4j. \
             Use `sidebolt demo --neo4j`, or `sidebolt run` in front of a Neo4j server."
        ),
    )
}

/// A statement that Neo4j would refuse too.
pub(super) fn syntax(message: impl Into<String>) -> Failure {
    Failure::new(SYNTAX, "42001", message)
}

/// A message that does not belong here, or that cannot be decoded.
pub(super) fn invalid_request(message: impl Into<String>) -> Failure {
    Failure::new("Neo.ClientError.Request.Invalid", "08N06", message)
}

/// A parameter that the text uses and the request lacks.
pub(super) fn parameter_missing(name: &str) -> Failure {
    let message = format!("Expected parameter(s): {name}");
    Failure::new("Neo.ClientError.Statement.ParameterMissing", "42N51", message)
}

/// An integer divided by zero.
pub(super) fn division_by_zero() -> Failure {
    Failure::new("Neo.ClientError.Statement.ArithmeticError", "22012", "/ by zero")
}

/// The wait for the writer's place, or for a worker, took too long.
pub(super) fn busy(code: &'static str, message: impl Into<String>) -> Failure {
    Failure::new(code, "51N59", message)
}

/// The engine broke.
pub(super) fn broken(message: impl std::fmt::Display) -> Failure {
    Failure::new(
        "Neo.DatabaseError.General.UnknownError",
        "50N00",
        format!("Sidebolt demo engine: {message}"),
    )
}

/// The engine's error in Neo4j's words.
pub(super) fn from_engine(error: &Error) -> Failure {
    let message = match error {
        Error::Query(query) => query.message.clone(),
        Error::InvalidValue(message) | Error::Internal(message) => message.clone(),
        other => other.to_string(),
    };
    if let Some(name) = message.strip_prefix("Missing parameter: $") {
        return parameter_missing(name);
    }
    if message.contains("Unknown procedure") || message.contains("Unknown function") {
        let code = "Neo.ClientError.Procedure.ProcedureNotFound";
        return Failure::new(code, "42N08", format!("There is no such procedure: {message}"));
    }
    if message.starts_with("Constraint violation") {
        let code = "Neo.ClientError.Schema.ConstraintValidationFailed";
        let status = if message.contains("UNIQUE") { "22N79" } else { "50N42" };
        return Failure::new(code, status, message);
    }
    match error.error_code() {
        ErrorCode::QuerySyntax | ErrorCode::QuerySemantic => {
            syntax(format!("{message} (the built-in demo graph knows a subset of Cypher)"))
        }
        ErrorCode::QueryTimeout => {
            let code = "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration";
            Failure::new(code, "25N14", message)
        }
        ErrorCode::TypeMismatch => Failure::new("Neo.ClientError.Statement.TypeError", "22G03", message),
        ErrorCode::TransactionConflict
        | ErrorCode::TransactionSerialization
        | ErrorCode::TransactionDeadlock => {
            Failure::new("Neo.TransientError.Transaction.Outdated", "50N05", message)
        }
        ErrorCode::QueryUnsupported
        | ErrorCode::QueryOptimization
        | ErrorCode::QueryExecution
        | ErrorCode::Internal => unsupported(format!("this statement ({message})")),
        _ => broken(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_errors_get_the_codes_that_drivers_know() {
        let internal = |message: &str| from_engine(&Error::Internal(message.to_owned())).code;
        assert_eq!(internal("Unknown procedure: 'a.b'"), "Neo.ClientError.Procedure.ProcedureNotFound");
        assert_eq!(internal("Variable 'p' not found in input"), UNSUPPORTED);
        let violation = Error::InvalidValue("Constraint violation: UNIQUE constraint".to_owned());
        assert_eq!(from_engine(&violation).code, "Neo.ClientError.Schema.ConstraintValidationFailed");
        assert_eq!(from_engine(&violation).gql_status, "22N79");
    }
}
