//! Training learns, from features that say nothing by themselves; and always the same.

use gnn::{Aggr, Cancel, Csr, Epoch, Error, Limits, Matrix, Model, Orientation, Training};

/// Communities with many edges inside and few between them; some edges are held back.
struct Planted {
    graph: Csr,
    features: Matrix,
    held_back: Vec<(u32, u32)>,
    strangers: Vec<(u32, u32)>,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }
}

const NODES: u32 = 400;
const COMMUNITIES: u32 = 8;

fn planted() -> Planted {
    let mut random = Random(42);
    let mut edges = Vec::new();
    while edges.len() < 3000 {
        let (a, b) = (random.below(NODES.into()), random.below(NODES.into()));
        let inside = a % COMMUNITIES == b % COMMUNITIES;
        if a != b && (inside || random.below(200) == 0) {
            edges.push((a, b));
        }
    }
    let held_back = edges.split_off(2600);
    let mut strangers = Vec::new();
    while strangers.len() < held_back.len() {
        let (a, b) = (random.below(NODES.into()), random.below(NODES.into()));
        if a != b && !edges.contains(&(a, b)) && !edges.contains(&(b, a)) && !held_back.contains(&(a, b)) {
            strangers.push((a, b));
        }
    }
    let (sources, targets): (Vec<u32>, Vec<u32>) = edges.into_iter().unzip();
    let graph = Csr::from_edges(NODES as usize, &sources, &targets, None, Orientation::Undirected).unwrap();
    let values = (0..NODES * 16).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect();
    Planted { graph, features: Matrix::new(NODES as usize, 16, values).unwrap(), held_back, strangers }
}

/// How often an edge that was held back scores above a pair of strangers.
fn auc(embeddings: &Matrix, planted: &Planted) -> f64 {
    let cosine = |(a, b): &(u32, u32)| {
        let (a, b) = (embeddings.row(*a as usize), embeddings.row(*b as usize));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-12)
    };
    let edges: Vec<f32> = planted.held_back.iter().map(cosine).collect();
    let strangers: Vec<f32> = planted.strangers.iter().map(cosine).collect();
    let above = edges
        .iter()
        .flat_map(|edge| strangers.iter().map(move |stranger| (edge > stranger) as u32))
        .sum::<u32>();
    f64::from(above) / (edges.len() * strangers.len()) as f64
}

fn training(aggregator: Aggr) -> Training {
    Training {
        aggregator,
        embedding_dimension: 32,
        hidden_dimension: 32,
        sample_sizes: vec![10, 10],
        epochs: 12,
        max_iterations: 12,
        seed: 3,
        ..Default::default()
    }
}

fn train(training: &Training, planted: &Planted) -> (Model, Vec<Epoch>) {
    let mut epochs = Vec::new();
    let model = training
        .run(&planted.graph, &planted.features, &Cancel::default(), |epoch| epochs.push(epoch))
        .unwrap();
    (model, epochs)
}

#[test]
fn links_are_predicted_from_random_features() {
    let planted = planted();
    for aggregator in [Aggr::Mean, Aggr::Sum, Aggr::Max] {
        let (model, epochs) = train(&training(aggregator), &planted);
        let embeddings = model.forward(&planted.graph, &planted.features, &Cancel::default()).unwrap();
        for row in 0..embeddings.rows() {
            let length = embeddings.row(row).iter().map(|number| number * number).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-4, "{aggregator}: row {row} is {length} long");
        }
        let (auc, raw) = (auc(&embeddings, &planted), auc(&planted.features, &planted));
        let (first, last) = (epochs[0].loss, epochs[epochs.len() - 1].loss);
        println!(
            "{aggregator}: AUC {auc:.3} (features alone {raw:.3}), loss {first:.3} → {last:.3} in {} epochs",
            epochs.len()
        );
        assert!(last < 0.9 * first, "{aggregator}: the loss goes from {first} to {last}");
        let least = if aggregator == Aggr::Mean { 0.85 } else { 0.75 };
        assert!(auc > least && raw < 0.6, "{aggregator}: {auc}, features alone {raw}");
    }
}

#[test]
fn the_same_seed_gives_the_same_model_with_any_number_of_threads() {
    let planted = planted();
    let training = Training { epochs: 2, ..training(Aggr::Mean) };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&training, &planted))
    };
    let ((one, epochs), (three, again)) = (with(1), with(3));
    assert_eq!((one.version(), epochs), (three.version(), again));
    let other = train(&Training { seed: 4, ..training.clone() }, &planted).0;
    assert_ne!(one.version(), other.version());
}

#[test]
fn a_trained_model_is_saved_and_loaded() {
    let planted = planted();
    let training = Training {
        epochs: 1,
        name: "papers".to_owned(),
        feature_properties: vec!["year".to_owned()],
        ..training(Aggr::Max)
    };
    let (model, _) = train(&training, &planted);
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("models/papers");
    model.save(&folder).unwrap();
    let again = Model::load(&folder, &Limits::default()).unwrap();
    assert_eq!(again.info(), model.info());
    assert_eq!((again.name(), again.info().feature_properties), ("papers", vec!["year".to_owned()]));
    let compute =
        |model: &Model| model.forward(&planted.graph, &planted.features, &Cancel::default()).unwrap();
    assert_eq!(compute(&again), compute(&model));
}

#[test]
fn training_ends_early_and_when_it_is_told_to() {
    let planted = planted();
    // No loss falls by that much.
    let (_, epochs) = train(&Training { tolerance: 1e9, patience: 2, ..training(Aggr::Mean) }, &planted);
    assert_eq!(epochs.len(), 3);
    let cancel = Cancel::default();
    let mut seen = 0;
    let result = training(Aggr::Mean).run(&planted.graph, &planted.features, &cancel, |_| {
        seen += 1;
        cancel.cancel();
    });
    assert_eq!((result.unwrap_err(), seen), (Error::Cancelled, 1));
}

#[test]
fn what_cannot_be_trained_is_named() {
    let planted = planted();
    let error = |training: Training| {
        let result = training.run(&planted.graph, &planted.features, &Cancel::default(), |_| {});
        result.unwrap_err().to_string()
    };
    assert_eq!(
        error(Training { epochs: 0, ..Default::default() }),
        "`epochs`: is 0, but has to be from 1 to 1048576"
    );
    assert!(error(Training { sample_sizes: vec![], ..Default::default() }).starts_with("`sampleSizes`: "));
    assert!(
        error(Training { learning_rate: f64::NAN, ..Default::default() }).starts_with("`learningRate`: ")
    );
    let lonely = Csr::from_edges(NODES as usize, &[], &[], None, Orientation::Natural).unwrap();
    let error = |graph: &Csr, features: &Matrix| {
        Training::default().run(graph, features, &Cancel::default(), |_| {}).unwrap_err().to_string()
    };
    assert!(error(&lonely, &planted.features).contains("no relationships"));
    assert!(error(&planted.graph, &Matrix::zeros(3, 4)).contains("3 rows for 400 nodes"));
    let mut poisoned = planted.features.clone();
    poisoned.row_mut(7)[2] = f32::INFINITY;
    assert!(error(&planted.graph, &poisoned).contains("row 7, column 2 is inf"));
}
