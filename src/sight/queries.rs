//! The top queries: what was asked, how often, how long it took. One row for each fingerprint, user and database.  [hot path: `record`]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use super::histogram::Histogram;
use super::resources::Requests;
use super::{Answered, Finished, Outcome};
use crate::statement::fingerprint;
use crate::upstream::Principal;

/// Tables that are locked on their own.
const SHARDS: usize = 16;
/// Bytes of a normalised text that are kept.
const TEXT: usize = 1000;
/// A longer text is not kept as an example.
const EXAMPLE: usize = 4 << 10;
/// How fast a row that is not used loses its worth.
const FADES: Duration = Duration::from_secs(60);

/// What makes a row.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    fingerprint: u64,
    principal: u64,
    database: u64,
}

/// A row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) fingerprint: u64,
    /// Whose requests.
    pub(crate) principal: [u8; 32],
    pub(crate) user: Box<str>,
    /// None = the home database.
    pub(crate) database: Option<Box<str>>,
    /// The normalised text, cut.
    pub(crate) text: Box<str>,
    /// A text as it was asked, to be explained. It is never shown.
    pub(crate) example: Option<Box<str>>,
    pub(crate) counts: Counts,
    pub(crate) times: Histogram,
    /// What Neo4j answered well, without the waiting before.
    pub(crate) served: Histogram,
    /// Who it is, as long as they are known.
    pub(crate) who: Weak<Principal>,
    /// It was seen with other values in its text.
    varied: AtomicBool,
    last_failure: Mutex<Option<Arc<str>>>,
}

/// Sums of a row.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) calls: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) interrupted: AtomicU64,
    pub(crate) cached: AtomicU64,
    pub(crate) batched: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Nanoseconds, all together.
    pub(crate) took: AtomicU64,
    /// Nanoseconds of waiting for a connection or a turn.
    pub(crate) waited: AtomicU64,
    pub(crate) longest: AtomicU64,
    /// The shortest, counted from the top, so that it begins at 0.
    short: AtomicU64,
    /// Milliseconds since 1970.
    pub(crate) first: AtomicU64,
    pub(crate) last: AtomicU64,
}

