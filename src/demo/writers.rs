//! The same writes direct and through Sidebolt, by many light clients at once: what group commit changes.
//!
//! Both sides take turns, so that a server that warms up or a machine that is busy for a while favours neither.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bolt_wire::packstream::Value;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bolt_client::{BoltClient, Options};

/// What every client writes, each time with another id.
const WRITE: &str = "MERGE (n:DemoWrite {id: $id}) SET n += $props";
/// How long a write may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Clients at once.
    pub(super) clients: usize,
    /// How long one turn takes.
    pub(super) turn: Duration,
    /// Turns of each side that are measured.
    pub(super) turns: usize,
    /// How long each side writes before that, unmeasured.
    pub(super) warm_up: Duration,
}

impl Plan {
    /// What a person has the patience for.
    pub(super) fn usual(clients: usize) -> Self {
        Self { clients, turn: Duration::from_secs(2), turns: 2, warm_up: Duration::from_secs(1) }
    }

    /// Enough to see that it works.
    pub(super) fn brief(clients: usize) -> Self {
        Self { clients, turn: Duration::from_millis(500), turns: 1, warm_up: Duration::from_millis(200) }
    }
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Comparison {
    clients: usize,
    pub(super) direct: Side,
    pub(super) through: Side,
    /// Writes in batches, and their batches, as Sidebolt counts them.
    pub(super) rows: u64,
    pub(super) batches: u64,
}

/// One side of it.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Time of each write, sorted in the end.
    times: Vec<Duration>,
    /// How long was written.
    took: Duration,
    /// Writes that were acknowledged, measured or not.
    pub(super) acknowledged: u64,
}

/// Clients of one side, connected for as long as it takes.
struct Clients {
    idle: Vec<BoltClient>,
    /// Ids that were used up.
    next: i64,
}

/// Writes on both sides in turns, counts what is there in the end, and takes it away again.
pub(super) async fn compare(direct: &str, through: &str, plan: Plan) -> Result<Comparison> {
    let mut admin = connect(direct).await?;
    admin
        .query("CREATE CONSTRAINT demo_write IF NOT EXISTS FOR (n:DemoWrite) REQUIRE n.id IS UNIQUE")
        .await
        .context("the constraint behind the writes")?;
    let mut sides = [
        (Clients::connect(direct, plan.clients, 0).await?, Side::default()),
        (Clients::connect(through, plan.clients, 1 << 40).await?, Side::default()),
    ];
    let bar = progress(plan);
    for (clients, side) in &mut sides {
        let warmed = clients.write(plan.warm_up, &bar).await?;
        side.acknowledged += warmed.acknowledged;
    }
    for _ in 0..plan.turns {
        for (clients, side) in &mut sides {
            side.add(clients.write(plan.turn, &bar).await?);
        }
    }
    bar.finish_and_clear();
    let [(_, direct), (clients, through)] = sides;
    let (rows, batches) = clients.batches().await?;
    let written = direct.acknowledged + through.acknowledged;
    let counted = count(&mut admin).await?;
    ensure!(counted == written, "{written} writes were acknowledged, and {counted} nodes are there");
    clean_up(&mut admin).await?;
    admin.close().await;
    Ok(Comparison { clients: plan.clients, direct: direct.sorted(), through: through.sorted(), rows, batches })
}

fn progress(plan: Plan) -> ProgressBar {
    let turns = u32::try_from(plan.turns).unwrap_or(u32::MAX);
    let whole = (plan.warm_up + plan.turn * turns) * 2;
    let bar = ProgressBar::new(whole.as_millis() as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {percent}%") {
        bar.set_style(style);
    }
    bar.set_message(format!("{} clients write", plan.clients));
    bar
}

async fn connect(address: &str) -> Result<BoltClient> {
    let options = Options { timeout: PATIENCE, ..Options::default() };
    BoltClient::connect(address, options).await.with_context(|| format!("no Bolt at {address}"))
}

