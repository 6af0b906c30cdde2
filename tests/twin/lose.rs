//! Zero loss: everything is killed, cut, stalled and half-closed under load, and the graph is compared with what was acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bolt_wire::Version;
use bolt_wire::packstream::Value;
use fastrand::Rng;

use crate::graph::Graph;
use crate::load::{Book, COUNTERS, Fate, Kind, Load};
use crate::relay::{Blow, Relay, Way};
use crate::servers::{Neo4j, Sidebolt};
use crate::wire::{Endpoint, PATIENCE};
use crate::wrong::{Fault, Wrong};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often Neo4j is killed.
    #[arg(long, default_value_t = 20)]
    neo4j_kills: usize,
    /// How often Sidebolt is killed.
    #[arg(long, default_value_t = 60)]
    sidebolt_kills: usize,
    /// How often the network fails: cuts, cuts in the middle of a message, stalls, half-closes; on either side of Sidebolt.
    #[arg(long, default_value_t = 120)]
    network_faults: usize,
    /// How many clients write.
    #[arg(long, default_value_t = 48)]
    clients: i64,
    /// Decides what happens when, as far as the machine lets it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Neo4j's version, one of tests/rig/versions.
    #[arg(long, default_value = "5.26.30")]
    version: String,
    /// Neo4j's heap.
    #[arg(long, default_value = "700m")]
    heap: String,
    /// Sidebolt's program.
    #[arg(long)]
    sidebolt: PathBuf,
    /// One more line for Sidebolt's configuration; may be given several times.
    #[arg(long = "config", value_name = "YAML")]
    config: Vec<String>,
    /// Falsify what comes through Sidebolt: the run must then fail.
    #[arg(long)]
    wrong: Option<Fault>,
}

/// One point at which something breaks.
#[derive(Clone, Copy, Debug)]
enum Point {
    KillNeo4j,
    KillSidebolt,
    /// Before or behind Sidebolt; the blow; and how many connections it strikes, of 255.
    Network(Side, Blow, u8),
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Clients,
    Neo4j,
}

impl Point {
    fn name(self) -> String {
        match self {
            Self::KillNeo4j => "kill -9 of Neo4j".to_owned(),
            Self::KillSidebolt => "kill -9 of Sidebolt".to_owned(),
            Self::Network(side, blow, _) => {
                let blow = match blow {
                    Blow::Cut => "cut",
                    Blow::CutAfter(Way::Forth, _) => "cut within a request",
                    Blow::CutAfter(Way::Back, _) => "cut within an answer",
                    Blow::HalfClose(Way::Forth) => "half-close of requests",
                    Blow::HalfClose(Way::Back) => "half-close of answers",
                    Blow::Stall(_) => "stall",
                };
                let between = match side {
                    Side::Clients => "clients – Sidebolt",
                    Side::Neo4j => "Sidebolt – Neo4j",
                };
                format!("{between}: {blow}")
            }
        }
    }

    fn network(random: &mut Rng) -> Self {
        let side = if random.u8(0..3) == 0 { Side::Clients } else { Side::Neo4j };
        let way = if random.bool() { Way::Forth } else { Way::Back };
        let blow = match random.u8(0..10) {
            0..=2 => Blow::Cut,
            3..=6 => Blow::CutAfter(way, random.usize(0..3000)),
            7 | 8 => Blow::HalfClose(way),
            _ => Blow::Stall(Duration::from_millis(random.u64(20..600))),
        };
        Self::Network(side, blow, if random.bool() { 255 } else { random.u8(10..200) })
    }
}

/// What the run is made of.
struct Scene {
    neo4j: Neo4j,
    sidebolt: Sidebolt,
    front: Relay,
    back: Relay,
    coalesced: BTreeMap<String, f64>,
}

