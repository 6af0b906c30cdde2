//! Bookmarks of one database: which of two is newer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bolt_wire::packstream::{Walker, encode};
use bytes::{BufMut, BytesMut};

/// A bookmark that names one database and one transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bookmark {
    /// The database.
    pub(crate) database: [u8; 16],
    /// The newest transaction that it stands for.
    pub(crate) transaction: i64,
}

impl Bookmark {
    /// As Neo4j writes it.
    pub(crate) fn to_text(self) -> String {
        let mut bytes = BytesMut::with_capacity(32);
        bytes.put_slice(b"\x91\xCC\x10");
        bytes.put_slice(&self.database);
        encode::integer(self.transaction, &mut bytes);
        bytes.put_u8(0x90);
        format!("FB:{}", STANDARD_NO_PAD.encode(&bytes))
    }

    /// Reads `FB:` and Base64 of a database id, a transaction id and an empty list. Bookmarks of several databases, and of other
    /// forms, are none of these.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(text.strip_prefix("FB:")?.trim_end_matches('=')).ok()?;
        let (database, rest) = bytes.strip_prefix(b"\x91\xCC\x10")?.split_first_chunk::<16>()?;
        let mut walker = Walker::new(rest);
        let transaction = walker.integer().ok()?;
        (walker.rest() == [0x90]).then_some(Self { database: *database, transaction })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookmarks_of_real_servers_are_read() {
        let older = Bookmark::parse("FB:kcwQuo/9YweGSpKSOMaRQ7LZvgeQ").unwrap();
        let newer = Bookmark::parse("FB:kcwQuo/9YweGSpKSOMaRQ7LZvguQ").unwrap();
        assert_eq!(older.database, newer.database);
        assert_eq!((older.transaction, newer.transaction), (7, 11));
        assert_eq!(newer.to_text(), "FB:kcwQuo/9YweGSpKSOMaRQ7LZvguQ");
        let far = Bookmark { transaction: 70_000, ..newer };
        assert_eq!(Bookmark::parse(&far.to_text()), Some(far));
        for text in ["", "FB:", "FB:kcwQ", "FB:kcwQuo/9YweGSpKSOMaRQ7LZvgeQkJA", "neo4j:bookmark:v1:tx7"] {
            assert_eq!(Bookmark::parse(text), None, "{text}");
        }
    }
}
