//! `CALL gnn.…`: run here while the client waits; its rows are given here, or go into the rest of the query.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::message::{Begin, Run};
use bolt_wire::packstream::{MapView, Value, encode};
use bolt_wire::{Tag, Version};
use bytes::{Buf, BufMut, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::guarded::{Ruled, Seated};
use super::requests::Message;
use super::start::access_of;
use super::{End, Session, Step};
use crate::gnn::{self, Call, Caller, Feed, NAMESPACE, Output, Show, Trouble};
use crate::sight::Answered;
use crate::statement::Statement;
use crate::upstream::Need;

/// What the open transaction's BEGIN said that calls are bound by.
#[derive(Default)]
pub(super) struct Terms {
    deadline: Option<Instant>,
    bookmarks: Option<Box<[u8]>>,
    /// The RUN at the start of `inbuf` shows procedures and goes on as it is.
    pub(super) shown: bool,
}

/// Ends a computation when nobody waits for it any longer.
struct Waits(::gnn::Cancel);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What a message is to these procedures.
pub(super) enum Asked {
    /// A call, and its arguments.
    Call(Box<(Call, Vec<Value>)>),
    /// `SHOW PROCEDURES`.
    Show(Box<Show>),
    /// A call that cannot be run.
    Wrong(Trouble),
}

impl Session {
    /// The call of one of these procedures that the RUN at the start of `inbuf` is, if they are switched on. What a BEGIN there says is noted.
    pub(super) fn asks_gnn(&mut self, message: Message) -> Option<Asked> {
        if !self.shared.config.load().gnn.enabled {
            return None;
        }
        if message.tag == Tag::RUN {
            return if std::mem::take(&mut self.terms.shown) { None } else { self.gnn_asked(message.extent) };
        }
        self.note_terms(message.extent);
        None
    }

    /// The call at the start of `inbuf`, outside of a transaction, once the guard has let it pass: what goes on to Neo4j instead of it, or
    /// `None` if it was dealt with.
    pub(super) async fn offer_gnn(&mut self, message: Message, asked: Asked) -> Step<Option<Message>> {
        self.begin_exchange(Tag::RUN);
        if let Asked::Wrong(trouble) = asked {
            self.refuse_gnn(message, trouble, NAMESPACE);
            return Ok(None);
        }
        let seat = match self.guarded.ticket.take() {
            None => None,
            Some(ticket) => match self.take_seat(ticket).await? {
                Seated::In(permit) => Some(permit),
                Seated::Refused => {
                    self.inbuf.advance(message.extent.wire);
                    return Ok(None);
                }
                Seated::TakenBack => return Ok(None),
            },
        };
        let Some(caller) = self.gnn_caller(Some(message.extent)) else { return Ok(Some(message)) };
        let changed = self.answer_gnn(message, asked, caller).await?;
        self.seat_feed(seat);
        Ok(changed)
    }

    /// A message of an open exchange that `take_local` has left: a call inside of a transaction, or rows that are fetched. False if it has
    /// to wait for answers that are due.
    pub(super) async fn take_gnn(&mut self, message: Message, asked: Option<Asked>) -> Step<bool> {
        if let Some(asked) = asked {
            return self.gnn_in_transaction(message, asked).await;
        }
        self.stream_rows(message).await?;
        Ok(true)
    }

    /// A call inside of a transaction.
    async fn gnn_in_transaction(&mut self, message: Message, asked: Asked) -> Step<bool> {
        if self.machine.in_flight() > 0 {
            return Ok(false);
        }
        match self.let_run(message, false) {
            Ruled::Runs => {}
            Ruled::Refused => return Ok(true),
            Ruled::Later => return Ok(false),
        }
        self.watch(message.extent);
        let Some(caller) = self.gnn_caller(None) else { return Err(End::Violation) };
        // What goes on to Neo4j stands in the buffer now, and is taken from there like any other message.
        self.answer_gnn(message, asked, caller).await?;
        self.last_heard = Instant::now();
        Ok(true)
    }

    /// Gives the message that goes on to Neo4j; `None` if this one was dealt with.
    async fn answer_gnn(&mut self, message: Message, asked: Asked, caller: Caller) -> Step<Option<Message>> {
        match asked {
            Asked::Wrong(trouble) => self.refuse_gnn(message, trouble, NAMESPACE),
            Asked::Show(show) => return self.show_procedures(message, &show, caller).await,
            Asked::Call(call) => {
                let (call, values) = *call;
                if !self.denies_gnn(message, &call, &values, &caller) {
                    return self.run_gnn(message, &call, values, caller).await;
                }
            }
        }
        Ok(None)
    }

    /// The call that the RUN at the start of `inbuf` is, if it is one.
    fn gnn_asked(&self, extent: Extent) -> Option<Asked> {
        let wire = self.inbuf.get(..extent.wire).filter(|_| self.principal.is_some())?;
        let mut scratch = BytesMut::new();
        let run = Run::parse(chunk::payload(wire, extent, &mut scratch)).ok()?;
        let call = match Call::of(run.text) {
            None => {
                let show = Show::of(run.text).map(|show| Asked::Show(Box::new(show)));
                return show.or_else(|| gnn::misplaced(run.text).map(Asked::Wrong));
            }
            Some(Err(trouble)) => return Some(Asked::Wrong(trouble)),
            Some(Ok(call)) => call,
        };
        let parameters = MapView::parse(run.parameters).unwrap_or(MapView::EMPTY);
        Some(match call.values(&parameters) {
            Ok(values) => Asked::Call(Box::new((call, values))),
            Err(trouble) => Asked::Wrong(trouble),
        })
    }

    /// Refuses a call that reads what `guard.rules` forbid: its text and what it asks Neo4j for are judged as one. The arguments may have
    /// what the text has not.
    fn denies_gnn(&mut self, message: Message, call: &Call, values: &[Value], caller: &Caller) -> bool {
        if self.guarded.policy(&self.shared).access.is_off() {
            return false;
        }
        let Some(queries) = gnn::queries(call, values) else { return false };
        let mut scratch = BytesMut::new();
        let Ok(run) = Run::parse(chunk::payload(&self.inbuf, message.extent, &mut scratch)) else {
            return false;
        };
        let begun = self.guarded.transaction.as_deref();
        let text = format!("{}\n{queries}", run.text);
        let database = match begun {
            Some(begun) => begun.database.as_deref().map(Cow::Borrowed),
            None => self.database(&run.extra),
        };
        let asked = crate::matching::Asked {
            statement: Some(&Statement::parse(&text)),
            reads: !caller.writes,
            principal: &caller.need.principal.name,
            address: Some(self.registration.address()),
            application: begun.map_or(&self.profile.application, |begun| &begun.application),
            database: database.as_deref(),
        };
        let Err(refusal) = self.guarded.policy.access.judge(&asked) else { return false };
        self.refuse_run(message.extent.wire, &refusal);
        true
    }

    /// Who calls; `alone`: the RUN at the start of `inbuf`, outside of a transaction.
    fn gnn_caller(&mut self, alone: Option<Extent>) -> Option<Caller> {
        let principal = self.principal.clone()?;
        let (access, terms) = match alone {
            Some(extent) => {
                let mut scratch = BytesMut::new();
                let run = Run::parse(chunk::payload(&self.inbuf, extent, &mut scratch)).ok()?;
                (access_of(&run.extra, &self.access), Terms::of(&run.extra))
            }
            None => {
                let held = self.held.as_ref().and_then(|held| MapView::parse(held.begin()).ok());
                let access =
                    held.map_or_else(|| self.access.clone(), |begin| access_of(&begin, &self.access));
                let bookmarks = self.terms.bookmarks.clone();
                (access, Terms { deadline: self.terms.deadline, bookmarks, shown: false })
            }
        };
        let cancel = match terms.deadline {
            Some(deadline) => ::gnn::Cancel::with_deadline(deadline.into_std()),
            None => ::gnn::Cancel::default(),
        };
        Some(Caller {
            shared: self.shared.clone(),
            writes: access.write,
            need: Need { key: self.key.clone(), principal, access },
            bookmarks: terms.bookmarks,
            deadline: terms.deadline,
            in_transaction: alone.is_none(),
            vectors: self.version() >= Version::V6_0,
            cancel,
            task: Arc::default(),
        })
    }

    /// Runs a call while the client waits. Gives the message that goes on to Neo4j in place of the call; `None` if it was answered or taken
    /// back.
    async fn run_gnn(
        &mut self,
        message: Message,
        call: &Call,
        values: Vec<Value>,
        caller: Caller,
    ) -> Step<Option<Message>> {
        let procedure = call.procedure.name;
        let waits = Waits(caller.cancel.clone());
        let shared = self.shared.clone();
        let done = self.wait_in_time(&caller, shared.gnn.run(&caller, call, values)).await?;
        drop(waits);
        // It was taken back: its message is gone.
        let Some(done) = done else { return Ok(None) };
        let done = match done {
            Ok(Output::Rows(rows)) if self.deferred.is_none() && Feed::suits(&caller, call, &rows) => {
                self.open_feed(message, call, rows, caller).await?;
                return Ok(None);
            }
            done => done,
        };
        let most = self.shared.config.load().gnn.max_rows;
        let output = done.and_then(|output| match output {
            Output::Rows(rows) if call.rest.is_some() && rows.len() > most => Err(Trouble::wrong(format!(
                "{} rows are too many to hand to the rest of the query (gnn.max_rows is {most}): ask for fewer nodes, use the procedure that \
                 writes, raise gnn.max_rows, or let the rest work row by row (MATCH, OPTIONAL MATCH, WHERE, UNWIND, and RETURN of plain \
                 expressions), which gets any number.",
                rows.len()
            ))),
            output => Ok(output),
        });
        match (output, &call.rest) {
            (Err(trouble), _) => {
                self.refuse_gnn(message, trouble, procedure);
                Ok(None)
            }
            (Ok(Output::Rows(rows)), None) => {
                self.open_gnn(message, call, rows);
                Ok(None)
            }
            (Ok(Output::Rows(rows)), Some(rest)) => {
                let _bytes = match self.shared.gnn.catalog.budget.take(rows.len() * rows.row_bytes()) {
                    Ok(bytes) => bytes,
                    Err(trouble) => {
                        self.refuse_gnn(message, trouble, procedure);
                        return Ok(None);
                    }
                };
                let (text, parameter) = rows.continued(&call.names(), rest);
                Ok(Some(self.replace_run(message, &text, &[parameter])))
            }
            (Ok(Output::Statement(statement)), rest) => {
                let text = statement.text(call.procedure.columns, &call.columns, rest.as_deref());
                Ok(Some(self.replace_run(message, &text, &statement.parameters)))
            }
        }
    }

    /// Waits for what is done for a call, as long as its caller has time; `None` if it was taken back: its message is gone.
    pub(super) async fn wait_in_time<T>(
        &mut self,
        caller: &Caller,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Step<Option<Result<T, Trouble>>> {
        let work = async {
            match caller.deadline {
                None => work.await,
                Some(deadline) => timeout_at(deadline, work).await.unwrap_or_else(|_| Err(gnn::expired())),
            }
        };
        self.wait_for(work, None).await
    }

    /// Puts another text and more parameters into the RUN at the start of `inbuf`.
    pub(super) fn replace_run(
        &mut self,
        message: Message,
        text: &str,
        more: &[(&'static str, BytesMut)],
    ) -> Message {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let Ok(run) = Run::parse(payload) else { return message };
        let parameters = gnn::with_parameters(run.parameters, more);
        let mut changed = BytesMut::with_capacity(parameters.len() + text.len() + 1024);
        chunk::put_message(&mut changed, |out| {
            out.put_slice(&[0xB3, Tag::RUN.0]);
            encode::string(text, out);
            out.put_slice(&parameters);
            let entries: Vec<_> = run.extra.iter().collect();
            encode::map_header(entries.len(), out);
            for (name, value) in entries {
                encode::string(name, out);
                out.put_slice(value);
            }
        });
        let Found::Message(extent) = MessageScanner::default().scan(&changed) else { return message };
        changed.put_slice(self.inbuf.get(message.extent.wire..).unwrap_or_default());
        *self.inbuf = changed;
        self.messages = MessageScanner::default();
        Message { extent, ..message }
    }

    /// FAILURE for the call at the start of `inbuf`.
    pub(super) fn refuse_gnn(&mut self, message: Message, trouble: Trouble, procedure: &str) {
        self.inbuf.advance(message.extent.wire);
        self.machine.forwarded(message.tag);
        self.telemetry = None;
        let label = match &trouble {
            Trouble::Passing(_) => "gnn_passing",
            _ => "gnn",
        };
        tracing::debug!(session = self.registration.id, procedure, ?trouble, "A call failed.");
        self.watch_answered(Answered::Gnn, true, 0, 0);
        match trouble.failure(procedure) {
            Ok(failure) => {
                self.shared.metrics.gnn.failures.with_label_values(&[label]).inc();
                self.fail_local(&failure);
            }
            // Neo4j's own words.
            Err(payload) => self.fail_with(&payload),
        }
    }

    /// BEGIN's time-out and bookmarks hold for its calls too.
    fn note_terms(&mut self, extent: Extent) {
        let mut scratch = BytesMut::new();
        let begin = Begin::parse(chunk::payload(&self.inbuf, extent, &mut scratch));
        self.terms = begin.map_or_else(|_| Terms::default(), |begin| Terms::of(&begin.extra));
    }
}

impl Terms {
    fn of(extra: &MapView<'_>) -> Self {
        let timeout = extra.integer("tx_timeout").and_then(|millis| u64::try_from(millis).ok());
        let timeout = timeout.filter(|millis| *millis > 0).map(Duration::from_millis);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // An empty list says nothing.
        let bookmarks =
            extra.get("bookmarks").filter(|list| !matches!(list, [0x90] | [0xC0])).map(Into::into);
        Self { deadline, bookmarks, shown: false }
    }
}
