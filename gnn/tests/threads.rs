//! The numbers do not depend on how many threads compute them, nor a large graph's on its blocks.

use gnn::{Aggr, Cancel, Config, Csr, Matrix, Model, Orientation, nearest};
use safetensors::tensor::{Dtype, TensorView};

const NODES: usize = 5000;

fn numbers(count: usize, salt: u32) -> Vec<f32> {
    let number = |at: usize| {
        ((at as u32).wrapping_mul(2_654_435_761) ^ salt).wrapping_mul(0x9e37_79b1) as f32 / u32::MAX as f32
            - 0.5
    };
    (0..count).map(number).collect()
}

fn setup(aggr: Aggr) -> (Model, Csr, Matrix) {
    let config = Config::graph_sage(33, 40, 50, 2, aggr);
    let mut tensors = Vec::new();
    for (layer, (inputs, outputs)) in [(33, 40), (40, 50)].into_iter().enumerate() {
        for (part, (name, shape)) in [
            ("lin_l.weight", vec![outputs, inputs]),
            ("lin_l.bias", vec![outputs]),
            ("lin_r.weight", vec![outputs, inputs]),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes: Vec<u8> = numbers(shape.iter().product(), (layer * 3 + part) as u32)
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            tensors.push((format!("convs.{layer}.{name}"), shape, bytes));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let model = Model::from_parts("threads", config, safetensors::serialize(views, None).unwrap()).unwrap();
    let ends = |salt| {
        numbers(30_000, salt)
            .into_iter()
            .map(|value| ((value + 0.5) * (NODES - 1) as f32) as u32)
            .collect::<Vec<_>>()
    };
    let graph = Csr::from_edges(NODES, &ends(100), &ends(200), None, Orientation::Natural).unwrap();
    (model, graph, Matrix::new(NODES, 33, numbers(NODES * 33, 300)).unwrap())
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for aggr in [Aggr::Mean, Aggr::Sum, Aggr::Max] {
        let (model, graph, features) = setup(aggr);
        let cancel = Cancel::default();
        let compute = || {
            let whole = model.forward(&graph, &features, &cancel).unwrap();
            let some = model
                .forward_nodes(&graph, &features, &(0..900).collect::<Vec<_>>(), &[4, 3], 9, &cancel)
                .unwrap();
            let near = nearest(&whole, whole.row(17), 20, &cancel).unwrap();
            (whole, some, near)
        };
        let with = |threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(compute)
        };
        let one = with(1);
        assert_eq!(one, with(2));
        assert_eq!(one, with(7));
        assert_eq!(one, compute());
        assert_eq!(one.2[0].0, 17, "a row is nearest to itself");
        let exact = model.forward_nodes(&graph, &features, &[3, 4999, 1234], &[], 0, &cancel).unwrap();
        for (row, node) in [3, 4999, 1234].into_iter().enumerate() {
            assert_eq!(exact.row(row), one.0.row(node), "{aggr}, node {node}");
        }
    }
}

#[test]
fn a_deadline_ends_a_large_computation() {
    let (model, graph, features) = setup(Aggr::Mean);
    let cancel = Cancel::with_deadline(std::time::Instant::now());
    assert_eq!(model.forward(&graph, &features, &cancel), Err(gnn::Error::Cancelled));
    let shared = Cancel::default();
    let other = shared.clone();
    other.cancel();
    assert!(shared.is_cancelled());
}
