//! The pool: many clients over few connections, in turn, and never one connection too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use bolt_wire::{Tag, Version};

use crate::support::message::*;
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::{Peer, Settings, What};
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, until, within_async};

const V: Version = Version::V5_8;
const SHED: &str = "Neo.TransientError.Request.NoThreadsAvailable";

/// A peer, and a Sidebolt with a pool of `size` in front of it that has made its first contact.
async fn small_pool(size: usize, change: impl FnOnce(&mut Settings)) -> (Peer, Sidebolt) {
    let peer = Peer::start(change).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.pool.max_connection_pool_size = size;
        // A transaction is to hold a connection from its BEGIN on, and every read is to be run.
        config.coalesce.managed = false;
        config.cache.enabled = false;
    })
    .await;
    drop(client(&sidebolt).await);
    sidebolt.at_rest().await;
    peer.forget();
    (peer, sidebolt)
}

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

/// A client that holds a connection: its transaction is open.
async fn holder(sidebolt: &Sidebolt) -> Client {
    let mut client = client(sidebolt).await;
    assert!(client.one(begin()).await.is_success());
    client
}

async fn waiting(sidebolt: &Sidebolt, count: usize) {
    within_async(PATIENCE, "the requests wait", || async { sidebolt.pool().await.2 == count }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_share_four_connections() {
    let (peer, sidebolt) = small_pool(4, |_| ()).await;
    let clients = (0..50).map(|_| {
        let address = sidebolt.address;
        tokio::spawn(async move {
            let mut client = Client::login(address, V, "user", "password").await;
            for _ in 0..20 {
                let answers = client.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
                assert!(answers.iter().all(Answer::is_success), "{answers:?}");
                assert!(client.query("RETURN 1").await.is_ok());
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    sidebolt.at_rest().await;
    // One more may be open for a moment to ask for the versions.
    assert!(peer.most_open() <= 5, "{} connections at once", peer.most_open());
    assert_eq!(peer.count(Tag::COMMIT), 50 * 20);
    assert_eq!(peer.statements().len(), 2 * 50 * 20);
    for connection in 0..peer.accepted() {
        let mut tags: Vec<Tag> = peer.tags(connection);
        tags.retain(|tag| !matches!(*tag, Tag::HELLO | Tag::LOGON | Tag::LOGOFF | Tag::GOODBYE | Tag::RESET));
        let mut rest = tags.as_slice();
        while !rest.is_empty() {
            const TRANSACTION: [Tag; 4] = [Tag::BEGIN, Tag::RUN, Tag::PULL, Tag::COMMIT];
            rest = rest
                .strip_prefix(&TRANSACTION)
                .or_else(|| rest.strip_prefix(&[Tag::RUN, Tag::PULL]))
                .unwrap_or_else(|| panic!("mixed up on connection {connection}: {rest:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_hold_no_connection() {
    let (peer, sidebolt) = small_pool(2, |_| ()).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(client(&sidebolt).await);
    }
    for client in &mut clients {
        assert!(client.query("RETURN 1").await.is_ok());
    }
    sidebolt.at_rest().await;
    assert_eq!(sidebolt.metric("sidebolt_clients", "").await, 300.0);
    assert!(peer.open() <= 2, "{} connections for idle clients", peer.open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_longest_is_served_first() {
    let (peer, sidebolt) = small_pool(1, |_| ()).await;
    let mut first = holder(&sidebolt).await;
    let mut queue = Vec::new();
    for name in ["one", "two", "three", "four"] {
        let mut client = client(&sidebolt).await;
        client.send(&[run(name), pull_all()].concat()).await.unwrap();
        queue.push(client);
        waiting(&sidebolt, queue.len()).await;
    }
    assert!(first.one(commit()).await.is_success());
    for client in &mut queue {
        assert!(client.read_answers(2).await.iter().all(|answer| !matches!(answer, Answer::Failure(_))));
    }
    let served: Vec<String> = peer.statements().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(served, ["one", "two", "three", "four"]);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_clients_get_equal_shares() {
    let (_peer, sidebolt) = small_pool(2, |_| ()).await;
    let left = Arc::new(AtomicI64::new(2000));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (address, left) = (sidebolt.address, Arc::clone(&left));
            tokio::spawn(async move {
                let mut client = Client::login(address, V, "user", "password").await;
                let mut done = 0;
                while left.fetch_sub(1, Ordering::SeqCst) > 0 {
                    assert!(client.query("RETURN 1").await.is_ok());
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut shares: Vec<u32> = Vec::new();
    for client in clients {
        shares.push(client.await.unwrap());
    }
    let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
    println!("16 clients on 2 connections: {least} to {most} of 2000 queries each");
    assert!(most <= 2 * least, "unfair: {shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_busy_clients_share_sixteen_connections_fairly() {
    const CLIENTS: usize = 1000;
    const ROUNDS: usize = 10;
    let (peer, sidebolt) = small_pool(16, |_| ()).await;
    let mut holders = Vec::new();
    for _ in 0..16 {
        holders.push(holder(&sidebolt).await);
    }
    let done: Arc<Vec<AtomicUsize>> = Arc::new((0..CLIENTS).map(|_| AtomicUsize::new(0)).collect());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, done) = (sidebolt.address, Arc::clone(&done));
            tokio::spawn(async move {
                let mut client = Client::login(address, V, "user", "password").await;
                for _ in 0..ROUNDS {
                    let answers = client.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
                    assert!(answers.iter().all(Answer::is_success), "{answers:?}");
                    done[number].fetch_add(1, Ordering::SeqCst);
                }
                // What the others had done when this one was ready.
                done.iter().map(|done| done.load(Ordering::SeqCst)).min().unwrap()
            })
        })
        .collect();
    // Everybody stands in the queue before the first is served.
    waiting(&sidebolt, CLIENTS).await;
    for holder in &mut holders {
        assert!(holder.one(rollback()).await.is_success());
    }
    let mut least = ROUNDS;
    for client in clients {
        least = least.min(client.await.unwrap());
    }
    sidebolt.at_rest().await;
    println!(
        "{CLIENTS} clients on 16 connections: when the first had done {ROUNDS} transactions, the last had done {least}"
    );
    assert_eq!(peer.count(Tag::COMMIT), CLIENTS * ROUNDS);
    assert!(peer.most_open() <= 17, "{} connections at once", peer.most_open());
    assert!(2 * least >= ROUNDS, "unfair: {least} of {ROUNDS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_of_the_configuration_under_load_drop_nothing() {
    let (_peer, sidebolt) = small_pool(4, |_| ()).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (address, stop) = (sidebolt.address, Arc::clone(&stop));
            tokio::spawn(async move {
                let mut client = Client::login(address, V, "user", "password").await;
                let mut rounds = 0;
                while !stop.load(Ordering::SeqCst) {
                    let answers = client.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
                    assert!(answers.iter().all(Answer::is_success), "{answers:?}");
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    for change in 0..1000 {
        sidebolt.reconfigure(|config| {
            config.pool.max_connection_pool_size = 1 + change % 5;
            config.pool.idle_timeout = Duration::from_secs(1 + change as u64 % 7);
            config.auth.cache_ttl = Duration::from_millis(change as u64 % 3 * 1000);
            config.limits.max_inspected_request = 1024 << (change % 10);
        });
        // The next change comes in the middle of the work under this one.
        let before = sidebolt.metric("sidebolt_requests_total", "transaction").await;
        within_async(PATIENCE, "work goes on", || async {
            sidebolt.metric("sidebolt_requests_total", "transaction").await > before
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut rounds: Vec<i32> = Vec::new();
    for client in clients {
        rounds.push(client.await.unwrap());
    }
    println!("1000 changes: {} transactions, none failed", rounds.iter().sum::<i32>());
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
    sidebolt.at_rest().await;
    assert!(sidebolt.pool().await.0 <= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_is_told_so_and_stays() {
    let (_peer, sidebolt) = small_pool(1, |_| ()).await;
    let mut first = holder(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    sidebolt.reconfigure(|config| config.pool.connection_acquisition_timeout = Duration::from_millis(50));
    for requests in [vec![run("RETURN 1"), pull_all()], vec![begin(), run("RETURN 1"), pull_all(), commit()]]
    {
        let answers = second.ask(&requests).await;
        assert_eq!(answers[0].code(), SHED);
        assert!(answers[0].text().starts_with("Sidebolt: "), "{:?}", answers[0]);
        assert!(answers[0].text().contains("max_connection_pool_size"), "{:?}", answers[0]);
        assert!(answers[1..].iter().all(|answer| *answer == Answer::Ignored));
        assert!(second.one(reset()).await.is_success());
    }
    assert!(first.one(commit()).await.is_success());
    assert!(second.query("RETURN 1").await.is_ok());
    assert_eq!(sidebolt.metric("sidebolt_refusals_total", "acquisition_timeout").await, 2.0);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once() {
    let (_peer, sidebolt) = small_pool(1, |_| ()).await;
    sidebolt.reconfigure(|config| config.pool.max_waiting = 1);
    let mut first = holder(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    second.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
    waiting(&sidebolt, 1).await;
    let mut third = client(&sidebolt).await;
    let answers = third.ask(&[run("RETURN 1"), pull_all()]).await;
    assert_eq!((answers[0].code(), &answers[1]), (SHED, &Answer::Ignored));
    assert!(third.one(reset()).await.is_success());
    assert!(first.one(commit()).await.is_success());
    assert_eq!(kinds(&second.read_answers(2).await), ["SUCCESS", "RECORD", "SUCCESS"]);
    assert!(third.query("RETURN 1").await.is_ok());
    assert_eq!(sidebolt.metric("sidebolt_refusals_total", "queue_full").await, 1.0);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_nobody_refuses_everybody_who_would_wait() {
    let (_peer, sidebolt) = small_pool(1, |_| ()).await;
    sidebolt.reconfigure(|config| config.pool.max_waiting = 0);
    let mut first = holder(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    assert_eq!(second.one(begin()).await.code(), SHED);
    assert!(first.one(rollback()).await.is_success());
    assert!(second.one(reset()).await.is_success());
    assert!(second.query("RETURN 1").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_vanishes_while_waiting_leaves_the_queue() {
    let (peer, sidebolt) = small_pool(1, |_| ()).await;
    let mut first = holder(&sidebolt).await;
    let mut gone = Vec::new();
    for _ in 0..5 {
        let mut client = client(&sidebolt).await;
        client.send(&[run("of someone gone"), pull_all()].concat()).await.unwrap();
        gone.push(client);
        waiting(&sidebolt, gone.len()).await;
    }
    let mut last = client(&sidebolt).await;
    last.send(&[run("of the last"), pull_all()].concat()).await.unwrap();
    waiting(&sidebolt, 6).await;
    for (at, client) in gone.into_iter().enumerate() {
        if at % 2 == 0 { drop(client) } else { client.abort() }
    }
    within_async(PATIENCE, "their sessions end", || async {
        sidebolt.metric("sidebolt_clients", "").await == 2.0
    })
    .await;
    assert!(first.one(commit()).await.is_success());
    assert_eq!(kinds(&last.read_answers(2).await), ["SUCCESS", "RECORD", "SUCCESS"]);
    let statements: Vec<String> = peer.statements().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(statements, ["of the last"]);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_takes_a_waiting_request_back() {
    let (peer, sidebolt) = small_pool(1, |_| ()).await;
    let mut first = holder(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    // What is asked for, what takes it back, and the answers.
    type Burst = (Vec<Vec<u8>>, Vec<Vec<u8>>, &'static [&'static str]);
    let bursts: [Burst; 4] = [
        (vec![run("a"), pull_all()], vec![reset()], &["IGNORED", "IGNORED", "SUCCESS"]),
        (
            vec![begin(), run("a"), pull_all(), commit()],
            vec![reset()],
            &["IGNORED", "IGNORED", "IGNORED", "IGNORED", "SUCCESS"],
        ),
        (vec![run("a"), pull_all()], vec![reset(), reset()], &["IGNORED", "IGNORED", "IGNORED", "SUCCESS"]),
        (vec![run("a")], vec![pull_all(), reset(), reset()], &["IGNORED", "IGNORED", "IGNORED", "SUCCESS"]),
    ];
    for (requests, resets, expected) in bursts {
        second.send(&requests.concat()).await.unwrap();
        waiting(&sidebolt, 1).await;
        second.send(&resets.concat()).await.unwrap();
        assert_eq!(kinds(&second.read_answers(expected.len()).await), expected);
    }
    // What comes behind the RESET waits its turn again.
    second.send(&[run("a"), pull_all()].concat()).await.unwrap();
    waiting(&sidebolt, 1).await;
    second.send(&[reset(), run("b"), pull_all()].concat()).await.unwrap();
    assert_eq!(kinds(&second.read_answers(3).await), ["IGNORED", "IGNORED", "SUCCESS"]);
    assert!(first.one(commit()).await.is_success());
    assert_eq!(kinds(&second.read_answers(2).await), ["SUCCESS", "RECORD", "SUCCESS"]);
    let statements: Vec<String> = peer.statements().into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(statements, ["b"]);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_long_hears_noops() {
    // Half of a receive time-out of one second.
    let (_peer, sidebolt) = small_pool(1, |settings| settings.recv_timeout = Some(1)).await;
    let mut first = holder(&sidebolt).await;
    let mut second = client(&sidebolt).await;
    second.send(&[run("RETURN 1"), pull_all()].concat()).await.unwrap();
    while sidebolt.metric("sidebolt_noops_total", "").await < 2.0 {
        // The holder's open transaction owes no answer, so its silence is no reason to give up.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.one(commit()).await.is_success());
    assert_eq!(kinds(&second.read_answers(2).await), ["SUCCESS", "RECORD", "SUCCESS"]);
    assert!(second.noops >= 2, "{} NOOPs", second.noops);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_with_their_lifetime() {
    let (peer, sidebolt) = small_pool(2, |_| ()).await;
    let mut client = client(&sidebolt).await;
    assert!(client.query("RETURN 1").await.is_ok());
    sidebolt.reconfigure(|config| config.pool.max_connection_lifetime = Duration::from_millis(20));
    // Made before: lives on. Made now: ends soon.
    peer.break_connections().await;
    assert!(client.query("RETURN 1").await.is_ok());
    until("its lifetime is over and it is closed", || peer.open() == 0).await;
    assert_eq!(peer.tags(peer.accepted() - 1).last(), Some(&Tag::GOODBYE));
    assert!(client.query("RETURN 1").await.is_ok());
    assert!(sidebolt.metric("sidebolt_pool_closed_total", "lifetime").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_but_for_the_spare_ones() {
    let (peer, sidebolt) = small_pool(4, |_| ()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(holder(&sidebolt).await);
    }
    for client in &mut clients {
        assert!(client.one(commit()).await.is_success());
    }
    assert_eq!(sidebolt.pool().await, (4, 4, 0));
    sidebolt.reconfigure(|config| {
        config.pool.idle_timeout = Duration::from_millis(20);
        config.pool.min_idle = 1;
    });
    until("three of four are closed", || peer.open() == 1).await;
    assert_eq!(sidebolt.pool().await, (1, 1, 0));
    assert_eq!(sidebolt.metric("sidebolt_pool_closed_total", "idle").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rested_connection_is_tried_before_it_is_lent() {
    let (peer, sidebolt) = small_pool(1, |_| ()).await;
    sidebolt.reconfigure(|config| config.pool.connection_liveness_check_timeout = Duration::ZERO);
    let mut client = client(&sidebolt).await;
    assert!(client.query("RETURN 1").await.is_ok());
    peer.forget();
    assert!(client.query("RETURN 2").await.is_ok());
    let tags: Vec<Tag> = peer
        .log()
        .into_iter()
        .filter_map(|seen| match seen.what {
            What::Message(tag, _) => Some(tag),
            _ => None,
        })
        .collect();
    assert_eq!(tags, [Tag::RESET, Tag::RUN, Tag::PULL]);
    // One that does not stand the test is replaced, and nobody notices.
    peer.set(|settings| settings.dies_at = Some(Tag::RESET));
    assert!(client.query("RETURN 3").await.is_ok());
    assert!(sidebolt.metric("sidebolt_pool_closed_total", "dead").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_at_rest_is_noticed_before_it_is_lent() {
    let (peer, sidebolt) = small_pool(2, |_| ()).await;
    let mut client = client(&sidebolt).await;
    for _ in 0..20 {
        assert!(client.query("RETURN 1").await.is_ok());
        peer.break_connections().await;
        let answers = client.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
        assert!(answers.iter().all(Answer::is_success), "{answers:?}");
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_make_room_for_each_other() {
    let (peer, sidebolt) = small_pool(1, |_| ()).await;
    for version in Version::ALL.into_iter().chain(Version::ALL.into_iter().rev()) {
        let mut client = Client::login(sidebolt.address, version, "user", "password").await;
        let answers = client.ask(&[begin(), run("RETURN 1"), pull_all(), commit()]).await;
        assert!(answers.iter().all(Answer::is_success), "{version}: {answers:?}");
    }
    sidebolt.at_rest().await;
    assert!(peer.most_open() <= 2, "{} connections at once", peer.most_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_take_turns_on_one_connection() {
    let (peer, sidebolt) = small_pool(1, |_| ()).await;
    let accepted = peer.accepted();
    let mut clients = Vec::new();
    for user in ["ann", "bob", "cy"] {
        clients.push((user, Client::login(sidebolt.address, V, user, "password").await));
    }
    let made = peer.accepted();
    for _ in 0..5 {
        for (user, client) in &mut clients {
            assert_eq!(client.value("ok | who").await, (*user).into());
        }
    }
    assert_eq!(peer.accepted(), made, "re-use costs a LOGON, not a connection");
    assert!(made > accepted);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_5_1_every_user_has_connections_of_its_own() {
    let (peer, sidebolt) = small_pool(2, |_| ()).await;
    let mut clients = Vec::new();
    for user in ["ann", "bob", "cy"] {
        clients.push((user, Client::login(sidebolt.address, Version::V4_4, user, "password").await));
    }
    for _ in 0..5 {
        for (user, client) in &mut clients {
            assert_eq!(client.value("ok | who").await, (*user).into());
        }
    }
    assert_eq!(peer.count(Tag::LOGON), 0);
    sidebolt.at_rest().await;
    assert!(peer.most_open() <= 3, "{} connections at once", peer.most_open());
}
