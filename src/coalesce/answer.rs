//! Each member's own answer: taken from Neo4j's, or derived from its rows and checked.

use bolt_wire::packstream::{MapView, Walker, encode};
use bolt_wire::{Tag, chunk};
use bytes::{BufMut, Bytes, BytesMut};

use super::member::map_size;
use crate::statement::{Amount, Counter, Shape, When};

/// What a member was given by its statement, before COMMIT.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Its records, as messages.
    pub(super) records: BytesMut,
    /// How many.
    pub(super) rows: u64,
    /// Its counters, where they are derived.
    pub(super) counters: Counters,
    /// RUN's metadata: Neo4j's for it alone, or the text's.
    pub(super) run: Bytes,
    /// The last summary's metadata: Neo4j's for it alone, or the text's.
    pub(super) summary: Bytes,
    /// Milliseconds to the first and from it to the last record, where the metadata are the text's.
    pub(super) times: Option<(i64, i64)>,
}

impl Given {
    /// Its counters as a PackStream map, as Neo4j reports them; none if nothing was changed.
    pub(super) fn stats(&self, derived: bool) -> Option<Bytes> {
        if !derived {
            let summary = MapView::parse(&self.summary).ok()?;
            return summary.get("stats").map(Bytes::copy_from_slice);
        }
        let mut out = BytesMut::new();
        self.counters.write(&mut out);
        (self.counters != Counters::default()).then(|| out.freeze())
    }
}

/// Names of the counters that a statement of a shape may report; no shape deletes.
const NAMES: [&str; 7] = [
    "nodes-created",
    "nodes-deleted",
    "relationships-created",
    "relationships-deleted",
    "properties-set",
    "labels-added",
    "labels-removed",
];

/// The order in which Neo4j lists them.
const LISTED: [usize; 7] = [5, 1, 2, 6, 0, 3, 4];

/// Counters of one member or of a whole statement.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counters([u64; 7]);

impl Counters {
    /// Reads `stats`; `None` if it has a counter that no shape can cause.
    pub(super) fn read(stats: Option<MapView<'_>>) -> Option<Self> {
        let mut counters = Self::default();
        for (name, value) in stats.iter().flat_map(MapView::iter) {
            if name == "contains-updates" {
                continue;
            }
            let slot = counters.0.get_mut(NAMES.iter().position(|known| *known == name)?)?;
            *slot = u64::try_from(Walker::new(value).integer().ok()?).ok()?;
        }
        Some(counters)
    }

    fn slot(&mut self, counter: Counter) -> &mut u64 {
        let [nodes, _, relationships, _, properties, labels, stripped] = &mut self.0;
        match counter {
            Counter::NodesCreated => nodes,
            Counter::RelationshipsCreated => relationships,
            Counter::PropertiesSet => properties,
            Counter::LabelsAdded => labels,
            Counter::LabelsRemoved => stripped,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    fn write(&self, out: &mut BytesMut) {
        let set =
            || LISTED.iter().filter_map(|at| Some((NAMES.get(*at)?, *self.0.get(*at)?))).filter(|c| c.1 > 0);
        encode::map_header(1 + set().count(), out);
        encode::string("contains-updates", out);
        encode::boolean(true, out);
        for (name, count) in set() {
            encode::string(name, out);
            encode::integer(i64::try_from(count).unwrap_or(i64::MAX), out);
        }
    }

    fn is_zero(&self) -> bool {
        self.0 == [0; 7]
    }
}

/// A flag of a row.
#[derive(Clone, Copy, Debug)]
enum Flag {
    Boolean(bool),
    Integer(u64),
}

/// Reads a RECORD of a shape's statement: the number of the member that it belongs to, and what it gives to it. `None` if it is not
/// what the statement was to return.
pub(super) fn read_row<'a>(shape: &Shape, payload: &'a [u8]) -> Option<(usize, Row<'a>)> {
    let mut walker = Walker::new(payload);
    let (0x71, 1) = walker.struct_header().ok()? else { return None };
    if walker.list_header().ok()? != 1 + shape.flags + shape.columns.len() {
        return None;
    }
    let number = usize::try_from(walker.integer().ok()?).ok()?;
    let mut flags = Vec::with_capacity(shape.flags);
    for _ in 0..shape.flags {
        flags.push(match walker.marker().ok()? {
            marker @ (0xC2 | 0xC3) => {
                walker.value().ok()?;
                Flag::Boolean(marker == 0xC3)
            }
            _ => Flag::Integer(u64::try_from(walker.integer().ok()?).ok()?),
        });
    }
    Some((number, Row { flags, columns: walker.rest() }))
}

/// What a RECORD of a shape's statement says about one member.
pub(super) struct Row<'a> {
    flags: Vec<Flag>,
    columns: &'a [u8],
}

