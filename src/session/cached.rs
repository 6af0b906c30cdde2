//! Reads that may be answered from the cache, and answers of Neo4j's that may be kept in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::{Begin, Outcome, Run, Summary};
use bolt_wire::packstream::{MapEdit, MapView, Walker, encode};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use super::errand::bookmarks;
use super::held::Held;
use super::hints::CacheHint;
use super::requests::Message;
use super::{Session, Step};
use crate::bookmark::Bookmark;
use crate::cache::Reading as Newest;
use crate::cache::{Entry, Filling, Question};
use crate::config::{self, Consistency};
use crate::sight::Answered;
use crate::upstream::{Access, Need};

/// How long a reading is waited for before the read goes to Neo4j.
const PATIENCE: Duration = Duration::from_millis(500);
/// Larger parameters are not looked into.
const PARAMETERS: usize = 64 << 10;
/// Keys of RUN's or BEGIN's metadata that an answer does not depend on.
const INDIFFERENT: [&str; 4] = ["bookmarks", "mode", "tx_timeout", "tx_metadata"];

/// What came of a read.
pub(super) enum Looked {
    /// It was answered, or taken back: it is gone.
    Done,
    /// It goes to Neo4j; its answer may be kept.
    Relay(Option<Box<Filling>>),
}

/// What came of a BEGIN that only reads.
pub(super) enum Reading {
    /// It was answered here.
    Held,
    /// It goes to Neo4j, as it stands at the start of `inbuf` now.
    Relay(Message),
}

/// How a client's managed reads go.
#[derive(Default)]
pub(super) struct Reads {
    /// BEGIN's metadata without bookmarks, and what Neo4j answered to that.
    begun: Option<Box<(Vec<u8>, Vec<u8>)>>,
    /// The BEGIN whose answer is due.
    asking: Option<Vec<u8>>,
    /// The metadata of the transaction that was begun, until its first RUN.
    begin: Option<Bytes>,
    /// The id that the transaction waits for.
    carried: Option<Bookmark>,
    /// The last one could be answered from the cache.
    hot: bool,
}

impl Reads {
    /// An answer to BEGIN.
    pub(super) fn learn(&mut self, summary: &Summary<'_>, payload: &[u8]) {
        if let Some(asked) = self.asking.take()
            && matches!(summary.outcome, Outcome::Success { .. })
        {
            self.begun = Some(Box::new((asked, payload.get(2..).unwrap_or_default().to_vec())));
        }
    }
}

/// What an entry is worth to a question.
enum Judged {
    /// It is the answer; with the bookmark to give.
    Holds(Arc<str>),
    /// It may be: that takes a new reading.
    Ask,
    /// It is none, and why.
    Not(&'static str),
}

impl Session {
    /// Looks whether the RUN at the start of `inbuf` can be answered from the cache. `begin`: the metadata of the transaction that it is
    /// the first statement of, which has not begun at Neo4j.
    pub(super) async fn look_up(&mut self, message: Message, begin: Option<&[u8]>) -> Step<Looked> {
        let Some(question) = self.question(&self.inbuf, message.extent, begin) else {
            return Ok(Looked::Relay(None));
        };
        let config = self.shared.config.load_full();
        self.shared.cache.asked(&question.key);
        // The usual hit needs nobody else.
        if let Some(entry) = self.shared.cache.get(&question.key)
            && let Judged::Holds(bookmark) = self.judge(&question, &entry, &config.cache)
        {
            self.serve(message, &entry, &bookmark, begin.is_some(), &question);
            return Ok(Looked::Done);
        }
        Box::pin(self.find_kept(question, message, begin.is_some(), &config.cache)).await
    }

