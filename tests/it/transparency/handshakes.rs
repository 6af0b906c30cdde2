//! The handshake, byte for byte.

use std::net::SocketAddr;

use crate::support::neo4j::{Line, Neo4j};
use crate::support::raw_client::Client;
use crate::support::sidebolt::Sidebolt;

const MANIFEST: [u8; 4] = [0, 0, 1, 0xFF];

/// What a client may send first: its four slots, and what it sends on a manifest.
type Opening = (&'static [[u8; 4]], &'static [u8]);

const OPENINGS: &[Opening] = &[
    (&[[0, 0, 4, 4]], &[]),
    (&[[0, 2, 4, 4]], &[]),
    (&[[0, 0, 0, 3]], &[]),
    (&[[0, 0, 0, 5]], &[]),
    (&[[0, 0, 1, 5]], &[]),
    (&[[0, 0, 2, 5]], &[]),
    (&[[0, 0, 3, 5]], &[]),
    (&[[0, 0, 4, 5]], &[]),
    (&[[0, 0, 5, 5]], &[]),
    (&[[0, 1, 5, 5]], &[]),
    (&[[0, 0, 6, 5]], &[]),
    (&[[0, 0, 7, 5]], &[]),
    (&[[0, 0, 8, 5]], &[]),
    (&[[0, 9, 9, 5]], &[]),
    (&[[0, 0, 9, 5]], &[]),
    (&[[0, 0, 0, 6]], &[]),
    (&[[0, 0, 1, 6]], &[]),
    (&[[0, 2, 2, 6]], &[]),
    (&[[0, 0, 4, 4], [0, 0, 8, 5]], &[]),
    (&[[0, 8, 4, 5]], &[]),
    (&[[0, 0, 2, 0xFF]], &[]),
    (&[], &[]),
    // The choice decides: one that was not offered, or a capability that was not offered, is a close.
    (&[[0, 0, 2, 0xFF], MANIFEST, [0, 0, 4, 5]], &[0, 0, 8, 5, 0]),
    (&[MANIFEST, [0, 8, 8, 5], [0, 2, 4, 4], [0, 0, 0, 3]], &[0, 0, 4, 4, 0]),
    (&[MANIFEST], &[0, 0, 8, 5, 0]),
    (&[MANIFEST], &[0, 0, 5, 5, 0]),
    (&[MANIFEST], &[0, 0, 8, 5, 1]),
    (&[MANIFEST], &[0, 0, 9, 9, 0]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_are_answered_byte_for_byte() {
    for neo4j in Neo4j::all("transparency::handshakes") {
        let sidebolt = Sidebolt::start(&neo4j.address, |_| ()).await;
        let direct: SocketAddr = neo4j.address.parse().unwrap();
        for (slots, choice) in OPENINGS {
            let there = shake(direct, slots, choice).await;
            let here = shake(sidebolt.address, slots, choice).await;
            assert_eq!(without_old(there), without_old(here), "{:?}: {slots:x?} {choice:x?}", neo4j.line);
        }
        if neo4j.line == Line::Five {
            let there = shake(direct, &[[0, 0, 0, 6]], &[]).await;
            assert_eq!(there, [0, 0, 0, 0], "5.26 has no Bolt 6");
        }
    }
}

/// Documented difference: Sidebolt speaks 4.4 but not 4.0 to 4.3, so its manifest has the range 4.4 alone.
fn without_old(answer: Vec<u8>) -> Vec<u8> {
    let mut answer = answer;
    if answer.starts_with(&MANIFEST) && answer.get(5..9) == Some(&[0, 4, 4, 4]) {
        answer[6] = 0;
    }
    answer
}

/// Everything that comes for these slots, then for this choice and a garbled message, until the close.
async fn shake(address: SocketAddr, slots: &[[u8; 4]], choice: &[u8]) -> Vec<u8> {
    let mut client = Client::dial(address).await.unwrap();
    let mut opening = vec![0x60, 0x60, 0xB0, 0x17];
    opening.extend(slots.iter().flatten());
    opening.resize(20, 0);
    client.send(&opening).await.unwrap();
    let mut answer = Vec::new();
    if !choice.is_empty() {
        while !(answer.starts_with(&MANIFEST) && answer.ends_with(&[0]) && answer.len() > 12) {
            let bytes = client.read_bytes().await;
            if bytes.is_empty() {
                return answer;
            }
            answer.extend(bytes);
        }
        let _ = client.send(choice).await;
    }
    // A message with an unknown signature closes the connection, wherever it stands.
    let _ = client.send(&[0, 2, 0xB0, 0x33, 0, 0]).await;
    loop {
        let bytes = client.read_bytes().await;
        if bytes.is_empty() {
            return answer;
        }
        answer.extend(bytes);
    }
}
