//! What a client sends: units of work in every way that drivers have, and some that only a raw client has.

use bolt_wire::packstream::Value;
use bolt_wire::version::NotificationFilter;
use fastrand::Rng;

use crate::texts::{SEED, Statement};
use crate::values::{Mood, Space};

/// One request.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// RUN: text, parameters, extra.
    Run(String, Value, Extra),
    /// PULL so many; -1 = all.
    Pull(i64),
    /// DISCARD so many; -1 = all.
    Discard(i64),
    /// BEGIN.
    Begin(Extra),
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// RESET.
    Reset,
    /// TELEMETRY: sent only where the version has it and the server asked for it.
    Telemetry(i64),
}

/// The map at the end of RUN and BEGIN.
#[derive(Clone, Debug)]
pub(crate) struct Extra {
    /// What it holds, but for bookmarks.
    pub(crate) entries: Vec<(String, Value)>,
    /// Whether the client's newest bookmark goes with it.
    pub(crate) bookmarked: bool,
}

/// One step of a unit.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Requests in one flush, and then a wait for all answers.
    Burst(Vec<Ask>),
    /// PULL so many at a time for as long as there is more.
    Rest(i64),
    /// The client thinks for so many milliseconds.
    Think(u64),
    /// The client is gone without a word, and connects again.
    Vanish,
}

/// One transaction, one auto-commit statement, or a misuse.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// The name of the way it is sent in.
    pub(crate) way: &'static str,
    /// What is done.
    pub(crate) steps: Vec<Step>,
    /// As drivers do: nothing but a RESET after a failure.
    pub(crate) stops: bool,
    /// Its writes may be answered before they are done: only the end of it, and what it reads, can be compared.
    pub(crate) deferred: bool,
    /// Drivers try it again after a transient error.
    pub(crate) retried: bool,
    /// How many statements it holds.
    pub(crate) statements: usize,
}

impl Unit {
    /// One statement, or several, in a random way.
    pub(crate) fn random(statements: &[Statement], space: Space, random: &mut Rng) -> Self {
        let one = |random: &mut Rng| {
            let statement = &statements[random.usize(0..statements.len())];
            let (text, parameters) = statement.fill(space, random);
            (text, parameters, statement.reads)
        };
        let run = |random: &mut Rng, extra: Extra| {
            let (text, parameters, _) = one(random);
            Ask::Run(text, parameters, extra)
        };
        if random.u8(0..30) == 0 {
            return Self::deferred(statements, space, random);
        }
        let plain = match space.mood {
            Mood::Wild => false,
            Mood::Calm => random.u8(0..3) > 0,
            Mood::Strict => random.u8(0..12) > 0,
        };
        let way = if plain { 0 } else { random.u8(0..100) };
        match way {
            0..=49 => {
                let (text, parameters, reads) = one(random);
                Self::auto(Ask::Run(text, parameters, extra(reads, space, random)), space, random)
            }
            50..=62 => {
                let begin = Ask::Begin(extra(false, space, random));
                let steps = vec![
                    Step::Burst(vec![Ask::Telemetry(0), begin]),
                    Step::Burst(vec![run(random, Extra::none()), Ask::Pull(1000)]),
                    Step::Rest(1000),
                    Step::Think(if random.u8(0..20) == 0 { random.u64(1..60) } else { 0 }),
                    Step::Burst(vec![Ask::Commit]),
                ];
                Self {
                    way: "execute_write",
                    steps,
                    stops: true,
                    retried: true,
                    deferred: false,
                    statements: 1,
                }
            }
            63..=75 => {
                let begin = Ask::Begin(extra(false, space, random));
                let all = vec![Ask::Telemetry(3), begin, run(random, Extra::none()), Ask::Pull(1000)];
                let steps = vec![Step::Burst(all), Step::Rest(1000), Step::Burst(vec![Ask::Commit])];
                Self {
                    way: "execute_query",
                    steps,
                    stops: true,
                    retried: true,
                    deferred: false,
                    statements: 1,
                }
            }
            76..=87 => Self::explicit(run, space, random),
            88..=92 => Self::pipelined(run, random),
            _ => Self::given_up(run, random),
        }
    }

    /// Some nodes to begin with.
    pub(crate) fn seed(space: Space, random: &mut Rng) -> Self {
        let keys = Value::map([("keys", Value::List(space.some_keys(random)))]);
        let burst = vec![Ask::Run(SEED.to_owned(), keys, Extra::none()), Ask::Pull(-1)];
        let steps = vec![Step::Burst(burst)];
        Self { way: "seed", steps, stops: true, retried: false, deferred: false, statements: 1 }
    }

