//! Which embeddings are most alike.

use crate::kernel::dot;
use crate::{Cancel, Error, Matrix, threads};
use rayon::prelude::*;
use std::cmp::Ordering;

/// The `k` rows nearest to `query` by cosine, the nearest first; among equals the lower row first. A score is
/// `(1 + cosine) / 2`, as Neo4j's vector indexes give it. Rows of zeros have no direction and are left out.
///
/// # Errors
/// If the query has another width than the rows or no direction, or the caller cancelled.
pub fn nearest(
    embeddings: &Matrix,
    query: &[f32],
    k: usize,
    cancel: &Cancel,
) -> Result<Vec<(u32, f32)>, Error> {
    if query.len() != embeddings.columns() {
        let problem =
            format!("has {} numbers, but the embeddings have {}", query.len(), embeddings.columns());
        return Err(Error::argument("query", problem));
    }
    let length = norm(query);
    if !length.is_finite() || length == 0.0 {
        return Err(Error::argument(
            "query",
            "has no direction: it needs a number other than 0, and all finite",
        ));
    }
    let width = embeddings.columns();
    let found: Vec<Vec<(u32, f32)>> = threads::install(|| {
        embeddings
            .values()
            .par_chunks(BLOCK * width)
            .enumerate()
            .map(|(block, rows)| {
                cancel.check()?;
                Ok(best(rows, block * BLOCK, query, length, k))
            })
            .collect::<Result<_, Error>>()
    })?;
    let mut all: Vec<_> = found.into_iter().flatten().collect();
    all.sort_unstable_by(nearer);
    all.truncate(k);
    Ok(all)
}

/// The best of one block of rows.
fn best(rows: &[f32], first: usize, query: &[f32], length: f32, k: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k.min(BLOCK));
    for (index, row) in rows.chunks_exact(query.len()).enumerate() {
        let own = norm(row);
        if own == 0.0 || !own.is_finite() {
            continue;
        }
        let cosine = (dot(row, query) / (own * length)).clamp(-1.0, 1.0);
        best.push(((first + index) as u32, f32::midpoint(1.0, cosine)));
        // Sorted away now and then, so that it never holds more than a few times `k`.
        if best.len() >= BLOCK.max(2 * k) {
            best.sort_unstable_by(nearer);
            best.truncate(k);
        }
    }
    best.sort_unstable_by(nearer);
    best.truncate(k);
    best
}

fn nearer(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn norm(row: &[f32]) -> f32 {
    dot(row, row).sqrt()
}

const BLOCK: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_zeros_never() {
        let rows = vec![1.0, 0.0, 0.0, 1.0, 0.0, 0.0, -2.0, 0.0, 3.0, 3.0, 5.0, 0.0];
        let embeddings = Matrix::new(6, 2, rows).unwrap();
        let found = nearest(&embeddings, &[2.0, 0.0], 10, &Cancel::default()).unwrap();
        assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 5, 4, 1, 3]);
        assert_eq!(found[0].1, 1.0);
        assert_eq!(found[3].1, 0.5);
        assert_eq!(found[4].1, 0.0);
        assert_eq!(nearest(&embeddings, &[2.0, 0.0], 2, &Cancel::default()).unwrap().len(), 2);
    }

    #[test]
    fn many_rows_are_searched_as_one() {
        let rows = 3 * BLOCK + 17;
        let values = (0..rows).flat_map(|row| [1.0, row as f32]).collect();
        let embeddings = Matrix::new(rows, 2, values).unwrap();
        let found = nearest(&embeddings, &[0.0, 1.0], 3, &Cancel::default()).unwrap();
        let mut expected: Vec<_> = found.clone();
        expected.sort_by(nearer);
        assert_eq!(found, expected);
        assert!(found.iter().all(|(_, score)| *score > 0.9999));
        let first = nearest(&embeddings, &[1.0, 0.0], 2, &Cancel::default()).unwrap();
        assert_eq!(first.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_query_that_does_not_fit_is_refused() {
        let embeddings = Matrix::zeros(2, 3);
        let error =
            |query: &[f32]| nearest(&embeddings, query, 1, &Cancel::default()).unwrap_err().to_string();
        assert_eq!(error(&[1.0]), "`query`: has 1 numbers, but the embeddings have 3");
        assert!(error(&[0.0; 3]).contains("no direction"));
        let cancel = Cancel::default();
        cancel.cancel();
        assert_eq!(nearest(&embeddings, &[1.0; 3], 1, &cancel), Err(Error::Cancelled));
    }
}
