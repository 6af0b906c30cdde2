//! Group commit on real Neo4j: single writes direct, through Sidebolt without and with it, and batched by hand, in the same run.

mod measure;
mod statements;
mod totals;

use std::time::Duration;

use anyhow::{Context, Result};
use bolt_wire::packstream::Value;

use self::measure::{Case, Ground, HEAD, Sample, Samples, of, rows, shares};
use self::statements::{Api, FIRST, KNOWN, Write};
use self::totals::Graph;
use super::{Findings, Settings};
use crate::arena::{Arena, Way};
use crate::bolt::{Inbox, Request, Session};
use crate::load::Keys;
use crate::report::{Table, Verdict};

/// A round this short is no measurement: the totals are small too.
const SHORT: Duration = Duration::from_millis(500);
/// How much smaller.
const SMALLER: u64 = 20;

/// Every load, its rounds interleaved, and the totals.
pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let mut ground = ground(settings)?;
    let mut findings = Findings::default();
    let only = settings.only.as_deref().unwrap_or_default();
    let chosen: Vec<Case> = cases().into_iter().filter(|case| case.name().contains(only)).collect();
    warm(&mut ground, &chosen, &mut findings)?;
    let mut table = Table::new("coalesce: single writes on Neo4j, every way in the same run", &HEAD);
    for case in chosen {
        eprintln!("bench: coalesce: {} …", case.name());
        let all = ground.rounds(&case).with_context(|| case.name())?;
        rows(&mut table, &case.name(), &all, &mut findings);
        judge(&case, &all, &mut findings);
    }
    findings.tables.push(table);
    if !only.is_empty() {
        return Ok(findings);
    }
    let scale = if settings.time < SHORT { SMALLER } else { 1 };
    totals::deferred(&ground, 5_000 / scale, &mut findings)?;
    let singles = [Way::Direct, Way::Uncoalesced, Way::Sidebolt, Way::ByHand];
    let many = Graph { nodes: 100_000 / scale, relationships: 0 };
    totals::graph(&ground, many, &singles, &mut findings)?;
    let catalogue = Graph { nodes: 40_000 / scale, relationships: 40_000 / scale };
    let seconds = totals::graph(&ground, catalogue, &singles, &mut findings)?;
    let own = seconds.iter().find(|(way, _)| *way == Way::Sidebolt).map(|(_, seconds)| *seconds);
    let what = format!("{} resources with their relationships, as singles", catalogue.nodes);
    findings.verdicts.push(Verdict::at_most(&what, 60.0, own, "s"));
    Ok(findings)
}

/// The large graph, with group commit and by hand.
pub(super) fn bulk(settings: &Settings) -> Result<Findings> {
    let mut ground = ground(settings)?;
    let mut findings = Findings::default();
    warm(&mut ground, &cases(), &mut findings)?;
    let scale = if settings.time < SHORT { SMALLER } else { 1 };
    let large = Graph { nodes: 100_000 / scale, relationships: 500_000 / scale };
    totals::graph(&ground, large, &[Way::Sidebolt, Way::ByHand], &mut findings)?;
    Ok(findings)
}

fn cases() -> Vec<Case> {
    let node = |sessions| Case { write: Write::Node, api: Api::Run, sessions };
    let mut cases: Vec<Case> = [1, 8, 32, 128].map(node).to_vec();
    for write in [Write::Relationship, Write::Grouped] {
        cases.push(Case { write, ..node(128) });
    }
    cases.push(Case { api: Api::Managed, ..node(128) });
    cases
}

/// The servers, an index and the nodes that are there beforehand.
fn ground(settings: &Settings) -> Result<Ground> {
    let constraint =
        "CREATE CONSTRAINT bench_resource IF NOT EXISTS FOR (n:BenchResource) REQUIRE n.id IS UNIQUE";
    ask(settings, constraint, 0)?;
    ask(settings, "CALL db.awaitIndexes()", 0)?;
    forget(settings, 0)?;
    let nodes =
        format!("UNWIND range({FIRST}, {}) AS id CREATE (:BenchResource {{id: id}})", FIRST + KNOWN - 1);
    ask(settings, &nodes, 0)?;
    let (arena, admin) = Arena::of_writers(settings.neo4j, &settings.programs)?;
    // Odd numbers are odd for every way: each way's rows are new in equal parts.
    Ok(Ground { settings: settings.clone(), arena, admin, keys: Keys::new(|turn| [turn as i64; 2]) })
}

