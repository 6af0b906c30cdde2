//! Transactions that only read: begun here, as long as what they read is kept.

use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::{Begin, Outcome, Summary};
use bolt_wire::packstream::{MapEdit, MapView};
use bytes::{Buf, Bytes, BytesMut};

use super::errand::bookmarks;
use super::held::Held;
use super::question::{is_well_formed, newest_own};
use super::requests::Message;
use super::{Session, Step};
use crate::bookmark::Bookmark;
use crate::cache::{Filling, Source};
use crate::upstream::Principal;

/// What came of a BEGIN that only reads.
pub(super) enum Reading {
    /// It was answered here.
    Held,
    /// It goes to Neo4j, as it stands at the start of `inbuf` now.
    Relay(Message),
}

/// How a client's managed reads go.
#[derive(Default)]
pub(super) struct Reads {
    /// BEGIN's metadata without bookmarks, and what Neo4j answered to that.
    begun: Option<Box<(Vec<u8>, Vec<u8>)>>,
    /// The BEGIN whose answer is due.
    asking: Option<Vec<u8>>,
    /// The metadata of the transaction that was begun, until its first RUN.
    begin: Option<Bytes>,
    /// The id that the transaction waits for.
    carried: Option<Bookmark>,
    /// The last one could be answered from the cache.
    hot: bool,
    /// Where the last one's readings come from.
    pub(super) source: Option<Arc<Source>>,
}

impl Reads {
    /// Where readings come from, if it is where the last one's came from.
    pub(super) fn source(&self, principal: &Principal, database: Option<&str>) -> Option<&Arc<Source>> {
        self.source.as_ref().filter(|source| source.is_for(&principal.id, database))
    }

    /// The transaction's first RUN is none whose answer may be kept.
    pub(super) fn forget(&mut self) {
        (self.begin, self.carried) = (None, None);
    }

    /// An answer to BEGIN.
    pub(super) fn learn(&mut self, summary: &Summary<'_>, payload: &[u8]) {
        if let Some(asked) = self.asking.take()
            && matches!(summary.outcome, Outcome::Success { .. })
        {
            self.begun = Some(Box::new((asked, payload.get(2..).unwrap_or_default().to_vec())));
        }
    }
}

impl Session {
    /// Looks at the BEGIN at the start of `inbuf`: one that only reads need not reach Neo4j if what it reads is kept.
    pub(super) fn hold_read(&mut self, message: Message) -> Reading {
        let relay = Reading::Relay(message);
        (self.reads.carried, self.reads.begin) = (None, None);
        if !self.shared.config.load().cache.enabled || !self.shared.upstream.is_single() {
            return relay;
        }
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let Ok(begin) = Begin::parse(payload) else { return relay };
        if !is_well_formed(&begin.extra)
            || begin.extra.string("mode") != Some("r")
            || bookmarks(&begin.extra).is_none()
        {
            return relay;
        }
        let mut plain = BytesMut::new();
        MapEdit::removing(&["bookmarks", "tx_metadata", "tx_timeout"]).apply(&begin.extra, &mut plain);
        let known = self.reads.begun.as_ref().filter(|begun| begun.0 == plain).map(|begun| begun.1.clone());
        let begin = Bytes::copy_from_slice(payload.get(2..).unwrap_or_default());
        if let Some(meta) = known
            && self.goes_on_kept(message, &begin)
        {
            self.held = Some(Box::new(Held::reading(begin)));
            self.begin_exchange(Tag::BEGIN);
            self.inbuf.advance(message.extent.wire);
            self.machine.answered_here(Tag::BEGIN, Outcome::DONE);
            self.put_success(&meta);
            return Reading::Held;
        }
        self.reads.asking = Some(plain.to_vec());
        self.reads.carried = self.newest_of(&begin);
        self.reads.begin = Some(begin);
        match self.reads.carried {
            Some(newest) => Reading::Relay(self.wait_for_newest(message, newest)),
            None => relay,
        }
    }

    /// Whether what follows BEGIN, if it has come already, is kept.
    fn goes_on_kept(&self, message: Message, begin: &[u8]) -> bool {
        let rest = self.inbuf.get(message.extent.wire..).unwrap_or_default();
        if rest.is_empty() {
            return self.reads.hot;
        }
        let Found::Message(extent) = MessageScanner::default().scan(rest) else { return false };
        let question = self.question(rest, extent, Some(begin));
        question.is_some_and(|question| self.shared.cache.has(&question.key))
    }

    /// The newest id that is known of the database that BEGIN's metadata name; the client's own bookmark if that is newer.
    fn newest_of(&self, begin: &[u8]) -> Option<Bookmark> {
        let principal = self.principal.as_ref()?;
        let extra = MapView::parse(begin).ok()?;
        let database = extra.string("db");
        let ledger = match self.reads.source(principal, database) {
            Some(source) => source.ledger()?,
            None => self.shared.cache.known_source(&principal.id, database)?.ledger()?,
        };
        let newest = ledger.newest()?.max(newest_own(&extra, Some(&ledger))?.unwrap_or_default());
        Some(Bookmark { database: ledger.database, transaction: newest })
    }

    /// A read that is not kept begins its transaction at Neo4j after all.
    pub(super) async fn read_on(
        &mut self,
        message: Message,
        mut filling: Option<Box<Filling>>,
    ) -> Step<bool> {
        if let Some(filling) = &mut filling {
            filling.followed = true;
        }
        self.reads.hot = false;
        self.filling = filling;
        Box::pin(self.go_on(message, None)).await
    }

    /// The first RUN of a transaction that only reads goes to Neo4j: its answer may be kept.
    pub(super) fn fill_in_transaction(&mut self, message: Message) {
        if let Some(filling) = &mut self.filling {
            // From `read_on`; or it is the second one, whose answer would stand behind the first one's.
            if !filling.is_first() {
                self.filling = None;
            }
            return;
        }
        let Some(begin) = self.reads.begin.take() else { return };
        let Some(question) = self.question(&self.inbuf, message.extent, Some(&begin)) else { return };
        self.shared.cache.asked(&question.key);
        self.reads.hot = self.shared.cache.has(&question.key);
        let mut filling = question.filling(None, self.shared.config.load().cache.max_entry_bytes);
        filling.carry(self.reads.carried.take());
        (filling.led, filling.followed) = (true, true);
        filling.is_first();
        self.filling = Some(Box::new(filling));
    }
}
