//! Kept answers of hot reads, served only while it is known that Neo4j would say the same.
//!
//! An answer is kept if its read waited for the newest transaction id that was known, and that was still the newest behind it. It is
//! served if nothing has happened since that could have changed it: see [`ledger`] for how that is known.

mod commit;
mod entry;
mod filling;
mod invalidate;
mod ledger;
mod metrics;
mod report;
mod rules;
mod source;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use foldhash::fast::RandomState;
use moka::notification::RemovalCause;
use parking_lot::{Mutex, RwLock};
use prometheus::IntCounter;
use tokio::time::Instant;

pub(crate) use commit::{Changes, Ticket};
pub(crate) use entry::{Answer, Entry};
pub(crate) use filling::{Filling, Flight, Ground, Leading};
pub(crate) use invalidate::{SCOPES, Scope};
pub(crate) use ledger::{Basis, Commits, Ledger};
pub(crate) use metrics::CacheMetrics;
pub(crate) use report::TextReport;
pub(crate) use rules::Policy;
pub(crate) use source::{Reading, Source};
pub(crate) use verify::Suspect;

use crate::config::{self, Config};
use crate::matching;
use crate::metrics::Metrics;
use crate::statement::Statement;
use crate::upstream::Need;

/// What tells one answer from another: user, database, Bolt version, filters, text and parameters.
pub(crate) type Key = Vec<u8>;
type Entries = moka::sync::Cache<Key, Arc<Entry>, RandomState>;

/// Databases that are known at once.
const LEDGERS: usize = 10_000;
/// Sources at once.
const SOURCES: usize = 10_000;
/// Counters of what was asked before.
const COUNTERS: usize = 1 << 16;
/// After so many questions all counters are halved.
const AGED: u64 = 4 * COUNTERS as u64;

/// All kept answers.
pub(crate) struct Cache {
    entries: ArcSwap<Entries>,
    capacity: AtomicU64,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    ledgers: RwLock<HashMap<[u8; 16], Arc<Ledger>>>,
    sources: Mutex<HashMap<SourceKey, Arc<Source>>>,
    commits: Commits,
    policies: rules::Policies,
    asked: Asked,
    /// Something was asked that may be kept: from then on commits are watched.
    active: AtomicBool,
    metrics: Arc<Metrics>,
}

/// A database as clients name it; where they name none it is their user's own.
#[derive(Clone, Eq, Hash, PartialEq)]
struct SourceKey {
    database: Option<Box<str>>,
    principal: Option<[u8; 32]>,
}

impl SourceKey {
    fn new(principal: &[u8; 32], database: Option<&str>) -> Self {
        Self { database: database.map(Into::into), principal: database.is_none().then_some(*principal) }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

impl Cache {
    pub(crate) fn new(config: &config::Cache, metrics: Arc<Metrics>) -> Self {
        Self {
            entries: ArcSwap::from_pointee(entries(config.capacity as u64, metrics.cache.evictions.clone())),
            capacity: AtomicU64::new(config.capacity as u64),
            flights: Mutex::default(),
            ledgers: RwLock::default(),
            sources: Mutex::default(),
            commits: Commits::default(),
            policies: rules::Policies::default(),
            asked: Asked::new(),
            active: AtomicBool::new(false),
            metrics,
        }
    }

    fn metrics(&self) -> &CacheMetrics {
        &self.metrics.cache
    }

    /// What is wanted of an answer; `None`: none is kept.
    pub(crate) fn policy(&self, config: &Arc<Config>, asked: &matching::Asked<'_>) -> Option<Policy> {
        self.policies.of(config, asked)
    }

    /// The kept answer, whether it still holds or not.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.entries.load().get(key)
    }

    /// True if an answer is kept, whether it still holds or not.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.entries.load().contains_key(key)
    }

