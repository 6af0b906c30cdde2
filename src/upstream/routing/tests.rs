//! A scripted cluster: servers whose roles, tables and lives the tests decide, and the whole proxy before them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::{Begin, Run};
use bolt_wire::packstream::value::put_message;
use bolt_wire::packstream::{MapView, Value, Walker};
use bolt_wire::{Tag, handshake};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::App;
use crate::upstream::{Identities, Servers, Upstream};

/// What ROUTE is answered with.
#[derive(Clone)]
enum Reply {
    /// This table.
    Table { writers: Vec<String>, readers: Vec<String>, routers: Vec<String> },
    /// A FAILURE with this code.
    Failure(&'static str),
    /// SUCCESS with this metadata.
    Meta(Value),
}

/// What all servers go by.
struct Script {
    /// By database.
    replies: BTreeMap<String, Reply>,
    /// Overrides `replies` for one server.
    own_replies: BTreeMap<String, Reply>,
    /// Who takes writes, by database.
    leaders: BTreeMap<String, String>,
    /// Fails every RUN on this server with this code.
    fail_runs: BTreeMap<String, &'static str>,
    /// Closes the connection at the next RUN on this server.
    cut: Option<String>,
    /// The newest version of a server; 5.8 if it is not named.
    versions: BTreeMap<String, Version>,
    ttl: i64,
    home: String,
    /// ROUTEs, as (server, database asked for, user).
    routes: Vec<(String, Option<String>, Option<String>)>,
    hellos: Vec<Value>,
}

struct Node {
    address: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Cluster {
    script: Arc<Mutex<Script>>,
    nodes: Vec<Node>,
}

impl Cluster {
    /// `size` servers; the first leads the database `neo4j`, all others read, all route.
    async fn start(size: usize) -> Self {
        let script = Script {
            replies: BTreeMap::new(),
            own_replies: BTreeMap::new(),
            leaders: BTreeMap::new(),
            fail_runs: BTreeMap::new(),
            cut: None,
            versions: BTreeMap::new(),
            ttl: 300,
            home: "neo4j".to_owned(),
            routes: Vec::new(),
            hellos: Vec::new(),
        };
        let mut cluster = Self { script: Arc::new(Mutex::new(script)), nodes: Vec::new() };
        for _ in 0..size {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.nodes.push(node(listener, &cluster.script));
        }
        if size > 0 {
            cluster.lead("neo4j", 0);
        }
        cluster
    }

    fn address(&self, at: usize) -> String {
        self.nodes[at].address.clone()
    }

    /// Makes a server the leader of a database, in fact and in the tables.
    fn lead(&self, database: &str, leader: usize) {
        let leader = self.address(leader);
        let all: Vec<String> = self.nodes.iter().map(|node| node.address.clone()).collect();
        let readers = all.iter().filter(|address| **address != leader).cloned().collect();
        let mut script = self.script.lock();
        script.leaders.insert(database.to_owned(), leader.clone());
        let table = Reply::Table { writers: vec![leader], readers, routers: all };
        script.replies.insert(database.to_owned(), table);
    }

    fn reply(&self, database: &str, reply: Reply) {
        self.script.lock().replies.insert(database.to_owned(), reply);
    }

    fn routes(&self) -> usize {
        self.script.lock().routes.len()
    }

    /// The server is gone at once, with all its connections.
    async fn kill(&mut self, at: usize) {
        self.nodes[at].stop.cancel();
        (&mut self.nodes[at].task).await.unwrap();
    }

    async fn revive(&mut self, at: usize) {
        let listener = TcpListener::bind(self.address(at)).await.unwrap();
        self.nodes[at] = node(listener, &self.script);
    }

    fn config(&self, seed: usize) -> Config {
        let mut config = Config::default();
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        config.admin.address = None;
        config.upstream.uri = format!("neo4j://{}", self.address(seed));
        config.upstream.connection_timeout = Duration::from_secs(5);
        config.pool.connection_acquisition_timeout = Duration::from_secs(10);
        config
    }

    async fn proxy(&self, config: Config) -> App {
        App::start(Arc::new(ArcSwap::from_pointee(config))).await.unwrap()
    }

    /// The upstream side alone.
    fn upstream(&self, config: Config) -> (Upstream, Arc<Metrics>) {
        let uri = UpstreamUri::parse(&config.upstream.uri).unwrap();
        let metrics = Arc::new(Metrics::new());
        let config = Arc::new(ArcSwap::from_pointee(config));
        let dialer = Dialer::new(&uri, &config).unwrap();
        (Upstream::new(&uri, &dialer, &Arc::default(), &metrics), metrics)
    }
}

fn node(listener: TcpListener, script: &Arc<Mutex<Script>>) -> Node {
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let (me, script, token) = (address.clone(), Arc::clone(script), stop.clone());
    let task = tokio::spawn(async move {
        let mut clients = tokio::task::JoinSet::new();
        let work = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                clients.spawn(converse(stream, me.clone(), Arc::clone(&script)));
            }
        };
        let _: Option<()> = token.run_until_cancelled(work).await;
        clients.shutdown().await;
    });
    Node { address, stop, task }
}

