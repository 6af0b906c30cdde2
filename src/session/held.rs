//! Transactions that were begun here and not at Neo4j yet: their one write may share a transaction with others.
//!
//! BEGIN is answered as Neo4j answers it. A write of a known shape that follows may run in a shared transaction; anything else begins
//! the transaction at Neo4j after all, with what was answered run again where it is needed.

use std::sync::Arc;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::Outcome as Ended;
use bolt_wire::packstream::value::put_message;
use bolt_wire::packstream::{MapView, Value, encode};
use bolt_wire::{Tag, packstream::MapEdit};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::cached::Looked;
use super::edit::add_bookmark;
use super::errand::{Errand, Joined};
use super::filter::inherited_keys;
use super::requests::Message;
use super::start::Leased;
use super::{End, Session, Step};
use crate::coalesce::{Ballot, Claim, Lane, Outcome, Share, Submitted, next_summary, own_answer};
use crate::failure::Refusal;
use crate::statement::Statement;
use crate::upstream::Connection;

/// A transaction of the client's that has none at Neo4j.
pub(super) struct Held {
    /// Where its write may join others; none if it only reads.
    lane: Option<Arc<Lane>>,
    /// BEGIN's metadata as the client gave them (a PackStream map).
    begin: Bytes,
    /// The driver said that it is a managed one.
    announced: bool,
    /// It waits for bookmarks, which are known to be reached.
    bookmarked: bool,
    /// Its write, once that was answered.
    written: Option<Written>,
    /// The bookmark of what was answered from the cache.
    read: Option<Arc<str>>,
    /// How many reads were.
    reads: i64,
}

/// A write that was answered in a shared transaction.
struct Written {
    statement: Arc<Statement>,
    /// RUN and PULL as the client sent them.
    wire: Bytes,
    /// What every run of it must answer.
    comparable: Bytes,
    /// None once the vote is cast and counted.
    ballot: Option<Ballot>,
}

impl Held {
    /// A transaction that reads.
    pub(super) fn reading(begin: Bytes) -> Self {
        Self { lane: None, begin, announced: false, bookmarked: false, written: None, read: None, reads: 0 }
    }

    /// Nothing was run in it.
    pub(super) fn is_untouched(&self) -> bool {
        self.written.is_none() && self.read.is_none()
    }

    /// A read is answered from the cache; gives its number, as Neo4j counts them.
    pub(super) fn served(&mut self, bookmark: &Arc<str>) -> i64 {
        self.read = Some(Arc::clone(bookmark));
        self.reads += 1;
        self.reads - 1
    }

    /// BEGIN's metadata, as the client gave them.
    pub(super) fn begin(&self) -> &[u8] {
        &self.begin
    }

    /// The database that its client has named.
    pub(super) fn database(&self) -> Option<&str> {
        MapView::parse(&self.begin).ok()?.string("db")
    }
}

/// The two telemetry values of APIs that commit what they began, unless their work fails.
const MANAGED: [u8; 2] = [0, 3];

/// What came of BEGIN.
pub(super) enum Begun {
    /// It was answered here.
    Held,
    /// It goes to Neo4j; with the lane's turn, if it has one.
    Relay(Option<Box<Errand>>),
}

/// A statement that counts, and does nothing else.
fn put_skip(connection: &mut Connection) {
    connection.queue_with(Tag::RUN, true, |out| {
        let nothing = || Value::Map(Vec::new());
        put_message(Tag::RUN.0, &["RETURN 1".into(), nothing(), nothing()], out);
    });
    connection.queue_with(Tag::DISCARD, true, |out| {
        put_message(Tag::DISCARD.0, &[Value::map([("n", Value::Integer(-1))])], out);
    });
}

/// COMMIT's metadata.
fn put_bookmark(bookmark: Option<&str>, meta: &mut BytesMut) {
    let mut edit = MapEdit::removing(&[]);
    if let Some(bookmark) = bookmark {
        edit.add("bookmark", |out| encode::string(bookmark, out));
    }
    edit.apply(&MapView::EMPTY, meta);
}

