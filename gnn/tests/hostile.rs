//! Files that are broken or meant to harm, and arguments that do not fit: an error that names what is wrong, no
//! panic, and nothing loaded half-way.

use gnn::{Aggr, Cancel, Config, Csr, Error, Limits, Matrix, Model, Orientation};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::Path;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A sound model: 3 → 4 → 2.
fn sound() -> Tensors {
    let mut tensors = Vec::new();
    for (layer, (inputs, outputs)) in [(3, 4), (4, 2)].into_iter().enumerate() {
        tensors.push((
            format!("convs.{layer}.lin_l.weight"),
            vec![outputs, inputs],
            vec![0.5; outputs * inputs],
        ));
        tensors.push((format!("convs.{layer}.lin_l.bias"), vec![outputs], vec![0.1; outputs]));
        tensors.push((
            format!("convs.{layer}.lin_r.weight"),
            vec![outputs, inputs],
            vec![-0.5; outputs * inputs],
        ));
    }
    tensors
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn config() -> Config {
    Config::graph_sage(3, 4, 2, 2, Aggr::Mean)
}

fn load(file: Vec<u8>) -> Result<Model, Error> {
    Model::from_parts("m", config(), file)
}

fn error(file: Vec<u8>) -> String {
    load(file).unwrap_err().to_string()
}

/// A file with this header, and so many bytes after it.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(vec![0; data]);
    file
}

#[test]
fn the_sound_model_loads() {
    let model = load(file(&sound())).unwrap();
    assert_eq!(model.info().parameters, 12 + 4 + 12 + 8 + 2 + 8);
    assert_eq!(model.version().len(), 32);
}

