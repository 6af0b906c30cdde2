//! `indexes`: made at start, after a change, and once a server answers; told clearly when they cannot be made.

use std::process::Stdio;

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use sidebolt::config::{AuthMode, Index, Secret};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::neo4j::Neo4j;
use crate::support::proxy::{Fault, Proxy};
use crate::support::raw_client::Client;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, within_async};

/// A label that no other test has, with a character that must be quoted.
fn unused(test: &str) -> String {
    format!("It`{test} {}", std::process::id())
}

fn node(label: &str, properties: &[&str]) -> Index {
    let properties = properties.iter().map(|name| (*name).to_owned()).collect();
    Index { label: Some(label.to_owned()), properties, ..Index::default() }
}

fn relationship(kind: &str, properties: &[&str]) -> Index {
    Index { label: None, r#type: Some(kind.to_owned()), ..node("", properties) }
}

fn unique(index: Index) -> Index {
    Index { unique: true, ..index }
}

async fn start(neo4j: &Neo4j, upstream: impl std::fmt::Display, indexes: Vec<Index>) -> Sidebolt {
    Sidebolt::start(upstream, |config| {
        config.auth.username = Some(Neo4j::USER.to_owned());
        config.auth.password = Some(Secret(neo4j.password.clone()));
        config.indexes = indexes;
    })
    .await
}

async fn counted(sidebolt: &Sidebolt, state: &str, count: usize) {
    let what = format!("{count} indexes are {state}");
    within_async(PATIENCE, &what, || async {
        sidebolt.metric("sidebolt_indexes", state).await == count as f64
    })
    .await;
}

/// What the server has for a label or type: properties and whether a constraint owns it, sorted.
async fn there(neo4j: &Neo4j, of: &str) -> Vec<(Vec<String>, bool, String)> {
    let rows = neo4j
        .admin("SHOW INDEXES YIELD name, owningConstraint, properties, labelsOrTypes, state WHERE state = 'ONLINE'")
        .await;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut found: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            let [name, owner, properties, of_these, _] = row.as_slice() else { return None };
            let mine = of_these.as_list()?.iter().any(|one| one.as_str() == Some(of));
            let properties = properties.as_list()?.iter().filter_map(text).collect();
            mine.then(|| (properties, *owner != Value::Null, text(name).unwrap_or_default()))
        })
        .collect();
    found.sort();
    found
}

async fn drop_all(neo4j: &Neo4j, of: &str) {
    for (_, owned, name) in there(neo4j, of).await {
        let what = if owned { "CONSTRAINT" } else { "INDEX" };
        neo4j.admin(&format!("DROP {what} `{}`", name.replace('`', "``"))).await;
    }
    neo4j.admin(&format!("MATCH (n:`{}`) DETACH DELETE n", of.replace('`', "``"))).await;
}