/// One message's payload, or `None` at the end.
async fn receive(stream: &mut TcpStream, buf: &mut BytesMut) -> Option<Vec<u8>> {
    loop {
        match MessageScanner::default().scan(buf) {
            Found::Noop => buf.advance(2),
            Found::Message(extent) => {
                let payload = chunk::payload(buf, extent, &mut BytesMut::new()).to_vec();
                buf.advance(extent.wire);
                return Some(payload);
            }
            Found::Partial => {
                if stream.read_buf(buf).await.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}

/// A server's side of one connection.
async fn converse(mut stream: TcpStream, me: String, script: Arc<Mutex<Script>>) -> Option<()> {
    let mut hello = [0; 20];
    stream.read_exact(&mut hello).await.ok()?;
    let newest = script.lock().versions.get(&me).copied().unwrap_or(Version::V5_8);
    let slot = *hello[4..].first_chunk::<4>().unwrap();
    let chosen = match handshake::version_from_bytes(slot) {
        // It knows no manifest: it takes the newest that it has.
        _ if slot == handshake::MANIFEST_V1 => handshake::version_bytes(newest),
        Some(version) if version <= newest => handshake::version_bytes(version),
        _ => handshake::NO_VERSION,
    };
    stream.write_all(&chosen).await.ok()?;
    let mut buf = BytesMut::new();
    let (mut failed, mut in_transaction) = (false, false);
    loop {
        let payload = receive(&mut stream, &mut buf).await?;
        let mut out = BytesMut::new();
        let tag = Tag(payload[1]);
        if tag == Tag::GOODBYE || (tag == Tag::RUN && cut(&me, &script)) {
            return None;
        }
        in_transaction = match tag {
            Tag::BEGIN => true,
            Tag::COMMIT | Tag::ROLLBACK | Tag::RESET => false,
            _ => in_transaction,
        };
        if tag == Tag::RESET {
            failed = false;
            put_message(Tag::SUCCESS.0, &[Value::map([])], &mut out);
        } else if failed {
            put_message(Tag::IGNORED.0, &[], &mut out);
        } else {
            match answer(&me, tag, &payload, in_transaction, &mut script.lock()) {
                Ok((records, meta)) => {
                    for record in records {
                        put_message(Tag::RECORD.0, &[vec![record].into()], &mut out);
                    }
                    put_message(Tag::SUCCESS.0, &[meta], &mut out);
                }
                Err(code) => {
                    failed = true;
                    let meta = Value::map([
                        ("neo4j_code", code.into()),
                        ("code", code.into()),
                        ("message", "scripted".into()),
                        ("gql_status", "50N42".into()),
                        ("description", "scripted".into()),
                    ]);
                    put_message(Tag::FAILURE.0, &[meta], &mut out);
                }
            }
        }
        stream.write_all(&out).await.ok()?;
    }
}

fn cut(me: &str, script: &Mutex<Script>) -> bool {
    let mut script = script.lock();
    script.cut.take_if(|server| server == me).is_some()
}

type Answer = Result<(Vec<Value>, Value), &'static str>;

fn answer(me: &str, tag: Tag, payload: &[u8], in_transaction: bool, script: &mut Script) -> Answer {
    let done = |meta: Value| Ok((Vec::new(), meta));
    match tag {
        Tag::HELLO => {
            script.hellos.push(Value::decode(&payload[2..]).unwrap());
            done(Value::map([("server", "Neo4j/5.26.0".into()), ("connection_id", "bolt-1".into())]))
        }
        Tag::LOGON => {
            let token = MapView::parse(&payload[2..]).unwrap();
            match token.string("credentials") {
                Some("wrong") => Err("Neo.ClientError.Security.Unauthorized"),
                _ => done(Value::map([])),
            }
        }
        Tag::ROUTE => route(me, payload, script).map(|meta| (Vec::new(), meta)),
        Tag::RUN => {
            let extra = Run::parse(payload).unwrap().extra;
            if !in_transaction {
                may_run(me, &extra, script)?;
            }
            done(Value::map([("fields", vec!["server".into()].into()), ("t_first", 0.into())]))
        }
        Tag::BEGIN => {
            may_run(me, &Begin::parse(payload).unwrap().extra, script)?;
            done(Value::map([]))
        }
        Tag::PULL => Ok((vec![me.into()], Value::map([("type", "r".into())]))),
        _ => done(Value::map([])),
    }
}

fn may_run(me: &str, extra: &MapView<'_>, script: &Script) -> Result<(), &'static str> {
    if let Some(code) = script.fail_runs.get(me) {
        return Err(code);
    }
    let database = extra.string("db").unwrap_or(&script.home);
    match script.leaders.get(database) {
        None => Err("Neo.ClientError.Database.DatabaseNotFound"),
        Some(leader) if leader != me && extra.string("mode") != Some("r") => {
            Err("Neo.ClientError.Cluster.NotALeader")
        }
        Some(_) => Ok(()),
    }
}

fn route(me: &str, payload: &[u8], script: &mut Script) -> Result<Value, &'static str> {
    let mut walker = Walker::new(&payload[2..]);
    walker.value().unwrap();
    walker.value().unwrap();
    let extra = MapView::parse(walker.value().unwrap()).unwrap();
    let asked = extra.string("db").map(str::to_owned);
    script.routes.push((me.to_owned(), asked.clone(), extra.string("imp_user").map(str::to_owned)));
    let database = asked.unwrap_or_else(|| script.home.clone());
    let reply = script.own_replies.get(me).or_else(|| script.replies.get(&database));
    match reply.ok_or("Neo.ClientError.Database.DatabaseNotFound")?.clone() {
        Reply::Failure(code) => Err(code),
        Reply::Meta(meta) => Ok(meta),
        Reply::Table { writers, readers, routers } => {
            let server = |role: &str, addresses: Vec<String>| {
                let addresses = addresses.into_iter().map(Value::from).collect::<Vec<_>>();
                Value::map([("addresses", addresses.into()), ("role", role.into())])
            };
            let servers = vec![server("WRITE", writers), server("READ", readers), server("ROUTE", routers)];
            let table = [("servers", servers.into()), ("ttl", script.ttl.into()), ("db", database.into())];
            Ok(Value::map([("rt", Value::map(table))]))
        }
    }
}

/// A driver, reduced to what is needed.
struct Driver {
    stream: TcpStream,
    buf: BytesMut,
}

/// An answer's tag and its field.
type Summary = (Tag, Value);

impl Driver {
    async fn open(proxy: SocketAddr) -> Self {
        Self::open_with(proxy, Version::V5_8).await.unwrap()
    }

    async fn open_with(proxy: SocketAddr, version: Version) -> Option<Self> {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(&handshake::request_exactly(version)).await.unwrap();
        let mut chosen = [0; 4];
        stream.read_exact(&mut chosen).await.unwrap();
        if chosen == handshake::NO_VERSION {
            return None;
        }
        let mut driver = Self { stream, buf: BytesMut::new() };
        let mut hello = vec![
            ("user_agent", "test/1".into()),
            ("bolt_agent", Value::map([("product", "test/1".into())])),
            ("routing", Value::map([("address", "proxy.example:7687".into())])),
        ];
        let token =
            [("scheme", "basic".into()), ("principal", "neo4j".into()), ("credentials", "right".into())];
        if version.features().auth_in_hello {
            hello.extend(token.clone());
        }
        assert_eq!(driver.ask(Tag::HELLO, &[Value::map(hello)]).await.unwrap().0, Tag::SUCCESS);
        if version.features().reauth {
            assert_eq!(driver.ask(Tag::LOGON, &[Value::map(token)]).await.unwrap().0, Tag::SUCCESS);
        }
        Some(driver)
    }

    async fn send(&mut self, tag: Tag, fields: &[Value]) {
        let mut out = BytesMut::new();
        put_message(tag.0, fields, &mut out);
        // A proxy that has closed is seen by the answer that does not come.
        let _ = self.stream.write_all(&out).await;
    }

    async fn receive(&mut self) -> Option<Summary> {
        let payload = receive(&mut self.stream, &mut self.buf).await?;
        let field = if payload.len() > 2 { Value::decode(&payload[2..]).unwrap() } else { Value::Null };
        Some((Tag(payload[1]), field))
    }

    async fn ask(&mut self, tag: Tag, fields: &[Value]) -> Option<Summary> {
        self.send(tag, fields).await;
        self.receive().await
    }

    /// RUN and PULL: the server that took it, or the code; `None` if the connection was closed.
    async fn run(&mut self, mode: &str, database: Option<&str>) -> Option<Result<String, String>> {
        let mut extra = vec![("mode", mode.into())];
        extra.extend(database.map(|name| ("db", name.into())));
        self.send(Tag::RUN, &["RETURN 1".into(), Value::map([]), Value::map(extra)]).await;
        self.send(Tag::PULL, &[Value::map([("n", (-1).into())])]).await;
        let (tag, meta) = self.receive().await?;
        let (_, record) = self.receive().await?;
        if tag == Tag::FAILURE {
            assert_eq!(self.ask(Tag::RESET, &[]).await?.0, Tag::SUCCESS);
            return Some(Err(meta
                .get("neo4j_code")
                .or_else(|| meta.get("code"))
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()));
        }
        assert_eq!(self.receive().await?.0, Tag::SUCCESS);
        Some(Ok(record.as_list().unwrap()[0].as_str().unwrap().to_owned()))
    }

    async fn write(&mut self) -> Result<String, String> {
        self.run("w", Some("neo4j")).await.unwrap()
    }

    async fn read(&mut self) -> Result<String, String> {
        self.run("r", Some("neo4j")).await.unwrap()
    }

    async fn route(&mut self, database: Option<&str>) -> Summary {
        let context = Value::map([("address", "proxy.example:7687".into())]);
        let extra = Value::map(database.map(|name| ("db", name.into())));
        self.ask(Tag::ROUTE, &[context, Vec::new().into(), extra]).await.unwrap()
    }
}

fn need(access: Access) -> Need {
    let identities = Identities::default();
    let token = Value::map([
        ("scheme", "basic".into()),
        ("principal", "neo4j".into()),
        ("credentials", "right".into()),
    ]);
    let principal = identities.principal(&MapView::parse(&token.to_bytes()).unwrap());
    let key = Key {
        version: Version::V5_8,
        utc: false,
        routing: Some([0xA0].into()),
        filter: None,
        principal: None,
    };
    Need { key: Arc::new(key), principal, access }
}

fn writing(database: &str) -> Access {
    Access { write: true, database: Some(database.into()), ..Access::default() }
}

fn reading(database: &str) -> Access {
    Access { database: Some(database.into()), ..Access::default() }
}

async fn taker(upstream: &Upstream, need: &Need) -> Result<String, String> {
    match upstream.lease(need).await {
        Ok(lease) => Ok(lease.pool().address().to_owned()),
        Err(ConnectError::Refused(refusal)) => Err(refusal.to_string()),
        Err(ConnectError::Failure(payload)) => panic!("a login failed: {payload:?}"),
    }
}

const NOT_A_LEADER: &str = "Neo.ClientError.Cluster.NotALeader";
const SHED: &str = "Neo.TransientError.Request.NoThreadsAvailable";

#[tokio::test]
async fn writes_go_to_the_leader_and_reads_to_the_readers() {
    let cluster = Cluster::start(4).await;
    let app = cluster.proxy(cluster.config(1)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    let mut readers = std::collections::HashSet::new();
    for _ in 0..60 {
        assert_eq!(driver.write().await, Ok(cluster.address(0)));
        readers.insert(driver.read().await.unwrap());
        assert_eq!(driver.run("w", None).await, Some(Ok(cluster.address(0))));
    }
    assert_eq!(readers.len(), 3, "ties are broken by chance");
    assert!(!readers.contains(&cluster.address(0)));
    // One for the named database, one for the home database.
    assert_eq!(cluster.routes(), 2);
}

#[tokio::test]
async fn reads_go_where_fewest_connections_are_lent() {
    let cluster = Cluster::start(3).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let need = need(reading("neo4j"));
    let mut leases = Vec::new();
    for _ in 0..20 {
        leases.push(upstream.lease(&need).await.map_err(|_| ()).unwrap());
    }
    let of = |at| leases.iter().filter(|lease| lease.pool().address() == cluster.address(at)).count();
    assert_eq!((of(0), of(1), of(2)), (0, 10, 10));
}

#[tokio::test]
async fn hello_and_route_name_the_server_and_the_contexts_of_the_uri() {
    let cluster = Cluster::start(2).await;
    let mut config = cluster.config(0);
    config.upstream.uri.push_str("?region=eu");
    let app = cluster.proxy(config).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    driver.read().await.unwrap();
    for hello in &cluster.script.lock().hellos {
        let routing = hello.get("routing").unwrap();
        assert_eq!(routing.get("region"), Some(&"eu".into()));
        let address = routing.get("address").unwrap().as_str().unwrap().to_owned();
        assert!(cluster.nodes.iter().any(|node| node.address == address), "{address}");
    }
    let (tag, meta) = driver.route(None).await;
    assert_eq!(tag, Tag::SUCCESS);
    for server in meta.get("rt").unwrap().get("servers").unwrap().as_list().unwrap() {
        let addresses = server.get("addresses").unwrap().as_list().unwrap();
        assert!(addresses.iter().all(|address| *address == "proxy.example:7687".into()));
    }
}

#[tokio::test]
async fn after_not_a_leader_the_new_leader_takes_the_next_write() {
    let cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(0)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    assert_eq!(driver.write().await, Ok(cluster.address(0)));
    cluster.lead("neo4j", 2);
    // The failure is the client's; its driver repeats the transaction.
    assert_eq!(driver.write().await, Err(NOT_A_LEADER.to_owned()));
    assert_eq!(driver.write().await, Ok(cluster.address(2)));
    assert_eq!(cluster.routes(), 2);
}

#[tokio::test]
async fn a_server_without_the_database_is_left_out_until_the_cluster_was_asked() {
    // A statement that is run again finds another server; otherwise its client is the one that hears of it.
    for (attempts, expected) in [(0, 1), (3, 0)] {
        let cluster = Cluster::start(3).await;
        let mut config = cluster.config(0);
        (config.retry.attempts, config.retry.delay) = (attempts, Duration::from_millis(1));
        let app = cluster.proxy(config).await;
        let mut driver = Driver::open(app.bolt_address()).await;
        driver.read().await.unwrap();
        let code = "Neo.TransientError.General.DatabaseUnavailable";
        cluster.script.lock().fail_runs.insert(cluster.address(1), code);
        let reply = |readers: Vec<String>| Reply::Table {
            writers: vec![cluster.address(0)],
            readers,
            routers: vec![cluster.address(0)],
        };
        cluster.reply("neo4j", reply(vec![cluster.address(2)]));
        let mut failures = 0;
        for _ in 0..50 {
            match driver.read().await {
                Ok(server) => assert_eq!(server, cluster.address(2)),
                Err(told) => {
                    assert_eq!(told, code);
                    failures += 1;
                }
            }
        }
        assert_eq!(failures, expected);
    }
}

#[tokio::test]
async fn when_the_leader_dies_the_next_one_takes_over_under_load() {
    let mut cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(1)).await;
    let proxy = app.bolt_address();
    let stop = CancellationToken::new();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut driver = Driver::open(proxy).await;
                let mut takers = Vec::new();
                while !stop.is_cancelled() {
                    match driver.run("w", Some("neo4j")).await {
                        Some(Ok(server)) => takers.push(server),
                        // What a driver repeats.
                        Some(Err(code)) => assert!(code == NOT_A_LEADER || code == SHED, "{code}"),
                        None => driver = Driver::open(proxy).await,
                    }
                    tokio::task::yield_now().await;
                }
                takers
            })
        })
        .collect();
    let mut driver = Driver::open(proxy).await;
    assert_eq!(driver.write().await, Ok(cluster.address(0)));
    cluster.kill(0).await;
    cluster.lead("neo4j", 2);
    let new = until(async || driver.run("w", Some("neo4j")).await.and_then(Result::ok)).await;
    assert_eq!(new, cluster.address(2));
    stop.cancel();
    for client in clients {
        let takers = client.await.unwrap();
        assert!(takers.windows(2).filter(|pair| pair[0] != pair[1]).count() <= 1, "it changes once");
    }
}

