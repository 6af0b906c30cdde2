//! Requests that go on otherwise than they came: metadata taken out or added, everything else byte for byte.

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::{Begin, Run};
use bolt_wire::packstream::{MapEdit, MapView, Walker, encode};
use bytes::{BufMut, BytesMut};

use super::Session;
use super::requests::Message;
use crate::bookmark::Bookmark;

impl Session {
    /// Changes the metadata of the RUN or BEGIN at the start of `inbuf`.
    pub(super) fn edit(
        &mut self,
        message: Message,
        change: impl FnOnce(&MapView<'_>) -> MapEdit<'static>,
    ) -> Message {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let mut changed = BytesMut::with_capacity(message.extent.wire + 64);
        match message.tag {
            Tag::RUN => {
                let Ok(run) = Run::parse(payload) else { return message };
                let edit = change(&run.extra);
                chunk::put_message(&mut changed, |out| run.write_with(&edit, out));
            }
            _ => {
                let Ok(begin) = Begin::parse(payload) else { return message };
                let edit = change(&begin.extra);
                chunk::put_message(&mut changed, |out| begin.write_with(&edit, out));
            }
        }
        let Found::Message(extent) = MessageScanner::default().scan(&changed) else { return message };
        changed.put_slice(self.inbuf.get(message.extent.wire..).unwrap_or_default());
        *self.inbuf = changed;
        Message { extent, ..message }
    }

    /// Lets the RUN or BEGIN at the start of `inbuf` wait for the newest id that is known, so that its answer may be kept.
    pub(super) fn wait_for_newest(&mut self, message: Message, newest: Bookmark) -> Message {
        self.edit(message, |extra| {
            let mut edit = MapEdit::removing(&["bookmarks"]);
            add_bookmark(extra, newest, &mut edit);
            edit
        })
    }
}

/// Adds one to the bookmarks.
pub(super) fn add_bookmark(extra: &MapView<'_>, bookmark: Bookmark, edit: &mut MapEdit<'_>) {
    let own: Vec<&[u8]> = extra.get("bookmarks").map(items).unwrap_or_default();
    edit.add("bookmarks", |out| {
        encode::list_header(own.len() + 1, out);
        own.iter().for_each(|item| out.put_slice(item));
        encode::string(&bookmark.to_text(), out);
    });
}

/// The items of a list.
fn items(list: &[u8]) -> Vec<&[u8]> {
    let mut walker = Walker::new(list);
    let count = walker.list_header().unwrap_or_default();
    (0..count).map_while(|_| walker.value().ok()).collect()
}
