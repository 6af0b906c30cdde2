//! From Neo4j: records pass as bytes, summaries are looked at, and the last one sets the connection free.  [hot path]

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::server::State;
use bytes::{Buf, BufMut, BytesMut};
use tokio::time::Instant;

use super::{End, Event, Session, Shared, Step, route, send};
use crate::failure::Refusal;
use crate::guard::Failing;
use crate::upstream::{Fault, Lease, Next};

/// The longest step between two looks at the clock while something is waited for.
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// What a look at Neo4j's bytes came to.
#[derive(Default)]
struct Delivery {
    /// Bytes at the start of the connection's buffer that go to the client as they are.
    verbatim: usize,
    /// The exchange is over.
    over: bool,
    /// The statement is to be run again.
    again: bool,
}

impl Shared {
    /// How long a waiting client may hear nothing: half of the receive time-out that Neo4j advertises.
    pub(super) fn noop_interval(&self) -> Duration {
        self.upstream.recv_timeout().unwrap_or(Duration::from_secs(120)) / 2
    }

    /// How long Neo4j may be silent while it owes an answer.
    pub(crate) fn read_timeout(&self) -> Duration {
        let configured = self.config.load().upstream.read_timeout;
        if configured.is_zero() { self.noop_interval() * 2 } else { configured }
    }

    fn tick(&self) -> Duration {
        let idle = self.config.load().guard.idle_transaction_timeout;
        let idle = if idle.is_zero() { LONGEST_TICK } else { idle / 4 };
        (self.read_timeout().min(self.noop_interval()) / 20)
            .min(idle)
            .clamp(Duration::from_millis(5), LONGEST_TICK)
    }
}

impl Session {
    /// Waits until either side has something while an exchange is open, and acts on it. Neo4j may take requests only after we have
    /// taken its answers, so neither waits for the other; the client is not read while its requests are stuck.
    pub(super) async fn pump(&mut self) -> Step {
        // Where nothing is due, what is there is the beginning of a request, which `limits.max_inspected_request` bounds.
        let room = self.machine.in_flight() == 0
            || self.inbuf.len() < self.shared.config.load().limits.max_pipelined;
        let event = poll_fn(|cx| {
            let Some(lease) = &mut self.lease else { return Poll::Ready(Ok(Event::Client)) };
            let connection = lease.connection_mut();
            if let Poll::Ready(read) = connection.poll_fill(cx, &self.shared.buffers) {
                return Poll::Ready(read.map(|_| Event::Upstream).map_err(|_| End::UpstreamLost));
            }
            // A server that has closed may have said why: its last words come first, and behind them the end.
            let sent = matches!(connection.poll_flush(cx), Poll::Ready(Ok(())));
            if room
                && sent
                && let Poll::Ready(read) = self.poll_client(cx)
            {
                return Poll::Ready(read.map(|()| Event::Client));
            }
            self.tick.as_mut().poll(cx).map(|()| Ok(Event::Tick))
        });
        match event.await {
            Ok(Event::Upstream) => self.deliver().await,
            Ok(Event::Tick) => self.look_at_the_clock(),
            Ok(Event::Client) => Ok(()),
            Err(End::UpstreamLost) => Err(self.lose_upstream()),
            Err(end) => Err(end),
        }
    }

    /// Gives up on a server that has been silent for too long while it owed an answer, and on a client that stopped in the middle of a
    /// request.
    fn look_at_the_clock(&mut self) -> Step {
        let limit = self.shared.read_timeout();
        if self.machine.in_flight() > 0 && self.last_heard.elapsed() >= limit {
            tracing::warn!(
                session = self.registration.id,
                ?limit,
                "Neo4j owes an answer and is silent: giving up."
            );
            return Err(self.lose_upstream());
        }
        self.end_idle_transaction();
        // Whole requests do not stay here while nothing is due, so this one is not whole.
        let limit = self.shared.config.load().listen.write_timeout;
        if self.machine.in_flight() == 0 && !self.inbuf.is_empty() && self.last_read.elapsed() >= limit {
            return Err(End::WriteTimeout);
        }
        self.arm_tick();
        Ok(())
    }

    /// Arms the clock for the next look. Only a tick that has fired is set again: a request costs no timer.
    pub(super) fn arm_tick(&mut self) {
        if self.tick.is_elapsed() {
            let next = Instant::now() + self.shared.tick();
            self.tick.as_mut().reset(next);
        }
    }

