//! What a call gives: rows that become bytes when they are fetched, or a statement that Neo4j runs.

use std::ops::Range;
use std::sync::Arc;

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::packstream::{Value, encode};
use bytes::{BufMut, BytesMut};

use super::batch::Whole;
use super::budget::Reserved;
use super::graph::Graph;
use super::procedures::Column;
use super::spec::escaped;

/// The parameter with the rows for the rest of a query.
const PARAMETER: &str = "__gnn";

/// What a call came to.
pub(crate) enum Output {
    /// Rows.
    Rows(Rows),
    /// What Neo4j does in the caller's own transaction: a statement that ends with the procedure's columns by their names.
    Statement(Statement),
}

/// A statement whose rows are those of the procedure.
pub(crate) struct Statement {
    /// Up to and without its last clause.
    pub(crate) text: String,
    /// For each of the procedure's columns an expression.
    pub(crate) expressions: Vec<String>,
    /// Its parameters, encoded.
    pub(crate) parameters: Vec<(&'static str, BytesMut)>,
    /// What they take.
    pub(crate) _reserved: Reserved,
}

/// Rows, and how far they were fetched.
pub(crate) struct Rows {
    source: Source,
    /// Which of the procedure's columns are wanted, in order.
    wanted: Vec<usize>,
    at: usize,
    /// They come of a write.
    pub(crate) wrote: bool,
    /// Where the last write stands.
    pub(crate) bookmark: Option<Box<str>>,
}

/// Where rows come from.
pub(crate) enum Source {
    /// They are there.
    Table(Vec<Vec<Value>>),
    /// Nodes of a graph and a row of numbers for each.
    Embeddings(Embeddings),
}

/// Nodes of a graph and a row of numbers for each: the columns `nodeId`, `elementId`, `embedding`.
pub(crate) struct Embeddings {
    pub(crate) graph: Arc<Graph>,
    /// The node of each row; none = all nodes in order.
    pub(crate) nodes: Option<Vec<u32>>,
    pub(crate) matrix: Arc<gnn::Matrix>,
    /// As Bolt 6 vectors, not as lists.
    pub(crate) vectors: bool,
    /// What the matrix takes, as long as it is there.
    pub(crate) _kept: Keeps,
}

/// Who has the bytes of a matrix.
pub(crate) enum Keeps {
    /// These rows.
    Own { _reserved: Option<Reserved> },
    /// Those who may ask for it again.
    Shared { _whole: Arc<Whole> },
}

impl Embeddings {
    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.nodes.as_ref().map_or_else(|| self.matrix.rows(), Vec::len)
    }

    /// The id of a row's node.
    pub(crate) fn id(&self, row: usize) -> i64 {
        let at = match &self.nodes {
            Some(nodes) => nodes.get(row).map(|at| *at as usize),
            None => Some(row),
        };
        at.and_then(|at| self.graph.ids.get(at)).copied().unwrap_or_default()
    }

    fn put(&self, row: usize, column: usize, out: &mut BytesMut) {
        match column {
            0 => encode::integer(self.id(row), out),
            1 => encode::string(&self.graph.element_id(self.id(row)), out),
            _ if self.vectors => put_vector(self.matrix.row(row).iter().copied(), out),
            _ => put_list(self.matrix.row(row), out),
        }
    }
}

/// Numbers as a list of floats.
pub(crate) fn put_list(numbers: &[f32], out: &mut BytesMut) {
    encode::list_header(numbers.len(), out);
    out.reserve(9 * numbers.len());
    for number in numbers {
        encode::float(f64::from(*number), out);
    }
}

/// Numbers as a vector of 32-bit floats.
pub(crate) fn put_vector(numbers: impl Iterator<Item = f32>, out: &mut BytesMut) {
    encode::struct_header(0x56, 2, out);
    encode::bytes(&[0xC6], out);
    let bytes: Vec<u8> = numbers.flat_map(f32::to_be_bytes).collect();
    encode::bytes(&bytes, out);
}

impl Rows {
    pub(crate) fn new(source: Source) -> Self {
        Self { source, wanted: Vec::new(), at: 0, wrote: false, bookmark: None }
    }

    /// A table.
    pub(crate) fn table(rows: Vec<Vec<Value>>) -> Self {
        Self::new(Source::Table(rows))
    }

    /// A table of which all columns are wanted.
    pub(crate) fn all_of(rows: Vec<Vec<Value>>, columns: usize) -> Self {
        Self { wanted: (0..columns).collect(), ..Self::table(rows) }
    }

