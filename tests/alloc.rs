//! Allocation budgets: what Sidebolt's own thread allocates for a login, a request, a record.
//!
//! Sidebolt runs on a runtime of one thread, and only that thread is counted; the client and the stub that plays Neo4j have
//! threads of their own. The runtime's clock stands still meanwhile, so housekeeping (once a second) is not in the figures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use arc_swap::ArcSwap;
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::Run;
use bolt_wire::packstream::Value;
use bolt_wire::packstream::value::put_message;
use bolt_wire::{Tag, Version, handshake};
use bytes::{Buf, BytesMut};
use sidebolt::app::App;
use sidebolt::config::Config;
use tokio::runtime::Runtime;

/// Only a failing test waits this long for bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the stub speaks.
const VERSIONS: [Version; 2] = [Version::V4_4, Version::V5_8];
/// Repetitions before the count, which bring every buffer to its size.
const WARM_UP: usize = 1_000;
/// Repetitions that are counted.
const COUNTED: usize = 1_000;
/// Records of a large result.
const RECORDS: usize = 100_000;

fn message(tag: Tag, fields: &[Value]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_message(tag.0, fields, &mut out);
    out.to_vec()
}

fn success<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Vec<u8> {
    message(Tag::SUCCESS, &[Value::map(entries)])
}

fn run<'a>(text: &str, extra: impl IntoIterator<Item = (&'a str, Value)>) -> Vec<u8> {
    let parameters = Value::map([("name", "Ada Lovelace".into()), ("born", 1815.into())]);
    message(Tag::RUN, &[text.into(), parameters, Value::map(extra)])
}

fn begin<'a>(extra: impl IntoIterator<Item = (&'a str, Value)>) -> Vec<u8> {
    message(Tag::BEGIN, &[Value::map(extra)])
}

fn pull() -> Vec<u8> {
    message(Tag::PULL, &[Value::map([("n", Value::from(-1))])])
}

/// What the stub says: every answer is known in advance, so the client knows it too.
mod answer {
    use super::*;

    pub(super) fn run() -> Vec<u8> {
        success([("t_first", 1.into()), ("fields", Value::List(vec!["n".into()]))])
    }

    pub(super) fn record() -> Vec<u8> {
        message(Tag::RECORD, &[Value::List(vec!["Ada Lovelace".into(), 1815.into(), Value::Float(0.5)])])
    }

    pub(super) fn pulled(records: usize) -> Vec<u8> {
        let mut out = record().repeat(records);
        out.extend(success([
            ("bookmark", "FB:kcwQVGhlIGJvb2ttYXJrIG9mIGEgc3R1Yg==".into()),
            ("type", "r".into()),
            ("t_last", 1.into()),
            ("db", "neo4j".into()),
        ]));
        out
    }

    pub(super) fn commit() -> Vec<u8> {
        success([("bookmark", "FB:kcwQVGhlIGJvb2ttYXJrIG9mIGEgc3R1Yg==".into())])
    }

    pub(super) fn failure() -> Vec<u8> {
        let code = ("code", "Neo.ClientError.Statement.SyntaxError".into());
        message(Tag::FAILURE, &[Value::map([code, ("message", "as asked".into())])])
    }

    pub(super) fn ignored() -> Vec<u8> {
        message(Tag::IGNORED, &[])
    }

    pub(super) fn plain() -> Vec<u8> {
        success([])
    }
}

/// Plays Neo4j: `rows N` in a statement says how many records it has, `fail` that it fails.
fn stub() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            // A client that goes away ends its conversation.
            std::thread::spawn(move || drop(converse(stream)));
        }
    });
    address
}

fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut greeting = [0; 20];
    stream.read_exact(&mut greeting)?;
    let slots = greeting[4..].try_into().unwrap();
    let handshake::Choice::Classic(version) = handshake::choose(slots, &VERSIONS) else {
        // Sidebolt asks what there is, and does not go on from there.
        let mut manifest = BytesMut::new();
        handshake::write_manifest(&VERSIONS, &mut manifest);
        return stream.write_all(&manifest);
    };
    stream.write_all(&handshake::version_bytes(version))?;
    let (mut buf, mut scanner, mut scratch) = (BytesMut::new(), MessageScanner::default(), BytesMut::new());
    let (mut failed, mut rows) = (false, 1);
    let mut chunk_of = vec![0; 64 * 1024];
    let mut large = Vec::new();
    loop {
        let read = stream.read(&mut chunk_of)?;
        if read == 0 {
            return Ok(());
        }
        buf.extend_from_slice(&chunk_of[..read]);
        let mut out = Vec::new();
        loop {
            match scanner.scan(&buf) {
                Found::Partial => break,
                Found::Noop => buf.advance(2),
                Found::Message(extent) => {
                    let payload = chunk::payload(&buf, extent, &mut scratch);
                    let tag = Tag(payload[1]);
                    if tag == Tag::RUN {
                        let run = Run::parse(payload).unwrap();
                        failed |= run.text.starts_with("fail");
                        rows = run.text.strip_prefix("rows ").map_or(1, |n| n.parse().unwrap());
                    }
                    if rows > 1 && tag == Tag::PULL && large.is_empty() {
                        large = answer::pulled(rows);
                    }
                    match tag {
                        Tag::HELLO => {
                            out.extend(success([
                                ("server", "Neo4j/5.26.0".into()),
                                ("connection_id", "bolt-1".into()),
                            ]));
                        }
                        Tag::RUN if failed => out.extend(answer::failure()),
                        Tag::RESET => {
                            failed = false;
                            out.extend(answer::plain());
                        }
                        Tag::GOODBYE => return Ok(()),
                        _ if failed => out.extend(answer::ignored()),
                        Tag::RUN => out.extend(answer::run()),
                        Tag::PULL if rows > 1 => out.extend(&large),
                        Tag::PULL => out.extend(answer::pulled(rows)),
                        Tag::COMMIT => out.extend(answer::commit()),
                        _ => out.extend(answer::plain()),
                    }
                    buf.advance(extent.wire);
                }
            }
        }
        stream.write_all(&out)?;
    }
}

/// A client that knows what it will be told.
struct Client {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Client {
    fn login(address: SocketAddr, version: Version) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&handshake::request_exactly(version)).unwrap();
        let mut chosen = [0; 4];
        stream.read_exact(&mut chosen).unwrap();
        assert_eq!(chosen, handshake::version_bytes(version));
        let mut client = Self { stream, got: Vec::new() };
        let basic =
            [("scheme", "basic".into()), ("principal", "neo4j".into()), ("credentials", "secret".into())];
        let agent = ("user_agent", Value::from("alloc/1.0"));
        if version.features().reauth {
            client.send(&message(
                Tag::HELLO,
                &[Value::map([agent, ("bolt_agent", Value::map([("product", "alloc/1.0".into())]))])],
            ));
            client.expect_success();
            client.send(&message(Tag::LOGON, &[Value::map(basic)]));
        } else {
            let entries: Vec<_> = std::iter::once(agent).chain(basic).collect();
            client.send(&message(Tag::HELLO, &[Value::map(entries)]));
        }
        client.expect_success();
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads exactly as much as `expected` and compares it.
    fn expect(&mut self, expected: &[u8]) {
        self.got.resize(expected.len(), 0);
        self.stream.read_exact(&mut self.got).unwrap();
        assert!(self.got == expected, "an answer differs from what the stub sent");
    }

    /// The tag of the next message.
    fn next(&mut self) -> Tag {
        let mut header = [0; 2];
        self.stream.read_exact(&mut header).unwrap();
        // One chunk, and the end of the message.
        self.got.resize(usize::from(u16::from_be_bytes(header)) + 2, 0);
        self.stream.read_exact(&mut self.got).unwrap();
        Tag(self.got[1])
    }

    fn expect_success(&mut self) {
        assert_eq!(self.next(), Tag::SUCCESS);
    }
}

/// A runtime whose clock stands still while a blocking task runs.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Sidebolt on a runtime of this thread alone, with a stub behind it.
struct Bed {
    runtime: Runtime,
    app: App,
}

