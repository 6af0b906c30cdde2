//! Decoded values: for tests, the demo server and procedures. Never on the relay path.

use bytes::{BufMut, BytesMut};

use super::walk::Walker;
use super::{MAX_DEPTH, UUID, encode};
use crate::error::DecodeError;

/// A PackStream value. Maps keep the order of the wire; structs keep their signature.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// null
    Null,
    /// A boolean.
    Boolean(bool),
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Float(f64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A string.
    String(String),
    /// A list.
    List(Vec<Self>),
    /// A map.
    Map(Vec<(String, Self)>),
    /// A struct: signature and fields.
    Struct(u8, Vec<Self>),
    /// A UUID (Bolt 6.1).
    Uuid([u8; 16]),
}

impl Value {
    /// Decodes exactly one value.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut walker = Walker::new(bytes);
        let value = Self::read(&mut walker)?;
        if walker.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes) }
    }

    /// Decodes the next value of `walker`.
    pub fn read(walker: &mut Walker<'_>) -> Result<Self, DecodeError> {
        // One walk first: sizes are then known to be honest, so nothing is reserved on a hostile count.
        let mut whole = Walker::new(walker.value()?);
        Self::read_nested(&mut whole, MAX_DEPTH)
    }

    fn read_nested(walker: &mut Walker<'_>, depth: usize) -> Result<Self, DecodeError> {
        let deeper = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
        Ok(match walker.marker()? {
            0xC0 => walker.value().map(|_| Self::Null)?,
            marker @ (0xC2 | 0xC3) => walker.value().map(|_| Self::Boolean(marker == 0xC3))?,
            0x00..=0x7F | 0xF0..=0xFF | 0xC8..=0xCB => Self::Integer(walker.integer()?),
            0xC1 => {
                let bits = walker.value()?.get(1..).and_then(<[u8]>::first_chunk::<8>);
                Self::Float(f64::from_be_bytes(*bits.ok_or(DecodeError::Truncated)?))
            }
            0x80..=0x8F | 0xD0..=0xD2 => Self::String(walker.string()?.to_owned()),
            0xCC..=0xCE => Self::Bytes(walker.bytes()?.to_vec()),
            0x90..=0x9F | 0xD4..=0xD6 => {
                let items = walker.list_header()?;
                Self::List((0..items).map(|_| Self::read_nested(walker, deeper)).collect::<Result<_, _>>()?)
            }
            0xA0..=0xAF | 0xD8..=0xDA => {
                let entries = walker.map_header()?;
                let entry = |_| Ok((walker.string()?.to_owned(), Self::read_nested(walker, deeper)?));
                Self::Map((0..entries).map(entry).collect::<Result<_, _>>()?)
            }
            0xB0..=0xBF => {
                let (signature, fields) = walker.struct_header()?;
                let fields = (0..fields).map(|_| Self::read_nested(walker, deeper));
                Self::Struct(signature, fields.collect::<Result<_, _>>()?)
            }
            UUID => {
                let raw = walker.value()?.get(1..).and_then(<[u8]>::first_chunk::<16>);
                Self::Uuid(*raw.ok_or(DecodeError::Truncated)?)
            }
            unknown => return Err(DecodeError::UnknownMarker(unknown)),
        })
    }

    /// Appends the value in its shortest form.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Null => encode::null(out),
            Self::Boolean(value) => encode::boolean(*value, out),
            Self::Integer(value) => encode::integer(*value, out),
            Self::Float(value) => encode::float(*value, out),
            Self::Bytes(value) => encode::bytes(value, out),
            Self::String(value) => encode::string(value, out),
            Self::List(items) => {
                encode::list_header(items.len(), out);
                items.iter().for_each(|item| item.encode(out));
            }
            Self::Map(entries) => {
                encode::map_header(entries.len(), out);
                for (key, value) in entries {
                    encode::string(key, out);
                    value.encode(out);
                }
            }
            Self::Struct(signature, fields) => {
                encode::struct_header(*signature, u8::try_from(fields.len()).unwrap_or(15), out);
                fields.iter().for_each(|field| field.encode(out));
            }
            Self::Uuid(value) => encode::uuid(*value, out),
        }
    }

    /// The encoded value on its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.to_vec()
    }

    /// A map from pairs.
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The string, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The integer, if this is one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<Vec<Self>> for Value {
    fn from(items: Vec<Self>) -> Self {
        Self::List(items)
    }
}

/// Appends a message: signature and fields in chunks.
pub fn put_message(signature: u8, fields: &[Value], out: &mut BytesMut) {
    crate::chunk::put_message(out, |out| {
        out.put_u8(0xB0 | u8::try_from(fields.len()).unwrap_or(15));
        out.put_u8(signature);
        fields.iter().for_each(|field| field.encode(out));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let value = Value::map([
            ("null", Value::Null),
            ("float", Value::Float(-0.5)),
            (
                "ints",
                Value::List(
                    [i64::MIN, -129, -17, -16, 127, 128, 40_000, i64::MAX].map(Value::Integer).to_vec(),
                ),
            ),
            ("bytes", Value::Bytes(vec![1; 300])),
            ("long", Value::String("é".repeat(40_000))),
            (
                "struct",
                Value::Struct(0x4E, vec![Value::Integer(1), Value::List(vec![]), Value::Uuid([3; 16])]),
            ),
        ]);
        assert_eq!(Value::decode(&value.to_bytes()), Ok(value));
    }

    #[test]
    fn hostile_nesting_is_refused_without_recursion() {
        let mut deep = vec![0x91; 200_000];
        deep.push(0xC0);
        assert_eq!(Value::decode(&deep), Err(DecodeError::TooDeep));
        assert_eq!(Value::decode(&[0xC0, 0xC0]), Err(DecodeError::TrailingBytes));
        assert_eq!(Value::decode(&[0x82, 0xFF, 0xFF]), Err(DecodeError::BadUtf8));
    }
}
