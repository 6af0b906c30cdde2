//! What is counted.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::Builder;

/// The metrics of `CALL gnn.…`.
pub(crate) struct GnnMetrics {
    /// Calls by procedure and outcome.
    pub(crate) calls: IntCounterVec,
    /// Failures of their own, by kind.
    pub(crate) failures: IntCounterVec,
    /// How long they take.
    pub(crate) call_seconds: Histogram,
    /// How long they wait for their turn.
    pub(crate) wait_seconds: Histogram,
    /// How long reading a graph takes.
    pub(crate) project_seconds: Histogram,
    /// How long computing takes.
    pub(crate) compute_seconds: Histogram,
    /// Nodes that got an embedding.
    pub(crate) nodes: IntCounter,
    /// Relationships that computing went along.
    pub(crate) edges: IntCounter,
    /// Embeddings written to Neo4j.
    pub(crate) written: IntCounter,
    /// Graphs that were read again because Neo4j had changed.
    pub(crate) renewals: IntCounter,
    /// Embeddings that were kept, and those that were not.
    pub(crate) hits: IntCounter,
    pub(crate) misses: IntCounter,
    /// Embeddings that are kept.
    pub(crate) kept: IntGauge,
    /// What calls without a graph needed of nodes: what was kept, and what was read.
    pub(crate) parts_kept: IntCounter,
    pub(crate) parts_read: IntCounter,
    pub(crate) parts_bytes: IntGauge,
    /// Calls that wait for the next batch.
    pub(crate) queue: IntGauge,
    /// Nodes of a batch.
    pub(crate) batch_nodes: Histogram,
    /// Nodes of a full batch, as chosen last.
    pub(crate) batch_size: IntGauge,
    /// Memory of the devices.
    pub(crate) device_memory: IntGaugeVec,
    /// Which version of each model is meant by its name.
    pub(crate) model_versions: IntGaugeVec,
    /// Models that are loaded.
    pub(crate) models: IntGauge,
    /// Times that a folder was no model.
    pub(crate) broken_models: IntCounter,
    /// How long loading a model and running it once takes.
    pub(crate) warmup_seconds: Histogram,
    /// Epochs of training.
    pub(crate) epochs: IntCounter,
    /// Graphs that are kept.
    pub(crate) graphs: IntGauge,
    /// Bytes of `gnn.max_bytes` in use.
    pub(crate) bytes: IntGauge,
}

impl GnnMetrics {
    /// All at zero.
    pub(crate) fn new(b: &mut Builder) -> Self {
        Self {
            calls: b.counters("sidebolt_gnn_calls_total", "Calls of gnn.… by procedure and outcome (success, failure).", &["procedure", "outcome"]),
            failures: b.counters("sidebolt_gnn_failures_total", "Calls of gnn.… that Sidebolt itself refused or could not finish: gnn (what was asked for is wrong), gnn_passing (trying again may help).", &["reason"]),
            call_seconds: b.seconds("sidebolt_gnn_call_seconds", "Time of a call of gnn.… until its rows can be fetched."),
            wait_seconds: b.seconds("sidebolt_gnn_wait_seconds", "Time that calls of gnn.… waited for their turn (gnn.max_running)."),
            project_seconds: b.seconds("sidebolt_gnn_project_seconds", "Time of reading a graph from Neo4j."),
            compute_seconds: b.seconds("sidebolt_gnn_compute_seconds", "Time of computing embeddings; the rate of its sum is how busy what computes is."),
            nodes: b.counter("sidebolt_gnn_nodes_total", "Nodes whose embeddings were computed."),
            edges: b.counter("sidebolt_gnn_edges_total", "Relationships of the graphs that embeddings were computed of."),
            written: b.counter("sidebolt_gnn_written_total", "Embeddings written to Neo4j by gnn.….write outside of transactions."),
            renewals: b.counter("sidebolt_gnn_renewals_total", "Graphs read again by a call because Neo4j had changed."),
            hits: b.counter("sidebolt_gnn_cache_hits_total", "Embeddings of single nodes that were kept from before."),
            misses: b.counter("sidebolt_gnn_cache_misses_total", "Embeddings of single nodes that were computed."),
            kept: b.gauge("sidebolt_gnn_cache_entries", "Embeddings of single nodes that are kept."),
            parts_kept: b.counter("sidebolt_gnn_neighbourhood_hits_total", "Features and neighbours of nodes that were kept from an earlier call without a graph."),
            parts_read: b.counter("sidebolt_gnn_neighbourhood_misses_total", "Features and neighbours of nodes that a call without a graph asked Neo4j for."),
            parts_bytes: b.gauge("sidebolt_gnn_neighbourhood_bytes", "Bytes of features and neighbours that are kept for calls without a graph."),
            queue: b.gauge("sidebolt_gnn_waiting", "Calls that wait for the next batch of nodes."),
            batch_nodes: b.histogram("sidebolt_gnn_batch_rows", "Nodes that were computed together.", vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0]),
            batch_size: b.gauge("sidebolt_gnn_batch_size", "Nodes that are computed together at most, as chosen last: first by the memory that is free, then by what was fastest."),
            device_memory: b.gauges("sidebolt_gnn_device_memory_bytes", "Memory of what computes (total), what of it is free, and what is allocated, by this process and others.", &["device", "kind"]),
            model_versions: b.gauges("sidebolt_gnn_model_info", "1 for the version that a model's name stands for.", &["model", "version"]),
            models: b.gauge("sidebolt_gnn_models", "Models that are loaded."),
            broken_models: b.counter("sidebolt_gnn_broken_models_total", "Times that a folder in gnn.models could not be loaded."),
            warmup_seconds: b.seconds("sidebolt_gnn_warmup_seconds", "Time of loading a model and running it once."),
            epochs: b.counter("sidebolt_gnn_epochs_total", "Epochs of training that are over."),
            graphs: b.gauge("sidebolt_gnn_graphs", "Graphs that are kept."),
            bytes: b.gauge("sidebolt_gnn_bytes", "Bytes of gnn.max_bytes that are in use."),
        }
    }
}