    /// Passes on what has come. The connection is set free before the last bytes are written, so that a slow client does not hold it.
    async fn deliver(&mut self) -> Step {
        let delivery = self.look()?;
        if delivery.again {
            // Rare, and its state large: boxed.
            return Box::pin(self.run_again()).await;
        }
        self.fill(delivery.verbatim);
        let limit = self.shared.config.load().listen.write_timeout;
        self.shared.metrics.bytes_to_clients.inc_by(delivery.verbatim as u64);
        if !self.outbuf.is_empty() {
            send(&mut self.client, &self.outbuf, limit).await?;
            self.outbuf.clear();
        }
        if !delivery.over {
            let Some(lease) = &mut self.lease else { return Ok(()) };
            let connection = lease.connection_mut();
            if let Some(bytes) = connection.inbuf.get(..delivery.verbatim).filter(|bytes| !bytes.is_empty()) {
                send(&mut self.client, bytes, limit).await?;
                connection.inbuf.advance(delivery.verbatim);
            }
            connection.inbuf.rest(&self.shared.buffers);
            // A client that took its time is no silence of Neo4j's.
            self.last_heard = Instant::now();
            return Ok(());
        }
        let bytes = self.end_exchange();
        let sent = match bytes.get(..delivery.verbatim) {
            Some(bytes) if !bytes.is_empty() => send(&mut self.client, bytes, limit).await,
            _ => Ok(()),
        };
        self.shared.buffers.give(bytes);
        sent?;
        // Its RESET did not clean: that was Neo4j's last word.
        if self.machine.state() == State::Defunct { Err(End::Closed) } else { Ok(()) }
    }

    /// Gives the connection back and takes what it has read.
    pub(super) fn end_exchange(&mut self) -> BytesMut {
        let Some(mut lease) = self.lease.take() else { return BytesMut::new() };
        let connection = lease.connection_mut();
        let bytes = connection.inbuf.take();
        if std::mem::take(&mut self.condemned) {
            lease.discard()
        } else {
            drop(lease)
        }
        self.note_pin();
        let exchange = self.exchange;
        self.forget_again();
        (self.deferred, self.results) = (None, None);
        self.end_filling(!exchange.failed && !exchange.interrupted);
        self.writing = None;
        self.end_errand(exchange.failed || exchange.interrupted);
        self.watch_over();
        let metrics = &self.shared.metrics;
        let now = Instant::now();
        metrics.exchange_seconds.observe((now - exchange.asked).as_secs_f64());
        metrics.upstream_seconds.observe((now - exchange.leased).as_secs_f64());
        metrics.finished(exchange.tag, exchange.failed, exchange.interrupted);
        bytes
    }

    /// Looks at what has come: how much of it goes on as it is, and what the summaries in it change.
    fn look(&mut self) -> Step<Delivery> {
        let mut delivery = Delivery::default();
        loop {
            let Some(lease) = &mut self.lease else { return Ok(delivery) };
            let found = lease.connection_mut().scan(delivery.verbatim);
            if self.guarded.counts_results
                && let Some((refusal, whole)) = self.too_large(&found)
            {
                delivery.verbatim += whole;
                self.cut_result(&refusal, &mut delivery)?;
                return Ok(delivery);
            }
            delivery.verbatim += found.pass;
            self.shared.metrics.records.inc_by(found.records);
            self.watch.passed(found.records, found.pass);
            if let Some(errand) = &mut self.errand {
                errand.records += found.records;
            }
            if !found.summary {
                return Ok(delivery);
            }
            let Some(connection) = self.lease.as_mut().map(Lease::connection_mut) else {
                return Ok(delivery);
            };
            let Next::Summary(extent) = connection.next(delivery.verbatim) else {
                if connection.inbuf.len() - delivery.verbatim > self.shared.config.load().limits.max_summary {
                    tracing::warn!("A summary is larger than limits.max_summary.");
                    return Err(self.lose_upstream());
                }
                return Ok(delivery);
            };
            if self.fails_in_passing(extent, delivery.verbatim) {
                self.skip(extent, &mut delivery);
                delivery.again = true;
                return Ok(delivery);
            }
            self.summary(extent, &mut delivery)?;
            if delivery.over {
                // Bytes behind the last answer were not asked for: the connection is not to be trusted.
                if let Some(lease) = &mut self.lease
                    && lease.connection_mut().inbuf.len() > delivery.verbatim
                {
                    lease.connection_mut().machine.lost();
                }
                return Ok(delivery);
            }
        }
    }

