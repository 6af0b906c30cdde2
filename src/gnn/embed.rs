//! `gnn.embed.…`: embeddings by a model, of a whole graph or of some of its nodes.

use std::sync::Arc;

use bolt_wire::packstream::Value;
use tokio::time::Instant;

use super::batch::{Ready, Sampling, Whole};
use super::embeddings::{everything, vectors};
use super::graph::Graph;
use super::graphs::in_words;
use super::models::Loaded;
use super::project::blocking;
use super::rows::{Embeddings, Keeps, Output, Rows, Source};
use super::settings::{Settings, expected, name};
use super::write::{Target, Times};
use super::{Caller, Gnn, Trouble, count, millis};

/// Nodes that one call may name.
const NODES: usize = 100_000;
/// Most neighbours of one node that are heard.
const FAN_OUT: usize = 100_000;

/// What a call wants of the embeddings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    Stream,
    Write,
    Stats,
    Estimate,
}

/// A configuration of `gnn.embed.…`.
struct Wanted {
    model: Arc<Loaded>,
    /// Which nodes; none = all.
    nodes: Option<Vec<Value>>,
    sampling: Sampling,
    target: Option<Target>,
    vectors: bool,
}

impl Gnn {
    /// The model that a configuration names, or the one that is meant where it names none.
    pub(super) fn model_of(&self, map: &mut Settings, caller: &Caller) -> Result<Arc<Loaded>, Trouble> {
        let config = caller.shared.config.load();
        let named = map.string("modelName")?.or_else(|| config.gnn.model.clone());
        let named = named.ok_or_else(|| {
            Trouble::wrong("No value specified for the mandatory configuration parameter `modelName`: name a model of gnn.model.list().")
        })?;
        self.models.find(&named)
    }

    fn embed_wanted(&self, map: &mut Settings, caller: &Caller, mode: Mode) -> Result<Wanted, Trouble> {
        let model = self.model_of(map, caller)?;
        let nodes = match map.take("nodes") {
            None => None,
            Some(Value::List(nodes)) if nodes.len() <= NODES => Some(nodes),
            Some(Value::List(nodes)) => {
                return Err(Trouble::wrong(format!(
                    "`nodes` has {} entries, and at most {NODES} can be asked for at once: leave it out for all nodes.",
                    nodes.len()
                )));
            }
            Some(other) => return Err(expected("nodes", "LIST<INTEGER OR STRING OR NODE>", &other)),
        };
        let sizes = map.sizes("sampleSizes", FAN_OUT)?.unwrap_or_default();
        let layers = model.model.info().layers;
        if !sizes.is_empty() && sizes.len() != layers {
            return Err(Trouble::wrong(format!(
                "`sampleSizes` has {} numbers, but the model `{}` has {layers} layers: give one for each, or none to hear all neighbours.",
                sizes.len(),
                model.model.name()
            )));
        }
        if !sizes.is_empty() && nodes.is_none() {
            return Err(Trouble::wrong(
                "`sampleSizes` is for `nodes`: the embeddings of all nodes are computed from all neighbours at once.",
            ));
        }
        let sampling = Sampling { sizes, seed: map.seed()? };
        let target = if mode == Mode::Write { Some(Target::read(map)?) } else { None };
        let vectors = if mode == Mode::Stream { vectors(map, caller)? } else { false };
        everything(map)?;
        Ok(Wanted { model, nodes, sampling, target, vectors })
    }

    pub(super) async fn embed(
        &self,
        caller: &Caller,
        graph: Option<Value>,
        configuration: Option<Value>,
        mode: Mode,
    ) -> Result<Output, Trouble> {
        let since = Instant::now();
        let graph = name("graphName", graph.as_ref())?;
        let shown = configuration.clone().unwrap_or_else(|| Value::Map(Vec::new()));
        let mut map = Settings::of(configuration)?;
        let wanted = self.embed_wanted(&mut map, caller, mode)?;
        map.done()?;
        let owner = self.catalog.owner(caller).await?;
        if mode == Mode::Estimate {
            let named = self.catalog.find(&owner, &graph)?;
            return Ok(estimate(&named.latest(), &wanted.model));
        }
        let graph = self.catalog.current(caller, &owner, &graph).await?;
        let ready = self.ready(&graph, &wanted.model.model).await?;
        let before = since.elapsed();
        let begun = Instant::now();
        let embeddings = match &wanted.nodes {
            Some(nodes) => {
                let nodes =
                    nodes.iter().map(|node| position(&graph, node)).collect::<Result<Vec<u32>, _>>()?;
                let reserved =
                    self.catalog.budget.take(4 * nodes.len() * wanted.model.model.info().out_channels)?;
                caller.task.step("Computing", nodes.len());
                let (budget, metrics) = (&self.catalog.budget, &caller.shared.metrics);
                let matrix = self.batches.nodes(&ready, &wanted.sampling, &nodes, budget, metrics).await?;
                let keeps = Keeps::Own { _reserved: Some(reserved) };
                Embeddings {
                    graph,
                    nodes: Some(nodes),
                    matrix: Arc::new(matrix),
                    vectors: wanted.vectors,
                    _kept: keeps,
                }
            }
            None => {
                let whole = self.whole(caller, &ready).await?;
                let matrix = Arc::clone(&whole.matrix);
                let keeps = Keeps::Shared { _whole: whole };
                Embeddings { graph, nodes: None, matrix, vectors: wanted.vectors, _kept: keeps }
            }
        };
        let times = Times { before, computed: begun.elapsed() };
        match (mode, wanted.target) {
            (Mode::Write, Some(target)) => self.write(caller, embeddings, target, times, shown).await,
            (Mode::Stats, _) => Ok(Output::Rows(Rows::table(vec![vec![
                count(embeddings.len()),
                count(embeddings.matrix.columns()),
                Value::Integer(i64::try_from(times.before.as_millis()).unwrap_or(i64::MAX)),
                millis(begun),
                shown,
            ]]))),
            _ => Ok(Output::Rows(Rows::new(Source::Embeddings(embeddings)))),
        }
    }

