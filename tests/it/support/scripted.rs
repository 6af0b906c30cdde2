//! A peer that plays Neo4j exactly as a test says, and remembers everything it saw.
//!
//! What a statement does stands in its text: `run part | pull part`, each a list of steps with commas between them.
//! Run part: `ok` (default), `fail CODE`, `fails N CODE` (the first N times that the statement comes), or any step below. Pull part (default `rows 1`): `rows N`, `who` (a row with the user that is
//! logged in), `big BYTES` (a row of that size), `fail CODE`, `hang` (until RESET or the end), `sleep MS`, `noop`, `hold` (until the test
//! lets go), `summary BYTES` (a SUCCESS of that size, which ends the result), `close`, `cut BYTES` (a part of a record, then close), `half` (FIN, but keep reading), `raw HEX`, `nameless` (a FAILURE without a code), `endless` (rows until
//! RESET). Any other text counts as `ok | rows 1`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::handshake::{self, Choice};
use bolt_wire::message::{Failure, Run};
use bolt_wire::packstream::Value;
use bolt_wire::packstream::value::put_message;
use bolt_wire::{Tag, Version};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::wait;

/// A fake server on loopback.
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// How it behaves; changed while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Versions that it offers.
    pub versions: Vec<Version>,
    /// Users and their passwords; empty = everybody is let in.
    pub users: HashMap<String, String>,
    /// The receive time-out that it advertises, in seconds.
    pub recv_timeout: Option<i64>,
    /// More hints in HELLO's SUCCESS.
    pub hints: Vec<(String, Value)>,
    /// It reads nothing and says nothing.
    pub frozen: bool,
    /// It accepts connections and closes them at once.
    pub refusing: bool,
    /// `hold` steps go on.
    pub released: bool,
    /// It closes instead of answering this.
    pub dies_at: Option<Tag>,
    /// It has no thread left for who logs in.
    pub full: bool,
    /// Members of the routing table (all roles); none = the address in the request, else its own.
    pub table: Option<Vec<(String, Vec<String>)>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            versions: Version::ALL.to_vec(),
            users: HashMap::new(),
            recv_timeout: None,
            hints: Vec::new(),
            frozen: false,
            refusing: false,
            released: false,
            dies_at: None,
            full: false,
            table: None,
        }
    }
}

/// Something that it saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The connection, counted from zero.
    pub connection: usize,
    /// Who was logged in on it then.
    pub user: String,
    /// What.
    pub what: What,
}

/// What it saw.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A connection.
    Opened,
    /// A message with its fields (of a large one, its text alone).
    Message(Tag, Vec<Value>),
    /// The end of a connection.
    Closed,
}

struct Shared {
    settings: watch::Sender<Settings>,
    log: Mutex<Vec<Seen>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
    accepted: AtomicUsize,
    live: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Peer {
    /// Starts one that behaves well, with what `change` sets.
    pub async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(settings),
            log: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            live: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let accepting = Mutex::new(Some(tokio::spawn(accept(listener, Arc::clone(&shared)))));
        Self { address, shared, accepting }
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.settings.send_modify(change);
    }

    /// Stops listening and breaks every connection, as a killed process does.
    pub async fn kill(&self) {
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.abort();
        }
        self.break_now();
        wait::until("the killed peer's connections are gone", || self.open() == 0).await;
        // The port is free once connecting to it is refused.
        wait::within_async(wait::PATIENCE, "the killed peer's port is closed", || async {
            TcpStream::connect(self.address).await.is_err()
        })
        .await;
    }

    /// Breaks every connection and goes on listening.
    pub fn break_now(&self) {
        for task in self.shared.live.lock().drain(..) {
            task.abort();
        }
    }

    /// The same, and waits until they are gone; for when nobody is connecting anew.
    pub async fn break_connections(&self) {
        self.break_now();
        wait::until("the connections are gone", || self.open() == 0).await;
    }

    /// Listens again on the same port.
    pub async fn revive(&self) {
        let listener = TcpListener::bind(self.address).await.expect("the same port");
        *self.accepting.lock() = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
    }

    /// Everything that it saw so far.
    pub fn log(&self) -> Vec<Seen> {
        self.shared.log.lock().clone()
    }

    /// Forgets what it saw, and how many connections were open at once.
    pub fn forget(&self) {
        self.shared.log.lock().clear();
        self.shared.most_open.store(self.open(), Ordering::SeqCst);
    }

    /// The messages that came on one connection, in their order.
    pub fn tags(&self, connection: usize) -> Vec<Tag> {
        let tag = |seen: Seen| match seen.what {
            What::Message(tag, _) if seen.connection == connection => Some(tag),
            _ => None,
        };
        self.log().into_iter().filter_map(tag).collect()
    }

    /// How many messages of a kind came.
    pub fn count(&self, tag: Tag) -> usize {
        self.shared
            .log
            .lock()
            .iter()
            .filter(|seen| matches!(seen.what, What::Message(t, _) if t == tag))
            .count()
    }

    /// The statements that came, with the connection and the user of each.
    pub fn statements(&self) -> Vec<(usize, String, String)> {
        let statement = |seen: Seen| match seen.what {
            What::Message(Tag::RUN, fields) => {
                let text = fields.first().and_then(Value::as_str).unwrap_or_default().to_owned();
                Some((seen.connection, seen.user, text))
            }
            _ => None,
        };
        self.log().into_iter().filter_map(statement).collect()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// Connections that were ever accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_open.fetch_max(open, Ordering::SeqCst);
        let gone = Gone { shared: Arc::clone(&shared), number };
        let live = tokio::spawn(serve(stream, gone));
        shared.live.lock().push(live.abort_handle());
    }
}