/// True if nothing was lost, doubled or mixed up.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let started = Instant::now();
    let mut random = Rng::with_seed(args.seed);
    let mut points = vec![Point::KillNeo4j; args.neo4j_kills];
    points.extend(vec![Point::KillSidebolt; args.sidebolt_kills]);
    points.extend((0..args.network_faults).map(|_| Point::network(&mut random)));
    random.shuffle(&mut points);

    let neo4j = Neo4j::start(&args.version, &["--heap", &args.heap, "--fast"])?;
    Load::prepare(&mut Graph::open(&neo4j.endpoint).await?).await?;
    let back = Relay::start(neo4j.endpoint.address).await?;
    let sidebolt = Sidebolt::start(&args.sidebolt, back.address, &args.config.join("\n"))?;
    let front = Relay::start(sidebolt.address).await?;
    let mut scene = Scene { neo4j, sidebolt, front, back, coalesced: BTreeMap::new() };

    let wrong = args.wrong.map(|fault| Arc::new(Wrong::new(fault)));
    let endpoint = Endpoint { address: scene.front.address, wrong, ..scene.neo4j.endpoint.clone() };
    let versions = [Version::V4_4, Version::V5_0, Version::new(5, 4), Version::V5_8];
    let mut load = Load::start(&endpoint, &versions, args.clients, args.seed);
    let mut shown = Instant::now();
    let mut table = BTreeMap::<String, (usize, usize)>::new();
    for (number, point) in points.iter().enumerate() {
        progress(&load, random.u64(50..400)).await?;
        // At any point of a batch's life.
        tokio::time::sleep(Duration::from_micros(random.u64(0..20_000))).await;
        let before = unknown(&load.book.lock());
        scene.strike(*point)?;
        progress(&load, 20).await?;
        let row = table.entry(point.name()).or_default();
        row.0 += 1;
        row.1 += unknown(&load.book.lock()) - before;
        if shown.elapsed() > Duration::from_secs(15) {
            shown = Instant::now();
            eprintln!("lose: {} of {} points, {:.0?}", number + 1, points.len(), started.elapsed());
        }
    }
    progress(&load, 200).await?;
    let hung = load.finish(PATIENCE * 2).await;
    scene.note_metrics();
    let found = Found::read(&mut Graph::open(&scene.neo4j.endpoint).await?).await?;
    let book = std::mem::take(&mut *load.book.lock());
    Ok(report(&book, &found, &table, hung, &scene, started.elapsed()))
}