    /// Chooses columns.
    pub(crate) fn want(&mut self, all: &[Column], columns: &[(&'static Column, String)]) {
        let place = |wanted: &Column| all.iter().position(|column| column.name == wanted.name);
        self.wanted = columns.iter().filter_map(|(column, _)| place(column)).collect();
    }

    /// How many in all.
    pub(crate) fn len(&self) -> usize {
        match &self.source {
            Source::Table(rows) => rows.len(),
            Source::Embeddings(embeddings) => embeddings.len(),
        }
    }

    /// True if all were fetched.
    pub(crate) fn is_over(&self) -> bool {
        self.at >= self.len()
    }

    /// Steps over rows.
    pub(crate) fn skip(&mut self, rows: u64) {
        let left = self.len() - self.at;
        self.at += usize::try_from(rows).unwrap_or(left).min(left);
    }

    /// Appends the next row as a RECORD; false if there is none.
    pub(crate) fn put_record(&mut self, out: &mut BytesMut) -> bool {
        if self.is_over() {
            return false;
        }
        chunk::put_message(out, |out| {
            out.put_slice(&[0xB1, Tag::RECORD.0]);
            self.put_row(self.at, out);
        });
        self.at += 1;
        true
    }

    fn put_row(&self, row: usize, out: &mut BytesMut) {
        encode::list_header(self.wanted.len(), out);
        for column in &self.wanted {
            match &self.source {
                Source::Table(rows) => match rows.get(row).and_then(|row| row.get(*column)) {
                    Some(value) => value.encode(out),
                    None => encode::null(out),
                },
                Source::Embeddings(embeddings) => embeddings.put(row, *column, out),
            }
        }
    }

    /// The statement that runs the rest of a query over these rows, and the parameter that it needs.
    pub(crate) fn continued(&self, names: &[&str], rest: &str) -> (String, (&'static str, BytesMut)) {
        (statement(names, rest), self.parameter(0..self.len()))
    }

    /// The parameter with the next rows, at most so many.
    pub(crate) fn next(&mut self, most: usize) -> (&'static str, BytesMut) {
        let from = self.at;
        self.skip(most as u64);
        self.parameter(from..self.at)
    }

    fn parameter(&self, rows: Range<usize>) -> (&'static str, BytesMut) {
        let mut list = BytesMut::new();
        encode::list_header(rows.len(), &mut list);
        rows.for_each(|row| self.put_row(row, &mut list));
        (PARAMETER, list)
    }

    /// About how many bytes a row has on its way.
    pub(crate) fn row_bytes(&self) -> usize {
        match &self.source {
            Source::Table(_) => 64,
            Source::Embeddings(embeddings) => {
                let wide = self.wanted.contains(&2);
                let text = if self.wanted.contains(&1) { 48 } else { 0 };
                16 + text + if wide { 9 * embeddings.matrix.columns() } else { 0 }
            }
        }
    }
}

/// The statement that runs the rest of a query over rows with columns of these names.
pub(crate) fn statement(names: &[&str], rest: &str) -> String {
    let columns: Vec<String> =
        names.iter().enumerate().map(|(at, name)| format!("__gnnRow[{at}] AS {}", escaped(name))).collect();
    format!("UNWIND ${PARAMETER} AS __gnnRow WITH {} {rest}", columns.join(", "))
}

impl Statement {
    /// The whole text: with `rest` behind it, or with these columns as its result.
    pub(crate) fn text(
        &self,
        all: &[Column],
        columns: &[(&'static Column, String)],
        rest: Option<&str>,
    ) -> String {
        let expression = |wanted: &Column| {
            let at = all.iter().position(|column| column.name == wanted.name);
            at.and_then(|at| self.expressions.get(at)).map_or("null", String::as_str)
        };
        let columns: Vec<String> = columns
            .iter()
            .map(|(column, name)| format!("{} AS {}", expression(column), escaped(name)))
            .collect();
        match rest {
            Some(rest) => format!("{} WITH {} {rest}", self.text, columns.join(", ")),
            None => format!("{} RETURN {}", self.text, columns.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::Value;

    use super::*;
    use crate::gnn::procedures;

    #[test]
    fn rows_go_into_one_parameter() {
        let procedure = procedures::find("gnn.graph.drop").unwrap();
        let mut rows = Rows::table(vec![vec!["g".into(), "neo4j".into()], vec!["h".into(), Value::Null]]);
        let columns = [(&procedure.columns[1], "d`b".to_owned()), (&procedure.columns[0], "name".to_owned())];
        rows.want(procedure.columns, &columns);
        let (text, (name, bytes)) = rows.continued(&["d`b", "name"], "RETURN name");
        assert_eq!(
            text,
            "UNWIND $__gnn AS __gnnRow WITH __gnnRow[0] AS `d``b`, __gnnRow[1] AS `name` RETURN name"
        );
        let expected = Value::List(vec![
            Value::List(vec!["neo4j".into(), "g".into()]),
            Value::List(vec![Value::Null, "h".into()]),
        ]);
        assert_eq!((name, Value::decode(&bytes).unwrap()), ("__gnn", expected));
        rows.skip(1);
        let mut out = BytesMut::new();
        assert!(rows.put_record(&mut out) && !rows.put_record(&mut out));
    }

    #[test]
    fn numbers_are_floats_or_a_vector() {
        let mut out = BytesMut::new();
        put_list(&[1.5, -0.25], &mut out);
        assert_eq!(Value::decode(&out).unwrap(), Value::List(vec![Value::Float(1.5), Value::Float(-0.25)]));
        out.clear();
        put_vector([1.5].into_iter(), &mut out);
        assert_eq!(out.as_ref(), [0xB2, 0x56, 0xCC, 1, 0xC6, 0xCC, 4, 0x3F, 0xC0, 0, 0]);
    }
}
