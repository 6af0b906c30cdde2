//! What past runs of a text have shown: its answer's unchanging parts, how long it takes, and whether it suits a batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::packstream::{MapView, Walker};
use tokio::time::Instant;

use crate::statement::Statement;

/// Texts of which a lane knows something; when there are more, all are learnt again.
const TEXTS: usize = 10_000;
/// How long a text that did not suit is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// Weight of the newest measurement.
const WEIGHT: f64 = 0.2;
/// Measurements before two ways are compared.
const SAMPLES: u32 = 5;
/// How much slower one way must measure: on a busy machine measurements differ by more than a little.
const SLOWER: f64 = 2.0;
/// Rows of a measurement that says something about the next.
const TELLING: usize = 16;
/// A way that measured slower is tried again once in so many batches.
const RETRY: u32 = 50;

/// What a lane knows of its texts.
#[derive(Default)]
pub(crate) struct Texts(HashMap<ByAddress, Knowledge>);

/// A statement as a key: the table of statements holds each text once.
struct ByAddress(Arc<Statement>);

impl std::hash::Hash for ByAddress {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ByAddress {}

impl Texts {
    pub(super) fn of(&mut self, statement: &Arc<Statement>) -> &mut Knowledge {
        if self.0.len() >= TEXTS && !self.0.contains_key(&ByAddress(Arc::clone(statement))) {
            self.0.clear();
        }
        self.0.entry(ByAddress(Arc::clone(statement))).or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<Statement>, &Knowledge)> {
        self.0.iter().map(|(statement, knowledge)| (&statement.0, knowledge))
    }
}

/// What past runs of a text have shown.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    /// RUN's metadata but for times, `qid` and `db` (a PackStream map).
    pub(super) run: Option<Arc<[u8]>>,
    /// The last summary's metadata but for bookmark, counters and times, of a run with records and of one without.
    summaries: [Option<Arc<[u8]>>; 2],
    /// Seconds of a run of its own: the least of late, because a busy server says nothing about a text.
    least: Option<f64>,
    lessons: u32,
    /// Runs in a row that took longer than a group may wait for one.
    long_runs: u32,
    /// Smoothed seconds per member of a group.
    grouped: Measure,
    /// Smoothed seconds per row of its shape's statement.
    derived: Measure,
    /// Why it is left alone, and since when.
    unsuitable: Option<(&'static str, Instant)>,
    /// Why its shape's statement is not used.
    pub(super) underivable: Option<&'static str>,
    failures: f64,
    /// Transactions that had it as their only statement.
    stood_alone: u32,
    /// Transactions that went on, rolled back or came late, less a part of those that did not.
    went_on: f64,
    mismatches: u32,
    /// Rows that went in batches.
    pub(super) rows: u64,
    /// Batches with such rows.
    pub(super) batches: u64,
    /// Whether the indexes that it needs are there.
    pub(super) indexes: Indexes,
}

/// Whether the indexes that a text needs are there.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// When to look again; none = it was never looked.
    pub(super) due: Option<Instant>,
    /// The statements that make those that are missing.
    pub(super) advice: Option<Arc<str>>,
    /// The log has it.
    pub(super) logged: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    seconds: f64,
    samples: u32,
}

impl Measure {
    fn add(&mut self, seconds: f64) {
        self.seconds =
            if self.samples == 0 { seconds } else { self.seconds + (seconds - self.seconds) * WEIGHT };
        self.samples = self.samples.saturating_add(1);
    }
}

impl Knowledge {
    /// True if a run of its own would teach what is not known yet, or keeps what is known fresh.
    pub(crate) fn wants_lesson(&self) -> bool {
        !self.knows_answers() || self.lessons % 64 < 2
    }

    /// A run of its own, with the lane's turn, took so long.
    pub(crate) fn took(&mut self, time: Duration, longest: Duration) {
        /// What the least gives way with each run.
        const FADE: f64 = 1.02;
        /// Long runs in a row that are no accident.
        const ENOUGH: u32 = 3;
        self.long_runs = if time > longest { self.long_runs + 1 } else { 0 };
        if self.long_runs >= ENOUGH {
            self.long_runs = 0;
            self.leave_alone("its runs take longer than coalesce.max_statement_time");
        }
        let seconds = time.as_secs_f64();
        self.least = Some(self.least.map_or(seconds, |least| seconds.min(least * FADE)));
        self.lessons = self.lessons.wrapping_add(1);
    }

    /// What RUN and the last summary of a run of its own said (two PackStream maps).
    pub(crate) fn learn(&mut self, run: &[u8], summary: &[u8], records: bool) {
        let (Ok(run), Ok(summary)) = (MapView::parse(run), MapView::parse(summary)) else { return };
        keep(&mut self.run, &run, &["t_first", "qid", "db"]);
        let Some(slot) = self.summaries.get_mut(usize::from(records)) else { return };
        keep(slot, &summary, &["bookmark", "stats", "t_last", "has_more"]);
    }