/// How many nodes the writes have made.
async fn count(admin: &mut BoltClient) -> Result<u64> {
    let answer = admin.query("MATCH (n:DemoWrite) RETURN count(n) AS n").await.context("counting")?;
    Ok(answer.value("n").and_then(Value::as_integer).and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

async fn clean_up(admin: &mut BoltClient) -> Result<()> {
    admin.query("MATCH (n:DemoWrite) DETACH DELETE n").await.context("cleaning up")?;
    admin.query("DROP CONSTRAINT demo_write IF EXISTS").await.context("cleaning up")?;
    Ok(())
}

impl Clients {
    async fn connect(address: &str, count: usize, first: i64) -> Result<Self> {
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            idle.push(connect(address).await?);
        }
        Ok(Self { idle, next: first })
    }

    /// All write as fast as they can, one write after the other, for that long.
    async fn write(&mut self, time: Duration, bar: &ProgressBar) -> Result<Side> {
        /// Ids that one client has for one turn.
        const IDS: i64 = 1 << 24;
        let (since, before) = (Instant::now(), bar.position());
        let mut writing = JoinSet::new();
        for client in self.idle.drain(..) {
            writing.spawn(write_until(client, self.next, since + time));
            self.next += IDS;
        }
        let mut side = Side::default();
        let mut every = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                done = writing.join_next() => {
                    let Some(done) = done else { break };
                    let (client, times) = done.context("a client broke")??;
                    side.acknowledged += times.len() as u64;
                    side.times.extend(times);
                    self.idle.push(client);
                }
                _ = every.tick() => bar.set_position(before + since.elapsed().min(time).as_millis() as u64),
            }
        }
        side.took = since.elapsed();
        bar.set_position(before + time.as_millis() as u64);
        Ok(side)
    }

    /// What Sidebolt says of the writes: how many went in batches, and in how many.
    async fn batches(mut self) -> Result<(u64, u64)> {
        let Some(client) = self.idle.first_mut() else { return Ok((0, 0)) };
        let answer = client.query("CALL sidebolt.coalesce() YIELD text, rows, batches").await?;
        let own = answer.records.iter().find(|row| row.first().and_then(Value::as_str) == Some(WRITE));
        let number = |at: usize| {
            let value = own.and_then(|row| row.get(at)).and_then(Value::as_integer);
            value.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
        };
        Ok((number(1), number(2)))
    }
}

/// One client's writes until then, each with its time.
async fn write_until(mut client: BoltClient, first: i64, end: Instant) -> Result<(BoltClient, Vec<Duration>)> {
    let mut times = Vec::new();
    let mut id = first;
    while Instant::now() < end {
        let props = Value::map([("name", format!("number {id}").into()), ("at", Value::Integer(id))]);
        let parameters = Value::map([("id", Value::Integer(id)), ("props", props)]);
        let since = Instant::now();
        let answer = client.run(WRITE, parameters, Value::Map(Vec::new())).await.context("writing")?;
        times.push(since.elapsed());
        ensure!(answer.counter("nodes-created") == 1, "a write of a new node gave {:?}", answer.summary);
        id += 1;
    }
    Ok((client, times))
}

impl Side {
    fn add(&mut self, turn: Self) {
        self.times.extend(turn.times);
        self.took += turn.took;
        self.acknowledged += turn.acknowledged;
    }

    fn sorted(mut self) -> Self {
        self.times.sort_unstable();
        self
    }

    /// Writes in a second.
    fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The time that this share of the writes stayed within.
    fn quantile(&self, share: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}

impl Comparison {
    /// The table, and what is to be read out of it and what is not.
    pub(super) fn report(&self, caution: &str) -> String {
        let mut text = format!(
            "{} clients, each one write after the other: {WRITE}\n\n  {:<18}{:>10}{:>12}{:>12}{:>18}\n",
            self.clients, "", "rows/s", "p50", "p99", "writes a commit"
        );
        let alone = self.through.acknowledged.saturating_sub(self.rows);
        let commits = (self.batches + alone).max(1);
        let mean = self.through.acknowledged as f64 / commits as f64;
        for (name, side, mean) in [("direct", &self.direct, 1.0), ("through Sidebolt", &self.through, mean)] {
            let (p50, p99) = (milliseconds(side.quantile(0.5)), milliseconds(side.quantile(0.99)));
            let _ = writeln!(text, "  {name:<18}{:>10.0}{p50:>12}{p99:>12}{mean:>18.1}", side.rate());
        }
        let speed_up = self.through.rate() / self.direct.rate().max(f64::MIN_POSITIVE);
        let _ = writeln!(text, "\n  {speed_up:.1} times the writes in the same time. {caution}");
        let _ = writeln!(text, "  Every acknowledged write was counted in the graph, and taken away again.");
        text
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(millis: &[u64], took: u64) -> Side {
        let mut side = Side::default();
        let times: Vec<_> = millis.iter().copied().map(Duration::from_millis).collect();
        let acknowledged = times.len() as u64;
        side.add(Side { times, took: Duration::from_secs(took), acknowledged });
        side.sorted()
    }

    #[test]
    fn the_table_says_what_was_measured() {
        let direct = side(&[40, 10, 20, 30], 2);
        assert_eq!(direct.quantile(0.5), Duration::from_millis(30));
        assert_eq!(direct.quantile(0.99), Duration::from_millis(40));
        let through = side(&(1..=40).collect::<Vec<_>>(), 2);
        let comparison = Comparison { clients: 8, direct, through, rows: 38, batches: 2 };
        let text = comparison.report("Mind the engine.");
        for words in ["8 clients", "10.0 times", "Mind the engine.", "30.0 ms"] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        // 40 writes in 2 batches and 2 on their own.
        assert!(text.lines().any(|line| line.contains("through Sidebolt") && line.ends_with("10.0")), "{text}");
        assert_eq!(side(&[], 0).quantile(0.5), Duration::ZERO);
    }
}
