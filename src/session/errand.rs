//! Writes that may join a batch: handed in, waited for, or run alone with an eye on what they teach.  [hot path]

use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::request::only_map;
use bolt_wire::message::{Begin, Outcome, Run, Summary};
use bolt_wire::packstream::{MapEdit, MapView, Walker};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::filter::inherited_keys;
use super::{End, Session, Shared, Step};
use crate::bookmark::Bookmark;
use crate::coalesce::{Lane, LaneKey, Reply, Submitted, Turn, Waiting, Write};
use crate::statement::{Class, Shape, Statement, Way};
use crate::upstream::{Access, Need};

/// A write that its session runs itself, and what group commit learns from it.
pub(super) struct Errand {
    lane: Arc<Lane>,
    /// The write; none before a transaction's first request.
    statement: Option<Arc<Statement>>,
    /// Requests that a transaction has made; none if there is no transaction.
    requests: Option<u32>,
    /// The lane's turn, if it has one: given back with the errand.
    turn: Option<Turn>,
    /// RUN's metadata, if the run is to teach what answers look like.
    run: Option<Vec<u8>>,
    /// Records that have come.
    pub(super) records: u64,
}

/// The lane that the last write took, and what it was chosen by.
pub(super) struct LaneMemo {
    begin: Box<[u8]>,
    managed: bool,
    lane: Arc<Lane>,
}

/// What came of a write.
pub(super) enum Joined {
    /// It was answered or taken back: its messages are gone.
    Done,
    /// The session relays it.
    Relay(Option<Box<Errand>>),
}

/// A write that may join, with what it needs for that.
struct Candidate {
    lane: Arc<Lane>,
    write: Write,
    /// Bytes of its two messages.
    wire: usize,
}

/// Keys of RUN's metadata that a group can carry for its members.
const CARRIED: [&str; 5] = ["db", "mode", "tx_timeout", "tx_metadata", "bookmarks"];

impl Session {
    /// Sees whether the RUN at the start of `inbuf` may join a batch, and if so waits for its answer.
    pub(super) async fn join(&mut self, extent: Extent) -> Step<Joined> {
        let Some(candidate) = self.candidate(extent) else { return Ok(Joined::Relay(None)) };
        let Candidate { lane, write, wire } = candidate;
        let statement = Arc::clone(&write.statement);
        let metrics = &self.shared.metrics.coalesce;
        if let Some(why) = lane.knowledge(&statement, |knowledge| knowledge.objection(&statement)) {
            metrics.relayed.with_label_values(&[why]).inc();
            return Ok(Joined::Relay(Some(self.place(Errand::new(lane, statement, None)))));
        }
        let waiting = match lane.submit(&self.shared, write) {
            Submitted::Alone(turn) => {
                metrics.alone.inc();
                return Ok(Joined::Relay(Some(self.place(Errand::new(lane, statement, Some(turn))))));
            }
            Submitted::Full => {
                metrics.relayed.with_label_values(&["coalesce.max_waiting writes wait already"]).inc();
                return Ok(Joined::Relay(None));
            }
            Submitted::Waiting(waiting) => waiting,
        };
        // Waiting has a large state, and a session at rest is not to carry it.
        Box::pin(self.wait_for_batch(lane, statement, waiting, wire)).await
    }

    async fn wait_for_batch(
        &mut self,
        lane: Arc<Lane>,
        statement: Arc<Statement>,
        waiting: Waiting,
        wire: usize,
    ) -> Step<Joined> {
        let asked = Instant::now();
        let Waiting { reply, claim } = waiting;
        let reply = match self.wait_for(reply, Some(&claim)).await? {
            None => return Ok(Joined::Done),
            Some(reply) => reply.unwrap_or(Reply::Unknown),
        };
        let (answer, failed) = match reply {
            Reply::Alone(turn) => {
                return Ok(Joined::Relay(Some(self.place(Errand::new(lane, statement, turn)))));
            }
            // A shared transaction is for those who began one.
            Reply::Unknown | Reply::Given(_) => {
                self.shared.metrics.lost.inc();
                return Err(End::UpstreamLost);
            }
            Reply::Answer(answer) => (answer, false),
            Reply::Refused(answer) => (answer, true),
        };
        self.inbuf.advance(wire);
        self.telemetry = None;
        self.own_answers().put_slice(&answer);
        self.watch_batched(failed, &answer);
        let metrics = &self.shared.metrics;
        metrics.exchange_seconds.observe(asked.elapsed().as_secs_f64());
        metrics.finished(Tag::RUN, failed, false);
        if failed {
            self.machine.refused();
        }
        Ok(Joined::Done)
    }

