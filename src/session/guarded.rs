//! What the guard is told by a session, and what it lets pass.  [hot path]

use std::borrow::Cow;
use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::{Begin, Outcome, Run};
use bolt_wire::packstream::{MapEdit, MapView, Walker, encode};
use bolt_wire::scan::Scan;
use bolt_wire::server::State;
use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout};

use super::requests::Message;
use super::{Session, Shared, Step};
use crate::failure::Refusal;
use crate::guard::{Asking, Entered, Permit, Policy, Ticket};
use crate::listener::host;
use crate::matching::Asked;
use crate::statement::Statement;
use crate::traces::Stage;
use crate::upstream::Principal;

/// What the guard has said to a client.
pub(super) struct Guarded {
    /// The rules, as they were when the last request came.
    pub(super) policy: Arc<Policy>,
    /// What the last request needs to get to Neo4j.
    pub(super) ticket: Option<Ticket>,
    /// What the open transaction's statements are judged by, if there are rules.
    pub(super) transaction: Option<Box<Begun>>,
    /// The open transaction was rolled back because nothing came; its client does not know it yet.
    expired: bool,
    /// The request has begun: it was answered in part, and is not refused any longer.
    pub(super) begun: bool,
    /// The exchange's results may have so many rows and bytes.
    pub(super) counts_results: bool,
    /// When the last RUN went to Neo4j, if its time is of interest.
    sent: Option<Instant>,
    /// What the present result has.
    rows: u64,
    bytes: u64,
}

/// What BEGIN said that rules look at.
pub(super) struct Begun {
    reads: bool,
    pub(super) application: Box<str>,
    pub(super) database: Option<Box<str>>,
}

