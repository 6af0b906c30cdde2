//! What the cache does, by text; and answers forgotten by hand.

use std::collections::HashSet;

use bolt_wire::message::Failure;
use bolt_wire::packstream::Value;
use serde_json::json;

use super::procedures::{Procedure, column, integer, optional};
use super::sight::viewer;
use crate::cache::{SCOPES, Scope, TextReport};
use crate::statement::{Statement, fingerprint};

/// Rows of one answer.
const ROWS: usize = 1000;
/// Queries of the user's own that are looked at.
const QUERIES: usize = 10_000;

/// `sidebolt.cache()`.
pub(super) const TEXTS: Procedure = Procedure {
    name: "sidebolt.cache",
    arguments: &[],
    columns: &[
        column("fingerprint", "STRING", "what it has in common with texts that differ in their values only"),
        column("query", "STRING", "the text without its values"),
        column("answers", "INTEGER", "answers that are kept now"),
        column("bytes", "INTEGER", "their bytes"),
        column("hits", "INTEGER", "reads answered from the cache"),
        column("misses", "INTEGER", "reads that could have been, and went to Neo4j"),
        column("hitRatio", "FLOAT", "hits among both; null = there were none"),
        column(
            "last",
            "STRING",
            "what became of the last answer of Neo4j's: `kept`, or why not; null = there was none",
        ),
        column("reason", "STRING", "why no answer of it may be kept at all; null = it may"),
    ],
    says: "Texts in use, most hits and misses first (at most 1,000): those that the user has asked, as `sidebolt.queries()` knows them, \
           or for `sight.observers` all.",
    rows: |asking, _| {
        let shared = asking.shared;
        let viewer = viewer(asking);
        let own: HashSet<u64> = match viewer.sees_all() {
            true => HashSet::new(),
            false => shared.sight.top(QUERIES, &viewer).iter().map(|row| row.fingerprint).collect(),
        };
        let shown = |statement: &Statement| viewer.sees_all() || own.contains(&statement.fingerprint);
        Ok(shared.cache.texts(&shared.coalescer.statements, shown, ROWS).iter().map(row).collect())
    },
};

/// `sidebolt.cache.invalidate(scope)`.
pub(super) const INVALIDATE: Procedure = Procedure {
    name: "sidebolt.cache.invalidate",
    arguments: &["scope"],
    columns: &[column("answers", "INTEGER", "answers that were kept and are forgotten")],
    says: "Forgets cached answers, those on their way included. `scope` is one of `{all: true}`, `{database: 'name'}`, `{label: 'Name'}`, `{type: 'NAME'}`, `{text: 'regular expression'}`, `{fingerprint: '…'}`.",
    rows: |asking, arguments| {
        let scope = arguments.first().map_or(serde_json::Value::Null, plain);
        let scope = Scope::read(&scope).map_err(|error| {
            let code = ("Neo.ClientError.Statement.ArgumentError", "22N00");
            Failure::new(code.0, code.1, format!("sidebolt.cache.invalidate: {error}"))
        })?;
        let gone = asking.shared.cache.invalidate(&scope, &asking.shared.coalescer.statements);
        tracing::info!(user = %asking.principal.name, ?scope, answers = gone, "Cached answers were forgotten by hand.");
        Ok(vec![vec![integer(gone)]])
    },
};

fn row(report: &TextReport) -> Vec<Value> {
    let asked = report.hits + report.misses;
    let ratio = (asked > 0).then(|| report.hits as f64 / asked as f64);
    vec![
        fingerprint::shown(report.statement.fingerprint).into(),
        fingerprint::normalised(&report.statement.text).into(),
        integer(report.answers),
        integer(report.bytes),
        integer(report.hits),
        integer(report.misses),
        optional(ratio.map(Value::Float)),
        optional(report.last),
        optional(report.reason),
    ]
}

/// An argument as JSON; what a scope cannot have is named by its kind.
fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::Boolean(is) => json!(is),
        Value::Integer(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Map(entries) => entries.iter().map(|(key, value)| (key.to_string(), plain(value))).collect(),
        _ => json!(format!("not one of {SCOPES}")),
    }
}
