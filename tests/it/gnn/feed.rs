//! Many rows for the rest of a query: batch by batch where it works row by row.

use bolt_wire::Tag;

use super::*;

const NODES: usize = 2500;
/// Rows that one statement may be given.
const MOST: usize = 1500;
const CALL: &str = "CALL gnn.fastRP.stream('g', {embeddingDimension: 2}) YIELD nodeId, embedding";

impl World {
    async fn of_many(
        server: Neo4j,
        label: &str,
        change: impl FnOnce(&mut sidebolt::config::Config),
    ) -> (Self, Client) {
        let world = Self::start_with(server, label, NODES, |config| {
            config.gnn.max_rows = MOST;
            change(config);
        })
        .await;
        let mut client = world.client(V).await;
        client.query(&world.project("g", "")).await.unwrap();
        (world, client)
    }

    /// A query behind the call.
    fn fed(&self, rest: &str) -> String {
        self.text(&format!("{CALL} {rest}"))
    }
}

fn fetch(tag: Tag, n: i64, qid: &Value) -> Vec<u8> {
    message(tag, &[map([("n", n.into()), ("qid", qid.clone())])])
}

fn rows(answers: &[Answer]) -> Vec<Vec<Value>> {
    let row = |answer: &Answer| match answer {
        Answer::Record(row) => Some(row.clone()),
        _ => None,
    };
    answers.iter().filter_map(row).collect()
}

/// The planner may turn them.
fn by_node(mut rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
    rows.sort_by_key(|row| row[0].as_integer());
    rows
}