#[test]
fn every_way_of_cutting_a_file_off_is_noticed() {
    let whole = file(&sound());
    for length in 0..whole.len() {
        let message = error(whole[..length].to_vec());
        assert!(message.starts_with("model.safetensors"), "{length}: {message}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(load(longer).is_err());
}

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |shape: &str, from: u64, to: u64| {
        format!(
            r#"{{"convs.0.lin_l.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#
        )
    };
    let cases = [
        ("a length beyond the file", {
            let mut file = u64::MAX.to_le_bytes().to_vec();
            file.extend([b'{'; 40]);
            file
        }),
        ("a length of 2^40", {
            let mut file = (1u64 << 40).to_le_bytes().to_vec();
            file.extend([b'{'; 40]);
            file
        }),
        ("no JSON", with_header("{\"a", 8)),
        ("a list", with_header("[1,2]", 0)),
        ("more data than there is", with_header(&tensor("[4,3]", 0, 48), 8)),
        ("a shape that does not fit the data", with_header(&tensor("[4,3]", 0, 8), 8)),
        ("a shape whose size overflows", with_header(&tensor("[4294967296,4294967296,4294967296]", 0, 8), 8)),
        ("an end before the beginning", with_header(&tensor("[4,3]", 48, 0), 48)),
        ("a negative shape", with_header(&tensor("[-4,3]", 0, 48), 48)),
        ("a gap before the data", with_header(&tensor("[4,3]", 8, 56), 56)),
        (
            "data that overlap",
            with_header(
                r#"{"convs.0.a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"convs.0.b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        ("a type that there is not", with_header(&tensor("[4,3]", 0, 48).replace("F32", "F31"), 48)),
        ("deep nesting", with_header(&"[".repeat(100_000), 0)),
    ];
    for (what, file) in cases {
        let message = error(file);
        assert!(message.starts_with("model.safetensors"), "{what}: {message}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = sound();
        change(&mut tensors);
        error(file(&tensors))
    };
    let message = changed(&|tensors| drop(tensors.remove(3)));
    assert_eq!(
        message,
        "model.safetensors, tensor `convs.1.lin_l.weight`: is missing: config.json says graphsage of 2 layers, 3 → 4 → 2"
    );
    let message =
        changed(&|tensors| tensors[0] = ("convs.0.lin_l.weight".to_owned(), vec![4, 5], vec![0.0; 20]));
    assert!(
        message.contains("`convs.0.lin_l.weight`: has the shape [4, 5]")
            && message.contains("asks for [4, 3]"),
        "{message}"
    );
    let message = changed(&|tensors| tensors.push(("convs.2.lin_l.weight".to_owned(), vec![1], vec![0.0])));
    assert!(message.contains("`convs.2.lin_l.weight`: of the shape [1] has no place"), "{message}");
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let message = changed(&|tensors| tensors[4].2[1] = poison);
        assert!(
            message.contains("`convs.1.lin_l.bias`: holds") && message.contains("at position 1"),
            "{message}"
        );
    }
    let message = changed(&|tensors| {
        tensors.iter_mut().for_each(|(name, _, _)| *name = name.replace("convs", "layers"))
    });
    assert!(message.contains("`convs.0.…`: is missing") && message.contains("layers."), "{message}");
    assert!(error(file(&Tensors::new())).contains("no tensor at all"));
}

#[test]
fn prefixes_of_wrapped_models_are_understood() {
    let plain = load(file(&sound())).unwrap();
    for prefix in ["model.", "module.", "encoder."] {
        let tensors = sound()
            .into_iter()
            .map(|(name, shape, values)| (format!("{prefix}{name}"), shape, values))
            .collect();
        assert_eq!(load(file(&tensors)).unwrap().info().parameters, plain.info().parameters);
    }
    let by_hand = |name: String| name.replace("convs.0.", "conv1.").replace("convs.1.", "conv2.");
    let tensors = sound().into_iter().map(|(name, shape, values)| (by_hand(name), shape, values)).collect();
    assert!(load(file(&tensors)).is_ok());
}

#[test]
fn pickles_are_refused_with_what_to_do_instead() {
    for pickle in [&b"PK\x03\x04data.pkl"[..], b"\x80\x02}q\x00.", b"\x80\x05\x95"] {
        let mut file = pickle.to_vec();
        file.extend([0; 64]);
        let message = error(file);
        assert!(message.contains("can run code") && message.contains("save_file"), "{message}");
    }
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("config.json"), serde_json::to_string(&config()).unwrap()).unwrap();
    fs::write(place.path().join("model.pt"), b"PK\x03\x04").unwrap();
    let message = Model::load(place.path(), &Limits::default()).unwrap_err().to_string();
    assert!(message.contains("model.pt: is a PyTorch pickle") && message.contains("save_file"), "{message}");
}

fn folder(place: &Path, config: &str) -> Result<Model, Error> {
    fs::write(place.join("config.json"), config).unwrap();
    fs::write(place.join("model.safetensors"), file(&sound())).unwrap();
    Model::load(place, &Limits::default())
}

#[test]
fn configurations_that_do_not_fit_are_named() {
    let place = tempfile::tempdir().unwrap();
    let config = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::json!({"model_type": "graphsage", "in_channels": 3, "hidden_channels": 4, "num_layers": 2, "out_channels": 2});
        change(&mut value);
        folder(place.path(), &value.to_string())
    };
    assert!(config(&|_| {}).is_ok());
    let message = |key: &str, value: serde_json::Value| {
        config(&|all| all[key] = value.clone()).unwrap_err().to_string()
    };
    assert!(message("aggregator", "mean".into()).starts_with("config.json, key `aggregator`: unknown field"));
    assert!(message("model_type", "gin".into()).contains("unknown variant `gin`"));
    assert_eq!(
        message("in_channels", 0.into()),
        "config.json, key `in_channels`: is 0, but has to be from 1 to 16384"
    );
    assert!(message("hidden_channels", 1_000_000_000.into()).contains("from 1 to 16384"));
    assert!(message("num_layers", 100_000.into()).contains("from 1 to 64"));
    assert!(message("num_layers", 3.into()).contains("`convs.1.lin_l.weight`: has the shape [2, 4]"));
    assert!(message("in_channels", 5.into()).contains("asks for [4, 5]"));
    assert!(message("heads", 2.into()).contains("key `heads`: is for gat and gatv2 only"));
    assert!(message("norm", "batch_norm".into()).contains("norms.0.module.weight`: is missing"));
    assert!(message("jk", "cat".into()).contains("convs.1.lin_l.weight"));
    assert!(message("norm_eps", 0.0.into()).contains("`norm_eps`: is 0"));
    let missing =
        config(&|all| drop(all.as_object_mut().unwrap().remove("in_channels"))).unwrap_err().to_string();
    assert!(missing.starts_with("config.json, key `in_channels`: missing field"), "{missing}");
    assert!(folder(place.path(), "{").is_err());
    assert!(folder(place.path(), &"[".repeat(100_000)).is_err());
    let none = Model::load(&place.path().join("nowhere"), &Limits::default()).unwrap_err().to_string();
    assert!(none.contains("nowhere/config.json: cannot be read: "), "{none}");
    let small = Limits { max_bytes: 10, ..Limits::default() };
    assert!(config(&|_| {}).is_ok());
    let large = Model::load(place.path(), &small).unwrap_err().to_string();
    assert!(large.contains("model.safetensors: has more than the 10 bytes"), "{large}");
}

#[test]
fn graphs_and_features_that_do_not_fit_are_named() {
    let model = load(file(&sound())).unwrap();
    let graph = Csr::from_edges(2, &[0], &[1], None, Orientation::Natural).unwrap();
    let forward =
        |features: &Matrix| model.forward(&graph, features, &Cancel::default()).unwrap_err().to_string();
    assert_eq!(forward(&Matrix::zeros(2, 4)), "`features`: have 4 numbers a node, but model `m` reads 3");
    assert_eq!(forward(&Matrix::zeros(3, 3)), "`features`: 3 rows for 2 nodes: one for each is needed");
    let mut poisoned = Matrix::zeros(2, 3);
    poisoned.row_mut(1)[2] = f32::NAN;
    assert_eq!(forward(&poisoned), "`features`: row 1, column 2 is NaN: only finite numbers can be used");
    let nodes = |nodes: &[u32], fan_out: &[usize], features: &Matrix| {
        model.forward_nodes(&graph, features, nodes, fan_out, 0, &Cancel::default()).unwrap_err().to_string()
    };
    assert_eq!(nodes(&[0, 2], &[], &Matrix::zeros(2, 3)), "`nodes`: node 2 does not exist: the graph has 2");
    assert!(
        nodes(&[0], &[5], &Matrix::zeros(2, 3))
            .starts_with("`sampleSizes`: has 1 numbers, but the model has 2 layers")
    );
    assert!(nodes(&[1], &[5, 5], &poisoned).contains("is NaN"));
    // Far away from the node that is asked for, too.
    let wide = Csr::from_edges(1000, &[0], &[1], None, Orientation::Natural).unwrap();
    let mut features = Matrix::zeros(1000, 3);
    assert!(model.forward_nodes(&wide, &features, &[1], &[], 0, &Cancel::default()).is_ok());
    features.row_mut(900)[0] = f32::NEG_INFINITY;
    let message =
        model.forward_nodes(&wide, &features, &[1], &[], 0, &Cancel::default()).unwrap_err().to_string();
    assert!(message.contains("row 900, column 0 is -inf"), "{message}");
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(model.forward(&graph, &Matrix::zeros(2, 3), &cancel), Err(Error::Cancelled));
    assert_eq!(
        model.forward_nodes(&graph, &Matrix::zeros(2, 3), &[0], &[5, 5], 0, &cancel),
        Err(Error::Cancelled)
    );
    assert!(Matrix::new(2, 3, vec![0.0; 5]).unwrap_err().to_string().contains("need 6 values, got 5"));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = tempfile::tempdir().unwrap();
    let blocked = place.path().join("file");
    fs::write(&blocked, b"").unwrap();
    let message = load(file(&sound())).unwrap().save(&blocked.join("model")).unwrap_err().to_string();
    assert!(message.contains("cannot be written"), "{message}");
    assert!(load(file(&sound())).unwrap().save(Path::new("/")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes are changed: an error or a model, never a panic.
    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = file(&sound());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = load(bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(load(bytes).is_err());
    }

    #[test]
    fn any_configuration_never_panics(text in "\\{\"(model_type|heads|in_channels|act|norm)\":[a-z0-9\"{\\[-]{0,12}\\}?") {
        prop_assert!(Config::parse(&text, &Limits::default()).is_err());
    }

    /// Each node gets what the definition says: the mean of its neighbours and its own row, times the weights.
    #[test]
    fn any_graph_is_computed_as_defined(nodes in 1usize..40, ends in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..200), seed in any::<u32>()) {
        let (sources, targets): (Vec<u32>, Vec<u32>) = ends.iter().map(|(a, b)| (a % nodes as u32, b % nodes as u32)).unzip();
        let graph = Csr::from_edges(nodes, &sources, &targets, None, Orientation::Natural).unwrap();
        let values = (0..nodes * 3).map(|at| ((at as u32).wrapping_mul(2_654_435_761) ^ seed) as f32 / u32::MAX as f32);
        let features = Matrix::new(nodes, 3, values.collect()).unwrap();
        let model = Model::from_parts("m", Config::graph_sage(3, 4, 4, 1, Aggr::Mean), file(&sound()[..3].to_vec())).unwrap();
        let got = model.forward(&graph, &features, &Cancel::default()).unwrap();
        for node in 0..nodes {
            let heard: Vec<usize> = (0..sources.len()).filter(|edge| targets[*edge] as usize == node).map(|edge| sources[edge] as usize).collect();
            let mean: f32 = heard.iter().map(|source| features.row(*source).iter().sum::<f32>()).sum::<f32>() / heard.len().max(1) as f32;
            let expected = 0.1 + 0.5 * mean - 0.5 * features.row(node).iter().sum::<f32>();
            prop_assert!(got.row(node).iter().all(|value| (value - expected).abs() < 1e-4));
        }
    }
}
