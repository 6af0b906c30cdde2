//! Our own commits: what they may have changed, and whether they surely took a transaction id.

use std::sync::Arc;

use bolt_wire::packstream::{MapView, Walker};

use super::Cache;
use super::ledger::Took;
use crate::bookmark::Bookmark;
use crate::statement::{Footprint, Mark};

/// Marks that one transaction may change before it counts as the whole database.
const MARKS: usize = 256;

/// What a transaction's statements may have changed so far.
#[derive(Debug)]
pub(crate) struct Changes {
    footprint: Footprint,
    effects: Effects,
    /// It has statements that may change something.
    any: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self { footprint: Footprint(Some(Box::default())), effects: Effects::default(), any: false }
    }
}

impl Changes {
    /// A statement that may change this is on its way.
    pub(crate) fn ask(&mut self, footprint: Footprint) {
        self.any = true;
        let (Some(known), Some(new)) = (&self.footprint.0, &footprint.0) else {
            self.footprint = Footprint::WHOLE;
            return;
        };
        let added = new.iter().filter(|mark| !known.contains(mark));
        let marks: Box<[Mark]> = known.iter().chain(added).cloned().collect();
        self.footprint = if marks.len() > MARKS { Footprint::WHOLE } else { Footprint(Some(marks)) };
    }

    /// What Neo4j says that a statement did. `plain`: each property that it set has a value that is not null, and none is removed.
    pub(crate) fn did(&mut self, stats: Option<&MapView<'_>>, plain: bool) {
        if let Some(stats) = stats {
            self.effects.add(stats, plain);
        }
    }

    /// True if nothing in it can change anything.
    pub(crate) fn is_none(&self) -> bool {
        !self.any
    }

    /// True if nobody knows what it may change, so that even a failure may leave something behind.
    pub(crate) fn is_unknown(&self) -> bool {
        self.footprint.0.is_none()
    }
}

/// Counters of a transaction.
#[derive(Debug, Default)]
struct Effects {
    updates: bool,
    nodes: [u64; 2],
    relationships: [u64; 2],
    labels: [u64; 2],
    properties: u64,
    /// Every property that was set took a plain value.
    uneven: bool,
    /// Something else: schema, system, or unknown.
    other: bool,
}

impl Effects {
    fn add(&mut self, stats: &MapView<'_>, plain: bool) {
        for (name, value) in stats.iter() {
            let count = Walker::new(value).integer().ok().and_then(|count| u64::try_from(count).ok());
            let count = count.unwrap_or_default();
            let [created, deleted] = &mut self.nodes;
            let [joined, cut] = &mut self.relationships;
            let [added, removed] = &mut self.labels;
            let counter = match name {
                "contains-updates" => continue,
                "nodes-created" => created,
                "nodes-deleted" => deleted,
                "relationships-created" => joined,
                "relationships-deleted" => cut,
                "labels-added" => added,
                "labels-removed" => removed,
                "properties-set" => {
                    self.uneven |= count > 0 && !plain;
                    &mut self.properties
                }
                _ => {
                    self.other = true;
                    continue;
                }
            };
            *counter += count;
        }
        self.updates |= stats.boolean("contains-updates").unwrap_or(!stats.is_empty());
    }

    /// Whether a transaction with these counters surely took one id. What is created and deleted again takes none.
    fn took(&self, sets_count: bool) -> Took {
        let one_way = |[there, back]: [u64; 2]| (there > 0) != (back > 0);
        let none = |[there, back]: [u64; 2]| there == 0 && back == 0;
        let deletes = self.nodes[1] > 0 || self.relationships[1] > 0;
        let sure = one_way(self.nodes)
            || one_way(self.relationships)
            || (one_way(self.labels) && !deletes && none(self.nodes))
            || (sets_count && self.properties > 0 && !self.uneven && !deletes);
        if sure && !self.other { Took::One } else { Took::Perhaps }
    }
}