/// Waits until so many more writes were acknowledged.
async fn progress(load: &Load, more: u64) -> Result<()> {
    let (wanted, deadline) = (load.acknowledged() + more, Instant::now() + 3 * PATIENCE);
    while load.acknowledged() < wanted {
        if Instant::now() > deadline {
            bail!("no {more} writes were acknowledged within {:?}: everything hangs", 3 * PATIENCE);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn unknown(book: &Book) -> usize {
    book.entries.iter().filter(|entry| entry.fate == Fate::Unknown).count()
}

impl Scene {
    fn strike(&mut self, point: Point) -> Result<()> {
        match point {
            Point::KillNeo4j => {
                self.neo4j.kill()?;
                tokio::task::block_in_place(|| self.neo4j.restart())
            }
            Point::KillSidebolt => {
                self.note_metrics();
                self.sidebolt.kill()?;
                tokio::task::block_in_place(|| self.sidebolt.restart())
            }
            Point::Network(side, blow, share) => {
                match side {
                    Side::Clients => self.front.strike(blow, share),
                    Side::Neo4j => self.back.strike(blow, share),
                }
                Ok(())
            }
        }
    }

    /// Adds up what this process counted, before it ends.
    fn note_metrics(&mut self) {
        // A process that is just being drained answers nothing; its share is then missing.
        for (name, value) in self.sidebolt.metrics("sidebolt_coalesce").unwrap_or_default() {
            // Gauges do not add up.
            if ["_total", "_sum", "_count"]
                .iter()
                .any(|end| name.split('{').next().unwrap_or_default().ends_with(end))
            {
                *self.coalesced.entry(name).or_default() += value;
            }
        }
    }
}

/// What is in the graph: how often each id is there, and what each counter counted.
struct Found {
    times: HashMap<(Kind, i64), usize>,
    counters: HashMap<i64, i64>,
}

impl Found {
    async fn read(graph: &mut Graph) -> Result<Self> {
        let mut times = HashMap::new();
        for (kind, text) in [
            (Kind::Merge, "MATCH (n:LoseMerge) RETURN n.id"),
            (Kind::Create, "MATCH (n:LoseFree) RETURN n.id"),
            (Kind::Relate, "MATCH ()-[r:LOSE]->() RETURN r.id"),
        ] {
            for row in graph.rows(text).await? {
                *times.entry((kind, row[0].as_integer().unwrap_or(-1))).or_default() += 1;
            }
        }
        let mut counters = HashMap::new();
        for row in graph.rows("MATCH (n:LoseCount) RETURN n.id, n.c").await? {
            if let [Value::Integer(id), Value::Integer(count)] = row[..] {
                counters.insert(id, count);
            }
        }
        Ok(Self { times, counters })
    }
}

/// What does not fit together.
#[derive(Default)]
struct Verdict {
    missing: Vec<String>,
    doubled: Vec<String>,
    undead: Vec<String>,
    counters: Vec<String>,
    committed_unknown: usize,
}

impl Verdict {
    fn of(book: &Book, found: &Found) -> Self {
        let mut verdict = Self::default();
        for entry in book.entries.iter().filter(|entry| entry.kind != Kind::Count) {
            let times = found.times.get(&(entry.kind, entry.id)).copied().unwrap_or(0);
            match (&entry.fate, times) {
                (Fate::Done(_), 0) => verdict.missing.push(format!("{entry:?}")),
                (_, 2..) => verdict.doubled.push(format!("{entry:?} is there {times} times")),
                (Fate::Refused(_), 1) => verdict.undead.push(format!("{entry:?}")),
                (Fate::Unknown, 1) => verdict.committed_unknown += 1,
                _ => {}
            }
        }
        (0..COUNTERS).for_each(|counter| verdict.count(counter, book, found));
        verdict
    }

    /// Between what was acknowledged and that with all that may have been; no value told twice.
    fn count(&mut self, counter: i64, book: &Book, found: &Found) {
        let of_it = || book.entries.iter().filter(|e| e.kind == Kind::Count && e.id == counter);
        let told: Vec<i64> = of_it()
            .filter_map(|entry| match &entry.fate {
                Fate::Done(row) => row.first()?.as_integer(),
                _ => None,
            })
            .collect();
        let done = of_it().filter(|entry| matches!(entry.fate, Fate::Done(_))).count() as i64;
        let unknown = of_it().filter(|entry| entry.fate == Fate::Unknown).count() as i64;
        let counted = found.counters.get(&counter).copied().unwrap_or(0);
        if counted < done || counted > done + unknown {
            self.counters
                .push(format!("counter {counter} is {counted}: {done} acknowledged, {unknown} unknown"));
        }
        let mut sorted = told.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != told.len() || told.len() as i64 != done || sorted.last() > Some(&counted) {
            self.counters.push(format!(
                "counter {counter}: {} values told, {} different",
                told.len(),
                sorted.len()
            ));
        }
    }
}

fn report(
    book: &Book,
    found: &Found,
    table: &BTreeMap<String, (usize, usize)>,
    hung: usize,
    scene: &Scene,
    took: Duration,
) -> bool {
    let verdict = Verdict::of(book, found);
    println!("\n### Nothing lost\n\n| what broke | points | writes left without an answer |\n|---|---|---|");
    for (name, (points, unknown)) in table {
        println!("| {name} | {points} | {unknown} |");
    }
    let points: usize = table.values().map(|(points, _)| points).sum();
    println!("| all | {points} | {} |", unknown(book));
    let mut fates = BTreeMap::<String, usize>::new();
    for entry in &book.entries {
        let name = match &entry.fate {
            Fate::Done(_) => "acknowledged",
            Fate::Refused(code) => code,
            Fate::Unknown => "no answer",
        };
        *fates.entry(name.to_owned()).or_default() += 1;
    }
    println!("\n| figure | value | promised |\n|---|---|---|");
    for (name, count) in &fates {
        println!("| writes: {name} | {count} | |");
    }
    println!("| writes without an answer that are there (counts apart) | {} | |", verdict.committed_unknown);
    println!("| longest wait / whole run | {:.1?} / {took:.0?} | |", book.slowest);
    for (name, value) in &scene.coalesced {
        println!("| {name} | {value} | |");
    }
    let panics = scene.sidebolt.log().unwrap_or_default().lines().filter(|l| l.contains("panicked")).count();
    let mut kept = hung == 0 && panics == 0;
    println!("| clients that hang | {hung} | 0 |\n| panics | {panics} | 0 |");
    for (name, things) in [
        ("acknowledged, but not there", &verdict.missing),
        ("done twice", &verdict.doubled),
        ("refused, but there", &verdict.undead),
        ("wrong counts in the graph", &verdict.counters),
        ("wrong counters or answers of another client", &book.wrong),
    ] {
        println!("| {name} | {} | 0 |", things.len());
        kept &= things.is_empty();
    }
    for thing in [&verdict.missing, &verdict.doubled, &verdict.undead, &verdict.counters, &book.wrong] {
        thing.iter().take(10).for_each(|thing| println!("BROKEN {thing}"));
    }
    kept
}