    /// The answer to a question that is not at hand.
    async fn find_kept(
        &mut self,
        question: Question,
        message: Message,
        in_transaction: bool,
        config: &config::Cache,
    ) -> Step<Looked> {
        let cache = Arc::clone(&self.shared.cache);
        let mut followed = false;
        let reason = loop {
            let mut reason = "absent";
            if let Some(entry) = cache.get(&question.key) {
                let judged = match self.judge(&question, &entry, config) {
                    Judged::Ask => match self.ask(&question, &entry, config).await? {
                        Some(judged) => judged,
                        None => return Ok(Looked::Done),
                    },
                    judged => judged,
                };
                match judged {
                    Judged::Holds(bookmark) => {
                        self.serve(message, &entry, &bookmark, in_transaction, &question);
                        return Ok(Looked::Done);
                    }
                    Judged::Not(why) => reason = why,
                    Judged::Ask => reason = "unsettled",
                }
            }
            if followed || in_transaction {
                break reason;
            }
            match cache.lead(&question.key) {
                Ok(leading) => {
                    self.missed(&question, reason);
                    return Ok(Looked::Relay(Some(Box::new(
                        question.filling(Some(leading), config.max_entry_bytes),
                    ))));
                }
                Err(flight) => {
                    followed = true;
                    match self.wait_for(timeout(config.max_wait, flight.over()), None).await? {
                        None => return Ok(Looked::Done),
                        Some(Ok(true)) => {}
                        Some(_) => break "followed in vain",
                    }
                }
            }
        };
        self.missed(&question, reason);
        Ok(Looked::Relay(Some(Box::new(question.filling(None, config.max_entry_bytes)))))
    }

    fn missed(&self, question: &Question, reason: &str) {
        question.statement.misses.fetch_add(1, Ordering::Relaxed);
        self.shared.metrics.cache.misses.with_label_values(&[reason]).inc();
    }

    /// Judges an entry by a new reading; `None` if the client took its question back.
    async fn ask(
        &mut self,
        question: &Question,
        entry: &Entry,
        config: &config::Cache,
    ) -> Step<Option<Judged>> {
        let reading = question.source.fresh(&self.shared);
        let Some(reading) = self.wait_for(timeout(PATIENCE, reading), None).await? else { return Ok(None) };
        let reading = reading.ok().and_then(Result::ok).flatten();
        Ok(Some(match reading {
            Some(reading) => judge_by(question, entry, &reading),
            None if entry.may_be_stale(config.stale_if_error) && question.reached.is_none() => {
                self.shared.metrics.cache.stale.inc();
                Judged::Holds(entry.bookmark())
            }
            None => Judged::Not("no reading"),
        }))
    }

    fn judge(&self, question: &Question, entry: &Entry, config: &config::Cache) -> Judged {
        if !entry.is_untouched() {
            return Judged::Not("written");
        }
        match self.consistency(config) {
            Consistency::Strict => match question.source.latest() {
                Some(latest) if entry.is_behind(&latest) => Judged::Not("changed"),
                _ => Judged::Ask,
            },
            Consistency::Bounded => {
                question.source.keep_fresh(&self.shared);
                match question.source.latest() {
                    Some(latest) if latest.sent.elapsed() <= config.max_staleness => {
                        match judge_by(question, entry, &latest) {
                            Judged::Not(_) if !entry.is_behind(&latest) => Judged::Ask,
                            judged => judged,
                        }
                    }
                    _ => Judged::Ask,
                }
            }
            Consistency::Ttl if entry.age() > config.ttl => Judged::Not("expired"),
            Consistency::Ttl if question.reached.is_some_and(|id| id > entry.id()) => {
                Judged::Not("newer bookmark")
            }
            Consistency::Ttl => Judged::Holds(entry.bookmark()),
        }
    }

    /// What this request wants, or else the configuration.
    fn consistency(&self, config: &config::Cache) -> Consistency {
        match self.hints.cache {
            Some(CacheHint::Fresh(consistency)) => consistency,
            _ => config.consistency,
        }
    }

