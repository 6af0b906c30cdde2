//! Read buffers lent to whoever is reading, so that a connection at rest holds none.

use bytes::BytesMut;
use parking_lot::Mutex;

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

/// Makes room for the next read: small at first, large once reads fill what they get.
pub(crate) fn make_room(buffer: &mut BytesMut) {
    let room = if buffer.len() >= READ - 1024 { LARGE_READ } else { READ };
    if buffer.capacity() - buffer.len() < room / 2 {
        buffer.reserve(room);
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
