//! The response scanner: lets RECORD messages pass as bytes and stops in front of every summary.  [hot path]

/// Walks a stream of responses chunk header by chunk header. A record of any size passes in pieces; nothing is collected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    record: Option<Passage>,
}

/// One message of any size on its way through, in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passage {
    /// Bytes before the next chunk header.
    left: usize,
}

impl Passage {
    /// Takes from `buf`, which goes on where the last piece ended: how many bytes belong to the message, and whether they end it.
    pub fn take(&mut self, buf: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        loop {
            let rest = buf.get(taken..).unwrap_or_default();
            if self.left > 0 {
                let piece = self.left.min(rest.len());
                taken += piece;
                self.left -= piece;
                if self.left > 0 {
                    return (taken, false);
                }
                continue;
            }
            let Some(header) = rest.first_chunk::<2>() else { return (taken, false) };
            taken += 2;
            self.left = usize::from(u16::from_be_bytes(*header));
            if self.left == 0 {
                return (taken, true);
            }
        }
    }
}

/// What `Scanner::scan` found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scan {
    /// Bytes from the start of the buffer that are records and NOOPs and may go on as they are.
    pub pass: usize,
    /// Records that end within those bytes.
    pub records: u64,
    /// Of those bytes, the ones in front of the last message boundary; `None` if there is none.
    pub whole: Option<usize>,
    /// True if a message that is no record begins after them; false if more bytes are needed.
    pub summary: bool,
}

impl Scanner {
    /// Scans `buf`, which begins where the last scan's `pass` ended (and after any summary was taken away).
    pub fn scan(&mut self, buf: &[u8]) -> Scan {
        let mut found = Scan { whole: self.at_boundary().then_some(0), ..Scan::default() };
        loop {
            let rest = buf.get(found.pass..).unwrap_or_default();
            let Some(record) = &mut self.record else {
                match first_bytes(rest) {
                    First::Noop => {
                        found.pass += 2;
                        found.whole = Some(found.pass);
                    }
                    First::Record => self.record = Some(Passage::default()),
                    First::Other => {
                        found.summary = true;
                        return found;
                    }
                    First::Unknown => return found,
                }
                continue;
            };
            let (taken, whole) = record.take(rest);
            found.pass += taken;
            if !whole {
                return found;
            }
            found.records += 1;
            found.whole = Some(found.pass);
            self.record = None;
        }
    }

    /// True between two messages: the only place where a NOOP or an own message may be inserted.
    pub fn at_boundary(&self) -> bool {
        self.record.is_none()
    }
}

/// What the first bytes at a message boundary say.
enum First {
    Noop,
    Record,
    Other,
    Unknown,
}

fn first_bytes(rest: &[u8]) -> First {
    let signature = match *rest {
        [0, 0, ..] => return First::Noop,
        [0, 1, _, 0, 0, ..] => return First::Other,
        [0, 1, _, _, _, signature, ..] => signature,
        [0, 1, ..] => return First::Unknown,
        [_, _, _, signature, ..] => signature,
        _ => return First::Unknown,
    };
    if signature == 0x71 { First::Record } else { First::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: [u8; 8] = [0, 4, 0xB1, 0x71, 0x91, 0x01, 0, 0];
    const SUCCESS: [u8; 7] = [0, 3, 0xB1, 0x70, 0xA0, 0, 0];

    #[test]
    fn records_pass_and_a_summary_stops() {
        let stream = [&RECORD[..], &[0, 0], &RECORD, &SUCCESS].concat();
        let found = Scanner::default().scan(&stream);
        assert_eq!(found, Scan { pass: 18, records: 2, whole: Some(18), summary: true });
    }

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let stream =
            [&RECORD[..], &[0, 0], &RECORD, &[0, 1, 0xB1, 0, 3, 0x71, 0x91, 2, 0, 0], &SUCCESS].concat();
        for cut in 0..stream.len() {
            let mut scanner = Scanner::default();
            let first = scanner.scan(&stream[..cut]);
            let second = scanner.scan(&stream[first.pass..]);
            assert_eq!(first.pass + second.pass, stream.len() - SUCCESS.len(), "cut {cut}");
            assert_eq!(first.records + second.records, 3);
            assert!(second.summary && scanner.at_boundary());
        }
    }

    #[test]
    fn a_large_record_passes_in_pieces() {
        let mut scanner = Scanner::default();
        let mut head = vec![0xFF, 0xFF, 0xB1, 0x71];
        head.resize(1000, 7);
        assert_eq!(scanner.scan(&head), Scan { pass: 1000, whole: Some(0), ..Scan::default() });
        assert!(!scanner.at_boundary());
        assert_eq!(scanner.scan(&vec![7; 64_537]), Scan { pass: 64_537, ..Scan::default() });
        assert_eq!(scanner.scan(&[0]).pass, 0);
        let end = Scan { pass: 2, records: 1, whole: Some(2), summary: false };
        assert_eq!(scanner.scan(&[0, 0]), end);
    }
}
