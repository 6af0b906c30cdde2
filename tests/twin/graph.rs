//! The database as a whole: prepared, read, emptied.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use bolt_wire::Version;
use bolt_wire::packstream::Value;

use crate::normal::Writer;
use crate::plan::{Ask, Extra};
use crate::texts::{LABELS, TYPES};
use crate::values::NAMES;
use crate::wire::{Connection, Endpoint};

/// A connection straight to the server, for what belongs to no client.
#[derive(Debug)]
pub(crate) struct Graph {
    connection: Connection,
}

impl Graph {
    /// Connects; the answers that it gets are never falsified.
    pub(crate) async fn open(server: &Endpoint) -> Result<Self> {
        let honest = Endpoint { wrong: None, ..server.clone() };
        let connection = Connection::open(&honest, Version::V5_8).await;
        Ok(Self { connection: connection.with_context(|| format!("connecting to {}", server.address))? })
    }

    /// All records of a statement.
    pub(crate) async fn rows(&mut self, text: &str) -> Result<Vec<Vec<Value>>> {
        let run = Ask::Run(text.to_owned(), Value::map([]), Extra::none());
        let replies = self.connection.ask_honestly(&[run, Ask::Pull(-1)]).await;
        let mut replies = replies.map_err(|broken| broken.error).with_context(|| text.to_owned())?;
        if let Some(failed) = replies.iter().find(|reply| reply.success().is_none()) {
            bail!("{text}: {:?}", failed.end);
        }
        Ok(replies.pop().map(|pull| pull.records).unwrap_or_default())
    }

    /// Refuses a database that holds something: all of it would be deleted.
    pub(crate) async fn must_be_empty(&mut self) -> Result<()> {
        let found = self.rows("MATCH (n) RETURN count(n)").await?;
        match found.first().and_then(|row| row.first()) {
            Some(Value::Integer(0)) => Ok(()),
            found => bail!(
                "the database holds {found:?} nodes, and this test deletes everything: name an empty server"
            ),
        }
    }

    /// Constraints, an index, and every name that will be used: a name that is new would be warned of once.
    pub(crate) async fn prepare(&mut self) -> Result<()> {
        for statement in SCHEMA {
            self.rows(&format!("CREATE {statement}")).await?;
        }
        let labels: Vec<String> = LABELS.iter().map(|label| format!(":{label}")).collect();
        let names: Vec<String> = NAMES.iter().map(|name| format!("`{name}`: 1")).collect();
        let more =
            "id: 'prepare', a: 1, b: 1, mail: '', w: 1, clock: 1, none: 1, other: 1, twin: 1, by: 1, n: 1";
        self.rows(&format!("CREATE (:TwM{} {{{}, {more}}})", labels.concat(), names.join(", "))).await?;
        for kind in TYPES {
            self.rows(&format!("MATCH (n:TwM) CREATE (n)-[:{kind}]->(n)")).await?;
        }
        self.rows("CALL db.awaitIndexes(60)").await?;
        self.empty().await
    }

    /// Takes the constraints and the index away.
    pub(crate) async fn clean_up(&mut self) -> Result<()> {
        self.empty().await?;
        for statement in SCHEMA {
            let what = if statement.starts_with("INDEX") { "INDEX" } else { "CONSTRAINT" };
            let name = statement.split(' ').nth(1).unwrap_or_default();
            self.rows(&format!("DROP {what} {name}")).await?;
        }
        Ok(())
    }

    /// Deletes all nodes.
    pub(crate) async fn empty(&mut self) -> Result<()> {
        self.rows("MATCH (n) DETACH DELETE n").await.map(drop)
    }

    /// Every node and every relationship, one line each, sorted; entities by what they hold.
    pub(crate) async fn everything(&mut self) -> Result<Vec<String>> {
        let mut nodes = HashMap::new();
        for row in self.rows("MATCH (n) RETURN n").await? {
            let [Value::Struct(_, fields)] = &row[..] else { bail!("no node: {row:?}") };
            let id = fields.first().and_then(Value::as_integer).context("a node without an id")?;
            // A writer of its own: the number is always the same.
            nodes.insert(id, Writer::default().value(&row[0]));
        }
        let mut lines: Vec<String> = nodes.values().cloned().collect();
        for row in self.rows("MATCH ()-[r]->() RETURN r, type(r), properties(r)").await? {
            let [Value::Struct(_, fields), kind, properties] = &row[..] else {
                bail!("no relationship: {row:?}")
            };
            let [_, Value::Integer(start), Value::Integer(end), ..] = &fields[..] else {
                bail!("no ends: {row:?}")
            };
            let mut writer = Writer::default();
            let of = |id| nodes.get(id).map(String::as_str).unwrap_or("?");
            let (kind, properties) = (writer.value(kind), writer.value(properties));
            lines.push(format!("{} -[{kind} {properties}]-> {}", of(start), of(end)));
        }
        lines.sort();
        Ok(lines)
    }
}

const SCHEMA: &[&str] = &[
    "CONSTRAINT twin_u FOR (n:TwU) REQUIRE n.id IS UNIQUE",
    "CONSTRAINT twin_v FOR (n:TwV) REQUIRE n.id IS UNIQUE",
    "CONSTRAINT twin_mail FOR (n:TwV) REQUIRE n.mail IS UNIQUE",
    "CONSTRAINT twin_c FOR (n:TwC) REQUIRE (n.a, n.b) IS UNIQUE",
    "CONSTRAINT twin_q FOR (n:`Tw ünï`) REQUIRE n.id IS UNIQUE",
    "CONSTRAINT twin_s FOR ()-[r:TW_S]-() REQUIRE r.id IS UNIQUE",
    "INDEX twin_i FOR (n:TwI) ON (n.id)",
];