    /// `session.run`: RUN and what follows it.
    fn auto(run: Ask, space: Space, random: &mut Rng) -> Self {
        let (way, steps) = match random.u8(0..if space.calm() { 12 } else { 20 }) {
            0..=9 => {
                let burst = Step::Burst(vec![Ask::Telemetry(2), run, Ask::Pull(1000)]);
                ("session.run", vec![burst, Step::Rest(1000)])
            }
            10..=13 => ("auto n=-1", vec![Step::Burst(vec![run, Ask::Pull(-1)])]),
            14 | 15 => ("auto n=1", vec![Step::Burst(vec![run, Ask::Pull(1)]), Step::Rest(1)]),
            16 | 17 => ("auto discard", vec![Step::Burst(vec![run, Ask::Discard(-1)])]),
            18 => ("auto in two", vec![Step::Burst(vec![run]), Step::Burst(vec![Ask::Pull(-1)])]),
            _ => {
                let first = Step::Burst(vec![run, Ask::Pull(1)]);
                ("auto pull, discard", vec![first, Step::Burst(vec![Ask::Discard(-1)])])
            }
        };
        Self { way, steps, stops: true, retried: false, deferred: false, statements: 1 }
    }

    /// BEGIN, some statements, an end; as drivers do it or with no regard for failures.
    fn explicit(run: impl Fn(&mut Rng, Extra) -> Ask, space: Space, random: &mut Rng) -> Self {
        let count = random.usize(0..4);
        let mut steps = vec![Step::Burst(vec![Ask::Telemetry(1), Ask::Begin(extra(false, space, random))])];
        for _ in 0..count {
            let last = if random.bool() { Ask::Pull(1000) } else { Ask::Discard(-1) };
            steps.push(Step::Burst(vec![run(random, Extra::none()), last]));
        }
        let (way, end) = match random.u8(0..12) {
            0..=6 => ("explicit", Step::Burst(vec![Ask::Commit])),
            7 | 8 => ("explicit, rollback", Step::Burst(vec![Ask::Rollback])),
            9 => ("explicit, reset", Step::Burst(vec![Ask::Reset])),
            10 => ("explicit, vanish", Step::Vanish),
            _ => ("explicit, twice", Step::Burst(vec![Ask::Commit, Ask::Commit])),
        };
        steps.push(end);
        Self { way, steps, stops: random.u8(0..4) > 0, retried: false, deferred: false, statements: count }
    }

    /// A loop of writes in one transaction, which Sidebolt may gather.
    fn deferred(statements: &[Statement], space: Space, random: &mut Rng) -> Self {
        let wanted = Value::map([("sidebolt", Value::map([("coalesce", "deferred".into())]))]);
        let begin = Extra { entries: vec![("tx_metadata".to_owned(), wanted)], bookmarked: false };
        let mut steps = vec![Step::Burst(vec![Ask::Telemetry(1), Ask::Begin(begin)])];
        let count = random.usize(1..24);
        let mut statement = &statements[0];
        for number in 0..count {
            // Mostly the same text again: only those are gathered.
            if number == 0 || random.u8(0..6) == 0 {
                statement = &statements[random.usize(0..statements.len())];
            }
            let (text, parameters) = statement.fill(space, random);
            steps.push(Step::Burst(vec![Ask::Run(text, parameters, Extra::none()), Ask::Pull(1000)]));
        }
        steps.push(Step::Burst(vec![if random.u8(0..10) > 0 { Ask::Commit } else { Ask::Rollback }]));
        let statements = count;
        Self { way: "deferred", steps, stops: true, retried: false, deferred: true, statements }
    }

    /// Several in one flush.
    fn pipelined(run: impl Fn(&mut Rng, Extra) -> Ask, random: &mut Rng) -> Self {
        let count = random.usize(1..5);
        let mut burst = Vec::new();
        for _ in 0..count {
            burst.extend([run(random, Extra::none()), Ask::Pull(-1)]);
        }
        if random.bool() {
            return Self {
                way: "pipelined autos",
                steps: vec![Step::Burst(burst)],
                stops: true,
                retried: false,
                deferred: false,
                statements: count,
            };
        }
        burst.insert(0, Ask::Begin(Extra::none()));
        burst.push(if random.u8(0..4) > 0 { Ask::Commit } else { Ask::Rollback });
        Self {
            way: "pipelined tx",
            steps: vec![Step::Burst(burst)],
            stops: true,
            retried: false,
            deferred: false,
            statements: count,
        }
    }

