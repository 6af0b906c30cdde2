//! `coalesce`: single writes become batches.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{DurationText, SizeText};

/// `coalesce`: concurrent single writes become batches, and every client still gets its own exact answer.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coalesce {
    /// Coalesce auto-commit writes.
    pub enabled: bool,
    /// Let transactions of one single write (`execute_write`, `execute_query`) share a commit too.
    pub managed: bool,
    /// Answer writes of known shapes inside explicit transactions at once and send them as batches before the next other request or COMMIT.
    pub deferred: bool,
    /// Rows of a batch to begin with; it then adapts itself.
    #[schemars(extend("x-min" = "1", "x-max" = "10000"))]
    pub batch_size: usize,
    /// Most rows of a batch.
    #[schemars(extend("x-min" = "1", "x-max" = "10000"))]
    pub max_batch_size: usize,
    /// Batches in flight at once for one user and database, when the backlog is large and their rows cannot conflict.
    #[schemars(extend("x-min" = "1", "x-max" = "5"))]
    pub max_batches: usize,
    /// Writes that run one by one at the same time before others gather behind them.
    #[schemars(extend("x-min" = "1", "x-max" = "100"))]
    pub singles: usize,
    /// Writes that may wait for one lane; more are relayed.
    #[schemars(extend("x-min" = "1", "x-max" = "1000000"))]
    pub max_waiting: usize,
    /// A request with larger parameters is relayed.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1KiB", "x-max" = "16MiB"))]
    pub max_parameters: usize,
    /// A batch with a larger answer is taken apart.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "64KiB", "x-max" = "256MiB"))]
    pub max_result: usize,
    /// A text without a known shape is grouped only if its past runs took no longer.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "10s"))]
    pub max_statement_time: Duration,
    /// A batch that is not ready to commit after this is rolled back and its writes run one by one; the next one gets twice the time, at
    /// most 16 times.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "10ms", "x-max" = "1m"))]
    pub max_batch_time: Duration,
    /// What runs for longer than this, and than four usual batches, is not waited for by writes that cannot conflict with it.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1m"))]
    pub patience: Duration,
    /// How long a shared transaction waits at most for the COMMITs of its members.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1s"))]
    pub max_commit_wait: Duration,
}

impl Default for Coalesce {
    fn default() -> Self {
        Self {
            enabled: true,
            managed: true,
            deferred: false,
            batch_size: 500,
            max_batch_size: 10_000,
            max_batches: 5,
            singles: 2,
            max_waiting: 100_000,
            max_parameters: 64 * 1024,
            max_result: 16 * 1024 * 1024,
            max_statement_time: Duration::from_millis(20),
            max_batch_time: Duration::from_secs(1),
            patience: Duration::from_millis(50),
            max_commit_wait: Duration::from_millis(100),
        }
    }
}
