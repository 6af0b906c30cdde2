//! The JSON API: what the dashboard shows, for whoever wants it otherwise. `deploy/openapi.json` describes it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::Context;
use crate::session::Shared;
use crate::shown;
use crate::sight::{Period, Viewer, moment};

/// Rows of an answer, if nothing else is asked for.
const ROWS: usize = 100;
/// Rows of an answer at most.
const MOST: usize = 10_000;
/// Seconds of resources, if nothing else is asked for.
const SECONDS: usize = 300;
/// Pages that may listen at once.
const LISTENERS: usize = 32;
/// Bytes that a page may be behind, and how long it may be so before it is left.
const BEHIND: usize = 1 << 20;
const STALLED: Duration = Duration::from_secs(30);

/// The routes, all under `/api`.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/api/overview", get(async |State(context): State<Context>| Json(overview(&context))))
        .route("/api/queries", get(queries))
        .route("/api/queries/reset", post(reset))
        .route("/api/slow", get(slow))
        .route("/api/baselines", get(baselines))
        .route("/api/alerts", get(async |State(context): State<Context>| Json(alerts(&context.shared))))
        .route("/api/pools", get(async |State(context): State<Context>| Json(shown::pools(&context.shared))))
        .route(
            "/api/breakers",
            get(async |State(context): State<Context>| Json(shown::breakers(&context.shared))),
        )
        .route("/api/limits", get(limits))
        .route("/api/coalesce", get(coalesce))
        .route("/api/cache", get(cache))
        .route("/api/clients", get(clients))
        .route("/api/resources", get(resources))
        .route("/api/report", get(report))
        .route("/api/advise", get(async |State(context): State<Context>| Json(advise(&context.shared))))
        .route("/api/live", get(live))
}

type Asked = Query<HashMap<String, String>>;

/// A number in the query of the address.
fn number(
    asked: &Asked,
    name: &str,
    default: usize,
    most: usize,
) -> Result<usize, (StatusCode, Json<Value>)> {
    let Some(text) = asked.get(name) else { return Ok(default) };
    text.parse().map(|number: usize| number.min(most)).map_err(|_| {
        let error = format!("{name}: `{text}` is no number; write {name}={default}");
        (StatusCode::BAD_REQUEST, Json(json!({ "error": error })))
    })
}

type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

/// State and load at a glance.
pub(super) fn overview(context: &Context) -> Value {
    let shared = &context.shared;
    let config = shared.config.load();
    let (active, _) = shared.sight.alerts.all();
    let cached = shared.metrics.cache.summary();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": moment(crate::sight::now()),
        "uptimeSeconds": shared.sight.uptime().as_secs(),
        "ready": context.health.reason().is_none(),
        "reason": context.health.reason(),
        "upstream": config.upstream.uri,
        "now": shared.sight.resources.latest(1).first(),
        "cache": {
            "enabled": config.cache.enabled, "hits": cached.0, "misses": cached.1, "entries": cached.2,
            "bytes": shared.metrics.cache.bytes.get(), "capacity": config.cache.capacity,
        },
        "breakers": shown::breakers(shared),
        "limits": {
            "waiting": shared.guard.gate.waiting(), "most": config.guard.max_waiting, "entries": config.guard.limits.len(),
        },
        "batches": shown::lanes(shared),
        "alerts": active.iter().map(|alert| alert.json(&shared.sight)).collect::<Vec<_>>(),
        "pools": shown::pools(shared),
    })
}

async fn queries(State(context): State<Context>, asked: Asked) -> Answer {
    let rows = context.shared.sight.top(number(&asked, "limit", ROWS, MOST)?, &Viewer::of_all());
    Ok(Json(rows.iter().map(|row| shown::query(&context.shared.sight, row)).collect()))
}

async fn reset(State(context): State<Context>) -> Json<Value> {
    let forgotten = context.shared.sight.reset(&Viewer::of_all());
    tracing::info!(forgotten, "The table of queries was emptied by hand.");
    Json(json!({ "forgotten": forgotten }))
}

async fn slow(State(context): State<Context>, asked: Asked) -> Answer {
    let sight = &context.shared.sight;
    let slow = sight.slow(number(&asked, "limit", ROWS, MOST)?, &Viewer::of_all());
    Ok(Json(slow.iter().map(|slow| shown::slow(sight, slow)).collect()))
}

async fn baselines(State(context): State<Context>, asked: Asked) -> Answer {
    let most = number(&asked, "limit", ROWS, MOST)?;
    let baselines = context.shared.sight.baselines(most, &Viewer::of_all());
    Ok(Json(baselines.iter().map(shown::baseline).collect()))
}

