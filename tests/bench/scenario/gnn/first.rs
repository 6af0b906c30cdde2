//! The first request of a Sidebolt that has just become ready, with its models run before that and without.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bolt_wire::packstream::Value;
use sidebolt::bolt_client::BoltClient;

use super::{LABEL, SAMPLED, parameters, put, some};
use crate::arena::{Arena, Way};
use crate::report::{Table, Verdict, median};
use crate::scenario::{Findings, Settings};

/// Requests behind the first one.
const MORE: usize = 50;

/// What the first request takes, and the others' median.
struct Started {
    first: Duration,
    usual: Duration,
}

/// Starts Sidebolt several times, with and without pre-warm. `login` connects to an address.
pub(super) fn compare<F: Future<Output = Result<BoltClient>>>(
    settings: &Settings,
    on: &str,
    ids: &[i64],
    login: impl Fn(SocketAddr) -> F,
    table: &mut Table,
    findings: &mut Findings,
) -> Result<()> {
    for prewarm in [true, false] {
        let mut starts = Vec::new();
        for _ in 0..settings.rounds.max(5) {
            starts.push(start(settings, &format!("{on}  prewarm: {prewarm}\n"), ids, &login)?);
        }
        let firsts: Vec<Duration> = starts.iter().map(|start| start.first).collect();
        let with = if prewarm { "with" } else { "without" };
        put(table, &format!("the first request behind /readyz, 64 nodes, {with} pre-warm"), &firsts);
        let ratios = starts.iter().map(|start| start.first.as_secs_f64() / start.usual.as_secs_f64());
        let ratio = median(ratios);
        if prewarm {
            let what = "the first request behind /readyz, times the median of the next";
            findings.verdicts.push(Verdict::at_most(what, 1.2, ratio, "×"));
        } else {
            findings.notes.push(format!(
                "without pre-warm the first request takes {:.2} × the median of the next",
                ratio.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

fn start<F: Future<Output = Result<BoltClient>>>(
    settings: &Settings,
    config: &str,
    ids: &[i64],
    login: &impl Fn(SocketAddr) -> F,
) -> Result<Started> {
    let arena = Arena::of_sidebolts(settings.neo4j, &[(Way::Sidebolt, config)], 100, &settings.programs)?;
    let target = arena.target(Way::Sidebolt).context("Sidebolt takes part")?;
    wait_until_ready(target.admin.context("an admin port")?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut client = login(target.address).await?;
        let none = || Value::Map(Vec::new());
        // The graph is there before anything is computed; what the model needs is not.
        let project = format!(
            "CALL gnn.graph.project('bench', '{LABEL}', '{LABEL}', {{orientation: 'UNDIRECTED', featureProperties: ['inputs'], maxStaleness: 3600}})"
        );
        client.run(&project, none(), none()).await?;
        let mut times = Vec::new();
        for call in 0..=MORE {
            let asked = parameters(some(ids, call * 1000 + 64, 64), call);
            let since = Instant::now();
            let answer = client.run(SAMPLED, asked, none()).await?;
            ensure!(answer.records.len() == 64, "{} rows", answer.records.len());
            times.push(since.elapsed());
        }
        let first = times.remove(0);
        times.sort_unstable();
        Ok(Started { first, usual: times[times.len() / 2] })
    })
}

fn wait_until_ready(admin: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !crate::scenario::get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        ensure!(Instant::now() < deadline, "Sidebolt is not ready after a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
