//! `retry`: what failed for a passing reason is run again.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::DurationText;

/// `retry`: auto-commit statements that Neo4j has refused or rolled back for a passing reason, a deadlock for example, before it answered
/// anything, are run again unseen. Transactions are their drivers' to run again.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// How often at most; 0 = never.
    #[schemars(extend("x-min" = "0", "x-max" = "100"))]
    pub attempts: u32,
    /// Pause before the first time (with up to a fifth more or less); each further one is twice as long.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1m"))]
    pub delay: Duration,
    /// Share of all requests that may be run again, counted over ten seconds, beside ten that always may.
    #[schemars(extend("x-min" = "0", "x-max" = "1"))]
    pub budget: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, delay: Duration::from_millis(200), budget: 0.1 }
    }
}
