//! Simulated hours: what is noise gives no alarm, what is slower gives its level.

use std::time::Duration;

use super::*;
use crate::config::{Auth, Config};
use crate::metrics::Metrics;
use crate::sight::{Answered, Finished, Outcome, Sight, Viewer};
use crate::statement::Statement;
use crate::upstream::{Identities, Principal};

pub(super) struct World {
    pub(super) sight: Sight,
    pub(super) config: Arc<Config>,
    principal: Arc<Principal>,
    pub(super) statement: Arc<Statement>,
    pub(super) random: fastrand::Rng,
    pub(super) step: u64,
    baselines: Baselines,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let auth = Auth { username: Some("ann".to_owned()), ..Auth::default() };
        Self {
            sight: Sight::new(Arc::new(Metrics::new())),
            config: Arc::default(),
            principal: Identities::default().service(&auth),
            statement: Arc::new(Statement::parse("MATCH (n {id: $id}) RETURN n")),
            random: fastrand::Rng::with_seed(seed),
            step: 0,
            baselines: Baselines::default(),
        }
    }

    /// A request that takes so many milliseconds.
    pub(super) fn ask(&mut self, millis: f64, answered: Answered) {
        let finished = Finished {
            statement: &self.statement,
            principal: &self.principal,
            database: None,
            answered,
            outcome: Outcome::Success,
            code: None,
            took: Duration::from_secs_f64(millis / 1e3),
            waited: Duration::ZERO,
            rows: 1,
            bytes: 1,
            first: Duration::ZERO,
            t_first: None,
            t_last: None,
            application: "",
            client: None,
            parameters: None,
        };
        self.sight.record(&finished, &self.config);
    }

    /// A time with noise: log-normal, and now and then something that takes very long.
    pub(super) fn noisy(&mut self, millis: f64, noise: f64) -> f64 {
        let normal = (-2.0 * self.random.f64().max(1e-12).ln()).sqrt()
            * (std::f64::consts::TAU * self.random.f64()).cos();
        let pause = if self.random.u32(..200) == 0 { 20.0 } else { 1.0 };
        millis * (noise * normal).exp() * pause
    }

    /// Ten seconds of texts that are asked once each, as Sight itself looks at them.
    fn once_each(&mut self, requests: u32, millis: f64) {
        for _ in 0..requests {
            let name = self.random.u64(..);
            self.statement = Arc::new(Statement::parse(&format!("MATCH (n:L{name}) RETURN n")));
            let took = self.noisy(millis, 0.2);
            self.ask(took, Answered::Neo4j);
        }
        self.step += 1;
        self.sight.step(self.step, &self.config);
    }

    /// Ten seconds with so many requests; the changes at their end.
    fn ten_seconds(&mut self, requests: usize, millis: f64, noise: f64) -> Vec<Change> {
        for _ in 0..requests {
            let took = self.noisy(millis, noise);
            self.ask(took, Answered::Neo4j);
        }
        self.end_of_step().changes
    }

    fn end_of_step(&mut self) -> Found {
        self.step += 1;
        let rows = self.sight.top(usize::MAX, &Viewer::of(&self.principal, &self.config));
        self.baselines.step(self.step, &rows, 1000)
    }

    fn observed(&self) -> &Observed {
        self.baselines.observed.values().next().expect("one query")
    }
}

/// Looks in an hour.
pub(super) const HOUR: usize = 360;

#[test]
fn an_hour_of_noise_gives_no_alarm() {
    for (seed, (requests, noise)) in
        [(3, 0.3), (20, 0.5), (100, 0.8), (1, 0.4), (20, 1.0), (7, 0.1)].into_iter().enumerate()
    {
        let mut world = World::new(seed as u64);
        for step in 0..2 * HOUR {
            // Load comes and goes, and times breathe with it.
            let wave = (step as f64 / 60.0 * std::f64::consts::TAU).sin();
            let requests = (requests as f64 * (1.0 + 0.8 * wave)).round() as usize;
            let changes = world.ten_seconds(requests, 10.0 * (1.0 + 0.1 * wave), noise);
            assert!(changes.is_empty(), "noise {noise}, {requests} requests, step {step}: {changes:?}");
        }
        let baseline = world.observed().baseline.clone().expect("learnt");
        assert!(baseline.confidence >= CONFIDENCE && baseline.samples >= SAMPLES, "{baseline:?}");
        assert!((8e6..13e6).contains(&(baseline.p50 as f64)), "{baseline:?}");
    }
}

