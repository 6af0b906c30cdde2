//! `bench stub`: an upstream that answers from prepared bytes, so that what is measured is the proxy in front of it.

mod cutter;
mod plan;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use bolt_wire::message::{Failure, Route, request};
use bolt_wire::packstream::{Value, value};
use bolt_wire::{Tag, Version, handshake};
use bytes::{Bytes, BytesMut};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use self::cutter::Cutter;
use self::plan::Plan;

/// Options of `bench stub`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StubArgs {
    /// Port on 127.0.0.1; 0 = any free one. The port is printed.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Threads that answer.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Prints `listening stub ADDRESS` and answers until the process is ended.
pub(crate) fn run(args: &StubArgs) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", args.port))
        .with_context(|| format!("port {} cannot be used; --port 0 takes a free one", args.port))?;
    println!("listening stub {}", listener.local_addr()?);
    serve(&listener, args.threads)
}

/// Deals connections out to threads, for ever.
fn serve(listener: &TcpListener, threads: usize) -> Result<()> {
    let mut workers = Vec::new();
    for _ in 0..threads.max(1) {
        let (sender, receiver) = mpsc::channel(1024);
        workers.push(sender);
        std::thread::Builder::new().name("stub".to_owned()).spawn(move || answer_all(receiver))?;
    }
    for worker in workers.iter().cycle() {
        let (stream, _) = listener.accept()?;
        worker.blocking_send(stream).context("a stub thread has ended")?;
    }
    Ok(())
}

/// One thread: every connection it is given, on one reactor.
fn answer_all(mut incoming: mpsc::Receiver<std::net::TcpStream>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        while let Some(stream) = incoming.recv().await {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let stream = TcpStream::from_std(stream)?;
            tokio::spawn(async move {
                if let Err(error) = Conversation::begin(stream).await {
                    // Clients that vanish are part of some loads; anything else is worth a line.
                    if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
                    {
                        eprintln!("stub: {error}");
                    }
                }
            });
        }
        Ok(())
    })
}

/// One client of the stub.
#[derive(Debug)]
struct Conversation {
    stream: TcpStream,
    own: SocketAddr,
    version: Version,
    manifest: bool,
    failed: bool,
    plans: HashMap<String, Arc<Plan>>,
    /// The result that PULL takes from, and how many records are gone.
    open: Option<(Arc<Plan>, u64)>,
    out: BytesMut,
    done: Bytes,
    end_of_result: Bytes,
}

impl Conversation {
    async fn begin(mut stream: TcpStream) -> io::Result<()> {
        let Some((version, manifest)) = shake_hands(&mut stream).await? else { return Ok(()) };
        let end = [
            ("bookmark", "FB:kcwQstub".into()),
            ("type", "r".into()),
            ("t_last", 0.into()),
            ("db", "neo4j".into()),
        ];
        let own = stream.local_addr()?;
        let mut conversation = Self {
            stream,
            own,
            version,
            manifest,
            failed: false,
            plans: HashMap::new(),
            open: None,
            out: BytesMut::new(),
            done: success(Value::map([])),
            end_of_result: success(Value::map(end)),
        };
        conversation.converse().await
    }

