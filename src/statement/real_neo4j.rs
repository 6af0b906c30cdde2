//! Shapes against real Neo4j: what a batch gives each of its requests is what each would have got alone.
//!
//! Needs `NEO4J_5_ADDRESS` and `NEO4J_2026_ADDRESS` (`host:port`, user `neo4j`, `NEO4J_PASSWORD`); skipped without, and failing
//! under `SIDEBOLT_TEST_NO_SKIP=1`. `SIDEBOLT_SHAPE_ROUNDS` is how often each text is tried (2).

mod requests;
mod texts;

use std::collections::BTreeMap;
use std::io::Write;

use bolt_wire::packstream::Value;

use self::requests::Requests;
use super::{Amount, Class, Counter, Shape, Statement, When};
use crate::bolt_client::{Answer, Auth, BoltClient, ClientError, Options};

/// Counters of one request, none that is 0.
type Counters = BTreeMap<&'static str, i64>;

const COUNTERS: [(Counter, &str); 5] = [
    (Counter::NodesCreated, "nodes-created"),
    (Counter::RelationshipsCreated, "relationships-created"),
    (Counter::PropertiesSet, "properties-set"),
    (Counter::LabelsAdded, "labels-added"),
    (Counter::LabelsRemoved, "labels-removed"),
];

const KEYED: [&str; 3] = ["SbL", "SbX", "SbY"];

