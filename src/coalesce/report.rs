//! What lanes and texts look like to somebody who asks.

use std::collections::HashMap;
use std::sync::Arc;

use bolt_wire::packstream::MapView;

use super::knowledge::Knowledge;
use super::lane::Lane;
use super::plan::shape;
use super::{Coalescer, advice};
use crate::session::Shared;
use crate::statement::{Class, Statement, Way};

/// A lane.
#[derive(Debug)]
pub(crate) struct LaneReport {
    /// Its database, if its clients or Neo4j have named it.
    pub(crate) database: Option<String>,
    /// Its user, if that is who asks.
    pub(crate) user: Option<String>,
    /// Of transactions that clients begin and end themselves.
    pub(crate) managed: bool,
    /// Writes that wait.
    pub(crate) waiting: usize,
    /// Batches under way.
    pub(crate) in_flight: usize,
    /// Writes under way on their own.
    pub(crate) alone: usize,
    /// Rows that a batch may have now.
    pub(crate) cap: usize,
}

/// A text, in all lanes of one user and database.
#[derive(Debug)]
pub(crate) struct TextReport {
    /// Its database, if its clients or Neo4j have named it.
    pub(crate) database: Option<String>,
    /// The text.
    pub(crate) statement: Arc<Statement>,
    /// The form that it has.
    pub(crate) shape: Option<&'static str>,
    /// How its writes go in batches now.
    pub(crate) way: Option<&'static str>,
    /// Writes committed in batches.
    pub(crate) rows: u64,
    /// Batches with such writes.
    pub(crate) batches: u64,
    /// Writes that ran alone.
    pub(crate) alone: u64,
    /// Seconds of a run of its own, of a group's member, of a row of one statement.
    pub(crate) seconds: [Option<f64>; 3],
    /// Why it goes no better way.
    pub(crate) reason: Option<&'static str>,
    /// The statements that make the indexes that it lacks.
    pub(crate) advice: Option<Arc<str>>,
}

/// Texts by their database, each with the lane that has it most.
type Found = HashMap<(Option<String>, *const Statement), (TextReport, Arc<Lane>)>;

impl Coalescer {
    /// Lanes, the busiest first; users only where it is this one.
    pub(crate) fn lanes(
        &self,
        shared: &Shared,
        own: impl Fn(&[u8; 32]) -> bool,
        most: usize,
    ) -> Vec<LaneReport> {
        let config = shared.config.load();
        let lanes: Vec<_> = self.lanes.lock().values().cloned().collect();
        let report = |lane: &Arc<Lane>| {
            let load = lane.load(config.coalesce.batch_size, config.coalesce.max_batch_size);
            LaneReport {
                database: lane.shown_database(),
                user: own(&lane.need.principal.id).then(|| lane.need.principal.name.clone()),
                managed: lane.managed,
                waiting: load.waiting,
                in_flight: load.batches,
                alone: load.alone,
                cap: load.cap,
            }
        };
        let mut reports: Vec<_> = lanes.iter().map(report).collect();
        reports.sort_by(|a, b| {
            let key = |lane: &LaneReport| (lane.waiting, lane.in_flight, lane.alone, lane.cap);
            key(b).cmp(&key(a)).then_with(|| a.database.cmp(&b.database))
        });
        reports.truncate(most);
        reports
    }

    /// The texts of this user that write, most rows first.
    pub(crate) fn texts(
        &self,
        shared: &Shared,
        own: impl Fn(&[u8; 32]) -> bool,
        most: usize,
    ) -> Vec<TextReport> {
        let own = |lane: &&Arc<Lane>| own(&lane.need.principal.id);
        let lanes: Vec<_> = self.lanes.lock().values().filter(own).cloned().collect();
        let mut found: Found = HashMap::new();
        for lane in lanes {
            let database = lane.shown_database();
            for (statement, knowledge) in lane.texts.lock().iter() {
                let report = TextReport::of(&database, statement, knowledge);
                let key = (database.clone(), Arc::as_ptr(statement));
                match found.get_mut(&key) {
                    Some((known, place)) => {
                        if report.writes() > known.writes() {
                            *place = Arc::clone(&lane);
                        }
                        known.add(report);
                    }
                    None => {
                        found.insert(key, (report, Arc::clone(&lane)));
                    }
                }
            }
        }
        let mut reports: Vec<_> = found.into_values().collect();
        reports.sort_by(|(a, _), (b, _)| {
            let key = |report: &TextReport| (report.rows, report.alone);
            key(b).cmp(&key(a)).then_with(|| a.statement.text.cmp(&b.statement.text))
        });
        reports.truncate(most);
        for (report, lane) in &mut reports {
            // Who asks wants to see what is missing now, not at the last look.
            advice::look(&shared.indexes, lane, &report.statement, false);
            report.advice = lane.knowledge(&report.statement, |knowledge| knowledge.indexes.advice.clone());
        }
        reports.into_iter().map(|(report, _)| report).collect()
    }
}

