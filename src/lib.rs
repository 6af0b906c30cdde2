//! Sidebolt: a Neo4j-compatible Bolt proxy sidecar. Modules stand in the order in which a query walks through them.

pub mod config;
pub mod bolt_client;
pub mod demo;
