//! Group commit against real Neo4j: batches that are forced by a lane that is busy.

use std::time::Duration;

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use sidebolt::config::Config;

use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Answer, Client};
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, within_async};

const ROWS: &str = "sidebolt_coalesce_rows_total";
const WAITING: &str = "sidebolt_coalesce_waiting";

/// A label of this test's own with a unique `id`, and what writes to it.
struct Subject<'a> {
    neo4j: &'a Neo4j,
    label: String,
}

impl<'a> Subject<'a> {
    async fn new(neo4j: &'a Neo4j, test: &str) -> Self {
        let label = format!("It_{test}");
        neo4j.admin(&format!("MATCH (n:{label}) DETACH DELETE n")).await;
        neo4j
            .admin(&format!(
                "CREATE CONSTRAINT it_{test} IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE"
            ))
            .await;
        Self { neo4j, label }
    }

    fn merge(&self) -> String {
        format!("MERGE (n:{} {{id: $id}}) SET n += $props RETURN n.id, n.v AS v", self.label)
    }

    fn create(&self) -> String {
        format!("CREATE (n:{} {{id: $id}})", self.label)
    }

    /// RUN and PULL of the MERGE.
    fn write(&self, id: i64) -> [Vec<u8>; 2] {
        [run_with(&self.merge(), parameters(id), none()), pull(1000)]
    }

    /// Writes once and lets Sidebolt learn what the answer looks like.
    async fn teach(&self, sidebolt: &Sidebolt, version: Version) {
        let mut client = self.client(sidebolt, version).await;
        for id in [-1, -2] {
            assert!(well(&client.ask(&self.write(id)).await));
        }
    }

    async fn client(&self, sidebolt: &Sidebolt, version: Version) -> Client {
        Client::login(sidebolt.address, version, Neo4j::USER, &self.neo4j.password).await
    }

    async fn count(&self) -> i64 {
        let rows =
            self.neo4j.admin(&format!("MATCH (n:{}) WHERE n.id >= 0 RETURN count(n)", self.label)).await;
        rows.first().and_then(|row| row.first()).and_then(Value::as_integer).unwrap()
    }
}

fn parameters(id: i64) -> Value {
    map([("id", Value::Integer(id)), ("props", map([("v", Value::Integer(id * 10))]))])
}

/// True if there is no failure.
fn well(answers: &[Answer]) -> bool {
    !answers.is_empty()
        && answers.iter().all(|answer| matches!(answer, Answer::Record(_)) || answer.is_success())
}

/// A lane that is busy: somebody outside holds the lock that a client of Sidebolt's waits for.
struct Busy {
    outside: Client,
    inside: Client,
}

impl Busy {
    async fn new(subject: &Subject<'_>, sidebolt: &Sidebolt, version: Version) -> Self {
        let mut outside = subject.neo4j.client(Version::V5_8).await;
        outside.ask(&[begin()]).await;
        outside.ask(&subject.write(-1)).await;
        let mut inside = subject.client(sidebolt, version).await;
        inside.send(&subject.write(-1).concat()).await.unwrap();
        within_async(PATIENCE, "the blocked write to be under way", || async {
            sidebolt.metric("sidebolt_pinned_connections", "running").await > 0.0
        })
        .await;
        Self { outside, inside }
    }

    async fn release(mut self) {
        self.outside.ask(&[rollback()]).await;
        assert!(well(&self.inside.read_answers(2).await));
    }
}

fn one_single(config: &mut Config) {
    config.coalesce.singles = 1;
    // Who runs alone is waited for on a slow machine too.
    config.coalesce.patience = Duration::from_secs(2);
}

async fn batched(sidebolt: &Sidebolt) -> f64 {
    let metrics = sidebolt.metrics().await;
    metrics.iter().filter(|(name, _)| name.starts_with(ROWS)).map(|(_, value)| value).sum()
}

