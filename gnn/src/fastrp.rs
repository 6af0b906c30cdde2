//! FastRP: embeddings without a model, from very sparse random projections of the neighbourhoods
//! (Chen et al., "Fast and Accurate Network Embeddings via Very Sparse Random Projection", 2019).

use crate::kernel::gather::{Aggregator, gather};
use crate::kernel::{BLOCK, dot, for_each_block};
use crate::random::Random;
use crate::{Cancel, Csr, Error, Matrix, threads};
use rayon::prelude::*;

/// The keys, with the names, meanings and defaults that Graph Data Science has. A node's neighbours are those
/// of [`Csr::neighbours`]: what Graph Data Science calls NATURAL is `Orientation::Reverse` here.
#[derive(Clone, Debug, PartialEq)]
pub struct FastRp {
    /// How many numbers an embedding has.
    pub embedding_dimension: usize,
    /// How much each hop counts: the first number is that of the neighbours.
    pub iteration_weights: Vec<f32>,
    /// The exponent of the degree in a node's first vector: below 0, nodes with many edges count less.
    pub normalization_strength: f32,
    /// The share of the dimensions that is made from features.
    pub property_ratio: f32,
    /// How much a node's own first vector counts.
    pub node_self_influence: f32,
    /// What the random projections are drawn from.
    pub seed: u64,
}

impl Default for FastRp {
    fn default() -> Self {
        Self {
            embedding_dimension: 128,
            iteration_weights: vec![0.0, 1.0, 1.0],
            normalization_strength: 0.0,
            property_ratio: 0.0,
            node_self_influence: 0.0,
            seed: 0,
        }
    }
}

impl FastRp {
    /// The embeddings of all nodes. Edge weights count if there are any.
    ///
    /// # Errors
    /// If an argument cannot be used, or the caller cancelled.
    pub fn run(&self, graph: &Csr, features: Option<&Matrix>, cancel: &Cancel) -> Result<Matrix, Error> {
        self.check(graph, features)?;
        let width = self.embedding_dimension;
        let nodes = graph.nodes();
        let mut previous = vec![0.0; nodes * width];
        self.first_vectors(graph, features, &mut previous, cancel)?;
        let mut sum = Matrix::zeros(nodes, width);
        if self.node_self_influence != 0.0 {
            add_unit_rows(&previous, self.node_self_influence, sum.values_mut(), width);
        }
        let mut current = vec![0.0; nodes * width];
        let hops =
            self.iteration_weights.iter().rposition(|weight| *weight != 0.0).map_or(0, |last| last + 1);
        for &weight in &self.iteration_weights[..hops] {
            hop(graph, &previous, weight, (&mut current, sum.values_mut()), width, cancel)?;
            std::mem::swap(&mut previous, &mut current);
        }
        Ok(sum)
    }

    /// How many bytes a run needs beyond the graph and the features.
    #[must_use]
    pub fn required_bytes(&self, nodes: usize) -> usize {
        nodes.saturating_mul(self.embedding_dimension).saturating_mul(3 * size_of::<f32>())
    }

    fn check(&self, graph: &Csr, features: Option<&Matrix>) -> Result<(), Error> {
        if !(1..=MAX_DIMENSION).contains(&self.embedding_dimension) {
            let problem = format!("is {}, but has to be from 1 to {MAX_DIMENSION}", self.embedding_dimension);
            return Err(Error::argument("embeddingDimension", problem));
        }
        let numbers = [
            ("normalizationStrength", self.normalization_strength),
            ("nodeSelfInfluence", self.node_self_influence),
        ];
        for (name, value) in numbers {
            if !value.is_finite() {
                return Err(Error::argument(name, format!("is {value}, but has to be a finite number")));
            }
        }
        if self.iteration_weights.is_empty()
            || self.iteration_weights.iter().any(|weight| !weight.is_finite())
        {
            return Err(Error::argument(
                "iterationWeights",
                "has to be a list of finite numbers, with one at least",
            ));
        }
        if self.iteration_weights.iter().all(|weight| *weight == 0.0) && self.node_self_influence == 0.0 {
            return Err(Error::argument(
                "iterationWeights",
                "are all 0 and so is nodeSelfInfluence: nothing would be left",
            ));
        }
        if !(0.0..=1.0).contains(&self.property_ratio) {
            return Err(Error::argument(
                "propertyRatio",
                format!("is {}, but has to be from 0 to 1", self.property_ratio),
            ));
        }
        if self.property_ratio > 0.0 && features.is_none_or(|features| features.columns() == 0) {
            return Err(Error::argument("featureProperties", "are needed if propertyRatio is above 0"));
        }
        if let Some(features) = features {
            if features.rows() != graph.nodes() {
                let problem =
                    format!("{} rows for {} nodes: one for each is needed", features.rows(), graph.nodes());
                return Err(Error::argument("featureProperties", problem));
            }
            features.check_finite("featureProperties")?;
        }
        if graph.edge_width() > 1 {
            return Err(Error::argument("relationshipWeightProperty", "has to be one number an edge"));
        }
        Ok(())
    }

