//! The fixtures that tests/gnn/make_fixtures.py makes.

use gnn::{Csr, Limits, Matrix, Model, Orientation};
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};

/// The models that have to be there: a fixture that is lost is noticed.
pub(crate) const FIXTURES: [&str; 17] = [
    "gat",
    "gat_edges",
    "gat_residual",
    "gatv2",
    "gatv2_edges_jk",
    "gcn",
    "gcn_weighted",
    "sage_elu_no_out",
    "sage_jk_cat_batch_norm",
    "sage_jk_last_node_norm",
    "sage_jk_max_layer_norm",
    "sage_max",
    "sage_mean",
    "sage_narrow",
    "sage_normalize",
    "sage_project",
    "sage_sum",
];

pub(crate) struct Case {
    pub(crate) model: Model,
    pub(crate) graph: Csr,
    pub(crate) features: Matrix,
    pub(crate) expected: Matrix,
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn matrix(file: &SafeTensors, name: &str) -> Matrix {
    let view = file.tensor(name).unwrap();
    let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Matrix::new(view.shape()[0], view.shape()[1], values).unwrap()
}

pub(crate) fn case(name: &str) -> Case {
    let bytes = fs::read(folder(name).join("case.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let features = matrix(&file, "x");
    let edges = file.tensor("edge_index").unwrap();
    let ids: Vec<u32> =
        edges.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect();
    let (sources, targets) = ids.split_at(edges.shape()[1]);
    let graph = if file.names().contains(&"edge_attr") {
        Csr::from_featured_edges(
            features.rows(),
            sources,
            targets,
            &matrix(&file, "edge_attr"),
            Orientation::Natural,
        )
    } else {
        Csr::from_edges(features.rows(), sources, targets, None, Orientation::Natural)
    };
    let model = Model::load(&folder(name), &Limits::default()).unwrap();
    Case { model, graph: graph.unwrap(), features, expected: matrix(&file, "y") }
}

pub(crate) fn difference(a: &Matrix, b: &Matrix) -> f32 {
    assert_eq!((a.rows(), a.columns()), (b.rows(), b.columns()));
    a.values()
        .iter()
        .zip(b.values())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, one| if one > most || one.is_nan() { one } else { most })
}
