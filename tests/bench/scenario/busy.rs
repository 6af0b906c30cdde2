//! Many busy clients over few upstream connections: nothing fails, everyone gets a fair share.

use anyhow::Result;

use super::{
    Findings, LATENCY_HEAD, Series, Settings, compare, latency_rows, point_reads, prepare_items, series_of,
};
use crate::arena::{Target, Way};
use crate::load::{self, Job, Pace};
use crate::process;
use crate::report::{Table, Verdict, maybe, median, number};

/// Upstream connections that the pool may hold.
const POOL: usize = 16;
/// A round of the crowd is this many times as long as other rounds: each client's share must be a fair number of requests.
const LONGER: u32 = 8;

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    prepare_items(settings)?;
    let arena = settings.before_neo4j(POOL)?;
    let mut findings = Findings::default();
    let requests = point_reads();
    let mut table =
        Table::new(format!("busy: point reads, pool of {POOL} upstream connections"), &LATENCY_HEAD);
    settings.warm(arena.upstream, &requests)?;
    let few = compare(settings, &arena, POOL, &requests, Pace::Closed)?;
    latency_rows(&mut table, &format!("{POOL} clients"), &few, &mut findings);
    if let Some(sidebolt) = arena.target(Way::Sidebolt) {
        let mut crowd = Series { target: sidebolt, upstream: arena.upstream, rounds: Vec::new() };
        let mut sessions = settings.sessions(sidebolt, settings.busy_clients)?;
        let mut held = 0;
        for _ in 0..settings.rounds.min(3) {
            let usual = settings.job(sidebolt, arena.upstream, requests.clone(), Pace::Closed);
            let job = Job { time: settings.time * LONGER, ..usual };
            crowd.rounds.push(load::run(&mut sessions, &job)?);
            held = held.max(upstream_connections(sidebolt, arena.upstream)?);
        }
        let load = format!("{} clients", settings.busy_clients);
        latency_rows(&mut table, &load, std::slice::from_ref(&crowd), &mut findings);
        findings.tables.push(shares(&crowd, held));
        judge(settings, &few, &crowd, held, &mut findings);
    }
    findings.tables.insert(0, table);
    Ok(findings)
}

fn upstream_connections(proxy: Target, upstream: Target) -> Result<usize> {
    proxy.pid.map_or(Ok(0), |pid| process::connections_to(pid, upstream.address.port()))
}

/// The most and the fewest requests that a client got done, of the round where they were farthest apart.
fn extremes(crowd: &Series) -> Option<(u64, u64)> {
    let each = crowd
        .rounds
        .iter()
        .filter_map(|round| Some((*round.per_session.iter().max()?, *round.per_session.iter().min()?)));
    each.max_by(|a, b| spread(*a).total_cmp(&spread(*b)))
}

fn spread((most, fewest): (u64, u64)) -> f64 {
    most as f64 / fewest as f64
}

fn shares(crowd: &Series, held: usize) -> Table {
    let head = [
        "clients",
        "requests/s",
        "most by one client",
        "fewest",
        "max/min",
        "upstream connections",
        "errors",
    ];
    let mut table = Table::new("busy: shares of the crowd, worst round", &head);
    let found = extremes(crowd);
    table.row([
        number(crowd.rounds.first().map_or(0, |round| round.per_session.len()) as f64),
        maybe(crowd.rate()),
        maybe(found.map(|(most, _)| most as f64)),
        maybe(found.map(|(_, fewest)| fewest as f64)),
        maybe(found.map(spread)),
        held.to_string(),
        crowd.errors().to_string(),
    ]);
    table
}

fn judge(settings: &Settings, few: &[Series], crowd: &Series, held: usize, findings: &mut Findings) {
    let clients = settings.busy_clients;
    let errors = format!("{clients} busy clients: errors");
    let fair = format!("{clients} busy clients: most work / least work");
    let connections = format!("{clients} busy clients: upstream connections");
    findings.verdicts.extend([
        Verdict::at_most(&errors, 0.0, Some(crowd.errors() as f64), ""),
        Verdict::at_most(&fair, 2.0, extremes(crowd).map(spread), "×"),
        Verdict::at_most(&connections, POOL as f64, Some(held as f64), ""),
    ]);
    let direct = series_of(few, Way::Direct).and_then(Series::rate);
    let of_direct = crowd.rate().zip(direct).map(|(own, direct)| own / direct);
    if let Some(share) = median(of_direct) {
        findings.notes.push(format!(
            "{clients} clients over {POOL} connections reach {} × the rate of {POOL} direct clients",
            number(share)
        ));
    }
}
