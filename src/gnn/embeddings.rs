//! `gnn.fastRP.stream` and `gnn.fastRP.write`, and what embeddings of all kinds share.

use std::sync::Arc;

use bolt_wire::packstream::Value;
use tokio::time::Instant;

use super::graph::Graph;
use super::project::blocking;
use super::rows::{Embeddings, Keeps, Output, Rows, Source};
use super::settings::{Settings, name};
use super::write::{Target, Times};
use super::{Caller, Gnn, Trouble};

/// Most numbers of an embedding: what Neo4j's vector indexes take.
pub(super) const WIDEST: usize = 4096;
/// Most rounds of FastRP.
const ROUNDS: usize = 32;

/// A finished configuration of FastRP.
struct FastRp {
    work: gnn::FastRp,
    /// Which features; none = all.
    properties: Option<Vec<String>>,
}

impl FastRp {
    fn read(map: &mut Settings, width: usize) -> Result<Self, Trouble> {
        let rounds = map.floats("iterationWeights")?.unwrap_or_else(|| vec![0.0, 1.0, 1.0]);
        if rounds.is_empty() || rounds.len() > ROUNDS {
            return Err(Trouble::wrong(format!(
                "Value for `iterationWeights` has {} numbers, but must have 1 to {ROUNDS}.",
                rounds.len()
            )));
        }
        let ratio = map.float("propertyRatio", 0.0)?;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(Trouble::wrong(format!(
                "Value for `propertyRatio` was `{ratio}`, but must be within the range [0.0, 1.0]."
            )));
        }
        let properties = map.strings("featureProperties")?;
        if ratio > 0.0 && properties.as_ref().is_none_or(Vec::is_empty) {
            return Err(Trouble::wrong(
                "When `propertyRatio` is non-zero, `featureProperties` may not be empty: name properties that the graph was projected with.",
            ));
        }
        let work = gnn::FastRp {
            embedding_dimension: map.size("embeddingDimension", width, WIDEST)?,
            iteration_weights: rounds,
            normalization_strength: map.float("normalizationStrength", 0.0)? as f32,
            property_ratio: ratio as f32,
            node_self_influence: map.float("nodeSelfInfluence", 0.0)? as f32,
            seed: map.seed()?,
        };
        let weight = map.string("relationshipWeightProperty")?;
        everything(map)?;
        drop(weight);
        Ok(Self { work, properties })
    }
}

/// `nodeLabels` and `relationshipTypes`: of a graph that was projected, all of them.
pub(super) fn everything(map: &mut Settings) -> Result<(), Trouble> {
    for key in ["nodeLabels", "relationshipTypes"] {
        if map.strings(key)?.is_some_and(|names| names != ["*"]) {
            return Err(Trouble::wrong(format!(
                "`{key}` can only be ['*'] here: a graph has the labels and types that it was projected with; project another one for others."
            )));
        }
    }
    Ok(())
}

/// Whether embeddings go out as vectors.
pub(super) fn vectors(map: &mut Settings, caller: &Caller) -> Result<bool, Trouble> {
    let wanted = map.word("embeddingType", &["list", "vector"])? == Some("vector");
    if wanted && !caller.vectors {
        return Err(Trouble::wrong(
            "`embeddingType` 'vector' needs Bolt 6.0 or newer, and this driver speaks an older version: leave it out for lists of floats.",
        ));
    }
    Ok(wanted)
}

impl Graph {
    /// The features that come of these properties.
    pub(super) fn select(&self, properties: &[String]) -> Result<gnn::Matrix, Trouble> {
        let mut columns = Vec::new();
        for property in properties {
            let before = columns.len();
            let of = |name: &str| {
                name.strip_prefix(property.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '=', '#']))
            };
            columns.extend(self.names.iter().enumerate().filter(|(_, name)| of(name)).map(|(at, _)| at));
            if columns.len() == before {
                return Err(Trouble::wrong(format!(
                    "`featureProperties` names `{property}`, which the graph was not projected with: it has {}.",
                    if self.names.is_empty() { "no features".to_owned() } else { self.names.join(", ") }
                )));
            }
        }
        let rows = self.features.rows();
        let mut values = Vec::with_capacity(rows * columns.len());
        for row in 0..rows {
            let own = self.features.row(row);
            values.extend(columns.iter().map(|at| own.get(*at).copied().unwrap_or_default()));
        }
        Ok(gnn::Matrix::new(rows, columns.len(), values)?)
    }
}

impl Gnn {
    pub(super) async fn fast_rp(
        &self,
        caller: &Caller,
        graph: Option<Value>,
        configuration: Option<Value>,
        writes: bool,
    ) -> Result<Output, Trouble> {
        let since = Instant::now();
        let graph = name("graphName", graph.as_ref())?;
        let shown = configuration.clone().unwrap_or_else(|| Value::Map(Vec::new()));
        let mut map = Settings::of(configuration)?;
        let wanted = FastRp::read(&mut map, caller.shared.config.load().gnn.embedding_dim)?;
        let target = if writes { Some(Target::read(&mut map)?) } else { None };
        let vectors = if writes { false } else { vectors(&mut map, caller)? };
        map.done()?;
        let owner = self.catalog.owner(caller).await?;
        let _turn = self.turn(caller).await?;
        let graph = self.catalog.current(caller, &owner, &graph).await?;
        let before = since.elapsed();
        let reserved = self.catalog.budget.take(wanted.work.required_bytes(graph.ids.len()))?;
        caller.task.step("Computing", graph.ids.len());
        let (work, cancel) = (Arc::clone(&graph), caller.cancel.clone());
        let begun = Instant::now();
        let matrix = blocking(move || {
            let features =
                wanted.properties.as_ref().map(|properties| work.select(properties)).transpose()?;
            let features = features.filter(|_| wanted.work.property_ratio > 0.0);
            Ok::<_, Trouble>(wanted.work.run(&work.edges, features.as_ref(), &cancel)?)
        })
        .await??;
        let computed = begun.elapsed();
        self.count(caller, &graph, matrix.rows(), computed);
        let mut reserved = reserved;
        reserved.set(matrix.bytes())?;
        let keeps = Keeps::Own { _reserved: Some(reserved) };
        let embeddings = Embeddings { graph, nodes: None, matrix: Arc::new(matrix), vectors, _kept: keeps };
        match target {
            None => Ok(Output::Rows(Rows::new(Source::Embeddings(embeddings)))),
            Some(target) => self.write(caller, embeddings, target, Times { before, computed }, shown).await,
        }
    }

    /// Counts what was computed.
    pub(super) fn count(&self, caller: &Caller, graph: &Graph, nodes: usize, took: std::time::Duration) {
        let metrics = &caller.shared.metrics.gnn;
        metrics.compute_seconds.observe(took.as_secs_f64());
        metrics.nodes.inc_by(nodes as u64);
        metrics.edges.inc_by(graph.edges.edges() as u64);
    }
}
