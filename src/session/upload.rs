//! Requests that are too large to be held: they stream through.

use std::future::poll_fn;
use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, MessageScanner};
use bolt_wire::scan::Passage;
use bolt_wire::server::Verdict;
use bytes::Buf;
use tokio::time::Instant;

use super::guarded::Ruled;
use super::requests::Message;
use super::start::Leased;
use super::{End, Session, Step};
use crate::upstream::{Access, Key};

impl Session {
    /// A message whose end has not come: waited for, unless it is too large to be held. Then it streams through (true).
    pub(super) async fn large_request(&mut self) -> Step<bool> {
        if self.inbuf.len() < self.shared.config.load().limits.max_inspected_request {
            return Ok(false);
        }
        let Some(tag) = chunk::peek_tag(&self.inbuf) else { return Ok(false) };
        match self.machine.judge(tag) {
            Verdict::Wait => return Ok(false),
            Verdict::Start => {
                self.watch_start(Message { tag, extent: Extent::default() });
                if !self.let_large_pass(tag) {
                    return self.swallow().await.map(|()| true);
                }
                self.begin_exchange(tag);
                // Its extra cannot be seen before its parameters are through: it may write, most likely to the database of the last
                // request, and a filter must be on the connection.
                let access = Access { write: true, route: false, ..self.access.clone() };
                let key = self.key_with_filter();
                match Box::pin(self.lease_for(&access, Some(key))).await? {
                    Leased::Lease(lease) => {
                        self.adopt(lease);
                        self.note_unknown(true);
                        Box::pin(self.stream_up(tag)).await?;
                    }
                    Leased::Refused => self.swallow().await?,
                    Leased::TakenBack => {}
                }
            }
            Verdict::Continue => {
                let nothing = Message { tag, extent: Extent::default() };
                if self.take_expired(nothing) {
                    return self.swallow().await.map(|()| true);
                }
                match self.let_run(nothing, true) {
                    Ruled::Runs => {}
                    Ruled::Refused => return self.swallow().await.map(|()| true),
                    Ruled::Later => return Ok(false),
                }
                if self.held.is_some() && Box::pin(self.go_on(nothing, None)).await? {
                    // It was refused, or its transaction was: the rest of it goes nowhere.
                    return if self.held.is_some() { Ok(true) } else { self.swallow().await.map(|()| true) };
                }
                self.flush_deferred();
                self.note_foreign_run();
                self.note_unknown(false);
                Box::pin(self.stream_up(tag)).await?;
            }
            Verdict::Ignore => {
                self.put_ignored();
                self.swallow().await?;
            }
            // Nothing else has a megabyte to say.
            _ => return Err(End::Closed),
        }
        Ok(true)
    }

    /// Sends a request on in pieces, as it comes.
    async fn stream_up(&mut self, tag: Tag) -> Step {
        let limit = self.shared.config.load().listen.write_timeout;
        let Some(mut lease) = self.lease.take() else { return Err(End::Closed) };
        lease.connection_mut().begin_piecewise(tag);
        let mut passage = Passage::default();
        let sent = loop {
            let (taken, whole) = passage.take(&self.inbuf);
            let piece = self.inbuf.get(..taken).unwrap_or_default();
            let sent = tokio::time::timeout(limit, lease.connection_mut().send_piece(piece, whole)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break Ok(false);
            }
            self.inbuf.advance(taken);
            if whole {
                break Ok(true);
            }
            let read = tokio::time::timeout(limit, poll_fn(|cx| self.poll_client(cx))).await;
            if let Err(end) = read.unwrap_or(Err(End::ClientGone)) {
                break Err(end);
            }
        };
        self.messages = MessageScanner::default();
        match sent {
            Ok(true) => {
                lease.connection_mut().end_piecewise(tag);
                self.lease = Some(lease);
                // Nothing was read from Neo4j meanwhile.
                self.last_heard = Instant::now();
                self.machine.forwarded(tag);
                self.watch.streamed(tag);
                self.note_pin();
                Ok(())
            }
            Ok(false) => {
                self.lease = Some(lease);
                Err(self.lose_upstream())
            }
            Err(end) => {
                // Half a message is on the way: this connection cannot be used again.
                lease.discard();
                Err(end)
            }
        }
    }

    /// Reads the rest of a large message that goes nowhere.
    async fn swallow(&mut self) -> Step {
        let limit = self.shared.config.load().listen.write_timeout;
        self.flush_client().await?;
        let mut passage = Passage::default();
        self.messages = MessageScanner::default();
        loop {
            let (taken, whole) = passage.take(&self.inbuf);
            self.inbuf.advance(taken);
            if whole {
                return Ok(());
            }
            let read = tokio::time::timeout(limit, poll_fn(|cx| self.poll_client(cx))).await;
            read.unwrap_or(Err(End::ClientGone))?;
        }
    }

    /// The session's kind of connection, with HELLO's notification filter on it.
    fn key_with_filter(&self) -> Arc<Key> {
        if self.profile.filter.is_empty() {
            return Arc::clone(&self.key);
        }
        Arc::new(Key { filter: Some(self.profile.filter.clone()), ..(*self.key).clone() })
    }
}
