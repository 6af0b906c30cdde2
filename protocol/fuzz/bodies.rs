//! The bodies of the fuzz targets. `tests/corpora.rs` and `tests/properties.rs` call them too, so that a
//! corpus is checked by an ordinary `cargo test`.

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::client::{Client, Place};
use bolt_wire::handshake::{self, Choice};
use bolt_wire::message::{Begin, Outcome, Route, Run, Summary};
use bolt_wire::packstream::{MapEdit, MapView, Value, Walker, encode};
use bolt_wire::scan::{Passage, Scanner};
use bolt_wire::server::{Server, State, Verdict};
use bolt_wire::{DecodeError, Tag, Version};
use bytes::BytesMut;

/// Takes any bytes and panics if the crate breaks a promise on them.
pub(crate) type Body = fn(&[u8]);

/// Every body by the name of its target and its corpus.
pub(crate) const ALL: [(&str, Body); 6] = [
    ("handshake", handshake),
    ("chunks", chunks),
    ("walker", walker),
    ("values", values),
    ("server_machine", server_machine),
    ("scanner", scanner),
];

/// Handshake bytes of a client and of a server.
pub(crate) fn handshake(data: &[u8]) {
    let Some((mask, rest)) = data.split_first() else { return };
    let offered: Vec<Version> = Version::ALL
        .into_iter()
        .enumerate()
        .filter(|(at, _)| mask >> (at % 8) & 1 == 1)
        .map(|(_, v)| v)
        .collect();
    if let Some(slots) = rest.first_chunk::<16>()
        && let Choice::Classic(version) = handshake::choose(slots, &offered)
    {
        assert!(offered.contains(&version));
        assert_eq!(handshake::version_from_bytes(handshake::version_bytes(version)), Some(version));
    }
    let whole = handshake::read_manifest(rest);
    if let Ok(Some((versions, used))) = &whole {
        assert!(*used <= rest.len() && versions.is_sorted() && versions.iter().all(|v| v.is_known()));
        for cut in 0..*used {
            assert_eq!(handshake::read_manifest(&rest[..cut]), Ok(None), "cut {cut}");
        }
    }
    if let Ok(Some((version, used))) = handshake::read_manifest_choice(rest, &offered) {
        assert!(offered.contains(&version) && used <= rest.len());
        for cut in 0..used {
            assert_eq!(handshake::read_manifest_choice(&rest[..cut], &offered), Ok(None), "cut {cut}");
        }
    }
    let mut manifest = BytesMut::new();
    handshake::write_manifest(&offered, &mut manifest);
    assert_eq!(handshake::read_manifest(&manifest[4..]), Ok(Some((offered, manifest.len() - 4))));
}

/// A stream of chunks, whole and in pieces. The first byte chooses the size of the pieces.
pub(crate) fn chunks(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let whole = messages(stream);
    let mut buffer: Vec<u8> = Vec::new();
    let mut scanner = MessageScanner::default();
    let mut pieces = Vec::new();
    for piece in stream.chunks(usize::from(*step).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match scanner.scan(&buffer) {
                Found::Noop => {
                    buffer.drain(..2);
                }
                Found::Message(extent) => {
                    assert!(extent.wire <= buffer.len() && extent.payload < extent.wire);
                    let mut scratch = BytesMut::new();
                    let payload = chunk::payload(&buffer[..extent.wire], extent, &mut scratch).to_vec();
                    assert_eq!(payload.len(), extent.payload);
                    assert_eq!(chunk::peek_tag(&buffer), payload.get(1).map(|byte| Tag(*byte)));
                    pieces.push(payload);
                    buffer.drain(..extent.wire);
                }
                Found::Partial => break,
            }
        }
        assert!(scanner.announced(&buffer) <= buffer.len() + chunk::MAX_CHUNK);
    }
    assert_eq!(pieces, whole);
    for payload in &pieces {
        let mut again = BytesMut::new();
        chunk::put_message(&mut again, |out| out.extend_from_slice(payload));
        assert_eq!(messages(&again), std::slice::from_ref(payload));
    }
}

/// The payloads of a stream, found byte by byte.
pub(crate) fn messages(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut payload = Vec::new();
    let mut bytes = stream.iter();
    while let (Some(high), Some(low)) = (bytes.next(), bytes.next()) {
        let length = usize::from(*high) * 256 + usize::from(*low);
        if length == 0 {
            if !payload.is_empty() {
                found.push(std::mem::take(&mut payload));
            }
            continue;
        }
        for _ in 0..length {
            let Some(byte) = bytes.next() else { return found };
            payload.push(*byte);
        }
    }
    found
}

