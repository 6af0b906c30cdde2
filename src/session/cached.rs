//! Reads that may be answered from the cache, and answers of Neo4j's that may be kept in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::message::Outcome;
use bytes::Buf;
use tokio::time::timeout;

use super::requests::Message;
use super::{Session, Step};
use crate::cache::{Answer, Entry, Filling, Leading, Question, Reading, Suspect};
use crate::config::{self, Consistency};
use crate::sight::Answered;

/// How long a reading is waited for before the read goes to Neo4j.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a read waits for an equal one that is on its way. The second one is sent behind all who wait, and answers all of them.
const LAPS: usize = 2;

/// What came of a read.
pub(super) enum Looked {
    /// It was answered, or taken back: it is gone.
    Done,
    /// It goes to Neo4j; its answer may be kept.
    Relay(Option<Box<Filling>>),
}

/// What an entry is worth to a question.
enum Judged {
    /// It is the answer.
    Holds(Held),
    /// It is, and it is time for a new one.
    Ageing(Held),
    /// It may be: that takes a new reading.
    Ask,
    /// It is none, and why.
    Not(&'static str),
}

/// The state in which an entry is the answer.
struct Held {
    /// The newest id of it.
    at: i64,
    /// Neo4j's bookmark for it.
    bookmark: Arc<str>,
}

impl Held {
    /// As it was read.
    fn of(entry: &Entry) -> Self {
        Self { at: entry.id(), bookmark: entry.bookmark() }
    }
}

impl Session {
    /// Looks whether the RUN at the start of `inbuf` can be answered from the cache. `begin`: the metadata of the transaction that it is
    /// the first statement of, which has not begun at Neo4j.
    pub(super) async fn look_up(&mut self, message: Message, begin: Option<&[u8]>) -> Step<Looked> {
        let Some(question) = self.question(&self.inbuf, message.extent, begin) else {
            return Ok(Looked::Relay(None));
        };
        if !self.reads.source.as_ref().is_some_and(|known| Arc::ptr_eq(known, &question.source)) {
            self.reads.source = Some(Arc::clone(&question.source));
        }
        let config = self.shared.config.load_full();
        self.shared.cache.asked(&question.key);
        let entry = self.shared.cache.get(&question.key);
        let judged = entry.map(|entry| (self.judge(&question, &entry), entry));
        // The usual hit needs nobody else.
        if let Some((Judged::Holds(held), entry)) = &judged
            && config.cache.verify_every == 0
        {
            return Ok(self.hit(message, entry, held, begin.is_some(), &question));
        }
        Box::pin(self.find_kept(question, judged, message, begin.is_some(), &config.cache)).await
    }

    /// The answer to a question that is not at hand. `judged`: what is kept.
    async fn find_kept(
        &mut self,
        question: Question,
        mut judged: Option<(Judged, Arc<Entry>)>,
        message: Message,
        in_transaction: bool,
        config: &config::Cache,
    ) -> Step<Looked> {
        let cache = Arc::clone(&self.shared.cache);
        let most = config.max_entry_bytes;
        let relay = |filling: Filling| Ok(Looked::Relay(Some(Box::new(filling))));
        let mut laps = 0;
        let reason = loop {
            let mut reason = "absent";
            if let Some((mut judgement, entry)) = judged.take() {
                if let Judged::Ask = judgement {
                    match self.ask(&question, &entry, config).await? {
                        Some(new) => judgement = new,
                        None => return Ok(Looked::Done),
                    }
                }
                match judgement {
                    Judged::Holds(held) if is_sampled(config.verify_every) => {
                        let mut filling = question.filling(None, most);
                        filling.suspect = Some(Suspect::new(entry, held.at));
                        self.missed(&question, "verified");
                        return relay(filling);
                    }
                    Judged::Ageing(held) => match cache.lead(&question.key) {
                        // One of them brings a new one, and the others do not notice.
                        Ok(leading) if !in_transaction => {
                            self.missed(&question, "renewed");
                            return relay(question.filling(Some(leading), most));
                        }
                        _ => return Ok(self.hit(message, &entry, &held, in_transaction, &question)),
                    },
                    Judged::Holds(held) => {
                        return Ok(self.hit(message, &entry, &held, in_transaction, &question));
                    }
                    Judged::Not(why) => reason = why,
                    Judged::Ask => reason = "unsettled",
                }
            }
            if in_transaction {
                break reason;
            }
            let flight = match cache.lead(&question.key) {
                Ok(leading) => return self.lead(question, leading, reason, most),
                Err(_) if laps == LAPS => break "followed in vain",
                Err(flight) => flight,
            };
            laps += 1;
            let over = match self.wait_for(timeout(config.max_wait, flight.over()), None).await? {
                None => return Ok(Looked::Done),
                Some(over) => over.ok(),
            };
            let Some(landed) = over.as_ref().and_then(|flight| flight.landed()) else {
                break "followed in vain";
            };
            if landed.answers(&question) {
                self.serve(message, &landed.answer, &landed.bookmark, in_transaction, &question);
                self.shared.metrics.cache.shared.inc();
                return Ok(Looked::Done);
            }
            if landed.is_kept() {
                let entry = cache.get(&question.key);
                judged = entry.map(|entry| (self.judge(&question, &entry), entry));
            }
        };
        self.missed(&question, reason);
        relay(question.filling(None, most))
    }

