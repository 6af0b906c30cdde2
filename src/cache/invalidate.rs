//! Answers forgotten by hand.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use regex::Regex;
use serde_json::Value;

use super::Cache;
use crate::matching;
use crate::statement::{Footprint, Mark, Statement, Statements};

/// Which answers are forgotten.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// All.
    All,
    /// Those of the database with this name.
    Database(String),
    /// Those that depend on nodes with this label.
    Label(String),
    /// Those that depend on relationships of this type.
    Type(String),
    /// Those of texts in which this is found.
    Text(Regex),
    /// Those of texts with this fingerprint.
    Fingerprint(u64),
}

/// How a scope is written.
pub(crate) const SCOPES: &str = "{all: true}, {database: 'name'}, {label: 'Name'}, {type: 'NAME'}, {text: 'regular expression'} or {fingerprint: '16 hexadecimal digits'}";

impl Scope {
    /// Reads it from a map with one key.
    pub(crate) fn read(map: &Value) -> Result<Self, String> {
        let entries = map.as_object().map(|map| map.iter().collect::<Vec<_>>()).unwrap_or_default();
        let [(key, value)] = entries.as_slice() else { return Err(format!("give one of {SCOPES}")) };
        let text = value.as_str().filter(|text| !text.is_empty());
        match (key.as_str(), text) {
            ("all", _) if value.as_bool() == Some(true) => Ok(Self::All),
            ("database", Some(name)) => Ok(Self::Database(name.to_owned())),
            ("label", Some(name)) => Ok(Self::Label(name.to_owned())),
            ("type", Some(name)) => Ok(Self::Type(name.to_owned())),
            ("text", Some(text)) => matching::compile(text)
                .map(Self::Text)
                .map_err(|(_, what, hint)| format!("text {what}; {hint}")),
            ("fingerprint", Some(digits)) => matching::fingerprint(digits)
                .map(Self::Fingerprint)
                .ok_or_else(|| format!("fingerprint '{digits}' is none; write 16 hexadecimal digits")),
            (key, _) => Err(format!("{key}: {value} means nothing; give one of {SCOPES}")),
        }
    }

    fn covers(&self, statement: &Statement) -> bool {
        let depends = |wanted: &Mark, any: &[Mark]| match &statement.reads {
            Footprint(Some(marks)) => marks.iter().any(|mark| mark == wanted || any.contains(mark)),
            Footprint(None) => true,
        };
        match self {
            Self::All => true,
            Self::Database(_) => false,
            Self::Label(name) => {
                depends(&Mark::Label(name.as_str().into()), &[Mark::AnyNode, Mark::AnyLabel])
            }
            Self::Type(name) => depends(&Mark::Type(name.as_str().into()), &[Mark::AnyType]),
            Self::Text(text) => text.is_match(&statement.text),
            Self::Fingerprint(fingerprint) => statement.fingerprint == *fingerprint,
        }
    }
}

impl Cache {
    /// Forgets answers, those on their way included; how many were kept of them.
    pub(crate) fn invalidate(&self, scope: &Scope, statements: &Statements) -> u64 {
        let named = match scope {
            Scope::Database(name) => {
                let ledgers = self.ledgers.read();
                ledgers.values().find(|ledger| ledger.has_name(name)).cloned()
            }
            _ => None,
        };
        match scope {
            Scope::All => self.ledgers.read().values().for_each(|ledger| ledger.forget()),
            _ => named.iter().for_each(|ledger| ledger.forget()),
        }
        for statement in statements.all().iter().filter(|statement| scope.covers(statement)) {
            statement.cached.epoch.fetch_add(1, Ordering::SeqCst);
        }
        let entries = self.entries.load_full();
        let mut gone = 0;
        for (key, entry) in entries.iter() {
            let covered = named.as_ref().is_some_and(|ledger| Arc::ptr_eq(ledger, &entry.ledger))
                || scope.covers(&entry.statement);
            if covered {
                entries.invalidate(&*key);
                gone += 1;
            }
        }
        self.metrics().cleared("request");
        gone
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_are_read_and_nonsense_is_named() {
        assert!(matches!(Scope::read(&json!({"all": true})), Ok(Scope::All)));
        assert!(matches!(Scope::read(&json!({"label": "A"})), Ok(Scope::Label(name)) if name == "A"));
        for (nonsense, word) in [
            (json!({}), "give one of"),
            (json!("x"), "give one of"),
            (json!({"label": "A", "type": "B"}), "give one of"),
            (json!({"lable": "A"}), "lable"),
            (json!({"label": 1}), "label"),
            (json!({"all": false}), "all"),
            (json!({"text": "("}), "unclosed group"),
            (json!({"fingerprint": "12"}), "16 hexadecimal digits"),
        ] {
            let error = Scope::read(&nonsense).unwrap_err();
            assert!(error.contains(word), "{nonsense}: {error}");
        }
    }

    #[test]
    fn a_label_covers_what_depends_on_it() {
        let covers = |scope: &Scope, text: &str| scope.covers(&Statement::parse(text));
        let person = Scope::Label("Person".to_owned());
        assert!(covers(&person, "MATCH (n:Person) RETURN n.x"));
        assert!(covers(&person, "MATCH (n) RETURN count(n)"));
        assert!(!covers(&person, "MATCH (n:Airport) RETURN n.x"));
        let knows = Scope::Type("KNOWS".to_owned());
        assert!(covers(&knows, "MATCH (:A)-[:KNOWS]->(:B) RETURN 1"));
        assert!(covers(&knows, "MATCH (:A)-->(:B) RETURN 1"));
        assert!(!covers(&knows, "MATCH (:A)-[:LIKES]->(:B) RETURN 1"));
        let text = Scope::read(&json!({"text": "(?i)return 1"})).unwrap();
        assert!(covers(&text, "RETURN 1") && !covers(&text, "RETURN 2"));
    }
}
