//! What is counted.

use prometheus::{Counter, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::member::Write;
use super::plan::shape;
use crate::metrics::Builder;
use crate::statement::Kind;

/// The metrics of group commit.
pub(crate) struct CoalesceMetrics {
    /// Committed batches by the ways in them.
    pub(super) batches: IntCounterVec,
    /// Committed writes by way and shape.
    pub(super) rows: IntCounterVec,
    /// Writes of a batch.
    pub(super) batch_size: Histogram,
    /// Time from arrival to departure.
    pub(super) wait_seconds: Histogram,
    /// Transactions taken apart, by reason.
    pub(super) fallbacks: IntCounterVec,
    /// Writes that ran alone because their lane had room.
    pub(crate) alone: IntCounter,
    /// Writes that were not for a batch, by reason.
    pub(crate) relayed: IntCounterVec,
    /// Batches whose derived counters were wrong.
    pub(super) mismatches: IntCounter,
    /// Transactions taken out of a shared one because their COMMIT did not come in time.
    pub(super) late: IntCounter,
    /// Estimated time saved.
    pub(super) saved_seconds: Counter,
    /// Rows that a batch may have.
    pub(super) cap: IntGauge,
    /// Writes that wait.
    pub(super) waiting: IntGauge,
    /// Lanes.
    pub(super) lanes: IntGauge,
}

impl CoalesceMetrics {
    pub(crate) fn new(b: &mut Builder) -> Self {
        Self {
            batches: b.counters("sidebolt_coalesce_batches_total", "Committed batches, by the ways of running in them (unwind: one UNWIND statement; rows: one with a subquery per row; grouped: each write's own statement). A batch of several ways counts for each.", &["way"]),
            rows: b.counters("sidebolt_coalesce_rows_total", "Writes committed in batches, by way of running and shape.", &["way", "shape"]),
            batch_size: b.histogram("sidebolt_coalesce_batch_rows", "Writes in a committed batch.", vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 10_000.0]),
            wait_seconds: b.seconds("sidebolt_coalesce_wait_seconds", "Time from a write's arrival to its batch's departure."),
            fallbacks: b.counters("sidebolt_coalesce_fallbacks_total", "Batches rolled back and taken apart, by reason.", &["reason"]),
            alone: b.counter("sidebolt_coalesce_alone_total", "Writes that ran alone because nothing else did."),
            relayed: b.counters("sidebolt_coalesce_relayed_total", "Writes that were not for a batch, by reason.", &["reason"]),
            mismatches: b.counter("sidebolt_coalesce_ledger_mismatches_total", "Batches whose derived counters did not sum to what Neo4j reported; they were rolled back and run one by one."),
            late: b.counter("sidebolt_coalesce_late_total", "Transactions taken out of a shared one because their COMMIT did not come within the usual time or coalesce.max_commit_wait."),
            saved_seconds: b.float_counter("sidebolt_coalesce_saved_seconds_total", "Server time saved by batches, estimated: what as many runs alone take at best, less what the batches took."),
            cap: b.gauge("sidebolt_coalesce_batch_cap", "Rows that a batch may have now, in the lane that allows most."),
            waiting: b.gauge("sidebolt_coalesce_waiting", "Writes that wait for a batch."),
            lanes: b.gauge("sidebolt_coalesce_lanes", "Lanes: distinct users, databases and transaction options that write."),
        }
    }
}

impl CoalesceMetrics {
    /// Writes of a text that were sent behind their answers.
    pub(crate) fn deferred(&self, write: &Write, rows: usize) {
        let kind = shape(&write.statement).map_or("other", |shape| shape.kind.name());
        self.rows.with_label_values(&["deferred", kind]).inc_by(rows as u64);
    }
}

impl Kind {
    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NodeMerge => "node_merge",
            Self::NodeCreate => "node_create",
            Self::NodeUpdate => "node_update",
            Self::RelationshipMerge => "relationship_merge",
            Self::RelationshipCreate => "relationship_create",
        }
    }
}
