//! Time-outs and sizes: what a transaction may take, and what a client hears of it.

use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::packstream::Value;

use super::{V, login, refused_as};
use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Client, kinds};
use crate::support::scripted::{Peer, What};
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, within_async};

const TOO_LARGE: &str = "Neo.ClientError.General.LimitExceeded";
const TIMED_OUT: &str = "Neo.ClientError.Transaction.TransactionTimedOut";

/// The time-outs that came, of RUNs and BEGINs that name a mode.
fn timeouts(peer: &Peer) -> Vec<Option<i64>> {
    let timeout = |what: What| match what {
        What::Message(Tag::RUN | Tag::BEGIN, fields) => {
            let extra = fields.last().cloned().filter(|extra| extra.get("mode").is_some())?;
            Some(extra.get("tx_timeout").and_then(Value::as_integer))
        }
        _ => None,
    };
    peer.log().into_iter().filter_map(|seen| timeout(seen.what)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_outs_are_given_and_capped() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.guard.tx_timeout = Duration::from_secs(10);
        config.guard.max_tx_timeout = Duration::from_secs(60);
        config.coalesce.enabled = false;
    })
    .await;
    let mut client = login(&sidebolt, "ada").await;
    let named = |timeout: Option<Value>| {
        let entries =
            [("mode", "w".into())].into_iter().chain(timeout.map(|timeout| ("tx_timeout", timeout)));
        entries.collect::<Vec<_>>()
    };
    for timeout in [None, Some(0.into()), Some(5_000.into()), Some(99_000.into()), Some(Value::Null)] {
        let answers = client.ask(&[run_with("ok |", none(), map(named(timeout.clone()))), pull_all()]).await;
        assert!(answers[0].is_success());
        assert!(client.one(begin_with(named(timeout))).await.is_success());
        assert!(client.query("ok |").await.is_ok());
        assert!(client.one(commit()).await.is_success());
    }
    let expected = [10_000, 60_000, 5_000, 60_000, 10_000];
    let twice: Vec<_> = expected.into_iter().flat_map(|timeout| [Some(timeout), Some(timeout)]).collect();
    assert_eq!(timeouts(&peer), twice);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neo4j_ends_what_takes_too_long() {
    for neo4j in Neo4j::all("guard::neo4j_ends_what_takes_too_long") {
        let sidebolt =
            Sidebolt::start(&neo4j.address, |config| config.guard.tx_timeout = Duration::from_millis(300))
                .await;
        let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        let long = "UNWIND range(1, 1000000000) AS x WITH x WHERE x < 0 RETURN count(x)";
        let failure = client.query(long).await.unwrap_err();
        assert!(failure.code().starts_with(TIMED_OUT), "{failure:?}");
        assert!(client.one(reset()).await.is_success());
        assert!(client.query("RETURN 1").await.is_ok());
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_transaction_is_rolled_back_and_its_client_told() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.guard.idle_transaction_timeout = Duration::from_millis(200);
        config.limits.max_inspected_request = 4096;
        config.coalesce.enabled = false;
    })
    .await;
    let large = run_with("ok |", map([("p", "x".repeat(10_000).into())]), none());
    for (requests, expected) in [
        (vec![run("RETURN 1"), pull_all(), commit()], vec!["FAILURE", "IGNORED", "IGNORED"]),
        (vec![commit()], vec!["FAILURE"]),
        (vec![large, pull_all()], vec!["FAILURE", "IGNORED"]),
        (vec![rollback()], vec!["SUCCESS"]),
        (vec![reset()], vec!["SUCCESS"]),
    ] {
        peer.forget();
        let mut client = login(&sidebolt, "ada").await;
        assert!(client.one(begin()).await.is_success());
        assert!(client.query("ok |").await.is_ok());
        within_async(PATIENCE, "it is rolled back", || {
            let metric = sidebolt.metric("sidebolt_pinned_connections", "");
            async move { metric.await == 0.0 }
        })
        .await;
        let answers = client.ask(&requests).await;
        assert_eq!(kinds(&answers), expected, "{answers:?}");
        if expected[0] == "FAILURE" {
            assert_eq!(answers[0].code(), TIMED_OUT);
            assert!(client.one(reset()).await.is_success());
        }
        assert_eq!(peer.count(Tag::COMMIT), 0);
        assert!(client.query("RETURN 1").await.is_ok(), "the connection stays");
    }
    // Whoever works in it is left alone.
    let mut client = login(&sidebolt, "ada").await;
    assert!(client.one(begin()).await.is_success());
    client.send(&[run("ok | hold, rows 1"), pull_all()].concat()).await.unwrap();
    assert!(client.read().await.is_success());
    within_async(PATIENCE, "another one has expired meanwhile", || async {
        let mut other = login(&sidebolt, "bob").await;
        assert!(other.one(begin()).await.is_success());
        within_async(PATIENCE, "it expires", || {
            let metric = sidebolt.metric("sidebolt_pinned_connections", "");
            async move { metric.await == 1.0 }
        })
        .await;
        true
    })
    .await;
    peer.set(|settings| settings.released = true);
    assert_eq!(kinds(&client.read_answers(1).await).last(), Some(&"SUCCESS"));
    client.abort();
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_alone() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.guard.max_statement_bytes = 1000;
        config.guard.max_parameter_bytes = 2000;
        config.limits.max_inspected_request = 4096;
    })
    .await;
    let mut client = login(&sidebolt, "ada").await;
    let with = |size: usize| run_with("ok |", map([("p", "x".repeat(size).into())]), none());
    let long = |size: usize| run(&format!("ok | {}", " ".repeat(size)));
    for (request, key) in [
        (long(1000), "guard.max_statement_bytes"),
        (long(100_000), "guard.max_statement_bytes"),
        (with(2000), "guard.max_parameter_bytes"),
        (with(100_000), "guard.max_parameter_bytes"),
    ] {
        let text = refused_as(&mut client, &[request.clone(), pull_all()], TOO_LARGE).await;
        assert!(text.contains(key), "{text}");
        assert!(client.one(begin()).await.is_success());
        refused_as(&mut client, &[request, pull_all(), commit()], TOO_LARGE).await;
    }
    for request in [long(900), with(1900)] {
        assert!(client.ask(&[request, pull_all()]).await[0].is_success());
    }
    assert_eq!((peer.count(Tag::RUN), peer.count(Tag::COMMIT)), (2, 0));
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_too_large_is_ended() {
    for neo4j in Neo4j::all("guard::a_result_that_is_too_large_is_ended") {
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.guard.max_result_rows = 1500;
            config.guard.max_result_bytes = 1 << 20;
        })
        .await;
        let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        let label = format!("Cut{}", fastrand::u32(..));
        assert_eq!(client.query("UNWIND range(1, 1500) AS x RETURN x").await.unwrap().len(), 1500);
        for (text, key) in [
            ("UNWIND range(1, 1501) AS x RETURN x", "1500 rows (guard.max_result_rows)"),
            ("UNWIND range(1, 1000000000) AS x RETURN x", "1500 rows (guard.max_result_rows)"),
            ("UNWIND range(1, 600) AS x RETURN range(1, 2000)", "1048576 bytes (guard.max_result_bytes)"),
        ] {
            let failure = client.query(text).await.unwrap_err();
            assert_eq!(failure.code(), TOO_LARGE, "{failure:?}");
            assert!(failure.text().contains(key), "{failure:?}");
        }
        // What an auto-commit statement has written is committed when its last row comes: its result is let through.
        let written = format!("UNWIND range(1, 2000) AS x CREATE (n:{label}) RETURN x");
        assert_eq!(client.query(&written).await.unwrap().len(), 2000);
        assert!(client.query(&format!("MATCH (n:{label}) DELETE n")).await.is_ok());

        // Rows that are asked for in pieces count together; the transaction is rolled back, and what was sent behind is ignored.
        assert!(client.one(begin()).await.is_success());
        assert!(client.query(&format!("CREATE (:{label})")).await.is_ok());
        assert!(
            client.query("UNWIND range(1, 1400) AS x RETURN x").await.is_ok(),
            "each result counts alone"
        );
        assert!(client.one(run("UNWIND range(1, 1000000000) AS x RETURN x")).await.is_success());
        let pieces = client.ask(&[pull(1400), pull(1400), run("RETURN 1"), pull_all()]).await;
        assert_eq!(kinds(&pieces), ["SUCCESS", "FAILURE", "IGNORED", "IGNORED"], "{pieces:?}");
        assert_eq!(pieces[1].code(), TOO_LARGE);
        assert_eq!(kinds(&[client.one(commit()).await]), ["IGNORED"]);
        assert!(client.one(reset()).await.is_success());
        let left = client.query(&format!("MATCH (n:{label}) RETURN count(n)")).await.unwrap();
        assert_eq!(left, [[Value::from(0)]]);
        sidebolt.at_rest().await;
    }
}
