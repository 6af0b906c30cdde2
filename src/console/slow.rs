//! `sidebolt.slow()` and `sidebolt.explainLast()`: where the time went, and what could be done about it.

use std::time::Duration;

use bolt_wire::packstream::Value;

use super::procedures::{Column, Procedure, column, integer, optional, row};
use super::sight::{DATABASE, FINGERPRINT, TEXT, USER, viewer};
use crate::shown::{self, advice, millis_of};
use crate::sight::{Last, Plan};
use crate::statement::{Class, fingerprint};

/// Rows of one answer.
const ROWS: usize = 1000;

const ANSWERED: Column =
    column("answered", "STRING", "by whom: `neo4j`, `cache`, `batch` (group commit), `deferred`");
const OUTCOME: Column = column("outcome", "STRING", "`success`, `failure`, `refused`, `interrupted`");
const CODE: Column = column("code", "STRING", "the code of the failure; null = there was none");
const TOOK: Column = column("tookMs", "FLOAT", "milliseconds for which the client waited");
const WAIT: Column =
    column("waitMs", "FLOAT", "of these, before it went to Neo4j: for a turn or a connection");
const FIRST: Column = column("firstMs", "FLOAT", "until Neo4j had planned it and answered RUN");
const STREAM: Column = column("streamMs", "FLOAT", "from there to the end of its records");
const COUNT: Column = column("rows", "INTEGER", "records");
const ADVICE: Column = column("advice", "STRING", "what could make it faster; null = nothing is known");
const PLAN: Column = column("plan", "STRING", "its plan, a step a line; null = not known (yet)");

/// `sidebolt.slow()`.
pub(super) const SLOW: Procedure = Procedure {
    name: "sidebolt.slow",
    arguments: &[],
    columns: &[
        column("time", "STRING", "when it was over, in UTC"),
        FINGERPRINT,
        TEXT,
        column("parameters", "STRING", "as `sight.slow_parameters` says; null = not shown"),
        USER,
        DATABASE,
        column(
            "application",
            "STRING",
            "what the application calls itself: its driver's user agent up to a slash",
        ),
        column("client", "STRING", "the client's address"),
        ANSWERED,
        OUTCOME,
        CODE,
        TOOK,
        WAIT,
        FIRST,
        STREAM,
        column("tFirstMs", "INTEGER", "Neo4j's own time until the first record"),
        column("tLastMs", "INTEGER", "Neo4j's own time from there to the last"),
        COUNT,
        column("bytes", "INTEGER", "bytes of the records"),
        ADVICE,
        PLAN,
    ],
    says: "Requests that took longer than `sight.slow_threshold`, the latest first (at most 1,000): the user's own, or for \
           `sight.observers` all.",
    rows: |asking, _| {
        let sight = &asking.shared.sight;
        let slow = sight.slow(ROWS, &viewer(asking));
        Ok(slow.iter().map(|slow| row(SLOW.columns, &shown::slow(sight, slow))).collect())
    },
};

/// `sidebolt.explainLast()`.
pub(super) const LAST: Procedure = Procedure {
    name: "sidebolt.explainLast",
    arguments: &[],
    columns: &[
        FINGERPRINT,
        TEXT,
        DATABASE,
        ANSWERED,
        OUTCOME,
        CODE,
        TOOK,
        WAIT,
        FIRST,
        STREAM,
        COUNT,
        column("notCached", "STRING", "why the cache does not keep answers to it; null = it may"),
        column("notBatched", "STRING", "why group commit does not run it with others; null = it may"),
        ADVICE,
        PLAN,
    ],
    says: "How the last request of this connection was answered; no row if there was none.",
    rows: |asking, _| {
        let Some(last) = asking.last else { return Ok(Vec::new()) };
        let database = last.database.as_deref().map(Into::into);
        let plan = asking.shared.sight.plan(&(last.statement.fingerprint, asking.principal.id, database));
        Ok(vec![explained(last, plan.as_deref())])
    },
};

fn explained(last: &Last, plan: Option<&Plan>) -> Vec<Value> {
    let statement = &last.statement;
    let not_cached = if statement.reads_only { statement.cacheable.err() } else { Some("it may write") };
    let not_batched = match &statement.class {
        Class::Other(reason) => Some(*reason),
        Class::Write { .. } => None,
    };
    vec![
        fingerprint::shown(statement.fingerprint).into(),
        fingerprint::normalised(&statement.text).chars().take(1000).collect::<String>().into(),
        optional(last.database.as_deref()),
        last.answered.word().into(),
        last.outcome.word().into(),
        optional(last.code.as_deref()),
        time(last.took),
        time(last.waited),
        time(last.first),
        time(last.took.saturating_sub(last.waited + last.first)),
        integer(last.rows),
        optional(not_cached),
        optional(not_batched),
        optional(advice(plan).as_deref()),
        optional(plan.map(|plan| plan.text.as_str())),
    ]
}

fn time(time: Duration) -> Value {
    Value::Float(millis_of(time))
}
