//! What each query usually takes, and whether it takes longer now.
//!
//! Time is a number of steps here: whoever calls `step` says how far it has gone.

mod look;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::look::{Look, confidence, without_outliers};
use super::histogram::{Histogram, quantiles};
use super::kinds;
use super::queries::Row;

/// Samples that a baseline takes at least.
const SAMPLES: u64 = 100;
/// How sure it has to be of its median: known to within 5 %, with 95 % certainty.
const CONFIDENCE: f64 = 0.95;
/// Samples with which it is sure, whatever they are.
const PLENTY: u64 = 10_000;
/// Steps that are looked back at most: six of ten seconds.
const WINDOWS: usize = 6;
/// Steps in a row for which there must be a higher level, or a lower one.
const RISES: u32 = 2;
const FALLS: u32 = 3;
/// Steps for which a kind of operations must be slow, so that its queries are found out first.
const LASTS: u64 = 2;
/// A level begins a bit below its factor, so that a doubling is surely seen, and ends well below.
const BEGINS: f64 = 0.9;
const ENDS: f64 = 0.7;
/// How fast a baseline follows what is not remarkable.
const FOLLOWS: f64 = 0.01;

/// How bad something is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// 1.5 times as long.
    Info,
    /// Twice as long.
    Warning,
    /// Five times as long.
    Critical,
    /// Neo4j does not answer.
    Emergency,
}

impl Level {
    /// For logs, tables and labels.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Emergency => "emergency",
        }
    }

    /// The levels of a slowdown, the worst first, with their factors.
    const OF_SLOWDOWNS: [(Self, f64); 3] = [(Self::Critical, 5.0), (Self::Warning, 2.0), (Self::Info, 1.5)];

    fn factor(self) -> f64 {
        Self::OF_SLOWDOWNS
            .iter()
            .find(|(level, _)| *level == self)
            .map_or(f64::INFINITY, |(_, factor)| *factor)
    }
}

/// Whose query: fingerprint, user, database.
pub(crate) type Subject = (u64, Box<str>, Option<Box<str>>);

/// What a query usually takes, in nanoseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Baseline {
    pub(crate) text: Box<str>,
    pub(crate) samples: u64,
    pub(crate) confidence: f64,
    pub(crate) p50: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
}

/// A baseline as it is kept across restarts.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Kept {
    pub(crate) fingerprint: u64,
    pub(crate) user: Box<str>,
    pub(crate) database: Option<Box<str>>,
    pub(crate) baseline: Baseline,
}

type Steps = Vec<(usize, u64)>;

/// One query under observation.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) baseline: Option<Baseline>,
    /// What the last look came to: the median, and how many times the baseline that is.
    pub(crate) now: Option<(u64, f64)>,
    pub(crate) level: Option<Level>,
    /// The step with which it became slow.
    pub(crate) since: u64,
    /// The row that was counted last, and what it had then.
    row: Option<Arc<Row>>,
    seen: BTreeMap<usize, u32>,
    windows: VecDeque<Steps>,
    learning: BTreeMap<usize, u64>,
    pending: Pending,
    /// The last step with which there were requests, and a row.
    last: u64,
    looked: u64,
}

/// A level has begun or ended.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) subject: Subject,
    pub(crate) level: Option<Level>,
    pub(crate) row: Option<Arc<Row>>,
    pub(crate) baseline: Baseline,
    pub(crate) median: u64,
    pub(crate) factor: f64,
}

/// What a look at all queries has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) changes: Vec<Change>,
    /// Queries that may be about to get a level: their plans are of interest.
    pub(crate) suspects: Vec<Arc<Row>>,
}

/// All queries under observation.
#[derive(Debug, Default)]
pub(crate) struct Baselines {
    pub(crate) observed: HashMap<Subject, Observed>,
}

impl Baselines {
    /// Looks at what the rows have got since the last step. `most`: how many queries may be observed.
    pub(crate) fn step(&mut self, step: u64, rows: &[Arc<Row>], most: usize) -> Found {
        let mut found = Found::default();
        let mut new = Vec::new();
        for row in rows {
            let subject = row.subject();
            match self.observed.get_mut(&subject) {
                Some(observed) => observed.take(row, step),
                None => new.push((subject, row)),
            }
        }
        new.truncate(most);
        self.make_room((self.observed.len() + new.len()).saturating_sub(most), step, &mut found);
        for (subject, row) in new {
            self.observed.entry(subject).or_default().take(row, step);
        }
        for (subject, observed) in &mut self.observed {
            observed.judge(subject, step, &mut found);
        }
        found
    }