/// What came of asking whether a statement of an open transaction may run.
pub(super) enum Ruled {
    /// It may.
    Runs,
    /// It may not, which the client was told; it is gone.
    Refused,
    /// It has to wait for answers that are due.
    Later,
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

/// The bytes of the first message that have come, without chunk headers.
fn beginning(mut buf: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((header, rest)) = buf.split_first_chunk::<2>() {
        let size = usize::from(u16::from_be_bytes(*header));
        if size == 0 && !bytes.is_empty() {
            break;
        }
        bytes.extend_from_slice(rest.get(..size).unwrap_or(rest));
        buf = rest.get(size..).unwrap_or_default();
    }
    bytes
}

/// The first field of a message, if it is a string.
fn first_string(payload: &[u8]) -> Option<&str> {
    Walker::new(payload.get(2..)?).string().ok()
}

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
        Self {
            policy,
            ticket: None,
            transaction: None,
            expired: false,
            begun: false,
            counts_results: false,
            sent: None,
            rows: 0,
            bytes: 0,
        }
    }

    /// A new request.
    fn forget(&mut self) {
        (self.ticket, self.transaction, self.begun, self.counts_results) = (None, None, false, false);
        self.result_begins();
    }

    /// A RUN goes to Neo4j.
    pub(super) fn time(&mut self) {
        self.sent = self.policy.config.guard.adaptive.then(Instant::now);
    }

    /// A result, or a part of it, is there.
    pub(super) fn timed(&mut self) {
        if let Some(sent) = self.sent.take() {
            let config = &self.policy.config;
            let largest = u32::try_from(config.pool.max_connection_pool_size).unwrap_or(u32::MAX);
            self.policy.adaptive.answered(sent.elapsed(), config.guard.adaptive_tolerance, largest);
        }
    }

    /// A statement's answer has come: what follows is its result.
    pub(super) fn result_begins(&mut self) {
        (self.rows, self.bytes) = (0, 0);
    }

    /// Counts what has come of a result; what it has too much of, if it has.
    pub(super) fn count(&mut self, rows: u64, bytes: usize) -> Option<Refusal> {
        self.rows += rows;
        self.bytes += bytes as u64;
        let guard = &self.policy.config.guard;
        let limits = [
            ("rows", self.rows, guard.max_result_rows, "guard.max_result_rows"),
            ("bytes", self.bytes, guard.max_result_bytes as u64, "guard.max_result_bytes"),
        ];
        let (what, _, most, key) = limits.into_iter().find(|(_, has, most, _)| *most > 0 && has > most)?;
        Some(Refusal::ResultTooLarge { what, most, key })
    }

    /// The rules in force.
    pub(super) fn policy(&mut self, shared: &Shared) -> &Arc<Policy> {
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
        self.again.attempts = 0;
        let message = self.take_hints(message)?;
        self.guarded.forget();
        if self.guarded.policy(&self.shared).is_off() {
            return Some(message);
        }
        let policy = Arc::clone(&self.guarded.policy);
        let measured =
            if message.tag == Tag::RUN { self.measure(&policy, message.extent, false) } else { Ok(()) };
        match self.fits(&policy).and(measured).and_then(|()| self.weigh(&policy, message)) {
            Ok((ticket, read_only)) => {
                self.guarded.ticket = ticket;
                Some(self.bind(&policy, message, read_only))
            }
            Err(refusal) => {
                self.note_limited(&refusal);
                self.refuse_message(&refusal, message);
                None
            }
        }
    }

    /// The same for a request that is too large to be held: its text alone can be known. False if it was refused.
    pub(super) fn let_large_pass(&mut self, tag: Tag) -> bool {
        self.guarded.forget();
        if self.guarded.policy(&self.shared).is_off() {
            return true;
        }
        let policy = Arc::clone(&self.guarded.policy);
        let statement = self.large_statement(tag);
        let measured = if tag == Tag::RUN { self.measure(&policy, Extent::default(), true) } else { Ok(()) };
        let reads = statement.as_ref().is_some_and(|statement| statement.reads_only);
        self.guarded.counts_results = policy.config.guard.bounds_results() && (tag == Tag::BEGIN || reads);
        let judged = self
            .fits(&policy)
            .and(measured)
            .and_then(|()| self.count(&policy, statement.as_deref(), &MapView::EMPTY))
            .and_then(|(ticket, read_only)| {
                // Its access mode comes behind its parameters: it cannot be changed.
                if read_only && !reads { Err(Refusal::ReadOnly) } else { Ok(ticket) }
            });
        match judged {
            Ok(ticket) => {
                self.guarded.ticket = ticket;
                true
            }
            Err(refusal) => {
                self.note_limited(&refusal);
                self.refuse(&refusal);
                false
            }
        }
    }

    /// Whether a RUN inside of a transaction may run; `large`: it is too large to be held.
    pub(super) fn let_run(&mut self, message: Message, large: bool) -> Ruled {
        if message.tag != Tag::RUN || !self.guarded.policy(&self.shared).judges_statements() {
            return Ruled::Runs;
        }
        let policy = Arc::clone(&self.guarded.policy);
        let measured = self.measure(&policy, message.extent, large);
        let Some(principal) = &self.principal else { return Ruled::Runs };
        let statement =
            if large { self.large_statement(Tag::RUN) } else { self.statement_at(message.extent) };
        let begun = self.guarded.transaction.as_deref();
        let asked = Asked {
            statement: statement.as_deref(),
            reads: begun.is_some_and(|begun| begun.reads),
            principal: &principal.name,
            address: Some(self.registration.address()),
            application: begun.map_or(&self.profile.application, |begun| &begun.application),
            database: begun.and_then(|begun| begun.database.as_deref()),
        };
        let Err(refusal) = measured.and_then(|()| policy.access.judge(&asked)) else { return Ruled::Runs };
        if self.machine.in_flight() > 0 {
            return Ruled::Later;
        }
        self.refuse_run(if large { 0 } else { message.extent.wire }, &refusal);
        Ruled::Refused
    }

    /// FAILURE for a RUN, of which so many bytes still stand at the start of `inbuf`.
    pub(super) fn refuse_run(&mut self, wire: usize, refusal: &Refusal) {
        self.inbuf.advance(wire);
        self.shared.metrics.refusals.with_label_values(&[refusal.label()]).inc();
        self.machine.forwarded(Tag::RUN);
        self.fail_local(&refusal.to_failure());
    }

    /// Whether there is memory for another request.
    fn fits(&self, policy: &Policy) -> Result<(), Refusal> {
        match self.shared.guard.pressure.is_high() {
            Some(used) => Err(Refusal::Memory { used, most: policy.config.guard.max_memory }),
            None => Ok(()),
        }
    }

    /// Whether the RUN at the start of `inbuf` is small enough.
    fn measure(&self, policy: &Policy, extent: Extent, large: bool) -> Result<(), Refusal> {
        if large {
            let begin = beginning(&self.inbuf);
            let text = first_string(&begin);
            let (text, parameters) =
                text.map_or((begin.len(), 0), |text| (text.len(), begin.len() - text.len()));
            return policy.measure(text, parameters);
        }
        let mut scratch = BytesMut::new();
        match Run::parse(chunk::payload(&self.inbuf, extent, &mut scratch)) {
            Ok(run) => policy.measure(run.text.len(), run.parameters.len()),
            Err(_) => policy.measure(extent.payload, extent.payload),
        }
    }

    fn statement_at(&self, extent: Extent) -> Option<Arc<Statement>> {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, extent, &mut scratch);
        Some(self.shared.coalescer.statements.get(first_string(payload)?))
    }

    /// What is known of the text of a RUN that has not come whole. A text that is too long itself is one that nobody looks into.
    fn large_statement(&self, tag: Tag) -> Option<Arc<Statement>> {
        if tag != Tag::RUN {
            return None;
        }
        let begin = beginning(&self.inbuf);
        Some(match first_string(&begin) {
            Some(text) => self.shared.coalescer.statements.get(text),
            None => Arc::new(Statement::unread()),
        })
    }

    /// The RUN or BEGIN at the start of `inbuf` goes on in access mode `r` if it may only read, so that Neo4j itself sees to it, and with
    /// the time-out that it may have.
    fn bind(&mut self, policy: &Policy, message: Message, read_only: bool) -> Message {
        let timeout = self.timeout(policy, message);
        if !read_only && timeout.is_none() {
            return message;
        }
        self.edit(message, |_| {
            let mut edit = MapEdit::removing(match (read_only, timeout) {
                (true, Some(_)) => &["mode", "tx_timeout"],
                (true, None) => &["mode"],
                _ => &["tx_timeout"],
            });
            if read_only {
                edit.add("mode", |out| encode::string("r", out));
            }
            if let Some(timeout) = timeout {
                edit.add("tx_timeout", |out| encode::integer(timeout, out));
            }
            edit
        })
    }

    /// The time-out that the RUN or BEGIN at the start of `inbuf` gets instead of its own.
    fn timeout(&self, policy: &Policy, message: Message) -> Option<i64> {
        let guard = &policy.config.guard;
        if guard.tx_timeout.is_zero() && guard.max_tx_timeout.is_zero() {
            return None;
        }
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let extra = match message.tag {
            Tag::RUN => Run::parse(payload).ok()?.extra,
            _ => Begin::parse(payload).ok()?.extra,
        };
        const NULL: &[u8] = &[0xC0];
        match extra.get("tx_timeout").filter(|value| *value != NULL) {
            None => guard.timeout(None),
            // What is no number is Neo4j's to refuse.
            Some(_) => guard.timeout(Some(extra.integer("tx_timeout")?)),
        }
    }

    fn weigh(&mut self, policy: &Policy, message: Message) -> Result<(Option<Ticket>, bool), Refusal> {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        // What cannot be read is Neo4j's to refuse, and counts like anything else.
        let (text, extra) = match message.tag {
            Tag::RUN => match Run::parse(payload) {
                Ok(run) => (Some(run.text), Some(run.extra)),
                // Perhaps only its parameters are of a kind that is not known here.
                Err(_) => (first_string(payload), None),
            },
            _ => (None, Begin::parse(payload).ok().map(|begin| begin.extra)),
        };
        let is_readable = extra.is_some();
        let extra = extra.unwrap_or(MapView::EMPTY);
        let text = text.filter(|_| policy.needs_text());
        let statement = text.map(|text| self.shared.coalescer.statements.get(text));
        let reads = extra.string("mode") == Some("r")
            || statement.as_ref().is_some_and(|statement| statement.reads_only);
        self.guarded.counts_results =
            policy.config.guard.bounds_results() && (message.tag == Tag::BEGIN || reads);
        let counted = self.count(policy, statement.as_deref(), &extra)?;
        if counted.1 && !is_readable {
            return Err(Refusal::ReadOnly);
        }
        if message.tag == Tag::BEGIN && !policy.access.is_off() {
            let begun = Begun {
                reads: counted.1 || extra.string("mode") == Some("r"),
                application: self.application(&extra).into(),
                database: self.database(&extra).map(|name| name.as_ref().into()),
            };
            self.guarded.transaction = Some(Box::new(begun));
        }
        Ok(counted)
    }

    /// The database that a request goes to, if that is known.
    pub(super) fn database<'a>(&self, extra: &MapView<'a>) -> Option<Cow<'a, str>> {
        if let Some(named) = extra.string("db") {
            // Neo4j does not tell `Movies` from `movies`.
            return Some(lowered(named));
        }
        let home = self.principal.as_ref().and_then(|principal| self.shared.upstream.home(principal));
        home.map(|home| lowered(&home).into_owned().into())
    }

    /// Judges and counts a request: what it needs to get to Neo4j, and whether it may only read.
    fn count(
        &self,
        policy: &Policy,
        statement: Option<&Statement>,
        extra: &MapView<'_>,
    ) -> Result<(Option<Ticket>, bool), Refusal> {
        let Some(principal) = &self.principal else { return Ok((None, false)) };
        let database = self.database(extra);
        let who = who(principal);
        let asked = Asked {
            statement,
            reads: extra.string("mode") == Some("r"),
            principal: &principal.name,
            address: Some(self.registration.address()),
            application: self.application(extra),
            database: database.as_deref(),
        };
        let read_only = if policy.access.is_off() { false } else { policy.access.judge(&asked)? };
        let address = host(self.registration.peer.ip());
        let asking = Asking { asked, who: &who, address, priority: self.hints.priority };
        Ok((policy.admit(&asking, self.shared.guard.now())?, read_only))
    }

    /// Counts what has come of a result: why it ends here if it has too much, and behind how many bytes of what has come.
    pub(super) fn too_large(&mut self, found: &Scan) -> Option<(Refusal, usize)> {
        let refusal = self.guarded.count(found.records, found.pass)?;
        // What a RESET has interrupted ends by itself.
        let ends = self.machine.state() != State::Interrupted && self.deferred.is_none();
        Some((refusal, found.whole.filter(|_| ends)?))
    }

    /// Rolls the open transaction back if its client has sent nothing for too long.
    pub(super) fn end_idle_transaction(&mut self) {
        let limit = self.shared.config.load().guard.idle_transaction_timeout;
        if limit.is_zero()
            || self.machine.in_flight() > 0
            || self.machine.state() != State::Transaction
            || self.lease.is_none()
            || !self.inbuf.is_empty()
            || self.last_read.max(self.last_heard).elapsed() < limit
        {
            return;
        }
        tracing::info!(session = self.registration.id, ?limit, "An idle transaction was rolled back.");
        (self.exchange.failed, self.guarded.expired) = (true, true);
        let nothing = self.end_exchange();
        self.shared.buffers.give(nothing);
    }

    /// A message of a transaction that was rolled back because nothing came; true if it was answered.
    pub(super) fn take_expired(&mut self, message: Message) -> bool {
        if !std::mem::take(&mut self.guarded.expired) {
            return false;
        }
        self.inbuf.advance(message.extent.wire);
        if matches!(message.tag, Tag::RESET | Tag::ROLLBACK) {
            (0..std::mem::take(&mut self.overtaken)).for_each(|_| self.put_ignored());
            self.machine.answered_here(message.tag, Outcome::DONE);
            self.put_success(&[0xA0]);
            return true;
        }
        let limit = self.shared.config.load().guard.idle_transaction_timeout;
        self.machine.answered_here(message.tag, Outcome::Failure);
        self.put_refusal(&Refusal::Idle { limit });
        true
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
        self.trace_wait(Stage::Queue, asked);
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