/// Polls until there is a value.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_dead_reader_is_passed_over_and_used_again_when_it_is_back() {
    let mut cluster = Cluster::start(3).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let need = need(reading("neo4j"));
    cluster.kill(1).await;
    for _ in 0..20 {
        assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(2)));
    }
    cluster.revive(1).await;
    let back = cluster.address(1);
    until(async || {
        upstream.look().await;
        taker(&upstream, &need).await.ok().filter(|taker| *taker == back)
    })
    .await;
}

#[tokio::test]
async fn an_expired_table_is_fetched_anew() {
    let cluster = Cluster::start(3).await;
    cluster.script.lock().ttl = 1;
    let (upstream, metrics) = cluster.upstream(cluster.config(0));
    let need = need(writing("neo4j"));
    assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(0)));
    cluster.lead("neo4j", 1);
    // No fault is reported: only the table's age makes the change known.
    let moved = cluster.address(1);
    until(async || taker(&upstream, &need).await.ok().filter(|taker| *taker == moved)).await;
    assert!(metrics.expose().contains("sidebolt_routing_refreshes_total{outcome=\"success\"} 2"));
}

#[tokio::test]
async fn a_table_is_fetched_ahead_without_anybody_waiting() {
    let cluster = Cluster::start(2).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let need = need(writing("neo4j"));
    taker(&upstream, &need).await.unwrap();
    let old = table(&upstream, &need);
    old.doubt();
    assert!(upstream.try_lease(&need).is_some(), "it is used meanwhile");
    until(async || (table(&upstream, &need).fetched > old.fetched).then_some(())).await;
    assert!(upstream.try_lease(&need).is_some());
    assert_eq!(cluster.routes(), 2);
}