    /// Kinds of operations, each with its slowdown if there is one that has lasted for a while and that no query explains.
    pub(crate) fn kinds(&self, step: u64) -> Vec<(Subject, Option<Change>)> {
        let is_kind = |subject: &Subject| kinds::name(subject.0).is_some();
        let explained = self.observed.iter().any(|(subject, observed)| {
            !is_kind(subject) && (observed.level.is_some() || observed.pending.level.is_some())
        });
        let slow = |subject: &Subject, observed: &Observed| {
            let level = observed.level.filter(|level| *level > Level::Info)?;
            let (median, factor) = observed.now?;
            let row = None;
            let baseline = observed.baseline.clone()?;
            let lasts = observed.since + LASTS <= step && !explained;
            lasts.then(|| Change {
                subject: subject.clone(),
                level: Some(level),
                row,
                baseline,
                median,
                factor,
            })
        };
        let kinds = self.observed.iter().filter(|(subject, _)| is_kind(subject));
        kinds.map(|(subject, observed)| (subject.clone(), slow(subject, observed))).collect()
    }

    /// Baselines to be kept across restarts.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        let kept = |(subject, observed): (&Subject, &Observed)| {
            let (fingerprint, user, database) = subject.clone();
            Some(Kept { fingerprint, user, database, baseline: observed.baseline.clone()? })
        };
        let mut all: Vec<_> = self.observed.iter().filter_map(kept).collect();
        all.sort_by(|a, b| (a.fingerprint, &a.user, &a.database).cmp(&(b.fingerprint, &b.user, &b.database)));
        all
    }

    /// Takes over what was kept.
    pub(crate) fn restore(&mut self, kept: Vec<Kept>, most: usize) {
        for Kept { fingerprint, user, database, baseline } in kept.into_iter().take(most) {
            let observed = Observed { baseline: Some(baseline), ..Observed::default() };
            self.observed.insert((fingerprint, user, database), observed);
        }
    }

    /// So many have to go: first those that have no row any longer, and of these first those of which nothing was learnt.
    fn make_room(&mut self, wanted: usize, step: u64, found: &mut Found) {
        if wanted == 0 {
            return;
        }
        let worth = |one: &Observed| (one.looked == step, one.level, one.baseline.is_some(), one.last);
        let mut all: Vec<_> =
            self.observed.iter().map(|(subject, one)| (worth(one), subject.clone())).collect();
        all.sort_unstable();
        for (_, subject) in all.into_iter().take(wanted) {
            // Nobody would say that it is over.
            if let Some(Observed { level: Some(_), baseline: Some(baseline), row, .. }) =
                self.observed.remove(&subject)
            {
                found.changes.push(Change { subject, level: None, row, baseline, median: 0, factor: 0.0 });
            }
        }
    }
}

impl Observed {
    /// Takes what a row has got since it was looked at last.
    fn take(&mut self, row: &Arc<Row>, step: u64) {
        if !self.row.as_ref().is_some_and(|known| Arc::ptr_eq(known, row)) {
            (self.row, self.seen) = (Some(Arc::clone(row)), BTreeMap::new());
        }
        let mut window = Steps::new();
        let histogram: &Histogram = &row.served;
        histogram.each(|at, count| {
            let seen = self.seen.insert(at, count).unwrap_or(0);
            if count != seen {
                window.push((at, u64::from(count.wrapping_sub(seen))));
            }
        });
        self.looked = step;
        if !window.is_empty() {
            self.last = step;
        }
        if self.windows.len() >= WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(window);
        if self.baseline.is_none() {
            self.learn(row);
        }
    }

