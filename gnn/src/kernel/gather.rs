//! A node's neighbours made one row: mean, sum, maximum, or GCN's symmetric mean.

use crate::kernel::sized;
use pulp::{Arch, Simd, WithSimd};

/// Whom the targets of a layer hear. Targets are rows of the output.
#[derive(Clone, Copy)]
pub(crate) struct Hearing<'a> {
    /// Where each target's sources begin; one more than there are targets.
    pub(crate) offsets: &'a [u32],
    /// Rows of the layer's input.
    pub(crate) sources: &'a [u32],
    /// `edge_width` numbers for each source.
    pub(crate) edge_values: &'a [f32],
    pub(crate) edge_width: usize,
    /// Which row of the input each target itself is; without it, the row of the same number.
    pub(crate) roots: Option<&'a [u32]>,
    /// 1/√degree by row of the input, for GCN.
    pub(crate) symmetric: &'a [f32],
    /// How many neighbours each target has for one that was sampled; without it, 1.
    pub(crate) scales: Option<&'a [f32]>,
}

impl<'a> Hearing<'a> {
    /// Targets that hear their sources, without anything else.
    pub(crate) fn new(offsets: &'a [u32], sources: &'a [u32]) -> Self {
        Self { offsets, sources, edge_values: &[], edge_width: 0, roots: None, symmetric: &[], scales: None }
    }

    pub(crate) fn targets(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn root(&self, target: usize) -> usize {
        self.roots.map_or(target, |roots| roots[target] as usize)
    }

    pub(crate) fn range(&self, target: usize) -> std::ops::Range<usize> {
        self.offsets[target] as usize..self.offsets[target + 1] as usize
    }

    pub(crate) fn weight(&self, edge: usize) -> f32 {
        if self.edge_width == 1 { self.edge_values[edge] } else { 1.0 }
    }
}

/// How neighbours become one row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Aggregator {
    Mean,
    Sum,
    Max,
    /// By weight / √(degree of source · degree of target), with one loop for each node.
    Symmetric,
}

/// Aggregates the neighbours of the targets from `first` on into `out`, rows of `width`.
pub(crate) fn gather(
    hearing: &Hearing,
    how: Aggregator,
    input: &[f32],
    width: usize,
    first: usize,
    out: &mut [f32],
) {
    Arch::new().dispatch(Gather { hearing, how, input, width, first, out });
}

/// The targets' own rows, from `first` on: where they stand, or copied together.
pub(crate) fn roots<'a>(
    hearing: &Hearing,
    input: &'a [f32],
    width: usize,
    first: usize,
    count: usize,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    let Some(roots) = hearing.roots else { return &input[first * width..][..count * width] };
    let buffer = sized(buffer, count * width);
    for (row, &root) in buffer.chunks_exact_mut(width).zip(&roots[first..]) {
        row.copy_from_slice(&input[root as usize * width..][..width]);
    }
    buffer
}

struct Gather<'a> {
    hearing: &'a Hearing<'a>,
    how: Aggregator,
    input: &'a [f32],
    width: usize,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    // 64 columns of sums at a time, in registers; what remains in single vectors, then in single numbers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.rows::<S, 4>(simd),
            8 => self.rows::<S, 8>(simd),
            4 => self.rows::<S, 16>(simd),
            _ => self.rows::<S, 64>(simd),
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn rows<S: Simd, const VECTORS: usize>(self, simd: S) {
        let Self { hearing, how, input, width, first, out } = self;
        for (index, out) in out.chunks_exact_mut(width).enumerate() {
            let target = first + index;
            let edges = hearing.range(target);
            let sources = &hearing.sources[edges.clone()];
            let row = Row { hearing, input, width, target, edges, sources };
            match how {
                Aggregator::Sum => row.columns::<S, Summing, VECTORS>(
                    simd,
                    hearing.scales.map_or(1.0, |scales| scales[target]),
                    out,
                ),
                Aggregator::Mean => {
                    row.columns::<S, Averaging, VECTORS>(simd, sources.len().max(1) as f32, out)
                }
                Aggregator::Max => row.columns::<S, Greatest, VECTORS>(simd, 0.0, out),
                Aggregator::Symmetric => {
                    row.symmetric(hearing.scales.map_or(1.0, |scales| scales[target]), out)
                }
            }
        }
    }
}

struct Row<'a> {
    hearing: &'a Hearing<'a>,
    input: &'a [f32],
    width: usize,
    target: usize,
    edges: std::ops::Range<usize>,
    sources: &'a [u32],
}

