//! `SHOW PROCEDURES` has Sidebolt's own procedures among Neo4j's, and is otherwise what Neo4j says.

use bolt_wire::Tag;
use sidebolt::config::{Action, Rule, When};

use super::*;
use crate::support::neo4j::Line;

/// Statements whose first column is the name: Neo4j's rows in their order, and Sidebolt's.
const WHOLE: [&str; 20] = [
    "SHOW PROCEDURES",
    "SHOW PROCEDURE;",
    "/* x */ show // y\n procedures // z",
    "SHOW PROCEDURES EXECUTABLE",
    "SHOW PROCEDURES EXECUTABLE BY CURRENT USER;",
    "SHOW PROCEDURES EXECUTABLE BY neo4j",
    "SHOW PROCEDURES EXECUTABLE BY `current` YIELD name, mode",
    "SHOW PROCEDURES WHERE name <> 'db.labels'",
    "SHOW PROCEDURES EXECUTABLE WHERE mode IN ['READ', 'WRITE', 'DBMS'] // all but SCHEMA",
    "SHOW PROCEDURES YIELD *",
    "SHOW PROCEDURES YIELD * ORDER BY name DESC RETURN *;",
    "SHOW PROCEDURES YIELD name AS n, `mode` AS `m``n`, description",
    "SHOW PROCEDURES YIELD name AS mode, mode AS name WHERE name <> 'SCHEMA'",
    "SHOW PROCEDURES YIELD name AS n ORDER BY name DESC SKIP 0 WHERE n CONTAINS 'e'",
    "SHOW PROCEDURES YIELD name, mode RETURN DISTINCT *, size(name) AS `s z`",
    "SHOW PROCEDURES YIELD name, signature AS s, argumentDescription AS a RETURN name, s, size( a ), a[0].name",
    "SHOW PROCEDURES YIELD name, option, isDeprecated WHERE NOT option.deprecated AND NOT isDeprecated RETURN name",
    "SHOW PROCEDURES YIELD name WHERE EXISTS { UNWIND [name] AS x WITH x WHERE x CONTAINS '.' RETURN x }",
    "SHOW PROCEDURES YIELD name, worksOnSystem AS `__gnnRow` WHERE $p <> name RETURN name, __gnnRow",
    "SHOW PROCEDURES EXECUTABLE YIELD name, admin, rolesExecution, deprecatedBy WHERE admin OR name ENDS WITH 's' RETURN *",
];

/// Statements that say nothing of Sidebolt's: nobody can tell that it was there.
const SAME: [&str; 27] = [
    "SHOW PROCEDURES YIELD name ORDER BY name SKIP 2 LIMIT 3",
    "SHOW PROCEDURES YIELD name, mode WHERE name STARTS WITH 'db.' RETURN mode, count( * ), collect(name) ORDER BY mode LIMIT 2",
    "SHOW PROCEDURES YIELD name ORDER BY name LIMIT 5 WHERE name STARTS WITH 'db.l' RETURN name AS x ORDER BY x DESC LIMIT 1",
    "SHOW PROCEDURES YIELD mode, name WHERE name STARTS WITH 'db.' RETURN *",
    "SHOW PROCEDURES WHERE name STARTS WITH 'db.' AND worksOnSystem",
    "SHOW PROCEDURES YIELD * WHERE name = $p",
    "SHOW PROCEDURES YIELD name AS return WHERE return = 'db.labels' RETURN return",
    "SHOW PROCEDURES YIELD name, name WHERE name = 'db.labels'",
    "SHOW PROCEDURES YIELD name WHERE name = $missing",
    "SHOW PROCEDURES YIELD name WHERE 1/0 = 1",
    "SHOW PROCEDURES YIELD name ORDER BY mode",
    "SHOW PROCEDURES YIELD name WHERE name RETURN count(*)",
    "SHOW PROCEDURES YIELD name RETURN name + ",
    "SHOW PROCEDURES YIELD nope",
    "SHOW PROCEDURES YIELD name AS a, mode AS a",
    "SHOW PROCEDURES YIELD name LIMIT $p",
    "SHOW PROCEDURES YIELD name MATCH (n) RETURN n",
    "SHOW PROCEDURES RETURN name",
    "SHOW PROCEDURES WHERE name = 'x' RETURN name",
    "SHOW PROCEDURES EXECUTABLE BY $p",
    "SHOW PROCEDURES; RETURN 1",
    "SHOW ALL PROCEDURES",
    "SHOW BUILT IN PROCEDURES",
    "SHOW USER DEFINED PROCEDURES",
    "EXPLAIN SHOW PROCEDURES",
    "SHOW INDEXES YIELD name WHERE name = 'none'",
    "SHOW `PROCEDURES`",
];

