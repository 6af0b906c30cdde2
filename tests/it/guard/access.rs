//! Who may run what, and that no way around it is left: transactions, large requests, odd requests, batches.

use bolt_wire::Tag;
use bolt_wire::packstream::Value;
use sidebolt::config::{Action, Config, Rule, When};

use super::{V, login, refused_as};
use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;

const FORBIDDEN: &str = "Neo.ClientError.Security.Forbidden";
const ACCESS_MODE: &str = "Neo.ClientError.Statement.AccessMode";

fn rule(action: Action, change: impl FnOnce(&mut When)) -> Rule {
    let mut when = When::default();
    change(&mut when);
    Rule { action, reason: None, when }
}

async fn start(change: impl FnOnce(&mut Config)) -> (Peer, Sidebolt) {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, change).await;
    (peer, sidebolt)
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_is_denied_in_transactions_too() {
    let denied = Rule {
        reason: text("deletes are for the night"),
        ..rule(Action::Deny, |w| w.text = text("(?i)delete"))
    };
    let (peer, sidebolt) = start(|config| {
        config.guard.rules = vec![
            rule(Action::Allow, |w| w.principal = text("admin")),
            denied,
            rule(Action::Deny, |w| w.label = text("Secret")),
        ];
        config.limits.max_inspected_request = 4096;
    })
    .await;
    let mut client = login(&sidebolt, "ada").await;
    let delete = || run("MATCH (n) DELETE n");
    let message = refused_as(&mut client, &[delete(), pull_all()], FORBIDDEN).await;
    assert!(message.contains("deletes are for the night"), "{message}");
    refused_as(&mut client, &[run("MATCH (n:Secret) RETURN n"), pull_all()], FORBIDDEN).await;
    refused_as(&mut client, &[run("MATCH (n:$($l)) RETURN n"), pull_all()], FORBIDDEN).await;
    // In a transaction: it fails as with Neo4j, and what it has done before is rolled back.
    assert!(client.one(begin()).await.is_success());
    assert!(client.query("CREATE (:X)").await.is_ok());
    let answers = client.ask(&[run("RETURN 1"), pull_all(), delete(), pull_all(), commit()]).await;
    assert_eq!(kinds(&answers[2..]), ["FAILURE", "IGNORED", "IGNORED"], "{answers:?}");
    assert_eq!(answers[2].code(), FORBIDDEN);
    assert!(client.one(reset()).await.is_success());
    // Too large to be held, alone and in a transaction; the text can be in pieces too.
    let padded = |text: &str| run_with(text, map([("p", "x".repeat(20_000).into())]), none());
    for large in [padded("MATCH (n) DELETE n"), rechunk(&padded("MATCH (n) DELETE n"), 3)] {
        refused_as(&mut client, &[large.clone(), pull_all()], FORBIDDEN).await;
        assert!(client.one(begin()).await.is_success());
        refused_as(&mut client, &[large, pull_all()], FORBIDDEN).await;
    }
    // A text that is too long to be looked into might name anything.
    refused_as(&mut client, &[run(&format!("RETURN '{}'", "x".repeat(100_000))), pull_all()], FORBIDDEN)
        .await;
    assert!(client.ask(&[padded("RETURN 1"), pull_all()]).await[0].is_success());
    // Parameters that nobody here knows hide no text.
    let mut odd = b"\xB3\x10\xD0\x12MATCH (n) DELETE n".to_vec();
    odd.extend([0xA1, 0x81, b'p', 0xB1, 0x7F, 0x01, 0xA0]);
    refused_as(&mut client, &[raw(&odd), pull_all()], FORBIDDEN).await;
    let mut admin = login(&sidebolt, "admin").await;
    assert!(admin.ask(&[delete(), pull_all()]).await[0].is_success(), "the first rule that fits decides");
    sidebolt.reconfigure(|config| config.guard.rules.clear());
    assert!(client.ask(&[delete(), pull_all()]).await[0].is_success());
    assert_eq!(peer.statements().iter().filter(|(.., text)| text.contains("DELETE")).count(), 2);
    assert_eq!(peer.count(Tag::COMMIT), 0);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_come_whole_is_denied_by_a_rule_about_texts() {
    let (peer, sidebolt) = start(|config| {
        config.guard.rules = vec![rule(Action::Deny, |w| w.text = text("(?i)delete"))];
        config.limits.max_inspected_request = 4096;
    })
    .await;
    let mut client = login(&sidebolt, "ada").await;
    let hidden = run(&format!("/* {} */ MATCH (n) DELETE n", "x".repeat(100_000)));
    refused_as(&mut client, &[hidden.clone(), pull_all()], FORBIDDEN).await;
    assert!(client.one(begin()).await.is_success());
    refused_as(&mut client, &[hidden, pull_all()], FORBIDDEN).await;
    assert!(client.query("RETURN 1").await.is_ok());
    assert_eq!(peer.count(Tag::RUN), 1);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_is_seen_to_by_neo4j_itself() {
    for neo4j in Neo4j::all("guard::read_only_is_seen_to_by_neo4j_itself") {
        neo4j.admin("MATCH (n:ItGuardRead) DETACH DELETE n").await;
        neo4j.admin("CREATE (:ItGuardRead {id: 1})").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            config.guard.read_only = true;
            config.limits.max_inspected_request = 4096;
        })
        .await;
        let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
        let count = "MATCH (n:ItGuardRead) RETURN count(n) AS c";
        assert_eq!(client.value(count).await, 1.into());
        let written =
            |answers: &[crate::support::raw_client::Answer]| answers.iter().all(|answer| answer.is_success());
        let db = |name: &str| map([("db", name.into())]);
        let p = || map([("p", "x".repeat(20_000).into())]);
        for (text, parameters, extra) in [
            ("CREATE (:ItGuardRead)", none(), none()),
            ("CREATE (:ItGuardRead)", none(), map([("mode", "w".into())])),
            ("MATCH (n:ItGuardRead) SET n.x = $p", p(), none()),
            ("MATCH (n:ItGuardRead) CALL (n) { CREATE (:ItGuardRead) } IN TRANSACTIONS", none(), none()),
            ("CREATE INDEX it_guard_read IF NOT EXISTS FOR (n:ItGuardRead) ON (n.id)", none(), none()),
            ("CALL db.createLabel('ItGuardReadLabel')", none(), none()),
            (
                "CREATE USER it_guard_read SET PASSWORD 'not so secret' CHANGE NOT REQUIRED",
                none(),
                db("system"),
            ),
            ("CYPHER 5 CREATE (:ItGuardRead)", none(), none()),
            ("EXPLAIN CREATE (:ItGuardRead)", none(), none()),
        ] {
            let requests = [run_with(text, parameters.clone(), extra.clone()), pull_all()];
            let answers = client.ask(&requests).await;
            assert!(!written(&answers) || text.starts_with("EXPLAIN"), "{text}: {answers:?}");
            assert!(client.one(reset()).await.is_success());
            let Value::Map(entries) = extra else { unreachable!() };
            let begin = begin_with(entries.iter().map(|(key, value)| (key.as_str(), value.clone())));
            let answers =
                client.ask(&[begin, run_with(text, parameters, none()), pull_all(), commit()]).await;
            assert!(!written(&answers) || text.starts_with("EXPLAIN"), "{text}: {answers:?}");
            assert!(client.one(reset()).await.is_success());
        }
        refused_as(&mut client, &[run("CREATE (:ItGuardRead)"), pull_all()], ACCESS_MODE).await;
        let large_read = run_with("MATCH (n:ItGuardRead) WHERE n.id <> $p RETURN count(n)", p(), none());
        assert!(
            written(&client.ask(&[large_read, pull_all()]).await[..1]),
            "reads pass, whatever their size"
        );
        assert_eq!(client.value(count).await, 1.into());
        assert_eq!(neo4j.admin(count).await, [[Value::Integer(1)]]);
        let users = neo4j.system("SHOW USERS YIELD user WHERE user = 'it_guard_read'").await;
        let indexes = neo4j.admin("SHOW INDEXES YIELD name WHERE name = 'it_guard_read'").await;
        assert!(users.is_empty() && indexes.is_empty());
        sidebolt.reconfigure(|config| config.guard.read_only = false);
        assert!(client.query("CREATE (:ItGuardRead)").await.is_ok());
        neo4j.admin("MATCH (n:ItGuardRead) DETACH DELETE n").await;
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_may_only_read() {
    let (peer, sidebolt) = start(|config| {
        config.guard.rules = vec![rule(Action::ReadOnly, |w| w.principal = text("report*"))];
    })
    .await;
    let (mut ada, mut reporter) = (login(&sidebolt, "ada").await, login(&sidebolt, "reporter").await);
    for client in [&mut ada, &mut reporter] {
        assert!(client.one(begin_with([("mode", "w".into())])).await.is_success());
        assert!(client.query("CALL some.procedure()").await.is_ok());
        assert!(client.one(commit()).await.is_success());
    }
    refused_as(&mut reporter, &[run("CREATE (:X)"), pull_all()], ACCESS_MODE).await;
    assert!(ada.query("CREATE (:X)").await.is_ok());
    let modes: Vec<_> = peer
        .log()
        .into_iter()
        .filter_map(|seen| match seen.what {
            crate::support::scripted::What::Message(Tag::BEGIN, fields) => {
                Some((seen.user, fields[0].get("mode").and_then(Value::as_str).map(str::to_owned)))
            }
            _ => None,
        })
        .collect();
    assert_eq!(modes, [("ada".to_owned(), text("w")), ("reporter".to_owned(), text("r"))]);
    // Who logs in anew is judged anew.
    assert!(
        reporter.one(logoff()).await.is_success()
            && reporter.one(logon("ada", "password")).await.is_success()
    );
    assert!(reporter.query("CREATE (:X)").await.is_ok());
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_may_be_kept_out() {
    let (peer, sidebolt) = start(|config| {
        config.guard.rules = vec![
            rule(Action::Deny, |w| w.address = text("10.0.0.0/8")),
            rule(Action::Deny, |w| (w.address, w.label) = (text("127.0.0.0/8"), text("Secret"))),
        ];
    })
    .await;
    let mut client = login(&sidebolt, "ada").await;
    refused_as(&mut client, &[run("MATCH (n:Secret) RETURN n"), pull_all()], FORBIDDEN).await;
    assert!(client.query("MATCH (n:Open) RETURN n").await.is_ok());
    assert_eq!(peer.statements().len(), 1);
    sidebolt.at_rest().await;
}
