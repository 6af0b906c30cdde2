//! Answers that would have been served, compared with what Neo4j says instead.

use std::sync::Arc;

use super::entry::{Answer, Entry};
use crate::bookmark::Bookmark;
use crate::session::Shared;
use crate::statement::Statement;

/// A kept answer that its client did not get: Neo4j was asked all the same.
pub(crate) struct Suspect {
    entry: Arc<Entry>,
    /// The id at which it was held to be right.
    at: i64,
}

impl Suspect {
    /// An answer that is held to be right at that id.
    pub(crate) fn new(entry: Arc<Entry>, at: i64) -> Self {
        Self { entry, at }
    }

    /// Compares it with Neo4j's own. If it was wrong, nothing that is kept of its database is trusted any longer.
    pub(super) fn compare(self, answer: &Answer, bookmark: &str, statement: &Statement, shared: &Shared) {
        let outcome = self.judge(answer, bookmark);
        shared.metrics.cache.verifications.with_label_values(&[outcome]).inc();
        if outcome == "different" {
            self.entry.ledger.forget();
            shared.metrics.cache.cleared("different");
            tracing::error!(
                text = %statement.text,
                "A cached answer was not what Neo4j says: the database's answers are forgotten. Please report this."
            );
        }
    }

    fn judge(&self, answer: &Answer, bookmark: &str) -> &'static str {
        let same_state = Bookmark::parse(bookmark).is_some_and(|bookmark| {
            bookmark.database == self.entry.ledger.database && bookmark.transaction == self.at
        });
        if !same_state {
            return "overtaken";
        }
        if self.entry.answer.is_same(answer) { "same" } else { "different" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::tests::{answer_with, entry_with};

    #[test]
    fn only_answers_of_the_same_state_are_compared() {
        let bookmark = Bookmark { database: [1; 16], transaction: 7 };
        let entry = Arc::new(entry_with(bookmark.database, &[1, 2, 3]));
        let judge = |at: i64, rows: &[i64]| {
            Suspect::new(Arc::clone(&entry), at).judge(&answer_with(rows), &bookmark.to_text())
        };
        let at = bookmark.transaction;
        assert_eq!(judge(at, &[1, 2, 3]), "same");
        // Without ORDER BY the order is Neo4j's choice each time.
        assert_eq!(judge(at, &[3, 1, 2]), "same");
        assert_eq!(judge(at, &[1, 2, 2]), "different");
        assert_eq!(judge(at, &[1, 2]), "different");
        assert_eq!(judge(at + 1, &[1, 2]), "overtaken");
    }
}
