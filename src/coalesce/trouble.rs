//! Why a transaction did not come about.

use std::ops::Range;

use bolt_wire::message::Summary;
use bytes::Bytes;

/// Why a transaction did not come about, and whose fault it was. Nothing of it is committed, except where it says so.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may go through next time: a deadlock, or a connection lost before COMMIT.
    Again(&'static str),
    /// This member's own statement failed.
    Guilty(usize),
    /// One of these failed.
    Suspects(Range<usize>),
    /// The rows of these were not what their shape lets expect.
    Mismatch(Range<usize>, &'static str),
    /// Nothing for a batch.
    Apart(&'static str),
    /// Neo4j refused COMMIT with this FAILURE.
    Refused(Bytes),
    /// COMMIT was sent, and its answer did not come: perhaps it is committed.
    Unknown,
}

/// The code of a FAILURE.
pub(super) fn code(failure: &[u8]) -> &str {
    Summary::parse(failure).ok().and_then(|summary| summary.code()).unwrap_or_default()
}

impl Trouble {
    /// What a FAILURE before COMMIT means for the members that it may have come from; none = for the transaction as a whole.
    pub(super) fn of(failure: &[u8], range: Option<Range<usize>>) -> Self {
        let code = code(failure);
        if is_repeatable(code) {
            return Self::Again("deadlock");
        }
        let own = code.starts_with("Neo.ClientError.")
            && !code.starts_with("Neo.ClientError.Security.")
            && !code.starts_with("Neo.ClientError.Cluster.");
        match range {
            Some(range) if own && range.len() == 1 => Self::Guilty(range.start),
            Some(range) if own || code.starts_with("Neo.TransientError.") => Self::Suspects(range),
            _ => Self::Apart("refused"),
        }
    }
}

/// Failures after which the same transaction may go through, and surely nothing is committed.
pub(super) fn is_repeatable(code: &str) -> bool {
    matches!(
        code,
        "Neo.TransientError.Transaction.DeadlockDetected"
            | "Neo.TransientError.Transaction.LockClientStopped"
            | "Neo.TransientError.Transaction.LockAcquisitionTimeout"
    )
}
