//! What the demo server's answers are made of: open results, their summaries, the routing table.

use std::time::Instant;

use bolt_wire::packstream::Value;

use super::engine::Rows;

/// The database's name.
pub(super) const DATABASE: &str = "neo4j";

/// A result that is being fetched.
pub(super) struct Open {
    rows: std::vec::IntoIter<Vec<Value>>,
    columns: usize,
    any_row: bool,
    kind: &'static str,
    counters: Vec<(&'static str, u64)>,
    started: Instant,
    /// Its last summary was sent.
    pub(super) done: bool,
}

impl Open {
    /// The result of a statement that began at `started`.
    pub(super) fn new(rows: Rows, started: Instant) -> Self {
        Self {
            any_row: !rows.rows.is_empty(),
            rows: rows.rows.into_iter(),
            columns: rows.keys.len(),
            kind: rows.kind,
            counters: rows.counters,
            started,
            done: false,
        }
    }

    /// The next `n` rows, or all that are left if it is negative.
    pub(super) fn take(&mut self, n: i64) -> impl Iterator<Item = Vec<Value>> {
        self.rows.by_ref().take(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// True if rows are left.
    pub(super) fn has_more(&self) -> bool {
        self.rows.len() > 0
    }

    /// The metadata behind the last record.
    pub(super) fn summary(&self, bookmark: Option<String>, statuses: bool) -> Value {
        let mut meta = Vec::new();
        meta.extend(bookmark.map(|text| ("bookmark", Value::from(text))));
        meta.extend([("type", self.kind.into()), ("t_last", millis(self.started)), ("db", DATABASE.into())]);
        if !self.counters.is_empty() {
            let count = |n: u64| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
            let mut stats: Vec<_> = self.counters.iter().map(|(name, n)| (*name, count(*n))).collect();
            stats.push(("contains-updates", true.into()));
            meta.push(("stats", Value::map(stats)));
        }
        if statuses {
            meta.push(("statuses", Value::List(vec![self.status()])));
        }
        Value::map(meta)
    }

    /// The outcome as a GQL status (from 5.6).
    fn status(&self) -> Value {
        let (code, description) = match (self.columns, self.any_row) {
            (0, _) => ("00001", "note: successful completion - omitted result"),
            (_, true) => ("00000", "note: successful completion"),
            (_, false) => ("02000", "note: no data"),
        };
        Value::map([("gql_status", code.into()), ("status_description", description.into())])
    }
}

/// Milliseconds since `since`.
pub(super) fn millis(since: Instant) -> Value {
    Value::Integer(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// A routing table in which everything is at one address.
pub(super) fn routing_table(address: &str) -> Value {
    let role =
        |name: &str| Value::map([("addresses", Value::List(vec![address.into()])), ("role", name.into())]);
    let servers = Value::List(["WRITE", "READ", "ROUTE"].map(role).to_vec());
    let table = [("servers", servers), ("ttl", Value::Integer(300)), ("db", DATABASE.into())];
    Value::map([("rt", Value::map(table))])
}
