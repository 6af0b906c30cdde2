//! The models that there are: those of `gnn.models`, followed as its files change.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use super::live::usual_sizes;
use super::{GnnMetrics, Trouble};
use crate::sight::now;

/// Models at once.
const MODELS: usize = 1000;
/// Versions of one model: the newest, and those that calls may still name.
const VERSIONS: usize = 3;
/// Nodes of the graph that a model is tried on.
const TRIAL: usize = 64;
/// About as many as a batch with its neighbours; fewer where each has many numbers.
const BATCH_NODES: usize = 20_000;
const BATCH_VALUES: usize = 4_000_000;
/// Others that a node of the trial hears.
const HEARD: usize = 10;

/// A model that is loaded.
pub(crate) struct Loaded {
    pub(crate) model: Arc<gnn::Model>,
    /// When, in milliseconds since 1970.
    pub(crate) since: u64,
    /// How long loading and the first run took.
    pub(crate) warmup: std::time::Duration,
}

/// A model's name, one of its versions, and whether that is the newest.
type Listed = (String, Arc<Loaded>, bool);

/// When the files of a folder were written, and their bytes.
type Stamp = [(Option<SystemTime>, u64); 2];

/// All models.
#[derive(Default)]
pub(crate) struct Models {
    /// By name, the newest version first.
    loaded: Mutex<BTreeMap<String, Vec<Arc<Loaded>>>>,
    /// Folders as they were looked at last.
    seen: Mutex<HashMap<PathBuf, Stamp>>,
    /// Folders that are no model, and why.
    broken: Mutex<BTreeMap<String, String>>,
    /// The folder was looked at.
    looked: AtomicBool,
}

impl Models {
    /// True once the folder was looked at.
    pub(crate) fn are_ready(&self) -> bool {
        self.looked.load(Ordering::Relaxed)
    }

    /// Looks at the folder: what is new or has changed is loaded, what is gone is forgotten. Blocks.
    pub(crate) fn follow(&self, folder: Option<&Path>, metrics: &GnnMetrics) {
        let folders = folder.map(subfolders).unwrap_or_default();
        let mut seen = self.seen.lock();
        let gone: Vec<PathBuf> = seen.keys().filter(|known| !folders.contains(*known)).cloned().collect();
        for path in gone {
            seen.remove(&path);
            let name = name_of(&path);
            self.broken.lock().remove(&name);
            if self.loaded.lock().remove(&name).is_some() {
                tracing::info!(model = name, "A model is gone.");
            }
        }
        for path in folders.into_iter().take(MODELS) {
            let stamp = stamp(&path);
            if seen.get(&path) != Some(&stamp) {
                seen.insert(path.clone(), stamp);
                self.take(&path, metrics);
            }
        }
        drop(seen);
        metrics.models.set(self.loaded.lock().len() as i64);
        self.looked.store(true, Ordering::Relaxed);
    }

    /// Loads a folder's model and runs it once, before anybody can ask for it.
    fn take(&self, path: &Path, metrics: &GnnMetrics) {
        let (name, since) = (name_of(path), Instant::now());
        let loaded = gnn::Model::load(path, &gnn::Limits::default()).and_then(|model| {
            try_out(&model)?;
            Ok(model)
        });
        let warmup = since.elapsed();
        match loaded {
            Ok(model) => {
                metrics.warmup_seconds.observe(warmup.as_secs_f64());
                tracing::info!(model = name, version = model.version(), ?warmup, "A model was loaded.");
                self.broken.lock().remove(&name);
                self.put(name, Loaded { model: Arc::new(model), since: now(), warmup });
            }
            Err(error) => {
                tracing::warn!(model = name, %error, "A model cannot be loaded; what was loaded before stays.");
                metrics.broken_models.inc();
                self.broken.lock().insert(name, error.to_string());
            }
        }
    }

    /// The newest version of a model from now on.
    pub(crate) fn put(&self, name: String, new: Loaded) {
        let mut loaded = self.loaded.lock();
        let versions = loaded.entry(name).or_default();
        versions.retain(|known| known.model.version() != new.model.version());
        versions.insert(0, Arc::new(new));
        versions.truncate(VERSIONS);
    }

