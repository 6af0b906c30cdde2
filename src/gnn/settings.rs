//! The configuration map of a call: typed, and every key that nobody asked for is an error.

use bolt_wire::packstream::Value;

use super::Trouble;
use crate::config::meant;

/// Keys that GDS has for its own scheduling; they are accepted and mean nothing here.
const INDIFFERENT: [&str; 6] = ["concurrency", "jobId", "logProgress", "sudo", "username", "readConcurrency"];

/// A configuration map, read key by key.
pub(crate) struct Settings {
    entries: Vec<(String, Value)>,
    known: Vec<&'static str>,
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Boolean(_) => "a BOOLEAN",
        Value::Integer(_) => "an INTEGER",
        Value::Float(_) => "a FLOAT",
        Value::String(_) => "a STRING",
        Value::List(_) => "a LIST",
        Value::Map(_) => "a MAP",
        Value::Struct(0x4E, _) => "a NODE",
        Value::Bytes(_) => "bytes",
        Value::Struct(..) | Value::Uuid(_) => "a value of another type",
    }
}

impl Settings {
    /// From an argument; null and nothing are an empty map.
    pub(crate) fn of(argument: Option<Value>) -> Result<Self, Trouble> {
        match argument {
            None | Some(Value::Null) => Ok(Self { entries: Vec::new(), known: Vec::new() }),
            Some(Value::Map(entries)) => {
                let entries = entries.into_iter().filter(|(_, value)| *value != Value::Null).collect();
                Ok(Self { entries, known: Vec::new() })
            }
            Some(other) => Err(Trouble::wrong(format!(
                "Illegal argument `configuration`: expected a MAP, but got {}.",
                kind(&other)
            ))),
        }
    }

    /// Takes a value, whatever it is.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.swap_remove(at).1)
    }

    /// A whole number within bounds.
    pub(crate) fn integer(
        &mut self,
        key: &'static str,
        default: i64,
        bounds: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, Trouble> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Integer(number)) if bounds.contains(&number) => Ok(number),
            Some(Value::Integer(number)) => {
                let (least, most) = bounds.into_inner();
                let most = if most == i64::MAX { "∞)".to_owned() } else { format!("{most}]") };
                Err(Trouble::wrong(format!(
                    "Value for `{key}` was `{number}`, but must be within the range [{least}, {most}."
                )))
            }
            Some(other) => Err(expected(key, "INTEGER", &other)),
        }
    }

    /// A size within bounds.
    pub(crate) fn size(&mut self, key: &'static str, default: usize, most: usize) -> Result<usize, Trouble> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let number = self.integer(key, i64::try_from(default).unwrap_or(i64::MAX), 1..=most)?;
        Ok(usize::try_from(number).unwrap_or_default())
    }

    /// A number.
    pub(crate) fn float(&mut self, key: &'static str, default: f64) -> Result<f64, Trouble> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Integer(number)) => Ok(number as f64),
            Some(Value::Float(number)) if number.is_finite() => Ok(number),
            Some(Value::Float(number)) => {
                Err(Trouble::wrong(format!("Value for `{key}` was `{number}`, but must be a finite number.")))
            }
            Some(other) => Err(expected(key, "FLOAT", &other)),
        }
    }

    /// A number that is not less than this.
    pub(crate) fn at_least(&mut self, key: &'static str, default: f64, least: f64) -> Result<f64, Trouble> {
        let number = self.float(key, default)?;
        if number >= least {
            return Ok(number);
        }
        Err(Trouble::wrong(format!(
            "Value for `{key}` was `{number}`, but must be within the range [{least}, ∞)."
        )))
    }

    /// true or false.
    pub(crate) fn boolean(&mut self, key: &'static str, default: bool) -> Result<bool, Trouble> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Boolean(value)) => Ok(value),
            Some(other) => Err(expected(key, "BOOLEAN", &other)),
        }
    }

    /// A string.
    pub(crate) fn string(&mut self, key: &'static str) -> Result<Option<String>, Trouble> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(expected(key, "STRING", &other)),
        }
    }

    /// One of these words, in whatever case.
    pub(crate) fn word(
        &mut self,
        key: &'static str,
        words: &'static [&'static str],
    ) -> Result<Option<&'static str>, Trouble> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        let found = words.iter().find(|word| word.eq_ignore_ascii_case(&text));
        found.copied().map(Some).ok_or_else(|| {
            Trouble::wrong(format!(
                "Value for `{key}` was `{text}`, but must be one of: {}.",
                words.join(", ")
            ))
        })
    }

    /// Strings: a list, or one.
    pub(crate) fn strings(&mut self, key: &'static str) -> Result<Option<Vec<String>>, Trouble> {
        self.take(key).map(|value| strings(key, value)).transpose()
    }

    /// A list of numbers.
    pub(crate) fn floats(&mut self, key: &'static str) -> Result<Option<Vec<f32>>, Trouble> {
        let items = match self.take(key) {
            None => return Ok(None),
            Some(Value::List(items)) => items,
            Some(other) => return Err(expected(key, "LIST<FLOAT>", &other)),
        };
        let number = |item: &Value| match item {
            Value::Integer(number) => Ok(*number as f32),
            Value::Float(number) if number.is_finite() => Ok(*number as f32),
            other => Err(expected(key, "LIST<FLOAT>", other)),
        };
        items.iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    /// A list of positive whole numbers.
    pub(crate) fn sizes(&mut self, key: &'static str, most: usize) -> Result<Option<Vec<usize>>, Trouble> {
        let items = match self.take(key) {
            None => return Ok(None),
            Some(Value::List(items)) => items,
            Some(other) => return Err(expected(key, "LIST<INTEGER>", &other)),
        };
        let number = |item: &Value| match item {
            Value::Integer(number) => {
                usize::try_from(*number).ok().filter(|number| (1..=most).contains(number)).ok_or_else(|| {
                    Trouble::wrong(format!(
                        "Value for `{key}` has `{number}`, but each must be within the range [1, {most}]."
                    ))
                })
            }
            other => Err(expected(key, "LIST<INTEGER>", other)),
        };
        items.iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    /// A whole number that calls by the same one repeat themselves with.
    pub(crate) fn seed(&mut self) -> Result<u64, Trouble> {
        Ok(self.integer("randomSeed", 42, i64::MIN..=i64::MAX)?.cast_unsigned())
    }

    /// Nothing is left that nobody knows.
    pub(crate) fn done(mut self) -> Result<(), Trouble> {
        self.entries.retain(|(key, _)| !INDIFFERENT.contains(&key.as_str()));
        let Some((key, _)) = self.entries.first() else { return Ok(()) };
        let near = meant(key, self.known.iter().copied());
        let mean = near.map(|near| format!(" (Did you mean [{near}]?)")).unwrap_or_default();
        self.known.sort_unstable();
        Err(Trouble::wrong(format!(
            "Unexpected configuration key: {key}{mean}. Known are: {}.",
            self.known.join(", ")
        )))
    }
}

/// Strings: a list, or one.
pub(crate) fn strings(key: &str, value: Value) -> Result<Vec<String>, Trouble> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::List(items) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                other => Err(expected(key, "LIST<STRING>", &other)),
            })
            .collect(),
        other => Err(expected(key, "STRING or LIST<STRING>", &other)),
    }
}

