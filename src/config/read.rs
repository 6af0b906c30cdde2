//! Reads the tree into typed structs with serde; a fault knows its key and its place.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};

use super::tree::{Entry, Node, Origin, Value};

/// Why a tree could not be read into a struct.
#[derive(Debug)]
pub(super) struct Fault {
    /// The keys from the innermost to the outermost.
    pub(super) path: Vec<String>,
    /// Where; none = the tree as a whole.
    pub(super) origin: Option<Origin>,
    /// What is wrong.
    pub(super) kind: FaultKind,
}

/// What is wrong with a key or value.
#[derive(Debug)]
pub(super) enum FaultKind {
    /// The value cannot be used.
    Value(String),
    /// No such key in this section, which has these.
    UnknownKey(&'static [&'static str]),
    /// The section needs this key.
    MissingKey(&'static str),
}

impl Fault {
    fn value(message: impl fmt::Display) -> Self {
        Self { path: Vec::new(), origin: None, kind: FaultKind::Value(message.to_string()) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message)
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self { path: Vec::new(), origin: None, kind: FaultKind::UnknownKey(expected) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: Vec::new(), origin: None, kind: FaultKind::MissingKey(field) }
    }

    fn unknown_variant(variant: &str, _: &'static [&'static str]) -> Self {
        Self::value(format_args!("`{variant}` is not one of the choices"))
    }
}

impl<'de> Node {
    fn text(&'de self) -> Result<&'de str, Fault> {
        match &self.value {
            Value::Scalar(text) => Ok(text),
            Value::Null => Err(Fault::value("has no value")),
            Value::List(_) => Err(Fault::value("is a list, but takes one value")),
            Value::Map(_) => Err(Fault::value("is a section, but takes one value")),
        }
    }

    fn number<T: std::str::FromStr>(&'de self) -> Result<T, Fault> {
        let text = self.text()?.trim();
        let digits = text.replace('_', "");
        digits.parse().map_err(|_| match digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) {
            true if !digits.is_empty() => Fault::value(format_args!("{text} is out of range")),
            _ => Fault::value(format_args!("`{text}` is not a whole number")),
        })
    }
}

macro_rules! numbers {
    ($($method:ident = $visit:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            visitor.$visit(self.number()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(_) => self.deserialize_map(visitor),
            _ => visitor.visit_str(self.text()?),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text()?.trim().to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" => visitor.visit_bool(true),
            "false" | "off" | "no" => visitor.visit_bool(false),
            _ => Err(Fault::value(format_args!("`{}` is neither true nor false", self.text()?))),
        }
    }

    numbers! { deserialize_u64 = visit_u64, deserialize_i64 = visit_i64 }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.text()?.trim();
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(Fault::value(format_args!("`{text}` is not a number"))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if matches!(self.value, Value::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text: StrDeserializer<'de, Fault> = self.text()?.trim().into_deserializer();
        visitor.visit_enum(text)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_map(Entries { rest: &[], next: None }),
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries, next: None }),
            Value::List(_) => Err(Fault::value("is a list, but takes a section of `key: value` lines")),
            Value::Scalar(_) => Err(Fault::value("is one value, but takes a section of `key: value` lines")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_seq(Items(&[])),
            Value::List(items) => visitor.visit_seq(Items(items)),
            Value::Scalar(_) => Err(Fault::value("is one value, but takes a list")),
            Value::Map(_) => Err(Fault::value("is a section, but takes a list")),
        }
    }

    numbers! {
        deserialize_u8 = visit_u8, deserialize_u16 = visit_u16, deserialize_u32 = visit_u32,
        deserialize_i8 = visit_i8, deserialize_i16 = visit_i16, deserialize_i32 = visit_i32
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The entries of a list; a fault learns here its number and its place.
struct Items<'de>(&'de [Entry]);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((entry, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;
        seed.deserialize(&entry.node).map(Some).map_err(|mut fault| {
            fault.path.push(entry.key.clone());
            fault.origin.get_or_insert_with(|| entry.node.origin.clone());
            fault
        })
    }
}

/// The entries of a section; a fault learns here its key and its place.
struct Entries<'de> {
    rest: &'de [Entry],
    next: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((entry, rest)) = self.rest.split_first() else { return Ok(None) };
        (self.rest, self.next) = (rest, Some(entry));
        let key: StrDeserializer<'de, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mut fault| {
            fault.path.push(entry.key.clone());
            fault.origin = Some(entry.origin.clone());
            fault
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.next.take() else {
            return Err(Fault::value("invariant: a value follows its key"));
        };
        seed.deserialize(&entry.node).map_err(|mut fault| {
            fault.path.push(entry.key.clone());
            fault.origin.get_or_insert_with(|| match fault.kind {
                FaultKind::MissingKey(_) => entry.origin.clone(),
                _ => entry.node.origin.clone(),
            });
            fault
        })
    }
}
