//! Embeddings of a few nodes without a graph: by their neighbourhood as Neo4j has it now.

use std::sync::Arc;

use bolt_wire::packstream::Value;
use tokio::time::Instant;

use super::around::{around, with_ids};
use super::features::plain;
use super::graph::Graph;
use super::names::prefix_of;
use super::project::{Edges, finish};
use super::rows::{Embeddings, Keeps, Output, Rows, Source};
use super::settings::{Settings, expected};
use super::spec::Spec;
use super::{Caller, Gnn, Trouble, embeddings, project};

/// Nodes that one call may name.
const SEEDS: usize = 1000;
/// Most neighbours of one node that are heard.
const FAN_OUT: usize = 10_000;
/// So many, where nobody says.
const USUAL: [usize; 3] = [25, 10, 5];
/// The statement that says what element ids begin with, if there is one of these nodes.
const ANY: &str = "MATCH (n) WHERE id(n) IN $ids RETURN elementId(n) LIMIT 1";

/// Neighbours that are heard by each layer of a model, where nobody says.
pub(super) fn usual_sizes(layers: usize) -> Vec<usize> {
    (0..layers).map(|layer| USUAL.get(layer).copied().unwrap_or(5)).collect()
}

/// What a node is named by: an id, an element id, or the node itself.
fn id_of(node: &Value) -> Result<i64, Trouble> {
    let id = match node {
        Value::Integer(id) => Some(*id),
        Value::String(text) => text.rsplit_once(':').and_then(|(_, id)| id.parse().ok()),
        Value::Struct(0x4E, fields) => fields.first().and_then(Value::as_integer),
        _ => None,
    };
    id.ok_or_else(|| expected("nodes", "LIST<INTEGER OR STRING OR NODE>", node))
}

impl Gnn {
    /// `gnn.embed.stream` of a list of nodes.
    pub(super) async fn embed_live(
        &self,
        caller: &Caller,
        nodes: Vec<Value>,
        configuration: Option<Value>,
    ) -> Result<Output, Trouble> {
        let mut map = Settings::of(configuration)?;
        let loaded = self.model_of(&mut map, caller)?;
        let info = loaded.model.info();
        if nodes.is_empty() || nodes.len() > SEEDS {
            return Err(Trouble::wrong(format!(
                "`nodes` has {} entries; 1 to {SEEDS} can be asked for without a graph: project one with gnn.graph.project() for more.",
                nodes.len()
            )));
        }
        if info.kind == gnn::Kind::Gcn {
            return Err(Trouble::wrong(
                "A model of type gcn depends on how many neighbours its neighbours have: project a graph with gnn.graph.project() for it.",
            ));
        }
        let seeds = nodes.iter().map(id_of).collect::<Result<Vec<i64>, _>>()?;
        let sizes = map.sizes("sampleSizes", FAN_OUT)?.unwrap_or_else(|| usual_sizes(info.layers));
        if sizes.len() != info.layers {
            return Err(Trouble::wrong(format!(
                "`sampleSizes` has {} numbers, but the model `{}` has {} layers: give one for each.",
                sizes.len(),
                loaded.model.name(),
                info.layers
            )));
        }
        let spec = Arc::new(live_spec(&mut map, &info)?);
        let vectors = embeddings::vectors(&mut map, caller)?;
        map.done()?;
        let graph = Arc::new(self.neighbourhood(caller, &spec, &seeds, &sizes).await?);
        let at =
            nodes.iter().map(|node| super::embed::position(&graph, node)).collect::<Result<Vec<u32>, _>>()?;
        let ready = self.prepare(&graph, &loaded.model).await?;
        let (wanted, cancel, begun) = (at.clone(), caller.cancel.clone(), Instant::now());
        let matrix = project::blocking(move || {
            ready.model.forward_nodes(&ready.graph.edges, &ready.features, &wanted, &[], 0, &cancel)
        })
        .await??;
        self.count(caller, &graph, at.len(), begun.elapsed());
        let keeps = Keeps::Own { _reserved: None };
        let rows = Embeddings { graph, nodes: Some(at), matrix: Arc::new(matrix), vectors, _kept: keeps };
        Ok(Output::Rows(Rows::new(Source::Embeddings(rows))))
    }

    /// The nodes that the embeddings of some nodes depend on, as Neo4j has them now.
    async fn neighbourhood(
        &self,
        caller: &Caller,
        spec: &Arc<Spec>,
        seeds: &[i64],
        sizes: &[usize],
    ) -> Result<Graph, Trouble> {
        let since = Instant::now();
        let view = self.vicinities.open(caller, &self.catalog, spec).await?;
        let mut lease = caller.lease().await?;
        // Even if all is kept, Neo4j is asked: whether he may, whether his bookmarks are known, whether there are such nodes.
        let prefix = prefix_of(caller, &mut lease, ANY, &with_ids(seeds, None)).await?;
        let prefix = prefix.ok_or_else(|| {
            Trouble::wrong("`nodes`: there is none of them in the database, or you may not see them.")
        })?;
        let found = around(caller, spec, &view, seeds, sizes, (lease, self.catalog.budget.reserve())).await?;
        let (pairs, read) = (found.pairs, found.read);
        if !read.is_empty() {
            let caller = caller.clone();
            tokio::spawn(async move { caller.shared.gnn.vicinities.close(&caller, view, read).await });
        }
        let version = self.catalog.next_version();
        finish(spec, version, prefix, found.nodes, found.reserved, since, |positions| {
            let mut edges = Edges::default();
            for (source, target) in pairs {
                if let (Some(source), Some(target)) = (positions(source), positions(target)) {
                    edges.put(source, target, None);
                }
            }
            edges
        })
        .await
    }
}

/// What is read: the model's own features, along the relationships that the configuration names.
fn live_spec(map: &mut Settings, info: &gnn::Info) -> Result<Spec, Trouble> {
    let types = map.take("relationshipTypes").unwrap_or_else(|| "*".into());
    let usual = match info.orientation {
        gnn::Orientation::Natural => "NATURAL",
        gnn::Orientation::Reverse => "REVERSE",
        gnn::Orientation::Undirected => "UNDIRECTED",
    };
    let way = map.word("orientation", &["NATURAL", "REVERSE", "UNDIRECTED"])?.unwrap_or(usual);
    let mut spec = Spec::read("*".into(), types, Some(Value::map([("orientation", way.into())])))?;
    let properties = map.strings("featureProperties")?.unwrap_or_else(|| info.feature_properties.clone());
    if properties.is_empty() {
        return Err(Trouble::wrong(
            "The model does not say which properties its features are made of: name them as featureProperties.",
        ));
    }
    spec.features = plain(&properties, Some(0.0));
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_in_three_ways() {
        let node = Value::Struct(0x4E, vec![Value::Integer(7)]);
        for value in [Value::Integer(7), "4:abc:7".into(), node] {
            assert_eq!(id_of(&value), Ok(7));
        }
        assert!(id_of(&Value::Float(1.0)).is_err() && id_of(&"x".into()).is_err());
    }
}
