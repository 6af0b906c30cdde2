//! Wire transcripts of real servers, replayed: what a driver sent goes through the machine that faces drivers, what Neo4j
//! answered through the scanner and the machine that faces Neo4j, and at every step the two must agree with Neo4j.
//!
//! `transcripts/record` holds the programs that recorded them, and says what the lines mean.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::client::{Client, Place};
use bolt_wire::handshake::{self, Choice};
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::Value;
use bolt_wire::scan::Scanner;
use bolt_wire::server::{Server, State, Verdict};
use bolt_wire::{Tag, Version};
use bytes::BytesMut;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// One line of a transcript.
#[derive(Clone, Debug)]
enum Line {
    Client(Vec<u8>),
    Server(Vec<u8>),
    End,
}

struct Scenario {
    name: String,
    lines: Vec<Line>,
    state: String,
}

/// Reads hex in which `(78x300)` is a byte repeated.
fn bytes(text: &str) -> Vec<u8> {
    let mut found = Vec::new();
    for part in text.split('(') {
        let (run, hex) = part.split_once(')').unwrap_or(("", part));
        if let Some((byte, count)) = run.split_once('x') {
            let byte = u8::from_str_radix(byte, 16).unwrap();
            found.resize(found.len() + count.parse::<usize>().unwrap(), byte);
        }
        found.extend((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()));
    }
    found
}

fn read(file: &Path) -> Vec<Scenario> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut scenarios: Vec<Scenario> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            scenarios.push(Scenario { name: name.to_owned(), lines: Vec::new(), state: String::new() });
            continue;
        }
        let login = scenarios.first().map(|first| first.lines.clone()).unwrap_or_default();
        let Some(scenario) = scenarios.last_mut() else { continue };
        match line.split_at_checked(2) {
            Some(("C ", hex)) => scenario.lines.push(Line::Client(bytes(hex))),
            Some(("S ", hex)) => scenario.lines.push(Line::Server(bytes(hex))),
            Some(("= ", state)) => scenario.state = state.to_owned(),
            _ if line == "E" => scenario.lines.push(Line::End),
            _ if line == "L" => scenario.lines = login,
            _ => assert!(line.is_empty(), "{}: {line}", file.display()),
        }
    }
    scenarios
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answerer {
    Neo4j,
    Session(Verdict),
}

/// A proxy reduced to its machines, which knows every answer in advance.
struct Replay {
    server: Server,
    client: Client,
    scanner: Scanner,
    /// Bytes of the client, cut into messages as they come.
    inbound: Vec<u8>,
    messages: MessageScanner,
    /// Requests that wait for an answer to another.
    waiting: VecDeque<Tag>,
    /// Requests whose answers are due, in order.
    due: VecDeque<(Tag, Answerer)>,
    /// Messages that the proxy would answer by closing.
    closes: bool,
    records: u64,
    what: String,
}

impl Replay {
    fn new(version: Version, what: String) -> Self {
        Self {
            server: Server::new(version),
            client: Client::default(),
            scanner: Scanner::default(),
            inbound: Vec::new(),
            messages: MessageScanner::default(),
            waiting: VecDeque::new(),
            due: VecDeque::new(),
            closes: false,
            records: 0,
            what,
        }
    }

    fn client_sent(&mut self, wire: &[u8]) {
        self.inbound.extend_from_slice(wire);
        loop {
            match self.messages.scan(&self.inbound) {
                Found::Noop => {
                    self.inbound.drain(..2);
                }
                Found::Message(extent) => {
                    let tag = chunk::peek_tag(&self.inbound).unwrap();
                    self.inbound.drain(..extent.wire);
                    self.arrived(tag);
                }
                Found::Partial => break,
            }
        }
        self.go_on();
    }

    /// RESET goes past everything that waits, which is ignored for it; the rest is taken in order.
    fn arrived(&mut self, tag: Tag) {
        self.go_on();
        if tag == Tag::RESET && !self.waiting.is_empty() && self.server.judge(tag) == Verdict::Interrupt {
            for ignored in std::mem::take(&mut self.waiting) {
                self.due.push_back((ignored, Answerer::Session(Verdict::Ignore)));
            }
        }
        self.waiting.push_back(tag);
        self.go_on();
    }

