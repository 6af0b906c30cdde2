//! Which member of a batch runs in which statement.

use std::ops::Range;
use std::sync::Arc;

use bolt_wire::packstream::encode;
use bolt_wire::{Tag, chunk};
use bytes::{BufMut, BytesMut};

use super::lane::Lane;
use super::member::{Member, RowKey, Write};
use crate::statement::{Class, Shape, Statement};
use crate::upstream::Connection;

/// Fewer rows of one text run as they are: their statement would cost no less.
pub(super) const ROWS: usize = 3;

/// The members of a transaction, and the statements that they become.
pub(super) struct Plan {
    pub(super) members: Vec<Member>,
    pub(super) segments: Vec<Segment>,
}

/// One statement of a batch.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Its members.
    pub(super) range: Range<usize>,
    /// True: one statement of the shape for all; false: one member's own.
    pub(super) derived: bool,
}

/// The shape of a statement, if it has one.
pub(super) fn shape(statement: &Statement) -> Option<&Shape> {
    match &statement.class {
        Class::Write { shape: Ok(shape) } => Some(shape),
        _ => None,
    }
}

/// What members are sorted by: labels and keys, so that all batches lock in the same order. What has no key keeps the order in which it came,
/// behind all that has one.
fn order(member: &Member) -> (bool, Option<(&str, &str, &RowKey)>) {
    let write = &member.write;
    let keyed = write.key.as_ref().zip(shape(&write.statement));
    let keyed = keyed.map(|(key, shape)| (&*shape.name, &*write.statement.text, key));
    (keyed.is_none(), keyed)
}

impl Plan {
    /// Sorts members so that batches lock in the same order, and gathers rows of one text.
    pub(super) fn of(lane: &Lane, mut members: Vec<Member>, derive: bool) -> Self {
        members.sort_by(|one, other| order(one).cmp(&order(other)));
        let mut segments = Vec::new();
        let mut start = 0;
        while let Some(first) = members.get(start) {
            let alike = |member: &&Member| {
                Arc::ptr_eq(&member.write.statement, &first.write.statement)
                    && member.write.key.is_some()
                    && member.write.fetch == Tag::PULL
            };
            let rows = members.iter().skip(start).take_while(alike).count();
            let derived = derive
                && rows >= ROWS
                && shape(&first.write.statement).is_some()
                && lane.knowledge(&first.write.statement, |knowledge| knowledge.derives());
            if derived {
                segments.push(Segment { range: start..start + rows, derived: true });
                start += rows;
            } else {
                let end = start + rows.max(1);
                segments.extend((start..end).map(|at| Segment { range: at..at + 1, derived: false }));
                start = end;
            }
        }
        Self { members, segments }
    }

    /// Queues the statements.
    pub(super) fn queue(&self, connection: &mut Connection) {
        for segment in &self.segments {
            let Some(members) = self.members.get(segment.range.clone()) else { continue };
            let Some(first) = members.first() else { continue };
            let fetch = if segment.derived {
                connection.queue_with(Tag::RUN, false, |out| {
                    put_rows(members.iter().map(|member| &member.write), out);
                });
                Tag::PULL
            } else {
                connection.queue_with(Tag::RUN, false, |out| put_run(&first.write, out));
                first.write.fetch
            };
            connection.queue_with(fetch, false, |out| put_fetch(fetch, out));
        }
    }
}

/// PULL or DISCARD of everything.
pub(super) fn put_fetch(fetch: Tag, out: &mut BytesMut) {
    chunk::put_message(out, |out| {
        encode::struct_header(fetch.0, 1, out);
        encode::map_header(1, out);
        encode::string("n", out);
        encode::integer(-1, out);
    });
}

/// RUN of one request's own text.
pub(super) fn put_run(write: &Write, out: &mut BytesMut) {
    chunk::put_message(out, |out| {
        encode::struct_header(Tag::RUN.0, 3, out);
        encode::string(&write.statement.text, out);
        out.put_slice(&write.parameters);
        encode::map_header(0, out);
    });
}

/// RUN of a shape's statement for many requests of one text.
pub(super) fn put_rows<'a>(writes: impl ExactSizeIterator<Item = &'a Write> + Clone, out: &mut BytesMut) {
    let Some(shape) = writes.clone().next().and_then(|write| shape(&write.statement)) else { return };
    chunk::put_message(out, |out| {
        encode::struct_header(Tag::RUN.0, 3, out);
        encode::string(&shape.batch, out);
        encode::map_header(1, out);
        encode::string("rows", out);
        encode::list_header(writes.len(), out);
        for (number, write) in writes.enumerate() {
            encode::map_header(2, out);
            encode::string("i", out);
            encode::integer(number as i64, out);
            encode::string("p", out);
            out.put_slice(&write.parameters);
        }
        encode::map_header(0, out);
    });
}