    /// Looks at the RUN at the start of `inbuf`: is it a write that a group can carry, and is all of it here?
    fn candidate(&mut self, extent: Extent) -> Option<Candidate> {
        if !self.shared.config.load().coalesce.enabled {
            return None;
        }
        let mut begin = std::mem::take(&mut self.scratch);
        begin.clear();
        let mut bookmarks = None;
        let asked = asked(&self.shared, &self.inbuf, extent, |_, run, _| {
            bookmarks = carried(&run.extra, &mut begin);
            bookmarks.is_some()
        });
        let lane = self.reached_lane(begin, bookmarks, false);
        let ((mut write, wire), (lane, bookmarked)) = asked.zip(lane)?;
        write.bookmarked = bookmarked;
        Some(Candidate { lane, write, wire })
    }

    /// Looks at the RUN of a held transaction: may it run in a shared one? With the bytes of its two messages.
    pub(super) fn shareable(
        &mut self,
        extent: Extent,
        lane: &Lane,
        announced: bool,
        bookmarked: bool,
    ) -> Option<(Write, usize)> {
        let (mut write, wire) = asked(&self.shared, &self.inbuf, extent, |shape, run, fetch| {
            fetch == Tag::PULL && run.extra.is_empty() && shape.is_some_and(|shape| shape.way == Way::Unwind)
        })?;
        write.key.as_ref()?;
        write.bookmarked = bookmarked;
        let statement = &write.statement;
        let suits = lane.knowledge(statement, |knowledge| {
            knowledge.objection(statement).is_none() && knowledge.stands_alone(announced)
        });
        suits.then_some((write, wire))
    }

    /// The lane for the BEGIN at the start of `inbuf`, and whether it waits for bookmarks; none if a group cannot carry it.
    pub(super) fn carrying_lane(&mut self, extent: Extent) -> Option<(Arc<Lane>, bool)> {
        let mut begin = std::mem::take(&mut self.scratch);
        begin.clear();
        let mut joined = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, extent, &mut joined);
        let bookmarks = Begin::parse(payload).ok().and_then(|message| carried(&message.extra, &mut begin));
        self.reached_lane(begin, bookmarks, true)
    }

    /// The lane of what `carried` has read; none if it waits for bookmarks that may not be reached. Keeps the buffer.
    fn reached_lane(
        &mut self,
        begin: BytesMut,
        bookmarks: Option<Vec<Bookmark>>,
        managed: bool,
    ) -> Option<(Arc<Lane>, bool)> {
        let lane = bookmarks.as_ref().and_then(|_| self.lane_for(&begin, managed));
        self.scratch = begin;
        let (lane, bookmarks) = (lane?, bookmarks?);
        let reached = bookmarks.iter().all(|bookmark| lane.has_reached(bookmark));
        reached.then_some((lane, !bookmarks.is_empty()))
    }

    /// A place for an errand: the last one's, if it is over.
    pub(super) fn place(&mut self, errand: Errand) -> Box<Errand> {
        match self.spare.take() {
            Some(mut place) => {
                *place = errand;
                place
            }
            None => Box::new(errand),
        }
    }

    /// The errand is over, or none any longer: its turn is given back.
    pub(super) fn drop_errand(&mut self) {
        if let Some(mut errand) = self.errand.take() {
            (errand.turn, errand.statement, errand.run) = (None, None, None);
            self.spare = Some(errand);
        }
    }

    /// The lane of a write with this metadata (RUN's or BEGIN's, without bookmarks).
    fn lane_for(&mut self, extra: &[u8], managed: bool) -> Option<Arc<Lane>> {
        let principal = self.principal.as_ref()?;
        if let Some(memo) = &self.lane
            && *memo.begin == *extra
            && memo.managed == managed
        {
            return Some(Arc::clone(&memo.lane));
        }
        let map = MapView::parse(extra).ok()?;
        let begin = inherited_keys(self.version(), &self.profile.filter, &map);
        let key = LaneKey { principal: principal.id, connection: (*self.key).clone(), managed, begin };
        let need = || Need {
            key: Arc::clone(&self.key),
            principal: Arc::clone(principal),
            access: Access { write: true, database: map.string("db").map(Into::into), ..Access::default() },
        };
        let lane = self.shared.coalescer.lane(key, need)?;
        self.lane = Some(Box::new(LaneMemo { begin: extra.into(), managed, lane: Arc::clone(&lane) }));
        Some(lane)
    }

    /// A write that ran alone is over.
    pub(super) fn end_errand(&mut self, failed: bool) {
        let Some(errand) = &self.errand else { return };
        // What runs beside many others takes its time because of them.
        let tells = !failed && errand.requests.is_none() && errand.turn.is_some();
        if let Some(statement) = errand.statement.as_ref().filter(|_| tells) {
            let longest = self.shared.config.load().coalesce.max_statement_time;
            let longest = if statement.is_shaped() { Duration::MAX } else { longest };
            let took = self.exchange.leased.elapsed();
            errand.lane.knowledge(statement, |knowledge| knowledge.took(took, longest));
        }
        self.drop_errand();
    }
}