    /// Judges what waits, as far as it can be judged.
    fn go_on(&mut self) {
        while let Some(tag) = self.waiting.front().copied() {
            // The answers of the session itself come in their turn: nothing is judged while one is due.
            if self.due.iter().any(|(_, answerer)| *answerer != Answerer::Neo4j) || self.closes {
                return;
            }
            let verdict = self.server.judge(tag);
            match verdict {
                Verdict::Wait => return,
                Verdict::Start | Verdict::Continue | Verdict::Interrupt => {
                    self.server.forwarded(tag);
                    self.client.sent(tag);
                    self.due.push_back((tag, Answerer::Neo4j));
                }
                Verdict::Close => {
                    assert!(
                        self.due.is_empty() || tag == Tag::GOODBYE || tag.name().is_none(),
                        "{}",
                        self.what
                    );
                    self.closes = true;
                }
                Verdict::Hello | Verdict::Logon | Verdict::Logoff | Verdict::Telemetry => {
                    self.due.push_back((tag, Answerer::Session(verdict)));
                }
                Verdict::Reset | Verdict::Ignore | Verdict::Illegal => {
                    assert_eq!(
                        self.server.in_flight(),
                        0,
                        "{}: {tag} is answered before its turn",
                        self.what
                    );
                    self.due.push_back((tag, Answerer::Session(verdict)));
                }
            }
            self.waiting.pop_front();
        }
    }

    fn server_sent(&mut self, wire: &[u8]) {
        let found = self.scanner.scan(wire);
        self.records += found.records;
        if !found.summary {
            assert_eq!(found.pass, wire.len(), "{}: a whole record or NOOP passes", self.what);
            return;
        }
        assert_eq!(found.pass, 0, "{}", self.what);
        let Found::Message(extent) = MessageScanner::default().scan(wire) else {
            panic!("{}: no message", self.what)
        };
        assert_eq!(extent.wire, wire.len());
        let mut scratch = BytesMut::new();
        let summary = Summary::parse(chunk::payload(wire, extent, &mut scratch)).unwrap();
        self.summary(&summary);
        self.go_on();
    }

    fn summary(&mut self, summary: &Summary<'_>) {
        let what = &self.what;
        let outcome = summary.outcome;
        let Some((tag, answerer)) = self.due.pop_front() else {
            // The RESET that GOODBYE makes inside Neo4j is sometimes answered before the connection closes.
            assert!(self.closes && outcome == Outcome::DONE, "{what}: nobody asked for {outcome:?}");
            return;
        };
        if outcome == Outcome::Failure {
            let gql = self.server.version().features().gql_failure;
            assert_eq!(
                (summary.meta.has("gql_status"), summary.meta.has("neo4j_code")),
                (gql, gql),
                "{what}"
            );
        }
        let says = format!("{what}: {tag}, {answerer:?}, Neo4j says {outcome:?} {:?}", summary.message());
        match answerer {
            Answerer::Neo4j => {
                let expected = self.client.received(outcome).unwrap();
                assert_eq!(expected.tag, tag, "{says}");
                let code = summary.code().unwrap_or_default();
                if code.starts_with("Neo.ClientError.Request.") && self.server.state() != State::Interrupted {
                    self.server.hold();
                }
                let answered = self.server.answered(outcome).unwrap();
                assert_eq!(answered.tag, tag, "{says}");
                if answered.over && self.server.state() == State::Ready {
                    assert!(self.client.is_clean(), "{says}: over, but {:?}", self.client.place());
                }
                if answered.over && self.server.state() == State::Failed {
                    // What a RESET further behind has ignored looks out of place where that was not sent on yet.
                    assert!(matches!(self.client.place(), Place::Failed | Place::Defunct), "{says}");
                    // A pool cleans or drops the connection before it is lent again.
                    self.client = Client::default();
                }
            }
            Answerer::Session(verdict) => {
                match verdict {
                    // Of several RESETs in one write only the last one is sure to get SUCCESS; a proxy may give it to each.
                    Verdict::Reset if self.waiting.contains(&Tag::RESET) => {
                        assert!(matches!(outcome, Outcome::DONE | Outcome::Ignored), "{says}");
                    }
                    Verdict::Reset => assert_eq!(outcome, Outcome::DONE, "{says}"),
                    Verdict::Ignore => assert_eq!(outcome, Outcome::Ignored, "{says}"),
                    Verdict::Illegal => {
                        assert_eq!(outcome, Outcome::Failure, "{says}");
                        assert_eq!(summary.code(), Some("Neo.ClientError.Request.Invalid"), "{says}");
                        self.closes = true;
                    }
                    Verdict::Hello | Verdict::Logon if outcome == Outcome::Failure => self.closes = true,
                    // 5.26 stays READY after an unknown TELEMETRY, 2026.08 does not.
                    Verdict::Telemetry if outcome == Outcome::Failure => {
                        if !self.what.contains("5.26.30") {
                            self.server.refused();
                        }
                    }
                    _ => assert_eq!(outcome, Outcome::DONE, "{says}"),
                }
                match (verdict, outcome) {
                    (Verdict::Hello, Outcome::Success { .. }) => self.server.greeted(),
                    (Verdict::Logon, Outcome::Success { .. }) => self.server.logged_on(),
                    (Verdict::Logoff, _) => self.server.logged_off(),
                    (Verdict::Reset, _) => self.server.reset(),
                    _ => {}
                }
            }
        }
    }