    fn first_vectors(
        &self,
        graph: &Csr,
        features: Option<&Matrix>,
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let width = self.embedding_dimension;
        let from_features = (width as f32 * self.property_ratio) as usize;
        let plain = width - from_features;
        let property_vectors = features.filter(|_| from_features > 0).map(|features| {
            let entry = (SPARSITY / from_features as f32).sqrt();
            let vector = |column| {
                sparse(&mut Random::keyed(self.seed, &[PROPERTIES, column as u64]), from_features, entry)
            };
            (features, (0..features.columns()).map(vector).collect::<Vec<_>>())
        });
        for_each_block(out, width, cancel, |first, rows, _| {
            for (row, out) in rows.chunks_exact_mut(width).enumerate() {
                let node = first + row;
                let degree = graph.neighbours(node).len();
                let scale = if degree == 0 { 1.0 } else { (degree as f32).powf(self.normalization_strength) };
                let entry = scale * (SPARSITY / width as f32).sqrt();
                let mut random = Random::keyed(self.seed, &[NODES, node as u64]);
                out[..plain].fill_with(|| random.sparse_sign().map_or(0.0, |sign| sign * entry));
                let Some((features, vectors)) = &property_vectors else { continue };
                out[plain..].fill(0.0);
                for (value, vector) in features.row(node).iter().zip(vectors) {
                    out[plain..].iter_mut().zip(vector).for_each(|(out, entry)| *out += value * entry);
                }
            }
        })
    }
}

/// Each node's mean of its neighbours, and that, made one of length 1, added to the sum `weight` times.
fn hop(
    graph: &Csr,
    previous: &[f32],
    weight: f32,
    (current, sum): (&mut [f32], &mut [f32]),
    width: usize,
    cancel: &Cancel,
) -> Result<(), Error> {
    let hearing = graph.hearing();
    let blocks = current.par_chunks_mut(BLOCK * width).zip(sum.par_chunks_mut(BLOCK * width)).enumerate();
    threads::install(|| {
        blocks.try_for_each(|(block, (rows, sum))| {
            cancel.check()?;
            let first = block * BLOCK;
            if graph.edge_width() == 0 {
                gather(&hearing, Aggregator::Mean, previous, width, first, rows);
            } else {
                for (row, out) in rows.chunks_exact_mut(width).enumerate() {
                    weighted(graph, first + row, previous, out);
                }
            }
            if weight != 0.0 {
                add_unit_rows(rows, weight, sum, width);
            }
            Ok(())
        })
    })
}

/// The sum of a node's neighbours by weight, divided by their number, as Graph Data Science does.
fn weighted(graph: &Csr, node: usize, previous: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let edges = graph.range(node);
    let scale = 1.0 / edges.len().max(1) as f32;
    for edge in edges {
        let weight = scale * graph.weight(edge);
        let values = &previous[graph.sources()[edge] as usize * out.len()..][..out.len()];
        out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
    }
}

/// Adds each row, made one of length 1, `weight` times.
fn add_unit_rows(rows: &[f32], weight: f32, sum: &mut [f32], width: usize) {
    for (sum, row) in sum.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
        let length = dot(row, row).sqrt();
        let factor = if length < EPSILON { weight } else { weight / length };
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
    }
}

fn sparse(random: &mut Random, width: usize, entry: f32) -> Vec<f32> {
    (0..width).map(|_| random.sparse_sign().map_or(0.0, |sign| sign * entry)).collect()
}

/// One entry in three is not 0.
const SPARSITY: f32 = 3.0;
const EPSILON: f32 = 1e-12;
const MAX_DIMENSION: usize = 1 << 14;
const NODES: u64 = 1;
const PROPERTIES: u64 = 2;