impl Errand {
    /// An answer of Neo4j's to it; false if it is no errand any longer.
    pub(super) fn note(&mut self, tag: Tag, summary: &Summary<'_>, payload: &[u8]) -> bool {
        let meta = payload.get(2..).unwrap_or_default();
        match (tag, summary.outcome) {
            (Tag::BEGIN, Outcome::Success { .. }) => {
                self.lane.learn_begun(meta);
                true
            }
            (Tag::RUN, Outcome::Success { .. }) => {
                if let Some(run) = self.run.as_mut().filter(|run| run.is_empty()) {
                    run.extend_from_slice(meta);
                }
                true
            }
            (Tag::COMMIT, Outcome::Success { .. }) => {
                if let (Some(1), Some(statement)) = (self.requests, &self.statement) {
                    self.lane.knowledge(statement, |knowledge| knowledge.stood_alone());
                }
                if let Some(bookmark) = summary.meta.string("bookmark") {
                    self.lane.reached(bookmark);
                }
                true
            }
            (Tag::PULL, Outcome::Success { has_more: false }) => {
                if let Some(bookmark) = summary.meta.string("bookmark") {
                    self.lane.reached(bookmark);
                }
                if let (Some(run), Some(statement)) = (self.run.take(), &self.statement) {
                    let records = self.records > 0;
                    self.lane.knowledge(statement, |knowledge| knowledge.learn(&run, meta, records));
                }
                true
            }
            // A result that stays open is its client's to read, in its own time: others do not wait for it.
            _ => false,
        }
    }

    fn new(lane: Arc<Lane>, statement: Arc<Statement>, turn: Option<Turn>) -> Self {
        let teaches = lane.knowledge(&statement, |knowledge| knowledge.wants_lesson());
        let run = teaches.then(Vec::new);
        Self { lane, statement: Some(statement), requests: None, turn, run, records: 0 }
    }

    /// A transaction that its session runs itself.
    pub(super) fn of_transaction(lane: Arc<Lane>, turn: Option<Turn>) -> Self {
        Self { lane, statement: None, requests: Some(0), turn, run: None, records: 0 }
    }

    /// A transaction's next request.
    pub(super) fn asked(&mut self, tag: Tag, statement: impl FnOnce() -> Option<Arc<Statement>>) {
        let Some(requests) = &mut self.requests else { return };
        if tag != Tag::RUN {
            return;
        }
        *requests += 1;
        match (&self.statement, *requests) {
            (_, 1) => {
                self.statement = statement().filter(|statement| statement.is_shaped());
                self.run = self.statement.as_ref().and_then(|statement| {
                    self.lane.knowledge(statement, |knowledge| knowledge.wants_lesson()).then(Vec::new)
                });
            }
            (Some(statement), 2) => self.lane.knowledge(statement, |knowledge| knowledge.went_on()),
            _ => {}
        }
    }
}