    /// The end of the stream: the proxy must have wanted to close too, or Neo4j closed after refusing what was sent on.
    fn end(&mut self, failed_last: bool) {
        let neo4j_refused = failed_last && self.server.is_open();
        assert!(self.closes || neo4j_refused, "{}: Neo4j closed, {:?}", self.what, self.server.state());
        self.server.close();
        self.client.lost();
        self.due.clear();
    }
}

fn replay(file: &Path, version: Version, scenario: &Scenario) -> u64 {
    let mut replay = Replay::new(version, format!("{}, {}", file.display(), scenario.name));
    let mut failed_last = false;
    let mut ended = false;
    for line in &scenario.lines {
        match line {
            Line::Client(wire) => replay.client_sent(wire),
            Line::Server(wire) => {
                replay.server_sent(wire);
                failed_last = chunk::peek_tag(wire) == Some(Tag::FAILURE);
            }
            Line::End => {
                replay.end(failed_last);
                ended = true;
            }
        }
    }
    let what = &replay.what;
    assert_eq!(ended, scenario.state == "CLOSED", "{what}");
    assert!(ended || !replay.closes, "{what}: Neo4j keeps the connection open");
    assert!(replay.due.is_empty(), "{what}: answers are missing: {:?}", replay.due);
    let expected: &[State] = match &scenario.state[..] {
        "CLOSED" => &[State::Defunct],
        "READY" => &[State::Ready],
        "AUTO_COMMIT" => &[State::AutoCommit],
        "IN_TRANSACTION" => &[State::Transaction],
        "FAILED" => &[State::Failed],
        "AUTHENTICATION" => &[State::Authentication],
        "NEGOTIATION" => &[State::Negotiation],
        other => panic!("{what}: {other}"),
    };
    // While an exchange is held, the state is Neo4j's own affair.
    let held = replay.server.state() == State::Failed && replay.server.is_open();
    assert!(
        held || expected.contains(&replay.server.state()),
        "{what}: {:?}, not {expected:?}",
        replay.server.state()
    );
    replay.records
}

fn replay_file(server: &str, name: &str, version: Version) -> (usize, u64) {
    let file = folder().join(server).join(name);
    let scenarios = read(&file);
    let records = scenarios.iter().map(|scenario| replay(&file, version, scenario)).sum();
    (scenarios.len(), records)
}

#[test]
fn neo4j_5_26_is_followed() {
    for (minor, major) in [(4, 4), (0, 5), (4, 5), (8, 5)] {
        let (scenarios, records) =
            replay_file("5.26.30", &format!("{major}.{minor}.txt"), Version::new(major, minor));
        assert!(
            scenarios >= 80 && records >= 50,
            "{major}.{minor}: {scenarios} scenarios, {records} records"
        );
    }
}

/// The versions between are recorded only where they differ.
#[test]
fn every_other_version_is_followed_where_it_differs() {
    for minor in [1, 2, 3, 6, 7] {
        let (scenarios, records) = replay_file("5.26.30", &format!("5.{minor}.txt"), Version::new(5, minor));
        assert!(scenarios >= 11 && records >= 9, "5.{minor}: {scenarios} scenarios, {records} records");
    }
}

#[test]
fn neo4j_2026_08_is_followed() {
    for (minor, major) in [(8, 5), (0, 6), (1, 6)] {
        let (scenarios, records) =
            replay_file("2026.08.1", &format!("{major}.{minor}.txt"), Version::new(major, minor));
        assert!(
            scenarios >= 110 && records >= 50,
            "{major}.{minor}: {scenarios} scenarios, {records} records"
        );
    }
}

#[test]
fn noops_of_a_busy_server_pass() {
    for (server, version) in
        [("5.26.30", Version::V4_4), ("5.26.30", Version::V5_8), ("2026.08.1", Version::V6_1)]
    {
        let name = format!("noop-{version}.txt");
        let noops = read(&folder().join(server).join(&name))
            .iter()
            .flat_map(|scenario| &scenario.lines)
            .filter(|line| matches!(line, Line::Server(wire) if wire[..] == chunk::NOOP))
            .count();
        assert!(noops > 0, "{server}, {name} has no NOOP");
        replay_file(server, &name, version);
    }
}

