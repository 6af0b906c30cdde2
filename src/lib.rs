//! Sidebolt: a Neo4j-compatible Bolt proxy sidecar. Modules stand in the order in which a query walks through them.

mod buffers;
pub mod config;
mod failure;
mod metrics;
mod session;
pub mod transport;
mod upstream;
