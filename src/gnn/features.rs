//! Numbers made of nodes' properties: read into columns without a value of their own for each, then one matrix.

use std::collections::HashMap;

use bolt_wire::DecodeError;
use bolt_wire::packstream::{Value, Walker, encode};
use bytes::BytesMut;
use foldhash::fast::RandomState;

use super::rows::put_vector;
use super::settings::{Settings, expected, strings};
use super::{Trouble, fetch};

/// Categories of one property, one column each.
const CATEGORIES: usize = 256;
/// Most columns of one property.
const WIDEST: usize = 65_536;
/// Columns of a hashed property, where nobody says.
const HASHED: usize = 32;

/// How strings become numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Encoding {
    /// They are none: the property has numbers.
    Plain,
    /// A column for each word.
    OneHot,
    /// So many columns, chosen by a hash of the word.
    Hash(usize),
}

/// One property, and how it becomes numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Feature {
    pub(crate) property: String,
    pub(crate) encoding: Encoding,
    /// What stands for a missing value; none = an error.
    pub(crate) default: Option<f32>,
}

impl Feature {
    /// Reads `featureProperties`: names, or maps with `property`, `encoding`, `size`, `defaultValue`.
    pub(crate) fn list(key: &'static str, value: Value, fallback: Option<f32>) -> Result<Vec<Self>, Trouble> {
        let items = match value {
            Value::List(items) => items,
            one @ (Value::String(_) | Value::Map(_)) => vec![one],
            other => return Err(expected(key, "LIST<STRING OR MAP>", &other)),
        };
        let features: Vec<Self> =
            items.into_iter().map(|item| Self::read(key, item, fallback)).collect::<Result<_, _>>()?;
        for (at, feature) in features.iter().enumerate() {
            if features.iter().take(at).any(|other| other.property == feature.property) {
                return Err(Trouble::wrong(format!(
                    "`{key}` names the property `{}` twice.",
                    feature.property
                )));
            }
        }
        Ok(features)
    }

    fn read(key: &'static str, item: Value, fallback: Option<f32>) -> Result<Self, Trouble> {
        let mut map = match item {
            Value::String(property) => {
                return Ok(Self { property, encoding: Encoding::Plain, default: fallback });
            }
            Value::Map(_) => Settings::of(Some(item))?,
            other => return Err(expected(key, "STRING OR MAP", &other)),
        };
        let property = map.string("property")?.ok_or_else(|| {
            Trouble::wrong(format!(
                "`{key}` has a map without `property`: write {{property: 'name', encoding: 'onehot'}}."
            ))
        })?;
        let word = map.word("encoding", &["none", "onehot", "hash"])?;
        let size = map.size("size", HASHED, WIDEST)?;
        let default = match map.take("defaultValue") {
            None => fallback,
            Some(Value::Integer(number)) => Some(number as f32),
            Some(Value::Float(number)) if number.is_finite() => Some(number as f32),
            Some(other) => return Err(expected("defaultValue", "FLOAT", &other)),
        };
        map.done()?;
        let encoding = match word {
            Some("onehot") => Encoding::OneHot,
            Some("hash") => Encoding::Hash(size),
            _ => Encoding::Plain,
        };
        Ok(Self { property, encoding, default })
    }
}

/// A model's own list of feature properties, all plain.
pub(crate) fn plain(properties: &[String], fallback: Option<f32>) -> Vec<Feature> {
    let feature = |property: &String| Feature {
        property: property.clone(),
        encoding: Encoding::Plain,
        default: fallback,
    };
    properties.iter().map(feature).collect()
}

/// The values of one property, as they come.
pub(crate) struct Column {
    pub(super) feature: Feature,
    /// Known once a value has come.
    pub(super) width: Option<usize>,
    /// Row by row, `width` each.
    pub(super) values: Vec<f32>,
    /// Rows so far.
    pub(super) rows: usize,
    /// Rows without a value.
    pub(super) missing: Vec<u32>,
    /// Words, and which one each row has.
    pub(super) words: HashMap<Box<str>, u32, RandomState>,
    pub(super) hot: Vec<(u32, u32)>,
}

