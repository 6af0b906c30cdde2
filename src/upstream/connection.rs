//! One connection to Neo4j, after its login.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::client::{Client, Place};
use bolt_wire::message::Summary;
use bolt_wire::scan::{Scan, Scanner};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::key::Key;
use super::principal::Principal;
use crate::buffers::{Buffers, Inbox, READ};
use crate::transport::Transport;

/// A connection to Neo4j that is logged in.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    /// Which answers are due, and whether it is clean.
    pub(crate) machine: Client,
    /// What has come and not been taken away.
    pub(crate) inbuf: Inbox,
    outbuf: BytesMut,
    /// The transport (TLS) may still hold something that was written.
    unflushed: bool,
    scanner: Scanner,
    messages: MessageScanner,
    piecewise: bool,
    /// What distinguishes it from other connections of its pool.
    pub(crate) key: Arc<Key>,
    /// Who is logged in on it; none between HELLO and LOGON.
    pub(crate) principal: Option<Arc<Principal>>,
    /// Neo4j's name for it, for logs.
    pub(crate) server_id: String,
    /// When it is to be replaced.
    pub(crate) expires: Instant,
    /// When it was last given back.
    pub(crate) last_used: Instant,
    /// How long the server may be silent while it owes an answer, if it said so.
    pub(crate) recv_timeout: Option<std::time::Duration>,
    /// When it was made.
    pub(crate) made: Instant,
    /// It broke, or its server was given up, while an answer was due.
    broken: bool,
}

/// What `Connection::next` found at the start of what is left of the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// A whole summary.
    Summary(Extent),
    /// Its end has not come yet, or nothing has.
    More,
}

impl Connection {
    /// A connection over `transport` that was just made.
    pub(crate) fn new(transport: Transport, key: Arc<Key>, expires: Instant) -> Self {
        Self {
            transport,
            machine: Client::default(),
            inbuf: Inbox::default(),
            outbuf: BytesMut::new(),
            unflushed: false,
            scanner: Scanner::default(),
            messages: MessageScanner::default(),
            piecewise: false,
            key,
            principal: None,
            server_id: String::new(),
            expires,
            last_used: Instant::now(),
            recv_timeout: None,
            made: Instant::now(),
            broken: false,
        }
    }

    /// Queues a client's message as it is; `flush` sends it.
    pub(crate) fn queue(&mut self, tag: Tag, wire: &[u8]) {
        self.outbuf.extend_from_slice(wire);
        self.machine.sent(tag);
    }

