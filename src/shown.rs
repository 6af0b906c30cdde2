//! What people are shown of Sidebolt, as JSON: the admin port gives it as it is, `CALL sidebolt.…` as rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::guard::LimitReport;
use crate::session::{Handle, Pin, Shared};
use crate::sight::{Plan, Row, Shown, Sight, Slow, in_words, moment, nanoseconds};
use crate::statement::fingerprint;
use crate::upstream::Pool;
use crate::{cache as answers, coalesce as batches};

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

/// The circuit breaker of each server.
pub(crate) fn breakers(shared: &Shared) -> Vec<Value> {
    let breaker = |pool: &Arc<Pool>| {
        let report = pool.breaker();
        json!({
            "server": pool.address(),
            "state": report.state,
            "seconds": report.since.as_secs(),
            "failures": report.failures,
            "opened": report.opened,
            "reason": Some(report.reason).filter(|reason| !reason.is_empty()),
        })
    };
    shared.upstream.pools().iter().map(breaker).collect()
}

/// Limits, and what is left of them for whom.
pub(crate) fn limits(shared: &Shared, most: usize) -> Vec<Value> {
    let limit = |report: LimitReport| {
        let state = &report.state;
        json!({
            "name": &*report.name,
            "per": report.per.name(),
            "key": report.named(),
            "rate": report.rate,
            "burst": report.burst.map(|(burst, _)| burst),
            "remaining": report.burst.map(|(_, left)| left),
            "maxInFlight": report.most,
            "inFlight": report.most.map(|_| state.in_flight()),
            "waiting": report.most.map(|_| state.waiting()),
            "admitted": state.admitted.load(Ordering::Relaxed),
            "refused": state.refused.load(Ordering::Relaxed),
        })
    };
    shared.guard.limits(most).into_iter().take(most).map(limit).collect()
}

/// What group commit does with each text, without the text's values.
pub(crate) fn batched(shared: &Shared, most: usize) -> Vec<Value> {
    let text = |report: batches::TextReport| {
        let [alone, grouped, derived] =
            report.seconds.map(|seconds| seconds.map(|seconds| (seconds * 1e7).round() / 10.0));
        json!({
            "database": report.database,
            "text": fingerprint::normalised(&report.statement.text),
            "shape": report.shape,
            "way": report.way,
            "rows": report.rows,
            "batches": report.batches,
            "alone": report.alone,
            "microsAlone": alone,
            "microsGrouped": grouped,
            "microsDerived": derived,
            "reason": report.reason,
            "advice": report.advice.as_deref(),
        })
    };
    shared.coalescer.texts(shared, |_| true, most).into_iter().map(text).collect()
}

/// Lanes of group commit together: how many, what waits, what is under way, how large a batch may be.
pub(crate) fn lanes(shared: &Shared) -> Value {
    let lanes = shared.coalescer.lanes(shared, |_| true, usize::MAX);
    let sum = |of: fn(&batches::LaneReport) -> usize| lanes.iter().map(of).sum::<usize>();
    json!({
        "lanes": lanes.len(),
        "waiting": sum(|lane| lane.waiting),
        "inFlight": sum(|lane| lane.in_flight),
        "alone": sum(|lane| lane.alone),
        "batchCap": lanes.iter().map(|lane| lane.cap).max(),
    })
}

/// What the cache does with each text, without the text's values.
pub(crate) fn cached(shared: &Shared, most: usize) -> Vec<Value> {
    let text = |report: &answers::TextReport| {
        let asked = report.hits + report.misses;
        json!({
            "fingerprint": fingerprint::shown(report.statement.fingerprint),
            "text": fingerprint::normalised(&report.statement.text),
            "answers": report.answers,
            "bytes": report.bytes,
            "hits": report.hits,
            "misses": report.misses,
            "hitRatio": (asked > 0).then(|| (report.hits as f64 / asked as f64 * 1000.0).round() / 1000.0),
            "last": report.last,
            "reason": report.reason,
        })
    };
    shared.cache.texts(&shared.coalescer.statements, |_| true, most).iter().map(text).collect()
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