impl Session {
    /// Looks at the BEGIN at the start of `inbuf`: while others write, it need not reach Neo4j yet.
    pub(super) fn hold_begin(&mut self, message: Message) -> Begun {
        let api = self.api.take();
        let on = {
            let config = self.shared.config.load();
            config.coalesce.enabled && config.coalesce.managed
        };
        let lane = if on { self.carrying_lane(message.extent) } else { None };
        let Some((lane, bookmarked)) = lane else { return Begun::Relay(None) };
        let Some(begun) = lane.begun().filter(|_| lane.holds() && self.goes_on_joinably(message)) else {
            return Begun::Relay(Some(self.place(Errand::of_transaction(lane, None))));
        };
        if let Some(turn) = lane.take_turn(&self.shared) {
            return Begun::Relay(Some(self.place(Errand::of_transaction(lane, Some(turn)))));
        }
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let begin = Bytes::copy_from_slice(payload.get(2..).unwrap_or_default());
        let announced = api.is_some_and(|api| MANAGED.contains(&api));
        let lane = Some(lane);
        self.held =
            Some(Box::new(Held { lane, begin, announced, bookmarked, written: None, read: None, reads: 0 }));
        self.begin_exchange(Tag::BEGIN);
        self.inbuf.advance(message.extent.wire);
        self.machine.answered_here(Tag::BEGIN, Ended::DONE);
        self.put_success(&begun);
        Begun::Held
    }

