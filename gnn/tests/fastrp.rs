//! FastRP as its paper and Graph Data Science define it: by its properties and by a slow second writing.

use gnn::{Cancel, Csr, Error, FastRp, Matrix, Orientation};

fn ring_of_cliques(cliques: u32, size: u32) -> Csr {
    let mut edges = Vec::new();
    for clique in 0..cliques {
        let first = clique * size;
        for a in 0..size {
            edges.extend((a + 1..size).map(|b| (first + a, first + b)));
        }
        edges.push((first, (first + size) % (cliques * size)));
    }
    let (sources, targets): (Vec<u32>, Vec<u32>) = edges.into_iter().unzip();
    Csr::from_edges((cliques * size) as usize, &sources, &targets, None, Orientation::Undirected).unwrap()
}

fn run(fast_rp: &FastRp, graph: &Csr) -> Matrix {
    fast_rp.run(graph, None, &Cancel::default()).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn neighbours_are_alike_and_strangers_are_not() {
    let graph = ring_of_cliques(20, 10);
    let embeddings = run(&FastRp { seed: 7, ..Default::default() }, &graph);
    let (mut inside, mut across) = (Vec::new(), Vec::new());
    for a in 0..200 {
        for b in a + 1..200 {
            let pair = cosine(embeddings.row(a), embeddings.row(b));
            if a / 10 == b / 10 { inside.push(pair) } else { across.push(pair) }
        }
    }
    let mean = |all: &[f32]| all.iter().sum::<f32>() / all.len() as f32;
    assert!(mean(&inside) > 0.9, "{}", mean(&inside));
    assert!(mean(&across).abs() < 0.15, "{}", mean(&across));
}

#[test]
fn a_hop_is_the_mean_of_the_neighbours_made_a_unit() {
    let graph = Csr::from_edges(4, &[0, 1, 2, 2], &[3, 3, 3, 0], None, Orientation::Natural).unwrap();
    // What the nodes begin with: it comes out alone if only it counts.
    let own = FastRp {
        iteration_weights: vec![0.0],
        node_self_influence: 1.0,
        embedding_dimension: 256,
        ..Default::default()
    };
    let first = run(&own, &graph);
    for node in 0..4 {
        assert!((dot(first.row(node), first.row(node)) - 1.0).abs() < 1e-5);
        let kinds = first
            .row(node)
            .iter()
            .map(|value| value.abs().to_bits())
            .collect::<std::collections::BTreeSet<_>>();
        assert_eq!(kinds.len(), 2, "zeros and one size of entries");
        let share = first.row(node).iter().filter(|value| **value != 0.0).count() as f32 / 256.0;
        assert!((0.2..0.47).contains(&share), "a third has entries, not {share}");
    }
    let hop =
        run(&FastRp { iteration_weights: vec![1.0], embedding_dimension: 256, ..Default::default() }, &graph);
    assert!(hop.row(1).iter().chain(hop.row(2)).all(|value| *value == 0.0), "nobody is heard there");
    assert!((cosine(hop.row(0), first.row(2)) - 1.0).abs() < 1e-5);
    // Entries have one size, so that units and first vectors differ by the number of entries only.
    let entries = |node: usize| first.row(node).iter().filter(|value| **value != 0.0).count() as f32;
    let sum: Vec<f32> =
        (0..256).map(|at| (0..3).map(|node| first.row(node)[at] * entries(node).sqrt()).sum()).collect();
    assert!((cosine(hop.row(3), &sum) - 1.0).abs() < 1e-5);
    assert!((dot(hop.row(3), hop.row(3)) - 1.0).abs() < 1e-5);
    let two = run(
        &FastRp { iteration_weights: vec![1.0, 0.5], embedding_dimension: 256, ..Default::default() },
        &graph,
    );
    // Node 3 hears node 0, which hears node 2: half a unit of that is added.
    for at in 0..256 {
        assert!((two.row(3)[at] - hop.row(3)[at] - 0.5 * first.row(2)[at]).abs() < 1e-5);
    }
}

#[test]
fn features_fill_their_share() {
    let graph = ring_of_cliques(4, 5);
    let features = Matrix::new(20, 2, (0..40).map(|at| at as f32 / 7.0 - 2.0).collect()).unwrap();
    let fast_rp = FastRp {
        property_ratio: 0.5,
        embedding_dimension: 64,
        iteration_weights: vec![1.0],
        ..Default::default()
    };
    let with = fast_rp.run(&graph, Some(&features), &Cancel::default()).unwrap();
    let mut doubled = features.clone();
    doubled.values_mut().iter_mut().for_each(|value| *value *= -3.0);
    let other = fast_rp.run(&graph, Some(&doubled), &Cancel::default()).unwrap();
    for node in 0..20 {
        let (a, b) = (&with.row(node)[32..], &other.row(node)[32..]);
        assert!(a.iter().any(|value| *value != 0.0));
        assert_ne!(a, b);
        // Rows of features become rows of the same directions.
        assert!((cosine(&with.row(node)[..32], &other.row(node)[..32]) - 1.0).abs() < 1e-4);
    }
}

#[test]
fn weights_count_and_strength_does() {
    let edges = (&[0u32, 1][..], &[2u32, 2][..]);
    let graph = |weights: Option<&[f32]>| {
        Csr::from_edges(3, edges.0, edges.1, weights, Orientation::Natural).unwrap()
    };
    let one = FastRp { iteration_weights: vec![1.0], ..Default::default() };
    let plain = run(&one, &graph(None));
    assert_eq!(plain, run(&one, &graph(Some(&[1.0, 1.0]))));
    assert_ne!(plain, run(&one, &graph(Some(&[5.0, 1.0]))));
    // Nodes 0 and 1 hear nobody, so a strength does not scale them; in a clique all are scaled alike.
    let clique = ring_of_cliques(1, 4);
    let strong = FastRp { normalization_strength: -0.5, ..Default::default() };
    let (a, b) = (run(&FastRp::default(), &clique), run(&strong, &clique));
    for node in 1..4 {
        assert!(cosine(a.row(node), b.row(node)) > 0.9);
    }
    assert_ne!(a, b);
}

#[test]
fn the_seed_decides_and_not_the_threads() {
    let graph = ring_of_cliques(100, 12);
    let with = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&FastRp { seed, ..Default::default() }, &graph))
    };
    let one = with(1, 5);
    assert_eq!(one, with(4, 5));
    assert_ne!(one, with(1, 6));
}

