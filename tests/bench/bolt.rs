//! The client's side of Bolt as far as a load needs it: login, requests encoded once, answers counted but not decoded.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::handshake;
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::{Value, value};
use bolt_wire::scan::Scanner;
use bolt_wire::{Tag, Version};
use bytes::{Bytes, BytesMut};

/// How long a login, or a single request outside a measurement, may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who logs in, and how.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    /// Bolt version that is asked for, and no other.
    pub(crate) version: Version,
    /// User name.
    pub(crate) user: String,
    /// Password.
    pub(crate) password: String,
}

impl Login {
    /// HELLO and, where the version has it, LOGON: one write, as today's drivers do. Gives the number of answers due.
    fn request(&self) -> (Bytes, usize) {
        let agent = concat!("sidebolt-bench/", env!("CARGO_PKG_VERSION"));
        let credentials = [
            ("scheme", "basic".into()),
            ("principal", Value::from(self.user.as_str())),
            ("credentials", Value::from(self.password.as_str())),
        ];
        let mut hello = vec![("user_agent", agent.into())];
        let features = self.version.features();
        if features.bolt_agent {
            hello.push(("bolt_agent", Value::map([("product", agent.into())])));
        }
        let mut out = BytesMut::new();
        if features.auth_in_hello {
            hello.extend(credentials);
            value::put_message(Tag::HELLO.0, &[Value::map(hello)], &mut out);
            return (out.freeze(), 1);
        }
        value::put_message(Tag::HELLO.0, &[Value::map(hello)], &mut out);
        value::put_message(Tag::LOGON.0, &[Value::map(credentials)], &mut out);
        (out.freeze(), 2)
    }
}

/// A request as it goes over the wire, and what its answer must be.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The messages.
    pub(crate) wire: Bytes,
    /// Summaries that answer them.
    pub(crate) summaries: usize,
    /// Records that must come before the last summary, where that is known.
    pub(crate) records: Option<u64>,
    /// Places in `wire` that are filled in for each sending.
    pub(crate) gaps: Arc<[Gap]>,
    /// What is sent once this is answered, as part of the same request.
    pub(crate) then: Option<Arc<Self>>,
}

/// A value that is written into a gap.
pub(crate) type Key = i64;

/// Eight bytes of a request's wire that hold a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Gap {
    at: usize,
    row: u64,
    key: usize,
}

/// Stands for a row's first or second key until it is filled in: an integer that PackStream writes in eight bytes.
pub(crate) fn gap(row: u64, key: usize) -> Value {
    Value::Integer(MARK | ((row as i64) << 1) | key as i64)
}

/// No integer of a benchmark's own is near it.
const MARK: i64 = 0x5E11_7A9C_0000_0000;

/// Finds the gaps in a message.
fn gaps(wire: &[u8]) -> Arc<[Gap]> {
    let of = |(at, bytes): (usize, &[u8])| {
        let number = i64::from_be_bytes(bytes.get(1..)?.try_into().ok()?);
        let low = number ^ MARK;
        let inside = bytes.first() == Some(&0xCB) && (0..1 << 32).contains(&low);
        inside.then_some(Gap { at: at + 1, row: low.unsigned_abs() >> 1, key: usize::from(low & 1 == 1) })
    };
    wire.windows(9).enumerate().filter_map(of).collect()
}

impl Request {
    /// Messages, and how many summaries answer them.
    pub(crate) fn of(wire: BytesMut, summaries: usize) -> Self {
        Self { gaps: gaps(&wire), wire: wire.freeze(), summaries, records: None, then: None }
    }

    /// Rows that it writes.
    pub(crate) fn rows(&self) -> u64 {
        let own = self.gaps.iter().map(|gap| gap.row + 1).max().unwrap_or(1);
        self.then.as_ref().map_or(own, |then| own.max(then.rows()))
    }

    /// Puts the wire into `out`, its gaps filled with each row's keys.
    pub(crate) fn fill(&self, out: &mut Vec<u8>, keys: impl Fn(u64) -> [Key; 2]) {
        out.clear();
        out.extend_from_slice(&self.wire);
        for gap in self.gaps.iter() {
            out[gap.at..gap.at + 8].copy_from_slice(&keys(gap.row)[gap.key].to_be_bytes());
        }
    }