    pub(super) fn summary(&self, records: bool) -> Option<&Arc<[u8]>> {
        self.summaries.get(usize::from(records))?.as_ref()
    }

    /// Forgets what its answers look like: they have changed.
    fn forget_answers(&mut self) {
        self.run = None;
        self.summaries = [None, None];
    }

    /// A batch of its shape's statement took so long for each row.
    pub(super) fn derived_took(&mut self, time: Duration, rows: usize) {
        if rows < TELLING {
            return;
        }
        self.derived.add(time.as_secs_f64() / rows.max(1) as f64);
    }

    /// A group took so long for each of its members.
    pub(super) fn grouped_took(&mut self, time: Duration, rows: usize, shaped: bool) {
        if rows < TELLING {
            return;
        }
        /// The share of a run of its own that a member of a group may take: one lane stands against many connections.
        const WORTH: f64 = 0.25;
        self.grouped.add(time.as_secs_f64() / rows.max(1) as f64);
        let dear = self.least.is_some_and(|least| self.grouped.seconds > least * WORTH);
        if !shaped && dear && self.grouped.samples >= SAMPLES {
            self.grouped = Measure::default();
            self.leave_alone("a group was measured to gain nothing");
        }
    }

    /// One of its members failed. A text whose requests often fail costs others their batches.
    pub(super) fn failed(&mut self) {
        /// Failures, less a tenth of the rows that went well, that are too many.
        const TOO_MANY: f64 = 20.0;
        self.failures += 1.0;
        if self.failures > TOO_MANY {
            self.failures = 0.0;
            self.leave_alone("its requests fail often");
        }
    }

    /// Rows of it were committed.
    pub(super) fn succeeded(&mut self, rows: usize) {
        self.rows += rows as u64;
        self.failures = (self.failures - rows as f64 / 10.0).max(0.0);
    }

    /// A transaction of it alone was committed at once.
    pub(crate) fn stood_alone(&mut self) {
        self.stood_alone = self.stood_alone.saturating_add(1);
        self.went_on = (self.went_on - 0.05).max(0.0);
    }

    /// A transaction that began with it did something else than COMMIT, or took its time.
    pub(crate) fn went_on(&mut self) {
        self.stood_alone = 0;
        self.strayed(1.0);
    }

    /// A transaction of it took its time to say COMMIT.
    pub(super) fn was_late(&mut self) {
        self.strayed(0.25);
    }

    fn strayed(&mut self, by: f64) {
        /// Such transactions that are too many.
        const TOO_MANY: f64 = 3.0;
        self.went_on += by;
        if self.went_on > TOO_MANY {
            self.went_on = 0.0;
            self.leave_alone("its transactions go on, roll back or wait");
        }
    }

    /// Whether a transaction that begins with it is likely to end with it. Drivers whose API says so are believed until shown otherwise.
    pub(crate) fn stands_alone(&self, announced: bool) -> bool {
        /// Transactions that show it without an announcement.
        const SHOWN: u32 = 3;
        announced || self.stood_alone >= SHOWN
    }

    /// Its shape's statement answered otherwise than derived.
    pub(super) fn mismatched(&mut self, why: &'static str) {
        /// Mismatches after which its shape's statement is used no more.
        const TOO_MANY: u32 = 3;
        self.forget_answers();
        self.mismatches += 1;
        if self.mismatches >= TOO_MANY && !matches!(why, "unknown_answer" | "more_records_than_pulled") {
            self.underivable = Some(why);
        }
    }

    /// Seconds of server time that `rows` saved, estimated: what as many runs alone take at best, less what they took.
    pub(super) fn saved(&self, took: Duration, rows: usize) -> f64 {
        self.least.map_or(0.0, |least| (least * rows as f64 - took.as_secs_f64()).max(0.0))
    }

    /// It does not suit batches for a while.
    pub(super) fn leave_alone(&mut self, why: &'static str) {
        self.unsuitable = Some((why, Instant::now()));
    }

