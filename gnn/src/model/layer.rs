//! One layer: its weights, and what it does with a graph's rows.

use super::config::{Activation, NormMode};
use crate::kernel::attend::{Attention, Score, attend};
use crate::kernel::dense::{Finish, Packed, Start, Term, multiply};
use crate::kernel::gather::{Aggregator, Hearing, gather, roots};
use crate::kernel::{Scratch, dot, for_each_block, sized};
use crate::{Cancel, Error};

/// A layer with everything up to the next one's input.
pub(crate) struct Layer {
    pub(crate) conv: Conv,
    /// Numbers of a row in.
    pub(crate) inputs: usize,
    /// Numbers of a row out.
    pub(crate) width: usize,
    /// As many as `width`; zeros where the file has none.
    pub(crate) bias: Vec<f32>,
    pub(crate) after: After,
}

/// How a layer's neighbours and its own row become its output.
pub(crate) enum Conv {
    /// GraphSAGE and GCN: an aggregate times a weight, and the own row times another.
    Aggregated { how: Aggregator, neighbour: Packed, root: Option<Packed>, project: Option<Linear> },
    /// GAT and GATv2.
    Attended(Box<Attended>),
}

/// Weights and bias.
pub(crate) struct Linear {
    pub(crate) weight: Packed,
    pub(crate) bias: Vec<f32>,
}

pub(crate) struct Attended {
    pub(crate) value: Linear,
    pub(crate) scoring: Scoring,
    pub(crate) heads: usize,
    pub(crate) channels: usize,
    pub(crate) concat: bool,
    pub(crate) loops: bool,
    pub(crate) negative_slope: f32,
    pub(crate) residual: Option<Packed>,
}

/// The weights behind [`Score`].
pub(crate) enum Scoring {
    Added { source: Vec<f32>, target: Vec<f32>, edge: Option<Vec<f32>> },
    Activated { target: Linear, attention: Vec<f32>, edge: Option<Vec<f32>> },
}

/// What happens to a layer's rows at its end.
pub(crate) struct After {
    pub(crate) normalize: bool,
    pub(crate) norm: Normalization,
    pub(crate) activation: Activation,
    pub(crate) act_first: bool,
    pub(crate) skip: bool,
}

/// A norm with its numbers.
pub(crate) enum Normalization {
    None,
    /// Each column times a factor, plus a number: a batch norm whose statistics are fixed.
    Affine {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Layer {
        mode: NormMode,
        weight: Vec<f32>,
        bias: Vec<f32>,
        epsilon: f32,
    },
}

impl Layer {
    /// Whether only neighbours' rows and own rows of the input are read, and no other.
    pub(crate) fn reads_in_place(&self) -> bool {
        matches!(&self.conv, Conv::Aggregated { how, neighbour, project: None, .. } if aggregates_first(*how, neighbour))
    }

    /// Whether a row depends on all rows.
    pub(crate) fn needs_all_rows(&self) -> bool {
        matches!(self.after.norm, Normalization::Layer { mode: NormMode::Graph, .. })
    }

