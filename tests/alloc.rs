//! Allocation budgets: what a query costs the allocator once everything is warm. Counted on the one thread that runs Sidebolt; the
//! stub and the client have threads of their own.

#[path = "it/support/message.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
mod message;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use allocation_counter::AllocationInfo;
use arc_swap::ArcSwap;
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::handshake::{self, Choice};
use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use bytes::{Buf, BytesMut};
use message::{begin, commit, login, map, none, pull_all, reset, run, run_with};
use sidebolt::app::App;
use sidebolt::config::Config;
use tokio::sync::Notify;

/// How much is done.
#[derive(Clone, Copy)]
struct Load {
    /// Exchanges before anything is counted.
    warm_up: usize,
    /// Exchanges in a window.
    window: usize,
    /// Windows. Housekeeping, once a second, may fall into a few of them.
    windows: usize,
}

const STEADY: Load = Load { warm_up: 100, window: 20, windows: 15 };
const ONCE: Load = Load { warm_up: 1, window: 1, windows: 3 };

/// What one exchange may cost.
struct Budget {
    name: &'static str,
    /// What is sent at once, and then, when that is answered, more.
    bursts: Vec<Vec<u8>>,
    allocations: u64,
}

#[test]
fn exchanges_stay_within_their_budgets() {
    for version in [Version::V4_4, Version::V5_8, Version::V6_1] {
        let parameter = map([("p", Value::from("x".repeat(2000)))]);
        for budget in [
            Budget { name: "a query", bursts: vec![[run("rows 1"), pull_all()].concat()], allocations: 0 },
            Budget {
                name: "1000 records",
                bursts: vec![[run("rows 1000"), pull_all()].concat()],
                allocations: 0,
            },
            Budget {
                name: "a query with parameters",
                bursts: vec![[run_with("rows 1", parameter.clone(), none()), pull_all()].concat()],
                allocations: 0,
            },
            Budget {
                name: "a transaction",
                bursts: vec![[begin(), run("rows 1"), pull_all(), commit()].concat()],
                allocations: 0,
            },
            Budget { name: "a RESET at rest", bursts: vec![reset()], allocations: 0 },
            // The code is kept for the metrics and for explainLast(), and the clean-up has a task.
            Budget {
                name: "a failure",
                bursts: vec![[run("fail"), pull_all()].concat(), reset()],
                allocations: 3,
            },
        ] {
            let counted = measure(version, &budget.bursts, STEADY);
            let best = counted.iter().map(|window| window.count_total).min().unwrap();
            println!("Bolt {version}, {}: {} allocations", budget.name, best as f64 / STEADY.window as f64);
            assert!(
                best <= budget.allocations * STEADY.window as u64,
                "Bolt {version}, {}: {best} allocations in {} exchanges, {} each are allowed",
                budget.name,
                STEADY.window,
                budget.allocations
            );
        }
    }
}

#[test]
fn what_streams_through_takes_little_memory() {
    let parameter = map([("p", Value::from("x".repeat(40_000_000)))]);
    for (name, bursts) in [
        ("a result of 12 MB", vec![[run("rows 300000"), pull_all()].concat()]),
        ("a parameter of 40 MB", vec![[run_with("rows 1", parameter, none()), pull_all()].concat()]),
    ] {
        let counted = measure(Version::V5_8, &bursts, ONCE);
        let most = counted.iter().map(|window| window.bytes_max).max().unwrap();
        println!("{name}: at most {most} bytes more than at rest");
        assert!(most < 4 << 20, "{name}: {most} bytes");
    }
}

