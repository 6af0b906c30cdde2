//! The check of the check: caches that lie are found, and named rightly; one that keeps its promise is not.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::client::Ways;
use super::liar::{Habits, Liar};
use super::rule::{Breach, Mode, Rule};
use super::scene::Scene;
use super::world::{Plan, World};
use super::{Args, play};
use crate::wrong::{Fault, Wrong};

/// What lies, and what must be found then.
struct Case {
    name: &'static str,
    mode: Mode,
    habits: Option<Habits>,
    /// Every answer is falsified now and then, by this.
    fault: Option<Fault>,
    /// One of these at least must be found; without any, nothing may be.
    expected: &'static [Breach],
    /// Nothing else may be found.
    only: bool,
    /// Whether it has to miss something, so that it shows that it lied at all.
    lags: bool,
}

const STATEMENTS: u64 = 12_000;

fn cases() -> Vec<Case> {
    use Breach::{BeyondBound, Bookmark, Future, OwnWrite, SamePath, Stale};
    use Mode::{Bounded, Strict};
    let habits = |keeps, minds_writes, minds_bookmarks| {
        let keeps = Duration::from_millis(keeps);
        Some(Habits { keeps, minds_writes, forgets_too_early: false, minds_bookmarks })
    };
    let early = habits(20, true, true).map(|habits| Habits { forgets_too_early: true, ..habits });
    let case = |name, mode, habits, expected, lags| Case {
        name,
        mode,
        habits,
        fault: None,
        expected,
        only: true,
        lags,
    };
    let wrong = |name, fault, expected| Case {
        name,
        mode: Strict,
        habits: None,
        fault: Some(fault),
        expected,
        only: false,
        lags: false,
    };
    vec![
        case("nothing", Strict, None, &[], false),
        case("nothing", Bounded, None, &[], false),
        case(
            "old answers for 20 ms, none missing what went through itself",
            Strict,
            habits(20, true, true),
            &[Stale, OwnWrite],
            true,
        ),
        case(
            "old answers for 20 ms, none missing what went through itself",
            Bounded,
            habits(20, true, true),
            &[],
            true,
        ),
        case("the same for 150 ms", Bounded, habits(150, true, true), &[BeyondBound], true),
        case(
            "the same for 20 ms, whatever the bookmarks",
            Bounded,
            habits(20, true, false),
            &[Bookmark],
            true,
        ),
        case(
            "old answers for 20 ms, whatever was written",
            Bounded,
            habits(20, false, true),
            &[OwnWrite, SamePath],
            true,
        ),
        case("the same, forgotten when a write begins", Bounded, early, &[OwnWrite, SamePath], true),
        wrong("numbers one too high", Fault::Value, &[Future]),
        wrong("writes that are lost", Fault::Lost, &[Stale, OwnWrite]),
        wrong("writes that are done twice", Fault::Twice, &[Future]),
        wrong("answers of others", Fault::Swapped, &[Stale, OwnWrite]),
    ]
}

/// True if each lie is found and nothing else.
pub(super) async fn run(args: &Args) -> Result<bool> {
    let scene = Scene::start(args).await?;
    scene.prepare().await?;
    let mut all = true;
    println!("| lie | mode | found | reads that missed something, at most by | |\n|---|---|---|---|---|");
    for case in cases() {
        let rule = Rule { mode: case.mode, bound: Duration::from_millis(args.max_staleness) };
        let plan = Plan { statements: STATEMENTS, dense: Some(case.around()), ..args.plan() };
        let world = Arc::new(World::new(rule, plan));
        scene.fill(&world).await?;
        let ways = case.ways(&scene);
        let hung = play(&world, &ways, &scene.versions, plan).await;
        scene.compare(&world).await?;
        scene.empty().await?;
        let book = world.book.lock();
        let known = |breach| case.expected.contains(breach);
        let named = !case.only || book.breaches.keys().all(known);
        let found = case.expected.is_empty() || book.breaches.keys().any(known);
        let kept = hung == 0 && named && found && (!case.lags || book.lagging > 0);
        all &= kept;
        let hits: u64 = ways.liars.iter().flatten().map(|liar| liar.hits()).sum();
        println!(
            "| {} ({hits} hits) | {:?} | {:?} | {}, {:.1?} | {} |",
            case.name,
            case.mode,
            book.breaches,
            book.lagging,
            book.lag,
            if kept { "as it must be" } else { "WRONG" }
        );
        if !kept {
            println!("expected {:?}, {hung} clients hang\n{}", case.expected, book.shown.join("\n"));
        }
    }
    scene.clean_up().await.map(|()| all)
}

impl Case {
    /// Of a hundred writes, those that go around: what goes through a cache makes it forget too soon to be far behind.
    fn around(&self) -> u32 {
        match (self.mode, self.expected) {
            (Mode::Strict, _) if self.habits.is_some() => 100,
            (_, [Breach::BeyondBound]) => 100,
            (_, [Breach::Bookmark]) => 75,
            _ => 30,
        }
    }

    fn ways(&self, scene: &Scene) -> Ways {
        let mut ways = scene.ways();
        if let Some(habits) = self.habits {
            ways.liars = [Some(Arc::new(Liar::new(habits))), Some(Arc::new(Liar::new(habits))), None];
        }
        if let Some(fault) = self.fault {
            // Reads are chances too, and nothing to lose.
            let wrong = Arc::new(Wrong::one_in(if fault == Fault::Lost { 10 } else { 100 }, fault));
            ways.endpoints[..2].iter_mut().for_each(|end| end.wrong = Some(Arc::clone(&wrong)));
        }
        ways
    }
}