/// The table in use.
fn table(upstream: &Upstream, need: &Need) -> Arc<Table> {
    let Servers::Routed(router) = &upstream.servers else { panic!("not routed") };
    let Known::Table(table) = router.books.read().known(need, Instant::now()) else {
        panic!("nothing is known")
    };
    table
}

#[tokio::test(start_paused = true)]
async fn a_table_ages() {
    let uri = UpstreamUri::parse("neo4j://db.invalid:1").unwrap();
    let dialer = Dialer::new(&uri, &Arc::new(ArcSwap::from_pointee(Config::default()))).unwrap();
    let members = Members::new("db.invalid", 1, &dialer, &Arc::default(), &Arc::new(Metrics::new()));
    let seed = || vec![Arc::clone(members.seed())];
    let ttl = Duration::from_secs(100);
    assert!(Table::new("x", ttl, [vec![], vec![], seed()]).is_none(), "nobody takes requests");
    let table = Table::new("x", ttl, [seed(), vec![], vec![]]).unwrap();
    let state = || {
        let now = Instant::now();
        (table.is_due(now), table.is_current(now), table.is_tolerable(now))
    };
    assert_eq!(state(), (false, true, true));
    tokio::time::advance(Duration::from_secs(81)).await;
    assert_eq!(state(), (true, true, true));
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(state(), (true, false, true));
    tokio::time::advance(Duration::from_secs(100)).await;
    assert_eq!(state(), (true, false, false));
}