/// What only Bolt 6 has is there: two vectors and a UUID as records, both as parameters that were taken.
#[test]
fn bolt_6_values_pass_as_bytes() {
    let file = folder().join("2026.08.1/6.1.txt");
    let scenarios = read(&file);
    let records = |name: &str| -> Vec<Vec<u8>> {
        let scenario = scenarios.iter().find(|scenario| scenario.name == name).unwrap();
        let server = scenario.lines.iter().filter_map(|line| match line {
            Line::Server(wire) if chunk::peek_tag(wire) == Some(Tag::RECORD) => Some(wire.clone()),
            _ => None,
        });
        server.collect()
    };
    let value = |wire: &[u8], field: usize| {
        let Value::Struct(0x71, fields) = Value::decode(&wire[2..wire.len() - 2]).unwrap() else { panic!() };
        fields[0].as_list().unwrap()[field].clone()
    };
    let both = records("UUID and vector");
    assert!(
        matches!(value(&both[0], 0), Value::Struct(0x56, fields) if fields[0] == Value::Bytes(vec![0xC6]))
    );
    assert!(
        matches!(value(&both[0], 1), Value::Struct(0x56, fields) if fields[0] == Value::Bytes(vec![0xC8]))
    );
    assert!(matches!(value(&both[1], 0), Value::Uuid(_)));
    let uuid: [u8; 16] = std::array::from_fn(|at| at as u8);
    assert_eq!(value(&records("a UUID as a parameter")[0], 0), Value::Uuid(uuid));
    assert!(matches!(value(&records("a vector as a parameter")[0], 0), Value::Struct(0x56, _)));
}

/// Every value and every piece of metadata that the servers sent is read to its end and, but for longer forms, written as it was.
#[test]
fn everything_that_the_servers_sent_decodes() {
    let mut messages = 0;
    for server in ["5.26.30", "2026.08.1"] {
        for entry in std::fs::read_dir(folder().join(server)).unwrap() {
            let file = entry.unwrap().path();
            if file.ends_with("handshake.txt") {
                continue;
            }
            for scenario in read(&file) {
                for line in &scenario.lines {
                    let Line::Server(wire) = line else { continue };
                    let Found::Message(extent) = MessageScanner::default().scan(wire) else { continue };
                    let mut scratch = BytesMut::new();
                    let payload = chunk::payload(wire, extent, &mut scratch);
                    let value =
                        Value::decode(payload).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
                    assert!(value.to_bytes().len() <= payload.len());
                    messages += 1;
                }
            }
        }
    }
    assert!(messages > 3000, "{messages}");
}

/// The versions that a server offers: what this crate speaks, and the older ones that it does not.
fn offered(server: &str) -> Vec<Version> {
    let newest = if server.starts_with('5') { Version::V5_8 } else { Version::V6_1 };
    let old = (0..4).map(|minor| Version::new(4, minor));
    old.chain(Version::ALL.into_iter().filter(|version| *version <= newest)).collect()
}

#[test]
fn handshakes_are_answered_as_the_servers_do() {
    for server in ["5.26.30", "2026.08.1"] {
        let offered = offered(server);
        let text = std::fs::read_to_string(folder().join(server).join("handshake.txt")).unwrap();
        let mut checked = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [first, second, third] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            checked += 1;
            if first == "choice" {
                let choice = handshake::read_manifest_choice(&bytes(second), &offered);
                assert_eq!(
                    matches!(choice, Ok(Some(_))),
                    third == "accepted",
                    "{server}: {line}: {choice:?}"
                );
                continue;
            }
            let slots: [u8; 16] = bytes(first).try_into().unwrap();
            let mut answer = BytesMut::new();
            let choice = handshake::choose(&slots, &offered);
            match choice {
                Choice::Classic(version) => answer.extend_from_slice(&handshake::version_bytes(version)),
                Choice::Manifest => handshake::write_manifest(&offered, &mut answer),
                Choice::Nothing => answer.extend_from_slice(&handshake::NO_VERSION),
                Choice::Malformed => {}
            }
            let expected = if second == "-" { Vec::new() } else { bytes(second) };
            assert_eq!(&answer[..], &expected[..], "{server}: {line}");
            assert_eq!(
                matches!(choice, Choice::Classic(_) | Choice::Manifest),
                third == "open",
                "{server}: {line}"
            );
            if choice == Choice::Manifest {
                let known: Vec<Version> =
                    offered.iter().copied().filter(|version| version.is_known()).collect();
                assert_eq!(handshake::read_manifest(&expected[4..]), Ok(Some((known, expected.len() - 4))));
            }
        }
        assert!(checked > 100, "{server}: {checked} handshakes");
    }
}
