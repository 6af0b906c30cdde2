//! What the guard is told by a session, and what it lets pass.  [hot path]

use std::borrow::Cow;
use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::{Begin, Run};
use bolt_wire::packstream::MapView;
use tokio::time::{Instant, timeout};

use super::requests::Message;
use super::{Session, Shared, Step};
use crate::failure::Refusal;
use crate::guard::{Asking, Entered, Permit, Policy, Ticket};
use crate::matching::Asked;
use crate::statement::Statement;
use crate::upstream::Principal;

/// What the guard has said to a client.
pub(super) struct Guarded {
    /// The rules, as they were when the last request came.
    policy: Arc<Policy>,
    /// What the last request needs to get to Neo4j.
    pub(super) ticket: Option<Ticket>,
    /// The request has begun: it was answered in part, and is not refused any longer.
    pub(super) begun: bool,
}

/// What came of asking for a seat.
pub(super) enum Seated {
    /// It has one.
    In(Permit),
    /// The client was told why not; its message still stands at the start of `inbuf`.
    Refused,
    /// A RESET came first: the message is gone and was answered.
    TakenBack,
}

/// The key of transaction metadata with the application's name.
const APPLICATION: &str = "app";

/// A user by its name; by its credentials if these have none (bearer tokens).
fn who(principal: &Principal) -> Cow<'_, str> {
    if !principal.name.is_empty() {
        return Cow::Borrowed(&principal.name);
    }
    let [a, b, c, d, e, f, g, h, ..] = principal.id;
    Cow::Owned(format!("#{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h])))
}

fn lowered(name: &str) -> Cow<'_, str> {
    if name.chars().any(char::is_uppercase) { name.to_lowercase().into() } else { name.into() }
}

impl Guarded {
    /// Nothing yet.
    pub(super) fn new(shared: &Shared) -> Self {
        let policy = shared.guard.policy(&shared.config.load());
        Self { policy, ticket: None, begun: false }
    }

    /// The rules in force.
    fn policy(&mut self, shared: &Shared) -> &Arc<Policy> {
        let config = shared.config.load();
        if !Arc::ptr_eq(&self.policy.config, &config) {
            self.policy = shared.guard.policy(&config);
        }
        &self.policy
    }
}

impl Session {
    /// Looks whether the RUN or BEGIN at the start of `inbuf` may pass, and takes out of it what is meant for Sidebolt. `None` if it was
    /// refused, which the client was told.
    pub(super) fn let_pass(&mut self, message: Message) -> Option<Message> {
        let message = self.take_hints(message)?;
        (self.guarded.ticket, self.guarded.begun) = (None, false);
        if self.guarded.policy(&self.shared).is_off() {
            return Some(message);
        }
        let policy = Arc::clone(&self.guarded.policy);
        match self.weigh(&policy, message) {
            Ok(ticket) => {
                self.guarded.ticket = ticket;
                Some(message)
            }
            Err(refusal) => {
                self.note_limited(&refusal);
                self.refuse_message(&refusal, message);
                None
            }
        }
    }

    /// The same for a request that is too large to be held: its text alone may be known. False if it was refused.
    pub(super) fn let_large_pass(&mut self, _tag: Tag) -> bool {
        (self.guarded.ticket, self.guarded.begun) = (None, false);
        if self.guarded.policy(&self.shared).is_off() {
            return true;
        }
        let policy = Arc::clone(&self.guarded.policy);
        match self.count(&policy, None, &MapView::EMPTY) {
            Ok(ticket) => self.guarded.ticket = ticket,
            Err(refusal) => {
                self.note_limited(&refusal);
                self.refuse(&refusal);
                return false;
            }
        }
        true
    }

