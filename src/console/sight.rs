//! `sidebolt.queries()`: what was asked, how often, how long it took.

use super::procedures::{Asking, Column, Procedure, column, integer, row};
use crate::shown;
use crate::sight::Viewer;

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
        let sight = &asking.shared.sight;
        let rows = sight.top(ROWS, &viewer(asking));
        Ok(rows.iter().map(|query| row(QUERIES.columns, &shown::query(sight, query))).collect())
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