    /// Answers the RUN at the start of `inbuf`; its result waits for PULL.
    fn serve(
        &mut self,
        message: Message,
        entry: &Arc<Entry>,
        bookmark: &Arc<str>,
        in_transaction: bool,
        question: &Question,
    ) {
        let Some(records) = entry.answer.records() else { return };
        if !in_transaction {
            self.begin_exchange(Tag::RUN);
            self.exchange.asked = question.asked;
            self.telemetry = None;
        }
        let metrics = &self.shared.metrics.cache;
        metrics.hits.inc();
        metrics.staleness_seconds.observe(entry.staleness().as_secs_f64());
        entry.hit();
        metrics.saved_seconds.inc_by(entry.cost.as_secs_f64());
        question.statement.hits.fetch_add(1, Ordering::Relaxed);
        self.watch_answered(Answered::Cache, false, entry.answer.count, records.len() as u64);
        self.inbuf.advance(message.extent.wire);
        self.machine.answered_here(Tag::RUN, Outcome::DONE);
        let number = self.held.as_mut().map(|held| held.served(bookmark));
        let bookmark = number.is_none().then(|| Arc::clone(bookmark));
        self.open_kept(number.unwrap_or_default(), Arc::clone(entry), records, bookmark);
        self.put_answer(|out| entry.answer.put_run(number, out));
    }

    /// What the RUN at the start of `inbuf` asks, if an answer to it may be kept.
    fn question(&self, wire: &[u8], extent: Extent, begin: Option<&[u8]>) -> Option<Question> {
        let asked = Instant::now();
        if extent.payload > PARAMETERS
            || self.hints.cache == Some(CacheHint::Off)
            || !self.shared.config.load().cache.enabled
        {
            return None;
        }
        let ttl = self.shared.config.load().auth.cache_ttl;
        // Whoever's credentials are to be proved anew goes to Neo4j for it.
        let principal = self.principal.as_ref().filter(|principal| principal.is_proved(ttl))?;
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(wire, extent, &mut scratch);
        let run = Run::parse(payload).ok()?;
        let statement = self.shared.coalescer.statements.get(run.text);
        if !statement.reads_only
            || statement.keeps(run.parameters).is_err()
            || !self.shared.upstream.is_single()
        {
            return None;
        }
        if begin.is_some() && !run.extra.is_empty() {
            return None;
        }
        let extra = match begin {
            Some(begin) => MapView::parse(begin).ok()?,
            None => run.extra,
        };
        if !is_well_formed(&extra) {
            return None;
        }
        let database = extra.string("db");
        let source = self.shared.cache.source(
            || Need {
                key: Arc::clone(&self.key),
                principal: Arc::clone(principal),
                access: Access { database: database.map(Into::into), ..Access::default() },
            },
            &principal.id,
            database,
        )?;
        let bookmarks = bookmarks(&extra)?;
        let ledger = source.ledger();
        let own =
            |bookmark: &&Bookmark| ledger.as_ref().is_none_or(|ledger| ledger.database == bookmark.database);
        let reached = bookmarks.iter().filter(own).map(|bookmark| bookmark.transaction).max();
        let key = self.answer_key(&statement, &extra, run.parameters, begin.is_some())?;
        Some(Question { key, statement, source, reached, asked })
    }

    /// Everything that makes one answer another's.
    fn answer_key(
        &self,
        statement: &crate::statement::Statement,
        extra: &MapView<'_>,
        parameters: &[u8],
        in_transaction: bool,
    ) -> Option<Vec<u8>> {
        let principal = self.principal.as_ref()?;
        let version = self.version();
        let filter = &self.profile.filter;
        let mut key = Vec::with_capacity(96 + filter.len() + parameters.len());
        key.extend_from_slice(&principal.id);
        let read = extra.string("mode") == Some("r");
        key.extend_from_slice(&[
            version.major,
            version.minor,
            u8::from(self.key.utc),
            u8::from(read),
            u8::from(in_transaction),
        ]);
        key.extend_from_slice(&statement.id.to_be_bytes());
        key.extend_from_slice(&(filter.len() as u32).to_be_bytes());
        key.extend_from_slice(filter);
        for (name, value) in extra.iter().filter(|(name, _)| !INDIFFERENT.contains(name)) {
            if !matches!(name, "db" | "imp_user") && !name.starts_with("notifications_") {
                return None;
            }
            put_entry(name, value, &mut key);
        }
        key.push(0xFF);
        let mut entries: Vec<(&str, &[u8])> = MapView::parse(parameters).ok()?.iter().collect();
        if !entries.is_sorted() {
            entries.sort_unstable();
        }
        for (name, value) in entries {
            put_entry(name, value, &mut key);
        }
        Some(key)
    }

