//! A simulated world: drivers, a proxy made of the two machines, a pool of connections, and a model of Neo4j, over wires that
//! deliver a few bytes at a time in any order. A seed decides everything; `SEED=7 cargo test --test simulation` replays one.
//!
//! Each driver has a twin: the same model, asked directly and without races. What comes through the proxy must be what the
//! twin says, byte for byte, but for requests that a RESET overtook: those get one answer each, whatever it is.

use std::collections::VecDeque;

use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::client::{Client, Place};
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::{Value, Walker, encode};
use bolt_wire::scan::Scanner;
use bolt_wire::server::{Server, State, Verdict};
use bolt_wire::{Tag, Version};
use bytes::BytesMut;

const SEEDS: u64 = 256;
const STEPS: usize = 400_000;

#[test]
fn every_seed_ends_as_neo4j_alone_would() {
    if let Ok(seed) = std::env::var("SEED") {
        let totals = World::new(seed.parse().expect("SEED is a number")).run();
        println!("{totals:?}");
        return;
    }
    let mut all = Totals::default();
    for seed in 0..SEEDS {
        // Shown if the seed fails.
        println!("SEED={seed}");
        all.add(&World::new(seed).run());
    }
    println!("{all:?}");
    // A world in which nothing happens proves nothing.
    assert!(all.answers > 10_000 && all.records > 10_000 && all.resets > 500, "{all:?}");
    assert!(all.failures > 500 && all.ignored > 500 && all.overtaken > 200, "{all:?}");
    assert!(all.refused > 50 && all.vanished > 20 && all.cut > 20 && all.cleaned > 100, "{all:?}");
}

#[derive(Debug, Default)]
struct Totals {
    answers: u64,
    records: u64,
    resets: u64,
    failures: u64,
    ignored: u64,
    overtaken: u64,
    refused: u64,
    vanished: u64,
    cut: u64,
    cleaned: u64,
    leases: u64,
}

impl Totals {
    fn add(&mut self, more: &Self) {
        self.answers += more.answers;
        self.records += more.records;
        self.resets += more.resets;
        self.failures += more.failures;
        self.ignored += more.ignored;
        self.overtaken += more.overtaken;
        self.refused += more.refused;
        self.vanished += more.vanished;
        self.cut += more.cut;
        self.cleaned += more.cleaned;
        self.leases += more.leases;
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Wire {
    bytes: VecDeque<u8>,
    closed: bool,
    seen: bool,
}

impl Wire {
    fn put(&mut self, bytes: &[u8]) {
        if !self.closed {
            self.bytes.extend(bytes);
        }
    }

    fn moves(&self) -> bool {
        !self.bytes.is_empty() || self.closed && !self.seen
    }

    /// Some bytes, or `None` once at the end of the stream.
    fn take(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        if self.bytes.is_empty() {
            self.seen = true;
            return None;
        }
        let most = self.bytes.len();
        let size = match random.below(4) {
            0 => 1,
            1 => 1 + random.below(8),
            2 => 1 + random.below(200),
            _ => most,
        };
        Some(self.bytes.drain(..size.min(most)).collect())
    }
}

/// A payload in chunks of odd sizes, with a NOOP before it now and then.
fn frame(payload: &[u8], random: &mut Random) -> Vec<u8> {
    let mut wire = Vec::new();
    if random.one_in(12) {
        wire.extend(chunk::NOOP);
    }
    let odd = random.one_in(5);
    let mut rest = payload;
    while !rest.is_empty() {
        let size = if odd { 1 + random.below(7) } else { chunk::MAX_CHUNK }.min(rest.len());
        wire.extend(u16::try_from(size).unwrap().to_be_bytes());
        wire.extend(&rest[..size]);
        rest = &rest[size..];
    }
    wire.extend(chunk::NOOP);
    wire
}

/// The messages of a stream that comes in pieces.
#[derive(Debug, Default)]
struct Reader {
    buffer: Vec<u8>,
    scanner: MessageScanner,
}

impl Reader {
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.buffer.extend_from_slice(bytes);
        let mut found = Vec::new();
        loop {
            match self.scanner.scan(&self.buffer) {
                Found::Noop => drop(self.buffer.drain(..2)),
                Found::Message(extent) => {
                    let mut scratch = BytesMut::new();
                    found.push(chunk::payload(&self.buffer, extent, &mut scratch).to_vec());
                    self.buffer.drain(..extent.wire);
                }
                Found::Partial => return found,
            }
        }
    }
}

fn message(tag: Tag, fields: &[Value]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::struct_header(tag.0, u8::try_from(fields.len()).unwrap(), &mut out);
    fields.iter().for_each(|field| field.encode(&mut out));
    out.to_vec()
}

fn tag_of(payload: &[u8]) -> Tag {
    Tag(payload[1])
}

fn success(entries: &[(&str, Value)]) -> Vec<u8> {
    message(Tag::SUCCESS, &[Value::map(entries.iter().cloned())])
}

fn failure(code: &str) -> Vec<u8> {
    message(Tag::FAILURE, &[Value::map([("code", code.into()), ("message", "as asked".into())])])
}

const ILLEGAL: &str = "Neo.ClientError.Request.Invalid";

/// How servers differ.
#[derive(Clone, Copy, Debug)]
struct Habits {
    version: Version,
    /// 5.26: a malformed request changes no state. 2026.08: it fails.
    malformed_is_forgotten: bool,
    /// A BEGIN that a RESET overtakes costs the connection.
    overtaken_begin_is_fatal: bool,
}

/// A result under way.
#[derive(Clone, Debug)]
struct Rows {
    run: String,
    at: i64,
    end: i64,
    fails_at: i64,
}

#[derive(Clone, Debug)]
enum Mode {
    Negotiation,
    Authentication,
    Ready,
    AutoCommit(Rows),
    Transaction { results: Vec<Option<Rows>> },
    Failed,
    Closed,
}

/// What a PULL or DISCARD still has to do.
#[derive(Clone, Debug)]
struct Stream {
    left: i64,
    keep: bool,
    result: usize,
}

/// Neo4j, as far as a connection can tell.
#[derive(Debug)]
struct Neo4j {
    habits: Habits,
    mode: Mode,
    queue: VecDeque<Vec<u8>>,
    stream: Option<Stream>,
    out: Vec<Vec<u8>>,
    /// Why it closed the connection.
    closed_over: Option<String>,
    logins: usize,
}

impl Neo4j {
    fn new(habits: Habits) -> Self {
        Self {
            habits,
            mode: Mode::Negotiation,
            queue: VecDeque::new(),
            stream: None,
            out: Vec::new(),
            closed_over: None,
            logins: 0,
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.mode, Mode::Closed)
    }

