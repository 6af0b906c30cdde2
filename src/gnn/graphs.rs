//! `gnn.graph.project`, `gnn.graph.list`, `gnn.graph.drop`.

use std::sync::Arc;

use bolt_wire::packstream::Value;

use super::catalog::Named;
use super::fresh::{Known, known};
use super::rows::{Output, Rows};
use super::settings::{expected, name};
use super::spec::Spec;
use super::{Caller, Gnn, Trouble, count};
use crate::sight::moment;

/// Names of features that are shown.
const FEATURES: usize = 1000;

impl Gnn {
    pub(super) async fn project(
        &self,
        caller: &Caller,
        graph: Option<Value>,
        nodes: Option<Value>,
        relationships: Option<Value>,
        configuration: Option<Value>,
        read: impl FnOnce(Value, Value, Option<Value>) -> Result<Spec, Trouble>,
    ) -> Result<Output, Trouble> {
        let graph = name("graphName", graph.as_ref())?;
        let nothing = || Value::List(Vec::new());
        let nodes = nodes.unwrap_or_else(nothing);
        let relationships = relationships.unwrap_or_else(nothing);
        let spec = Arc::new(read(nodes, relationships, configuration)?);
        let owner = self.catalog.owner(caller).await?;
        let _turn = self.turn(caller).await?;
        let named = self.catalog.project(caller, owner, &graph, spec).await?;
        let read = named.latest();
        caller.shared.metrics.gnn.project_seconds.observe(read.took.as_secs_f64());
        let [nodes, relationships, _] = read.spec.shown.clone();
        Ok(Output::Rows(Rows::table(vec![vec![
            nodes,
            relationships,
            graph.into(),
            count(read.ids.len()),
            count(read.relationships),
            Value::Integer(i64::try_from(read.took.as_millis()).unwrap_or(i64::MAX)),
            count(read.names.len()),
            count(read.missing),
            count(read.bytes()),
        ]])))
    }

    pub(super) async fn list(&self, caller: &Caller, graph: Option<Value>) -> Result<Output, Trouble> {
        let wanted = match graph {
            None | Some(Value::Null) => None,
            given => Some(name("graphName", given.as_ref())?),
        };
        let owner = self.catalog.owner(caller).await?;
        let mut rows = Vec::new();
        for named in self.catalog.list(&owner) {
            if wanted.as_ref().is_none_or(|wanted| **wanted == *named.name) {
                rows.push(row(caller, &named).await);
            }
        }
        Ok(Output::Rows(Rows::table(rows)))
    }

    pub(super) async fn drop(
        &self,
        caller: &Caller,
        graph: Option<Value>,
        fail: Option<Value>,
    ) -> Result<Output, Trouble> {
        let graph = name("graphName", graph.as_ref())?;
        let fail = match fail {
            None | Some(Value::Null) => true,
            Some(Value::Boolean(fail)) => fail,
            Some(other) => return Err(expected("failIfMissing", "BOOLEAN", &other)),
        };
        let owner = self.catalog.owner(caller).await?;
        let Some(named) = self.catalog.drop(&owner, &graph) else {
            return match self.catalog.find(&owner, &graph) {
                Err(trouble) if fail => Err(trouble),
                _ => Ok(Output::Rows(Rows::table(Vec::new()))),
            };
        };
        let read = named.latest();
        self.batches.forget(read.version);
        Ok(Output::Rows(Rows::table(vec![vec![
            graph.into(),
            Value::from(&*named.owner.database),
            count(read.ids.len()),
            count(read.relationships),
            count(read.bytes()),
        ]])))
    }
}

async fn row(caller: &Caller, named: &Named) -> Vec<Value> {
    let read = named.latest();
    let stale = match known(caller, read.stamp.as_ref()).await {
        Known::Fresh => Value::Boolean(false),
        Known::Stale => Value::Boolean(true),
        Known::Unknown | Known::Unreachable => Value::Null,
    };
    let [_, _, configuration] = read.spec.shown.clone();
    vec![
        Value::from(&*named.name),
        Value::from(&*named.owner.database),
        Value::from(in_words(read.bytes()).as_str()),
        count(read.bytes()),
        count(read.ids.len()),
        count(read.relationships),
        count(read.names.len()),
        Value::List(read.names.iter().take(FEATURES).map(|name| Value::from(name.as_str())).collect()),
        Value::Integer(i64::try_from(read.version).unwrap_or(i64::MAX)),
        stale,
        Value::from(moment(read.read).as_str()),
        configuration,
    ]
}

/// Bytes as people write them.
pub(super) fn in_words(bytes: usize) -> String {
    let (size, unit) = match bytes {
        0..1024 => return format!("{bytes} Bytes"),
        1024..0x10_0000 => (bytes as f64 / 1024.0, "KiB"),
        0x10_0000..0x4000_0000 => (bytes as f64 / f64::from(1 << 20), "MiB"),
        _ => (bytes as f64 / f64::from(1 << 30), "GiB"),
    };
    format!("{size:.1} {unit}")
}