/// Notes the end of a connection, however it comes.
struct Gone {
    shared: Arc<Shared>,
    number: usize,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.shared.log.lock().push(Seen {
            connection: self.number,
            user: String::new(),
            what: What::Closed,
        });
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the reader tells.
enum Incoming {
    Message(Tag, Vec<Value>),
    End,
}

struct Connection {
    number: usize,
    shared: Arc<Shared>,
    version: Version,
    out: OwnedWriteHalf,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    signals: Arc<watch::Sender<Signals>>,
    user: String,
    failed: bool,
    in_transaction: bool,
    /// What the open result has still to do; `None` = no result is open.
    result: Option<Vec<String>>,
}

/// What must be known before its turn comes.
#[derive(Clone, Copy, Default)]
struct Signals {
    /// RESETs that were read and not answered yet.
    resets: usize,
    /// The other side has closed.
    ended: bool,
}

/// The connection is over.
struct Over;

async fn serve(mut stream: TcpStream, gone: Gone) {
    let (shared, number) = (Arc::clone(&gone.shared), gone.number);
    let _ = stream.set_nodelay(true);
    shared.log.lock().push(Seen { connection: number, user: String::new(), what: What::Opened });
    if shared.settings.borrow().refusing {
        return;
    }
    thawed(&shared).await;
    let Some(version) = shake_hands(&mut stream, &shared).await else { return };
    let (read, out) = stream.into_split();
    let (tell, incoming) = mpsc::unbounded_channel();
    let signals = Arc::new(watch::Sender::new(Signals::default()));
    let reader = tokio::spawn(read_all(read, Arc::clone(&shared), tell, Arc::clone(&signals)));
    let connection = Connection {
        number,
        shared,
        version,
        out,
        incoming,
        signals,
        user: String::new(),
        failed: false,
        in_transaction: false,
        result: None,
    };
    // Aborting this task must end the reader too: it holds the other half of the socket.
    let _ends = EndsWith(reader);
    connection.run().await;
    drop(gone);
}

struct EndsWith(JoinHandle<()>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn thawed(shared: &Shared) {
    let mut settings = shared.settings.subscribe();
    let _ = settings.wait_for(|settings| !settings.frozen).await;
}

async fn shake_hands(stream: &mut TcpStream, shared: &Shared) -> Option<Version> {
    let mut opening = [0; 20];
    stream.read_exact(&mut opening).await.ok()?;
    thawed(shared).await;
    let offered = shared.settings.borrow().versions.clone();
    let slots = opening.last_chunk::<16>()?;
    match handshake::choose(slots, &offered) {
        Choice::Classic(version) => {
            stream.write_all(&handshake::version_bytes(version)).await.ok()?;
            Some(version)
        }
        Choice::Manifest => {
            let mut out = BytesMut::new();
            handshake::write_manifest(&offered, &mut out);
            stream.write_all(&out).await.ok()?;
            out.clear();
            loop {
                if let Some((version, _)) = handshake::read_manifest_choice(&out, &offered).ok()? {
                    return Some(version);
                }
                if stream.read_buf(&mut out).await.ok()? == 0 {
                    return None;
                }
            }
        }
        _ => {
            let _ = stream.write_all(&handshake::NO_VERSION).await;
            None
        }
    }
}

async fn read_all(
    mut read: OwnedReadHalf,
    shared: Arc<Shared>,
    tell: mpsc::UnboundedSender<Incoming>,
    signals: Arc<watch::Sender<Signals>>,
) {
    let (mut buf, mut messages) = (BytesMut::new(), MessageScanner::default());
    loop {
        match messages.scan(&buf) {
            Found::Noop => buf.advance(2),
            Found::Message(extent) => {
                let mut scratch = BytesMut::new();
                let payload = chunk::payload(&buf, extent, &mut scratch);
                let tag = Tag(payload.get(1).copied().unwrap_or_default());
                let fields = match payload.len() {
                    0..=1_000_000 => Value::decode(payload),
                    // Of a large one the text is enough.
                    _ => Ok(Value::Struct(
                        tag.0,
                        Run::parse(payload).iter().map(|run| run.text.into()).collect(),
                    )),
                };
                let fields = match fields {
                    Ok(Value::Struct(_, fields)) => fields,
                    _ => Vec::new(),
                };
                buf.advance(extent.wire);
                if tag == Tag::RESET {
                    signals.send_modify(|signals| signals.resets += 1);
                }
                if tell.send(Incoming::Message(tag, fields)).is_err() {
                    return;
                }
            }
            Found::Partial => {
                thawed(&shared).await;
                buf.reserve(64 * 1024);
                if !matches!(read.read_buf(&mut buf).await, Ok(1..)) {
                    signals.send_modify(|signals| signals.ended = true);
                    let _ = tell.send(Incoming::End);
                    return;
                }
            }
        }
    }
}

impl Connection {
    async fn run(mut self) {
        while let Some(Incoming::Message(tag, fields)) = self.incoming.recv().await {
            self.note(tag, &fields);
            thawed(&self.shared).await;
            if self.act(tag, fields).await.is_err() {
                return;
            }
        }
    }

    fn note(&self, tag: Tag, fields: &[Value]) {
        self.shared.log.lock().push(Seen {
            connection: self.number,
            user: self.user.clone(),
            what: What::Message(tag, fields.to_vec()),
        });
    }

    async fn act(&mut self, tag: Tag, fields: Vec<Value>) -> Result<(), Over> {
        if self.shared.settings.borrow().dies_at == Some(tag) {
            return Err(Over);
        }
        match tag {
            Tag::RESET => return self.reset().await,
            Tag::GOODBYE => return Err(Over),
            _ if self.signals.borrow().resets > 0 => return self.ignored().await,
            Tag::LOGON | Tag::HELLO => return self.log_in(tag, &fields).await,
            Tag::BEGIN | Tag::LOGOFF if self.failed => return Err(Over),
            _ if self.failed => return self.ignored().await,
            _ => {}
        }
        match tag {
            Tag::LOGOFF => {
                self.user.clear();
                self.success([]).await
            }
            Tag::BEGIN => {
                self.in_transaction = true;
                self.success([]).await
            }
            Tag::COMMIT | Tag::ROLLBACK => {
                self.in_transaction = false;
                self.result = None;
                self.success([("bookmark", "b".into())]).await
            }
            Tag::RUN => {
                let text = fields.first().and_then(Value::as_str).unwrap_or_default().to_owned();
                self.run_statement(&text).await
            }
            Tag::PULL => {
                let n = fields.first().and_then(|map| map.get("n")).and_then(Value::as_integer).unwrap_or(-1);
                self.pull(n).await
            }
            Tag::DISCARD => {
                self.result = None;
                self.success([("t_last", 0.into()), ("type", "r".into())]).await
            }
            Tag::TELEMETRY => self.success([]).await,
            Tag::ROUTE => self.route(&fields).await,
            _ => Err(Over),
        }
    }

    async fn reset(&mut self) -> Result<(), Over> {
        self.signals.send_modify(|signals| signals.resets -= 1);
        if self.signals.borrow().resets > 0 {
            return self.ignored().await;
        }
        (self.failed, self.in_transaction, self.result) = (false, false, None);
        self.success([]).await
    }

    async fn log_in(&mut self, tag: Tag, fields: &[Value]) -> Result<(), Over> {
        if tag == Tag::LOGON && !self.user.is_empty() {
            self.failure("Neo.ClientError.Request.Invalid").await?;
            return Err(Over);
        }
        let token = fields.first().cloned().unwrap_or(Value::Null);
        if (tag == Tag::LOGON) == self.version.features().reauth {
            let text = |key: &str| token.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (user, password) = (text("principal"), text("credentials"));
            let known = {
                let settings = self.shared.settings.borrow();
                settings.users.is_empty() || settings.users.get(&user) == Some(&password)
            };
            if !known {
                self.failure("Neo.ClientError.Security.Unauthorized").await?;
                return Err(Over);
            }
            if self.shared.settings.borrow().full {
                self.failure("Neo.TransientError.Request.NoThreadsAvailable").await?;
                return Err(Over);
            }
            self.user = user;
        }
        if tag == Tag::LOGON {
            return self.success([]).await;
        }
        let (hints, id) = {
            let settings = self.shared.settings.borrow();
            let timeout = settings.recv_timeout.map(|s| ("connection.recv_timeout_seconds", Value::from(s)));
            let more = settings.hints.iter().map(|(key, value)| (key.as_str(), value.clone()));
            (Value::map(timeout.into_iter().chain(more)), format!("bolt-{}", self.number))
        };
        self.success([("server", "Neo4j/5.26.0".into()), ("connection_id", id.into()), ("hints", hints)])
            .await
    }

    async fn run_statement(&mut self, text: &str) -> Result<(), Over> {
        let scripted = text.contains('|');
        let (run, pull) = if scripted { text.split_once('|').unwrap_or_default() } else { ("ok", "rows 1") };
        let steps =
            |part: &str| part.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
        let (run, pull): (Vec<String>, Vec<String>) = (steps(run), steps(pull));
        for step in run {
            if !self.step(&step).await? {
                return Ok(());
            }
        }
        self.result = Some(pull);
        self.success([("fields", Value::List(vec!["x".into()])), ("t_first", 0.into())]).await
    }

    async fn pull(&mut self, n: i64) -> Result<(), Over> {
        let Some(steps) = self.result.take() else { return Err(Over) };
        let mut left = if n < 0 { u64::MAX } else { n.unsigned_abs() };
        let mut steps = std::collections::VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            let Some(rows) = step.strip_prefix("rows ").and_then(|rows| rows.parse::<u64>().ok()) else {
                if !self.step(&step).await? {
                    return Ok(());
                }
                continue;
            };
            let now = rows.min(left);
            for row in 0..now {
                self.send(0x71, &[Value::List(vec![i64::try_from(row).unwrap().into()])]).await?;
            }
            left -= now;
            if rows > now {
                steps.push_front(format!("rows {}", rows - now));
                self.result = Some(steps.into());
                return self.success([("has_more", true.into())]).await;
            }
        }
        let mut meta = vec![("type", Value::from("r")), ("t_last", 0.into()), ("db", "neo4j".into())];
        if !self.in_transaction {
            meta.push(("bookmark", "b".into()));
        }
        self.success(meta).await
    }

    /// One step; false if it was interrupted by RESET or failed, so that nothing of the rest happens.
    async fn step(&mut self, step: &str) -> Result<bool, Over> {
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let number = || rest.parse::<u64>().unwrap_or_else(|_| panic!("scripted peer: a number in {step:?}"));
        match word {
            "ok" => Ok(true),
            "fail" => self.failure(rest).await.map(|()| false),
            "nameless" => {
                self.failed = true;
                self.write(&[0, 3, 0xB1, 0x7F, 0xA0, 0, 0]).await.map(|()| false)
            }
            "fails" => {
                let (times, code) = rest.split_once(' ').expect("fails N CODE");
                let number = self.number;
                let log = self.shared.log.lock().clone();
                let text = |seen: &Seen| match &seen.what {
                    What::Message(Tag::RUN, fields) => fields[0].as_str().map(str::to_owned),
                    _ => None,
                };
                let this = log.iter().rev().filter(|seen| seen.connection == number).find_map(text);
                let came = log.iter().filter(|seen| text(seen) == this).count();
                if came > times.parse().expect("fails N CODE") {
                    return Ok(true);
                }
                self.failure(code).await.map(|()| false)
            }
            "who" => self.send(0x71, &[Value::List(vec![self.user.as_str().into()])]).await.map(|()| true),
            "big" => {
                let text = "x".repeat(usize::try_from(number()).unwrap());
                self.send(0x71, &[Value::List(vec![text.into()])]).await.map(|()| true)
            }
            "summary" => {
                let text = "x".repeat(usize::try_from(number()).unwrap());
                self.success([("huge", text.into())]).await.map(|()| false)
            }
            "noop" => self.write(&chunk::NOOP).await.map(|()| true),
            "sleep" => self.wait_unless_reset(tokio::time::sleep(Duration::from_millis(number()))).await,
            "hang" => self.wait_unless_reset(std::future::pending()).await,
            "hold" => {
                let mut settings = self.shared.settings.subscribe();
                let released = async move {
                    let _ = settings.wait_for(|settings| settings.released).await;
                };
                self.wait_unless_reset(released).await
            }
            "endless" => loop {
                let rows = vec![Value::List(vec!["endless".into()])];
                self.send(0x71, &rows).await?;
                if self.signals.borrow().resets > 0 {
                    return self.interrupted().await;
                }
                tokio::task::yield_now().await;
            },
            "close" => Err(Over),
            "cut" => {
                let mut record = BytesMut::new();
                put_message(0x71, &[Value::List(vec!["x".repeat(1000).into()])], &mut record);
                let cut = usize::try_from(number()).unwrap();
                self.write(record.get(..cut).unwrap_or(&record)).await?;
                Err(Over)
            }
            "half" => {
                let _ = self.out.shutdown().await;
                self.wait_unless_reset(std::future::pending()).await
            }
            "raw" => {
                let bytes: Vec<u8> = (0..rest.len() / 2)
                    .map(|at| u8::from_str_radix(&rest[2 * at..2 * at + 2], 16).expect("hexadecimal digits"))
                    .collect();
                self.write(&bytes).await.map(|()| true)
            }
            _ => panic!("scripted peer: unknown step {step:?}"),
        }
    }

    /// Waits for `what`; a RESET ends the waiting with a FAILURE, the other side's end ends the connection.
    async fn wait_unless_reset(&mut self, what: impl Future<Output = ()>) -> Result<bool, Over> {
        let mut signals = self.signals.subscribe();
        let interrupted = signals.wait_for(|signals| signals.resets > 0 || signals.ended);
        tokio::select! {
            () = what => return Ok(true),
            _ = interrupted => {}
        }
        if self.signals.borrow().ended && self.signals.borrow().resets == 0 {
            return Err(Over);
        }
        self.interrupted().await
    }

    async fn interrupted(&mut self) -> Result<bool, Over> {
        self.failure("Neo.ClientError.Transaction.Terminated").await.map(|()| false)
    }

    async fn route(&mut self, fields: &[Value]) -> Result<(), Over> {
        let table = self.shared.settings.borrow().table.clone();
        let table = table.unwrap_or_else(|| {
            let named = fields.first().and_then(|map| map.get("address")).and_then(Value::as_str);
            let own = self.out.local_addr().map(|a| a.to_string()).unwrap_or_default();
            let address = named.map(str::to_owned).unwrap_or(own);
            ["WRITE", "READ", "ROUTE"].map(|role| (role.to_owned(), vec![address.clone()])).to_vec()
        });
        let servers = table.into_iter().map(|(role, addresses)| {
            let addresses = addresses.into_iter().map(Value::from).collect::<Vec<_>>();
            Value::map([("addresses", addresses.into()), ("role", role.into())])
        });
        let table = Value::map([
            ("servers", servers.collect::<Vec<_>>().into()),
            ("ttl", 300.into()),
            ("db", "neo4j".into()),
        ]);
        self.success([("rt", table)]).await
    }

    async fn success<'a>(&mut self, meta: impl IntoIterator<Item = (&'a str, Value)>) -> Result<(), Over> {
        self.send(0x70, &[Value::map(meta)]).await
    }

    async fn ignored(&mut self) -> Result<(), Over> {
        self.send(0x7E, &[]).await
    }

    async fn failure(&mut self, code: &str) -> Result<(), Over> {
        self.failed = true;
        self.in_transaction = false;
        self.result = None;
        let mut out = BytesMut::new();
        // Codes live as long as the process: a test has few.
        let code: &'static str = Box::leak(code.to_owned().into_boxed_str());
        Failure::new(code, "50N42", "scripted").write(self.version, &mut out);
        self.write(&out).await
    }

    async fn send(&mut self, signature: u8, fields: &[Value]) -> Result<(), Over> {
        let mut out = BytesMut::new();
        put_message(signature, fields, &mut out);
        self.write(&out).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.out.write_all(bytes).await.map_err(|_| Over)
    }
}