/// A value of another type than this.
pub(crate) fn expected(key: &str, wanted: &str, got: &Value) -> Trouble {
    Trouble::wrong(format!("The value of `{key}` must be of type `{wanted}` but was {}.", kind(got)))
}

/// An argument that is a name.
pub(crate) fn name(argument: &str, value: Option<&Value>) -> Result<String, Trouble> {
    match value {
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(Trouble::wrong(format!("`{argument}` can not be null or blank, but it was `{text}`.")))
        }
        Some(Value::String(text)) if text.trim() != text => Err(Trouble::wrong(format!(
            "`{argument}` must not end or begin with whitespace characters, but it was `{text}`."
        ))),
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => {
            Err(Trouble::wrong(format!("`{argument}` can not be null or blank, but it was `null`.")))
        }
        Some(other) => Err(expected(argument, "STRING", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(entries: &[(&str, Value)]) -> Settings {
        Settings::of(Some(Value::map(entries.to_vec()))).unwrap()
    }

    fn words<T: std::fmt::Debug>(result: Result<T, Trouble>) -> String {
        match result.expect_err("an error") {
            Trouble::Wrong(words) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_wrong_value_names_its_key() {
        let mut map = settings(&[
            ("a", Value::Integer(0)),
            ("b", "x".into()),
            ("c", Value::Float(f64::NAN)),
            ("d", Value::List(vec![Value::Integer(1), "x".into()])),
            ("e", Value::List(vec![Value::Integer(-1)])),
        ]);
        assert!(words(map.size("a", 1, 10)).contains("`a` was `0`, but must be within the range [1, 10]"));
        assert!(words(map.integer("b", 1, 0..=1)).contains("`b` must be of type `INTEGER` but was a STRING"));
        assert!(words(map.float("c", 1.0)).contains("`c` was `NaN`"));
        assert!(words(map.strings("d")).contains("`d`"));
        assert!(words(map.sizes("e", 5)).contains("`e` has `-1`"));
        assert!(map.done().is_ok());
        assert!(words(Settings::of(Some(Value::Integer(1))).map(drop)).contains("expected a MAP"));
    }

    #[test]
    fn a_key_that_nobody_knows_is_named_with_what_was_meant() {
        let mut map =
            settings(&[("embeddingDimensions", Value::Integer(3)), ("concurrency", Value::Integer(4))]);
        assert_eq!(map.size("embeddingDimension", 7, 10), Ok(7));
        let words = words(map.done());
        assert!(words.starts_with("Unexpected configuration key: embeddingDimensions"), "{words}");
        assert!(words.contains("Did you mean [embeddingDimension]?"), "{words}");
    }
}