#[test]
fn what_cannot_be_used_is_named() {
    let graph = ring_of_cliques(2, 3);
    let error = |fast_rp: FastRp| fast_rp.run(&graph, None, &Cancel::default()).unwrap_err().to_string();
    let default = FastRp::default;
    assert_eq!(
        error(FastRp { embedding_dimension: 0, ..default() }),
        "`embeddingDimension`: is 0, but has to be from 1 to 16384"
    );
    assert!(error(FastRp { iteration_weights: vec![], ..default() }).starts_with("`iterationWeights`: "));
    assert!(
        error(FastRp { iteration_weights: vec![0.0, 0.0], ..default() }).starts_with("`iterationWeights`: ")
    );
    assert!(error(FastRp { property_ratio: 1.5, ..default() }).starts_with("`propertyRatio`: "));
    assert!(error(FastRp { property_ratio: 0.5, ..default() }).starts_with("`featureProperties`: "));
    assert!(
        error(FastRp { normalization_strength: f32::NAN, ..default() })
            .starts_with("`normalizationStrength`: ")
    );
    let features = Matrix::new(6, 1, vec![0.0, 1.0, f32::NAN, 0.0, 0.0, 0.0]).unwrap();
    let poisoned = default().run(&graph, Some(&features), &Cancel::default()).unwrap_err().to_string();
    assert_eq!(poisoned, "`featureProperties`: row 2, column 0 is NaN: only finite numbers can be used");
    let cancel = Cancel::with_deadline(std::time::Instant::now());
    assert_eq!(default().run(&graph, None, &cancel), Err(Error::Cancelled));
}
