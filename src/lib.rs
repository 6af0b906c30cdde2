//! Sidebolt: a Neo4j-compatible Bolt proxy sidecar. Modules stand in the order in which a query walks through them.

mod admin;
pub mod advise;
pub mod app;
pub mod bolt_client;
mod bookmark;
mod buffers;
mod cache;
pub mod cli;
mod coalesce;
pub mod config;
mod console;
pub mod demo;
mod failure;
mod gnn;
mod guard;
mod indexes;
pub mod listener;
pub mod logging;
mod matching;
mod metrics;
mod openmetrics;
pub mod report;
pub mod run;
mod session;
mod shown;
mod sight;
mod statement;
pub mod top;
mod traces;
pub mod transport;
mod upstream;

/// The table of Sidebolt's metrics in Markdown, as the README has it.
pub fn metrics_reference() -> String {
    metrics::Metrics::new().reference_markdown()
}

/// The table of Sidebolt's own failures in Markdown, as the README has it.
pub fn failures_reference() -> String {
    failure::reference_markdown()
}

/// The table of the procedures `gnn.…` in Markdown, as the README has it.
pub fn gnn_reference() -> String {
    gnn::reference_markdown()
}

/// The table of Sidebolt's own procedures in Markdown, as the README has it.
pub fn procedures_reference() -> String {
    console::reference_markdown()
}
