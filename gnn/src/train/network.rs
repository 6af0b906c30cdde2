//! The weights in training, and the loss of a batch.

use super::aggregate::Aggregate;
use super::{Batch, Training, WEIGHTS, frozen, softplus};
use crate::random::Random;
use crate::sample::Sample;
use crate::{Aggr, Csr, Error, Matrix, Model};
use candle_core::{D, Device, Tensor, Var};
use safetensors::tensor::{Dtype, TensorView};

pub(crate) struct Network {
    inputs: usize,
    aggregator: Aggr,
    /// For each layer: the neighbours' weight, its bias, the own row's weight.
    variables: Vec<Var>,
}

impl Network {
    /// Glorot's uniform start values; biases are 0.
    pub(crate) fn new(training: &Training, inputs: usize) -> Result<Self, Error> {
        let layers = training.sample_sizes.len();
        let mut variables = Vec::with_capacity(3 * layers);
        for layer in 0..layers {
            let from = if layer == 0 { inputs } else { training.hidden_dimension };
            let to =
                if layer + 1 == layers { training.embedding_dimension } else { training.hidden_dimension };
            for part in 0..3u64 {
                let mut random = Random::keyed(training.seed, &[WEIGHTS, layer as u64, part]);
                let bound = (6.0 / (from + to) as f32).sqrt();
                let start = if part == 1 {
                    Tensor::zeros(to, candle_core::DType::F32, &Device::Cpu)?
                } else {
                    let values = (0..from * to).map(|_| bound * (2.0 * random.uniform() - 1.0)).collect();
                    Tensor::from_vec(values, (to, from), &Device::Cpu)?
                };
                variables.push(Var::from_tensor(&start)?);
            }
        }
        Ok(Self { inputs, aggregator: training.aggregator, variables })
    }

    pub(crate) fn variables(&self) -> Vec<Var> {
        self.variables.clone()
    }

    pub(crate) fn copy(&self) -> Result<Self, Error> {
        Ok(Self { inputs: self.inputs, aggregator: self.aggregator, variables: frozen(&self.variables)? })
    }

    /// Cross entropy: an edge's ends are to be alike, sources and drawn nodes are not. What is compared are
    /// directions, as `nearest` does.
    pub(crate) fn loss(
        &self,
        batch: &Batch,
        sample: &Sample,
        graph: &Csr,
        features: &Matrix,
    ) -> Result<Tensor, Error> {
        let directions = self.forward(sample, graph, features)?;
        let pick = |places: &[u32]| directions.index_select(&Tensor::new(places, &Device::Cpu)?, 0);
        let sources = pick(&batch.sources)?;
        let alike = ((&sources * pick(&batch.targets)?)?.sum(D::Minus1)? * SHARPNESS)?;
        let apart = (sources.matmul(&pick(&batch.negatives)?.t()?)? * SHARPNESS)?;
        Ok((softplus(&alike.neg()?)?.mean_all()? + softplus(&apart)?.mean_all()?)?)
    }

    /// The embeddings of the batch's nodes. Each layer's rows are made to have the length 1, as Hamilton et al. do:
    /// then dot products compare directions, too, which is what was learnt.
    fn forward(&self, sample: &Sample, graph: &Csr, features: &Matrix) -> Result<Tensor, Error> {
        let rows: Vec<f32> =
            sample.nodes.iter().flat_map(|node| features.row(*node as usize)).copied().collect();
        let mut x = Tensor::from_vec(rows, (sample.nodes.len(), self.inputs), &Device::Cpu)?;
        let layers = self.variables.len() / 3;
        for (layer, weights) in self.variables.chunks_exact(3).enumerate() {
            let hearing = sample.hearing(graph, layer, false, false);
            let (offsets, sources) = (hearing.offsets.to_vec(), hearing.sources.to_vec());
            let own = x.narrow(0, 0, hearing.targets())?;
            let heard = x.apply_op1(Aggregate { offsets, sources, how: self.aggregator })?;
            let out = heard.matmul(&weights[0].t()?)?.broadcast_add(&weights[1])?;
            let out = (out + own.matmul(&weights[2].t()?)?)?;
            let length = out.sqr()?.sum_keepdim(D::Minus1)?.affine(1.0, 1e-12)?.sqrt()?;
            let out = out.broadcast_div(&length)?;
            x = if layer + 1 < layers { out.relu()? } else { out };
        }
        Ok(x)
    }

    pub(crate) fn into_model(self, training: &Training) -> Result<Model, Error> {
        let names = ["lin_l.weight", "lin_l.bias", "lin_r.weight"];
        let mut tensors = Vec::with_capacity(self.variables.len());
        for (index, variable) in self.variables.iter().enumerate() {
            let values = variable.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((
                format!("convs.{}.{}", index / 3, names[index % 3]),
                variable.dims().to_vec(),
                bytes,
            ));
        }
        let failed = |error: safetensors::SafeTensorError| Error::Tensors(error.to_string());
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let file = safetensors::serialize(views, None).map_err(failed)?;
        Model::from_parts(&training.name, training.config(self.inputs), file)
    }
}

/// How much a cosine of 1 counts, against one of 0.
const SHARPNESS: f64 = 6.0;