/// Steps until a change, and its level.
fn detect(world: &mut World, requests: usize, millis: f64, noise: f64) -> Option<(usize, Option<Level>)> {
    let mut last = None;
    for step in 1..=12 {
        for change in world.ten_seconds(requests, millis, noise) {
            last = Some((step, change.level));
        }
    }
    last
}

#[test]
fn slowdowns_get_their_level_within_a_minute_and_lose_it() {
    for (factor, level) in [(2.0, Level::Warning), (5.0, Level::Critical), (20.0, Level::Critical)] {
        for (seed, (requests, noise)) in [(30, 0.2), (60, 0.5), (500, 0.8)].into_iter().enumerate() {
            let mut world = World::new(seed as u64);
            for _ in 0..HOUR {
                world.ten_seconds(requests, 10.0, noise);
            }
            let found = detect(&mut world, requests, 10.0 * factor, noise);
            let Some((step, found)) = found else { panic!("{factor}: nothing was found") };
            assert_eq!(found, Some(level), "{factor}, noise {noise}");
            assert!(step <= 6, "{factor}, noise {noise}: after {step}0 s");
            let baseline = world.observed().baseline.clone().unwrap();
            assert!(baseline.p50 < 12_000_000, "what is wrong is not learnt: {baseline:?}");
            let (step, found) = detect(&mut world, requests, 10.0, noise).expect("it ends");
            assert!(found.is_none() && step <= 6, "{factor}: {found:?} after {step}0 s");
        }
    }
}

#[test]
fn a_level_does_not_flutter() {
    let mut world = World::new(9);
    (0..60).for_each(|_| drop(world.ten_seconds(100, 10.0, 0.2)));
    let mut changes = 0;
    for step in 0..HOUR {
        // Around the threshold.
        let millis = if step % 2 == 0 { 17.0 } else { 19.5 };
        changes += world.ten_seconds(100, millis, 0.2).len();
    }
    assert!(changes <= 2, "{changes} changes");
}

#[test]
fn nothing_is_learnt_from_too_little_from_outliers_or_from_the_cache() {
    let mut world = World::new(1);
    for _ in 0..99 {
        world.ask(10.0, Answered::Neo4j);
    }
    for _ in 0..1000 {
        world.ask(0.01, Answered::Cache);
        world.ask(0.01, Answered::Batch);
    }
    world.end_of_step();
    assert!(world.observed().baseline.is_none());
    for at in 0..30 {
        world.ask(if at % 10 == 0 { 5000.0 } else { 10.0 }, Answered::Neo4j);
    }
    world.end_of_step();
    let baseline = world.observed().baseline.clone().expect("learnt");
    assert_eq!(baseline.samples, 126, "three were outliers");
    assert!(baseline.p99 < 11_000_000, "{baseline:?}");
    // Two humps far apart tell nothing until there is plenty.
    let mut world = World::new(2);
    for at in 0..2000 {
        world.ask(if at % 2 == 0 { 1.0 } else { 100.0 }, Answered::Neo4j);
    }
    world.end_of_step();
    assert!(world.observed().baseline.is_none());
}

#[test]
fn what_is_short_is_no_matter_and_what_is_not_asked_is_not_slow() {
    let mut world = World::new(3);
    (0..60).for_each(|_| drop(world.ten_seconds(100, 0.1, 0.2)));
    assert_eq!(detect(&mut world, 100, 0.6, 0.2), None, "half a millisecond");
    let mut world = World::new(4);
    (0..60).for_each(|_| drop(world.ten_seconds(100, 10.0, 0.2)));
    assert_eq!(detect(&mut world, 100, 60.0, 0.2).unwrap().1, Some(Level::Critical));
    let (step, level) = detect(&mut world, 0, 1.0, 0.2).expect("it ends");
    assert!(level.is_none() && step >= 6, "{step}");
}