    /// Why a request of this text is not to join a batch now.
    pub(crate) fn objection(&self, statement: &Statement) -> Option<&'static str> {
        if let Some((why, since)) = self.unsuitable
            && since.elapsed() < LEFT_ALONE
        {
            return Some(why);
        }
        if statement.is_shaped() {
            return None;
        }
        match &self.run {
            None => Some("it has not been run yet"),
            Some(_) if !self.writes() => Some("Neo4j does not call it a write"),
            Some(_) => None,
        }
    }

    /// Whether Neo4j called it a write (`type` w or rw).
    fn writes(&self) -> bool {
        self.summaries.iter().flatten().any(|summary| {
            MapView::parse(summary).is_ok_and(|map| matches!(map.string("type"), Some("w" | "rw")))
        })
    }

    /// Whether its shape's statement is to be used: its answers are known, and it was not measured to be slower.
    pub(super) fn derives(&mut self) -> bool {
        if self.underivable.is_some() || !self.knows_answers() {
            return false;
        }
        if self.is_slower() {
            self.derived.samples += 1;
            return self.derived.samples.is_multiple_of(RETRY);
        }
        true
    }

    fn knows_answers(&self) -> bool {
        self.run.is_some() && self.summaries.iter().any(Option::is_some)
    }

    /// Its shape's statement was measured to be slower than a group.
    fn is_slower(&self) -> bool {
        self.derived.samples >= SAMPLES
            && self.grouped.samples >= SAMPLES
            && self.derived.seconds > self.grouped.seconds * SLOWER
    }

    /// Why its shape's statement is not used for now, if it is not.
    pub(super) fn doubt(&self) -> Option<&'static str> {
        if self.underivable.is_some() {
            return self.underivable;
        }
        if !self.knows_answers() {
            return Some("its answer is not known yet");
        }
        self.is_slower().then_some("one statement for many was measured to be slower")
    }

    /// Runs of its own outside of transactions.
    pub(super) fn runs_alone(&self) -> u64 {
        u64::from(self.lessons)
    }

    /// Seconds of a run of its own, of a group's member and of a row, as far as they were measured.
    pub(super) fn times(&self) -> [Option<f64>; 3] {
        let of = |measure: Measure| (measure.samples > 0).then_some(measure.seconds);
        [self.least, of(self.grouped), of(self.derived)]
    }
}

/// Keeps a map without some keys, if it is not what is there already.
fn keep(slot: &mut Option<Arc<[u8]>>, map: &MapView<'_>, without: &[&str]) {
    let mut bytes = bytes::BytesMut::new();
    bolt_wire::packstream::MapEdit::removing(without).apply(map, &mut bytes);
    if slot.as_deref() != Some(&bytes) {
        *slot = Some(Arc::from(&bytes[..]));
    }
}

/// The notifications of a summary: code and description. The outcome's own status is none.
fn notifications<'a>(summary: &MapView<'a>) -> HashSet<(&'a str, &'a str)> {
    let mut all = HashSet::new();
    for (list, key) in [("statuses", "gql_status"), ("notifications", "code")] {
        let Some(mut walker) = summary.get(list).map(Walker::new) else { continue };
        let items = walker.list_header().unwrap_or(0);
        for _ in 0..items {
            let Some(status) = walker.value().ok().and_then(|bytes| MapView::parse(bytes).ok()) else {
                break;
            };
            let code = status.string(key).unwrap_or("?");
            if !matches!(code, "00000" | "00001" | "02000") {
                all.insert((code, status.string("description").unwrap_or_default()));
            }
        }
    }
    all
}

/// Whether a notification depends on what the database has, rather than on the text: a label, type or property that is not known.
fn depends_on_data(code: &str) -> bool {
    matches!(
        code,
        "01N50"
            | "01N51"
            | "01N52"
            | "Neo.ClientNotification.Statement.UnknownLabelWarning"
            | "Neo.ClientNotification.Statement.UnknownRelationshipTypeWarning"
            | "Neo.ClientNotification.Statement.UnknownPropertyKeyWarning"
    )
}

/// Whether a text's notifications, as `known` has them from a run of its own, are those that it would get beside a shape's statement with
/// those of `batch`. What depends on the text alone stays; what depends on the data must be the same; anything new is a surprise.
pub(super) fn same_notifications(known: &MapView<'_>, batch: &MapView<'_>) -> bool {
    let (known, batch) = (notifications(known), notifications(batch));
    let of_data = |all: &HashSet<(&str, &str)>| {
        let mut all: Vec<String> = all
            .iter()
            .filter(|one| depends_on_data(one.0))
            .map(|(code, text)| format!("{code} {text}"))
            .collect();
        all.sort_unstable();
        all
    };
    of_data(&known) == of_data(&batch)
        && batch.iter().all(|(code, _)| known.iter().any(|(other, _)| other == code))
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::Value;

    use super::*;

    fn summary(statuses: &[(&str, &str)]) -> Vec<u8> {
        let status = |(code, text): &(&str, &str)| {
            Value::map([("gql_status", Value::from(*code)), ("description", Value::from(*text))])
        };
        Value::map([("statuses", Value::List(statuses.iter().map(status).collect()))]).to_bytes()
    }

    #[test]
    fn what_depends_on_data_must_be_the_same_and_nothing_may_be_new() {
        let same = |known: &[(&str, &str)], batch: &[(&str, &str)]| {
            let (known, batch) = (summary(known), summary(batch));
            same_notifications(&MapView::parse(&known).unwrap(), &MapView::parse(&batch).unwrap())
        };
        let (cartesian, label, other) = (("03N90", "two parts"), ("01N50", "A"), ("01N50", "B"));
        assert!(same(&[("00001", "")], &[("00000", "")]));
        assert!(same(&[cartesian], &[]) && same(&[cartesian], &[cartesian]));
        assert!(!same(&[], &[cartesian]), "a surprise");
        assert!(same(&[label], &[label, label]), "a batch may name it more often");
        assert!(!same(&[label], &[]) && !same(&[], &[label]) && !same(&[label], &[other]));
    }
}
