//! One round: what it consists of, and how it is played on both sides and compared.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use bolt_wire::Version;
use fastrand::Rng;

use crate::contest::Match;
use crate::plan::{Unit, told};
use crate::play::{LATE, Script, Seen, play};
use crate::sides::Sides;
use crate::tally::Tally;
use crate::texts::Statement;
use crate::values::{Mood, Space};
use crate::wire::Endpoint;

/// The texts that come again and again in one run.
pub(crate) struct Pool {
    any: Vec<Statement>,
    shaped: Vec<Statement>,
    plain: Vec<Statement>,
}

impl Pool {
    /// That of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let any = (0..150).map(|_| Statement::random(&mut random)).collect();
        let shaped = (0..100).map(|_| Statement::shaped(false, &mut random)).collect();
        Self { any, shaped, plain: (0..100).map(|_| Statement::shaped(true, &mut random)).collect() }
    }
}

/// One round.
pub(crate) enum Round {
    /// Each client has keys of its own, and sees the same whatever the others do.
    Apart(Vec<Script>),
    /// All clients want the same keys.
    Together(Match),
}

impl Round {
    /// The round of a seed with this number.
    pub(crate) fn random(seed: u64, number: u64, pool: &Pool, versions: &[Version]) -> Self {
        let mut random = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(number));
        if Self::is_together(number) {
            return Self::Together(Match::random(&mut random, versions));
        }
        let mood = [Mood::Wild, Mood::Strict, Mood::Calm, Mood::Calm][(number % 5) as usize];
        // Few texts at a time, so that many clients send the same ones.
        let (sizes, few): (&[u16], usize) = match mood {
            Mood::Wild => (&[1, 2, 4, 8, 16, 32, 48, 64], random.usize(2..12)),
            Mood::Calm => (&[8, 16, 32, 48, 64], random.usize(1..5)),
            Mood::Strict => (&[32, 48, 64], random.usize(1..3)),
        };
        let clients = *random.choice(sizes).unwrap_or(&8);
        let texts = match mood {
            Mood::Wild => &pool.any,
            Mood::Calm => &pool.shaped,
            Mood::Strict => &pool.plain,
        };
        let mut hot: Vec<Statement> = (0..few).filter_map(|_| random.choice(texts).cloned()).collect();
        match mood {
            Mood::Wild => hot.push(Statement::random(&mut random)),
            Mood::Calm => hot.push(Statement::shaped(false, &mut random)),
            Mood::Strict => {}
        }
        // Versions do not share a batch.
        let one = match mood {
            Mood::Wild => None,
            Mood::Calm => (random.u8(0..3) > 0).then(|| random.usize(0..versions.len())),
            Mood::Strict => Some((number as usize / 5) % versions.len()),
        };
        let units = (1000 / usize::from(clients)).clamp(20, 120);
        let seeded = random.u8(0..3) > 0;
        let script = |client| {
            let version = versions[one.unwrap_or_else(|| random.usize(0..versions.len()))];
            let space = Space { client, version, mood };
            let mut all = if seeded { vec![Unit::seed(space, &mut random)] } else { Vec::new() };
            all.extend((0..units).map(|_| Unit::random(&hot, space, &mut random)));
            Script { version, units: all }
        };
        Self::Apart((0..clients).map(script).collect())
    }

    /// True if the round of this number is a contest.
    pub(crate) fn is_together(number: u64) -> bool {
        matches!(number % 5, 2 | 4)
    }

    /// Plays it on both sides; gives what differs.
    pub(crate) async fn play(&self, sides: &mut Sides, tally: &mut Tally) -> Result<Vec<String>> {
        match self {
            Self::Apart(scripts) => compare(sides, scripts, tally).await,
            Self::Together(contest) => contend(sides, contest, tally).await,
        }
    }
}

/// Plays a round in which all want the same; what a direct connection allows is no news.
async fn contend(sides: &mut Sides, contest: &Match, tally: &mut Tally) -> Result<Vec<String>> {
    tally.count_contest(contest);
    let mut found = Vec::new();
    for (side, endpoint) in [&sides.direct, &sides.through].into_iter().enumerate() {
        let started = Instant::now();
        let problems = contest.play(endpoint, &mut sides.graphs[side]).await?;
        tally.times[side] += started.elapsed();
        sides.graphs[side].empty().await?;
        if !problems.is_empty() {
            let name = ["direct", "through Sidebolt"][side];
            tally.differ(format!("{:?} {name}", contest.contest));
            found.push(format!("{}\n  {name}:\n    {}", contest.told(), problems.join("\n    ")));
        }
    }
    Ok(found)
}