    fn is_clean(&self) -> bool {
        matches!(self.mode, Mode::Ready) && self.queue.is_empty() && self.stream.is_none()
    }

    fn moves(&self) -> bool {
        !self.is_closed() && (self.stream.is_some() || !self.queue.is_empty())
    }

    fn overtaken(&self) -> bool {
        self.queue.iter().any(|payload| tag_of(payload) == Tag::RESET)
    }

    /// Works a little: one record, or one message.
    fn step(&mut self, random: &mut Random) {
        if self.stream.is_some() {
            if self.overtaken() {
                self.stream = None;
                let terminated = failure("Neo.ClientError.Transaction.Terminated");
                self.out.push(if random.one_in(2) { terminated } else { message(Tag::IGNORED, &[]) });
                self.mode = Mode::Failed;
            } else {
                self.stream_on();
            }
            return;
        }
        let payload = self.queue.pop_front().expect("something to do");
        let tag = tag_of(&payload);
        if !self.overtaken() {
            return self.handle(tag, &payload);
        }
        match tag {
            Tag::BEGIN if self.habits.overtaken_begin_is_fatal => {
                self.refuse("a BEGIN that a RESET overtook")
            }
            Tag::GOODBYE => self.mode = Mode::Closed,
            Tag::LOGOFF | Tag::LOGON | Tag::HELLO => self.refuse("a login that a RESET overtook"),
            _ => self.out.push(message(Tag::IGNORED, &[])),
        }
    }

    /// Does everything at once: the twin's way.
    fn answer(&mut self, payload: &[u8]) -> Vec<Vec<u8>> {
        if !self.is_closed() {
            self.handle(tag_of(payload), payload);
            while self.stream.is_some() {
                self.stream_on();
            }
        }
        std::mem::take(&mut self.out)
    }

    fn refuse(&mut self, why: &str) {
        self.out.push(failure(ILLEGAL));
        self.closed_over = Some(format!("{why}, {:?}", self.mode));
        self.mode = Mode::Closed;
    }

    fn fail(&mut self, code: &str) {
        self.out.push(failure(code));
        self.mode = Mode::Failed;
    }

    fn done(&mut self, mode: Mode, entries: &[(&str, Value)]) {
        self.out.push(success(entries));
        self.mode = mode;
    }

    fn handle(&mut self, tag: Tag, payload: &[u8]) {
        let features = self.habits.version.features();
        let exists = match tag {
            Tag::LOGON | Tag::LOGOFF => features.reauth,
            Tag::TELEMETRY => features.telemetry,
            _ => tag.is_request(),
        };
        if !exists || tag == Tag::GOODBYE {
            self.mode = Mode::Closed;
            return;
        }
        match (self.mode.clone(), tag) {
            (Mode::Negotiation, Tag::HELLO) if features.reauth => self.done(Mode::Authentication, &[]),
            (Mode::Negotiation, Tag::HELLO) => self.done(Mode::Ready, &[]),
            (Mode::Authentication, Tag::LOGON) => {
                self.logins += 1;
                self.done(Mode::Ready, &[]);
            }
            (Mode::Negotiation | Mode::Authentication, _) => self.refuse("before login"),
            (_, Tag::RESET) => self.done(Mode::Ready, &[]),
            (
                Mode::Failed,
                Tag::RUN
                | Tag::PULL
                | Tag::DISCARD
                | Tag::COMMIT
                | Tag::ROLLBACK
                | Tag::ROUTE
                | Tag::TELEMETRY,
            ) => self.out.push(message(Tag::IGNORED, &[])),
            (Mode::Ready, Tag::BEGIN) if text_of(payload).starts_with("fail") => {
                self.fail("Neo.ClientError.Database.DatabaseNotFound");
            }
            (Mode::Ready, Tag::BEGIN) => self.done(Mode::Transaction { results: Vec::new() }, &[]),
            (Mode::Ready, Tag::ROUTE | Tag::TELEMETRY) => self.done(Mode::Ready, &[]),
            (Mode::Ready, Tag::LOGOFF) => self.done(Mode::Authentication, &[]),
            (Mode::Ready | Mode::Transaction { .. }, Tag::RUN) => self.run(&text_of(payload)),
            (Mode::AutoCommit(_), Tag::PULL | Tag::DISCARD) => self.begin_stream(tag, payload, 0),
            (Mode::Transaction { results }, Tag::PULL | Tag::DISCARD) => {
                match results.iter().rposition(Option::is_some) {
                    Some(result) => self.begin_stream(tag, payload, result),
                    None => self.fail("Neo.ClientError.Request.InvalidFormat"),
                }
            }
            (Mode::Transaction { .. }, Tag::COMMIT | Tag::ROLLBACK) => self.done(Mode::Ready, &[]),
            _ => self.refuse(&tag.to_string()),
        }
    }

