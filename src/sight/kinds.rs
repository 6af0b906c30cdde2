//! Operations by kind: what reads, writes and the rest take at Neo4j, whatever their texts are.

use std::sync::Arc;

use super::queries::Row;
use crate::statement::{Class, Statement};

/// The kinds, as they are shown.
const NAMES: [&str; 3] = ["(all reads)", "(all writes)", "(all others: schema, procedures, administration)"];

/// A row for each kind.
pub(super) struct Kinds([Arc<Row>; 3]);

impl Default for Kinds {
    fn default() -> Self {
        let mut nth = 0;
        Self(NAMES.map(|name| {
            nth += 1;
            Arc::new(Row::of_kind(fingerprint(nth - 1), name))
        }))
    }
}

impl Kinds {
    /// Counts what Neo4j took for a statement, in nanoseconds.
    pub(super) fn record(&self, statement: &Statement, nanoseconds: u64) {
        let at = match (&statement.class, statement.reads_only) {
            (_, true) => 0,
            (Class::Write { .. }, _) => 1,
            _ => 2,
        };
        if let Some(row) = self.0.get(at) {
            row.served.record(nanoseconds);
        }
    }

    /// The rows, as those of queries.
    pub(super) fn rows(&self) -> impl Iterator<Item = Arc<Row>> {
        self.0.iter().cloned()
    }
}

/// The last fingerprints are theirs.
fn fingerprint(nth: usize) -> u64 {
    u64::MAX - nth as u64
}

/// The name of a kind, if this is the fingerprint of one.
pub(super) fn name(fingerprint: u64) -> Option<&'static str> {
    let nth = usize::try_from(u64::MAX - fingerprint).ok()?;
    NAMES.get(nth).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_statement_has_its_kind() {
        let kinds = Kinds::default();
        for (text, at) in [
            ("MATCH (n) RETURN n", 0),
            ("MERGE (n:A {id: $id})", 1),
            ("MATCH (n:A) SET n.x = 1", 1),
            ("CREATE INDEX FOR (n:A) ON (n.x)", 2),
            ("CALL db.labels()", 2),
        ] {
            let counts = || -> Vec<u32> {
                let count = |row: Arc<Row>| {
                    let mut sum = 0;
                    row.served.each(|_, count| sum += count);
                    sum
                };
                kinds.rows().map(count).collect()
            };
            let mut expected = counts();
            expected[at] += 1;
            kinds.record(&Statement::parse(text), 1000);
            assert_eq!(counts(), expected, "{text}");
        }
        let names: Vec<_> = kinds.rows().map(|row| name(row.fingerprint)).collect();
        assert_eq!(names, NAMES.map(Some));
        assert_eq!((name(0), name(u64::MAX - 3)), (None, None));
    }
}
