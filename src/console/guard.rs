//! What the guard does: breakers.

use bolt_wire::packstream::Value;

use super::procedures::{Procedure, column};

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
                    Value::Integer(i64::try_from(report.opened).unwrap_or(i64::MAX)),
                    reason.map_or(Value::Null, |reason| reason.as_str().into()),
                ]
            })
            .collect())
    },
};