    /// `rows <name> <end> <fails_at>`, `fail …`, `malformed …`.
    fn run(&mut self, text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        if words[0] == "fail" {
            return self.fail("Neo.ClientError.Statement.SyntaxError");
        }
        if words[0] == "malformed" {
            self.out.push(failure(ILLEGAL));
            if !self.habits.malformed_is_forgotten {
                self.mode = Mode::Failed;
            }
            return;
        }
        let [_, run, end, fails_at] = words[..] else { panic!("{text}") };
        let rows = Rows {
            run: run.to_owned(),
            at: 0,
            end: end.parse().unwrap(),
            fails_at: fails_at.parse().unwrap(),
        };
        match &mut self.mode {
            Mode::Transaction { results } => {
                let qid = i64::try_from(results.len()).unwrap();
                results.push(Some(rows));
                self.out.push(success(&[("run", run.into()), ("qid", qid.into())]));
            }
            _ => self.done(Mode::AutoCommit(rows), &[("run", run.into())]),
        }
    }

    fn begin_stream(&mut self, tag: Tag, payload: &[u8], result: usize) {
        let n = match Value::decode(payload) {
            Ok(Value::Struct(_, fields)) => fields[0].get("n").and_then(Value::as_integer).unwrap_or(-1),
            other => panic!("{other:?}"),
        };
        let left = if n < 0 { i64::MAX } else { n };
        self.stream = Some(Stream { left, keep: tag == Tag::PULL, result });
    }

    fn stream_on(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let transaction = matches!(self.mode, Mode::Transaction { .. });
        let rows = match &mut self.mode {
            Mode::AutoCommit(rows) => rows,
            Mode::Transaction { results } => results[stream.result].as_mut().expect("an open result"),
            other => panic!("a stream in {other:?}"),
        };
        if rows.at == rows.fails_at {
            self.stream = None;
            return self.fail("Neo.ClientError.Statement.ArithmeticError");
        }
        if rows.at == rows.end {
            self.stream = None;
            let run = rows.run.clone();
            return match &mut self.mode {
                Mode::Transaction { results } if transaction => {
                    let result = results.iter().rposition(Option::is_some).expect("an open result");
                    results[result] = None;
                    self.out.push(success(&[("type", "r".into()), ("of", run.into())]));
                }
                _ => self
                    .done(Mode::Ready, &[("type", "r".into()), ("of", run.into()), ("bookmark", "b".into())]),
            };
        }
        if stream.left == 0 {
            self.stream = None;
            return self.out.push(success(&[("has_more", true.into())]));
        }
        stream.left -= 1;
        rows.at += 1;
        if stream.keep {
            let size = if rows.at % 37 == 0 { 70_000 } else { 3 };
            let row = vec![rows.run.as_str().into(), rows.at.into(), Value::Bytes(vec![7; size])];
            self.out.push(message(Tag::RECORD, &[Value::List(row)]));
        }
    }
}

/// The text of a RUN; of a BEGIN, its database.
fn text_of(payload: &[u8]) -> String {
    let Ok(Value::Struct(_, fields)) = Value::decode(payload) else { panic!("a malformed request") };
    let text = if payload[1] == Tag::RUN.0 {
        fields[0].as_str()
    } else {
        fields[0].get("db").and_then(Value::as_str)
    };
    text.unwrap_or_default().to_owned()
}

/// A request whose answer the driver waits for.
#[derive(Debug)]
struct Sent {
    tag: Tag,
    /// What the twin says: records and a summary, or nothing if it closes.
    expected: VecDeque<Vec<u8>>,
    /// A RESET was sent behind it: any answer will do.
    overtaken: bool,
}

#[derive(Debug)]
struct Driver {
    name: usize,
    random: Random,
    twin: Neo4j,
    sent: VecDeque<Sent>,
    reader: Reader,
    requests_left: usize,
    /// How rarely it sends a RESET for no reason.
    calm: usize,
    runs: usize,
    /// It sent something for which Neo4j closes; nothing follows.
    broke_rules: bool,
    gone: bool,
    totals: Totals,
}

impl Driver {
    /// The next requests in one write; empty if it waits for answers first, `None` if it leaves.
    fn act(&mut self) -> Option<Vec<Vec<u8>>> {
        if self.broke_rules || self.twin.is_closed() {
            return Some(Vec::new());
        }
        if self.requests_left == 0 {
            return if self.sent.is_empty() { None } else { Some(Vec::new()) };
        }
        // Most drivers wait for the answer that failed before they reset.
        let failed = matches!(self.twin.mode, Mode::Failed) && !self.random.one_in(60);
        let waits = !self.sent.is_empty() && (failed || self.random.one_in(3));
        if waits || self.sent.len() > 12 {
            return Some(Vec::new());
        }
        self.requests_left -= 1;
        if self.random.one_in(150) {
            self.totals.vanished += 1;
            return None;
        }
        let burst = self.burst();
        Some(burst.into_iter().filter(|payload| self.send(payload)).collect())
    }

