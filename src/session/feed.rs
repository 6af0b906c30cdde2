//! The rest of a query behind `CALL gnn.…` over many rows: batch by batch, its records given as they are fetched.

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::Run;
use bolt_wire::packstream::Value;
use bolt_wire::packstream::value::put_message;
use bytes::{Buf, BufMut, BytesMut};
use tokio::time::Instant;

use super::filter::inherited_keys;
use super::local::{Fetch, Local, Source};
use super::requests::Message;
use super::{End, Session, Step};
use crate::gnn::{Ask, Call, Caller, Feed, Gave, NAMESPACE, Rows, Trouble, fetching};
use crate::guard::Permit;
use crate::sight::Answered;

impl Session {
    /// Runs the rest of a call's query over the first rows. The message is gone then.
    pub(super) async fn open_feed(
        &mut self,
        message: Message,
        call: &Call,
        rows: Rows,
        caller: Caller,
    ) -> Step {
        if self.held.is_some() && self.go_on(message, None).await? {
            return Ok(());
        }
        let (begin, parameters, named) = {
            let mut scratch = BytesMut::new();
            let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
            let Ok(run) = Run::parse(payload) else { return Err(End::Violation) };
            let begin = inherited_keys(self.version(), &self.profile.filter, &run.extra);
            (begin, run.parameters.to_vec(), run.extra.string("db").map(Into::into))
        };
        let in_transaction = caller.in_transaction;
        let mut feed = Feed::new(caller.clone(), call, rows, parameters);
        if !in_transaction {
            match self.wait_in_time(&caller, caller.lease()).await? {
                None => return Ok(()),
                Some(Ok(lease)) => feed.lease = Some(lease),
                Some(Err(trouble)) => {
                    self.refuse_gnn(message, trouble, call.procedure.name);
                    return Ok(());
                }
            }
        }
        let fields = match self.ask_feed(&mut feed, Ask::Begin(&begin)).await? {
            None => {
                self.feed_taken_back(message.tag);
                return Ok(());
            }
            Some(Ok(begun)) => Value::decode(&begun.meta).unwrap_or(Value::List(Vec::new())),
            Some(Err(trouble)) => {
                self.refuse_gnn(message, trouble, call.procedure.name);
                return Ok(());
            }
        };
        feed.ran = None;
        self.inbuf.advance(message.extent.wire);
        self.machine.forwarded(message.tag);
        self.telemetry = None;
        self.drop_errand();
        self.guarded.result_begins();
        if in_transaction {
            // Its next statement is seen too, and is not its first.
            self.reads.forget();
            self.filling = None;
            self.watch_answered(Answered::Gnn, false, 0, 0);
        }
        self.open_rows(Source::Feed(Box::new(feed)), fields, named, self.exchange.asked);
        Ok(())
    }

    /// Answers the PULL or DISCARD at the start of `inbuf` with records of as many batches as it takes.
    pub(super) async fn stream_feed(&mut self, message: Message, fetch: Fetch, at: usize) -> Step {
        let Some(mut local) = self.results.take() else { return Ok(()) };
        let source = local.results.get_mut(at).and_then(|open| open.rows.as_mut());
        let Some(Source::Feed(feed)) = source else { return Ok(()) };
        let done = self.fetch_feed(message.tag, fetch, feed).await?;
        let (given, alone) = (feed.given, feed.lease.is_some());
        let ran = feed.ran.take();
        local.ran_batch(ran);
        let Some(done) = done else {
            // RESET is next, and ends the result.
            self.results = Some(local);
            self.feed_taken_back(message.tag);
            return Ok(());
        };
        self.inbuf.advance(message.extent.wire);
        self.machine.forwarded(message.tag);
        let has_more = match done {
            Ok(None) => {
                self.put_success(&Value::map([("has_more", true.into())]).to_bytes());
                true
            }
            Ok(Some(summary)) => {
                self.watch_feed(alone, false, given);
                self.put_success(&summary);
                local.results.remove(at);
                false
            }
            Err(trouble) => {
                self.watch_feed(alone, true, given);
                match trouble.failure(NAMESPACE) {
                    Ok(failure) => self.fail_local(&failure),
                    Err(payload) => self.fail_with(&payload),
                }
                return Ok(());
            }
        };
        self.answered_fetch(local, has_more);
        self.last_heard = Instant::now();
        Ok(())
    }

