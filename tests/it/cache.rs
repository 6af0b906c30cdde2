//! The cache against real Neo4j: what is served is what Neo4j would say, and who may not see it does not.

use std::process::ExitCode;
use std::time::Duration;

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use sidebolt::cli::{self, InvalidateArgs};
use sidebolt::config::{CacheRule, Config, Consistency, Store, When};

use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Answer, Client};
use crate::support::sidebolt::Sidebolt;

const HITS: &str = "sidebolt_cache_hits_total";
const FILLS: &str = "sidebolt_cache_fills_total";

/// Other tests write to the same server, and each of their commits costs what is kept: it is tried for so long until some is served.
const ROUNDS: i64 = 300;

/// Answers are kept from their first use on, however cheap they are.
fn keep_all(config: &mut Config) {
    config.cache.rules = vec![CacheRule { store: Store::Always, ..CacheRule::default() }];
}

/// Nodes of a test's own.
async fn subject(neo4j: &Neo4j, test: &str) -> String {
    let label = format!("ItCache_{test}");
    neo4j.admin(&format!("MATCH (n:{label}) DETACH DELETE n")).await;
    neo4j.admin(&format!("UNWIND range(1, 5) AS id CREATE (:{label} {{id: id, v: id}})")).await;
    label
}

async fn client(sidebolt: &Sidebolt, neo4j: &Neo4j, version: Version) -> Client {
    Client::login(sidebolt.address, version, Neo4j::USER, &neo4j.password).await
}

fn records(answers: &[Answer]) -> Vec<&Answer> {
    answers.iter().filter(|answer| matches!(answer, Answer::Record(_))).collect()
}

