//! `sidebolt.queries()`: what was asked, how often, how long it took.

use std::sync::atomic::Ordering;

use bolt_wire::packstream::Value;

use super::procedures::{Asking, Column, Procedure, column};
use crate::sight::{Row, Viewer, moment};
use crate::statement::fingerprint;

/// Rows of one answer.
const ROWS: usize = 1000;

/// The columns that tell a query.
pub(super) const FINGERPRINT: Column =
    column("fingerprint", "STRING", "the same for texts that differ in their values only; 16 digits");
pub(super) const TEXT: Column =
    column("text", "STRING", "the text without its values, the first 1,000 bytes");
pub(super) const USER: Column = column("user", "STRING", "whose requests");
pub(super) const DATABASE: Column =
    column("database", "STRING", "the database as it was named; null = the user's home database");

/// `sidebolt.queries()`.
pub(super) const QUERIES: Procedure = Procedure {
    name: "sidebolt.queries",
    arguments: &[],
    columns: &[
        FINGERPRINT,
        TEXT,
        USER,
        DATABASE,
        column("calls", "INTEGER", "requests, those that failed included"),
        column("failures", "INTEGER", "refused by Neo4j"),
        column("refused", "INTEGER", "refused by Sidebolt"),
        column("interrupted", "INTEGER", "taken back, or lost with a connection"),
        column("cached", "INTEGER", "answered from the cache"),
        column("batched", "INTEGER", "answered by group commit"),
        column("rows", "INTEGER", "records"),
        column("bytes", "INTEGER", "bytes of the records"),
        column("totalMs", "FLOAT", "milliseconds for which clients waited, all together"),
        column("waitMs", "FLOAT", "of these, before the request went to Neo4j"),
        column("minMs", "FLOAT", "the shortest"),
        column("p50Ms", "FLOAT", "half took no longer"),
        column("p95Ms", "FLOAT", "95 % took no longer"),
        column("p99Ms", "FLOAT", "99 % took no longer"),
        column("maxMs", "FLOAT", "the longest"),
        column("firstSeen", "STRING", "when it came first, in UTC"),
        column("lastSeen", "STRING", "when it came last, in UTC"),
        column("lastFailure", "STRING", "the code of the last failure; null = there was none"),
    ],
    says: "Queries by fingerprint, user and database, those that took most time first (at most 1,000): the user's own, or \
           for `sight.observers` all.",
    rows: |asking, _| {
        let rows = asking.shared.sight.top(ROWS, &viewer(asking));
        Ok(rows.iter().map(|row| query(row)).collect())
    },
};

/// `sidebolt.queries.reset()`.
pub(super) const RESET: Procedure = Procedure {
    name: "sidebolt.queries.reset",
    arguments: &[],
    columns: &[column("forgotten", "INTEGER", "how many rows there were")],
    says: "Forgets what `sidebolt.queries()` shows: counting begins anew.",
    rows: |asking, _| Ok(vec![vec![integer(asking.shared.sight.reset(&viewer(asking)) as u64)]]),
};

/// Who asks, and what they may see.
pub(super) fn viewer(asking: &Asking<'_>) -> Viewer {
    Viewer::of(asking.principal, &asking.shared.config.load())
}

fn query(row: &Row) -> Vec<Value> {
    let counts = &row.counts;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let sum = |counter| integer(count(counter));
    let [p50, p95, p99] = row.times.quantiles([0.5, 0.95, 0.99]).unwrap_or_default().map(millis);
    vec![
        fingerprint::shown(row.fingerprint).into(),
        (&*row.text).into(),
        (&*row.user).into(),
        row.database.as_deref().map_or(Value::Null, Into::into),
        sum(&counts.calls),
        sum(&counts.failures),
        sum(&counts.refused),
        sum(&counts.interrupted),
        sum(&counts.cached),
        sum(&counts.batched),
        sum(&counts.rows),
        sum(&counts.bytes),
        millis(count(&counts.took)),
        millis(count(&counts.waited)),
        millis(counts.shortest()),
        p50,
        p95,
        p99,
        millis(count(&counts.longest)),
        moment(count(&counts.first)).into(),
        moment(count(&counts.last)).into(),
        row.last_failure().map_or(Value::Null, |code| (&*code).into()),
    ]
}

pub(super) fn integer(count: u64) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Milliseconds with three decimals, from nanoseconds.
pub(super) fn millis(nanoseconds: u64) -> Value {
    Value::Float((nanoseconds as f64 / 1e3).round() / 1e3)
}
