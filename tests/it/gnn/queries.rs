//! Graphs by Cypher.

use sidebolt::config::{Action, Rule, When};

use super::*;

const NODES: &str =
    "MATCH (n:LABEL) WHERE n.at >= $least RETURN id(n) AS id, n.size * 2 AS double, n.even AS even";
const ENDS: &str = "MATCH (a:LABEL)-[r]->(b:LABEL) WHERE a.at >= $least AND b.at >= $least RETURN id(a) AS source, id(b) AS target, r.w AS w";

impl World {
    /// The call that projects by these queries.
    fn by_queries(&self, name: &str, nodes: &str, ends: &str, configuration: &str) -> String {
        self.text(&format!(
            "CALL gnn.graph.project.cypher('{name}', '{nodes}', '{ends}', {{{configuration}}})"
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_give_the_graph_that_labels_give() {
    for server in Neo4j::all("queries_give_the_graph_that_labels_give") {
        let world = World::start(server, "Query", 30).await;
        let mut client = world.client(V).await;
        let weighted =
            "featureProperties: ['size', 'even'], relationshipWeightProperty: 'w', orientation: 'UNDIRECTED'";
        client.query(&world.project("labels", weighted)).await.unwrap();
        let nodes = "MATCH (n:LABEL) RETURN id(n) AS id, n.size AS size, n.even AS even // all of them";
        let ends = "MATCH (a:LABEL)-[r]->(b) RETURN id(a) AS source, id(b) AS target, r.w AS w;";
        let read = row(&mut client, &world.by_queries("queries", nodes, ends, weighted)).await;
        assert_eq!((integer(&read, "nodeCount"), integer(&read, "relationshipCount")), (30, 60));
        let embeddings = async |client: &mut Client, graph: &str| {
            let text = format!(
                "CALL gnn.fastRP.stream('{graph}', {{embeddingDimension: 16, propertyRatio: 0.5, featureProperties: ['size', 'even'], relationshipWeightProperty: 'w'}})"
            );
            client.query(&text).await.unwrap()
        };
        assert_eq!(embeddings(&mut client, "queries").await, embeddings(&mut client, "labels").await);

        // What a query computes is a feature like any other, and parameters are what they are.
        let some = "featureProperties: ['double', 'even'], parameters: {least: 10}";
        let read = row(&mut client, &world.by_queries("some", NODES, ENDS, some)).await;
        // The two that lead from the last nodes to the first ones are three relationships.
        assert_eq!((integer(&read, "nodeCount"), integer(&read, "relationshipCount")), (20, 37));
        assert_eq!(integer(&read, "featureCount"), 2);

        // It is read again once what it was made of has changed.
        let count = "CALL gnn.fastRP.stream('some', {embeddingDimension: 4}) YIELD nodeId";
        assert_eq!(client.query(count).await.unwrap().len(), 20);
        client.query(&world.text("MATCH (n:LABEL {at: 3}) SET n.at = 1000")).await.unwrap();
        assert_eq!(client.query(count).await.unwrap().len(), 21);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_give_no_graph_are_refused() {
    for server in Neo4j::all("queries_that_give_no_graph_are_refused") {
        let world = World::start(server, "NoQuery", 5).await;
        let mut client = world.client(V).await;
        let (nodes, ends) = (
            "MATCH (n:LABEL) RETURN id(n) AS id",
            "MATCH (a:LABEL)-->(b) RETURN id(a) AS source, id(b) AS target",
        );
        for (nodes, ends, configuration, code, words) in [
            (
                "CREATE (n:LABEL) RETURN id(n) AS id",
                ends,
                "",
                "Neo.ClientError.Statement.AccessMode",
                "read access mode",
            ),
            ("MATCH (n:LABEL) RETURN n", ends, "", SYNTAX, "`id` not defined"),
            ("MATCH (n:LABEL) RETURN elementId(n) AS id", ends, "", "", ""),
            ("MATCH (n:LABEL) RETURN 1.5 AS id", ends, "", FAILED, "no INTEGER"),
            ("MATCH (n:LABEL) RETURN null AS id", ends, "", FAILED, "null or less than 0"),
            ("MATCH (n:LABEL) UNWIND [1, 2] AS i RETURN id(n) AS id", ends, "", FAILED, "RETURN DISTINCT"),
            ("MATCH (n:LABELNone) RETURN id(n) AS id", ends, "", FAILED, "returned no nodes"),
            ("MATCH (n:LABEL {at: 1}) RETURN id(n) AS id", ends, "", FAILED, "is not part of the node query"),
            (
                nodes,
                "MATCH (a:LABEL) RETURN id(a) AS source, null AS target",
                "",
                FAILED,
                "target-node with id null",
            ),
            (nodes, "MATCH (a:LABEL) RETURN id(a) AS source", "", SYNTAX, "`target` not defined"),
            (nodes, "", "", FAILED, "`relationshipQuery` is empty"),
            (nodes, ends, "featureProperties: [\"age\"]", SYNTAX, "`age` not defined"),
            (nodes, ends, "parameters: 1", FAILED, "`parameters` must be of type `MAP`"),
            (nodes, ends, "labels: true", FAILED, "list the labels"),
            ("} RETURN 1 AS x //", ends, "", "", ""),
        ] {
            let text = world.by_queries("g", nodes, ends, configuration);
            let answers = client.ask_all(&[run(&text), pull_all()]).await;
            assert_eq!(kinds(&answers), ["FAILURE", "IGNORED"], "{text}: {answers:?}");
            assert!(code.is_empty() || answers[0].code() == code, "{text}: {:?}", answers[0]);
            assert!(answers[0].text().contains(words), "{text}: {}", answers[0].text());
            assert!(client.one(reset()).await.is_success());
        }
        let lenient = world.by_queries(
            "g",
            "MATCH (n:LABEL) WHERE n.at < 2 RETURN id(n) AS id",
            ends,
            "validateRelationships: false",
        );
        let read = row(&mut client, &lenient).await;
        assert_eq!((integer(&read, "nodeCount"), integer(&read, "relationshipCount")), (2, 1));
        assert_eq!(
            world.server.admin(&world.text("MATCH (n:LABEL) RETURN count(n)")).await,
            [[Value::Integer(5)]],
            "nothing was written"
        );
        client.query("CALL gnn.graph.drop('g')").await.unwrap();
        assert_eq!(world.sidebolt.metric("sidebolt_gnn_bytes", "").await, 0.0);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rules_forbid_is_not_projected() {
    for server in Neo4j::all("what_rules_forbid_is_not_projected") {
        let world = World::start_with(server, "Rules", 5, |config| {
            let label = Some("GnnRules".to_owned());
            config.guard.rules =
                vec![Rule { action: Action::Deny, reason: None, when: When { label, ..When::default() } }];
        })
        .await;
        let forbidden = "Neo.ClientError.Security.Forbidden";
        let mut client = world.client(V).await;
        let parameters = map([
            ("label", world.label.as_str().into()),
            ("nodes", world.text("MATCH (n:LABEL) RETURN id(n) AS id").into()),
            ("ends", "RETURN 1 AS source, 1 AS target LIMIT 0".into()),
        ]);
        for text in
            ["CALL gnn.graph.project('g', $label, '*')", "CALL gnn.graph.project.cypher('g', $nodes, $ends)"]
        {
            for in_transaction in [false, true] {
                if in_transaction {
                    assert!(client.one(begin()).await.is_success());
                }
                let run = run_with(text, parameters.clone(), none());
                let answers = client.ask_all(&[run, pull_all()]).await;
                assert_eq!(answers[0].code(), forbidden, "{text}: {answers:?}");
                assert!(client.one(reset()).await.is_success());
            }
        }
        assert!(client.query("CALL gnn.graph.list()").await.unwrap().is_empty());
        world.end().await;
    }
}
