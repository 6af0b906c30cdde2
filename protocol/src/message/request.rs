//! Requests as views into their payload: fields are found, not decoded.

use bytes::{BufMut, BytesMut};

use super::tag::Tag;
use crate::error::DecodeError;
use crate::packstream::{MapEdit, MapView, Walker};

/// Reads the head of a message: its tag, and a walker that stands at its first field.
pub fn open(payload: &[u8]) -> Result<(Tag, usize, Walker<'_>), DecodeError> {
    let mut walker = Walker::new(payload);
    let (signature, fields) = walker.struct_header()?;
    Ok((Tag(signature), fields, walker))
}

/// Reads a message that consists of one map (HELLO, LOGON, PULL, DISCARD).
pub fn only_map(payload: &[u8]) -> Result<MapView<'_>, DecodeError> {
    let (_, 1, walker) = open(payload)? else { return Err(DecodeError::WrongFieldCount) };
    last_map(walker)
}

/// RUN: statement, parameters, extra.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The statement's text.
    pub text: &'a str,
    /// The parameters' bytes (a map).
    pub parameters: &'a [u8],
    /// Bookmarks, database, mode, time-out, metadata, filters.
    pub extra: MapView<'a>,
    /// Bytes of the payload before `extra`.
    before_extra: &'a [u8],
}

impl<'a> Run<'a> {
    /// Reads a RUN's payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (Tag::RUN, 3, mut walker) = open(payload)? else { return Err(DecodeError::WrongFieldCount) };
        let text = walker.string()?;
        let parameters = walker.value()?;
        let (before_extra, rest) = payload.split_at(payload.len() - walker.rest().len());
        Ok(Self { text, parameters, extra: last_map(Walker::new(rest))?, before_extra })
    }

    /// Appends the payload with a changed `extra`; statement and parameters stay byte for byte.
    pub fn write_with(&self, edit: &MapEdit<'_>, out: &mut BytesMut) {
        out.put_slice(self.before_extra);
        edit.apply(&self.extra, out);
    }
}

/// BEGIN: extra.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// Bookmarks, database, mode, time-out, metadata, filters.
    pub extra: MapView<'a>,
}

impl<'a> Begin<'a> {
    /// Reads a BEGIN's payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self { extra: only_map(payload)? })
    }

    /// Appends the payload with a changed `extra`.
    pub fn write_with(&self, edit: &MapEdit<'_>, out: &mut BytesMut) {
        out.put_slice(&[0xB1, Tag::BEGIN.0]);
        edit.apply(&self.extra, out);
    }
}

/// ROUTE: routing context, bookmarks, and the database (a string in 4.3, a map from 4.4).
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The routing context; `address` in it is the one the client used.
    pub context: MapView<'a>,
    /// The database named in the third field, if any.
    pub database: Option<&'a str>,
}

impl<'a> Route<'a> {
    /// Reads a ROUTE's payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (Tag::ROUTE, 3, mut walker) = open(payload)? else { return Err(DecodeError::WrongFieldCount) };
        let context = MapView::parse(walker.value()?)?;
        walker.value()?;
        let extra = MapView::parse(walker.rest())?;
        Ok(Self { context, database: extra.string("db") })
    }
}

/// Reads the map that must be the last thing of a payload.
fn last_map(mut walker: Walker<'_>) -> Result<MapView<'_>, DecodeError> {
    let map = MapView::parse(walker.value()?)?;
    if walker.is_empty() { Ok(map) } else { Err(DecodeError::TrailingBytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packstream::{Value, encode};

    #[test]
    fn a_runs_extra_is_changed_and_the_rest_stays() {
        let mut payload = BytesMut::new();
        payload.put_slice(&[0xB3, 0x10]);
        encode::string("RETURN $x", &mut payload);
        Value::map([("x", Value::Uuid([1; 16]))]).encode(&mut payload);
        Value::map([("db", "neo4j".into())]).encode(&mut payload);
        let run = Run::parse(&payload).unwrap();
        assert_eq!((run.text, run.extra.string("db")), ("RETURN $x", Some("neo4j")));

        let mut edit = MapEdit::removing(&[]);
        edit.add("mode", |out| encode::string("r", out));
        let mut changed = BytesMut::new();
        run.write_with(&edit, &mut changed);
        let again = Run::parse(&changed).unwrap();
        assert_eq!(again.parameters, run.parameters);
        assert_eq!((again.extra.string("db"), again.extra.string("mode")), (Some("neo4j"), Some("r")));
    }

    #[test]
    fn wrong_shapes_are_named() {
        assert_eq!(Run::parse(&[0xB2, 0x10, 0x80, 0xA0]).map(|_| ()), Err(DecodeError::WrongFieldCount));
        assert_eq!(
            Run::parse(&[0xB3, 0x10, 0x80, 0xA0, 0xA0, 0xC0]).map(|_| ()),
            Err(DecodeError::TrailingBytes)
        );
        assert_eq!(only_map(&[0xB1, 0x01, 0x01]).map(|_| ()), Err(DecodeError::UnexpectedMarker(1)));
        assert_eq!(Route::parse(&[0xB3, 0x66, 0xA0, 0x90, 0xA0]).map(|r| r.database), Ok(None));
    }
}
