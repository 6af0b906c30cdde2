//! The writes of the group commit scenarios, as single statements in the ways of drivers and as one UNWIND for many.

use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::packstream::{Value, value};
use bytes::BytesMut;

use crate::bolt::{Key, Request, bare, gap};

/// Nodes that are there beforehand.
pub(super) const KNOWN: i64 = 10_000;
/// Their ids begin here: far enough up that every id has its eight bytes, as a gap needs.
pub(super) const FIRST: i64 = 5_000_000_000;
/// The ids of nodes that a measurement makes begin here.
pub(super) const NEW: i64 = 1_000_000_000_000;

/// A write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Write {
    /// One node by its key.
    Node,
    /// One relationship between two nodes by their keys.
    Relationship,
    /// Something that has no shape for UNWIND.
    Grouped,
}

/// The API of a driver that sends it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Api {
    /// `session.run`
    Run,
    /// `execute_write`
    Managed,
    /// Within a transaction that is open.
    Inside,
}

impl Write {
    /// The single statement.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Node => "MERGE (n:BenchResource {id: $id}) SET n += $props",
            Self::Relationship => {
                "MATCH (a:BenchResource {id: $a}), (b:BenchResource {id: $b}) \
                 MERGE (a)-[r:BENCH_LINKS]->(b) SET r += $props"
            }
            Self::Grouped => {
                "MATCH (n:BenchResource {id: $id}) OPTIONAL MATCH (n)-[:BENCH_LINKS]->(m) \
                 WITH n, count(m) AS c SET n.degree = c RETURN n"
            }
        }
    }

    /// What somebody writes who batches by hand; nothing where that is another statement altogether.
    fn unwind(self) -> Option<&'static str> {
        match self {
            Self::Node => Some("UNWIND $rows AS row MERGE (n:BenchResource {id: row.id}) SET n += row.props"),
            Self::Relationship => Some(
                "UNWIND $rows AS row MATCH (a:BenchResource {id: row.a}), (b:BenchResource {id: row.b}) \
                 MERGE (a)-[r:BENCH_LINKS]->(b) SET r += row.props",
            ),
            Self::Grouped => None,
        }
    }

    fn parameters(self, row: u64) -> Value {
        match self {
            Self::Node => {
                let props = Value::map([
                    ("name", "a resource".into()),
                    ("kind", "bench".into()),
                    ("active", true.into()),
                    ("revision", gap(row, 1)),
                ]);
                Value::map([("id", gap(row, 0)), ("props", props)])
            }
            Self::Relationship => {
                let props = Value::map([("weight", Value::Float(0.5)), ("since", 2024.into())]);
                Value::map([("a", gap(row, 0)), ("b", gap(row, 1)), ("props", props)])
            }
            Self::Grouped => Value::map([("id", gap(row, 0))]),
        }
    }

    /// One write as a driver sends it; telemetry only where the server asks for it.
    pub(super) fn request(self, api: Api, telemetry: bool) -> Request {
        let tell = |number: i64, out: &mut BytesMut| {
            if telemetry {
                value::put_message(Tag::TELEMETRY.0, &[number.into()], out);
            }
            usize::from(telemetry)
        };
        let mut out = BytesMut::new();
        let told = match api {
            Api::Run => tell(2, &mut out),
            Api::Managed | Api::Inside => 0,
        };
        value::put_message(Tag::RUN.0, &[self.text().into(), self.parameters(0), Value::map([])], &mut out);
        value::put_message(Tag::PULL.0, &[Value::map([("n", 1000.into())])], &mut out);
        let records = Some(u64::from(self == Self::Grouped));
        let run = Request { records, ..Request::of(out, 2 + told) };
        if api != Api::Managed {
            return run;
        }
        let mut out = BytesMut::new();
        let told = tell(0, &mut out);
        value::put_message(Tag::BEGIN.0, &[Value::map([])], &mut out);
        let commit = Request::of(bare(Tag::COMMIT), 1);
        let run = Request { then: Some(Arc::new(commit)), ..run };
        Request { then: Some(Arc::new(run)), ..Request::of(out, 1 + told) }
    }

    /// So many writes as one UNWIND.
    pub(super) fn batch(self, rows: u64) -> Option<Request> {
        let text = self.unwind()?;
        let rows = Value::List((0..rows).map(|row| self.parameters(row)).collect());
        Some(Request::query(text, Value::map([("rows", rows)]), Some(0)))
    }

    /// The keys of row `turn` when half of what is written is new, and rows that run at the same time are different ones.
    pub(super) fn keys(self) -> fn(u64) -> [Key; 2] {
        match self {
            Self::Node => |turn| {
                let id = if turn.is_multiple_of(2) { NEW + turn as i64 } else { known(turn) };
                [id, NEW + turn as i64]
            },
            Self::Relationship => |turn| {
                let a = known(turn);
                let other = if turn.is_multiple_of(2) { mixed(turn ^ 0x5555) } else { a * 7 + 1 };
                [a, FIRST + other.rem_euclid(KNOWN)]
            },
            Self::Grouped => |turn| [known(turn), 0],
        }
    }
}

/// The id of one of the nodes that are there, any.
fn known(turn: u64) -> i64 {
    FIRST + mixed(turn).rem_euclid(KNOWN)
}

/// A number that looks random, always the same one for the same turn (SplitMix64).
fn mixed(turn: u64) -> i64 {
    let mut z = turn.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_new_and_every_key_has_eight_bytes() {
        for write in [Write::Node, Write::Relationship, Write::Grouped] {
            let keys: Vec<[Key; 2]> = (0..2000).map(write.keys()).collect();
            let used = if write == Write::Grouped { 1 } else { 2 };
            assert!(keys.iter().all(|keys| keys[..used].iter().all(|key| *key >= FIRST)), "{write:?}");
        }
        let new = (0..2000).map(Write::Node.keys()).filter(|[id, _]| *id >= NEW).count();
        assert_eq!(new, 1000);
        assert!((0..2000).map(Write::Relationship.keys()).all(|[_, b]| b < FIRST + KNOWN));
    }

    #[test]
    fn requests_have_their_gaps_and_steps() {
        let run = Write::Node.request(Api::Run, true);
        assert_eq!((run.summaries, run.gaps.len(), run.rows()), (3, 2, 1));
        let managed = Write::Relationship.request(Api::Managed, false);
        let then = managed.then.clone().unwrap();
        assert_eq!((managed.summaries, then.summaries, then.gaps.len(), managed.rows()), (1, 2, 2, 1));
        assert!(then.then.is_some());
        let batch = Write::Node.batch(300).unwrap();
        assert_eq!((batch.gaps.len(), batch.rows()), (600, 300));
        assert!(Write::Grouped.batch(2).is_none());
    }
}
