//! Embeddings of nodes without a graph: what is read around them, and what is kept of it.

use bolt_wire::packstream::Value;

use super::models::world_of_sage;
use super::*;
use crate::support::wait::{PATIENCE, within_async};

const NODES: usize = 60;

/// Rows by a graph that was read just now, and without one.
async fn both(world: &World, client: &mut Client, ids: &[Value]) -> [Vec<Vec<Value>>; 2] {
    let nodes = || map([("nodes", Value::List(ids.to_vec()))]);
    client.query(&world.project("now", "featureProperties: ['wide']")).await.unwrap();
    let graph = "CALL gnn.embed.stream('now', {modelName: 'sage', nodes: $nodes})";
    let graph = client.query_with(run_with(graph, nodes(), none())).await.unwrap();
    client.query("CALL gnn.graph.drop('now')").await.unwrap();
    let live = world.text(
        "CALL gnn.embed.stream($nodes, {modelName: 'sage', relationshipTypes: 'LABEL', orientation: 'NATURAL', sampleSizes: [60, 60, 60]})",
    );
    let live = client.query_with(run_with(&live, nodes(), none())).await.unwrap();
    [graph, live]
}

fn same([graph, live]: &[Vec<Vec<Value>>; 2], after: &str) {
    assert_eq!(graph.len(), live.len(), "{after}");
    for (graph, live) in graph.iter().zip(live) {
        assert_eq!(graph[..2], live[..2], "{after}");
        let apart = floats(&graph[2]).into_iter().zip(floats(&live[2])).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f64::max) < 1e-5, "{after}: {graph:?} and {live:?}");
    }
}

async fn ids(world: &World) -> Vec<Value> {
    let rows = world.server.admin(&world.text("MATCH (n:LABEL) RETURN id(n) ORDER BY n.at")).await;
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

/// Whatever is written, here or around Sidebolt, the next call sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_around_nodes_is_never_out_of_date() {
    for server in Neo4j::all("what_is_kept_around_nodes_is_never_out_of_date") {
        let folder = tempfile::tempdir().unwrap();
        let world = world_of_sage(server, "Live", NODES, folder.path()).await;
        let mut client = world.client(V).await;
        let writes = [
            "MATCH (n:LABEL {at: 7}) SET n.wide = [i IN range(1, 12) | 9.5 - i]",
            "MATCH (:LABEL {at: 8})-[r]->(:LABEL {at: 9}) DELETE r",
            "MATCH (a:LABEL {at: 30}), (b:LABEL {at: 7}) CREATE (a)-[:LABEL]->(b)",
            "MATCH (n:LABEL {at: 6}) REMOVE n.wide",
            "MATCH (n:LABEL {at: 5}) DETACH DELETE n",
            "MATCH (n:LABEL {at: 7}) CREATE (:LABEL {at: -1, wide: [i IN range(1, 12) | toFloat(i)]})-[:LABEL]->(n)",
        ];
        let asked = |all: &[Value]| [5usize, 8, 9, 31].map(|at| all[at].clone());
        same(&both(&world, &mut client, &asked(&ids(&world).await)).await, "nothing");
        for (round, write) in writes.iter().chain(&writes[..3]).enumerate() {
            let text = world.text(write);
            if round % 2 == 0 {
                client.query(&text).await.unwrap();
            } else {
                world.server.admin(&text).await;
            }
            let all = ids(&world).await;
            for _ in 0..3 {
                same(&both(&world, &mut client, &asked(&all)).await, write);
            }
        }
        world.end().await;
    }
}