    async fn converse(&mut self) -> io::Result<()> {
        let mut cutter = Cutter::default();
        let (mut input, mut message) = (vec![0; 64 * 1024], Vec::new());
        loop {
            let read = self.stream.read(&mut input).await?;
            if read == 0 {
                return Ok(());
            }
            cutter.put(&input[..read]);
            while cutter.next(&mut message).is_some() {
                if !self.answer(&message).await? {
                    return self.flush().await;
                }
            }
            self.flush().await?;
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Answers one message; false = the connection ends.
    async fn answer(&mut self, message: &[u8]) -> io::Result<bool> {
        let tag = Tag(message.get(1).copied().unwrap_or_default());
        if self.failed && !matches!(tag, Tag::RESET | Tag::GOODBYE) {
            value::put_message(Tag::IGNORED.0, &[], &mut self.out);
            return Ok(true);
        }
        match tag {
            Tag::RUN => self.run(message),
            Tag::PULL => self.pull(message).await?,
            Tag::DISCARD => {
                self.open = None;
                self.out.extend_from_slice(&self.end_of_result);
            }
            Tag::HELLO => self.out.extend_from_slice(&self.hello()),
            Tag::ROUTE => self.route(message),
            Tag::COMMIT => {
                self.out.extend_from_slice(&success(Value::map([("bookmark", "FB:kcwQstub".into())])));
            }
            Tag::RESET => {
                (self.failed, self.open) = (false, None);
                self.out.extend_from_slice(&self.done);
            }
            Tag::LOGON | Tag::LOGOFF | Tag::BEGIN | Tag::ROLLBACK | Tag::TELEMETRY => {
                self.out.extend_from_slice(&self.done);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn run(&mut self, message: &[u8]) {
        let text = request::open(message).and_then(|(_, _, mut walker)| walker.string());
        let Ok(text) = text else {
            self.fail("Neo.ClientError.Request.Invalid", "08N06", "stub: RUN without a text");
            return;
        };
        let plan = match self.plans.get(text) {
            Some(plan) => Arc::clone(plan),
            None => match Plan::of(text) {
                Ok(plan) => Arc::clone(self.plans.entry(text.to_owned()).or_insert_with(|| Arc::new(plan))),
                Err(reason) => {
                    self.fail("Neo.ClientError.Statement.SyntaxError", "42001", &format!("stub: {reason}"));
                    return;
                }
            },
        };
        self.out.extend_from_slice(&plan.run_success);
        self.open = Some((plan, 0));
    }

    async fn pull(&mut self, message: &[u8]) -> io::Result<()> {
        let Some((plan, gone)) = self.open.take() else {
            self.fail("Neo.ClientError.Request.Invalid", "08N06", "stub: PULL without a result");
            return Ok(());
        };
        if !plan.delay.is_zero() {
            self.flush().await?;
            tokio::time::sleep(plan.delay).await;
        }
        let left = plan.records - gone;
        let wanted = request::only_map(message).ok().and_then(|extra| extra.integer("n"));
        let taken = wanted.and_then(|n| u64::try_from(n).ok()).map_or(left, |n| n.min(left));
        let mut sent = 0;
        while taken - sent >= plan.per_block && plan.per_block > 1 {
            self.flush().await?;
            self.stream.write_all(&plan.block).await?;
            sent += plan.per_block;
        }
        for _ in sent..taken {
            if plan.record.len() > 64 * 1024 {
                self.flush().await?;
                self.stream.write_all(&plan.record).await?;
            } else {
                self.out.extend_from_slice(&plan.record);
            }
        }
        if taken < left {
            self.out.extend_from_slice(&success(Value::map([("has_more", true.into())])));
            self.open = Some((plan, gone + taken));
        } else {
            self.out.extend_from_slice(&self.end_of_result);
        }
        Ok(())
    }

    fn hello(&self) -> Bytes {
        let hints = Value::map([("connection.recv_timeout_seconds", 120.into())]);
        let mut meta =
            vec![("server", "Neo4j/5.26.30".into()), ("connection_id", "bolt-1".into()), ("hints", hints)];
        if self.manifest {
            meta.push(("protocol_version", self.version.to_string().into()));
        }
        success(Value::map(meta))
    }

    /// As a standalone server: every role is at the address that the client used.
    fn route(&mut self, message: &[u8]) {
        let own = self.own.to_string();
        let route = Route::parse(message).ok();
        let address = route.as_ref().and_then(|route| route.context.string("address")).unwrap_or(&own);
        let servers = ["WRITE", "READ", "ROUTE"].map(|role| {
            Value::map([("addresses", Value::List(vec![address.into()])), ("role", role.into())])
        });
        let table = [("ttl", 300.into()), ("db", "neo4j".into()), ("servers", Value::List(servers.to_vec()))];
        self.out.extend_from_slice(&success(Value::map([("rt", Value::map(table))])));
    }

    fn fail(&mut self, code: &'static str, gql_status: &'static str, reason: &str) {
        Failure::new(code, gql_status, reason).write(self.version, &mut self.out);
        self.failed = true;
    }
}

fn success(meta: Value) -> Bytes {
    let mut out = BytesMut::new();
    value::put_message(Tag::SUCCESS.0, &[meta], &mut out);
    out.freeze()
}

/// Magic, slots and, if asked for, the manifest. `None` = the client wants nothing that is spoken here.
async fn shake_hands(stream: &mut TcpStream) -> io::Result<Option<(Version, bool)>> {
    let mut opening = [0; 20];
    stream.read_exact(&mut opening).await?;
    let (magic, slots) = opening.split_first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
    let slots: &[u8; 16] = slots.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    if *magic != handshake::MAGIC {
        return Ok(None);
    }
    match handshake::choose(slots, &Version::ALL) {
        handshake::Choice::Classic(version) => {
            stream.write_all(&handshake::version_bytes(version)).await?;
            Ok(Some((version, false)))
        }
        handshake::Choice::Manifest => {
            let mut manifest = BytesMut::new();
            handshake::write_manifest(&Version::ALL, &mut manifest);
            stream.write_all(&manifest).await?;
            // Four bytes of version and one of capabilities; longer forms would offer what was not offered.
            let mut choice = [0; 5];
            stream.read_exact(&mut choice).await?;
            let chosen = handshake::read_manifest_choice(&choice, &Version::ALL);
            Ok(chosen.ok().flatten().map(|(version, _)| (version, true)))
        }
        handshake::Choice::Nothing => {
            stream.write_all(&handshake::NO_VERSION).await?;
            Ok(None)
        }
        handshake::Choice::Malformed => Ok(None),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::bolt::{Inbox, Login, Request, Session};

    /// A stub that answers until the test program ends.
    pub(crate) fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, 2).unwrap());
        address
    }

    pub(crate) fn login(version: Version) -> Login {
        Login { version, user: "neo4j".to_owned(), password: "any".to_owned() }
    }

    fn query(text: &str, records: u64) -> Request {
        Request::query(text, Value::map([]), Some(records))
    }

    #[test]
    fn every_version_gets_its_records() {
        let address = start();
        for version in Version::ALL {
            let mut session = Session::open(address, None, &login(version)).unwrap();
            assert_eq!(session.server, "Neo4j/5.26.30");
            let mut inbox = Inbox::default();
            for (text, records) in
                [("RETURN 1", 1), ("stub:records=0", 0), ("stub:records=100000,size=100", 100_000)]
            {
                session.ask(&query(text, records), &mut inbox).unwrap();
            }
            let big = session.ask(&query("stub:value=3MiB", 1), &mut inbox).unwrap();
            assert!(big.bytes > 3 << 20);
            session.close();
        }
    }

    #[test]
    fn a_result_is_pulled_in_parts_and_transactions_are_followed() {
        let mut session = Session::open(start(), None, &login(Version::V5_8)).unwrap();
        let mut wire = BytesMut::new();
        let map = || Value::map([]);
        value::put_message(Tag::BEGIN.0, &[map()], &mut wire);
        value::put_message(Tag::RUN.0, &["stub:records=10".into(), map(), map()], &mut wire);
        for n in [4, 4, 4] {
            value::put_message(Tag::PULL.0, &[Value::map([("n", n.into())])], &mut wire);
        }
        value::put_message(Tag::COMMIT.0, &[], &mut wire);
        let request = Request { summaries: 6, records: Some(10), ..Request::of(wire, 6) };
        session.ask(&request, &mut Inbox::default()).unwrap();
    }

    #[test]
    fn a_wrong_wish_fails_and_the_session_recovers() {
        let mut session = Session::open(start(), None, &login(Version::V5_8)).unwrap();
        let mut inbox = Inbox::default();
        let refused = session.ask(&query("stub:rows=1", 1), &mut inbox).unwrap_err().to_string();
        assert!(refused.contains("records, size, value and delay"), "{refused}");
        session.ask(&query("RETURN 1", 1), &mut inbox).unwrap();
    }

    #[test]
    fn the_manifest_is_offered() {
        let mut stream = std::net::TcpStream::connect(start()).unwrap();
        stream.write_all(&handshake::request_manifest()).unwrap();
        let mut offered = BytesMut::new();
        handshake::write_manifest(&Version::ALL, &mut offered);
        let mut answer = vec![0; offered.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, offered);
        stream.write_all(&[0, 0, 1, 6, 0]).unwrap();
        let mut hello = BytesMut::new();
        value::put_message(Tag::HELLO.0, &[Value::map([])], &mut hello);
        stream.write_all(&hello).unwrap();
        let mut answer = [0; 200];
        let read = stream.read(&mut answer).unwrap();
        assert!(
            answer[..read].windows(3).any(|piece| piece == b"6.1"),
            "the version is told in HELLO's answer"
        );
    }
}