impl Row<'_> {
    /// Adds the row to what its member is given; false if it cannot be understood.
    pub(super) fn give(&self, shape: &Shape, parameters: &[u8], given: &mut Given) -> bool {
        for effect in &shape.effects {
            let holds = match effect.when {
                When::Always => true,
                When::Flag(at) => match self.flags.get(at) {
                    Some(Flag::Boolean(flag)) => *flag,
                    _ => return false,
                },
                When::NotFlag(at) => match self.flags.get(at) {
                    Some(Flag::Boolean(flag)) => !*flag,
                    _ => return false,
                },
            };
            if !holds {
                continue;
            }
            let Some(amount) = self.amount(&effect.amount, parameters) else { return false };
            *given.counters.slot(effect.counter) += amount;
        }
        given.rows += 1;
        if !shape.columns.is_empty() {
            chunk::put_message(&mut given.records, |out| {
                encode::struct_header(Tag::RECORD.0, 1, out);
                encode::list_header(shape.columns.len(), out);
                out.put_slice(self.columns);
            });
        }
        true
    }

    fn amount(&self, amount: &Amount, parameters: &[u8]) -> Option<u64> {
        Some(match amount {
            Amount::Constant(count) => u64::from(*count),
            Amount::Flag(at) => match self.flags.get(*at)? {
                Flag::Integer(count) => *count,
                Flag::Boolean(flag) => u64::from(*flag),
            },
            Amount::MapSize(path) => map_size(parameters, path)?,
        })
    }
}

fn put_last(milliseconds: i64, out: &mut BytesMut) {
    encode::string("t_last", out);
    encode::integer(milliseconds, out);
}

/// How an answer is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form<'a> {
    /// To an auto-commit request, after COMMIT.
    AutoCommit {
        /// The home database's name, where Neo4j tells it.
        database: Option<&'a [u8]>,
        /// COMMIT's bookmark.
        bookmark: Option<&'a str>,
    },
    /// To a request inside a transaction.
    InTransaction,
    /// So that two answers to one request can be compared.
    Comparable,
}

impl Given {
    /// RUN's answer.
    fn put_run(&self, form: Form<'_>, out: &mut BytesMut) {
        let database = match form {
            Form::AutoCommit { database, .. } => database,
            Form::InTransaction | Form::Comparable => None,
        };
        let transaction = usize::from(!matches!(form, Form::AutoCommit { .. }));
        let run = MapView::parse(&self.run).unwrap_or(MapView::EMPTY);
        chunk::put_message(out, |out| {
            out.put_slice(&[0xB1, Tag::SUCCESS.0]);
            let known = || run.iter().filter(|(name, _)| !matches!(*name, "qid" | "db" | "t_first"));
            encode::map_header(1 + known().count() + usize::from(database.is_some()) + transaction, out);
            encode::string("t_first", out);
            let first = self.times.map_or_else(|| run.integer("t_first").unwrap_or(0), |times| times.0);
            encode::integer(if matches!(form, Form::Comparable) { 0 } else { first }, out);
            for (name, value) in known() {
                encode::string(name, out);
                out.put_slice(value);
            }
            if let Some(database) = database {
                encode::string("db", out);
                out.put_slice(database);
            }
            if transaction == 1 {
                encode::string("qid", out);
                encode::integer(0, out);
            }
        });
    }

    /// The whole answer: RUN's, the records, the last summary.
    pub(super) fn answer(&self, form: Form<'_>) -> Bytes {
        let mut out = BytesMut::with_capacity(self.records.len() + 256);
        self.put_run(form, &mut out);
        out.put_slice(&self.records);
        let summary = MapView::parse(&self.summary).unwrap_or(MapView::EMPTY);
        let bookmark = match form {
            Form::AutoCommit { bookmark, .. } => bookmark,
            Form::InTransaction | Form::Comparable => None,
        };
        let stats = self.times.is_some() && !self.counters.is_zero();
        let last = self.times.map_or_else(|| summary.integer("t_last").unwrap_or(0), |times| times.1);
        let last = if matches!(form, Form::Comparable) { 0 } else { last };
        chunk::put_message(&mut out, |out| {
            out.put_slice(&[0xB1, Tag::SUCCESS.0]);
            let known = || summary.iter().filter(|(name, _)| !matches!(*name, "bookmark" | "t_last"));
            encode::map_header(
                1 + known().count() + usize::from(bookmark.is_some()) + usize::from(stats),
                out,
            );
            if let Some(bookmark) = bookmark {
                encode::string("bookmark", out);
                encode::string(bookmark, out);
            }
            if stats {
                encode::string("stats", out);
                self.counters.write(out);
            }
            let mut last = Some(last);
            for (name, value) in known() {
                // Where Neo4j has it.
                if name == "db"
                    && let Some(last) = last.take()
                {
                    put_last(last, out);
                }
                encode::string(name, out);
                out.put_slice(value);
            }
            if let Some(last) = last {
                put_last(last, out);
            }
        });
        out.freeze()
    }

    /// The answer inside a transaction, without times.
    pub(crate) fn comparable(&self) -> Bytes {
        self.answer(Form::Comparable)
    }

    /// RUN's answer, and `failure` (a FAILURE's payload) for PULL or DISCARD.
    pub(super) fn refusal(&self, database: Option<&[u8]>, failure: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        self.put_run(Form::AutoCommit { database, bookmark: None }, &mut out);
        chunk::put_message(&mut out, |out| out.put_slice(failure));
        out.freeze()
    }
}
