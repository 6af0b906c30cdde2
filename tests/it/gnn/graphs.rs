//! Graphs and streams.

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use bolt_wire::{Tag, chunk};

use super::*;
use crate::support::wait::{PATIENCE, within_async};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_is_read_listed_used_and_dropped() {
    for server in Neo4j::all("a_graph_is_read_listed_used_and_dropped") {
        let world = World::start(server, "Read", 12).await;
        let mut client = world.client(V).await;
        let configuration = "featureProperties: ['size', 'features', 'even', {property: 'color', encoding: 'onehot'}], degree: true";
        let read = row(&mut client, &world.project("g", configuration)).await;
        assert_eq!((integer(&read, "nodeCount"), integer(&read, "relationshipCount")), (12, 24));
        assert_eq!(integer(&read, "featureCount"), 1 + 3 + 1 + 3 + 2);
        let listed = row(&mut client, "CALL gnn.graph.list('g')").await;
        assert_eq!(listed.get("database"), Some(&"neo4j".into()));
        assert!(matches!(listed.get("stale"), Some(Value::Boolean(_))), "{listed:?}");
        let names: Vec<_> = listed.get("features").unwrap().as_list().unwrap().to_vec();
        assert_eq!(names[5..8], ["color=blue".into(), "color=green".into(), "color=red".into()]);

        // The same by another name of the home database, and not for another user.
        let named = map([("db", "neo4j".into())]);
        let rows = client
            .query_with(run_with("CALL gnn.graph.list() YIELD graphName", none(), named))
            .await
            .unwrap();
        assert_eq!(rows, [["g".into()]]);

        let rows = client.query("CALL gnn.fastRP.stream('g', {embeddingDimension: 8})").await.unwrap();
        assert_eq!(rows.len(), 12);
        let ids = world
            .server
            .admin(&world.text("MATCH (n:LABEL) RETURN id(n), elementId(n) ORDER BY id(n)"))
            .await;
        for (row, id) in rows.iter().zip(&ids) {
            assert_eq!(row[..2], id[..]);
            let numbers = floats(&row[2]);
            assert!(numbers.len() == 8 && numbers.iter().all(|number| number.is_finite()));
        }
        // The same seed gives the same, another one another.
        let again = client
            .query("CALL gnn.fastRP.stream('g', {embeddingDimension: 8}) YIELD embedding AS e, nodeId")
            .await;
        assert_eq!(again.unwrap()[3][0], rows[3][2]);
        let other = client
            .query("CALL gnn.fastRP.stream('g', {embeddingDimension: 8, randomSeed: 7})")
            .await
            .unwrap();
        assert_ne!(other[3][2], rows[3][2]);
        let dropped = row(&mut client, "CALL gnn.graph.drop('g')").await;
        assert_eq!(integer(&dropped, "nodeCount"), 12);
        assert!(client.query("CALL gnn.graph.drop('g', false)").await.unwrap().is_empty());
        assert_eq!(world.sidebolt.metric("sidebolt_gnn_bytes", "").await, 0.0, "its bytes are free again");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_fetched_in_pieces_in_every_version() {
    let Some(server) = Neo4j::all("rows_are_fetched_in_pieces_in_every_version").pop() else { return };
    let world = World::start(server, "Pieces", 7).await;
    let calendar = world.server.line == crate::support::neo4j::Line::Calendar;
    for version in Version::ALL.into_iter().filter(|version| calendar || *version < Version::V6_0) {
        let mut client = world.client(version).await;
        client.query(&world.project("g", "")).await.unwrap();
        let call = "CALL gnn.fastRP.stream('g', {embeddingDimension: 4}) YIELD nodeId";
        let answers = client.ask_all(&[run(call), pull(3)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "RECORD", "RECORD", "SUCCESS"], "{version}");
        assert_eq!(answers[4].success(), &map([("has_more", true.into())]));
        let answers = client.ask_all(&[message(Tag::DISCARD, &[map([("n", 2.into())])]), pull(5)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "RECORD", "SUCCESS"], "{version}");
        assert_eq!(answers[3].success().get("type"), Some(&"r".into()));
        // Taken back in the middle, and inside of a transaction beside Neo4j's own results.
        let answers = client.ask_all(&[run(call), pull(1)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "SUCCESS"], "{version}");
        assert!(client.one(reset()).await.is_success());
        let answers = client
            .ask_all(&[
                begin(),
                run("UNWIND [1, 2] AS x RETURN x"),
                pull(1),
                run(call),
                pull(6),
                pull_all(),
                commit(),
            ])
            .await;
        let records = answers.iter().filter(|answer| !answer.is_last()).count();
        assert!(
            records == 8 && answers.iter().all(|answer| !answer.is_last() || answer.is_success()),
            "{version}: {answers:?}"
        );
        let answers = client.ask_all(&[run(call), discard(-1)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS"]);
        if version >= Version::V6_0 {
            let text = "CALL gnn.fastRP.stream('g', {embeddingDimension: 4, embeddingType: 'vector'}) YIELD embedding";
            let rows = client.query(text).await.unwrap();
            assert!(
                matches!(&rows[0][0], Value::Struct(0x56, fields) if fields[0] == Value::Bytes(vec![0xC6])),
                "{rows:?}"
            );
        }
        client.query("CALL gnn.graph.drop('g')").await.unwrap();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_query_runs_in_neo4j() {
    for server in Neo4j::all("the_rest_of_a_query_runs_in_neo4j") {
        let world = World::start(server, "Rest", 9).await;
        let mut client = world.client(V).await;
        client.query(&world.project("g", "orientation: 'UNDIRECTED'")).await.unwrap();
        let call =
            "CALL gnn.fastRP.stream($graph, {embeddingDimension: $d}) YIELD elementId AS e, embedding AS v";
        let parameters = || map([("graph", "g".into()), ("d", 4.into()), ("least", 3.into())]);
        let text = world.text(&format!(
            "{call} MATCH (n:LABEL) WHERE elementId(n) = e AND n.at >= $least RETURN n.at AS at, size(v) AS width ORDER BY at DESC LIMIT 2"
        ));
        let expected = [[8.into(), 4.into()], [7.into(), 4.into()]];
        assert_eq!(client.query_with(run_with(&text, parameters(), none())).await.unwrap(), expected);
        // In a transaction it sees what the transaction has done, and so it is with its writes.
        let write = world
            .text(&format!("{call} MATCH (n:LABEL) WHERE elementId(n) = e SET n.at = n.at + 100, n.v = v"));
        for wait in [false, true] {
            let mut answers = if wait { client.ask_all(&[begin()]).await } else { Vec::new() };
            let first = if wait { Vec::new() } else { vec![begin()] };
            let requests = [
                first,
                vec![
                    run_with(&write, parameters(), none()),
                    pull_all(),
                    run(&world.text("MATCH (n:LABEL) RETURN min(n.at), count(n.v)")),
                    pull_all(),
                    rollback(),
                ],
            ]
            .concat();
            answers.extend(client.ask_all(&requests).await);
            let seen: Vec<_> = answers
                .iter()
                .filter_map(|answer| if let Answer::Record(row) = answer { Some(row.clone()) } else { None })
                .collect();
            assert_eq!(seen, [[100.into(), 9.into()]], "{answers:?}");
        }
        let filtered = "CALL gnn.graph.list() YIELD graphName, nodeCount WHERE nodeCount > 8 RETURN graphName + '!' AS g";
        assert_eq!(client.query(filtered).await.unwrap(), [["g!".into()]]);
        // Errors of the rest are Neo4j's own.
        let broken = refused(&mut client, "CALL gnn.graph.list() YIELD graphName RETURN nope", SYNTAX).await;
        assert!(broken.contains("nope"), "{broken}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named_and_nothing_is_left() {
    for server in Neo4j::all("what_is_wrong_is_named_and_nothing_is_left") {
        let world = World::start(server, "Wrong", 5).await;
        world
            .server
            .admin(
                &world.text("MATCH (n:LABEL {at: 3}) SET n.size = 0.0 / 0.0, n.mixed = 'x', n.odd = [1.0]"),
            )
            .await;
        world.server.admin(&world.text("MATCH (n:LABEL {at: 4}) SET n.odd = [1.0, 2.0]")).await;
        let mut client = world.client(V).await;
        let project = |configuration: &str| world.project("g", configuration);
        let cases = [
            (project("featureProperties: ['size']"), FAILED, "is NaN"),
            (project("featureProperties: ['mixed']"), FAILED, "encoding: 'onehot'"),
            (project("featureProperties: ['odd']"), FAILED, "`odd` has"),
            (project("featureProperties: ['nope']"), FAILED, "`nope` is on none of the 5 nodes"),
            (project("featureProperties: ['odd'], featureFallback: 'error'"), FAILED, "`odd`"),
            (project("featurePropertys: ['at']"), FAILED, "Did you mean [featureProperties]?"),
            (project("featureProperties: 3"), FAILED, "`featureProperties` must be of type"),
            (project("relationshipWeightProperty: 'color'"), "", ""),
            ("CALL gnn.graph.project('g', 'GnnNope', '*')".to_owned(), FAILED, "'GnnNope'"),
            ("CALL gnn.graph.project('g', '*', 'GNN_NOPE')".to_owned(), FAILED, "'GNN_NOPE'"),
            (
                "CALL gnn.graph.project('', '*', '*')".to_owned(),
                FAILED,
                "`graphName` can not be null or blank",
            ),
            ("CALL gnn.graph.project('g', '*')".to_owned(), SYNTAX, "expected 3 to 4"),
            (
                "CALL gnn.fastRP.stream('nope')".to_owned(),
                FAILED,
                "Graph with name `nope` does not exist on database `neo4j`",
            ),
            ("CALL gnn.graph.drop('nope')".to_owned(), FAILED, "does not exist"),
            (
                "CALL gnn.fastRP.strem('g')".to_owned(),
                "Neo.ClientError.Procedure.ProcedureNotFound",
                "Did you mean `gnn.fastRP.stream`?",
            ),
            (
                "MATCH (n) CALL gnn.graph.list() YIELD graphName RETURN graphName".to_owned(),
                SYNTAX,
                "first thing in a query",
            ),
            ("EXPLAIN CALL gnn.graph.list()".to_owned(), SYNTAX, "first thing in a query"),
            (
                "CALL gnn.graph.list($missing)".to_owned(),
                "Neo.ClientError.Statement.ParameterMissing",
                "missing",
            ),
        ];
        for (text, code, words) in &cases {
            if code.is_empty() {
                // No relationship has that property: each counts as 1.
                client.query(text).await.unwrap();
                client.query("CALL gnn.graph.drop('g')").await.unwrap();
                continue;
            }
            let said = refused(&mut client, text, code).await;
            assert!(said.contains(words), "{text}: {said}");
        }
        client.query(&project("featureProperties: ['at']")).await.unwrap();
        for (configuration, words) in [
            ("embeddingDimension: 0", "`embeddingDimension` was `0`"),
            ("embeddingDimension: '8'", "`embeddingDimension` must be of type `INTEGER`"),
            ("embeddingDimensions: 8", "Did you mean [embeddingDimension]?"),
            ("iterationWeights: []", "`iterationWeights`"),
            ("propertyRatio: 0.5", "`featureProperties` may not be empty"),
            (
                "propertyRatio: 0.5, featureProperties: ['size']",
                "`size`, which the graph was not projected with: it has at",
            ),
            ("propertyRatio: 2", "[0.0, 1.0]"),
            ("nodeLabels: ['X']", "`nodeLabels` can only be ['*']"),
            ("embeddingType: 'vector'", "Bolt 6.0"),
        ] {
            let said =
                refused(&mut client, &format!("CALL gnn.fastRP.stream('g', {{{configuration}}})"), FAILED)
                    .await;
            assert!(
                said.starts_with("Failed to invoke procedure `gnn.fastRP.stream`: Caused by: ")
                    && said.contains(words),
                "{said}"
            );
        }
        let twice = refused(&mut client, &project(""), FAILED).await;
        assert!(twice.contains("A graph with name 'g' already exists"), "{twice}");
        client.query("CALL gnn.graph.drop('g')").await.unwrap();
        assert_eq!(world.sidebolt.metric("sidebolt_gnn_bytes", "").await, 0.0);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_is_read_again_once_neo4j_has_changed() {
    for server in Neo4j::all("a_graph_is_read_again_once_neo4j_has_changed") {
        let world = World::start(server, "Fresh", 6).await;
        let mut client = world.client(V).await;
        client.query(&world.project("g", "featureProperties: ['at']")).await.unwrap();
        client.query(&world.project("old", "featureProperties: ['at'], maxStaleness: 3600")).await.unwrap();
        let count = "CALL gnn.fastRP.stream('g', {embeddingDimension: 4}) YIELD nodeId RETURN count(*) AS n";
        let old = count.replace("'g'", "'old'");
        assert_eq!(client.query(count).await.unwrap(), [[6.into()]]);
        // Through this Sidebolt, and around it.
        client.query(&world.text("CREATE (:LABEL {at: 6})")).await.unwrap();
        assert_eq!(client.query(count).await.unwrap(), [[7.into()]]);
        world.server.admin(&world.text("CREATE (:LABEL {at: 7})")).await;
        assert_eq!(client.query(count).await.unwrap(), [[8.into()]]);
        assert_eq!(client.query(&old).await.unwrap(), [[6.into()]], "it may be old");
        let version = |row: &Value| integer(row, "version");
        // Others write to this server, too: it is tried until nobody does for a moment.
        let client = tokio::sync::Mutex::new(client);
        within_async(PATIENCE, "a graph that has not changed is not read again", || async {
            let mut client = client.lock().await;
            assert_eq!(client.query(count).await.unwrap(), [[8.into()]]);
            let before = row(&mut client, "CALL gnn.graph.list('g')").await;
            assert_eq!(client.query(count).await.unwrap(), [[8.into()]]);
            let after = row(&mut client, "CALL gnn.graph.list('g')").await;
            before.get("stale") == Some(&Value::Boolean(false)) && version(&before) == version(&after)
        })
        .await;
        let mut client = client.into_inner();
        client.query("CALL gnn.graph.drop('g')").await.unwrap();
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_there_may_be_is_refused_with_what_to_do() {
    let Some(server) = Neo4j::all("more_than_there_may_be_is_refused_with_what_to_do").pop() else { return };
    let world = World::start_with(server, "Much", 3000, |config| {
        config.gnn.max_bytes = 1 << 20;
        config.gnn.max_rows = 100;
    })
    .await;
    let mut client = world.client(V).await;
    let wide: Vec<String> =
        (0..40).map(|at| format!("{{property: 'color', encoding: 'hash', size: {}}}", 64 + at)).collect();
    let said =
        refused(&mut client, &world.project("g", &format!("featureProperties: [{}]", wide[39])), FAILED)
            .await;
    assert!(said.contains("gnn.max_bytes") && said.contains("gnn.graph.drop()"), "{said}");
    client.query(&world.project("g", "")).await.unwrap();
    let said = refused(&mut client, "CALL gnn.fastRP.stream('g', {embeddingDimension: 512})", FAILED).await;
    assert!(said.contains("gnn.max_bytes"), "{said}");
    let rest = "CALL gnn.fastRP.stream('g', {embeddingDimension: 2}) YIELD nodeId RETURN count(*)";
    let said = refused(&mut client, rest, FAILED).await;
    assert!(said.contains("3000 rows") && said.contains("gnn.max_rows is 100"), "{said}");
    client.query("CALL gnn.graph.drop('g')").await.unwrap();
    assert_eq!(world.sidebolt.metric("sidebolt_gnn_bytes", "").await, 0.0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_off_unless_it_is_switched_on() {
    let Some(server) = Neo4j::all("it_is_off_unless_it_is_switched_on").pop() else { return };
    let world = World::start_with(server, "Off", 1, |config| config.gnn.enabled = false).await;
    let mut client = world.client(V).await;
    let said =
        refused(&mut client, "CALL gnn.graph.list()", "Neo.ClientError.Procedure.ProcedureNotFound").await;
    assert!(!said.contains("Sidebolt"), "{said}");
    world.sidebolt.reconfigure(|config| config.gnn.enabled = true);
    assert!(client.query("CALL gnn.graph.list()").await.unwrap().is_empty());
    assert_eq!(chunk::NOOP.len(), 2);
    world.end().await;
}
