//! A kept answer, and how one is made from what Neo4j has sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::{MapEdit, MapView, Value, Walker, encode};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::ledger::{Basis, Ledger};
use super::source::Reading;
use crate::statement::Statement;

/// What an entry takes besides its bytes, about.
const OVERHEAD: usize = 512;

/// An answer as Neo4j gave it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// RUN's metadata without times and numbers: a PackStream map.
    pub(crate) run: Bytes,
    /// The last summary's without bookmark and times.
    pub(crate) summary: Bytes,
    records: Records,
    /// How many records.
    pub(crate) count: u64,
}

#[derive(Debug)]
enum Records {
    Plain(Bytes),
    Packed(Bytes),
}

impl Answer {
    /// Its records, as messages; none if they cannot be unpacked, which does not happen.
    pub(crate) fn records(&self) -> Option<Bytes> {
        match &self.records {
            Records::Plain(bytes) => Some(bytes.clone()),
            Records::Packed(bytes) => lz4_flex::decompress_size_prepended(bytes).ok().map(Bytes::from),
        }
    }

    /// The database's name, as Neo4j gives it.
    pub(super) fn database(&self) -> Option<&str> {
        MapView::parse(&self.summary).ok()?.string("db")
    }

    /// True if it has the same records, in whatever order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let sorted = |answer: &Self| {
            let mut rest = answer.records()?;
            let mut records = Vec::new();
            while let Found::Message(extent) = MessageScanner::default().scan(&rest) {
                let message = rest.split_to(extent.wire);
                let mut scratch = BytesMut::new();
                // However Neo4j has cut it into chunks.
                records.push(Bytes::copy_from_slice(chunk::payload(&message, extent, &mut scratch)));
            }
            records.sort_unstable();
            Some(records)
        };
        self.count == other.count && sorted(self) == sorted(other)
    }

    /// Bytes that it takes.
    fn size(&self) -> usize {
        let (Records::Plain(records) | Records::Packed(records)) = &self.records;
        self.run.len() + self.summary.len() + records.len()
    }

    /// Reads the answers to one RUN and its PULLs; `led` and `followed`: those to a BEGIN before and a COMMIT behind. With the bookmark of
    /// the last.
    pub(super) fn read(mut wire: &[u8], led: bool, followed: bool, pack: usize) -> Option<(Self, String)> {
        let mut summaries: Vec<Bytes> = Vec::with_capacity(4);
        let wanted = 2 + usize::from(led) + usize::from(followed);
        let (mut records, mut count) = (BytesMut::new(), 0);
        let mut scanner = MessageScanner::default();
        while !wire.is_empty() {
            let extent = match scanner.scan(wire) {
                Found::Noop => {
                    wire.advance(2);
                    continue;
                }
                Found::Message(extent) => extent,
                Found::Partial => return None,
            };
            let (message, rest) = wire.split_at_checked(extent.wire)?;
            wire = rest;
            if chunk::peek_tag(message) == Some(Tag::RECORD) {
                // Only between RUN's answer and the last one of its result.
                if summaries.len() != 1 + usize::from(led) {
                    return None;
                }
                records.put_slice(message);
                count += 1;
                continue;
            }
            let mut scratch = BytesMut::new();
            let payload = chunk::payload(message, extent, &mut scratch);
            match Summary::parse(payload).ok()?.outcome {
                Outcome::Success { has_more: true } => {}
                Outcome::Success { has_more: false } => {
                    summaries.push(Bytes::copy_from_slice(payload.get(2..)?));
                }
                _ => return None,
            }
            if summaries.len() > wanted {
                return None;
            }
        }
        if summaries.len() != wanted {
            return None;
        }
        let last = MapView::parse(summaries.last()?).ok()?.string("bookmark")?.to_owned();
        let run = without(summaries.get(usize::from(led))?, &["t_first", "qid"])?;
        let summary = without(summaries.get(1 + usize::from(led))?, &["bookmark", "t_last"])?;
        let records = records.freeze();
        let records = if records.len() >= pack {
            Records::Packed(lz4_flex::compress_prepend_size(&records).into())
        } else {
            Records::Plain(records)
        };
        Some((Self { run, summary, records, count }, last))
    }

    /// RUN's answer: SUCCESS with what was kept, and the result's number in a transaction.
    pub(crate) fn put_run(&self, number: Option<i64>, out: &mut BytesMut) {
        let mut edit = MapEdit::removing(&[]);
        edit.add("t_first", |out| encode::integer(0, out));
        if let Some(number) = number {
            edit.add("qid", |out| encode::integer(number, out));
        }
        out.put_slice(&[0xB1, Tag::SUCCESS.0]);
        edit.apply(&MapView::parse(&self.run).unwrap_or(MapView::EMPTY), out);
    }

    /// The last summary: SUCCESS, with a bookmark outside of a transaction. `unseen`: the whole result was discarded, of which Neo4j
    /// then does not know whether it had anything.
    pub(crate) fn put_summary(&self, bookmark: Option<&str>, unseen: bool, out: &mut BytesMut) {
        let summary = MapView::parse(&self.summary).unwrap_or(MapView::EMPTY);
        let unknown = unseen && summary.has("statuses");
        let mut edit = MapEdit::removing(if unknown { &["statuses"] } else { &[] });
        if unknown {
            edit.add("statuses", |out| unknown_status().encode(out));
        }
        if let Some(bookmark) = bookmark {
            edit.add("bookmark", |out| encode::string(bookmark, out));
        }
        edit.add("t_last", |out| encode::integer(0, out));
        out.put_slice(&[0xB1, Tag::SUCCESS.0]);
        edit.apply(&summary, out);
    }

    /// Why it may not be kept: it is no read by Neo4j's own word, or Neo4j remarked on it (what it remarks on may change with names that
    /// no footprint has).
    pub(super) fn objection(&self) -> Option<&'static str> {
        let Ok(summary) = MapView::parse(&self.summary) else { return Some("not a whole answer") };
        if summary.string("type") != Some("r")
            || summary.has("stats")
            || summary.has("plan")
            || summary.has("profile")
        {
            return Some("no read");
        }
        let statuses =
            summary.get("statuses").map_or(0, |list| Walker::new(list).list_header().unwrap_or(usize::MAX));
        (summary.has("notifications") || statuses > 1).then_some("it has notifications")
    }
}