/// Without times and bookmark, and in no order.
fn summary(answer: &Answer) -> Vec<(String, Value)> {
    let Value::Map(entries) = answer.success() else { panic!("{answer:?}") };
    let steady = |(key, _): &&(String, Value)| !["t_first", "t_last", "bookmark"].contains(&key.as_str());
    let mut entries: Vec<_> = entries.iter().filter(steady).cloned().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_is_what_neo4j_says() {
    for neo4j in Neo4j::all("cache::a_hit_is_what_neo4j_says") {
        let label = subject(&neo4j, "says").await;
        let text = format!("MATCH (n:{label}) WHERE n.id > $least RETURN n.id AS id, n ORDER BY id");
        let run = || run_with(&text, map([("least", Value::Integer(1))]), none());
        for version in [Version::V4_4, Version::new(5, 4), Version::V5_8] {
            // Other tests write to the same server: with `ttl` that is no concern of these answers.
            let sidebolt =
                Sidebolt::start(&neo4j.address, |config| config.cache.consistency = Consistency::Ttl).await;
            let mut direct = neo4j.client(version).await;
            let mut through = client(&sidebolt, &neo4j, version).await;
            for requests in [
                vec![run(), pull_all()],
                vec![run(), pull(2), pull(1), pull_all()],
                vec![run(), discard(-1)],
                vec![run(), pull(1), discard(-1)],
                vec![begin_with([("mode", "r".into())]), run(), pull(1000), commit()],
                vec![
                    begin_with([("mode", "r".into())]),
                    run(),
                    pull(1000),
                    run(),
                    pull(1),
                    pull(9),
                    commit(),
                ],
                vec![begin_with([("mode", "r".into())]), run(), pull(1), rollback()],
            ] {
                for _ in 0..5 {
                    let (a, b) = (direct.ask(&requests).await, through.ask(&requests).await);
                    assert_eq!(records(&a), records(&b), "{version}");
                    assert_eq!(a.len(), b.len(), "{version}");
                    for (a, b) in a.iter().zip(&b).filter(|(a, _)| a.is_success()) {
                        assert_eq!(summary(a), summary(b), "{version}");
                    }
                }
            }
            assert!(
                sidebolt.metric(HITS, "").await >= 3.0,
                "{version}: {:?}",
                sidebolt.metric(HITS, "").await
            );
            sidebolt.at_rest().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_others_are_seen_at_once() {
    for neo4j in Neo4j::all("cache::writes_of_others_are_seen_at_once") {
        let label = subject(&neo4j, "others").await;
        let sidebolt = Sidebolt::start(&neo4j.address, keep_all).await;
        let mut reader = client(&sidebolt, &neo4j, Version::V5_8).await;
        let mut other = neo4j.client(Version::V5_8).await;
        let text = format!("MATCH (n:{label} {{id: 1}}) RETURN n.v AS v");
        for v in 0..ROUNDS {
            other.query(&format!("MATCH (n:{label} {{id: 1}}) SET n.v = {v}")).await.unwrap();
            for _ in 0..4 {
                assert_eq!(reader.value(&text).await, Value::Integer(v));
            }
            if v >= 30 && sidebolt.metric(HITS, "").await >= 3.0 {
                break;
            }
        }
        assert!(sidebolt.metric(HITS, "").await >= 3.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_writes_spare_what_they_do_not_touch() {
    for neo4j in Neo4j::all("cache::own_writes_spare_what_they_do_not_touch") {
        let label = subject(&neo4j, "spares").await;
        // In `bounded` a reading is a moment old, and still own writes are seen.
        for consistency in [Consistency::Strict, Consistency::Bounded, Consistency::Ttl] {
            let sidebolt = Sidebolt::start(&neo4j.address, |config| {
                keep_all(config);
                config.cache.consistency = consistency;
            })
            .await;
            let mut session = client(&sidebolt, &neo4j, Version::V5_8).await;
            let kept = format!("MATCH (n:{label} {{id: 2}}) RETURN n.v AS v");
            let count = format!("MATCH (n:{label}_B) RETURN count(n) AS c");
            session.query(&format!("MATCH (n:{label}_B) DETACH DELETE n")).await.unwrap();
            session.query(&format!("CREATE (:{label}_B {{id: 0}})")).await.unwrap();
            for expected in 1..ROUNDS {
                for _ in 0..3 {
                    assert_eq!(session.value(&kept).await, Value::Integer(2), "{consistency:?}");
                    assert_eq!(session.value(&count).await, Value::Integer(expected), "{consistency:?}");
                }
                session.query(&format!("CREATE (:{label}_B {{id: {expected}}})")).await.unwrap();
                if expected >= 20 && sidebolt.metric(HITS, "").await >= 3.0 {
                    break;
                }
            }
            assert!(sidebolt.metric(HITS, "").await >= 3.0, "{consistency:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_reads_that_come_together_run_once() {
    const CLIENTS: usize = 300;
    for neo4j in Neo4j::all("cache::equal_reads_that_come_together_run_once") {
        let label = subject(&neo4j, "together").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |_| {}).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(client(&sidebolt, &neo4j, Version::V5_8).await);
        }
        // The database is known from then on.
        clients[0].query(&format!("MATCH (n:{label}) RETURN count(n)")).await.unwrap();
        // Other tests write to the same server: an answer that a commit overtook is not kept, and one that was sent behind all
        // who wait answers them.
        for round in 0..4 {
            let before = sidebolt.metric(FILLS, "").await;
            let text = format!(
                "UNWIND range(1, 200000) AS x WITH sum(x) AS s MATCH (n:{label}) WITH s, count(n) AS c RETURN s + c + {round} AS c"
            );
            let asked = clients.drain(..).map(|mut client| {
                let text = text.clone();
                tokio::spawn(async move { (client.value(&text).await, client) })
            });
            for answer in asked.collect::<Vec<_>>() {
                let (value, client) = answer.await.unwrap();
                assert_eq!(value, Value::Integer(20_000_100_005 + round));
                clients.push(client);
            }
            let runs = sidebolt.metric(FILLS, "").await - before;
            assert!((1.0..=10.0).contains(&runs), "{runs} runs at Neo4j");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_belong_to_their_user_and_hints_are_heeded() {
    const TEXT: &str = "UNWIND range(1, 20000) AS x RETURN sum(x) AS s";
    for neo4j in Neo4j::all("cache::answers_belong_to_their_user_and_hints_are_heeded") {
        let name = "it_cache_ann";
        neo4j
            .system(&format!(
                "CREATE OR REPLACE USER {name} SET PASSWORD 'it-password-1' CHANGE NOT REQUIRED"
            ))
            .await;
        let sidebolt = Sidebolt::start(&neo4j.address, |_| {}).await;
        let mut one = client(&sidebolt, &neo4j, Version::V5_8).await;
        let mut hits = 0.0;
        for _ in 0..200 {
            one.value(TEXT).await;
            hits = sidebolt.metric(HITS, "").await;
            if hits > 0.0 {
                break;
            }
        }
        assert!(hits > 0.0);
        let mut ann = Client::login(sidebolt.address, Version::V5_8, name, "it-password-1").await;
        ann.value(TEXT).await;
        assert_eq!(sidebolt.metric(HITS, "").await, hits, "another user's answer is not served");
        one.value("RETURN 1 AS of_one").await;
        for (session, sees) in [(&mut one, true), (&mut ann, false)] {
            let rows = session.query("CALL sidebolt.cache() YIELD query").await.unwrap();
            let of_one = |row: &Vec<Value>| matches!(&row[0], Value::String(text) if text.contains("of_one"));
            assert_eq!(rows.iter().any(of_one), sees, "texts of others");
        }
        let off = map([("tx_metadata", map([("sidebolt", map([("cache", "off".into())]))]))]);
        one.query_with(run_with(TEXT, none(), off)).await.unwrap();
        assert_eq!(sidebolt.metric(HITS, "").await, hits, "who wants none gets none");
        neo4j.system(&format!("DROP USER {name} IF EXISTS")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decide_what_is_kept() {
    for neo4j in Neo4j::all("cache::rules_decide_what_is_kept") {
        let label = subject(&neo4j, "rules").await;
        let about = |label: &str, rule: CacheRule| CacheRule {
            when: When { label: Some(label.into()), ..When::default() },
            ..rule
        };
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.cache.rules = vec![
                about(&format!("{label}_Never"), CacheRule { store: Store::Never, ..CacheRule::default() }),
                about(
                    &label,
                    CacheRule {
                        store: Store::Always,
                        consistency: Some(Consistency::Ttl),
                        ttl: Some(Duration::from_secs(3600)),
                        ..CacheRule::default()
                    },
                ),
            ];
        })
        .await;
        let mut session = client(&sidebolt, &neo4j, Version::V5_8).await;
        // The first read tells which database it is.
        session.query("RETURN 1").await.unwrap();
        session.query("RETURN 1").await.unwrap();
        let never = format!("MATCH (n:{label}) OPTIONAL MATCH (m:{label}_Never) RETURN count(n) AS c");
        for _ in 0..4 {
            assert_eq!(session.value(&never).await, Value::Integer(5));
        }
        assert_eq!(sidebolt.metric(HITS, "").await, 0.0, "a rule forbids it");
        // Kept at its first use, although a probe is dearer.
        let always = format!("MATCH (n:{label} {{id: 1}}) RETURN n.v AS v");
        for _ in 0..3 {
            assert_eq!(session.value(&always).await, Value::Integer(1));
        }
        assert_eq!(sidebolt.metric(HITS, "").await, 2.0);
        // Somebody else's write is not seen within the ttl, our own is.
        neo4j.admin(&format!("MATCH (n:{label} {{id: 1}}) SET n.v = 7")).await;
        assert_eq!(session.value(&always).await, Value::Integer(1));
        session.query(&format!("MATCH (n:{label} {{id: 1}}) SET n.v = 8")).await.unwrap();
        assert_eq!(session.value(&always).await, Value::Integer(8));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_forgotten_by_hand() {
    for neo4j in Neo4j::all("cache::answers_are_forgotten_by_hand") {
        let label = subject(&neo4j, "forgotten").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.cache.consistency = Consistency::Ttl;
            config.cache.ttl = Duration::from_secs(3600);
        })
        .await;
        let mut session = client(&sidebolt, &neo4j, Version::V5_8).await;
        let text = format!("MATCH (n:{label} {{id: 1}}) RETURN n.v AS v");
        let other = "UNWIND range(1, 3) AS x RETURN sum(x) AS v";
        for _ in 0..4 {
            session.value(&text).await;
            session.value(other).await;
        }
        let admin = Some(sidebolt.admin().to_string());
        for by in ["call", "command"] {
            let expected = if by == "call" { 2 } else { 3 };
            neo4j.admin(&format!("MATCH (n:{label} {{id: 1}}) SET n.v = {expected}")).await;
            assert_ne!(session.value(&text).await, Value::Integer(expected), "kept for its ttl");
            if by == "call" {
                let call = format!("CALL sidebolt.cache.invalidate({{label: '{label}'}}) YIELD answers");
                assert_eq!(session.value(&call).await, Value::Integer(1));
            } else {
                let args =
                    InvalidateArgs { text: Some(label.clone()), admin: admin.clone(), ..Default::default() };
                assert_eq!(cli::invalidate(&args).await, ExitCode::SUCCESS);
            }
            assert_eq!(session.value(&text).await, Value::Integer(expected), "{by}");
            session.value(&text).await;
            session.value(&text).await;
        }
        let hits = sidebolt.metric(HITS, "").await;
        session.value(other).await;
        assert_eq!(sidebolt.metric(HITS, "").await, hits + 1.0, "what is about something else stays");
        let rows = session.query("CALL sidebolt.cache() YIELD query, answers, hits, reason").await.unwrap();
        let own = rows
            .iter()
            .find(|row| matches!(&row[0], Value::String(query) if query.contains(&label)))
            .unwrap();
        assert_eq!(own[1], Value::Integer(1));
        assert!(matches!(own[2], Value::Integer(hits) if hits >= 4), "{own:?}");
        assert_eq!(own[3], Value::Null);
        let nonsense = session.query("CALL sidebolt.cache.invalidate({lable: 'x'})").await.unwrap_err();
        assert_eq!(nonsense.code(), "Neo.ClientError.Statement.ArgumentError");
        let bad = InvalidateArgs { text: Some("(".into()), admin, ..Default::default() };
        assert_eq!(cli::invalidate(&bad).await, ExitCode::FAILURE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_are_compared_with_neo4j() {
    for neo4j in Neo4j::all("cache::hits_are_compared_with_neo4j") {
        let label = subject(&neo4j, "compared").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| config.cache.verify_every = 1).await;
        let mut session = client(&sidebolt, &neo4j, Version::V5_8).await;
        let text =
            format!("UNWIND range(1, 20000) AS x WITH sum(x) AS s MATCH (n:{label}) RETURN n.v AS v, s");
        // Other tests write to the same server, which overtakes some.
        let verified = "sidebolt_cache_verifications_total";
        for _ in 0..300 {
            assert_eq!(session.query(&text).await.unwrap().len(), 5);
            if sidebolt.metric(verified, "\"same\"").await >= 3.0 {
                break;
            }
        }
        assert!(sidebolt.metric(verified, "\"same\"").await >= 3.0);
        assert_eq!(sidebolt.metric(verified, "\"different\"").await, 0.0);
        assert_eq!(sidebolt.metric(HITS, "").await, 0.0, "each of them went to Neo4j");
    }
}
