//! The admin port: metrics for Prometheus, health for whoever restarts us, a dashboard and its JSON API.

mod access;
mod api;
mod client;
mod gzip;
mod place;
mod port;
#[cfg(feature = "pprof")]
mod profile;

pub(crate) use client::{request, request_json};
pub(crate) use port::Port;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::Health;
use crate::cache::Scope;
use crate::openmetrics;
use crate::session::{Pin, Shared};

/// The dashboard.
const PAGE: &str = include_str!("admin/dashboard.html");
/// The description of the API.
const OPENAPI: &str = include_str!("../deploy/openapi.json");

/// What the routes need.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    health: Arc<Health>,
    /// Pages that may listen.
    listeners: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves the admin port until `stop`.
pub(crate) async fn serve(port: Port, shared: Arc<Shared>, health: Arc<Health>, stop: CancellationToken) {
    let context = Context { shared, health, listeners: api::listeners(), stop: stop.clone() };
    // Health is for whoever restarts us, and the page has nothing to hide before it asks.
    let open = Router::new()
        .route("/", get(page))
        .route("/openapi.json", get(async || ([(CONTENT_TYPE, "application/json")], OPENAPI)))
        .route("/livez", get(async || (StatusCode::OK, "ok\n")))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready));
    let guarded = Router::new()
        .route("/api/cache/invalidate", post(invalidate))
        .merge(api::routes())
        .merge(profiles())
        .layer(from_fn_with_state(context.clone(), access::check));
    // Prometheus comes by whatever name it knows.
    let scraped = Router::new()
        .route("/metrics", get(metrics))
        .layer(from_fn_with_state(context.clone(), access::check_token));
    let config = Arc::clone(&context.shared.config);
    let router = open.merge(guarded).merge(scraped).layer(from_fn(gzip::gzip)).with_state(context);
    let connections = port.open(config, stop.clone());
    let served = axum::serve(connections, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "The admin port failed.");
    }
}

#[cfg(feature = "pprof")]
fn profiles() -> Router<Context> {
    profile::routes()
}

#[cfg(not(feature = "pprof"))]
fn profiles() -> Router<Context> {
    Router::new()
}

/// The dashboard: one page, everything in it.
async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let head = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    (head, PAGE).into_response()
}

async fn metrics(State(context): State<Context>, headers: HeaderMap) -> Response {
    let shared = &context.shared;
    let metrics = &shared.metrics;
    metrics.clients.set(shared.registry.len() as i64);
    for (pin, count) in Pin::HELD.into_iter().zip(shared.registry.pinned()) {
        metrics.pinned.with_label_values(&[pin.label()]).set(count as i64);
    }
    let reloads = context.health.reloads();
    metrics.reloads.with_label_values(&["applied"]).set(reloads.ok as i64);
    metrics.reloads.with_label_values(&["refused"]).set(reloads.refused as i64);
    let listener = &context.health.listener;
    let seen = |outcome: &str, count: u64| metrics.listener.with_label_values(&[outcome]).set(count as i64);
    seen("accepted", listener.accepted.load(Ordering::Relaxed));
    seen("max_connections", listener.refused_total.load(Ordering::Relaxed));
    seen("max_connections_per_address", listener.refused_per_address.load(Ordering::Relaxed));
    for (reason, count) in listener.handshake_failed() {
        seen(reason.as_str(), count);
    }
    for pool in shared.upstream.pools() {
        let (open, idle, waiting) = pool.counts();
        let server = pool.address();
        metrics.pool_connections.with_label_values(&[server, "open"]).set(open as i64);
        metrics.pool_connections.with_label_values(&[server, "idle"]).set(idle as i64);
        metrics.pool_waiting.with_label_values(&[server]).set(waiting as i64);
    }
    shared.cache.gauge();
    metrics.guard.waiting.set(shared.guard.gate.waiting() as i64);
    metrics.guard.adaptive.set(shared.guard.adaptive());
    shared.sight.gauge();
    shared.gnn.gauge(&metrics.gnn, shared.config.load().gnn.enabled);
    shared.coalescer.gauge(&shared.config.load().coalesce, &metrics.coalesce);
    for (role, count) in shared.upstream.members() {
        metrics.routing_members.with_label_values(&[role.name()]).set(count as i64);
    }
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (kind, text) = if openmetrics::is_wanted(accept) {
        (openmetrics::CONTENT_TYPE, metrics.expose_openmetrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", metrics.expose())
    };
    ([(CONTENT_TYPE, kind), (VARY, "accept")], text).into_response()
}

async fn ready(State(context): State<Context>) -> Response {
    match context.health.reason() {
        None => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Forgets cached answers; the body says which: `{"label": "Person"}`.
async fn invalidate(State(context): State<Context>, Json(scope): Json<Value>) -> Response {
    match Scope::read(&scope) {
        Ok(scope) => {
            let shared = &context.shared;
            let gone = shared.cache.invalidate(&scope, &shared.coalescer.statements);
            tracing::info!(?scope, answers = gone, "Cached answers were forgotten by hand.");
            Json(json!({ "answers": gone })).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
    }
}
