//! How an exchange begins: answered here, held, joined to a batch, or sent to Neo4j over a connection of its own.  [hot path]

use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::{Begin, Run, Summary};
use bolt_wire::packstream::MapView;
use bytes::{Buf, BufMut, BytesMut};
use tokio::time::Instant;

use super::cached::Looked;
use super::errand::{Errand, Joined};
use super::filter::queue_filtered;
use super::guarded::Seated;
use super::held::Begun;
use super::hints::CoalesceHint;
use super::managed::Reading;
use super::requests::Message;
use super::{End, Session, Step};
use crate::cache::Filling;
use crate::upstream::{Access, ConnectError, Key, Lease, Need};

/// What came of asking for a connection.
pub(super) enum Leased {
    Lease(Lease),
    /// The client was told why not; its message still stands at the start of `inbuf`.
    Refused,
    /// A RESET came first: the message is gone and was answered.
    TakenBack,
}

/// A message that opens an exchange at Neo4j, and what is known of it.
struct Opening {
    message: Message,
    /// It is a write that group commit knows.
    errand: Option<Box<Errand>>,
    /// Its answer may be kept.
    filling: Option<Box<Filling>>,
    /// The transaction answers its writes before they are sent.
    deferred: bool,
}

impl Opening {
    fn of(message: Message) -> Self {
        Self { message, errand: None, filling: None, deferred: false }
    }
}

impl Session {
    /// Opens an exchange with RUN, BEGIN or ROUTE; true if the message was dealt with.
    pub(super) async fn start(&mut self, message: Message) -> Step<bool> {
        if message.tag == Tag::RUN && self.call_at_rest(message) {
            return Ok(true);
        }
        self.watch_start(message);
        let opening = match message.tag {
            Tag::RUN | Tag::BEGIN => {
                let Some(message) = self.let_pass(message) else { return Ok(true) };
                let message = match self.asks_gnn(message) {
                    None => Some(message),
                    // Whoever computes has a large state: boxed.
                    Some(asked) => Box::pin(self.offer_gnn(message, asked)).await?,
                };
                let Some(message) = message else { return Ok(true) };
                match message.tag {
                    Tag::RUN => self.offer_run(message).await?,
                    _ => self.offer_begin(message),
                }
            }
            _ => Some(Opening::of(message)),
        };
        match opening {
            Some(opening) => self.open(opening).await,
            None => Ok(true),
        }
    }

    /// Looks whether a RUN is answered from the cache or joins a batch; `None` if it was dealt with.
    async fn offer_run(&mut self, message: Message) -> Step<Option<Opening>> {
        let mut opening = Opening::of(message);
        match self.look_up(message, None).await? {
            Looked::Done => return Ok(None),
            Looked::Relay(filling) => opening.filling = filling,
        }
        if self.hints.coalesce != Some(CoalesceHint::Off) {
            match self.join(message.extent).await? {
                Joined::Done => return Ok(None),
                Joined::Relay(errand) => opening.errand = errand,
            }
        }
        if let Some(ground) = opening.filling.as_ref().and_then(|filling| filling.ground.as_ref()) {
            opening.message = self.wait_for_newest(message, ground.bookmark());
        }
        Ok(Some(opening))
    }

    /// Looks whether a transaction need not begin at Neo4j yet; `None` if BEGIN was answered.
    fn offer_begin(&mut self, message: Message) -> Option<Opening> {
        let mut opening = Opening { deferred: self.defers(), ..Opening::of(message) };
        if opening.deferred {
            return Some(opening);
        }
        if self.hints.coalesce != Some(CoalesceHint::Off) {
            match self.hold_begin(message) {
                Begun::Held => return None,
                Begun::Relay(errand) => opening.errand = errand,
            }
        }
        if opening.errand.is_none() {
            match self.hold_read(message) {
                Reading::Held => return None,
                Reading::Relay(message) => opening.message = message,
            }
        }
        Some(opening)
    }

    /// Obtains another connection for a statement that is run again.
    pub(super) async fn open_again(&mut self, message: Message) -> Step {
        self.open(Opening::of(message)).await.map(drop)
    }

    /// Obtains a connection and sends the message there.
    async fn open(&mut self, opening: Opening) -> Step<bool> {
        let Opening { message, errand, filling, deferred } = opening;
        self.begin_exchange(message.tag);
        let access = {
            let mut scratch = BytesMut::new();
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
                self.deferred = deferred.then(Box::default);
                if message.tag == Tag::RUN {
                    self.note_ask(message.extent, true);
                }
                self.send_first(message);
            }
            Leased::Refused => self.inbuf.advance(message.extent.wire),
            Leased::TakenBack => {}
        }
        Ok(true)
    }

    /// Queues the message that opens the exchange.
    fn send_first(&mut self, message: Message) {
        let wire = self.inbuf.get(..message.extent.wire).unwrap_or_default();
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(wire, message.extent, &mut scratch);
        let filter = MapView::parse(&self.profile.filter).unwrap_or(MapView::EMPTY);
        let Some(connection) = self.lease.as_mut().map(Lease::connection_mut) else { return };
        if let Some(telemetry) = self.telemetry.take() {
            connection.queue_with(Tag::TELEMETRY, true, |out| out.put_slice(&telemetry));
        }
        if filter.is_empty() || !queue_filtered(message.tag, payload, &filter, connection) {
            connection.queue(message.tag, wire);
        }
        self.machine.forwarded(message.tag);
        self.watch_sent(message);
        if message.tag == Tag::RUN {
            self.guarded.time();
            self.keep_for_again(message);
        }
        self.inbuf.advance(message.extent.wire);
        self.note_pin();
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
        let (shared, asked) = (Arc::clone(&self.shared), Instant::now());
        let leased = Box::pin(self.wait_for(async move { shared.upstream.lease(&need).await }, None)).await?;
        self.trace_wait(crate::traces::Stage::Pool, asked);
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

    /// Whether the transaction that begins now answers its writes before they are sent.
    fn defers(&self) -> bool {
        let config = self.shared.config.load();
        match self.hints.coalesce {
            Some(hint) => hint == CoalesceHint::Deferred,
            None => config.coalesce.enabled && config.coalesce.deferred,
        }
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

pub(super) fn shared(name: Option<&str>, last: &Option<Arc<str>>) -> Option<Arc<str>> {
    let name = name?;
    Some(last.as_ref().filter(|last| ***last == *name).map_or_else(|| name.into(), Arc::clone))
}
