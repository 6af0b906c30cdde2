//! `breaker`: a server that fails is left alone.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::DurationText;

/// `breaker`: one circuit breaker for each server; while it is open, requests are refused at once.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Refuse requests at once while a server cannot be reached.
    pub enabled: bool,
    /// Failures in a row that open it: connections that cannot be made, that are lost in use or stay silent, and Neo4j's own
    /// `Neo.TransientError.Request.*`. Connections that are lost together count once.
    #[schemars(extend("x-min" = "1", "x-max" = "10000"))]
    pub failures: u32,
    /// How long it stays open at most before a request is tried.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub open_for: Duration,
    /// Successes in a row, tried one at a time, that close it.
    #[schemars(extend("x-min" = "1", "x-max" = "1000"))]
    pub successes: u32,
    /// How often Sidebolt itself looks whether an open breaker's server is back (with up to a fifth more or less); 0s = it does not look.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub probe_interval: Duration,
    /// Share of failures among the requests of `window` that opens it too, `Neo.DatabaseError.*` and `Neo.TransientError.General.*`
    /// included; 0 = only failures in a row count.
    #[schemars(extend("x-min" = "0", "x-max" = "1"))]
    pub failure_ratio: f64,
    /// A request whose first answer takes longer is slow; 0s = none is.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub slow_call: Duration,
    /// Share of slow requests among those of `window` that opens it.
    #[schemars(extend("x-min" = "0", "x-max" = "1"))]
    pub slow_ratio: f64,
    /// Over which time the shares are taken.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub window: Duration,
    /// Requests in `window` below which no share counts.
    #[schemars(extend("x-min" = "1", "x-max" = "1000000"))]
    pub min_calls: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 5,
            open_for: Duration::from_secs(60),
            successes: 2,
            probe_interval: Duration::from_millis(500),
            failure_ratio: 0.0,
            slow_call: Duration::ZERO,
            slow_ratio: 0.5,
            window: Duration::from_secs(10),
            min_calls: 20,
        }
    }
}

impl Breaker {
    /// True if shares of requests are looked at.
    pub(crate) fn counts_shares(&self) -> bool {
        self.enabled && (self.failure_ratio > 0.0 || !self.slow_call.is_zero())
    }
}
