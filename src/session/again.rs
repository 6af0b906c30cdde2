//! Auto-commit statements that failed for a passing reason before anything of their answer was given are run again.

use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::client::Expected;
use bolt_wire::message::{Outcome, Run, Summary};
use bolt_wire::server::State;
use bytes::{BufMut, BytesMut};

use super::requests::Message;
use super::{Session, Step};
use crate::buffers::Inbox;
use crate::upstream::Lease;

/// Codes of failures that pass, and behind which surely nothing was committed.
const PASSING: [&str; 8] = [
    "Neo.TransientError.Transaction.DeadlockDetected",
    "Neo.TransientError.Transaction.LockAcquisitionTimeout",
    "Neo.TransientError.Transaction.Outdated",
    "Neo.TransientError.Transaction.LeaseExpired",
    "Neo.TransientError.Transaction.MaximumTransactionLimitReached",
    "Neo.TransientError.Transaction.ConstraintsChanged",
    "Neo.TransientError.Request.NoThreadsAvailable",
    "Neo.TransientError.General.DatabaseUnavailable",
];

/// What the running auto-commit statement needs to be run again.
#[derive(Default)]
pub(super) struct Again {
    /// Its messages as they went to Neo4j, until its first answer.
    wire: BytesMut,
    /// How often it was run again.
    pub(super) attempts: u32,
}

impl Session {
    /// Keeps the message at the start of `inbuf`, which goes to Neo4j now.
    pub(super) fn keep_for_again(&mut self, message: Message) {
        let first = message.tag == Tag::RUN;
        if first && self.shared.config.load().retry.attempts == 0 {
            return;
        }
        let again = &mut self.again;
        if first && again.wire.capacity() == 0 {
            again.wire = self.shared.buffers.take();
        } else if !first && again.wire.is_empty() {
            return;
        }
        again.wire.put_slice(self.inbuf.get(..message.extent.wire).unwrap_or_default());
    }

    /// Its first answer is given, or it is gone.
    pub(super) fn forget_again(&mut self) {
        if self.again.wire.capacity() > 0 {
            self.shared.buffers.give(std::mem::take(&mut self.again.wire));
        }
    }

    /// Looks at a summary in what Neo4j has sent; true if it is a failure that the client need not hear of, for the statement is run again.
    pub(super) fn fails_in_passing(&mut self, extent: Extent, at: usize) -> bool {
        const RUN: Expected = Expected { tag: Tag::RUN, own: false };
        if self.again.wire.is_empty() {
            return false;
        }
        let Some(connection) = self.lease.as_mut().map(Lease::connection_mut) else { return false };
        if connection.machine.next_due() != Some(RUN) {
            return false;
        }
        let mut scratch = BytesMut::new();
        let wire = connection.inbuf.get(at..at + extent.wire).unwrap_or_default();
        let failure = Summary::parse(chunk::payload(wire, extent, &mut scratch))
            .ok()
            .filter(|summary| summary.outcome == Outcome::Failure);
        let code = failure.and_then(|failure| failure.code().map(str::to_owned));
        if !code.as_deref().is_some_and(|code| self.may_run_again(code)) {
            self.forget_again();
            return false;
        }
        if let Some(lease) = &mut self.lease {
            // What is due behind it is ignored by Neo4j, and the connection can be cleaned.
            lease.connection_mut().machine.received(Outcome::Failure);
        }
        self.note_failure(&code.unwrap_or_default());
        true
    }

    fn may_run_again(&self, code: &str) -> bool {
        let config = self.shared.config.load();
        if !PASSING.contains(&code)
            || self.again.attempts >= config.retry.attempts
            || self.machine.state() != State::AutoCommit
            || self.overtaken > 0
            || self.commits_in_parts()
        {
            return false;
        }
        let metrics = &self.shared.metrics;
        let granted = self.shared.guard.budget.take(metrics.auto_commits(), config.retry.budget);
        metrics.guard.retries.with_label_values(&[if granted { "done" } else { "refused" }]).inc();
        granted
    }

    /// A text that calls something may have committed a part before it failed.
    fn commits_in_parts(&self) -> bool {
        let Found::Message(extent) = MessageScanner::default().scan(&self.again.wire) else { return true };
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.again.wire, extent, &mut scratch);
        let Ok(run) = Run::parse(payload) else { return true };
        let statement = self.shared.coalescer.statements.get(run.text);
        !statement.reads_only && run.text.to_ascii_lowercase().contains("call")
    }

    /// Runs the statement again after a pause, over another connection if need be.
    pub(super) async fn run_again(&mut self) -> Step {
        let wire = std::mem::take(&mut self.again.wire);
        self.let_go();
        self.machine.taken_back();
        self.watch.taken_back();
        let sent = wire.len();
        let mut inbuf = wire;
        inbuf.put_slice(&self.inbuf);
        let old = std::mem::replace(&mut self.inbuf, Inbox::new(inbuf)).take();
        self.shared.buffers.give(old);
        self.messages = MessageScanner::default();
        let delay = self.shared.config.load().retry.delay * (1 << self.again.attempts.min(10));
        self.again.attempts += 1;
        tracing::debug!(
            session = self.registration.id,
            ?delay,
            sent,
            "A statement failed for a passing reason."
        );
        let asked = self.exchange.asked;
        if self.wait_for(tokio::time::sleep(jittered(delay)), None).await?.is_none() {
            // The client has taken it back.
            return Ok(());
        }
        let Found::Message(extent) = MessageScanner::default().scan(&self.inbuf) else { return Ok(()) };
        self.open_again(Message { tag: Tag::RUN, extent }).await?;
        self.exchange.asked = asked;
        Ok(())
    }

    /// Lets go of a connection on which a statement failed.
    fn let_go(&mut self) {
        self.end_filling(false);
        self.writing = None;
        self.end_errand(true);
        let Some(lease) = self.lease.take() else { return };
        if std::mem::take(&mut self.condemned) {
            lease.discard()
        } else {
            drop(lease)
        }
        self.note_pin();
    }
}

/// A fifth more or less.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(0.8 + 0.4 * fastrand::f64())
}
