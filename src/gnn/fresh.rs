//! Whether a graph is still what Neo4j has: by the newest transaction id and by what our own commits have touched, as the cache knows it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::fetch::Caller;
use super::spec::Spec;
use crate::cache::{Basis, Ledger, Reading, Source};
use crate::statement::{Footprint, Mark, Statement};

/// How long the newest transaction id is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The state of the database that a graph was read in.
pub(crate) struct Stamp {
    ledger: Arc<Ledger>,
    basis: Basis,
    id: i64,
    /// Nothing came between its reading and its end.
    whole: bool,
}

/// What is known of a graph.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    /// Nothing that it depends on has changed.
    Fresh,
    /// Something may have.
    Stale,
    /// Nobody can tell: there are several servers, or the graph was never stamped.
    Unknown,
    /// Neo4j does not say now.
    Unreachable,
}

impl Stamp {
    /// Before a graph is read; none where the newest transaction id cannot be known.
    pub(crate) async fn begin(caller: &Caller, spec: &Spec) -> Option<Self> {
        let source = source(caller)?;
        caller.shared.cache.watch();
        let footprint = footprint(spec);
        // What the basis is taken of must be known before anything is read.
        let first = reading(caller, &source).await?;
        let basis = first.ledger.basis(&footprint);
        let second = reading(caller, &source).await?;
        Arc::ptr_eq(&first.ledger, &second.ledger).then(|| Self {
            ledger: Arc::clone(&second.ledger),
            basis,
            id: second.newest(),
            whole: false,
        })
    }

    /// Behind it.
    pub(crate) async fn end(mut self, caller: &Caller) -> Option<Self> {
        let source = source(caller)?;
        let reading = reading(caller, &source).await?;
        self.whole = self.holds(&reading);
        Some(self)
    }

    /// True if nothing came between its reading and its end.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    fn holds(&self, reading: &Reading) -> bool {
        Arc::ptr_eq(&self.ledger, &reading.ledger)
            && reading.span.covers(self.id)
            && self.ledger.is_untouched(&self.basis)
    }
}

/// Whether what was stamped is still what Neo4j has.
pub(crate) async fn known(caller: &Caller, stamp: Option<&Stamp>) -> Known {
    let (Some(stamp), Some(source)) = (stamp, source(caller)) else { return Known::Unknown };
    if !stamp.whole {
        return Known::Stale;
    }
    match reading(caller, &source).await {
        None => Known::Unreachable,
        Some(reading) if stamp.holds(&reading) => Known::Fresh,
        Some(_) => Known::Stale,
    }
}

fn source(caller: &Caller) -> Option<Arc<Source>> {
    let shared = &caller.shared;
    if !shared.upstream.is_single() {
        return None;
    }
    let (need, database) = (&caller.need, caller.need.access.database.as_deref());
    shared.cache.source(|| need.clone(), &need.principal.id, database)
}

async fn reading(caller: &Caller, source: &Arc<Source>) -> Option<Arc<Reading>> {
    timeout(PATIENCE, source.fresh(&caller.shared)).await.ok()?.ok()?
}

/// What the graph depends on: what its statements read.
fn footprint(spec: &Spec) -> Footprint {
    let mut marks: Vec<Mark> = Vec::new();
    for text in spec.texts() {
        let Footprint(Some(own)) = Statement::parse(&text).reads else { return Footprint::WHOLE };
        for mark in own {
            if !marks.contains(&mark) {
                marks.push(mark);
            }
        }
    }
    Footprint(Some(marks.into()))
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::Value;

    use super::*;

    #[test]
    fn a_graph_depends_on_its_labels_types_and_properties() {
        let features = Value::map([("featureProperties", "age".into())]);
        let spec = Spec::read("Person".into(), "KNOWS".into(), Some(features)).unwrap();
        let Footprint(Some(marks)) = footprint(&spec) else { panic!("it can be told") };
        assert!(marks.contains(&Mark::Label("Person".into())), "{marks:?}");
        assert!(marks.contains(&Mark::Type("KNOWS".into())), "{marks:?}");
        assert!(marks.iter().any(|mark| *mark == Mark::Key("age".into())), "{marks:?}");
    }
}