/// What a client is told: columns, rows, and how it ends.
#[derive(Debug, PartialEq)]
struct Told {
    fields: Value,
    rows: Vec<Vec<Value>>,
    /// `type` and `db` of the summary, or code and words of the FAILURE.
    end: (String, String),
}

impl Told {
    async fn by(client: &mut Client, text: &str, extra: Value) -> Self {
        let run = run_with(text, map([("p", "db.labels".into())]), extra);
        let answers = client.ask_all(&[run, pull_all()]).await;
        let mut told = Self { fields: Value::Null, rows: Vec::new(), end: Default::default() };
        let text = |meta: &Value, key| meta.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        for answer in answers {
            match &answer {
                Answer::Success(meta) if told.fields == Value::Null => {
                    told.fields = meta.get("fields").cloned().unwrap()
                }
                Answer::Success(meta) => told.end = (text(meta, "type"), text(meta, "db")),
                Answer::Record(row) => told.rows.push(row.iter().map(sorted).collect()),
                Answer::Failure(_) => told.end = (answer.code().to_owned(), answer.text().to_owned()),
                Answer::Ignored => {
                    assert!(client.one(reset()).await.is_success());
                }
                other => panic!("{other:?}"),
            }
        }
        told
    }

    fn names(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row[0].as_str().unwrap()).collect()
    }
}