/// What the last hour says about the configuration.
fn advise(shared: &Shared) -> Value {
    let rows = shared.sight.top(usize::MAX, &Viewer::of_all());
    let longest = rows.iter().map(|row| row.counts.longest.load(Ordering::Relaxed)).max().unwrap_or(0);
    let samples = shared.sight.resources.latest(usize::MAX);
    crate::sight::advise(&samples, longest as f64 / 1e9, shared.upstream.pools().len(), &shared.config.load())
}

fn alerts(shared: &Shared) -> Value {
    let (active, past) = shared.sight.alerts.all();
    let all = |alerts: Vec<crate::sight::Alert>| -> Value {
        alerts.iter().map(|alert| alert.json(&shared.sight)).collect()
    };
    json!({ "active": all(active), "past": all(past) })
}

async fn limits(State(context): State<Context>, asked: Asked) -> Answer {
    let most = number(&asked, "limit", ROWS, MOST)?;
    Ok(Json(shown::limits(&context.shared, most).into()))
}

async fn coalesce(State(context): State<Context>, asked: Asked) -> Answer {
    let most = number(&asked, "limit", ROWS, MOST)?;
    Ok(Json(shown::batched(&context.shared, most).into()))
}

async fn cache(State(context): State<Context>, asked: Asked) -> Answer {
    let most = number(&asked, "limit", ROWS, MOST)?;
    Ok(Json(shown::cached(&context.shared, most).into()))
}

async fn clients(State(context): State<Context>, asked: Asked) -> Answer {
    let most = number(&asked, "limit", ROWS, MOST)?;
    let clients = shown::clients(&context.shared);
    Ok(Json(clients.iter().take(most).map(|client| shown::client(client)).collect()))
}

async fn resources(State(context): State<Context>, asked: Asked) -> Answer {
    let seconds = number(&asked, "seconds", SECONDS, 3600)?;
    Ok(Json(json!(context.shared.sight.resources.latest(seconds))))
}

/// What went on in a day, a week or a month.
async fn report(State(context): State<Context>, asked: Asked) -> Answer {
    let refused = |status, error: String| (status, Json(json!({ "error": error })));
    let name = asked.get("period").map_or("daily", String::as_str);
    let period = Period::read(name).ok_or_else(|| {
        let error = format!("period: `{name}` is none; write period=daily, weekly or monthly");
        refused(StatusCode::BAD_REQUEST, error)
    })?;
    let shared = std::sync::Arc::clone(&context.shared);
    let made = tokio::task::spawn_blocking(move || {
        let sight = &shared.sight;
        sight.history.report(period, sight, &shared.config.load_full())
    });
    match made.await {
        Ok(Ok(report)) => Ok(Json(report)),
        Ok(Err(error)) => Err(refused(StatusCode::CONFLICT, error)),
        Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// An overview each second, as server-sent events.
async fn live(State(context): State<Context>) -> Response {
    let Ok(place) = context.listeners.clone().try_acquire_owned() else {
        let error = format!("{LISTENERS} pages listen already; close one of them");
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": error }))).into_response();
    };
    let (writer, reader) = tokio::io::duplex(BEHIND);
    let stop = context.stop.clone();
    tokio::spawn(async move {
        let events = send(writer, || format!("data: {}\n\n", overview(&context)));
        let _ = stop.run_until_cancelled(events).await;
        drop(place);
    });
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (head, Body::from_stream(ReaderStream::new(reader))).into_response()
}

/// Sends an event each second, until its page is gone or has read nothing for long.
async fn send(mut writer: impl AsyncWrite + Unpin, mut event: impl FnMut() -> String) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        if !matches!(timeout(STALLED, writer.write_all(event().as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// How many pages may listen at once.
pub(super) fn listeners() -> std::sync::Arc<tokio::sync::Semaphore> {
    std::sync::Arc::new(tokio::sync::Semaphore::new(LISTENERS))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_page_that_does_not_read_is_left() {
        let hour = Duration::from_secs(3600);
        let event = || "data: {}\n\n".to_owned();
        let (writer, _reader) = tokio::io::duplex(64);
        assert_eq!(timeout(hour, send(writer, event)).await, Ok(()));
        // One that reads is not, and one that is gone is.
        let (writer, mut reader) = tokio::io::duplex(64);
        let events = tokio::spawn(timeout(hour, send(writer, event)));
        let mut read = [0; 1000];
        reader.read_exact(&mut read).await.unwrap();
        assert!(read.starts_with(b"data: {}\n\ndata: {}\n\n") && !events.is_finished());
        drop(reader);
        assert_eq!(events.await.unwrap(), Ok(()));
    }
}
