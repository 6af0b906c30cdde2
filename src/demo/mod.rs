//! `sidebolt demo`: a graph to try Sidebolt with.

pub mod airports;
#[cfg(feature = "demo")]
mod bookmark;
#[cfg(feature = "demo")]
mod connection;
#[cfg(feature = "demo")]
pub mod engine;
#[cfg(feature = "demo")]
mod lex;
#[cfg(feature = "demo")]
mod refusal;
#[cfg(feature = "demo")]
mod schema;
#[cfg(feature = "demo")]
pub mod server;
#[cfg(feature = "demo")]
mod statement;
#[cfg(feature = "demo")]
mod values;
#[cfg(feature = "demo")]
mod vet;
#[cfg(feature = "demo")]
mod wire;
