//! Random conversations, direct and through Sidebolt. `SEED=` replays, `RANDOM_TRANSCRIPTS=` asks for more.

use bolt_wire::Version;

use super::transcripts::{Burst, Login, Transcript};
use super::{both, difference, prepare};
use crate::support::message::*;
use crate::support::neo4j::{Line, Neo4j};
use crate::support::sidebolt::Sidebolt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_conversations_are_answered_alike() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let seed = number("SEED").unwrap_or(0x51DE_B017);
    let count = number("RANDOM_TRANSCRIPTS").unwrap_or(60);
    println!("SEED={seed}");
    for (line, version) in [
        (Line::Five, Version::V5_8),
        (Line::Calendar, Version::V6_1),
        (Line::Five, Version::V4_4),
        (Line::Calendar, Version::new(5, 4)),
    ] {
        let Some(neo4j) = Neo4j::of(line, "transparency::random") else { continue };
        let sidebolt =
            Sidebolt::start(&neo4j.address, |config| config.pool.max_connection_pool_size = 2).await;
        let direct = neo4j.address.parse().unwrap();
        let label = format!("It_Random_{}_{}_{line:?}", version.major, version.minor);
        prepare(&neo4j, &label).await;
        let mut random = fastrand::Rng::with_seed(seed);
        for number in 0..count {
            let transcript = transcript(&mut random, version, &label, number);
            let (there, here) = both(&neo4j, &label, &transcript, direct, sidebolt.address).await;
            assert!(
                there == here,
                "SEED={seed}, Bolt {version} on {line:?}: {}\n{}",
                transcript.name,
                difference(&there, &here)
            );
        }
        sidebolt.at_rest().await;
    }
}

/// A conversation that is mostly sensible. RESET stands alone: behind something else it would be a race.
fn transcript(random: &mut fastrand::Rng, version: Version, label: &str, number: u64) -> Transcript {
    let (mut bursts, mut name) = (Vec::new(), format!("random {number}:"));
    for _ in 0..random.usize(2..9) {
        let mut burst = Vec::new();
        name.push_str(" [");
        for _ in 0..random.usize(1..6) {
            let (word, message) = request(random, version, label);
            name.push_str(word);
            name.push(' ');
            burst.push(message);
        }
        name.push(']');
        bursts.push(Burst::of(burst));
        if random.u8(0..3) == 0 {
            name.push_str(" [RESET]");
            bursts.push(Burst::of(vec![reset()]));
        }
    }
    Transcript { name, version, login: Login::Usual, bursts, race: false, writes: true, probe: true }
}

fn request(random: &mut fastrand::Rng, version: Version, label: &str) -> (&'static str, Vec<u8>) {
    match random.u8(0..32) {
        0..=5 => ("RUN", run("UNWIND range(1, 5) AS x RETURN x")),
        6..=7 => ("CREATE", run(&format!("CREATE (n:{label} {{i: 1}})"))),
        8..=9 => ("COUNT", run(&format!("MATCH (n:{label}) RETURN count(n) AS n"))),
        10 => ("BAD", run("RETURN nonsense")),
        11 => ("LATE", run("UNWIND range(0, 5) AS x RETURN 1 / (x - 3) AS y")),
        12..=18 => ("PULL", pull_all()),
        19..=20 => ("PULL2", pull(2)),
        21 => ("DISCARD", discard(-1)),
        22..=25 => ("BEGIN", begin()),
        26..=27 => ("COMMIT", commit()),
        28 => ("ROLLBACK", rollback()),
        29 => ("ROUTE", route(map([("address", "proxy.example:7687".into())]), none())),
        30 if version.features().telemetry => ("TELEMETRY", telemetry(2)),
        _ => ("RUN,PULL", run("RETURN 1")),
    }
}