/// The RUN and PULL at the start of `buf` as a write that may be deferred: one of a known shape that answers no records. With the bytes
/// of its two messages.
pub(super) fn deferrable(shared: &Shared, buf: &[u8], extent: Extent) -> Option<(Write, usize)> {
    let asked = asked(shared, buf, extent, |shape, run, _| {
        run.extra.is_empty() && shape.is_some_and(|shape| shape.columns.is_empty())
    });
    asked.filter(|(write, _)| write.key.is_some())
}

/// The RUN at the start of `buf` and the PULL or DISCARD behind it as a write, if it is one of those that are wanted. With the bytes of its
/// two messages.
fn asked(
    shared: &Shared,
    buf: &[u8],
    extent: Extent,
    wanted: impl FnOnce(Option<&Shape>, &Run<'_>, Tag) -> bool,
) -> Option<(Write, usize)> {
    if extent.payload > shared.config.load().coalesce.max_parameters {
        return None;
    }
    let (behind, fetch, records) = fetch(buf.get(extent.wire..)?)?;
    let mut scratch = BytesMut::new();
    let run = Run::parse(chunk::payload(buf, extent, &mut scratch)).ok()?;
    MapView::parse(run.parameters).ok()?;
    let statement = shared.coalescer.statements.get(run.text);
    let Class::Write { shape } = &statement.class else { return None };
    let shape = shape.as_deref().ok();
    if !wanted(shape, &run, fetch) {
        return None;
    }
    let key = shape.and_then(|shape| Write::row_key(&statement, shape, run.parameters));
    let parameters = Bytes::copy_from_slice(run.parameters);
    let write = Write { statement, parameters, fetch, records, bookmarked: false, key };
    Some((write, extent.wire + behind))
}

/// The PULL or DISCARD at the start of `buf`: its bytes, which it is, and how many records it asks for. Only one that takes all there is,
/// of the last result, can be answered by a batch.
fn fetch(buf: &[u8]) -> Option<(usize, Tag, i64)> {
    let Found::Message(extent) = MessageScanner::default().scan(buf) else { return None };
    let tag = chunk::peek_tag(buf).filter(|tag| matches!(*tag, Tag::PULL | Tag::DISCARD))?;
    let mut scratch = BytesMut::new();
    let map = only_map(chunk::payload(buf, extent, &mut scratch)).ok()?;
    let mut records = None;
    for (name, value) in map.iter() {
        let value = Walker::new(value).integer().ok()?;
        match name {
            "n" => records = Some(value).filter(|n| *n == -1 || *n > 0),
            "qid" if value == -1 => {}
            _ => return None,
        }
    }
    let records = records.filter(|n| tag == Tag::PULL || *n == -1)?;
    Some((extent.wire, tag, records))
}

/// Appends the metadata of a RUN or BEGIN without its bookmarks, and gives those; none if a group cannot carry it.
fn carried(extra: &MapView<'_>, out: &mut BytesMut) -> Option<Vec<Bookmark>> {
    let known = |name: &str| CARRIED.contains(&name) || name.starts_with("notifications_");
    if extra.string("mode") == Some("r") || extra.iter().any(|(name, _)| !known(name)) {
        return None;
    }
    MapEdit::removing(&["bookmarks"]).apply(extra, out);
    bookmarks(extra)
}

/// The bookmarks of a request; none if they are not of the usual form.
pub(super) fn bookmarks(extra: &MapView<'_>) -> Option<Vec<Bookmark>> {
    let Some(list) = extra.get("bookmarks") else { return Some(Vec::new()) };
    let mut walker = Walker::new(list);
    let items = walker.list_header().ok()?;
    (0..items).map(|_| Bookmark::parse(walker.string().ok()?)).collect()
}
