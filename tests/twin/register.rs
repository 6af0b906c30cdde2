//! Registers: numbers that only rise, written and read by many clients on all ways, and no read may miss what it must see.

mod cell;
mod check;
mod client;
mod fetched;
mod forms;
mod liar;
mod op;
mod rule;
mod scene;
mod step;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bolt_wire::Version;

use self::client::{Client, Ways};
use self::rule::{Breach, Mode, Path, Rule};
use self::scene::{Faults, Scene};
use self::world::{Plan, World};
use crate::sides::Kind;
use crate::wire::PATIENCE;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many statements.
    #[arg(long, default_value_t = 1_000_000)]
    ops: u64,
    /// How many clients.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// What the cache is told to promise, and is held to.
    #[arg(long, value_enum, default_value_t = Mode::Strict)]
    mode: Mode,
    /// Milliseconds by which `bounded` may miss what others wrote past this Sidebolt.
    #[arg(long, default_value_t = 50)]
    max_staleness: u64,
    /// Say nothing of a cache in Sidebolt's configuration.
    #[arg(long)]
    cacheless: bool,
    /// Decides what is done; when, the machine decides.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    faults: Faults,
    /// Put caches before Sidebolt that lie in several ways: each must be found.
    #[arg(long)]
    self_check: bool,
    #[command(flatten)]
    kind: Kind,
}

impl Args {
    fn rule(&self) -> Rule {
        Rule { mode: self.mode, bound: Duration::from_millis(self.max_staleness) }
    }

    fn plan(&self) -> Plan {
        Plan { clients: self.clients, statements: self.ops, seed: self.seed, dense: None }
    }

    /// Lines of Sidebolt's configuration: the only place that knows the keys of its cache.
    fn lines(&self) -> String {
        let mut lines = self.kind.config.clone();
        if !self.cacheless {
            let consistency = match self.mode {
                Mode::Strict => "strict",
                Mode::Bounded => "bounded",
            };
            let staleness = self.max_staleness;
            lines.push(format!(
                "cache: {{enabled: true, consistency: {consistency}, max_staleness: {staleness}ms, rules: [{{store: always}}]}}"
            ));
        }
        lines.join("\n")
    }
}

/// What Sidebolt calls the number of its hits.
const HITS: &str = "sidebolt_cache_hits_total";

/// True if every read saw what it had to see.
pub(crate) async fn run(args: Args) -> Result<bool> {
    ensure!(args.clients > 0, "--clients must be 1 or more");
    ensure!(args.max_staleness <= 10_000, "--max-staleness must be 10000 or less: no more is remembered");
    if args.self_check {
        return check::run(&args).await;
    }
    let mut scene = Scene::start(&args).await?;
    let world = Arc::new(World::new(args.rule(), args.plan()));
    scene.prepare().await?;
    scene.fill(&world).await?;
    let ways = scene.ways();
    let versions = scene.versions.clone();
    let play = play(&world, &ways, &versions, args.plan());
    let started = Instant::now();
    let (hung, struck) = tokio::join!(play, scene.strike_all(&args, &world));
    struck?;
    let took = started.elapsed();
    scene.note_hits();
    scene.compare(&world).await?;
    let title = format!("{:?}, seed {}, {}", args.mode, args.seed, scene.server);
    report(&title, &world, &scene, hung, took);
    let (panics, hits) = (scene.panics(), scene.hits);
    scene.clean_up().await?;
    let mut kept = hung == 0 && panics == 0 && world.book.lock().found() == 0;
    if !args.cacheless && hits.unwrap_or(0.0) == 0.0 {
        println!("\nBROKEN Sidebolt's cache took no part: {HITS} tells of no hit");
        kept = false;
    }
    Ok(kept)
}

/// Lets all clients work; gives how many did not end.
async fn play(world: &Arc<World>, ways: &Ways, versions: &[Version], plan: Plan) -> usize {
    let Plan { clients, statements, seed, .. } = plan;
    let share = statements.div_ceil(clients as u64);
    let newest = versions[versions.len() - 1];
    let version =
        |number: usize| if number % 4 == 3 { versions[number / 4 % versions.len()] } else { newest };
    let client = |number| Client::new(world, number, version(number), ways, seed);
    let mut tasks: Vec<_> = (0..clients).map(|number| tokio::spawn(client(number).work(share))).collect();
    let (mut before, mut deadline) = (0, Instant::now() + 4 * PATIENCE);
    let (mut shown, started) = (Instant::now(), Instant::now());
    loop {
        tasks.retain(|task| !task.is_finished());
        if tasks.is_empty() {
            return 0;
        }
        let now = world.answered();
        if now > before {
            (before, deadline) = (now, Instant::now() + 4 * PATIENCE);
        } else if Instant::now() > deadline {
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            return tasks.len();
        }
        if shown.elapsed() > Duration::from_secs(15) {
            shown = Instant::now();
            let found = world.book.lock().found();
            eprintln!("register: {now} statements, {found} breaches, {:.0?}", started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn report(title: &str, world: &World, scene: &Scene, hung: usize, took: Duration) {
    let book = world.book.lock();
    let paths = |all: &[u64; Path::COUNT]| {
        let each: Vec<String> =
            Path::ALL.iter().zip(all).map(|(path, count)| format!("{path} {count}")).collect();
        format!("{} ({})", all.iter().sum::<u64>(), each.join(", "))
    };
    println!("\n### Registers, {title}\n\n| figure | value | promised |\n|---|---|---|");
    let rate = world.answered() as f64 / took.as_secs_f64();
    println!("| statements | {} in {took:.1?}: {rate:.0}/s | |", world.answered());
    println!("| reads that were compared | {} | |", paths(&book.reads));
    println!("| of them in requests with bookmarks | {} | |", book.bookmarked);
    println!("| writes that were acknowledged | {} | |", paths(&book.writes));
    println!("| writes rolled back or refused / without an answer | {} / {} | |", book.undone, book.unknown);
    for (code, count) in &book.refused {
        println!("| refused: {code} | {count} | |");
    }
    for (what, count) in &scene.struck {
        println!("| {what} | {count} | |");
    }
    println!("| connections that broke | {} | |", book.broken);
    println!(
        "| hits of Sidebolt's cache | {} | |",
        scene.hits.map_or_else(|| "not told".to_owned(), |hits| hits.to_string())
    );
    let (lag, allowed) = match world.rule.mode {
        Mode::Strict => ("0", "0".to_owned()),
        Mode::Bounded => ("", format!("{:?}", world.rule.bound)),
    };
    println!("| reads that missed something | {} | {lag} |", book.lagging);
    println!("| by how much at most | {:.1?} | {allowed} |", book.lag);
    println!("| longest wait for an answer | {:.1?} | |", book.slowest);
    for (breach, name) in Breach::ALL {
        println!("| {name} | {} | 0 |", book.breaches.get(&breach).copied().unwrap_or(0));
    }
    println!("| clients that hang / panics | {hung} / {} | 0 / 0 |", scene.panics());
    book.shown.iter().for_each(|text| println!("\nBROKEN {text}"));
}
