//! What happens to a call when Neo4j, its client or its time is gone.

use bolt_wire::packstream::Value;

use super::*;
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::{PATIENCE, within_async};

const SHED: &str = "Neo.TransientError.Request.NoThreadsAvailable";

/// A Sidebolt whose way to Neo4j can be disturbed, and a client of it.
async fn disturbed(world: &World) -> (Proxy, Sidebolt, Client) {
    let proxy = Proxy::start(&world.server.address).await;
    let sidebolt = Sidebolt::start(proxy.address, |config| config.gnn.enabled = true).await;
    let client = Client::login(sidebolt.address, V, Neo4j::USER, &world.server.password).await;
    (proxy, sidebolt, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_while_reading_leaves_nothing() {
    let Some(server) = Neo4j::all("a_connection_that_is_lost_while_reading_leaves_nothing").pop() else {
        return;
    };
    let world = World::start(server, "Lost", 3000).await;
    let (proxy, sidebolt, mut client) = disturbed(&world).await;
    let project = world.project("g", "featureProperties: ['features', 'size']");
    for bytes in [2_000, 20_000, 60_000] {
        proxy.set(Fault::CutAfter(bytes));
        let said = refused(&mut client, &project, SHED).await;
        assert!(said.starts_with("Sidebolt: ") && said.contains("try again"), "{said}");
        proxy.set(Fault::None);
        assert_eq!(sidebolt.metric("sidebolt_gnn_bytes", "").await, 0.0);
    }
    let read = row(&mut client, &project).await;
    assert_eq!(integer(&read, "nodeCount"), 3000);
    sidebolt.at_rest().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_taken_back_ends() {
    let Some(server) = Neo4j::all("a_call_that_is_taken_back_ends").pop() else { return };
    let world = World::start(server, "Back", 50).await;
    let (proxy, sidebolt, mut client) = disturbed(&world).await;
    client.query("RETURN 1").await.unwrap();
    let project = world.project("g", "featureProperties: ['size']");
    for in_transaction in [false, true] {
        if in_transaction {
            let answers = client.ask_all(&[begin(), run("RETURN 1"), pull_all()]).await;
            assert!(answers[0].is_success() && answers[3].is_success(), "{answers:?}");
        }
        let held = sidebolt.pool().await;
        proxy.set(Fault::Freeze);
        client.send(&[run(&project), pull_all()].concat()).await.unwrap();
        within_async(PATIENCE, "the call has begun", || async {
            let now = sidebolt.pool().await;
            now.0 - now.1 > held.0 - held.1
        })
        .await;
        client.send(&reset()).await.unwrap();
        if in_transaction {
            proxy.set(Fault::None);
        }
        assert_eq!(kinds(&client.read_answers(3).await), ["IGNORED", "IGNORED", "SUCCESS"]);
        proxy.set(Fault::None);
        assert_eq!(
            client.query("CALL gnn.graph.list() YIELD graphName").await.unwrap(),
            Vec::<Vec<Value>>::new()
        );
        assert_eq!(sidebolt.metric("sidebolt_gnn_bytes", "").await, 0.0);
    }
    sidebolt.at_rest().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_has_the_time_that_its_transaction_has() {
    let Some(server) = Neo4j::all("a_call_has_the_time_that_its_transaction_has").pop() else { return };
    let world = World::start(server, "Time", 50).await;
    let (proxy, sidebolt, mut client) = disturbed(&world).await;
    client.query("RETURN 1").await.unwrap();
    proxy.set(Fault::Freeze);
    let extra = map([("tx_timeout", 50.into())]);
    let answers = client.ask_all(&[run_with(&world.project("g", ""), none(), extra), pull_all()]).await;
    assert_eq!(kinds(&answers), ["FAILURE", "IGNORED"], "{answers:?}");
    assert_eq!(answers[0].code(), "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration");
    assert!(answers[0].text().contains("tx_timeout"), "{}", answers[0].text());
    proxy.set(Fault::None);
    assert!(client.one(reset()).await.is_success());
    client.query(&world.project("g", "")).await.unwrap();
    client.query("CALL gnn.graph.drop('g')").await.unwrap();
    sidebolt.at_rest().await;
    world.end().await;
}
