//! Models: a folder with `model.safetensors` and `config.json`, and what they compute.

mod activation;
mod build;
pub(crate) mod config;
mod files;
pub(crate) mod layer;
mod remote;
mod weights;

pub use config::{Activation, Aggr, Config, Jump, Kind, Limits, Norm, NormMode, Orient};

use crate::accelerate::Resident;
use crate::kernel::dense::{Start, Term, multiply};
use crate::kernel::for_each_block;
use crate::kernel::gather::Hearing;
use crate::sample::{Request, Sample, distinct};
use crate::{Cancel, Csr, Error, Matrix, device};
use build::Head;
use layer::Layer;
pub(crate) use remote::self_check;
use remote::{DeviceModel, Remote};
use std::fmt;

/// GraphSAGE, GCN, GAT or GATv2 with its weights. It does not change: share it.
pub struct Model {
    name: String,
    version: String,
    config: Config,
    layers: Vec<Layer>,
    head: Option<Head>,
    /// The file that it was made from, for saving.
    file: Vec<u8>,
    parameters: usize,
    resident: Resident<DeviceModel>,
}

/// What a model is, for lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The folder's name.
    pub name: String,
    /// The hash of weights and configuration: 32 hexadecimal digits.
    pub version: String,
    /// `graphsage`, `gcn`, `gat` or `gatv2`.
    pub kind: Kind,
    /// How many features a node has.
    pub in_channels: usize,
    /// How many numbers a node has between layers.
    pub hidden_channels: usize,
    /// How many numbers an embedding has.
    pub out_channels: usize,
    /// How many layers.
    pub layers: usize,
    /// How neighbours become one row.
    pub aggregator: String,
    /// How many heads.
    pub heads: usize,
    /// How many weights.
    pub parameters: usize,
    /// How many numbers each edge needs; 0 for none.
    pub edge_features: usize,
    /// The node properties that the features are made from.
    pub feature_properties: Vec<String>,
    /// Which way edges carry messages.
    pub orientation: crate::Orientation,
    /// How much memory it holds.
    pub bytes: usize,
}

