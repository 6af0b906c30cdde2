//! Maps read in place, and edited without touching the entries that stay.

use bytes::{BufMut, BytesMut};

use super::encode;
use super::walk::Walker;
use crate::error::DecodeError;

/// A PackStream map that was walked over once: every key is a string and every value is whole.
#[derive(Clone, Copy, Debug)]
pub struct MapView<'a> {
    entries: usize,
    body: &'a [u8],
}

impl<'a> MapView<'a> {
    /// An empty map.
    pub const EMPTY: MapView<'static> = MapView { entries: 0, body: &[] };

    /// Reads the map that `bytes` begins with.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut walker = Walker::new(bytes);
        let entries = walker.map_header()?;
        let body = walker.rest();
        for _ in 0..entries {
            walker.string()?;
            walker.value()?;
        }
        let used = body.len() - walker.rest().len();
        Ok(Self { entries, body: body.get(..used).unwrap_or_default() })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// True if the map has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Keys and the bytes of their values, in the order of the wire.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.entries().map(|entry| (entry.key, entry.value))
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut walker = Walker::new(self.body);
        std::iter::from_fn(move || {
            let start = walker.rest();
            let (key, value) = (walker.string().ok()?, walker.value().ok()?);
            let whole = start.get(..start.len() - walker.rest().len())?;
            Some(Entry { key, value, whole })
        })
    }

    /// The bytes of the value of `key`; of the last one if the key is repeated.
    pub fn get(&self, key: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(k, _)| *k == key).last().map(|(_, value)| value)
    }

    /// The value of `key` if it is a string.
    pub fn string(&self, key: &str) -> Option<&'a str> {
        Walker::new(self.get(key)?).string().ok()
    }

    /// The value of `key` if it is an integer.
    pub fn integer(&self, key: &str) -> Option<i64> {
        Walker::new(self.get(key)?).integer().ok()
    }

    /// The value of `key` if it is a boolean.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            [0xC3] => Some(true),
            [0xC2] => Some(false),
            _ => None,
        }
    }

    /// The value of `key` if it is a map.
    pub fn map(&self, key: &str) -> Option<Self> {
        Self::parse(self.get(key)?).ok()
    }

    /// True if `key` is there with another value than null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != [0xC0])
    }
}

/// One entry of a map.
struct Entry<'a> {
    key: &'a str,
    value: &'a [u8],
    /// Key and value as they are on the wire: a key, too, has several legal forms.
    whole: &'a [u8],
}

/// A change to a map: keys that go and encoded entries that come. Everything else is copied as it is.
#[derive(Debug, Default)]
pub struct MapEdit<'a> {
    remove: &'a [&'a str],
    added: BytesMut,
    count: usize,
}

impl<'a> MapEdit<'a> {
    /// A change that takes `remove` away.
    pub fn removing(remove: &'a [&'a str]) -> Self {
        Self { remove, ..Self::default() }
    }

    /// Adds `key` with the value that `write` appends. The key must be among the removed ones if it may be there already.
    pub fn add(&mut self, key: &str, write: impl FnOnce(&mut BytesMut)) -> &mut Self {
        encode::string(key, &mut self.added);
        write(&mut self.added);
        self.count += 1;
        self
    }

    /// Appends the changed map.
    pub fn apply(&self, map: &MapView<'_>, out: &mut BytesMut) {
        let staying = || map.entries().filter(|entry| !self.remove.contains(&entry.key));
        encode::map_header(staying().count() + self.count, out);
        staying().for_each(|entry| out.put_slice(entry.whole));
        out.put_slice(&self.added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packstream::Value;

    #[test]
    fn an_edit_leaves_the_rest_byte_for_byte() {
        // A non-minimal integer (CB for 5) and a UUID must survive.
        let mut map = BytesMut::new();
        encode::map_header(3, &mut map);
        encode::string("wide", &mut map);
        map.put_slice(&[0xCB, 0, 0, 0, 0, 0, 0, 0, 5]);
        encode::string("db", &mut map);
        encode::string("neo4j", &mut map);
        encode::string("id", &mut map);
        encode::uuid([7; 16], &mut map);
        let view = MapView::parse(&map).unwrap();
        assert_eq!((view.integer("wide"), view.string("db"), view.len()), (Some(5), Some("neo4j"), 3));

        let mut out = BytesMut::new();
        MapEdit::removing(&["db", "absent"]).add("mode", |o| encode::string("r", o)).apply(&view, &mut out);
        let edited = MapView::parse(&out).unwrap();
        assert_eq!(edited.len(), 3);
        assert_eq!(edited.get("wide"), view.get("wide"));
        assert_eq!(edited.get("id"), view.get("id"));
        assert_eq!((edited.string("mode"), edited.get("db")), (Some("r"), None));
    }

    #[test]
    fn the_last_of_a_repeated_key_counts_and_null_is_absent() {
        let mut map = BytesMut::new();
        encode::map_header(3, &mut map);
        for (key, value) in [("a", Value::Integer(1)), ("a", Value::Integer(2)), ("b", Value::Null)] {
            encode::string(key, &mut map);
            value.encode(&mut map);
        }
        let view = MapView::parse(&map).unwrap();
        assert_eq!(view.integer("a"), Some(2));
        assert!(view.has("a") && !view.has("b") && !view.has("c"));
    }

    #[test]
    fn a_broken_map_is_refused_whole() {
        assert_eq!(MapView::parse(&[0xA1, 0x01, 0x01]).map(|_| ()), Err(DecodeError::UnexpectedMarker(1)));
        assert_eq!(MapView::parse(&[0xA2, 0x81, b'a', 0x01]).map(|_| ()), Err(DecodeError::Truncated));
        assert_eq!(MapView::parse(&[0x90]).map(|_| ()), Err(DecodeError::UnexpectedMarker(0x90)));
    }
}