/// `statuses` of a result that nobody looked into.
fn unknown_status() -> Value {
    let description = "note: no data - unknown subcondition. Unknown GQLSTATUS from old server.";
    Value::List(vec![Value::map([
        ("gql_status", Value::from("02N42")),
        ("status_description", description.into()),
    ])])
}

fn without(map: &[u8], keys: &[&str]) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(map.len());
    MapEdit::removing(keys).apply(&MapView::parse(map).ok()?, &mut out);
    Some(out.freeze())
}

/// A kept answer, with all that tells whether it still holds.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The answer.
    pub(crate) answer: Arc<Answer>,
    /// Its text.
    pub(super) statement: Arc<Statement>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) basis: Basis,
    pub(super) epoch: u64,
    /// The newest id when it was read.
    pub(super) id: i64,
    /// Neo4j's own bookmark for it.
    pub(super) bookmark: Arc<str>,
    /// When it came.
    pub(super) since: Instant,
    /// How long Neo4j took for it.
    pub(crate) cost: Duration,
    /// When it was last known to be right, in milliseconds behind `since`.
    pub(super) proved: AtomicU64,
}

impl Entry {
    /// Bytes that it takes with its key.
    pub(super) fn weight(&self, key: usize) -> u32 {
        u32::try_from(OVERHEAD + key + self.answer.size()).unwrap_or(u32::MAX)
    }

    /// True if Neo4j would say the same at that reading.
    pub(crate) fn holds_at(&self, reading: &Reading) -> bool {
        let holds =
            Arc::ptr_eq(&self.ledger, &reading.ledger) && reading.span.covers(self.id) && self.is_untouched();
        if holds {
            let proved = reading.sent.saturating_duration_since(self.since).as_millis() as u64;
            self.proved.fetch_max(proved, Ordering::Relaxed);
        }
        holds
    }

    /// True if none of our own commits has touched it, and nobody has forgotten it by hand.
    pub(crate) fn is_untouched(&self) -> bool {
        self.ledger.is_untouched(&self.basis)
            && self.statement.cached.epoch.load(Ordering::SeqCst) == self.epoch
    }

    /// True if at that reading something had happened that cannot be explained.
    pub(crate) fn is_behind(&self, reading: &Reading) -> bool {
        // Before the first quiet reading nothing is settled, and the next one may tell more.
        let base = Some(reading.span.base).filter(|base| *base <= reading.newest());
        !Arc::ptr_eq(&self.ledger, &reading.ledger)
            || base.is_some_and(|base| self.id < base && self.id != reading.newest())
    }

    /// While Neo4j does not answer: true if it was right no longer ago than `limit`.
    pub(crate) fn may_be_stale(&self, limit: Duration) -> bool {
        !limit.is_zero() && self.staleness() <= limit
    }

    /// How long it has been kept.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The newest id when it was read.
    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    /// Neo4j's bookmark for it.
    pub(crate) fn bookmark(&self) -> Arc<str> {
        Arc::clone(&self.bookmark)
    }

