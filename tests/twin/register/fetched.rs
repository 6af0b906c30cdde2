//! The answer to one statement, however it was fetched.

use bolt_wire::packstream::Value;

use crate::wire::Reply;

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// The records.
    pub(super) records: Vec<Vec<Value>>,
    /// True if there is more to fetch.
    pub(super) more: bool,
    /// True if these are all records.
    pub(super) complete: bool,
    /// The bookmark.
    pub(super) bookmark: Option<Value>,
}

impl Fetched {
    /// The last of some replies.
    pub(super) fn of(replies: Vec<Reply>) -> Self {
        let mut fetched = Self { complete: true, ..Self::default() };
        fetched.add(replies);
        fetched
    }

    /// What came afterwards.
    pub(super) fn add(&mut self, mut replies: Vec<Reply>) {
        let Some(reply) = replies.pop() else { return };
        if reply.tag == bolt_wire::Tag::DISCARD {
            self.complete = false;
        }
        let meta = reply.success();
        self.more = meta.and_then(|meta| meta.get("has_more")) == Some(&Value::Boolean(true));
        self.bookmark = meta.and_then(|meta| meta.get("bookmark")).cloned();
        self.records.extend(reply.records);
    }
}