    /// A graph with the features that a model reads.
    pub(super) async fn ready(
        &self,
        graph: &Arc<Graph>,
        model: &Arc<gnn::Model>,
    ) -> Result<Arc<Ready>, Trouble> {
        if let Some(ready) = self.batches.ready(graph.version, model.version()) {
            return Ok(ready);
        }
        Ok(self.batches.keep(self.prepare(graph, model).await?))
    }

    /// The same, for one call.
    pub(super) async fn prepare(
        &self,
        graph: &Arc<Graph>,
        model: &Arc<gnn::Model>,
    ) -> Result<Ready, Trouble> {
        let info = model.info();
        if info.in_channels > 0 && graph.features.columns() == 0 {
            return Err(Trouble::wrong(format!(
                "The graph has no features, and the model `{}` reads {} numbers of each node: project it with featureProperties{}.",
                model.name(),
                info.in_channels,
                if info.feature_properties.is_empty() {
                    String::new()
                } else {
                    format!(" {:?}", info.feature_properties)
                }
            )));
        }
        let own = info.feature_properties.is_empty() && graph.features.columns() == info.in_channels;
        if own {
            let features = Arc::clone(&graph.features);
            return Ok(Ready::new(Arc::clone(graph), Arc::clone(model), features, None));
        }
        let reserved =
            self.catalog.budget.take(4 * graph.ids.len() * info.in_channels.max(graph.features.columns()))?;
        let (source, width) = (Arc::clone(graph), info.in_channels);
        let features = blocking(move || {
            let chosen = if info.feature_properties.is_empty() {
                gnn::Matrix::new(
                    source.features.rows(),
                    source.features.columns(),
                    source.features.values().to_vec(),
                )?
            } else {
                source.select(&info.feature_properties)?
            };
            Ok::<_, Trouble>(gnn::adapt(chosen, width, gnn::Adapt::Project { seed: 42 })?)
        })
        .await??;
        let mut reserved = reserved;
        reserved.set(features.bytes())?;
        Ok(Ready::new(Arc::clone(graph), Arc::clone(model), Arc::new(features), Some(reserved)))
    }

    /// The embeddings of all nodes; computed once, and for all who wait.
    pub(super) async fn whole(&self, caller: &Caller, ready: &Arc<Ready>) -> Result<Arc<Whole>, Trouble> {
        let mut whole = ready.whole.lock().await;
        if let Some(known) = &*whole {
            return Ok(Arc::clone(known));
        }
        let _turn = self.turn(caller).await?;
        let graph = &ready.graph;
        let (least, most) = ready.model.required_bytes(graph.ids.len(), graph.edges.edges());
        let mut reserved = self.catalog.budget.take(most.max(least))?;
        caller.task.step("Computing", graph.ids.len());
        let (work, cancel, begun) = (Arc::clone(ready), caller.cancel.clone(), Instant::now());
        let matrix =
            blocking(move || work.model.forward(&work.graph.edges, &work.features, &cancel)).await??;
        self.count(caller, graph, matrix.rows(), begun.elapsed());
        reserved.set(matrix.bytes())?;
        let new = Arc::new(Whole { matrix: Arc::new(matrix), _reserved: reserved });
        *whole = Some(Arc::clone(&new));
        Ok(new)
    }
}

/// Where the node stands that a value names: an id, an element id, or the node itself.
pub(super) fn position(graph: &Graph, node: &Value) -> Result<u32, Trouble> {
    let id = match node {
        Value::Integer(id) => Some(*id),
        Value::String(text) => text.strip_prefix(&*graph.prefix).and_then(|id| id.parse().ok()),
        Value::Struct(0x4E, fields) => fields.first().and_then(Value::as_integer),
        other => return Err(expected("nodes", "LIST<INTEGER OR STRING OR NODE>", other)),
    };
    id.and_then(|id| graph.position(id)).ok_or_else(|| {
        let shown = match node {
            Value::Integer(id) => id.to_string(),
            Value::String(text) => format!("'{text}'"),
            _ => format!("with id {}", id.unwrap_or_default()),
        };
        Trouble::wrong(format!(
            "The node {shown} is not in the graph: nodes are named by id(n) or elementId(n), and must have a label that the graph was projected with."
        ))
    })
}

/// What computing would take.
fn estimate(graph: &Graph, model: &Loaded) -> Output {
    let (least, most) = model.model.required_bytes(graph.ids.len(), graph.edges.edges());
    let words =
        if least == most { in_words(least) } else { format!("[{} ... {}]", in_words(least), in_words(most)) };
    Output::Rows(Rows::table(vec![vec![
        words.as_str().into(),
        count(least),
        count(most),
        count(graph.ids.len()),
        count(graph.relationships),
        "cpu".into(),
    ]]))
}