#[tokio::test]
async fn requests_that_need_a_table_share_its_fetching() {
    let cluster = Cluster::start(3).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let upstream = Arc::new(upstream);
    let need = need(writing("neo4j"));
    let all = (0..200).map(|_| {
        let (upstream, need) = (Arc::clone(&upstream), need.clone());
        tokio::spawn(async move { taker(&upstream, &need).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), Ok(cluster.address(0)));
    }
    assert_eq!(cluster.routes(), 1);
}

#[tokio::test]
async fn when_all_routers_are_dead_the_seed_is_asked() {
    let mut cluster = Cluster::start(4).await;
    cluster.script.lock().ttl = 1;
    let routers = vec![cluster.address(1), cluster.address(2)];
    let (writers, readers) = (vec![cluster.address(0)], vec![cluster.address(3)]);
    cluster.reply("neo4j", Reply::Table { writers: writers.clone(), readers: readers.clone(), routers });
    let (upstream, _) = cluster.upstream(cluster.config(3));
    let need = need(writing("neo4j"));
    assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(0)));
    cluster.kill(1).await;
    cluster.kill(2).await;
    cluster.lead("neo4j", 3);
    let moved = cluster.address(3);
    until(async || taker(&upstream, &need).await.ok().filter(|taker| *taker == moved)).await;
    assert_eq!(cluster.script.lock().routes.last().unwrap().0, cluster.address(3));
}

#[tokio::test]
async fn when_the_seed_is_dead_the_routers_are_asked() {
    let mut cluster = Cluster::start(3).await;
    cluster.script.lock().ttl = 1;
    let app = cluster.proxy(cluster.config(2)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    assert_eq!(driver.write().await, Ok(cluster.address(0)));
    cluster.kill(2).await;
    cluster.lead("neo4j", 1);
    let moved = cluster.address(1);
    until(async || driver.run("w", Some("neo4j")).await?.ok().filter(|taker| *taker == moved)).await;
    // A new client gets in too.
    assert_eq!(Driver::open(app.bolt_address()).await.write().await, Ok(moved));
}

#[tokio::test]
async fn without_a_leader_reads_go_on_and_writes_are_refused() {
    let cluster = Cluster::start(3).await;
    let all: Vec<_> = (0..3).map(|at| cluster.address(at)).collect();
    cluster.reply("neo4j", Reply::Table { writers: vec![], readers: all.clone(), routers: all });
    let app = cluster.proxy(cluster.config(0)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    driver.read().await.unwrap();
    assert_eq!(driver.write().await, Err(SHED.to_owned()));
    driver.read().await.unwrap();
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let refused = taker(&upstream, &need(writing("neo4j"))).await.unwrap_err();
    assert!(refused.contains("no writer is known for database neo4j"), "{refused}");
    // As soon as there is one, the next write finds it.
    cluster.lead("neo4j", 1);
    assert_eq!(driver.write().await, Ok(cluster.address(1)));
}

#[tokio::test]
async fn the_leader_reads_if_nobody_else_can() {
    let mut cluster = Cluster::start(2).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let need = need(reading("neo4j"));
    assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(1)));
    cluster.kill(1).await;
    assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(0)));
    // From then on without any detour.
    until(async || upstream.try_lease(&need)).await;
    let lease = upstream.try_lease(&need).unwrap();
    assert_eq!(lease.pool().address(), cluster.address(0));
}

#[tokio::test]
async fn a_refused_route_leaves_the_word_to_neo4j() {
    let cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(0)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    let not_found = "Neo.ClientError.Database.DatabaseNotFound";
    assert_eq!(driver.run("w", Some("nowhere")).await, Some(Err(not_found.to_owned())));
    let endless = "x".repeat(1000);
    assert_eq!(driver.run("w", Some(&endless)).await, Some(Err(not_found.to_owned())));
    assert_eq!(driver.route(Some("nowhere")).await.1.get("neo4j_code"), Some(&not_found.into()));
    assert_eq!(driver.ask(Tag::RESET, &[]).await.unwrap().0, Tag::SUCCESS);
    assert_eq!(driver.write().await, Ok(cluster.address(0)));
}

#[tokio::test]
async fn a_router_that_fails_is_passed_over() {
    let cluster = Cluster::start(3).await;
    cluster
        .script
        .lock()
        .own_replies
        .insert(cluster.address(0), Reply::Failure("Neo.TransientError.General.DatabaseUnavailable"));
    cluster.script.lock().ttl = 1;
    let (upstream, _) = cluster.upstream(cluster.config(1));
    let need = need(writing("neo4j"));
    taker(&upstream, &need).await.unwrap();
    cluster.lead("neo4j", 2);
    let moved = cluster.address(2);
    until(async || taker(&upstream, &need).await.ok().filter(|taker| *taker == moved)).await;
}