    /// Lets the RUN or BEGIN at the start of `inbuf` wait for the newest id that is known, so that its answer may be kept.
    pub(super) fn wait_for_newest(&mut self, message: Message, newest: Bookmark) -> Message {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let extra = match message.tag {
            Tag::RUN => Run::parse(payload).map(|run| run.extra),
            _ => Begin::parse(payload).map(|begin| begin.extra),
        };
        let Ok(extra) = extra else { return message };
        let mut edit = MapEdit::removing(&["bookmarks"]);
        add_bookmark(&extra, newest, &mut edit);
        let mut changed = BytesMut::with_capacity(message.extent.wire + 64);
        chunk::put_message(&mut changed, |out| match message.tag {
            Tag::RUN => {
                if let Ok(run) = Run::parse(payload) {
                    run.write_with(&edit, out);
                }
            }
            _ => {
                if let Ok(begin) = Begin::parse(payload) {
                    begin.write_with(&edit, out);
                }
            }
        });
        self.replace_message(message, changed)
    }

    /// Puts another message in the place of the one at the start of `inbuf`.
    pub(super) fn replace_message(&mut self, message: Message, mut changed: BytesMut) -> Message {
        let Found::Message(extent) = MessageScanner::default().scan(&changed) else { return message };
        changed.put_slice(self.inbuf.get(message.extent.wire..).unwrap_or_default());
        *self.inbuf = changed;
        Message { extent, ..message }
    }

    /// Looks at the BEGIN at the start of `inbuf`: one that only reads need not reach Neo4j if what it reads is kept.
    pub(super) fn hold_read(&mut self, message: Message) -> Reading {
        let relay = Reading::Relay(message);
        (self.reads.carried, self.reads.begin) = (None, None);
        if !self.shared.config.load().cache.enabled || !self.shared.upstream.is_single() {
            return relay;
        }
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let Ok(begin) = Begin::parse(payload) else { return relay };
        if !is_well_formed(&begin.extra)
            || begin.extra.string("mode") != Some("r")
            || bookmarks(&begin.extra).is_none()
        {
            return relay;
        }
        let mut plain = BytesMut::new();
        MapEdit::removing(&["bookmarks", "tx_metadata", "tx_timeout"]).apply(&begin.extra, &mut plain);
        let known = self.reads.begun.as_ref().filter(|begun| begun.0 == plain).map(|begun| begun.1.clone());
        let begin = Bytes::copy_from_slice(payload.get(2..).unwrap_or_default());
        if let Some(meta) = known
            && self.goes_on_kept(message, &begin)
        {
            self.held = Some(Box::new(Held::reading(begin)));
            self.begin_exchange(Tag::BEGIN);
            self.inbuf.advance(message.extent.wire);
            self.machine.answered_here(Tag::BEGIN, Outcome::DONE);
            self.put_success(&meta);
            return Reading::Held;
        }
        self.reads.asking = Some(plain.to_vec());
        self.reads.carried = self.newest_of(&begin);
        self.reads.begin = Some(begin);
        match self.reads.carried {
            Some(newest) => Reading::Relay(self.wait_for_newest(message, newest)),
            None => relay,
        }
    }

    /// Whether what follows BEGIN, if it has come already, is kept.
    fn goes_on_kept(&self, message: Message, begin: &[u8]) -> bool {
        let rest = self.inbuf.get(message.extent.wire..).unwrap_or_default();
        if rest.is_empty() {
            return self.reads.hot;
        }
        let Found::Message(extent) = MessageScanner::default().scan(rest) else { return false };
        let question = self.question(rest, extent, Some(begin));
        question.is_some_and(|question| self.shared.cache.has(&question.key))
    }

    /// The newest id that is known of the database that BEGIN's metadata name; the client's own bookmark if that is newer.
    fn newest_of(&self, begin: &[u8]) -> Option<Bookmark> {
        let principal = self.principal.as_ref()?;
        let extra = MapView::parse(begin).ok()?;
        let ledger = self.shared.cache.known_source(&principal.id, extra.string("db"))?.ledger()?;
        let own = bookmarks(&extra)?;
        let own = own.iter().filter(|own| own.database == ledger.database).map(|own| own.transaction).max();
        let newest = ledger.newest()?.max(own.unwrap_or_default());
        Some(Bookmark { database: ledger.database, transaction: newest })
    }

