//! What a cache is worth in use: hits of a skewed mix with writes beside it, what a miss costs, and many equal misses at once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use bolt_wire::packstream::Value;

use super::super::{Findings, Settings, interleave, page, series_of};
use super::HOPS;
use crate::arena::{Arena, Target, Way};
use crate::bolt::{Inbox, Request, Session, gap};
use crate::load::{self, Job, Keys, Pace};
use crate::report::{Table, Verdict, number};

/// Different questions of the mix.
const QUESTIONS: usize = 1000;
/// Requests of the mix, sent again and again.
const MIX: usize = 20_000;
/// One request in so many writes.
const WRITES: usize = 20;
/// Writes between two rounds of all questions.
const UNRELATED: i64 = 200;
/// Clients that ask the same at once.
const HERD: usize = 1000;

/// A skewed mix of reads with 5 % writes that concern none of them.
pub(super) fn mix(settings: &Settings, arena: &Arena, findings: &mut Findings) -> Result<()> {
    let mut table = Table::new(
        "cache: 1,000 questions by Zipf's law, 5 % unrelated writes, 16 conn.",
        &["way", "requests/s", "hits %", "survive 200 unrelated writes %", "errors"],
    );
    let requests = mixed();
    for way in [Way::Strict, Way::Bounded] {
        let Some(target) = arena.target(way) else { continue };
        let mut sessions = settings.sessions(target, 16)?;
        let keys = Keys::new(|turn| [turn as i64; 2]);
        let job = settings.job(target, arena.upstream, requests.clone(), Pace::Closed);
        let job = Job { keys: Some(keys), warm_up: settings.time, time: settings.time * 3, ..job };
        let before = Tally::of(target);
        let round = load::run(&mut sessions, &job)?;
        let hits = Tally::of(target).since(&before).ratio();
        let kept = survivors(&mut sessions, target)?;
        sessions.into_iter().for_each(Session::close);
        let percent =
            |share: Option<f64>| share.map_or_else(|| "?".to_owned(), |share| number(100.0 * share));
        table.row([
            way.to_string(),
            number(round.rate()),
            percent(hits),
            percent(kept),
            round.errors.to_string(),
        ]);
        let of = |what: &str| format!("mix, {way}: {what}");
        let (hits, kept) = (hits.map(|share| 100.0 * share), kept.map(|share| 100.0 * share));
        findings.verdicts.push(Verdict::at_least(&of("hits among the reads"), 80.0, hits, "%"));
        findings.verdicts.push(Verdict::at_least(
            &of("answers that unrelated writes spare"),
            95.0,
            kept,
            "%",
        ));
    }
    findings.tables.push(table);
    Ok(())
}

/// The mix: which question comes is a matter of its rank, 1/1 to 1/1000.
fn mixed() -> Vec<Request> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut sums: Vec<f64> = Vec::with_capacity(QUESTIONS);
    for rank in 1..=QUESTIONS {
        sums.push(sums.last().copied().unwrap_or_default() + 1.0 / rank as f64);
    }
    let whole = sums.last().copied().unwrap_or_default();
    let pick = |random: &mut fastrand::Rng| {
        let point = random.f64() * whole;
        sums.partition_point(|sum| *sum < point).min(QUESTIONS - 1)
    };
    let request =
        |nth: usize| if nth.is_multiple_of(WRITES) { unrelated() } else { question(pick(&mut random)) };
    (0..MIX).map(request).collect()
}

fn question(nth: usize) -> Request {
    Request::query(HOPS, Value::map([("id", Value::Integer(1 + nth as i64 * 7))]), Some(1))
}

/// A write of nodes that no question looks at.
fn unrelated() -> Request {
    let text = "CREATE (:BenchOther {key: $key, since: 1})";
    Request::query(text, Value::map([("key", gap(0, 0))]), Some(0))
}