fn has_more(answers: &[Answer]) -> bool {
    answers.last().unwrap().success().get("has_more") == Some(&true.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_go_into_the_rest_batch_by_batch() {
    for server in Neo4j::all("many_rows_go_into_the_rest_batch_by_batch") {
        let (world, _) = World::of_many(server, "Feed", |_| ()).await;
        let rest = "MATCH (n:LABEL) WHERE id(n) = nodeId RETURN nodeId, embedding, n.at * $p AS `a t`";
        for version in [V, Version::V4_4] {
            let mut client = world.client(version).await;
            let expected = by_node(client.query(CALL).await.unwrap());
            assert_eq!(expected.len(), NODES);
            let run = || run_with(&world.fed(rest), map([("p", 2.into())]), none());

            let answers = client.ask_all(&[run(), pull_all()]).await;
            let fields = answers[0].success().get("fields").and_then(Value::as_list).unwrap();
            assert_eq!(fields, ["nodeId".into(), "embedding".into(), Value::from("a t")]);
            let all = by_node(rows(&answers));
            assert!(all.iter().map(|row| &row[..2]).eq(expected.iter().map(|row| &row[..])));
            let at: i64 = all.iter().map(|row| row[2].as_integer().unwrap()).sum();
            assert_eq!(at, (NODES * (NODES - 1)) as i64);
            let summary = answers.last().unwrap().success();
            assert_eq!(summary.get("type").and_then(Value::as_str), Some("r"));
            for key in ["bookmark", "db", "t_last"] {
                assert!(summary.get(key).is_some(), "{key}: {summary:?}");
            }

            // Fetched as the client likes, across the edges of batches.
            let mut pieces = rows(&client.ask_all(&[run(), pull(1)]).await);
            loop {
                let answers = client.ask_all(&[pull(700)]).await;
                pieces.extend(rows(&answers));
                assert_eq!(has_more(&answers), pieces.len() < NODES);
                if pieces.len() >= NODES {
                    break;
                }
            }
            assert_eq!(by_node(pieces), all);
            for n in [-1, 1200] {
                let answers = client.ask_all(&[run(), pull(3), discard(n)]).await;
                assert_eq!((rows(&answers).len(), has_more(&answers)), (3, n > 0));
                if n > 0 {
                    assert_eq!(rows(&client.ask_all(&[pull_all()]).await).len(), NODES - 1203);
                }
            }
            // What no row gives is nothing.
            assert!(client.query(&world.fed("WHERE nodeId < 0 RETURN nodeId")).await.unwrap().is_empty());
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_all_rows_gets_all_or_none() {
    for server in Neo4j::all("what_needs_all_rows_gets_all_or_none") {
        let (world, mut client) = World::of_many(server, "Whole", |_| ()).await;
        for rest in [
            "RETURN count(*) AS c",
            "RETURN DISTINCT nodeId % 2 AS even",
            "RETURN nodeId ORDER BY nodeId",
            "RETURN nodeId LIMIT 1",
            "WITH nodeId RETURN nodeId",
            "RETURN rand() AS r",
            "MATCH (n:LABEL) WHERE id(n) = nodeId SET n.fed = true",
        ] {
            let told = refused(&mut client, &world.fed(rest), FAILED).await;
            assert!(told.contains("gnn.max_rows is 1500"), "{rest}: {told}");
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_run_in_the_callers_transaction() {
    for server in Neo4j::all("batches_run_in_the_callers_transaction") {
        // With a cache a transaction that reads is begun here first.
        let (world, mut client) =
            World::of_many(server, "FeedTx", |config| config.cache.enabled = true).await;
        let rest = "MATCH (n:LABEL) WHERE id(n) = nodeId AND n.fed RETURN n.at";
        let answers =
            client.ask(&[begin(), run(&world.text("MATCH (n:LABEL) SET n.fed = true")), pull_all()]).await;
        assert!(answers.iter().all(Answer::is_success), "{answers:?}");
        assert_eq!(rows(&client.ask_all(&[run(&world.fed(rest)), pull_all()]).await).len(), NODES);
        assert!(client.one(rollback()).await.is_success());
        assert!(client.query(&world.fed(rest)).await.unwrap().is_empty());

        for mode in ["r", "w"] {
            assert!(client.one(begin_with([("mode", mode.into())])).await.is_success());
            let fed = client.ask_all(&[run(&world.fed("RETURN nodeId")), pull(10)]).await;
            let other = client.ask_all(&[run("UNWIND range(1, 3000) AS x RETURN x"), pull(10)]).await;
            let (fed_id, other_id) =
                (fed[0].success().get("qid").unwrap(), other[0].success().get("qid").unwrap());
            assert!(has_more(&fed) && has_more(&other) && fed_id != other_id);
            // More batches are run; what names no result still means the other one.
            let more = client.ask_all(&[fetch(Tag::PULL, 1500, fed_id)]).await;
            assert_eq!((rows(&more).len(), has_more(&more)), (1500, true));
            let next = rows(&client.ask_all(&[pull(2)]).await);
            assert_eq!(next, [[Value::Integer(11)], [Value::Integer(12)]]);
            let rest = client.ask_all(&[fetch(Tag::PULL, -1, fed_id)]).await;
            assert_eq!((rows(&rest).len(), has_more(&rest)), (NODES - 1510, false));
            assert!(rest.last().unwrap().success().get("bookmark").is_none());
            assert_eq!(rows(&client.ask_all(&[pull_all()]).await).len(), 2988);
            let third = client.ask_all(&[run("RETURN 3"), pull_all()]).await;
            assert_eq!(rows(&third), [[Value::Integer(3)]]);
            assert!(client.one(commit()).await.success().get("bookmark").is_some());
        }

        // What is not fetched to its end is nobody's after ROLLBACK.
        let answers = client.ask(&[begin(), run(&world.fed("RETURN nodeId")), pull(1000)]).await;
        assert!(answers.iter().all(Answer::is_success), "{answers:?}");
        assert!(
            client.one(fetch(Tag::DISCARD, -1, answers[1].success().get("qid").unwrap())).await.is_success()
        );
        assert!(client.one(rollback()).await.is_success());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_in_a_later_batch_is_told() {
    for server in Neo4j::all("what_goes_wrong_in_a_later_batch_is_told") {
        let (world, mut client) = World::of_many(server, "FeedWrong", |_| ()).await;
        let last = client.query(CALL).await.unwrap().pop().unwrap().swap_remove(0);
        let late = run_with(
            &world.fed("MATCH (n:LABEL) WHERE id(n) = nodeId RETURN 1 / (nodeId - $last) AS x"),
            map([("last", last)]),
            none(),
        );
        let missing = world.fed("RETURN nodeId, $missing AS x");
        for in_transaction in [false, true] {
            if in_transaction {
                assert!(client.one(begin()).await.is_success());
            }
            let answers = client.ask_all(&[late.clone(), pull_all()]).await;
            let failure = answers.last().unwrap();
            assert_eq!(failure.code(), "Neo.ClientError.Statement.ArithmeticError", "{failure:?}");
            assert!((2000..NODES).contains(&rows(&answers).len()), "{}", rows(&answers).len());
            assert!(client.one(reset()).await.is_success());
            if in_transaction {
                assert!(client.one(begin()).await.is_success());
            }
            let answers = client.ask_all(&[run(&missing), pull_all()]).await;
            assert_eq!(kinds(&answers), ["FAILURE", "IGNORED"]);
            assert_eq!(answers[0].code(), "Neo.ClientError.Statement.ParameterMissing");
            assert!(client.one(reset()).await.is_success());
            assert_eq!(client.value("RETURN 1").await, Value::Integer(1));
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_end_when_they_are_taken_back() {
    for server in Neo4j::all("batches_end_when_they_are_taken_back") {
        let (world, mut client) = World::of_many(server, "FeedBack", |_| ()).await;
        let long = world.fed("UNWIND range(1, 10000) AS i RETURN nodeId, i");
        for in_transaction in [false, true] {
            if in_transaction {
                assert!(client.one(begin()).await.is_success());
            }
            assert!(client.one(run(&long)).await.is_success());
            client.send(&pull_all()).await.unwrap();
            assert!(matches!(client.read().await, Answer::Record(_)));
            let answers = client.ask_all(&[reset()]).await;
            assert_eq!(answers.last(), Some(&Answer::Ignored), "{:?}", answers.last());
            assert!(rows(&answers).len() < NODES * 10000);
            assert!(client.read().await.is_success());
            assert_eq!(client.value("RETURN 1").await, Value::Integer(1));
        }
        // Somebody who goes away leaves nothing behind.
        let mut other = world.client(V).await;
        assert!(other.one(run(&long)).await.is_success());
        other.send(&pull_all()).await.unwrap();
        assert!(matches!(other.read().await, Answer::Record(_)));
        other.abort();
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_for_what_batches_give() {
    for server in Neo4j::all("limits_hold_for_what_batches_give") {
        let (world, mut client) =
            World::of_many(server, "FeedMost", |config| config.guard.max_result_rows = 2100).await;
        let run = || run_with(&world.fed("RETURN nodeId"), none(), map([("mode", "r".into())]));
        let answers = client.ask_all(&[run(), pull_all()]).await;
        let failure = answers.last().unwrap();
        assert!(failure.text().contains("guard.max_result_rows"), "{failure:?}");
        assert!((2000..NODES).contains(&rows(&answers).len()));
        assert!(client.one(reset()).await.is_success());
        assert_eq!(rows(&client.ask_all(&[run(), pull(2000)]).await).len(), 2000);
        assert!(client.one(reset()).await.is_success());
        world.end().await;
    }
}