    /// RUN and PULL of everything, as drivers send an auto-commit query.
    pub(crate) fn query(text: &str, parameters: Value, records: Option<u64>) -> Self {
        let extra = Value::map([("db", "neo4j".into())]);
        let mut out = BytesMut::new();
        value::put_message(Tag::RUN.0, &[text.into(), parameters, extra], &mut out);
        value::put_message(Tag::PULL.0, &[Value::map([("n", Value::Integer(-1))])], &mut out);
        Self { records, ..Self::of(out, 2) }
    }

    /// A query without parameters that gives one record.
    pub(crate) fn one_record(text: &str) -> Self {
        Self::query(text, Value::map([]), Some(1))
    }

    /// A transaction with a first query, left open.
    pub(crate) fn begin() -> Self {
        let mut out = BytesMut::new();
        value::put_message(Tag::BEGIN.0, &[Value::map([("db", "neo4j".into())])], &mut out);
        out.extend_from_slice(&Self::one_record("RETURN 1").wire);
        Self { records: Some(1), ..Self::of(out, 3) }
    }

    /// RESET, which makes a session usable after a failure.
    pub(crate) fn reset() -> Self {
        Self::of(bare(Tag::RESET), 1)
    }
}

/// A message without fields.
pub(crate) fn bare(tag: Tag) -> BytesMut {
    let mut out = BytesMut::new();
    value::put_message(tag.0, &[], &mut out);
    out
}

/// Counts what comes back for one request, in whatever pieces it comes.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    scanner: Scanner,
    summary: MessageScanner,
    /// Records seen.
    pub(crate) records: u64,
    /// Bytes seen.
    pub(crate) bytes: u64,
    /// Summaries seen.
    summaries: usize,
    /// Code and message of the first FAILURE.
    pub(crate) failure: Option<String>,
}

impl Answer {
    /// Takes whole messages and parts of records off the front of `buf`; gives the number of bytes taken.
    fn feed(&mut self, buf: &[u8]) -> Result<usize> {
        let mut taken = 0;
        loop {
            let scan = self.scanner.scan(&buf[taken..]);
            taken += scan.pass;
            self.records += scan.records;
            if !scan.summary {
                break;
            }
            let Found::Message(extent) = self.summary.scan(&buf[taken..]) else { break };
            self.note_summary(chunk::payload(&buf[taken..], extent, &mut BytesMut::new()))?;
            taken += extent.wire;
        }
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn note_summary(&mut self, payload: &[u8]) -> Result<()> {
        self.summaries += 1;
        // SUCCESS needs no further look: nothing in it is used.
        if payload.get(1) == Some(&Tag::SUCCESS.0) {
            return Ok(());
        }
        let summary = Summary::parse(payload).context("the server's answer is no Bolt summary")?;
        if summary.outcome == Outcome::Failure && self.failure.is_none() {
            let (code, message) =
                (summary.code().unwrap_or("no code"), summary.message().unwrap_or_default());
            self.failure = Some(format!("{code}: {message}"));
        }
        Ok(())
    }

    /// What is wrong with a finished answer.
    pub(crate) fn verdict(self, request: &Request) -> Result<Self, String> {
        match (&self.failure, request.records) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(expected)) if expected != self.records => {
                Err(format!("{} records came instead of {expected}", self.records))
            }
            _ => Ok(self),
        }
    }
}

/// Bytes that arrived and are not yet taken.
#[derive(Debug)]
pub(crate) struct Inbox {
    buf: Vec<u8>,
    filled: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::with_capacity(16 * 1024)
    }
}

impl Inbox {
    /// An inbox that reads at most `size` bytes at once.
    pub(crate) fn with_capacity(size: usize) -> Self {
        Self { buf: vec![0; size], filled: 0 }
    }

