//! The servers of a run, and everything that breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bolt_wire::Version;
use bolt_wire::packstream::Value;
use fastrand::Rng;

use super::client::Ways;
use super::forms::schema;
use super::rule::Breach;
use super::world::World;
use super::{Args, HITS};
use crate::graph::Graph;
use crate::relay::{Blow, Relay, Way};
use crate::servers::{Neo4j, Sidebolt};
use crate::sides::versions;
use crate::wire::Endpoint;

/// What breaks during a run.
#[derive(Debug, clap::Args)]
pub(crate) struct Faults {
    /// Break all of the following.
    #[arg(long)]
    faults: bool,
    /// How often Neo4j is killed and started again.
    #[arg(long, default_value_t = 4)]
    neo4j_kills: usize,
    /// How often a Sidebolt is killed and started again.
    #[arg(long, default_value_t = 8)]
    sidebolt_kills: usize,
    /// How often some connections are cut.
    #[arg(long, default_value_t = 40)]
    cuts: usize,
    /// How often some connections between a Sidebolt and Neo4j stall for 1 to 200 ms.
    #[arg(long, default_value_t = 2000)]
    stalls: usize,
}

/// One point at which something breaks.
#[derive(Clone, Copy, Debug)]
enum Point {
    KillNeo4j,
    KillSidebolt(usize),
    /// Before a Sidebolt or behind it; the blow; how many connections it strikes, of 255.
    Network(bool, usize, Blow, u8),
}

/// The servers of a run.
#[derive(Debug)]
pub(crate) struct Scene {
    /// What the server is called.
    pub(crate) server: String,
    /// The Bolt versions that it has, up to 6.0.
    pub(crate) versions: Vec<Version>,
    /// What broke, and how often.
    pub(crate) struck: BTreeMap<&'static str, usize>,
    /// What the caches counted, if they did.
    pub(crate) hits: Option<f64>,
    direct: Endpoint,
    neo4j: Option<Neo4j>,
    sidebolts: [Sidebolt; 2],
    /// Where things can break: before and behind each Sidebolt.
    fronts: Vec<Relay>,
    backs: Vec<Relay>,
}

impl Scene {
    /// Starts all of it.
    pub(crate) async fn start(args: &Args) -> Result<Self> {
        let kind = &args.kind;
        ensure!(
            !args.faults.faults || kind.neo4j.is_none(),
            "--faults kills Neo4j, so that it needs one of its own: leave --neo4j away"
        );
        let (neo4j, direct) = kind.neo4j()?;
        let versions = versions(&direct).await?;
        let (mut backs, mut fronts) = (Vec::new(), Vec::new());
        let lines = args.lines();
        let start = |upstream| Sidebolt::start(&kind.sidebolt, upstream, &lines);
        let sidebolts = if args.faults.faults {
            for _ in 0..2 {
                backs.push(Relay::start(direct.address).await?);
            }
            let sidebolts = [start(backs[0].address)?, start(backs[1].address)?];
            for sidebolt in &sidebolts {
                fronts.push(Relay::start(sidebolt.address).await?);
            }
            sidebolts
        } else {
            [start(direct.address)?, start(direct.address)?]
        };
        let server = format!("Neo4j {}", kind.neo4j.as_ref().unwrap_or(&kind.version));
        let struck = BTreeMap::new();
        Ok(Self { server, versions, struck, hits: None, direct, neo4j, sidebolts, fronts, backs })
    }

    /// Where the clients send to.
    pub(crate) fn ways(&self) -> Ways {
        let through = |place: usize| {
            let address = self.fronts.get(place).map_or(self.sidebolts[place].address, |relay| relay.address);
            Endpoint { address, ..self.direct.clone() }
        };
        Ways { endpoints: [through(0), through(1), self.direct.clone()], liars: [None, None, None] }
    }

    /// Makes the constraints and indexes of an empty database.
    pub(crate) async fn prepare(&self) -> Result<()> {
        let mut graph = Graph::open(&self.direct).await?;
        graph.must_be_empty().await?;
        for statement in schema() {
            graph.rows(&format!("CREATE {statement}")).await?;
        }
        Ok(())
    }

    /// Puts the registers into the database.
    pub(crate) async fn fill(&self, world: &World) -> Result<()> {
        let mut graph = Graph::open(&self.direct).await?;
        for statement in world.creates() {
            graph.rows(&statement).await?;
        }
        graph.rows("CALL db.awaitIndexes(60)").await.map(drop)
    }

    /// Deletes the registers.
    pub(crate) async fn empty(&self) -> Result<()> {
        Graph::open(&self.direct).await?.empty().await
    }

    /// Leaves the database as it was.
    pub(crate) async fn clean_up(self) -> Result<()> {
        if self.neo4j.is_some() {
            return Ok(());
        }
        self.empty().await?;
        let mut graph = Graph::open(&self.direct).await?;
        for statement in schema() {
            let what = statement.split(" FOR ").next().unwrap_or_default();
            graph.rows(&format!("DROP {what}")).await?;
        }
        Ok(())
    }