    /// What ends before its time: nothing of it may stay.
    fn given_up(run: impl Fn(&mut Rng, Extra) -> Ask, random: &mut Rng) -> Self {
        let first = run(random, Extra::none());
        let (way, steps) = match random.u8(0..5) {
            0 => ("RUN, reset", vec![Step::Burst(vec![first]), Step::Burst(vec![Ask::Reset])]),
            1 => {
                // What was answered in full is committed, what was not is undone.
                let begin = vec![Ask::Begin(Extra::none()), first, Ask::Pull(1000)];
                ("managed, rollback", vec![Step::Burst(begin), Step::Burst(vec![Ask::Rollback])])
            }
            2 => ("BEGIN|RUN|PULL, vanish", {
                let begin = vec![Ask::Begin(Extra::none()), first, Ask::Pull(1000)];
                vec![Step::Burst(begin), Step::Vanish]
            }),
            3 => {
                let begin = vec![Ask::Begin(Extra::none()), first, Ask::Pull(1000)];
                let second = vec![run(random, Extra::none()), Ask::Pull(1000)];
                let steps = vec![Step::Burst(begin), Step::Burst(second), Step::Burst(vec![Ask::Commit])];
                return Self {
                    way: "managed, a second statement",
                    steps,
                    stops: true,
                    retried: false,
                    deferred: false,
                    statements: 2,
                };
            }
            _ => {
                let begin = vec![Ask::Begin(Extra::none()), first, Ask::Pull(1000)];
                ("managed, reset", vec![Step::Burst(begin), Step::Burst(vec![Ask::Reset])])
            }
        };
        Self { way, steps, stops: true, retried: false, deferred: false, statements: 1 }
    }
}

impl Extra {
    /// An empty map.
    pub(crate) fn none() -> Self {
        Self { entries: Vec::new(), bookmarked: false }
    }
}

/// Options: none mostly, sometimes some that a session or a transaction may have, seldom wrong ones.
fn extra(reads: bool, space: Space, random: &mut Rng) -> Extra {
    let mut extra = Extra::none();
    if space.calm() && !space.oddly(3, random) {
        return extra;
    }
    let mut put = |name: &str, value: Value| extra.entries.push((name.to_owned(), value));
    match random.u8(0..100) {
        0..=2 => put("tx_metadata", Value::map([("app", "twin".into()), ("n", Value::Integer(1))])),
        3 => put("tx_metadata", Value::map([("sidebolt", Value::map([("coalesce", "off".into())]))])),
        4..=6 => put("tx_timeout", Value::Integer(60_000)),
        7..=9 => put("db", "neo4j".into()),
        10 => put("db", "nosuch".into()),
        11 => put("tx_timeout", "soon".into()),
        12 => put("mode", "r".into()),
        13 => put("mode", "w".into()),
        14 => put("imp_user", "somebody".into()),
        15 => put("tx_timeout", Value::Integer(0)),
        16 => put("bookmarks", Value::List(vec!["nonsense".into()])),
        17 => put("tx_metadata", Value::Map(Vec::new())),
        18..=20 => {
            let name = match space.version.features().notification_filter {
                NotificationFilter::None => "unknown_key",
                NotificationFilter::Categories => "notifications_disabled_categories",
                NotificationFilter::Classifications => "notifications_disabled_classifications",
            };
            put(name, Value::List(vec!["UNRECOGNIZED".into(), "PERFORMANCE".into()]));
        }
        21 | 22 => put("notifications_minimum_severity", "OFF".into()),
        _ => {}
    }
    if reads && random.bool() {
        put("mode", "r".into());
    }
    extra.bookmarked = random.u8(0..4) == 0;
    extra
}

/// A unit for somebody who reads it, long values cut.
pub(crate) fn told(unit: &Unit) -> String {
    let mut text = String::new();
    for step in &unit.steps {
        match step {
            Step::Burst(asks) => {
                for ask in asks {
                    let line = format!("{ask:?}");
                    text.push_str(&format!("  {}\n", &line[..line.floor_char_boundary(1500)]));
                }
                text.push_str("  -- wait\n");
            }
            other => text.push_str(&format!("  {other:?}\n")),
        }
    }
    text
}
