//! What is seen of the queries: counted once each, whoever answers them, and shown to whom they belong.

use std::collections::HashMap;
use std::sync::Arc;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use parking_lot::Mutex;
use sidebolt::config::{Config, Parameters, SlowRule, When};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, within_async};

const V: Version = Version::V5_8;

async fn pair(config: impl FnOnce(&mut Config)) -> (Peer, Sidebolt) {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, config).await;
    (peer, sidebolt)
}

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

/// The rows of a procedure, each by its columns' names.
async fn table(client: &mut Client, text: &str) -> Vec<HashMap<String, Value>> {
    let answers = client.ask_all(&[run(text), pull_all()]).await;
    let fields = answers[0].success().get("fields").and_then(Value::as_list).unwrap().to_vec();
    let rows = answers.iter().filter_map(|answer| match answer {
        crate::support::raw_client::Answer::Record(row) => Some(row),
        _ => None,
    });
    let names = fields.iter().map(|name| name.as_str().unwrap().to_owned());
    rows.map(|row| names.clone().zip(row.iter().cloned()).collect()).collect()
}

/// The row of a text, once there is one with so many calls.
async fn row(client: &mut Client, text: &str, calls: i64) -> HashMap<String, Value> {
    let mut last = Vec::new();
    let client = tokio::sync::Mutex::new(client);
    let found = tokio::sync::Mutex::new(None);
    within_async(PATIENCE, text, || async {
        let rows = table(*client.lock().await, "CALL sidebolt.queries()").await;
        let row = rows.into_iter().find(|row| row["text"] == text.into() && row["calls"] == calls.into());
        let is_there = row.is_some();
        *found.lock().await = row;
        is_there
    })
    .await;
    last.push(found.into_inner().unwrap());
    last.remove(0)
}

fn number(row: &HashMap<String, Value>, name: &str) -> i64 {
    row[name].as_integer().unwrap_or_else(|| panic!("{name}: {:?}", row[name]))
}

