//! Calls of Sidebolt's own procedures: answered here, in the states that Neo4j would go through.
//!
//! Inside a transaction that is open at Neo4j the results have numbers that Neo4j does not give, so that every PULL finds its own.

use std::sync::Arc;

use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::request::{only_map, open};
use bolt_wire::message::{Failure, Outcome, Run};
use bolt_wire::packstream::{MapView, Value, Walker};
use bolt_wire::server::State;
use bolt_wire::version::NotificationFilter;
use bolt_wire::{Tag, Version};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::requests::Message;
use super::{End, Session, Step, gnn};
use crate::cache::Answer;
use crate::console::{Asking, Call, NAMESPACE, Table, looks_like_call};
use crate::gnn::{Feed, Rows};

/// The number of a transaction's first result of Sidebolt's own. Neo4j counts from 0.
const FIRST: i64 = 1 << 30;
/// Results of Sidebolt's own that one transaction may have open.
pub(super) const MOST: usize = 8;

/// Results of Sidebolt's own that are open.
pub(super) struct Local {
    pub(super) results: Vec<Open>,
    /// The next one's number.
    pub(super) next: i64,
    /// The last one's.
    pub(super) newest: i64,
    /// The transaction's last RUN was Sidebolt's own: what names no result means that one.
    pub(super) last: bool,
    /// The number of the last one of Neo4j's, if Neo4j would take another one for that.
    pub(super) foreign: Option<i64>,
}

/// A result that is being fetched.
pub(super) struct Open {
    pub(super) number: i64,
    /// What is left of it, as messages.
    pub(super) records: Bytes,
    /// Rows that become messages when they are fetched.
    pub(super) rows: Option<Source>,
    /// What follows the last one.
    pub(super) tail: Tail,
    /// Some of it was fetched.
    pub(super) begun: bool,
}

/// What becomes messages when it is fetched.
pub(super) enum Source {
    /// Rows that are there.
    Rows(Box<Rows>),
    /// Rows that Neo4j runs a statement over.
    Feed(Box<Feed>),
}

/// What follows a result's last record.
pub(super) enum Tail {
    /// A procedure's.
    Own {
        /// It had records.
        any: bool,
        database: Option<Box<str>>,
        since: Instant,
        /// The bookmark of what it has written, if it has.
        wrote: Option<Option<Box<str>>>,
    },
    /// A kept answer's, outside of a transaction with the bookmark to give.
    Kept { answer: Arc<Answer>, bookmark: Option<Arc<str>> },
}

/// What came of a message.
pub(super) enum Taken {
    /// It was answered.
    Done,
    /// It has to wait for answers that are due.
    Later,
    /// It is one for `take_gnn`: a call, or rows that are fetched.
    Gnn(Option<gnn::Asked>),
    /// It is none of these.
    Not,
}

/// What a PULL or DISCARD asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fetch {
    /// How many records; negative = all.
    pub(super) n: i64,
    /// Of which result; -1 = of the last one.
    qid: i64,
}

impl Default for Local {
    fn default() -> Self {
        Self { results: Vec::new(), next: FIRST, newest: FIRST, last: false, foreign: None }
    }
}

impl Session {
    /// Answers the RUN at the start of `inbuf`, outside of a transaction, if it calls a procedure of Sidebolt's.
    pub(super) fn call_at_rest(&mut self, message: Message) -> bool {
        let Some(call) = self.call(message.extent) else { return false };
        self.begin_exchange(Tag::RUN);
        self.telemetry = None;
        self.answer_call(message, call);
        true
    }

