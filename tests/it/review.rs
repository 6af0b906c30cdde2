//! Corners where the state of a session, of a connection and of the pool meet.

use std::time::Duration;

use bolt_wire::{Tag, Version};

use crate::support::message::{begin, commit, logoff, map, none, pull_all, reset, run, run_with};
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::{Peer, Settings};
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, until, within_async};

const V: Version = Version::V5_8;

async fn pair(
    settings: impl FnOnce(&mut Settings),
    config: impl FnOnce(&mut sidebolt::config::Config),
) -> (Peer, Sidebolt) {
    let peer = Peer::start(settings).await;
    let sidebolt = Sidebolt::start(peer.address, config).await;
    (peer, sidebolt)
}

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

async fn waiting(sidebolt: &Sidebolt, count: usize) {
    within_async(PATIENCE, "requests wait", || async { sidebolt.pool().await.2 == count }).await;
}

/// A session that spins would starve the single thread of its runtime, so that not even a deadline would be noticed there: the test
/// waits on a thread of its own.
#[test]
fn half_a_request_does_not_spin_while_draining() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let limit = Duration::from_millis(300);
            let (peer, sidebolt) = pair(|_| (), |config| config.shutdown.drain_timeout = limit).await;
            let mut client = client(&sidebolt).await;
            client.send(&run("RETURN 1")[..7]).await.unwrap();
            let got_it = || async { sidebolt.metric("sidebolt_bytes_from_clients_total", "").await > 0.0 };
            within_async(PATIENCE, "the beginning has come", got_it).await;
            sidebolt.drain().await;
            assert_eq!(peer.count(Tag::RUN), 0);
        });
        done.send(()).unwrap();
    });
    finished.recv_timeout(PATIENCE).expect("the drain ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_may_still_be_finished_while_draining() {
    let (_peer, sidebolt) = pair(|_| (), |_| ()).await;
    let mut client = client(&sidebolt).await;
    let requests = [run("RETURN 1"), pull_all()].concat();
    client.send(&requests[..7]).await.unwrap();
    let before = sidebolt.metric("sidebolt_bytes_from_clients_total", "").await;
    assert!(before > 0.0);
    let drain = tokio::spawn(sidebolt.drain());
    client.send(&requests[7..]).await.unwrap();
    assert_eq!(kinds(&client.read_answers(2).await), ["SUCCESS", "RECORD", "SUCCESS"]);
    assert!(client.is_closed().await);
    drain.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_not_logged_in_does_not_hold_up_the_drain() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.listen.login_timeout = 2 * PATIENCE).await;
    sidebolt.reconfigure(|config| config.shutdown.drain_timeout = 2 * PATIENCE);
    let mut silent = Client::connect(sidebolt.address, V).await.unwrap();
    sidebolt.drain().await;
    assert!(silent.is_closed().await);
}

/// Silence is counted from the request on that is not answered, not from the answer before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_between_two_requests_is_no_silence_of_the_servers() {
    let limit = Duration::from_millis(200);
    let (_peer, sidebolt) = pair(|_| (), |config| config.upstream.read_timeout = limit).await;
    let mut client = client(&sidebolt).await;
    assert!(client.one(begin()).await.is_success());
    let pause = tokio::time::timeout(2 * limit, client.next()).await;
    assert!(pause.is_err(), "{pause:?}");
    let answers = client.ask(&[run("sleep 100 | rows 1"), pull_all()]).await;
    assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS"]);
    // An upload that takes long is no silence either.
    sidebolt.reconfigure(|config| config.limits.max_inspected_request = 64 * 1024);
    let large = run_with("sleep 100 | rows 1", map([("p", "x".repeat(300_000).into())]), none());
    client.send(&large[..200_000]).await.unwrap();
    let pause = tokio::time::timeout(2 * limit, client.next()).await;
    assert!(pause.is_err(), "{pause:?}");
    client.send(&large[200_000..]).await.unwrap();
    assert!(client.read().await.is_success());
    assert!(client.ask(&[pull_all(), commit()]).await.iter().all(Answer::is_success));
    sidebolt.at_rest().await;
}

