//! Neo4j is killed, frozen, cut, half-closed, slow or full: clients hear it as they would from Neo4j, and nothing leaks.

use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use nix::sys::signal::Signal;

use crate::support::message::*;
use crate::support::neo4j::{Line, Neo4j, OwnNeo4j};
use crate::support::proxy::{Fault, Proxy};
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, until, within_async};

const V: Version = Version::V5_8;
const SHED: &str = "Neo.TransientError.Request.NoThreadsAvailable";

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

async fn is_ready(sidebolt: &Sidebolt, ready: bool) {
    let expected = if ready { 200 } else { 503 };
    within_async(PATIENCE, "readiness follows", || async { sidebolt.get("/readyz").await.0 == expected })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_closes_what_was_open_and_refuses_what_is_new() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    is_ready(&sidebolt, true).await;
    let mut idle = client(&sidebolt).await;
    let mut busy = Vec::new();
    for script in ["ok | hang", "hang |", "ok | rows 3, hang"] {
        let mut client = client(&sidebolt).await;
        client.send(&[run(script), pull_all()].concat()).await.unwrap();
        busy.push(client);
    }
    let mut in_transaction = client(&sidebolt).await;
    assert!(in_transaction.one(begin()).await.is_success());
    until("all are busy", || peer.count(Tag::RUN) == 3).await;
    peer.kill().await;
    for client in &mut busy {
        let answers = client.read_answers(3).await;
        assert_eq!(answers.last(), Some(&Answer::Closed), "{answers:?}");
        assert!(answers.iter().all(|answer| !matches!(answer, Answer::Failure(_))), "{answers:?}");
    }
    // Its transaction is lost; a direct connection would be too.
    assert_eq!(in_transaction.one(commit()).await, Answer::Closed);
    for _ in 0..3 {
        let answers = idle.ask(&[run("RETURN 1"), pull_all()]).await;
        assert_eq!((answers[0].code(), &answers[1]), (SHED, &Answer::Ignored));
        assert!(answers[0].text().contains("cannot be reached"), "{:?}", answers[0]);
        assert!(idle.one(reset()).await.is_success());
    }
    is_ready(&sidebolt, false).await;
    sidebolt.at_rest().await;
    // Whoever logs in now is refused, or believed and refused later; both with the same code.
    let mut late = Client::connect(sidebolt.address, V).await.unwrap();
    let answers = late.ask(&[hello(V, "new", "new"), logon("new", "new")]).await;
    let refused = answers.iter().find(|answer| !answer.is_success()).unwrap();
    assert_eq!(refused.code(), SHED, "{answers:?}");
    peer.revive().await;
    within_async(PATIENCE, "it works again", || async {
        client(&sidebolt).await.query("RETURN 1").await.is_ok()
    })
    .await;
    assert!(idle.query("RETURN 1").await.is_ok(), "the idle client has noticed nothing but refusals");
    is_ready(&sidebolt, true).await;
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_outcome_is_unknown_is_a_close_and_never_a_failure() {
    let peer = Peer::start(|settings| settings.dies_at = Some(Tag::COMMIT)).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    let mut client = client(&sidebolt).await;
    assert_eq!(kinds(&client.ask(&[begin(), run("ok |"), pull_all()]).await), ["SUCCESS"; 3]);
    assert_eq!(client.one(commit()).await, Answer::Closed);
    let mut client = self::client(&sidebolt).await;
    let answers = client.ask(&[begin(), run("ok |"), pull_all(), commit()]).await;
    assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS", "SUCCESS", "closed"]);
    assert_eq!(peer.count(Tag::COMMIT), 2, "never sent again");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_keeps_its_versions() {
    let peer = Peer::start(|settings| settings.versions = vec![V]).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    let mut client = client(&sidebolt).await;
    peer.set(|settings| settings.refusing = true);
    peer.break_connections().await;
    let answers = client.ask(&[run("RETURN 1"), pull_all()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "IGNORED"], "Sidebolt has noticed");
    assert!(Client::connect(sidebolt.address, Version::V6_1).await.is_err(), "it never had that one");
    assert!(Client::connect(sidebolt.address, V).await.is_ok());
    peer.set(|settings| settings.refusing = false);
    self::client(&sidebolt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_or_keeps_silent_is_unreachable() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.upstream.connection_timeout = Duration::from_millis(200);
        config.pool.reset_timeout = Duration::from_millis(100);
    })
    .await;
    let mut client = client(&sidebolt).await;
    for (fault, reason) in [("refusing", "cannot be reached"), ("frozen", "upstream.connection_timeout")] {
        assert!(client.query("RETURN 1").await.is_ok());
        peer.set(|settings| {
            settings.refusing = fault == "refusing";
            settings.frozen = fault == "frozen";
        });
        peer.break_connections().await;
        let answers = client.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
        assert_eq!(kinds(&answers), ["FAILURE", "IGNORED", "IGNORED", "IGNORED"]);
        assert_eq!(answers[0].code(), SHED);
        assert!(answers[0].text().contains(reason), "{fault}: {:?}", answers[0]);
        peer.set(|settings| (settings.refusing, settings.frozen) = (false, false));
        assert!(client.one(reset()).await.is_success());
        sidebolt.at_rest().await;
    }
    assert!(client.query("RETURN 1").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_threads_costs_a_request_and_no_client() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| config.pool.max_connection_pool_size = 2).await;
    let mut client = client(&sidebolt).await;
    let mut other = Client::login(sidebolt.address, V, "other", "password").await;
    assert!(client.query("RETURN 1").await.is_ok());
    peer.set(|settings| settings.full = true);
    peer.break_connections().await;
    for client in [&mut client, &mut other] {
        let answers = client.ask(&[run("RETURN 1"), pull_all()]).await;
        assert_eq!(answers[0].code(), SHED, "{answers:?}");
        assert_eq!(answers[1], Answer::Ignored);
        assert!(client.one(reset()).await.is_success());
    }
    peer.set(|settings| settings.full = false);
    assert!(client.query("RETURN 1").await.is_ok());
    assert!(other.query("RETURN 1").await.is_ok());
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_older_refuses_its_newer_clients() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    let mut client = Client::login(sidebolt.address, Version::V6_1, "user", "password").await;
    assert!(client.query("RETURN 1").await.is_ok());
    peer.set(|settings| settings.versions.retain(|version| *version <= Version::V5_8));
    peer.break_connections().await;
    let answers = client.ask(&[run("RETURN 1"), pull_all()]).await;
    assert_eq!((answers[0].code(), &answers[1]), (SHED, &Answer::Ignored));
    assert!(answers[0].text().contains("does not speak Bolt 6.1"), "{:?}", answers[0]);
    // A new client is offered what there is.
    within_async(PATIENCE, "6.1 is no longer offered", || async {
        Client::connect(sidebolt.address, Version::V6_1).await.is_err()
    })
    .await;
    assert!(self::client(&sidebolt).await.query("RETURN 1").await.is_ok());
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_is_a_beginning_and_a_close() {
    const ROWS: &str = "UNWIND range(1, 20000) AS x RETURN x, 'some text ' + x AS text";
    for neo4j in Neo4j::all("faults::a_stream_that_is_cut_is_a_beginning_and_a_close") {
        let proxy = Proxy::start(&neo4j.address).await;
        let sidebolt = Sidebolt::start(proxy.address, |_| ()).await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        let whole = login().await.query(ROWS).await.unwrap();
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20 {
            let mut client = login().await;
            // The connection exists, so that every byte that is cut off is one of the answer's.
            assert!(client.query("RETURN 1").await.is_ok());
            let cut = random.usize(1..400_000);
            proxy.set(Fault::CutAfter(cut));
            let answers = client.ask_all(&[run(ROWS), pull_all()]).await;
            proxy.set(Fault::None);
            assert_eq!(answers.last(), Some(&Answer::Closed), "cut after {cut} (SEED={seed})");
            let rows: Vec<&Vec<Value>> = answers
                .iter()
                .filter_map(|answer| match answer {
                    Answer::Record(row) => Some(row),
                    _ => None,
                })
                .collect();
            assert!(
                rows.len() < whole.len() && rows.iter().zip(&whole).all(|(a, b)| *a == b),
                "cut after {cut}"
            );
            assert!(!answers.iter().any(|answer| matches!(answer, Answer::Failure(_) | Answer::Other(_))));
            sidebolt.at_rest().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_or_half_closed_line_is_given_up_and_a_slow_one_is_not() {
    for neo4j in Neo4j::all("faults::a_frozen_or_half_closed_line_is_given_up_and_a_slow_one_is_not") {
        let proxy = Proxy::start(&neo4j.address).await;
        let sidebolt = Sidebolt::start(proxy.address, |config| {
            // Longer than a busy machine's Neo4j thinks about a first statement.
            config.upstream.read_timeout = Duration::from_secs(4);
            config.upstream.connection_timeout = Duration::from_secs(5);
            config.pool.reset_timeout = Duration::from_millis(200);
        })
        .await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        for fault in [Fault::Freeze, Fault::HalfClose] {
            let (mut client, mut in_transaction) = (login().await, login().await);
            assert!(client.query("RETURN 1").await.is_ok());
            assert!(in_transaction.one(begin()).await.is_success());
            proxy.set(fault);
            let answers = in_transaction.ask(&[run("RETURN 1"), pull_all()]).await;
            assert_eq!(kinds(&answers), ["closed"], "{fault:?}");
            proxy.set(Fault::None);
            within_async(PATIENCE, "new connections work", || async {
                login().await.query("RETURN 1").await.is_ok()
            })
            .await;
            assert!(client.query("RETURN 1").await.is_ok(), "{fault:?}: who was idle has lost nothing");
            sidebolt.at_rest().await;
        }
        proxy.set(Fault::Trickle);
        let rows = login().await.query("UNWIND range(1, 200) AS x RETURN x").await.unwrap();
        assert_eq!(rows.len(), 200);
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_client_frees_its_transaction_on_the_server() {
    for neo4j in Neo4j::all("faults::a_vanished_client_frees_its_transaction_on_the_server") {
        let sidebolt = Sidebolt::start(&neo4j.address, |_| ()).await;
        let label = format!("It_Vanish_{:?}", neo4j.line);
        neo4j.admin(&format!("CREATE (n:{label}) DELETE n")).await;
        let create = run(&format!("CREATE (n:{label})"));
        let long = run("UNWIND range(1, 1000000000) AS x WITH x WHERE x % 7 = 9 RETURN count(x)");
        let moments: Vec<(&str, Vec<Vec<u8>>, usize)> = vec![
            ("BEGIN answered", vec![], 0),
            ("RUN sent", vec![create.clone()], 0),
            ("RUN answered", vec![create.clone()], 1),
            ("PULL answered", vec![create.clone(), pull_all()], 2),
            ("a long RUN sent", vec![create.clone(), pull_all(), long.clone()], 2),
            ("a long PULL sent", vec![create.clone(), pull_all(), long.clone(), pull_all()], 3),
            ("failed", vec![run("RETURN nonsense")], 1),
        ];
        let mut times = Vec::new();
        for (moment, requests, answers) in &moments {
            for abort in [false, true] {
                let mark = format!("{label} {moment} {abort}");
                let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
                let metadata = map([("mark", mark.as_str().into())]);
                assert!(client.one(begin_with([("tx_metadata", metadata)])).await.is_success());
                client.send(&requests.concat()).await.unwrap();
                client.read_answers(*answers).await;
                let mut admin = neo4j.client(V).await;
                let count = format!(
                    "SHOW TRANSACTIONS YIELD metaData WHERE metaData.mark = '{mark}' RETURN count(*) AS n"
                );
                if *moment != "failed" {
                    assert_eq!(admin.value(&count).await, Value::Integer(1), "{moment}");
                }
                let gone = tokio::time::Instant::now();
                if abort {
                    client.abort()
                } else {
                    drop(client)
                }
                let freed = async { while admin.value(&count).await != Value::Integer(0) {} };
                in_time(moment, freed).await;
                times.push(gone.elapsed());
            }
        }
        let left = neo4j.admin(&format!("MATCH (n:{label}) RETURN count(n)")).await;
        assert_eq!(left, [[Value::Integer(0)]], "nothing was committed");
        sidebolt.at_rest().await;
        // Printed, not asserted: a machine that is busy with other things must not fail this.
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{:?}: a vanished client's transaction is gone after {median:?}, at most {longest:?}",
            neo4j.line
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_is_frozen_thawed_and_killed() {
    let Some(own) = OwnNeo4j::start(Line::Five, "faults::a_real_server_is_frozen_thawed_and_killed") else {
        return;
    };
    let server = &own.server;
    // A server that has just started thinks long about its first statements.
    server.admin("RETURN 1").await;
    server.admin("CREATE (n:Kill {c: 1, r: 1}) DELETE n").await;
    let sidebolt = Sidebolt::start(&server.address, |config| {
        config.upstream.read_timeout = Duration::from_secs(4);
        config.upstream.connection_timeout = Duration::from_secs(4);
        config.pool.reset_timeout = Duration::from_millis(200);
    })
    .await;
    let login = || Client::login(sidebolt.address, V, Neo4j::USER, &server.password);
    let (mut idle, mut open) = (login().await, login().await);
    assert_eq!(idle.query("RETURN 1").await.map(|rows| rows.len()), Ok(1));
    assert!(open.one(begin()).await.is_success());
    own.freeze().await;
    assert_eq!(open.ask(&[run("RETURN 1"), pull_all()]).await, [Answer::Closed]);
    own.signal(Signal::SIGCONT);
    within_async(PATIENCE, "it works again", || async { login().await.query("RETURN 1").await.is_ok() })
        .await;
    sidebolt.at_rest().await;

    // Killed under load: every client sees closes or refusals, never an acknowledgement of something lost.
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (address, password) = (sidebolt.address, server.password.clone());
            tokio::spawn(async move {
                let mut client = Client::login(address, V, Neo4j::USER, &password).await;
                for round in 0i64.. {
                    let write = run_with(
                        "CREATE (n:Kill {c: $c, r: $r})",
                        map([("c", number.into()), ("r", round.into())]),
                        none(),
                    );
                    let answers = client.ask(&[begin(), write, pull_all(), commit()]).await;
                    if let Some(odd) = answers.iter().find(|answer| !answer.is_success()) {
                        assert!(matches!(odd, Answer::Closed) || odd.code() == SHED, "{answers:?}");
                        return round;
                    }
                }
                unreachable!("rounds do not end")
            })
        })
        .collect();
    within_async(PATIENCE, "the load runs", || async {
        sidebolt.metric("sidebolt_requests_total", "transaction").await > 100.0
    })
    .await;
    own.signal(Signal::SIGKILL);
    for client in clients {
        client.await.unwrap();
    }
    let answers = login_refused(&sidebolt, &server.password).await;
    assert_eq!(answers.code(), SHED, "{answers:?}");
    sidebolt.at_rest().await;
}

async fn login_refused(sidebolt: &Sidebolt, password: &str) -> Answer {
    let mut client = Client::connect(sidebolt.address, V).await.unwrap();
    let mut requests = login(V, Neo4j::USER, password);
    requests.push(run("RETURN 1"));
    client.ask(&requests).await.into_iter().find(|answer| !answer.is_success()).unwrap()
}
