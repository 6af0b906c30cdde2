//! `CALL gnn.…` against real Neo4j: graphs, embeddings, writes, and what must not happen.

mod faults;
mod feed;
mod graphs;
mod live;
mod models;
mod queries;
mod show;
mod write;

use bolt_wire::Version;
use bolt_wire::packstream::Value;

use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::sidebolt::Sidebolt;

const V: Version = Version::V5_8;
const FAILED: &str = "Neo.ClientError.Procedure.ProcedureCallFailed";
const SYNTAX: &str = "Neo.ClientError.Statement.SyntaxError";

/// Nodes of one test's own, on a server that others use too; they go with it.
struct World {
    server: Neo4j,
    sidebolt: Sidebolt,
    /// The label of its nodes and the type of its relationships.
    label: String,
}

impl World {
    /// A ring of so many nodes with properties, each bound to the next one and to the one behind that.
    async fn start(server: Neo4j, label: &str, nodes: usize) -> Self {
        Self::start_with(server, label, nodes, |_| ()).await
    }

    async fn start_with(
        server: Neo4j,
        label: &str,
        nodes: usize,
        change: impl FnOnce(&mut sidebolt::config::Config),
    ) -> Self {
        let label = format!("Gnn{label}");
        server.admin(&format!("MATCH (n:{label}) DETACH DELETE n")).await;
        server
            .admin(&format!(
                "UNWIND range(0, {nodes} - 1) AS i CREATE (n:{label} {{at: i, even: i % 2 = 0, size: toFloat(i) / 10, \
                 features: [toFloat(i), 1.0, -0.5], color: ['red', 'green', 'blue'][i % 3]}})"
            ))
            .await;
        server
            .admin(&format!(
                "MATCH (n:{label}) WITH n ORDER BY n.at WITH collect(n) AS all UNWIND range(0, {nodes} - 1) AS i UNWIND [1, 2] AS step \
                 WITH all[i] AS a, all[(i + step) % {nodes}] AS b, step CREATE (a)-[:{label} {{w: toFloat(step)}}]->(b)"
            ))
            .await;
        let sidebolt = Sidebolt::start(&server.address, |config| {
            config.gnn.enabled = true;
            change(config);
        })
        .await;
        Self { server, sidebolt, label }
    }

    async fn client(&self, version: Version) -> Client {
        Client::login(self.sidebolt.address, version, Neo4j::USER, &self.server.password).await
    }

    /// The call that projects its nodes under a name.
    fn project(&self, name: &str, configuration: &str) -> String {
        let label = &self.label;
        format!("CALL gnn.graph.project('{name}', '{label}', '{label}', {{{configuration}}})")
    }

    /// What the text says of its label.
    fn text(&self, text: &str) -> String {
        text.replace("LABEL", &self.label)
    }

    /// Nothing of it stays.
    async fn end(self) {
        self.sidebolt.at_rest().await;
        self.server.admin(&format!("MATCH (n:{}) DETACH DELETE n", self.label)).await;
        let indexes = format!(
            "SHOW INDEXES YIELD name, labelsOrTypes WHERE labelsOrTypes = ['{}'] RETURN name",
            self.label
        );
        for row in self.server.admin(&indexes).await {
            self.server.admin(&format!("DROP INDEX `{}`", row[0].as_str().unwrap())).await;
        }
    }
}

/// The one row of a call, with the columns' names.
async fn row(client: &mut Client, text: &str) -> Value {
    let answers = client.ask_all(&[run(text), pull_all()]).await;
    assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "SUCCESS"], "{text}: {answers:?}");
    let fields = answers[0].success().get("fields").and_then(Value::as_list).unwrap().to_vec();
    let Answer::Record(row) = &answers[1] else { unreachable!() };
    let names = fields.iter().map(|name| name.as_str().unwrap().to_owned());
    Value::Map(names.zip(row.iter().cloned()).collect())
}

/// What a call is refused with, after which the connection is as good as before. Gives the message.
async fn refused(client: &mut Client, text: &str, code: &str) -> String {
    let answers = client.ask_all(&[run(text), pull_all()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "IGNORED"], "{text}: {answers:?}");
    assert_eq!(answers[0].code(), code, "{text}: {}", answers[0].text());
    assert!(client.one(reset()).await.is_success());
    answers[0].text().to_owned()
}

fn integer(row: &Value, column: &str) -> i64 {
    row.get(column).and_then(Value::as_integer).unwrap_or_else(|| panic!("{column} in {row:?}"))
}

fn floats(value: &Value) -> Vec<f64> {
    let float = |value: &Value| match value {
        Value::Float(number) => *number,
        other => panic!("{other:?} is no float"),
    };
    value.as_list().expect("a list").iter().map(float).collect()
}
