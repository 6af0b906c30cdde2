//! Read buffers lent to whoever is reading, so that a connection at rest holds none.

use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio_util::io::poll_read_buf;

use crate::transport::Transport;

/// Room for one read.
pub(crate) const READ: usize = 16 * 1024;
/// Room for one read of a connection that keeps its buffer full.
pub(crate) const LARGE_READ: usize = 128 * 1024;
/// Buffers kept for the next reader; beyond that they go back to the allocator.
const KEPT: usize = 256;

/// A bounded stock of empty buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Mutex<Vec<BytesMut>>,
}

impl Buffers {
    /// An empty buffer with room for a read.
    pub(crate) fn take(&self) -> BytesMut {
        self.free.lock().pop().unwrap_or_else(|| BytesMut::with_capacity(READ))
    }

    /// Takes a buffer back; what is in it is forgotten.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        // A buffer that was moved on cheaply regains its front here; one that grew is not kept.
        if !buffer.try_reclaim(READ) || buffer.capacity() > LARGE_READ {
            return;
        }
        let mut free = self.free.lock();
        if free.len() < KEPT {
            free.push(buffer);
        }
    }
}

/// What has been read from one side and not been used. It holds a buffer only while there is something in it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: BytesMut,
    /// The last read filled all the room it had: a stream is coming, and larger reads carry it with fewer calls.
    greedy: bool,
}

impl Inbox {
    /// An inbox with what was read before.
    pub(crate) fn new(bytes: BytesMut) -> Self {
        Self { bytes, greedy: false }
    }

    /// Reads what has come; 0 = the other side has ended.
    pub(crate) fn poll_fill(
        &mut self,
        transport: &mut Transport,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<io::Result<usize>> {
        // A buffer that was filled and used to its very end has no room left, but it has its storage.
        if self.bytes.capacity() == 0 && !self.bytes.try_reclaim(READ) {
            ready!(transport.poll_readable(cx))?;
            self.bytes = buffers.take();
        }
        let room = if self.greedy { LARGE_READ } else { READ };
        if self.bytes.capacity() - self.bytes.len() < room / 2 {
            self.bytes.reserve(room);
        }
        let spare = self.bytes.capacity() - self.bytes.len();
        let read = ready!(poll_read_buf(Pin::new(transport), cx, &mut self.bytes))?;
        self.greedy = read == spare || (self.greedy && read >= READ);
        Poll::Ready(Ok(read))
    }

    /// Gives the buffer back if nothing is in it and no stream is coming.
    pub(crate) fn rest(&mut self, buffers: &Buffers) {
        if self.bytes.is_empty() && !self.greedy && self.bytes.capacity() > 0 {
            buffers.give(std::mem::take(&mut self.bytes));
        }
    }

    /// Takes everything out, buffer and all.
    pub(crate) fn take(&mut self) -> BytesMut {
        self.greedy = false;
        std::mem::take(&mut self.bytes)
    }
}

impl Deref for Inbox {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Inbox {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, BufMut};

    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_room() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        buffer.put_slice(&[1; READ]);
        buffer.advance(READ - 10);
        buffers.give(buffer);
        let again = buffers.take();
        assert!(again.is_empty() && again.capacity() >= READ);
    }

    #[test]
    fn the_stock_is_bounded() {
        let buffers = Buffers::default();
        for _ in 0..KEPT + 10 {
            buffers.give(BytesMut::with_capacity(READ));
        }
        buffers.give(BytesMut::with_capacity(10 * LARGE_READ));
        assert_eq!(buffers.free.lock().len(), KEPT);
    }
}