    fn insert(&self, key: Key, entry: Entry, config: &config::Cache) -> Result<(), &'static str> {
        if entry.weight(key.len()) as usize > config.max_entry_bytes {
            return Err("larger than cache.max_entry_bytes");
        }
        self.entries.load().insert(key, Arc::new(entry));
        Ok(())
    }

    /// Somebody has to know of commits from now on.
    pub(crate) fn watch(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Counts a question.
    pub(crate) fn asked(&self, key: &[u8]) {
        self.active.store(true, Ordering::Relaxed);
        self.asked.count(key);
    }

    fn is_asked_again(&self, key: &[u8]) -> bool {
        self.asked.times(key) >= 2
    }

    /// Takes the lead for a key, or follows who has it.
    pub(crate) fn lead(self: &Arc<Self>, key: &[u8]) -> Result<Leading, Arc<Flight>> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(key) {
            flight.follow();
            return Err(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::new());
        flights.insert(key.into(), Arc::clone(&flight));
        Ok(Leading { cache: Arc::clone(self), key: key.into(), flight })
    }

    fn land(&self, key: &[u8]) {
        self.flights.lock().remove(key);
    }

    /// Where readings of a database come from, if it was asked for before.
    pub(crate) fn known_source(&self, principal: &[u8; 32], database: Option<&str>) -> Option<Arc<Source>> {
        self.sources.lock().get(&SourceKey::new(principal, database)).cloned()
    }

    /// Where readings of a database come from; none if there are too many.
    pub(crate) fn source(
        &self,
        need: impl FnOnce() -> Need,
        principal: &[u8; 32],
        database: Option<&str>,
    ) -> Option<Arc<Source>> {
        let key = SourceKey::new(principal, database);
        let mut sources = self.sources.lock();
        if let Some(source) = sources.get(&key) {
            return Some(Arc::clone(source));
        }
        if sources.len() >= SOURCES {
            return None;
        }
        let source = Arc::new(Source::new(need()));
        sources.insert(key, Arc::clone(&source));
        Some(source)
    }

    /// The ledger of a database; none if there are too many.
    fn ledger(&self, database: [u8; 16]) -> Option<Arc<Ledger>> {
        if let Some(known) = self.known_ledger(&database) {
            return Some(known);
        }
        let mut ledgers = self.ledgers.write();
        if ledgers.len() >= LEDGERS {
            return None;
        }
        Some(Arc::clone(ledgers.entry(database).or_insert_with(|| Arc::new(Ledger::new(database)))))
    }

    fn known_ledger(&self, database: &[u8; 16]) -> Option<Arc<Ledger>> {
        self.ledgers.read().get(database).cloned()
    }

    /// A commit of ours that begins now; none if nothing is kept, so that nobody has to know.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Ticket> {
        self.active.load(Ordering::Relaxed).then(|| Ticket::new(Arc::clone(self)))
    }

    /// True if somebody has to know of commits.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    fn doubt_all(&self) {
        self.metrics().cleared("unknown");
        self.ledgers.read().values().for_each(|ledger| ledger.doubt());
    }

    /// Removes what clients no longer ask for, and follows `cache.capacity`.
    pub(crate) fn sweep(&self, config: &config::Cache) {
        let capacity = config.capacity as u64;
        if self.capacity.swap(capacity, Ordering::Relaxed) != capacity {
            self.entries.store(Arc::new(entries(capacity, self.metrics().evictions.clone())));
        }
        self.sources.lock().retain(|_, source| Arc::strong_count(source) > 1 || source.is_recent());
        self.entries.load().run_pending_tasks();
    }

    /// Sets the gauges.
    pub(crate) fn gauge(&self) {
        let entries = self.entries.load();
        let metrics = self.metrics();
        metrics.entries.set(entries.entry_count() as i64);
        metrics.bytes.set(entries.weighted_size() as i64);
    }
}

fn entries(capacity: u64, evictions: IntCounter) -> Entries {
    moka::sync::Cache::builder()
        .max_capacity(capacity)
        .weigher(|key: &Key, entry: &Arc<Entry>| entry.weight(key.len()))
        .eviction_listener(move |_, _, cause| {
            if cause == RemovalCause::Size {
                evictions.inc();
            }
        })
        .time_to_idle(Duration::from_secs(3600))
        .build_with_hasher(RandomState::default())
}

/// How often keys were asked for lately, about.
struct Asked {
    counters: Box<[AtomicU8]>,
    total: AtomicU64,
    hasher: RandomState,
}

impl Asked {
    fn new() -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU8::new(0)).collect();
        Self { counters, total: AtomicU64::new(0), hasher: RandomState::default() }
    }

    fn counter(&self, key: &[u8]) -> Option<&AtomicU8> {
        self.counters.get(self.hasher.hash_one(key) as usize % COUNTERS)
    }

    fn count(&self, key: &[u8]) {
        if let Some(counter) = self.counter(key) {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
        }
        if self.total.fetch_add(1, Ordering::Relaxed) % AGED == AGED - 1 {
            for counter in &self.counters {
                counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    fn times(&self, key: &[u8]) -> u8 {
        self.counter(key).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// What a session asks: everything that makes an answer to it another's.
pub(crate) struct Question {
    pub(crate) key: Key,
    pub(crate) statement: Arc<Statement>,
    pub(crate) source: Arc<Source>,
    /// The newest id that the client's bookmarks stand for.
    pub(crate) reached: Option<i64>,
    /// When it came.
    pub(crate) asked: Instant,
    /// What is wanted of an answer.
    pub(crate) policy: Policy,
}

impl Question {
    /// An answer to it may be kept: what it depends on, from now on.
    pub(crate) fn filling(&self, leading: Option<Leading>, most: usize) -> Filling {
        let ground = self.source.ledger().and_then(|ledger| {
            let newest = ledger.newest()?;
            let basis = ledger.basis(&self.statement.reads);
            let epoch = self.statement.cached.epoch.load(Ordering::SeqCst);
            Some(Ground { ledger, basis, epoch, carried: newest.max(self.reached.unwrap_or(newest)) })
        });
        Filling {
            key: self.key.clone(),
            statement: Arc::clone(&self.statement),
            policy: self.policy,
            source: Arc::clone(&self.source),
            ground,
            leading,
            wire: BytesMut::new(),
            most,
            led: false,
            followed: false,
            since: Instant::now(),
            runs: 0,
            suspect: None,
        }
    }
}