fn float(row: &HashMap<String, Value>, name: &str) -> f64 {
    match row[name] {
        Value::Float(value) => value,
        ref other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_counted_once() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let mut client = client(&sidebolt).await;
    // Outside of a transaction, whole and in pieces.
    for _ in 0..3 {
        client.query("ok | rows 5").await.unwrap();
    }
    let requests = [run("ok | rows 5"), pull(2), pull(2), pull(2)];
    let answers = client.ask_all(&requests).await;
    assert_eq!(kinds(&answers).last(), Some(&"SUCCESS"));
    let seen = row(&mut client, "ok | rows $?", 4).await;
    assert_eq!((number(&seen, "rows"), number(&seen, "failures")), (20, 0), "{seen:?}");
    assert!(number(&seen, "bytes") > 20 && float(&seen, "p50Ms") > 0.0, "{seen:?}");
    assert!(float(&seen, "minMs") <= float(&seen, "p50Ms") * 1.01 && float(&seen, "p99Ms") > 0.0);
    assert_eq!((&seen["user"], &seen["database"]), (&"user".into(), &Value::Null));
    assert!(seen["lastSeen"].as_str().unwrap() >= seen["firstSeen"].as_str().unwrap());

    // In a transaction, all at once; the last result is not read.
    let requests = [
        begin_with([("db", "movies".into())]),
        run("ok | rows 7"),
        pull_all(),
        run("ok | big 1000, rows 2"),
        pull(1),
        pull(5),
        run("ok | rows 9, rows 1"),
        commit(),
    ];
    let answers = client.ask_all(&requests).await;
    assert!(
        answers.iter().filter(|answer| answer.is_last()).all(|answer| answer.is_success()),
        "{answers:?}"
    );
    let seen = row(&mut client, "ok | rows $?", 1).await;
    assert_eq!((number(&seen, "rows"), &seen["database"]), (7, &"movies".into()), "{seen:?}");
    let seen = row(&mut client, "ok | big $?, rows $?", 1).await;
    assert!(number(&seen, "rows") == 3 && number(&seen, "bytes") > 1000, "{seen:?}");
    let seen = row(&mut client, "ok | rows $?, rows $?", 1).await;
    assert_eq!((number(&seen, "rows"), number(&seen, "failures")), (0, 0), "{seen:?}");

    // A failure, and what is ignored behind it.
    let answers = client.ask_all(&[run("fail Neo.ClientError.X.Y | a"), pull_all()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "IGNORED"]);
    client.one(reset()).await;
    let answers =
        client.ask_all(&[begin(), run("ok | fail Neo.E.E.E"), pull_all(), run("ok | ignored")]).await;
    assert_eq!(kinds(&answers)[2..], ["FAILURE", "IGNORED"]);
    client.one(reset()).await;
    let seen = row(&mut client, "fail Neo.ClientError.X.Y | a", 1).await;
    assert_eq!((number(&seen, "failures"), &seen["lastFailure"]), (1, &"Neo.ClientError.X.Y".into()));
    let seen = row(&mut client, "ok | fail Neo.E.E.E", 1).await;
    assert_eq!(number(&seen, "failures"), 1);
    let rows = table(&mut client, "CALL sidebolt.queries() YIELD text").await;
    assert!(!rows.iter().any(|row| row["text"] == "ok | ignored".into()), "it was never run");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_early_is_counted_too() {
    let (peer, sidebolt) = pair(|config| {
        config.pool.max_connection_pool_size = 2;
        config.pool.max_waiting = 0;
        config.limits.max_inspected_request = 10_000;
    })
    .await;
    let mut client = client(&sidebolt).await;
    let mut watcher = Client::login(sidebolt.address, V, "user", "password").await;
    // Taken back.
    client.send(&[run("ok | rows 3, hang"), pull_all()].concat()).await.unwrap();
    within_async(PATIENCE, "the request arrives", || async { peer.count(Tag::PULL) == 1 }).await;
    client.send(&reset()).await.unwrap();
    assert_eq!(kinds(&client.read_answers(3).await).last(), Some(&"SUCCESS"));
    // Too large to be looked into: it is not counted, and what follows is not counted wrongly.
    let large = run_with("ok | rows 4", map([("p", "x".repeat(2_000_000).into())]), none());
    let answers = client.ask_all(&[large, pull_all()]).await;
    assert_eq!(kinds(&answers).last(), Some(&"SUCCESS"));
    // A client that vanishes, and connections that are all in use.
    let mut gone = Client::login(sidebolt.address, V, "user", "password").await;
    gone.send(&[run("ok | rows 1, hang"), pull_all()].concat()).await.unwrap();
    let mut other = Client::login(sidebolt.address, V, "user", "password").await;
    other.send(&[begin(), run("ok | rows 6"), pull_all()].concat()).await.unwrap();
    within_async(PATIENCE, "the requests arrive", || async { peer.count(Tag::PULL) == 4 }).await;
    let refused = watcher.ask_all(&[run("ok | refused"), pull_all()]).await;
    assert_eq!(kinds(&refused), ["FAILURE", "IGNORED"]);
    watcher.one(reset()).await;
    gone.abort();
    other.one(commit()).await;
    let seen = row(&mut watcher, "ok | rows $?, hang", 2).await;
    assert_eq!(number(&seen, "interrupted"), 2, "{seen:?}");
    let seen = row(&mut watcher, "ok | refused", 1).await;
    assert_eq!((number(&seen, "refused"), number(&seen, "rows")), (1, 0));
    let seen = row(&mut watcher, "ok | rows $?", 1).await;
    assert_eq!(number(&seen, "rows"), 6, "{seen:?}");
    drop(client);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_what_follows_the_configuration() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let mut ann = Client::login(sidebolt.address, V, "ann", "a").await;
    let mut bob = Client::login(sidebolt.address, V, "bob", "b").await;
    ann.query("ok | big 4242").await.unwrap();
    bob.query("ok | rows 2").await.unwrap();
    row(&mut ann, "ok | big $?", 1).await;
    row(&mut bob, "ok | rows $?", 1).await;
    assert_eq!(table(&mut ann, "CALL sidebolt.queries()").await.len(), 1);
    assert_eq!(table(&mut bob, "CALL sidebolt.queries()").await.len(), 1);
    sidebolt.reconfigure(|config| config.sight.observers = Some("bob".to_owned()));
    let all = table(&mut bob, "CALL sidebolt.queries()").await;
    assert_eq!(all.len(), 2);
    assert!(!format!("{all:?}").contains("4242"), "values are not shown: {all:?}");
    assert_eq!(table(&mut ann, "CALL sidebolt.queries()").await.len(), 1);
    // Who may not see it cannot forget it.
    let forgotten = table(&mut ann, "CALL sidebolt.queries.reset()").await;
    assert_eq!(number(&forgotten[0], "forgotten"), 1);
    assert_eq!(table(&mut bob, "CALL sidebolt.queries()").await.len(), 1);
    assert_eq!(sidebolt.metric("sidebolt_queries_known", "").await, 1.0);
    // Switched off, and on again.
    sidebolt.reconfigure(|config| config.sight.enabled = false);
    ann.query("ok | rows 3").await.unwrap();
    sidebolt.reconfigure(|config| config.sight.enabled = true);
    ann.query("ok | rows 4").await.unwrap();
    row(&mut ann, "ok | rows $?", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_neo4j_is_seen_through_cache_and_batches() {
    for neo4j in Neo4j::all("sight::real_neo4j_is_seen_through_cache_and_batches") {
        let sidebolt = Sidebolt::start(&neo4j.address, |_| ()).await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        let mut client = login().await;
        let text = "MATCH (n:SightNone {id: $id}) RETURN n.id AS id";
        let ask = || run_with(text, map([("id", 1.into())]), none());
        for _ in 0..20 {
            client.query_with(ask()).await.unwrap();
        }
        let seen = row(&mut client, text, 20).await;
        assert_eq!((number(&seen, "rows"), number(&seen, "failures")), (0, 0), "{seen:?}");
        let hits = sidebolt.metric("sidebolt_cache_hits_total", "").await;
        assert_eq!(number(&seen, "cached") as f64, hits, "{seen:?}");

        let merge = "MERGE (n:SightBatch {id: $id}) SET n.v = $v";
        let mut tasks = Vec::new();
        for id in 0..8 {
            let mut client = login().await;
            tasks.push(tokio::spawn(async move {
                for v in 0..25 {
                    let values = map([("id", id.into()), ("v", v.into())]);
                    client.query_with(run_with(merge, values, none())).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let seen = row(&mut client, merge, 200).await;
        assert_eq!(number(&seen, "failures"), 0);
        let rows = sidebolt.metric("sidebolt_coalesce_rows_total", "").await;
        assert_eq!(number(&seen, "batched") as f64, rows, "{seen:?}");
        // Results that are open at once, the later one read first, in pieces.
        let of = |tag: Tag, n: i64, qid: i64| message(tag, &[map([("n", n.into()), ("qid", qid.into())])]);
        let requests = [
            begin(),
            run("UNWIND range(1, 30) AS x RETURN x AS first"),
            run("UNWIND range(1, 20) AS x RETURN x AS second"),
            of(Tag::PULL, 15, 1),
            of(Tag::PULL, -1, 0),
            of(Tag::PULL, 15, 1),
            commit(),
        ];
        let answers = client.ask_all(&requests).await;
        assert!(answers.iter().filter(|answer| answer.is_last()).all(|answer| answer.is_success()));
        for (name, rows) in [("first", 30), ("second", 20)] {
            let text = format!("UNWIND range($?, $?) AS x RETURN x AS {name}");
            assert_eq!(number(&row(&mut client, &text, 1).await, "rows"), rows, "{name}");
        }
        let failing = "MATCH (n:SightNone {id: 'x'}) RETURN m";
        client.query(failing).await.unwrap_err();
        client.one(reset()).await;
        let seen = row(&mut client, "MATCH (n:SightNone {id: $?}) RETURN m", 1).await;
        assert_eq!(seen["lastFailure"], "Neo.ClientError.Statement.SyntaxError".into());
        neo4j.admin("MATCH (n:SightBatch) DETACH DELETE n").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_are_kept_and_say_where_the_time_went() {
    let (_peer, sidebolt) = pair(|config| {
        config.sight.slow_threshold = std::time::Duration::from_millis(20);
        config.sight.slow_kept = 3;
    })
    .await;
    let mut ann = Client::login(sidebolt.address, V, "ann", "a").await;
    let mut bob = Client::login(sidebolt.address, V, "bob", "b").await;
    let slow = |value: &str| {
        run_with("sleep 30 | rows 3, sleep 20, rows 1", map([("password", value.into())]), none())
    };
    ann.query("ok | rows 1").await.unwrap();
    assert!(table(&mut ann, "CALL sidebolt.slow()").await.is_empty());
    ann.query_with(slow("hunter2")).await.unwrap();
    let rows = table(&mut ann, "CALL sidebolt.slow()").await;
    let [seen] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(seen["text"], "sleep $? | rows $?, sleep $?, rows $?".into());
    assert_eq!(
        (number(seen, "rows"), &seen["answered"], &seen["outcome"]),
        (4, &"neo4j".into(), &"success".into())
    );
    assert!(float(seen, "firstMs") >= 29.0 && float(seen, "streamMs") >= 19.0, "{seen:?}");
    let sum = float(seen, "waitMs") + float(seen, "firstMs") + float(seen, "streamMs");
    assert!((sum - float(seen, "tookMs")).abs() < 0.01, "{seen:?}");
    assert_eq!(seen["parameters"], Value::Null);
    // What may be shown is the operator's choice.
    sidebolt.reconfigure(|config| config.sight.slow_parameters = Parameters::Names);
    ann.query_with(slow("hunter2")).await.unwrap();
    let rows = table(&mut ann, "CALL sidebolt.slow()").await;
    assert!(!format!("{rows:?}").contains("hunter2"), "{rows:?}");
    sidebolt.reconfigure(|config| config.sight.slow_parameters = Parameters::Full);
    ann.query_with(slow("hunter3")).await.unwrap();
    let rows = table(&mut ann, "CALL sidebolt.slow()").await;
    assert!(rows[0]["parameters"].as_str().unwrap().contains("hunter3"), "{rows:?}");
    assert_eq!(rows[0]["text"], "sleep 30 | rows 3, sleep 20, rows 1".into());
    // Nobody sees another's, and no more are kept than wanted.
    assert!(table(&mut bob, "CALL sidebolt.slow()").await.is_empty());
    for _ in 0..3 {
        bob.query_with(slow("x")).await.unwrap();
    }
    assert_eq!(table(&mut bob, "CALL sidebolt.slow()").await.len(), 3);
    assert!(table(&mut ann, "CALL sidebolt.slow()").await.is_empty());
    assert_eq!(sidebolt.metric("sidebolt_slow_requests_total", "").await, 6.0);
    sidebolt.reconfigure(|config| config.sight.slow_threshold = std::time::Duration::ZERO);
    bob.query_with(slow("x")).await.unwrap();
    assert_eq!(sidebolt.metric("sidebolt_slow_requests_total", "").await, 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_request_explains_itself() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let mut client = client(&sidebolt).await;
    let mut other = Client::login(sidebolt.address, V, "user", "password").await;
    const LAST: &str = "CALL sidebolt.explainLast()";
    assert!(table(&mut client, LAST).await.is_empty());
    client.query("ok | rows 5").await.unwrap();
    let rows = table(&mut client, LAST).await;
    assert_eq!((number(&rows[0], "rows"), &rows[0]["answered"]), (5, &"neo4j".into()));
    assert_eq!((&rows[0]["outcome"], &rows[0]["code"]), (&"success".into(), &Value::Null));
    assert!(rows[0]["notBatched"] != Value::Null, "{rows:?}");
    client.query("fail Neo.ClientError.X.Y | a").await.unwrap_err();
    client.one(reset()).await;
    // It is this connection's last one, and asking is no request.
    for _ in 0..2 {
        let rows = table(&mut client, LAST).await;
        assert_eq!(
            (&rows[0]["outcome"], &rows[0]["code"]),
            (&"failure".into(), &"Neo.ClientError.X.Y".into())
        );
    }
    assert!(table(&mut other, LAST).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_and_clients_are_shown() {
    let (_peer, sidebolt) = pair(|config| config.pool.max_connection_pool_size = 7).await;
    let mut ann = Client::login(sidebolt.address, V, "ann", "a").await;
    let mut bob = Client::login(sidebolt.address, V, "bob", "b").await;
    bob.ask_all(&[begin(), run("ok | rows 1"), pull_all()]).await;
    let pools = table(&mut ann, "CALL sidebolt.pools()").await;
    assert_eq!((pools.len(), number(&pools[0], "most"), number(&pools[0], "lent")), (1, 7, 1), "{pools:?}");
    let clients = table(&mut bob, "CALL sidebolt.clients()").await;
    assert_eq!(clients.len(), 1, "others are not shown: {clients:?}");
    assert_eq!((&clients[0]["user"], &clients[0]["state"]), (&"bob".into(), &"transaction".into()));
    let fingerprint = clients[0]["fingerprint"].as_str().unwrap().to_owned();
    bob.one(rollback()).await;
    let queries = table(&mut bob, "CALL sidebolt.queries()").await;
    assert_eq!(queries[0]["fingerprint"], fingerprint.as_str().into());
    sidebolt.reconfigure(|config| config.sight.observers = Some("ann".to_owned()));
    let clients = table(&mut ann, "CALL sidebolt.clients()").await;
    let users: Vec<_> = clients.iter().map(|client| client["user"].as_str().unwrap().to_owned()).collect();
    assert_eq!(users, ["ann", "bob"]);
    assert_eq!((&clients[0]["fingerprint"], &clients[1]["state"]), (&Value::Null, &"idle".into()));
    // Who has logged off is nobody.
    bob.one(logoff()).await;
    assert_eq!(table(&mut ann, "CALL sidebolt.clients()").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_plans_say_what_could_be_done() {
    for neo4j in Neo4j::all("sight::real_plans_say_what_could_be_done") {
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.sight.explain = true;
            config.sight.slow_threshold = std::time::Duration::from_nanos(1);
            config.cache.enabled = false;
        })
        .await;
        neo4j.admin("UNWIND range(1, 500) AS i CREATE (:SightPlan {id: i, `first name`: 'n' + i})").await;
        let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        for (text, advice) in [
            (
                "MATCH (n:SightPlan {id: 7}) RETURN n.id",
                "CREATE INDEX IF NOT EXISTS FOR (n:SightPlan) ON (n.id)",
            ),
            (
                "MATCH (n:SightPlan) WHERE n.`first name` STARTS WITH 'secret42' RETURN n.id",
                "CREATE INDEX IF NOT EXISTS FOR (n:SightPlan) ON (n.`first name`)",
            ),
            ("MATCH (a:SightPlan), (b:SightPlan) RETURN a.id, b.id LIMIT 3", "not connected"),
            ("MATCH (n) WHERE n.nothing = 1 RETURN n", "name a label"),
            ("MATCH (n:SightPlan {id: 1})-[*]->(m) RETURN m", "any length"),
            ("UNWIND range(1, 10001) AS x RETURN x", "with LIMIT"),
        ] {
            client.query(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
            let client = tokio::sync::Mutex::new(&mut client);
            within_async(PATIENCE, text, || async {
                let rows = table(*client.lock().await, "CALL sidebolt.slow()").await;
                let known: Vec<_> = rows.iter().filter_map(|row| row["advice"].as_str()).collect();
                assert!(!format!("{rows:?}").contains("secret42"), "{rows:?}");
                known.iter().any(|known| known.contains(advice))
            })
            .await;
        }
        // The same text with other values in it.
        let text = "MATCH (n:SightPlan {id: 8}) RETURN n.id AS other";
        client.query(text).await.unwrap();
        client.query(&text.replace('8', "9")).await.unwrap();
        // What is advised is what helps.
        let rows = table(&mut client, "CALL sidebolt.slow()").await;
        let advice =
            rows.iter().filter_map(|row| row["advice"].as_str()).find(|text| text.contains("(n.id)"));
        let (_, statement) = advice.unwrap().split_once("CREATE").unwrap();
        neo4j.admin(&format!("CREATE{statement}")).await;
        neo4j.admin("CALL db.awaitIndexes()").await;
        neo4j.admin("DROP INDEX sight_plan IF EXISTS").await;
        let indexes = neo4j
            .admin("SHOW INDEXES YIELD name, labelsOrTypes WHERE labelsOrTypes = ['SightPlan'] RETURN name")
            .await;
        assert_eq!(indexes.len(), 1);
        neo4j.admin(&format!("DROP INDEX {}", indexes[0][0].as_str().unwrap())).await;
        neo4j.admin("MATCH (n:SightPlan) DETACH DELETE n").await;
        sidebolt.at_rest().await;
    }
}

/// A server that takes POSTs and remembers their bodies.
async fn mailbox() -> (std::net::SocketAddr, Arc<Mutex<Vec<(String, serde_json::Value)>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let letters = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&letters);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            let letter = loop {
                let count = stream.read_buf(&mut read).await.unwrap();
                let text = String::from_utf8_lossy(&read).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str(body)
                {
                    break (head.lines().next().unwrap().to_owned(), body);
                }
                assert!(count > 0, "half a letter: {text}");
            };
            kept.lock().push(letter);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    });
    (address, letters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_index_is_detected_and_explained() {
    const INDEX: &str = "CREATE INDEX sight_drop IF NOT EXISTS FOR (n:SightDrop) ON (n.id)";
    for neo4j in Neo4j::all("sight::a_dropped_index_is_detected_and_explained") {
        let (address, letters) = mailbox().await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.cache.enabled = false;
            config.sight.explain = true;
            config.sight.compare_every = std::time::Duration::from_secs(1);
            config.sight.webhook = Some(format!("http://{address}/hook?key=x"));
            config.sight.alertmanager = Some(format!("http://{address}/am/"));
        })
        .await;
        neo4j.admin("UNWIND range(1, 30000) AS i CREATE (:SightDrop {id: i})").await;
        neo4j.admin(INDEX).await;
        neo4j.admin("CALL db.awaitIndexes()").await;
        let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        let mut asked = 0;
        let mut ask = async |client: &mut Client, until: &str| {
            // About a hundred a second, until the table says so.
            let started = tokio::time::Instant::now();
            loop {
                for _ in 0..30 {
                    asked += 1;
                    let values = map([("id", Value::Integer(asked % 30_000))]);
                    client
                        .query_with(run_with("MATCH (n:SightDrop {id: $id}) RETURN n.id", values, none()))
                        .await
                        .unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                let rows = table(client, "CALL sidebolt.baselines()").await;
                let row = rows.iter().find(|row| row["text"].as_str().unwrap().contains("SightDrop"));
                let level = row.map(|row| row["level"].as_str().unwrap_or("usual").to_owned());
                if level.as_deref().is_some_and(|level| until.contains(level)) {
                    return started.elapsed();
                }
                assert!(started.elapsed() < 4 * PATIENCE, "{until}: {rows:?}");
            }
        };
        ask(&mut client, "usual").await;
        neo4j.admin("DROP INDEX sight_drop").await;
        let took = ask(&mut client, "warning critical").await;
        println!("{:?}: found after {took:?}", neo4j.line);
        // It is explained to whoever looks, and to whom it is sent.
        let advice = "CREATE INDEX IF NOT EXISTS FOR (n:SightDrop) ON (n.id)";
        let alerts = table(&mut client, "CALL sidebolt.alerts()").await;
        assert!(alerts[0]["advice"].as_str().is_some_and(|text| text.contains(advice)), "{alerts:?}");
        within_async(PATIENCE, "letters", || async { letters.lock().len() >= 2 }).await;
        let sent = letters.lock().clone();
        for (line, body) in &sent {
            assert!(body.to_string().contains(advice), "{line} {body}");
        }
        let hook = sent.iter().find(|(line, _)| line == "POST /hook?key=x HTTP/1.1").expect("the webhook");
        assert_eq!((&hook.1["status"], &hook.1["kind"]), (&"firing".into(), &"slowdown".into()));
        let manager =
            sent.iter().find(|(line, _)| line == "POST /am/api/v2/alerts HTTP/1.1").expect("Alertmanager");
        assert_eq!(manager.1[0]["labels"]["alertname"], "SideboltSlowdown");
        assert!(sidebolt.metric("sidebolt_alerts", "").await >= 1.0);
        // With the index back it is over.
        neo4j.admin(INDEX).await;
        neo4j.admin("CALL db.awaitIndexes()").await;
        ask(&mut client, "usual").await;
        within_async(PATIENCE, "the end is told", || async {
            letters.lock().iter().any(|(_, body)| body["status"] == "resolved")
        })
        .await;
        neo4j.admin("DROP INDEX sight_drop").await;
        neo4j.admin("MATCH (n:SightDrop) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 10000 ROWS").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_hangs_holds_up_no_other_channel() {
    // Nobody accepts there; the kernel does.
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, letters) = mailbox().await;
    let (peer, sidebolt) = pair(|config| {
        config.sight.webhook = Some(format!("http://{}/", hangs.local_addr().unwrap()));
        config.sight.alertmanager = Some(format!("http://{address}/"));
    })
    .await;
    peer.kill().await;
    within_async(2 * PATIENCE, "Alertmanager knows", || async { !letters.lock().is_empty() }).await;
    let posts = async |channel: &str| sidebolt.metric("sidebolt_alert_posts_total", channel).await;
    assert_eq!(posts("webhook").await, 0.0, "it was not waited for");
    let (_, alerts) = letters.lock()[0].clone();
    assert_eq!(alerts[0]["labels"]["severity"], "emergency", "{alerts}");
    within_async(PATIENCE, "the webhook is given up", || async { posts("webhook").await == 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_neo4j_is_an_emergency_and_baselines_outlive_sidebolt() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("baselines.json");
    let (peer, sidebolt) = pair(|config| {
        config.sight.baseline_file = Some(file.clone());
        config.sight.compare_every = std::time::Duration::from_secs(1);
    })
    .await;
    let mut client = client(&sidebolt).await;
    for _ in 0..400 {
        client.query("ok | rows 1").await.unwrap();
    }
    within_async(2 * PATIENCE, "a baseline", || async {
        let mut client = Client::login(sidebolt.address, V, "user", "password").await;
        !table(&mut client, "CALL sidebolt.baselines()").await.is_empty()
    })
    .await;
    peer.kill().await;
    within_async(2 * PATIENCE, "the emergency", || async {
        sidebolt.metric("sidebolt_alerts", "emergency").await == 1.0
    })
    .await;
    peer.revive().await;
    within_async(2 * PATIENCE, "its end", || async {
        sidebolt.metric("sidebolt_alerts", "emergency").await == 0.0
    })
    .await;
    sidebolt.drain().await;
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("ok | rows $?") && !kept.contains("password"), "{kept}");
    let again = Sidebolt::start(peer.address, |config| config.sight.baseline_file = Some(file.clone())).await;
    let mut client = Client::login(again.address, V, "user", "password").await;
    let client = tokio::sync::Mutex::new(&mut client);
    within_async(PATIENCE, "what was kept", || async {
        table(*client.lock().await, "CALL sidebolt.baselines()").await.len() == 1
    })
    .await;
    let mut other = Client::login(again.address, V, "other", "password").await;
    assert!(table(&mut other, "CALL sidebolt.baselines()").await.is_empty());
    drop(again);
    // A file that is none is no reason not to start.
    std::fs::write(&file, "{").unwrap();
    let again = Sidebolt::start(peer.address, |config| config.sight.baseline_file = Some(file.clone())).await;
    let mut client = Client::login(again.address, V, "user", "password").await;
    assert!(table(&mut client, "CALL sidebolt.baselines()").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_may_take_longer_than_others() {
    let (_peer, sidebolt) = pair(|config| {
        let when = |text: &str, application: Option<&str>| When {
            text: Some(text.to_owned()),
            application: application.map(str::to_owned),
            ..When::default()
        };
        let rule = |when, seconds| SlowRule { when, threshold: std::time::Duration::from_secs(seconds) };
        config.sight.slow_threshold = std::time::Duration::from_nanos(1);
        config.sight.slow_rules = vec![
            rule(when("rows 2", Some("other*")), 3600),
            rule(when("rows 3", None), 3600),
            rule(when("rows 4", None), 0),
        ];
    })
    .await;
    let mut client = client(&sidebolt).await;
    for rows in 1..=4 {
        client.query(&format!("ok | rows {rows}")).await.unwrap();
    }
    let slow = table(&mut client, "CALL sidebolt.slow()").await;
    let rows: Vec<i64> = slow.iter().map(|slow| number(slow, "rows")).collect();
    assert_eq!(rows, [2, 1], "the latest first");
    let application = slow[0]["application"].as_str().unwrap().to_owned();
    assert!(!application.is_empty() && !application.contains('/'), "{application}");
    // A change counts at once.
    sidebolt.reconfigure(|config| config.sight.slow_rules.clear());
    client.query("ok | rows 3").await.unwrap();
    assert_eq!(table(&mut client, "CALL sidebolt.slow()").await.len(), 3);
}
