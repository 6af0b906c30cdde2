//! The same numbers as PyTorch Geometric: `tests/gnn/make_fixtures.py` made models, graphs and embeddings.

mod cases;

use cases::{FIXTURES, case, difference, folder};
use gnn::{Cancel, Csr, Limits, Matrix, Model, Orientation};
use std::fs;

#[test]
fn every_fixture_is_tested() {
    let mut found: Vec<String> = fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, FIXTURES);
}

#[test]
fn embeddings_are_pytorch_geometrics() {
    for name in FIXTURES {
        let case = case(name);
        let got = case.model.forward(&case.graph, &case.features, &Cancel::default()).unwrap();
        let most = difference(&got, &case.expected);
        println!("{name}: {most:e}");
        assert!(most <= 1e-5, "{name}: wrong by up to {most:e}");
    }
}

/// Alone, in a batch or with all others: to the bit, as long as no neighbour is left out.
#[test]
fn a_nodes_embedding_does_not_depend_on_the_others() {
    for name in FIXTURES {
        let case = case(name);
        let whole = case.model.forward(&case.graph, &case.features, &Cancel::default()).unwrap();
        let ask = |nodes: &[u32]| {
            let enough = vec![1000; case.model.info().layers];
            let by_all = case
                .model
                .forward_nodes(&case.graph, &case.features, nodes, &[], 7, &Cancel::default())
                .unwrap();
            let by_size = case
                .model
                .forward_nodes(&case.graph, &case.features, nodes, &enough, 8, &Cancel::default())
                .unwrap();
            assert_eq!(by_all, by_size, "{name}");
            by_all
        };
        let batch = ask(&[60, 3, 17, 17, 89, 60]);
        for (row, node) in [60, 3, 17, 17, 89, 60].into_iter().enumerate() {
            assert_eq!(batch.row(row), whole.row(node), "{name}, node {node} in a batch");
            assert_eq!(ask(&[node as u32]).row(0), whole.row(node), "{name}, node {node} alone");
        }
        assert_eq!(ask(&(0..90).collect::<Vec<u32>>()), whole, "{name}, all nodes");
        assert_eq!(ask(&[]).rows(), 0);
    }
}

#[test]
fn what_is_saved_computes_the_same() {
    let place = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        let case = case(name);
        let copy = place.path().join(name);
        // Twice: the second time there is something to replace.
        case.model.save(&copy).unwrap();
        case.model.save(&copy).unwrap();
        let again = Model::load(&copy, &Limits::default()).unwrap();
        assert_eq!(
            (again.name(), again.version(), again.info()),
            (name, case.model.version(), case.model.info())
        );
        let compute = |model: &Model| model.forward(&case.graph, &case.features, &Cancel::default()).unwrap();
        assert_eq!(compute(&again), compute(&case.model), "{name}");
    }
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), FIXTURES.len(), "something was left behind: {left:?}");
}

/// Rows of several models have something to say about sampling: other seeds draw other neighbours.
#[test]
fn samples_depend_on_the_seed_and_not_on_the_batch() {
    for name in ["sage_mean", "sage_sum", "gcn", "gat", "gatv2_edges_jk", "sage_narrow"] {
        let case = case(name);
        let fan_out = vec![2; case.model.info().layers];
        let ask = |nodes: &[u32], seed| {
            case.model
                .forward_nodes(&case.graph, &case.features, nodes, &fan_out, seed, &Cancel::default())
                .unwrap()
        };
        let nodes: Vec<u32> = (30..60).collect();
        let together = ask(&nodes, 1);
        assert_eq!(together, ask(&nodes, 1), "{name}");
        assert_ne!(together, ask(&nodes, 2), "{name}");
        for (row, node) in nodes.iter().enumerate() {
            assert_eq!(ask(&[*node], 1).row(0), together.row(row), "{name}, node {node}");
        }
    }
}

#[test]
fn gcn_says_which_weights_it_cannot_divide_by() {
    let case = case("gcn");
    let error = |weights: &[f32]| {
        let graph = Csr::from_edges(90, &[0, 1], &[1, 2], Some(weights), Orientation::Natural).unwrap();
        let cancel = Cancel::default();
        let whole = case.model.forward(&graph, &case.features, &cancel).map(|_| ());
        assert_eq!(
            whole,
            case.model.forward_nodes(&graph, &case.features, &[1], &[], 0, &cancel).map(|_| ())
        );
        whole
    };
    assert_eq!(error(&[0.0, 2.0]), Ok(()));
    let message = error(&[0.5, -0.5]).unwrap_err().to_string();
    assert!(message.starts_with("`relationshipWeights`: ") && message.contains("below 0"), "{message}");
    let edges = Matrix::zeros(2, 3);
    let graph = Csr::from_featured_edges(90, &[0, 1], &[1, 2], &edges, Orientation::Natural).unwrap();
    let wide = case.model.forward(&graph, &case.features, &Cancel::default()).unwrap_err().to_string();
    assert!(wide.contains("one number an edge"), "{wide}");
}
