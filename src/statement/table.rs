//! What is known of the texts in use, by their exact bytes.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Statement;

/// Bytes that all kept statements may take together, about.
const CAPACITY: u64 = 16 << 20;
/// A longer text is looked at each time and not kept.
const LONGEST_KEPT: usize = 64 << 10;
/// What an entry takes besides its text, about.
const OVERHEAD: usize = 1024;

/// The texts in use. Shared by all sessions; the least used ones go first.
#[derive(Debug)]
pub(crate) struct Statements {
    kept: Cache<Box<str>, Arc<Statement>, Bytes>,
}

impl Statements {
    /// An empty table.
    pub(crate) fn new() -> Self {
        let items = CAPACITY as usize / (2 * OVERHEAD);
        Self { kept: Cache::with_weighter(items, CAPACITY, Bytes) }
    }

    /// What is known of a text. A text that is in use costs no parsing and no allocation.
    pub(crate) fn get(&self, text: &str) -> Arc<Statement> {
        if let Some(known) = self.kept.get(text) {
            return known;
        }
        let statement = Arc::new(Statement::parse(text));
        if text.len() <= LONGEST_KEPT {
            self.kept.insert(text.into(), Arc::clone(&statement));
        }
        statement
    }
}

impl Statements {
    /// Those that are kept now.
    pub(crate) fn all(&self) -> Vec<Arc<Statement>> {
        self.kept.iter().map(|(_, statement)| statement).collect()
    }
}

impl Default for Statements {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Weighter<Box<str>, Arc<Statement>> for Bytes {
    fn weight(&self, text: &Box<str>, _: &Arc<Statement>) -> u64 {
        // The text twice, and a batch text that is about three times as long.
        (OVERHEAD + 5 * text.len()) as u64
    }
}