#[test]
fn an_idle_client_takes_little_memory() {
    const CLIENTS: usize = 400;
    for version in [Version::V4_4, Version::V5_8] {
        let (runtime, app) = start();
        let (address, done) = (app.bolt_address(), Arc::new(Notify::new()));
        let client = {
            let done = Arc::clone(&done);
            thread::spawn(move || idle(address, version, CLIENTS, &done))
        };
        // The first client's login and query make what all of them share.
        runtime.block_on(done.notified());
        client.thread().unpark();
        let counted = allocation_counter::measure(|| runtime.block_on(done.notified()));
        client.thread().unpark();
        let each = counted.bytes_current / i64::try_from(CLIENTS).unwrap();
        println!("Bolt {version}: {each} bytes of heap for each idle client");
        assert!(each < 6_000, "{each} bytes for each idle client");
        drop(client.join().unwrap());
    }
}

/// Clients that log in, ask something and stay: one, then, when woken, all others.
fn idle(address: SocketAddr, version: Version, count: usize, done: &Notify) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for number in 0..=count {
        let (mut stream, mut buf) = log_in(address, version);
        stream.write_all(&[run("rows 1"), pull_all()].concat()).unwrap();
        read_summaries(&mut stream, &mut buf, 2);
        clients.push(stream);
        if number == 0 {
            done.notify_one();
            thread::park();
        }
    }
    done.notify_one();
    thread::park();
    clients
}

/// Sidebolt before a stub, all of it on one thread.
fn start() -> (tokio::runtime::Runtime, App) {
    let stub = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = stub.local_addr().unwrap();
    thread::spawn(move || serve(&stub));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let app = runtime.block_on(App::start(config(upstream))).unwrap();
    (runtime, app)
}

/// What Sidebolt allocated in each window of exchanges.
fn measure(version: Version, bursts: &[Vec<u8>], load: Load) -> Vec<AllocationInfo> {
    let (runtime, app) = start();
    let (address, done) = (app.bolt_address(), Arc::new(Notify::new()));
    let (left, stop) = (Arc::new(AtomicUsize::new(load.warm_up)), Arc::new(AtomicBool::new(false)));
    let client = {
        let (bursts, done, left, stop) =
            (bursts.to_vec(), Arc::clone(&done), Arc::clone(&left), Arc::clone(&stop));
        thread::spawn(move || ask(address, version, &bursts, &done, &left, &stop))
    };
    runtime.block_on(done.notified());
    let window = |_| {
        left.store(load.window, Ordering::SeqCst);
        client.thread().unpark();
        allocation_counter::measure(|| runtime.block_on(done.notified()))
    };
    let counted = (0..load.windows).map(window).collect();
    stop.store(true, Ordering::SeqCst);
    client.thread().unpark();
    client.join().unwrap();
    counted
}

/// The client: as many exchanges as there are left, then it waits to be woken.
fn ask(
    address: SocketAddr,
    version: Version,
    bursts: &[Vec<u8>],
    done: &Notify,
    left: &AtomicUsize,
    stop: &AtomicBool,
) {
    let (mut stream, mut buf) = log_in(address, version);
    while !stop.load(Ordering::SeqCst) {
        while left.load(Ordering::SeqCst) > 0 {
            for burst in bursts {
                stream.write_all(burst).unwrap();
                read_summaries(&mut stream, &mut buf, count(burst));
            }
            left.fetch_sub(1, Ordering::SeqCst);
        }
        done.notify_one();
        while left.load(Ordering::SeqCst) == 0 && !stop.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

fn config(upstream: SocketAddr) -> Arc<ArcSwap<Config>> {
    let mut config = Config::default();
    config.listen.address = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin.address = None;
    config.upstream.uri = format!("bolt://{upstream}");
    Arc::new(ArcSwap::from_pointee(config))
}

/// A logged-in connection.
fn log_in(address: SocketAddr, version: Version) -> (TcpStream, BytesMut) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&handshake::request_exactly(version)).unwrap();
    let mut chosen = [0; 4];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, handshake::version_bytes(version));
    let mut buf = BytesMut::with_capacity(1 << 20);
    for message in login(version, "user", "password") {
        stream.write_all(&message).unwrap();
        read_summaries(&mut stream, &mut buf, 1);
    }
    (stream, buf)
}