/// A LOGON whose client gave up leaves open who is logged in: nobody may get that connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_was_broken_off_costs_the_connection() {
    let (peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    let mut b = Client::login(sidebolt.address, V, "b", "password").await;
    let mut a = Client::login(sidebolt.address, V, "a", "password").await;
    assert!(a.query("RETURN 1").await.is_ok());
    for round in 0..5 {
        peer.set(|settings| settings.frozen = true);
        b.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
        within_async(PATIENCE, "the login is under way", || async { sidebolt.pool().await.1 == 0 }).await;
        b.send(&reset()).await.unwrap();
        assert_eq!(kinds(&b.read_answers(3).await), ["IGNORED", "IGNORED", "SUCCESS"]);
        peer.set(|settings| settings.frozen = false);
        assert_eq!(a.query("ok | who").await, Ok(vec![vec!["a".into()]]), "round {round}");
        sidebolt.at_rest().await;
    }
}

/// A request that grew whole while it waited for a connection is one message, and what comes behind it is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_that_waits_is_taken_back_or_refused_alone() {
    let (_peer, sidebolt) = pair(
        |_| (),
        |config| {
            config.limits.max_inspected_request = 64 * 1024;
            config.pool.max_connection_pool_size = 1;
        },
    )
    .await;
    let mut first = client(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    assert!(first.one(begin()).await.is_success());
    let large = run_with("ok | rows 2", map([("p", "x".repeat(200_000).into())]), none());
    second.send(&large[..100_000]).await.unwrap();
    waiting(&sidebolt, 1).await;
    second.send(&[&large[100_000..], &pull_all(), &reset()].concat()).await.unwrap();
    assert_eq!(kinds(&second.read_answers(3).await), ["IGNORED", "IGNORED", "SUCCESS"]);
    sidebolt.reconfigure(|config| config.pool.connection_acquisition_timeout = Duration::from_secs(1));
    second.send(&large[..100_000]).await.unwrap();
    waiting(&sidebolt, 1).await;
    second.send(&[&large[100_000..], &pull_all()].concat()).await.unwrap();
    assert_eq!(kinds(&second.read_answers(2).await), ["FAILURE", "IGNORED"]);
    assert!(second.one(reset()).await.is_success());
    assert!(first.one(commit()).await.is_success());
    assert!(second.query_with(large).await.is_ok());
    sidebolt.at_rest().await;
}

/// Nothing is inspected beyond what may be held: a limit on pipelined bytes below that of a request must not stop the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_be_larger_than_what_may_be_pipelined() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.limits.max_pipelined = 64 * 1024).await;
    let mut client = client(&sidebolt).await;
    assert!(client.one(begin()).await.is_success());
    let large = run_with("ok | rows 2", map([("p", "x".repeat(500_000).into())]), none());
    assert!(client.query_with(large).await.is_ok());
    assert!(client.one(commit()).await.is_success());
    sidebolt.at_rest().await;
}

/// More connections are allowed now: those who wait already get them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_may_grow_serves_who_waits() {
    let (_peer, sidebolt) = pair(|_| (), |config| config.pool.max_connection_pool_size = 1).await;
    let mut first = client(&sidebolt).await;
    let mut others = [client(&sidebolt).await, client(&sidebolt).await];
    assert!(first.one(begin()).await.is_success());
    for other in &mut others {
        other.send(&begin()).await.unwrap();
    }
    waiting(&sidebolt, 2).await;
    sidebolt.reconfigure(|config| config.pool.max_connection_pool_size = 3);
    for other in &mut others {
        assert!(other.read().await.is_success());
    }
    // And it shrinks: what is idle beyond the new size goes.
    drop((first, others));
    sidebolt.at_rest().await;
    sidebolt.reconfigure(|config| config.pool.max_connection_pool_size = 1);
    within_async(PATIENCE, "the pool has shrunk", || async { sidebolt.pool().await.0 == 1 }).await;
}

/// A server that ends a connection after an illegal request is not a lost server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_violation_by_the_client_is_no_fault_of_the_servers() {
    let (_peer, sidebolt) = pair(|_| (), |_| ()).await;
    let mut client = client(&sidebolt).await;
    let answers = client.ask(&[run("fail Neo.ClientError.Request.Invalid |"), begin()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "closed"]);
    assert_eq!(sidebolt.metric("sidebolt_upstream_lost_total", "").await, 0.0);
    sidebolt.at_rest().await;
}

/// Who logs off and on again as somebody else is served as that user, and requests between the two are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_between_logoff_and_logon() {
    let (peer, sidebolt) = pair(|_| (), |_| ()).await;
    let mut client = client(&sidebolt).await;
    let answers = client.ask(&[logoff(), run("RETURN 1"), pull_all()]).await;
    assert_eq!(kinds(&answers), ["SUCCESS", "FAILURE", "closed"]);
    until("nothing was run", || peer.count(Tag::RUN) == 0).await;
}
