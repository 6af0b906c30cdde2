//! Loads of a fixed size, each timed as a whole: many singles, a graph, and a loop inside one transaction.

use std::time::Instant;

use anyhow::{Context, Result};
use bolt_wire::Tag;
use bolt_wire::packstream::{Value, value};
use bytes::BytesMut;

use super::measure::{Case, Ground, shares};
use super::statements::{Api, FIRST, KNOWN, NEW, Write};
use super::{ask, forget_new};
use crate::arena::{Target, Way};
use crate::bolt::{Inbox, Key, Request, Session, bare};
use crate::load::Keys;
use crate::report::{Table, Verdict, maybe, number};
use crate::scenario::Findings;

/// Clients that write the graphs.
const SESSIONS: usize = 64;
/// Rows of a batch that is made by hand.
const BATCH: u64 = 500;
/// The ids of nodes that a transaction makes begin here.
const MIDDLE: i64 = NEW / 2;

/// Single writes inside one transaction, one after the other.
pub(super) fn deferred(ground: &Ground, writes: u64, findings: &mut Findings) -> Result<()> {
    let title = format!("coalesce: {writes} single MERGEs in one transaction, one after the other");
    let mut table = Table::new(title, &["way", "seconds", "rows/s", "times direct"]);
    let mut best: Vec<(Way, f64)> = Vec::new();
    for _ in 0..ground.settings.rounds.min(3) {
        for target in ground.arena.targets.iter().filter(|target| target.way != Way::ByHand) {
            let seconds =
                transaction(ground, *target, writes).with_context(|| format!("way: {}", target.way))?;
            match best.iter_mut().find(|(way, _)| *way == target.way) {
                Some((_, least)) => *least = least.min(seconds),
                None => best.push((target.way, seconds)),
            }
        }
    }
    let direct = best.iter().find(|(way, _)| *way == Way::Direct).map(|(_, seconds)| *seconds);
    for (way, seconds) in &best {
        let times = direct.map(|direct| direct / seconds);
        let name = if *way == Way::Sidebolt { format!("{way}, deferred") } else { way.to_string() };
        table.row([name, number(*seconds), number(writes as f64 / seconds), maybe(times)]);
        if *way == Way::Sidebolt {
            let what = "deferred loop in one transaction: rows/s as a multiple of direct";
            findings.verdicts.push(Verdict::at_least(what, 10.0, times, "×"));
        }
    }
    findings.tables.push(table);
    Ok(())
}

/// The time of one such transaction.
fn transaction(ground: &Ground, target: Target, writes: u64) -> Result<f64> {
    let mut session = Session::open(target.address, None, &ground.settings.login)?;
    let mut inbox = Inbox::default();
    let hint = Value::map([("coalesce", "deferred".into())]);
    let metadata = ("tx_metadata", Value::map([("sidebolt", hint)]));
    let extra = Value::map((target.way == Way::Sidebolt).then_some(metadata));
    let mut begin = BytesMut::new();
    value::put_message(Tag::BEGIN.0, &[extra], &mut begin);
    let single = Write::Node.request(Api::Inside, false);
    let mut wire = Vec::new();
    let begun = Instant::now();
    session.ask(&Request::of(begin, 1), &mut inbox)?;
    for nth in 0..writes as i64 {
        // Half of them are new.
        let id = if nth % 2 == 0 { FIRST + nth % KNOWN } else { MIDDLE + nth };
        single.fill(&mut wire, |_| [id, NEW + nth]);
        let request = Request { wire: bytes::Bytes::copy_from_slice(&wire), ..single.clone() };
        session.ask(&request, &mut inbox)?;
    }
    session.ask(&Request::of(bare(Tag::COMMIT), 1), &mut inbox)?;
    let seconds = begun.elapsed().as_secs_f64();
    session.close();
    let new = writes / 2;
    let made = format!("MATCH (n:BenchResource) WHERE n.id >= {MIDDLE} AND n.id < {NEW} WITH count(n) AS c");
    ask(&ground.settings, &format!("{made} WHERE c = {new} RETURN c"), 1)
        .context("rows are missing, or too many")?;
    ask(
        &ground.settings,
        &format!("MATCH (n:BenchResource) WHERE n.id >= {MIDDLE} AND n.id < {NEW} DELETE n"),
        0,
    )?;
    Ok(seconds)
}

/// A graph of a fixed size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Graph {
    pub(super) nodes: u64,
    pub(super) relationships: u64,
}