#[test]
fn baselines_are_kept_and_bounded() {
    let mut world = World::new(5);
    (0..30).for_each(|_| drop(world.ten_seconds(100, 10.0, 0.2)));
    let text = serde_json::to_string(&world.baselines.kept()).unwrap();
    assert!(!text.contains("credentials") && text.contains("\"user\":\"ann\""), "{text}");
    let mut again = Baselines::default();
    again.restore(serde_json::from_str(&text).unwrap(), 10);
    assert_eq!(serde_json::to_string(&again.kept()).unwrap(), text);
    // At once good for comparisons.
    world.baselines = again;
    assert_eq!(detect(&mut world, 100, 50.0, 0.2).unwrap().1, Some(Level::Critical));
    world.baselines.restore(serde_json::from_str(&text).unwrap(), 0);
    // As many as wanted, and those that are seen.
    let mut many = World::new(6);
    for i in 0..300 {
        many.statement = Arc::new(Statement::parse(&format!("MATCH (n:L{i}) RETURN n")));
        many.ask(1.0, Answered::Neo4j);
    }
    many.step = 1;
    let rows = many.sight.top(usize::MAX, &Viewer::of(&many.principal, &many.config));
    many.baselines.step(1, &rows, 100);
    assert_eq!(many.baselines.observed.len(), 100);
}

#[test]
fn reads_together_have_a_baseline_too() {
    let mut world = World::new(11);
    for _ in 0..60 {
        world.once_each(50, 10.0);
    }
    assert!(world.sight.alerts.all().0.is_empty(), "{:?}", world.sight.alerts.all().0);
    // A bit slower is no matter, six times is.
    (0..6).for_each(|_| world.once_each(50, 16.0));
    assert!(world.sight.alerts.all().0.is_empty(), "{:?}", world.sight.alerts.all().0);
    (0..6).for_each(|_| world.once_each(50, 60.0));
    let (active, _) = world.sight.alerts.all();
    let [alert] = active.as_slice() else { panic!("{active:?}") };
    assert_eq!(alert.level, Level::Critical);
    assert!(alert.message.starts_with("(all reads) take ") && alert.query.is_none(), "{alert:?}");
    let all = world.sight.baselines(10, &Viewer::of_all());
    assert_eq!(&*all[0].baseline.text, "(all reads)");
    assert!(
        world.sight.baselines(10, &Viewer::of(&world.principal, &world.config)).is_empty(),
        "it is of all users"
    );
}

#[test]
fn many_texts_do_not_push_out_what_is_known() {
    let mut world = World::new(12);
    (0..30).for_each(|_| drop(world.ten_seconds(100, 10.0, 0.2)));
    let known = world.baselines.kept();
    // After a restart, its query is asked rarely, and many others in between.
    world.baselines = Baselines::default();
    world.baselines.restore(known, 100);
    for _ in 0..20 {
        world.sight.reset(&Viewer::of_all());
        for _ in 0..80 {
            let name = world.random.u64(..);
            world.statement = Arc::new(Statement::parse(&format!("MATCH (n:L{name}) RETURN n")));
            world.ask(1.0, Answered::Neo4j);
        }
        world.step += 1;
        let rows = world.sight.top(usize::MAX, &Viewer::of_all());
        world.baselines.step(world.step, &rows, 100);
        assert!(world.baselines.observed.len() <= 100);
        assert_eq!(world.baselines.kept().len(), 1, "step {}", world.step);
    }
}

#[test]
fn what_is_forgotten_is_slow_no_longer() {
    let mut world = World::new(13);
    (0..30).for_each(|_| drop(world.ten_seconds(100, 10.0, 0.2)));
    assert_eq!(detect(&mut world, 100, 50.0, 0.2).unwrap().1, Some(Level::Critical));
    for _ in 0..50 {
        let name = world.random.u64(..);
        world.statement = Arc::new(Statement::parse(&format!("MATCH (n:L{name}) RETURN n")));
        world.ask(1.0, Answered::Neo4j);
    }
    // Others are asked, and there is no room for more.
    let rows: Vec<_> = world.sight.top(usize::MAX, &Viewer::of_all()).split_off(1);
    let found = world.baselines.step(world.step + 1, &rows, 50);
    let levels: Vec<_> = found.changes.iter().map(|change| change.level).collect();
    assert_eq!((levels, world.baselines.observed.len()), (vec![None], 50));
}
