//! Many texts, many sessions, and who sees what.

use super::*;
use crate::config::Auth;
use crate::upstream::Identities;

struct World {
    sight: Sight,
    config: Arc<Config>,
    ann: Arc<Principal>,
    bob: Arc<Principal>,
}

fn world(max_queries: usize) -> World {
    let identities = Identities::default();
    let user = |name: &str| identities.service(&Auth { username: Some(name.to_owned()), ..Auth::default() });
    let mut config = Config::default();
    config.sight.max_queries = max_queries;
    let (ann, bob) = (user("ann"), user("bob"));
    World { sight: Sight::new(Arc::new(Metrics::new())), config: Arc::new(config), ann, bob }
}

impl World {
    fn ask(&self, who: &Arc<Principal>, text: &str, took: Duration, change: impl FnOnce(&mut Finished<'_>)) {
        self.ask_in(who, text, None, took, change);
    }

    fn ask_in(
        &self,
        who: &Arc<Principal>,
        text: &str,
        database: Option<&Arc<str>>,
        took: Duration,
        change: impl FnOnce(&mut Finished<'_>),
    ) {
        let statement = Arc::new(Statement::parse(text));
        let mut finished = Finished {
            statement: &statement,
            principal: who,
            database,
            answered: Answered::Neo4j,
            outcome: Outcome::Success,
            code: None,
            took,
            waited: Duration::ZERO,
            rows: 1,
            bytes: 100,
            first: Duration::ZERO,
            t_first: None,
            t_last: None,
            application: "",
            client: None,
            parameters: None,
        };
        change(&mut finished);
        self.sight.record(&finished, &self.config);
    }

    fn top(&self, who: &Principal) -> Vec<Arc<Row>> {
        self.sight.top(usize::MAX, &Viewer::of(who, &self.config))
    }
}

const MS: Duration = Duration::from_millis(1);

fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn equal_texts_are_one_row_with_exact_sums() {
    let world = world(100);
    for i in 1..=100u32 {
        world.ask(&world.ann, &format!("MATCH (n {{id: {i}}}) RETURN n"), MS * i, |finished| match i {
            1 => finished.answered = Answered::Cache,
            2 => finished.answered = Answered::Batch,
            3 => (finished.outcome, finished.code) = (Outcome::Failure, Some("Neo.X")),
            4 => (finished.outcome, finished.code) = (Outcome::Refused, Some("full")),
            5 => finished.outcome = Outcome::Interrupted,
            _ => finished.waited = MS,
        });
    }
    let rows = world.top(&world.ann);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let counts = &row.counts;
    assert_eq!(&*row.text, "MATCH (n {id: $?}) RETURN n");
    assert_eq!((load(&counts.calls), load(&counts.rows), load(&counts.bytes)), (100, 100, 10_000));
    assert_eq!((load(&counts.cached), load(&counts.batched)), (1, 1));
    assert_eq!((load(&counts.failures), load(&counts.refused), load(&counts.interrupted)), (1, 1, 1));
    assert_eq!((load(&counts.took), counts.shortest()), (5_050_000_000, 1_000_000));
    assert_eq!((load(&counts.longest), load(&counts.waited)), (100_000_000, 95_000_000));
    assert_eq!(row.last_failure().as_deref(), Some("full"));
    let [p50, p99] = row.times.quantiles([0.5, 0.99]).unwrap();
    assert!(p50.abs_diff(50_000_000) < 500_000 && p99.abs_diff(99_000_000) < 990_000, "{p50} {p99}");
}

#[test]
fn everybody_sees_their_own_and_observers_see_all() {
    let mut world = world(100);
    world.ask(&world.ann, "RETURN 1", MS, |_| ());
    world.ask(&world.bob, "RETURN 2", MS, |_| ());
    let other: Arc<str> = "other".into();
    world.ask_in(&world.bob, "RETURN 2", Some(&other), MS, |_| ());
    assert_eq!((world.top(&world.ann).len(), world.top(&world.bob).len()), (1, 2));
    Arc::make_mut(&mut world.config).sight.observers = Some("eve, ann".to_owned());
    assert_eq!((world.top(&world.ann).len(), world.top(&world.bob).len()), (3, 2));
    assert_eq!(world.sight.reset(&Viewer::of(&world.bob, &world.config)), 2);
    assert_eq!(world.top(&world.ann).len(), 1);
    assert_eq!(world.sight.queries.size(), (1, 0));
}

#[test]
fn a_million_texts_take_bounded_memory_and_leave_the_hot_ones() {
    const TEXTS: u32 = 1_000_000;
    let world = world(300);
    let hot = Arc::new(Statement::parse("MATCH (n:Hot {id: $id}) RETURN n"));
    let mut cold = Statement::parse("MATCH (n:Cold) RETURN n");
    let mut largest = 0;
    for i in 0..TEXTS {
        // Parsing is not what is tested.
        cold.fingerprint = u64::from(i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let statement = Arc::new(cold);
        let mut finished = Finished {
            statement: &statement,
            principal: &world.ann,
            database: None,
            answered: Answered::Neo4j,
            outcome: Outcome::Success,
            code: None,
            took: Duration::from_micros(u64::from(i)),
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
        world.sight.record(&finished, &world.config);
        if i % 100 == 0 {
            finished.statement = &hot;
            world.sight.record(&finished, &world.config);
        }
        if i % 100_000 == 0 {
            largest = largest.max(world.sight.queries.bytes());
        }
        cold = Arc::try_unwrap(statement).expect("nothing keeps a statement");
    }
    let (rows, gone) = world.sight.queries.size();
    let bytes = world.sight.queries.bytes().max(largest);
    println!("{rows} rows, {gone} gone, {bytes} bytes");
    assert!(rows <= 316 && bytes < 1 << 20, "{rows} rows, {bytes} bytes");
    let top = world.top(&world.ann);
    let kept = top.iter().find(|row| row.fingerprint == hot.fingerprint).expect("the hot one stays");
    assert_eq!(load(&kept.counts.calls), u64::from(TEXTS) / 100);
    let calls: u64 = top.iter().map(|row| load(&row.counts.calls)).sum();
    let others = load(&world.sight.queries.others().calls);
    assert_eq!(calls + others, u64::from(TEXTS) + u64::from(TEXTS) / 100, "no call is lost");
}

#[test]
fn many_threads_lose_nothing() {
    const EACH: u64 = 20_000;
    let world = world(10);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let statement = Arc::new(Statement::parse("RETURN $x"));
                let database = "neo4j".into();
                for i in 0..EACH {
                    let finished = Finished {
                        statement: &statement,
                        principal: &world.ann,
                        database: Some(&database),
                        answered: Answered::Neo4j,
                        outcome: Outcome::Success,
                        code: None,
                        took: Duration::from_micros(i),
                        waited: Duration::ZERO,
                        rows: 2,
                        bytes: 3,
                        first: Duration::ZERO,
                        t_first: None,
                        t_last: None,
                        application: "",
                        client: None,
                        parameters: None,
                    };
                    world.sight.record(&finished, &world.config);
                }
            });
        }
    });
    let top = world.top(&world.ann);
    assert_eq!(top.len(), 1);
    assert_eq!((load(&top[0].counts.calls), load(&top[0].counts.rows)), (8 * EACH, 16 * EACH));
    let mut counted = 0;
    top[0].times.each(|_, count| counted += u64::from(count));
    assert_eq!(counted, 8 * EACH);
}