    /// The model of that name; `name@version` for one of its last versions, by the beginning of it.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Loaded>, Trouble> {
        let loaded = self.loaded.lock();
        let (plain, version) = name.split_once('@').unwrap_or((name, ""));
        let found = loaded.get(plain).and_then(|versions| {
            versions.iter().find(|known| known.model.version().starts_with(version)).cloned()
        });
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some(why) = self.broken.lock().get(plain).filter(|_| version.is_empty()) {
            return Err(Trouble::wrong(format!("Model with name `{name}` cannot be loaded: {why}")));
        }
        let near = crate::config::meant(plain, loaded.keys().map(String::as_str));
        let mean = near.map(|near| format!(" (Did you mean `{near}`?)")).unwrap_or_default();
        Err(Trouble::wrong(format!(
            "Model with name `{name}` does not exist{mean}. Models are folders in gnn.models with model.safetensors and config.json; \
             gnn.model.list() shows them."
        )))
    }

    /// All versions of all models, and the folders that are none and why.
    pub(crate) fn list(&self) -> (Vec<Listed>, Vec<(String, String)>) {
        let loaded = self.loaded.lock();
        let versions = loaded.iter().flat_map(|(name, versions)| {
            versions.iter().enumerate().map(move |(at, known)| (name.clone(), Arc::clone(known), at == 0))
        });
        let broken = self.broken.lock().iter().map(|(name, why)| (name.clone(), why.clone())).collect();
        (versions.collect(), broken)
    }

    /// Forgets a model, all its versions; it comes back when its files change.
    pub(crate) fn drop(&self, name: &str) -> Option<Arc<Loaded>> {
        self.loaded.lock().remove(name).and_then(|versions| versions.into_iter().next())
    }

    /// Loads a model of the folder anew, whether it has changed or not. Blocks.
    pub(crate) fn load(
        &self,
        folder: &Path,
        name: &str,
        metrics: &GnnMetrics,
    ) -> Result<Arc<Loaded>, Trouble> {
        let known = subfolders(folder).into_iter().find(|path| name_of(path) == name);
        if let Some(path) = known {
            self.seen.lock().insert(path.clone(), stamp(&path));
            self.take(&path, metrics);
        }
        self.broken.lock().get(name).map_or(Ok(()), |why| {
            Err(Trouble::wrong(format!("Model with name `{name}` cannot be loaded: {why}")))
        })?;
        self.find(name)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Folders in a folder, links followed, hidden ones left out.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !name_of(path).starts_with('.'))
        .collect();
    folders.sort();
    folders
}

fn stamp(path: &Path) -> Stamp {
    ["model.safetensors", "config.json"].map(|file| {
        let metadata = std::fs::metadata(path.join(file)).ok();
        (
            metadata.as_ref().and_then(|metadata| metadata.modified().ok()),
            metadata.map_or(0, |metadata| metadata.len()),
        )
    })
}

/// Runs a model on a small graph, and a batch on one as large as a batch meets, so that its first caller does not wait for what happens
/// only once.
fn try_out(model: &gnn::Model) -> Result<(), gnn::Error> {
    let info = model.info();
    if info.edge_features > 1 {
        return Ok(());
    }
    let cancel = gnn::Cancel::default();
    let (graph, features) = trial(&info, TRIAL)?;
    model.forward(&graph, &features, &cancel)?;
    model.forward_nodes(&graph, &features, &[0, 1], &[], 42, &cancel)?;
    let nodes = BATCH_NODES.min(BATCH_VALUES / info.in_channels.max(1)).max(TRIAL);
    let (graph, features) = trial(&info, nodes)?;
    let some: Vec<u32> = (0..TRIAL).map(|at| (at * (nodes / TRIAL)) as u32).collect();
    model.forward_nodes(&graph, &features, &some, &usual_sizes(info.layers), 42, &cancel)?;
    Ok(())
}

/// A graph of so many nodes, each of which hears some others, and what they have.
fn trial(info: &gnn::Info, nodes: usize) -> Result<(gnn::Csr, gnn::Matrix), gnn::Error> {
    let ends =
        (0..nodes).flat_map(|node| (1..=HEARD).map(move |step| (node, (node * 31 + step * 7919) % nodes)));
    let (targets, sources): (Vec<u32>, Vec<u32>) =
        ends.map(|(node, other)| (node as u32, other as u32)).unzip();
    let weights = (info.edge_features == 1).then(|| vec![1.0; targets.len()]);
    let graph =
        gnn::Csr::from_edges(nodes, &sources, &targets, weights.as_deref(), gnn::Orientation::Natural)?;
    let values = (0..nodes * info.in_channels).map(|at| (at % 7) as f32 / 7.0).collect();
    Ok((graph, gnn::Matrix::new(nodes, info.in_channels, values)?))
}
