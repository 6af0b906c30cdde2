//! `CALL sidebolt.…`: Sidebolt's own procedures, as drivers call them: alone, in transactions, beside results of Neo4j's.

use std::sync::LazyLock;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use sidebolt::config::Config;

use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Answer, Client, kinds};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, until, within_async};

const V: Version = Version::V5_8;
const PROCEDURES: &str = "CALL sidebolt.procedures()";
/// The number of a transaction's first result of Sidebolt's own.
const FIRST: i64 = 1 << 30;

async fn pair(config: impl FnOnce(&mut Config)) -> (Peer, Sidebolt) {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, config).await;
    (peer, sidebolt)
}

async fn client(sidebolt: &Sidebolt, version: Version) -> Client {
    Client::login(sidebolt.address, version, "user", "password").await
}

fn fetch(tag: Tag, n: i64, qid: i64) -> Vec<u8> {
    message(tag, &[map([("n", n.into()), ("qid", qid.into())])])
}

/// The first values of the records.
fn names(answers: &[Answer]) -> Vec<String> {
    let name = |answer: &Answer| match answer {
        Answer::Record(row) => row.first().and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    answers.iter().filter_map(name).collect()
}

/// The procedures that there are, as the reference has them; at least three.
static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
    let table = sidebolt::procedures_reference();
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('(').next());
    names.filter(|name| name.starts_with("sidebolt.")).map(str::to_owned).collect()
});