    /// Hands a request to the twin and notes what must come back. False once nothing more may be sent.
    fn send(&mut self, payload: &[u8]) -> bool {
        if self.broke_rules || self.twin.is_closed() {
            return false;
        }
        let tag = tag_of(payload);
        if tag == Tag::RESET {
            self.totals.resets += 1;
            let fatal = self.twin.habits.overtaken_begin_is_fatal;
            if fatal && self.sent.iter().any(|sent| sent.tag == Tag::BEGIN) {
                // Direct, too, this may cost the connection: a driver that knows waits.
                return false;
            }
            for sent in &mut self.sent {
                self.totals.overtaken += u64::from(!sent.overtaken);
                sent.overtaken = true;
            }
        }
        let expected: VecDeque<_> = self.twin.answer(payload).into();
        if self.twin.is_closed() && expected.is_empty() {
            // GOODBYE and unknown signatures work at once: what was sent before them may stay without an answer.
            self.sent.iter_mut().for_each(|sent| sent.overtaken = true);
        }
        self.broke_rules |= self.twin.is_closed();
        self.totals.refused += u64::from(self.twin.is_closed());
        self.sent.push_back(Sent { tag, expected, overtaken: false });
        true
    }

    fn run(&mut self, kind: &str) -> Vec<u8> {
        self.runs += 1;
        let end = self.random.below(9);
        let fails_at = if self.random.one_in(9) { self.random.below(9) as i64 } else { -1 };
        let text = format!("{kind} d{}r{} {end} {fails_at}", self.name, self.runs);
        message(Tag::RUN, &[text.as_str().into(), Value::map([]), Value::map([])])
    }

    fn some_run(&mut self) -> Vec<u8> {
        let kind = if self.random.one_in(8) { "fail" } else { "rows" };
        self.run(kind)
    }

    fn pull(&mut self) -> Vec<u8> {
        let n = if self.random.one_in(3) { 1 + self.random.below(4) as i64 } else { -1 };
        let tag = if self.random.one_in(5) { Tag::DISCARD } else { Tag::PULL };
        message(tag, &[Value::map([("n", n.into())])])
    }

    fn begin(&mut self) -> Vec<u8> {
        let db = if self.random.one_in(12) { "fail" } else { "neo4j" };
        message(Tag::BEGIN, &[Value::map([("db", db.into())])])
    }

    /// Requests that are legal after those sent, or, now and then, one that is not.
    fn burst(&mut self) -> Vec<Vec<u8>> {
        let reset = message(Tag::RESET, &[]);
        let logged_in = !matches!(self.twin.mode, Mode::Negotiation | Mode::Authentication);
        if self.random.one_in(self.calm) && logged_in {
            return (0..=self.random.below(3)).map(|_| reset.clone()).collect();
        }
        if self.random.one_in(120) {
            let tags = [
                Tag::COMMIT,
                Tag::BEGIN,
                Tag::LOGON,
                Tag::LOGOFF,
                Tag::HELLO,
                Tag::ROUTE,
                Tag::GOODBYE,
                Tag(0x33),
            ];
            let tag = *self.random.choose(&tags);
            return vec![message(tag, &[Value::map([])])];
        }
        match self.twin.mode {
            Mode::Negotiation => vec![message(Tag::HELLO, &[Value::map([])])],
            Mode::Authentication => vec![message(Tag::LOGON, &[Value::map([])])],
            Mode::Ready => self.ready(),
            Mode::AutoCommit(_) => vec![self.pull()],
            Mode::Transaction { .. } => self.transaction(),
            Mode::Failed if self.random.one_in(3) => vec![self.some_run(), self.pull()],
            Mode::Failed => vec![reset],
            Mode::Closed => Vec::new(),
        }
    }

