//! How requests are answered, and how they end.

/// How a request was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answered {
    /// By Neo4j, on its own.
    Neo4j,
    /// From the cache.
    Cache,
    /// By a batch.
    Batch,
    /// Before it was sent.
    Deferred,
    /// By a procedure of Sidebolt's that computes.
    Gnn,
}

impl Answered {
    /// For logs and tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Neo4j => "neo4j",
            Self::Cache => "cache",
            Self::Batch => "batch",
            Self::Deferred => "deferred",
            Self::Gnn => "gnn",
        }
    }
}

impl Outcome {
    /// For logs and tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Success,
    /// Neo4j said no.
    Failure,
    /// Sidebolt said no.
    Refused,
    /// RESET, or a connection that was lost.
    Interrupted,
}