impl Bed {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.listen.address = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.address = None;
        config.upstream.uri = format!("bolt://{}", stub());
        change(&mut config);
        let runtime = runtime();
        let app = runtime.block_on(App::start(Arc::new(ArcSwap::from_pointee(config)))).unwrap();
        Self { runtime, app }
    }

    /// Does `work` on another thread and runs Sidebolt on this one until it is done: what comes of it, and what Sidebolt allocated.
    /// While a blocking task runs the paused clock does not move.
    fn counted<T: Send + 'static>(
        &self,
        work: impl FnOnce(SocketAddr) -> T + Send + 'static,
    ) -> (T, AllocationInfo) {
        let address = self.app.bolt_address();
        let handle = self.runtime.spawn_blocking(move || work(address));
        let mut result = None;
        let allocated = measure(|| result = Some(self.runtime.block_on(handle)));
        (result.unwrap().expect("the client is content"), allocated)
    }

    fn client(&self, version: Version) -> Client {
        self.counted(move |address| Client::login(address, version)).0
    }

    /// What `COUNTED` repetitions of `round` allocate after `WARM_UP` of them.
    fn steady(&self, mut client: Client, round: impl Fn(&mut Client) + Send + 'static) -> AllocationInfo {
        let (client, round) = self
            .counted(move |_| {
                (0..WARM_UP).for_each(|_| round(&mut client));
                (client, round)
            })
            .0;
        let (_client, allocated) = self.counted(move |_| {
            let mut client = client;
            (0..COUNTED).for_each(|_| round(&mut client));
            client
        });
        allocated
    }
}

/// Prints a figure for whoever reads the test's output, also where the harness captures it.
fn tell(what: &str, allocations: u64, of: usize) {
    println!("{what}: {:.3} allocations ({allocations} in {of})", allocations as f64 / of as f64);
}

/// A request and everything that it is answered with.
fn exchange(
    parts: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) -> impl Fn(&mut Client) + Clone + Send + 'static {
    let parts: Vec<_> = parts.into_iter().collect();
    move |client| {
        for (request, answer) in &parts {
            client.send(request);
            client.expect(answer);
        }
    }
}

fn auto_commit<'a>(extra: impl IntoIterator<Item = (&'a str, Value)>) -> (Vec<u8>, Vec<u8>) {
    ([run("RETURN $name AS n", extra), pull()].concat(), [answer::run(), answer::pulled(1)].concat())
}

fn bookmarks() -> (&'static str, Value) {
    let list = vec!["FB:kcwQmV4YWN0bHkgc2l4dGVlbiBiAA==".into(), "FB:kcwQYW5vdGhlciBib29rbWFyaxY=".into()];
    ("bookmarks", Value::List(list))
}

#[test]
fn a_pass_through_query_allocates_nothing() {
    for version in VERSIONS {
        let bed = Bed::new(|_| {});
        let metadata = ("tx_metadata", Value::map([("app", "alloc".into())]));
        let kinds: [(&str, Vec<(&str, Value)>); 4] = [
            ("bare", vec![]),
            ("with db", vec![("db", "neo4j".into())]),
            ("with db, mode and bookmarks", vec![("db", "neo4j".into()), ("mode", "r".into()), bookmarks()]),
            ("with bookmarks, metadata, timeout", vec![bookmarks(), metadata, ("tx_timeout", 5000.into())]),
        ];
        for (kind, extra) in kinds {
            let allocated = bed.steady(bed.client(version), exchange([auto_commit(extra)]));
            tell(&format!("Bolt {version}, query {kind}"), allocated.count_total, COUNTED);
            assert_eq!(allocated.count_total, 0, "Bolt {version}, {kind}: {allocated:?}");
        }
    }
}

#[test]
fn a_transaction_allocates_nothing() {
    for version in VERSIONS {
        let bed = Bed::new(|_| {});
        // As the drivers do it: BEGIN with the first RUN, or each on its own.
        let pipelined = exchange([
            (
                [begin([("db", "neo4j".into()), bookmarks()]), run("RETURN 1", []), pull()].concat(),
                [answer::plain(), answer::run(), answer::pulled(1)].concat(),
            ),
            (message(Tag::COMMIT, &[]), answer::commit()),
        ]);
        let stepwise = exchange([
            (begin([]), answer::plain()),
            (run("RETURN 1", []), answer::run()),
            (pull(), answer::pulled(1)),
            (run("RETURN 2", []), answer::run()),
            (pull(), answer::pulled(1)),
            (message(Tag::COMMIT, &[]), answer::commit()),
        ]);
        let rolled_back = exchange([
            (begin([("mode", "r".into())]), answer::plain()),
            ([run("RETURN 1", []), pull()].concat(), [answer::run(), answer::pulled(1)].concat()),
            (message(Tag::ROLLBACK, &[]), answer::plain()),
        ]);
        let allocated = bed.steady(bed.client(version), pipelined);
        tell(&format!("Bolt {version}, transaction, pipelined"), allocated.count_total, COUNTED);
        assert_eq!(allocated.count_total, 0, "pipelined: {allocated:?}");
        let allocated = bed.steady(bed.client(version), stepwise);
        tell(&format!("Bolt {version}, transaction, step by step"), allocated.count_total, COUNTED);
        assert_eq!(allocated.count_total, 0, "step by step: {allocated:?}");
        let allocated = bed.steady(bed.client(version), rolled_back);
        tell(&format!("Bolt {version}, transaction, rolled back"), allocated.count_total, COUNTED);
        assert_eq!(allocated.count_total, 0, "rolled back: {allocated:?}");
    }
}

