//! What was asked and how it went: top queries.

mod histogram;
mod metrics;
mod moment;
mod queries;
#[cfg(test)]
mod tests;

pub(crate) use metrics::SightMetrics;
pub(crate) use moment::moment;
pub(crate) use queries::{Answered, Outcome, Row};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::queries::Queries;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::statement::Statement;
use crate::upstream::Principal;

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) statement: &'a Arc<Statement>,
    pub(crate) principal: &'a Arc<Principal>,
    /// As its client named it; none = the home database.
    pub(crate) database: Option<&'a str>,
    pub(crate) answered: Answered,
    pub(crate) outcome: Outcome,
    /// The code of a failure or refusal.
    pub(crate) code: Option<&'a str>,
    /// While its client waited for an answer, all together.
    pub(crate) took: Duration,
    /// Before it went to Neo4j.
    pub(crate) waited: Duration,
    pub(crate) rows: u64,
    /// Bytes of the answer.
    pub(crate) bytes: u64,
}

/// Sees every request once, when it is over.
pub(crate) struct Sight {
    metrics: Arc<Metrics>,
    queries: Queries,
}

impl Sight {
    /// One that has seen nothing.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, queries: Queries::default() }
    }

    /// A request is over.
    pub(crate) fn record(&self, finished: &Finished<'_>, config: &Config) {
        self.queries.record(finished, config.sight.max_queries);
    }

    /// The rows that a user may see, those that took most time first.
    pub(crate) fn top(&self, most: usize, viewer: &Viewer) -> Vec<Arc<Row>> {
        self.queries.top(most, |row| viewer.sees(&row.principal))
    }

    /// Forgets the rows that a user may see; how many there were.
    pub(crate) fn reset(&self, viewer: &Viewer) -> usize {
        self.queries.reset(|row| viewer.sees(&row.principal))
    }

    /// Sets the gauges.
    pub(crate) fn gauge(&self) {
        let metrics = &self.metrics.sight;
        let (rows, gone) = self.queries.size();
        metrics.queries.set(rows as i64);
        metrics.bytes.set(self.queries.bytes() as i64);
        metrics.forgotten.inc_by(gone.saturating_sub(metrics.forgotten.get()));
        let calls = self.queries.others().calls.load(Ordering::Relaxed);
        metrics.forgotten_calls.inc_by(calls.saturating_sub(metrics.forgotten_calls.get()));
    }
}

/// Who wants to see something.
pub(crate) struct Viewer {
    /// Whose own is shown.
    principal: [u8; 32],
    /// Others' too.
    all: bool,
}

impl Viewer {
    /// A user that is logged in.
    pub(crate) fn of(principal: &Principal, config: &Config) -> Self {
        let names = config
            .sight
            .observers
            .iter()
            .flat_map(|names| names.split(','))
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let all = names.into_iter().any(|name| name == principal.name);
        Self { principal: principal.id, all }
    }

    /// Whether what this principal has done is shown.
    pub(crate) fn sees(&self, principal: &[u8; 32]) -> bool {
        self.all || *principal == self.principal
    }
}