    /// How long ago it was known to be right.
    pub(crate) fn staleness(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.proved.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bolt_wire::packstream::value::put_message;

    use super::*;
    use crate::cache::ledger::Span;
    use crate::statement::Footprint;

    /// An answer with these records.
    pub(crate) fn answer_with(rows: &[i64]) -> Answer {
        let mut wire = BytesMut::new();
        success(&[("fields", Value::List(vec!["n".into()]))], &mut wire);
        rows.iter().for_each(|row| record(*row, &mut wire));
        success(&[("type", "r".into()), ("bookmark", "b".into())], &mut wire);
        Answer::read(&wire, false, false, usize::MAX).unwrap().0
    }

    /// A kept answer of that database.
    pub(crate) fn entry_with(database: [u8; 16], rows: &[i64]) -> Entry {
        let ledger = Arc::new(Ledger::new(database));
        Entry {
            answer: Arc::new(answer_with(rows)),
            statement: Arc::new(Statement::parse("RETURN 1")),
            basis: ledger.basis(&Footprint::WHOLE),
            epoch: 0,
            ledger,
            id: 1,
            bookmark: "b".into(),
            since: Instant::now(),
            cost: Duration::ZERO,
            proved: AtomicU64::new(0),
        }
    }

    fn success(entries: &[(&'static str, Value)], out: &mut BytesMut) {
        put_message(Tag::SUCCESS.0, &[Value::map(entries.iter().cloned())], out);
    }

    fn record(n: i64, out: &mut BytesMut) {
        put_message(Tag::RECORD.0, &[Value::List(vec![n.into()])], out);
    }

    fn whole(bookmark_last: bool) -> BytesMut {
        let mut wire = BytesMut::new();
        success(
            &[("fields", Value::List(vec!["n".into()])), ("t_first", 3.into()), ("qid", 0.into())],
            &mut wire,
        );
        record(1, &mut wire);
        success(&[("has_more", true.into())], &mut wire);
        wire.put_slice(&chunk::NOOP);
        record(2, &mut wire);
        let mut last = vec![("type", "r".into()), ("t_last", 1.into())];
        if bookmark_last {
            last.push(("bookmark", "b".into()));
        }
        success(&last, &mut wire);
        wire
    }

    #[test]
    fn only_what_is_settled_puts_an_answer_behind() {
        let entry = entry_with([1; 16], &[1]);
        let behind = |newest: i64, base: i64, settled: i64| {
            let ledger = Arc::clone(&entry.ledger);
            let span = Span { newest, base, settled };
            entry.is_behind(&Reading { ledger, span, bookmark: "b".into(), sent: Instant::now() })
        };
        assert!(behind(5, 3, 5));
        assert!(!behind(5, 1, 5) && !behind(1, 3, 3));
        assert!(!behind(5, i64::MAX, -1), "no quiet reading has come yet");
    }

    #[test]
    fn answers_are_read_as_they_come() {
        let (answer, bookmark) = Answer::read(&whole(true), false, false, usize::MAX).unwrap();
        assert_eq!((answer.count, bookmark.as_str(), answer.objection()), (2, "b", None));
        let run = Value::decode(&answer.run).unwrap();
        assert_eq!(run, Value::map([("fields", Value::List(vec!["n".into()]))]));
        let mut records = BytesMut::new();
        record(1, &mut records);
        record(2, &mut records);
        assert_eq!(answer.records().unwrap(), records);
        let (packed, _) = Answer::read(&whole(true), false, false, 0).unwrap();
        assert_eq!(packed.records().unwrap(), records);
        // In a transaction.
        let mut wire = BytesMut::new();
        success(&[("db", "neo4j".into())], &mut wire);
        wire.put_slice(&whole(false));
        success(&[("bookmark", "c".into())], &mut wire);
        let (answer, bookmark) = Answer::read(&wire, true, true, usize::MAX).unwrap();
        assert_eq!((answer.count, bookmark.as_str()), (2, "c"));
    }

    #[test]
    fn what_is_no_whole_answer_is_not_kept() {
        let wire = whole(true);
        for end in 0..wire.len() {
            assert!(Answer::read(&wire[..end], false, false, usize::MAX).is_none(), "{end}");
        }
        assert!(Answer::read(&wire, true, false, usize::MAX).is_none());
        assert!(Answer::read(&wire, false, true, usize::MAX).is_none());
        assert!(Answer::read(&whole(false), false, false, usize::MAX).is_none());
        let mut twice = wire.clone();
        twice.put_slice(&wire);
        assert!(Answer::read(&twice, false, false, usize::MAX).is_none());
        let mut failed = BytesMut::new();
        put_message(Tag::FAILURE.0, &[Value::map([("code", "x".into())])], &mut failed);
        assert!(Answer::read(&failed, false, false, usize::MAX).is_none());
    }
}
