//! Spans as OpenTelemetry has them, sent over HTTP off everybody's way.

use std::borrow::Cow;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use prometheus::IntCounterVec;
use tokio::time::Instant;

use super::{Stage, Trace};
use crate::config::{Config, UpstreamUri};
use crate::metrics::Metrics;
use crate::sight::{Answered, Finished, Outcome, Target};
use crate::statement::fingerprint;

/// Spans that may wait; more are dropped.
const WAITING: usize = 4096;
/// Spans of one post.
const TOGETHER: usize = 512;
/// How long spans wait for more.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the last ones may take at the end.
const LAST: Duration = Duration::from_secs(2);

/// Sends spans to one collector.
pub(super) struct Exporter {
    pub(super) endpoint: String,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Exporter {
    /// One for a collector; must be made on the runtime that its posts are to run on.
    pub(super) fn new(endpoint: &str, metrics: &Metrics) -> Result<Self, String> {
        let client = Client {
            target: Target::parse(endpoint)?,
            runtime: tokio::runtime::Handle::current(),
            posts: metrics.trace_posts.clone(),
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(|error| error.to_string())?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING)
            .with_max_export_batch_size(TOGETHER)
            .with_scheduled_delay(PAUSE)
            .build();
        let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "sidebolt".to_owned());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            // Who gets here was chosen already.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(Resource::builder().with_service_name(name).with_attribute(version).build())
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
            .build();
        let tracer = provider.tracer("sidebolt");
        Ok(Self { endpoint: endpoint.to_owned(), provider, tracer })
    }

    /// Queues the spans of a request that is over; gives its trace.
    pub(super) fn send(&self, finished: &Finished<'_>, trace: &Trace, config: &Config) -> [u8; 16] {
        let (instant, now) = (Instant::now(), SystemTime::now());
        let at = |moment: Instant| now - instant.saturating_duration_since(moment);
        let parent = trace.parent.map_or_else(Context::new, |parent| {
            let (id, span) = (TraceId::from_bytes(parent.trace), SpanId::from_bytes(parent.span));
            let state = TraceState::default();
            Context::new().with_remote_span_context(SpanContext::new(
                id,
                span,
                TraceFlags::SAMPLED,
                true,
                state,
            ))
        });
        let operation = operation(finished);
        let name = match finished.database {
            Some(database) => format!("{operation} {database}"),
            None => operation.clone().into_owned(),
        };
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_start_time(at(trace.asked))
            .with_attributes(attributes(finished, operation, config));
        let mut span = self.tracer.build_with_context(builder, &parent);
        if finished.outcome != Outcome::Success {
            span.set_status(Status::error(finished.outcome.word()));
        }
        let below = Context::new().with_remote_span_context(span.span_context().clone());
        let child = |name: &'static str, from: Instant, to: Instant| {
            let builder =
                SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(at(from));
            self.tracer.build_with_context(builder, &below).end_with_timestamp(at(to));
        };
        for wait in &trace.waits {
            let name = match wait.what {
                Stage::Queue => "queue",
                Stage::Pool => "pool wait",
            };
            child(name, wait.from, wait.to);
        }
        match (finished.answered, finished.outcome) {
            (_, Outcome::Refused) => {}
            (Answered::Neo4j, _) => child("upstream", trace.asked + finished.waited, instant),
            (Answered::Cache, _) => child("cache", trace.asked, instant),
            (Answered::Batch | Answered::Deferred, _) => child("batch", trace.asked, instant),
            (Answered::Gnn, _) => child("gnn", trace.asked, instant),
        }
        span.end_with_timestamp(now);
        span.span_context().trace_id().to_bytes()
    }

    /// Sends what waits.
    pub(super) fn close(&self) {
        // A collector that is gone is no news at the end.
        let _ = self.provider.shutdown_with_timeout(LAST);
    }
}

/// The first word of a text: what it does.
fn operation(finished: &Finished<'_>) -> Cow<'static, str> {
    let text = &finished.statement.text;
    let word = open_cypher::lex(text)
        .tokens
        .iter()
        .find(|token| !token.is_trivia())
        .and_then(|token| token.text(text));
    let word: String = word.unwrap_or("QUERY").chars().take(30).collect();
    word.to_uppercase().into()
}

/// What the conventions for databases want to know, and a little more.
fn attributes(finished: &Finished<'_>, operation: Cow<'static, str>, config: &Config) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("db.system.name", "neo4j"),
        KeyValue::new("db.query.text", fingerprint::normalised(&finished.statement.text)),
        KeyValue::new("db.operation.name", operation),
        KeyValue::new("db.response.returned_rows", i64::try_from(finished.rows).unwrap_or(i64::MAX)),
        KeyValue::new("sidebolt.answered", finished.answered.word()),
        KeyValue::new("sidebolt.outcome", finished.outcome.word()),
        KeyValue::new("sidebolt.fingerprint", fingerprint::shown(finished.statement.fingerprint)),
    ];
    if let Some(database) = finished.database {
        attributes.push(KeyValue::new("db.namespace", database.to_string()));
    }
    if let Ok(uri) = UpstreamUri::parse(&config.upstream.uri) {
        attributes.push(KeyValue::new("server.address", uri.host));
        attributes.push(KeyValue::new("server.port", i64::from(uri.port)));
    }
    if let Some(client) = finished.client {
        attributes.push(KeyValue::new("client.address", client.ip().to_string()));
        attributes.push(KeyValue::new("client.port", i64::from(client.port())));
    }
    match (finished.outcome, finished.code) {
        (Outcome::Success, _) => {}
        (_, Some(code)) => {
            attributes.push(KeyValue::new("db.response.status_code", code.to_owned()));
            attributes.push(KeyValue::new("error.type", code.to_owned()));
        }
        (outcome, None) => attributes.push(KeyValue::new("error.type", outcome.word())),
    }
    attributes
}

/// Posts on Sidebolt's runtime what the exporter's own thread wants posted.
#[derive(Debug)]
struct Client {
    target: Target,
    runtime: tokio::runtime::Handle,
    posts: IntCounterVec,
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let target = self.target.clone();
        let body = request.into_body();
        let post = self.runtime.spawn(async move { target.post_as("application/x-protobuf", &body).await });
        Box::pin(async move {
            let done = post.await.map_err(|error| error.to_string()).flatten();
            let outcome = if done.is_ok() { "success" } else { "failure" };
            self.posts.with_label_values(&[outcome]).inc();
            done?;
            Ok(Response::new(Bytes::new()))
        })
    }
}