#[tokio::test]
async fn each_database_has_its_own_table() {
    let cluster = Cluster::start(3).await;
    cluster.lead("movies", 1);
    cluster.lead("people", 2);
    let app = cluster.proxy(cluster.config(0)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    for _ in 0..5 {
        assert_eq!(driver.run("w", Some("movies")).await, Some(Ok(cluster.address(1))));
        assert_eq!(driver.run("w", Some("people")).await, Some(Ok(cluster.address(2))));
        assert_eq!(driver.write().await, Ok(cluster.address(0)));
    }
    assert_eq!(cluster.routes(), 3);
    // A change of one leader leaves the other tables alone.
    cluster.lead("movies", 0);
    assert_eq!(driver.run("w", Some("movies")).await, Some(Err(NOT_A_LEADER.to_owned())));
    assert_eq!(driver.run("w", Some("movies")).await, Some(Ok(cluster.address(0))));
    assert_eq!(driver.run("w", Some("people")).await, Some(Ok(cluster.address(2))));
    assert_eq!(cluster.routes(), 4);
}

#[tokio::test]
async fn a_home_database_is_the_users_own() {
    let cluster = Cluster::start(3).await;
    cluster.lead("movies", 1);
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let home = |impersonated: Option<&str>| Access {
        write: true,
        impersonated: impersonated.map(Into::into),
        ..Access::default()
    };
    assert_eq!(taker(&upstream, &need(home(None))).await, Ok(cluster.address(0)));
    cluster.script.lock().home = "movies".to_owned();
    assert_eq!(taker(&upstream, &need(home(Some("ann")))).await, Ok(cluster.address(1)));
    assert_eq!(cluster.script.lock().routes.last().unwrap().2.as_deref(), Some("ann"));
}

#[tokio::test]
async fn hostile_tables_do_no_harm() {
    let text = |addresses: &[&str]| addresses.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let huge: Vec<String> = (0..20_000).map(|i| format!("h{i}.invalid:7687")).collect();
    let garbage = text(&["", "::::", "a b", "x:99999", "\u{202e}:1", "[zz]:1"]);
    let table = |writers: &[String]| Reply::Table {
        writers: writers.to_vec(),
        readers: writers.to_vec(),
        routers: writers.to_vec(),
    };
    let replies = [
        table(&[]),
        table(&garbage),
        Reply::Meta(Value::map([])),
        Reply::Meta(Value::map([("rt", 7.into())])),
        Reply::Meta(Value::map([("rt", Value::map([("ttl", "x".into()), ("servers", Value::Null)]))])),
        Reply::Failure("Neo.DatabaseError.General.UnknownError"),
    ];
    for reply in replies {
        let cluster = Cluster::start(1).await;
        cluster.reply("neo4j", reply);
        let app = cluster.proxy(cluster.config(0)).await;
        let mut driver = Driver::open(app.bolt_address()).await;
        let refused = driver.write().await;
        assert!(refused == Err(SHED.to_owned()) || refused == Ok(cluster.address(0)), "{refused:?}");
        cluster.lead("neo4j", 0);
        let taken = until(async || driver.run("w", Some("neo4j")).await?.ok()).await;
        assert_eq!(taken, cluster.address(0));
    }
    let cluster = Cluster::start(1).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    for at in 0..30 {
        let some = &huge[at * 100..][..100];
        let mut all = some.to_vec();
        all.push(cluster.address(0));
        cluster.script.lock().leaders.insert(format!("d{at}"), cluster.address(0));
        cluster.reply(
            &format!("d{at}"),
            Reply::Table { writers: vec![cluster.address(0)], readers: all, routers: vec![] },
        );
        assert_eq!(taker(&upstream, &need(writing(&format!("d{at}")))).await, Ok(cluster.address(0)));
    }
    assert_eq!(upstream.pools().len(), 1000, "what is listed beyond the limit is ignored");
}

#[tokio::test]
async fn duplicates_count_once() {
    let cluster = Cluster::start(2).await;
    let twice = vec![cluster.address(0), cluster.address(0), cluster.address(0)];
    let table = Reply::Table { writers: twice.clone(), readers: twice.clone(), routers: twice };
    cluster.reply("neo4j", table);
    let (upstream, _) = cluster.upstream(cluster.config(0));
    assert_eq!(taker(&upstream, &need(reading("neo4j"))).await, Ok(cluster.address(0)));
    assert!(upstream.members().iter().all(|(_, count)| *count == 1));
}

#[tokio::test]
async fn route_is_answered_here_while_no_server_can_be_reached() {
    let mut cluster = Cluster::start(1).await;
    let routed = cluster.config(0);
    let mut single = cluster.config(0);
    single.upstream.uri = single.upstream.uri.replace("neo4j://", "bolt://");
    for config in [routed, single] {
        let app = cluster.proxy(config).await;
        let mut driver = Driver::open(app.bolt_address()).await;
        let (_, first) = driver.route(None).await;
        assert_eq!(first.get("rt").unwrap().get("ttl"), Some(&300.into()));
        cluster.kill(0).await;
        for (asked, told) in [(None, "neo4j"), (Some("movies"), "movies")] {
            let (tag, meta) = driver.route(asked).await;
            assert_eq!(tag, Tag::SUCCESS);
            let table = meta.get("rt").unwrap();
            assert_eq!(table.get("db"), Some(&told.into()));
            assert_eq!(table.get("ttl"), Some(&10.into()));
            for server in table.get("servers").unwrap().as_list().unwrap() {
                assert_eq!(server.get("addresses"), Some(&vec!["proxy.example:7687".into()].into()));
            }
        }
        // The session is READY: a request is refused as such, and works when the server is back.
        assert_eq!(driver.write().await, Err(SHED.to_owned()));
        cluster.revive(0).await;
        until(async || driver.run("w", Some("neo4j")).await?.ok()).await;
    }
}

#[tokio::test]
async fn a_lost_connection_has_the_cluster_asked_again() {
    let cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(1)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    assert_eq!(driver.write().await, Ok(cluster.address(0)));
    cluster.lead("neo4j", 2);
    cluster.script.lock().cut = Some(cluster.address(0));
    assert_eq!(driver.run("w", Some("neo4j")).await, None, "the client's connection closes too");
    assert_eq!(Driver::open(app.bolt_address()).await.write().await, Ok(cluster.address(2)));
}

#[tokio::test]
async fn servers_of_different_versions_work_together() {
    let cluster = Cluster::start(3).await;
    cluster.script.lock().versions.insert(cluster.address(1), Version::new(5, 4));
    let (upstream, _) = cluster.upstream(cluster.config(0));
    assert_eq!(upstream.offered().await.last(), Some(&Version::V5_8));
    let need = need(reading("neo4j"));
    for _ in 0..10 {
        assert_eq!(
            taker(&upstream, &need).await,
            Ok(cluster.address(2)),
            "the other is too old for this client"
        );
    }
    // Once every server has said what it offers, new clients get what all have.
    for pool in upstream.pools() {
        pool.probe().await.unwrap();
    }
    assert_eq!(upstream.offered().await.last(), Some(&Version::new(5, 4)));
    cluster.lead("neo4j", 1);
    upstream.report(
        &upstream.pools().iter().find(|pool| pool.address() == cluster.address(0)).unwrap().clone(),
        &need.principal,
        &writing("neo4j"),
        Fault::NotLeader,
    );
    let refused = taker(&upstream, &Need { access: writing("neo4j"), ..need }).await.unwrap_err();
    assert!(refused.contains("does not speak Bolt 5.8"), "{refused}");
}

#[tokio::test]
async fn servers_that_left_are_forgotten() {
    let cluster = Cluster::start(3).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let need = need(reading("neo4j"));
    taker(&upstream, &need).await.unwrap();
    assert_eq!(upstream.pools().len(), 3);
    let only = vec![cluster.address(0)];
    cluster.reply("neo4j", Reply::Table { writers: only.clone(), readers: only.clone(), routers: only });
    for at in [1, 2] {
        let pool = upstream.pools().into_iter().find(|pool| pool.address() == cluster.address(at)).unwrap();
        upstream.report(&pool, &need.principal, &need.access, Fault::Lost);
    }
    taker(&upstream, &need).await.unwrap();
    until(async || {
        assert_eq!(upstream.look().await, None);
        (upstream.pools().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn readiness_follows_the_members() {
    let mut cluster = Cluster::start(2).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    assert_eq!(upstream.look().await, None, "the seed answers");
    let need = need(Access { write: true, ..Access::default() });
    taker(&upstream, &need).await.unwrap();
    cluster.kill(0).await;
    assert!(taker(&upstream, &need).await.is_err());
    assert_eq!(upstream.look().await, None, "a reader is left");
    cluster.kill(1).await;
    assert!(taker(&upstream, &Need { access: reading("neo4j"), ..need }).await.is_err());
    let trouble = until(async || upstream.look().await).await;
    assert!(trouble.contains("no writer or reader of the home database"), "{trouble}");
    // The database moves to a server that was in no table. Nobody asks for it, yet it is found.
    cluster.revive(0).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    cluster.nodes.push(node(listener, &cluster.script));
    cluster.lead("neo4j", 2);
    until(async || upstream.look().await.is_none().then_some(())).await;
    let need = self::need(Access { write: true, ..Access::default() });
    assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(2)));
}

#[tokio::test]
async fn clients_of_old_versions_are_routed_too() {
    let cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(1)).await;
    for version in [Version::V4_4, Version::V5_0, Version::new(5, 4)] {
        let mut driver = Driver::open_with(app.bolt_address(), version).await.unwrap();
        assert_eq!(driver.write().await, Ok(cluster.address(0)), "{version}");
        assert_ne!(driver.read().await, Ok(cluster.address(0)), "{version}");
        assert_eq!(driver.route(None).await.0, Tag::SUCCESS, "{version}");
    }
}

#[tokio::test]
async fn a_transaction_stays_where_it_began() {
    let cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(0)).await;
    let mut driver = Driver::open(app.bolt_address()).await;
    let begin = |mode: &str| [Value::map([("mode", mode.into()), ("db", "neo4j".into())])];
    let run = ["RETURN 1".into(), Value::map([]), Value::map([])];
    for (mode, leads) in [("w", true), ("r", false), ("w", true)] {
        assert_eq!(driver.ask(Tag::BEGIN, &begin(mode)).await.unwrap().0, Tag::SUCCESS);
        let mut takers = Vec::new();
        for _ in 0..3 {
            driver.send(Tag::RUN, &run).await;
            driver.send(Tag::PULL, &[Value::map([("n", (-1).into())])]).await;
            let answer = driver.receive().await.unwrap();
            assert_eq!(answer.0, Tag::SUCCESS, "{answer:?}");
            takers.push(driver.receive().await.unwrap().1.as_list().unwrap()[0].clone());
            assert_eq!(driver.receive().await.unwrap().0, Tag::SUCCESS);
        }
        assert_eq!(driver.ask(Tag::COMMIT, &[]).await.unwrap().0, Tag::SUCCESS);
        assert!(takers.iter().all(|taker| *taker == takers[0]));
        assert_eq!(takers[0] == cluster.address(0).as_str().into(), leads);
    }
}

#[tokio::test]
async fn roles_change_under_load_and_every_write_finds_its_leader() {
    let cluster = Cluster::start(3).await;
    let app = cluster.proxy(cluster.config(0)).await;
    let proxy = app.bolt_address();
    let stop = CancellationToken::new();
    let clients: Vec<_> = ["w", "w", "w", "r", "r"]
        .into_iter()
        .map(|mode| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut driver = Driver::open(proxy).await;
                let mut done = 0;
                while !stop.is_cancelled() {
                    match driver.run(mode, Some("neo4j")).await.unwrap() {
                        Ok(_) => done += 1,
                        Err(code) => assert_eq!((code.as_str(), mode), (NOT_A_LEADER, "w")),
                    }
                }
                done
            })
        })
        .collect();
    let mut driver = Driver::open(proxy).await;
    for at in 0..12 {
        let leader = at % 3;
        cluster.lead("neo4j", leader);
        // At most one refusal: the next attempt of a driver succeeds.
        let taken = match driver.write().await {
            Err(code) => {
                assert_eq!(code, NOT_A_LEADER);
                driver.write().await
            }
            taken => taken,
        };
        assert_eq!(taken, Ok(cluster.address(leader)));
    }
    stop.cancel();
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    // One ROUTE for each change, and those that the changes of others made necessary; not one for each request.
    assert!(cluster.routes() <= 2 * 13, "{} ROUTEs", cluster.routes());
}

