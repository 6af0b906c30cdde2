//! Everything at once: clients of all manners on a small pool before a server that breaks. Nothing leaks, nobody sees another's rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};

use crate::support::message::*;
use crate::support::raw_client::{Answer, Client};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::until;

const USERS: [&str; 4] = ["ann", "bob", "cy", "dee"];
const VERSIONS: [Version; 4] = [Version::V4_4, Version::V5_0, Version::V5_8, Version::V6_1];
const CLIENTS: usize = 24;
const ROUNDS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_all_manners_and_a_server_that_breaks_leave_nothing_behind() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xC4A0_5000);
    println!("SEED={seed}");
    let peer = Arc::new(Peer::start(|_| ()).await);
    let sidebolt = Sidebolt::start(peer.address, |config| config.pool.max_connection_pool_size = 3).await;
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let saboteur = {
        let (peer, done, stop) = (Arc::clone(&peer), Arc::clone(&done), Arc::clone(&stop));
        tokio::spawn(async move {
            // Breaks every connection now and then, measured in work done and not in time.
            let mut next = 50;
            while !stop.load(Ordering::SeqCst) {
                if done.load(Ordering::SeqCst) >= next {
                    peer.break_now();
                    next += 50;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, done) = (sidebolt.address, Arc::clone(&done));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed + number as u64);
                let mut broken = 0;
                for _ in 0..ROUNDS {
                    broken += usize::from(!round(&mut random, address).await);
                    done.fetch_add(1, Ordering::SeqCst);
                }
                broken
            })
        })
        .collect();
    let mut broken = 0;
    for client in clients {
        broken += client.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    saboteur.await.unwrap();
    sidebolt.at_rest().await;
    println!("{} sessions, {broken} of them broken by the server", CLIENTS * ROUNDS);
    assert!(broken > 0 && broken < CLIENTS * ROUNDS / 2, "{broken}");
    until("no more connections than the pool may have", || peer.open() <= 3).await;
    // No statement ran on a connection of somebody else.
    for (_, user, text) in peer.statements() {
        let owner = text.split(" of ").nth(1).unwrap_or_default();
        assert_eq!(user, owner, "{text}");
    }
    for version in VERSIONS {
        let mut client = Client::login(sidebolt.address, version, "ann", "x").await;
        assert!(client.query("ok, ok | rows 1").await.is_ok());
    }
    assert_eq!(peer.count(Tag::GOODBYE) > 0, sidebolt.metric("sidebolt_pool_closed_total", "").await > 0.0);
}

/// One session; false if the server broke it.
async fn round(random: &mut fastrand::Rng, address: std::net::SocketAddr) -> bool {
    let user = USERS[random.usize(0..USERS.len())];
    let version = VERSIONS[random.usize(0..VERSIONS.len())];
    let mut client = Client::connect(address, version).await.expect("Sidebolt listens");
    if !client.ask(&login(version, user, "x")).await.iter().all(Answer::is_success) {
        return false;
    }
    // The owner's name goes along in the text, as a step that means nothing.
    let own = |script: &str| run_with(&format!("ok | {script}, noop of {user}"), none(), none());
    for _ in 0..random.usize(1..5) {
        let answers = match random.u8(0..10) {
            0..=3 => client.ask_all(&[own("who"), pull_all()]).await,
            4..=5 => client.ask_all(&[begin(), own("who"), pull_all(), commit()]).await,
            6 => {
                client
                    .ask_all(&[
                        begin(),
                        own("rows 2, fail Neo.ClientError.Statement.SyntaxError"),
                        pull_all(),
                        commit(),
                    ])
                    .await
            }
            7 => {
                let _ = client.send(&[own("endless"), pull_all()].concat()).await;
                if random.bool() {
                    break;
                }
                let _ = client.send(&reset()).await;
                client.read_answers(3).await
            }
            8 => {
                let _ = client.send(&[begin(), own("rows 5"), pull(2)].concat()).await;
                client.read_answers(random.usize(0..4)).await;
                break;
            }
            _ => client.ask_all(&[own("rows 5"), pull(2)]).await,
        };
        for answer in &answers {
            if let Answer::Record(row) = answer
                && let Some(Value::String(shown)) = row.first()
                && shown != "endless"
            {
                assert_eq!(shown, user, "a row of somebody else");
            }
        }
        if answers.last() == Some(&Answer::Closed) {
            return false;
        }
        if !client.one(reset()).await.is_success() {
            return false;
        }
    }
    if random.bool() {
        client.abort()
    } else {
        drop(client)
    }
    true
}
