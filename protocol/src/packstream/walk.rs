//! Skips PackStream values by bytes; stops, never guesses, at an unknown marker.  [hot path]

use super::UUID;
use crate::error::DecodeError;

/// A cursor over PackStream bytes.
#[derive(Clone, Copy, Debug)]
pub struct Walker<'a> {
    rest: &'a [u8],
}

/// What a marker announces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// Bytes of the marker and its length field (and a struct's signature).
    pub(super) head: usize,
    /// Bytes that follow.
    pub(super) bytes: usize,
    /// Values that follow.
    pub(super) values: usize,
}

impl<'a> Walker<'a> {
    /// Walks over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been walked over yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True at the end.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next marker.
    pub fn marker(&self) -> Result<u8, DecodeError> {
        self.rest.first().copied().ok_or(DecodeError::Truncated)
    }

    /// Steps over one value, however deep, and gives its bytes.
    pub fn value(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.rest;
        let mut at = 0;
        let mut open = 1usize;
        while open > 0 {
            let rest = start.get(at..).unwrap_or_default();
            let head = head(rest)?;
            at = at.checked_add(head.head + head.bytes).ok_or(DecodeError::Truncated)?;
            open = (open - 1).checked_add(head.values).ok_or(DecodeError::Truncated)?;
            // Each value has at least one byte, so a hostile count ends here and not after a long walk.
            if start.len() < at || start.len() - at < open {
                return Err(DecodeError::Truncated);
            }
        }
        let (value, rest) = start.split_at(at);
        self.rest = rest;
        Ok(value)
    }

    /// Steps into a map and gives the number of its entries.
    pub fn map_header(&mut self) -> Result<usize, DecodeError> {
        let marker = self.marker()?;
        if !matches!(marker, 0xA0..=0xAF | 0xD8..=0xDA) {
            return Err(DecodeError::UnexpectedMarker(marker));
        }
        let head = self.step()?;
        Ok(head.values / 2)
    }

    /// The next values, if there are so many and all of them are floats; otherwise it stays where it is.
    pub fn floats(&mut self, count: usize) -> Option<impl Iterator<Item = f64> + use<'a>> {
        let (values, rest) = self.rest.split_at_checked(count.checked_mul(9)?)?;
        let (values, _) = values.as_chunks::<9>();
        if values.iter().any(|[marker, ..]| *marker != 0xC1) {
            return None;
        }
        self.rest = rest;
        Some(values.iter().map(|[_, number @ ..]| f64::from_be_bytes(*number)))
    }

    /// Steps into a list and gives the number of its items.
    pub fn list_header(&mut self) -> Result<usize, DecodeError> {
        let marker = self.marker()?;
        if !matches!(marker, 0x90..=0x9F | 0xD4..=0xD6) {
            return Err(DecodeError::UnexpectedMarker(marker));
        }
        Ok(self.step()?.values)
    }

    /// Steps into a struct and gives its signature and the number of its fields.
    pub fn struct_header(&mut self) -> Result<(u8, usize), DecodeError> {
        let marker = self.marker()?;
        if !matches!(marker, 0xB0..=0xBF) {
            return Err(DecodeError::UnexpectedMarker(marker));
        }
        let signature = *self.rest.get(1).ok_or(DecodeError::Truncated)?;
        Ok((signature, self.step()?.values))
    }

    /// Reads a string.
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let marker = self.marker()?;
        if !matches!(marker, 0x80..=0x8F | 0xD0..=0xD2) {
            return Err(DecodeError::UnexpectedMarker(marker));
        }
        std::str::from_utf8(self.content()?).map_err(|_| DecodeError::BadUtf8)
    }

    /// Reads bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let marker = self.marker()?;
        if !matches!(marker, 0xCC..=0xCE) {
            return Err(DecodeError::UnexpectedMarker(marker));
        }
        self.content()
    }

    /// Reads an integer of any width.
    pub fn integer(&mut self) -> Result<i64, DecodeError> {
        let marker = self.marker()?;
        if let 0x00..=0x7F | 0xF0..=0xFF = marker {
            self.step()?;
            return Ok(i64::from(i8::from_be_bytes([marker])));
        }
        if !matches!(marker, 0xC8..=0xCB) {
            return Err(DecodeError::UnexpectedMarker(marker));
        }
        let content = self.content()?;
        let negative = content.first().is_some_and(|b| b & 0x80 != 0);
        let mut wide = if negative { [0xFF; 8] } else { [0; 8] };
        if let Some(low) = wide.get_mut(8 - content.len().min(8)..) {
            low.copy_from_slice(content);
        }
        Ok(i64::from_be_bytes(wide))
    }

    /// Steps over one marker with what belongs to it, but not over the values in it.
    fn step(&mut self) -> Result<Head, DecodeError> {
        let head = head(self.rest)?;
        self.rest = self.rest.get(head.head + head.bytes..).ok_or(DecodeError::Truncated)?;
        Ok(head)
    }

    /// Steps over a value without children and gives the bytes after its head.
    fn content(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.rest;
        let head = self.step()?;
        start.get(head.head..head.head + head.bytes).ok_or(DecodeError::Truncated)
    }
}