    /// Writes all of `out`, a row for each target.
    pub(crate) fn forward(
        &self,
        hearing: &Hearing,
        input: &[f32],
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        match &self.conv {
            Conv::Aggregated { how, neighbour, root, project } => {
                let projected;
                let heard = match project {
                    None => input,
                    Some(linear) => {
                        projected = linear.all(input, Activation::Relu, cancel)?;
                        &projected
                    }
                };
                if aggregates_first(*how, neighbour) {
                    self.aggregate_and_multiply(
                        hearing,
                        *how,
                        neighbour,
                        root.as_ref(),
                        heard,
                        input,
                        out,
                        cancel,
                    )?;
                } else {
                    self.multiply_and_aggregate(
                        hearing,
                        *how,
                        neighbour,
                        root.as_ref(),
                        heard,
                        input,
                        out,
                        cancel,
                    )?;
                }
            }
            Conv::Attended(attended) => self.attend(attended, hearing, input, out, cancel)?,
        }
        if self.needs_all_rows() {
            self.after_all(hearing, input, out, cancel)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a layer's weights and a call's arguments")]
    fn aggregate_and_multiply(
        &self,
        hearing: &Hearing,
        how: Aggregator,
        neighbour: &Packed,
        root: Option<&Packed>,
        heard: &[f32],
        input: &[f32],
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        for_each_block(out, self.width, cancel, |first, rows, Scratch { aggregated, roots: own, .. }| {
            let count = rows.len() / self.width;
            let aggregated = sized(aggregated, count * self.inputs);
            gather(hearing, how, heard, self.inputs, first, aggregated);
            let own = roots(hearing, input, self.inputs, first, count, own);
            let both = [
                Term { rows: aggregated, weight: neighbour },
                Term { rows: own, weight: root.unwrap_or(neighbour) },
            ];
            let terms = if root.is_some() { &both[..] } else { &both[..1] };
            multiply(terms, Start::Bias(&self.bias), rows, self.width, &self.finish(own));
        })
    }

    /// For layers that make rows much narrower: what is gathered is the narrow product.
    #[expect(clippy::too_many_arguments, reason = "a layer's weights and a call's arguments")]
    fn multiply_and_aggregate(
        &self,
        hearing: &Hearing,
        how: Aggregator,
        neighbour: &Packed,
        root: Option<&Packed>,
        heard: &[f32],
        input: &[f32],
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let products = product(neighbour, &[], heard, Activation::None, cancel)?;
        for_each_block(out, self.width, cancel, |first, rows, scratch| {
            let count = rows.len() / self.width;
            gather(hearing, how, &products, self.width, first, rows);
            rows.chunks_exact_mut(self.width).for_each(|row| add(row, &self.bias));
            let own = roots(hearing, input, self.inputs, first, count, &mut scratch.roots);
            let term = root.map(|weight| Term { rows: own, weight });
            multiply(term.as_slice(), Start::Held, rows, self.width, &self.finish(own));
        })
    }

    fn attend(
        &self,
        layer: &Attended,
        hearing: &Hearing,
        input: &[f32],
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let values = layer.value.all(input, Activation::None, cancel)?;
        let (first_scores, second_scores);
        let score = match &layer.scoring {
            Scoring::Added { source, target, edge } => {
                first_scores = layer.scores(&values, source, cancel)?;
                second_scores = layer.scores(&values, target, cancel)?;
                Score::Added { source: &first_scores, target: &second_scores, edge: edge.as_deref() }
            }
            Scoring::Activated { target, attention, edge } => {
                first_scores = target.all(input, Activation::None, cancel)?;
                Score::Activated { target: &first_scores, attention, edge: edge.as_deref() }
            }
        };
        let Attended { heads, channels, loops, negative_slope, .. } = *layer;
        let attention = Attention { hearing, values: &values, heads, channels, loops, negative_slope, score };
        for_each_block(out, self.width, cancel, |first, rows, scratch| {
            let count = rows.len() / self.width;
            let attended = sized(&mut scratch.aggregated, count * heads * channels);
            attend(&attention, first, attended, &mut scratch.scores);
            for (row, attended) in
                rows.chunks_exact_mut(self.width).zip(attended.chunks_exact(heads * channels))
            {
                row.copy_from_slice(&self.bias);
                if layer.concat {
                    add(row, attended);
                } else {
                    let share = 1.0 / heads as f32;
                    for head in attended.chunks_exact(channels) {
                        row.iter_mut().zip(head).for_each(|(out, value)| *out += share * value);
                    }
                }
            }
            let own = roots(hearing, input, self.inputs, first, count, &mut scratch.roots);
            let term = layer.residual.as_ref().map(|weight| Term { rows: own, weight });
            multiply(term.as_slice(), Start::Held, rows, self.width, &self.finish(own));
        })
    }

    fn finish<'a>(&'a self, own: &'a [f32]) -> Finishing<'a> {
        Finishing { after: &self.after, own, inputs: self.inputs }
    }

    /// A layer norm over all nodes, and what comes after it.
    fn after_all(
        &self,
        hearing: &Hearing,
        input: &[f32],
        out: &mut [f32],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let Normalization::Layer { weight, bias, epsilon, .. } = &self.after.norm else { return Ok(()) };
        let count = out.len().max(1) as f64;
        let mean = out.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = out.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        let (mean, factor) = (mean as f32, (1.0 / (variance.sqrt() + f64::from(*epsilon))) as f32);
        for_each_block(out, self.width, cancel, |first, rows, scratch| {
            let count = rows.len() / self.width;
            let own = roots(hearing, input, self.inputs, first, count, &mut scratch.roots);
            for (index, row) in rows.chunks_exact_mut(self.width).enumerate() {
                for (value, (weight, bias)) in row.iter_mut().zip(weight.iter().zip(bias)) {
                    *value = (*value - mean) * factor * weight + bias;
                }
                self.after.end(row, &own[index * self.inputs..][..self.inputs]);
            }
        })
    }
}

impl Linear {
    /// The product with all rows.
    fn all(&self, input: &[f32], activation: Activation, cancel: &Cancel) -> Result<Vec<f32>, Error> {
        product(&self.weight, &self.bias, input, activation, cancel)
    }
}

impl Attended {
    /// A number for each row and head: the product of the head's values with a vector.
    fn scores(&self, values: &[f32], vector: &[f32], cancel: &Cancel) -> Result<Vec<f32>, Error> {
        let width = self.heads * self.channels;
        let mut scores = vec![0.0; values.len() / width * self.heads];
        for_each_block(&mut scores, self.heads, cancel, |first, scores, _| {
            for (scores, row) in
                scores.chunks_exact_mut(self.heads).zip(values[first * width..].chunks_exact(width))
            {
                let heads = row.chunks_exact(self.channels).zip(vector.chunks_exact(self.channels));
                for (score, (row, vector)) in scores.iter_mut().zip(heads) {
                    *score = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                }
            }
        })?;
        Ok(scores)
    }
}

impl After {
    /// What comes after the norm.
    #[inline(always)]
    fn end(&self, row: &mut [f32], own: &[f32]) {
        if !self.act_first {
            self.activation.apply(row);
        }
        if self.skip {
            add(row, own);
        }
    }
}

struct Finishing<'a> {
    after: &'a After,
    own: &'a [f32],
    inputs: usize,
}

impl Finish for Finishing<'_> {
    #[inline(always)]
    fn row(&self, row: usize, values: &mut [f32]) {
        let after = self.after;
        if after.normalize {
            let length = dot(values, values).sqrt().max(1e-12);
            values.iter_mut().for_each(|value| *value /= length);
        }
        if after.act_first {
            after.activation.apply(values);
        }
        match &after.norm {
            Normalization::None => {}
            Normalization::Affine { scale, shift } => {
                for (value, (scale, shift)) in values.iter_mut().zip(scale.iter().zip(shift)) {
                    *value = *value * scale + shift;
                }
            }
            Normalization::Layer { mode: NormMode::Node, weight, bias, epsilon } => {
                let count = values.len() as f32;
                let mean = values.iter().sum::<f32>() / count;
                let variance =
                    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / count;
                let factor = 1.0 / (variance + epsilon).sqrt();
                for (value, (weight, bias)) in values.iter_mut().zip(weight.iter().zip(bias)) {
                    *value = (*value - mean) * factor * weight + bias;
                }
            }
            // The rest follows when all rows are there.
            Normalization::Layer { mode: NormMode::Graph, .. } => return,
        }
        after.end(values, &self.own[row * self.inputs..][..self.inputs]);
    }
}

/// All rows times a weight.
pub(crate) fn product(
    weight: &Packed,
    bias: &[f32],
    input: &[f32],
    activation: Activation,
    cancel: &Cancel,
) -> Result<Vec<f32>, Error> {
    let (inputs, width) = (weight.inputs(), weight.outputs());
    let mut out = vec![0.0; input.len() / inputs * width];
    for_each_block(&mut out, width, cancel, |first, rows, _| {
        let own = &input[first * inputs..][..rows.len() / width * inputs];
        multiply(&[Term { rows: own, weight }], Start::Bias(bias), rows, width, &Activated(activation));
    })?;
    Ok(out)
}

struct Activated(Activation);

impl Finish for Activated {
    #[inline(always)]
    fn row(&self, _: usize, values: &mut [f32]) {
        self.0.apply(values);
    }
}

/// The maximum has to see the rows as they are; else the narrower side is gathered.
pub(crate) fn aggregates_first(how: Aggregator, neighbour: &Packed) -> bool {
    how == Aggregator::Max || neighbour.inputs() <= neighbour.outputs()
}

#[inline(always)]
fn add(row: &mut [f32], values: &[f32]) {
    row.iter_mut().zip(values).for_each(|(out, value)| *out += value);
}
