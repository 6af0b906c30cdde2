//! Protects Neo4j, and every client from the others: what is refused at once, and in words that drivers understand.

mod breaker;
mod metrics;

pub(crate) use breaker::{Breaker, BreakerReport, Failing, Opened};
pub(crate) use metrics::GuardMetrics;
