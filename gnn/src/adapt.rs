//! Features of one width for a model of another.

use crate::{Error, Matrix, random::Random, threads};
use rayon::prelude::*;

/// How features get the width that a model reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Adapt {
    /// They must have it.
    Exact,
    /// Zeros are appended; wider ones are refused.
    Pad,
    /// Narrower ones are padded, wider ones projected by a matrix drawn from the seed: the same each time,
    /// and distances are kept as far as the width allows.
    Project {
        /// What the matrix is drawn from.
        seed: u64,
    },
}

/// Features with `width` columns.
///
/// # Errors
/// If that cannot be had in this way.
pub fn adapt(features: Matrix, width: usize, how: Adapt) -> Result<Matrix, Error> {
    let have = features.columns();
    if have == width {
        return Ok(features);
    }
    let refused = |advice: &str| {
        Error::argument(
            "featureProperties",
            format!("give {have} numbers a node, the model reads {width}: {advice}"),
        )
    };
    match how {
        Adapt::Exact => {
            Err(refused("choose properties of that width in all, or let them be padded or projected"))
        }
        Adapt::Pad if have > width => Err(refused("choose fewer properties, or let them be projected")),
        Adapt::Pad | Adapt::Project { .. } if have < width => Ok(pad(&features, width)),
        Adapt::Pad => Ok(features),
        Adapt::Project { seed } => Ok(project(&features, width, seed)),
    }
}

fn pad(features: &Matrix, width: usize) -> Matrix {
    let mut wide = Matrix::zeros(features.rows(), width);
    for row in 0..features.rows() {
        wide.row_mut(row)[..features.columns()].copy_from_slice(features.row(row));
    }
    wide
}

/// Very sparse random projection: +s, 0 and -s with probabilities 1/6, 2/3 and 1/6, s = √(3 / width).
fn project(features: &Matrix, width: usize, seed: u64) -> Matrix {
    let scale = (3.0 / width as f32).sqrt();
    let have = features.columns();
    let signs: Vec<Vec<(usize, f32)>> = (0..have)
        .map(|column| {
            let mut random = Random::keyed(seed, &[column as u64]);
            (0..width).filter_map(|to| random.sparse_sign().map(|sign| (to, sign * scale))).collect()
        })
        .collect();
    let mut narrow = Matrix::zeros(features.rows(), width);
    threads::install(|| {
        narrow.values_mut().par_chunks_mut(width.max(1)).enumerate().for_each(|(row, out)| {
            for (value, entries) in features.row(row).iter().zip(&signs) {
                for &(to, factor) in entries {
                    out[to] += value * factor;
                }
            }
        });
    });
    narrow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_made_to_fit_or_refused() {
        let features = Matrix::new(2, 2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let padded = adapt(features.clone(), 3, Adapt::Pad).unwrap();
        assert_eq!(padded.values(), [1.0, 2.0, 0.0, 3.0, 4.0, 0.0]);
        assert_eq!(adapt(features.clone(), 3, Adapt::Project { seed: 1 }).unwrap(), padded);
        assert_eq!(adapt(features.clone(), 2, Adapt::Exact).unwrap(), features);
        let error = adapt(features.clone(), 1, Adapt::Pad).unwrap_err().to_string();
        assert_eq!(
            error,
            "`featureProperties`: give 2 numbers a node, the model reads 1: choose fewer properties, or let them be projected"
        );
        assert!(adapt(features, 3, Adapt::Exact).is_err());
    }

    #[test]
    fn a_projection_keeps_distances() {
        let mut random = Random::keyed(5, &[]);
        let features = Matrix::new(2, 400, (0..800).map(|_| random.uniform() - 0.5).collect()).unwrap();
        let narrow = adapt(features.clone(), 128, Adapt::Project { seed: 9 }).unwrap();
        let distance =
            |m: &Matrix| m.row(0).iter().zip(m.row(1)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let ratio = distance(&narrow) / distance(&features);
        assert!((0.6..1.4).contains(&ratio), "{ratio}");
        assert_eq!(narrow, adapt(features, 128, Adapt::Project { seed: 9 }).unwrap());
    }
}
