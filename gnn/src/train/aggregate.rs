//! Aggregation as an operation of the tensor library, with its gradient.

use crate::Aggr;
use crate::kernel::for_each_block;
use crate::kernel::gather::{Aggregator, Hearing, gather};
use crate::{Cancel, Error};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Who hears whom in one layer of a batch.
pub(crate) struct Aggregate {
    pub(crate) offsets: Vec<u32>,
    pub(crate) sources: Vec<u32>,
    pub(crate) how: Aggr,
}

impl Aggregate {
    fn hearing(&self) -> Hearing<'_> {
        Hearing::new(&self.offsets, &self.sources)
    }

    /// The neighbours of each target, and the target's row of a matrix.
    fn targets<'a>(&'a self, rows: &'a [f32], width: usize) -> impl Iterator<Item = (&'a [u32], &'a [f32])> {
        let ranges = self.offsets.windows(2).map(|ends| &self.sources[ends[0] as usize..ends[1] as usize]);
        ranges.zip(rows.chunks_exact(width))
    }
}

impl CustomOp1 for Aggregate {
    fn name(&self) -> &'static str {
        "gnn-aggregate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let Some((from, to)) = layout.contiguous_offsets() else {
            candle_core::bail!("{} wants its rows one after the other", self.name())
        };
        let input = &storage.as_slice::<f32>()?[from..to];
        debug_assert_eq!(input.len(), rows * width);
        let hearing = self.hearing();
        let how = match self.how {
            Aggr::Mean => Aggregator::Mean,
            Aggr::Sum => Aggregator::Sum,
            Aggr::Max => Aggregator::Max,
        };
        let mut out = vec![0.0; hearing.targets() * width];
        // Never cancelled here: a batch is short, and it is looked at between batches.
        for_each_block(&mut out, width, &Cancel::default(), |first, rows, _| {
            gather(&hearing, how, input, width, first, rows)
        })
        .map_err(|error: Error| candle_core::Error::Msg(error.to_string()))?;
        Ok((CpuStorage::F32(out), Shape::from((hearing.targets(), width))))
    }

    fn bwd(&self, input: &Tensor, out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (rows, width) = input.dims2()?;
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let mut back = vec![0.0; rows * width];
        if self.how == Aggr::Max {
            let (input, out) = (input.flatten_all()?.to_vec1::<f32>()?, out.flatten_all()?.to_vec1::<f32>()?);
            for ((sources, gradient), (_, greatest)) in
                self.targets(&gradient, width).zip(self.targets(&out, width))
            {
                for column in 0..width {
                    // The first one that has the greatest number gets the whole gradient.
                    let from = |source: &&u32| input[**source as usize * width + column] == greatest[column];
                    if let Some(source) = sources.iter().find(from) {
                        back[*source as usize * width + column] += gradient[column];
                    }
                }
            }
        } else {
            for (sources, gradient) in self.targets(&gradient, width) {
                let share = if self.how == Aggr::Mean { 1.0 / sources.len().max(1) as f32 } else { 1.0 };
                for source in sources {
                    let row = &mut back[*source as usize * width..][..width];
                    row.iter_mut().zip(gradient).for_each(|(row, gradient)| *row += share * gradient);
                }
            }
        }
        Ok(Some(Tensor::from_vec(back, (rows, width), input.device())?))
    }
}
