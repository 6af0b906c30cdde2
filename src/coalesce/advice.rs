//! Which indexes a text's matches lack: said once in the log, and shown to who asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::knowledge::Indexes;
use super::lane::Lane;
use super::plan::shape;
use crate::indexes::{Known, advice};
use crate::statement::{Shape, Statement};

/// How soon indexes are looked at again, once they are known: they may be made, or dropped.
const AGAIN: Duration = Duration::from_secs(60);
/// How soon, while they are being found out.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Characters of a text in a log line.
const TEXT: usize = 200;

impl Indexes {
    /// Whether it is time to look.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    /// Takes over what a look came to; true if the log should have it, which is once.
    fn learn(&mut self, found: Option<Option<Arc<str>>>, log: bool) -> bool {
        let pause = if found.is_some() { AGAIN } else { UNKNOWN };
        self.due = Some(Instant::now() + pause);
        let Some(advice) = found else { return false };
        self.advice = advice;
        let news = log && self.advice.is_some() && !self.logged;
        self.logged |= news;
        news
    }
}

/// Looks whether the indexes are there that a text's matches need. With `log`, what is missing is said, once for each text.
pub(super) fn look(known: &Known, lane: &Lane, statement: &Arc<Statement>, log: bool) {
    let Some(shape) = shape(statement) else { return };
    let found = missing(known, lane.database(), shape);
    let news = lane.knowledge(statement, |knowledge| {
        let news = knowledge.indexes.learn(found, log);
        knowledge.indexes.advice.clone().filter(|_| news)
    });
    if let Some(advice) = news {
        let text: String = statement.text.chars().take(TEXT).collect();
        tracing::warn!(
            database = lane.database(),
            text,
            %advice,
            "Writes that are batched have no index behind their key, so each of them looks at every node: create it."
        );
    }
}

/// The statements that make what is missing (none = nothing is), or `None` while that is not known.
fn missing(known: &Known, database: Option<&str>, shape: &Shape) -> Option<Option<Arc<str>>> {
    let mut lacking = Vec::new();
    for wanted in &shape.schema {
        if !known.covers(database, wanted.relationship, &wanted.name, &wanted.properties)? {
            let statement = advice(&wanted.name, wanted.relationship, &wanted.properties);
            if !lacking.contains(&statement) {
                lacking.push(statement);
            }
        }
    }
    Some((!lacking.is_empty()).then(|| lacking.join("; ").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lacks_is_logged_once_and_looked_at_again() {
        let mut indexes = Indexes::default();
        assert!(indexes.is_due());
        assert!(!indexes.learn(None, true), "it is not known yet");
        assert!(!indexes.is_due());
        tokio::time::advance(UNKNOWN).await;
        assert!(indexes.is_due());
        let advice: Arc<str> = "CREATE INDEX".into();
        assert!(!indexes.learn(Some(Some(Arc::clone(&advice))), false), "only batches are logged");
        assert!(indexes.learn(Some(Some(Arc::clone(&advice))), true));
        assert!(!indexes.learn(Some(Some(advice)), true), "once is enough");
        assert!(!indexes.learn(None, true) && indexes.advice.is_some(), "what was known stays known");
        assert!(!indexes.learn(Some(None), true) && indexes.advice.is_none(), "somebody has made it");
        tokio::time::advance(UNKNOWN).await;
        assert!(!indexes.is_due());
        tokio::time::advance(AGAIN).await;
        assert!(indexes.is_due());
    }
}