/// Held while a test changes its graph: others look at all nodes.
pub(super) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What one request got.
#[derive(Debug, PartialEq)]
struct Got {
    counters: Counters,
    /// Its records in an order that does not depend on the server.
    records: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_exact_on_5() {
    compare_all("NEO4J_5_ADDRESS", "batches_are_exact_on_5", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_exact_on_2026() {
    // A database may have Cypher 25 as its language.
    compare_all("NEO4J_2026_ADDRESS", "batches_are_exact_on_2026", "CYPHER 25 ").await;
}

/// How a text is tried.
#[derive(Clone, Copy)]
struct How {
    /// With unique keys.
    unique: bool,
    /// Not in a transaction that is rolled back.
    committed: bool,
    /// What both texts begin with.
    prefix: &'static str,
}

/// One after the other, because both need the constraints to be as they say.
async fn compare_all(variable: &str, test: &str, language: &'static str) {
    let Some(mut server) = server(variable, test).await else { return };
    let _turn = TURN.lock().await;
    let rounds =
        std::env::var("SIDEBOLT_SHAPE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2);
    clean(&mut server).await;
    let mut tally = Tally::default();
    for unique in [true, false] {
        constraints(&mut server, unique).await;
        for (at, text) in texts::ALL.iter().enumerate() {
            for round in 0..rounds {
                let turn = at as u64 + round;
                let how = How {
                    unique,
                    committed: turn.is_multiple_of(3),
                    prefix: if turn.is_multiple_of(2) { language } else { "" },
                };
                let mut requests = Requests::new(1_000_003 * at as u64 + u64::from(unique) + 7919 * round);
                compare(&mut server, text, how, &mut requests, &mut tally).await;
            }
        }
        if unique {
            plans(&mut server).await;
        }
    }
    constraints(&mut server, false).await;
    clean(&mut server).await;
    let _ = writeln!(std::io::stderr(), "{test}: {} texts, {tally:?}", texts::ALL.len());
    assert!(tally.requests > tally.failing * 4, "most requests are good ones: {tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    batches: usize,
    requests: usize,
    records: usize,
    /// Requests of batches that fail as one of their members does.
    failing: usize,
    /// Requests of batches that cannot tell what each did.
    ambiguous: usize,
}

pub(super) async fn server(variable: &str, test: &str) -> Option<BoltClient> {
    let Ok(address) = std::env::var(variable) else {
        let reason = format!("needs a Neo4j: set {variable}=host:port and NEO4J_PASSWORD");
        assert!(std::env::var_os("SIDEBOLT_TEST_NO_SKIP").is_none(), "{test} {reason}");
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
        return None;
    };
    Some(client(address.rsplit("://").next().unwrap_or_default()).await)
}

/// A client of a server, or of a Sidebolt before it.
pub(super) async fn client(address: &str) -> BoltClient {
    let password = std::env::var("NEO4J_PASSWORD").unwrap_or_else(|_| "password".to_owned());
    let timeout = std::time::Duration::from_secs(120);
    let options = Options { auth: Auth::basic("neo4j", password), timeout, ..Options::default() };
    BoltClient::connect(address, options).await.expect("the server answers")
}

fn shape(text: &str) -> Box<Shape> {
    match Statement::parse(text).class {
        Class::Write { shape: Ok(shape) } => shape,
        other => panic!("{text}: {other:?}"),
    }
}

async fn run(server: &mut BoltClient, text: &str, parameters: &Value) -> Result<Answer, ClientError> {
    server.run(text, parameters.clone(), Value::Map(Vec::new())).await
}

async fn done(server: &mut BoltClient, text: &str) -> Answer {
    server.query(text).await.unwrap_or_else(|error| panic!("{text}: {error}"))
}

async fn clean(server: &mut BoltClient) {
    done(server, "MATCH (n:SbL|SbM|SbN|SbX|SbY) DETACH DELETE n").await;
}

async fn constraints(server: &mut BoltClient, wanted: bool) {
    for label in KEYED {
        let name = format!("{}_k", label.to_lowercase());
        done(server, &format!("DROP CONSTRAINT {name} IF EXISTS")).await;
        if wanted {
            done(server, &format!("CREATE CONSTRAINT {name} FOR (n:{label}) REQUIRE n.k IS UNIQUE")).await;
        }
    }
    done(server, "CALL db.awaitIndexes(60)").await;
}

/// The same requests alone and together, each time on the same graph.
async fn compare(server: &mut BoltClient, text: &str, how: How, requests: &mut Requests, tally: &mut Tally) {
    let How { unique, committed, prefix } = how;
    let shape = shape(text);
    let before = requests.graph(unique);
    let asked = requests.of(&shape);
    if asked.is_empty() {
        return;
    }
    let alone = pass(server, &before, committed, async |server: &mut BoltClient| {
        let mut got = Vec::new();
        for parameters in &asked {
            let answer = run(server, &format!("{prefix}{text}"), parameters).await?;
            assert_eq!(answer.keys.len(), shape.columns.len(), "{text}");
            assert!(
                answer.keys.iter().zip(&shape.columns).all(|(key, column)| **key == **column),
                "{text}: {:?}",
                answer.keys
            );
            got.push(Got { counters: reported(&answer), records: records(&shape, &answer.records, 0) });
        }
        Ok(got)
    })
    .await;
    let together = pass(server, &before, committed, async |server: &mut BoltClient| {
        let batch = format!("{prefix}{}", shape.batch);
        let answer = run(server, &batch, &requests::rows(&asked)).await?;
        let got = shared(&shape, &asked, &answer);
        let Some(got) = got else { return Ok(None) };
        let sum = got.iter().fold(Counters::new(), |mut sum, got| {
            got.counters.iter().for_each(|(name, amount)| *sum.entry(name).or_default() += amount);
            sum
        });
        assert_eq!(
            sum,
            reported(&answer),
            "{text}: the counters of all requests are those of the batch {}",
            shape.batch
        );
        Ok(Some(got))
    })
    .await;
    tally.batches += 1;
    tally.requests += asked.len();
    match (alone, together) {
        (Ok(_), Ok((None, _))) => {
            assert!(!unique, "{text}: with unique keys no request has two rows");
            tally.ambiguous += asked.len();
        }
        (Ok((alone, left)), Ok((Some(together), right))) => {
            for ((alone, together), parameters) in alone.iter().zip(&together).zip(&asked) {
                tally.records += alone.records.len();
                assert_eq!(
                    alone,
                    together,
                    "{text}\n{}\n{parameters:?}\nof {}\n{before:#?}",
                    shape.batch,
                    asked.len()
                );
            }
            assert_eq!(left, right, "{text}\n{}\nthe graph behind {asked:#?}\n{before:#?}", shape.batch);
        }
        (Err(_), Err(_)) => tally.failing += asked.len(),
        (alone, together) => panic!(
            "{text}\n{}\nalone {:?}\ntogether {:?}\n{asked:#?}\n{before:#?}",
            shape.batch,
            alone.map(drop).map_err(|error| error.to_string()),
            together.map(drop).map_err(|error| error.to_string())
        ),
    }
}

/// Work on a fresh graph, and the graph behind it. In one transaction that is rolled back, or with everything committed.
async fn pass<T>(
    server: &mut BoltClient,
    before: &Value,
    committed: bool,
    work: impl AsyncFnOnce(&mut BoltClient) -> Result<T, ClientError>,
) -> Result<(T, Vec<String>), ClientError> {
    let begin =
        async |server: &mut BoltClient| server.begin(Value::Map(Vec::new())).await.map(drop).expect("BEGIN");
    begin(server).await;
    for text in requests::GRAPH {
        run(server, text, before).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    if committed {
        server.commit().await.expect("COMMIT");
        begin(server).await;
    }
    let worked = work(server).await;
    let result = match worked {
        Ok(value) => {
            let behind = graph(server).await;
            if committed {
                server.commit().await.expect("COMMIT")
            } else {
                server.rollback().await.expect("ROLLBACK")
            };
            Ok((value, behind))
        }
        // The client has reset the connection, and the transaction is gone.
        Err(error) => Err(error),
    };
    if committed {
        clean(server).await;
    }
    result
}

/// Every node and relationship as text, sorted.
async fn graph(server: &mut BoltClient) -> Vec<String> {
    let nodes = "MATCH (n:SbL|SbM|SbN|SbX|SbY) RETURN labels(n), properties(n)";
    let edges =
        "MATCH (a:SbL|SbN|SbX|SbY)-[r]->(b) RETURN type(r), properties(r), properties(a), properties(b)";
    let mut lines = Vec::new();
    for text in [nodes, edges] {
        lines.extend(done(server, text).await.records.iter().map(|record| {
            let values: Vec<_> = record.iter().map(|value| plain(&masked(value))).collect();
            values.join(" ")
        }));
    }
    lines.sort();
    lines
}

/// A value as text, in which the order of a map or of labels does not show.
fn plain(value: &Value) -> String {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> =
                entries.iter().map(|(key, value)| format!("{key}: {}", plain(value))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::List(items)
            if items.iter().all(|item| item.as_str().is_some_and(|text| text.starts_with("Sb"))) =>
        {
            let mut items: Vec<_> = items.iter().map(plain).collect();
            items.sort();
            format!("{items:?}")
        }
        other => format!("{other:?}"),
    }
}

/// Properties whose names begin with `now` are another value at each time.
fn masked(value: &Value) -> Value {
    match value {
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, value)| {
                    let value = if key.starts_with("now") { kind(value) } else { masked(value) };
                    (key.clone(), value)
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

fn kind(value: &Value) -> Value {
    Value::from(match value {
        Value::Null => "null",
        Value::Integer(_) => "an integer",
        Value::String(_) => "a string",
        Value::Struct(_, _) => "a struct",
        _ => "another value",
    })
}

/// Records as sorted texts, without their first columns.
fn records(shape: &Shape, rows: &[Vec<Value>], skip: usize) -> Vec<String> {
    let mut texts: Vec<_> = rows
        .iter()
        .filter(|_| !shape.columns.is_empty())
        .map(|row| {
            let own = row.iter().skip(skip).zip(&shape.columns).map(|(value, column)| {
                let changes = ["now", "elementId(", "id("].iter().any(|word| column.contains(word));
                plain(&if changes { kind(value) } else { masked(value) })
            });
            own.collect::<Vec<_>>().join(" ")
        })
        .collect();
    texts.sort();
    texts
}

/// The counters that the server reports; fails on one that no shape knows.
fn reported(answer: &Answer) -> Counters {
    let mut counters = Counters::new();
    let stats = answer.summary.get("stats").cloned().unwrap_or(Value::Map(Vec::new()));
    let Value::Map(entries) = stats else { panic!("{stats:?}") };
    for (name, amount) in entries {
        if name == "contains-updates" {
            continue;
        }
        let known = COUNTERS.iter().find(|(_, known)| *known == name).unwrap_or_else(|| panic!("{name}"));
        counters.insert(known.1, amount.as_integer().expect("a number"));
    }
    counters.retain(|_, amount| *amount != 0);
    counters
}

/// What each request gets out of a batch's rows, as the coalescer tells it, if it can.
fn shared(shape: &Shape, asked: &[Value], answer: &Answer) -> Option<Vec<Got>> {
    assert_eq!(answer.keys.len(), 1 + shape.flags + shape.columns.len(), "{}", shape.batch);
    let mut rows: Vec<Vec<Vec<Value>>> = vec![Vec::new(); asked.len()];
    for record in &answer.records {
        let at =
            record[0].as_integer().and_then(|at| usize::try_from(at).ok()).expect("the request's number");
        rows[at].push(record.clone());
    }
    if shape.one_row && rows.iter().any(|rows| rows.len() > 1) {
        return None;
    }
    let got = rows.iter().zip(asked).map(|(rows, parameters)| {
        let mut counters = Counters::new();
        for row in rows {
            derive(shape, &row[1..=shape.flags], parameters, &mut counters);
        }
        counters.retain(|_, amount| *amount != 0);
        Got { counters, records: records(shape, rows, 1 + shape.flags) }
    });
    Some(got.collect())
}

fn derive(shape: &Shape, flags: &[Value], parameters: &Value, counters: &mut Counters) {
    for effect in &shape.effects {
        let holds = |flag: usize| match flags[flag] {
            Value::Boolean(flag) => flag,
            ref other => panic!("flag {flag} of {} is {other:?}", shape.batch),
        };
        let applies = match effect.when {
            When::Always => true,
            When::Flag(flag) => holds(flag),
            When::NotFlag(flag) => !holds(flag),
        };
        if !applies {
            continue;
        }
        let amount = match &effect.amount {
            Amount::Constant(amount) => i64::from(*amount),
            Amount::Flag(flag) => flags[*flag].as_integer().expect("an INTEGER flag"),
            Amount::MapSize(path) => match requests::at(parameters, path) {
                Some(Value::Map(entries)) => entries.len() as i64,
                other => panic!("{path:?} is {other:?}"),
            },
        };
        let name =
            COUNTERS.iter().find(|(counter, _)| *counter == effect.counter).expect("a known counter").1;
        *counters.entry(name).or_default() += amount;
    }
}

/// With a unique constraint no batch looks at more nodes than it needs.
async fn plans(server: &mut BoltClient) {
    for text in texts::ALL {
        let shape = shape(text);
        let asked = Requests::new(1).of(&shape);
        let explained = run(server, &format!("EXPLAIN {}", shape.batch), &requests::rows(&asked)).await;
        let explained = explained.unwrap_or_else(|error| panic!("{}: {error}", shape.batch));
        let mut operators = Vec::new();
        gather(explained.summary.get("plan").expect("a plan"), &mut operators);
        let scans = operators.iter().find(|name| name.contains("Scan"));
        assert_eq!(scans, None, "{text}\n{}\n{operators:?}", shape.batch);
        let seeks =
            operators.iter().any(|name| name.contains("IndexSeek") || name.contains("MergeUniqueNode"));
        assert!(seeks || shape.schema.is_empty(), "{text}\n{}\n{operators:?}", shape.batch);
    }
}

fn gather(plan: &Value, operators: &mut Vec<String>) {
    operators.extend(plan.get("operatorType").and_then(Value::as_str).map(str::to_owned));
    let children = plan.get("children").and_then(Value::as_list).unwrap_or_default();
    children.iter().for_each(|child| gather(child, operators));
}
