//! Embeddings written to Neo4j.

use std::time::Duration;

use bolt_wire::packstream::Value;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_are_written_in_batches_with_an_index() {
    for server in Neo4j::all("embeddings_are_written_in_batches_with_an_index") {
        let world = World::start_with(server, "Write", 25, |config| config.gnn.write_batch = 7).await;
        let mut client = world.client(V).await;
        client.query(&world.project("g", "")).await.unwrap();
        let call = "CALL gnn.fastRP.write('g', {embeddingDimension: 8, writeProperty: 'emb'})";
        let answers = client.ask_all(&[run(call), pull_all()]).await;
        let meta = answers[2].success();
        assert_eq!(meta.get("type"), Some(&"rw".into()), "{meta:?}");
        assert!(meta.get("bookmark").is_some(), "who reads next can wait for it");
        let Answer::Record(written) = &answers[1] else { panic!("{answers:?}") };
        assert_eq!(written[..2], [25.into(), 25.into()]);
        assert_eq!(written[5], format!("gnn_{}_emb", world.label).as_str().into());
        let streamed = client
            .query("CALL gnn.fastRP.stream('g', {embeddingDimension: 8}) YIELD nodeId, embedding")
            .await
            .unwrap();
        let stored =
            world.server.admin(&world.text("MATCH (n:LABEL) RETURN id(n), n.emb ORDER BY id(n)")).await;
        for (one, other) in streamed.iter().zip(&stored) {
            assert_eq!(one[0], other[0]);
            let near = floats(&one[1]).iter().zip(floats(&other[1])).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(near, "{one:?} {other:?}");
        }
        // Once more: the index is there, and another width does not fit it.
        let again = row(&mut client, call).await;
        assert_eq!((integer(&again, "nodePropertiesWritten"), again.get("index")), (25, Some(&written[5])));
        let wide = call.replace("8", "9");
        let said = refused(&mut client, &wide, FAILED).await;
        assert!(said.contains("has 8 dimensions, and these embeddings have 9"), "{said}");
        let plain = wide.replace("'emb'", "'other', createIndex: false");
        assert_eq!(row(&mut client, &plain).await.get("index"), Some(&Value::Null));
        let found = format!(
            "MATCH (n:{0} {{at: 3}}) CALL db.index.vector.queryNodes('gnn_{0}_emb', 1, n.emb) YIELD node, score RETURN node.at, score > 0.99",
            world.label
        );
        world.server.admin("CALL db.awaitIndexes(60)").await;
        let one = async { client.query(&found).await.unwrap() };
        let one = tokio::time::timeout(Duration::from_secs(60), one).await.unwrap();
        assert_eq!(one, [[3.into(), true.into()]]);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_belongs_to_the_callers_transaction() {
    for server in Neo4j::all("a_write_belongs_to_the_callers_transaction") {
        let world = World::start(server, "Tx", 10).await;
        let mut client = world.client(V).await;
        client.query(&world.project("g", "")).await.unwrap();
        let call = "CALL gnn.fastRP.write('g', {embeddingDimension: 3, writeProperty: 'emb'})";
        let count = world.text("MATCH (n:LABEL) RETURN count(n.emb)");
        for (end, expected) in [(rollback(), 0), (commit(), 10)] {
            let requests = [
                begin(),
                run(&format!("{call} YIELD nodePropertiesWritten AS n, index, configuration")),
                pull_all(),
                run(&format!("{call} YIELD nodeCount RETURN nodeCount * 2")),
                pull_all(),
                run(&count),
                pull_all(),
                end,
            ];
            let answers = client.ask_all(&requests).await;
            let rows: Vec<_> = answers
                .iter()
                .filter_map(|answer| if let Answer::Record(row) = answer { Some(row) } else { None })
                .collect();
            assert_eq!(rows.len(), 3, "{answers:?}");
            assert_eq!(
                (&rows[0][..2], &rows[1][0], &rows[2][0]),
                (&[10.into(), Value::Null][..], &20.into(), &10.into())
            );
            assert_eq!(rows[0][2].get("writeProperty"), Some(&"emb".into()));
            assert_eq!(world.server.admin(&count).await, [[expected.into()]]);
        }
        // Whoever may only read may not write.
        let words = "Writing in read access mode not allowed";
        let extra = map([("mode", "r".into())]);
        let answers = client.ask_all(&[run_with(call, none(), extra), pull_all()]).await;
        assert_eq!(answers[0].code(), "Neo.ClientError.Statement.AccessMode", "{answers:?}");
        assert!(answers[0].text().contains(words) && client.one(reset()).await.is_success());
        let answers = client.ask_all(&[begin_with([("mode", "r".into())]), run(call), pull_all()]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "FAILURE", "IGNORED"], "{answers:?}");
        assert!(client.one(reset()).await.is_success());
        world.sidebolt.reconfigure(|config| config.guard.read_only = true);
        let said = refused(&mut client, call, "Neo.ClientError.Statement.AccessMode").await;
        assert!(said.contains("guard.read_only"), "{said}");
        world.end().await;
    }
}