    fn ready(&mut self) -> Vec<Vec<u8>> {
        let commit = message(Tag::COMMIT, &[]);
        match self.random.below(10) {
            0..3 => vec![self.some_run(), self.pull()],
            3 => vec![self.some_run()],
            4 => vec![self.begin()],
            5 => vec![self.begin(), self.some_run(), self.pull(), commit],
            6 => vec![message(Tag::ROUTE, &[Value::map([]), Value::List(vec![]), Value::map([])])],
            7 if self.twin.habits.version.features().telemetry => {
                vec![message(Tag::TELEMETRY, &[Value::Integer(0)])]
            }
            8 if self.twin.habits.version.features().reauth => {
                vec![message(Tag::LOGOFF, &[]), message(Tag::LOGON, &[Value::map([])])]
            }
            // A driver resets after a failure: then the servers' habits with malformed requests make no difference.
            9 if self.sent.is_empty() => vec![self.run("malformed"), message(Tag::RESET, &[])],
            _ => vec![self.some_run(), self.pull()],
        }
    }

    fn transaction(&mut self) -> Vec<Vec<u8>> {
        match self.random.below(6) {
            0 => vec![message(Tag::COMMIT, &[])],
            1 => vec![message(Tag::ROLLBACK, &[])],
            2 => vec![self.some_run()],
            3 => vec![self.pull()],
            4 => vec![self.some_run(), self.pull(), message(Tag::COMMIT, &[])],
            _ => vec![self.some_run(), self.pull()],
        }
    }

    /// One message of the server's, through the proxy.
    fn came(&mut self, payload: &[u8], seed: u64) {
        let tag = tag_of(payload);
        let sent = self.sent.front_mut().unwrap_or_else(|| panic!("SEED={seed}: nobody asked for {tag}"));
        let what = format!("SEED={seed}: driver {}, {}", self.name, sent.tag);
        if tag == Tag::RECORD {
            self.totals.records += 1;
            if !sent.overtaken {
                assert_eq!(Some(payload), sent.expected.pop_front().as_deref(), "{what}");
            }
            return;
        }
        self.totals.answers += 1;
        self.totals.failures += u64::from(tag == Tag::FAILURE);
        self.totals.ignored += u64::from(tag == Tag::IGNORED);
        if !sent.overtaken {
            let expected = sent.expected.pop_front().unwrap_or_else(|| panic!("{what}: {tag}, not silence"));
            assert_eq!(show(payload), show(&expected), "{what}");
            assert!(sent.expected.is_empty(), "{what}: more was due");
        } else if sent.tag == Tag::RESET {
            assert!(matches!(tag, Tag::SUCCESS | Tag::IGNORED), "{what}: {tag}");
        }
        self.sent.pop_front();
    }
}

fn show(payload: &[u8]) -> String {
    format!("{:?}", Value::decode(payload))
}

/// What a lease is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    Idle,
    Leased(usize),
    Cleaning,
    Gone,
}

/// A connection to Neo4j, both its ends.
#[derive(Debug)]
struct Connection {
    upwards: Wire,
    downwards: Wire,
    neo4j: Neo4j,
    arrived: Reader,
    machine: Client,
    scanner: Scanner,
    summaries: MessageScanner,
    buffer: Vec<u8>,
    used: Use,
}

impl Connection {
    fn new(habits: Habits) -> Self {
        let mut neo4j = Neo4j::new(habits);
        neo4j.mode = Mode::Ready;
        Self {
            upwards: Wire::default(),
            downwards: Wire::default(),
            neo4j,
            arrived: Reader::default(),
            machine: Client::default(),
            scanner: Scanner::default(),
            summaries: MessageScanner::default(),
            buffer: Vec::new(),
            used: Use::Idle,
        }
    }
}

/// The proxy's side of one driver.
#[derive(Debug)]
struct Session {
    upwards: Wire,
    downwards: Wire,
    machine: Server,
    reader: Reader,
    pending: VecDeque<Vec<u8>>,
    lease: Option<usize>,
    /// For each RESET that was sent on: how many waiting requests it made void.
    voided: VecDeque<usize>,
    leaving: bool,
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Act(usize),
    DriverToSession(usize),
    SessionToDriver(usize),
    Lease(usize),
    ProxyToNeo4j(usize),
    Work(usize),
    Neo4jToProxy(usize),
}

