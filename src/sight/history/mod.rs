//! What went on for longer than an hour: kept in a file, minute by minute, and summed up by hours and days.

mod bucket;
mod period;
mod store;

pub(crate) use period::Period;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::RwLock;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use self::bucket::{Bucket, Spent};
use self::store::Store;
use super::alerts::Alert;
use super::histogram::Since;
use super::queries::Row;
use super::resources::Sample;
use super::{PlanKey, Sight};
use crate::config::Config;
use crate::session::Shared;

/// Seconds of a minute.
const MINUTE: u64 = 60;
/// Minutes that may wait for a file that cannot be written.
const PENDING: usize = 120;
/// How long the last writing may take.
const LAST: Duration = Duration::from_secs(10);
/// Seconds whose samples may be in a minute that has just ended.
const LATEST: usize = 130;

/// Seconds by which a clock that is put right differs at most, and how long another is doubted.
const JUMP: u64 = 3600;
const DOUBT: Duration = Duration::from_secs(86_400);

/// What became of a writing, and the minutes that are left.
type Written = (Result<(), String>, Vec<(u64, Bucket)>);

/// How much is kept.
struct Wanted {
    /// None = what is old stays for now.
    keep: Option<Duration>,
    most: u64,
}

/// Whether the time of day can be believed. After a jump it may be wrong for a while, and must not make everything old.
#[derive(Default)]
struct Clock {
    last: Option<(u64, Instant)>,
    jumped: Option<Instant>,
}

impl Clock {
    /// It says so many seconds since 1970 at a moment.
    fn look(&mut self, now: u64, at: Instant) {
        if let Some((before, since)) = self.last.replace((now, at))
            && now.abs_diff(before + (at - since).as_secs()) > JUMP
        {
            self.jumped = Some(at);
        }
    }

    fn is_believed(&self, at: Instant) -> bool {
        self.jumped.is_none_or(|jumped| at - jumped > DOUBT)
    }
}

/// The file, if there is one.
#[derive(Clone, Default)]
pub(crate) struct History {
    store: Arc<RwLock<Option<Store>>>,
}

/// Adds a minute to the history when it is over.
#[derive(Default)]
pub(super) struct Keeper {
    /// The minute that runs, as the second with which it began; 0 = none yet.
    minute: u64,
    times: Since,
    /// Counters as they were at the end of the last minute.
    errors: BTreeMap<String, u64>,
    refusals: BTreeMap<String, u64>,
    queries: HashMap<PlanKey, [u64; 3]>,
    /// What was written of each alert.
    alerts: HashMap<(u64, u64), u64>,
    pending: Vec<(u64, Bucket)>,
    /// What is being written, and gives back what could not be.
    writing: Option<JoinHandle<Written>>,
    /// It was said that it cannot be written.
    complained: bool,
    clock: Clock,
}

impl History {
    /// A report about a period that ends now; why not, if there is none. Reads the file, so call it where blocking is allowed.
    pub(crate) fn report(&self, period: Period, sight: &Sight, config: &Config) -> Result<Value, String> {
        if config.sight.history.path.is_none() {
            return Err("no history is kept: set sight.history.path to a folder, and restart".to_owned());
        }
        let store = self.store.read();
        let Some(store) = &*store else {
            return Err("the history is not open yet: ask again in a minute, or look into the log".to_owned());
        };
        period::report(store, period, sight).map_err(|error| error.to_string())
    }

    /// Opens the file, unless it is open.
    fn open(&self, folder: &Path) -> Result<(), String> {
        let mut place = self.store.write();
        if place.is_none() {
            *place = Some(Store::open(folder)?);
        }
        Ok(())
    }

