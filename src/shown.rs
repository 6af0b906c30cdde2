//! What people are shown of Sidebolt, as JSON: the admin port gives it as it is, `CALL sidebolt.…` as rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::session::{Handle, Pin, Shared};
use crate::sight::{Plan, Row, Shown, Sight, Slow, in_words, moment, nanoseconds};
use crate::statement::fingerprint;
use crate::upstream::Pool;

/// Milliseconds with three decimals, from nanoseconds.
pub(crate) fn millis(nanoseconds: u64) -> f64 {
    (nanoseconds as f64 / 1e3).round() / 1e3
}

/// Milliseconds with three decimals.
pub(crate) fn millis_of(time: Duration) -> f64 {
    millis(nanoseconds(time))
}

/// What a plan advises.
pub(crate) fn advice(plan: Option<&Plan>) -> Option<String> {
    in_words(&plan?.advice)
}

/// A query.
pub(crate) fn query(sight: &Sight, row: &Row) -> Value {
    let counts = &row.counts;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let [p50, p95, p99] = row.times.quantiles([0.5, 0.95, 0.99]).unwrap_or_default().map(millis);
    json!({
        "fingerprint": fingerprint::shown(row.fingerprint),
        "text": row.text,
        "user": row.user,
        "database": row.database,
        "calls": count(&counts.calls),
        "failures": count(&counts.failures),
        "refused": count(&counts.refused),
        "interrupted": count(&counts.interrupted),
        "cached": count(&counts.cached),
        "batched": count(&counts.batched),
        "rows": count(&counts.rows),
        "bytes": count(&counts.bytes),
        "totalMs": millis(count(&counts.took)),
        "waitMs": millis(count(&counts.waited)),
        "minMs": millis(counts.shortest()),
        "p50Ms": p50,
        "p95Ms": p95,
        "p99Ms": p99,
        "maxMs": millis(count(&counts.longest)),
        "firstSeen": moment(count(&counts.first)),
        "lastSeen": moment(count(&counts.last)),
        "lastFailure": row.last_failure().as_deref(),
        "advice": advice(sight.plan(&row.key()).as_deref()),
    })
}

/// A slow request.
pub(crate) fn slow(sight: &Sight, slow: &Slow) -> Value {
    let plan = sight.plan(&slow.key());
    json!({
        "time": moment(slow.when),
        "fingerprint": fingerprint::shown(slow.fingerprint),
        "text": slow.text,
        "parameters": slow.parameters,
        "user": slow.user,
        "database": slow.database,
        "application": slow.application,
        "client": slow.client,
        "answered": slow.answered.word(),
        "outcome": slow.outcome.word(),
        "code": slow.code,
        "tookMs": millis_of(slow.took),
        "waitMs": millis_of(slow.waited),
        "firstMs": millis_of(slow.first),
        "streamMs": millis_of(slow.stream()),
        "tFirstMs": slow.t_first,
        "tLastMs": slow.t_last,
        "rows": slow.rows,
        "bytes": slow.bytes,
        "advice": advice(plan.as_deref()),
        "plan": plan.as_ref().map(|plan| plan.text.as_str()),
    })
}

/// What a query usually takes.
pub(crate) fn baseline(shown: &Shown) -> Value {
    let (number, user, database) = &shown.subject;
    let baseline = &shown.baseline;
    json!({
        "fingerprint": fingerprint::shown(*number),
        "text": baseline.text,
        "user": user,
        "database": database,
        "samples": baseline.samples,
        "confidence": (baseline.confidence * 1000.0).round() / 1000.0,
        "p50Ms": millis(baseline.p50),
        "p95Ms": millis(baseline.p95),
        "p99Ms": millis(baseline.p99),
        "nowMs": shown.now.map(|(median, _)| millis(median)),
        "factor": shown.now.map(|(_, factor)| (factor * 100.0).round() / 100.0),
        "level": shown.level.map(|level| level.word()),
    })
}

/// The pools of connections to Neo4j.
pub(crate) fn pools(shared: &Shared) -> Vec<Value> {
    let most = shared.config.load().pool.max_connection_pool_size;
    let pool = |pool: &Arc<Pool>| {
        let (open, idle, waiting) = pool.counts();
        json!({
            "server": pool.address(), "open": open, "idle": idle, "lent": open.saturating_sub(idle), "waiting": waiting, "most": most,
        })
    };
    shared.upstream.pools().iter().map(pool).collect()
}

/// The client connections, the oldest first.
pub(crate) fn clients(shared: &Shared) -> Vec<Arc<Handle>> {
    let mut clients = shared.registry.all();
    clients.sort_unstable_by_key(|client| client.id);
    clients
}

/// A client connection.
pub(crate) fn client(client: &Handle) -> Value {
    let state = if client.pin() == Pin::None { "idle" } else { client.pin().label() };
    json!({
        "id": format!("sidebolt-{}", client.id),
        "user": client.who().map(|who| who.name.clone()),
        "application": client.application(),
        "address": client.peer.to_string(),
        "state": state,
        "since": moment(client.since),
        "fingerprint": client.asked().map(fingerprint::shown),
    })
}
