//! Hot reads: direct, through Sidebolt without its cache, and with it, checked at each hit and within a bound.

mod mix;

use anyhow::{Context, Result};
use bolt_wire::packstream::Value;

use super::{
    Findings, LATENCY_HEAD, Series, Settings, compare, latency_rows, point_reads, prepare_items, series_of,
};
use crate::arena::{Arena, Way};
use crate::bolt::{Inbox, Request, Session};
use crate::load::Pace;
use crate::report::{Table, Verdict};

/// Three hops from a group of items, counted by where they lead.
const HOPS: &str = "MATCH (a:BenchItem {id: $id})-[:BENCH_NEXT]->()-[:BENCH_NEXT]->()-[:BENCH_NEXT]->(d:BenchItem) \
    RETURN count(DISTINCT d) AS places, avg(d.id) AS middle";
/// Starting points of it.
const STARTS: i64 = 64;

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    prepare_items(settings)?;
    prepare_hops(settings)?;
    let arena = Arena::of_readers(settings.neo4j, &settings.programs)?;
    let mut findings = Findings::default();
    let mut table = Table::new("cache: hot reads on Neo4j", &LATENCY_HEAD);
    let mut direct = None;
    for (name, requests) in [("point read", point_reads()), ("3 hops", three_hops())] {
        settings.warm(arena.upstream, &requests)?;
        // Neo4j compiles what a probe takes too, and hits need what is kept.
        if let Some(strict) = arena.target(Way::Strict) {
            settings.warm(strict, &requests)?;
        }
        for connections in [1, 16] {
            let load = format!("{name}, {connections} conn.");
            let all = compare(settings, &arena, connections, &requests, Pace::Closed)?;
            latency_rows(&mut table, &load, &all, &mut findings);
            judge(name, connections, &all, &mut findings);
            if connections == 1 {
                judge_hits(direct.get_or_insert_with(|| all.clone()), &all, name, &mut findings);
            }
        }
    }
    findings.tables.push(table);
    mix::herd(settings, &arena, &mut findings)?;
    mix::misses(settings, &arena, &mut findings)?;
    mix::mix(settings, &arena, &mut findings)?;
    Ok(findings)
}

/// Each item leads to ten others.
fn prepare_hops(settings: &Settings) -> Result<()> {
    let mut session = Session::open(settings.neo4j.address, None, &settings.login)?;
    let statement = "MATCH (a:BenchItem) WHERE NOT (a)-[:BENCH_NEXT]->() UNWIND range(1, 10) AS nth \
        MATCH (b:BenchItem {id: 1 + (a.id * 31 + nth * 977) % 10000}) CREATE (a)-[:BENCH_NEXT]->(b)";
    let request = Request::query(statement, Value::map([]), Some(0));
    session.ask(&request, &mut Inbox::default()).context("data set: relationships")?;
    session.close();
    Ok(())
}

fn three_hops() -> Vec<Request> {
    let start = |nth: i64| Request::query(HOPS, Value::map([("id", (1 + nth * 151).into())]), Some(1));
    (0..STARTS).map(start).collect()
}

/// A hit, whatever it is of, beside a direct point read.
fn judge_hits(point_reads: &[Series], all: &[Series], name: &str, findings: &mut Findings) {
    let Some(direct) = series_of(point_reads, Way::Direct) else { return };
    for (way, p50) in [(Way::Strict, 0.6), (Way::Bounded, 0.4)] {
        let Some(own) = series_of(all, way) else { continue };
        let what = format!("a hit on {name}, 1 conn., {way}: p50 as a multiple of a direct point read");
        findings.verdicts.push(Verdict::at_most(&what, p50, own.ratio(direct, 0.5), "×"));
    }
}

fn judge(name: &str, connections: usize, all: &[Series], findings: &mut Findings) {
    let of = |way| series_of(all, way);
    let (Some(direct), Some(off)) = (of(Way::Direct), of(Way::Uncached)) else { return };
    for (way, rate) in [(Way::Strict, 5.0), (Way::Bounded, 10.0)] {
        let Some(own) = of(way) else { continue };
        if name == "3 hops" && connections == 16 {
            let what = format!("{name}, {connections} conn., {way}: requests/s as a multiple of direct");
            let times = own.rate().zip(direct.rate()).map(|(own, direct)| own / direct);
            findings.verdicts.push(Verdict::at_least(&what, rate, times, "×"));
        }
        if way == Way::Bounded && name == "point read" && connections == 16 {
            let what = format!(
                "{name}, {connections} conn., {way}: hits a second and core of Sidebolt's (aim 120000)"
            );
            let hits = own.proxy_cpu().map(|micros| 1e6 / micros);
            findings.verdicts.push(Verdict::at_least(&what, 50_000.0, hits, ""));
        }
    }
    let added = off.added(direct, 0.5).map_or_else(|| "?".to_owned(), |micros| format!("{micros:.0}"));
    findings
        .notes
        .push(format!("{name}, {connections} conn.: without its cache Sidebolt adds {added} µs to the p50"));
}