    /// Answers a message of an open exchange, if it concerns a call of Sidebolt's own.
    pub(super) fn take_local(&mut self, message: Message) -> Step<Taken> {
        let state = self.machine.state();
        let in_transaction = match state {
            State::Transaction => true,
            State::AutoCommit if self.results.is_some() => false,
            _ => return Ok(Taken::Not),
        };
        match message.tag {
            Tag::PULL | Tag::DISCARD => Ok(self.fetch_local(message)),
            Tag::RUN if in_transaction => Ok(self.call_in_transaction(message)),
            Tag::RESET if !in_transaction => {
                self.inbuf.advance(message.extent.wire);
                (0..std::mem::take(&mut self.overtaken)).for_each(|_| self.put_ignored());
                self.machine.answered_here(Tag::RESET, Outcome::DONE);
                self.put_success(&[0xA0]);
                self.end_local(false, true);
                Ok(Taken::Done)
            }
            tag if !in_transaction => {
                self.own_answers();
                self.refuse_illegal(tag);
                Err(End::Violation)
            }
            Tag::COMMIT
                if self.results.is_some() && self.held.as_ref().is_some_and(|held| held.is_untouched()) =>
            {
                self.inbuf.advance(message.extent.wire);
                self.held = None;
                self.answer_end(Tag::COMMIT, &[0xA0]);
                Ok(Taken::Done)
            }
            Tag::RESET | Tag::COMMIT | Tag::ROLLBACK => {
                self.results = None;
                Ok(Taken::Not)
            }
            _ => Ok(Taken::Not),
        }
    }

    /// A RUN goes to Neo4j: what names no result means its result from now on.
    pub(super) fn note_foreign_run(&mut self) {
        if let Some(local) = &mut self.results {
            (local.last, local.foreign) = (false, None);
        }
    }

    /// The call of Sidebolt's own that the RUN at the start of `inbuf` is.
    fn call(&self, extent: Extent) -> Option<Result<Call, Failure>> {
        let wire = self.inbuf.get(..extent.wire).filter(|_| self.principal.is_some())?;
        if !looks_like_call(text_begins(wire)?, NAMESPACE) {
            return None;
        }
        let mut scratch = BytesMut::new();
        Call::of(Run::parse(chunk::payload(wire, extent, &mut scratch)).ok()?.text)
    }

    fn call_in_transaction(&mut self, message: Message) -> Taken {
        let Some(call) = self.call(message.extent) else {
            if let Some(asked) = self.asks_gnn(message) {
                return Taken::Gnn(Some(asked));
            }
            self.note_foreign_run();
            return Taken::Not;
        };
        if self.machine.in_flight() > 0 {
            return Taken::Later;
        }
        self.answer_call(message, call);
        Taken::Done
    }

