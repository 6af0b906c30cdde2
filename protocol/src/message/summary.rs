//! Summaries: how a request ended.

use super::request::open;
use super::tag::Tag;
use crate::error::DecodeError;
use crate::packstream::MapView;

/// How a request ended, as far as the state machines need to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// SUCCESS; `has_more` after a PULL or DISCARD that left records.
    Success {
        /// More records can be pulled.
        has_more: bool,
    },
    /// FAILURE.
    Failure,
    /// IGNORED.
    Ignored,
}

impl Outcome {
    /// SUCCESS and nothing left.
    pub const DONE: Self = Self::Success { has_more: false };
}

/// A summary message.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    /// SUCCESS, FAILURE or IGNORED.
    pub outcome: Outcome,
    /// Its metadata; empty for IGNORED.
    pub meta: MapView<'a>,
}

impl<'a> Summary<'a> {
    /// Reads a summary's payload. Metadata that cannot be walked over (a marker of a later version) counts as empty.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (tag, _, mut walker) = open(payload)?;
        let meta = walker.value().and_then(MapView::parse).unwrap_or(MapView::EMPTY);
        let outcome = match tag {
            Tag::SUCCESS => Outcome::Success { has_more: meta.boolean("has_more") == Some(true) },
            Tag::FAILURE => Outcome::Failure,
            Tag::IGNORED => Outcome::Ignored,
            Tag(other) => return Err(DecodeError::UnexpectedMarker(other)),
        };
        Ok(Self { outcome, meta })
    }

    /// The Neo4j status code of a FAILURE (renamed `neo4j_code` in 5.7).
    pub fn code(&self) -> Option<&'a str> {
        self.meta.string("neo4j_code").or_else(|| self.meta.string("code"))
    }

    /// The message text of a FAILURE.
    pub fn message(&self) -> Option<&'a str> {
        self.meta.string("message")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read() {
        let has_more = [0xB1, 0x70, 0xA1, 0x88, b'h', b'a', b's', b'_', b'm', b'o', b'r', b'e', 0xC3];
        assert_eq!(Summary::parse(&has_more).unwrap().outcome, Outcome::Success { has_more: true });
        assert_eq!(Summary::parse(&[0xB1, 0x70, 0xA0]).unwrap().outcome, Outcome::DONE);
        assert_eq!(Summary::parse(&[0xB0, 0x7E]).unwrap().outcome, Outcome::Ignored);
        assert!(Summary::parse(&[0xB1, 0x71, 0x90]).is_err());
    }
}
