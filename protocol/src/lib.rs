//! Neo4j's Bolt protocol as frames, without I/O, clocks or tasks.
//!
//! Contents, in the order in which bytes meet them:
//! - [`version`]: which versions exist and what each has (the only version table).
//! - [`handshake`]: classic slots and manifest v1, both sides.
//! - [`chunk`]: messages cut out of chunks and put into chunks.
//! - [`scan`]: the response scanner that lets records pass without decoding them.
//! - [`packstream`]: walker, map view, map edits, encoder, values.
//! - [`message`]: request and summary views, failure builder.
//! - [`server`]: the state machine that faces a driver.
//! - [`client`]: the state machine that faces Neo4j.

pub mod chunk;
pub mod client;
pub mod error;
pub mod handshake;
pub mod message;
pub mod packstream;
pub mod scan;
pub mod server;
pub mod version;

pub use error::DecodeError;
pub use message::tag::Tag;
pub use version::Version;
