//! Messages in chunks: finding where one ends, reading its payload, writing one.
//!
//! A chunk is a big-endian `u16` length and that many bytes; a zero length ends the message, or, between messages, is a NOOP.

use bytes::{BufMut, BytesMut};

use crate::message::tag::Tag;

/// The largest chunk.
pub const MAX_CHUNK: usize = 0xFFFF;
/// A NOOP; the same two bytes end a message.
pub const NOOP: [u8; 2] = [0, 0];

/// What stands at the start of a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// A NOOP: two bytes to drop.
    Noop,
    /// A whole message.
    Message(Extent),
    /// The beginning of a message, or nothing at all.
    Partial,
}

/// The size of one message.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extent {
    /// Bytes on the wire, chunk headers and end mark included.
    pub wire: usize,
    /// Bytes of payload.
    pub payload: usize,
    /// Chunks with content.
    pub chunks: usize,
}

/// Finds the end of the message at the start of a buffer and remembers how far it has looked,
/// so that a message that trickles in is looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageScanner {
    seen: Extent,
}

impl MessageScanner {
    /// Looks on. `buf` must begin where it began at the last call that gave `Partial`.
    pub fn scan(&mut self, buf: &[u8]) -> Found {
        debug_assert!(self.seen.wire == 0 || self.seen.chunks > 0, "a message is begun by a chunk");
        while let Some(header) = buf.get(self.seen.wire..).and_then(|rest| rest.first_chunk::<2>()) {
            let length = usize::from(u16::from_be_bytes(*header));
            if length == 0 {
                let mut seen = std::mem::take(&mut self.seen);
                if seen.chunks == 0 {
                    return Found::Noop;
                }
                seen.wire += 2;
                return Found::Message(seen);
            }
            if buf.len() < self.seen.wire + 2 + length {
                break;
            }
            self.seen.wire += 2 + length;
            self.seen.payload += length;
            self.seen.chunks += 1;
        }
        Found::Partial
    }

    /// The payload size that the message at the start of `buf` has announced so far: its chunks and the header of the next one.
    pub fn announced(&self, buf: &[u8]) -> usize {
        let next = buf.get(self.seen.wire..).and_then(|rest| rest.first_chunk::<2>());
        self.seen.payload + next.map_or(0, |header| usize::from(u16::from_be_bytes(*header)))
    }

    /// Forgets what was seen, for a message that is no longer waited for.
    pub fn reset(&mut self) {
        self.seen = Extent::default();
    }
}

/// The signature of the message at the start of `buf`, as soon as its first two payload bytes are there.
pub fn peek_tag(buf: &[u8]) -> Option<Tag> {
    let mut payload = Chunks { rest: buf }.flatten();
    let (_marker, signature) = (payload.next()?, payload.next()?);
    Some(Tag(*signature))
}

/// The payload of the whole message at the start of `wire`: borrowed from it when it is one chunk, else joined into `scratch`.
pub fn payload<'a>(wire: &'a [u8], extent: Extent, scratch: &'a mut BytesMut) -> &'a [u8] {
    if extent.chunks == 1 {
        return wire.get(2..2 + extent.payload).unwrap_or_default();
    }
    scratch.clear();
    scratch.reserve(extent.payload);
    for chunk in (Chunks { rest: wire.get(..extent.wire).unwrap_or_default() }) {
        scratch.put_slice(chunk);
    }
    scratch
}

/// The chunks of one message; ends at the end mark or where bytes are missing (the last may be cut short).
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (header, rest) = self.rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*header));
        if length == 0 {
            self.rest = &[];
            return None;
        }
        let (chunk, rest) = rest.split_at(length.min(rest.len()));
        self.rest = rest;
        Some(chunk)
    }
}

/// Appends one message whose payload `write` produces.
pub fn put_message(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&NOOP);
    write(out);
    let length = out.len() - start - 2;
    debug_assert!(length > 0, "a message has at least a marker");
    match u16::try_from(length) {
        Ok(length) => {
            if let Some(header) = out.get_mut(start..start + 2) {
                header.copy_from_slice(&length.to_be_bytes());
            }
        }
        Err(_) => {
            let payload = out.split_off(start);
            put_chunks(out, payload.get(2..).unwrap_or_default());
        }
    }
    out.put_slice(&NOOP);
}

/// Appends a payload as chunks, without the end mark.
fn put_chunks(out: &mut BytesMut, payload: &[u8]) {
    for chunk in payload.chunks(MAX_CHUNK) {
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        out.put_u16(length);
        out.put_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> (BytesMut, Vec<u8>) {
        let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let mut wire = BytesMut::new();
        put_message(&mut wire, |out| out.put_slice(&payload));
        (wire, payload)
    }

    #[test]
    fn messages_of_every_size_come_back() {
        for size in [1, 2, 65_534, 65_535, 65_536, 131_070, 131_071, 300_000] {
            let (wire, expected) = message(size);
            let Found::Message(extent) = MessageScanner::default().scan(&wire) else { panic!("{size}") };
            assert_eq!(extent.wire, wire.len());
            assert_eq!(extent.chunks, size.div_ceil(MAX_CHUNK));
            assert_eq!(payload(&wire, extent, &mut BytesMut::new()), expected);
        }
    }

    #[test]
    fn a_message_that_trickles_in_is_found_at_its_last_byte() {
        let (wire, _) = message(70_000);
        let mut scanner = MessageScanner::default();
        for end in (0..wire.len()).step_by(997) {
            assert_eq!(scanner.scan(&wire[..end]), Found::Partial);
        }
        assert_eq!(scanner.scan(&wire[..wire.len() - 1]), Found::Partial);
        assert!(matches!(scanner.scan(&wire), Found::Message(_)));
        assert_eq!(scanner.scan(&NOOP), Found::Noop);
    }

    #[test]
    fn the_tag_is_seen_across_chunks() {
        assert_eq!(peek_tag(&[0, 2, 0xB0, 0x0F, 0, 0]), Some(Tag::RESET));
        assert_eq!(peek_tag(&[0, 1, 0xB0, 0, 1, 0x0F]), Some(Tag::RESET));
        assert_eq!(peek_tag(&[0, 1, 0xB0, 0]), None);
        assert_eq!(peek_tag(&[0, 1, 0xB0, 0, 0]), None);
    }
}
