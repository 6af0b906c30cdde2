//! Rows of numbers: features in, embeddings out.

use crate::Error;
use crate::accelerate::Resident;
use crate::threads;
use gnn_device::Buffer;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// A dense matrix, row after row.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    /// Whether all values are known to be finite: looked for once, because small requests read large matrices.
    finite: AtomicBool,
    resident: Resident<Buffer>,
}

impl Clone for Matrix {
    fn clone(&self) -> Self {
        let finite = AtomicBool::new(self.finite.load(Ordering::Relaxed));
        Self {
            rows: self.rows,
            columns: self.columns,
            values: self.values.clone(),
            finite,
            resident: Resident::default(),
        }
    }
}

impl PartialEq for Matrix {
    fn eq(&self, other: &Self) -> bool {
        (self.rows, self.columns, &self.values) == (other.rows, other.columns, &other.values)
    }
}

impl Matrix {
    /// One from its values, row after row.
    ///
    /// # Errors
    /// If there are not exactly `rows × columns` values.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Self, Error> {
        if rows.checked_mul(columns) != Some(values.len()) {
            let problem = format!(
                "{rows} rows of {columns} columns need {} values, got {}",
                rows.saturating_mul(columns),
                values.len()
            );
            return Err(Error::argument("values", problem));
        }
        Ok(Self { rows, columns, values, finite: AtomicBool::new(false), resident: Resident::default() })
    }

    /// One of zeros.
    #[must_use]
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            values: vec![0.0; rows * columns],
            finite: AtomicBool::new(false),
            resident: Resident::default(),
        }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// One row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        self.changed();
        &mut self.values[row * self.columns..][..self.columns]
    }

    /// All values, row after row.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.changed();
        &mut self.values
    }

    /// All values, without a copy.
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// What was known of the values is forgotten.
    fn changed(&mut self) {
        *self.finite.get_mut() = false;
        self.resident = Resident::default();
    }

    pub(crate) fn resident(&self) -> &Resident<Buffer> {
        &self.resident
    }

    /// How much memory it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<f32>()
    }

    /// An error naming the first value that is not a finite number.
    pub(crate) fn check_finite(&self, name: &'static str) -> Result<(), Error> {
        if self.finite.load(Ordering::Relaxed) {
            return Ok(());
        }
        // All exponent bits set is what infinities and NaN have in common; without a branch this is vector code.
        let bad =
            |values: &[f32]| values.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT));
        let found = threads::install(|| {
            self.values
                .par_chunks(1 << 14)
                .enumerate()
                .find_first(|(_, chunk)| bad(chunk))
                .map(|(index, _)| index)
        });
        let Some(chunk) = found else {
            self.finite.store(true, Ordering::Relaxed);
            return Ok(());
        };
        let from = chunk << 14;
        let at = from + self.values[from..].iter().position(|x| !x.is_finite()).unwrap_or(0);
        let (row, column) = (at / self.columns, at % self.columns);
        Err(Error::argument(
            name,
            format!("row {row}, column {column} is {}: only finite numbers can be used", self.values[at]),
        ))
    }
}

const EXPONENT: u32 = 0x7f80_0000;