/// Plays a round of clients that do not touch each other on both sides; gives what differs.
async fn compare(sides: &mut Sides, scripts: &[Script], tally: &mut Tally) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    let mut left = Vec::new();
    for (side, endpoint) in [&sides.direct, &sides.through].into_iter().enumerate() {
        let started = Instant::now();
        seen.push(play_all(endpoint, scripts).await?);
        tally.times[side] += started.elapsed();
        let graph = &mut sides.graphs[side];
        left.push(graph.everything().await?);
        graph.empty().await?;
    }
    tally.count_scripts(scripts, &seen);
    let mut found = Vec::new();
    for (client, script) in scripts.iter().enumerate() {
        let (direct, through) = (&seen[0][client].units, &seen[1][client].units);
        if tally.tell {
            for (unit, (direct, through)) in script.units.iter().zip(direct.iter().zip(through)) {
                println!("client {client}: {}", difference(unit, direct, through));
            }
        }
        let differs = |unit: &usize| !alike(&direct[*unit], &through[*unit], &mut tally.documented);
        let Some(first) = (0..script.units.len()).find(differs) else { continue };
        tally.differ(kind(&direct[first], &through[first]));
        let what = difference(&script.units[first], &direct[first], &through[first]);
        let (of, version) = (scripts.len(), script.version);
        let alone = if found.len() < 3 { smallest(sides, script, first).await? } else { Some(String::new()) };
        let alone = alone.unwrap_or_else(|| "  It does not come back with this client alone.\n".to_owned());
        found.push(format!("client {client} of {of}, Bolt {version}, unit {first}: {what}{alone}"));
    }
    if left[0] != left[1] {
        tally.differ("graph".to_owned());
        found.push(format!(
            "the graph after a round of {} clients{}",
            scripts.len(),
            lacking(&left[0], &left[1])
        ));
    }
    Ok(found)
}

/// Equal, or different in the one documented way: what is malformed is refused after a failure by one side only.
fn alike(direct: &[String], through: &[String], documented: &mut usize) -> bool {
    let same = |(direct, through): (&String, &String)| {
        let undecodable = |line: &str| {
            line.starts_with("FAILURE")
                && (line.contains(".Request.Invalid") || line.contains("Invalid value for Epoch"))
        };
        let late = direct.starts_with(LATE) && through.ends_with("IGNORED")
            // Deferred writes are sent together with what follows them.
            || direct.starts_with("FAILURE") && undecodable(through);
        *documented += usize::from(late);
        late || direct == through
    };
    direct.len() == through.len() && direct.iter().zip(through).all(same)
}

/// The difference by one client alone, with as few of its units as will do.
async fn smallest(sides: &mut Sides, script: &Script, last: usize) -> Result<Option<String>> {
    let mut units = script.units[..=last].to_vec();
    if !differs_alone(sides, script.version, &units).await? {
        return Ok(None);
    }
    let mut piece = units.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < units.len() && units.len() > 1 {
            let mut fewer = units.clone();
            fewer.drain(at..(at + piece).min(units.len()));
            if !fewer.is_empty() && differs_alone(sides, script.version, &fewer).await? {
                units = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    let told: Vec<String> = units.iter().map(told).collect();
    let text =
        format!("  It comes back with this client alone and {} units:\n{}", units.len(), told.join("  --\n"));
    Ok(Some(text))
}

/// True if these units show or leave something else on either side when nobody else is there.
async fn differs_alone(sides: &mut Sides, version: Version, units: &[Unit]) -> Result<bool> {
    let script = Script { version, units: units.to_vec() };
    let (mut seen, mut left) = (Vec::new(), Vec::new());
    for side in [0, 1] {
        let endpoint = if side == 0 { &sides.direct } else { &sides.through };
        seen.push(play(endpoint.clone(), script.clone()).await.units);
        left.push(sides.graphs[side].everything().await?);
        sides.graphs[side].empty().await?;
    }
    let same = seen[0].iter().zip(&seen[1]).all(|(direct, through)| alike(direct, through, &mut 0));
    Ok(!same || left[0] != left[1])
}

async fn play_all(endpoint: &Endpoint, scripts: &[Script]) -> Result<Vec<Seen>> {
    let tasks: Vec<_> =
        scripts.iter().map(|script| tokio::spawn(play(endpoint.clone(), script.clone()))).collect();
    let mut all = Vec::with_capacity(tasks.len());
    for task in tasks {
        all.push(task.await?);
    }
    Ok(all)
}

/// In a few words, what kind of difference this is.
fn kind(direct: &[String], through: &[String]) -> String {
    let head = |line: Option<&String>| match line {
        Some(line) => {
            let words = ["RUN", "PULL", "DISCARD", "BEGIN", "COMMIT", "ROLLBACK", "RESET"];
            let tag = line.split(' ').find(|word| words.contains(word)).unwrap_or_default();
            let end = ["SUCCESS {", "FAILURE {", "IGNORED"].into_iter().find(|end| line.contains(end));
            format!("{tag} {}", end.unwrap_or_default().trim_end_matches(" {"))
        }
        None => "nothing".to_owned(),
    };
    let place = (0..).find(|&n| direct.get(n) != through.get(n)).unwrap_or_default();
    format!("{} / {}", head(direct.get(place)), head(through.get(place)))
}

fn difference(unit: &Unit, direct: &[String], through: &[String]) -> String {
    let mut text = format!("{}\n{}", unit.way, told(unit));
    for (name, lines) in [("direct", direct), ("through Sidebolt", through)] {
        text.push_str(&format!("  {name}:\n"));
        for line in lines {
            text.push_str(&format!("    {}\n", cut(line, 1500)));
        }
    }
    text
}

fn lacking(direct: &[String], through: &[String]) -> String {
    let mut text = String::new();
    let mut count = BTreeMap::<&str, i64>::new();
    direct.iter().for_each(|line| *count.entry(line).or_default() += 1);
    through.iter().for_each(|line| *count.entry(line).or_default() -= 1);
    for (name, sign) in [("only direct", 1), ("only through Sidebolt", -1)] {
        for (line, n) in count.iter().filter(|(_, n)| n.signum() == sign).take(5) {
            text.push_str(&format!("\n  {name}, {} times: {}", n.abs(), cut(line, 600)));
        }
    }
    text
}

/// The beginning of a long text.
fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}
