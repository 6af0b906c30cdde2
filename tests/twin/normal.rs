//! An answer as text in which only that is left which has to be equal on both sides.
//!
//! Entities are numbered in the order in which they are seen, clocks and chance are left out, times and bookmarks count by their being there.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bolt_wire::packstream::Value;
use sidebolt::bolt_client::Message;

use crate::wire::Reply;

/// Writes answers; knows the entities of one unit.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    entities: HashMap<(u8, i64), usize>,
}

const NODE: u8 = b'n';
const RELATIONSHIP: u8 = b'r';

impl Writer {
    /// Rows as they came.
    pub(crate) fn rows(&mut self, records: &[Vec<Value>]) -> String {
        let row = |record: &Vec<Value>| {
            let cells: Vec<String> = record.iter().map(|value| self.value(value)).collect();
            format!("[{}] ", cells.join(", "))
        };
        shortened(records.iter().map(row).collect())
    }

    /// Rows whose order nothing decides but the place of their nodes in the store.
    pub(crate) fn rows_in_any_order(&mut self, mut records: Vec<Vec<Value>>) -> String {
        records.sort_by_cached_key(|record| {
            // All entities are number 0 here.
            record.iter().map(|value| Self::default().value(value)).collect::<Vec<_>>()
        });
        self.rows(&records)
    }

    /// One line: what was asked, and how the answer ended.
    pub(crate) fn end(&mut self, reply: &Reply) -> String {
        let mut out = format!("{} ", reply.tag.name().unwrap_or("?"));
        match &reply.end {
            Message::Success(meta) => {
                let _ = write!(out, "SUCCESS {}", self.summary(meta));
            }
            Message::Failure(meta) => {
                let _ = write!(out, "FAILURE {}", without_chance(&self.value(meta)));
            }
            Message::Ignored => out.push_str("IGNORED"),
            Message::Record(_) => out.push_str("RECORD without an end"),
        }
        shortened(out)
    }

