//! Embeddings of a few nodes without a graph: their neighbourhood is read hop by hop, as it is now.

use std::collections::HashSet;
use std::sync::Arc;

use bolt_wire::packstream::{Value, encode};
use bytes::BytesMut;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::features::plain;
use super::graph::Graph;
use super::project::{Edges, broken, finish, read_nodes_of};
use super::rows::{Embeddings, Keeps, Output, Rows, Source};
use super::settings::{Settings, expected};
use super::spec::{Relationships, Spec, Way, alternatives};
use super::{Caller, Gnn, Trouble, embeddings, project};
use crate::upstream::Lease;

/// Nodes that one call may name.
const SEEDS: usize = 1000;
/// Most neighbours of one node that are heard.
const FAN_OUT: usize = 10_000;
/// So many, where nobody says.
const USUAL: [usize; 3] = [25, 10, 5];

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

/// The statement that gives neighbours of nodes.
fn hop_text(relationships: &Relationships) -> String {
    let types = alternatives(&relationships.types);
    let (left, right) = match relationships.way {
        Way::Natural => ("<-", "-"),
        Way::Reverse => ("-", "->"),
        Way::Undirected => ("-", "-"),
    };
    format!(
        "UNWIND $ids AS i MATCH (n) WHERE id(n) = i RETURN i, COLLECT {{ MATCH (n){left}[{types}]{right}(m) RETURN id(m) LIMIT $most }}"
    )
}

fn with_ids(ids: &[i64], most: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(16 + 9 * ids.len());
    encode::map_header(2, &mut out);
    encode::string("ids", &mut out);
    encode::list_header(ids.len(), &mut out);
    ids.iter().for_each(|id| encode::integer(*id, &mut out));
    encode::string("most", &mut out);
    encode::integer(i64::try_from(most).unwrap_or(i64::MAX), &mut out);
    out
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
        let usual = || (0..info.layers).map(|layer| USUAL.get(layer).copied().unwrap_or(5)).collect();
        let sizes: Vec<usize> = map.sizes("sampleSizes", FAN_OUT)?.unwrap_or_else(usual);
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
        let mut reserved = self.catalog.budget.reserve();
        let mut lease = caller.lease().await?;
        let mut known: HashSet<i64, RandomState> = seeds.iter().copied().collect();
        let mut pairs: Vec<(i64, i64)> = Vec::new();
        let mut frontier: Vec<i64> = known.iter().copied().collect();
        for most in sizes {
            frontier.sort_unstable();
            let mut next = Vec::new();
            for relationships in &spec.relationships {
                next.extend(hop(caller, &mut lease, relationships, &frontier, *most, &mut pairs).await?);
            }
            next.retain(|id| known.insert(*id));
            reserved.set(16 * pairs.capacity() + 48 * known.len())?;
            frontier = next;
        }
        let mut ids: Vec<i64> = known.into_iter().collect();
        ids.sort_unstable();
        let (prefix, nodes) =
            read_nodes_of(caller, &mut lease, spec, &with_ids(&ids, 0), &mut reserved).await?;
        drop(lease);
        let mut edges = Edges::default();
        finish(spec, self.catalog.next_version(), prefix, nodes, reserved, since, |positions| {
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

/// Reads one hop: who is heard by these nodes. Gives those that were heard.
async fn hop(
    caller: &Caller,
    lease: &mut Lease,
    relationships: &Relationships,
    frontier: &[i64],
    most: usize,
    pairs: &mut Vec<(i64, i64)>,
) -> Result<Vec<i64>, Trouble> {
    let mut heard = Vec::new();
    if frontier.is_empty() {
        return Ok(heard);
    }
    caller
        .read(lease, &hop_text(relationships), &with_ids(frontier, most), |walker| {
            let node = walker.integer().map_err(broken)?;
            for _ in 0..walker.list_header().map_err(broken)? {
                let neighbour = walker.integer().map_err(broken)?;
                pairs.push((neighbour, node));
                heard.push(neighbour);
            }
            Ok(())
        })
        .await?;
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_goes_where_messages_come_from() {
        let text = |way: Way, types: &[&str]| {
            let types = types.iter().map(|name| (*name).to_owned()).collect();
            hop_text(&Relationships { types, way, weight: None })
        };
        assert!(text(Way::Natural, &["A", "B"]).contains("MATCH (n)<-[:`A`|`B`]-(m) RETURN id(m)"));
        assert!(text(Way::Reverse, &["A"]).contains("MATCH (n)-[:`A`]->(m)"));
        assert!(text(Way::Undirected, &[]).contains("MATCH (n)-[]-(m)"));
    }

    #[test]
    fn nodes_are_named_in_three_ways() {
        let node = Value::Struct(0x4E, vec![Value::Integer(7)]);
        for value in [Value::Integer(7), "4:abc:7".into(), node] {
            assert_eq!(id_of(&value), Ok(7));
        }
        assert!(id_of(&Value::Float(1.0)).is_err() && id_of(&"x".into()).is_err());
    }
}
