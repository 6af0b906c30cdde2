//! What a client's exchange may change, and its commit: the cache is to know before the client does.

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::{Outcome, Run, Summary};
use bytes::BytesMut;

use super::Session;
use crate::cache::{Changes, Ticket};
use crate::statement::Footprint;

/// An exchange that may change something.
#[derive(Default)]
pub(super) struct Writing {
    changes: Changes,
    /// Its commit, once that is on its way.
    ticket: Option<Ticket>,
    /// It commits by itself.
    alone: bool,
    /// All that its one statement sets are plain values.
    plain: bool,
}

impl Session {
    /// The RUN at the start of `inbuf` goes to Neo4j; `alone`: it is its own transaction.
    pub(super) fn note_ask(&mut self, extent: Extent, alone: bool) {
        if !self.exchange.watched {
            return;
        }
        let mut scratch = BytesMut::new();
        let Ok(run) = Run::parse(chunk::payload(&self.inbuf, extent, &mut scratch)) else {
            return self.note_unknown(alone);
        };
        let statement = self.shared.coalescer.statements.get(run.text);
        if statement.reads_only {
            return;
        }
        let (footprint, plain) = (statement.touches(run.parameters), statement.sets_plainly(run.parameters));
        self.note(footprint, alone, plain);
    }

    /// Something that nobody looked into goes to Neo4j.
    pub(super) fn note_unknown(&mut self, alone: bool) {
        if self.exchange.watched {
            self.note(Footprint::WHOLE, alone, false);
        }
    }

    /// Something that may change this goes to Neo4j.
    pub(super) fn note(&mut self, footprint: Footprint, alone: bool, plain: bool) {
        let writing = self.writing.get_or_insert_default();
        writing.plain = plain && writing.changes.is_none();
        writing.changes.ask(footprint);
        writing.alone = alone;
        if alone {
            writing.ticket = self.shared.cache.begin();
        }
    }

    /// COMMIT goes to Neo4j.
    pub(super) fn note_commit(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.ticket = self.shared.cache.begin();
        }
    }
}

impl Writing {
    /// An answer of Neo4j's. Called before the client sees it.
    pub(super) fn answered(&mut self, tag: Tag, summary: &Summary<'_>, counts_sets: impl FnOnce() -> bool) {
        match (tag, summary.outcome) {
            (Tag::PULL | Tag::DISCARD, Outcome::Success { has_more: false }) => {
                self.changes.did(summary.meta.map("stats").as_ref(), self.plain);
                if self.alone {
                    self.committed(summary, counts_sets);
                }
            }
            (Tag::COMMIT, Outcome::Success { .. }) => self.committed(summary, counts_sets),
            // What commits in parts may have left some behind.
            (_, Outcome::Failure) if self.alone && !self.changes.is_unknown() => {
                if let Some(ticket) = self.ticket.take() {
                    ticket.nothing();
                }
            }
            _ => {}
        }
    }

    fn committed(&mut self, summary: &Summary<'_>, counts_sets: impl FnOnce() -> bool) {
        if let Some(ticket) = self.ticket.take() {
            ticket.committed(&self.changes, summary.meta.string("bookmark"), counts_sets());
        }
    }
}