    /// Whether what follows BEGIN in the buffer, if it has come already, could join a shared transaction.
    fn goes_on_joinably(&mut self, message: Message) -> bool {
        let rest = self.inbuf.get(message.extent.wire..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
        let Found::Message(extent) = MessageScanner::default().scan(rest) else { return false };
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(rest, extent, &mut scratch);
        bolt_wire::message::Run::parse(payload)
            .is_ok_and(|run| self.shared.coalescer.statements.get(run.text).is_shaped())
    }

    /// A message of a held transaction; true if it was dealt with.
    pub(super) async fn take_held(&mut self, message: Message) -> Step<bool> {
        if message.tag == Tag::RUN {
            self.watch(message.extent);
        }
        let Some(mut held) = self.held.take() else { return Ok(false) };
        match message.tag {
            Tag::RESET => {
                self.inbuf.advance(message.extent.wire);
                (0..std::mem::take(&mut self.overtaken)).for_each(|_| self.put_ignored());
                self.machine.answered_here(Tag::RESET, Ended::DONE);
                self.put_success(&[0xA0]);
                self.count_held(false, true);
                Ok(true)
            }
            Tag::ROLLBACK => {
                self.inbuf.advance(message.extent.wire);
                self.answer_end(Tag::ROLLBACK, &[0xA0]);
                Ok(true)
            }
            Tag::COMMIT if held.written.is_some() => self.commit_held(held, message).await,
            Tag::COMMIT if held.read.is_some() => {
                self.inbuf.advance(message.extent.wire);
                let mut meta = BytesMut::new();
                put_bookmark(held.read.as_deref(), &mut meta);
                self.answer_end(Tag::COMMIT, &meta);
                Ok(true)
            }
            Tag::RUN if held.lane.is_none() => {
                let begin = held.begin.clone();
                self.held = Some(held);
                match self.look_up(message, Some(&begin)).await? {
                    Looked::Done => Ok(true),
                    Looked::Relay(filling) => self.read_on(message, filling).await,
                }
            }
            Tag::RUN if held.written.is_none() => {
                let shared = self.share(&mut held, message).await?;
                self.held = Some(held);
                match shared {
                    Joined::Done => Ok(true),
                    Joined::Relay(errand) => self.go_on(message, errand).await,
                }
            }
            _ => {
                if let (Some(written), Some(lane)) = (&held.written, &held.lane) {
                    lane.knowledge(&written.statement, |knowledge| knowledge.went_on());
                }
                self.held = Some(held);
                self.go_on(message, None).await
            }
        }
    }

    /// SUCCESS for what ends the transaction.
    pub(super) fn answer_end(&mut self, tag: Tag, meta: &[u8]) {
        self.machine.answered_here(tag, Ended::DONE);
        self.put_success(meta);
        self.count_held(false, false);
    }

    pub(super) fn count_held(&mut self, failed: bool, interrupted: bool) {
        self.results = None;
        let metrics = &self.shared.metrics;
        metrics.exchange_seconds.observe(self.exchange.asked.elapsed().as_secs_f64());
        metrics.finished(Tag::BEGIN, failed, interrupted);
        self.telemetry = None;
    }

    /// Hands the write of a held transaction in, if it may share one.
    async fn share(&mut self, held: &mut Held, message: Message) -> Step<Joined> {
        let Some(lane) = held.lane.clone() else { return Ok(Joined::Relay(None)) };
        let shareable = self.shareable(message.extent, &lane, held.announced, held.bookmarked);
        lane.joined(shareable.is_some());
        let Some((write, wire)) = shareable else { return Ok(Joined::Relay(None)) };
        let statement = Arc::clone(&write.statement);
        let waiting = match lane.submit(&self.shared, write) {
            Submitted::Waiting(waiting) => waiting,
            Submitted::Alone(turn) => {
                let errand = Errand::of_transaction(lane, Some(turn));
                return Ok(Joined::Relay(Some(self.place(errand))));
            }
            Submitted::Full => return Ok(Joined::Relay(None)),
        };
        let bytes = Bytes::copy_from_slice(self.inbuf.get(..wire).unwrap_or_default());
        let Some(reply) = self.wait_for(waiting.reply, Some(&waiting.claim)).await? else {
            return Ok(Joined::Done);
        };
        use crate::coalesce::Reply;
        match reply.unwrap_or(Reply::Unknown) {
            Reply::Given(share) => {
                let Share { answer, comparable, ballot } = *share;
                for tag in [Tag::RUN, Tag::PULL] {
                    self.machine.answered_here(tag, Ended::DONE);
                }
                self.own_answers().put_slice(&answer);
                self.watch_batched(false, &answer);
                self.inbuf.advance(wire);
                held.written = Some(Written { statement, wire: bytes, comparable, ballot: Some(ballot) });
                Ok(Joined::Done)
            }
            Reply::Alone(turn) => {
                Ok(Joined::Relay(turn.map(|turn| self.place(Errand::of_transaction(lane, Some(turn))))))
            }
            // Nothing of a shared transaction is committed before its members say so.
            Reply::Answer(_) | Reply::Refused(_) | Reply::Unknown => Ok(Joined::Relay(None)),
        }
    }

    /// COMMIT of a write that ran in a shared transaction.
    async fn commit_held(&mut self, mut held: Box<Held>, message: Message) -> Step<bool> {
        let Some(mut ballot) = held.written.as_mut().and_then(|written| written.ballot.take()) else {
            self.held = Some(held);
            return self.go_on(message, None).await;
        };
        ballot.commit();
        // A RESET that comes now is too late: it is answered after COMMIT.
        let outcome = self.wait_for(ballot.outcome(), Some(&Claim::taken())).await?;
        let failure = match outcome.unwrap_or(Outcome::Unknown) {
            Outcome::Committed(bookmark) => {
                self.inbuf.advance(message.extent.wire);
                let mut meta = BytesMut::new();
                put_bookmark(bookmark.as_deref(), &mut meta);
                self.answer_end(Tag::COMMIT, &meta);
                return Ok(true);
            }
            Outcome::TakenOut => {
                self.held = Some(held);
                return self.go_on(message, None).await;
            }
            Outcome::Unknown => {
                self.shared.metrics.lost.inc();
                return Err(End::UpstreamLost);
            }
            Outcome::Outdated => None,
            Outcome::Refused(failure) => Some(failure),
        };
        self.fail_held(message, failure.as_deref());
        Ok(true)
    }

    /// FAILURE for the message at the start of `inbuf`: Neo4j's own, or that the transaction is outdated.
    fn fail_held(&mut self, message: Message, failure: Option<&[u8]>) {
        self.inbuf.advance(message.extent.wire);
        self.machine.answered_here(message.tag, Ended::Failure);
        match failure {
            Some(failure) => self.put_answer(|out| out.put_slice(failure)),
            None => self.put_refusal(&Refusal::Outdated),
        }
        self.count_held(true, false);
    }

    /// Begins the held transaction at Neo4j, and runs again what was answered; then the message at the start of `inbuf` goes on as usual.
    /// True if the message was dealt with instead.
    pub(super) async fn go_on(&mut self, message: Message, errand: Option<Box<Errand>>) -> Step<bool> {
        let Some(mut held) = self.held.take() else { return Ok(true) };
        if let Some(written) = &mut held.written {
            // The shared transaction lets go of what this one writes.
            written.ballot = None;
        }
        let extra = MapView::parse(&held.begin).unwrap_or(MapView::EMPTY);
        let access = super::start::access_of(&extra, &self.access);
        self.guarded.begun = !held.is_untouched();
        let leased = self.lease_for(&access, None).await?;
        self.access = access;
        let mut lease = match leased {
            Leased::Lease(lease) => lease,
            Leased::Refused => {
                self.inbuf.advance(message.extent.wire);
                self.count_held(true, false);
                return Ok(true);
            }
            // The RESET that is next ends it.
            Leased::TakenBack => {
                self.held = Some(held);
                return Ok(true);
            }
        };
        let mut begin = inherited_keys(self.version(), &self.profile.filter, &extra);
        if let Some(ground) = self.filling.as_ref().and_then(|filling| filling.ground.as_ref())
            && let Ok(inherited) = MapView::parse(&begin)
        {
            let mut edit = MapEdit::removing(&["bookmarks"]);
            add_bookmark(&inherited, ground.bookmark(), &mut edit);
            let mut changed = BytesMut::with_capacity(begin.len() + 64);
            edit.apply(&inherited, &mut changed);
            begin = changed.to_vec().into();
        }
        if held.written.is_some() {
            self.note_unknown(false);
        }
        let connection = lease.connection_mut();
        connection.queue_with(Tag::BEGIN, true, |out| {
            chunk::put_message(out, |out| {
                out.put_slice(&[0xB1, Tag::BEGIN.0]);
                out.put_slice(&begin);
            });
        });
        let again = held.written.as_ref();
        if let Some(written) = again {
            connection.queue_with(Tag::RUN, true, |out| out.put_slice(&written.wire));
            connection.machine.sent_own(Tag::PULL);
        }
        // What was answered here has numbers that Neo4j is not to give again.
        let skipped = usize::try_from(held.reads).unwrap_or_default();
        for _ in 0..skipped {
            put_skip(connection);
        }
        let shared = Arc::clone(&self.shared);
        let most = shared.config.load().coalesce.max_result;
        let comparable = again.map(|written| written.comparable.clone());
        let limit = shared.read_timeout();
        let work = async {
            match next_summary(connection, &shared, most).await {
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Ok(Some(Some(failure))),
                Err(_) => return Err(()),
            }
            for _ in 0..2 * skipped {
                match next_summary(connection, &shared, most).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(failure)) => return Ok(Some(Some(failure))),
                    Err(_) => return Err(()),
                }
            }
            let Some(comparable) = comparable else { return Ok(None) };
            let mut budget = most;
            match own_answer(connection, &shared, &mut budget, u64::MAX).await {
                Ok(Ok(given)) if given.comparable() == comparable => Ok(None),
                Ok(_) => Ok(Some(None)),
                Err(_) => Err(()),
            }
        };
        let begun = self.wait_for(tokio::time::timeout(limit, work), Some(&Claim::taken())).await?;
        match begun {
            Some(Ok(Ok(None))) => {
                self.adopt(lease);
                self.errand = errand;
                self.note_pin();
                Ok(false)
            }
            Some(Ok(Ok(Some(failure)))) => {
                self.fail_held(message, failure.as_deref());
                Ok(true)
            }
            // Nothing is committed, but a transaction whose connection is lost ends as a direct one does.
            Some(Ok(Err(())) | Err(_)) | None => {
                self.shared.metrics.lost.inc();
                Err(End::UpstreamLost)
            }
        }
    }
}
