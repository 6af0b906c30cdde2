//! PackStream: markers, the walker that skips by bytes, maps that are read and edited in place, encoder and values.

pub mod encode;
pub mod map;
pub mod value;
pub mod walk;

pub use map::{MapEdit, MapView};
pub use value::Value;
pub use walk::Walker;

/// Bolt 6.1's UUID: this marker and 16 raw bytes.
pub const UUID: u8 = 0xE0;

/// Deepest nesting that is decoded into values; the walker has no such limit.
pub const MAX_DEPTH: usize = 128;