/// Any bytes as PackStream, and as every kind of message.
pub(crate) fn walker(data: &[u8]) {
    let mut walker = Walker::new(data);
    let walked = walker.value();
    if let Ok(value) = walked {
        assert_eq!(value.len() + walker.rest().len(), data.len());
        assert!(data.starts_with(value));
        let mut copy = [value, &[0xC0]].concat();
        assert_eq!(Walker::new(&copy).value(), Ok(value), "a value does not depend on what follows it");
        copy.truncate(value.len() - 1);
        assert_eq!(Walker::new(&copy).value(), Err(DecodeError::Truncated));
    }
    let mut reader = Walker::new(data);
    match Value::read(&mut reader) {
        Ok(_) => assert_eq!(reader.rest().len(), walker.rest().len(), "decoded and walked lengths differ"),
        Err(error) => assert!(
            walked.is_err()
                || matches!(
                    error,
                    DecodeError::BadUtf8 | DecodeError::TooDeep | DecodeError::UnexpectedMarker(_)
                ),
            "{error}"
        ),
    }
    let typed = Walker::new(data);
    let _ = (typed.clone().string(), typed.clone().bytes(), typed.clone().integer());
    let _ = (typed.clone().list_header(), typed.clone().map_header(), typed.clone().struct_header());
    views(data);
}

fn views(data: &[u8]) {
    let _ = (Begin::parse(data), Route::parse(data), bolt_wire::message::request::only_map(data));
    if let Ok(summary) = Summary::parse(data) {
        let _ = (summary.code(), summary.message());
    }
    if let Ok(run) = Run::parse(data) {
        let mut out = BytesMut::new();
        run.write_with(&MapEdit::removing(&[]), &mut out);
        let again = Run::parse(&out).expect("an unchanged RUN is a RUN");
        assert_eq!(
            (again.text, again.parameters, again.extra.len()),
            (run.text, run.parameters, run.extra.len())
        );
    }
    if let Ok(map) = MapView::parse(data) {
        assert_eq!(map.iter().count(), map.len());
        edits(&map);
    }
}

/// Removes the first key of a map and adds another; every other entry must be there byte for byte.
fn edits(map: &MapView<'_>) {
    let first = map.iter().next().map(|(key, _)| key);
    let removed: Vec<&str> = first.into_iter().collect();
    let mut edit = MapEdit::removing(&removed);
    edit.add("added", |out| encode::integer(1, out));
    let mut out = BytesMut::new();
    edit.apply(map, &mut out);
    let edited = MapView::parse(&out).expect("an edited map is a map");
    let kept: Vec<_> = map.iter().filter(|(key, _)| Some(*key) != first).collect();
    let mut expected = kept.clone();
    expected.push(("added", &[1]));
    assert_eq!(edited.iter().collect::<Vec<_>>(), expected);
}

/// Bytes that decode, encoded and decoded again.
pub(crate) fn values(data: &[u8]) {
    let Ok(value) = Value::decode(data) else { return };
    let bytes = value.to_bytes();
    assert!(bytes.len() <= data.len(), "the shortest form is not longer");
    let again = Value::decode(&bytes).expect("an encoded value decodes");
    // Bytes are compared, not values, because of NaN.
    assert_eq!(again.to_bytes(), bytes);
}

/// A driver and an upstream that do anything at any time: two bits of each byte choose who acts.
pub(crate) fn server_machine(data: &[u8]) {
    let Some((version, script)) = data.split_first() else { return };
    let mut session = Session {
        server: Server::new(Version::ALL[usize::from(*version) % Version::ALL.len()]),
        client: Client::default(),
        open: false,
    };
    for byte in script {
        if byte & 3 == 3 {
            session.answer(byte >> 2);
        } else {
            session.request(byte >> 2);
        }
        session.check();
    }
}

/// A proxy reduced to its two machines.
struct Session {
    server: Server,
    client: Client,
    open: bool,
}

const REQUESTS: [Tag; 16] = [
    Tag::HELLO,
    Tag::LOGON,
    Tag::LOGOFF,
    Tag::RESET,
    Tag::RUN,
    Tag::PULL,
    Tag::DISCARD,
    Tag::BEGIN,
    Tag::COMMIT,
    Tag::ROLLBACK,
    Tag::ROUTE,
    Tag::TELEMETRY,
    Tag::RUN,
    Tag::PULL,
    Tag(0x33),
    Tag::RESET,
];

impl Session {
    fn request(&mut self, choice: u8) {
        let tag = REQUESTS[usize::from(choice & 15)];
        let fails = choice & 16 != 0;
        match self.server.judge(tag) {
            Verdict::Hello if !fails => self.server.greeted(),
            Verdict::Logon if !fails => self.server.logged_on(),
            Verdict::Logoff => self.server.logged_off(),
            Verdict::Start if fails => self.server.refused(),
            Verdict::Start | Verdict::Continue | Verdict::Interrupt => {
                assert!(!matches!(tag, Tag::HELLO | Tag::LOGON | Tag::LOGOFF), "{tag} must not go on");
                self.open = true;
                self.server.forwarded(tag);
                self.client.sent(tag);
            }
            Verdict::Reset => self.server.reset(),
            Verdict::Illegal | Verdict::Close => {
                self.server.close();
                self.client.lost();
                self.open = false;
            }
            Verdict::Wait => assert!(self.server.in_flight() > 0, "{tag} waits for nothing"),
            Verdict::Hello | Verdict::Logon | Verdict::Telemetry | Verdict::Ignore => {}
        }
    }