    /// Adds minutes, which are taken out of the list, and alerts.
    fn add(
        &self,
        wanted: &Wanted,
        folder: &Path,
        minutes: &mut Vec<(u64, Bucket)>,
        alerts: &[((u64, u64), Value)],
    ) -> Result<(), String> {
        let mut place = self.store.write();
        let store = match &mut *place {
            Some(store) => store,
            none => none.insert(Store::open(folder)?),
        };
        let done = Self::add_to(store, wanted, minutes, alerts);
        if done.is_err() {
            // Once a disk was full, say, nothing goes until the file is opened anew.
            *place = None;
        }
        done
    }

    fn add_to(
        store: &mut Store,
        wanted: &Wanted,
        minutes: &mut Vec<(u64, Bucket)>,
        mut alerts: &[((u64, u64), Value)],
    ) -> Result<(), String> {
        while let Some((second, bucket)) = minutes.first() {
            let second = *second;
            store.add(second, bucket, alerts).map_err(|error| error.to_string())?;
            minutes.remove(0);
            alerts = &[];
            if let Some(keep) = wanted.keep {
                store.forget(second, keep.as_secs()).map_err(|error| error.to_string())?;
            }
        }
        store.bound(wanted.most).map_err(|error| error.to_string())
    }
}

impl Keeper {
    /// Opens the file, so that what it has can be asked for.
    pub(super) async fn open(&mut self, shared: &Shared) {
        let Some(folder) = shared.config.load().sight.history.path.clone() else { return };
        let history = shared.sight.history.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || history.open(&folder)).await {
            self.complain(&error);
        }
    }

    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(error, "sight.history.path cannot be used; it is tried again each minute.");
        }
    }

    /// Looks whether a minute is over. `now`: seconds since 1970.
    pub(super) async fn tick(&mut self, shared: &Shared, now: u64) {
        if shared.config.load().sight.history.path.is_none() {
            return;
        }
        self.clock.look(now, Instant::now());
        let minute = now / MINUTE * MINUTE;
        match self.minute {
            0 => self.minute = minute,
            last if last != minute => {
                self.minute = minute;
                self.write(shared, last).await;
            }
            _ => {}
        }
    }

    /// Writes what there is of the running minute.
    pub(super) async fn finish(&mut self, shared: &Shared) {
        if self.minute != 0 {
            let work = async {
                self.settle().await;
                self.write(shared, self.minute).await;
                self.settle().await;
            };
            // A disk that hangs must not hold up the end.
            let _ = timeout(LAST, work).await;
        }
    }

    async fn write(&mut self, shared: &Shared, minute: u64) {
        let config = shared.config.load_full();
        let Some(folder) = config.sight.history.path.clone() else { return };
        let bucket = self.gather(shared, minute, &config);
        self.pending.push((minute, bucket));
        if self.pending.len() > PENDING {
            self.pending.remove(0);
        }
        // A disk that takes its time holds up nothing else.
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.settle().await;
        let alerts = self.alerts(&shared.sight);
        let history = shared.sight.history.clone();
        let keep = Some(config.sight.history.keep).filter(|_| self.clock.is_believed(Instant::now()));
        let wanted = Wanted { keep, most: config.sight.history.max_bytes as u64 };
        let mut minutes = std::mem::take(&mut self.pending);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let done = history.add(&wanted, &folder, &mut minutes, &alerts);
            (done, minutes)
        }));
    }

    /// Waits for what is being written, and takes back what could not be.
    async fn settle(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        // A panic was reported where it happened.
        let Ok((done, mut left)) = writing.await else { return };
        left.append(&mut self.pending);
        self.pending = left;
        match done {
            Ok(()) => self.complained = false,
            Err(error) => {
                self.alerts.clear();
                self.complain(&error);
            }
        }
    }

    /// What the minute that began at `minute` came to.
    fn gather(&mut self, shared: &Shared, minute: u64, config: &Config) -> Bucket {
        let sight = &shared.sight;
        let mut bucket = Bucket::default();
        let samples: Vec<Sample> = sight.resources.latest(LATEST);
        for sample in samples.iter().filter(|sample| sample.time / MINUTE * MINUTE == minute) {
            bucket.second(sample);
        }
        let pools = shared.upstream.pools().len().max(1) * config.pool.max_connection_pool_size;
        bucket.connections = u32::try_from(pools).unwrap_or(u32::MAX);
        bucket.times =
            self.times.steps(&sight.all).into_iter().map(|(at, count)| (at as u32, count)).collect();
        let (errors, refusals) = shared.metrics.failed();
        bucket.errors = grown(&mut self.errors, errors);
        bucket.refusals = grown(&mut self.refusals, refusals);
        bucket.queries = self.spent(&sight.queries.top(usize::MAX, |_| true));
        bucket
    }

    /// What queries took since the last minute, those that took most.
    fn spent(&mut self, rows: &[Arc<Row>]) -> Vec<Spent> {
        let mut known = HashMap::with_capacity(rows.len());
        let mut spent = Vec::new();
        for row in rows {
            let key = row.key();
            let counts = &row.counts;
            let now =
                [&counts.calls, &counts.failures, &counts.took].map(|count| count.load(Ordering::Relaxed));
            // A row that was forgotten in between begins anew.
            let before =
                self.queries.get(&key).filter(|before| before[0] <= now[0]).copied().unwrap_or_default();
            let [calls, failures, took] = [0, 1, 2].map(|at: usize| now[at].saturating_sub(before[at]));
            if calls > 0 {
                spent.push(Spent {
                    fingerprint: row.fingerprint,
                    user: row.user.clone(),
                    database: row.database.clone(),
                    text: Spent::cut(&row.text),
                    calls,
                    failures,
                    took,
                });
            }
            known.insert(key, now);
        }
        self.queries = known;
        spent.sort_by_key(|spent| std::cmp::Reverse(spent.took));
        spent.truncate(bucket::QUERIES);
        spent
    }

    /// The alerts that are new or another way since they were written.
    fn alerts(&mut self, sight: &Sight) -> Vec<((u64, u64), Value)> {
        let (active, past) = sight.alerts.all();
        let (mut known, mut news) = (HashMap::new(), Vec::new());
        // Where one has ended and begun again, the one that is active comes last.
        for alert in past.iter().rev().chain(&active) {
            let key = (alert.since, identity(alert));
            let value = alert.json(sight);
            let state = hash(&value.to_string());
            if self.alerts.get(&key) != Some(&state) {
                news.push((key, value));
            }
            known.insert(key, state);
        }
        self.alerts = known;
        news
    }
}

