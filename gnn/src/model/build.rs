//! Layers from weights, by PyTorch Geometric's names.

use super::config::{Aggr, Config, Kind, Norm};
use super::layer::{After, Attended, Conv, Layer, Linear, Normalization, Scoring};
use super::weights::Weights;
use crate::Error;
use crate::kernel::dense::Packed;
use crate::kernel::gather::Aggregator;

/// All layers, and what follows them: for jumping knowledge, a weight for each part that it reads.
pub(crate) fn build(config: &Config, weights: &mut Weights) -> Result<(Vec<Layer>, Option<Head>), Error> {
    let last = config.num_layers - 1;
    let layers = (0..config.num_layers)
        .map(|index| Builder { config, weights, index, last }.layer())
        .collect::<Result<_, _>>()?;
    let head = config.jk.map(|_| head(config, weights)).transpose()?;
    Ok((layers, head))
}

/// The linear layer after jumping knowledge.
pub(crate) struct Head {
    /// One, or one for each layer whose output it reads.
    pub(crate) parts: Vec<Packed>,
    pub(crate) bias: Vec<f32>,
}

fn head(config: &Config, weights: &mut Weights) -> Result<Head, Error> {
    let (hidden, out) = (config.hidden_channels, config.embedding_dimension());
    let count = if config.jk == Some(super::config::Jump::Cat) { config.num_layers } else { 1 };
    let weight = weights.take("lin.weight", &[out, count * hidden], "jk")?;
    let part = |index: usize| {
        let rows = weight.chunks_exact(count * hidden).flat_map(|row| &row[index * hidden..][..hidden]);
        Packed::new(&rows.copied().collect::<Vec<_>>(), hidden)
    };
    Ok(Head { parts: (0..count).map(part).collect(), bias: weights.take("lin.bias", &[out], "jk")? })
}

struct Builder<'a> {
    config: &'a Config,
    weights: &'a mut Weights,
    index: usize,
    last: usize,
}

