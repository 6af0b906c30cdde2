//! `sidebolt.baselines()` and `sidebolt.alerts()`: what queries usually take, and what is wrong now.

use bolt_wire::packstream::Value;

use super::procedures::{Procedure, column};
use super::sight::{DATABASE, FINGERPRINT, TEXT, USER, integer, millis, viewer};
use crate::sight::{Alert, moment};
use crate::statement::fingerprint;

/// Rows of one answer.
const ROWS: usize = 1000;

/// `sidebolt.baselines()`.
pub(super) const BASELINES: Procedure = Procedure {
    name: "sidebolt.baselines",
    arguments: &[],
    columns: &[
        FINGERPRINT,
        TEXT,
        USER,
        DATABASE,
        column("samples", "INTEGER", "answers that the baseline was learnt from"),
        column("confidence", "FLOAT", "how sure its median is, from 0 to 1"),
        column("p50Ms", "FLOAT", "half usually take no longer, in milliseconds, without the waiting before"),
        column("p95Ms", "FLOAT", "95 % usually take no longer"),
        column("p99Ms", "FLOAT", "99 % usually take no longer"),
        column("nowMs", "FLOAT", "the median of late; null = too few in the last minute"),
        column("factor", "FLOAT", "how many times the usual that is"),
        column(
            "level",
            "STRING",
            "`info` (1.5), `warning` (2), `critical` (5 times as long); null = as usual",
        ),
    ],
    says: "What queries usually take, learnt from 100 answers or more, the slowest compared with that first (at most 1,000): \
           the user's own, or for `sight.observers` all.",
    rows: |asking, _| {
        let shown = asking.shared.sight.baselines(ROWS, &viewer(asking));
        let row = |shown: crate::sight::Shown| {
            let (number, user, database) = shown.subject;
            let baseline = shown.baseline;
            let (median, factor) = match shown.now {
                Some((median, factor)) => (millis(median), Value::Float((factor * 100.0).round() / 100.0)),
                None => (Value::Null, Value::Null),
            };
            vec![
                fingerprint::shown(number).into(),
                (&*baseline.text).into(),
                (&*user).into(),
                database.as_deref().map_or(Value::Null, Into::into),
                integer(baseline.samples),
                Value::Float((baseline.confidence * 1000.0).round() / 1000.0),
                millis(baseline.p50),
                millis(baseline.p95),
                millis(baseline.p99),
                median,
                factor,
                shown.level.map_or(Value::Null, |level| level.word().into()),
            ]
        };
        Ok(shown.into_iter().map(row).collect())
    },
};

/// `sidebolt.alerts()`.
pub(super) const ALERTS: Procedure = Procedure {
    name: "sidebolt.alerts",
    arguments: &[],
    columns: &[
        column(
            "kind",
            "STRING",
            "`slowdown` (of a query), `upstream` (Neo4j does not answer), or a resource",
        ),
        column("level", "STRING", "`info`, `warning`, `critical`, `emergency`"),
        column("since", "STRING", "when it began, in UTC"),
        column("until", "STRING", "when it was over; null = it is not"),
        column("message", "STRING", "what is wrong"),
        column("fingerprint", "STRING", "the query that it is about; null = none"),
        column("text", "STRING", "its text without values"),
        column("advice", "STRING", "what could be done about it; null = nothing is known"),
    ],
    says: "What is wrong now, the worst first, and what was, the latest first; about queries the user's own, or for \
           `sight.observers` all.",
    rows: |asking, _| {
        let sight = &asking.shared.sight;
        let viewer = viewer(asking);
        let (active, past) = sight.alerts.all();
        let shown = active.into_iter().chain(past);
        let shown =
            shown.filter(|alert| alert.query.as_ref().is_none_or(|query| viewer.sees_user(&query.user)));
        let row = |alert: Alert| {
            let query = alert.query.as_ref();
            let text = |text: Option<String>| text.map_or(Value::Null, Into::into);
            vec![
                alert.kind.into(),
                alert.level.word().into(),
                moment(alert.since).into(),
                text(alert.until.map(moment)),
                alert.message.as_str().into(),
                text(query.map(|query| fingerprint::shown(query.fingerprint))),
                text(query.map(|query| query.text.to_string())),
                text(query.and_then(|query| query.advice(sight))),
            ]
        };
        Ok(shown.map(row).collect())
    },
};