impl Column {
    pub(crate) fn new(feature: Feature) -> Self {
        let width = match feature.encoding {
            Encoding::Plain => None,
            Encoding::OneHot => Some(0),
            Encoding::Hash(size) => Some(size),
        };
        Self {
            feature,
            width,
            values: Vec::new(),
            rows: 0,
            missing: Vec::new(),
            words: HashMap::default(),
            hot: Vec::new(),
        }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.values.capacity()
            + 4 * self.missing.capacity()
            + 8 * self.hot.capacity()
            + 64 * self.words.len()
    }

    /// Takes the next node's value.
    pub(crate) fn push(&mut self, walker: &mut Walker<'_>, node: i64) -> Result<(), Trouble> {
        let row = u32::try_from(self.rows).map_err(|_| Trouble::wrong("There are more than 2^32 nodes."))?;
        self.rows += 1;
        let marker = walker.marker().map_err(broken)?;
        if marker == 0xC0 {
            walker.value().map_err(broken)?;
            self.missing.push(row);
            if self.feature.encoding == Encoding::Plain
                && let Some(width) = self.width
            {
                self.fill(width);
            }
            return Ok(());
        }
        if self.feature.encoding != Encoding::Plain {
            return self.push_words(walker, row, node);
        }
        let before = self.values.len();
        // Rows before the first value are filled once their width is known.
        let pending = if self.width.is_none() { self.rows - 1 } else { 0 };
        match marker {
            0x90..=0x9F | 0xD4..=0xD6 => {
                let items = walker.list_header().map_err(broken)?;
                match walker.floats(items) {
                    Some(floats) => {
                        for float in floats {
                            let number = self.finite(float as f32, node)?;
                            self.values.push(number);
                        }
                    }
                    None => {
                        for _ in 0..items {
                            let number = self.number(walker, node)?;
                            self.values.push(number);
                        }
                    }
                }
            }
            0xB2 => self.push_vector(walker, node)?,
            _ => {
                let number = self.number(walker, node)?;
                self.values.push(number);
            }
        }
        let width = self.values.len() - before;
        self.check_width(width, node)?;
        if self.width.is_none() {
            self.width = Some(width);
            let filler = self.feature.default.unwrap_or_default();
            let first = std::mem::take(&mut self.values);
            self.values = vec![filler; pending * width];
            self.values.extend(first);
        }
        Ok(())
    }

    fn check_width(&self, width: usize, node: i64) -> Result<(), Trouble> {
        let property = &self.feature.property;
        if width == 0 || width > WIDEST {
            return Err(Trouble::wrong(format!(
                "The property `{property}` of node {node} has {width} numbers; a feature has 1 to {WIDEST}."
            )));
        }
        match self.width {
            Some(known) if known != width => Err(Trouble::wrong(format!(
                "The property `{property}` has {known} numbers on other nodes and {width} on node {node}; all must have as many."
            ))),
            _ => Ok(()),
        }
    }

    fn fill(&mut self, width: usize) {
        let filler = self.feature.default.unwrap_or_default();
        self.values.resize(self.values.len() + width, filler);
    }

    /// One number, whatever its type.
    fn number(&self, walker: &mut Walker<'_>, node: i64) -> Result<f32, Trouble> {
        let number = match walker.marker().map_err(broken)? {
            0xC1 => {
                let bits = walker.value().map_err(broken)?.get(1..).and_then(<[u8]>::first_chunk::<8>);
                f64::from_be_bytes(*bits.ok_or_else(|| broken(DecodeError::Truncated))?) as f32
            }
            0x00..=0x7F | 0xF0..=0xFF | 0xC8..=0xCB => walker.integer().map_err(broken)? as f32,
            marker @ (0xC2 | 0xC3) => {
                walker.value().map_err(broken)?;
                f32::from(u8::from(marker == 0xC3))
            }
            marker => return Err(self.not_a_number(marker, node)),
        };
        self.finite(number, node)
    }