    /// Room for the next read; grows when a summary does not fit.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.filled == self.buf.len() {
            self.buf.resize(self.buf.len() * 2, 0);
        }
        &mut self.buf[self.filled..]
    }

    /// Notes that `read` bytes were put into the room and gives them to the answer; true when it is complete.
    pub(crate) fn arrived(&mut self, read: usize, answer: &mut Answer, request: &Request) -> Result<bool> {
        self.filled += read;
        let taken = answer.feed(&self.buf[..self.filled])?;
        self.buf.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        ensure!(answer.summaries <= request.summaries, "the server answered more than was asked");
        Ok(answer.summaries == request.summaries)
    }
}

/// A logged-in connection, used by blocking calls here and handed to the load engine for the rest.
#[derive(Debug)]
pub(crate) struct Session {
    /// The socket.
    pub(crate) stream: TcpStream,
    /// What the server calls itself in HELLO's answer.
    pub(crate) server: String,
    /// The server asks for telemetry.
    pub(crate) telemetry: bool,
}

impl Session {
    /// Connects and logs in. `source` = local address to connect from.
    pub(crate) fn open(target: SocketAddr, source: Option<IpAddr>, login: &Login) -> Result<Self> {
        let stream = connect(target, source)?;
        Self::log_in(stream, login).with_context(|| format!("login at {target}"))
    }

    fn log_in(mut stream: TcpStream, login: &Login) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&handshake::request_exactly(login.version))?;
        let mut chosen = [0; 4];
        stream.read_exact(&mut chosen).context("the server closed the connection during the handshake")?;
        if chosen != handshake::version_bytes(login.version) {
            bail!("the server does not speak Bolt {}; choose another with --bolt", login.version);
        }
        let (wire, answers) = login.request();
        stream.write_all(&wire)?;
        let (mut server, mut telemetry) = (String::new(), false);
        let mut seen = BytesMut::new();
        for _ in 0..answers {
            let payload = read_message(&mut stream, &mut seen)?;
            let summary = Summary::parse(&payload).context("the server's answer is no Bolt summary")?;
            if summary.outcome != Outcome::DONE {
                bail!("{}", summary.message().unwrap_or("the server refused without a message"));
            }
            if let Some(name) = summary.meta.string("server") {
                name.clone_into(&mut server);
            }
            let hints = summary.meta.map("hints");
            telemetry |= hints.and_then(|hints| hints.boolean("telemetry.enabled")) == Some(true);
        }
        Ok(Self { stream, server, telemetry })
    }

    /// One request, waiting for its whole answer. A FAILURE is an error; the connection is reset and usable after it.
    pub(crate) fn ask(&mut self, request: &Request, inbox: &mut Inbox) -> Result<Answer> {
        self.send(request)?;
        self.read_answer(request, inbox)
    }

    /// The first half of `ask`.
    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        Ok(self.stream.write_all(&request.wire)?)
    }

    /// The second half of `ask`.
    pub(crate) fn read_answer(&mut self, request: &Request, inbox: &mut Inbox) -> Result<Answer> {
        let answer = self.collect(request, inbox)?;
        if answer.failure.is_some() {
            let reset = Request::reset();
            self.stream.write_all(&reset.wire)?;
            self.collect(&reset, inbox)?;
        }
        answer.verdict(request).map_err(anyhow::Error::msg)
    }

    fn collect(&mut self, request: &Request, inbox: &mut Inbox) -> Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let read = read_some(&mut self.stream, inbox.room())?;
            if inbox.arrived(read, &mut answer, request)? {
                return Ok(answer);
            }
        }
    }

    /// Says GOODBYE and closes.
    pub(crate) fn close(mut self) {
        // The server closes on GOODBYE; if it is gone already there is nothing to say.
        let _ = self.stream.write_all(&bare(Tag::GOODBYE));
    }
}

fn connect(target: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect_timeout(&target, PATIENCE)
            .with_context(|| format!("cannot connect to {target}"));
    };
    let socket = socket2::Socket::new(socket2::Domain::for_address(target), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into()).with_context(|| format!("cannot bind {source}"))?;
    socket.connect(&target.into()).with_context(|| format!("cannot connect from {source} to {target}"))?;
    Ok(socket.into())
}

