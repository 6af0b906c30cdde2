//! Models: loaded from a folder, followed, asked for by nodes, learnt.

use std::path::{Path, PathBuf};

use bolt_wire::packstream::Value;

use super::*;
use crate::support::wait::{PATIENCE, within_async};

/// The model of a fixture that has 12 features and embeddings of 20 numbers, under another name; `features`: the property that it reads.
fn put_model(folder: &Path, name: &str, fixture: &str, features: &str) {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("gnn/tests/fixtures").join(fixture);
    let own = folder.join(format!(".{name}"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(source.join("model.safetensors"), own.join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    std::fs::write(own.join("config.json"), config.replace("\"features\"", &format!("\"{features}\"")))
        .unwrap();
    let _ = std::fs::remove_dir_all(folder.join(name));
    std::fs::rename(own, folder.join(name)).unwrap();
}

async fn world(server: Neo4j, label: &str, nodes: usize, folder: &Path) -> World {
    let folder = folder.to_owned();
    let world = World::start_with(server, label, nodes, |config| config.gnn.models = Some(folder)).await;
    let wide = "SET n.wide = [i IN range(1, 12) | toFloat((n.at * i) % 7) - 3]";
    world.server.admin(&world.text(&format!("MATCH (n:LABEL) {wide}"))).await;
    world
}

/// The same with the model `sage`, which is loaded.
pub(super) async fn world_of_sage(server: Neo4j, label: &str, nodes: usize, folder: &Path) -> World {
    put_model(folder, "sage", "sage_mean", "wide");
    let world = world(server, label, nodes, folder).await;
    let sidebolt = &world.sidebolt;
    within_async(PATIENCE, "Sidebolt is ready", || async { sidebolt.get("/readyz").await.0 == 200 }).await;
    world
}

async fn versions(client: &mut Client, name: &str) -> Vec<String> {
    let text = format!("CALL gnn.model.list('{name}') YIELD version, loaded");
    let rows = client.query(&text).await.unwrap();
    let loaded = rows.iter().filter(|row| row[1] == Value::Boolean(true));
    loaded.map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_gives_the_same_for_all_nodes_and_for_some() {
    for server in Neo4j::all("a_model_gives_the_same_for_all_nodes_and_for_some") {
        let folder = tempfile::tempdir().unwrap();
        let world = world_of_sage(server, "Embed", 40, folder.path()).await;
        let mut client = world.client(V).await;
        client
            .query(&world.project("g", "featureProperties: ['at', 'wide'], maxStaleness: 3600"))
            .await
            .unwrap();
        let all = client.query("CALL gnn.embed.stream('g', {modelName: 'sage'})").await.unwrap();
        assert_eq!((all.len(), floats(&all[0][2]).len()), (40, 20));
        // By id, by element id and by the node itself, twice, and in another order.
        let call = "CALL gnn.embed.stream('g', {modelName: 'sage', nodes: $nodes})";
        let nodes = Value::List(vec![all[7][0].clone(), all[3][1].clone(), all[7][0].clone()]);
        for _ in 0..2 {
            let rows =
                client.query_with(run_with(call, map([("nodes", nodes.clone())]), none())).await.unwrap();
            assert_eq!(rows, [all[7].clone(), all[3].clone(), all[7].clone()]);
        }
        assert_eq!(world.sidebolt.metric("sidebolt_gnn_cache_hits_total", "").await, 3.0);
        // A sample is the same by the same seed, whoever else is asked for.
        let sampled = |nodes: &str, seed: i64| {
            format!(
                "CALL gnn.embed.stream('g', {{modelName: 'sage', sampleSizes: [1, 1, 1], randomSeed: {seed}, nodes: {nodes}}})"
            )
        };
        let (a, b) = (integer_of(&all[1][0]), integer_of(&all[2][0]));
        let one = client.query(&sampled(&format!("[{a}]"), 1)).await.unwrap();
        let two = client.query(&sampled(&format!("[{b}, {a}]"), 1)).await.unwrap();
        assert_eq!(one[0], two[1]);
        let alike = client
            .query(&format!("CALL gnn.similar('g', {a}, {{modelName: 'sage', topK: 3}})"))
            .await
            .unwrap();
        assert_eq!(alike.len(), 3);
        assert!(alike.iter().all(|row| row[0] != all[1][0]
            && matches!(row[2], Value::Float(score) if (0.0..=1.000_001).contains(&score))));
        let stats = row(&mut client, "CALL gnn.embed.stats('g', {modelName: 'sage'})").await;
        assert_eq!((integer(&stats, "nodeCount"), integer(&stats, "embeddingDimension")), (40, 20));
        let estimate = row(&mut client, "CALL gnn.embed.estimate('g', {modelName: 'sage'})").await;
        assert!(
            integer(&estimate, "bytesMin") >= 40 * 20 * 4
                && integer(&estimate, "bytesMax") >= integer(&estimate, "bytesMin")
        );
        let written = row(
            &mut client,
            "CALL gnn.embed.write('g', {modelName: 'sage', writeProperty: 'emb', createIndex: false})",
        )
        .await;
        assert_eq!(integer(&written, "nodePropertiesWritten"), 40);
        world.end().await;
    }
}

fn integer_of(value: &Value) -> i64 {
    value.as_integer().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_followed_and_versions_stay_beside_each_other() {
    let Some(server) = Neo4j::all("a_folder_is_followed_and_versions_stay_beside_each_other").pop() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    put_model(folder.path(), "m", "sage_mean", "wide");
    std::fs::create_dir(folder.path().join("broken")).unwrap();
    std::fs::write(folder.path().join("broken/config.json"), "{").unwrap();
    std::fs::write(folder.path().join("broken/model.safetensors"), [0xFF; 64]).unwrap();
    let world = world(server, "Follow", 8, folder.path()).await;
    let mut client = world.client(V).await;
    let sidebolt = &world.sidebolt;
    within_async(PATIENCE, "Sidebolt is ready", || async { sidebolt.get("/readyz").await.0 == 200 }).await;
    let old = versions(&mut client, "m").await;
    assert_eq!(old.len(), 1);
    let broken = row(&mut client, "CALL gnn.model.list('broken') YIELD loaded, error").await;
    assert_eq!(broken.get("loaded"), Some(&Value::Boolean(false)));
    let said = refused(&mut client, "CALL gnn.model.info('broken')", FAILED).await;
    assert!(said.contains("`broken` cannot be loaded") && said.contains("config.json"), "{said}");
    put_model(folder.path(), "m", "sage_sum", "wide");
    let loaded = row(&mut client, "CALL gnn.model.load('m')").await;
    let new = versions(&mut client, "m").await;
    assert_eq!((new.len(), &new[1]), (2, &old[0]));
    assert_eq!(loaded.get("version"), Some(&new[0].as_str().into()));
    client.query(&world.project("g", "featureProperties: ['wide']")).await.unwrap();
    let stream =
        |model: &str| format!("CALL gnn.embed.stream('g', {{modelName: '{model}'}}) YIELD embedding");
    let newest = client.query(&stream("m")).await.unwrap();
    assert_eq!(client.query(&stream(&format!("m@{}", &new[0][..8]))).await.unwrap(), newest);
    assert_ne!(client.query(&stream(&format!("m@{}", &old[0][..8]))).await.unwrap(), newest);
    // What goes is forgotten.
    std::fs::remove_dir_all(folder.path().join("m")).unwrap();
    let (address, password) = (world.sidebolt.address, world.server.password.clone());
    within_async(PATIENCE, "the model is forgotten", || async {
        let mut client = Client::login(address, V, Neo4j::USER, &password).await;
        versions(&mut client, "m").await.is_empty()
    })
    .await;
    for (text, words) in [
        (stream("m"), "Model with name `m` does not exist"),
        ("CALL gnn.embed.stream('g')".to_owned(), "mandatory configuration parameter `modelName`"),
        ("CALL gnn.embed.stream('g', {modelName: 3})".to_owned(), "`modelName` must be of type `STRING`"),
    ] {
        let said = refused(&mut client, &text, FAILED).await;
        assert!(said.contains(words), "{said}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_learnt_kept_and_used() {
    for server in Neo4j::all("a_model_is_learnt_kept_and_used") {
        let folder = tempfile::tempdir().unwrap();
        let world = world(server, "Train", 60, folder.path()).await;
        let mut client = world.client(V).await;
        client
            .query(&world.project("g", "orientation: 'UNDIRECTED', featureProperties: ['wide']"))
            .await
            .unwrap();
        let train = "CALL gnn.graphSage.train('g', {modelName: 'own', embeddingDimension: 8, hiddenDimension: 8, numLayers: 2, epochs: 4}) \
                     YIELD epoch, loss, version";
        let rows = client.query(train).await.unwrap();
        let losses: Vec<_> = rows.iter().map(|row| row[1].clone()).collect();
        assert!(
            !rows.is_empty()
                && rows.len() <= 4
                && losses.iter().all(|loss| matches!(loss, Value::Float(loss) if loss.is_finite()))
        );
        assert!(folder.path().join("own/model.safetensors").exists());
        assert_eq!(versions(&mut client, "own").await, [rows[0][2].as_str().unwrap()]);
        let embedded =
            client.query("CALL gnn.embed.stream('g', {modelName: 'own'}) YIELD embedding").await.unwrap();
        assert_eq!((embedded.len(), floats(&embedded[0][0]).len()), (60, 8));
        let said = refused(&mut client, train, FAILED).await;
        assert!(said.contains("Model with name `own` already exists"), "{said}");
        for (configuration, words) in [
            ("modelName: '../x'", "`modelName` is to be a folder's name"),
            ("modelName: 'y', epochs: 0", "`epochs` was `0`"),
            ("modelName: 'y', aggregator: 'median'", "mean, max, pool, sum"),
            ("epochs: 1", "`modelName` can not be null or blank"),
        ] {
            let said =
                refused(&mut client, &format!("CALL gnn.graphSage.train('g', {{{configuration}}})"), FAILED)
                    .await;
            assert!(said.contains(words), "{said}");
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_get_their_own_answers() {
    let Some(server) = Neo4j::all("many_callers_at_once_get_their_own_answers").pop() else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = world_of_sage(server, "Many", 50, folder.path()).await;
    let mut client = world.client(V).await;
    client.query(&world.project("g", "featureProperties: ['wide'], maxStaleness: 3600")).await.unwrap();
    let all = client.query("CALL gnn.embed.stream('g', {modelName: 'sage'})").await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for at in 0..100 {
        let expected = all[at % 50].clone();
        let (address, password) = (world.sidebolt.address, world.server.password.clone());
        callers.spawn(async move {
            let mut client = Client::login(address, V, Neo4j::USER, &password).await;
            let id = integer_of(&expected[0]);
            for _ in 0..3 {
                let rows = client
                    .query(&format!("CALL gnn.embed.stream('g', {{modelName: 'sage', nodes: [{id}]}})"))
                    .await
                    .unwrap();
                assert_eq!(rows, std::slice::from_ref(&expected));
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    assert_eq!(world.sidebolt.metric("sidebolt_gnn_waiting", "").await, 0.0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory_means_smaller_batches() {
    let Some(server) = Neo4j::all("little_memory_means_smaller_batches").pop() else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = world_of_sage(server, "Little", 2000, folder.path()).await;
    let sidebolt = &world.sidebolt;
    sidebolt.reconfigure(|config| config.gnn.cache_bytes = 0);
    let mut client = world.client(V).await;
    client.query(&world.project("g", "featureProperties: ['wide'], maxStaleness: 3600")).await.unwrap();
    let estimated = row(&mut client, "CALL gnn.embed.estimate('g', {modelName: 'sage'})").await;
    let layers = row(&mut client, "CALL gnn.model.info('sage')").await;
    let layers = integer(layers.get("modelInfo").unwrap(), "numLayers") as usize;
    let ids = world.server.admin(&world.text("MATCH (n:LABEL) WHERE n.at < 512 RETURN id(n)")).await;
    let parameters = map([
        ("nodes", Value::List(ids.into_iter().flatten().collect())),
        ("sizes", Value::List(vec![Value::Integer(1); layers])),
    ]);
    let call = run_with(
        "CALL gnn.embed.stream('g', {modelName: 'sage', nodes: $nodes, sampleSizes: $sizes})",
        parameters,
        none(),
    );
    let expected = client.query_with(call.clone()).await.unwrap();
    assert_eq!(expected.len(), 512);

    // What the rows take, and a part of what the batch would.
    let used = sidebolt.metric("sidebolt_gnn_bytes", "").await as usize;
    let rows = 4 * 512 * floats(&expected[0][2]).len();
    let part = integer(&estimated, "bytesMax") as usize / 8;
    sidebolt.reconfigure(|config| config.gnn.max_bytes = used + rows + part);
    assert_eq!(client.query_with(call.clone()).await.unwrap(), expected);
    let size = sidebolt.metric("sidebolt_gnn_batch_size", "").await;
    assert!((16.0..=128.0).contains(&size), "{size}");

    sidebolt.reconfigure(|config| config.gnn.max_bytes = used + rows);
    let answers = client.ask_all(&[call.clone(), pull_all()]).await;
    assert_eq!(answers[0].code(), FAILED);
    assert!(answers[0].text().contains("gnn.max_bytes"), "{}", answers[0].text());
    assert!(client.one(reset()).await.is_success());
    sidebolt.reconfigure(|config| config.gnn.max_bytes = 1 << 30);
    assert_eq!(client.query_with(call).await.unwrap(), expected);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_shows_how_far_it_is() {
    let Some(server) = Neo4j::all("a_call_shows_how_far_it_is").pop() else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = world(server, "Progress", 60, folder.path()).await;
    let (mut client, mut other) = (world.client(V).await, world.client(V).await);
    client.query(&world.project("g", "featureProperties: ['wide']")).await.unwrap();
    let progress = "CALL gnn.listProgress()";
    assert!(other.query(progress).await.unwrap().is_empty(), "nothing runs");
    // It would never end by itself.
    let train = "CALL gnn.graphSage.train('g', {modelName: 'long', epochs: 100000, patience: 100000, embeddingDimension: 8, hiddenDimension: 8, numLayers: 2})";
    client.send(&[run(train), pull_all()].concat()).await.unwrap();
    let other = tokio::sync::Mutex::new(other);
    within_async(PATIENCE, "two epochs are over", || async {
        let rows = other.lock().await.query(progress).await.unwrap();
        let Some(row) = rows.first() else { return false };
        assert_eq!((rows.len(), row[2].as_str()), (1, Some("gnn.graphSage.train")));
        if row[3].as_str() != Some("Training") || integer_of(&row[5]) < 2 {
            return false;
        }
        assert_eq!(row[6], Value::Integer(100_000));
        assert!(matches!(row[7], Value::Float(loss) if loss.is_finite()), "{row:?}");
        true
    })
    .await;
    client.send(&reset()).await.unwrap();
    assert_eq!(kinds(&client.read_answers(3).await), ["IGNORED", "IGNORED", "SUCCESS"]);
    within_async(PATIENCE, "it is off the list", || async {
        other.lock().await.query(progress).await.unwrap().is_empty()
    })
    .await;
    assert!(!folder.path().join("long").exists(), "nothing was half learnt");
    drop(other);
    world.end().await;
}