/// Every client of a batch gets its own records, counters and bookmark, in each version's own form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_its_own_answer() {
    for neo4j in Neo4j::all("coalesce::each_gets_its_own_answer") {
        for version in [Version::V4_4, Version::new(5, 4), Version::V5_8] {
            let subject = Subject::new(&neo4j, "own").await;
            let sidebolt = Sidebolt::start(&neo4j.address, one_single).await;
            subject.teach(&sidebolt, version).await;
            let busy = Busy::new(&subject, &sidebolt, version).await;
            let mut clients = Vec::new();
            for id in 0..8 {
                let mut client = subject.client(&sidebolt, version).await;
                client.send(&subject.write(id).concat()).await.unwrap();
                clients.push(client);
            }
            let mut direct = neo4j.client(version).await;
            let expected = direct.ask_all(&subject.write(100)).await;
            for (id, client) in clients.iter_mut().enumerate() {
                let id = id as i64;
                let answers = client.read_answers(2).await;
                let records: Vec<_> = answers
                    .iter()
                    .filter_map(|answer| match answer {
                        Answer::Record(values) => Some(values.clone()),
                        _ => None,
                    })
                    .collect();
                assert_eq!(records, [vec![Value::Integer(id), Value::Integer(id * 10)]], "{version}");
                let mine = answers.last().unwrap().success();
                let theirs = expected.last().unwrap().success();
                assert_eq!(mine.get("stats"), theirs.get("stats"), "{version}");
                for key in ["type", "db", "statuses", "notifications"] {
                    assert_eq!(mine.get(key), theirs.get(key), "{key} in {version}");
                }
                assert!(mine.get("bookmark").is_some());
                assert_eq!(
                    answers.first().unwrap().success().get("fields"),
                    expected.first().unwrap().success().get("fields")
                );
            }
            // On a slow machine some find the lane free again.
            assert!(batched(&sidebolt).await > 0.0, "they were batched");
            assert_eq!(sidebolt.metric("sidebolt_coalesce_ledger_mismatches_total", "").await, 0.0);
            busy.release().await;
        }
    }
}

/// The one whose write fails gets Neo4j's own error, and the others commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_member_fails_alone() {
    for neo4j in Neo4j::all("coalesce::a_poisoned_member_fails_alone") {
        let subject = Subject::new(&neo4j, "poison").await;
        let sidebolt = Sidebolt::start(&neo4j.address, one_single).await;
        subject.teach(&sidebolt, Version::V5_8).await;
        let busy = Busy::new(&subject, &sidebolt, Version::V5_8).await;
        let mut clients = Vec::new();
        for id in [0, 1, 2, -2, 3, 4] {
            let mut client = subject.client(&sidebolt, Version::V5_8).await;
            let text = subject.create();
            let run = run_with(&text, map([("id", Value::Integer(id))]), none());
            client.send(&[run, pull(1000)].concat()).await.unwrap();
            clients.push((id, client));
        }
        for (id, client) in &mut clients {
            let answers = client.read_answers(2).await;
            if *id == -2 {
                let failure = answers
                    .iter()
                    .find(|answer| !answer.is_success())
                    .unwrap_or_else(|| panic!("{answers:?}"));
                assert_eq!(failure.code(), "Neo.ClientError.Schema.ConstraintValidationFailed");
            } else {
                assert!(well(&answers), "{id}: {answers:?}");
            }
        }
        assert_eq!(subject.count().await, 5);
        assert!(batched(&sidebolt).await > 0.0, "they were batched");
        busy.release().await;
    }
}

/// Transactions of one write share a commit; who rolls back, goes on or vanishes takes nobody with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managed_transactions_share_a_commit() {
    for neo4j in Neo4j::all("coalesce::managed_transactions_share_a_commit") {
        let subject = Subject::new(&neo4j, "managed").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            one_single(config);
            // All of them are to be asked for their COMMIT, however slow this machine is.
            config.coalesce.max_commit_wait = Duration::from_secs(1);
        })
        .await;
        let version = Version::V5_8;
        let mut teacher = subject.client(&sidebolt, version).await;
        for id in [-1, -2] {
            let [write, fetch] = subject.write(id);
            assert!(well(&teacher.ask(&[begin(), write, fetch, commit()]).await));
        }
        // On a slow machine transactions that come one by one may find the lane free again.
        for round in 0.. {
            assert!(round < 20, "they never shared one");
            share(&subject, &sidebolt, &mut teacher, round).await;
            if batched(&sidebolt).await >= 3.0 {
                break;
            }
        }
    }
}

