//! Attention: each neighbour's row, weighted by a softmax over the neighbours.

use crate::kernel::gather::Hearing;
use crate::kernel::sized;
use pulp::{Arch, Simd, WithSimd};

/// What a layer's attention reads.
pub(crate) struct Attention<'a> {
    pub(crate) hearing: &'a Hearing<'a>,
    /// What is added up: `heads × channels` numbers for each row of the input.
    pub(crate) values: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) channels: usize,
    /// Whether each node hears itself, once, in place of its own loops.
    pub(crate) loops: bool,
    pub(crate) negative_slope: f32,
    pub(crate) score: Score<'a>,
}

/// How much a neighbour counts, before the softmax.
pub(crate) enum Score<'a> {
    /// GAT: a number of the source, one of the target, one of the edge, for each head.
    Added {
        source: &'a [f32],
        target: &'a [f32],
        /// `heads × edge_width`.
        edge: Option<&'a [f32]>,
    },
    /// GATv2: a product with the activated sum of the source's, the target's and the edge's rows.
    Activated {
        target: &'a [f32],
        attention: &'a [f32],
        /// `heads · channels × edge_width`.
        edge: Option<&'a [f32]>,
    },
}

/// Attends for the targets from `first` on, into rows of `heads × channels`.
pub(crate) fn attend(attention: &Attention, first: usize, out: &mut [f32], buffer: &mut Vec<f32>) {
    Arch::new().dispatch(Attend { attention, first, out, buffer });
}

struct Attend<'a> {
    attention: &'a Attention<'a>,
    first: usize,
    out: &'a mut [f32],
    buffer: &'a mut Vec<f32>,
}

impl WithSimd for Attend<'_> {
    type Output = ();

    // Plain code, made vector code by the compiler.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { attention, first, out, buffer } = self;
        let mut heard = Vec::new();
        for (index, out) in out.chunks_exact_mut(attention.heads * attention.channels).enumerate() {
            attention.row(first + index, out, &mut heard, buffer);
        }
    }
}

/// A neighbour and the edge it is heard over; none for the loop that is added.
type Heard = (usize, Option<usize>);

impl Attention<'_> {
    #[inline(always)]
    fn row(&self, target: usize, out: &mut [f32], heard: &mut Vec<Heard>, buffer: &mut Vec<f32>) {
        let root = self.hearing.root(target);
        heard.clear();
        let edges = self.hearing.range(target);
        let neighbours = edges.map(|edge| (self.hearing.sources[edge] as usize, Some(edge)));
        heard.extend(neighbours.filter(|(source, _)| !(self.loops && *source == root)));
        let width = self.hearing.edge_width;
        let needed = heard.len() + 1;
        let buffer = sized(buffer, needed * self.heads + width + self.heads * self.channels);
        let (scores, buffer) = buffer.split_at_mut(needed * self.heads);
        let (mean, sum) = buffer.split_at_mut(width);
        if self.loops {
            self.mean_edge(heard, mean);
            heard.push((root, None));
        }
        for (scores, &(source, edge)) in scores.chunks_exact_mut(self.heads).zip(&*heard) {
            let edge = edge.map_or(&*mean, |edge| &self.hearing.edge_values[edge * width..][..width]);
            self.score(source, root, edge, scores, sum);
        }
        softmax(&mut scores[..heard.len() * self.heads], self.heads);
        out.fill(0.0);
        for (scores, &(source, _)) in scores.chunks_exact(self.heads).zip(&*heard) {
            let values = &self.values[source * out.len()..][..out.len()];
            for (head, score) in scores.iter().enumerate() {
                let channels = head * self.channels..(head + 1) * self.channels;
                out[channels.clone()]
                    .iter_mut()
                    .zip(&values[channels])
                    .for_each(|(out, value)| *out += score * value);
            }
        }
    }

    /// The features of the loop that is added: the mean of the node's other edges, zeros if there is none.
    #[inline(always)]
    fn mean_edge(&self, heard: &[Heard], mean: &mut [f32]) {
        mean.fill(0.0);
        let width = mean.len();
        for edge in heard.iter().filter_map(|(_, edge)| *edge) {
            let values = &self.hearing.edge_values[edge * width..][..width];
            mean.iter_mut().zip(values).for_each(|(mean, value)| *mean += value);
        }
        mean.iter_mut().for_each(|mean| *mean /= heard.len().max(1) as f32);
    }

    #[inline(always)]
    fn score(&self, source: usize, target: usize, edge: &[f32], scores: &mut [f32], sum: &mut [f32]) {
        match &self.score {
            Score::Added { source: sources, target: targets, edge: weight } => {
                for (head, score) in scores.iter_mut().enumerate() {
                    let own =
                        weight.map_or(0.0, |weight| dot(&weight[head * edge.len()..][..edge.len()], edge));
                    let plain =
                        sources[source * self.heads + head] + targets[target * self.heads + head] + own;
                    *score = leaky(plain, self.negative_slope);
                }
            }
            Score::Activated { target: targets, attention, edge: weight } => {
                let width = sum.len();
                let (a, b) = (&self.values[source * width..][..width], &targets[target * width..][..width]);
                sum.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum = a + b);
                if let Some(weight) = weight {
                    let rows = weight.chunks_exact(edge.len().max(1));
                    sum.iter_mut().zip(rows).for_each(|(sum, row)| *sum += dot(row, edge));
                }
                for (head, score) in scores.iter_mut().enumerate() {
                    let channels = head * self.channels..(head + 1) * self.channels;
                    let products = sum[channels.clone()].iter().zip(&attention[channels]);
                    *score =
                        products.map(|(value, weight)| leaky(*value, self.negative_slope) * weight).sum();
                }
            }
        }
    }
}

/// Over the neighbours, for each head alone.
#[inline(always)]
fn softmax(scores: &mut [f32], heads: usize) {
    for head in 0..heads {
        let all = (head..scores.len()).step_by(heads);
        let most = all.clone().map(|at| scores[at]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 1e-16;
        for at in all.clone() {
            scores[at] = (scores[at] - most).exp();
            sum += scores[at];
        }
        all.for_each(|at| scores[at] /= sum);
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[inline(always)]
fn leaky(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { slope * value }
}
