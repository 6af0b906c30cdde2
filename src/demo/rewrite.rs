//! Puts literals where the engine mishandles parameters, and parameters where it mishandles literals.

use std::collections::HashMap;

use bolt_wire::message::Failure;
use grafeo_common::types::{Time, Timestamp, Value, ZonedDatetime};

use super::lex::{Kind as TokenKind, Tokens};
use super::refusal::{parameter_missing, unsupported};

/// Puts literals where the engine mishandles parameters, and parameters where it mishandles literals.
pub(super) struct Rewrite<'a, 't> {
    tokens: &'a Tokens<'t>,
    parameters: &'a mut HashMap<String, Value>,
}

/// A text put in place of a parameter may grow to this.
const MAX_LITERAL: usize = 64 * 1024;

impl<'a, 't> Rewrite<'a, 't> {
    /// A rewrite of these tokens; parameters may be added.
    pub(super) fn new(tokens: &'a Tokens<'t>, parameters: &'a mut HashMap<String, Value>) -> Self {
        Self { tokens, parameters }
    }

    /// The new text.
    pub(super) fn all(mut self, text: &str) -> Result<String, Failure> {
        let mut out = String::with_capacity(text.len());
        let (mut copied, mut clause, mut at) = (0, "", 0);
        while let Some(token) = self.tokens.list.get(at) {
            let word = self.tokens.word(at);
            if token.kind == TokenKind::Word {
                clause = CLAUSES.iter().find(|c| c.eq_ignore_ascii_case(word)).copied().unwrap_or(clause);
            }
            let replaced = match token.kind {
                TokenKind::Parameter => self.parameter(at, clause)?.map(|text| (text, 1)),
                TokenKind::Word => self.constructor(at)?,
                _ => None,
            };
            let Some((new, width)) = replaced else {
                at += 1;
                continue;
            };
            out.push_str(text.get(copied..token.span.start).unwrap_or_default());
            out.push_str(&new);
            at += width;
            copied = self.tokens.list.get(at - 1).map_or(text.len(), |last| last.span.end);
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        Ok(out)
    }

    /// Lists and maps as a whole in WITH and RETURN, and the properties of a node in CREATE.
    fn parameter(&mut self, at: usize, clause: &str) -> Result<Option<String>, Failure> {
        let name = self.tokens.name(at);
        let value = self.parameters.get(&name).ok_or_else(|| parameter_missing(&name))?.clone();
        let nested = matches!(value, Value::List(_) | Value::Map(_));
        let accessed = self.tokens.is(at + 1, ".") || self.tokens.is(at + 1, "[");
        let in_projection = matches!(clause, "WITH" | "RETURN") && !accessed;
        let as_properties = clause == "CREATE" && self.tokens.is(at + 1, ")") || self.tokens.is(at + 1, "]");
        if in_projection && matches!(value, Value::Bytes(_)) {
            return Err(unsupported("returning a parameter of bytes"));
        }
        if !nested || !(in_projection || as_properties && matches!(value, Value::Map(_))) {
            return Ok(None);
        }
        let mut out = String::new();
        self.literal(&value, &mut out)?;
        Ok(Some(out))
    }

    /// The literal of a value; what has no literal becomes a parameter of its own.
    fn literal(&mut self, value: &Value, out: &mut String) -> Result<(), Failure> {
        if out.len() > MAX_LITERAL {
            return Err(unsupported("returning a list or map parameter of more than 64 KiB"));
        }
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::List(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { ", " });
                    self.literal(item, out)?;
                }
                out.push(']');
            }
            Value::Map(entries) => {
                out.push('{');
                for (n, (key, item)) in entries.iter().enumerate() {
                    out.push_str(if n == 0 { "`" } else { ", `" });
                    out.push_str(&key.as_str().replace('`', "``"));
                    out.push_str("`: ");
                    self.literal(item, out)?;
                }
                out.push('}');
            }
            Value::Bytes(_) => return Err(unsupported("returning a parameter of bytes")),
            scalar => out.push_str(&self.hoist(scalar.clone())),
        }
        Ok(())
    }

    fn hoist(&mut self, value: Value) -> String {
        let name = format!("sidebolt_{}", self.parameters.len());
        let reference = format!("${name}");
        self.parameters.insert(name, value);
        reference
    }

    /// `datetime`, `time` and `localtime` of nothing or of a literal; the engine's own lose the zone or give null.
    fn constructor(&mut self, at: usize) -> Result<Option<(String, usize)>, Failure> {
        let word = self.tokens.word(at).to_lowercase();
        let zoned = word == "datetime";
        if !["datetime", "localtime", "time"].contains(&word.as_str()) || !self.tokens.is(at + 1, "(") {
            return Ok(None);
        }
        let with_zone = |time: Time| match (word.as_str(), time.offset_seconds()) {
            ("time", None) => time.with_offset(0),
            _ => time,
        };
        let text = self.tokens.word(at + 2);
        let literal = text.trim_matches(['\'', '"']);
        let is_text = self.tokens.list.get(at + 2).is_some_and(|t| t.kind == TokenKind::Text);
        let (value, width) = match (self.tokens.is(at + 2, ")"), is_text && self.tokens.is(at + 3, ")")) {
            (true, _) if zoned => {
                (Some(Value::ZonedDatetime(ZonedDatetime::from_timestamp_offset(Timestamp::now(), 0))), 3)
            }
            (true, _) => (Some(Value::Time(with_zone(Timestamp::now().to_time()))), 3),
            (_, true) if zoned => (zoned_datetime(literal).map(Value::ZonedDatetime), 4),
            (_, true) => (Time::parse(literal).map(with_zone).map(Value::Time), 4),
            _ => (None, 0),
        };
        match value {
            Some(value) => Ok(Some((self.hoist(value), width))),
            None => Err(unsupported(format!("{word}() of this argument"))),
        }
    }
}

/// A date-time; without an offset it is UTC, as Neo4j's default time zone makes it.
fn zoned_datetime(text: &str) -> Option<ZonedDatetime> {
    ZonedDatetime::parse(text).or_else(|| ZonedDatetime::parse(&format!("{text}Z")))
}

/// The words that begin a clause.
pub(super) const CLAUSES: &[&str] = &[
    "MATCH", "WHERE", "WITH", "RETURN", "UNWIND", "CREATE", "MERGE", "SET", "REMOVE", "DELETE", "CALL",
    "YIELD", "ORDER", "SKIP", "LIMIT",
];
