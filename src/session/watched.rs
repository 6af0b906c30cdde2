//! What is seen of a client's requests: each is recorded once, when its last answer has come.  [hot path]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::request::only_map;
use bolt_wire::message::{Outcome as Ended, Run, Summary};
use bytes::BytesMut;
use tokio::time::Instant;

use super::requests::Message;
use super::start::shared;
use super::traced::Traced;
use super::{Registration, Session, Shared};
use crate::config::Parameters;
use crate::sight::{Answered, Finished, Last, Outcome};
use crate::statement::Statement;
use crate::traces::Trace;
use crate::upstream::Principal;

/// The requests of a session that are not over.
#[derive(Default)]
pub(super) struct Watch {
    /// The running exchange is watched.
    on: bool,
    /// The RUN at the start of `inbuf`.
    arrived: Option<Request>,
    /// Those that Neo4j is at, or whose results are open.
    open: Vec<Request>,
    /// Answers that are due: to what, and to which request.
    due: VecDeque<(Tag, i64)>,
    /// The last one that is over.
    pub(super) last: Option<Last>,
    /// The client has sent RESET.
    interrupted: bool,
    /// RUNs of this exchange that were answered here or went to Neo4j.
    runs: i64,
    /// What of it is traced.
    pub(super) traced: Traced,
}

/// A RUN and what fetches its result.
struct Request {
    statement: Arc<Statement>,
    database: Option<Arc<str>>,
    /// As Neo4j counts them in a transaction.
    number: i64,
    asked: Instant,
    /// Until it went to Neo4j.
    waited: Duration,
    /// While an answer was due.
    busy: Duration,
    /// Since when one is.
    since: Option<Instant>,
    /// How many are.
    due: u32,
    rows: u64,
    bytes: u64,
    /// Until RUN's answer.
    first: Duration,
    t_first: Option<i64>,
    t_last: Option<i64>,
    /// Its parameters, if they are to be shown should it be slow.
    parameters: Option<Box<[u8]>>,
    /// What is known for its trace, if it is traced.
    trace: Option<Box<Trace>>,
}

/// Parameters above this are not kept.
const PARAMETERS: usize = 16 << 10;

/// Where a session's requests are recorded, and whose they are.
type Place<'a> = (&'a Shared, &'a Option<Arc<Principal>>, &'a Registration);

impl Session {
    /// A RUN or another message that may begin an exchange stands at the start of `inbuf`.
    pub(super) fn watch_start(&mut self, message: Message) {
        self.watch.arrived = None;
        self.watch.on = self.shared.config.load().sight.enabled;
        self.trace_start(message);
        if message.tag == Tag::RUN {
            self.watch(message.extent);
        }
    }

    /// A RUN stands at the start of `inbuf`; it may be the one that was seen already.
    pub(super) fn watch(&mut self, extent: Extent) {
        if !self.watch.on || self.watch.arrived.is_some() {
            return;
        }
        let mut scratch = BytesMut::new();
        let Ok(run) = Run::parse(chunk::payload(&self.inbuf, extent, &mut scratch)) else { return };
        let database = match run.extra.string("db") {
            Some(name) => shared(Some(name), &self.access.database),
            None => self.watch_database(),
        };
        let statement = self.shared.coalescer.statements.get(run.text);
        self.registration.set_asked(statement.fingerprint);
        let asked = Instant::now();
        self.watch.arrived = Some(Request {
            trace: self.watch.traced.request(asked),
            statement,
            database,
            number: 0,
            asked,
            waited: Duration::ZERO,
            busy: Duration::ZERO,
            since: None,
            due: 0,
            rows: 0,
            bytes: 0,
            first: Duration::ZERO,
            t_first: None,
            t_last: None,
            parameters: self.kept_parameters(run.parameters),
        });
    }

    /// Parameters are kept only where they are to be shown.
    fn kept_parameters(&self, parameters: &[u8]) -> Option<Box<[u8]>> {
        let full = self.shared.config.load().sight.slow_parameters == Parameters::Full;
        (full && parameters.len() <= PARAMETERS).then(|| parameters.into())
    }

    /// The database of the open transaction.
    fn watch_database(&self) -> Option<Arc<str>> {
        if let Some(held) = &self.held {
            return shared(held.database(), &self.access.database);
        }
        self.lease.as_ref().and_then(|_| self.access.database.clone())
    }

