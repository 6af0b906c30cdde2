//! The contract list on the demo graph: what it gives there must be what Neo4j was recorded to give.
//! And: no engine in a build that wants none.

#[cfg(feature = "demo")]
#[path = "mod.rs"]
mod list;

#[cfg(feature = "demo")]
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_graph_keeps_the_contract() {
    use sidebolt::bolt_client::Auth;
    use sidebolt::demo::engine::{Engine, Waits};
    use sidebolt::demo::server::DemoServer;

    let server =
        DemoServer::start(Engine::new(Waits::default()).expect("an engine")).await.expect("a server");
    let address = server.address().to_string();
    // Twice, because a run must not depend on an empty graph.
    for _ in 0..2 {
        let outcomes = list::run(&address, Auth::None).await.expect("the list ran");
        if let Some(outcome) = outcomes.iter().find(|outcome| !outcome.agrees()) {
            panic!("{}:\nexpected {}\nfound    {}", outcome.name, outcome.expected, outcome.found);
        }
        assert!(outcomes.len() >= 40 && outcomes.iter().all(|outcome| !outcome.expected.is_null()));
    }
}

/// Release images are built without the feature `demo`; nothing of its engine may come in another way.
#[test]
fn a_build_without_the_demo_has_no_engine_in_it() {
    let tree = |features: &[&str]| {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none"]).args(features);
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(tree(&["--features", "demo"]).contains("grafeo"), "the check looks for the right name");
    assert!(!tree(&["--no-default-features"]).contains("grafeo"));
}
