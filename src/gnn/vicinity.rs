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
    pub(super) fn get(&self, node: i64, what: What) -> Option<&[u8]> {
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

    /// Adds some of others, as long as all do not take more than so many bytes. Who comes first stays: a state does not last for long.
    fn add(&mut self, others: &Self, some: &[(i64, What)], most: usize) {
        for (node, what) in some {
            let part = others.get(*node, *what).filter(|_| self.get(*node, *what).is_none());
            if let Some(part) = part.filter(|part| self.bytes_with(part) <= most) {
                self.put(*node, *what, part);
            }
        }
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

/// Whose, and which statements read it.
type Key = (Owner, Box<str>);

/// A state of a database, in which parts were read.
struct State {
    stamp: Stamp,
    began: Instant,
    used: Mutex<Instant>,
    parts: RwLock<Parts>,
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
        self.states.lock().values().map(|state| state.parts.read().bytes()).sum()
    }

    /// What is kept of what this is made of, if it is still so.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        catalog: &Catalog,
        spec: &Spec,
    ) -> Result<View, Trouble> {
        let texts: Vec<String> = spec.texts().collect();
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
            all.chunks(AT_A_TIME).for_each(|some| state.parts.write().add(&read, some, most));
        })
        .await;
        self.shrink(most);
    }

    /// A state that begins now.
    fn begin(&self, key: Key, stamp: Stamp) -> Arc<State> {
        let now = Instant::now();
        let state = State { stamp, began: now, used: Mutex::new(now), parts: RwLock::default() };
        let state = Arc::new(state);
        self.states.lock().insert(key, Arc::clone(&state));
        state
    }

    /// Forgets the states that were not used for longest while there are too many bytes.
    fn shrink(&self, most: usize) {
        let mut states = self.states.lock();
        let bytes = |state: &Arc<State>| state.parts.read().bytes() + size_of::<State>();
        while states.values().map(bytes).sum::<usize>() > most {
            let oldest =
                states.iter().min_by_key(|(_, state)| *state.used.lock()).map(|(key, _)| key.clone());
            oldest.and_then(|key| states.remove(&key));
        }
    }

    /// Forgets what is out of date or was not used for long. Called once in a while.
    pub(crate) fn sweep(&self) {
        self.states.lock().retain(|_, state| state.began.elapsed() < AGE);
    }
}

impl View {
    /// What is kept, if anything is.
    pub(super) fn kept(&self) -> Option<RwLockReadGuard<'_, Parts>> {
        match &self.since {
            Since::Known(state) => Some(state.parts.read()),
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

    #[test]
    fn who_comes_first_stays_and_there_is_never_too_much() {
        let (most, mut kept, mut read) = (200_000, Parts::default(), Parts::default());
        (0..20_000i64).for_each(|node| read.put(node, What::Features, &node.to_be_bytes()));
        let all: Vec<_> = (0..20_000).map(|node| (node, What::Features)).collect();
        for some in all.chunks(512) {
            kept.add(&read, some, most);
            assert!(kept.bytes() <= most, "{} of {most}", kept.bytes());
        }
        let there = |node: &i64| kept.get(*node, What::Features) == Some(&node.to_be_bytes()[..]);
        let first = (0..20_000).take_while(there).count();
        assert!(first > 1000 && !(first as i64..20_000).any(|node| there(&node)), "{first}");
        assert_eq!(kept.get(0, What::Neighbours { along: 0, most: 5 }), None);
        // What is there already takes no more.
        let before = kept.bytes.len();
        kept.add(&read, &all, most);
        assert_eq!(kept.bytes.len(), before);
    }
}