    fn finite(&self, number: f32, node: i64) -> Result<f32, Trouble> {
        if number.is_finite() {
            return Ok(number);
        }
        Err(Trouble::wrong(format!(
            "The property `{}` of node {node} is {number}; features must be finite numbers.",
            self.feature.property
        )))
    }

    fn not_a_number(&self, marker: u8, node: i64) -> Trouble {
        let property = &self.feature.property;
        Trouble::wrong(match marker {
            0x80..=0x8F | 0xD0..=0xD2 => format!(
                "The property `{property}` of node {node} is a STRING: give it as {{property: '{property}', encoding: 'onehot'}}, or with \
                 encoding 'hash' and a size."
            ),
            0xC0 => format!("The property `{property}` of node {node} is a list with null in it."),
            _ => format!(
                "The property `{property}` of node {node} is of a type that is no feature: numbers, booleans, lists of them, vectors, and \
                 strings with an encoding are."
            ),
        })
    }

    /// A Bolt 6 vector: the type of its numbers, and their bytes.
    fn push_vector(&mut self, walker: &mut Walker<'_>, node: i64) -> Result<(), Trouble> {
        let (signature, fields) = walker.struct_header().map_err(broken)?;
        if signature != 0x56 || fields != 2 {
            return Err(self.not_a_number(0xB2, node));
        }
        let kind = walker.bytes().map_err(broken)?.first().copied().unwrap_or_default();
        let data = walker.bytes().map_err(broken)?;
        fn each<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
        }
        let numbers = match kind {
            0xC6 => each(data, f32::from_be_bytes),
            0xC1 => each(data, |bytes| f64::from_be_bytes(bytes) as f32),
            0xC8 => each(data, |bytes| f32::from(i8::from_be_bytes(bytes))),
            0xC9 => each(data, |bytes| f32::from(i16::from_be_bytes(bytes))),
            0xCA => each(data, |bytes| i32::from_be_bytes(bytes) as f32),
            0xCB => each(data, |bytes| i64::from_be_bytes(bytes) as f32),
            other => return Err(self.not_a_number(other, node)),
        };
        for number in numbers {
            let number = self.finite(number, node)?;
            self.values.push(number);
        }
        Ok(())
    }

    /// A word, or a list of words.
    fn push_words(&mut self, walker: &mut Walker<'_>, row: u32, node: i64) -> Result<(), Trouble> {
        let many = matches!(walker.marker().map_err(broken)?, 0x90..=0x9F | 0xD4..=0xD6);
        let count = if many { walker.list_header().map_err(broken)? } else { 1 };
        for _ in 0..count {
            let value = walker.value().map_err(broken)?;
            let shown;
            let word = match Walker::new(value).string() {
                Ok(word) => word,
                // Numbers and booleans can be categories too.
                Err(_) => match Value::decode(value) {
                    Ok(Value::Integer(number)) => {
                        shown = number.to_string();
                        &shown
                    }
                    Ok(Value::Boolean(is)) => {
                        shown = is.to_string();
                        &shown
                    }
                    _ => return Err(self.no_category(node)),
                },
            };
            let column = match self.feature.encoding {
                Encoding::Hash(size) => hashed(word, size),
                _ => self.category(word)?,
            };
            self.hot.push((row, column));
        }
        Ok(())
    }

    fn no_category(&self, node: i64) -> Trouble {
        Trouble::wrong(format!(
            "The property `{}` of node {node} is of a type that is no category: strings, whole numbers and booleans are, and lists of them.",
            self.feature.property
        ))
    }

    fn category(&mut self, word: &str) -> Result<u32, Trouble> {
        if let Some(column) = self.words.get(word) {
            return Ok(*column);
        }
        if self.words.len() == CATEGORIES {
            return Err(Trouble::wrong(format!(
                "The property `{0}` has more than {CATEGORIES} different values, too many for a column each: give it as \
                 {{property: '{0}', encoding: 'hash', size: {HASHED}}}.",
                self.feature.property
            )));
        }
        let column = u32::try_from(self.words.len()).unwrap_or(u32::MAX);
        self.words.insert(word.into(), column);
        Ok(column)
    }
}