#[tokio::test]
async fn a_silent_server_does_not_keep_requests_from_the_others() {
    let cluster = Cluster::start(2).await;
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let readers = vec![silent.local_addr().unwrap().to_string(), cluster.address(1)];
    let writers = vec![cluster.address(0)];
    cluster.reply("neo4j", Reply::Table { writers: writers.clone(), readers, routers: writers });
    let mut config = cluster.config(0);
    config.upstream.connection_timeout = Duration::from_millis(100);
    let (upstream, _) = cluster.upstream(config);
    let need = need(reading("neo4j"));
    for _ in 0..30 {
        assert_eq!(taker(&upstream, &need).await, Ok(cluster.address(1)));
    }
}

#[tokio::test]
async fn an_expired_table_serves_a_little_longer_while_no_router_answers() {
    let cluster = Cluster::start(2).await;
    cluster.script.lock().ttl = 2;
    let reply = |routers| Reply::Table {
        writers: vec![cluster.address(0)],
        readers: vec![cluster.address(1)],
        routers,
    };
    cluster.reply("neo4j", reply(vec![cluster.address(0)]));
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let need = need(writing("neo4j"));
    taker(&upstream, &need).await.unwrap();
    let table = table(&upstream, &need);
    // Every router has lost its mind: what it lists is nothing.
    cluster.reply("neo4j", Reply::Table { writers: vec![], readers: vec![], routers: vec![] });
    let mut served = 0;
    let refused = until(async || {
        let expired = !table.is_current(Instant::now());
        match taker(&upstream, &need).await {
            Ok(server) => {
                assert_eq!(server, cluster.address(0));
                served += usize::from(expired);
                None
            }
            Err(refused) => Some(refused),
        }
    })
    .await;
    assert!(served > 0, "it was not used once it had expired");
    assert!(!table.is_tolerable(Instant::now()));
    assert!(refused.contains("lists no server that can be used"), "{refused}");
    cluster.reply("neo4j", reply(vec![]));
    until(async || taker(&upstream, &need).await.ok()).await;
}

