//! Graphs and embeddings over Bolt: reading, single nodes, batches, writing, and many callers at once.

mod first;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bolt_wire::packstream::Value;
use sidebolt::bolt_client::{Auth, BoltClient, Options};
use tokio::runtime::Runtime;

use super::{Findings, Settings};
use crate::arena::{Arena, Way};
use crate::report::{Table, Verdict, median, number};

/// Nodes, and relationships of each.
const NODES: i64 = 100_000;
const DEGREE: i64 = 5;
/// Numbers of a node that the projection's target is about, and that the model reads.
const FEATURES: i64 = 16;
const INPUTS: i64 = 64;
/// Callers at once.
const CROWD: usize = 1000;
/// How often a call is measured.
const CALLS: usize = 200;
/// Nodes that are written one by one.
const SINGLES: usize = 300;
const LABEL: &str = "BenchGnn";

/// The configuration, but for more keys of `gnn`.
fn on(settings: &Settings) -> Result<String> {
    let models = settings.programs.work.join("models");
    std::fs::create_dir_all(&models)?;
    Ok(format!(
        "# set: listen.max_connections=5000\ngnn:\n  enabled: true\n  max_bytes: 4GiB\n  models: \"{}\"\n",
        models.display()
    ))
}

/// One client, and the ids of the nodes.
struct World<'a> {
    runtime: &'a Runtime,
    client: BoltClient,
    direct: BoltClient,
    ids: Vec<i64>,
}

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let on = on(settings)?;
    let arena = Arena::of_sidebolts(settings.neo4j, &[(Way::Sidebolt, &on)], 100, &settings.programs)?;
    let target = arena.target(Way::Sidebolt).context("Sidebolt takes part")?;
    let runtime = Runtime::new()?;
    let client = |address: SocketAddr| {
        let login = &settings.login;
        let options = Options {
            auth: Auth::basic(login.user.clone(), login.password.clone()),
            timeout: Duration::from_secs(600),
            max_answer: 1 << 30,
            ..Options::default()
        };
        async move { anyhow::Ok(BoltClient::connect(&address.to_string(), options).await?) }
    };
    let direct = runtime.block_on(client(settings.neo4j.address))?;
    let mut world = World {
        runtime: &runtime,
        client: runtime.block_on(client(target.address))?,
        direct,
        ids: Vec::new(),
    };
    world.prepare()?;
    let mut findings = Findings::default();
    let mut table = Table::new("CALL gnn.… over Bolt", &["what", "median", "p99"]);
    world.project(settings, &mut table, &mut findings)?;
    world.embed(&mut table, &mut findings)?;
    world.live(&mut table, &mut findings)?;
    world.write(&mut table, &mut findings)?;
    let made = std::time::Instant::now();
    let (ids, mut crowd) = (world.ids.clone(), Vec::new());
    for _ in 0..CROWD {
        crowd.push(runtime.block_on(client(target.address))?);
    }
    let connected = made.elapsed();
    let (times, errors) = crowd_asks(&runtime, crowd, &ids);
    let worst = times.iter().copied().max().unwrap_or_default();
    put(
        &mut table,
        &format!("{CROWD} callers at once, one 16-node request each (connected in {connected:.1?})"),
        &times,
    );
    findings.verdicts.push(Verdict::at_most(
        &format!("{CROWD} callers at once: errors"),
        0.0,
        Some(errors as f64),
        "",
    ));
    first::compare(settings, &on, &ids, client, &mut table, &mut findings)?;
    findings.notes.push(format!("the last of {CROWD} callers at once was answered after {worst:.2?}"));
    findings.tables.push(table);
    world.clean()?;
    Ok(findings)
}

