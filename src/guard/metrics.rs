//! The guard's metrics.

use prometheus::{Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::Builder;

/// What the guard counts.
pub(crate) struct GuardMetrics {
    /// Whether breakers are open.
    pub(crate) breaker_state: IntGaugeVec,
    /// How often they became what they are.
    pub(crate) breaker_transitions: IntCounterVec,
    /// Refused requests, by limit.
    pub(crate) limited: IntCounterVec,
    /// Statements that failed for a passing reason, by what became of them.
    pub(crate) retries: IntCounterVec,
    /// What `guard.adaptive` has found.
    pub(crate) adaptive: IntGauge,
    /// Requests at the gate.
    pub(crate) waiting: IntGauge,
    /// How long they wait there.
    pub(crate) wait_seconds: Histogram,
}

impl GuardMetrics {
    /// All at zero.
    pub(crate) fn new(b: &mut Builder) -> Self {
        Self {
            breaker_state: b.gauges(
                "sidebolt_breaker_state",
                "Circuit breakers by server: 0 closed, 1 half open, 2 open.",
                &["server"],
            ),
            breaker_transitions: b.counters(
                "sidebolt_breaker_transitions_total",
                "Changes of circuit breakers by server and what they changed to (open, half_open, closed).",
                &["server", "to"],
            ),
            limited: b.counters(
                "sidebolt_guard_limited_total",
                "Requests refused because the rate of an entry of guard.limits was used up, by its name.",
                &["limit"],
            ),
            retries: b.counters(
                "sidebolt_retries_total",
                "Auto-commit statements that failed for a passing reason: run again (done), or not, because retry.budget was used up (refused).",
                &["outcome"],
            ),
            adaptive: b.gauge(
                "sidebolt_guard_adaptive_limit",
                "Requests that guard.adaptive lets be at Neo4j at once; 0 while it is off.",
            ),
            waiting: b.gauge(
                "sidebolt_guard_waiting",
                "Requests that wait because of a max_in_flight in guard.limits.",
            ),
            wait_seconds: b.seconds(
                "sidebolt_guard_wait_seconds",
                "Time that requests waited because of a max_in_flight in guard.limits, if they did.",
            ),
        }
    }

    /// Drops the series of a server that is no longer used.
    pub(crate) fn forget_server(&self, server: &str) {
        // An error means that there was none.
        let _ = self.breaker_state.remove_label_values(&[server]);
        for state in ["open", "half_open", "closed"] {
            let _ = self.breaker_transitions.remove_label_values(&[server, state]);
        }
    }
}