    /// Adds the last window to what is learnt from; enough of it is a baseline.
    fn learn(&mut self, row: &Row) {
        for (at, count) in self.windows.back().into_iter().flatten() {
            *self.learning.entry(*at).or_default() += count;
        }
        let samples: u64 = self.learning.values().sum();
        if samples < SAMPLES {
            return;
        }
        let steps: Steps = self.learning.iter().map(|(at, count)| (*at, *count)).collect();
        let steps = without_outliers(&steps);
        let samples: u64 = steps.iter().map(|(_, count)| count).sum();
        let confidence = if samples >= PLENTY { 1.0 } else { confidence(&steps, samples) };
        if samples < SAMPLES || confidence < CONFIDENCE {
            return;
        }
        let Some([p50, p95, p99]) = quantiles(&steps, [0.5, 0.95, 0.99]) else { return };
        let confidence = (confidence * 1000.0).floor() / 1000.0;
        self.baseline = Some(Baseline { text: row.text.clone(), samples, confidence, p50, p95, p99 });
        self.learning.clear();
    }

    /// Compares what has come of late with the baseline.
    fn judge(&mut self, subject: &Subject, step: u64, found: &mut Found) {
        let Some(baseline) = &mut self.baseline else { return };
        let rising = self.pending.looks > 0 && self.pending.level > self.level;
        // What has made a level pending does not confirm it too.
        let counted = if rising { step - self.pending.first } else { u64::MAX };
        let wanted = match Look::at(&self.windows, baseline.p50, counted) {
            None => {
                self.now = None;
                // A query that is not asked any longer is not slow.
                if self.last + (WINDOWS as u64) >= step {
                    return;
                }
                None
            }
            Some(look) => {
                self.now = Some((look.median, look.factor));
                if look.factor < Level::Info.factor() {
                    let fresh = self.windows.back().is_some_and(|window| !window.is_empty());
                    baseline.follow(&look.steps, fresh);
                } else if rising && !look.surely {
                    return;
                }
                wanted(self.level, look.factor, look.surely)
            }
        };
        if wanted == self.level {
            self.pending = Pending::default();
            return;
        }
        let rises = wanted > self.level;
        if self.pending.add(self.level, wanted, step) == 1
            && rises
            && let Some(row) = &self.row
        {
            found.suspects.push(Arc::clone(row));
        }
        if self.pending.looks < if rises { RISES } else { FALLS } {
            return;
        }
        if self.level.is_none() {
            self.since = step;
        }
        self.level = std::mem::take(&mut self.pending).level;
        let (median, factor) = self.now.unwrap_or((0, 0.0));
        found.changes.push(Change {
            subject: subject.clone(),
            level: self.level,
            row: self.row.clone(),
            baseline: baseline.clone(),
            median,
            factor,
        });
    }
}

/// A level that is about to come.
#[derive(Debug, Default)]
struct Pending {
    level: Option<Level>,
    /// How many looks in a row want it, or one that is further from what is.
    looks: u32,
    /// The step of the first of them.
    first: u64,
}

impl Pending {
    /// Counts a look that wants another level than there is; how many they are now.
    fn add(&mut self, is: Option<Level>, wanted: Option<Level>, step: u64) -> u32 {
        let rises = wanted > is;
        let goes_on = self.looks > 0 && (self.level > is) == rises;
        *self = match (goes_on, rises) {
            (false, _) => Self { level: wanted, looks: 1, first: step },
            (_, true) => Self { level: self.level.min(wanted), looks: self.looks + 1, ..*self },
            (_, false) => Self { level: self.level.max(wanted), looks: self.looks + 1, ..*self },
        };
        self.looks
    }
}

impl Baseline {
    /// Moves a little towards what is usual now.
    fn follow(&mut self, recent: &[(usize, u64)], fresh: bool) {
        let usual = without_outliers(recent);
        let Some(now) = quantiles(&usual, [0.5, 0.95, 0.99]).filter(|_| fresh) else { return };
        for (own, now) in [&mut self.p50, &mut self.p95, &mut self.p99].into_iter().zip(now) {
            *own = (*own as f64 * (1.0 - FOLLOWS) + now as f64 * FOLLOWS) as u64;
        }
    }
}

/// The level for a factor. One that is there stays until the factor is well below its own.
fn wanted(level: Option<Level>, factor: f64, surely: bool) -> Option<Level> {
    let begins = |(_, least): &&(Level, f64)| factor >= least * if *least < 2.0 { 1.0 } else { BEGINS };
    let new = Level::OF_SLOWDOWNS.iter().find(begins).map(|(level, _)| *level).filter(|_| surely);
    match level {
        Some(level) if Some(level) > new && factor >= level.factor() * ENDS => Some(level),
        _ => new,
    }
}

#[cfg(test)]
mod mixed;
#[cfg(test)]
mod tests;
