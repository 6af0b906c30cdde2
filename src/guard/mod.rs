//! Protects Neo4j, and every client from the others: what is refused at once, and in words that drivers understand.

mod adaptive;
mod breaker;
mod bucket;
mod budget;
mod gate;
mod keyed;
mod metrics;
mod policy;
mod pressure;
mod rules;

pub(crate) use breaker::{Breaker, BreakerReport, Failing, Opened};
pub(crate) use gate::{Entered, Permit, Priority, Ticket};
pub(crate) use metrics::GuardMetrics;
pub(crate) use policy::{Asking, Guard, LimitReport, Policy};
pub(crate) use pressure::keep_measuring;