/// Maps have no order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> =
                entries.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Map(entries)
        }
        Value::List(items) => Value::List(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn is_own(name: &str) -> bool {
    name.starts_with("gnn.") || name.starts_with("sidebolt.")
}

async fn sidebolt_of(server: &Neo4j, change: impl FnOnce(&mut sidebolt::config::Config)) -> Sidebolt {
    Sidebolt::start(&server.address, |config| {
        config.gnn.enabled = true;
        change(config);
    })
    .await
}

async fn client_of(sidebolt: &Sidebolt, server: &Neo4j, version: Version) -> Client {
    Client::login(sidebolt.address, version, Neo4j::USER, &server.password).await
}

/// Names of all of Sidebolt's procedures, as it tells them elsewhere.
async fn own_names(client: &mut Client) -> Vec<String> {
    let unknown = refused(client, "CALL gnn.nope()", "Neo.ClientError.Procedure.ProcedureNotFound").await;
    let listed = unknown.split_once("Sidebolt has ").unwrap().1.split(". ").next().unwrap();
    let mut names: Vec<_> = listed.trim_end_matches('.').split(", ").map(str::to_owned).collect();
    let rows = client.query("CALL sidebolt.procedures() YIELD name").await.unwrap();
    names.extend(rows.iter().map(|row| row[0].as_str().unwrap().to_owned()));
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidebolts_procedures_are_shown_among_neo4js() {
    for server in Neo4j::all("sidebolts_procedures_are_shown_among_neo4js") {
        let sidebolt = sidebolt_of(&server, |_| ()).await;
        let newest = if server.line == Line::Five { Version::V5_8 } else { Version::V6_1 };
        for (version, many) in [(newest, usize::MAX), (Version::V4_4, 2)] {
            let (mut direct, mut client) =
                (server.client(version).await, client_of(&sidebolt, &server, version).await);
            let all = own_names(&mut client).await;
            for text in WHOLE.into_iter().take(many) {
                let there = Told::by(&mut direct, text, none()).await;
                let here = Told::by(&mut client, text, none()).await;
                assert_eq!((&here.fields, &here.end), (&there.fields, &there.end), "{text}");
                let (own, rest): (Vec<_>, Vec<_>) =
                    here.rows.iter().cloned().partition(|row| is_own(row[0].as_str().unwrap()));
                assert_eq!(rest, there.rows, "{text}");
                assert!(!own.is_empty(), "{text}");
                let mut names = here.names();
                if text.contains("DESC ") {
                    names.reverse();
                }
                assert!(names.is_sorted(), "{text}: {names:?}");
                if !text.contains("WHERE") {
                    let own: Vec<_> = names.into_iter().filter(|name| is_own(name)).collect();
                    assert_eq!(own, all, "{text}");
                }
            }
            for text in SAME.into_iter().take(many) {
                let (there, here) =
                    (Told::by(&mut direct, text, none()).await, Told::by(&mut client, text, none()).await);
                assert_eq!(here, there, "{text}");
            }
            // Neo4j computes over all of them.
            let counted = "SHOW PROCEDURES YIELD name RETURN count(*)";
            let more = client.value(counted).await.as_integer().unwrap()
                - direct.value(counted).await.as_integer().unwrap();
            assert_eq!(usize::try_from(more).unwrap(), all.len());
        }
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_described_in_neo4js_words() {
    for server in Neo4j::all("they_are_described_in_neo4js_words") {
        let sidebolt = sidebolt_of(&server, |_| ()).await;
        let mut client = client_of(&sidebolt, &server, V).await;
        // What Neo4j says of one of its own that is alike is the measure.
        let like =
            row(&mut client, "SHOW PROCEDURES YIELD * WHERE name = 'db.index.fulltext.queryNodes'").await;
        let own = row(&mut client, "SHOW PROCEDURES YIELD * WHERE name = 'gnn.fastRP.stream'").await;
        let (Value::Map(like), Value::Map(entries)) = (&like, &own) else { unreachable!() };
        let kind = |value: &Value| std::mem::discriminant(value);
        for ((column, theirs), (_, ours)) in like.iter().zip(entries) {
            assert_eq!(kind(ours), kind(theirs), "{column}");
            let (Value::List(theirs), Value::List(ours)) = (theirs, ours) else { continue };
            let (Value::Map(theirs), Value::Map(ours)) =
                (sorted(theirs.last().unwrap()), sorted(ours.last().unwrap()))
            else {
                panic!("{column}: {ours:?}");
            };
            let keys = |map: &[(_, Value)]| -> Vec<_> {
                map.iter().map(|(key, value): &(_, Value)| (format!("{key:?}"), kind(value))).collect()
            };
            assert_eq!(keys(&ours), keys(&theirs), "{column}");
        }
        let signature = "gnn.fastRP.stream(graphName :: STRING, configuration = {} :: MAP) :: \
                         (nodeId :: INTEGER, elementId :: STRING, embedding :: LIST<FLOAT>)";
        assert_eq!(own.get("signature").and_then(Value::as_str), Some(signature));
        let default = own.get("argumentDescription").and_then(Value::as_list).unwrap()[1].get("default");
        assert_eq!(default.and_then(Value::as_str), Some("DefaultParameterValue{value={}, type=MAP}"));
        for (name, mode, on_system) in [
            ("gnn.graph.project", "READ", false),
            ("gnn.fastRP.write", "WRITE", false),
            ("sidebolt.pools", "DBMS", true),
        ] {
            let own = row(&mut client, &format!("SHOW PROCEDURES WHERE name = '{name}'")).await;
            assert_eq!(own.get("mode").and_then(Value::as_str), Some(mode));
            assert_eq!(own.get("worksOnSystem"), Some(&on_system.into()));
        }
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_shown_inside_of_transactions_too() {
    for server in Neo4j::all("they_are_shown_inside_of_transactions_too") {
        let sidebolt = sidebolt_of(&server, |_| ()).await;
        let (mut direct, mut client) = (server.client(V).await, client_of(&sidebolt, &server, V).await);
        let label = "GnnShown";
        let seen = format!("SHOW PROCEDURES YIELD name WHERE COUNT {{ (:{label}) }} = 1 RETURN name");
        for mode in ["w", "r"] {
            for client in [&mut direct, &mut client] {
                assert!(client.one(begin_with([("mode", mode.into())])).await.is_success());
            }
            if mode == "w" {
                for client in [&mut direct, &mut client] {
                    let answers = client.ask(&[run(&format!("CREATE (:{label})")), pull_all()]).await;
                    assert!(answers.iter().all(Answer::is_success), "{answers:?}");
                }
                // Neo4j judges in the same transaction: it sees what that has written.
                let here = Told::by(&mut client, &seen, none()).await;
                assert!(here.names().contains(&"gnn.device") && here.names().contains(&"db.labels"));
            }
            let (there, here) = (
                Told::by(&mut direct, "SHOW PROCEDURES", none()).await,
                Told::by(&mut client, "SHOW PROCEDURES", none()).await,
            );
            assert_eq!((&here.fields, &here.end), (&there.fields, &there.end));
            let theirs: Vec<_> = here.names().into_iter().filter(|name| !is_own(name)).collect();
            assert_eq!(theirs, there.names());
            assert!(theirs.len() < here.rows.len());
            // Two at once, fetched in turn by the numbers that Neo4j gives.
            let answers = client.ask(&[run("SHOW PROCEDURES YIELD name"), pull(1), run("RETURN 1")]).await;
            assert_eq!(answers[1].success().get("has_more"), Some(&true.into()));
            let rest = |of: &Answer| {
                let qid = of.success().get("qid").cloned().unwrap();
                message(Tag::PULL, &[map([("n", (-1).into()), ("qid", qid)])])
            };
            let (shown, other) = (rest(&answers[0]), rest(&answers[2]));
            assert_eq!(client.ask_all(&[other]).await.len(), 2);
            assert_eq!(client.ask_all(&[shown]).await.len(), here.rows.len());
            for client in [&mut direct, &mut client] {
                assert!(client.one(reset()).await.is_success());
            }
        }
        // What Neo4j refuses ends the transaction, as without Sidebolt.
        let wrong = "SHOW PROCEDURES YIELD nope";
        let mut told = Vec::new();
        for client in [&mut direct, &mut client] {
            assert!(client.one(begin()).await.is_success());
            told.push(Told::by(client, wrong, none()).await);
            assert_eq!(client.value("RETURN 1").await, Value::Integer(1));
        }
        assert_eq!(told[0], told[1]);
        assert!(Told::by(&mut client, "SHOW PROCEDURES", none()).await.names().contains(&"gnn.device"));
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_off_or_cannot_be_is_neo4js_alone() {
    for server in Neo4j::all("what_is_off_or_cannot_be_is_neo4js_alone") {
        let mut direct = server.client(V).await;
        let off = Sidebolt::start(&server.address, |_| ()).await;
        let on = sidebolt_of(&server, |_| ()).await;
        for (sidebolt, database) in [(&off, "neo4j"), (&on, "system")] {
            let mut client = client_of(sidebolt, &server, V).await;
            let extra = || map([("db", database.into())]);
            for text in
                ["SHOW PROCEDURES", "SHOW PROCEDURES YIELD name WHERE name STARTS WITH 'db' RETURN name"]
            {
                let (there, here) =
                    (Told::by(&mut direct, text, extra()).await, Told::by(&mut client, text, extra()).await);
                assert_eq!(here, there, "{text}");
                assert!(!there.rows.is_empty());
            }
            sidebolt.at_rest().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_holds_the_only_connection_goes_on() {
    for server in Neo4j::all("a_transaction_that_holds_the_only_connection_goes_on") {
        let sidebolt = sidebolt_of(&server, |config| config.pool.max_connection_pool_size = 1).await;
        let mut client = client_of(&sidebolt, &server, V).await;
        let answers = client.ask(&[begin(), run("RETURN 1"), pull_all()]).await;
        assert!(answers.iter().all(Answer::is_success), "{answers:?}");
        let here = Told::by(&mut client, "SHOW PROCEDURES YIELD name", none()).await;
        assert!(here.names().contains(&"db.labels") && !here.names().contains(&"gnn.device"));
        assert!(client.one(commit()).await.is_success());
        assert!(Told::by(&mut client, "SHOW PROCEDURES", none()).await.names().contains(&"gnn.device"));
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_for_what_is_shown() {
    for server in Neo4j::all("rules_hold_for_what_is_shown") {
        let sidebolt = sidebolt_of(&server, |config| {
            config.guard.read_only = true;
            let when = When { text: Some("(?i)executable".to_owned()), ..When::default() };
            config.guard.rules = vec![Rule { action: Action::Deny, reason: None, when }];
        })
        .await;
        let mut client = client_of(&sidebolt, &server, V).await;
        for in_transaction in [false, true] {
            if in_transaction {
                assert!(client.one(begin_with([("mode", "r".into())])).await.is_success());
            }
            assert!(Told::by(&mut client, "SHOW PROCEDURES", none()).await.names().contains(&"gnn.device"));
            let denied = Told::by(&mut client, "SHOW PROCEDURES EXECUTABLE", none()).await;
            assert_eq!(denied.end.0, "Neo.ClientError.Security.Forbidden");
        }
        sidebolt.at_rest().await;
    }
}