/// Nothing changes: what one call has read the next one has, and another user has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_around_nodes_is_kept() {
    let Some(server) = Neo4j::all("what_was_read_around_nodes_is_kept").pop() else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = world_of_sage(server, "Around", NODES, folder.path()).await;
    let client = tokio::sync::Mutex::new(world.client(V).await);
    let some = ids(&world).await[3..6].to_vec();
    let read = || world.sidebolt.metric("sidebolt_gnn_neighbourhood_misses_total", "");
    // Others write to this server, too: it is tried until nobody does for a moment.
    within_async(PATIENCE, "nothing is read again", || async {
        let mut client = client.lock().await;
        same(&both(&world, &mut client, &some).await, "nothing");
        let before = read().await;
        same(&both(&world, &mut client, &some).await, "nothing");
        assert!(before > 0.0);
        read().await == before && world.sidebolt.metric("sidebolt_gnn_neighbourhood_bytes", "").await > 0.0
    })
    .await;
    assert!(world.sidebolt.metric("sidebolt_gnn_neighbourhood_hits_total", "").await > 0.0);
    world.sidebolt.reconfigure(|config| config.gnn.cache_bytes = 0);
    let mut client = client.into_inner();
    for _ in 0..2 {
        let before = read().await;
        same(&both(&world, &mut client, &some).await, "nothing is kept");
        assert!(read().await > before);
    }
    assert_eq!(world.sidebolt.metric("sidebolt_gnn_neighbourhood_bytes", "").await, 0.0);
    world.end().await;
}

/// What computes, and how much of its memory is in use: by the procedure and by the metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_computes_is_shown() {
    let Some(server) = Neo4j::all("what_computes_is_shown").pop() else { return };
    let world = World::start(server, "Device", 1).await;
    let mut client = world.client(V).await;
    let columns = "kind, memoryTotal, memoryFree, memoryAllocated, memoryUtilization";
    let cpu =
        row(&mut client, &format!("CALL gnn.device() YIELD {columns} WHERE kind = 'cpu' RETURN {columns}"))
            .await;
    let [total, free, allocated] =
        ["memoryTotal", "memoryFree", "memoryAllocated"].map(|column| integer(&cpu, column));
    assert!(free > 0 && allocated > 0 && total == free + allocated, "{cpu:?}");
    let Some(Value::Float(share)) = cpu.get("memoryUtilization") else { panic!("{cpu:?}") };
    assert!((share - allocated as f64 / total as f64).abs() < 1e-9, "{cpu:?}");
    let metric = async |kind: &str| world.sidebolt.metric("sidebolt_gnn_device_memory_bytes", kind).await;
    assert_eq!(metric("total").await, total as f64);
    assert!(metric("allocated").await > 0.0);
    world.end().await;
}

/// What cannot be answered is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_call_without_a_graph_is_named() {
    let Some(server) = Neo4j::all("what_is_wrong_with_a_call_without_a_graph_is_named").pop() else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = world_of_sage(server, "Alone", 10, folder.path()).await;
    let mut client = world.client(V).await;
    for (arguments, words) in [
        ("[], {modelName: 'sage'}", "`nodes` has 0 entries"),
        ("[1.5], {modelName: 'sage'}", "`nodes`"),
        ("[9007199254740991], {modelName: 'sage'}", "there is none of them in the database"),
        ("[1], {modelName: 'nope'}", "nope"),
        ("[1], {modelName: 'sage', sampleSizes: [5]}", "the model `sage` has 3 layers"),
        ("[1], {modelName: 'sage', sampleSize: [5]}", "Did you mean [sampleSizes]?"),
    ] {
        let said = refused(&mut client, &format!("CALL gnn.embed.stream({arguments})"), FAILED).await;
        assert!(said.contains(words), "{arguments}: {said}");
    }
    let first = ids(&world).await.remove(0);
    let call = "CALL gnn.embed.stream($nodes, {modelName: 'sage', featureProperties: ['color'], relationshipTypes: 'LABEL'})";
    let asked = run_with(&world.text(call), map([("nodes", Value::List(vec![first]))]), none());
    let said = client.query_with(asked).await.unwrap_err();
    assert!(said.text().contains("encoding"), "{said:?}");
    world.end().await;
}