    /// The message at the start of `inbuf` went to Neo4j.
    pub(super) fn watch_sent(&mut self, message: Message) {
        if !self.watch.on {
            return;
        }
        match message.tag {
            Tag::RUN => self.watch.run(),
            Tag::PULL | Tag::DISCARD => {
                let number = if self.watch.open.len() > 1 { self.fetched(message.extent) } else { None };
                self.watch.fetch(message.tag, number);
            }
            Tag::RESET => self.watch.interrupted = true,
            _ => {}
        }
    }

    /// Which result the PULL or DISCARD at the start of `inbuf` is for, if it says.
    fn fetched(&self, extent: Extent) -> Option<i64> {
        let mut scratch = BytesMut::new();
        let map = only_map(chunk::payload(&self.inbuf, extent, &mut scratch)).ok()?;
        map.integer("qid").filter(|number| *number >= 0)
    }

    /// The RUN at the start of `inbuf` was answered here, with so many records and bytes.
    pub(super) fn watch_answered(&mut self, answered: Answered, failed: bool, rows: u64, bytes: u64) {
        let Some(mut request) = self.watch.arrived.take() else { return };
        self.watch.runs += 1;
        (request.rows, request.bytes) = (rows, bytes);
        request.busy = request.asked.elapsed();
        let outcome = if failed { Outcome::Failure } else { Outcome::Success };
        let place = (&*self.shared, &self.principal, &self.registration);
        self.watch.last = request.record(place, answered, outcome, None);
    }

    /// The RUN at the start of `inbuf` was answered by a batch, with these messages.
    pub(super) fn watch_batched(&mut self, failed: bool, answer: &[u8]) {
        if self.watch.arrived.is_some() {
            self.watch_answered(Answered::Batch, failed, records(answer), answer.len() as u64);
        }
    }

    /// The RUN at the start of `inbuf`, if there is one, was refused.
    pub(super) fn watch_refused(&mut self, why: &str) {
        let Some(mut request) = self.watch.arrived.take() else { return };
        request.waited = request.asked.elapsed();
        let place = (&*self.shared, &self.principal, &self.registration);
        self.watch.last = request.record(place, Answered::Neo4j, Outcome::Refused, Some(why));
    }

    /// The exchange is over: so is what is open.
    pub(super) fn watch_over(&mut self) {
        let (failed, interrupted) = (self.exchange.failed, self.exchange.interrupted);
        let due = !self.watch.due.is_empty();
        while let Some(mut request) = self.watch.open.pop() {
            request.pause(Instant::now());
            let outcome = if failed || interrupted || due { Outcome::Interrupted } else { Outcome::Success };
            let place = (&*self.shared, &self.principal, &self.registration);
            self.watch.last = request.record(place, Answered::Neo4j, outcome, None);
        }
        self.watch.clear();
    }
}

impl Watch {
    /// An exchange begins.
    pub(super) fn begin(&mut self) {
        self.open.clear();
        self.clear();
    }

    fn clear(&mut self) {
        self.due.clear();
        (self.runs, self.interrupted) = (0, false);
    }

    /// A RUN went to Neo4j.
    fn run(&mut self) {
        let number = self.runs;
        self.runs += 1;
        if let Some(mut request) = self.arrived.take() {
            let now = Instant::now();
            request.waited = now - request.asked;
            self.traced.sent(&mut request.trace);
            (request.number, request.since, request.due) = (number, Some(now), 1);
            if self.open.capacity() == 0 {
                self.open.reserve_exact(1);
            }
            self.open.push(request);
        }
        self.due.push_back((Tag::RUN, number));
    }

    /// A PULL or DISCARD went to Neo4j.
    fn fetch(&mut self, tag: Tag, number: Option<i64>) {
        let number = number.unwrap_or(self.runs - 1);
        if let Some(request) = self.of(number) {
            request.due += 1;
            if request.since.is_none() {
                request.since = Some(Instant::now());
            }
        }
        self.due.push_back((tag, number));
    }

    /// A message that nobody looked into went to Neo4j.
    pub(super) fn streamed(&mut self, tag: Tag) {
        self.arrived = None;
        match tag {
            _ if !self.on => {}
            Tag::RUN => self.run(),
            Tag::PULL | Tag::DISCARD => self.fetch(tag, None),
            _ => {}
        }
    }

    fn of(&mut self, number: i64) -> Option<&mut Request> {
        self.open.iter_mut().find(|request| request.number == number)
    }