    /// One summary, which stands behind the bytes that go on as they are.
    fn summary(&mut self, extent: Extent, delivery: &mut Delivery) -> Step {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let connection = lease.connection_mut();
        let wire =
            connection.inbuf.get(delivery.verbatim..delivery.verbatim + extent.wire).unwrap_or_default();
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(wire, extent, &mut scratch);
        let Ok(summary) = Summary::parse(payload) else { return Err(self.lose_upstream()) };
        let outcome = summary.outcome;
        let Some(expected) = connection.machine.received(outcome) else { return Err(self.lose_upstream()) };
        if !expected.own {
            let place = (&*self.shared, &self.principal, &self.registration);
            self.watch.answered(place, expected.tag, &summary);
        }
        if !expected.own
            && let Some(errand) = &mut self.errand
            && !errand.note(expected.tag, &summary, payload)
        {
            self.errand = None;
        }
        if let Some(writing) = &mut self.writing {
            writing.answered(expected.tag, &summary, || self.shared.upstream.counts_sets(&self.key));
        }
        match expected.tag {
            _ if expected.own => {}
            Tag::BEGIN => self.reads.learn(&summary, payload),
            Tag::RUN => self.guarded.result_begins(),
            Tag::PULL | Tag::DISCARD => self.guarded.timed(),
            _ => {}
        }
        let mut kept = Vec::new();
        if outcome == Outcome::Failure {
            let code = summary.code().unwrap_or_default().to_owned();
            if expected.own && self.deferred.is_some() {
                kept = payload.to_vec();
            }
            self.note_failure(&code);
        }
        self.count_call(None);
        if expected.own {
            if outcome == Outcome::Failure {
                self.note_deferred_failure(&kept);
            }
            self.skip(extent, delivery);
            return Ok(());
        }
        if outcome == Outcome::Ignored
            && let Some(failure) = self.deferred.as_mut().and_then(|deferred| deferred.failure.take())
        {
            // The write that failed was answered before: this is the first answer that can tell.
            self.skip(extent, delivery);
            self.put_answer(|out| out.put_slice(&failure));
            let Some(answered) = self.machine.answered(Outcome::Failure) else {
                return Err(self.lose_upstream());
            };
            delivery.over = answered.over;
            self.note_pin();
            return Ok(());
        }
        if expected.tag == Tag::RESET && self.overtaken > 0 && self.machine.in_flight() == 1 {
            self.keep_aside(delivery);
            (0..std::mem::take(&mut self.overtaken)).for_each(|_| self.put_ignored());
        }
        if expected.tag == Tag::ROUTE && matches!(outcome, Outcome::Success { .. }) {
            self.answer_route(extent, delivery);
        } else {
            delivery.verbatim += extent.wire;
        }
        let Some(answered) = self.machine.answered(outcome) else { return Err(self.lose_upstream()) };
        delivery.over = answered.over;
        self.note_pin();
        Ok(())
    }

    /// What a FAILURE of Neo4j's changes for the connection and the client's credentials.
    pub(super) fn note_failure(&mut self, code: &str) {
        self.shared.metrics.failure(code);
        self.exchange.failed = true;
        if let Some(fault) = Fault::of(code) {
            self.report(fault);
        }
        if let Some(lease) = &self.lease {
            lease.pool().failed(&Failing::Code(code));
        }
        self.count_call(Some(code));
        if code.starts_with("Neo.ClientError.Security.")
            && let Some(principal) = &self.principal
        {
            principal.doubt();
        }
        // After a malformed or illegal request the servers go on differently, so what follows is left to them, on this connection.
        let malformed = code.starts_with("Neo.ClientError.Request.") || self.exchange.tag == Tag::TELEMETRY;
        if malformed && self.machine.state() != State::Interrupted {
            self.machine.hold();
            self.condemned = true;
        }
        // Neo4j closes a connection for which it has no thread, and who gives no code may say anything next.
        if code.is_empty() || code == "Neo.TransientError.Request.NoThreadsAvailable" {
            self.condemned = true;
        }
    }

    /// Ends a result that is larger than it may be, and with it the exchange: what has passed of it is followed by a FAILURE, and Neo4j
    /// is rid of it at once.
    fn cut_result(&mut self, refusal: &Refusal, delivery: &mut Delivery) -> Step {
        self.keep_aside(delivery);
        let place = (&*self.shared, &self.principal, &self.registration);
        self.watch.cut(place, refusal.code().0);
        self.put_refusal(refusal);
        let mut outcome = Outcome::Failure;
        while self.machine.in_flight() > 0 {
            if outcome == Outcome::Ignored {
                self.put_ignored();
            }
            let Some(answered) = self.machine.answered(outcome) else { return Err(self.lose_upstream()) };
            delivery.over = answered.over;
            outcome = Outcome::Ignored;
        }
        // The rest of the result is on its way there: closing is what ends it soonest.
        (self.condemned, self.exchange.failed) = (true, true);
        Ok(())
    }

    /// Moves the bytes that go on as they are into `outbuf`, so that something of our own can follow them.
    fn keep_aside(&mut self, delivery: &mut Delivery) {
        if delivery.verbatim > 0 {
            // An answer in pieces is not kept.
            self.filling = None;
        }
        self.own_answers();
        let Some(lease) = &mut self.lease else { return };
        let connection = lease.connection_mut();
        self.outbuf.put_slice(connection.inbuf.get(..delivery.verbatim).unwrap_or_default());
        connection.inbuf.advance(delivery.verbatim);
        delivery.verbatim = 0;
    }

    /// Drops a summary that answers a request of our own.
    fn skip(&mut self, extent: Extent, delivery: &mut Delivery) {
        self.keep_aside(delivery);
        if let Some(lease) = &mut self.lease {
            lease.connection_mut().inbuf.advance(extent.wire);
        }
    }

    /// ROUTE's answer, with the proxy's address in it.
    fn answer_route(&mut self, extent: Extent, delivery: &mut Delivery) {
        self.keep_aside(delivery);
        let Some(mut lease) = self.lease.take() else { return };
        let connection = lease.connection_mut();
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&connection.inbuf, extent, &mut scratch);
        let address = self.route_address();
        self.learn_home(payload);
        self.put_answer(|out| route::rewrite(payload, &address, out));
        connection.inbuf.advance(extent.wire);
        self.lease = Some(lease);
    }
}