#[test]
fn a_record_allocates_nothing() {
    let bed = Bed::new(|_| {});
    let text = format!("rows {RECORDS}");
    let large =
        exchange([([run(&text, []), pull()].concat(), [answer::run(), answer::pulled(RECORDS)].concat())]);
    let mut client = bed.client(Version::V5_8);
    let warm = large.clone();
    client = bed
        .counted(move |_| {
            warm(&mut client);
            client
        })
        .0;
    let (_client, allocated) = bed.counted(move |_| {
        large(&mut client);
        client
    });
    tell("a record of a large result", allocated.count_total, RECORDS);
    // A large result has larger read buffers of its own, which it keeps to its end, whatever its length.
    assert!(allocated.count_total <= 4, "{allocated:?}");
    assert!(allocated.bytes_max <= 512 * 1024, "{allocated:?}");
}

#[test]
fn a_login_and_a_refusal_allocate_little() {
    const LOGINS: usize = 100;
    let bed = Bed::new(|_| {});
    let logins = |address| (0..LOGINS).for_each(|_| drop(Client::login(address, Version::V5_8)));
    bed.counted(logins);
    let ((), allocated) = bed.counted(logins);
    tell("login and end of a session", allocated.count_total, LOGINS);
    assert!(allocated.count_total <= 30 * LOGINS as u64, "{allocated:?}");

    // On its own: a RESET right behind the request would overtake it.
    let reset = || (message(Tag::RESET, &[]), answer::plain());
    let failing = exchange([
        ([run("fail", []), pull()].concat(), [answer::failure(), answer::ignored()].concat()),
        reset(),
    ]);
    let allocated = bed.steady(bed.client(Version::V5_8), failing);
    tell("a request that Neo4j rejects, with RESET", allocated.count_total, COUNTED);
    assert!(allocated.count_total <= 4 * COUNTED as u64, "{allocated:?}");

    // The only connection is taken, and nobody may wait.
    let bed = Bed::new(|config| {
        config.pool.max_connection_pool_size = 1;
        config.pool.max_waiting = 0;
    });
    let holder = bed.client(Version::V5_8);
    let other = bed.client(Version::V5_8);
    let (_holder, _) = bed.counted(move |_| {
        let mut holder = holder;
        holder.send(&begin([]));
        holder.expect_success();
        holder
    });
    let (request, _) = auto_commit([]);
    let allocated = bed.steady(other, move |client| {
        client.send(&request);
        assert_eq!(client.next(), Tag::FAILURE);
        assert_eq!(client.next(), Tag::IGNORED);
        client.send(&message(Tag::RESET, &[]));
        client.expect_success();
    });
    tell("a request that Sidebolt refuses, with RESET", allocated.count_total, COUNTED);
    assert!(allocated.count_total <= 15 * COUNTED as u64, "{allocated:?}");
}

#[test]
fn the_counter_counts() {
    let runtime = runtime();
    let counted = |work: fn() -> Vec<u8>| {
        let handle = runtime.spawn_blocking(work);
        measure(|| drop(runtime.block_on(handle)))
    };
    let nothing = counted(Vec::new);
    assert_eq!(nothing.count_total, 0, "the runtime itself: {nothing:?}");
    let elsewhere = counted(|| (0..10).flat_map(|n| vec![n; 1000]).collect());
    assert_eq!(elsewhere.count_total, 0, "another thread's allocations are its own: {elsewhere:?}");
    let task = runtime.spawn(async { drop(std::hint::black_box(Box::new(1))) });
    let here = measure(|| drop(runtime.block_on(task)));
    assert_eq!(here.count_total, 1, "{here:?}");
}
