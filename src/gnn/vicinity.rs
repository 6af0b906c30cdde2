//! What was read around nodes by calls without a graph: kept for as long as nothing that it depends on has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::time::Instant;

use super::Trouble;
use super::catalog::{Catalog, Owner};
use super::fetch::Caller;
use super::fresh::{Known, Stamp, known};
use super::project::blocking;
use super::spec::Spec;

/// A state is given up after this long, so that a change of what its user may see is noticed.
const AGE: Duration = Duration::from_secs(300);
/// Bytes of a part beside its own.
const BESIDE: usize = 64;
/// Parts that are added at a time, so that nobody waits for long.
const AT_A_TIME: usize = 512;

/// One thing that was read of a node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum What {
    /// Its features.
    Features,
    /// Its neighbours along the relationships at this place of the list, so many at most.
    Neighbours { along: usize, most: usize },
}

/// Parts of what was read, each as it came, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    places: HashMap<(i64, What), (usize, usize), RandomState>,
    bytes: Vec<u8>,
}

impl Parts {
    /// A part that is there.
    fn get(&self, node: i64, what: What) -> Option<&[u8]> {
        let (start, end) = *self.places.get(&(node, what))?;
        self.bytes.get(start..end)
    }

    /// One more.
    pub(super) fn put(&mut self, node: i64, what: What, part: &[u8]) {
        let start = self.bytes.len();
        self.bytes.reserve_exact(self.more(part));
        self.bytes.extend_from_slice(part);
        self.places.insert((node, what), (start, self.bytes.len()));
    }

    /// Bytes that have to be made room for with one more. Doubling would soon take more than may be kept.
    fn more(&self, part: &[u8]) -> usize {
        let is_room = self.bytes.capacity() - self.bytes.len() >= part.len();
        if is_room { 0 } else { part.len().max(self.bytes.len() / 8).max(4096) }
    }

    /// Bytes that they take with one more.
    fn bytes_with(&self, part: &[u8]) -> usize {
        let places = if self.places.len() < self.places.capacity() { 0 } else { self.places.capacity() };
        self.bytes() + self.more(part) + BESIDE * places
    }

    /// True if there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.capacity() + BESIDE * self.places.capacity()
    }
}

/// Parts of the same state. What is not asked for while half of the bytes fill up goes.
#[derive(Debug, Default)]
pub(super) struct Table {
    young: Parts,
    old: Parts,
}

impl Table {
    /// A part, and whether it is about to go.
    pub(super) fn get(&self, node: i64, what: What) -> Option<(&[u8], bool)> {
        let young = self.young.get(node, what).map(|part| (part, false));
        young.or_else(|| self.old.get(node, what).map(|part| (part, true)))
    }

    /// Some more of these, of which so many bytes may be kept.
    fn add(&mut self, parts: &Parts, some: &[(i64, What)], most: usize) {
        for (node, what) in some {
            let Some(part) = parts.get(*node, *what).filter(|part| part.len() <= most / 8) else { continue };
            if self.young.bytes_with(part) > most / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.put(*node, *what, part);
        }
        // So little may be kept that one part is too much.
        if self.young.bytes() > most / 2 {
            self.young = Parts::default();
        }
    }

    fn bytes(&self) -> usize {
        self.young.bytes() + self.old.bytes()
    }
}

/// Whose, and which statements read it.
type Key = (Owner, Box<str>);

/// A state of a database, in which parts were read.
struct State {
    stamp: Stamp,
    began: Instant,
    used: Mutex<Instant>,
    table: RwLock<Table>,
}

/// All that is kept.
#[derive(Default)]
pub(crate) struct Vicinities {
    states: Mutex<HashMap<Key, Arc<State>>>,
    most: AtomicUsize,
}

/// What one call sees of it.
pub(super) struct View {
    key: Key,
    since: Since,
}

enum Since {
    /// This state holds.
    Known(Arc<State>),
    /// Nothing is kept, but what is read from now on may be.
    Now(Stamp),
    /// Nothing is to be kept, or nobody can tell what has changed.
    Never,
}

impl Vicinities {
    /// So many bytes may be kept from now on.
    pub(crate) fn limit(&self, bytes: usize) {
        if self.most.swap(bytes, Ordering::Relaxed) > bytes {
            self.states.lock().clear();
        }
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.states.lock().values().map(|state| state.table.read().bytes()).sum()
    }

