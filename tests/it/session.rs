//! One client's session: what is owed is answered once, what is open is cleaned up, whatever the client or Neo4j does.

use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};

use crate::support::message::*;
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::{Peer, Settings, What};
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, until, within_async};
use sidebolt::config::Config;

const V: Version = Version::V5_8;

async fn pair(settings: impl FnOnce(&mut Settings), config: impl FnOnce(&mut Config)) -> (Peer, Sidebolt) {
    let peer = Peer::start(settings).await;
    let sidebolt = Sidebolt::start(peer.address, config).await;
    (peer, sidebolt)
}

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

/// True if the connection on which `text` ran last saw RESET or its end afterwards.
fn is_freed(peer: &Peer, text: &str) -> bool {
    let log = peer.log();
    let is_run = |what: &What| matches!(what, What::Message(Tag::RUN | Tag::BEGIN, fields) if text.is_empty() || fields.first() == Some(&text.into()));
    let Some(at) = log.iter().rposition(|seen| is_run(&seen.what)) else { return false };
    let connection = log[at].connection;
    log[at..].iter().any(|seen| {
        seen.connection == connection
            && matches!(seen.what, What::Closed | What::Message(Tag::RESET | Tag::COMMIT, _))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_frees_its_connection_at_once() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    // What is sent, and how many answers are read before the end.
    let moments: Vec<(&str, Vec<Vec<u8>>, usize)> = vec![
        ("BEGIN sent", vec![begin()], 0),
        ("BEGIN answered", vec![begin()], 1),
        ("RUN sent", vec![begin(), run("ok |")], 1),
        ("RUN answered", vec![begin(), run("ok |")], 2),
        ("a slow RUN sent", vec![begin(), run("hang |")], 1),
        ("PULL sent", vec![begin(), run("ok | rows 5"), pull(2)], 2),
        ("PULL answered in part", vec![begin(), run("ok | rows 5"), pull(2)], 3),
        ("PULL answered", vec![begin(), run("ok | rows 5"), pull_all()], 3),
        ("a slow PULL sent", vec![begin(), run("ok | rows 3, hang"), pull_all()], 2),
        ("an endless PULL sent", vec![begin(), run("ok | endless"), pull_all()], 2),
        ("failed", vec![begin(), run("fail Neo.ClientError.Statement.SyntaxError |")], 2),
        ("COMMIT sent", vec![begin(), run("ok |"), pull_all(), commit()], 3),
        ("an auto-commit RUN sent", vec![run("ok | rows 5")], 0),
        ("an auto-commit RUN answered", vec![run("ok | rows 5")], 1),
        ("an auto-commit PULL sent", vec![run("ok | rows 3, hang"), pull_all()], 1),
        ("an auto-commit PULL answered in part", vec![run("ok | rows 5"), pull(2)], 2),
        ("an endless auto-commit PULL", vec![run("ok | endless"), pull_all()], 1),
        ("COMMIT and more sent", vec![begin(), run("ok |"), pull_all(), commit(), run("RETURN 1")], 2),
    ];
    for (moment, requests, answers) in moments {
        for abort in [false, true] {
            let mut client = client(&sidebolt).await;
            peer.forget();
            client.send(&requests.concat()).await.unwrap();
            client.read_answers(answers).await;
            until("the first request is on its way", || peer.count(Tag::BEGIN) + peer.count(Tag::RUN) > 0)
                .await;
            if abort {
                client.abort()
            } else {
                drop(client)
            }
            until(moment, || is_freed(&peer, "")).await;
            sidebolt.at_rest().await;
            // The only connection there may be is good again.
            assert!(self::client(&sidebolt).await.query("RETURN 1").await.is_ok(), "after {moment}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_client_is_gone() {
    let (peer, sidebolt) = pair(|_| (), |_| ()).await;
    let mut client = client(&sidebolt).await;
    assert!(client.ask(&[begin(), run("ok |")]).await.iter().all(Answer::is_success));
    client.half_close().await;
    until("its transaction is freed", || is_freed(&peer, "ok |")).await;
    assert!(client.is_closed().await);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_interrupts_what_runs() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    let mut client = client(&sidebolt).await;
    for (requests, resets) in [
        (vec![run("ok | endless"), pull_all()], 1),
        (vec![run("ok | rows 3, hang"), pull_all()], 1),
        (vec![run("hang |"), pull_all()], 1),
        (vec![begin(), run("ok | endless"), pull_all(), commit()], 1),
        (vec![run("ok | endless"), pull_all()], 3),
        (vec![begin(), run("hang |"), pull_all(), commit()], 2),
    ] {
        peer.forget();
        client.send(&requests.concat()).await.unwrap();
        until("the statement runs", || peer.count(Tag::RUN) > 0).await;
        client.send(&reset().repeat(resets)).await.unwrap();
        let answers = client.read_answers(requests.len() + resets).await;
        let summaries: Vec<&Answer> = answers.iter().filter(|answer| answer.is_last()).collect();
        assert_eq!(summaries.len(), requests.len() + resets, "{:?}", kinds(&answers));
        let (last, before) = summaries.split_last().unwrap();
        assert!(last.is_success(), "{summaries:?}");
        assert!(before[requests.len()..].iter().all(|answer| **answer == Answer::Ignored), "{summaries:?}");
        assert!(client.query("RETURN 1").await.is_ok());
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_once() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 2).await;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x51DE_B017);
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..150 {
        let mut client = client(&sidebolt).await;
        let mut sent = 0;
        for _ in 0..random.usize(1..6) {
            let mut burst = Vec::new();
            for _ in 0..random.usize(1..8) {
                let request = match random.u8(0..12) {
                    0..=2 => run("ok | rows 3"),
                    3 => run("fail Neo.ClientError.Statement.SyntaxError |"),
                    4 => run("ok | rows 2, fail Neo.ClientError.Statement.ArithmeticError"),
                    5..=7 => pull_all(),
                    8 => pull(2),
                    9 => begin(),
                    10 => commit(),
                    _ => reset(),
                };
                burst.push(request);
            }
            sent += burst.len();
            let answers = client.ask(&burst).await;
            if answers.last() == Some(&Answer::Closed) {
                // A violation was in it: fewer answers, never more.
                assert!(answers.len() <= burst.len() + 1, "round {round}");
                break;
            }
            assert_eq!(answers.len(), burst.len(), "round {round}");
            if answers.last().is_some_and(|answer| answer.code() == "Neo.ClientError.Request.Invalid") {
                assert!(client.is_closed().await, "round {round}");
                break;
            }
            if random.bool() {
                let last = client.one(reset()).await;
                assert!(last.is_success(), "round {round}: {last:?}");
                assert!(client.query("RETURN 1").await.is_ok(), "round {round}");
            }
        }
        assert!(sent > 0);
        drop(client);
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_not_used_again_after_a_malformed_request() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    for code in [
        "Neo.ClientError.Request.Invalid",
        "Neo.ClientError.Request.InvalidFormat",
        "Neo.TransientError.Request.NoThreadsAvailable",
    ] {
        let mut client = client(&sidebolt).await;
        peer.forget();
        let answers = client.ask(&[run(&format!("fail {code} |"))]).await;
        assert_eq!(answers[0].code(), code);
        assert!(client.one(reset()).await.is_success());
        assert!(client.query("RETURN 1").await.is_ok());
        let used: Vec<usize> = peer.statements().into_iter().map(|(connection, ..)| connection).collect();
        assert_ne!(used[0], used[1], "{code}");
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_failure_costs_no_connection() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    let mut client = client(&sidebolt).await;
    assert!(client.query("RETURN 1").await.is_ok());
    let made = peer.accepted();
    for _ in 0..10 {
        assert!(client.query("fail Neo.ClientError.Statement.SyntaxError |").await.is_err());
        assert!(
            client.query("ok | rows 1, fail Neo.TransientError.Transaction.DeadlockDetected").await.is_err()
        );
        assert!(client.query("RETURN 1").await.is_ok());
    }
    assert_eq!(peer.accepted(), made);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_the_last_answer_cost_the_connection() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    let mut client = client(&sidebolt).await;
    // A SUCCESS of the script's own, behind which the peer's SUCCESS comes unasked.
    let extra = "ok | raw 0003b170a00000";
    assert_eq!(kinds(&client.ask(&[run(extra), pull_all()]).await), ["SUCCESS", "SUCCESS"]);
    assert!(client.query("RETURN 1").await.is_ok());
    let used: Vec<usize> = peer.statements().into_iter().map(|(connection, ..)| connection).collect();
    assert_ne!(used[0], used[1]);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_breaks_off_closes_the_client() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    for script in [
        "close |",
        "ok | close",
        "ok | rows 2, close",
        "ok | cut 0",
        "ok | cut 1",
        "ok | cut 500",
        "ok | rows 1, half",
    ] {
        let mut client = client(&sidebolt).await;
        let answers = client.ask_all(&[run(script), pull_all()]).await;
        assert_eq!(answers.last(), Some(&Answer::Closed), "{script}");
        assert!(!answers.iter().any(|answer| matches!(answer, Answer::Failure(_))), "{script}: {answers:?}");
        sidebolt.at_rest().await;
        assert!(self::client(&sidebolt).await.query("RETURN 1").await.is_ok(), "after {script}");
    }
    assert_eq!(sidebolt.metric("sidebolt_upstream_lost_total", "").await, 7.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_upstream_is_given_up() {
    let (peer, sidebolt) = pair(
        |_| (),
        |config| {
            config.upstream.read_timeout = Duration::from_millis(200);
            config.pool.max_connection_pool_size = 1;
        },
    )
    .await;
    let mut client = client(&sidebolt).await;
    assert_eq!(kinds(&client.ask(&[run("ok | hang"), pull_all()]).await), ["SUCCESS", "closed"]);
    sidebolt.at_rest().await;
    // NOOPs are signs of life, and an open transaction between two requests owes nothing.
    let mut client = self::client(&sidebolt).await;
    let slow = "ok | sleep 120, noop, sleep 120, noop, sleep 120, noop, rows 1";
    let answers = client.ask(&[begin(), run(slow), pull_all()]).await;
    assert!(answers.iter().all(Answer::is_success), "{answers:?}");
    let silence = tokio::time::timeout(Duration::from_millis(500), client.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert!(client.one(commit()).await.is_success());
    // Frozen as a whole.
    peer.set(|settings| settings.frozen = true);
    let mut client = client;
    assert_eq!(kinds(&client.ask(&[run("RETURN 1"), pull_all()]).await), ["closed"]);
    peer.set(|settings| settings.frozen = false);
    sidebolt.at_rest().await;
    assert!(self::client(&sidebolt).await.query("RETURN 1").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_closed() {
    let (peer, sidebolt) =
        pair(|_| (), |config| config.listen.write_timeout = Duration::from_millis(300)).await;
    let mut client = client(&sidebolt).await;
    client.send(&[run("ok | endless"), pull_all()].concat()).await.unwrap();
    until("its statement is freed", || is_freed(&peer, "ok | endless")).await;
    sidebolt.at_rest().await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_without_end_is_not_collected() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.limits.max_summary = 256 * 1024).await;
    let mut client = client(&sidebolt).await;
    assert!(client.query("ok | rows 1, summary 100000").await.is_ok());
    assert_eq!(client.query("ok | rows 1, summary 3000000").await, Err(Answer::Closed));
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_stream_through() {
    let (peer, sidebolt) = pair(
        |_| (),
        |config| {
            config.limits.max_inspected_request = 64 * 1024;
            config.limits.max_pipelined = 64 * 1024;
        },
    )
    .await;
    let mut client = client(&sidebolt).await;
    let large = |text: &str| run_with(text, map([("p", "x".repeat(5_000_000).into())]), none());
    for _ in 0..3 {
        assert_eq!(client.query_with(large("ok | rows 2")).await.map(|rows| rows.len()), Ok(2));
        let answers = client
            .ask(&[begin(), large("ok | rows 2"), pull_all(), commit(), run("RETURN 1"), pull_all()])
            .await;
        assert!(answers.iter().all(Answer::is_success), "{answers:?}");
        let answers = client
            .ask(&[
                run("fail Neo.ClientError.Statement.SyntaxError |"),
                pull_all(),
                large("ok |"),
                pull_all(),
                reset(),
            ])
            .await;
        assert_eq!(kinds(&answers).last(), Some(&"SUCCESS"), "{answers:?}");
    }
    let large_ones = peer
        .log()
        .iter()
        .filter(|seen| matches!(&seen.what, What::Message(Tag::RUN, fields) if fields.len() == 1))
        .count();
    assert!(large_ones >= 6, "{large_ones} came through");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_brings_its_notification_filter_in_hello() {
    let (peer, sidebolt) = pair(|_| (), |config| config.limits.max_inspected_request = 64 * 1024).await;
    let mut client = Client::connect(sidebolt.address, V).await.unwrap();
    let filter = [("notifications_minimum_severity", Value::from("OFF"))];
    let login = client.ask(&[hello_with(V, None, filter), logon("user", "password")]).await;
    assert!(login.iter().all(Answer::is_success), "{login:?}");
    assert!(client.query("ok | rows 1").await.is_ok());
    let large = run_with("ok | rows 2", map([("p", "x".repeat(1_500_000).into())]), none());
    assert!(client.query_with(large).await.is_ok());
    let log = peer.log();
    let has_filter = |fields: &[Value], at: usize| {
        fields.get(at).is_some_and(|map| map.get("notifications_minimum_severity") == Some(&"OFF".into()))
    };
    let small =
        log.iter().find(|seen| matches!(&seen.what, What::Message(Tag::RUN, f) if f.len() == 3)).unwrap();
    let What::Message(_, fields) = &small.what else { unreachable!() };
    assert!(has_filter(fields, 2), "the small request carries it itself: {fields:?}");
    let large =
        log.iter().find(|seen| matches!(&seen.what, What::Message(Tag::RUN, f) if f.len() == 1)).unwrap();
    let hello = log
        .iter()
        .find(|seen| seen.connection == large.connection && matches!(seen.what, What::Message(Tag::HELLO, _)))
        .unwrap();
    let What::Message(_, fields) = &hello.what else { unreachable!() };
    assert!(has_filter(fields, 0), "the large one's connection has it: {fields:?}");
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_during_an_upload_costs_one_connection() {
    let (peer, sidebolt) = pair(
        |_| (),
        |config| {
            config.limits.max_inspected_request = 64 * 1024;
            config.pool.max_connection_pool_size = 1;
        },
    )
    .await;
    let large = run_with("ok | rows 2", map([("p", "x".repeat(5_000_000).into())]), none());
    for in_transaction in [false, true] {
        let mut client = client(&sidebolt).await;
        if in_transaction {
            assert!(client.one(begin()).await.is_success());
        }
        let open = peer.open();
        client.send(&large[..3_000_000]).await.unwrap();
        within_async(PATIENCE, "the upload holds a connection", || async {
            sidebolt.metric("sidebolt_pinned_connections", "").await > 0.0 || sidebolt.pool().await.1 == 0
        })
        .await;
        drop(client);
        sidebolt.at_rest().await;
        assert!(peer.open() <= open);
        assert!(self::client(&sidebolt).await.query("RETURN 1").await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upload_is_read_to_its_end() {
    let (_peer, sidebolt) = pair(
        |_| (),
        |config| {
            config.limits.max_inspected_request = 64 * 1024;
            config.limits.max_pipelined = 64 * 1024;
            config.pool.max_connection_pool_size = 1;
        },
    )
    .await;
    let mut first = client(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    assert!(first.one(begin()).await.is_success());
    sidebolt.reconfigure(|config| config.pool.connection_acquisition_timeout = Duration::from_millis(50));
    let large = run_with("ok | rows 2", map([("p", "x".repeat(3_000_000).into())]), none());
    let answers = second.ask(&[large.clone(), pull_all(), reset()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "IGNORED", "SUCCESS"]);
    assert!(first.one(commit()).await.is_success());
    assert!(second.query_with(large).await.is_ok());
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_reaches_only_a_server_that_asked_for_it() {
    for wanted in [false, true] {
        let (peer, sidebolt) =
            pair(|settings| settings.hints = vec![("telemetry.enabled".to_owned(), wanted.into())], |_| ())
                .await;
        let mut client = client(&sidebolt).await;
        let answers = client.ask(&[telemetry(2), run("RETURN 1"), pull_all()]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS", "SUCCESS"]);
        assert_eq!(peer.count(Tag::TELEMETRY), usize::from(wanted));
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_leads_to_the_proxy() {
    let members = |role: &str, addresses: &[&str]| {
        (role.to_owned(), addresses.iter().map(|a| (*a).to_owned()).collect())
    };
    let table = vec![
        members("WRITE", &["core1:7687"]),
        members("READ", &["core2:7687", "core3:7687"]),
        members("ROUTE", &["core1:7687", "core2:7687", "core3:7687"]),
    ];
    let (_peer, sidebolt) = pair(|settings| settings.table = Some(table), |_| ()).await;
    let mut client = client(&sidebolt).await;
    for (context, expected) in [
        (map([("address", "proxy.example:7000".into())]), "proxy.example:7000".to_owned()),
        (none(), sidebolt.address.to_string()),
    ] {
        let answer = client.one(route(context, none())).await;
        let servers = answer
            .success()
            .get("rt")
            .and_then(|rt| rt.get("servers"))
            .and_then(Value::as_list)
            .unwrap()
            .to_vec();
        assert_eq!(servers.len(), 3);
        for server in servers {
            assert_eq!(server.get("addresses"), Some(&vec![expected.as_str().into()].into()));
        }
    }
    sidebolt.reconfigure(|config| config.listen.advertised_address = Some("public.example:7687".to_owned()));
    let answer = client.one(route(none(), none())).await;
    assert!(format!("{answer:?}").contains("public.example:7687"));
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_bounded() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.limits.max_pipelined = 16 * 1024).await;
    let mut client = client(&sidebolt).await;
    let requests: Vec<Vec<u8>> = (0..2000).flat_map(|_| [run("RETURN 1"), pull_all()]).collect();
    let answers = client.ask(&requests).await;
    assert_eq!(answers.len(), 4000);
    assert!(answers.iter().all(Answer::is_success));
    sidebolt.at_rest().await;
}

/// Who gives no code may say anything next, and what comes late would be taken for the answer to something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_without_a_code_costs_its_connection() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    for (script, more) in [("ok | rows 2, fail Neo.ClientError.Some.Code", 0), ("ok | rows 2, nameless", 1)] {
        let mut client = client(&sidebolt).await;
        client.query("ok | rows 2").await.unwrap();
        let accepted = peer.accepted();
        client.query(script).await.unwrap_err();
        assert_eq!(client.query("ok | rows 2").await.map(|rows| rows.len()), Ok(2), "after {script}");
        assert_eq!(peer.accepted() - accepted, more, "after {script}");
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_talks_nonsense_costs_its_connection() {
    let (_peer, sidebolt) = pair(
        |_| (),
        |config| {
            // Far above what a busy machine takes to answer, for what is answered.
            config.upstream.read_timeout = Duration::from_secs(3);
            config.pool.max_connection_pool_size = 1;
        },
    )
    .await;
    for nonsense in [
        // A signature that does not exist, a request, a struct without signature, no struct at all.
        "0003b172a00000",
        "0003b110a00000",
        "0001b00000",
        "000181780000",
        "0002b1700000",
        // A summary that ends inside its map, one that is no map, one with a hostile size.
        "0004b170a1810000",
        "0003b170900000",
        "0008b170da7fffffff000000",
        // A FAILURE without a code, one with a code that is a number.
        "0003b17fa00000",
        "000ab17fa184636f6465010000",
        // The beginning of a chunk that never ends.
        "ffffb171",
        "ffffb170",
        // Unasked answers.
        "0002b07e0000",
        "0002b07e00000002b07e00000002b07e0000",
    ] {
        for script in [format!("raw {nonsense} |"), format!("ok | rows 2, raw {nonsense}")] {
            let mut client = client(&sidebolt).await;
            println!("{script}");
            client.send(&[run(&script), pull_all()].concat()).await.unwrap();
            // Whatever is made of it, the client is answered or closed, and the connection is not used again in that state.
            let answers = client.read_answers(2).await;
            if answers.last() != Some(&Answer::Closed) {
                client.send(&reset()).await.unwrap();
                client.read_answers(1).await;
            }
            drop(client);
            sidebolt.at_rest().await;
            let mut after = self::client(&sidebolt).await;
            assert_eq!(after.query("ok | rows 2").await.map(|rows| rows.len()), Ok(2), "after {script}");
        }
    }
}
