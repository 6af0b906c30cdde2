//! Shutting down: what is open finishes, what is idle is closed, and it never takes longer than allowed.

use std::time::Duration;

use bolt_wire::{Tag, Version};

use crate::support::message::*;
use crate::support::raw_client::{Answer, Client};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, until, within, within_async};

const V: Version = Version::V5_8;

/// What a client under load saw until it was closed.
#[derive(Debug, Default)]
struct Seen {
    transactions: usize,
    statements: usize,
}

/// Works until it is closed. A close is right only where nothing is open.
async fn work(address: std::net::SocketAddr, number: usize) -> Seen {
    let mut seen = Seen::default();
    let Ok(mut client) = Client::connect(address, V).await else { return seen };
    if !client.ask(&login(V, "user", "password")).await.iter().all(Answer::is_success) {
        return seen;
    }
    loop {
        if number.is_multiple_of(2) {
            let answers = client.ask_all(&[run("ok | rows 3"), pull_all()]).await;
            match answers.as_slice() {
                [Answer::Closed] => return seen,
                [first, .., last] if first.is_success() && last.is_success() => seen.statements += 1,
                other => panic!("half an answer: {other:?}"),
            }
            continue;
        }
        match client.one(begin()).await {
            Answer::Closed => return seen,
            answer => assert!(answer.is_success(), "{answer:?}"),
        }
        for _ in 0..3 {
            let answers = client.ask(&[run("ok | rows 3"), pull_all()]).await;
            assert!(answers.iter().all(Answer::is_success), "in a transaction: {answers:?}");
        }
        let answer = client.one(commit()).await;
        assert!(answer.is_success(), "COMMIT: {answer:?}");
        seen.transactions += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_drains_under_load_fail_no_transaction() {
    let peer = Peer::start(|_| ()).await;
    let (mut transactions, mut statements, mut longest) = (0, 0, Duration::ZERO);
    for round in 0..100 {
        let sidebolt = Sidebolt::start(peer.address, |config| config.pool.max_connection_pool_size = 4).await;
        let before = peer.count(Tag::PULL);
        let clients: Vec<_> = (0..8).map(|number| tokio::spawn(work(sidebolt.address, number))).collect();
        // The load is under way, and the drain strikes at another moment each time.
        until("the load runs", || peer.count(Tag::PULL) > before + 10 + round % 40).await;
        longest = longest.max(sidebolt.drain().await);
        for client in clients {
            let seen = client.await.unwrap();
            transactions += seen.transactions;
            statements += seen.statements;
        }
        peer.forget();
    }
    println!(
        "100 drains: {transactions} transactions and {statements} statements, none failed; the longest drain took {longest:?}"
    );
    assert!(transactions > 100 && statements > 100);
    until("no upstream connection is left", || peer.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_are_closed_and_a_running_transaction_finishes() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    let login = || Client::login(sidebolt.address, V, "user", "password");
    let (mut idle, mut open, mut running) = (login().await, login().await, login().await);
    let (mut failed, address) = (login().await, sidebolt.address);
    assert!(open.one(begin()).await.is_success());
    running.send(&[run("ok | hold, rows 2"), pull_all()].concat()).await.unwrap();
    assert!(matches!(
        failed.one(run("fail Neo.ClientError.Statement.SyntaxError |")).await,
        Answer::Failure(_)
    ));
    until("it runs", || peer.count(Tag::RUN) == 2).await;
    let draining = tokio::spawn(sidebolt.drain());
    assert!(idle.is_closed().await);
    assert!(failed.is_closed().await);
    // Nobody new is let in.
    within_async(PATIENCE, "the port is closed", || async { Client::connect(address, V).await.is_err() })
        .await;
    assert!(!draining.is_finished());
    let answers = open.ask(&[run("ok | rows 2"), pull_all()]).await;
    assert!(answers.iter().all(Answer::is_success), "{answers:?}");
    peer.set(|settings| settings.released = true);
    assert!(
        running
            .read_answers(2)
            .await
            .iter()
            .all(|answer| !matches!(answer, Answer::Failure(_) | Answer::Closed))
    );
    assert!(running.is_closed().await);
    assert!(!draining.is_finished());
    assert!(open.one(commit()).await.is_success());
    assert!(open.is_closed().await);
    within(PATIENCE, "the drain ends with the last transaction", || draining.is_finished()).await;
    until("no upstream connection is left", || peer.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_bounded() {
    const LIMIT: Duration = Duration::from_millis(300);
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| config.shutdown.drain_timeout = LIMIT).await;
    let mut open = Client::login(sidebolt.address, V, "user", "password").await;
    assert!(open.one(begin()).await.is_success());
    let mut hung = Client::login(sidebolt.address, V, "user", "password").await;
    hung.send(&[run("ok | hang"), pull_all()].concat()).await.unwrap();
    until("it runs", || peer.count(Tag::RUN) == 1).await;
    let took = sidebolt.drain().await;
    assert!(took >= LIMIT, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_connection_when_the_drain_begins_is_served() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| config.pool.max_connection_pool_size = 1).await;
    let login = || Client::login(sidebolt.address, V, "user", "password");
    let (mut first, mut second) = (login().await, login().await);
    assert!(first.one(begin()).await.is_success());
    second.send(&[run("ok | rows 2"), pull_all()].concat()).await.unwrap();
    within_async(PATIENCE, "it waits", || async { sidebolt.pool().await.2 == 1 }).await;
    let draining = tokio::spawn(sidebolt.drain());
    assert!(first.one(commit()).await.is_success());
    assert!(second.ask(&[]).await.is_empty());
    let answers = second.read_answers(2).await;
    assert!(
        answers.iter().all(|answer| !matches!(answer, Answer::Failure(_) | Answer::Closed)),
        "{answers:?}"
    );
    assert!(second.is_closed().await && first.is_closed().await);
    within(PATIENCE, "the drain ends", || draining.is_finished()).await;
}
