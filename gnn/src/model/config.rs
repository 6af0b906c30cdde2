//! A model's `config.json`.

use crate::{Error, Orientation};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a model is: PyTorch Geometric's names and defaults.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The kind of its layers.
    pub model_type: Kind,
    /// How many features a node has.
    pub in_channels: usize,
    /// How many numbers a node has between layers.
    pub hidden_channels: usize,
    /// How many layers.
    pub num_layers: usize,
    /// How many numbers an embedding has; `hidden_channels` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_channels: Option<usize>,
    /// GraphSAGE: how neighbours become one row.
    #[serde(default)]
    pub aggr: Aggr,
    /// GraphSAGE: each layer's rows are made to have the length 1.
    #[serde(default)]
    pub normalize: bool,
    /// GraphSAGE: neighbours go through a layer of their own first.
    #[serde(default)]
    pub project: bool,
    /// GraphSAGE: a node's own row counts.
    #[serde(default = "yes")]
    pub root_weight: bool,
    /// GAT, GATv2: how many heads.
    #[serde(default = "one")]
    pub heads: usize,
    /// GAT, GATv2: heads side by side; else their mean. The last layer takes the mean if `out_channels` is set.
    #[serde(default = "yes")]
    pub concat: bool,
    /// GAT, GATv2: the slope below 0 of the scores' activation.
    #[serde(default = "slope")]
    pub negative_slope: f32,
    /// GAT, GATv2: how many features an edge has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_dim: Option<usize>,
    /// GAT, GATv2: a learnt share of a layer's input is added to its output.
    #[serde(default)]
    pub residual: bool,
    /// GCN, GAT, GATv2: each node hears itself.
    #[serde(default = "yes")]
    pub add_self_loops: bool,
    /// Between layers.
    #[serde(default)]
    pub act: Activation,
    /// The activation comes before the norm.
    #[serde(default)]
    pub act_first: bool,
    /// Between layers.
    #[serde(default)]
    pub norm: Option<Norm>,
    /// What a layer norm is taken over: all nodes, as PyTorch Geometric does, or each node alone.
    #[serde(default)]
    pub norm_mode: NormMode,
    /// What is added to a norm's variance (deviation for a layer norm over all nodes).
    #[serde(default = "epsilon")]
    pub norm_eps: f32,
    /// Jumping knowledge: the embedding is made from all layers' outputs.
    #[serde(default)]
    pub jk: Option<Jump>,
    /// A layer's input is added to its output where both have one width.
    #[serde(default)]
    pub skip: bool,
    /// Which way edges carry messages in graphs for this model.
    #[serde(default)]
    pub orientation: Orient,
    /// The node properties that the features are made from, in their order.
    #[serde(default)]
    pub feature_properties: Vec<String>,
    /// How features narrower or wider than `in_channels` are made to fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_width: Option<usize>,
    /// Words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The author's own version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The kind of a model's layers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `SAGEConv`.
    GraphSage,
    /// `GCNConv`.
    Gcn,
    /// `GATConv`.
    Gat,
    /// `GATv2Conv`.
    Gatv2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GraphSage => "graphsage",
            Self::Gcn => "gcn",
            Self::Gat => "gat",
            Self::Gatv2 => "gatv2",
        })
    }
}

/// How neighbours become one row.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggr {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    #[serde(alias = "add")]
    Sum,
    /// The greatest of each column.
    Max,
}

impl fmt::Display for Aggr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Sum => "sum",
            Self::Max => "max",
        })
    }
}

/// What is done with each number between layers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[serde(alias = "identity")]
    None,
    /// Below 0 becomes 0.
    #[default]
    Relu,
    /// Below 0 a hundredth is left.
    LeakyRelu,
    /// eˣ − 1 below 0.
    Elu,
    /// x · Φ(x).
    Gelu,
    /// x · sigmoid(x).
    #[serde(alias = "swish")]
    Silu,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
}

/// What is done with the rows between layers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// With the mean and variance of the training.
    #[serde(alias = "BatchNorm", alias = "batchnorm")]
    BatchNorm,
    /// With the mean and variance of the input.
    #[serde(alias = "LayerNorm", alias = "layernorm")]
    LayerNorm,
}

/// What a layer norm is taken over.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NormMode {
    /// All nodes together.
    #[default]
    Graph,
    /// Each node alone.
    Node,
}

/// How the layers' outputs become one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Jump {
    /// Side by side.
    Cat,
    /// The greatest of each column.
    Max,
    /// The last one, through one more linear layer.
    Last,
}

/// [`Orientation`] as it is written in a configuration.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Orient {
    /// From an edge's source to its target.
    #[default]
    Natural,
    /// From an edge's target to its source.
    Reverse,
    /// Both ways.
    Undirected,
}