/// Lets the server's compiler see every kind of write, and every way its share, before anything counts.
fn warm(ground: &mut Ground, chosen: &[Case], findings: &mut Findings) -> Result<()> {
    let measured = ground.settings.clone();
    ground.settings.rounds = 1;
    if measured.time >= SHORT {
        ground.settings.time = measured.time * 3;
    }
    for (write, api) in [
        (Write::Node, Api::Run),
        (Write::Relationship, Api::Run),
        (Write::Grouped, Api::Run),
        (Write::Node, Api::Managed),
    ] {
        if !chosen.iter().any(|case| (case.write, case.api) == (write, api)) {
            continue;
        }
        let all = ground.rounds(&Case { write, api, sessions: 32 }).context("warming up")?;
        let samples = of(&all, Way::Sidebolt).map_or(&[][..], |samples| &samples.samples);
        findings.notes.extend(shares(&format!("warming up, {write:?}, {api:?}"), samples));
    }
    ground.settings = measured;
    Ok(())
}

/// The targets of a load.
fn judge(case: &Case, all: &[Samples], findings: &mut Findings) {
    let ways = [Way::Direct, Way::Uncoalesced, Way::Sidebolt, Way::ByHand].map(|way| of(all, way));
    let [direct, uncoalesced, coalesced, by_hand] = ways;
    let against = |other: Option<&Samples>, figure: fn(&Sample) -> Option<f64>| {
        coalesced.zip(other).and_then(|(own, other)| own.against(other, figure))
    };
    let rate: fn(&Sample) -> Option<f64> = |sample| Some(sample.rate());
    let name = case.name();
    let mut at_least = |what: &str, limit: f64, measured: Option<f64>| {
        findings.verdicts.push(Verdict::at_least(&format!("{name}: {what}"), limit, measured, "×"));
    };
    let direct_rate = "rows/s as a multiple of direct";
    match (case.write, case.api, case.sessions) {
        (Write::Node, Api::Run, 128) => {
            at_least(&format!("{direct_rate} (aim 8)"), 4.0, against(direct, rate));
            let saved = against(direct, Sample::server_cpu).map(f64::recip);
            at_least("Neo4j's CPU for a write, direct over coalesced (aim 16)", 8.0, saved);
            at_least("rows/s as a share of UNWIND by hand (aim 0.85)", 0.6, against(by_hand, rate));
        }
        (Write::Node, Api::Run, 32) => {
            at_least(direct_rate, 2.5, against(direct, rate));
            let p50 = coalesced.zip(uncoalesced).and_then(|(own, other)| own.p50_against(other));
            let what = format!("{name}: p50 as a multiple of uncoalesced");
            findings.verdicts.push(Verdict::at_most(&what, 0.5, p50, "×"));
        }
        (Write::Node, Api::Run, 1) => {
            let p50 = coalesced.zip(uncoalesced).and_then(|(own, other)| own.p50_against(other));
            let what = format!("{name}: p50 as a multiple of uncoalesced");
            findings.verdicts.push(Verdict::at_most(&what, 1.05, p50, "×"));
        }
        (Write::Node, Api::Managed, _) => at_least(direct_rate, 3.0, against(direct, rate)),
        (Write::Relationship, _, _) => {
            at_least(&format!("{direct_rate} (aim 10)"), 6.0, against(direct, rate));
            at_least("rows/s as a share of UNWIND by hand (aim 0.85)", 0.6, against(by_hand, rate));
        }
        (Write::Grouped, _, _) => at_least(direct_rate, 2.5, against(direct, rate)),
        _ => {}
    }
}

/// Removes what measurements have made; the nodes that were there beforehand stay.
fn forget_new(settings: &Settings) -> Result<()> {
    forget(settings, FIRST + KNOWN)
}

fn forget(settings: &Settings, first: i64) -> Result<()> {
    let text = format!(
        "MATCH (n:BenchResource) WHERE n.id >= {first} \
         CALL (n) {{ DETACH DELETE n }} IN TRANSACTIONS OF 5000 ROWS"
    );
    ask(settings, &text, 0)
}

/// Runs a statement on Neo4j itself that gives so many records.
fn ask(settings: &Settings, text: &str, records: u64) -> Result<()> {
    let mut session = Session::open(settings.neo4j.address, None, &settings.login)?;
    let request = Request::query(text, Value::map([]), Some(records));
    session.ask(&request, &mut Inbox::default()).with_context(|| text.to_owned())?;
    session.close();
    Ok(())
}