    /// A feed in a transaction of its own is over.
    fn watch_feed(&mut self, alone: bool, failed: bool, (records, bytes): (u64, u64)) {
        if alone {
            self.watch_answered(Answered::Gnn, failed, records, bytes);
        }
    }

    /// The seat that a call had is its connection's as long as that is needed.
    pub(super) fn seat_feed(&mut self, seat: Option<Permit>) {
        let open = self.results.as_mut().and_then(|local| local.results.last_mut());
        if let Some(Source::Feed(feed)) = open.and_then(|open| open.rows.as_mut())
            && let Some(lease) = &mut feed.lease
        {
            lease.seat(seat);
        }
    }

    /// Gives records to the client. What stands behind the last one, if that was it; `None` if the message was taken back.
    async fn fetch_feed(
        &mut self,
        tag: Tag,
        fetch: Fetch,
        feed: &mut Feed,
    ) -> Step<Option<Result<Option<Vec<u8>>, Trouble>>> {
        let mut left = if fetch.n < 0 { u64::MAX } else { fetch.n as u64 };
        let asked = if fetch.n < 0 { tag } else { Tag::PULL };
        if asked == Tag::DISCARD {
            feed.skip();
        }
        while left > 0 && !feed.is_over() {
            let mut out = BytesMut::new();
            let ask = Ask::Records { tag: asked, most: left, out: &mut out };
            let records = match self.ask_feed(feed, ask).await? {
                None => return Ok(None),
                Some(Err(trouble)) => return Ok(Some(Err(trouble))),
                Some(Ok(gave)) => gave.records,
            };
            left = left.saturating_sub(records);
            if tag == Tag::DISCARD {
                continue;
            }
            if self.guarded.counts_results
                && let Some(refusal) = self.guarded.count(records, out.len())
            {
                self.shared.metrics.refusals.with_label_values(&[refusal.label()]).inc();
                self.condemned |= self.lease.is_some();
                return Ok(Some(Err(refusal.into())));
            }
            feed.given = (feed.given.0 + records, feed.given.1 + out.len() as u64);
            self.shared.metrics.records.inc_by(records);
            self.own_answers().put_slice(&out);
            self.flush_client().await?;
        }
        if !feed.is_over() {
            return Ok(Some(Ok(None)));
        }
        Ok(self.ask_feed(feed, Ask::End).await?.map(|done| done.map(|gave| Some(gave.meta))))
    }

    /// Asks Neo4j over the feed's own connection or the open transaction's. `None` if the message was taken back.
    async fn ask_feed(&mut self, feed: &mut Feed, ask: Ask<'_>) -> Step<Option<Result<Gave, Trouble>>> {
        let caller = feed.caller.clone();
        let lease = if caller.in_transaction { self.lease.take() } else { feed.lease.take() };
        let Some(mut lease) = lease else { return Err(End::Violation) };
        let done = self.wait_in_time(&caller, feed.ask(lease.connection_mut(), ask)).await?;
        if caller.in_transaction {
            self.lease = Some(lease);
            // Nobody can go on with what is answered by half: closing ends it soonest.
            self.condemned |= !matches!(done, Some(Ok(_) | Err(Trouble::Neo4j(_))));
        } else {
            feed.lease = Some(lease);
        }
        Ok(done)
    }

    /// The message was taken back, and the RESET that did so is next: the open transaction is over.
    fn feed_taken_back(&mut self, tag: Tag) {
        if self.lease.is_some() {
            self.machine.forwarded(tag);
            self.failed_local();
        }
    }

    /// The PULL or DISCARD at the start of `inbuf` means the last result of Neo4j's by no number, but a batch was run since: it gets one.
    pub(super) fn number_fetch(&mut self, message: Message, fetch: Fetch, number: i64) {
        let mut changed = BytesMut::new();
        put_message(message.tag.0, &[fetching(fetch.n, number)], &mut changed);
        changed.put_slice(self.inbuf.get(message.extent.wire..).unwrap_or_default());
        *self.inbuf = changed;
        self.messages = chunk::MessageScanner::default();
    }
}

impl Local {
    /// A batch was run, with this number: if the last result that the client knows of is Neo4j's, it is the one before.
    fn ran_batch(&mut self, number: Option<i64>) {
        if let Some(number) = number.filter(|_| !self.last && self.foreign.is_none()) {
            self.foreign = Some(number - 1);
        }
    }
}