/// The same list of values with less than half of the bytes: lists of floats become vectors of what would be made of them anyway.
pub(crate) fn compact(values: &[u8], out: &mut BytesMut) -> Result<(), Trouble> {
    out.clear();
    let mut walker = Walker::new(values);
    let count = walker.list_header().map_err(broken)?;
    encode::list_header(count, out);
    for _ in 0..count {
        let value = walker.value().map_err(broken)?;
        let mut items = Walker::new(value);
        let floats =
            items.list_header().ok().filter(|count| *count > 0).and_then(|count| items.floats(count));
        match floats {
            Some(floats) => put_vector(floats.map(|float| float as f32), out),
            None => out.extend_from_slice(value),
        }
    }
    Ok(())
}

/// Which of so many columns a word gets: the same one everywhere and for good.
fn hashed(word: &str, size: usize) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(word.as_bytes()).as_bytes();
    u32::from_be_bytes([a, b, c, d]) % u32::try_from(size).unwrap_or(u32::MAX).max(1)
}

fn broken(error: DecodeError) -> Trouble {
    fetch::lost(&error.to_string())
}

/// The names of properties in `nodeProperties`, which GDS calls so: strings, or maps as in `featureProperties`.
pub(crate) fn properties(
    key: &'static str,
    value: Value,
    fallback: Option<f32>,
) -> Result<Vec<Feature>, Trouble> {
    match value {
        Value::List(_) | Value::Map(_) => Feature::list(key, value, fallback),
        other => Ok(plain(&strings(key, other)?, fallback)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gnn::matrix::{Features, assemble};

    fn column(item: Value, fallback: Option<f32>, values: &[Value]) -> Result<Features, Trouble> {
        let feature = Feature::list("featureProperties", Value::List(vec![item]), fallback)?;
        let mut column = Column::new(feature.into_iter().next().unwrap());
        for (node, value) in values.iter().enumerate() {
            let bytes = value.to_bytes();
            let mut walker = Walker::new(&bytes);
            column.push(&mut walker, i64::try_from(node).unwrap())?;
            assert!(walker.is_empty());
        }
        let order: Vec<u32> = (0..u32::try_from(values.len()).unwrap()).collect();
        assemble(vec![column], values.len(), &order)
    }

    fn words(result: Result<Features, Trouble>) -> String {
        match result.map(|features| features.names) {
            Err(Trouble::Wrong(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    fn list(numbers: &[f64]) -> Value {
        Value::List(numbers.iter().map(|number| Value::Float(*number)).collect())
    }

    #[test]
    fn numbers_booleans_lists_and_vectors_become_rows() {
        let features =
            column("x".into(), Some(9.0), &[Value::Null, Value::Integer(-3), true.into(), Value::Float(0.5)]);
        let features = features.unwrap();
        assert_eq!((features.matrix.values(), features.missing), (&[9.0, -3.0, 1.0, 0.5][..], 1));
        let vector = |kind: u8, data: &[u8]| {
            Value::Struct(0x56, vec![Value::Bytes(vec![kind]), Value::Bytes(data.to_vec())])
        };
        let values = [
            Value::Null,
            list(&[1.0, 2.0]),
            vector(0xC6, &[1.5f32.to_be_bytes(), (-2.0f32).to_be_bytes()].concat()),
            vector(0xC9, &[0, 7, 0xFF, 0xFF]),
        ];
        let features = column("v".into(), Some(0.0), &values).unwrap();
        assert_eq!(features.names, ["v[0]", "v[1]"]);
        assert_eq!(features.matrix.values(), [0.0, 0.0, 1.0, 2.0, 1.5, -2.0, 7.0, -1.0]);
    }

    #[test]
    fn what_is_compact_gives_the_same_rows() {
        let property = |name: &str| Feature::list("f", name.into(), Some(0.0)).unwrap().remove(0);
        for values in [
            vec![list(&[0.1, -7.25, 1e-30]), Value::Integer(3)],
            vec![Value::List(vec![1.into(), Value::Float(0.5)]), Value::Null],
            vec![list(&[3.0]), true.into()],
        ] {
            let bytes = Value::List(values).to_bytes();
            let mut short = BytesMut::from(&b"what was there before"[..]);
            compact(&bytes, &mut short).unwrap();
            let rows = [bytes.as_ref(), short.as_ref()].map(|bytes| {
                let (mut walker, mut columns) =
                    (Walker::new(bytes), [property("a"), property("b")].map(Column::new));
                assert_eq!(walker.list_header(), Ok(2));
                columns.iter_mut().for_each(|column| column.push(&mut walker, 1).unwrap());
                assert!(walker.is_empty());
                columns.map(|column| (column.values, column.missing, column.width))
            });
            assert_eq!(rows[0], rows[1]);
        }
        let mut short = BytesMut::new();
        compact(&Value::List(vec![list(&[0.5; 64])]).to_bytes(), &mut short).unwrap();
        assert!(short.len() < 270, "{}", short.len());
    }

    #[test]
    fn words_become_columns_in_alphabetical_order() {
        let map = |encoding: &str| Value::map([("property", "c".into()), ("encoding", encoding.into())]);
        let values =
            ["red".into(), "blue".into(), Value::Null, Value::List(vec!["blue".into(), "red".into()])];
        let features = column(map("onehot"), Some(0.0), &values).unwrap();
        assert_eq!(features.names, ["c=blue", "c=red"]);
        assert_eq!(features.matrix.values(), [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        let again = column(map("hash"), Some(0.0), &values).unwrap();
        assert_eq!(again.matrix.columns(), HASHED);
        assert_eq!(again.matrix.row(0).iter().sum::<f32>(), 1.0);
    }

    #[test]
    fn what_is_no_feature_is_named_with_its_node() {
        for (item, fallback, values, expected) in [
            (Value::from("x"), Some(0.0), vec![Value::Float(f64::NAN)], "`x` of node 0 is NaN"),
            ("x".into(), Some(0.0), vec![Value::Float(1e300)], "is inf"),
            ("x".into(), Some(0.0), vec!["a".into()], "encoding: 'onehot'"),
            (
                "x".into(),
                Some(0.0),
                vec![list(&[1.0]), list(&[1.0, 2.0])],
                "has 1 numbers on other nodes and 2 on node 1",
            ),
            ("x".into(), Some(0.0), vec![list(&[])], "has 0 numbers"),
            ("x".into(), Some(0.0), vec![Value::Null, Value::Null], "on none of the 2 nodes"),
            ("x".into(), None, vec![Value::Null, Value::Integer(1)], "missing on 1 of 2 nodes"),
            ("x".into(), Some(0.0), vec![Value::Map(Vec::new())], "no feature"),
        ] {
            let said = words(column(item, fallback, &values));
            assert!(said.contains(expected), "{said}");
        }
        let many: Vec<Value> = (0..=CATEGORIES).map(|at| at.to_string().as_str().into()).collect();
        let onehot = Value::map([("property", "c".into()), ("encoding", "onehot".into())]);
        assert!(words(column(onehot, Some(0.0), &many)).contains("encoding: 'hash'"));
        let unknown = Value::map([("property", "c".into()), ("encodin", "onehot".into())]);
        assert!(words(column(unknown, None, &[])).contains("Did you mean [encoding]?"));
    }
}
