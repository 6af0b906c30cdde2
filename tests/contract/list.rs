//! The contract list: statements, and what they must give on the demo graph and on real Neo4j alike.
//!
//! `statements.yaml` holds them with their outcomes. Values are written as JSON; `$struct` is a Bolt struct (signature, fields),
//! nodes, relationships and paths are written without their ids. Rows without ORDER BY are compared in any order.

use bolt_wire::packstream::Value;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use sidebolt::bolt_client::{Answer, Auth, BoltClient, ClientError, Options};
use sidebolt::demo::airports;

/// One statement of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// What it shows.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its parameters.
    #[serde(default)]
    pub params: Map<String, Json>,
    /// What it must give.
    #[serde(default)]
    pub gives: Json,
}

/// What a statement gave on one server.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The statement's name.
    pub name: String,
    /// What it must give.
    pub expected: Json,
    /// What it gave.
    pub found: Json,
}

impl Outcome {
    /// True if it gave what it must.
    pub fn agrees(&self) -> bool {
        self.expected == self.found
    }
}

/// The list.
pub fn statements() -> Vec<Statement> {
    serde_saphyr::from_str(include_str!("statements.yaml")).expect("invariant: the list is valid")
}

/// Runs the whole list on the server at `address` (`host:port`). Everything in its database but airports is deleted first.
pub async fn run(address: &str, auth: Auth) -> Result<Vec<Outcome>, ClientError> {
    run_list(address, auth, &statements()).await
}

/// `run` with another list.
pub async fn run_list(address: &str, auth: Auth, list: &[Statement]) -> Result<Vec<Outcome>, ClientError> {
    let timeout = std::time::Duration::from_secs(60);
    let mut client = BoltClient::connect(address, Options { auth, timeout, ..Options::default() }).await?;
    for clean in CLEAN {
        client.query(clean).await?;
    }
    airports::seed(&mut client, |_| {}).await?;
    let mut outcomes = Vec::new();
    for statement in list {
        let params = statement.params.iter().map(|(key, value)| (key.clone(), to_bolt(value)));
        let params = Value::Map(params.collect());
        let found = match client.run(&statement.text, params, Value::Map(Vec::new())).await {
            Ok(answer) => normal(&answer, statement.text.to_uppercase().contains("ORDER BY")),
            Err(ClientError::Failure { code, .. }) => json!({ "error": code }),
            Err(other) => return Err(other),
        };
        let expected = statement.gives.clone();
        outcomes.push(Outcome { name: statement.name.clone(), expected, found });
    }
    client.close().await;
    Ok(outcomes)
}

/// Takes away what an earlier run left.
const CLEAN: [&str; 3] = [
    "MATCH (n) WHERE NOT n:Airport DETACH DELETE n",
    "DROP CONSTRAINT person_email IF EXISTS",
    "DROP INDEX person_city IF EXISTS",
];

fn normal(answer: &Answer, ordered: bool) -> Json {
    let mut rows: Vec<Json> =
        answer.records.iter().map(|row| Json::Array(row.iter().map(to_json).collect())).collect();
    if !ordered {
        rows.sort_by_key(Json::to_string);
    }
    let mut gives = Map::new();
    gives.insert("type".to_owned(), answer.summary.get("type").map_or(Json::Null, to_json));
    if !answer.keys.is_empty() {
        gives.insert("keys".to_owned(), json!(answer.keys));
        gives.insert("rows".to_owned(), Json::Array(rows));
    }
    if let Some(Value::Map(stats)) = answer.summary.get("stats") {
        let counters = stats.iter().filter(|(key, _)| key.contains("-") && key != "contains-updates");
        let counters: Map<String, Json> = counters.map(|(k, v)| (k.clone(), to_json(v))).collect();
        gives.insert("counters".to_owned(), Json::Object(counters));
    }
    Json::Object(gives)
}

/// A parameter. `{$struct: [signature, field…]}` is a struct, `{$bytes: […]}` bytes.
fn to_bolt(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(value) => Value::from(value.as_str()),
        Json::Array(items) => Value::List(items.iter().map(to_bolt).collect()),
        Json::Object(entries) => match (entries.get("$struct"), entries.get("$bytes")) {
            (Some(Json::Array(parts)), _) => {
                let mut fields = parts.iter().map(to_bolt);
                let signature = fields.next().and_then(|s| s.as_integer()).unwrap_or_default();
                Value::Struct(u8::try_from(signature).unwrap_or_default(), fields.collect())
            }
            (_, Some(Json::Array(bytes))) => {
                let byte = |b: &Json| b.as_u64().and_then(|b| u8::try_from(b).ok()).unwrap_or_default();
                Value::Bytes(bytes.iter().map(byte).collect())
            }
            _ => Value::Map(entries.iter().map(|(key, value)| (key.clone(), to_bolt(value))).collect()),
        },
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        // Sums in another order differ in the last digits.
        Value::Float(value) if value.is_finite() => {
            json!(format!("{value:.11e}").parse::<f64>().unwrap_or(*value))
        }
        Value::Float(value) => json!({ "$float": value.to_string() }),
        Value::Bytes(value) => json!({ "$bytes": value }),
        Value::String(value) => json!(value),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.clone(), to_json(v))).collect()),
        Value::Struct(signature, fields) => struct_to_json(*signature, fields),
        Value::Uuid(bytes) => json!({ "$uuid": bytes }),
    }
}

/// Entities without ids; every other struct as it is.
fn struct_to_json(signature: u8, fields: &[Value]) -> Json {
    match (signature, fields) {
        (0x4E, [_, labels, properties, ..]) => {
            let mut labels = to_json(labels);
            if let Json::Array(labels) = &mut labels {
                labels.sort_by_key(Json::to_string);
            }
            json!({ "$node": [labels, to_json(properties)] })
        }
        (0x52, [_, _, _, kind, properties, ..]) | (0x72, [_, kind, properties, ..]) => {
            json!({ "$relationship": [to_json(kind), to_json(properties)] })
        }
        (0x50, [nodes, relationships, walk]) => {
            json!({ "$path": [to_json(nodes), to_json(relationships), to_json(walk)] })
        }
        _ => {
            let mut parts = vec![json!(signature)];
            parts.extend(fields.iter().map(to_json));
            json!({ "$struct": parts })
        }
    }
}
