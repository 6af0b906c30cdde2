//! The program itself: signals, reloads and its end, under load.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bolt_wire::{Tag, Version};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::message::*;
use crate::support::raw_client::{Answer, Client};
use crate::support::scripted::Peer;
use crate::support::sidebolt::{get, get_bytes};
use crate::support::wait::{PATIENCE, in_time, until, within_async};

const V: Version = Version::V5_8;

/// A running `sidebolt run`; killed with this value.
struct Program {
    child: Child,
    bolt: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    async fn start(config: &Path) -> Self {
        Self::start_with(config, &[]).await
    }

    async fn start_with(config: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidebolt"))
            .args(["run", "--config", &config.to_string_lossy()])
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        while addresses.len() < 2 {
            let line =
                in_time("its addresses", lines.next_line()).await.unwrap().expect("a line for each port");
            // `listening bolt 127.0.0.1:1234`
            addresses.extend(line.split_whitespace().filter_map(|word| word.parse::<SocketAddr>().ok()));
        }
        Self { child, bolt: addresses[0], admin: addresses[1] }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).expect("the signal is sent");
    }

    async fn end(mut self) -> Option<i32> {
        in_time("the program's end", self.child.wait()).await.unwrap().code()
    }
}

/// A configuration on ports of its own.
struct Setup {
    folder: tempfile::TempDir,
    upstream: SocketAddr,
    bolt: SocketAddr,
    admin: SocketAddr,
}

impl Setup {
    fn new(peer: &Peer, more: &str) -> Self {
        // The configuration wants ports by number: two that are free now.
        let free = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a port"));
        let [bolt, admin] = free.map(|listener| listener.local_addr().expect("its address"));
        let folder = tempfile::tempdir().expect("a folder");
        let setup = Self { folder, upstream: peer.address, bolt, admin };
        setup.write(more);
        setup
    }

    fn write(&self, more: &str) {
        let Self { upstream, bolt, admin, .. } = self;
        let text = format!(
            "listen:\n  address: {bolt}\nadmin:\n  address: {admin}\nupstream:\n  uri: bolt://{upstream}\nlog:\n  level: warn\n{more}"
        );
        // Replaced as a whole, as tools do it.
        let new = self.path().with_extension("new");
        std::fs::write(&new, text).expect("the file is written");
        std::fs::rename(&new, self.path()).expect("the file is in its place");
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("proxy.yaml")
    }
}

