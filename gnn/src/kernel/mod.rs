//! What takes the time, in vector instructions: chosen at run time by `pulp`, without `unsafe` here.
//!
//! Everything works on blocks of rows that fit the second-level cache: a block is aggregated, multiplied, and
//! written once. A row's numbers depend on that row's input only, never on the block, the threads or the
//! other rows, so that a node's embedding is the same to the bit however it was asked for.

pub(crate) mod attend;
pub(crate) mod dense;
pub(crate) mod gather;

use crate::{Cancel, Error, threads};
use rayon::prelude::*;

/// Rows of a block: 240 rows of 64 numbers are 60 KiB. A multiple of every tile height in `dense`.
pub(crate) const BLOCK: usize = 240;

/// Runs `work` on blocks of rows of `out`, in parallel. It gets the first row's number and the block's rows,
/// and a scratch buffer that it may leave dirty.
pub(crate) fn for_each_block(
    out: &mut [f32],
    width: usize,
    cancel: &Cancel,
    work: impl Fn(usize, &mut [f32], &mut Scratch) + Sync,
) -> Result<(), Error> {
    if width == 0 {
        return Ok(());
    }
    let one = |(index, rows): (usize, &mut [f32]), scratch: &mut Scratch| {
        cancel.check()?;
        work(index * BLOCK, rows, scratch);
        Ok(())
    };
    // A few rows are not worth waking threads for.
    if out.len() <= 2 * BLOCK * width {
        let mut scratch = Scratch::default();
        return out.chunks_mut(BLOCK * width).enumerate().try_for_each(|item| one(item, &mut scratch));
    }
    threads::install(|| {
        out.par_chunks_mut(BLOCK * width)
            .enumerate()
            .try_for_each_init(Scratch::default, |scratch, item| one(item, scratch))
    })
}

/// Buffers of one thread, kept from block to block.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) aggregated: Vec<f32>,
    pub(crate) roots: Vec<f32>,
    pub(crate) scores: Vec<f32>,
}

/// A buffer with exactly this many numbers; what they are does not matter.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// Sixteen sums side by side, so that it is vector code; the same on every machine.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>() + sums.iter().sum::<f32>()
}
