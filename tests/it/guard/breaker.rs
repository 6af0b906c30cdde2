//! Circuit breakers: a server that fails is left alone, and served again as soon as it is back; no client is lost over it.

use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::packstream::Value;
use sidebolt::config::{Config, Consistency};

use super::{SHED, V, refused};
use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::proxy::{Fault, Proxy};
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, until, within_async};

const OPEN: &str = "circuit breaker is open";

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

/// A breaker that nobody but requests can close.
fn unwatched(config: &mut Config) {
    config.breaker.probe_interval = Duration::ZERO;
    config.breaker.open_for = Duration::from_secs(3600);
}

/// The state of the only server's breaker.
async fn state(client: &mut Client) -> String {
    let state = client.value("CALL sidebolt.breakers() YIELD state").await;
    state.as_str().expect("a state").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_left_alone_and_found_again() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt =
        Sidebolt::start(peer.address, |config| config.breaker.probe_interval = Duration::from_millis(50))
            .await;
    let (mut first, mut second) = (client(&sidebolt).await, client(&sidebolt).await);
    assert!(first.query("RETURN 1").await.is_ok());
    assert_eq!(state(&mut first).await, "closed");
    peer.kill().await;
    let mut texts = Vec::new();
    while !texts.last().is_some_and(|text: &String| text.contains(OPEN)) {
        assert!(texts.len() <= 5, "five failures open it: {texts:?}");
        texts.push(refused(&mut first).await);
    }
    assert!(refused(&mut second).await.contains(OPEN), "whoever asks");
    assert_eq!(state(&mut first).await, "open");
    assert_eq!(sidebolt.metric("sidebolt_breaker_state", "").await, 2.0);
    // Who begins a transaction hears it at BEGIN.
    let answers = second.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "IGNORED", "IGNORED", "IGNORED"]);
    assert!(second.one(reset()).await.is_success());
    peer.revive().await;
    within_async(PATIENCE, "it is closed without any request", || {
        let metric = sidebolt.metric("sidebolt_breaker_state", "");
        async move { metric.await == 0.0 }
    })
    .await;
    assert!(first.query("RETURN 1").await.is_ok() && second.query("RETURN 1").await.is_ok());
    assert_eq!(state(&mut first).await, "closed");
    for to in ["open", "half_open", "closed"] {
        let label = format!("to=\"{to}\"");
        assert_eq!(sidebolt.metric("sidebolt_breaker_transitions_total", &label).await, 1.0, "{to}");
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_costs_the_server_nothing_and_can_be_switched_off() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, unwatched).await;
    let mut client = client(&sidebolt).await;
    peer.set(|settings| settings.refusing = true);
    peer.break_connections().await;
    while !refused(&mut client).await.contains(OPEN) {}
    // Logins that have to be proved are refused in the same words.
    let mut late = Client::connect(sidebolt.address, V).await.unwrap();
    let answers = late.ask(&[hello(V, "new", "new"), logon("new", "new")]).await;
    let refusal = answers.iter().find(|answer| !answer.is_success()).unwrap();
    assert_eq!((refusal.code(), refusal.text().contains(OPEN)), (SHED, true), "{answers:?}");
    for _ in 0..50 {
        assert!(refused(&mut client).await.contains(OPEN));
    }
    let tried = sidebolt.metric("sidebolt_connect_failures_total", "").await;
    peer.set(|settings| settings.refusing = false);
    assert!(refused(&mut client).await.contains(OPEN), "nobody looks");
    assert_eq!(sidebolt.metric("sidebolt_connect_failures_total", "").await, tried);
    sidebolt.reconfigure(|config| config.breaker.enabled = false);
    assert!(client.query("RETURN 1").await.is_ok());
    // With a shorter time it is tried again by a request.
    sidebolt.reconfigure(|config| (config.breaker.enabled, config.breaker.failures) = (true, 1));
    peer.set(|settings| settings.refusing = true);
    peer.break_connections().await;
    while !refused(&mut client).await.contains(OPEN) {}
    peer.set(|settings| settings.refusing = false);
    sidebolt.reconfigure(|config| config.breaker.open_for = Duration::from_millis(1));
    // Not earlier than a millisecond after it opened.
    while client
        .ask(&[run("RETURN 1"), pull_all()])
        .await
        .iter()
        .any(|answer| matches!(answer, Answer::Failure(_)))
    {
        assert!(client.one(reset()).await.is_success());
    }
    assert_eq!(state(&mut client).await, "half_open");
    assert!(client.query("RETURN 1").await.is_ok());
    assert_eq!(state(&mut client).await, "closed");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_dead_server_is_sent_away() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        unwatched(config);
        config.pool.max_connection_pool_size = 1;
    })
    .await;
    let mut busy = client(&sidebolt).await;
    busy.send(&[run("ok | hang"), pull_all()].concat()).await.unwrap();
    until("it runs", || peer.count(Tag::RUN) == 1).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = client(&sidebolt).await;
        client.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
        waiting.push(client);
    }
    within_async(PATIENCE, "they wait", || async { sidebolt.pool().await.2 == 20 }).await;
    peer.kill().await;
    assert_eq!(busy.read_answers(2).await.last(), Some(&Answer::Closed));
    let mut at_once = 0;
    for client in &mut waiting {
        let answers = in_time("a refusal", client.read_answers(2)).await;
        assert_eq!((answers[0].code(), &answers[1]), (SHED, &Answer::Ignored), "{answers:?}");
        at_once += usize::from(answers[0].text().contains(OPEN));
        assert!(client.one(reset()).await.is_success());
    }
    assert!(at_once >= 15, "only the first few have tried: {at_once}");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_are_no_dead_server() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, unwatched).await;
    let mut other = client(&sidebolt).await;
    let mut busy = Vec::new();
    for _ in 0..20 {
        let mut client = client(&sidebolt).await;
        client.send(&[run("ok | hang"), pull_all()].concat()).await.unwrap();
        busy.push(client);
    }
    until("they run", || peer.count(Tag::RUN) == 20).await;
    peer.break_connections().await;
    for client in &mut busy {
        assert_eq!(client.read_answers(2).await.last(), Some(&Answer::Closed));
    }
    assert!(other.query("RETURN 1").await.is_ok());
    assert_eq!(state(&mut other).await, "closed");
    // One that breaks each new connection does fail.
    peer.set(|settings| settings.dies_at = Some(Tag::RUN));
    for _ in 0..5 {
        let mut client = client(&sidebolt).await;
        assert_eq!(client.ask(&[run("RETURN 1"), pull_all()]).await.last(), Some(&Answer::Closed));
    }
    assert!(refused(&mut other).await.contains(OPEN));
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_can_open_it_by_what_it_sends() {
    for neo4j in Neo4j::all("guard::no_client_can_open_it_by_what_it_sends") {
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            unwatched(config);
            config.breaker.failures = 2;
        })
        .await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        for _ in 0..4 {
            // After these Neo4j closes the connection.
            login().await.ask(&[message(Tag::RUN, &[1.into()]), pull_all(), pull_all()]).await;
            login().await.ask(&[run("RETURN 1"), run("RETURN 2"), pull_all()]).await;
            let mut client = login().await;
            client.send(&[run("UNWIND range(1, 1000000) AS x RETURN x"), pull_all()].concat()).await.unwrap();
            client.read().await;
            client.abort();
            assert!(login().await.query("RETURN 1 / 0").await.is_err());
            assert!(
                login()
                    .await
                    .query_with(run_with("RETURN 1", none(), map([("db", "absent".into())])))
                    .await
                    .is_err()
            );
            let wrong = Client::connect(sidebolt.address, V)
                .await
                .unwrap()
                .ask(&[hello(V, "x", "x"), logon("x", "x")])
                .await;
            assert!(wrong.iter().any(|answer| !answer.is_success()));
        }
        let mut client = login().await;
        assert!(client.query("RETURN 1").await.is_ok());
        assert_eq!(state(&mut client).await, "closed");
        assert_eq!(sidebolt.metric("sidebolt_breaker_transitions_total", "").await, 0.0);
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_answers_are_served_while_it_is_open() {
    for neo4j in Neo4j::all("guard::kept_answers_are_served_while_it_is_open") {
        neo4j.admin("MATCH (n:ItGuardStale) DETACH DELETE n").await;
        neo4j.admin("CREATE (:ItGuardStale {id: 1, v: 7})").await;
        let proxy = Proxy::start(&neo4j.address).await;
        let sidebolt = Sidebolt::start(proxy.address, |config| {
            config.breaker.probe_interval = Duration::from_millis(50);
            config.breaker.failures = 2;
            config.cache.consistency = Consistency::Strict;
            config.cache.stale_if_error = Duration::from_secs(3600);
            config.auth.cache_ttl = Duration::from_secs(3600);
        })
        .await;
        let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        let text =
            "MATCH (n:ItGuardStale {id: 1}) UNWIND range(1, 200000) AS x RETURN n.v AS v, count(x) AS c";
        within_async(PATIENCE, "the answer is kept", || async {
            let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
            client.value(text).await;
            sidebolt.metric("sidebolt_cache_hits_total", "").await > 0.0
        })
        .await;
        let mut others = Vec::new();
        for _ in 0..8 {
            others.push(Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await);
        }
        // Only a frozen server is not to be waited for: a busy one may take its time.
        let patience = |limit: Duration| {
            sidebolt.reconfigure(|config| {
                (config.upstream.connection_timeout, config.upstream.read_timeout) = (limit, limit);
            });
        };
        proxy.set(Fault::Freeze);
        patience(Duration::from_millis(500));
        for other in &mut others {
            // The first ones are closed with their connections, the others refused.
            let answers = other.ask(&[run("RETURN rand()"), pull_all()]).await;
            assert!(answers.last() == Some(&Answer::Closed) || answers[0].code() == SHED, "{answers:?}");
        }
        assert_eq!(sidebolt.metric("sidebolt_breaker_state", "").await, 2.0);
        for _ in 0..3 {
            assert_eq!(client.value(text).await, Value::Integer(7));
        }
        assert!(client.query("MATCH (n) RETURN count(n)").await.is_err(), "the rest is refused");
        assert!(client.one(reset()).await.is_success());
        patience(PATIENCE);
        proxy.set(Fault::None);
        // The idle client was never closed.
        let answers = in_time("it works again", async {
            loop {
                let answers = client.ask_all(&[run("RETURN rand()"), pull_all()]).await;
                if !matches!(answers[0], Answer::Failure(_)) {
                    return answers;
                }
                assert!(client.one(reset()).await.is_success());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(kinds(&answers.await), ["SUCCESS", "RECORD", "SUCCESS"]);
        neo4j.admin("MATCH (n:ItGuardStale) DETACH DELETE n").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_without_the_server_whose_breaker_is_open() {
    let (good, bad) = (Peer::start(|_| ()).await, Peer::start(|_| ()).await);
    let table = vec![good.address.to_string(), bad.address.to_string()];
    let roles = ["ROUTE", "READ", "WRITE"].map(|role| (role.to_owned(), table.clone()));
    good.set(|settings| settings.table = Some(roles.to_vec()));
    bad.set(|settings| (settings.table, settings.dies_at) = (Some(roles.to_vec()), Some(Tag::RUN)));
    let sidebolt = Sidebolt::start(good.address, |config| {
        config.upstream.uri = format!("neo4j://{}", good.address);
        unwatched(config);
    })
    .await;
    // Its connections can be made, but none of them answers.
    within_async(PATIENCE, "the bad one's breaker opens", || async {
        client(&sidebolt).await.ask(&[run("RETURN 1"), pull_all()]).await;
        sidebolt.metric("sidebolt_breaker_state", &bad.address.to_string()).await == 2.0
    })
    .await;
    let mut client = client(&sidebolt).await;
    for _ in 0..30 {
        assert!(client.query("RETURN 1").await.is_ok());
    }
    assert!(good.count(Tag::RUN) >= 30);
    sidebolt.at_rest().await;
}
