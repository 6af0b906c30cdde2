//! Auto-commit statements that fail for a passing reason are run again, and nothing else is.

use std::time::Duration;

use bolt_wire::packstream::Value;

use super::{V, login};
use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, within_async};

const DEADLOCK: &str = "Neo.TransientError.Transaction.DeadlockDetected";

async fn sidebolt(peer: &Peer) -> Sidebolt {
    Sidebolt::start(peer.address, |config| config.retry.delay = Duration::from_millis(5)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_passing_is_run_again() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = sidebolt(&peer).await;
    let mut client = login(&sidebolt, "ada").await;
    let text = format!("fails 2 {DEADLOCK} | rows 3");
    assert_eq!(client.query(&text).await.unwrap().len(), 3);
    assert_eq!(peer.statements().len(), 3);
    // A RUN alone, and its PULL only when it was answered.
    let slow = format!("ok, fails 1 {DEADLOCK} | rows 2");
    assert!(client.one(run(&slow)).await.is_success());
    assert_eq!(kinds(&client.ask_all(&[pull_all()]).await), ["RECORD", "RECORD", "SUCCESS"]);
    // The last failure is the client's own, word for word.
    let never = format!("fails 4 {DEADLOCK} | rows 1");
    assert_eq!(client.query(&never).await.unwrap_err().code(), DEADLOCK);
    assert_eq!(sidebolt.metric("sidebolt_retries_total", "done").await, 6.0);
    assert!(client.query("ok | rows 1").await.is_ok());
    sidebolt.at_rest().await;
    // Connections on which something failed are cleaned and used again.
    assert_eq!(sidebolt.metric("sidebolt_pool_closed_total", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_done_something_or_will_fail_again_is_not() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = sidebolt(&peer).await;
    let mut client = login(&sidebolt, "ada").await;
    for text in [
        format!("fails 1 {DEADLOCK} | rows 1 /* CALL {{ }} IN TRANSACTIONS */"),
        "fails 1 Neo.TransientError.Cluster.ReplicationFailure | rows 1".to_owned(),
        "fails 1 Neo.TransientError.Transaction.BookmarkTimeout | rows 1".to_owned(),
        "fails 1 Neo.ClientError.Statement.SyntaxError | rows 1".to_owned(),
        // Its RUN was answered.
        format!("ok | rows 1, fail {DEADLOCK}"),
    ] {
        assert!(client.query(&text).await.is_err(), "{text}");
    }
    assert_eq!(peer.statements().len(), 5);
    // A transaction is its driver's to run again.
    assert!(client.one(begin()).await.is_success());
    assert_eq!(client.query(&format!("fails 1 {DEADLOCK} | rows 1")).await.unwrap_err().code(), DEADLOCK);
    assert_eq!(sidebolt.metric("sidebolt_retries_total", "").await, 0.0);

    let off = Sidebolt::start(peer.address, |config| config.retry.attempts = 0).await;
    let mut client = login(&off, "ada").await;
    assert!(client.query(&format!("fails 1 {DEADLOCK} | rows 7")).await.is_err());
    off.at_rest().await;
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_budget_is_run_again() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = sidebolt(&peer).await;
    let mut client = login(&sidebolt, "ada").await;
    for at in 0..20 {
        let failure = client.query(&format!("fails 99 {DEADLOCK} | rows {at}")).await.unwrap_err();
        assert_eq!(failure.code(), DEADLOCK);
    }
    let done = sidebolt.metric("sidebolt_retries_total", "done").await;
    // Ten, and a tenth of twenty; twice that if ten seconds went by.
    assert!((10.0..=26.0).contains(&done), "{done}");
    assert!(sidebolt.metric("sidebolt_retries_total", "refused").await > 0.0);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_pause_takes_it_back() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| config.retry.delay = Duration::from_secs(60)).await;
    let mut client = login(&sidebolt, "ada").await;
    let text = format!("fails 1 {DEADLOCK} | rows 1");
    client.send(&[run(&text), pull_all()].concat()).await.unwrap();
    within_async(PATIENCE, "the failure", || async {
        sidebolt.metric("sidebolt_retries_total", "done").await > 0.0
    })
    .await;
    client.send(&reset()).await.unwrap();
    assert_eq!(kinds(&client.read_answers(3).await), ["IGNORED", "IGNORED", "SUCCESS"]);
    assert!(client.query("ok | rows 1").await.is_ok());
    // A client that goes away in the pause leaves nothing behind.
    let text = format!("fails 1 {DEADLOCK} | rows 9");
    client.send(&[run(&text), pull_all()].concat()).await.unwrap();
    within_async(PATIENCE, "the failure", || async {
        sidebolt.metric("sidebolt_retries_total", "done").await > 1.0
    })
    .await;
    drop(client);
    sidebolt.at_rest().await;
    assert_eq!(peer.statements().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_at_neo4j_goes_unseen() {
    for neo4j in Neo4j::all("guard::a_deadlock_at_neo4j_goes_unseen") {
        let sidebolt = Sidebolt::start(&neo4j.address, |_| ()).await;
        let label = format!("Dead{}", fastrand::u32(..));
        let mut first = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        let mut second = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        assert!(first.query(&format!("UNWIND [1, 2] AS k CREATE (:{label} {{k: k, v: 0}})")).await.is_ok());
        let add = |k: u32| format!("MATCH (n:{label} {{k: {k}}}) SET n.v = n.v + 1");
        assert!(first.one(begin()).await.is_success());
        assert!(first.query(&add(2)).await.is_ok());
        // It locks 1, takes its time, and wants 2, which closes the circle: it is the one that Neo4j lets fail.
        let closing = format!(
            "MATCH (a:{label} {{k: 1}}) SET a.v = a.v + 1 WITH a UNWIND range(1, 3000000) AS x WITH a, count(x) AS c \
             MATCH (b:{label} {{k: 2}}) SET b.v = b.v + 1"
        );
        second.send(&[run(&closing), pull_all()].concat()).await.unwrap();
        within_async(PATIENCE, "its lock", || async {
            let locks = neo4j.admin("SHOW TRANSACTIONS YIELD currentQuery, activeLockCount").await;
            let holds = |row: &Vec<Value>| {
                row[0].as_str().is_some_and(|text| text.contains(&label) && text.contains("3000000"))
                    && row[1].as_integer() > Some(0)
            };
            locks.iter().any(holds)
        })
        .await;
        assert!(first.query(&add(1)).await.is_ok());
        assert!(first.one(commit()).await.is_success());
        let answers = second.read_answers(2).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS"], "{answers:?}");
        let values = first.query(&format!("MATCH (n:{label}) RETURN collect(n.v)")).await.unwrap();
        assert_eq!(values, [[Value::List(vec![2.into(), 2.into()])]]);
        assert_eq!(sidebolt.metric("sidebolt_retries_total", "done").await, 1.0);
        assert!(first.query(&format!("MATCH (n:{label}) DELETE n")).await.is_ok());
        sidebolt.at_rest().await;
    }
}