/// Transactions until it is closed, which is right only between two of them. Gives their number.
async fn transactions(address: SocketAddr) -> usize {
    let mut done = 0;
    let Ok(mut client) = Client::connect(address, V).await else { return done };
    if !client.ask(&login(V, "user", "password")).await.iter().all(Answer::is_success) {
        return done;
    }
    loop {
        match client.one(begin()).await {
            Answer::Closed => return done,
            answer => assert!(answer.is_success(), "{answer:?}"),
        }
        for request in [run("ok | rows 3"), pull_all(), commit()] {
            let answer = client.one(request).await;
            assert!(answer.is_success(), "in a transaction: {answer:?}");
        }
        done += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_sigterms_under_load_fail_no_transaction() {
    let peer = Peer::start(|_| ()).await;
    let setup = Setup::new(&peer, "pool:\n  max_connection_pool_size: 3\n");
    let mut done = 0;
    for round in 0..100 {
        let program = Program::start(&setup.path()).await;
        let before = peer.count(Tag::COMMIT);
        let clients: Vec<_> = (0..6).map(|_| tokio::spawn(transactions(program.bolt))).collect();
        until("the load runs", || peer.count(Tag::COMMIT) > before + 5 + round % 20).await;
        program.signal(Signal::SIGTERM);
        for client in clients {
            done += client.await.unwrap();
        }
        assert_eq!(program.end().await, Some(0), "round {round}");
        peer.forget();
    }
    println!("100 SIGTERMs: {done} transactions, none failed");
    until("no upstream connection is left", || peer.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let peer = Peer::start(|_| ()).await;
    let setup = Setup::new(&peer, "shutdown:\n  drain_timeout: 10m\n");
    let program = Program::start(&setup.path()).await;
    let mut open = Client::login(program.bolt, V, "user", "password").await;
    assert!(open.one(begin()).await.is_success());
    program.signal(Signal::SIGTERM);
    within_async(PATIENCE, "it drains", || async { get(program.admin, "/readyz").await.0 == 503 }).await;
    assert!(open.ask(&[run("RETURN 1"), pull_all()]).await.iter().all(Answer::is_success));
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().await, Some(1));
    assert!(open.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_drop_nothing() {
    let peer = Peer::start(|_| ()).await;
    let setup = Setup::new(&peer, "");
    let program = Program::start(&setup.path()).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, done, address) = (Arc::clone(&stop), Arc::clone(&done), program.bolt);
            tokio::spawn(async move {
                let mut client = Client::login(address, V, "user", "password").await;
                while !stop.load(Ordering::SeqCst) {
                    let answers = client.ask(&[begin(), run("ok | rows 3"), pull_all(), commit()]).await;
                    assert!(answers.iter().all(Answer::is_success), "{answers:?}");
                    assert!(client.query("RETURN 1").await.is_ok());
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let applied = async || {
        let (_, page) = get(program.admin, "/metrics").await;
        let line = page.lines().find(|line| line.starts_with("sidebolt_config_reloads{outcome=\"applied\"}"));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let reloads = std::env::var("RELOADS").ok().and_then(|reloads| reloads.parse().ok()).unwrap_or(60);
    for reload in 1..=reloads {
        let before = applied().await;
        setup.write(&format!(
            "pool:\n  max_connection_pool_size: {}\n  max_waiting: {}\n",
            2 + reload % 5,
            1000 + reload
        ));
        program.signal(Signal::SIGHUP);
        within_async(PATIENCE, "the reload is applied", || async { applied().await > before }).await;
    }
    // A bad file changes nothing.
    setup.write("pool:\n  no_such_key: 1\n");
    program.signal(Signal::SIGHUP);
    within_async(PATIENCE, "the bad file is refused", || async {
        get(program.admin, "/metrics").await.1.lines().any(|line| {
            line.starts_with("sidebolt_config_reloads{outcome=\"refused\"}") && !line.ends_with(" 0")
        })
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    println!("{reloads} reloads: {} rounds of work, none failed", done.load(Ordering::SeqCst));
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_are_closed_within_moments_of_sigterm() {
    let peer = Peer::start(|_| ()).await;
    let setup = Setup::new(&peer, "");
    let program = Program::start(&setup.path()).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Client::login(program.bolt, V, "user", "password").await);
    }
    program.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert!(client.is_closed().await);
    }
    drop(clients);
    let ended = tokio::time::timeout(Duration::from_secs(10), program.end()).await;
    assert_eq!(ended.expect("nobody is waited for"), Some(0));
}

/// What a profile names: its strings stand in it as they are, once it is unpacked.
fn names(packed: &[u8]) -> String {
    let mut profile = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut profile).expect("a gzipped profile");
    String::from_utf8_lossy(&profile).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profiles_show_where_time_and_memory_go() {
    let peer = Peer::start(|_| ()).await;
    let setup = Setup::new(&peer, "pool:\n  max_connection_pool_size: 3\n");
    let program = Program::start(&setup.path()).await;
    for path in ["/debug/pprof/profile?seconds=1", "/debug/pprof/heap"] {
        let (status, words) = get(program.admin, path).await;
        assert_eq!((status, words.contains("admin.profiling")), (404, true), "{path}: {words}");
    }
    program.signal(Signal::SIGTERM);
    program.end().await;

    let text = std::fs::read_to_string(setup.path()).unwrap();
    std::fs::write(setup.path(), text.replace("\nupstream:", "\n  profiling: true\nupstream:")).unwrap();
    let sampled = [("_RJEM_MALLOC_CONF", "prof:true,lg_prof_sample:8")];
    let program = Program::start_with(&setup.path(), &sampled).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    for _ in 0..2 {
        let (over, address) = (Arc::clone(&over), program.bolt);
        busy.push(tokio::spawn(async move {
            let mut client = Client::login(address, V, "user", "password").await;
            while !over.load(Ordering::Relaxed) {
                client.query("ok | rows 3").await.expect("a profile disturbs nobody");
            }
        }));
    }
    let admin = program.admin;
    let path = "/debug/pprof/profile?seconds=3&frequency=500";
    let (one, two) = tokio::join!(get_bytes(admin, path), get_bytes(admin, path));
    let ((status, profile), (other, words)) = if one.0 == 200 { (one, two) } else { (two, one) };
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&profile));
    assert_eq!(
        (other, String::from_utf8_lossy(&words).contains("another profile")),
        (409, true),
        "one at a time"
    );
    let named = names(&profile);
    assert!(named.contains("nanoseconds") && named.contains("sidebolt::session"), "no frames of ours");
    let (status, heap) = get_bytes(admin, "/debug/pprof/heap").await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&heap));
    let named = names(&heap);
    assert!(named.contains("bytes") && named.contains("space"), "no heap profile: {}", named.len());
    for query in ["seconds=0", "seconds=301", "frequency=1001", "seconds=x", "sekonds=1"] {
        assert_eq!(get_bytes(admin, &format!("/debug/pprof/profile?{query}")).await.0, 400, "{query}");
    }
    over.store(true, Ordering::Relaxed);
    for client in busy {
        client.await.expect("no client was disturbed");
    }
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().await, Some(0));
}