impl From<Orient> for Orientation {
    fn from(orient: Orient) -> Self {
        match orient {
            Orient::Natural => Self::Natural,
            Orient::Reverse => Self::Reverse,
            Orient::Undirected => Self::Undirected,
        }
    }
}

/// How large a model may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of `model.safetensors`.
    pub max_bytes: u64,
    /// Layers.
    pub max_layers: usize,
    /// Numbers of a row, anywhere in the model.
    pub max_width: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1 << 30, max_layers: 64, max_width: 1 << 14 }
    }
}

impl Config {
    /// From the text of `config.json`.
    ///
    /// # Errors
    /// If it is not that, or what it says cannot be.
    pub fn parse(text: &str, limits: &Limits) -> Result<Self, Error> {
        let config: Self = serde_json::from_str(text).map_err(|error| {
            // serde names the unknown or missing key between backquotes.
            let message = error.to_string();
            let key =
                message.split('`').nth(1).filter(|_| message.contains("field")).unwrap_or("…").to_owned();
            Error::config(key, message)
        })?;
        config.check(limits)?;
        Ok(config)
    }

    /// GraphSAGE with ReLU between the layers.
    #[must_use]
    pub fn graph_sage(inputs: usize, hidden: usize, outputs: usize, layers: usize, aggr: Aggr) -> Self {
        Self {
            model_type: Kind::GraphSage,
            in_channels: inputs,
            hidden_channels: hidden,
            num_layers: layers,
            out_channels: Some(outputs),
            aggr,
            normalize: false,
            project: false,
            root_weight: true,
            heads: 1,
            concat: true,
            negative_slope: slope(),
            edge_dim: None,
            residual: false,
            add_self_loops: true,
            act: Activation::Relu,
            act_first: false,
            norm: None,
            norm_mode: NormMode::Graph,
            norm_eps: epsilon(),
            jk: None,
            skip: false,
            orientation: Orient::Natural,
            feature_properties: Vec::new(),
            feature_width: None,
            description: None,
            version: None,
        }
    }

    /// How many numbers an embedding has.
    #[must_use]
    pub fn embedding_dimension(&self) -> usize {
        self.out_channels.unwrap_or(self.hidden_channels)
    }

    /// Whether the last layer gives the embedding itself.
    pub(crate) fn last_layer_is_out(&self) -> bool {
        self.out_channels.is_some() && self.jk.is_none()
    }

    fn check(&self, limits: &Limits) -> Result<(), Error> {
        let widths = [
            ("in_channels", self.in_channels),
            ("hidden_channels", self.hidden_channels),
            ("out_channels", self.embedding_dimension()),
            ("heads", self.heads),
            ("edge_dim", self.edge_dim.unwrap_or(1)),
        ];
        for (key, width) in widths {
            range(key, width, limits.max_width)?;
        }
        range("num_layers", self.num_layers, limits.max_layers)?;
        let attention = matches!(self.model_type, Kind::Gat | Kind::Gatv2);
        let sage = self.model_type == Kind::GraphSage;
        let only = |key: &str, used: bool, for_whom: &str| {
            if used {
                Err(Error::config(
                    key,
                    format!("is for {for_whom} only, and the model is {}", self.model_type),
                ))
            } else {
                Ok(())
            }
        };
        only("aggr", !sage && self.aggr != Aggr::Mean, "graphsage")?;
        only("normalize", !sage && self.normalize, "graphsage")?;
        only("project", !sage && self.project, "graphsage")?;
        only("root_weight", !sage && !self.root_weight, "graphsage")?;
        only("heads", !attention && self.heads != 1, "gat and gatv2")?;
        only("edge_dim", !attention && self.edge_dim.is_some(), "gat and gatv2")?;
        only("residual", !attention && self.residual, "gat and gatv2")?;
        if self.model_type == Kind::Gcn && !self.add_self_loops {
            return Err(Error::config("add_self_loops", "has to be true for gcn"));
        }
        let (widest, joined) = (
            self.hidden_channels.saturating_mul(self.heads),
            self.hidden_channels.is_multiple_of(self.heads),
        );
        if attention && self.concat && !joined {
            let problem = format!(
                "{} heads side by side do not divide hidden_channels = {}",
                self.heads, self.hidden_channels
            );
            return Err(Error::config("heads", problem));
        }
        range(
            "heads",
            widest.max(self.embedding_dimension().saturating_mul(self.heads)),
            limits.max_width.saturating_mul(16),
        )?;
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(Error::config("norm_eps", format!("is {}, but has to be above 0", self.norm_eps)));
        }
        if !self.negative_slope.is_finite() {
            return Err(Error::config("negative_slope", "has to be a finite number"));
        }
        Ok(())
    }
}

fn range(key: &str, value: usize, most: usize) -> Result<(), Error> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::config(key, format!("is {value}, but has to be from 1 to {most}")))
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn slope() -> f32 {
    0.2
}

fn epsilon() -> f32 {
    1e-5
}
