//! `gnn`: embeddings of nodes, as procedures.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{DurationText, SizeText};

/// What computes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU if there is one that can be used, else the CPU.
    #[default]
    Auto,
    /// A GPU; without one Sidebolt says so and uses the CPU.
    Cuda,
    /// The CPU.
    Cpu,
}

/// `gnn`: `CALL gnn.…` is answered by Sidebolt: graphs read from Neo4j, embeddings of their nodes.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gnn {
    /// Answer `CALL gnn.…`; otherwise it goes to Neo4j like any other text.
    pub enabled: bool,
    /// Bytes of all projected graphs, and of what is computed from them.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1MiB", "x-max" = "1024GiB"))]
    pub max_bytes: usize,
    /// Rows that `CALL gnn.… YIELD …` may hand to the rest of the query, where that does not work row by row.
    #[schemars(extend("x-min" = "1", "x-max" = "10000000"))]
    pub max_rows: usize,
    /// Calls that read or compute whole graphs at once; others wait their turn.
    #[schemars(extend("x-min" = "1", "x-max" = "10000", "x-restart" = true))]
    pub max_running: usize,
    /// How old a projected graph may be once Neo4j has changed; then it is read again by the call that uses it. 0s = as soon as it has changed.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "24h"))]
    pub max_staleness: Duration,
    /// Nodes that one transaction of `gnn.….write` writes.
    #[schemars(extend("x-min" = "1", "x-max" = "100000"))]
    pub write_batch: usize,
    /// A folder in which each folder is a model; a change in it is seen within seconds.
    #[schemars(extend("x-unit" = "folder"))]
    pub models: Option<PathBuf>,
    /// The model that is meant where a call names none.
    pub model: Option<String>,
    /// Bytes of embeddings that are kept, those of nodes asked for one by one; and as many of what calls without a graph have read.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "0", "x-max" = "64GiB"))]
    pub cache_bytes: usize,
    /// What computes: `auto`, `cuda` or `cpu`.
    #[schemars(extend("x-restart" = true))]
    pub device: Device,
    /// Threads that compute; 0 = one for each core.
    #[schemars(extend("x-min" = "0", "x-max" = "1024", "x-restart" = true))]
    pub threads: usize,
    /// Numbers of an embedding, where a call does not say.
    #[schemars(extend("x-min" = "1", "x-max" = "4096"))]
    pub embedding_dim: usize,
    /// Numbers of a hidden layer, for training.
    #[schemars(extend("x-min" = "1", "x-max" = "4096"))]
    pub hidden_dim: usize,
    /// Layers, for training.
    #[schemars(extend("x-min" = "1", "x-max" = "8"))]
    pub num_layers: usize,
    /// Load all models and run each once before `/readyz` says yes.
    pub prewarm: bool,
}

impl Default for Gnn {
    fn default() -> Self {
        Self {
            enabled: false,
            max_bytes: 1 << 30,
            max_rows: 100_000,
            max_running: 4,
            max_staleness: Duration::ZERO,
            write_batch: 1000,
            models: None,
            model: None,
            cache_bytes: 64 << 20,
            device: Device::Auto,
            threads: 0,
            embedding_dim: 128,
            hidden_dim: 64,
            num_layers: 3,
            prewarm: true,
        }
    }
}
