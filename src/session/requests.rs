//! From the client: what each message means now, and where it goes.  [hot path]

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::{Begin, Run, Summary};
use bolt_wire::packstream::MapView;
use bolt_wire::server::{State, Verdict};
use bytes::{Buf, BufMut, BytesMut};
use tokio::time::Instant;

use super::cached::Looked;
use super::deferred::Deferring;
use super::errand::Joined;
use super::filter::queue_filtered;
use super::guarded::{Ruled, Seated};
use super::held::Begun;
use super::hints::CoalesceHint;
use super::local::Taken;
use super::managed::Reading;
use super::{End, Exchange, Session, Step, login, send};
use crate::coalesce::Claim;
use crate::failure::Refusal;
use crate::statement::{Statement, Statements};
use crate::upstream::{Access, ConnectError, Key, Lease, Need};

/// A message as it stands at the start of `inbuf`.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) tag: Tag,
    pub(super) extent: Extent,
}

/// What came of asking for a connection.
pub(super) enum Leased {
    Lease(Lease),
    /// The client was told why not; its message still stands at the start of `inbuf`.
    Refused,
    /// A RESET came first: the message is gone and was answered.
    TakenBack,
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
                self.watch(message.extent);
                self.note_ask(message.extent, false);
                self.fill_in_transaction(message);
            }
            Tag::COMMIT => self.note_commit(),
            Tag::DISCARD => self.filling = None,
            _ => {}
        }
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

    /// Opens an exchange with RUN, BEGIN or ROUTE; true if the message was dealt with.
    async fn start(&mut self, message: Message) -> Step<bool> {
        if message.tag == Tag::RUN && self.call_at_rest(message) {
            return Ok(true);
        }
        self.watch_start(message);
        let mut errand = None;
        let message = match message.tag {
            Tag::RUN | Tag::BEGIN => match self.let_pass(message) {
                Some(message) => message,
                None => return Ok(true),
            },
            _ => message,
        };
        let (mut message, mut filling) = (message, None);
        if message.tag == Tag::RUN {
            match self.look_up(message, None).await? {
                Looked::Done => return Ok(true),
                Looked::Relay(own) => filling = own,
            }
        }
        let hint = self.hints.coalesce;
        let may_join = hint != Some(CoalesceHint::Off);
        if message.tag == Tag::RUN && may_join {
            match self.join(message.extent).await? {
                Joined::Done => return Ok(true),
                Joined::Relay(own) => errand = own,
            }
        }
        let defers = message.tag == Tag::BEGIN && self.defers();
        if message.tag == Tag::BEGIN && may_join && !defers {
            match self.hold_begin(message) {
                Begun::Held => return Ok(true),
                Begun::Relay(own) => errand = own,
            }
        }
        if message.tag == Tag::BEGIN && !defers && errand.is_none() {
            match self.hold_read(message) {
                Reading::Held => return Ok(true),
                Reading::Relay(relayed) => message = relayed,
            }
        }
        if let Some(ground) = filling.as_ref().and_then(|filling| filling.ground.as_ref()) {
            message = self.wait_for_newest(message, ground.bookmark());
        }
        self.begin_exchange(message.tag);
        let mut scratch = BytesMut::new();
        let access = {
            let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
            access(message.tag, payload, &self.access)
        };
        if message.tag == Tag::ROUTE {
            self.note_route(message.extent);
        }
        let leased = self.lease_for(&access, None).await?;
        if !access.route {
            self.access = access;
        }
        match leased {
            Leased::Lease(lease) => {
                self.adopt(lease);
                self.errand = errand;
                self.filling = filling;
                self.deferred = defers.then(Box::default);
                if message.tag == Tag::RUN {
                    self.note_ask(message.extent, true);
                }
            }
            Leased::Refused => {
                self.inbuf.advance(message.extent.wire);
                return Ok(true);
            }
            Leased::TakenBack => return Ok(true),
        }
        let wire = self.inbuf.get(..message.extent.wire).unwrap_or_default();
        let payload = chunk::payload(wire, message.extent, &mut scratch);
        let filter = MapView::parse(&self.profile.filter).unwrap_or(MapView::EMPTY);
        let connection = self.lease.as_mut().map(Lease::connection_mut);
        let Some(connection) = connection else { return Ok(true) };
        if let Some(telemetry) = self.telemetry.take() {
            connection.queue_with(Tag::TELEMETRY, true, |out| out.put_slice(&telemetry));
        }
        if filter.is_empty() || !queue_filtered(message.tag, payload, &filter, connection) {
            connection.queue(message.tag, wire);
        }
        self.machine.forwarded(message.tag);
        self.watch_sent(message);
        self.inbuf.advance(message.extent.wire);
        self.note_pin();
        Ok(true)
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

    /// The exchange has its connection.
    pub(super) fn adopt(&mut self, lease: Lease) {
        self.lease = Some(lease);
        self.last_heard = Instant::now();
        self.exchange.leased = self.last_heard;
        self.arm_tick();
    }

    /// A connection for this exchange, which begins with the message at the start of `inbuf`.
    pub(super) async fn lease_for(&mut self, access: &Access, key: Option<Arc<Key>>) -> Step<Leased> {
        let Some(principal) = self.principal.clone() else { return Err(End::Violation) };
        let key = key.unwrap_or_else(|| Arc::clone(&self.key));
        let need = Need { key, principal, access: access.clone() };
        let permit = match self.guarded.ticket.take_if(|_| !access.route) {
            None => None,
            Some(ticket) => match self.take_seat(ticket).await? {
                Seated::In(permit) => Some(permit),
                Seated::Refused => return Ok(Leased::Refused),
                Seated::TakenBack => return Ok(Leased::TakenBack),
            },
        };
        if let Some(mut lease) = self.shared.upstream.try_lease(&need) {
            lease.seat(permit);
            return Ok(Leased::Lease(lease));
        }
        // Waiting is rare and its state large: boxed.
        let shared = Arc::clone(&self.shared);
        let leased = Box::pin(self.wait_for(async move { shared.upstream.lease(&need).await }, None)).await?;
        match leased {
            None => Ok(Leased::TakenBack),
            Some(Ok(mut lease)) => {
                lease.seat(permit);
                Ok(Leased::Lease(lease))
            }
            Some(Err(ConnectError::Refused(refusal))) => {
                if !(access.route && self.route_here(&refusal)) {
                    self.refuse(&refusal);
                }
                Ok(Leased::Refused)
            }
            Some(Err(ConnectError::Failure(payload))) => {
                self.put_answer(|out| out.put_slice(&payload));
                let code =
                    Summary::parse(&payload).ok().and_then(|failure| failure.code()).unwrap_or_default();
                if code.starts_with("Neo.ClientError.Security.") {
                    // The client's own credentials were refused on the way: it sees Neo4j's words, and the close that follows them.
                    return Err(End::Login);
                }
                // Neo4j had no thread, or the like, for a connection that is none of the client's business.
                self.machine.refused();
                Ok(Leased::Refused)
            }
        }
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

    /// Whether the transaction that begins now answers its writes before they are sent.
    fn defers(&self) -> bool {
        let config = self.shared.config.load();
        match self.hints.coalesce {
            Some(hint) => hint == CoalesceHint::Deferred,
            None => config.coalesce.enabled && config.coalesce.deferred,
        }
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

/// Which server a request may go to. Names that the last request had too are shared with it.
fn access(tag: Tag, payload: &[u8], last: &Access) -> Access {
    let extra = match tag {
        Tag::RUN => Run::parse(payload).map(|run| run.extra),
        Tag::BEGIN => Begin::parse(payload).map(|begin| begin.extra),
        Tag::ROUTE => return Access { route: true, ..Access::default() },
        _ => return Access::default(),
    };
    access_of(&extra.unwrap_or(MapView::EMPTY), last)
}

/// Which server a RUN or BEGIN with this metadata may go to.
pub(super) fn access_of(extra: &MapView<'_>, last: &Access) -> Access {
    Access {
        write: extra.string("mode") != Some("r"),
        route: false,
        database: shared(extra.string("db"), &last.database),
        impersonated: shared(extra.string("imp_user"), &last.impersonated),
    }
}

/// What is known of the text of a RUN.
fn statement_of(statements: &Statements, wire: &[u8], extent: Extent) -> Option<Arc<Statement>> {
    let mut scratch = BytesMut::new();
    Run::parse(chunk::payload(wire, extent, &mut scratch)).ok().map(|run| statements.get(run.text))
}

fn shared(name: Option<&str>, last: &Option<Arc<str>>) -> Option<Arc<str>> {
    let name = name?;
    Some(last.as_ref().filter(|last| ***last == *name).map_or_else(|| name.into(), Arc::clone))
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