/// Messages in `bytes`.
fn count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Found::Message(extent) = MessageScanner::default().scan(bytes) {
        bytes = &bytes[extent.wire..];
        count += 1;
    }
    count
}

fn read_summaries(stream: &mut TcpStream, buf: &mut BytesMut, mut count: usize) {
    let mut messages = MessageScanner::default();
    while count > 0 {
        match messages.scan(buf) {
            Found::Noop => buf.advance(2),
            Found::Message(extent) => {
                count -= usize::from(chunk::peek_tag(buf) != Some(Tag::RECORD));
                buf.advance(extent.wire);
            }
            Found::Partial => fill(stream, buf).expect("Sidebolt stays"),
        }
    }
}

fn fill(stream: &mut TcpStream, buf: &mut BytesMut) -> Option<()> {
    let mut piece = [0; 64 * 1024];
    let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
    buf.extend_from_slice(&piece[..read]);
    Some(())
}

/// The stub: answers every connection, each on a thread.
fn serve(stub: &TcpListener) {
    for stream in stub.incoming().flatten() {
        thread::spawn(move || answer(stream));
    }
}

/// Answers one connection: `rows N` gives N records, `fail` a FAILURE until RESET.
fn answer(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut opening = [0; 20];
    stream.read_exact(&mut opening).ok()?;
    match handshake::choose(opening.last_chunk::<16>()?, &Version::ALL) {
        Choice::Classic(version) => stream.write_all(&handshake::version_bytes(version)).ok()?,
        _ => {
            let mut manifest = BytesMut::new();
            handshake::write_manifest(&Version::ALL, &mut manifest);
            stream.write_all(&manifest).ok()?;
        }
    }
    let (mut buf, mut out, mut rows, mut failed) = (BytesMut::new(), Vec::new(), 0, false);
    let mut messages = MessageScanner::default();
    loop {
        match messages.scan(&buf) {
            Found::Noop => buf.advance(2),
            Found::Message(extent) => {
                let mut scratch = BytesMut::new();
                let wire = buf.split_to(extent.wire);
                let payload = chunk::payload(&wire, extent, &mut scratch);
                respond(payload, &mut rows, &mut failed, &mut out);
            }
            Found::Partial => {
                stream.write_all(&out).ok()?;
                out.clear();
                fill(&mut stream, &mut buf)?;
            }
        }
    }
}

fn respond(payload: &[u8], rows: &mut i64, failed: &mut bool, out: &mut Vec<u8>) {
    let success = |meta: Value| message::message(Tag::SUCCESS, &[meta]);
    let answer = match Tag(payload[1]) {
        Tag::RESET => {
            *failed = false;
            success(none())
        }
        _ if *failed => message::message(Tag::IGNORED, &[]),
        Tag::HELLO => success(map([("server", "Neo4j/5.26.0".into()), ("connection_id", "bolt-1".into())])),
        Tag::RUN => {
            let text = Value::decode(payload).ok();
            let text = match &text {
                Some(Value::Struct(_, fields)) => fields[0].as_str().unwrap_or_default(),
                _ => "",
            };
            *failed = text == "fail";
            *rows = text.strip_prefix("rows ").and_then(|n| n.parse().ok()).unwrap_or(0);
            if *failed {
                let code = Value::from("Neo.ClientError.Statement.SyntaxError");
                let failure = map([("code", code.clone()), ("neo4j_code", code), ("message", "no".into())]);
                message::message(Tag::FAILURE, &[failure])
            } else {
                success(map([("fields", Value::List(vec!["x".into(), "y".into()]))]))
            }
        }
        Tag::PULL => {
            for row in 0..*rows {
                let record = Value::List(vec![row.into(), "some text of ordinary length".into()]);
                out.extend(message::message(Tag::RECORD, &[record]));
            }
            success(map([("type", "r".into()), ("bookmark", "b".into()), ("t_last", 0.into())]))
        }
        _ => success(none()),
    };
    out.extend(answer);
}
