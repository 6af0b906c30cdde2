//! What group commit does, by text and by lane.

use bolt_wire::packstream::Value;

use super::procedures::{Column, Procedure, column, integer, optional};
use crate::coalesce::{LaneReport, TextReport};

/// Rows of one answer.
const ROWS: usize = 1000;
/// Characters of a text that are shown.
const TEXT: usize = 200;

const DATABASE: Column = column(
    "database",
    "STRING",
    "the database; null = the user's home database, whose name Neo4j has not told",
);

/// `sidebolt.coalesce()`.
pub(super) const TEXTS: Procedure = Procedure {
    name: "sidebolt.coalesce",
    arguments: &[],
    columns: &[
        DATABASE,
        column("text", "STRING", "the statement's first 200 characters"),
        column("shape", "STRING", "the known form that it has; null = none"),
        column(
            "way",
            "STRING",
            "how its writes go in batches now: `unwind`, `rows`, `grouped`; null = not at all",
        ),
        column("rows", "INTEGER", "writes committed in batches"),
        column("batches", "INTEGER", "batches with such writes"),
        column("alone", "INTEGER", "writes outside of transactions that ran alone"),
        column(
            "microsAlone",
            "FLOAT",
            "microseconds of a run of its own, at best of late; null = not measured",
        ),
        column("microsGrouped", "FLOAT", "microseconds for each write of a group, smoothed"),
        column("microsDerived", "FLOAT", "microseconds for each row of one statement for many, smoothed"),
        column(
            "reason",
            "STRING",
            "why it is not run as one statement for many, or not in batches at all; null = it is",
        ),
        column(
            "advice",
            "STRING",
            "the statement that makes the index it lacks; null = none is known to be lacking",
        ),
    ],
    says: "Texts that write, the user's own, most rows first (at most 1,000).",
    rows: |asking, _| {
        let shared = asking.shared;
        let texts = shared.coalescer.texts(shared, |id| *id == asking.principal.id, ROWS);
        Ok(texts.into_iter().map(text).collect())
    },
};

/// `sidebolt.coalesce.lanes()`.
pub(super) const LANES: Procedure = Procedure {
    name: "sidebolt.coalesce.lanes",
    arguments: &[],
    columns: &[
        DATABASE,
        column("user", "STRING", "the user, if it is who asks; null = another"),
        column("managed", "BOOLEAN", "of transactions that clients begin and end themselves"),
        column("waiting", "INTEGER", "writes that wait for a batch"),
        column("inFlight", "INTEGER", "batches under way"),
        column("alone", "INTEGER", "writes under way on their own"),
        column("batchCap", "INTEGER", "rows that a batch may have now"),
    ],
    says: "Lanes: writes of one user to one database with the same options; the busiest first (at most 1,000).",
    rows: |asking, _| {
        let lanes = asking.shared.coalescer.lanes(asking.shared, |id| *id == asking.principal.id, ROWS);
        Ok(lanes.into_iter().map(lane).collect())
    },
};

fn text(report: TextReport) -> Vec<Value> {
    let [alone, grouped, derived] = report.seconds.map(micros);
    vec![
        optional(report.database),
        Value::String(report.statement.text.chars().take(TEXT).collect()),
        optional(report.shape),
        optional(report.way),
        integer(report.rows),
        integer(report.batches),
        integer(report.alone),
        alone,
        grouped,
        derived,
        optional(report.reason),
        optional(report.advice.as_deref()),
    ]
}

fn lane(report: LaneReport) -> Vec<Value> {
    vec![
        optional(report.database),
        optional(report.user),
        report.managed.into(),
        integer(report.waiting as u64),
        integer(report.in_flight as u64),
        integer(report.alone as u64),
        integer(report.cap as u64),
    ]
}

/// Microseconds with one decimal.
fn micros(seconds: Option<f64>) -> Value {
    seconds.map_or(Value::Null, |seconds| Value::Float((seconds * 1e7).round() / 10.0))
}