    fn weigh(&self, policy: &Policy, message: Message) -> Result<Option<Ticket>, Refusal> {
        let mut scratch = bytes::BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        // What cannot be read is Neo4j's to refuse, and counts like anything else.
        let (text, extra) = match message.tag {
            Tag::RUN => Run::parse(payload).map_or((None, MapView::EMPTY), |run| (Some(run.text), run.extra)),
            _ => (None, Begin::parse(payload).map_or(MapView::EMPTY, |begin| begin.extra)),
        };
        let text = text.filter(|_| policy.needs_text());
        let statement = text.map(|text| self.shared.coalescer.statements.get(text));
        self.count(policy, statement.as_deref(), &extra)
    }

    fn count(
        &self,
        policy: &Policy,
        statement: Option<&Statement>,
        extra: &MapView<'_>,
    ) -> Result<Option<Ticket>, Refusal> {
        let Some(principal) = &self.principal else { return Ok(None) };
        let home = extra.string("db").is_none().then(|| self.shared.upstream.home(principal)).flatten();
        // Neo4j does not tell `Movies` from `movies`.
        let database = extra.string("db").or(home.as_deref()).map(lowered);
        let who = who(principal);
        let asked = Asked {
            statement,
            reads: extra.string("mode") == Some("r"),
            principal: &principal.name,
            application: self.application(extra),
            database: database.as_deref(),
        };
        let address = self.registration.peer.ip().to_canonical();
        let asking = Asking { asked, who: &who, address, priority: self.hints.priority };
        policy.admit(&asking, self.shared.guard.now())
    }

    /// What the application calls itself, in the metadata of this request or for good.
    pub(super) fn application<'a>(&'a self, extra: &MapView<'a>) -> &'a str {
        let metadata = extra.map("tx_metadata");
        metadata.and_then(|metadata| metadata.string(APPLICATION)).unwrap_or(&self.profile.application)
    }

    fn note_limited(&self, refusal: &Refusal) {
        if let Refusal::RateLimited { rule, .. } = refusal {
            self.shared.metrics.guard.limited.with_label_values(&[rule.as_str()]).inc();
        }
    }

    /// Takes the seats that a ticket asks for, waiting for them if need be.
    pub(super) async fn take_seat(&mut self, ticket: Ticket) -> Step<Seated> {
        let gate = Arc::clone(&self.shared.guard.gate);
        if self.guarded.begun {
            return Ok(Seated::In(gate.force(ticket)));
        }
        let guard = &self.guarded.policy.config.guard;
        let (most, limit) = (guard.max_waiting, guard.max_wait);
        let place = match gate.enter(ticket.clone(), most) {
            Entered::In(permit) => return Ok(Seated::In(permit)),
            Entered::Waits(place) => place,
            Entered::Full => {
                let why = format!("{most} requests wait already (guard.max_waiting)");
                self.refuse(&Refusal::Crowded { rules: ticket.full(), why });
                return Ok(Seated::Refused);
            }
        };
        let asked = Instant::now();
        // Waiting is rare and its state large: boxed.
        let waited = Box::pin(self.wait_for(timeout(limit, place.wait()), None)).await?;
        self.shared.metrics.guard.wait_seconds.observe(asked.elapsed().as_secs_f64());
        let why = match waited {
            None => return Ok(Seated::TakenBack),
            Some(Ok(Some(permit))) => return Ok(Seated::In(permit)),
            Some(Ok(None)) => {
                "its user has the most requests that wait, and others came (guard.max_waiting)".to_owned()
            }
            Some(Err(_)) => format!("no place became free within {limit:?} (guard.max_wait)"),
        };
        self.refuse(&Refusal::Crowded { rules: ticket.full(), why });
        Ok(Seated::Refused)
    }

    /// Neo4j has answered the running exchange for the first time, with this code if it failed.
    pub(super) fn count_call(&mut self, failure: Option<&str>) {
        if std::mem::replace(&mut self.exchange.answered, true)
            || !self.shared.config.load().breaker.counts_shares()
        {
            return;
        }
        if let Some(lease) = &self.lease {
            lease.pool().counted(failure, self.exchange.leased.elapsed());
        }
    }
}