/// A commit of ours that is on its way. Dropped without an end, it may have happened or not.
#[derive(Debug)]
pub(crate) struct Ticket {
    cache: Arc<Cache>,
    open: bool,
}

impl Ticket {
    pub(super) fn new(cache: Arc<Cache>) -> Self {
        cache.commits.begin();
        Self { cache, open: true }
    }

    /// It was rolled back, or nothing was committed.
    pub(crate) fn nothing(mut self) {
        self.close();
    }

    /// It is committed, and its client is not told yet. `sets_count`: the server gives an id to whoever sets a property, even to
    /// the value that it has.
    pub(crate) fn committed(mut self, changes: &Changes, bookmark: Option<&str>, sets_count: bool) {
        let bookmark = bookmark.and_then(Bookmark::parse);
        if let Some(bookmark) = bookmark
            && let Some(ledger) = self.cache.known_ledger(&bookmark.database)
        {
            ledger.seen(bookmark.transaction);
        }
        if changes.effects.updates {
            match bookmark {
                Some(bookmark) if !changes.effects.other => {
                    if let Some(ledger) = self.cache.known_ledger(&bookmark.database) {
                        ledger.committed(changes.effects.took(sets_count), &changes.footprint);
                    }
                    self.cache.metrics().touched(&changes.footprint);
                }
                _ => self.cache.doubt_all(),
            }
        }
        self.close();
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.cache.commits.end();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            self.cache.doubt_all();
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::Value;

    use super::*;

    fn took(stats: &[(&str, i64)], plain: bool, sets_count: bool) -> Took {
        let map = Value::map(stats.iter().map(|(name, count)| (*name, Value::Integer(*count)))).to_bytes();
        let mut changes = Changes::default();
        changes.did(Some(&MapView::parse(&map).unwrap()), plain);
        changes.effects.took(sets_count)
    }

    #[test]
    fn what_surely_took_an_id() {
        for stats in [
            &[("nodes-created", 1)][..],
            &[("nodes-created", 2), ("relationships-created", 1), ("properties-set", 3), ("labels-added", 2)],
            &[("relationships-created", 1)],
            &[("relationships-deleted", 1)],
            &[("nodes-deleted", 1), ("relationships-deleted", 4)],
            &[("labels-added", 1)],
            &[("labels-removed", 1), ("properties-set", 1)],
        ] {
            assert_eq!(took(stats, false, false), Took::One, "{stats:?}");
        }
        for stats in [
            &[][..],
            &[("properties-set", 1)],
            &[("nodes-created", 1), ("nodes-deleted", 1), ("labels-added", 1)],
            &[("relationships-created", 1), ("relationships-deleted", 1)],
            &[("labels-added", 1), ("labels-removed", 1)],
            &[("nodes-created", 1), ("indexes-added", 1)],
            &[("labels-added", 1), ("nodes-deleted", 1), ("nodes-created", 1)],
        ] {
            assert_eq!(took(stats, true, false), Took::Perhaps, "{stats:?}");
        }
        assert_eq!(took(&[("properties-set", 1)], true, true), Took::One);
        assert_eq!(took(&[("properties-set", 1)], false, true), Took::Perhaps);
        assert_eq!(
            took(
                &[("properties-set", 1), ("relationships-deleted", 1), ("relationships-created", 1)],
                true,
                true
            ),
            Took::Perhaps
        );
    }

    #[test]
    fn footprints_of_a_transaction_add_up() {
        let label = |name: &str| Footprint(Some([Mark::Label(name.into())].into()));
        let mut changes = Changes::default();
        assert!(changes.is_none() && !changes.is_unknown());
        changes.ask(label("A"));
        changes.ask(label("B"));
        changes.ask(label("A"));
        assert_eq!(changes.footprint.0.as_ref().map(|marks| marks.len()), Some(2));
        changes.ask(Footprint::WHOLE);
        assert!(changes.is_unknown() && !changes.is_none());
        changes.ask(label("C"));
        assert!(changes.is_unknown());
    }
}