    fn summary(&mut self, meta: &Value) -> String {
        let Value::Map(entries) = meta else { return self.value(meta) };
        let mut written: Vec<String> = entries
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("t_first" | "t_last", Value::Integer(time)) if *time >= 0 => key.clone(),
                ("bookmark", Value::String(text)) if text.starts_with("FB:") => key.clone(),
                // Estimates and times; which operators there are depends on the statistics.
                ("plan" | "profile", Value::Map(_)) => key.clone(),
                ("notifications" | "statuses", Value::List(items)) => {
                    // The server keeps them in no order.
                    let mut items: Vec<String> = items.iter().map(|item| self.value(item)).collect();
                    items.sort();
                    format!("{key}: {}", items.join(", "))
                }
                _ => format!("{key}: {}", self.value(value)),
            })
            .collect();
        written.sort();
        format!("{{{}}}", written.join(", "))
    }

    /// A value, its maps sorted.
    pub(crate) fn value(&mut self, value: &Value) -> String {
        match value {
            Value::Null => "null".to_owned(),
            Value::Boolean(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            // -0.0 and 0.0 differ, NaN is NaN.
            Value::Float(value) => format!("{value:?}f"),
            Value::Bytes(value) => format!("bytes {value:?}"),
            Value::String(value) => self.string(value),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| self.value(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Map(entries) => self.map(entries),
            Value::Struct(signature, fields) => self.structure(*signature, fields),
            Value::Uuid(value) => format!("uuid {value:?}"),
        }
    }

    fn map(&mut self, entries: &[(String, Value)]) -> String {
        let mut written: Vec<String> = entries
            .iter()
            .map(|(key, value)| match value {
                Value::Integer(_) | Value::Float(_) | Value::String(_) | Value::Struct(..)
                    if key == "clock" =>
                {
                    "clock".to_owned()
                }
                _ => format!("{key:?}: {}", self.value(value)),
            })
            .collect();
        written.sort();
        format!("{{{}}}", written.join(", "))
    }

    fn structure(&mut self, signature: u8, fields: &[Value]) -> String {
        let sorted = |labels: &Value| {
            let mut labels: Vec<&str> =
                labels.as_list().unwrap_or_default().iter().filter_map(Value::as_str).collect();
            labels.sort_unstable();
            labels.join(":")
        };
        match (signature, fields) {
            (b'N', [Value::Integer(id), labels, properties, rest @ ..]) => {
                let (number, same) = (self.number(NODE, *id), self.same(NODE, &[*id], rest));
                format!("(n{number}{same}:{} {})", sorted(labels), self.value(properties))
            }
            (
                b'R',
                [Value::Integer(id), Value::Integer(start), Value::Integer(end), kind, properties, rest @ ..],
            ) => {
                let (from, to) = (self.number(NODE, *start), self.number(NODE, *end));
                let same = match rest {
                    [own, ends @ ..] => {
                        self.same(RELATIONSHIP, &[*id], std::slice::from_ref(own))
                            + &self.same(NODE, &[*start, *end], ends)
                    }
                    [] => String::new(),
                };
                let number = self.number(RELATIONSHIP, *id);
                format!("(n{from})-[r{number}{same}:{kind:?} {}]->(n{to})", self.value(properties))
            }
            _ => {
                let fields: Vec<String> = fields.iter().map(|field| self.value(field)).collect();
                format!("{}({})", char::from(signature), fields.join(", "))
            }
        }
    }

    /// Says so if element ids do not belong to the old ids.
    fn same(&mut self, kind: u8, ids: &[i64], elements: &[Value]) -> String {
        let wrong = |(id, element): (&i64, &Value)| {
            element.as_str().and_then(element_id).is_none_or(|(k, e)| k != kind || e != *id)
        };
        if ids.iter().zip(elements).any(wrong) { format!(" with ids {elements:?}") } else { String::new() }
    }

    fn string(&mut self, text: &str) -> String {
        match element_id(text) {
            Some((kind, id)) => format!("element {}{}", char::from(kind), self.number(kind, id)),
            None => format!("{text:?}"),
        }
    }

    fn number(&mut self, kind: u8, id: i64) -> usize {
        let next = self.entities.len();
        *self.entities.entry((kind, id)).or_insert(next)
    }
}

/// `4:<database>:17` is node 17, `5:…` a relationship.
fn element_id(text: &str) -> Option<(u8, i64)> {
    let (kind, rest) = text.split_once(':')?;
    let (database, id) = rest.split_once(':')?;
    let kind = match kind {
        "4" => NODE,
        "5" => RELATIONSHIP,
        _ => return None,
    };
    if database.len() == 36 { Some((kind, id.parse().ok()?)) } else { None }
}

/// What a parser expected is a set of tokens that depends on what it has seen before.
fn without_chance(text: &str) -> String {
    let text = without_ids(text);
    let (Some(from), Some(to)) = (text.find(": expected "), text.find(" (line ")) else { return text };
    if text.contains("SyntaxError") && from < to {
        format!("{}: expected …{}", &text[..from], &text[to..])
    } else {
        text
    }
}

/// Messages name other entities: `Node(17)`, `element id: 4:…:17`.
fn without_ids(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let end = |rest: &str, word: &str| Some(rest.find(word)? + word.len());
    while let Some(at) =
        ["Node(", "Relationship(", "node<", "element id: "].iter().filter_map(|word| end(rest, word)).min()
    {
        out.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_hexdigit() || c == ':' || c == '-');
    }
    out.push_str(rest);
    out
}

/// What is too long for anybody to read is told by its beginning and a sum of it all.
fn shortened(text: String) -> String {
    const LONGEST: usize = 4000;
    if text.len() <= LONGEST {
        return text;
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let head = text.floor_char_boundary(LONGEST);
    format!("{}… {} bytes, sum {:016x}", &text[..head], text.len(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: i64, element: &str) -> Value {
        let labels = Value::List(vec!["B".into(), "A".into()]);
        Value::Struct(
            b'N',
            vec![Value::Integer(id), labels, Value::map([("x", Value::Null)]), element.into()],
        )
    }

    #[test]
    fn entities_are_numbered_and_ids_must_agree() {
        let uuid = "0123456789abcdef0123456789abcdef0123";
        let (right, other) = (format!("4:{uuid}:7"), format!("4:{uuid}:8"));
        let mut writer = Writer::default();
        assert_eq!(writer.value(&node(7, &right)), "(n0:A:B {\"x\": null})");
        assert_eq!(writer.value(&other.as_str().into()), "element n1");
        assert_eq!(writer.value(&right.as_str().into()), "element n0");
        assert!(writer.value(&node(7, &other)).contains("with ids"));
    }

    #[test]
    fn messages_lose_ids_and_nothing_else() {
        assert_eq!(without_ids("Node(12) and Node(3) of 45"), "Node() and Node() of 45");
        assert_eq!(without_ids("element id: 4:ba8ffd63-07:178, size: 9"), "element id: , size: 9");
        let long = |last| shortened(format!("{}{last}", "x".repeat(5000)));
        assert_ne!(long("a"), long("b"));
    }
}