    /// Records have come.
    pub(super) fn passed(&mut self, records: u64, bytes: usize) {
        if let Some((_, number)) = self.due.front().copied()
            && let Some(request) = self.of(number)
        {
            request.rows += records;
            request.bytes += bytes as u64;
        }
    }

    /// Nothing was answered of what went to Neo4j: it will go there again.
    pub(super) fn taken_back(&mut self) {
        self.arrived = self.open.pop();
        self.begin();
    }

    /// The result that is under way ends here, with this code.
    pub(super) fn cut(&mut self, place: Place<'_>, code: &str) {
        let Some((_, number)) = self.due.pop_front() else { return };
        if let Some(at) = self.open.iter().position(|request| request.number == number) {
            let mut request = self.open.remove(at);
            request.pause(Instant::now());
            self.last = request.record(place, Answered::Neo4j, Outcome::Failure, Some(code));
        }
    }

    /// A summary has come for the client.
    pub(super) fn answered(&mut self, place: Place<'_>, tag: Tag, summary: &Summary<'_>) {
        if !matches!(tag, Tag::RUN | Tag::PULL | Tag::DISCARD) {
            return;
        }
        let Some((due, number)) = self.due.pop_front() else { return };
        if due != tag {
            // It was not watched from its beginning.
            (self.on, self.arrived) = (false, None);
            return self.begin();
        }
        let Some(at) = self.open.iter().position(|request| request.number == number) else { return };
        let Some(request) = self.open.get_mut(at) else { return };
        request.due = request.due.saturating_sub(1);
        match tag {
            Tag::RUN => {
                request.first = request.since.map(|since| since.elapsed()).unwrap_or_default();
                request.t_first = summary.meta.integer("t_first");
            }
            _ => request.t_last = summary.meta.integer("t_last"),
        }
        let outcome = match (tag, summary.outcome) {
            (Tag::RUN, Ended::Success { .. }) | (_, Ended::Success { has_more: true }) => {
                if request.due == 0 {
                    request.pause(Instant::now());
                }
                return;
            }
            (_, Ended::Success { has_more: false }) => Outcome::Success,
            (_, Ended::Failure) if self.interrupted => Outcome::Interrupted,
            (_, Ended::Failure) => Outcome::Failure,
            // It was not run at all.
            (Tag::RUN, Ended::Ignored) => {
                self.open.remove(at);
                return;
            }
            (_, Ended::Ignored) => Outcome::Interrupted,
        };
        let mut request = self.open.remove(at);
        request.pause(Instant::now());
        let code = summary.code().filter(|_| outcome == Outcome::Failure);
        self.last = request.record(place, Answered::Neo4j, outcome, code);
    }
}

impl Request {
    /// No answer is due any longer.
    fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.busy += now - since;
        }
    }

    /// Records it, and leaves what its session may ask for.
    fn record(
        self,
        place: Place<'_>,
        answered: Answered,
        outcome: Outcome,
        code: Option<&str>,
    ) -> Option<Last> {
        let (shared, principal, registration) = place;
        let principal = principal.as_ref()?;
        let application = registration.application();
        let finished = Finished {
            statement: &self.statement,
            principal,
            database: self.database.as_ref(),
            answered,
            outcome,
            code,
            took: self.waited + self.busy,
            waited: self.waited,
            rows: self.rows,
            bytes: self.bytes,
            first: self.first,
            t_first: self.t_first,
            t_last: self.t_last,
            application,
            client: Some(registration.peer),
            parameters: self.parameters.as_deref(),
        };
        let config = shared.config.load();
        let code = shared.sight.record(&finished, &config);
        if let Some(trace) = &self.trace {
            shared.metrics.traced.inc();
            shared.traces.record(&finished, trace, &config, &shared.metrics);
        }
        let Finished { took, waited, first, rows, .. } = finished;
        let (statement, database) = (self.statement, self.database);
        Some(Last { statement, database, answered, outcome, code, took, waited, first, rows })
    }
}

/// RECORDs in an answer.
fn records(mut answer: &[u8]) -> u64 {
    let mut count = 0;
    while let Found::Message(extent) = MessageScanner::default().scan(answer) {
        count += u64::from(chunk::peek_tag(answer) == Some(Tag::RECORD));
        answer = answer.get(extent.wire..).unwrap_or_default();
    }
    count
}