/// The share of kept answers that is still served behind writes that do not concern them.
fn survivors(sessions: &mut [Session], target: Target) -> Result<Option<f64>> {
    let Some(session) = sessions.first_mut() else { bail!("no session") };
    let mut inbox = Inbox::default();
    let mut ask_all = |session: &mut Session| -> Result<Tally> {
        let before = Tally::of(target);
        for nth in 0..QUESTIONS {
            session.ask(&question(nth), &mut inbox)?;
        }
        Ok(Tally::of(target).since(&before))
    };
    // Kept at the second time.
    ask_all(session)?;
    ask_all(session)?;
    let kept = ask_all(session)?.hits;
    let mut inbox = Inbox::default();
    for key in 0..UNRELATED {
        let text = "CREATE (:BenchOther {key: $key, since: 1})";
        let write = Request::query(text, Value::map([("key", (-1 - key).into())]), Some(0));
        session.ask(&write, &mut inbox)?;
    }
    let still = ask_all(session)?.hits;
    Ok((kept > 0.0).then(|| still / kept))
}

/// What a read costs that the cache looks at and has not.
pub(super) fn misses(settings: &Settings, arena: &Arena, findings: &mut Findings) -> Result<()> {
    let text = "MATCH (a:BenchItem) WHERE a.id = 1 + $id % 10000 RETURN a.value AS value";
    let requests = vec![Request::query(text, Value::map([("id", gap(0, 0))]), Some(1))];
    let keys = Keys::new(|turn| [turn as i64; 2]);
    let all = interleave(settings, arena, |_, target| {
        let mut sessions = settings.sessions(target, 1)?;
        let job = settings.job(target, arena.upstream, requests.clone(), Pace::Closed);
        let round = load::run(&mut sessions, &Job { keys: Some(keys.clone()), ..job });
        sessions.into_iter().for_each(Session::close);
        round
    })?;
    let Some(off) = series_of(&all, Way::Uncached) else { return Ok(()) };
    for way in [Way::Strict, Way::Bounded] {
        let Some(own) = series_of(&all, way) else { continue };
        let added = own.added(off, 0.5);
        let what = format!("misses only, 1 conn., {way}: added p50 over no cache");
        findings.verdicts.push(Verdict::at_most(&what, 40.0, added, "µs"));
    }
    Ok(())
}

/// Many ask the same at once, which nobody has asked before.
pub(super) fn herd(settings: &Settings, arena: &Arena, findings: &mut Findings) -> Result<()> {
    let Some(target) = arena.target(Way::Strict) else { return Ok(()) };
    let mut sessions = settings.sessions(target, HERD)?;
    let mut worst: Option<f64> = None;
    for round in 0..3 {
        let text = format!("UNWIND range(1, 2000000) AS x WITH sum(x) AS s RETURN s + {round} AS s");
        let request = Request::query(&text, Value::map([]), Some(1));
        let before = Tally::of(target);
        for session in &mut sessions {
            session.send(&request)?;
        }
        let mut inbox = Inbox::default();
        for session in &mut sessions {
            session.read_answer(&request, &mut inbox)?;
        }
        let runs = Tally::of(target).since(&before).fills;
        worst = Some(worst.map_or(runs, |worst| worst.max(runs)));
    }
    sessions.into_iter().for_each(Session::close);
    let what = format!("{HERD} equal misses at once: runs at Neo4j");
    findings.verdicts.push(Verdict::at_most(&what, 1.0, worst, ""));
    Ok(())
}

/// What a Sidebolt's cache has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    hits: f64,
    misses: f64,
    /// Answers of Neo4j's that could have been kept: runs at Neo4j.
    fills: f64,
}

impl Tally {
    fn of(target: Target) -> Self {
        // The counters may be a moment behind the last answer.
        std::thread::sleep(Duration::from_millis(20));
        let page = target.admin.and_then(|admin| page(admin).ok()).unwrap_or_default();
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, value) in page.lines().filter_map(|line| line.rsplit_once(' ')) {
            let name = name.split('{').next().unwrap_or(name);
            *sums.entry(name).or_default() += value.parse::<f64>().unwrap_or_default();
        }
        let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
        Self {
            hits: sum("sidebolt_cache_hits_total") + sum("sidebolt_cache_shared_total"),
            misses: sum("sidebolt_cache_misses_total"),
            fills: sum("sidebolt_cache_fills_total"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            fills: self.fills - before.fills,
        }
    }

    fn ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0.0).then(|| self.hits / all)
    }
}
