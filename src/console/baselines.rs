//! `sidebolt.baselines()` and `sidebolt.alerts()`: what queries usually take, and what is wrong now.

use super::procedures::{Procedure, column, optional, row};
use super::sight::{DATABASE, FINGERPRINT, TEXT, USER, viewer};
use crate::shown;
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
        let baselines = asking.shared.sight.baselines(ROWS, &viewer(asking));
        Ok(baselines.iter().map(|known| row(BASELINES.columns, &shown::baseline(known))).collect())
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
        let told = |alert: Alert| {
            let query = alert.query.as_ref();
            vec![
                alert.kind.into(),
                alert.level.word().into(),
                moment(alert.since).into(),
                optional(alert.until.map(moment)),
                alert.message.as_str().into(),
                optional(query.map(|query| fingerprint::shown(query.fingerprint))),
                optional(query.map(|query| query.text.to_string())),
                optional(query.and_then(|query| query.advice(sight))),
            ]
        };
        Ok(shown.map(told).collect())
    },
};