    /// Queues a message that `write` makes (a whole message, chunks included).
    pub(crate) fn queue_with(&mut self, tag: Tag, own: bool, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.outbuf);
        if own { self.machine.sent_own(tag) } else { self.machine.sent(tag) }
    }

    /// Queues a message without fields of Sidebolt's own.
    pub(crate) fn queue_own(&mut self, tag: Tag) {
        self.queue_with(tag, true, |out| {
            chunk::put_message(out, |out| out.extend_from_slice(&[0xB0, tag.0]))
        });
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends as much of what is queued as the socket takes; ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbuf.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.outbuf))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbuf.advance(sent);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// A message follows in pieces. Until its end the connection is good for nothing else.
    pub(crate) fn begin_piecewise(&mut self, tag: Tag) {
        debug_assert_ne!(tag, Tag::RESET, "a RESET is small");
        self.piecewise = true;
    }

    /// The message that went in pieces is whole.
    pub(crate) fn end_piecewise(&mut self, tag: Tag) {
        self.piecewise = false;
        self.machine.sent(tag);
    }

    /// Sends a piece of a message that is too large to be queued.
    pub(crate) async fn send_piece(&mut self, piece: &[u8], last: bool) -> io::Result<()> {
        self.flush().await?;
        self.transport.write_all(piece).await?;
        // TLS may hold back what the socket did not take; without this the end of the message could stay there.
        if last { self.transport.flush().await } else { Ok(()) }
    }

    /// Reads what has come; zero bytes are an error, because a server never half-closes.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<io::Result<usize>> {
        match ready!(self.inbuf.poll_fill(&mut self.transport, cx, buffers)) {
            Ok(0) => {
                self.give_up();
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Err(error) => {
                self.give_up();
                Poll::Ready(Err(error))
            }
            read => Poll::Ready(read),
        }
    }

    /// The server is gone or silent: its fault, if it owes an answer.
    pub(crate) fn give_up(&mut self) {
        self.broken |= self.machine.due() > 0;
    }

    /// True if it broke by the server's fault.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Its end was to be expected.
    pub(crate) fn excuse(&mut self) {
        self.broken = false;
    }

    /// Scans what begins at `at` in the buffer for records to pass on.
    pub(crate) fn scan(&mut self, at: usize) -> Scan {
        self.scanner.scan(self.inbuf.get(at..).unwrap_or_default())
    }

    /// Looks for the whole summary at `at`, where `scan` stopped.
    pub(crate) fn next(&mut self, at: usize) -> Next {
        match self.messages.scan(self.inbuf.get(at..).unwrap_or_default()) {
            Found::Message(extent) => Next::Summary(extent),
            Found::Noop | Found::Partial => Next::More,
        }
    }

    /// Waits for a whole message at the start of the buffer, and sends what is queued meanwhile; none if it is larger than `most`.
    pub(crate) async fn whole(&mut self, buffers: &Buffers, most: usize) -> io::Result<Option<Extent>> {
        loop {
            match self.messages.scan(&self.inbuf) {
                Found::Message(extent) => return Ok(Some(extent)),
                Found::Noop => self.inbuf.advance(2),
                Found::Partial if self.inbuf.len() > most.saturating_add(READ) => return Ok(None),
                Found::Partial => {
                    poll_fn(|cx| {
                        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                            return Poll::Ready(Err(error));
                        }
                        self.poll_fill(cx, buffers)
                    })
                    .await?;
                }
            }
        }
    }

    /// True if `principal` is logged in on it.
    pub(crate) fn is_logged_in_as(&self, principal: &Principal) -> bool {
        self.principal.as_ref().is_some_and(|known| known.account == principal.account)
    }

    /// True if a half-sent message makes the connection useless.
    pub(crate) fn is_mid_message(&self) -> bool {
        self.piecewise
    }

    /// True while a HELLO or LOGON is not answered: who is logged in is open, and no RESET makes it known.
    pub(crate) fn is_mid_login(&self) -> bool {
        self.principal.is_none() && self.machine.due() > 0
    }

    /// True if the other side has closed the connection or said something unasked.
    pub(crate) fn is_stale(&mut self) -> bool {
        !self.inbuf.is_empty() || self.transport.is_stale()
    }

    /// True if it can be lent again, perhaps after the RESET that `settle` sends.
    pub(crate) fn is_reusable(&self) -> bool {
        self.machine.due() == 0
            && matches!(self.machine.place(), Place::Ready | Place::Failed)
            && self.inbuf.is_empty()
            && self.outbuf.is_empty()
            && self.scanner.at_boundary()
            && !self.piecewise
    }

    /// Sends RESET without waiting for its answer; false if the socket takes nothing now.
    pub(crate) fn reset_now(&mut self) -> bool {
        debug_assert!(self.outbuf.is_empty(), "nothing may come before it");
        const RESET: [u8; 6] = [0, 2, 0xB0, Tag::RESET.0, 0, 0];
        let mut nobody = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.transport).poll_write(&mut nobody, &RESET) {
            Poll::Ready(Ok(sent)) if sent == RESET.len() => {}
            Poll::Pending => return false,
            _ => {
                self.machine.lost();
                return false;
            }
        }
        self.machine.sent_own(Tag::RESET);
        // What TLS holds back goes out with the next flush, before its answer is waited for.
        self.unflushed = true;
        !matches!(self.poll_flush(&mut nobody), Poll::Ready(Err(_)))
    }

    /// Reads and drops answers until none is due. Gives the last one's metadata to `each`.
    pub(crate) async fn drain(
        &mut self,
        buffers: &Buffers,
        mut each: impl FnMut(Tag, &Summary<'_>, &[u8]),
    ) -> io::Result<()> {
        let mut scratch = BytesMut::new();
        // Who waited for whole messages may have been broken off in the middle of one.
        self.messages.reset();
        self.flush().await?;
        while self.machine.due() > 0 {
            let passed = self.scan(0);
            self.inbuf.advance(passed.pass);
            if passed.summary
                && let Next::Summary(extent) = self.next(0)
            {
                let payload = chunk::payload(&self.inbuf, extent, &mut scratch);
                let summary = Summary::parse(payload).map_err(io::Error::other)?;
                let Some(expected) = self.machine.received(summary.outcome) else {
                    return Err(io::Error::other("an answer that was not asked for"));
                };
                each(expected.tag, &summary, payload);
                self.inbuf.advance(extent.wire);
                continue;
            }
            if self.inbuf.len() > MAX_OWN_ANSWER {
                return Err(io::Error::other("an answer is larger than expected"));
            }
            poll_fn(|cx| self.poll_fill(cx, buffers)).await?;
        }
        self.inbuf.rest(buffers);
        Ok(())
    }

    /// Says GOODBYE and closes; what cannot be sent at once is not sent.
    pub(crate) async fn close(mut self: Box<Self>) {
        self.outbuf.clear();
        chunk::put_message(&mut self.outbuf, |out| out.extend_from_slice(&[0xB0, Tag::GOODBYE.0]));
        let farewell = async {
            self.flush().await?;
            self.transport.shutdown().await
        };
        // A peer that does not take six bytes in a second is gone.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), farewell).await;
    }
}

/// Largest answer to a request of Sidebolt's own.
const MAX_OWN_ANSWER: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use bolt_wire::Version;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::transport::memory;

    /// A flush that was broken off goes on where it stopped: nothing is sent twice.
    #[tokio::test]
    async fn a_flush_can_be_broken_off() {
        let (transport, mut far) = memory::pipe(8);
        let mut connection = Connection::new(transport, Arc::new(Key::plain(Version::V5_8)), Instant::now());
        for _ in 0..4 {
            connection.queue_own(Tag::RESET);
        }
        let mut nobody = Context::from_waker(Waker::noop());
        let mut got = [0; 24];
        for eight in got.chunks_mut(8) {
            let _ = std::pin::pin!(connection.flush()).poll(&mut nobody);
            far.read_exact(eight).await.unwrap();
        }
        assert!(connection.outbuf.is_empty());
        assert_eq!(got.to_vec(), [0, 2, 0xB0, 0x0F, 0, 0].repeat(4));
    }
}
