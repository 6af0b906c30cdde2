//! Writes of an explicit transaction that are answered at once and sent in batches, where the client asked for that.

use bolt_wire::message::Outcome;
use bolt_wire::packstream::encode;
use bolt_wire::version::NotificationFilter;
use bolt_wire::{Tag, Version};
use bytes::{Buf, BytesMut};

use super::Session;
use super::errand::deferrable;
use super::requests::Message;
use crate::coalesce::Deferred;
use crate::sight::Answered;

/// Answers that may be due upstream before more writes wait for them.
const MOST_DUE: usize = 16;

/// What came of a message of a transaction whose writes may be deferred.
pub(super) enum Deferring {
    /// It was answered.
    Answered,
    /// It has to wait for answers that are due.
    Wait,
    /// It goes on to Neo4j, behind what was deferred.
    Pass,
}

impl Session {
    /// A message of an open transaction whose writes may be deferred.
    pub(super) fn defer(&mut self, message: Message) -> Deferring {
        let Some(mut deferred) = self.deferred.take() else { return Deferring::Pass };
        let came = self.defer_with(message, &mut deferred);
        self.deferred = Some(deferred);
        came
    }

    fn defer_with(&mut self, message: Message, deferred: &mut Deferred) -> Deferring {
        match message.tag {
            // Nobody will see what was not sent.
            Tag::ROLLBACK | Tag::RESET => {
                deferred.forget();
                return Deferring::Pass;
            }
            Tag::RUN if deferred.failure.is_none() => {
                if let Some((write, wire)) = deferrable(&self.shared, &self.inbuf, message.extent) {
                    let due = self.lease.as_ref().map_or(0, |lease| lease.connection().machine.due());
                    if self.machine.in_flight() > 0 || due > MOST_DUE {
                        return Deferring::Wait;
                    }
                    if self.exchange.watched {
                        let footprint = write.statement.touches(&write.parameters);
                        self.note(footprint, false, false);
                    }
                    if deferred.push(write) {
                        self.send_deferred(deferred);
                    }
                    self.watch(message.extent);
                    self.watch_answered(Answered::Deferred, false, 0, 0);
                    self.inbuf.advance(wire);
                    self.answer_deferred(deferred.answered);
                    return Deferring::Answered;
                }
            }
            _ => {}
        }
        self.send_deferred(deferred);
        Deferring::Pass
    }

    /// Queues what was deferred, before something that is not.
    pub(super) fn flush_deferred(&mut self) {
        if let Some(mut deferred) = self.deferred.take() {
            self.send_deferred(&mut deferred);
            self.deferred = Some(deferred);
        }
    }

    fn send_deferred(&mut self, deferred: &mut Deferred) {
        let Some(lease) = &mut self.lease else { return };
        let metrics = &self.shared.metrics.coalesce;
        deferred.queue(lease.connection_mut(), |write, rows| metrics.deferred(write, rows));
    }

    /// The answers to a deferred write: no records, and no counters rather than invented ones.
    fn answer_deferred(&mut self, number: i64) {
        for tag in [Tag::RUN, Tag::PULL] {
            self.machine.answered_here(tag, Outcome::DONE);
        }
        let version = self.version();
        let mut run = BytesMut::new();
        encode::map_header(3, &mut run);
        encode::string("t_first", &mut run);
        encode::integer(0, &mut run);
        encode::string("fields", &mut run);
        encode::list_header(0, &mut run);
        encode::string("qid", &mut run);
        encode::integer(number, &mut run);
        self.put_success(&run);
        let mut pull = BytesMut::new();
        put_summary(version, &mut pull);
        self.put_success(&pull);
    }

    /// The FAILURE of a deferred write, kept for the next answer that the client waits for.
    pub(super) fn note_deferred_failure(&mut self, payload: &[u8]) {
        if let Some(deferred) = &mut self.deferred
            && deferred.failure.is_none()
        {
            deferred.failure = Some(payload.to_vec());
        }
    }
}

fn put_summary(version: Version, out: &mut BytesMut) {
    let statuses = version.features().notification_filter == NotificationFilter::Classifications;
    encode::map_header(2 + usize::from(statuses), out);
    if statuses {
        encode::string("statuses", out);
        encode::list_header(1, out);
        encode::map_header(2, out);
        encode::string("gql_status", out);
        encode::string("00001", out);
        encode::string("status_description", out);
        encode::string("note: successful completion - omitted result", out);
    }
    encode::string("type", out);
    encode::string("w", out);
    encode::string("t_last", out);
    encode::integer(0, out);
}