fn names(properties: &[&str]) -> Vec<String> {
    properties.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_made_at_start_and_after_a_change() {
    for neo4j in Neo4j::all("indexes::every_kind_is_made_at_start_and_after_a_change") {
        let (label, kind) = (unused("kinds"), unused("kinds r"));
        let name = unused("kinds name");
        let mut indexes = vec![
            node(&label, &["a"]),
            Index { name: Some(name.clone()), ..node(&label, &["b", "x` y"]) },
            unique(node(&label, &["c"])),
            unique(node(&label, &["c", "d"])),
            relationship(&kind, &["a"]),
            relationship(&kind, &["b", "a"]),
            unique(relationship(&kind, &["c"])),
            unique(relationship(&kind, &["c", "d"])),
        ];
        indexes[0].database = Some("neo4j".to_owned());
        let sidebolt = start(&neo4j, &neo4j.address, indexes.clone()).await;
        counted(&sidebolt, "online", 8).await;
        let found = there(&neo4j, &label).await;
        let kinds: Vec<_> = found.iter().map(|(properties, owned, _)| (properties.clone(), *owned)).collect();
        let expected = [
            (names(&["a"]), false),
            (names(&["b", "x` y"]), false),
            (names(&["c"]), true),
            (names(&["c", "d"]), true),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(found[1].2, name);
        assert_eq!(there(&neo4j, &kind).await.len(), 4);

        sidebolt.reconfigure(|config| config.indexes.push(node(&label, &["later"])));
        counted(&sidebolt, "online", 9).await;
        assert_eq!(there(&neo4j, &label).await.len(), 5);

        // What is there stays as it is, also for the next Sidebolt and for one that is told less.
        sidebolt.reconfigure(|config| config.indexes.truncate(1));
        counted(&sidebolt, "online", 1).await;
        let next = start(&neo4j, &neo4j.address, indexes).await;
        counted(&next, "online", 8).await;
        assert_eq!(there(&neo4j, &label).await.len(), 5);
        next.at_rest().await;
        drop_all(&neo4j, &label).await;
        drop_all(&neo4j, &kind).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_the_first_client_lends_its_own() {
    for neo4j in Neo4j::all("indexes::without_credentials_the_first_client_lends_its_own") {
        let label = unused("lent");
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            assert_eq!((config.auth.mode, &config.auth.username), (AuthMode::Passthrough, &None));
            config.indexes = vec![node(&label, &["a"])];
        })
        .await;
        within_async(PATIENCE, "it is ready", || async { sidebolt.get("/readyz").await.0 == 200 }).await;
        counted(&sidebolt, "missing", 1).await;
        assert!(there(&neo4j, &label).await.is_empty());
        let version = Version::V5_8;
        let client = Client::login(sidebolt.address, version, Neo4j::USER, &neo4j.password).await;
        counted(&sidebolt, "online", 1).await;
        assert_eq!(there(&neo4j, &label).await.len(), 1);
        drop(client);
        drop_all(&neo4j, &label).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_tried_again() {
    for neo4j in Neo4j::all("indexes::a_server_that_is_down_is_tried_again") {
        let label = unused("down");
        let proxy = Proxy::start(&neo4j.address).await;
        proxy.set(Fault::CutAfter(0));
        let sidebolt = start(&neo4j, proxy.address, vec![unique(node(&label, &["a"]))]).await;
        within_async(PATIENCE, "it was tried", || async {
            sidebolt.metric("sidebolt_connect_failures_total", "").await >= 1.0
        })
        .await;
        counted(&sidebolt, "missing", 1).await;
        proxy.set(Fault::None);
        counted(&sidebolt, "online", 1).await;
        drop_all(&neo4j, &label).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_is_told_with_what_to_do() {
    for neo4j in Neo4j::all("indexes::what_cannot_be_made_is_told_with_what_to_do") {
        let label = unused("twice");
        let quoted = label.replace('`', "``");
        neo4j.admin(&format!("UNWIND [1, 1] AS id CREATE (:`{quoted}` {{id: id}})")).await;
        neo4j.admin(&format!("CREATE INDEX FOR (n:`{quoted}`) ON (n.plain)")).await;
        let taken = format!("it_taken_{}", std::process::id());
        neo4j.admin(&format!("CREATE INDEX {taken} FOR (n:`{quoted}`) ON (n.other)")).await;
        let list = serde_json::json!([
            {"label": label, "properties": ["id"], "unique": true},
            {"label": label, "properties": ["plain"], "unique": true},
            {"label": label, "properties": ["mine"], "name": taken},
        ]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidebolt"))
            .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream"])
            .arg(format!("bolt://{}", neo4j.address))
            .args(["--set", &format!("indexes={list}"), "--set", "auth.username=neo4j"])
            .env("NEO4J_PASSWORD", &neo4j.password)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let mut hints: Vec<&str> = vec![
            "remove the duplicates from the data",
            "drop the index that stands in the way",
            "choose another name, or drop the other",
        ];
        while !hints.is_empty() {
            let line = in_time("the log's next line", lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the log ends without {hints:?}"));
            if let Some(at) = hints.iter().position(|hint| line.contains(hint)) {
                println!("{line}");
                assert!(line.contains("ERROR") && line.contains(&label), "{line}");
                hints.remove(at);
            }
        }
        // Once the data is right, it is made without a restart.
        neo4j.admin(&format!("MATCH (n:`{quoted}`) WITH n LIMIT 1 DETACH DELETE n")).await;
        within_async(PATIENCE, "the constraint is made", || async {
            there(&neo4j, &label).await.iter().any(|(properties, owned, _)| *owned && *properties == ["id"])
        })
        .await;
        drop(child);
        drop_all(&neo4j, &label).await;
    }
}