impl TextReport {
    fn of(database: &Option<String>, statement: &Arc<Statement>, knowledge: &Knowledge) -> Self {
        let shape = shape(statement);
        let objection = knowledge.objection(statement);
        let doubt = shape.and_then(|_| knowledge.doubt());
        let way = match (objection, shape) {
            (Some(_), _) => None,
            (None, Some(shape)) if doubt.is_none() => Some(match shape.way {
                Way::Unwind => "unwind",
                Way::Rows => "rows",
            }),
            (None, _) => Some("grouped"),
        };
        let reason = match &statement.class {
            Class::Other(reason) => Some(*reason),
            Class::Write { shape: Err(reason) } => objection.or(Some(*reason)),
            Class::Write { shape: Ok(_) } => objection.or(doubt),
        };
        Self {
            database: database.clone(),
            statement: Arc::clone(statement),
            shape: shape.map(|shape| shape.kind.name()),
            way,
            rows: knowledge.rows,
            batches: knowledge.batches,
            alone: knowledge.runs_alone(),
            seconds: knowledge.times(),
            reason: reason.map(in_words),
            advice: None,
        }
    }

    fn writes(&self) -> u64 {
        self.rows + self.alone
    }

    /// Adds the same text of another lane: what was judged and measured is that of the busier one.
    fn add(&mut self, other: Self) {
        let (rows, batches, alone) =
            (self.rows + other.rows, self.batches + other.batches, self.alone + other.alone);
        if other.writes() > self.writes() {
            *self = other;
        }
        (self.rows, self.batches, self.alone) = (rows, batches, alone);
    }
}

/// A metric's label as a reason; what is a sentence already stays.
fn in_words(reason: &'static str) -> &'static str {
    match reason {
        "row" => "its rows were not as derived",
        "ledger" => "its counters were not as derived",
        "notifications" => "its notifications differ between runs",
        "more_records_than_pulled" => "it gives more records than its clients take at once",
        sentence => sentence,
    }
}

impl Lane {
    /// Its database, as its clients or Neo4j have named it.
    fn shown_database(&self) -> Option<String> {
        let told = || {
            let begun = self.begun()?;
            MapView::parse(&begun).ok()?.string("db").map(str::to_owned)
        };
        self.database().map(str::to_owned).or_else(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    const LONGEST: Duration = Duration::from_millis(20);

    fn report(text: &str, learn: impl FnOnce(&mut Knowledge)) -> TextReport {
        let mut knowledge = Knowledge::default();
        learn(&mut knowledge);
        TextReport::of(&None, &Arc::new(Statement::parse(text)), &knowledge)
    }

    /// A run of its own that taught what its answers look like.
    fn lesson(knowledge: &mut Knowledge) {
        use bolt_wire::packstream::Value;
        let run = Value::map([("fields", Value::List(Vec::new()))]).to_bytes();
        let summary = Value::map([("type", "w".into())]).to_bytes();
        knowledge.learn(&run, &summary, false);
        knowledge.took(Duration::from_millis(1), LONGEST);
    }

    const MERGE: &str = "MERGE (n:A {id: $id}) SET n += $props";

    #[test]
    fn every_text_says_why_it_goes_no_better_way() {
        let shaped = report(MERGE, lesson);
        assert_eq!((shaped.way, shaped.reason, shaped.shape), (Some("unwind"), None, Some("node_merge")));
        assert_eq!((shaped.alone, shaped.seconds[0]), (1, Some(0.001)));

        let fresh = report(MERGE, |_| ());
        assert_eq!((fresh.way, fresh.reason), (Some("grouped"), Some("its answer is not known yet")));

        let deletes = report("MATCH (n:A {id: $id}) DETACH DELETE n", lesson);
        assert_eq!((deletes.way, deletes.shape), (Some("grouped"), None));
        assert!(deletes.reason.is_some_and(|reason| reason.contains("delete")), "{deletes:?}");

        let unknown = report("MATCH (n:A {id: $id}) DETACH DELETE n", |_| ());
        assert_eq!((unknown.way, unknown.reason), (None, Some("it has not been run yet")));

        let wrong = report(MERGE, |knowledge| {
            lesson(knowledge);
            (0..3).for_each(|_| knowledge.mismatched("ledger"));
        });
        assert_eq!((wrong.way, wrong.reason), (Some("grouped"), Some("its counters were not as derived")));

        let left = report(MERGE, |knowledge| {
            lesson(knowledge);
            knowledge.leave_alone("more_records_than_pulled");
        });
        assert_eq!(left.way, None);
        assert!(left.reason.is_some_and(|reason| reason.contains("more records")), "{left:?}");

        let slow = report(MERGE, |knowledge| {
            lesson(knowledge);
            for _ in 0..5 {
                knowledge.grouped_took(Duration::from_millis(1), 20, true);
                knowledge.derived_took(Duration::from_millis(5), 20);
            }
        });
        assert_eq!(slow.way, Some("grouped"));
        assert!(slow.reason.is_some_and(|reason| reason.contains("slower")), "{slow:?}");
    }

    #[test]
    fn one_text_of_two_lanes_is_one_row() {
        let mut busy = report(MERGE, |knowledge| {
            lesson(knowledge);
            knowledge.succeeded(10);
        });
        busy.add(report(MERGE, |knowledge| knowledge.succeeded(3)));
        assert_eq!((busy.rows, busy.alone, busy.way), (13, 1, Some("unwind")));
        let mut quiet = report(MERGE, |knowledge| knowledge.succeeded(3));
        quiet.add(report(MERGE, |knowledge| {
            lesson(knowledge);
            knowledge.succeeded(10);
        }));
        assert_eq!((quiet.rows, quiet.alone, quiet.way), (13, 1, Some("unwind")));
    }
}