    /// Answers RUN; the message is gone.
    fn answer_call(&mut self, message: Message, call: Result<Call, Failure>) {
        let since = Instant::now();
        let in_transaction = self.machine.state() == State::Transaction;
        let wire = self.inbuf.split_to(message.extent.wire);
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&wire, message.extent, &mut scratch);
        let (Ok(run), Some(principal)) = (Run::parse(payload), self.principal.clone()) else { return };
        self.machine.forwarded(Tag::RUN);
        let table = call.and_then(|call| {
            let open = self.results.as_ref().map_or(0, |local| local.results.len());
            if open >= MOST {
                return Err(too_many());
            }
            let parameters = MapView::parse(run.parameters).unwrap_or(MapView::EMPTY);
            call.answer(
                &Asking { shared: &self.shared, principal: &principal, last: self.watch.last.as_ref() },
                &parameters,
            )
        });
        let table = match table {
            Ok(table) => table,
            Err(failure) => return self.fail_local(&failure),
        };
        let named =
            if in_transaction { self.transaction_database() } else { run.extra.string("db").map(Into::into) };
        let database = named.clone().or_else(|| self.home_database());
        let local = self.results.get_or_insert_default();
        let number = local.next;
        local.next += 1;
        (local.newest, local.last) = (number, true);
        let mut meta = vec![("t_first", millis(since)), ("fields", fields(&table))];
        if in_transaction {
            meta.push(("qid", Value::Integer(number)));
        } else if named.is_none() && self.machine.version() >= Version::V5_8 {
            meta.extend(database.as_deref().map(|name| ("db", name.into())));
        }
        local.results.push(Open::new(number, &table, database));
        self.machine.answered(Outcome::DONE);
        self.put_success(&Value::map(meta).to_bytes());
    }

    /// A kept answer waits for PULL.
    pub(super) fn open_kept(
        &mut self,
        number: i64,
        answer: Arc<Answer>,
        records: Bytes,
        bookmark: Option<Arc<str>>,
    ) {
        let local = self.results.get_or_insert_default();
        (local.newest, local.last) = (number, true);
        local.results.push(Open {
            number,
            records,
            rows: None,
            tail: Tail::Kept { answer, bookmark },
            begun: false,
        });
    }

    /// PULL or DISCARD, if it is of a result of Sidebolt's own.
    fn fetch_local(&mut self, message: Message) -> Taken {
        let in_transaction = self.machine.state() == State::Transaction;
        let Some(local) = &self.results else { return Taken::Not };
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let fetch = Fetch::read(payload);
        let own = match fetch {
            _ if !in_transaction => true,
            Ok(Fetch { qid: -1, .. }) | Err(_) => local.last,
            Ok(Fetch { qid, .. }) => qid >= FIRST || local.results.iter().any(|open| open.number == qid),
        };
        if let (false, Some(number), Ok(fetch @ Fetch { qid: -1, .. })) = (own, local.foreign, fetch.as_ref())
        {
            let fetch = *fetch;
            self.number_fetch(message, fetch, number);
            return Taken::Done;
        }
        if !own {
            return Taken::Not;
        }
        if self.machine.in_flight() > 0 {
            return Taken::Later;
        }
        if self.is_of_rows(fetch.as_ref().ok(), in_transaction) {
            return Taken::Gnn(None);
        }
        self.inbuf.advance(message.extent.wire);
        self.machine.forwarded(message.tag);
        let found = fetch.and_then(|fetch| Ok((fetch, self.find(fetch, in_transaction)?)));
        let (fetch, at) = match found {
            Ok(found) => found,
            Err(failure) => {
                self.fail_local(&failure);
                return Taken::Done;
            }
        };
        self.hand_out(message.tag, fetch.n, at);
        Taken::Done
    }

    /// Where the result stands that is asked for.
    pub(super) fn find(&self, fetch: Fetch, in_transaction: bool) -> Result<usize, Failure> {
        let results = self.results.as_ref().map(|local| local.results.as_slice()).unwrap_or_default();
        let last = self.results.as_ref().map_or(FIRST, |local| local.newest);
        let number = match fetch.qid {
            -1 => last,
            // Outside of a transaction Neo4j knows its one result by this number too.
            0 if !in_transaction => last,
            qid => qid,
        };
        results.iter().position(|open| open.number == number).ok_or_else(|| no_such(fetch.qid.max(0)))
    }

    /// Gives records, and what follows them.
    fn hand_out(&mut self, tag: Tag, n: i64, at: usize) {
        let version = self.version();
        let Some(mut local) = self.results.take() else { return };
        let Some(open) = local.results.get_mut(at) else { return };
        let mut left = if n < 0 { u64::MAX } else { n as u64 };
        if n < 0 || open.tail.records().is_some_and(|count| count <= left) {
            // All at once.
            let records = std::mem::take(&mut open.records);
            if tag == Tag::PULL {
                self.own_answers().put_slice(&records);
            }
            left = 0;
        }
        while left > 0 {
            let Found::Message(extent) = MessageScanner::default().scan(&open.records) else { break };
            let record = open.records.split_to(extent.wire);
            if tag == Tag::PULL {
                self.own_answers().put_slice(&record);
            }
            left -= 1;
        }
        let has_more = !open.records.is_empty();
        let first = !std::mem::replace(&mut open.begun, true);
        let unseen = first && tag == Tag::DISCARD;
        if has_more {
            self.put_success(&Value::map([("has_more", true.into())]).to_bytes());
        } else {
            self.put_answer(|out| open.tail.put(unseen, version, out));
            local.results.remove(at);
        }
        self.answered_fetch(local, has_more);
    }

    /// A PULL or DISCARD of one of these results was answered.
    pub(super) fn answered_fetch(&mut self, local: Box<Local>, has_more: bool) {
        self.machine.answered(Outcome::Success { has_more });
        self.results = Some(local);
        if self.machine.state() == State::Ready {
            self.end_local(false, false);
        }
    }

    /// FAILURE for a request that the machine counts as sent on. The transaction that it belongs to is over, at Neo4j too.
    pub(super) fn fail_local(&mut self, failure: &Failure) {
        let version = self.version();
        failure.write(version, self.own_answers());
        self.failed_local();
    }

    /// The same in Neo4j's own words.
    pub(super) fn fail_with(&mut self, payload: &[u8]) {
        self.put_answer(|out| out.put_slice(payload));
        self.failed_local();
    }

    pub(super) fn failed_local(&mut self) {
        self.machine.answered(Outcome::Failure);
        if self.held.take().is_some() {
            self.count_held(true, false);
        } else if self.lease.is_some() {
            self.exchange.failed = true;
            let nothing = self.end_exchange();
            self.shared.buffers.give(nothing);
        } else {
            self.end_local(true, false);
        }
    }

    /// A call outside of a transaction is over.
    pub(super) fn end_local(&mut self, failed: bool, interrupted: bool) {
        self.results = None;
        let metrics = &self.shared.metrics;
        metrics.exchange_seconds.observe(self.exchange.asked.elapsed().as_secs_f64());
        metrics.finished(Tag::RUN, failed, interrupted);
    }

    /// The database that the open transaction's client has named.
    pub(super) fn transaction_database(&self) -> Option<Box<str>> {
        match &self.held {
            Some(held) => held.database().map(Into::into),
            None => self.access.database.as_deref().map(Into::into),
        }
    }

    pub(super) fn home_database(&self) -> Option<Box<str>> {
        let home = self.principal.as_ref().and_then(|principal| self.shared.upstream.home(principal));
        home.as_deref().map(Into::into)
    }
}

