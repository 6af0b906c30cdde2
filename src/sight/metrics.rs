//! What is counted.

use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::Builder;

/// The metrics of what is seen.
pub(crate) struct SightMetrics {
    /// Rows of the table of queries.
    pub(super) queries: IntGauge,
    /// Bytes that they take.
    pub(super) bytes: IntGauge,
    /// Rows that had to go.
    pub(super) forgotten: IntCounter,
    /// Slow requests.
    pub(super) slow: IntCounter,
    /// Plans asked for, by outcome.
    pub(super) plans: IntCounterVec,
    /// Alerts that are active, by level.
    pub(super) active: IntGaugeVec,
    /// Alerts that began or ended, by kind and level.
    pub(super) alerts: IntCounterVec,
    /// Alerts sent, by channel and outcome.
    pub(super) posts: IntCounterVec,
    /// CPU time of this process.
    pub(super) cpu: Counter,
    /// What this process uses, by resource.
    pub(super) process: IntGaugeVec,
    /// Their requests.
    pub(super) forgotten_calls: IntCounter,
}

impl SightMetrics {
    pub(crate) fn new(b: &mut Builder) -> Self {
        Self {
            queries: b.gauge(
                "sidebolt_queries_known",
                "Queries (fingerprint, user, database) in the table of top queries.",
            ),
            bytes: b
                .gauge("sidebolt_queries_memory_bytes", "Memory that the table of top queries takes, about."),
            forgotten: b.counter(
                "sidebolt_queries_forgotten_total",
                "Queries that were dropped from the table because sight.max_queries was reached.",
            ),
            forgotten_calls: b.counter(
                "sidebolt_queries_forgotten_calls_total",
                "Requests of queries that were dropped from the table.",
            ),
            slow: b.counter(
                "sidebolt_slow_requests_total",
                "Requests that took longer than sight.slow_threshold.",
            ),
            plans: b.counters(
                "sidebolt_plans_total",
                "Plans of slow queries asked for, by outcome (success, failure).",
                &["outcome"],
            ),
            active: b.gauges(
                "sidebolt_alerts",
                "Alerts that are active, by level (info, warning, critical, emergency).",
                &["level"],
            ),
            alerts: b.counters(
                "sidebolt_alert_changes_total",
                "Alerts that began, changed their level or ended, by kind and level.",
                &["kind", "level"],
            ),
            posts: b.counters(
                "sidebolt_alert_posts_total",
                "Alerts sent, by channel (webhook, alertmanager) and outcome (success, failure).",
                &["channel", "outcome"],
            ),
            cpu: b.float_counter("sidebolt_process_cpu_seconds_total", "CPU time of this process."),
            process: b.gauges(
                "sidebolt_process",
                "What this process uses, by resource: memory_bytes, threads, open_files.",
                &["resource"],
            ),
        }
    }
}
