//! Simulated hours of a whole load: texts of all kinds, some asked often and some once only, with times as they are in practice.

use std::collections::VecDeque;

use super::tests::{HOUR, World};
use super::*;
use crate::sight::resources::Sample;
use crate::sight::watchman::{MINUTE, note_resources};
use crate::sight::{Alert, Answered, Viewer};
use crate::statement::Statement;

/// How the times of a text are spread, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Times {
    /// Log-normal around a median, with long pauses now and then.
    Noisy(f64, f64),
    /// Pareto: the least, and the exponent. With less than 2 there is no variance.
    Tail(f64, f64),
    /// Most take the first, and this share takes the other: what is in memory and what is not.
    Humps(f64, f64, f64),
}

/// What is asked: reads, writes, or others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Read,
    Write,
    Other,
}

/// A text that is asked so often in ten seconds; or as many texts that are asked once each.
#[derive(Clone, Copy, Debug)]
struct Part {
    kind: Kind,
    name: Option<&'static str>,
    requests: f64,
    times: Times,
}

const fn part(kind: Kind, name: Option<&'static str>, requests: f64, times: Times) -> Part {
    Part { kind, name, requests, times }
}

impl Kind {
    fn statement(self, name: &str) -> Arc<Statement> {
        Arc::new(Statement::parse(&match self {
            Self::Read => format!("MATCH (n:{name} {{id: $id}}) RETURN n"),
            Self::Write => format!("MERGE (n:{name} {{id: $id}}) SET n.seen = $now"),
            Self::Other => format!("CALL shop.{name}($id)"),
        }))
    }

    fn shown(self) -> &'static str {
        let at = [Self::Read, Self::Write, Self::Other].iter().position(|kind| *kind == self).unwrap();
        kinds::name(u64::MAX - at as u64).unwrap()
    }
}

/// A load that goes on for hours.
struct Load {
    world: World,
    parts: Vec<Part>,
    minute: VecDeque<Sample>,
    /// What takes longer than it did, and how many times as long.
    slower: Option<(Kind, f64)>,
    /// Neo4j has something else to do for ten seconds of eight minutes, and all takes four times as long.
    stalls: bool,
}

impl Load {
    fn new(seed: u64, parts: &[Part]) -> Self {
        let mut world = World::new(seed);
        // So few that texts asked once come and go.
        Arc::make_mut(&mut world.config).sight.max_queries = 100;
        Self { world, parts: parts.to_vec(), minute: VecDeque::new(), slower: None, stalls: false }
    }

    fn millis(&mut self, times: Times) -> f64 {
        let random = &mut self.world.random;
        match times {
            Times::Noisy(median, noise) => self.world.noisy(median, noise),
            Times::Tail(least, exponent) => least / (1.0 - random.f64()).powf(1.0 / exponent),
            Times::Humps(low, high, share) => {
                let hump = if random.f64() < share { high } else { low };
                hump * (0.9 + 0.2 * random.f64())
            }
        }
    }

    /// Ten seconds, as Sight itself looks at them. Load comes and goes, and times breathe with it.
    fn ten_seconds(&mut self) {
        let wave = (self.world.step as f64 / 60.0 * std::f64::consts::TAU).sin();
        let stall = if self.stalls && self.world.step % 48 == 47 { 4.0 } else { 1.0 };
        for part in self.parts.clone() {
            let expected = part.requests * (1.0 + 0.8 * wave);
            let requests = expected as usize + usize::from(self.world.random.f64() < expected.fract());
            let slower = self.slower.filter(|(kind, _)| *kind == part.kind).map_or(1.0, |(_, times)| times);
            let statement = part.name.map(|name| part.kind.statement(name));
            for _ in 0..requests {
                let name = self.world.random.u64(..);
                self.world.statement = match &statement {
                    Some(statement) => Arc::clone(statement),
                    None => part.kind.statement(&format!("L{name}")),
                };
                let took = stall * slower * (1.0 + 0.1 * wave) * self.millis(part.times);
                self.world.ask(took, Answered::Neo4j);
            }
        }
        (0..10).for_each(|_| self.second());
        self.world.step += 1;
        self.world.sight.step(self.world.step, &self.world.config);
    }

    /// A second of resources: around the thresholds, and beyond them for less than a minute.
    fn second(&mut self) {
        let random = &mut self.world.random;
        let around = |random: &mut fastrand::Rng, middle: f64| middle + 0.04 * (random.f64() - 0.5);
        let at = self.minute.back().map_or(0, |last| last.time) + 1;
        let busy = at % 120 < MINUTE as u64 - 1;
        let cores = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
        let sample = Sample {
            time: at,
            host_memory: 1_000_000,
            host_memory_used: (1e6 * around(random, 0.775)) as u64,
            host_cores: (cores * if busy { 1.0 } else { around(random, 0.7) }) as f32,
            files: (1000.0 * around(random, 0.79)) as u32,
            files_most: 1000,
            pool_lent: if busy { 100 } else { (100.0 * around(random, 0.77)) as u32 },
            ..Sample::default()
        };
        self.minute.push_back(sample);
        if self.minute.len() > MINUTE {
            self.minute.pop_front();
        }
        note_resources(&self.world.sight.alerts, self.minute.make_contiguous(), 100);
    }

