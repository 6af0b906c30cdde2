//! The same through Sidebolt's cache: behind each write, every read that goes through it says what Neo4j itself says.
//!
//! `SIDEBOLT_FOOTPRINT_PAIRS` (1,000) and `SIDEBOLT_FOOTPRINT_SEED` are as for the footprints. With `ttl` nothing but the footprints of
//! the writes makes an answer go, and a rule lets every answer be kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bolt_wire::packstream::Value;

use super::{LONG, Read, Tally, Texts, WRITES, clean, graph, number, reads, together, told};
use crate::app::App;
use crate::bolt_client::BoltClient;
use crate::config::{CacheRule, Config, Consistency, Store};
use crate::statement::Statement;
use crate::statement::real_neo4j::{TURN, client, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_says_what_neo4j_says_on_5() {
    mutate("NEO4J_5_ADDRESS", "the_cache_says_what_neo4j_says_on_5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_says_what_neo4j_says_on_2026() {
    mutate("NEO4J_2026_ADDRESS", "the_cache_says_what_neo4j_says_on_2026").await;
}

async fn mutate(variable: &str, test: &str) {
    let Some(mut direct) = server(variable, test).await else { return };
    let _turn = TURN.lock().await;
    let pairs = number("SIDEBOLT_FOOTPRINT_PAIRS").unwrap_or(1_000) as usize;
    let seed = number("SIDEBOLT_FOOTPRINT_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{test}: SIDEBOLT_FOOTPRINT_SEED={seed}");
    let app =
        App::start(Arc::new(ArcSwap::from_pointee(configuration(variable)))).await.expect("Sidebolt starts");
    let mut through = client(&app.bolt_address().to_string()).await;
    let (mut texts, mut tally) = (Texts::new(seed), Tally::default());
    while tally.pairs < pairs {
        graph(&mut through, &mut texts).await;
        let reads = reads(variable, &mut direct, &mut texts, &mut tally).await;
        for _ in 0..WRITES {
            let (text, parameters) = texts.write();
            tally.writes += 1;
            match through.run(&text, parameters.clone(), Value::Map(Vec::new())).await {
                Ok(answer) => tally.updates += usize::from(answer.summary.get("stats").is_some()),
                Err(_) => tally.failed_writes += 1,
            }
            compare(&mut through, &mut direct, &reads, &mut tally, (&text, &parameters)).await;
        }
    }
    clean(&mut through).await;
    let texts = through.query("CALL sidebolt.cache() YIELD hits").await.expect("the cache's texts");
    let hits: i64 = texts
        .records
        .iter()
        .flatten()
        .map(|hits| if let Value::Integer(hits) = hits { *hits } else { 0 })
        .sum();
    eprintln!("{test}: {tally:?}, {hits} answers from the cache");
    assert!(hits as usize * 20 > tally.pairs, "seed {seed}: too few answers were kept: {hits}, {tally:?}");
    assert!(
        pairs < LONG || tally.changed * 500 > tally.pairs,
        "seed {seed}: too few answers change: {tally:?}"
    );
    app.drain().await;
}

fn configuration(variable: &str) -> Config {
    let mut config = Config::default();
    let address = std::env::var(variable).expect("a server");
    config.upstream.uri = format!("bolt://{}", address.rsplit("://").next().unwrap_or_default());
    config.listen.address = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin.address = None;
    config.cache.consistency = Consistency::Ttl;
    config.cache.ttl = Duration::from_secs(24 * 3600);
    config.cache.rules = vec![CacheRule { store: Store::Always, ..CacheRule::default() }];
    config
}

/// All reads, through Sidebolt and directly.
async fn compare(
    through: &mut BoltClient,
    direct: &mut BoltClient,
    reads: &[Read],
    tally: &mut Tally,
    (text, parameters): (&str, &Value),
) {
    let (mut kept, mut fresh) = (Vec::new(), Vec::new());
    for (client, answers) in [(through, &mut kept), (direct, &mut fresh)] {
        // One that fails takes those behind it along: they are asked again.
        while answers.len() < reads.len() {
            together(client, &reads[answers.len()..], answers).await;
        }
    }
    for ((read, kept), fresh) in reads.iter().zip(kept).zip(fresh) {
        tally.pairs += 1;
        tally.changed += usize::from(fresh != read.before);
        let touched = Statement::parse(text).touches(&parameters.to_bytes());
        assert_eq!(kept, fresh, "{}", told(text, parameters, &touched, read, &fresh));
    }
}