impl Model {
    /// The name it was loaded or saved under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of weights and configuration: 32 hexadecimal digits.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its `config.json`.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> Info {
        let attention = matches!(self.config.model_type, Kind::Gat | Kind::Gatv2);
        Info {
            name: self.name.clone(),
            version: self.version.clone(),
            kind: self.config.model_type,
            in_channels: self.config.in_channels,
            hidden_channels: self.config.hidden_channels,
            out_channels: self.config.embedding_dimension(),
            layers: self.config.num_layers,
            aggregator: match self.config.model_type {
                Kind::GraphSage => self.config.aggr.to_string(),
                Kind::Gcn => "symmetric".to_owned(),
                Kind::Gat | Kind::Gatv2 => "attention".to_owned(),
            },
            heads: if attention { self.config.heads } else { 1 },
            parameters: self.parameters,
            edge_features: self.config.edge_dim.unwrap_or(0),
            feature_properties: self.config.feature_properties.clone(),
            orientation: self.config.orientation.into(),
            bytes: self.file.len() + self.parameters * size_of::<f32>(),
        }
    }

    /// The embeddings of all nodes, in their order: by the device that [`crate::open`] chose. What a GPU fails
    /// to compute is computed by the processor.
    ///
    /// # Errors
    /// If graph or features do not fit the model, or the caller cancelled.
    pub fn forward(&self, graph: &Csr, features: &Matrix, cancel: &Cancel) -> Result<Matrix, Error> {
        self.check(graph, features)?;
        if let Some(library) = device::active() {
            match self.remote(&library, graph, features, cancel) {
                Ok(values) => return Matrix::new(graph.nodes(), self.config.embedding_dimension(), values),
                Err(Remote::Cancelled) => return Err(Error::Cancelled),
                Err(Remote::Failed(reason)) => device::fell_back(reason),
            }
        }
        self.forward_here(graph, features, cancel)
    }

    /// The same by the processor, for what was checked.
    fn forward_here(&self, graph: &Csr, features: &Matrix, cancel: &Cancel) -> Result<Matrix, Error> {
        let hearing = self.hearing(graph);
        let values = self.stack(|_| hearing, graph.nodes(), features.values(), cancel)?;
        Matrix::new(graph.nodes(), self.config.embedding_dimension(), values)
    }

    /// The embeddings of some nodes, in their order. `fan_out` says how many neighbours are heard at most: of
    /// the nodes asked for, of those neighbours, and so on, one number for each layer; 0 means all, and so does
    /// an empty list. Which ones is drawn from the seed for each node alone, so that a node's embedding does
    /// not depend on the others asked for.
    ///
    /// # Errors
    /// If a node does not exist, graph or features do not fit the model, or the caller cancelled.
    pub fn forward_nodes(
        &self,
        graph: &Csr,
        features: &Matrix,
        nodes: &[u32],
        fan_out: &[usize],
        seed: u64,
        cancel: &Cancel,
    ) -> Result<Matrix, Error> {
        self.check(graph, features)?;
        if let Some(node) = nodes.iter().find(|node| **node as usize >= graph.nodes()) {
            return Err(Error::argument(
                "nodes",
                format!("node {node} does not exist: the graph has {}", graph.nodes()),
            ));
        }
        let all = vec![0; self.layers.len()];
        let fan_out = if fan_out.is_empty() { &all } else { fan_out };
        if fan_out.len() != self.layers.len() {
            let problem = format!(
                "has {} numbers, but the model has {} layers: one for each is needed",
                fan_out.len(),
                self.layers.len()
            );
            return Err(Error::argument("sampleSizes", problem));
        }
        let (distinct, places) = distinct(nodes);
        // Exact and of many nodes: the whole graph is cheaper, and the numbers are the same.
        let exact = || fan_out.iter().all(|most| *most == 0 || graph.max_degree() <= *most);
        if self.layers.iter().any(Layer::needs_all_rows) || (distinct.len() * 4 > graph.nodes() && exact()) {
            let whole = self.forward_here(graph, features, cancel)?;
            let rows = nodes.iter().flat_map(|node| whole.row(*node as usize));
            return Matrix::new(nodes.len(), whole.columns(), rows.copied().collect());
        }
        let width = self.config.embedding_dimension();
        let values = self.sampled(graph, features, &distinct, fan_out, seed, cancel)?;
        if distinct.len() == nodes.len() {
            return Matrix::new(nodes.len(), width, values);
        }
        let rows = places.iter().flat_map(|place| &values[place * width..][..width]);
        Matrix::new(nodes.len(), width, rows.copied().collect())
    }

    /// How many bytes [`Model::forward`] needs beyond graph and features: without and with what is kept
    /// for a moment only.
    #[must_use]
    pub fn required_bytes(&self, nodes: usize, edges: usize) -> (usize, usize) {
        let out = nodes.saturating_mul(4 * self.config.embedding_dimension());
        let wide =
            self.config.hidden_channels.max(self.config.in_channels).saturating_mul(self.config.heads + 2);
        let kept = if self.config.jk.is_some() { self.layers.len() } else { 2 };
        let between = nodes.saturating_mul(4 * self.config.hidden_channels).saturating_mul(kept);
        let degrees = if self.config.model_type == Kind::Gcn { nodes.saturating_mul(4) } else { 0 };
        let passing = match self.config.model_type {
            Kind::GraphSage | Kind::Gcn if !self.config.project => 0,
            _ => nodes.saturating_mul(4 * wide),
        };
        let least = out.saturating_add(degrees);
        (least, least.saturating_add(between).saturating_add(passing).saturating_add(edges / 8))
    }

    fn check(&self, graph: &Csr, features: &Matrix) -> Result<(), Error> {
        if features.rows() != graph.nodes() {
            let problem =
                format!("{} rows for {} nodes: one for each is needed", features.rows(), graph.nodes());
            return Err(Error::argument("features", problem));
        }
        if features.columns() != self.config.in_channels {
            let problem = format!(
                "have {} numbers a node, but model `{}` reads {}",
                features.columns(),
                self.name,
                self.config.in_channels
            );
            return Err(Error::argument("features", problem));
        }
        features.check_finite("features")?;
        if let Some(width) = self.config.edge_dim.filter(|width| *width != graph.edge_width()) {
            let problem = format!(
                "give {} numbers an edge, but model `{}` reads {width}",
                graph.edge_width(),
                self.name
            );
            return Err(Error::argument("edgeFeatures", problem));
        }
        if self.config.model_type == Kind::Gcn {
            if graph.edge_width() > 1 {
                return Err(Error::argument("relationshipWeights", "one number an edge is what GCN reads"));
            }
            if graph.has_negative_edges() {
                return Err(Error::argument(
                    "relationshipWeights",
                    "GCN divides by the root of their sum: none may be below 0",
                ));
            }
        }
        Ok(())
    }

    fn symmetric(&self) -> bool {
        self.config.model_type == Kind::Gcn
    }

    fn edges(&self, graph: &Csr) -> bool {
        self.config.edge_dim.is_some() || (self.symmetric() && graph.edge_width() == 1)
    }

    fn hearing<'a>(&self, graph: &'a Csr) -> Hearing<'a> {
        let whole = graph.hearing();
        let symmetric = if self.symmetric() { graph.symmetric() } else { &[] };
        if self.edges(graph) {
            return Hearing {
                edge_values: graph.edge_values(),
                edge_width: graph.edge_width(),
                symmetric,
                ..whole
            };
        }
        Hearing { symmetric, ..whole }
    }

    fn sampled(
        &self,
        graph: &Csr,
        features: &Matrix,
        nodes: &[u32],
        fan_out: &[usize],
        seed: u64,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, Error> {
        let (symmetric, edges) = (self.symmetric(), self.edges(graph));
        let in_place = self.layers[0].reads_in_place();
        let request = Request { fan_out, seed, in_place, symmetric, edges };
        let sample = Sample::draw(graph, nodes, &request, cancel)?;
        let hearing = |layer| sample.hearing(graph, layer, symmetric, edges);
        if in_place {
            return self.stack(hearing, nodes.len(), features.values(), cancel);
        }
        let rows: Vec<f32> =
            sample.nodes.iter().flat_map(|node| features.row(*node as usize)).copied().collect();
        self.stack(hearing, nodes.len(), &rows, cancel)
    }

    /// All layers; the first `wanted` rows of the last one's output.
    fn stack<'a>(
        &self,
        hearing: impl Fn(usize) -> Hearing<'a>,
        wanted: usize,
        features: &[f32],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, Error> {
        // Two buffers in turn: the last layer writes to the first of them.
        let size = |parity: usize| {
            let mine = self
                .layers
                .iter()
                .enumerate()
                .filter(|(index, _)| (self.layers.len() - 1 - index) % 2 == parity);
            mine.map(|(index, layer)| hearing(index).targets() * layer.width).max().unwrap_or(0)
        };
        let (mut out, mut other) = (vec![0.0; size(0)], vec![0.0; size(1)]);
        if self.layers.len().is_multiple_of(2) {
            std::mem::swap(&mut out, &mut other);
        }
        let mut kept: Vec<Vec<f32>> = Vec::new();
        let mut read = 0;
        for (index, layer) in self.layers.iter().enumerate() {
            let hearing = hearing(index);
            let length = hearing.targets() * layer.width;
            let input = if index == 0 { features } else { &other[..read] };
            layer.forward(&hearing, input, &mut out[..length], cancel)?;
            match self.config.jk {
                Some(Jump::Cat) => kept.push(out[..wanted * layer.width].to_vec()),
                Some(Jump::Max) => keep_greatest(&mut kept, &out[..wanted * layer.width]),
                _ => {}
            }
            read = length;
            std::mem::swap(&mut out, &mut other);
        }
        other.truncate(read);
        match &self.head {
            None => {
                other.shrink_to_fit();
                Ok(other)
            }
            Some(head) => {
                drop(out);
                if kept.is_empty() {
                    kept.push(other);
                }
                self.jump(head, &kept, wanted, cancel)
            }
        }
    }

    /// The linear layer over the layers' outputs.
    fn jump(
        &self,
        head: &Head,
        parts: &[Vec<f32>],
        wanted: usize,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, Error> {
        let (hidden, width) = (self.config.hidden_channels, self.config.embedding_dimension());
        let mut out = vec![0.0; wanted * width];
        for_each_block(&mut out, width, cancel, |first, rows, _| {
            let count = rows.len() / width;
            let pairs = parts.iter().zip(&head.parts);
            let terms: Vec<Term> = pairs
                .map(|(part, weight)| Term { rows: &part[first * hidden..][..count * hidden], weight })
                .collect();
            multiply(&terms, Start::Bias(&head.bias), rows, width, &());
        })?;
        Ok(out)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn keep_greatest(kept: &mut Vec<Vec<f32>>, out: &[f32]) {
    match kept.first_mut() {
        None => kept.push(out.to_vec()),
        Some(greatest) => {
            greatest.iter_mut().zip(out).for_each(|(greatest, value)| *greatest = greatest.max(*value))
        }
    }
}

/// The file with the weights.
const WEIGHTS: &str = "model.safetensors";
/// The file that says what they are.
const CONFIG: &str = "config.json";
