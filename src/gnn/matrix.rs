//! Columns of values become one matrix, a row for each node.

use super::Trouble;
use super::features::{Column, Encoding};

/// All features of all nodes.
pub(crate) struct Features {
    pub(crate) matrix: gnn::Matrix,
    /// What each column is.
    pub(crate) names: Vec<String>,
    /// Values that were missing and replaced.
    pub(crate) missing: usize,
}

/// Makes one matrix of columns. `order`: the row that each node gets.
pub(crate) fn assemble(columns: Vec<Column>, rows: usize, order: &[u32]) -> Result<Features, Trouble> {
    let mut names = Vec::new();
    let mut missing = 0;
    let mut parts = Vec::with_capacity(columns.len());
    for mut column in columns {
        let property = column.feature.property.clone();
        if column.missing.len() == column.rows && rows > 0 {
            return Err(Trouble::wrong(format!(
                "The property `{property}` is on none of the {rows} nodes: check its name in featureProperties."
            )));
        }
        if !column.missing.is_empty() && column.feature.default.is_none() {
            return Err(Trouble::wrong(format!(
                "The property `{property}` is missing on {} of {rows} nodes: give it a defaultValue, or featureFallback: 'zero'.",
                column.missing.len()
            )));
        }
        missing += column.missing.len();
        column.sort_words(&mut names);
        let width = column.width.unwrap_or_default();
        match column.feature.encoding {
            Encoding::Plain if width == 1 => names.push(property),
            Encoding::Plain => names.extend((0..width).map(|at| format!("{property}[{at}]"))),
            Encoding::Hash(size) => names.extend((0..size).map(|at| format!("{property}#{at}"))),
            Encoding::OneHot => {}
        }
        parts.push((column, width));
    }
    let width: usize = parts.iter().map(|(_, width)| width).sum();
    let mut values = vec![0.0; rows * width];
    let mut left = 0;
    for (column, own) in parts {
        column.place(&mut values, width, left, order);
        left += own;
    }
    Ok(Features { matrix: gnn::Matrix::new(rows, width, values)?, names, missing })
}

impl Column {
    /// Words get their columns in alphabetical order, so that they do not depend on the order of nodes.
    fn sort_words(&mut self, names: &mut Vec<String>) {
        if self.feature.encoding != Encoding::OneHot {
            return;
        }
        let mut words: Vec<(&str, u32)> =
            self.words.iter().map(|(word, column)| (&**word, *column)).collect();
        words.sort_unstable();
        let mut new = vec![0; words.len()];
        for (at, (word, old)) in words.iter().enumerate() {
            names.push(format!("{}={word}", self.feature.property));
            if let Some(place) = new.get_mut(*old as usize) {
                *place = u32::try_from(at).unwrap_or_default();
            }
        }
        self.width = Some(words.len());
        for (_, column) in &mut self.hot {
            *column = new.get(*column as usize).copied().unwrap_or_default();
        }
    }

    /// Puts its values into rows of `width`, from the column `left` on.
    fn place(&self, values: &mut [f32], width: usize, left: usize, order: &[u32]) {
        let own = self.width.unwrap_or_default();
        let row_of = |row: usize| order.get(row).copied().unwrap_or_default() as usize;
        if self.feature.encoding == Encoding::Plain {
            for (row, numbers) in self.values.chunks_exact(own.max(1)).enumerate() {
                let start = row_of(row) * width + left;
                if let Some(place) = values.get_mut(start..start + own) {
                    place.copy_from_slice(numbers);
                }
            }
            return;
        }
        for (row, column) in &self.hot {
            let at = row_of(*row as usize) * width + left + *column as usize;
            if let Some(place) = values.get_mut(at) {
                *place = 1.0;
            }
        }
    }
}
