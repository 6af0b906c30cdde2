//! Clients that break the rules: closed or told so, without harm to anybody else.

use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};

use crate::support::message::*;
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, within_async};

const V: Version = Version::V5_8;

async fn pair() -> (Peer, Sidebolt) {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.listen.handshake_timeout = Duration::from_millis(300);
        config.listen.login_timeout = Duration::from_millis(600);
        config.listen.write_timeout = Duration::from_millis(600);
        config.limits.max_inspected_request = 256 * 1024;
        config.limits.max_pipelined = 256 * 1024;
        config.pool.max_connection_pool_size = 2;
    })
    .await;
    (peer, sidebolt)
}

async fn client(sidebolt: &Sidebolt) -> Client {
    Client::login(sidebolt.address, V, "user", "password").await
}

/// Nothing is held, nobody is left, and others are served.
async fn is_unharmed(sidebolt: &Sidebolt) {
    sidebolt.at_rest().await;
    within_async(PATIENCE, "the hostile clients are gone", || async {
        sidebolt.metric("sidebolt_clients", "").await == 0.0
    })
    .await;
    assert!(client(sidebolt).await.query("RETURN 1").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_bolt_is_closed_without_a_word() {
    let (_peer, sidebolt) = pair().await;
    let openings: [&[u8]; 5] = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0x60, 0x60, 0xB0, 0x18, 0, 0, 8, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0; 64],
        &[0xFF; 64],
        b"*1\r\n$4\r\nPING\r\n",
    ];
    for opening in openings {
        let mut client = Client::dial(sidebolt.address).await.unwrap();
        let _ = client.send(opening).await;
        assert_eq!(client.read_bytes().await, [0u8; 0], "{opening:x?}");
    }
    is_unharmed(&sidebolt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dawdles_before_login_is_closed() {
    let (_peer, sidebolt) = pair().await;
    let mut shaken = Client::connect(sidebolt.address, V).await.unwrap();
    let mut greeted = Client::connect(sidebolt.address, V).await.unwrap();
    assert!(greeted.one(hello(V, "", "")).await.is_success());
    let mut halfway = Client::connect(sidebolt.address, V).await.unwrap();
    halfway.send(&hello(V, "", "")[..10]).await.unwrap();
    let mut silent = Client::dial(sidebolt.address).await.unwrap();
    let mut started = Client::dial(sidebolt.address).await.unwrap();
    started.send(&[0x60, 0x60, 0xB0, 0x17, 0, 0]).await.unwrap();
    let mut undecided = Client::dial(sidebolt.address).await.unwrap();
    undecided
        .send(&[0x60, 0x60, 0xB0, 0x17, 0, 0, 1, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    assert!(!undecided.read_bytes().await.is_empty(), "the manifest");
    for client in [&mut shaken, &mut greeted, &mut halfway, &mut silent, &mut started, &mut undecided] {
        assert!(client.is_closed().await);
    }
    is_unharmed(&sidebolt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noops_do_not_prolong_a_login() {
    let (_peer, sidebolt) = pair().await;
    let mut client = Client::connect(sidebolt.address, V).await.unwrap();
    let flood = [0u8; 1000];
    in_time("the flood is ended", async { while client.send(&flood).await.is_ok() {} }).await;
    is_unharmed(&sidebolt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_before_login_is_refused_before_it_is_read() {
    let (_peer, sidebolt) = pair().await;
    let big = hello_with(V, None, [("zzz", Value::from("x".repeat(9000)))]);
    let many: Vec<u8> = [0, 100].into_iter().chain([0x82; 100]).collect::<Vec<_>>().repeat(90);
    let header_only = [0xFF, 0xFF, 0xB1, 0x01, 0xA1];
    for bytes in [&big[..], &many, &header_only] {
        let mut client = Client::connect(sidebolt.address, V).await.unwrap();
        let _ = client.send(bytes).await;
        let answer = client.read().await;
        assert_eq!(answer.code(), "Neo.ClientError.Request.Invalid", "{answer:?}");
        assert!(answer.text().contains("exceeded limit of 8192"), "{answer:?}");
        assert!(client.is_closed().await);
    }
    is_unharmed(&sidebolt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_hostile_values_harms_nobody() {
    let (_peer, sidebolt) = pair().await;
    let nested = |marker: u8, depth: usize| {
        [&[0xB3, 0x10, 0x81, b'x', 0xA1, 0x81, b'p'][..], &vec![marker; depth], &[0xC0, 0xA0]].concat()
    };
    let in_hello = |bytes: &[u8]| raw(&[&[0xB1, 0x01, 0xA1, 0x81, b'x'][..], bytes].concat());
    let before: Vec<Vec<u8>> = vec![
        in_hello(&[0x91; 8000]),
        in_hello(&[0xD6, 0xFF, 0xFF, 0xFF, 0xFF]),
        in_hello(&[0xDA, 0xFF, 0xFF, 0xFF, 0xFF, 0xD2, 0xFF, 0xFF, 0xFF, 0xFF]),
        in_hello(&[0xCE, 0xFF, 0xFF, 0xFF, 0xFF]),
        in_hello(&[0xBF; 4000]),
        raw(&[0xB1]),
        raw(&[0xBF, 0x01]),
        raw(&[0x01]),
    ];
    for bytes in before {
        let mut client = Client::connect(sidebolt.address, V).await.unwrap();
        let _ = client.send(&bytes).await;
        let answer = client.read().await;
        assert!(matches!(answer, Answer::Failure(_) | Answer::Closed), "{answer:?}");
    }
    let after: Vec<Vec<u8>> = vec![
        raw(&nested(0x91, 200_000)),
        raw(&nested(0xB1, 100_000)),
        raw(&[0xB3, 0x10, 0x81, b'x', 0xDA, 0xFF, 0xFF, 0xFF, 0xFF]),
        raw(&[0xB3, 0x10, 0xD2, 0xFF, 0xFF, 0xFF, 0xFF]),
        raw(&[0xB1, 0x11, 0xDA, 0x7F, 0xFF, 0xFF, 0xFF]),
        raw(&[0xB3, 0x66, 0xA0, 0xD6, 0xFF, 0xFF, 0xFF, 0xFF, 0xA0]),
        raw(&[0xB1, 0x54, 0xC1]),
        raw(&[0xB1]),
        raw(&[0xB0, 0x33]),
    ];
    for bytes in after {
        let mut client = client(&sidebolt).await;
        let _ = client.send(&[&bytes[..], &pull_all(), &reset()].concat()).await;
        client.read_answers(3).await;
        drop(client);
        is_unharmed(&sidebolt).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_in_the_middle_of_a_request_is_closed() {
    let (_peer, sidebolt) = pair().await;
    let small = run("RETURN 1");
    let large = run_with("RETURN 1", map([("p", "x".repeat(2_000_000).into())]), none());
    for (name, before, bytes) in [
        ("at rest", vec![], &small[..5]),
        ("at rest, one byte", vec![], &small[..1]),
        ("in a transaction", vec![begin()], &small[..5]),
        ("in a large request", vec![], &large[..1_000_000]),
        ("in a large request in a transaction", vec![begin()], &large[..1_000_000]),
        ("behind an open result", vec![run("ok | rows 5"), pull(1)], &small[..5]),
    ] {
        let mut client = client(&sidebolt).await;
        assert!(client.ask(&before).await.iter().all(Answer::is_success));
        client.send(bytes).await.unwrap();
        assert!(client.is_closed().await, "{name}");
        is_unharmed(&sidebolt).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_but_steady_is_no_offence() {
    let (_peer, sidebolt) = pair().await;
    let mut client = client(&sidebolt).await;
    let query = [run("RETURN 1"), pull_all()].concat();
    client.send_bytewise(&query).await.unwrap();
    assert_eq!(kinds(&client.read_answers(2).await), ["SUCCESS", "RECORD", "SUCCESS"]);
    // At rest it may stay as long as it likes: longer than every time-out above.
    let silence = tokio::time::timeout(Duration::from_millis(1500), client.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert!(client.query("RETURN 1").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_harm_nobody() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xB017);
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (peer, sidebolt) = pair().await;
    for round in 0..100 {
        let mut client = match round % 3 {
            0 => Client::dial(sidebolt.address).await.unwrap(),
            1 => Client::connect(sidebolt.address, V).await.unwrap(),
            _ => self::client(&sidebolt).await,
        };
        let bytes: Vec<u8> = match random.u8(0..3) {
            0 => (0..random.usize(1..3000)).map(|_| random.u8(..)).collect(),
            _ => mutated(&mut random),
        };
        let _ = client.send(&bytes).await;
        if random.bool() {
            client.half_close().await;
            while !client.read_bytes().await.is_empty() {}
        }
        if random.bool() { drop(client) } else { client.abort() }
    }
    // What the peer was sent must still have been whole messages of known kinds.
    for seen in peer.log() {
        if let crate::support::scripted::What::Message(tag, _) = seen.what {
            assert!(tag.is_request(), "SEED={seed}: {tag} was sent on");
        }
    }
    is_unharmed(&sidebolt).await;
}

/// A valid conversation with some bytes changed, lost or doubled.
fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    let conversation = [
        login(V, "user", "password"),
        vec![run("RETURN 1"), pull_all(), begin(), run("ok | rows 3"), pull(2), pull_all(), commit()],
        vec![reset(), telemetry(1), route(none(), none()), logoff(), logon("user", "password"), goodbye()],
    ]
    .concat();
    let from = random.usize(0..conversation.len());
    let mut bytes = conversation[from..].concat();
    for _ in 0..random.usize(1..8) {
        let at = random.usize(0..bytes.len());
        match random.u8(0..4) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u8(0..8),
            2 => drop(bytes.drain(at..(at + random.usize(1..5)).min(bytes.len()))),
            _ => {
                let piece = bytes[at..(at + random.usize(1..20)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_told_what_it_may_not_do() {
    let (peer, sidebolt) = pair().await;
    for (request, expected) in [
        (pull_all(), "FAILURE"),
        (commit(), "FAILURE"),
        (hello(V, "", ""), "FAILURE"),
        (logon("user", "password"), "FAILURE"),
        (message(Tag(0x33), &[]), "closed"),
        (message(Tag::SUCCESS, &[none()]), "closed"),
        (goodbye(), "closed"),
    ] {
        let mut client = client(&sidebolt).await;
        peer.forget();
        let answers = client.ask(&[request, run("RETURN 1"), pull_all()]).await;
        assert_eq!(kinds(&answers)[0], expected);
        assert_eq!(answers.last(), Some(&Answer::Closed));
        assert!(peer.statements().is_empty(), "nothing behind it runs");
    }
    is_unharmed(&sidebolt).await;
}