    fn answer(&mut self, choice: u8) {
        let outcome = match choice & 7 {
            0..=2 => Outcome::DONE,
            3 | 4 => Outcome::Success { has_more: true },
            5 | 6 => Outcome::Failure,
            _ => Outcome::Ignored,
        };
        if !self.open || self.server.in_flight() == 0 {
            assert_eq!(self.server.answered(outcome), None, "an answer that nobody asked for");
            return;
        }
        let expected = self.client.received(outcome).expect("both machines owe the same answers");
        if outcome == Outcome::Failure && choice & 8 != 0 {
            self.server.hold();
        }
        let answered = self.server.answered(outcome).expect("an answer was due");
        assert_eq!(answered.tag, expected.tag);
        if matches!(outcome, Outcome::Failure | Outcome::Ignored) {
            let state = self.server.state();
            assert!(
                matches!(state, State::Failed | State::Interrupted | State::Defunct),
                "{state:?} after {outcome:?}"
            );
        }
        if answered.over {
            self.open = false;
            // Whatever is not clean after its last answer must be cleaned or dropped, never lent as it is.
            assert_eq!(self.client.due(), 0);
            if self.server.state() != State::Ready {
                assert_ne!(self.client.place(), Place::Ready, "{:?}", self.server.state());
            }
            self.client = Client::default();
        }
    }

    fn check(&self) {
        assert_eq!(self.open, self.server.is_open(), "{:?}", self.server.state());
        if self.open {
            assert_eq!(self.client.due(), self.server.in_flight());
        }
    }
}

/// A stream of responses, whole and in pieces, against a slow reference. The first byte chooses the size of the pieces.
pub(crate) fn scanner(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let (passed, records, summaries) = relay(stream, usize::from(*step).max(1));
    let expected = partition(stream);
    assert_eq!(records, expected.records);
    assert_eq!(summaries, expected.summaries);
    assert_eq!(passed, expected.passed);
}

/// Relays a stream that comes in pieces as a proxy does: what passed, how many records, and the summaries' bytes.
fn relay(stream: &[u8], step: usize) -> (Vec<u8>, u64, Vec<Vec<u8>>) {
    let (mut scanner, mut messages) = (Scanner::default(), MessageScanner::default());
    let (mut passed, mut records, mut summaries) = (Vec::new(), 0, Vec::new());
    let mut buffer: Vec<u8> = Vec::new();
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            let found = scanner.scan(&buffer);
            passed.extend(buffer.drain(..found.pass));
            records += found.records;
            if !found.summary {
                break;
            }
            assert!(scanner.at_boundary());
            match messages.scan(&buffer) {
                Found::Message(extent) => {
                    let (taken, whole) = Passage::default().take(&buffer);
                    assert_eq!((taken, whole), (extent.wire, true), "a passage is as long as its message");
                    summaries.push(buffer.drain(..extent.wire).collect());
                }
                Found::Noop => panic!("a NOOP is no summary"),
                Found::Partial => break,
            }
        }
    }
    (passed, records, summaries)
}

/// What a stream consists of.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// NOOPs and records, as far as they can be told apart from a summary and their chunk headers are whole.
    pub(crate) passed: Vec<u8>,
    /// Records that end.
    pub(crate) records: u64,
    /// Other messages that end.
    pub(crate) summaries: Vec<Vec<u8>>,
}

/// The slow reference: labels byte by byte and keeps everything in memory.
pub(crate) fn partition(stream: &[u8]) -> Partition {
    let mut parts = Partition::default();
    let mut rest = stream;
    while !rest.is_empty() {
        let (wire, payload, whole) = one(rest);
        match (payload.get(1), whole) {
            _ if whole && payload.is_empty() => parts.passed.extend_from_slice(wire),
            (Some(0x71), _) => {
                parts.passed.extend_from_slice(wire);
                parts.records += u64::from(whole);
            }
            (_, true) => parts.summaries.push(wire.to_vec()),
            (_, false) => break,
        }
        rest = &rest[wire.len()..];
        if !whole {
            break;
        }
    }
    parts
}

/// The message at the start of `stream`: its bytes (without half a chunk header), its payload, and whether it is whole.
fn one(stream: &[u8]) -> (&[u8], Vec<u8>, bool) {
    let (mut at, mut payload) = (0, Vec::new());
    loop {
        if at + 2 > stream.len() {
            return (&stream[..at], payload, false);
        }
        let length = usize::from(stream[at]) << 8 | usize::from(stream[at + 1]);
        at += 2;
        if length == 0 {
            return (&stream[..at], payload, true);
        }
        for _ in 0..length {
            if at == stream.len() {
                return (stream, payload, false);
            }
            payload.push(stream[at]);
            at += 1;
        }
    }
}