    /// A read that is not kept begins its transaction at Neo4j after all.
    pub(super) async fn read_on(
        &mut self,
        message: Message,
        mut filling: Option<Box<Filling>>,
    ) -> Step<bool> {
        if let Some(filling) = &mut filling {
            filling.followed = true;
        }
        self.reads.hot = false;
        self.filling = filling;
        Box::pin(self.go_on(message, None)).await
    }

    /// The first RUN of a transaction that only reads goes to Neo4j: its answer may be kept.
    pub(super) fn fill_in_transaction(&mut self, message: Message) {
        if let Some(filling) = &mut self.filling {
            // From `read_on`; or it is the second one, whose answer would stand behind the first one's.
            if !filling.is_first() {
                self.filling = None;
            }
            return;
        }
        let Some(begin) = self.reads.begin.take() else { return };
        let Some(question) = self.question(&self.inbuf, message.extent, Some(&begin)) else { return };
        self.shared.cache.asked(&question.key);
        self.reads.hot = self.shared.cache.has(&question.key);
        let mut filling = question.filling(None, self.shared.config.load().cache.max_entry_bytes);
        filling.carry(self.reads.carried.take());
        (filling.led, filling.followed) = (true, true);
        filling.is_first();
        self.filling = Some(Box::new(filling));
    }

    /// Takes what goes on to the client.
    pub(super) fn fill(&mut self, bytes: usize) {
        if let (Some(filling), Some(lease)) = (&mut self.filling, &mut self.lease)
            && !filling.take(lease.connection_mut().inbuf.get(..bytes).unwrap_or_default())
        {
            self.filling = None;
            self.shared.metrics.cache.fills.with_label_values(&["larger than cache.max_entry_bytes"]).inc();
        }
    }

    /// The exchange is over: what it has brought is kept if it may be.
    pub(super) fn end_filling(&mut self, well: bool) {
        if let Some(filling) = self.filling.take()
            && well
        {
            filling.keep(&self.shared);
        }
    }
}

/// Whether what the key of an answer leaves out is as Neo4j wants it. If not, Neo4j is to say so.
fn is_well_formed(extra: &MapView<'_>) -> bool {
    extra.iter().all(|(name, _)| match name {
        "mode" => matches!(extra.string(name), Some("r" | "w")),
        "tx_timeout" => extra.integer(name).is_some_and(|timeout| timeout >= 0),
        "tx_metadata" => extra.map(name).is_some(),
        _ => true,
    })
}

/// Adds one to the bookmarks.
pub(super) fn add_bookmark(extra: &MapView<'_>, bookmark: Bookmark, edit: &mut MapEdit<'_>) {
    let own: Vec<&[u8]> = extra.get("bookmarks").map(items).unwrap_or_default();
    edit.add("bookmarks", |out| {
        encode::list_header(own.len() + 1, out);
        own.iter().for_each(|item| out.put_slice(item));
        encode::string(&bookmark.to_text(), out);
    });
}

/// The items of a list.
fn items(list: &[u8]) -> Vec<&[u8]> {
    let mut walker = Walker::new(list);
    let count = walker.list_header().unwrap_or_default();
    (0..count).map_while(|_| walker.value().ok()).collect()
}

fn put_entry(name: &str, value: &[u8], key: &mut Vec<u8>) {
    key.extend_from_slice(&(name.len() as u32).to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&(value.len() as u32).to_be_bytes());
    key.extend_from_slice(value);
}

fn judge_by(question: &Question, entry: &Entry, reading: &Newest) -> Judged {
    if question.reached.is_some_and(|id| id > reading.newest()) {
        return Judged::Not("newer bookmark");
    }
    if entry.holds_at(reading) {
        Judged::Holds(Arc::clone(&reading.bookmark))
    } else {
        Judged::Not("changed")
    }
}