impl Open {
    fn new(number: i64, table: &Table, database: Option<Box<str>>) -> Self {
        let mut records = BytesMut::new();
        for row in &table.rows {
            chunk::put_message(&mut records, |out| {
                out.put_slice(&[0xB1, Tag::RECORD.0]);
                Value::List(row.clone()).encode(out);
            });
        }
        let tail = Tail::Own { any: !table.rows.is_empty(), database, since: Instant::now(), wrote: None };
        Self { number, records: records.freeze(), rows: None, tail, begun: false }
    }
}

impl Tail {
    /// How many records there were in all, if that is known.
    fn records(&self) -> Option<u64> {
        match self {
            Self::Own { .. } => None,
            Self::Kept { answer, .. } => Some(answer.count),
        }
    }

    /// SUCCESS behind the last record. `unseen`: the whole result was discarded.
    pub(super) fn put(&self, unseen: bool, version: Version, out: &mut BytesMut) {
        match self {
            Self::Own { any, database, since, wrote } => {
                out.put_slice(&[0xB1, Tag::SUCCESS.0]);
                summary(*any, database.as_deref(), *since, wrote.as_ref(), version).encode(out);
            }
            Self::Kept { answer, bookmark } => answer.put_summary(bookmark.as_deref(), unseen, out),
        }
    }
}

/// The metadata behind a procedure's last record.
fn summary(
    any: bool,
    database: Option<&str>,
    since: Instant,
    wrote: Option<&Option<Box<str>>>,
    version: Version,
) -> Value {
    let mut meta = Vec::with_capacity(5);
    if version.features().notification_filter == NotificationFilter::Classifications {
        let (code, description) =
            if any { ("00000", "note: successful completion") } else { ("02000", "note: no data") };
        let status = Value::map([("gql_status", code.into()), ("status_description", description.into())]);
        meta.push(("statuses", Value::List(vec![status])));
    }
    let kind = if wrote.is_some() { "rw" } else { "r" };
    meta.extend([("type", kind.into()), ("t_last", millis(since))]);
    meta.extend(wrote.and_then(Option::as_deref).map(|bookmark| ("bookmark", bookmark.into())));
    meta.extend(database.map(|name| ("db", name.into())));
    Value::map(meta)
}

impl Fetch {
    /// Reads the payload of a PULL or DISCARD, as Neo4j does.
    pub(super) fn read(payload: &[u8]) -> Result<Self, Failure> {
        let invalid = |words: &str| {
            let text = format!("Illegal value for field \"meta\": Illegal value for field {words}");
            Failure::new("Neo.ClientError.Request.Invalid", "08N06", text)
        };
        let map = only_map(payload).map_err(|_| invalid("\"meta\": Expected map"))?;
        let integer = |name: &str| map.get(name).map(|value| Walker::new(value).integer());
        let n = match integer("n") {
            Some(Ok(n)) if n == -1 || n > 0 => n,
            Some(Ok(n)) => {
                return Err(invalid(&format!("\"n\": Expecting size to be at least 1, but got: {n}")));
            }
            Some(Err(_)) => return Err(invalid("\"n\": Expected long")),
            None => return Err(invalid("\"n\": Expected value to be non-null")),
        };
        let qid = integer("qid").unwrap_or(Ok(-1)).map_err(|_| invalid("\"qid\": Expected long"))?;
        Ok(Self { n, qid })
    }
}

