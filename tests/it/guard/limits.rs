//! Rates, seats and the queue: who is refused, who waits, and that nothing is left behind.

use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::packstream::Value;
use sidebolt::config::{AccessKind, Config, Cost, Limit, Per, When};

use super::{SHED, V, at_once, limit, login, refused, refused_as};
use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, until, within_async};

async fn start(limits: Vec<Limit>) -> (Peer, Sidebolt) {
    start_with(limits, |_| ()).await
}

async fn start_with(limits: Vec<Limit>, change: impl FnOnce(&mut Config)) -> (Peer, Sidebolt) {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.guard.limits = limits;
        config.guard.max_wait = PATIENCE;
        change(config);
    })
    .await;
    (peer, sidebolt)
}

fn seats(name: &str, per: Per, most: u32) -> Limit {
    Limit { max_in_flight: Some(most), ..limit(name, per) }
}

fn when(change: impl FnOnce(&mut When)) -> When {
    let mut when = When::default();
    change(&mut when);
    when
}

/// An exchange that stays open until `released`.
async fn busy(sidebolt: &Sidebolt, user: &str) -> Client {
    let mut client = login(sidebolt, user).await;
    client.send(&[run("ok | hold, rows 1"), pull_all()].concat()).await.unwrap();
    client
}

async fn waiting(sidebolt: &Sidebolt, count: usize) {
    within_async(PATIENCE, "they wait", || {
        let metric = sidebolt.metric("sidebolt_guard_waiting", "");
        async move { metric.await == count as f64 }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_refuses_what_begins_and_nothing_that_has_begun() {
    let (peer, sidebolt) = start(vec![at_once("each", Per::Principal, 3)]).await;
    let (mut ada, mut second, mut bob) =
        (login(&sidebolt, "ada").await, login(&sidebolt, "ada").await, login(&sidebolt, "bob").await);
    assert!(ada.query("RETURN 1").await.is_ok());
    assert!(ada.one(begin()).await.is_success());
    assert!(second.query("RETURN 1").await.is_ok());
    let text = refused(&mut second).await;
    for part in ["Sidebolt: ", "`each`", "1/h", "user `ada`", "0 are left", "try again in"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A refused transaction is one answer, and what is pipelined behind it is ignored.
    refused_as(&mut second, &[begin(), run("RETURN 1"), pull_all(), commit()], SHED).await;
    // The transaction that has begun goes on: RUNs inside of it count nothing.
    for _ in 0..5 {
        assert!(ada.query("RETURN 1").await.is_ok());
    }
    assert!(ada.one(commit()).await.is_success());
    refused(&mut ada).await;
    assert!(bob.query("RETURN 1").await.is_ok(), "another user");
    // Sidebolt's own procedures are always answered.
    let row = &ada.query("CALL sidebolt.limits() YIELD key, remaining, admitted, refused").await.unwrap();
    let own = row.iter().find(|row| row[0] == "ada".into()).unwrap();
    assert_eq!(own[1..], [0.into(), 3.into(), 3.into()], "{row:?}");
    assert!(row.iter().any(|row| row[0] == Value::Null), "another user has no name");
    assert_eq!(sidebolt.metric("sidebolt_guard_limited_total", "each").await, 3.0);
    assert_eq!(peer.count(Tag::BEGIN), 1);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_about_what_they_say() {
    let rules = [
        ("label", when(|w| w.label = Some("Person".to_owned()))),
        ("text", when(|w| w.text = Some("(?i)delete".to_owned()))),
        ("writes", when(|w| (w.access, w.principal) = (Some(AccessKind::Write), Some("bob".to_owned())))),
        ("app", when(|w| w.application = Some("load*".to_owned()))),
        ("db", when(|w| w.database = Some("movies".to_owned()))),
    ];
    let rules = rules.map(|(name, when)| Limit { when, ..at_once(name, Per::All, 1) });
    let (_peer, sidebolt) = start(rules.to_vec()).await;
    let mut ada = login(&sidebolt, "ada").await;
    let mut bob = login(&sidebolt, "bob").await;
    let extra = |entries: &[(&str, Value)]| map(entries.iter().cloned());
    let app = |name: &str| extra(&[("tx_metadata", map([("app", name.into())]))]);
    for (rule, is_bob, text, extra) in [
        ("label", false, "MATCH (n:Person) RETURN n", none()),
        ("text", false, "MATCH (n:X) DETACH DELETE n", none()),
        ("writes", true, "CREATE (:X)", none()),
        ("app", false, "RETURN 1", app("loader")),
        ("db", false, "RETURN 1", extra(&[("db", "Movies".into())])),
    ] {
        let client = if is_bob { &mut bob } else { &mut ada };
        let requests = [run_with(text, none(), extra), pull_all()];
        let answers = client.ask(&requests).await;
        assert!(answers[0].is_success(), "{rule}: {answers:?}");
        let refusal = refused_as(client, &requests, SHED).await;
        assert!(refusal.contains(&format!("`{rule}`")), "{refusal}");
    }
    for client in [&mut ada, &mut bob] {
        for text in ["RETURN 1", "MATCH (n:Dog) RETURN n"] {
            assert!(client.ask(&[run(text), pull_all()]).await[0].is_success(), "{text}");
        }
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_of_itself_evades_no_other_limit() {
    let limits = vec![at_once("address", Per::Address, 6), at_once("each", Per::Principal, 4)];
    let (_peer, sidebolt) = start_with(limits, |config| {
        config.guard.costs = vec![Cost { cost: 2, when: when(|w| w.text = Some("twice".to_owned())) }];
        config.limits.max_inspected_request = 4096;
    })
    .await;
    let mut client = login(&sidebolt, "ada").await;
    // What costs more takes more.
    assert!(client.ask(&[run("RETURN 'twice'"), pull_all()]).await[0].is_success());
    // Hostile metadata, of the wrong type or nonsense, count like any.
    let odd = map([("tx_metadata", 7.into()), ("mode", Value::List(Vec::new())), ("db", 1.into())]);
    assert!(client.ask(&[run_with("RETURN 1", none(), odd), pull_all()]).await[0].is_success());
    // So does what is too large to be held.
    let large = run_with("ok |", map([("p", "x".repeat(10_000).into())]), none());
    assert!(client.ask(&[large.clone(), pull_all()]).await[0].is_success());
    refused_as(&mut client, &[large, pull_all()], SHED).await;
    refused(&mut client).await;
    // Another login is another user, at the same address.
    assert!(
        client.one(logoff()).await.is_success() && client.one(logon("bob", "password")).await.is_success()
    );
    assert!(client.query("RETURN 1").await.is_ok() && client.query("RETURN 1").await.is_ok());
    let text = refused(&mut client).await;
    assert!(text.contains("address `127.0.0.1`"), "{text}");
    // Nonsense in Sidebolt's own metadata is told, and costs nothing.
    let hint = map([("tx_metadata", map([("sidebolt", map([("priority", "first".into())]))]))]);
    let requests = [run_with("RETURN 1", none(), hint), pull_all()];
    refused_as(&mut client, &requests, "Neo.ClientError.Statement.ArgumentError").await;
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_and_a_changed_configuration() {
    let (_peer, sidebolt) = start(vec![at_once("all", Per::All, 1)]).await;
    let mut client = login(&sidebolt, "ada").await;
    assert!(client.query("RETURN 1").await.is_ok());
    refused(&mut client).await;
    let route = || message(Tag::ROUTE, &[none(), Value::List(Vec::new()), none()]);
    for _ in 0..5 {
        assert!(client.one(route()).await.is_success(), "ROUTE is not limited");
    }
    sidebolt.reconfigure(|config| config.pool.min_idle = 0);
    refused(&mut client).await;
    sidebolt.reconfigure(|config| config.guard.limits[0].burst = Some(2));
    assert!(client.query("RETURN 1").await.is_ok(), "one more");
    refused(&mut client).await;
    sidebolt.reconfigure(|config| config.guard.limits.clear());
    assert!(client.query("RETURN 1").await.is_ok());
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_seat_waits_and_users_take_turns() {
    let (peer, sidebolt) = start(vec![seats("all", Per::All, 1)]).await;
    let mut first = busy(&sidebolt, "ada").await;
    until("it runs", || peer.count(Tag::RUN) == 1).await;
    let mut queue = Vec::new();
    for (at, user) in ["greedy", "greedy", "greedy", "bob", "eve"].into_iter().enumerate() {
        let mut client = login(&sidebolt, user).await;
        client.send(&[run(&format!("RETURN '{user} {at}'")), pull_all()].concat()).await.unwrap();
        waiting(&sidebolt, at + 1).await;
        queue.push(client);
    }
    assert_eq!(sidebolt.metric("sidebolt_pinned_connections", "").await, 1.0, "who waits has no connection");
    peer.set(|settings| settings.released = true);
    for client in std::iter::once(&mut first).chain(&mut queue) {
        assert_eq!(
            kinds(&in_time("an answer", client.read_answers(2)).await),
            ["SUCCESS", "RECORD", "SUCCESS"]
        );
    }
    let order: Vec<_> = peer.statements().into_iter().skip(1).map(|(_, user, _)| user).collect();
    assert_eq!(order, ["greedy", "bob", "eve", "greedy", "greedy"]);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_left_by_reset_by_going_away_and_by_its_deadline() {
    let (peer, sidebolt) = start(vec![seats("each", Per::Principal, 1)]).await;
    let mut first = login(&sidebolt, "ada").await;
    assert!(first.one(begin()).await.is_success());
    let mut taken_back = login(&sidebolt, "ada").await;
    taken_back.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
    let mut gone = login(&sidebolt, "ada").await;
    gone.send(&begin()).await.unwrap();
    waiting(&sidebolt, 2).await;
    let answers = taken_back.ask(&[reset()]).await;
    assert_eq!(kinds(&answers), ["IGNORED"], "the RUN that it overtook");
    assert_eq!(kinds(&taken_back.read_answers(2).await), ["IGNORED", "SUCCESS"]);
    gone.abort();
    waiting(&sidebolt, 0).await;
    // A transaction has its seat from BEGIN to COMMIT, between its requests too.
    sidebolt.reconfigure(|config| config.guard.max_wait = Duration::from_millis(50));
    let text = refused(&mut taken_back).await;
    assert!(text.contains("`each` (max_in_flight 1)") && text.contains("guard.max_wait"), "{text}");
    assert!(first.one(commit()).await.is_success());
    assert!(taken_back.query("RETURN 1").await.is_ok());
    // Whoever vanishes in the middle of a transaction gives its seat back.
    assert!(first.one(begin()).await.is_success());
    first.abort();
    within_async(PATIENCE, "the seat is free", || async {
        login(&sidebolt, "ada").await.query("RETURN 1").await.is_ok()
    })
    .await;
    sidebolt.reconfigure(|config| config.guard.max_waiting = 0);
    let mut holder = login(&sidebolt, "ada").await;
    assert!(holder.one(begin()).await.is_success());
    let text = refused(&mut taken_back).await;
    assert!(text.contains("guard.max_waiting"), "{text}");
    let in_flight = taken_back.value("CALL sidebolt.limits() YIELD inFlight").await;
    assert_eq!(in_flight, 1.into());
    assert!(holder.one(rollback()).await.is_success());
    assert_eq!(peer.count(Tag::ROLLBACK), 1);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_may_change_under_those_who_wait() {
    let (peer, sidebolt) = start(vec![seats("all", Per::All, 1)]).await;
    let mut first = busy(&sidebolt, "ada").await;
    until("it runs", || peer.count(Tag::RUN) == 1).await;
    let mut queue = Vec::new();
    for at in 0..3 {
        let mut client = login(&sidebolt, "bob").await;
        client.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
        waiting(&sidebolt, at + 1).await;
        queue.push(client);
    }
    sidebolt.reconfigure(|config| config.guard.limits.clear());
    let mut free = login(&sidebolt, "eve").await;
    assert!(free.query("RETURN 1").await.is_ok(), "nobody waits for a limit that is gone");
    sidebolt.reconfigure(|config| config.guard.limits = vec![seats("all", Per::All, 5)]);
    assert!(free.query("RETURN 1").await.is_ok());
    peer.set(|settings| settings.released = true);
    for client in std::iter::once(&mut first).chain(&mut queue) {
        assert_eq!(
            kinds(&in_time("an answer", client.read_answers(2)).await),
            ["SUCCESS", "RECORD", "SUCCESS"]
        );
    }
    waiting(&sidebolt, 0).await;
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_sends_the_greediest_away_and_waiters_hear_noops() {
    let peer = Peer::start(|settings| settings.recv_timeout = Some(1)).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.guard.limits = vec![seats("all", Per::All, 1)];
        (config.guard.max_wait, config.guard.max_waiting) = (PATIENCE, 3);
    })
    .await;
    let mut first = login(&sidebolt, "ada").await;
    assert!(first.one(begin()).await.is_success());
    let mut greedy = Vec::new();
    for at in 0..3 {
        let mut client = login(&sidebolt, "greedy").await;
        client.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
        waiting(&sidebolt, at + 1).await;
        greedy.push(client);
    }
    let mut late = login(&sidebolt, "greedy").await;
    assert!(refused(&mut late).await.contains("3 requests wait already"));
    let mut bob = login(&sidebolt, "bob").await;
    bob.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
    let answers = in_time("the last one is sent away", greedy[2].read_answers(2)).await;
    assert_eq!((answers[0].code(), &answers[1]), (SHED, &Answer::Ignored), "{answers:?}");
    let before = sidebolt.metric("sidebolt_noops_total", "").await;
    within_async(PATIENCE, "NOOPs are sent", || {
        let metric = sidebolt.metric("sidebolt_noops_total", "");
        async move { metric.await >= before + 9.0 }
    })
    .await;
    assert!(first.one(commit()).await.is_success());
    for client in greedy.iter_mut().take(2).chain([&mut bob]) {
        assert_eq!(kinds(&in_time("an answer", client.read_answers(2)).await).len(), 3);
        assert!(client.noops > 0);
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_answers_and_batches_need_no_seat() {
    for neo4j in Neo4j::all("guard::kept_answers_and_batches_need_no_seat") {
        neo4j.admin("MATCH (n:ItGuardSeat) DETACH DELETE n").await;
        // Without it the answer has a notification, and is not kept.
        neo4j.admin("CREATE (:ItGuardSeat {id: -1})").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.guard.limits = vec![seats("all", Per::All, 1)];
            config.guard.max_wait = PATIENCE;
        })
        .await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        let mut reader = login().await;
        let text = "MATCH (n:ItGuardSeat {id: -1}) WITH count(n) AS c UNWIND range(1, 200000) AS x RETURN c, count(x) AS n";
        within_async(PATIENCE, "the answer is kept", || async {
            login().await.value(text).await;
            sidebolt.metric("sidebolt_cache_hits_total", "").await > 0.0
        })
        .await;
        // Fifty writers with one seat between them, alone or in batches.
        let mut writers = Vec::new();
        for id in 0..50_i64 {
            let mut client = login().await;
            writers.push(tokio::spawn(async move {
                for round in 0..4 {
                    let parameters = map([("id", (id * 10 + round).into())]);
                    let run = run_with("MERGE (n:ItGuardSeat {id: $id}) SET n.v = 1", parameters, none());
                    client.query_with(run).await.unwrap();
                }
            }));
        }
        for writer in writers {
            in_time("a writer ends", writer).await.unwrap();
        }
        let count = neo4j.admin("MATCH (n:ItGuardSeat) RETURN count(n)").await;
        assert_eq!(count, [[Value::Integer(201)]]);
        // While the only seat is taken, kept answers are served, managed reads too.
        within_async(PATIENCE, "the answer is kept again", || async {
            let before = sidebolt.metric("sidebolt_cache_hits_total", "").await;
            login().await.value(text).await;
            sidebolt.metric("sidebolt_cache_hits_total", "").await > before
        })
        .await;
        let mut holder = login().await;
        assert!(holder.one(begin()).await.is_success());
        assert!(holder.query("RETURN rand()").await.is_ok(), "it has begun");
        assert_eq!(in_time("a hit", reader.value(text)).await, 1.into());
        assert!(holder.one(commit()).await.is_success());
        neo4j.admin("MATCH (n:ItGuardSeat) DETACH DELETE n").await;
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_memory_lets_nothing_new_in() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| config.guard.max_memory = 1 << 10).await;
    let mut client = login(&sidebolt, "ada").await;
    within_async(PATIENCE, "a look", || async {
        let mut other = login(&sidebolt, "ada").await;
        other.query("RETURN 1").await.is_err()
    })
    .await;
    let message = refused(&mut client).await;
    assert!(message.contains("guard.max_memory") && message.contains("1024 at most"), "{message}");
    sidebolt.reconfigure(|config| config.guard.max_memory = 0);
    within_async(PATIENCE, "relief", || async {
        let mut other = login(&sidebolt, "ada").await;
        other.query("RETURN 1").await.is_ok()
    })
    .await;
    assert!(client.query("RETURN 1").await.is_ok(), "its connection stays");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_neo4j_can_do_with_is_found_out() {
    for neo4j in Neo4j::all("guard::what_neo4j_can_do_with_is_found_out") {
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.guard.adaptive = true;
            config.guard.max_wait = PATIENCE;
            config.cache.enabled = false;
        })
        .await;
        assert_eq!(sidebolt.metric("sidebolt_guard_adaptive_limit", "").await, 20.0);
        let mut clients = tokio::task::JoinSet::new();
        for at in 0..40 {
            let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
            clients.spawn(async move {
                for turn in 0..25 {
                    let work = format!(
                        "UNWIND range(1, 20000) AS x WITH x WHERE x % 7 = {} RETURN count(x)",
                        turn % 7
                    );
                    // Half of them in transactions.
                    if at % 2 == 0 {
                        assert!(client.one(begin()).await.is_success());
                    }
                    assert!(client.query(&work).await.is_ok());
                    if at % 2 == 0 {
                        assert!(client.one(commit()).await.is_success());
                    }
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("a client's work is done");
        }
        let found = sidebolt.metric("sidebolt_guard_adaptive_limit", "").await;
        assert!((2.0..=100.0).contains(&found) && found != 20.0, "{found}");
        sidebolt.at_rest().await;
    }
}
