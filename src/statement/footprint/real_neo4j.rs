//! Footprints against real Neo4j: what a write does not touch by its footprint has the same answer before and after it.
//!
//! Needs `NEO4J_5_ADDRESS` and `NEO4J_2026_ADDRESS` as the tests of shapes do. `SIDEBOLT_FOOTPRINT_PAIRS` is the number of pairs
//! of a write and a read (3,000), `SIDEBOLT_FOOTPRINT_SEED` repeats a run. Each write runs in a transaction that is rolled back,
//! with the reads behind it, so that the answers before it are asked for only once a graph.

mod cached;
mod texts;
mod writes;

use std::fmt::Write as _;
use std::io::Write as _;

use bolt_wire::Tag;
use bolt_wire::packstream::Value;

use self::texts::{LABELS, TYPES, Texts, parameters};
use super::Mark;
use crate::bolt_client::{BoltClient, ClientError, Message};
use crate::statement::real_neo4j::{TURN, server};
use crate::statement::{Footprint, Statement};

/// Reads for one graph, and writes: planning a text takes longer than running it.
const READS: usize = 50;
const WRITES: usize = 60;
/// From so many pairs on there are more writes to a graph, and everything that a footprint may lack must show.
const LONG: usize = 20_000;
const LONG_WRITES: usize = 100;
const NODES: i64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn footprints_are_sound_on_5() {
    mutate("NEO4J_5_ADDRESS", "footprints_are_sound_on_5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn footprints_are_sound_on_2026() {
    mutate("NEO4J_2026_ADDRESS", "footprints_are_sound_on_2026").await;
}

/// A footprint that lacks something: the pairs must find it.
struct Broken {
    name: &'static str,
    lacks: fn(&Mark) -> bool,
    /// Pairs that show it.
    found: usize,
}

fn broken() -> Vec<Broken> {
    let of = |name, lacks| Broken { name, lacks, found: 0 };
    vec![
        of("all of properties", |mark| matches!(mark, Mark::Key(_) | Mark::AnyKey | Mark::EveryKey)),
        of("names of properties", |mark| matches!(mark, Mark::Key(_))),
        of("whole nodes' properties", |mark| matches!(mark, Mark::AnyKey)),
        of("properties by a map", |mark| matches!(mark, Mark::EveryKey)),
        of("labels", |mark| matches!(mark, Mark::Label(_))),
        of("whole nodes' labels", |mark| matches!(mark, Mark::AnyLabel)),
        of("new nodes", |mark| matches!(mark, Mark::AnyNode)),
        of("types", |mark| matches!(mark, Mark::Type(_))),
        of("new relationships", |mark| matches!(mark, Mark::AnyType)),
    ]
}

#[derive(Debug, Default)]
struct Tally {
    pairs: usize,
    /// The footprint says that the answer stays; it did.
    untouched: usize,
    /// The footprint says that it may change, and it did.
    changed: usize,
    /// The footprint says that it may change, and it did not.
    cautious: usize,
    /// Pairs with a write of which nothing is known.
    whole: usize,
    writes: usize,
    /// Writes that changed something.
    updates: usize,
    failed_writes: usize,
    failed_reads: usize,
    /// Reads that a cache would not keep.
    unkept: usize,
}

/// A read with its answer before all writes.
struct Read {
    text: String,
    statement: Statement,
    before: Vec<String>,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

async fn mutate(variable: &str, test: &str) {
    let Some(mut server) = server(variable, test).await else { return };
    let _turn = TURN.lock().await;
    let pairs = number("SIDEBOLT_FOOTPRINT_PAIRS").unwrap_or(3_000) as usize;
    let seed = number("SIDEBOLT_FOOTPRINT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let _ = writeln!(std::io::stderr(), "{test}: SIDEBOLT_FOOTPRINT_SEED={seed}");
    let mut texts = Texts::new(seed);
    let (mut tally, mut broken, mut wrong) = (Tally::default(), broken(), Vec::new());
    while tally.pairs < pairs {
        graph(&mut server, &mut texts).await;
        let reads = reads(variable, &mut server, &mut texts, &mut tally).await;
        for _ in 0..if pairs < LONG { WRITES } else { LONG_WRITES } {
            let (text, parameters) = texts.write();
            round(&mut server, &text, &parameters, &reads, &mut tally, &mut broken, &mut wrong).await;
        }
    }
    clean(&mut server).await;
    let teeth: Vec<_> = broken.iter().map(|broken| format!("{} {}", broken.name, broken.found)).collect();
    let _ = writeln!(std::io::stderr(), "{test}: {tally:?}\n{test}: found without {}", teeth.join(", "));
    assert!(wrong.is_empty(), "seed {seed}: {} wrong footprints\n{}", wrong.len(), wrong.join("\n"));
    assert!(
        broken.first().is_some_and(|broken| broken.found > 0),
        "seed {seed}: labels alone were not found out"
    );
    let toothless: Vec<_> =
        broken.iter().filter(|broken| broken.found == 0).map(|broken| broken.name).collect();
    assert!(
        toothless.is_empty() || pairs < LONG,
        "seed {seed}: nothing shows footprints without {toothless:?}"
    );
    assert!(tally.untouched * 10 > tally.pairs, "seed {seed}: too few pairs prove something: {tally:?}");
    assert!(tally.changed * 500 > tally.pairs, "seed {seed}: too few writes change an answer: {tally:?}");
}

/// One write, and all reads behind it.
async fn round(
    server: &mut BoltClient,
    text: &str,
    parameters: &Value,
    reads: &[Read],
    tally: &mut Tally,
    broken: &mut [Broken],
    wrong: &mut Vec<String>,
) {
    let statement = Statement::parse(text);
    assert!(!statement.reads_only && statement.cacheable.is_err(), "{text}");
    let touched = statement.touches(&parameters.to_bytes());
    tally.writes += 1;
    let Some(updates) = write(server, text, parameters).await else {
        tally.failed_writes += 1;
        return;
    };
    tally.updates += usize::from(updates);
    let mut answers = Vec::new();
    while answers.len() < reads.len() {
        if !together(server, &reads[answers.len()..], &mut answers).await {
            // The transaction is gone with the answer that failed.
            write(server, text, parameters).await.expect("it has run before");
        }
    }
    for (read, after) in reads.iter().zip(answers) {
        tally.pairs += 1;
        tally.whole += usize::from(touched == Footprint::WHOLE);
        let changed = after != read.before;
        match (touched.touches(&read.statement.reads), changed) {
            (true, true) => tally.changed += 1,
            (true, false) => tally.cautious += 1,
            (false, false) => tally.untouched += 1,
            (false, true) => wrong.push(told(text, parameters, &touched, read, &after)),
        }
        for broken in broken.iter_mut().filter(|_| changed) {
            let Some(marks) = &touched.0 else { continue };
            let left = marks.iter().filter(|mark| !(broken.lacks)(mark)).cloned().collect();
            broken.found += usize::from(!Footprint(Some(left)).touches(&read.statement.reads));
        }
    }
    server.rollback().await.expect("ROLLBACK");
}

/// Runs a write in a new transaction; tells whether it changed something. `None` if it failed.
async fn write(server: &mut BoltClient, text: &str, parameters: &Value) -> Option<bool> {
    server.begin(Value::Map(Vec::new())).await.expect("BEGIN");
    let answer = server.run(text, parameters.clone(), Value::Map(Vec::new())).await;
    // The client has reset the connection after an error.
    answer.ok().map(|answer| answer.summary.get("stats").is_some())
}

fn told(text: &str, parameters: &Value, touched: &Footprint, read: &Read, after: &[String]) -> String {
    let mut told = String::new();
    let reads = &read.statement.reads;
    let _ = write!(
        told,
        "write  {text}\n       {parameters:?}\n       {touched:?}\nread   {}\n       {reads:?}\n       {:?}\n       {after:?}",
        read.text, read.before
    );
    told
}

async fn reads(variable: &str, server: &mut BoltClient, texts: &mut Texts, tally: &mut Tally) -> Vec<Read> {
    let mut reads = Vec::new();
    while reads.len() < READS {
        let text = texts.read();
        let statement = Statement::parse(&text);
        assert!(statement.reads_only || statement.cacheable.is_err(), "{text}");
        if let Err(reason) = statement.cacheable {
            tally.unkept += 1;
            assert!(tally.unkept < 200, "{reason}: {text}");
            continue;
        }
        match answer(server, &text).await {
            // An answer of thousands of rows says no more than a short one.
            Ok(before) if before.len() < 500 => reads.push(Read { text, statement, before }),
            Ok(_) => {}
            Err(error) => {
                tally.failed_reads += 1;
                assert!(tally.failed_reads < 200 + tally.pairs / 10, "{text}: {error}");
                // An answer that is too long, or too long in coming, costs the connection.
                if !matches!(error, ClientError::Failure { .. }) {
                    *server = crate::statement::real_neo4j::server(variable, "a new connection")
                        .await
                        .expect("a server");
                }
            }
        }
    }
    reads
}

async fn answer(server: &mut BoltClient, text: &str) -> Result<Vec<String>, ClientError> {
    // What takes so long is not worth the wait.
    let extra = Value::map([("tx_timeout", Value::Integer(20_000))]);
    Ok(rows(&server.run(text, parameters(), extra).await?.records))
}

/// Asks for all answers at once; false if one failed, which is the last then.
async fn together(server: &mut BoltClient, reads: &[Read], answers: &mut Vec<Vec<String>>) -> bool {
    for read in reads {
        server.send(Tag::RUN, &[read.text.as_str().into(), parameters(), Value::Map(Vec::new())]);
        server.send(Tag::PULL, &[Value::map([("n", Value::Integer(-1))])]);
    }
    server.flush().await.expect("requests");
    let (mut records, mut failed) = (Vec::new(), false);
    // Two answers to each read.
    let mut due = 2 * reads.len();
    while due > 0 {
        match server.receive().await.expect("an answer") {
            Message::Record(record) => records.push(record),
            Message::Success(_) => {
                due -= 1;
                if due.is_multiple_of(2) {
                    answers.push(rows(&std::mem::take(&mut records)));
                }
            }
            Message::Failure(meta) => {
                due -= 1;
                failed = true;
                answers.push(vec![format!("{meta:?}")]);
            }
            Message::Ignored => due -= 1,
        }
    }
    if failed {
        server.reset().await.expect("RESET");
    }
    !failed
}

/// Rows in an order that does not depend on the server.
fn rows(records: &[Vec<Value>]) -> Vec<String> {
    let row = |row: &Vec<Value>| row.iter().map(plain).collect::<Vec<_>>().join(" | ");
    let mut rows: Vec<_> = records.iter().map(row).collect();
    rows.sort_unstable();
    rows
}

/// A value as text, in which the order of maps and lists does not show: no server promises that of a gathered list.
fn plain(value: &Value) -> String {
    let sorted = |mut items: Vec<String>| {
        items.sort_unstable();
        items.join(", ")
    };
    match value {
        Value::Map(entries) => {
            format!(
                "{{{}}}",
                sorted(entries.iter().map(|(key, value)| format!("{key}: {}", plain(value))).collect())
            )
        }
        Value::List(items) => format!("[{}]", sorted(items.iter().map(plain).collect())),
        Value::Struct(signature, fields) => {
            format!("{signature:x}({})", fields.iter().map(plain).collect::<Vec<_>>().join(", "))
        }
        Value::Float(number) => format!("{number:.6}"),
        other => format!("{other:?}"),
    }
}

async fn clean(server: &mut BoltClient) {
    server.query("MATCH (n) WHERE n.fp IS NOT NULL DETACH DELETE n").await.expect("a clean graph");
}

/// Another random graph: labels that overlap, nodes without one, several relationships between two nodes.
async fn graph(server: &mut BoltClient, texts: &mut Texts) {
    clean(server).await;
    for id in 0..NODES {
        let labels: String =
            LABELS.iter().filter(|_| texts.chance(25)).map(|label| format!(":{label}")).collect();
        let mut properties = vec![("id".to_owned(), Value::from(id)), ("fp".to_owned(), Value::from(1))];
        for key in texts::KEYS {
            if texts.chance(70) {
                properties.push((key.to_owned(), Value::from(texts.random.i64(0..3))));
            }
        }
        if texts.chance(70) {
            properties.push(("s".to_owned(), Value::from(texts.pick(&["abc", "a", "b"]))));
        }
        let list = (0..texts.random.i64(0..3)).map(Value::from).collect();
        properties.push(("l".to_owned(), Value::List(list)));
        let parameters = Value::map([("map", Value::Map(properties))]);
        let text = format!("CREATE (n{labels} $map)");
        server.run(&text, parameters, Value::Map(Vec::new())).await.expect("a node");
    }
    for _ in 0..30 {
        let mut number = |below| Value::from(texts.random.i64(0..below));
        let parameters =
            Value::map([("a", number(NODES)), ("b", number(NODES)), ("w", number(3)), ("x", number(3))]);
        let text = format!(
            "MATCH (a {{id: $a}}), (b {{id: $b}}) WHERE a.fp = 1 AND b.fp = 1 CREATE (a)-[:{} {{w: $w, x: $x}}]->(b)",
            texts.pick(&TYPES)
        );
        server.run(&text, parameters, Value::Map(Vec::new())).await.expect("a relationship");
    }
}