    /// This one runs, for all who ask the same meanwhile.
    fn lead(&self, question: Question, leading: Leading, reason: &str, most: usize) -> Step<Looked> {
        self.missed(&question, reason);
        Ok(Looked::Relay(Some(Box::new(question.filling(Some(leading), most)))))
    }

    fn missed(&self, question: &Question, reason: &str) {
        question.statement.cached.misses.fetch_add(1, Ordering::Relaxed);
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
                Judged::Holds(Held::of(entry))
            }
            None => Judged::Not("no reading"),
        }))
    }

    fn judge(&self, question: &Question, entry: &Entry) -> Judged {
        if !entry.is_untouched() {
            return Judged::Not("written");
        }
        let policy = &question.policy;
        match policy.consistency {
            Consistency::Strict => match question.source.latest() {
                Some(latest) if entry.is_behind(&latest) => Judged::Not("changed"),
                _ => Judged::Ask,
            },
            Consistency::Bounded => {
                question.source.keep_fresh(&self.shared);
                match question.source.latest() {
                    Some(latest) if latest.sent.elapsed() <= policy.max_staleness => {
                        match judge_by(question, entry, &latest) {
                            Judged::Not(_) if !entry.is_behind(&latest) => Judged::Ask,
                            judged => judged,
                        }
                    }
                    _ => Judged::Ask,
                }
            }
            Consistency::Ttl => judge_by_age(question, entry),
        }
    }

    /// Answers from the cache.
    fn hit(
        &mut self,
        message: Message,
        entry: &Entry,
        held: &Held,
        in_transaction: bool,
        question: &Question,
    ) -> Looked {
        self.serve(message, &entry.answer, &held.bookmark, in_transaction, question);
        let metrics = &self.shared.metrics.cache;
        metrics.hits.inc();
        metrics.staleness_seconds.observe(entry.staleness().as_secs_f64());
        metrics.saved_seconds.inc_by(entry.cost.as_secs_f64());
        Looked::Done
    }

    /// Answers the RUN at the start of `inbuf`; its result waits for PULL.
    fn serve(
        &mut self,
        message: Message,
        answer: &Arc<Answer>,
        bookmark: &Arc<str>,
        in_transaction: bool,
        question: &Question,
    ) {
        let Some(records) = answer.records() else { return };
        if !in_transaction {
            self.begin_exchange(Tag::RUN);
            self.exchange.asked = question.asked;
            self.telemetry = None;
        }
        question.statement.cached.hits.fetch_add(1, Ordering::Relaxed);
        self.watch_answered(Answered::Cache, false, answer.count, records.len() as u64);
        self.inbuf.advance(message.extent.wire);
        self.machine.answered_here(Tag::RUN, Outcome::DONE);
        let number = self.held.as_mut().map(|held| held.served(bookmark));
        let bookmark = number.is_none().then(|| Arc::clone(bookmark));
        self.open_kept(number.unwrap_or_default(), Arc::clone(answer), records, bookmark);
        self.put_answer(|out| answer.put_run(number, out));
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

/// One in so many; never for 0.
fn is_sampled(every: u32) -> bool {
    every > 0 && fastrand::u32(..every) == 0
}

/// Judges an entry by how long it has been kept. Its last fifth is for bringing a new one.
fn judge_by_age(question: &Question, entry: &Entry) -> Judged {
    let (age, ttl) = (entry.age(), question.policy.ttl);
    if age > ttl {
        return Judged::Not("expired");
    }
    if question.reached.is_some_and(|id| id > entry.id()) {
        return Judged::Not("newer bookmark");
    }
    let held = Held::of(entry);
    if age > ttl - ttl / 5 { Judged::Ageing(held) } else { Judged::Holds(held) }
}

fn judge_by(question: &Question, entry: &Entry, reading: &Reading) -> Judged {
    if question.reached.is_some_and(|id| id > reading.newest()) {
        return Judged::Not("newer bookmark");
    }
    if entry.holds_at(reading) {
        Judged::Holds(Held { at: reading.newest(), bookmark: Arc::clone(&reading.bookmark) })
    } else {
        Judged::Not("changed")
    }
}
