//! Cuts requests out of a byte stream and keeps only the beginning of a large one: a 40 MiB parameter costs no memory.

/// Payload kept of a message; the statement's text stands at its front.
const KEPT: usize = 64 * 1024;

/// Finds the ends of messages.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    pending: Vec<u8>,
    at: usize,
    /// Bytes of the current chunk that are still to come.
    left: usize,
    payload: Vec<u8>,
    within: bool,
}

impl Cutter {
    /// Adds bytes that arrived. `next` must have been called until it gave `None`.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.at);
        self.at = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// Puts the next whole message's payload, at most its first 64 KiB, into `message`; `None` = more bytes are needed.
    pub(crate) fn next(&mut self, message: &mut Vec<u8>) -> Option<()> {
        loop {
            let rest = &self.pending[self.at..];
            if self.left > 0 {
                let taken = self.left.min(rest.len());
                let room = KEPT.saturating_sub(self.payload.len());
                self.payload.extend_from_slice(&rest[..taken.min(room)]);
                self.at += taken;
                self.left -= taken;
                if self.left > 0 {
                    return None;
                }
                continue;
            }
            let header = rest.first_chunk::<2>()?;
            self.left = usize::from(u16::from_be_bytes(*header));
            self.at += 2;
            if self.left > 0 {
                self.within = true;
            } else if std::mem::take(&mut self.within) {
                std::mem::swap(message, &mut self.payload);
                self.payload.clear();
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::{Value, value};
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn messages_come_out_whole_or_cut_to_the_kept_size() {
        let mut wire = BytesMut::new();
        for size in [1, 1000, 300_000] {
            value::put_message(0x10, &[Value::String("a".repeat(size))], &mut wire);
            wire.extend_from_slice(&[0, 0]);
        }
        for step in [1, 13, 65_536, wire.len()] {
            let (mut cutter, mut message, mut lengths) = (Cutter::default(), Vec::new(), Vec::new());
            for piece in wire.chunks(step) {
                cutter.put(piece);
                while cutter.next(&mut message).is_some() {
                    lengths.push(message.len());
                }
            }
            assert_eq!(lengths, [4, 1005, KEPT], "steps of {step}");
        }
    }
}
