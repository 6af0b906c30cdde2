//! The demo's check of itself: a driver's usual day, through the proxy.

use anyhow::{Context, Result, ensure};
use bolt_wire::packstream::Value;

use crate::bolt_client::{Answer, BoltClient, Options};

/// What was seen to work, in words.
pub(super) async fn run(address: &str) -> Result<Vec<String>> {
    let mut client = BoltClient::connect(address, Options::default())
        .await
        .with_context(|| format!("no Bolt at {address}"))?;
    let mut seen = vec![format!("connected with Bolt {}", client.version())];

    let from = Value::map([("iata", "JFK".into())]);
    let text = "MATCH (a:Airport {iata: $iata})-[r:ROUTE]->(b) RETURN b.iata AS to, r.flights AS flights \
                ORDER BY flights DESC, to LIMIT 1";
    let answer = client.run(text, from, none()).await.context("reading")?;
    let (to, flights) = (text_of(&answer, "to"), integer_of(&answer, "flights"));
    ensure!(!to.is_empty() && flights > 0, "the read gave {:?}", answer.records);
    seen.push(format!("read: most flights from JFK go to {to} ({flights})"));

    let write = "MERGE (p:SelfCheck {id: $id}) SET p += {written: true}";
    let answer = client.run(write, id(1), none()).await.context("writing")?;
    ensure!(answer.counter("nodes-created") == 1, "the write gave {:?}", answer.summary);
    seen.push(format!("write: 1 node, {} properties", answer.counter("properties-set")));

    client.begin(none()).await.context("BEGIN")?;
    client.run(write, id(2), none()).await.context("writing in a transaction")?;
    let bookmark = client.commit().await.context("COMMIT")?;
    let bookmarks = bookmark.get("bookmark").cloned().into_iter().collect();
    let after = Value::map([("bookmarks", Value::List(bookmarks))]);
    ensure!(count(&mut client, after).await? == 2, "a committed node is missing");
    seen.push("transaction: committed, and read behind its bookmark".to_owned());

    client.begin(none()).await.context("BEGIN")?;
    client.run(write, id(3), none()).await.context("writing in a transaction")?;
    client.rollback().await.context("ROLLBACK")?;
    ensure!(count(&mut client, none()).await? == 2, "a rolled back node is there");
    seen.push("transaction: rolled back".to_owned());

    let Err(error) = client.query("RETURN 1 / 0").await else { anyhow::bail!("1 / 0 did not fail") };
    ensure!(error.code() == Some("Neo.ClientError.Statement.ArithmeticError"), "1 / 0 gave {error}");
    client.query("MATCH (p:SelfCheck) DETACH DELETE p").await.context("cleaning up")?;
    seen.push("error: 1 / 0 is refused, and the connection goes on".to_owned());
    client.close().await;
    Ok(seen)
}

async fn count(client: &mut BoltClient, extra: Value) -> Result<i64> {
    let answer = client.run("MATCH (p:SelfCheck) RETURN count(*) AS n", none(), extra).await?;
    Ok(integer_of(&answer, "n"))
}

fn none() -> Value {
    Value::Map(Vec::new())
}

fn id(id: i64) -> Value {
    Value::map([("id", Value::Integer(id))])
}

fn text_of(answer: &Answer, key: &str) -> String {
    answer.value(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn integer_of(answer: &Answer, key: &str) -> i64 {
    answer.value(key).and_then(Value::as_integer).unwrap_or_default()
}