    /// Compares what is in the graph at the end with what was acknowledged.
    pub(crate) async fn compare(&self, world: &World) -> Result<()> {
        let mut graph = Graph::open(&self.direct).await?;
        let mut found = vec![0; world.cells.len()];
        let mut asked: Vec<&str> = Vec::new();
        for text in world.slots.iter().map(|slot| slot.kind.result()) {
            if asked.contains(&text) {
                continue;
            }
            asked.push(text);
            for row in graph.rows(text).await? {
                let [Value::Integer(id), Value::Integer(value)] = row[..] else { bail!("{text}: {row:?}") };
                let place = usize::try_from(id)?;
                ensure!(place < found.len(), "{text}: a register {id}");
                found[place] = value;
            }
        }
        for (place, (cell, value)) in world.cells.iter().zip(found).enumerate() {
            let (least, most) = (cell.done(), cell.ceiling());
            if value < least || value > most {
                let what = format!(
                    "register {place} is at {value} in the end, {least} writes were acknowledged, {most} begun"
                );
                world.breach(if value < least { Breach::Stale } else { Breach::Future }, &[place], &what);
            }
        }
        Ok(())
    }

    /// Adds up the hits of the Sidebolts, before one ends.
    pub(crate) fn note_hits(&mut self) {
        for place in 0..self.sidebolts.len() {
            self.note_hits_of(place);
        }
    }

    fn note_hits_of(&mut self, place: usize) {
        // One that is dying answers nothing.
        let metrics = self.sidebolts[place].metrics(HITS).unwrap_or_default();
        if !metrics.is_empty() {
            let sum: f64 = metrics.iter().map(|(_, value)| value).sum();
            self.hits = Some(self.hits.unwrap_or(0.0) + sum);
        }
    }

    /// Panics in the logs of the Sidebolts.
    pub(crate) fn panics(&self) -> usize {
        let of = |sidebolt: &Sidebolt| {
            sidebolt.log().unwrap_or_default().lines().filter(|line| line.contains("panicked")).count()
        };
        self.sidebolts.iter().map(of).sum()
    }

    /// Breaks everything that is to be broken, spread over the run.
    pub(crate) async fn strike_all(&mut self, args: &Args, world: &World) -> Result<()> {
        if !args.faults.faults {
            return Ok(());
        }
        let points = args.faults.points(args.seed);
        let mut random = Rng::with_seed(args.seed);
        for (number, point) in points.iter().enumerate() {
            let due = args.ops * (number as u64 + 1) / (points.len() as u64 + 1);
            while world.answered() < due {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // At any point of a request's life.
            tokio::time::sleep(Duration::from_micros(random.u64(0..2000))).await;
            self.strike(*point)?;
        }
        Ok(())
    }

    fn strike(&mut self, point: Point) -> Result<()> {
        let name = match point {
            Point::KillNeo4j => "kills of Neo4j",
            Point::KillSidebolt(_) => "kills of a Sidebolt",
            Point::Network(true, ..) => "cuts between clients and a Sidebolt",
            Point::Network(false, _, Blow::Stall(_), _) => "stalls between a Sidebolt and Neo4j",
            Point::Network(false, ..) => "cuts between a Sidebolt and Neo4j",
        };
        *self.struck.entry(name).or_default() += 1;
        match point {
            Point::KillNeo4j => {
                let Some(neo4j) = &mut self.neo4j else { return Ok(()) };
                neo4j.kill()?;
                tokio::task::block_in_place(|| neo4j.restart())?;
            }
            Point::KillSidebolt(place) => {
                self.note_hits_of(place);
                self.sidebolts[place].kill()?;
                tokio::task::block_in_place(|| self.sidebolts[place].restart())?;
            }
            Point::Network(front, place, blow, share) => {
                let relays = if front { &self.fronts } else { &self.backs };
                relays[place].strike(blow, share);
            }
        }
        Ok(())
    }
}

impl Faults {
    fn points(&self, seed: u64) -> Vec<Point> {
        let mut random = Rng::with_seed(seed ^ 0x5EED);
        let mut points = vec![Point::KillNeo4j; self.neo4j_kills];
        points.extend((0..self.sidebolt_kills).map(|number| Point::KillSidebolt(number % 2)));
        for _ in 0..self.cuts {
            let way = if random.bool() { Way::Forth } else { Way::Back };
            let blow = if random.bool() { Blow::Cut } else { Blow::CutAfter(way, random.usize(0..3000)) };
            points.push(Point::Network(random.u8(0..3) == 0, random.usize(0..2), blow, random.u8(20..=255)));
        }
        for _ in 0..self.stalls {
            // Single connections, mostly: it may be the one that carries the probes.
            let blow = Blow::Stall(Duration::from_millis(random.u64(1..=200)));
            points.push(Point::Network(false, random.usize(0..2), blow, random.u8(5..60)));
        }
        random.shuffle(&mut points);
        points
    }
}