/// Writes a graph through each of the ways, its nodes first, and prints the seconds.
pub(super) fn graph(
    ground: &Ground,
    graph: Graph,
    ways: &[Way],
    findings: &mut Findings,
) -> Result<Vec<(Way, f64)>> {
    let Graph { nodes, relationships } = graph;
    let title = match relationships {
        0 => format!("coalesce: {nodes} single MERGEs of nodes, {SESSIONS} sessions of one process"),
        _ => format!(
            "coalesce: {nodes} nodes, then {relationships} relationships, as singles from {SESSIONS} sessions"
        ),
    };
    let head = [
        "way",
        "nodes s",
        "relationships s",
        "both s",
        "Neo4j CPU s",
        "mean batch of nodes",
        "of relationships",
        "errors",
    ];
    let mut table = Table::new(title, &head);
    let mut all = Vec::new();
    for target in ground.arena.targets.iter().filter(|target| ways.contains(&target.way)) {
        forget_new(&ground.settings)?;
        let mut parts = Vec::new();
        for (write, count) in [(Write::Node, nodes), (Write::Relationship, relationships)] {
            if count > 0 {
                parts.push(
                    part(ground, *target, write, graph).with_context(|| format!("way: {}", target.way))?,
                );
            }
        }
        let (total, cpu, errors) = parts.iter().fold((0.0, 0.0, 0), |(total, cpu, errors), part| {
            (total + part.seconds, cpu + part.cpu, errors + part.errors)
        });
        let of = |nth: usize, figure: fn(&Part) -> Option<f64>| maybe(parts.get(nth).and_then(figure));
        table.row([
            target.way.to_string(),
            of(0, |part| Some(part.seconds)),
            of(1, |part| Some(part.seconds)),
            number(total),
            number(cpu),
            of(0, |part| part.batch),
            of(1, |part| part.batch),
            number(errors as f64),
        ]);
        findings.notes.extend(parts.iter().filter_map(|part| part.did.clone()));
        findings.notes.extend(parts.into_iter().filter_map(|part| part.first_error));
        all.push((target.way, total));
        verify(ground, graph).with_context(|| format!("way: {}", target.way))?;
    }
    forget_new(&ground.settings)?;
    findings.tables.push(table);
    Ok(all)
}

struct Part {
    seconds: f64,
    cpu: f64,
    batch: Option<f64>,
    errors: u64,
    first_error: Option<String>,
    /// What Sidebolt did with the writes.
    did: Option<String>,
}

/// All nodes, or all relationships.
fn part(ground: &Ground, target: Target, write: Write, graph: Graph) -> Result<Part> {
    let nodes = graph.nodes;
    let count = if write == Write::Node { nodes } else { graph.relationships };
    let by_hand = target.way == Way::ByHand;
    let mut sessions = ground.settings.sessions(target, if by_hand { 1 } else { SESSIONS })?;
    let case = Case { write, api: Api::Run, sessions: SESSIONS };
    let (requests, limit) = match write.batch(BATCH).filter(|_| by_hand) {
        Some(batch) => (vec![batch], count.div_ceil(BATCH)),
        None => (Ground::singles(&case, &sessions), count),
    };
    let sample =
        ground.send(target, &mut sessions, requests, Keys::new(keys_of(write, nodes)), Some(limit))?;
    sessions.into_iter().for_each(Session::close);
    let rows = (sample.round.latency.count() * sample.rows) as f64;
    let did = shares(&format!("{count} of {}", case.name()), std::slice::from_ref(&sample));
    Ok(Part {
        did,
        seconds: sample.round.time.as_secs_f64(),
        cpu: sample.server_cpu().unwrap_or_default() * rows / 1e6,
        batch: sample.batch,
        errors: sample.round.errors,
        first_error: sample.round.first_error,
    })
}

/// Row `turn` of a graph with so many nodes: a node, or a relationship, of which each node has as many as any other.
fn keys_of(write: Write, nodes: u64) -> impl Fn(u64) -> [Key; 2] + Send + Sync + 'static {
    let nodes = nodes as i64;
    move |turn| {
        let turn = turn as i64;
        match write {
            Write::Relationship => {
                let (from, nth) = (turn % nodes, turn / nodes);
                [NEW + from, NEW + (from * 31 + nth * 7919 + 1) % nodes]
            }
            _ => [NEW + turn, NEW + turn],
        }
    }
}

/// What was written is there.
fn verify(ground: &Ground, graph: Graph) -> Result<()> {
    let Graph { nodes, relationships } = graph;
    let nodes_there =
        format!("MATCH (n:BenchResource) WHERE n.id >= {NEW} WITH count(n) AS c WHERE c = {nodes}");
    let relationships_there = format!(
        "MATCH (n:BenchResource)-[r:BENCH_LINKS]->() WHERE n.id >= {NEW} WITH count(r) AS c WHERE c = {relationships}"
    );
    ask(&ground.settings, &format!("{nodes_there} RETURN c"), 1).context("nodes are missing, or too many")?;
    ask(&ground.settings, &format!("{relationships_there} RETURN c"), 1)
        .context("relationships are missing, or too many")
}