#[tokio::test]
async fn a_table_that_leads_back_to_the_proxy_means_the_server_that_gave_it() {
    let cluster = Cluster::start(1).await;
    let mut config = cluster.config(0);
    config.listen.address = "0.0.0.0:7687".parse().unwrap();
    let own = vec!["localhost:7687".to_owned()];
    cluster.reply("neo4j", Reply::Table { writers: own.clone(), readers: own.clone(), routers: own });
    let (upstream, _) = cluster.upstream(config);
    assert_eq!(taker(&upstream, &need(writing("neo4j"))).await, Ok(cluster.address(0)));
    assert_eq!(upstream.pools().len(), 1);
}

#[tokio::test]
async fn each_server_behind_the_seeds_name_is_asked() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let cluster = Cluster::start(0).await;
    let nodes = [node(first, &cluster.script), node(second, &cluster.script)];
    let uri = UpstreamUri::parse(&format!("neo4j://db.invalid:{port}")).unwrap();
    let router = Router::new(
        &uri,
        &Dialer::new(&uri, &Arc::new(ArcSwap::from_pointee(Config::default()))).unwrap(),
        &Arc::default(),
        &Arc::new(Metrics::new()),
    );
    let ips = ["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
    let members = router.members.at_ips(ips.into());
    assert_eq!(members.len(), 2);
    for (member, node) in members.iter().zip(&nodes) {
        assert_eq!(member.pool.address(), node.address);
        member.pool.probe().await.unwrap();
    }
    assert!(router.members.at_ips(vec!["127.0.0.1".parse().unwrap()]).is_empty(), "the seed is that one");
}

#[tokio::test]
async fn wrong_credentials_of_one_are_not_the_failure_of_another() {
    let cluster = Cluster::start(2).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    let right = need(writing("neo4j"));
    let token = Value::map([("scheme", "basic".into()), ("credentials", "wrong".into())]);
    let wrong = Need {
        principal: Identities::default().principal(&MapView::parse(&token.to_bytes()).unwrap()),
        ..right.clone()
    };
    let (refused, taken) = tokio::join!(upstream.lease(&wrong), taker(&upstream, &right));
    assert!(matches!(refused, Err(ConnectError::Failure(_))));
    assert_eq!(taken, Ok(cluster.address(0)));
}

#[tokio::test]
async fn a_full_pool_is_no_reason_to_ask_the_cluster() {
    let cluster = Cluster::start(2).await;
    let mut config = cluster.config(1);
    config.pool.max_connection_pool_size = 1;
    config.pool.max_waiting = 0;
    let (upstream, _) = cluster.upstream(config);
    let need = need(writing("neo4j"));
    let _held = upstream.lease(&need).await.map_err(|_| ()).unwrap();
    let refused = taker(&upstream, &need).await.unwrap_err();
    assert!(refused.contains("pool.max_waiting"), "{refused}");
    assert_eq!(cluster.routes(), 1);
    // Nor do reads fall upon the leader because the readers are busy.
    let need = Need { access: reading("neo4j"), ..need };
    let _held = upstream.lease(&need).await.map_err(|_| ()).unwrap();
    assert!(taker(&upstream, &need).await.unwrap_err().contains(&cluster.address(1)));
}

#[tokio::test]
async fn listed_servers_are_kept_warm() {
    let cluster = Cluster::start(3).await;
    let listed = |at: &[usize]| at.iter().map(|at| cluster.address(*at)).collect::<Vec<_>>();
    let table = Reply::Table { writers: listed(&[0]), readers: listed(&[1]), routers: listed(&[0, 1]) };
    cluster.reply("neo4j", table);
    let mut config = cluster.config(2);
    config.pool.min_idle = 2;
    let (upstream, _) = cluster.upstream(config);
    let need = need(writing("neo4j"));
    until(async || {
        upstream.warm(&need.principal).await;
        let warm = |at: usize| {
            let pools = upstream.pools();
            pools.iter().any(|pool| pool.address() == cluster.address(at) && pool.counts().1 == 2)
        };
        (warm(0) && warm(1)).then_some(())
    })
    .await;
    let opened = cluster.script.lock().hellos.len();
    taker(&upstream, &need).await.unwrap();
    assert_eq!(cluster.script.lock().hellos.len(), opened, "the connection was there");
}

#[tokio::test]
async fn a_strange_hello_is_answered_by_whoever_can_be_reached() {
    let mut cluster = Cluster::start(2).await;
    let (upstream, _) = cluster.upstream(cluster.config(0));
    taker(&upstream, &need(writing("neo4j"))).await.unwrap();
    cluster.kill(0).await;
    let mut hello = BytesMut::new();
    put_message(Tag::HELLO.0, &[Value::map([("user_agent", 7.into())])], &mut hello);
    let answer = upstream.greet(Version::V5_8, &hello).await.unwrap().unwrap();
    assert_eq!(answer[1], Tag::SUCCESS.0);
    cluster.kill(1).await;
    assert!(upstream.greet(Version::V5_8, &hello).await.is_err());
}
