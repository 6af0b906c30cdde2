//! The guard's metrics.

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::metrics::Builder;

/// What the guard counts.
pub(crate) struct GuardMetrics {
    /// Whether breakers are open.
    pub(crate) breaker_state: IntGaugeVec,
    /// How often they became what they are.
    pub(crate) breaker_transitions: IntCounterVec,
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