/// One request of each client, all at once: how long each took, and how many failed.
fn crowd_asks(runtime: &Runtime, crowd: Vec<BoltClient>, ids: &[i64]) -> (Vec<Duration>, usize) {
    runtime.block_on(async {
        let mut asked = tokio::task::JoinSet::new();
        for (at, mut client) in crowd.into_iter().enumerate() {
            let nodes = some(ids, at * 16, 16);
            asked.spawn(async move {
                let since = Instant::now();
                let answer = client.run(SAMPLED, parameters(nodes, 1), Value::Map(Vec::new())).await;
                (since.elapsed(), answer.is_err())
            });
        }
        let (mut times, mut errors) = (Vec::new(), 0);
        while let Some(Ok((time, failed))) = asked.join_next().await {
            times.push(time);
            errors += usize::from(failed);
        }
        (times, errors)
    })
}

const SAMPLED: &str = "CALL gnn.embed.stream('bench', {modelName: 'bench', nodes: $nodes, sampleSizes: [25, 10, 5], randomSeed: $seed})";

fn parameters(nodes: Vec<Value>, seed: usize) -> Value {
    Value::map([("nodes", Value::List(nodes)), ("seed", Value::Integer(seed as i64))])
}

fn some(ids: &[i64], first: usize, count: usize) -> Vec<Value> {
    (0..count).map(|at| Value::Integer(ids[(first * 7919 + at * 104_729) % ids.len()])).collect()
}