    /// What is kept of what this is made of, if it is still so.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        catalog: &Catalog,
        spec: &Spec,
    ) -> Result<View, Trouble> {
        let relationships =
            spec.relationships.iter().map(|relationships| spec.relationships_text(relationships));
        let texts: Vec<String> = std::iter::once(spec.nodes_text()).chain(relationships).collect();
        let key = (catalog.owner(caller).await?, texts.join("\n").into());
        if self.most.load(Ordering::Relaxed) == 0 {
            return Ok(View { key, since: Since::Never });
        }
        let state = self.states.lock().get(&key).filter(|state| state.began.elapsed() < AGE).cloned();
        let since = match state {
            Some(state) if known(caller, Some(&state.stamp)).await == Known::Fresh => Since::Known(state),
            _ => Stamp::begin(caller, spec).await.map_or(Since::Never, Since::Now),
        };
        Ok(View { key, since })
    }

    /// Keeps what a call has read, if nothing has changed meanwhile.
    pub(super) async fn close(&self, caller: &Caller, view: View, read: Parts) {
        let state = match view.since {
            Since::Never => return,
            Since::Known(state) => match known(caller, Some(&state.stamp)).await {
                Known::Fresh => state,
                _ => return,
            },
            Since::Now(stamp) => match stamp.end(caller).await {
                Some(stamp) if stamp.is_whole() => self.begin(view.key, stamp),
                _ => return,
            },
        };
        let most = self.most.load(Ordering::Relaxed);
        *state.used.lock() = Instant::now();
        // Thousands of parts: work for another thread.
        let _ = blocking(move || {
            let all: Vec<(i64, What)> = read.places.keys().copied().collect();
            all.chunks(AT_A_TIME).for_each(|some| state.table.write().add(&read, some, most));
        })
        .await;
        self.shrink(most);
    }

    /// A state that begins now.
    fn begin(&self, key: Key, stamp: Stamp) -> Arc<State> {
        let now = Instant::now();
        let state = State { stamp, began: now, used: Mutex::new(now), table: RwLock::default() };
        let state = Arc::new(state);
        self.states.lock().insert(key, Arc::clone(&state));
        state
    }

    /// Forgets the states that were not used for longest while there are too many bytes.
    fn shrink(&self, most: usize) {
        let mut states = self.states.lock();
        let mut all: Vec<(Instant, Key, usize)> = states
            .iter()
            .map(|(key, state)| (*state.used.lock(), key.clone(), state.table.read().bytes()))
            .collect();
        all.sort_unstable_by_key(|(used, ..)| *used);
        let mut bytes: usize = all.iter().map(|(.., bytes)| bytes + size_of::<State>()).sum();
        for (_, key, own) in all {
            if bytes <= most {
                break;
            }
            states.remove(&key);
            bytes -= own + size_of::<State>();
        }
    }

    /// Forgets what is out of date or was not used for long. Called once in a while.
    pub(crate) fn sweep(&self) {
        self.states.lock().retain(|_, state| state.began.elapsed() < AGE);
    }
}

impl View {
    /// What is kept, if anything is.
    pub(super) fn kept(&self) -> Option<RwLockReadGuard<'_, Table>> {
        match &self.since {
            Since::Known(state) => Some(state.table.read()),
            _ => None,
        }
    }

    /// Whether what is read may be kept.
    pub(super) fn keeps(&self) -> bool {
        !matches!(self.since, Since::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(nodes: std::ops::Range<i64>) -> Parts {
        let mut parts = Parts::default();
        nodes.for_each(|node| parts.put(node, What::Features, &node.to_be_bytes()));
        parts
    }

    #[test]
    fn what_is_not_asked_for_goes_and_there_is_never_too_much() {
        let most = 200_000;
        let mut table = Table::default();
        for round in 0..50 {
            let some: Vec<_> = (round * 100..(round + 1) * 100).map(|node| (node, What::Features)).collect();
            table.add(&parts(round * 100..(round + 1) * 100), &some, most);
            assert!(table.bytes() <= most, "{} of {most}", table.bytes());
            let last = round * 100 + 99;
            assert_eq!(table.get(last, What::Features), Some((&last.to_be_bytes()[..], false)));
            assert_eq!(table.get(last, What::Neighbours { along: 0, most: 5 }), None);
        }
        assert_eq!(table.get(0, What::Features), None);
        let older = (0..5000).filter(|node| table.get(*node, What::Features).is_some_and(|(_, goes)| goes));
        assert!(older.count() >= 100);
    }

    #[test]
    fn a_part_larger_than_all_that_may_be_kept_is_not_kept() {
        let (mut table, mut parts) = (Table::default(), Parts::default());
        parts.put(7, What::Features, &[0; 5000]);
        table.add(&parts, &[(7, What::Features)], 8000);
        assert_eq!((table.get(7, What::Features), table.bytes()), (None, 0));
    }
}