/// Six transactions beside one that keeps the lane busy: one vanishes, one rolls back, one goes on, three just commit.
async fn share(subject: &Subject<'_>, sidebolt: &Sidebolt, teacher: &mut Client, round: i64) {
    let before = subject.count().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(subject.client(sidebolt, Version::V5_8).await);
    }
    teacher.ask(&[telemetry(0), begin()]).await;
    for client in &mut clients {
        client.send(&[telemetry(0), begin()].concat()).await.unwrap();
    }
    for client in &mut clients {
        assert!(well(&client.read_answers(2).await));
    }
    for (id, client) in clients.iter_mut().enumerate() {
        client.send(&subject.write(round * 10 + id as i64).concat()).await.unwrap();
    }
    for client in &mut clients {
        let answers = client.read_answers(2).await;
        assert!(well(&answers), "{answers:?}");
    }
    assert_eq!(subject.count().await, before, "nothing is committed before COMMIT");
    let [mut first, gone, mut back, mut on, mut fifth, mut sixth] =
        <[Client; 6]>::try_from(clients).unwrap_or_else(|_| unreachable!("six were made"));
    gone.abort();
    assert!(back.one(rollback()).await.is_success());
    let more = on.ask(&[run("RETURN 1"), pull(-1)]).await;
    assert!(well(&more), "{more:?}");
    // At the same time: a shared transaction waits for all of them.
    for client in [&mut first, &mut on, &mut fifth, &mut sixth] {
        client.send(&commit()).await.unwrap();
    }
    for client in [&mut first, &mut on, &mut fifth, &mut sixth] {
        let answer = client.next().await;
        assert!(answer.success().get("bookmark").is_some(), "{answer:?}");
    }
    assert_eq!(subject.count().await, before + 4);
    assert!(teacher.one(rollback()).await.is_success());
}

/// Deferred writes are there at the next read, fail at the next answer, and are nothing after ROLLBACK; Neo4j never sees the hint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_writes_come_before_what_follows() {
    for neo4j in Neo4j::all("coalesce::deferred_writes_come_before_what_follows") {
        let subject = Subject::new(&neo4j, "deferred").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |_| ()).await;
        let hint = || map([("coalesce", Value::from("deferred"))]);
        let begin = || begin_with([("tx_metadata", map([("sidebolt", hint()), ("app", "it".into())]))]);
        let create = |id: i64| {
            [run_with(&subject.create(), map([("id", Value::Integer(id))]), none()), pull(1000)].concat()
        };
        let mut client = subject.client(&sidebolt, Version::V5_8).await;
        assert!(client.one(begin()).await.is_success());
        for id in 0..50 {
            client.send(&create(id)).await.unwrap();
            let answers = client.read_answers(2).await;
            assert!(answers.last().unwrap().success().get("stats").is_none(), "no counter is invented");
        }
        let text = format!("MATCH (n:{}) WHERE n.id >= 0 RETURN count(n)", subject.label);
        assert_eq!(client.query(&text).await.unwrap(), [[Value::Integer(50)]]);
        let metadata = client.query("CALL tx.getMetaData() YIELD metadata RETURN metadata").await.unwrap();
        assert_eq!(metadata, [[map([("app", "it".into())])]]);
        assert!(client.one(commit()).await.is_success());
        assert_eq!(subject.count().await, 50);
        assert_eq!(sidebolt.metric(ROWS, "deferred").await, 50.0);

        for end in [commit(), run("RETURN 1")] {
            assert!(client.one(begin()).await.is_success());
            for id in [60, 61, 62, 0] {
                client.send(&create(id)).await.unwrap();
                assert!(well(&client.read_answers(2).await));
            }
            let answer = client.one(end).await;
            assert_eq!(answer.code(), "Neo.ClientError.Schema.ConstraintValidationFailed");
            assert!(client.one(reset()).await.is_success());
        }
        assert!(client.one(begin()).await.is_success());
        client.send(&create(70)).await.unwrap();
        client.read_answers(2).await;
        assert!(client.one(rollback()).await.is_success());
        assert_eq!(subject.count().await, 50);

        let nonsense = map([("sidebolt", map([("coalesce", "perhaps".into())]))]);
        let answer = client.one(begin_with([("tx_metadata", nonsense)])).await;
        assert_eq!(answer.code(), "Neo.ClientError.Statement.ArgumentError");
        assert!(answer.text().contains("perhaps"), "{}", answer.text());
    }
}

/// A write that its client takes back with RESET before a batch has it is not done; a lane that is off is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_switched_off_does_not_gather() {
    for neo4j in Neo4j::all("coalesce::what_is_switched_off_does_not_gather") {
        let subject = Subject::new(&neo4j, "off").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            one_single(config);
            config.coalesce.enabled = false;
        })
        .await;
        subject.teach(&sidebolt, Version::V5_8).await;
        let busy = Busy::new(&subject, &sidebolt, Version::V5_8).await;
        let mut client = subject.client(&sidebolt, Version::V5_8).await;
        assert!(well(&client.ask(&subject.write(1)).await));
        assert_eq!((batched(&sidebolt).await, sidebolt.metric(WAITING, "").await), (0.0, 0.0));
        busy.release().await;
    }
}