/// What tells alerts apart that begin together.
fn identity(alert: &Alert) -> u64 {
    let query = alert.query.as_ref();
    hash(&format!(
        "{} {:?}",
        alert.kind,
        query.map(|query| (query.fingerprint, &query.user, &query.database))
    ))
}

/// The same in every process.
fn hash(text: &str) -> u64 {
    blake3::hash(text.as_bytes()).as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// By how much counters have grown; keeps them as they are now.
fn grown(last: &mut BTreeMap<String, u64>, now: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(last.get(name).copied().unwrap_or(0));
        (more > 0).then(|| (name.clone(), more))
    };
    let grown = now.iter().filter_map(more).collect();
    *last = now;
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_doubted_for_a_day() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = Clock::default();
        let mut look = |after: u32, now: u64| {
            clock.look(now, start + after * second);
            clock.is_believed(start + after * second)
        };
        let now = 1_700_000_000;
        // It is put right, and time goes by in which nobody looks.
        let right = [(0, now), (1, now + 1), (2, now + 1800), (3, now + 3), (90_000, now + 90_000)];
        assert!(right.into_iter().all(|(after, now)| look(after, now)));
        // A year ahead, and back again.
        assert!(!look(90_001, now + 31_536_000));
        assert!(!look(90_002, now + 90_002));
        assert!(!look(90_002 + 86_000, now + 90_002 + 86_000));
        assert!(look(90_003 + 86_400, now + 90_003 + 86_400));
        assert!(!look(90_004 + 86_400, 5), "as after a start without a clock");
    }
}
