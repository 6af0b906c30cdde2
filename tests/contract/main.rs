//! The contract list on the demo graph: what it gives there must be what Neo4j was recorded to give.

#[cfg(feature = "demo")]
mod list {
    include!("mod.rs");
}

#[cfg(feature = "demo")]
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_graph_keeps_the_contract() {
    use sidebolt::bolt_client::Auth;
    use sidebolt::demo::engine::{Engine, Waits};
    use sidebolt::demo::server::DemoServer;

    let server = DemoServer::start(Engine::new(Waits::default()).expect("an engine")).await.expect("a server");
    let address = server.address().to_string();
    // Twice, because a run must not depend on an empty graph.
    for _ in 0..2 {
        let outcomes = list::run(&address, Auth::None).await.expect("the list ran");
        let broken: Vec<_> = outcomes.iter().filter(|outcome| !outcome.agrees()).collect();
        assert!(broken.is_empty(), "{broken:#?}");
        assert!(outcomes.len() >= 40 && outcomes.iter().all(|outcome| !outcome.expected.is_null()));
    }
}
