//! Traces for OpenTelemetry: a span for each request that is chosen, under its client's own, with the steps below it.

#[cfg(feature = "otel")]
mod export;
mod parent;

pub(crate) use parent::{Choice, Parent, choose};

use tokio::time::Instant;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::sight::Finished;

/// What is known of a request that is traced.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Its client's span; none = it begins a trace.
    pub(crate) parent: Option<Parent>,
    /// When it came.
    pub(crate) asked: Instant,
    /// What it waited for before it went to Neo4j.
    pub(crate) waits: Vec<Wait>,
}

/// A time of waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) what: Stage,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// A seat, because of a limit.
    Queue,
    /// A connection to Neo4j.
    Pool,
}

/// Where traces go, if this build can send any.
#[derive(Default)]
pub(crate) struct Traces {
    #[cfg(feature = "otel")]
    exporter: arc_swap::ArcSwapOption<export::Exporter>,
}

#[cfg(feature = "otel")]
impl Traces {
    /// Sends the spans of a request that is over. It only puts them into a queue; who cannot keep up loses some.
    pub(crate) fn record(&self, finished: &Finished<'_>, trace: &Trace, config: &Config, metrics: &Metrics) {
        let Some(endpoint) = &config.telemetry.otlp.endpoint else { return };
        let known = self.exporter.load();
        let note = |id| metrics.exemplars.note(id, finished.took, crate::sight::now());
        match known.as_ref().filter(|known| known.endpoint == *endpoint) {
            Some(exporter) => note(exporter.send(finished, trace, config)),
            None => {
                // The first one, or another collector.
                match export::Exporter::new(endpoint, metrics) {
                    Ok(exporter) => {
                        note(exporter.send(finished, trace, config));
                        let old = self.exporter.swap(Some(std::sync::Arc::new(exporter)));
                        tokio::task::spawn_blocking(move || drop(old));
                    }
                    Err(error) => {
                        tracing::warn!(error, "telemetry.otlp.endpoint cannot be used; nothing is traced.");
                    }
                }
            }
        }
    }

    /// Sends what waits, for a moment.
    pub(crate) async fn close(&self) {
        if let Some(exporter) = self.exporter.swap(None) {
            // A collector that does not answer holds nobody up for long.
            let _ = tokio::task::spawn_blocking(move || exporter.close()).await;
        }
    }
}

#[cfg(not(feature = "otel"))]
impl Traces {
    /// This build sends none.
    pub(crate) fn record(&self, _: &Finished<'_>, _: &Trace, _: &Config, _: &Metrics) {}

    /// This build sends none.
    pub(crate) async fn close(&self) {}
}
