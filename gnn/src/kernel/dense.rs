//! Rows times weights: `out = bias + Σ input · weightᵀ`, each number written once.

use pulp::{Arch, Simd, WithSimd};

/// A weight `[out, in]` in the order in which the kernel reads it: panels of 32 outputs, in each one input's
/// 32 weights after the other's. Missing outputs are zeros.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    inputs: usize,
    outputs: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// From rows of `inputs` weights, one row for each output.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Self {
        let outputs = weight.len().checked_div(inputs).unwrap_or(0);
        let mut panels = vec![0.0; outputs.div_ceil(PANEL) * inputs * PANEL];
        for (output, row) in weight.chunks_exact(inputs.max(1)).enumerate() {
            let panel = &mut panels[output / PANEL * inputs * PANEL..];
            for (input, value) in row.iter().enumerate() {
                panel[input * PANEL + output % PANEL] = *value;
            }
        }
        Self { inputs, outputs, panels }
    }

    /// The weights as inputs × outputs.
    pub(crate) fn unpacked(&self) -> Vec<f32> {
        let rows = (0..self.inputs).flat_map(|input| (0..self.outputs).map(move |output| (input, output)));
        rows.map(|(input, output)| {
            self.panels[(output / PANEL * self.inputs + input) * PANEL + output % PANEL]
        })
        .collect()
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }
}

/// One product of the sum: rows of `weight.inputs()` numbers, and the weight.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) weight: &'a Packed,
}

/// What the products are added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// The same for each row; zeros if it is empty.
    Bias(&'a [f32]),
    /// What the rows hold.
    Held,
}

/// Computes all rows of `out`; then `finish` is called for each of them, while it is in the cache.
pub(crate) fn multiply(terms: &[Term], start: Start, out: &mut [f32], width: usize, finish: &impl Finish) {
    for term in terms {
        assert_eq!(term.weight.outputs, width, "invariant: weights of a layer agree");
        assert_eq!(
            term.rows.len() / term.weight.inputs.max(1),
            out.len() / width,
            "invariant: as many rows in as out"
        );
    }
    Arch::new().dispatch(Multiply { terms, start, out, width, finish });
}

/// What happens to a finished row: normalisation, activation and the like.
pub(crate) trait Finish: Sync {
    /// `row` counts from the start of the block. To be inlined: that makes it vector code.
    fn row(&self, row: usize, values: &mut [f32]);
}

/// Nothing happens.
impl Finish for () {
    #[inline(always)]
    fn row(&self, _: usize, _: &mut [f32]) {}
}

struct Multiply<'a, F> {
    terms: &'a [Term<'a>],
    start: Start<'a>,
    out: &'a mut [f32],
    width: usize,
    finish: &'a F,
}

impl<F: Finish> WithSimd for Multiply<'_, F> {
    type Output = ();

    // Tiles of sums that fit the registers: 12 × 2 of 32 AVX-512 ones, 3 × 4 of 16 AVX2 ones.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.tiles::<S, 12, 2>(simd),
            8 => self.tiles::<S, 3, 4>(simd),
            4 => self.tiles::<S, 3, 8>(simd),
            _ => self.tiles::<S, 1, 32>(simd),
        }
    }
}

impl<F: Finish> Multiply<'_, F> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Self { terms, start, out, width, finish } = self;
        let mut first = 0;
        let mut tiles = out.chunks_exact_mut(ROWS * width);
        for tile in &mut tiles {
            panels::<S, ROWS, VECTORS>(simd, terms, start, first, tile, width);
            for (row, values) in tile.chunks_exact_mut(width).enumerate() {
                finish.row(first + row, values);
            }
            first += ROWS;
        }
        for row in tiles.into_remainder().chunks_exact_mut(width) {
            panels::<S, 1, VECTORS>(simd, terms, start, first, row, width);
            finish.row(first, row);
            first += 1;
        }
    }
}

/// `ROWS` rows of the output, one panel of columns after the other.
#[inline(always)]
fn panels<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    terms: &[Term],
    start: Start,
    first: usize,
    tile: &mut [f32],
    width: usize,
) {
    for (panel, column) in (0..width).step_by(PANEL).enumerate() {
        let columns = PANEL.min(width - column);
        let mut sums: [[S::f32s; VECTORS]; ROWS] = std::array::from_fn(|row| match start {
            Start::Bias([]) => [simd.splat_f32s(0.0); VECTORS],
            Start::Bias(bias) => load(simd, &bias[column..][..columns]),
            Start::Held => load(simd, &tile[row * width + column..][..columns]),
        });
        for term in terms {
            accumulate::<S, ROWS, VECTORS>(simd, term, first, panel, &mut sums);
        }
        for (row, sums) in sums.iter().enumerate() {
            let out = &mut tile[row * width + column..][..columns];
            if columns == PANEL {
                let (out, _) = S::as_mut_simd_f32s(out);
                out.copy_from_slice(sums);
            } else {
                let mut all = [0.0; PANEL];
                S::as_mut_simd_f32s(&mut all).0.copy_from_slice(sums);
                out.copy_from_slice(&all[..columns]);
            }
        }
    }
}