/// Reads until a whole message is there; what came behind it stays in `seen`.
fn read_message(stream: &mut TcpStream, seen: &mut BytesMut) -> Result<Bytes> {
    let mut scanner = MessageScanner::default();
    loop {
        match scanner.scan(seen) {
            Found::Message(extent) => {
                let wire = seen.split_to(extent.wire);
                return Ok(Bytes::copy_from_slice(chunk::payload(&wire, extent, &mut BytesMut::new())));
            }
            Found::Noop => drop(seen.split_to(2)),
            Found::Partial => {
                let mut piece = [0; 4096];
                let read = read_some(stream, &mut piece)?;
                seen.extend_from_slice(&piece[..read]);
            }
        }
    }
}

fn read_some(stream: &mut TcpStream, room: &mut [u8]) -> Result<usize> {
    match stream.read(room) {
        Ok(0) => bail!("the server closed the connection"),
        Ok(read) => Ok(read),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("no answer within {} s", PATIENCE.as_secs())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to_two_records() -> BytesMut {
        let mut wire = BytesMut::new();
        value::put_message(Tag::SUCCESS.0, &[Value::map([])], &mut wire);
        for text in ["short".to_owned(), "long".repeat(40_000)] {
            value::put_message(Tag::RECORD.0, &[Value::List(vec![text.into()])], &mut wire);
        }
        value::put_message(Tag::SUCCESS.0, &[Value::map([("type", "r".into())])], &mut wire);
        wire
    }

    #[test]
    fn an_answer_is_counted_whatever_the_pieces() {
        let wire = answer_to_two_records();
        let request = Request::query("", Value::map([]), Some(2));
        for size in [1, 7, 1000, 65_536, wire.len()] {
            let (mut inbox, mut answer, mut done) = (Inbox::with_capacity(size), Answer::default(), 0);
            let mut sent = 0;
            while sent < wire.len() {
                let room = inbox.room();
                let read = room.len().min(size).min(wire.len() - sent);
                room[..read].copy_from_slice(&wire[sent..sent + read]);
                sent += read;
                done += usize::from(inbox.arrived(read, &mut answer, &request).unwrap());
            }
            assert_eq!((done, answer.records, answer.bytes), (1, 2, wire.len() as u64), "pieces of {size}");
            assert!(answer.verdict(&request).is_ok());
        }
    }

    #[test]
    fn gaps_are_filled() {
        let rows = (0..3).map(|row| Value::map([("a", gap(row, 0)), ("b", gap(row, 1)), ("c", 7.into())]));
        let rows = Value::List(rows.collect());
        let request = Request::query("x", Value::map([("rows", rows)]), None);
        assert_eq!((request.gaps.len(), request.rows()), (6, 3));
        let mut out = Vec::new();
        request.fill(&mut out, |row| [i64::MAX - row as i64, i64::MIN + row as i64]);
        let row = |i: i64| {
            Value::map([("a", (i64::MAX - i).into()), ("b", (i64::MIN + i).into()), ("c", 7.into())])
        };
        let rows = Value::List((0..3).map(row).collect());
        assert_eq!(out, Request::query("x", Value::map([("rows", rows)]), None).wire);
        assert!(gaps(&out).is_empty());
    }

    #[test]
    fn a_failure_and_a_wrong_count_are_told() {
        let failure = [("code", "Neo.ClientError.Statement.SyntaxError".into()), ("message", "no".into())];
        let mut wire = BytesMut::new();
        value::put_message(Tag::FAILURE.0, &[Value::map(failure)], &mut wire);
        value::put_message(Tag::IGNORED.0, &[], &mut wire);
        let request = Request::one_record("x");
        let mut answer = Answer::default();
        assert_eq!(answer.feed(&wire).unwrap(), wire.len());
        assert_eq!(answer.verdict(&request).unwrap_err(), "Neo.ClientError.Statement.SyntaxError: no");
        let mut two = Answer::default();
        two.feed(&answer_to_two_records()).unwrap();
        assert_eq!(two.verdict(&request).unwrap_err(), "2 records came instead of 1");
    }
}
