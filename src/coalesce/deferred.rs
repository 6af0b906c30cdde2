//! Deferred writes: those of one explicit transaction that were answered before they were sent.

use std::collections::HashSet;

use bolt_wire::Tag;

use super::member::{RowKey, Write};
use super::plan::{ROWS, put_fetch, put_rows, put_run, shape};
use crate::upstream::Connection;

/// Rows that are gathered before they are sent, whatever comes next.
const MOST: usize = 1000;
/// Bytes of parameters likewise.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Writes of one transaction that wait to be sent, in the order in which they came.
#[derive(Default)]
pub(crate) struct Deferred {
    writes: Vec<Write>,
    bytes: usize,
    /// How many were answered.
    pub(crate) answered: i64,
    /// The FAILURE that one of them got: the answer to whatever comes next.
    pub(crate) failure: Option<Vec<u8>>,
}

impl Deferred {
    /// Takes a write; true if all should be sent now.
    pub(crate) fn push(&mut self, write: Write) -> bool {
        self.bytes += write.parameters.len();
        self.writes.push(write);
        self.answered += 1;
        self.writes.len() >= MOST || self.bytes >= MOST_BYTES
    }

    /// Forgets what was not sent.
    pub(crate) fn forget(&mut self) {
        self.writes.clear();
        self.bytes = 0;
    }

    /// Queues everything: neighbours of one text with different keys as one statement, in their order.
    pub(crate) fn queue(&mut self, connection: &mut Connection, mut sent: impl FnMut(&Write, usize)) {
        let mut rest = self.writes.as_slice();
        while let Some(first) = rest.first() {
            let rows = run_of_rows(rest);
            let (segment, behind) = rest.split_at(rows);
            sent(first, rows);
            if rows >= ROWS {
                queue_own(connection, |out| put_rows(segment.iter(), out));
            } else {
                segment.iter().for_each(|write| queue_own(connection, |out| put_run(write, out)));
            }
            rest = behind;
        }
        self.forget();
    }
}

fn queue_own(connection: &mut Connection, run: impl FnOnce(&mut bytes::BytesMut)) {
    connection.queue_with(Tag::RUN, true, run);
    // Nobody wants the rows.
    connection.queue_with(Tag::DISCARD, true, |out| put_fetch(Tag::DISCARD, out));
}

/// How many writes at the start can be one statement.
fn run_of_rows(writes: &[Write]) -> usize {
    let Some(first) = writes.first() else { return 0 };
    let distinct = shape(&first.statement).is_some_and(|shape| shape.key.distinct);
    let mut keys: HashSet<&RowKey> = HashSet::new();
    let alike = writes.iter().take_while(|write| {
        std::sync::Arc::ptr_eq(&write.statement, &first.statement)
            && write.key.as_ref().is_some_and(|key| !distinct || keys.insert(key))
    });
    alike.count().max(1)
}