/// What a result's end must say in this version.
fn is_last_summary(meta: &Value, version: Version, any: bool) {
    assert_eq!(meta.get("type"), Some(&"r".into()), "{version}: {meta:?}");
    assert!(meta.get("t_last").and_then(Value::as_integer).is_some_and(|t| t >= 0), "{version}: {meta:?}");
    assert_eq!((meta.get("has_more"), meta.get("stats"), meta.get("bookmark")), (None, None, None));
    let status = meta.get("statuses").and_then(Value::as_list).and_then(<[Value]>::first);
    let code = status.and_then(|status| status.get("gql_status")).and_then(Value::as_str);
    let expected = if any { "00000" } else { "02000" };
    assert_eq!(code, (version >= Version::new(5, 6)).then_some(expected), "{version}: {meta:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_is_answered_without_neo4j() {
    let (peer, sidebolt) = pair(|_| ()).await;
    for version in Version::ALL {
        let mut client = client(&sidebolt, version).await;
        let extra = map([("db", "movies".into())]);
        let answers = client.ask_all(&[run_with(PROCEDURES, none(), extra), pull_all()]).await;
        assert_eq!(answers.len(), ALL.len() + 2, "{version}");
        let head = answers[0].success();
        assert!(head.get("t_first").and_then(Value::as_integer).is_some(), "{version}: {head:?}");
        let fields: Vec<Value> = ["name", "signature", "description"].map(Value::from).to_vec();
        assert_eq!((head.get("fields"), head.get("qid")), (Some(&fields.into()), None), "{version}");
        assert_eq!(head.get("db"), None, "it was named: {version}");
        assert_eq!(names(&answers), *ALL);
        let last = answers[answers.len() - 1].success();
        is_last_summary(last, version, true);
        assert_eq!(last.get("db"), Some(&"movies".into()), "{version}");

        let rest = i64::try_from(ALL.len()).unwrap() - 1;
        // In pieces, with the number that a result outside of a transaction has.
        let requests = [run("CALL sidebolt.procedures() YIELD description AS d, name;"), pull(1)];
        let answers = client.ask_all(&requests).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "SUCCESS"]);
        assert_eq!(answers[0].success().get("fields"), Some(&vec!["d".into(), "name".into()].into()));
        assert_eq!(answers[2].success(), &map([("has_more", true.into())]));
        let answers = client.ask_all(&[fetch(Tag::DISCARD, rest - 1, 0), fetch(Tag::PULL, 5, -1)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "SUCCESS"]);
        let last = Value::from(ALL[ALL.len() - 1].as_str());
        assert!(matches!(&answers[1], Answer::Record(row) if row.len() == 2 && row[1] == last));
        is_last_summary(answers[2].success(), version, true);

        // Nothing was written: an empty table.
        let answers = client.ask_all(&[run("CALL sidebolt.coalesce()"), discard(-1)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS"]);
        is_last_summary(answers[1].success(), version, false);
    }
    assert_eq!((peer.count(Tag::RUN), peer.count(Tag::BEGIN)), (0, 0));
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_answered_fails_as_with_neo4j() {
    let (peer, sidebolt) = pair(|_| ()).await;
    const SYNTAX: &str = "Neo.ClientError.Statement.SyntaxError";
    for version in Version::ALL {
        let mut client = client(&sidebolt, version).await;
        for (text, code, words) in [
            (
                "CALL sidebolt.nope()",
                "Neo.ClientError.Procedure.ProcedureNotFound",
                "sidebolt.coalesce.lanes()",
            ),
            ("CALL sidebolt.procedures(1)", SYNTAX, "expected 0"),
            ("CALL sidebolt.procedures($p)", SYNTAX, "expected 0"),
            ("CALL sidebolt.procedures() YIELD x", SYNTAX, "Unknown procedure output: `x`"),
            ("CALL sidebolt.procedures() YIELD name RETURN name", SYNTAX, "Write `CALL sidebolt."),
        ] {
            let answers = client.ask_all(&[run(text), pull_all(), run("ok |")]).await;
            assert_eq!(kinds(&answers), ["FAILURE", "IGNORED", "IGNORED"], "{version} {text}");
            assert_eq!(answers[0].code(), code, "{version} {text}");
            assert!(answers[0].text().contains(words), "{}", answers[0].text());
            assert!(client.one(reset()).await.is_success());
        }
        for (request, code, words) in [
            (pull(0), "Neo.ClientError.Request.Invalid", "at least 1"),
            (message(Tag::PULL, &[none()]), "Neo.ClientError.Request.Invalid", "non-null"),
            (fetch(Tag::DISCARD, -1, 7), "Neo.ClientError.Request.InvalidFormat", "No such statement: 7"),
        ] {
            let answers = client.ask_all(&[run(PROCEDURES), request]).await;
            assert_eq!(kinds(&answers), ["SUCCESS", "FAILURE"], "{version}");
            assert_eq!(answers[1].code(), code);
            assert!(answers[1].text().contains(words), "{}", answers[1].text());
            assert!(client.one(reset()).await.is_success());
        }
        assert_eq!(client.query(PROCEDURES).await.unwrap().len(), ALL.len());
    }
    // While a result is open everything else is a violation, as with Neo4j.
    for request in [run("ok |"), run(PROCEDURES), begin(), commit(), rollback(), telemetry(0), logoff()] {
        let mut client = client(&sidebolt, V).await;
        let answers = client.ask_all(&[run(PROCEDURES), pull(1), request]).await;
        assert_eq!(kinds(&answers)[3..], ["FAILURE"], "{answers:?}");
        assert!(answers[3].text().contains("AUTO_COMMIT state"), "{}", answers[3].text());
        assert!(client.is_closed().await);
    }
    assert_eq!((peer.count(Tag::RUN), peer.count(Tag::BEGIN)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_and_pipelines_keep_their_order() {
    let (peer, sidebolt) = pair(|_| ()).await;
    for version in [Version::V4_4, Version::V5_8, Version::V6_1] {
        let mut client = client(&sidebolt, version).await;
        let answers = client.ask_all(&[run(PROCEDURES), pull(1)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "SUCCESS"]);
        let answers = client.ask_all(&[pull(1), run("ok |"), reset(), reset()]).await;
        assert_eq!(kinds(&answers), ["IGNORED", "IGNORED", "IGNORED", "SUCCESS"], "the last RESET counts");
        let requests = [
            run(PROCEDURES),
            pull_all(),
            run("ok | rows 2"),
            pull_all(),
            run(PROCEDURES),
            pull_all(),
            begin(),
            run(PROCEDURES),
            pull_all(),
            run("ok | rows 1"),
            pull_all(),
            run(PROCEDURES),
            discard(-1),
            commit(),
            run("ok |"),
            pull_all(),
        ];
        let answers = client.ask_all(&requests).await;
        let summaries: Vec<_> = answers.iter().filter(|answer| answer.is_last()).collect();
        assert_eq!(summaries.len(), requests.len());
        assert!(summaries.iter().all(|answer| answer.is_success()), "{:?}", kinds(&answers));
        let before: Vec<_> = answers.split(Answer::is_last).map(<[_]>::len).collect();
        let all = ALL.len();
        assert_eq!(
            before,
            [0, all, 0, 2, 0, all, 0, 0, all, 0, 1, 0, 0, 0, 0, 0, 0],
            "records behind their RUN"
        );
        // Byte by byte.
        let wire = [run(PROCEDURES), pull(2), pull_all(), rechunk(&run(PROCEDURES), 1), pull_all()].concat();
        client.send_bytewise(&wire).await.unwrap();
        let answers = client.read_answers(5).await;
        assert_eq!(answers.iter().filter(|answer| !answer.is_last()).count(), 2 * ALL.len());
    }
    assert!(peer.count(Tag::RUN) == 9 && peer.count(Tag::BEGIN) == 3 && peer.count(Tag::COMMIT) == 3);
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_open_at_neo4j_is_not_disturbed() {
    let (peer, sidebolt) = pair(|config| {
        config.coalesce.managed = false;
        config.pool.max_connection_pool_size = 1;
    })
    .await;
    for version in Version::ALL {
        peer.forget();
        let mut client = client(&sidebolt, version).await;
        let extra = [("db", "movies".into())];
        let answers =
            client.ask_all(&[begin_with(extra), run("ok | rows 5"), pull(2), run(PROCEDURES)]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "SUCCESS", "RECORD", "RECORD", "SUCCESS", "SUCCESS"]);
        let head = answers[5].success();
        assert_eq!((head.get("qid"), head.get("db")), (Some(&FIRST.into()), None), "{version}");

        // By its number and as the last one; Neo4j's by its own.
        let answers = client.ask_all(&[fetch(Tag::PULL, 1, FIRST), pull(1)]).await;
        assert_eq!(names(&answers), ALL[..2]);
        let answers = client.ask_all(&[fetch(Tag::PULL, 2, 0), run(PROCEDURES), pull(2)]).await;
        assert_eq!(kinds(&answers[..4]), ["RECORD", "RECORD", "SUCCESS", "SUCCESS"], "{version}");
        assert_eq!(answers[3].success().get("qid"), Some(&(FIRST + 1).into()));
        assert_eq!(names(&answers), ALL[..2]);
        let answers =
            client.ask_all(&[fetch(Tag::PULL, -1, FIRST), fetch(Tag::DISCARD, -1, FIRST + 1)]).await;
        assert_eq!(names(&answers), ALL[2..]);
        let last = answers[answers.len() - 2].success();
        is_last_summary(last, version, true);
        assert_eq!(last.get("db"), Some(&"movies".into()));

        // The last RUN is Neo4j's again; a result is left unread.
        let answers = client.ask_all(&[run("ok | rows 1"), pull_all(), run(PROCEDURES), commit()]).await;
        assert_eq!(kinds(&answers), ["SUCCESS", "RECORD", "SUCCESS", "SUCCESS", "SUCCESS"], "{version}");
        assert_eq!((peer.count(Tag::RUN), peer.count(Tag::PULL), peer.count(Tag::COMMIT)), (2, 3, 1));
        assert_eq!((peer.count(Tag::DISCARD), peer.count(Tag::RESET)), (0, 0), "{version}");

        // Its failure is the transaction's, and its connection is free at once.
        for (call, asked) in
            [("CALL sidebolt.nope()", pull_all()), (PROCEDURES, fetch(Tag::PULL, -1, FIRST + 9))]
        {
            let answers = client.ask(&[begin(), run("ok |"), pull_all(), run(call), asked]).await;
            let failures = answers.iter().filter(|answer| !answer.code().is_empty()).count();
            assert_eq!(failures, 1, "{version}: {answers:?}");
            sidebolt.at_rest().await;
            let answers = client.ask(&[run("ok |"), commit(), reset()]).await;
            assert_eq!(kinds(&answers), ["IGNORED", "IGNORED", "SUCCESS"]);
            assert!(client.query("RETURN 1").await.is_ok());
        }
        let answers = client.ask(&[begin(), run(PROCEDURES), pull(1), rollback()]).await;
        assert!(answers.iter().all(Answer::is_success), "{version}: {answers:?}");
        let answers = client.ask(&[begin(), run(PROCEDURES), pull(1), pull(1), reset()]).await;
        assert!(answers.last().unwrap().is_success(), "{version}: {answers:?}");
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_are_left_open_are_bounded() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let mut client = client(&sidebolt, V).await;
    assert!(client.one(begin()).await.is_success());
    for number in 0..8 {
        let head = client.one(run(PROCEDURES)).await;
        assert_eq!(head.success().get("qid"), Some(&(FIRST + number).into()));
    }
    let refused = client.one(run(PROCEDURES)).await;
    assert!(refused.text().contains("read or discard one"), "{refused:?}");
    assert!(client.one(reset()).await.is_success());
    // One that is read makes room.
    let mut requests = vec![begin()];
    requests.extend((0..20).flat_map(|_| [run(PROCEDURES), pull_all()]));
    requests.push(commit());
    assert!(client.ask(&requests).await.iter().all(Answer::is_success));
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_has_not_begun_at_neo4j_need_not_begin() {
    let (peer, sidebolt) = pair(|config| config.coalesce.singles = 1).await;
    let mut others = client(&sidebolt, V).await;
    let mut client = client(&sidebolt, V).await;
    // What follows BEGIN, what is answered, and whether Neo4j sees it.
    type Case = (Vec<Vec<u8>>, &'static [&'static str], bool);
    let cases: [Case; 5] = [
        (vec![run(PROCEDURES), pull(2), pull_all(), commit()], &["SUCCESS"; 4], false),
        (vec![run(PROCEDURES), discard(1), rollback()], &["SUCCESS"; 3], false),
        (vec![run("CALL sidebolt.nope()"), pull_all(), reset()], &["FAILURE", "IGNORED", "SUCCESS"], false),
        (vec![run(PROCEDURES), pull(1), reset()], &["SUCCESS", "SUCCESS", "SUCCESS"], false),
        (
            vec![run(PROCEDURES), run("ok |"), pull_all(), fetch(Tag::PULL, -1, FIRST), commit()],
            &["SUCCESS"; 5],
            true,
        ),
    ];
    for (requests, expected, begins) in cases {
        let mut found = None;
        // A machine that is slow may let the moment go by.
        for _ in 0..100 {
            // Somebody else's transaction has the lane's turn for a moment: until then BEGIN is held here.
            assert!(others.one(begin()).await.is_success());
            peer.forget();
            assert!(client.one(begin()).await.is_success());
            let held = peer.count(Tag::BEGIN) == 0;
            // One by one: pipelined, a RESET would overtake them.
            let mut answers = Vec::new();
            for request in &requests {
                answers.push(client.one(request.clone()).await);
            }
            assert_eq!(kinds(&answers), expected, "{answers:?}");
            let seen = (peer.count(Tag::BEGIN), peer.count(Tag::RUN));
            assert!(others.one(commit()).await.is_success());
            if held {
                found = Some(seen);
                break;
            }
        }
        let seen = found.expect("BEGIN is held while another has the turn");
        assert_eq!(seen, if begins { (1, 1) } else { (0, 0) });
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_an_open_result() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let mut client = client(&sidebolt, V).await;
    assert_eq!(kinds(&client.ask_all(&[run(PROCEDURES), pull(1)]).await).len(), 3);
    let drain = tokio::spawn(sidebolt.drain());
    let answers = client.ask_all(&[pull_all()]).await;
    assert_eq!(answers.len(), ALL.len());
    assert!(client.is_closed().await);
    drain.await.unwrap();
}

const MERGE: &str = "MERGE (n:ItConsole {id: $id}) SET n += $props";

fn merge(id: i64) -> Vec<u8> {
    let parameters = map([("id", id.into()), ("props", map([("x", Value::Integer(id))]))]);
    run_with(MERGE, parameters, none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_shown_to_their_own_user_only() {
    let (peer, sidebolt) = pair(|_| ()).await;
    let mut ann = Client::login(sidebolt.address, V, "ann", "a").await;
    let mut bob = Client::login(sidebolt.address, V, "bob", "b").await;
    for id in 0..3 {
        assert!(ann.query_with(merge(id)).await.is_ok());
    }
    let long = format!("CREATE (n:ItConsole {{text: '{}'}}) DELETE n", "x".repeat(300));
    assert!(ann.query(&long).await.is_ok());
    assert!(ann.query("RETURN 1").await.is_ok());
    until("the writes were seen", || peer.count(Tag::RUN) >= 5).await;

    const TEXTS: &str = "CALL sidebolt.coalesce() YIELD text, alone, rows, way, reason, database, shape";
    let rows = ann.query(TEXTS).await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0][..3], [MERGE.into(), 3.into(), 0.into()]);
    assert_eq!(rows[0][6], "node_merge".into());
    assert_eq!(rows[1][0].as_str().map(str::len), Some(200));
    assert_eq!(rows[1][5..], [Value::Null, Value::Null]);
    assert!(rows[1][4].as_str().is_some(), "a reason: {:?}", rows[1]);
    assert_eq!(bob.query(TEXTS).await.unwrap(), Vec::<Vec<Value>>::new());

    const LANES: &str =
        "CALL sidebolt.coalesce.lanes() YIELD user, managed, waiting, inFlight, alone, batchCap";
    let idle = |user: Value| vec![user, false.into(), 0.into(), 0.into(), 0.into(), 500.into()];
    assert_eq!(ann.query(LANES).await.unwrap(), [idle("ann".into())]);
    assert_eq!(bob.query(LANES).await.unwrap(), [idle(Value::Null)]);
}

/// The row of `MERGE` with its rows, way, reason and advice.
async fn row(client: &mut Client) -> Option<Vec<Value>> {
    let rows = client
        .query("CALL sidebolt.coalesce() YIELD text, rows, batches, way, reason, advice")
        .await
        .unwrap();
    rows.into_iter().find(|row| row[0] == MERGE.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_missing_indexes_of_real_servers_are_shown() {
    for neo4j in Neo4j::all("console::batches_and_missing_indexes_of_real_servers_are_shown") {
        neo4j.admin("MATCH (n:ItConsole) DETACH DELETE n").await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| config.coalesce.singles = 1).await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        let writers: Vec<_> = (0..16_i64)
            .map(|writer| {
                let (address, password) = (sidebolt.address, neo4j.password.clone());
                tokio::spawn(async move {
                    let mut client = Client::login(address, V, Neo4j::USER, &password).await;
                    for at in 0..30 {
                        client.query_with(merge(writer * 1000 + at)).await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let mut client = login().await;
        let seen = row(&mut client).await.expect("the text is known");
        assert!(seen[1].as_integer().is_some_and(|rows| rows > 0), "{seen:?}");
        assert!(seen[2].as_integer() <= seen[1].as_integer() && seen[2].as_integer() > Some(0), "{seen:?}");
        let advice = "CREATE INDEX IF NOT EXISTS FOR (n:ItConsole) ON (n.id)";
        let shared = tokio::sync::Mutex::new(client);
        let shows =
            async |wanted: Value| row(&mut *shared.lock().await).await.is_some_and(|row| row[5] == wanted);
        within_async(PATIENCE, "the missing index is shown", || shows(advice.into())).await;
        neo4j.admin(advice).await;
        within_async(PATIENCE, "the index is seen", || shows(Value::Null)).await;
        let indexes = neo4j
            .admin("SHOW INDEXES YIELD name, labelsOrTypes WHERE labelsOrTypes = ['ItConsole'] RETURN name")
            .await;
        for name in indexes.iter().filter_map(|row| row[0].as_str()) {
            neo4j.admin(&format!("DROP INDEX {name}")).await;
        }
        neo4j.admin("MATCH (n:ItConsole) DETACH DELETE n").await;
        sidebolt.at_rest().await;
    }
}
