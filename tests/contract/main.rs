//! The contract list: what the README shows on the demo graph must be what real Neo4j gives.
//!
//! A target of its own, because the list begins by emptying the database that it runs on.

#![cfg(feature = "demo")]
#![expect(unreachable_pub, reason = "nothing outside sees a test binary; `pub` says what the list offers")]

mod list;

use std::io::Write;

use sidebolt::bolt_client::Auth;
use sidebolt::demo::engine::{Engine, Waits};
use sidebolt::demo::server::DemoServer;

/// Runs the list and wants every statement to agree.
async fn keeps_the_contract(address: &str, auth: Auth) {
    let outcomes = list::run(address, auth).await.expect("the list ran");
    let broken = outcomes.iter().filter(|outcome| !outcome.agrees());
    let broken: Vec<_> = broken.map(|outcome| (&outcome.name, &outcome.expected, &outcome.found)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(outcomes.len() >= 40 && outcomes.iter().all(|outcome| !outcome.expected.is_null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_graph_keeps_the_contract() {
    let server =
        DemoServer::start(Engine::new(Waits::default()).expect("an engine")).await.expect("a server");
    // Twice, because a run must not depend on an empty graph.
    for _ in 0..2 {
        keeps_the_contract(&server.address().to_string(), Auth::None).await;
    }
}

/// With `NEO4J_5_ADDRESS` and `NEO4J_2026_ADDRESS` as in tests/it.
#[tokio::test(flavor = "multi_thread")]
async fn real_neo4j_keeps_the_contract() {
    for variable in ["NEO4J_5_ADDRESS", "NEO4J_2026_ADDRESS"] {
        let Ok(address) = std::env::var(variable) else {
            let needed = std::env::var_os("SIDEBOLT_TEST_NO_SKIP").is_some();
            assert!(!needed, "{variable} is not set and SIDEBOLT_TEST_NO_SKIP forbids to skip");
            // Not `eprintln`: the test harness would swallow it.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED real_neo4j_keeps_the_contract: needs {variable}=host:port"
            );
            continue;
        };
        let password = std::env::var("NEO4J_PASSWORD").unwrap_or_else(|_| "password".to_owned());
        keeps_the_contract(&address, Auth::basic("neo4j", &password)).await;
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