impl Row<'_> {
    #[inline(always)]
    fn columns<S: Simd, F: Fold, const VECTORS: usize>(&self, simd: S, factor: f32, out: &mut [f32]) {
        let wide = VECTORS * S::F32_LANES;
        let mut column = 0;
        while column + wide <= self.width {
            self.chunk::<S, F, VECTORS>(simd, factor, column, &mut out[column..][..wide]);
            column += wide;
        }
        while column + S::F32_LANES <= self.width {
            self.chunk::<S, F, 1>(simd, factor, column, &mut out[column..][..S::F32_LANES]);
            column += S::F32_LANES;
        }
        for (column, out) in out.iter_mut().enumerate().skip(column) {
            let values = self.sources.iter().map(|&source| self.input[source as usize * self.width + column]);
            *out = F::numbers(values, factor);
        }
    }

    #[inline(always)]
    fn chunk<S: Simd, F: Fold, const VECTORS: usize>(
        &self,
        simd: S,
        factor: f32,
        column: usize,
        out: &mut [f32],
    ) {
        let load = |source: u32| -> &[S::f32s; VECTORS] {
            let at = source as usize * self.width + column;
            let (vectors, _) = S::as_simd_f32s(&self.input[at..][..VECTORS * S::F32_LANES]);
            vectors.first_chunk().expect("invariant: cut to this length")
        };
        let mut sums = match self.sources.first() {
            Some(&source) => *load(source),
            None => [simd.splat_f32s(0.0); VECTORS],
        };
        for &source in self.sources.get(1..).unwrap_or(&[]) {
            let values = load(source);
            for vector in 0..VECTORS {
                sums[vector] = F::vectors(simd, sums[vector], values[vector]);
            }
        }
        let factor = simd.splat_f32s(factor);
        let (out, _) = S::as_mut_simd_f32s(out);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = F::end(simd, sum, factor);
        }
    }

    /// Plain code, made vector code by the compiler: GCN's coefficients differ from edge to edge.
    #[inline(always)]
    fn symmetric(&self, scale: f32, out: &mut [f32]) {
        let roots = self.hearing.symmetric;
        let target = self.hearing.root(self.target);
        let (mut own, own_root) = (1.0, roots[target]);
        out.fill(0.0);
        for (edge, &source) in self.edges.clone().zip(self.sources) {
            let weight = self.hearing.weight(edge);
            if source as usize == target {
                own = weight;
                continue;
            }
            let factor = weight * scale * roots[source as usize] * own_root;
            let values = &self.input[source as usize * self.width..][..self.width];
            out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
        }
        let factor = own * own_root * own_root;
        let values = &self.input[target * self.width..][..self.width];
        out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
    }
}

/// One way to make many numbers one.
trait Fold {
    fn vectors<S: Simd>(simd: S, sum: S::f32s, value: S::f32s) -> S::f32s;
    fn end<S: Simd>(simd: S, sum: S::f32s, factor: S::f32s) -> S::f32s;
    fn numbers(values: impl Iterator<Item = f32>, factor: f32) -> f32;
}

struct Summing;
struct Averaging;
struct Greatest;

impl Fold for Summing {
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, sum: S::f32s, value: S::f32s) -> S::f32s {
        simd.add_f32s(sum, value)
    }

    #[inline(always)]
    fn end<S: Simd>(simd: S, sum: S::f32s, factor: S::f32s) -> S::f32s {
        simd.mul_f32s(sum, factor)
    }

    #[inline(always)]
    fn numbers(values: impl Iterator<Item = f32>, factor: f32) -> f32 {
        values.sum::<f32>() * factor
    }
}

impl Fold for Averaging {
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, sum: S::f32s, value: S::f32s) -> S::f32s {
        simd.add_f32s(sum, value)
    }

    #[inline(always)]
    fn end<S: Simd>(simd: S, sum: S::f32s, factor: S::f32s) -> S::f32s {
        simd.div_f32s(sum, factor)
    }

    #[inline(always)]
    fn numbers(values: impl Iterator<Item = f32>, factor: f32) -> f32 {
        values.sum::<f32>() / factor
    }
}

impl Fold for Greatest {
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, sum: S::f32s, value: S::f32s) -> S::f32s {
        simd.max_f32s(sum, value)
    }

    #[inline(always)]
    fn end<S: Simd>(_: S, sum: S::f32s, _: S::f32s) -> S::f32s {
        sum
    }

    #[inline(always)]
    fn numbers(values: impl Iterator<Item = f32>, _: f32) -> f32 {
        values.reduce(f32::max).unwrap_or(0.0)
    }
}