impl Builder<'_> {
    fn layer(mut self) -> Result<Layer, Error> {
        let config = self.config;
        let inputs = if self.index == 0 { config.in_channels } else { config.hidden_channels };
        let is_out = self.index == self.last && config.last_layer_is_out();
        let width = if is_out { config.embedding_dimension() } else { config.hidden_channels };
        let (conv, bias) = match config.model_type {
            Kind::GraphSage => self.sage(inputs, width)?,
            Kind::Gcn => self.gcn(inputs, width)?,
            Kind::Gat | Kind::Gatv2 => self.gat(inputs, width, config.concat && !is_out)?,
        };
        let followed = self.index < self.last || config.jk.is_some();
        let after = After {
            normalize: config.normalize,
            norm: if followed { self.norm()? } else { Normalization::None },
            activation: if followed { config.act } else { super::config::Activation::None },
            act_first: config.act_first,
            skip: config.skip && inputs == width,
        };
        Ok(Layer { conv, inputs, width, bias, after })
    }

    fn sage(&mut self, inputs: usize, width: usize) -> Result<(Conv, Vec<f32>), Error> {
        let how = match self.config.aggr {
            Aggr::Mean => Aggregator::Mean,
            Aggr::Sum => Aggregator::Sum,
            Aggr::Max => Aggregator::Max,
        };
        let neighbour = self.packed("lin_l.weight", width, inputs)?;
        let bias = self.bias("lin_l.bias", width)?;
        let root = self.config.root_weight.then(|| self.packed("lin_r.weight", width, inputs)).transpose()?;
        let project = if self.config.project { Some(self.linear("lin", inputs, inputs)?) } else { None };
        Ok((Conv::Aggregated { how, neighbour, root, project }, bias))
    }

    fn gcn(&mut self, inputs: usize, width: usize) -> Result<(Conv, Vec<f32>), Error> {
        let neighbour = self.packed("lin.weight", width, inputs)?;
        let bias = self.bias("bias", width)?;
        Ok((Conv::Aggregated { how: Aggregator::Symmetric, neighbour, root: None, project: None }, bias))
    }

    fn gat(&mut self, inputs: usize, width: usize, concat: bool) -> Result<(Conv, Vec<f32>), Error> {
        let config = self.config;
        let heads = config.heads;
        let channels = if concat { width / heads } else { width };
        let wide = heads * channels;
        let per_head = [1, heads, channels];
        let edge = match config.edge_dim {
            Some(edge) => Some((edge, self.take("lin_edge.weight", &[wide, edge])?)),
            None => None,
        };
        let (value, scoring) = if config.model_type == Kind::Gat {
            let names = [self.name("lin.weight"), self.name("lin_src.weight")];
            let value = self.weights.take_any(&names, &[wide, inputs], "heads, hidden_channels")?;
            let source = self.take("att_src", &per_head)?;
            let target = self.take("att_dst", &per_head)?;
            let edge = match edge {
                Some((edge, weight)) => {
                    Some(folded(&weight, &self.take("att_edge", &per_head)?, edge, channels))
                }
                None => None,
            };
            let value = Linear { weight: Packed::new(&value, inputs), bias: Vec::new() };
            (value, Scoring::Added { source, target, edge })
        } else {
            let attention = self.take("att", &per_head)?;
            let target = self.linear("lin_r", wide, inputs)?;
            (
                self.linear("lin_l", wide, inputs)?,
                Scoring::Activated { target, attention, edge: edge.map(|(_, weight)| weight) },
            )
        };
        let residual = config.residual.then(|| self.packed("res.weight", width, inputs)).transpose()?;
        let bias = self.bias("bias", width)?;
        let attended = Attended {
            value,
            scoring,
            heads,
            channels,
            concat,
            loops: config.add_self_loops,
            negative_slope: config.negative_slope,
            residual,
        };
        Ok((Conv::Attended(Box::new(attended)), bias))
    }

    fn norm(&mut self) -> Result<Normalization, Error> {
        let config = self.config;
        let hidden = [config.hidden_channels];
        match config.norm {
            None => Ok(Normalization::None),
            Some(Norm::BatchNorm) => {
                let [weight, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
                    .map(|what| self.weights.take_any(&self.norm_names(what), &hidden, "norm = batch_norm"));
                let (weight, bias, mean, variance) = (weight?, bias?, mean?, variance?);
                if let Some(negative) = variance.iter().find(|value| **value < 0.0) {
                    let problem = format!("holds {negative}, and a variance is not below 0");
                    return Err(Error::tensor(format!("norms.{}.module.running_var", self.index), problem));
                }
                let scale: Vec<f32> = weight
                    .iter()
                    .zip(variance)
                    .map(|(weight, variance)| weight / (variance + config.norm_eps).sqrt())
                    .collect();
                let shift = bias
                    .iter()
                    .zip(mean.iter().zip(&scale))
                    .map(|(bias, (mean, scale))| bias - mean * scale)
                    .collect();
                Ok(Normalization::Affine { scale, shift })
            }
            Some(Norm::LayerNorm) => {
                let [weight, bias] = ["weight", "bias"]
                    .map(|what| self.weights.take_any(&self.norm_names(what), &hidden, "norm = layer_norm"));
                Ok(Normalization::Layer {
                    mode: config.norm_mode,
                    weight: weight?,
                    bias: bias?,
                    epsilon: config.norm_eps,
                })
            }
        }
    }

    fn norm_names(&self, what: &str) -> Vec<String> {
        ["norms", "bns", "batch_norms"]
            .iter()
            .flat_map(|list| {
                [format!("{list}.{}.module.{what}", self.index), format!("{list}.{}.{what}", self.index)]
            })
            .collect()
    }

    /// A name within this layer: `convs.0.…`, or `conv1.…` as models written by hand have it.
    fn name(&self, what: &str) -> String {
        let by_hand = format!("conv{}.{what}", self.index + 1);
        if self.weights.has(&by_hand) { by_hand } else { format!("convs.{}.{what}", self.index) }
    }

    fn take(&mut self, what: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let why = format!(
            "{} of {} layers, {} → {} → {}",
            self.config.model_type,
            self.config.num_layers,
            self.config.in_channels,
            self.config.hidden_channels,
            self.config.embedding_dimension()
        );
        self.weights.take(&self.name(what), shape, &why)
    }

    fn packed(&mut self, what: &str, outputs: usize, inputs: usize) -> Result<Packed, Error> {
        Ok(Packed::new(&self.take(what, &[outputs, inputs])?, inputs))
    }

    fn linear(&mut self, what: &str, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        let weight = self.packed(&format!("{what}.weight"), outputs, inputs)?;
        Ok(Linear { weight, bias: self.bias(&format!("{what}.bias"), outputs)? })
    }

    /// A bias; zeros for a layer made without.
    fn bias(&mut self, what: &str, outputs: usize) -> Result<Vec<f32>, Error> {
        if self.weights.has(&self.name(what)) { self.take(what, &[outputs]) } else { Ok(vec![0.0; outputs]) }
    }
}

/// GAT multiplies an edge's features by a weight and the product by a vector, for each head: as one row.
fn folded(weight: &[f32], attention: &[f32], edge: usize, channels: usize) -> Vec<f32> {
    let heads = weight.chunks_exact(edge * channels).zip(attention.chunks_exact(channels));
    heads
        .flat_map(|(weight, attention)| {
            (0..edge).map(move |column| {
                attention.iter().zip(weight.chunks_exact(edge)).map(|(a, row)| a * row[column]).sum::<f32>()
            })
        })
        .collect()
}
