//! The demo's Bolt server: loopback only, any credentials, Bolt 4.4 to 6.1, in front of the embedded engine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::bookmark::Bookmarks;
use super::connection::Connection;
use super::engine::Engine;

/// A running server. It stops, and closes its connections, when it is dropped.
#[derive(Debug)]
pub struct DemoServer {
    address: SocketAddr,
    stop: CancellationToken,
}

/// What all connections of a server share.
pub(super) struct Common {
    pub(super) engine: Engine,
    pub(super) bookmarks: Bookmarks,
    pub(super) connections: AtomicU64,
    pub(super) address: SocketAddr,
}

/// Connections at once.
const MAX_CONNECTIONS: usize = 512;
/// From accept to login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

impl DemoServer {
    /// Starts a server on a loopback port that the system chooses.
    pub async fn start(engine: Engine) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let common = Common { engine, bookmarks: Bookmarks::new(), connections: AtomicU64::new(0), address };
        tokio::spawn(accept(listener, Arc::new(common), stop.clone()));
        Ok(Self { address, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, common: Arc<Common>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: some time must pass before it can be better.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(limit = MAX_CONNECTIONS, "Demo server is full; a connection was closed");
            continue;
        };
        let (common, stop) = (Arc::clone(&common), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let number = common.connections.fetch_add(1, Ordering::Relaxed);
            let serve = async {
                let opened = tokio::time::timeout(LOGIN_TIMEOUT, Connection::open(stream, common, number));
                match opened.await {
                    Ok(Ok(Some(connection))) => connection.serve().await,
                    Ok(other) => other.map(drop),
                    Err(_) => Ok(()),
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                served = serve => if let Err(error) = served {
                    tracing::debug!(%error, connection = number, "Demo connection ended");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::Value;
    use bolt_wire::{Tag, Version};

    use super::super::engine::Waits;
    use super::*;
    use crate::bolt_client::{BoltClient, Choose, Message, Options};

    async fn server() -> DemoServer {
        server_with(Waits::default()).await
    }

    async fn server_with(waits: Waits) -> DemoServer {
        DemoServer::start(Engine::new(waits).unwrap()).await.unwrap()
    }

    async fn client(server: &DemoServer, version: Choose) -> BoltClient {
        let options = Options { version, ..Options::default() };
        BoltClient::connect(&server.address().to_string(), options).await.unwrap()
    }

    fn none() -> Value {
        Value::Map(Vec::new())
    }

    async fn count(client: &mut BoltClient, label: &str) -> i64 {
        let answer = client.query(&format!("MATCH (n:{label}) RETURN count(*) AS n")).await.unwrap();
        answer.value("n").unwrap().as_integer().unwrap()
    }

    #[tokio::test]
    async fn every_version_is_spoken() {
        let server = server().await;
        for version in Version::ALL {
            for choose in [Choose::Exactly(version), Choose::FromManifest(version)] {
                let mut client = client(&server, choose).await;
                assert_eq!(client.version(), version);
                let text = "CREATE (a:A {x: $x})-[r:R]->(b:B) RETURN a, r, $at AS at";
                let at = Value::Struct(0x49, [0, 0, 3600].map(Value::Integer).to_vec());
                let at = if version < Version::V5_0 {
                    Value::Struct(0x46, [3600, 0, 3600].map(Value::Integer).to_vec())
                } else {
                    at
                };
                let params = Value::map([("x", Value::Integer(1)), ("at", at.clone())]);
                let answer = client.run(text, params, none()).await.unwrap();
                assert_eq!(answer.keys, ["a", "r", "at"]);
                let fields = |key: &str| match answer.value(key) {
                    Some(Value::Struct(_, fields)) => fields.len(),
                    other => panic!("{other:?}"),
                };
                let five = version >= Version::V5_0;
                assert_eq!((fields("a"), fields("r")), if five { (4, 8) } else { (3, 5) });
                assert_eq!(answer.value("at"), Some(&at));
                assert_eq!(answer.counter("nodes-created"), 2);
                assert_eq!(answer.summary.get("type").and_then(Value::as_str), Some("rw"));
                let statuses = answer.summary.get("statuses").is_some();
                assert_eq!(statuses, version >= Version::new(5, 6));
                assert_eq!(answer.run.get("db").is_some(), version >= Version::V5_8);
                let failure = client.query("RETURN").await.unwrap_err();
                assert_eq!(failure.code(), Some("Neo.ClientError.Statement.SyntaxError"));
                assert_eq!(client.query("RETURN 1 AS one").await.unwrap().records, [[Value::Integer(1)]]);
                client.close().await;
            }
        }
    }

    #[tokio::test]
    async fn results_are_fetched_in_parts() {
        let server = server().await;
        let mut client = client(&server, Choose::Newest).await;
        client.send(Tag::RUN, &["UNWIND range(1, 5) AS x RETURN x".into(), none(), none()]);
        let n = |n| Value::map([("n", Value::Integer(n))]);
        client.send(Tag::PULL, &[n(2)]);
        client.send(Tag::PULL, &[n(1)]);
        client.send(Tag::DISCARD, &[n(-1)]);
        client.flush().await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(match client.receive().await.unwrap() {
                Message::Record(values) => values[0].as_integer().unwrap().to_string(),
                Message::Success(meta) if meta.get("fields").is_some() => "fields".to_owned(),
                Message::Success(meta) if meta.get("has_more").is_some() => "more".to_owned(),
                Message::Success(meta) => meta.get("type").unwrap().as_str().unwrap().to_owned(),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, ["fields", "1", "2", "more", "3", "more", "r"]);
    }

    #[tokio::test]
    async fn transactions_commit_roll_back_and_end_with_their_client() {
        let server = server().await;
        let (mut a, mut b) = (client(&server, Choose::Newest).await, client(&server, Choose::Newest).await);
        a.begin(none()).await.unwrap();
        a.query("CREATE (:T)").await.unwrap();
        assert_eq!((count(&mut a, "T").await, count(&mut b, "T").await), (1, 0));
        a.rollback().await.unwrap();
        assert_eq!(count(&mut b, "T").await, 0);

        a.begin(none()).await.unwrap();
        a.query("CREATE (:T)").await.unwrap();
        let bookmark = a.commit().await.unwrap().get("bookmark").cloned().unwrap();
        let after = Value::map([("bookmarks", Value::List(vec![bookmark]))]);
        let answer = b.run("MATCH (n:T) RETURN count(*) AS n", none(), after).await.unwrap();
        assert_eq!(answer.value("n"), Some(&Value::Integer(1)));

        a.begin(none()).await.unwrap();
        a.query("CREATE (:T)").await.unwrap();
        drop(a);
        // The writer's place is free again only when the transaction is gone.
        b.query("CREATE (:T)").await.unwrap();
        assert_eq!(count(&mut b, "T").await, 2);
        b.begin(none()).await.unwrap();
        b.query("CREATE (:T)").await.unwrap();
        assert!(b.query("RETURN 1/0").await.is_err());
        assert_eq!(count(&mut b, "T").await, 2);
    }

    #[tokio::test]
    async fn a_reset_overtakes_what_stands_before_it() {
        let server = server().await;
        let mut client = client(&server, Choose::Newest).await;
        client.send(Tag::RUN, &["CREATE (:T)".into(), none(), none()]);
        client.send(Tag::PULL, &[none()]);
        client.send(Tag::RESET, &[]);
        client.send(Tag::RESET, &[]);
        client.flush().await.unwrap();
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(client.receive().await.unwrap());
        }
        assert!(matches!(
            answers[..],
            [Message::Ignored, Message::Ignored, Message::Ignored, Message::Success(_)]
        ));
        assert_eq!(count(&mut client, "T").await, 0);
    }

    #[tokio::test]
    async fn a_failure_is_followed_by_ignored_until_reset() {
        let server = server().await;
        let mut client = client(&server, Choose::Newest).await;
        client.send(Tag::BEGIN, &[none()]);
        client.send(Tag::RUN, &["RETURN $nope".into(), none(), none()]);
        client.send(Tag::PULL, &[none()]);
        client.send(Tag::COMMIT, &[]);
        client.flush().await.unwrap();
        let mut tags = Vec::new();
        for _ in 0..4 {
            tags.push(match client.receive().await.unwrap() {
                Message::Success(_) => 'S',
                Message::Failure(meta) => {
                    assert_eq!(
                        meta.get("neo4j_code").and_then(Value::as_str),
                        Some("Neo.ClientError.Statement.ParameterMissing")
                    );
                    'F'
                }
                Message::Ignored => 'I',
                Message::Record(_) => 'R',
            });
        }
        assert_eq!(tags, ['S', 'F', 'I', 'I']);
        client.send(Tag::BEGIN, &[none()]);
        client.flush().await.unwrap();
        assert!(matches!(client.receive().await.unwrap(), Message::Failure(_)));
        assert!(client.receive().await.is_err(), "BEGIN in FAILED closes the connection");
    }

    #[tokio::test]
    async fn concurrent_merges_make_each_node_once() {
        let server = server().await;
        let mut first = client(&server, Choose::Newest).await;
        first.query("CREATE CONSTRAINT k FOR (n:M) REQUIRE n.k IS UNIQUE").await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut client = client(&server, Choose::Newest).await;
            tasks.spawn(async move {
                for key in 0..20 {
                    let text = "MERGE (n:M {k: $k}) SET n.times = coalesce(n.times, 0) + 1";
                    let params = Value::map([("k", Value::Integer(key))]);
                    client.run(text, params, none()).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let answer = first.query("MATCH (n:M) RETURN count(*) AS n, sum(n.times) AS times").await.unwrap();
        assert_eq!(answer.records, [[Value::Integer(20), Value::Integer(80)]]);
    }

    #[tokio::test]
    async fn a_writer_that_waits_too_long_may_try_again() {
        let short = Waits { writer: Duration::from_millis(50), ..Waits::default() };
        let server = server_with(short).await;
        let (mut a, mut b) = (client(&server, Choose::Newest).await, client(&server, Choose::Newest).await);
        a.begin(none()).await.unwrap();
        a.query("CREATE (:T)").await.unwrap();
        let failure = b.query("CREATE (:T)").await.unwrap_err();
        assert_eq!(failure.code(), Some("Neo.TransientError.Transaction.LockAcquisitionTimeout"));
        assert_eq!(count(&mut b, "T").await, 0);
        a.commit().await.unwrap();
        b.query("CREATE (:T)").await.unwrap();
        assert_eq!(count(&mut a, "T").await, 2);
    }

    #[tokio::test]
    async fn routing_echoes_the_address_and_other_databases_are_unknown() {
        let server = server().await;
        let mut client = client(&server, Choose::Newest).await;
        let table = client.route(Value::map([("address", "a.example:1".into())]), none()).await.unwrap();
        assert!(format!("{table:?}").contains("a.example:1"));
        let other = Value::map([("db", "other".into())]);
        let failure = client.run("RETURN 1", none(), other).await.unwrap_err();
        assert_eq!(failure.code(), Some("Neo.ClientError.Database.DatabaseNotFound"));
        let read = Value::map([("mode", "r".into())]);
        let failure = client.run("CREATE (:T)", none(), read).await.unwrap_err();
        assert_eq!(failure.code(), Some("Neo.ClientError.Statement.AccessMode"));
    }
}
