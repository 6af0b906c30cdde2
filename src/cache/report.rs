//! What the cache has made of each text.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Cache;
use crate::statement::{Statement, Statements};

/// One text.
#[derive(Debug)]
pub(crate) struct TextReport {
    pub(crate) statement: Arc<Statement>,
    /// Answers that are kept now.
    pub(crate) answers: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// What became of the last answer.
    pub(crate) last: Option<&'static str>,
    /// Why none may be kept.
    pub(crate) reason: Option<&'static str>,
}

impl Cache {
    /// Texts in use that are to be shown, those that are asked most first.
    pub(crate) fn texts(
        &self,
        statements: &Statements,
        shown: impl Fn(&Statement) -> bool,
        most: usize,
    ) -> Vec<TextReport> {
        let mut kept: HashMap<u64, (u64, u64)> = HashMap::new();
        for (key, entry) in self.entries.load().iter() {
            let (answers, bytes) = kept.entry(entry.statement.id).or_default();
            *answers += 1;
            *bytes += u64::from(entry.weight(key.len()));
        }
        let report = |statement: Arc<Statement>| {
            let (answers, bytes) = kept.get(&statement.id).copied().unwrap_or_default();
            let refused = statement.cacheable.err().filter(|_| !statement.may_keep());
            TextReport {
                answers,
                bytes,
                hits: statement.cached.hits.load(Ordering::Relaxed),
                misses: statement.cached.misses.load(Ordering::Relaxed),
                last: statement.cached.last(),
                reason: refused,
                statement,
            }
        };
        let mut texts: Vec<_> =
            statements.all().into_iter().filter(|statement| shown(statement)).map(report).collect();
        texts.sort_by_key(|text| std::cmp::Reverse((text.hits + text.misses, text.answers)));
        texts.truncate(most);
        texts
    }
}