/// Reads the marker at the start of `rest`.
#[inline]
pub(super) fn head(rest: &[u8]) -> Result<Head, DecodeError> {
    let marker = *rest.first().ok_or(DecodeError::Truncated)?;
    let low = usize::from(marker & 0x0F);
    let length = |width: usize| -> Result<usize, DecodeError> {
        let field = rest.get(1..1 + width).ok_or(DecodeError::Truncated)?;
        Ok(field.iter().fold(0usize, |all, byte| all << 8 | usize::from(*byte)))
    };
    let plain = |bytes| Head { head: 1, bytes, values: 0 };
    let sized = |width: usize, bytes, values| Head { head: 1 + width, bytes, values };
    Ok(match marker {
        0x00..=0x7F | 0xF0..=0xFF | 0xC0 | 0xC2 | 0xC3 => plain(0),
        0x80..=0x8F => plain(low),
        0x90..=0x9F => sized(0, 0, low),
        0xA0..=0xAF => sized(0, 0, 2 * low),
        0xB0..=0xBF => sized(1, 0, low),
        0xC1 | 0xCB => plain(8),
        0xC8 => plain(1),
        0xC9 => plain(2),
        0xCA => plain(4),
        0xCC | 0xD0 => sized(1, length(1)?, 0),
        0xCD | 0xD1 => sized(2, length(2)?, 0),
        0xCE | 0xD2 => sized(4, length(4)?, 0),
        0xD4 => sized(1, 0, length(1)?),
        0xD5 => sized(2, 0, length(2)?),
        0xD6 => sized(4, 0, length(4)?),
        0xD8 => sized(1, 0, 2 * length(1)?),
        0xD9 => sized(2, 0, 2 * length(2)?),
        0xDA => sized(4, 0, length(4)?.saturating_mul(2)),
        UUID => plain(16),
        unknown => return Err(DecodeError::UnknownMarker(unknown)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_marker_is_stepped_over_or_named() {
        let mut unknown = Vec::new();
        for marker in 0..=255u8 {
            let mut bytes = vec![marker];
            bytes.extend([0; 40]);
            match Walker::new(&bytes).value() {
                Ok(value) => assert!(!value.is_empty()),
                Err(DecodeError::UnknownMarker(m)) => unknown.push(m),
                Err(error) => panic!("{marker:#x}: {error}"),
            }
        }
        let expected: Vec<u8> =
            (0xC4..=0xC7).chain([0xCF, 0xD3, 0xD7]).chain(0xDB..=0xDF).chain(0xE1..=0xEF).collect();
        assert_eq!(unknown, expected);
    }

    #[test]
    fn floats_are_taken_together_or_not_at_all() {
        let bytes = [&[0xC1][..], &1.5f64.to_be_bytes(), &[0xC1], &(-2.0f64).to_be_bytes(), &[7]].concat();
        let mut walker = Walker::new(&bytes);
        for count in [3, 4, usize::MAX] {
            assert!(walker.floats(count).is_none() && walker.rest() == bytes, "{count}");
        }
        let two = walker.floats(2).map(|floats| floats.collect::<Vec<_>>());
        assert_eq!((two, walker.rest()), (Some(vec![1.5, -2.0]), &[7][..]));
        assert_eq!(walker.floats(0).map(Iterator::count), Some(0));
    }

    #[test]
    fn integers_of_every_width_are_read() {
        let table: &[(&[u8], i64)] = &[
            (&[0x05], 5),
            (&[0xF0], -16),
            (&[0xC8, 0x80], -128),
            (&[0xC9, 0x00, 0x05], 5),
            (&[0xCA, 0xFF, 0xFF, 0xFF, 0xFE], -2),
            (&[0xCB, 0, 0, 0, 0, 0, 0, 0, 5], 5),
            (&[0xCB, 0x80, 0, 0, 0, 0, 0, 0, 0], i64::MIN),
        ];
        for (bytes, expected) in table {
            assert_eq!(Walker::new(bytes).integer(), Ok(*expected));
        }
    }

    #[test]
    fn hostile_sizes_and_nesting_end_at_once() {
        assert_eq!(Walker::new(&[0xD6, 0xFF, 0xFF, 0xFF, 0xFF, 1]).value(), Err(DecodeError::Truncated));
        assert_eq!(Walker::new(&[0xDA, 0xFF, 0xFF, 0xFF, 0xFF, 1]).value(), Err(DecodeError::Truncated));
        assert_eq!(Walker::new(&[0xCE, 0xFF, 0xFF, 0xFF, 0xFF, 1]).value(), Err(DecodeError::Truncated));
        let mut deep = vec![0x91; 1_000_000];
        assert_eq!(Walker::new(&deep).value(), Err(DecodeError::Truncated));
        deep.push(0xC0);
        assert_eq!(Walker::new(&deep).value().map(<[u8]>::len), Ok(1_000_001));
    }

    #[test]
    fn a_uuid_and_a_vector_are_one_value() {
        let mut uuid = vec![0xE0];
        uuid.extend([9; 16]);
        uuid.push(0xC0);
        let mut walker = Walker::new(&uuid);
        assert_eq!(walker.value().map(<[u8]>::len), Ok(17));
        assert_eq!(walker.rest(), [0xC0]);
        let vector = [0xB2, 0x56, 0xCC, 1, 0xC6, 0xCC, 4, 0, 0, 0, 0];
        assert_eq!(Walker::new(&vector).value().map(<[u8]>::len), Ok(11));
    }
}