/// The first bytes of a RUN's text, as many as are in the message's first chunk; `None` if that is no RUN.
fn text_begins(wire: &[u8]) -> Option<&[u8]> {
    let (size, rest) = wire.split_first_chunk::<2>()?;
    let chunk = rest.get(..usize::from(u16::from_be_bytes(*size)).min(rest.len()))?;
    if chunk.len() < 16 {
        // Too little to tell: looked at as a whole.
        return Some(&[]);
    }
    let (_, fields, walker) = open(chunk).ok()?;
    let (marker, text) = walker.rest().split_first()?;
    let (header, length) = match (*marker, text) {
        (0x80..=0x8F, _) => (0, usize::from(*marker & 0x0F)),
        (0xD0, [a, ..]) => (1, usize::from(*a)),
        (0xD1, [a, b, ..]) => (2, usize::from(u16::from_be_bytes([*a, *b]))),
        (0xD2, [a, b, c, d, ..]) => (4, u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        _ => return None,
    };
    let text = text.get(header..)?;
    (fields == 3).then(|| text.get(..length).unwrap_or(text))
}

fn fields(table: &Table) -> Value {
    Value::List(table.columns.iter().map(|name| Value::from(name.as_str())).collect())
}

pub(super) fn millis(since: Instant) -> Value {
    Value::Integer(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
}

fn no_such(qid: i64) -> Failure {
    Failure::new("Neo.ClientError.Request.InvalidFormat", "08N06", format!("No such statement: {qid}"))
}

pub(super) fn too_many() -> Failure {
    let text = format!(
        "Sidebolt: {MOST} results of CALL sidebolt.… are open in this transaction already; read or discard one of them first."
    );
    Failure::new("Neo.ClientError.Procedure.ProcedureCallFailed", "52N37", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Vec<u8> {
        let mut out = BytesMut::new();
        let none = || Value::Map(Vec::new());
        bolt_wire::packstream::value::put_message(Tag::RUN.0, &[text.into(), none(), none()], &mut out);
        out.to_vec()
    }

    #[test]
    fn a_texts_first_bytes_are_found_in_place() {
        for length in [16, 100, 300, 60_000] {
            let text = "x".repeat(length);
            assert_eq!(text_begins(&run(&text)), Some(text.as_bytes()), "{length}");
        }
        let long = "x".repeat(200_000);
        let long = run(&long);
        let begin = text_begins(&long).unwrap();
        assert!(begin.len() > 60_000 && begin.iter().all(|byte| *byte == b'x'));
        // Small messages and small first chunks are looked at as a whole.
        assert_eq!(text_begins(&run("RETURN 1")), Some(&[][..]));
        assert_eq!(text_begins(&[0, 1, 0xB3, 0, 0]), Some(&[][..]));
        let mut wrong = run(&"x".repeat(20));
        wrong[4] = 0x01;
        assert_eq!(text_begins(&wrong), None);
    }

    #[test]
    fn what_is_fetched_is_read_as_neo4j_does() {
        let read = |entries: &[(&str, i64)]| {
            let map = Value::map(entries.iter().map(|(name, value)| (*name, Value::Integer(*value))));
            Fetch::read(&[&[0xB1, Tag::PULL.0][..], &map.to_bytes()].concat())
                .map_err(|failure| failure.message)
        };
        assert_eq!(read(&[("n", -1)]), Ok(Fetch { n: -1, qid: -1 }));
        assert_eq!(read(&[("n", 7), ("qid", 3)]), Ok(Fetch { n: 7, qid: 3 }));
        for (entries, words) in
            [(&[("n", 0)][..], "at least 1, but got: 0"), (&[], "non-null"), (&[("n", -2)], "-2")]
        {
            assert!(read(entries).unwrap_err().contains(words));
        }
    }
}