struct World {
    seed: u64,
    random: Random,
    habits: Habits,
    drivers: Vec<Driver>,
    sessions: Vec<Session>,
    connections: Vec<Connection>,
    cuts: bool,
    totals: Totals,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let habits = Habits {
            version: *random.choose(&Version::ALL),
            malformed_is_forgotten: random.one_in(2),
            overtaken_begin_is_fatal: random.one_in(2),
        };
        let calm = *random.choose(&[6, 25, 100, 1000]);
        let drivers: Vec<Driver> = (0..1 + random.below(3))
            .map(|name| Driver {
                name,
                random: Random(random.next()),
                twin: Neo4j::new(habits),
                sent: VecDeque::new(),
                reader: Reader::default(),
                requests_left: 80,
                calm,
                runs: 0,
                broke_rules: false,
                gone: false,
                totals: Totals::default(),
            })
            .collect();
        let sessions = drivers
            .iter()
            .map(|_| Session {
                upwards: Wire::default(),
                downwards: Wire::default(),
                machine: Server::new(habits.version),
                reader: Reader::default(),
                pending: VecDeque::new(),
                lease: None,
                voided: VecDeque::new(),
                leaving: false,
            })
            .collect();
        let connections = (0..1 + random.below(2)).map(|_| Connection::new(habits)).collect();
        let cuts = random.one_in(4);
        Self { seed, random, habits, drivers, sessions, connections, cuts, totals: Totals::default() }
    }

    fn run(mut self) -> Totals {
        for _ in 0..STEPS {
            let moves = self.moves();
            if moves.is_empty() {
                return self.end();
            }
            let chosen = *self.random.choose(&moves);
            self.make(chosen);
            self.check();
        }
        panic!("SEED={}: no end after {STEPS} steps", self.seed);
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (at, driver) in self.drivers.iter().enumerate() {
            let waiting = driver.sent.len() > 12
                || driver.broke_rules
                || driver.requests_left == 0 && !driver.sent.is_empty();
            if !driver.gone && !waiting {
                moves.push(Move::Act(at));
            }
            let session = &self.sessions[at];
            if session.upwards.moves() && !session.leaving {
                moves.push(Move::DriverToSession(at));
            }
            if session.downwards.moves() && !driver.gone {
                moves.push(Move::SessionToDriver(at));
            }
            if self.wants_lease(at) {
                moves.push(Move::Lease(at));
            }
        }
        for (at, connection) in self.connections.iter().enumerate() {
            if connection.upwards.moves() && !connection.neo4j.is_closed() {
                moves.push(Move::ProxyToNeo4j(at));
            }
            if connection.neo4j.moves() {
                moves.push(Move::Work(at));
            }
            if connection.downwards.moves() && connection.used != Use::Gone {
                moves.push(Move::Neo4jToProxy(at));
            }
        }
        moves
    }

    fn wants_lease(&self, at: usize) -> bool {
        let session = &self.sessions[at];
        let front = session.pending.front().map(|payload| session.machine.judge(tag_of(payload)));
        let free = self.connections.iter().any(|connection| matches!(connection.used, Use::Idle | Use::Gone));
        !session.leaving && session.lease.is_none() && free && front == Some(Verdict::Start)
    }

    fn make(&mut self, chosen: Move) {
        match chosen {
            Move::Act(at) => match self.drivers[at].act() {
                Some(burst) => {
                    for payload in burst {
                        let wire = frame(&payload, &mut self.random);
                        self.sessions[at].upwards.put(&wire);
                    }
                }
                None => {
                    self.drivers[at].gone = true;
                    self.sessions[at].upwards.closed = true;
                }
            },
            Move::DriverToSession(at) => self.session_reads(at),
            Move::SessionToDriver(at) => self.driver_reads(at),
            Move::Lease(at) => self.lease(at),
            Move::ProxyToNeo4j(at) => self.neo4j_reads(at),
            Move::Work(at) => self.neo4j_works(at),
            Move::Neo4jToProxy(at) => self.proxy_reads(at),
        }
    }

    fn driver_reads(&mut self, at: usize) {
        let seed = self.seed;
        let Some(bytes) = self.sessions[at].downwards.take(&mut self.random) else {
            self.driver_is_closed(at);
            return;
        };
        let driver = &mut self.drivers[at];
        for payload in driver.reader.take(&bytes) {
            driver.came(&payload, seed);
        }
    }

    /// The end of the stream: the twin must have closed too, unless a connection was cut or a race explains it.
    fn driver_is_closed(&mut self, at: usize) {
        let driver = &mut self.drivers[at];
        let silent = driver.sent.iter().all(|sent| sent.expected.is_empty() || sent.overtaken);
        let malformed = self.habits.malformed_is_forgotten;
        assert!(
            driver.broke_rules && silent
                || self.cuts
                || malformed && driver.sent.iter().any(|sent| sent.overtaken),
            "SEED={}: driver {at} was closed, due: {:?}",
            self.seed,
            driver.sent
        );
        driver.gone = true;
    }

    fn session_reads(&mut self, at: usize) {
        let Some(bytes) = self.sessions[at].upwards.take(&mut self.random) else {
            self.leave(at);
            return;
        };
        for payload in self.sessions[at].reader.take(&bytes) {
            if tag_of(&payload) == Tag::RESET {
                self.session_reset(at, payload);
            } else {
                self.sessions[at].pending.push_back(payload);
            }
            self.go_on(at);
        }
    }

    /// RESET goes past what waits, and makes it void.
    fn session_reset(&mut self, at: usize, payload: Vec<u8>) {
        let session = &mut self.sessions[at];
        let verdict = session.machine.judge(Tag::RESET);
        let waiting = session.pending.len();
        match verdict {
            Verdict::Interrupt => {
                session.pending.clear();
                session.voided.push_back(waiting);
                self.pass_on(at, &payload);
            }
            // Nothing was sent on: what waits, waits for a connection.
            Verdict::Reset => {
                session.pending.clear();
                for _ in 0..waiting {
                    self.put(at, &message(Tag::IGNORED, &[]));
                }
                self.sessions[at].machine.reset();
                self.put(at, &success(&[]));
            }
            _ => session.pending.push_back(payload),
        }
    }

    fn put(&mut self, at: usize, payload: &[u8]) {
        let wire = frame(payload, &mut self.random);
        self.sessions[at].downwards.put(&wire);
    }

    fn pass_on(&mut self, at: usize, payload: &[u8]) {
        let tag = tag_of(payload);
        assert!(
            !matches!(tag, Tag::HELLO | Tag::LOGON | Tag::LOGOFF | Tag::GOODBYE),
            "SEED={}: {tag} was sent on",
            self.seed
        );
        let wire = frame(payload, &mut self.random);
        let session = &mut self.sessions[at];
        let connection = &mut self.connections[session.lease.expect("an exchange has a connection")];
        session.machine.forwarded(tag);
        connection.machine.sent(tag);
        connection.upwards.put(&wire);
    }

    /// Takes what waits, as far as it can be judged.
    fn go_on(&mut self, at: usize) {
        while let Some(payload) = self.sessions[at].pending.front().cloned() {
            let session = &mut self.sessions[at];
            if session.leaving {
                return;
            }
            let tag = tag_of(&payload);
            let verdict = session.machine.judge(tag);
            match verdict {
                Verdict::Wait => return,
                Verdict::Start if session.lease.is_none() => return,
                Verdict::Start | Verdict::Continue | Verdict::Interrupt => self.pass_on(at, &payload),
                Verdict::Hello => {
                    session.machine.greeted();
                    self.put(at, &success(&[]));
                }
                Verdict::Logon => {
                    session.machine.logged_on();
                    self.put(at, &success(&[]));
                }
                Verdict::Logoff => {
                    session.machine.logged_off();
                    self.put(at, &success(&[]));
                }
                Verdict::Telemetry => self.put(at, &success(&[])),
                Verdict::Reset => {
                    session.machine.reset();
                    self.put(at, &success(&[]));
                }
                Verdict::Ignore => self.put(at, &message(Tag::IGNORED, &[])),
                Verdict::Illegal => {
                    self.put(at, &failure(ILLEGAL));
                    self.leave(at);
                    return;
                }
                Verdict::Close => {
                    self.leave(at);
                    return;
                }
            }
            self.sessions[at].pending.pop_front();
        }
    }

    /// The session ends; a connection in the middle of something is given up, which rolls back at the server.
    fn leave(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        session.leaving = true;
        session.pending.clear();
        session.machine.close();
        session.downwards.closed = true;
        if let Some(lease) = session.lease.take() {
            self.drop_connection(lease);
        }
    }

    fn drop_connection(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.machine.lost();
        connection.used = Use::Gone;
        connection.neo4j.mode = Mode::Closed;
    }

    fn lease(&mut self, at: usize) {
        let free = self
            .connections
            .iter()
            .position(|connection| matches!(connection.used, Use::Idle | Use::Gone))
            .expect("one is free");
        if self.connections[free].used == Use::Gone {
            self.connections[free] = Connection::new(self.habits);
        }
        let connection = &mut self.connections[free];
        assert!(connection.machine.is_clean(), "SEED={}: lent, but not clean", self.seed);
        assert!(connection.neo4j.is_clean(), "SEED={}: lent as clean: {:?}", self.seed, connection.neo4j);
        connection.used = Use::Leased(at);
        self.sessions[at].lease = Some(free);
        self.totals.leases += 1;
        self.go_on(at);
    }

    fn neo4j_reads(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let Some(bytes) = connection.upwards.take(&mut self.random) else { return };
        let arrived = connection.arrived.take(&bytes);
        connection.neo4j.queue.extend(arrived);
    }

    fn neo4j_works(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        if self.cuts && self.random.one_in(250) {
            self.totals.cut += 1;
            connection.neo4j.mode = Mode::Closed;
            connection.downwards.closed = true;
            return;
        }
        connection.neo4j.step(&mut self.random);
        for payload in std::mem::take(&mut connection.neo4j.out) {
            let wire = frame(&payload, &mut self.random);
            connection.downwards.put(&wire);
        }
        if !connection.neo4j.is_closed() {
            return;
        }
        connection.downwards.closed = true;
        let why = connection.neo4j.closed_over.clone();
        let Use::Leased(session) = connection.used else {
            panic!("SEED={}: Neo4j closed a connection that was being cleaned: {why:?}", self.seed)
        };
        // A driver that is gone or has sent a malformed request may find requests sent on in vain.
        let driver = &self.drivers[session];
        assert!(
            driver.broke_rules || self.habits.malformed_is_forgotten || driver.gone,
            "SEED={}: Neo4j closed over {why:?}, and driver {session} broke no rule",
            self.seed
        );
    }

    fn proxy_reads(&mut self, at: usize) {
        let Some(bytes) = self.connections[at].downwards.take(&mut self.random) else {
            return self.connection_ended(at);
        };
        self.connections[at].buffer.extend(bytes);
        loop {
            let connection = &mut self.connections[at];
            let found = connection.scanner.scan(&connection.buffer);
            let passed: Vec<u8> = connection.buffer.drain(..found.pass).collect();
            match connection.used {
                Use::Leased(session) => self.sessions[session].downwards.put(&passed),
                _ => assert!(passed.iter().all(|byte| *byte == 0), "SEED={}: records for nobody", self.seed),
            }
            if !found.summary {
                return;
            }
            let connection = &mut self.connections[at];
            let Found::Message(extent) = connection.summaries.scan(&connection.buffer) else { return };
            self.summary(at, extent);
            if self.connections[at].used == Use::Gone {
                return;
            }
        }
    }

    fn summary(&mut self, at: usize, extent: Extent) {
        let connection = &mut self.connections[at];
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&connection.buffer, extent, &mut scratch).to_vec();
        let wire: Vec<u8> = connection.buffer.drain(..extent.wire).collect();
        let summary = Summary::parse(&payload).expect("a summary");
        let expected = connection.machine.received(summary.outcome).expect("an answer was due");
        let Use::Leased(session) = connection.used else {
            assert_eq!((expected.own, summary.outcome), (true, Outcome::DONE), "SEED={}", self.seed);
            assert!(connection.machine.is_clean());
            connection.used = Use::Idle;
            self.totals.cleaned += 1;
            return;
        };
        if expected.tag == Tag::RESET {
            let voided = self.sessions[session].voided.pop_front().expect("a RESET was sent on");
            for _ in 0..voided {
                self.put(session, &message(Tag::IGNORED, &[]));
            }
        }
        self.sessions[session].downwards.put(&wire);
        let machine = &mut self.sessions[session].machine;
        let request_failed = summary.code().is_some_and(|code| code.starts_with("Neo.ClientError.Request."));
        if request_failed && machine.state() != State::Interrupted {
            machine.hold();
        }
        let answered = machine.answered(summary.outcome).expect("an answer was due");
        assert_eq!(answered.tag, expected.tag);
        if answered.over {
            self.sessions[session].lease = None;
            self.give_back(at);
        }
        self.go_on(session);
    }

    /// Back to the pool, if need be by way of a RESET.
    fn give_back(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        match connection.machine.place() {
            Place::Ready => {
                assert!(connection.machine.is_clean());
                connection.used = Use::Idle;
            }
            Place::Failed => {
                connection.machine.sent_own(Tag::RESET);
                connection.used = Use::Cleaning;
                let wire = frame(&message(Tag::RESET, &[]), &mut self.random);
                self.connections[at].upwards.put(&wire);
            }
            place => panic!("SEED={}: an exchange is over in {place:?}", self.seed),
        }
    }

    fn connection_ended(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.machine.lost();
        let used = std::mem::replace(&mut connection.used, Use::Gone);
        if let Use::Leased(session) = used {
            self.sessions[session].lease = None;
            self.leave(session);
        }
    }

    /// What must hold between any two moves.
    fn check(&self) {
        for (at, session) in self.sessions.iter().enumerate() {
            let Some(lease) = session.lease else {
                assert!(!session.machine.is_open(), "SEED={}: open without a connection", self.seed);
                continue;
            };
            let connection = &self.connections[lease];
            assert_eq!(connection.used, Use::Leased(at), "SEED={}", self.seed);
            assert_eq!(connection.machine.due(), session.machine.in_flight(), "SEED={}", self.seed);
        }
        for connection in &self.connections {
            assert!(
                self.agree(connection),
                "SEED={}: {:?}, but {:?}",
                self.seed,
                connection.machine,
                connection.neo4j
            );
            assert_eq!(connection.neo4j.logins, 0, "SEED={}: a login went to Neo4j", self.seed);
        }
    }

    /// Where nothing is under way, the machine knows what state Neo4j is in.
    fn agree(&self, connection: &Connection) -> bool {
        let silent = connection.upwards.bytes.is_empty() && !connection.downwards.moves();
        if connection.machine.due() > 0 || !silent || connection.used == Use::Gone {
            return true;
        }
        match connection.machine.place() {
            Place::Ready => connection.neo4j.is_clean(),
            Place::Streaming => matches!(connection.neo4j.mode, Mode::AutoCommit(_)),
            Place::Transaction => matches!(connection.neo4j.mode, Mode::Transaction { .. }),
            // After a malformed request Neo4j may stand where it stood: only RESET makes that certain.
            Place::Failed => {
                matches!(connection.neo4j.mode, Mode::Failed) || self.habits.malformed_is_forgotten
            }
            Place::Defunct => true,
        }
    }

    /// Nothing moves any more: everybody must be done.
    fn end(mut self) -> Totals {
        for (at, driver) in self.drivers.iter().enumerate() {
            assert!(driver.gone, "SEED={}: driver {at} waits for ever for {:?}", self.seed, driver.sent);
            assert!(
                self.sessions[at].leaving || self.sessions[at].downwards.closed,
                "SEED={}: session {at}",
                self.seed
            );
        }
        for connection in &self.connections {
            assert!(
                matches!(connection.used, Use::Idle | Use::Gone),
                "SEED={}: a connection is left {:?}",
                self.seed,
                connection.used
            );
        }
        for driver in &self.drivers {
            self.totals.add(&driver.totals);
        }
        // The walker must have nothing against what the model wrote.
        debug_assert!(Walker::new(&success(&[])).value().is_ok());
        self.totals
    }
}
