//! Rows of `CALL gnn.…` that are encoded while they are fetched.

use bolt_wire::chunk;
use bolt_wire::message::{Outcome, Run};
use bolt_wire::packstream::Value;
use bolt_wire::server::State;
use bolt_wire::{Tag, Version};
use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::local::{Fetch, MOST, Open, Source, Tail, millis, too_many};
use super::requests::Message;
use super::{Session, Step};
use crate::gnn::{Call, Rows};
use crate::sight::Answered;

/// Bytes that are encoded before they are sent.
const PIECE: usize = 256 << 10;

impl Session {
    /// The rows wait to be fetched.
    pub(super) fn open_gnn(&mut self, message: Message, call: &Call, rows: Rows) {
        let named = {
            let mut scratch = BytesMut::new();
            let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
            Run::parse(payload).ok().and_then(|run| run.extra.string("db").map(Into::into))
        };
        self.inbuf.advance(message.extent.wire);
        self.machine.forwarded(Tag::RUN);
        self.telemetry = None;
        let count = rows.len() as u64;
        self.watch_answered(Answered::Gnn, false, count, count.saturating_mul(rows.row_bytes() as u64));
        let names = call.columns.iter().map(|(_, name)| Value::from(name.as_str())).collect();
        self.open_rows(Source::Rows(Box::new(rows)), Value::List(names), named, self.exchange.asked);
    }

    /// True if a result is asked for that has rows to encode.
    pub(super) fn is_of_rows(&self, fetch: Option<&Fetch>, in_transaction: bool) -> bool {
        let at = fetch.and_then(|fetch| self.find(*fetch, in_transaction).ok());
        let results = self.results.as_ref().map(|local| local.results.as_slice()).unwrap_or_default();
        at.and_then(|at| results.get(at)).is_some_and(|open| open.rows.is_some())
    }

    /// Answers the PULL or DISCARD at the start of `inbuf` with rows, in pieces, so that all of them are never there at once.
    pub(super) async fn stream_rows(&mut self, message: Message) -> Step {
        let in_transaction = self.machine.state() == State::Transaction;
        let mut scratch = BytesMut::new();
        let fetch = Fetch::read(chunk::payload(&self.inbuf, message.extent, &mut scratch));
        let Ok((fetch, at)) = fetch.and_then(|fetch| Ok((fetch, self.find(fetch, in_transaction)?))) else {
            return Ok(());
        };
        let open = self.results.as_ref().and_then(|local| local.results.get(at));
        if open.is_some_and(|open| matches!(open.rows, Some(Source::Feed(_)))) {
            return self.stream_feed(message, fetch, at).await;
        }
        self.inbuf.advance(message.extent.wire);
        self.machine.forwarded(message.tag);
        let Some(mut local) = self.results.take() else { return Ok(()) };
        let Some(open) = local.results.get_mut(at) else { return Ok(()) };
        let Some(Source::Rows(rows)) = &mut open.rows else { return Ok(()) };
        let mut left = if fetch.n < 0 { u64::MAX } else { fetch.n as u64 };
        if message.tag == Tag::DISCARD {
            rows.skip(left);
            left = 0;
        }
        while left > 0 && rows.put_record(self.own_answers()) {
            left -= 1;
            if self.outbuf.len() >= PIECE {
                self.flush_client().await?;
            }
        }
        let has_more = !rows.is_over();
        open.begun = true;
        if has_more {
            self.put_success(&Value::map([("has_more", true.into())]).to_bytes());
        } else {
            let version = self.version();
            self.put_answer(|out| open.tail.put(false, version, out));
            local.results.remove(at);
        }
        self.answered_fetch(local, has_more);
        self.last_heard = Instant::now();
        Ok(())
    }

    /// Answers RUN with rows that wait to be fetched; the message is gone, and counts as sent on. `named`: the database that it names.
    pub(super) fn open_rows(
        &mut self,
        source: Source,
        fields: Value,
        named: Option<Box<str>>,
        since: Instant,
    ) {
        let in_transaction = self.machine.state() == State::Transaction;
        if self.results.as_ref().map_or(0, |local| local.results.len()) >= MOST {
            return self.fail_local(&too_many());
        }
        let named = if in_transaction { self.transaction_database() } else { named };
        let database = named.clone().or_else(|| self.home_database());
        let mut meta = vec![("t_first", millis(since)), ("fields", fields)];
        let local = self.results.get_or_insert_default();
        let number = local.next;
        local.next += 1;
        (local.newest, local.last) = (number, true);
        if in_transaction {
            meta.push(("qid", Value::Integer(number)));
        } else if named.is_none() && self.machine.version() >= Version::V5_8 {
            meta.extend(database.as_deref().map(|name| ("db", name.into())));
        }
        let (any, wrote) = match &source {
            Source::Rows(rows) => (rows.len() > 0, rows.wrote.then(|| rows.bookmark.clone())),
            // Neo4j says what follows its last record.
            Source::Feed(_) => (true, None),
        };
        let tail = Tail::Own { any, database, since: Instant::now(), wrote };
        let rows = Some(source);
        local.results.push(Open { number, records: Bytes::new(), rows, tail, begun: false });
        self.machine.answered(Outcome::DONE);
        self.put_success(&Value::map(meta).to_bytes());
    }
}
