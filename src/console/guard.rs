//! What the guard does: breakers and limits.

use std::sync::atomic::Ordering;

use bolt_wire::packstream::Value;

use super::procedures::{Procedure, column, integer, optional};
use crate::config::Per;
use crate::guard::LimitReport;

/// `sidebolt.breakers()`.
pub(super) const BREAKERS: Procedure = Procedure {
    name: "sidebolt.breakers",
    arguments: &[],
    columns: &[
        column("server", "STRING", "the server, `host:port`"),
        column(
            "state",
            "STRING",
            "`closed`, `open` (requests are refused), `half_open` (they are tried one at a time)",
        ),
        column("seconds", "FLOAT", "for how long it has been that"),
        column("failures", "INTEGER", "failures in a row"),
        column("opened", "INTEGER", "how often it opened"),
        column("reason", "STRING", "the last failure that counted; null = none"),
    ],
    says: "Circuit breakers, one for each server.",
    rows: |asking, _| {
        let pools = asking.shared.upstream.pools();
        Ok(pools
            .iter()
            .map(|pool| {
                let report = pool.breaker();
                let reason = Some(report.reason).filter(|reason| !reason.is_empty());
                vec![
                    pool.address().into(),
                    report.state.into(),
                    Value::Float(report.since.as_secs_f64()),
                    Value::Integer(report.failures.into()),
                    integer(report.opened),
                    optional(reason),
                ]
            })
            .collect())
    },
};

/// `sidebolt.limits()`.
pub(super) const LIMITS: Procedure = Procedure {
    name: "sidebolt.limits",
    arguments: &[],
    columns: &[
        column("name", "STRING", "the entry of `guard.limits`"),
        column(
            "per",
            "STRING",
            "what it tells apart: `all`, `principal`, `address`, `database`, `application`",
        ),
        column("key", "STRING", "for which of them; null = for all, or another user's"),
        column("rate", "STRING", "requests in a time; null = any number"),
        column("burst", "INTEGER", "requests that may come at once after a pause"),
        column("remaining", "INTEGER", "how many of these are left now"),
        column("maxInFlight", "INTEGER", "requests and transactions at Neo4j at once; null = any number"),
        column("inFlight", "INTEGER", "how many there are"),
        column("waiting", "INTEGER", "requests that wait for that"),
        column("admitted", "INTEGER", "requests let pass"),
        column("refused", "INTEGER", "requests refused because of the rate"),
    ],
    says: "Limits and what is left of them, for everybody who has asked lately (at most 1,000 for each limit).",
    rows: |asking, _| {
        let limits = asking.shared.guard.limits(ROWS);
        Ok(limits.into_iter().map(|report| limit(&report, &asking.principal.name)).collect())
    },
};

/// Rows of one limit.
const ROWS: usize = 1000;

fn limit(report: &LimitReport, user: &str) -> Vec<Value> {
    let number = |number: Option<u32>| optional(number.map(i64::from));
    let state = &report.state;
    vec![
        (*report.name).into(),
        report.per.name().into(),
        optional(key(report, user)),
        optional(report.rate.as_deref()),
        number(report.burst.map(|(burst, _)| burst)),
        number(report.burst.map(|(_, left)| left)),
        number(report.most),
        number(report.most.map(|_| state.in_flight())),
        number(report.most.map(|_| state.waiting())),
        integer(state.admitted.load(Ordering::Relaxed)),
        integer(state.refused.load(Ordering::Relaxed)),
    ]
}

/// For whom a count is, as far as this user may know.
fn key(report: &LimitReport, user: &str) -> Option<String> {
    report.named().filter(|name| report.per != Per::Principal || name == user)
}
