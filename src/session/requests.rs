//! From the client: what each message means now, and where it goes.  [hot path]

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::Run;
use bolt_wire::server::{State, Verdict};
use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::deferred::Deferring;
use super::guarded::Ruled;
use super::local::Taken;
use super::{End, Exchange, Session, Step, login, send};
use crate::coalesce::Claim;
use crate::failure::Refusal;
use crate::statement::{Statement, Statements};

/// A message as it stands at the start of `inbuf`.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) tag: Tag,
    pub(super) extent: Extent,
}

impl Session {
    /// Acts on every message that can be acted on now.
    pub(super) async fn take_requests(&mut self) -> Step {
        self.look_for_reset();
        loop {
            match self.messages.scan(&self.inbuf) {
                Found::Noop => self.inbuf.advance(2),
                Found::Partial => {
                    if !self.large_request().await? {
                        return Ok(());
                    }
                }
                Found::Message(extent) => {
                    let Some(tag) = chunk::peek_tag(&self.inbuf) else { return Err(End::Closed) };
                    if !self.take(Message { tag, extent }).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Acts on one message; false if it has to wait for an answer that is still due.
    async fn take(&mut self, message: Message) -> Step<bool> {
        let Message { tag, extent } = message;
        match self.machine.judge(tag) {
            Verdict::Wait => return Ok(false),
            Verdict::Continue | Verdict::Interrupt => {
                if self.take_expired(message) {
                    return Ok(true);
                }
                if self.results.is_some() || tag == Tag::RUN {
                    match self.take_local(message)? {
                        Taken::Gnn(asked) => return Box::pin(self.take_gnn(message, asked)).await,
                        Taken::Done => return Ok(true),
                        Taken::Later => return Ok(false),
                        Taken::Not => {}
                    }
                }
                match self.let_run(message, false) {
                    Ruled::Runs => {}
                    Ruled::Refused => return Ok(true),
                    Ruled::Later => return Ok(false),
                }
                // Waiting for others, or beginning late, has a large state: boxed.
                if self.held.is_some() && Box::pin(self.take_held(message)).await? {
                    return Ok(true);
                }
                match self.defer(message) {
                    Deferring::Answered => return Ok(true),
                    Deferring::Wait => return Ok(false),
                    Deferring::Pass => {}
                }
                self.pass_on(message);
            }
            Verdict::Start => return self.start(message).await,
            Verdict::Ignore => self.put_ignored(),
            Verdict::Reset => {
                self.machine.reset();
                self.put_success(&[0xA0]);
            }
            Verdict::Telemetry => return self.take_telemetry(message).await,
            Verdict::Logoff => {
                self.machine.logged_off();
                self.principal = None;
                self.registration.set_who(None);
                self.lane = None;
                self.put_success(&[0xA0]);
            }
            Verdict::Logon => {
                let wire = self.inbuf.split_to(extent.wire);
                Box::pin(login::log_on(self, &wire, extent)).await?;
                return Ok(true);
            }
            Verdict::Hello | Verdict::Illegal => {
                self.refuse_illegal(tag);
                return Err(End::Violation);
            }
            Verdict::Close => return Err(End::Closed),
        }
        self.inbuf.advance(extent.wire);
        Ok(true)
    }

    /// Queues a message of the open exchange upstream, as it is.
    fn pass_on(&mut self, message: Message) {
        match message.tag {
            Tag::RUN => {
                self.guarded.time();
                self.watch(message.extent);
                self.note_ask(message.extent, false);
                self.fill_in_transaction(message);
            }
            Tag::COMMIT => self.note_commit(),
            Tag::DISCARD => self.filling = None,
            _ => {}
        }
        self.keep_for_again(message);
        let Some(lease) = &mut self.lease else { return };
        let wire = self.inbuf.get(..message.extent.wire).unwrap_or_default();
        lease.connection_mut().queue(message.tag, wire);
        if let Some(errand) = &mut self.errand {
            let statements = &self.shared.coalescer.statements;
            errand.asked(message.tag, || statement_of(statements, wire, message.extent));
        }
        self.owe(message.tag);
        self.watch_sent(message);
        if message.tag == Tag::RESET {
            self.exchange.interrupted = true;
        }
        self.note_pin();
    }

    /// A RESET overtakes what has come before it and was not sent on: those messages are answered with IGNORED.
    fn look_for_reset(&mut self) {
        if matches!(self.machine.state(), State::Negotiation | State::Authentication | State::Interrupted) {
            return;
        }
        let Some((bytes, messages)) = before_last_reset(&self.inbuf) else { return };
        self.inbuf.advance(bytes);
        self.messages = MessageScanner::default();
        if self.machine.is_open() {
            self.overtaken += messages;
        } else {
            (0..messages).for_each(|_| self.put_ignored());
        }
    }

    /// Neo4j owes an answer from now on: its silence before that was none.
    fn owe(&mut self, tag: Tag) {
        if self.machine.in_flight() == 0 {
            self.last_heard = Instant::now();
        }
        self.machine.forwarded(tag);
    }

    pub(super) fn begin_exchange(&mut self, tag: Tag) {
        let now = Instant::now();
        let watched = self.shared.cache.is_active();
        self.watch.begin();
        self.exchange = Exchange {
            tag,
            asked: now,
            leased: now,
            failed: false,
            interrupted: false,
            watched,
            answered: false,
        };
    }

    /// Waits without losing sight of the client: it may go away, or take its request back with RESET (`None`), unless `claim` says
    /// that it is too late for that. A client that waits long gets NOOPs, so that its receive time-out does not strike.
    pub(super) async fn wait_for<T>(
        &mut self,
        work: impl Future<Output = T>,
        claim: Option<&Claim>,
    ) -> Step<Option<T>> {
        let mut work = pin!(work);
        self.flush_client().await?;
        self.last_heard = Instant::now();
        self.arm_tick();
        loop {
            let room = self.inbuf.len() < self.shared.config.load().limits.max_pipelined;
            let happened = poll_fn(|cx| {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(Some(Some(done))));
                }
                if room && let Poll::Ready(read) = self.poll_client(cx) {
                    return Poll::Ready(read.map(|()| Some(None)));
                }
                self.tick.as_mut().poll(cx).map(|()| Ok(None))
            });
            match happened.await? {
                Some(Some(done)) => return Ok(Some(done)),
                Some(None) => {
                    if let Some((bytes, messages)) = before_last_reset(&self.inbuf)
                        && claim.is_none_or(Claim::withdraw)
                    {
                        self.inbuf.advance(bytes);
                        self.messages = MessageScanner::default();
                        (0..messages).for_each(|_| self.put_ignored());
                        return Ok(None);
                    }
                }
                None => self.keep_alive().await?,
            }
        }
    }

    /// Sends a NOOP once the client has heard nothing for half its receive time-out.
    async fn keep_alive(&mut self) -> Step {
        if self.last_heard.elapsed() >= self.shared.noop_interval() {
            let limit = self.shared.config.load().listen.write_timeout;
            send(&mut self.client, &chunk::NOOP, limit).await?;
            self.shared.metrics.noops.inc();
            self.last_heard = Instant::now();
        }
        self.arm_tick();
        Ok(())
    }

    /// A FAILURE of Sidebolt's own for the message at the start of `inbuf`, which is then gone.
    pub(super) fn refuse_message(&mut self, refusal: &Refusal, message: Message) {
        self.refuse(refusal);
        self.inbuf.advance(message.extent.wire);
    }

    /// A FAILURE of Sidebolt's own for the message at the start of `inbuf`; the connection stays.
    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        self.put_refusal(refusal);
        self.machine.refused();
    }

    /// Own answer: the FAILURE of a refusal.
    pub(super) fn put_refusal(&mut self, refusal: &Refusal) {
        self.shared.metrics.refusals.with_label_values(&[refusal.label()]).inc();
        tracing::debug!(session = self.registration.id, %refusal, "A request was refused.");
        self.watch_refused(refusal.label());
        let version = self.version();
        refusal.to_failure().write(version, self.own_answers());
    }

    /// TELEMETRY: answered here; told upstream with the next request if the server wants to know.
    async fn take_telemetry(&mut self, message: Message) -> Step<bool> {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        if !matches!(payload, [0xB1, _, 0..=3]) {
            // Not what a driver sends: Neo4j is to say what it thinks of it.
            return self.start(message).await;
        }
        if self.shared.upstream.wants_telemetry(&self.key) {
            self.telemetry = self.inbuf.get(..message.extent.wire).map(Into::into);
        }
        self.api = payload.get(2).copied();
        self.put_success(&[0xA0]);
        self.inbuf.advance(message.extent.wire);
        Ok(true)
    }
}

/// What is known of the text of a RUN.
fn statement_of(statements: &Statements, wire: &[u8], extent: Extent) -> Option<Arc<Statement>> {
    let mut scratch = BytesMut::new();
    Run::parse(chunk::payload(wire, extent, &mut scratch)).ok().map(|run| statements.get(run.text))
}

/// Where the last RESET in `buf` begins, and how many messages stand before it.
fn before_last_reset(buf: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut count, mut last) = (0, 0, None);
    loop {
        let rest = buf.get(at..).unwrap_or_default();
        match MessageScanner::default().scan(rest) {
            Found::Partial => return last,
            Found::Noop => at += 2,
            Found::Message(extent) => {
                match chunk::peek_tag(rest) {
                    Some(Tag::RESET) => last = Some((at, count)),
                    // What comes behind GOODBYE is never read.
                    Some(Tag::GOODBYE) => return last,
                    _ => {}
                }
                at += extent.wire;
                count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reset_is_found_with_what_it_overtakes() {
        const RUN: &[u8] = &[0, 5, 0xB3, 0x10, 0x80, 0xA0, 0xA0, 0, 0];
        const RESET: &[u8] = &[0, 2, 0xB0, 0x0F, 0, 0];
        const GOODBYE: &[u8] = &[0, 2, 0xB0, 0x02, 0, 0];
        assert_eq!(before_last_reset(RUN), None);
        assert_eq!(before_last_reset(RESET), Some((0, 0)));
        assert_eq!(before_last_reset(&[RUN, &[0, 0], RUN, RESET].concat()), Some((20, 2)));
        assert_eq!(before_last_reset(&[RESET, RESET, &RUN[..4]].concat()), Some((6, 1)));
        assert_eq!(before_last_reset(&[RUN, GOODBYE, RESET].concat()), None);
    }
}