impl World<'_> {
    fn ask(&mut self, text: &str, parameters: Value) -> Result<Vec<Vec<Value>>> {
        let asked = self.client.run(text, parameters, Value::Map(Vec::new()));
        Ok(self.runtime.block_on(asked).with_context(|| text.to_owned())?.records)
    }

    fn directly(&mut self, text: &str, parameters: Value) -> Result<Vec<Vec<Value>>> {
        let asked = self.direct.run(text, parameters, Value::Map(Vec::new()));
        Ok(self.runtime.block_on(asked).with_context(|| text.to_owned())?.records)
    }

    fn prepare(&mut self) -> Result<()> {
        self.clean()?;
        let none = || Value::Map(Vec::new());
        self.directly(&format!("CREATE INDEX bench_gnn IF NOT EXISTS FOR (n:{LABEL}) ON (n.at)"), none())?;
        self.directly("CALL db.awaitIndexes(120)", none())?;
        for first in (0..NODES).step_by(20_000) {
            let text = format!(
                "UNWIND range({first}, {first} + 19999) AS i CREATE (:{LABEL} {{at: i, \
                 features: [f IN range(1, {FEATURES}) | sin(i * f)], inputs: [f IN range(1, {INPUTS}) | toFloat((i * f) % 17) / 17]}})"
            );
            self.directly(&text, none())?;
        }
        for first in (0..NODES).step_by(10_000) {
            let text = format!(
                "UNWIND range({first}, {first} + 9999) AS i MATCH (a:{LABEL} {{at: i}}) UNWIND range(1, {DEGREE}) AS step \
                 MATCH (b:{LABEL} {{at: (i * 31 + step * 7919) % {NODES}}}) CREATE (a)-[:{LABEL}]->(b)"
            );
            self.directly(&text, none())?;
        }
        let ids = self.directly(&format!("MATCH (n:{LABEL}) RETURN collect(id(n))"), none())?;
        let list = ids.first().and_then(|row| row.first()).and_then(Value::as_list).context("ids")?;
        self.ids = list.iter().filter_map(Value::as_integer).collect();
        Ok(())
    }

    fn clean(&mut self) -> Result<()> {
        for batch in [
            format!("MATCH (:{LABEL})-[r]->() WITH r LIMIT 50000 DELETE r RETURN count(*)"),
            format!("MATCH (n:{LABEL}) WITH n LIMIT 20000 DETACH DELETE n RETURN count(*)"),
        ] {
            while self
                .directly(&batch, Value::Map(Vec::new()))?
                .first()
                .and_then(|row| row[0].as_integer())
                .unwrap_or(0)
                > 0
            {}
        }
        let names = self.directly(
            &format!("SHOW INDEXES YIELD name, labelsOrTypes WHERE labelsOrTypes = ['{LABEL}'] RETURN name"),
            Value::Map(Vec::new()),
        )?;
        for name in names.iter().filter_map(|row| row[0].as_str()) {
            self.directly(&format!("DROP INDEX `{name}`"), Value::Map(Vec::new()))?;
        }
        Ok(())
    }

    /// Reading a graph, beside an export with a row for each node and relationship.
    fn project(&mut self, settings: &Settings, table: &mut Table, findings: &mut Findings) -> Result<()> {
        let (mut projected, mut rows) = (Vec::new(), Vec::new());
        for _ in 0..settings.rounds.max(3) {
            let since = Instant::now();
            self.ask(&format!("CALL gnn.graph.project('sixteen', '{LABEL}', '{LABEL}', {{featureProperties: ['features']}})"), Value::Map(Vec::new()))?;
            projected.push(since.elapsed());
            self.ask("CALL gnn.graph.drop('sixteen')", Value::Map(Vec::new()))?;
            let since = Instant::now();
            self.directly(&format!("MATCH (n:{LABEL}) RETURN id(n), n.features"), Value::Map(Vec::new()))?;
            self.directly(
                &format!("MATCH (a:{LABEL})-[:{LABEL}]->(b) RETURN id(a), id(b)"),
                Value::Map(Vec::new()),
            )?;
            rows.push(since.elapsed());
        }
        let seconds = |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64));
        put(table, "projection of 100,000 nodes, 500,000 relationships, 16 features", &projected);
        put(table, "the same, a row for each, read by this program", &rows);
        findings.verdicts.push(Verdict::at_most("projection of 100k/500k/16", 2.5, seconds(&projected), "s"));
        let ratio = seconds(&rows).zip(seconds(&projected)).map(|(rows, projected)| rows / projected);
        findings.verdicts.push(Verdict::at_least("the same, times as fast as row by row", 5.0, ratio, "×"));
        self.ask(&format!("CALL gnn.graph.project('bench', '{LABEL}', '{LABEL}', {{orientation: 'UNDIRECTED', featureProperties: ['inputs']}})"), Value::Map(Vec::new()))?;
        let train = "CALL gnn.graphSage.train('bench', {modelName: 'bench', embeddingDimension: 128, hiddenDimension: 64, numLayers: 3, \
                     sampleSizes: [5, 5, 5], epochs: 1, maxIterations: 2})";
        self.ask(train, Value::Map(Vec::new()))?;
        Ok(())
    }

    /// Calls for so many nodes, other ones each time.
    fn timed(&mut self, text: &str, calls: std::ops::Range<usize>, count: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for call in calls {
            let asked = parameters(some(&self.ids, call * 1000 + count, count), call);
            let since = Instant::now();
            let rows = self.ask(text, asked)?;
            anyhow::ensure!(rows.len() == count, "{} rows", rows.len());
            times.push(since.elapsed());
        }
        Ok(times)
    }

    /// Some nodes at a time.
    fn embed(&mut self, table: &mut Table, findings: &mut Findings) -> Result<()> {
        for (count, limit) in [(64, 15.0), (256, 100.0), (1, 5.0)] {
            let times = self.timed(SAMPLED, 0..CALLS, count)?;
            put(table, &format!("{count} nodes, 25/10/5, none of them kept"), &times);
            let p50 = median(times.iter().map(|time| time.as_secs_f64() * 1e3));
            findings.verdicts.push(Verdict::at_most(&format!("{count} nodes: p50"), limit, p50, "ms"));
            if count == 64 {
                findings.verdicts.push(Verdict::at_most(
                    "64 nodes: p99",
                    100.0,
                    quantile(&times, 0.99),
                    "ms",
                ));
            }
        }
        let mut times = Vec::new();
        for _ in 0..CALLS {
            let since = Instant::now();
            self.ask(SAMPLED, parameters(some(&self.ids, 5, 1), 1))?;
            times.push(since.elapsed());
        }
        put(table, "1 node, kept", &times);
        let p50 = median(times.iter().map(|time| time.as_secs_f64() * 1e3));
        findings.verdicts.push(Verdict::at_most("1 node, kept: p50", 1.0, p50, "ms"));
        Ok(())
    }

    /// Some nodes without a graph: once all of their neighbourhood has to be read, as somebody else has written, and once it may be kept.
    fn live(&mut self, table: &mut Table, findings: &mut Findings) -> Result<()> {
        let text = format!(
            "CALL gnn.embed.stream($nodes, {{modelName: 'bench', sampleSizes: [25, 10, 5], orientation: 'UNDIRECTED', relationshipTypes: '{LABEL}', \
             featureProperties: ['inputs']}})"
        );
        let touch = format!("MATCH (n:{LABEL} {{at: 0}}) SET n.inputs = n.inputs");
        for count in [1, 64] {
            // Neo4j plans and compiles what it has not been asked before.
            self.timed(&text, 0..10, count)?;
            let mut read = Vec::new();
            for call in 0..CALLS / 2 {
                self.directly(&touch, Value::Map(Vec::new()))?;
                read.extend(self.timed(&text, call..call + 1, count)?);
            }
            // Other nodes, most of whose neighbours have been met by then.
            self.timed(&text, 0..CALLS / 2, count)?;
            let kept = self.timed(&text, CALLS / 2..CALLS, count)?;
            for (how, times) in
                [("read behind a foreign write", &read), ("kept as far as it was read", &kept)]
            {
                put(table, &format!("{count} nodes without a graph, 25/10/5, neighbourhood {how}"), times);
                let what = format!("{count} nodes, neighbourhood {how}: p99");
                findings.verdicts.push(Verdict::at_most(&what, 100.0, quantile(times, 0.99), "ms"));
            }
        }
        Ok(())
    }

    /// All nodes written, beside one statement for each.
    fn write(&mut self, table: &mut Table, findings: &mut Findings) -> Result<()> {
        let call = "CALL gnn.fastRP.write('bench', {embeddingDimension: 128, writeProperty: 'embedding', createIndex: false}) YIELD nodePropertiesWritten, writeMillis";
        let mut rates = Vec::new();
        for _ in 0..2 {
            let rows = self.ask(call, Value::Map(Vec::new()))?;
            let value =
                |at: usize| rows.first().and_then(|row| row[at].as_integer()).unwrap_or_default() as f64;
            rates.push(value(0) / (value(1) / 1e3));
        }
        let written = median(rates);
        let vector: Vec<Value> = (0..128).map(|at| Value::Float(f64::from(at) / 128.0)).collect();
        let since = Instant::now();
        for at in 0..SINGLES {
            let single =
                "MATCH (n) WHERE id(n) = $id CALL db.create.setNodeVectorProperty(n, 'embedding', $v)";
            let values = [("id", Value::Integer(self.ids[at])), ("v", Value::List(vector.clone()))];
            self.directly(single, Value::map(values))?;
        }
        let singles = SINGLES as f64 / since.elapsed().as_secs_f64();
        table.row([
            "nodes written a second; one statement a node".to_owned(),
            number(written.unwrap_or_default()),
            number(singles),
        ]);
        findings.verdicts.push(Verdict::at_least("write, 128 numbers each: nodes/s", 8000.0, written, ""));
        findings.verdicts.push(Verdict::at_least(
            "the same, times one statement a node",
            10.0,
            written.map(|written| written / singles),
            "×",
        ));
        Ok(())
    }
}

fn quantile(times: &[Duration], q: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1))).copied()
}

fn put(table: &mut Table, what: &str, times: &[Duration]) {
    let shown = |q: f64| quantile(times, q).map(|millis| format!("{millis:.2} ms")).unwrap_or_default();
    table.row([what.to_owned(), shown(0.5), shown(0.99)]);
}
