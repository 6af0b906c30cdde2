//! What is counted.

use prometheus::{Counter, Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::metrics::Builder;
use crate::statement::Footprint;

/// The metrics of the cache.
pub(crate) struct CacheMetrics {
    /// Answers given from the cache.
    pub(crate) hits: IntCounter,
    /// Answers given to those who waited for an equal read.
    pub(crate) shared: IntCounter,
    /// Hits that went to Neo4j all the same, by what that showed.
    pub(crate) verifications: IntCounterVec,
    /// Answers given although Neo4j could not be asked.
    pub(crate) stale: IntCounter,
    /// Questions that went to Neo4j, by reason.
    pub(crate) misses: IntCounterVec,
    /// Answers of Neo4j's that could have been kept, by what became of them.
    pub(crate) fills: IntCounterVec,
    /// Our own commits, by what they changed for the cache.
    invalidations: IntCounterVec,
    /// Times that everything of a database went, by cause.
    clears: IntCounterVec,
    /// Time that Neo4j took for what was then served from here.
    pub(crate) saved_seconds: Counter,
    /// Entries removed to make room.
    pub(crate) evictions: IntCounter,
    /// Probes for the newest transaction id.
    pub(crate) probe_seconds: Histogram,
    /// Probes without an answer.
    pub(crate) probe_failures: IntCounter,
    /// How long ago a served answer was known to be right.
    pub(crate) staleness_seconds: Histogram,
    /// Entries.
    pub(crate) entries: IntGauge,
    /// Their bytes.
    pub(crate) bytes: IntGauge,
}

impl CacheMetrics {
    /// Hits, misses and entries.
    pub(crate) fn summary(&self) -> (u64, u64, i64) {
        use prometheus::core::Collector;
        let misses = self.misses.collect();
        let misses = misses.iter().flat_map(|family| family.get_metric().iter());
        let misses = misses.map(|metric| metric.get_counter().get_value()).sum::<f64>() as u64;
        (self.hits.get(), misses, self.entries.get())
    }

    pub(crate) fn new(b: &mut Builder) -> Self {
        Self {
            hits: b.counter("sidebolt_cache_hits_total", "Reads answered from the cache."),
            shared: b.counter("sidebolt_cache_shared_total", "Reads answered with what an equal read got that was sent after they came."),
            verifications: b.counters("sidebolt_cache_verifications_total", "Reads that the cache could have answered and that went to Neo4j to compare (cache.verify_every), by outcome (same, different, overtaken: other commits came between).", &["outcome"]),
            stale: b.counter("sidebolt_cache_stale_total", "Reads answered from the cache while Neo4j did not answer (cache.stale_if_error)."),
            misses: b.counters("sidebolt_cache_misses_total", "Reads that may be cached and went to Neo4j, by reason.", &["reason"]),
            fills: b.counters("sidebolt_cache_fills_total", "Answers of Neo4j's that may be cached, by what became of them (kept, or why not).", &["outcome"]),
            invalidations: b.counters("sidebolt_cache_invalidations_total", "Commits through this Sidebolt that changed something, by what they may have changed (marks: named labels, types and properties; database: anything).", &["breadth"]),
            clears: b.counters("sidebolt_cache_clears_total", "Times that all cached answers of a database went, by cause (unexplained: somebody else's commit; unknown: a commit whose outcome or extent is not known; lost: no reading of the newest transaction id; different: cache.verify_every found a wrong answer; request: by hand).", &["cause"]),
            saved_seconds: b.float_counter("sidebolt_cache_saved_seconds_total", "Time that Neo4j would have taken for the hits, by what it took for the answers that were kept."),
            evictions: b.counter("sidebolt_cache_evictions_total", "Cached answers removed to make room."),
            probe_seconds: b.seconds("sidebolt_cache_probe_seconds", "Time of probes for the newest transaction id."),
            probe_failures: b.counter("sidebolt_cache_probe_failures_total", "Probes that got no answer; nothing is served from the cache meanwhile."),
            staleness_seconds: b.seconds("sidebolt_cache_staleness_seconds", "How long before it was served an answer was known to be what Neo4j would say."),
            entries: b.gauge("sidebolt_cache_entries", "Cached answers."),
            bytes: b.gauge("sidebolt_cache_bytes", "Bytes of cached answers with their keys."),
        }
    }

    pub(super) fn cleared(&self, cause: &str) {
        self.clears.with_label_values(&[cause]).inc();
    }

    pub(super) fn touched(&self, footprint: &Footprint) {
        let breadth = if footprint.0.is_some() { "marks" } else { "database" };
        self.invalidations.with_label_values(&[breadth]).inc();
    }
}
