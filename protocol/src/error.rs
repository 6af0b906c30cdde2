//! What can be wrong with bytes from a peer.

use thiserror::Error;

/// Why bytes could not be read. Small and `Copy`: it is made on hostile input.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the message ends inside a value")]
    Truncated,
    /// A marker byte that PackStream does not define (or not yet).
    #[error("unknown PackStream marker {0:#04x}")]
    UnknownMarker(u8),
    /// Another type than the one that was asked for.
    #[error("unexpected PackStream marker {0:#04x}")]
    UnexpectedMarker(u8),
    /// A string that is not UTF-8.
    #[error("a string is not valid UTF-8")]
    BadUtf8,
    /// Bytes follow after the last value.
    #[error("bytes follow after the message")]
    TrailingBytes,
    /// A message with another number of fields than its signature has.
    #[error("a message has the wrong number of fields")]
    WrongFieldCount,
    /// Nested deeper than the decoder follows.
    #[error("values are nested too deeply")]
    TooDeep,
    /// A message that is larger than the limit in force.
    #[error("a message is larger than the limit")]
    TooLarge,
    /// A malformed handshake.
    #[error("malformed handshake")]
    BadHandshake,
}