#[inline(always)]
fn accumulate<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    term: &Term,
    first: usize,
    panel: usize,
    sums: &mut [[S::f32s; VECTORS]; ROWS],
) {
    let inputs = term.weight.inputs;
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &term.rows[(first + row) * inputs..][..inputs]);
    let (weights, _) = S::as_simd_f32s(&term.weight.panels[panel * inputs * PANEL..][..inputs * PANEL]);
    let (weights, _) = weights.as_chunks::<VECTORS>();
    let weights = &weights[..inputs];
    let mut local = *sums;
    for input in 0..inputs {
        let weights = weights[input];
        for row in 0..ROWS {
            let value = simd.splat_f32s(rows[row][input]);
            for vector in 0..VECTORS {
                local[row][vector] = simd.mul_add_e_f32s(value, weights[vector], local[row][vector]);
            }
        }
    }
    *sums = local;
}

/// Up to a panel of numbers; zeros where there are none.
#[inline(always)]
fn load<S: Simd, const VECTORS: usize>(simd: S, values: &[f32]) -> [S::f32s; VECTORS] {
    let (whole, _) = S::as_simd_f32s(values);
    if let Some(vectors) = whole.first_chunk() {
        return *vectors;
    }
    std::array::from_fn(|vector| {
        let from = (vector * S::F32_LANES).min(values.len());
        let to = (from + S::F32_LANES).min(values.len());
        simd.partial_load_f32s(&values[from..to])
    })
}

const PANEL: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    struct Double;

    impl Finish for Double {
        fn row(&self, row: usize, values: &mut [f32]) {
            values.iter_mut().for_each(|value| *value = *value * 2.0 + row as f32);
        }
    }

    #[test]
    fn all_shapes_agree_with_the_definition() {
        let mut random = Random::keyed(1, &[]);
        let mut draw = |count: usize| (0..count).map(|_| random.uniform() - 0.5).collect::<Vec<_>>();
        for (rows, first, second, width) in
            [(1, 1, 1, 1), (13, 7, 3, 33), (25, 64, 64, 64), (24, 5, 70, 100), (2, 1, 0, 31)]
        {
            let (a, b) = (draw(rows * first), draw(rows * second));
            let (wa, wb, bias) = (draw(width * first), draw(width * second), draw(width));
            let (pa, pb) = (Packed::new(&wa, first), Packed::new(&wb, second));
            let mut terms = vec![Term { rows: &a, weight: &pa }];
            if second > 0 {
                terms.push(Term { rows: &b, weight: &pb });
            }
            let mut out = vec![f32::NAN; rows * width];
            multiply(&terms, Start::Bias(&bias), &mut out, width, &Double);
            for row in 0..rows {
                for column in 0..width {
                    let dot = |x: &[f32], w: &[f32], k: usize| {
                        (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(w[column * k + i])).sum::<f64>()
                    };
                    let exact = f64::from(bias[column]) + dot(&a, &wa, first) + dot(&b, &wb, second);
                    let got = f64::from(out[row * width + column]);
                    assert!(
                        (got - 2.0 * exact - row as f64).abs() < 1e-5,
                        "{rows}×{first}+{second}×{width} at {row}, {column}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_alone_and_among_others() {
        let mut random = Random::keyed(2, &[]);
        let mut draw = |count: usize| (0..count).map(|_| random.uniform() - 0.5).collect::<Vec<_>>();
        let (rows, weight) = (draw(31 * 40), Packed::new(&draw(50 * 40), 40));
        let mut all = vec![0.0; 31 * 50];
        multiply(&[Term { rows: &rows, weight: &weight }], Start::Bias(&[]), &mut all, 50, &());
        for row in 0..31 {
            let mut one = vec![0.0; 50];
            multiply(
                &[Term { rows: &rows[row * 40..][..40], weight: &weight }],
                Start::Bias(&[]),
                &mut one,
                50,
                &(),
            );
            assert_eq!(one, all[row * 50..][..50]);
        }
    }
}