impl Counts {
    fn add(&self, finished: &Finished<'_>, now: u64) {
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        let took = nanoseconds(finished.took);
        add(&self.calls, 1);
        add(&self.took, took);
        add(&self.waited, nanoseconds(finished.waited));
        add(&self.rows, finished.rows);
        add(&self.bytes, finished.bytes);
        add(&self.cached, u64::from(finished.answered == Answered::Cache));
        add(&self.batched, u64::from(matches!(finished.answered, Answered::Batch | Answered::Deferred)));
        match finished.outcome {
            Outcome::Success => {}
            Outcome::Failure => add(&self.failures, 1),
            Outcome::Refused => add(&self.refused, 1),
            Outcome::Interrupted => add(&self.interrupted, 1),
        }
        self.longest.fetch_max(took, Ordering::Relaxed);
        self.short.fetch_max(u64::MAX - took, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    fn merge(&self, other: &Self) {
        for (own, others) in self.sums().into_iter().zip(other.sums()) {
            own.fetch_add(others.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (own, others) in
            [(&self.longest, &other.longest), (&self.short, &other.short), (&self.last, &other.last)]
        {
            own.fetch_max(others.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn sums(&self) -> [&AtomicU64; 10] {
        [
            &self.calls,
            &self.failures,
            &self.refused,
            &self.interrupted,
            &self.cached,
            &self.batched,
            &self.rows,
            &self.bytes,
            &self.took,
            &self.waited,
        ]
    }

    /// Nanoseconds of the shortest.
    pub(crate) fn shortest(&self) -> u64 {
        match self.short.load(Ordering::Relaxed) {
            0 => 0,
            short => u64::MAX - short,
        }
    }
}

impl Row {
    fn new(finished: &Finished<'_>, now: u64) -> Self {
        let mut text = fingerprint::normalised(&finished.statement.text);
        if text.len() > TEXT {
            let end = (0..=TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
        }
        let example = Some(&finished.statement.text).filter(|text| text.len() <= EXAMPLE).cloned();
        Self {
            fingerprint: finished.statement.fingerprint,
            principal: finished.principal.id,
            user: finished.principal.name.as_str().into(),
            database: finished.database.map(|name| (**name).into()),
            text: text.into(),
            example,
            counts: Counts { first: AtomicU64::new(now), ..Counts::default() },
            times: Histogram::default(),
            served: Histogram::default(),
            who: Arc::downgrade(finished.principal),
            varied: AtomicBool::new(false),
            last_failure: Mutex::default(),
        }
    }

    /// One that stands for all queries of a kind.
    pub(super) fn of_kind(fingerprint: u64, name: &str) -> Self {
        Self {
            fingerprint,
            principal: [0; 32],
            user: Box::default(),
            database: None,
            text: name.into(),
            example: None,
            counts: Counts::default(),
            times: Histogram::default(),
            served: Histogram::default(),
            who: Weak::new(),
            varied: AtomicBool::new(false),
            last_failure: Mutex::default(),
        }
    }

    /// Whether it was seen with other values in its text.
    pub(crate) fn is_varied(&self) -> bool {
        self.varied.load(Ordering::Relaxed)
    }

    /// Remembers a failure's code, which is shared with the last one's if it is the same.
    pub(super) fn failed(&self, code: &str) -> Arc<str> {
        let mut last = self.last_failure.lock();
        match &*last {
            Some(last) if **last == *code => Arc::clone(last),
            _ => {
                let code: Arc<str> = code.chars().take(200).collect::<String>().into();
                *last = Some(Arc::clone(&code));
                code
            }
        }
    }

    fn look_at(&self, text: &str) {
        if !self.is_varied() && self.example.as_deref().is_some_and(|example| *example != *text) {
            self.varied.store(true, Ordering::Relaxed);
        }
    }

    /// The code of the last failure or refusal.
    pub(crate) fn last_failure(&self) -> Option<Arc<str>> {
        self.last_failure.lock().clone()
    }

    /// The key of its plan.
    pub(crate) fn key(&self) -> super::PlanKey {
        (self.fingerprint, self.principal, self.database.clone())
    }

    /// Whose query it is, across restarts.
    pub(crate) fn subject(&self) -> super::baseline::Subject {
        (self.fingerprint, self.user.clone(), self.database.clone())
    }

    /// What it is worth to be kept: used often, and of late.
    fn worth(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.counts.last.load(Ordering::Relaxed)) as f64;
        self.counts.calls.load(Ordering::Relaxed) as f64 / (1.0 + age / FADES.as_millis() as f64)
    }

    fn bytes(&self) -> usize {
        let texts = self.text.len() + self.user.len() + self.example.as_ref().map_or(0, |text| text.len());
        size_of::<Self>()
            + texts
            + self.database.as_ref().map_or(0, |name| name.len())
            + self.times.bytes()
            + self.served.bytes()
    }
}

type Shard = RwLock<HashMap<Key, Arc<Row>, RandomState>>;

/// All rows, of which there are never more than wanted.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    shards: [Shard; SHARDS],
    count: AtomicUsize,
    random: RandomState,
    /// What had to go, all together.
    others: Counts,
    gone: AtomicU64,
    /// Everything, whatever was forgotten.
    all: Totals,
}

/// Sums of all requests.
#[derive(Debug, Default)]
struct Totals {
    calls: AtomicU64,
    failures: AtomicU64,
    cached: AtomicU64,
    batched: AtomicU64,
}

impl Totals {
    fn add(&self, finished: &Finished<'_>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let more = match (finished.outcome, finished.answered) {
            (Outcome::Failure | Outcome::Refused, _) => &self.failures,
            (_, Answered::Cache) => &self.cached,
            (_, Answered::Batch | Answered::Deferred) => &self.batched,
            _ => return,
        };
        more.fetch_add(1, Ordering::Relaxed);
    }
}

impl Queries {
    /// Counts a request; gives its row.
    pub(crate) fn record(&self, finished: &Finished<'_>, most: usize) -> Arc<Row> {
        let now = now();
        let row = self.row(finished, most, now);
        self.all.add(finished);
        row.look_at(&finished.statement.text);
        row.counts.add(finished, now);
        row.times.record(nanoseconds(finished.took));
        if finished.answered == Answered::Neo4j && finished.outcome == Outcome::Success {
            row.served.record(nanoseconds(finished.took.saturating_sub(finished.waited)));
        }
        row
    }

    fn row(&self, finished: &Finished<'_>, most: usize, now: u64) -> Arc<Row> {
        use std::hash::BuildHasher;
        let principal = finished.principal.id.first_chunk().copied().map_or(0, u64::from_ne_bytes);
        let database = finished.database.map_or(0, |name| self.random.hash_one(&**name));
        let key = Key { fingerprint: finished.statement.fingerprint, principal, database };
        let shard = &self.shards[(key.fingerprint ^ principal ^ database) as usize % SHARDS];
        if let Some(row) = shard.read().get(&key) {
            return Arc::clone(row);
        }
        let row = Arc::new(Row::new(finished, now));
        let mut rows = shard.write();
        if let Some(row) = rows.get(&key) {
            return Arc::clone(row);
        }
        if self.count.load(Ordering::Relaxed) >= most
            && let Some(least) = least(&rows, now)
            && let Some(least) = rows.remove(&least)
        {
            self.others.merge(&least.counts);
            self.gone.fetch_add(1, Ordering::Relaxed);
        } else {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        rows.insert(key, Arc::clone(&row));
        row
    }

    /// All rows that `wanted` wants, those that took most time first.
    pub(crate) fn top(&self, most: usize, wanted: impl Fn(&Row) -> bool) -> Vec<Arc<Row>> {
        let mut rows: Vec<Arc<Row>> = Vec::new();
        for shard in &self.shards {
            rows.extend(shard.read().values().filter(|row| wanted(row)).cloned());
        }
        rows.sort_by_cached_key(|row| {
            (std::cmp::Reverse(row.counts.took.load(Ordering::Relaxed)), row.fingerprint)
        });
        rows.truncate(most);
        rows
    }

    /// Forgets the rows that `wanted` wants; how many there were.
    pub(crate) fn reset(&self, wanted: impl Fn(&Row) -> bool) -> usize {
        let mut forgotten = 0;
        for shard in &self.shards {
            let mut rows = shard.write();
            let before = rows.len();
            rows.retain(|_, row| !wanted(row));
            forgotten += before - rows.len();
        }
        self.count.fetch_sub(forgotten, Ordering::Relaxed);
        forgotten
    }

    /// The sums of everything that was recorded.
    pub(super) fn totals(&self) -> Requests {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = &self.all;
        Requests {
            calls: load(&all.calls),
            failures: load(&all.failures),
            cached: load(&all.cached),
            batched: load(&all.batched),
        }
    }

    /// Rows there are, and rows that had to go.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.count.load(Ordering::Relaxed), self.gone.load(Ordering::Relaxed))
    }

    /// Bytes that all rows take together, about.
    pub(crate) fn bytes(&self) -> usize {
        let of = |shard: &Shard| {
            let rows = shard.read();
            rows.values().map(|row| row.bytes()).sum::<usize>()
                + rows.capacity() * (size_of::<Key>() + size_of::<Arc<Row>>() + 1)
        };
        self.shards.iter().map(of).sum()
    }

    /// The sums of what had to go.
    pub(crate) fn others(&self) -> &Counts {
        &self.others
    }
}

/// The row that is worth least.
fn least(rows: &HashMap<Key, Arc<Row>, RandomState>, now: u64) -> Option<Key> {
    let worth = |row: &Row| row.worth(now);
    rows.iter().min_by(|(_, a), (_, b)| worth(a).total_cmp(&worth(b))).map(|(key, _)| *key)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
