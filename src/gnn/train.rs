//! `gnn.graphSage.train`: a model learnt from a graph, without labels.

use std::path::Path;
use std::sync::Arc;

use bolt_wire::packstream::Value;
use tokio::time::Instant;

use super::embeddings::{WIDEST, everything};
use super::graph::Graph;
use super::models::Loaded;
use super::project::blocking;
use super::rows::{Output, Rows};
use super::settings::{Settings, name};
use super::{Caller, Gnn, Trouble, count, millis};
use crate::config;
use crate::sight::now;

/// Most layers.
const LAYERS: usize = 8;
/// Most epochs, and batches of one.
const EPOCHS: usize = 100_000;
/// Neighbours that are heard in each layer, where nobody says.
const FAN_OUT: [usize; 3] = [25, 10, 5];
/// Bytes of a name.
const NAME: usize = 100;

/// Reads a configuration.
fn wanted(map: &mut Settings, config: &config::Gnn) -> Result<gnn::Training, Trouble> {
    let usual = gnn::Training::default();
    let named = map.take("modelName");
    let named = name("modelName", named.as_ref())?;
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    if named.len() > NAME || named.starts_with('.') || !named.chars().all(plain) {
        return Err(Trouble::wrong(format!(
            "`modelName` is to be a folder's name: at most {NAME} letters, digits, `_`, `-` and `.`, not beginning with `.`, but it was `{named}`."
        )));
    }
    let layers = map.size("numLayers", config.num_layers, LAYERS)?;
    let usual_sizes = (0..layers).map(|layer| FAN_OUT.get(layer).copied().unwrap_or(5)).collect();
    let sizes = map.sizes("sampleSizes", 10_000)?.unwrap_or(usual_sizes);
    let aggregator = match map.word("aggregator", &["mean", "max", "pool", "sum"])? {
        Some("max" | "pool") => gnn::Aggr::Max,
        Some("sum") => gnn::Aggr::Sum,
        _ => gnn::Aggr::Mean,
    };
    Ok(gnn::Training {
        name: named,
        hidden_dimension: map.size("hiddenDimension", config.hidden_dim, WIDEST)?,
        embedding_dimension: map.size("embeddingDimension", config.embedding_dim, WIDEST)?,
        aggregator,
        sample_sizes: sizes,
        epochs: map.size("epochs", usual.epochs, EPOCHS)?,
        max_iterations: map.size("maxIterations", usual.max_iterations, EPOCHS)?,
        batch_size: map.size("batchSize", usual.batch_size, 1 << 16)?,
        negative_samples: map.size("negativeSampleWeight", usual.negative_samples, 1 << 16)?,
        learning_rate: map.at_least("learningRate", usual.learning_rate, 0.0)?,
        penalty_l2: map.at_least("penaltyL2", usual.penalty_l2, 0.0)?,
        tolerance: map.at_least("tolerance", f64::from(usual.tolerance), 0.0)? as f32,
        patience: map.size("patience", usual.patience, EPOCHS)?,
        seed: map.seed()?,
        feature_properties: Vec::new(),
        orientation: usual.orientation,
    })
}

impl Gnn {
    pub(super) async fn train(
        &self,
        caller: &Caller,
        graph: Option<Value>,
        configuration: Option<Value>,
    ) -> Result<Output, Trouble> {
        let since = Instant::now();
        let graph = name("graphName", graph.as_ref())?;
        let config = caller.shared.config.load_full();
        let mut map = Settings::of(configuration)?;
        let mut training = wanted(&mut map, &config.gnn)?;
        let properties = map.strings("featureProperties")?;
        everything(&mut map)?;
        map.done()?;
        if self.models.find(&training.name).is_ok() {
            return Err(Trouble::wrong(format!(
                "Model with name `{}` already exists: drop it with gnn.model.drop(), or take another name.",
                training.name
            )));
        }
        let owner = self.catalog.owner(caller).await?;
        let _turn = self.turn(caller).await?;
        let graph = self.catalog.current(caller, &owner, &graph).await?;
        if graph.features.columns() == 0 {
            return Err(Trouble::wrong(
                "The graph has no features, and there is nothing to learn from: project it with featureProperties or degree: true.",
            ));
        }
        training.feature_properties = properties.unwrap_or_default();
        self.learn(caller, graph, training, since).await
    }

    /// Learns, keeps the model, and tells of each epoch.
    async fn learn(
        &self,
        caller: &Caller,
        graph: Arc<Graph>,
        training: gnn::Training,
        since: Instant,
    ) -> Result<Output, Trouble> {
        let config = caller.shared.config.load_full();
        let bytes = 8 * (graph.ids.len() + graph.edges.edges());
        let _reserved = self.catalog.budget.take(bytes)?;
        let (cancel, folder, named) =
            (caller.cancel.clone(), config.gnn.models.clone(), training.name.clone());
        caller.task.step("Training", training.epochs);
        let (shared, task) = (Arc::clone(&caller.shared), Arc::clone(&caller.task));
        let (epochs, loaded) = blocking(move || {
            let features = match training.feature_properties.as_slice() {
                [] => Arc::clone(&graph.features),
                properties => Arc::new(graph.select(properties)?),
            };
            let mut epochs = Vec::new();
            let mut note = |epoch: gnn::Epoch| {
                shared.metrics.gnn.epochs.inc();
                task.epoch(epoch.loss);
                tracing::debug!(
                    model = training.name,
                    epoch = epoch.epoch,
                    loss = epoch.loss,
                    "An epoch is over."
                );
                epochs.push((epoch.epoch, epoch.loss));
            };
            let model = training.run(&graph.edges, &features, &cancel, &mut note)?;
            let loaded = shared.gnn.put_trained(
                model,
                &training.name,
                folder.as_deref(),
                &shared.metrics.gnn,
                since,
            )?;
            Ok::<_, Trouble>((epochs, loaded))
        })
        .await??;
        let rows = epochs.into_iter().map(|(epoch, loss)| {
            vec![
                count(epoch),
                Value::Float(f64::from(loss)),
                named.as_str().into(),
                loaded.model.version().into(),
                millis(since),
            ]
        });
        Ok(Output::Rows(Rows::table(rows.collect())))
    }

    /// A model that was learnt can be asked for from now on; with a folder for models it is written there.
    fn put_trained(
        &self,
        model: gnn::Model,
        name: &str,
        folder: Option<&Path>,
        metrics: &super::GnnMetrics,
        since: Instant,
    ) -> Result<Arc<Loaded>, Trouble> {
        if let Some(folder) = folder {
            let own = folder.join(name);
            if own.exists() {
                return Err(Trouble::wrong(format!(
                    "`modelName`: there is a folder `{name}` in gnn.models already."
                )));
            }
            model.save(&own)?;
            return self.models.load(folder, name, metrics);
        }
        let loaded = Loaded { model: Arc::new(model), since: now(), warmup: since.elapsed() };
        self.models.put(name.to_owned(), loaded);
        self.models.find(name)
    }
}