    fn alerts(&self) -> (Vec<Alert>, Vec<Alert>) {
        self.world.sight.alerts.all()
    }

    /// The baselines that are known, by what they are of.
    fn known(&self) -> BTreeMap<String, Baseline> {
        let shown = self.world.sight.baselines(usize::MAX, &Viewer::of_all());
        shown.into_iter().map(|shown| (shown.baseline.text.to_string(), shown.baseline)).collect()
    }
}

use Kind::{Other, Read, Write};
use Times::{Humps, Noisy, Tail};

/// What an application asks: heavy tails, humps, much noise, often and rarely.
const SHOP: [Part; 12] = [
    part(Read, Some("Often"), 40.0, Noisy(5.0, 0.8)),
    part(Read, Some("Tail"), 20.0, Tail(4.0, 1.2)),
    part(Read, Some("Humps"), 20.0, Humps(3.0, 60.0, 0.35)),
    part(Read, Some("Rarely"), 3.0, Humps(3.0, 60.0, 0.4)),
    part(Read, Some("Pauses"), 5.0, Humps(10.0, 300.0, 0.03)),
    part(Read, None, 6.0, Tail(6.0, 1.5)),
    part(Write, Some("Tail"), 15.0, Tail(8.0, 1.1)),
    part(Write, Some("Rarely"), 2.0, Noisy(20.0, 1.0)),
    part(Write, None, 6.0, Humps(9.0, 90.0, 0.3)),
    part(Other, Some("humps"), 6.0, Humps(10.0, 500.0, 0.4)),
    part(Other, Some("tail"), 6.0, Tail(30.0, 0.9)),
    part(Other, None, 4.0, Tail(12.0, 1.0)),
];

#[test]
fn an_hour_of_a_mixed_load_gives_no_alarm() {
    for seed in [0, 1] {
        let mut load = Load { stalls: true, ..Load::new(seed, &SHOP) };
        (0..HOUR).for_each(|_| load.ten_seconds());
        let (active, past) = load.alerts();
        assert!(active.is_empty() && past.is_empty(), "seed {seed}: {active:?}, {past:?}");
        // It knew enough to be alarmed.
        let known = load.known();
        let of = |name: &str| {
            let found = known.iter().find(|(text, _)| text.contains(name)).map(|(_, known)| known);
            found.unwrap_or_else(|| panic!("seed {seed}: {name} is not known: {:?}", known.keys()))
        };
        for kind in [Read, Write, Other] {
            of(kind.shown());
        }
        for (name, median) in [(":Often", 5.0), (":Rarely", 3.0), (":Humps", 3.0), (":Pauses", 10.0)] {
            let p50 = of(name).p50 as f64 / 1e6;
            assert!((0.8 * median..1.3 * median).contains(&p50), "seed {seed}, {name}: {:?}", of(name));
        }
        let pauses = of(":Pauses");
        assert!(pauses.p99 < 2 * pauses.p50, "its pauses are outliers: {pauses:?}");
    }
}

#[test]
fn a_kind_of_rare_texts_that_slows_down_gets_its_level() {
    let cases = [(Write, Noisy(10.0, 0.5)), (Other, Tail(10.0, 1.5)), (Read, Humps(4.0, 80.0, 0.3))];
    for (seed, (kind, times)) in cases.into_iter().enumerate() {
        for (factor, level) in [(2.0, Level::Warning), (5.0, Level::Critical)] {
            let mut parts = SHOP.to_vec();
            parts.retain(|part| part.kind != kind);
            parts.push(part(kind, None, 50.0, times));
            let mut load = Load::new(seed as u64, &parts);
            (0..60).for_each(|_| load.ten_seconds());
            assert!(load.alerts().0.is_empty(), "{:?}", load.alerts());
            load.slower = Some((kind, factor));
            // A minute is less what goes by before the first look.
            let found = (1..=5).find_map(|_| {
                load.ten_seconds();
                load.alerts().0.pop().filter(|alert| alert.level == level)
            });
            let Some(alert) = found else { panic!("{kind:?}, {factor}: {:?}", load.alerts()) };
            assert!(alert.message.starts_with(kind.shown()) && alert.query.is_none(), "{alert:?}");
            (0..6).for_each(|_| load.ten_seconds());
            let (active, past) = load.alerts();
            assert!(active.len() == 1 && past.is_empty(), "one thing is slow: {active:?}, {past:?}");
            load.slower = None;
            (0..6).for_each(|_| load.ten_seconds());
            let (active, past) = load.alerts();
            assert!(active.is_empty() && past.len() == 1, "it ends: {active:?}, {past:?}");
        }
    }
}
