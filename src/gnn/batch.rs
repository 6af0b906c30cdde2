//! Embeddings of a few nodes: those that come while others are computed leave together, and what was computed is kept for a while.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::budget::{Budget, Reserved};
use super::graph::Graph;
use super::pace::Pace;
use super::project::blocking;
use super::{GnnMetrics, Trouble};
use crate::metrics::Metrics;

/// Nodes that may wait in one lane.
const WAITING: usize = 200_000;
/// What was not used for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// Pairs of graph and model that are ready at once.
const READY: usize = 1000;

/// A graph with the features that a model reads.
pub(crate) struct Ready {
    pub(crate) graph: Arc<Graph>,
    pub(crate) model: Arc<gnn::Model>,
    pub(crate) features: Arc<gnn::Matrix>,
    /// What the features take, if they are not the graph's own.
    pub(crate) _reserved: Option<Reserved>,
    /// All embeddings, once somebody has asked for them.
    pub(crate) whole: tokio::sync::Mutex<Option<Arc<Whole>>>,
    lanes: Mutex<HashMap<Sampling, Arc<Lane>>>,
    /// Looked up once somebody asks for single nodes.
    pace: LazyLock<Mutex<Pace>>,
    used: Mutex<Instant>,
}

/// The embeddings of all nodes.
pub(crate) struct Whole {
    pub(crate) matrix: Arc<gnn::Matrix>,
    pub(crate) _reserved: Reserved,
}

/// Which neighbours are heard.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Sampling {
    /// How many at most, for each layer; nothing = all.
    pub(crate) sizes: Vec<usize>,
    pub(crate) seed: u64,
}

impl Ready {
    pub(crate) fn new(
        graph: Arc<Graph>,
        model: Arc<gnn::Model>,
        features: Arc<gnn::Matrix>,
        reserved: Option<Reserved>,
    ) -> Self {
        Self {
            graph,
            model,
            features,
            _reserved: reserved,
            whole: tokio::sync::Mutex::default(),
            lanes: Mutex::default(),
            pace: LazyLock::new(|| Mutex::new(Pace::of_device())),
            used: Mutex::new(Instant::now()),
        }
    }
}

/// One node's embedding: of which graph and model, with which sampling.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    graph: u64,
    /// Model version and sampling, hashed.
    space: [u8; 16],
    node: u32,
}

type Kept = moka::sync::Cache<Key, Arc<[f32]>, RandomState>;

/// What is ready to be asked, and what was asked before.
pub(crate) struct Batches {
    ready: Mutex<HashMap<(u64, String), Arc<Ready>>>,
    kept: Mutex<(usize, Kept)>,
}

impl Batches {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { ready: Mutex::default(), kept: Mutex::new((bytes, kept(bytes))) }
    }

    /// So many bytes may be kept from now on.
    pub(crate) fn limit(&self, bytes: usize) {
        let mut known = self.kept.lock();
        if known.0 != bytes {
            *known = (bytes, kept(bytes));
        }
    }

    fn kept(&self) -> Kept {
        self.kept.lock().1.clone()
    }

    /// A graph with the features that a model reads, if that was asked for before.
    pub(crate) fn ready(&self, graph: u64, model: &str) -> Option<Arc<Ready>> {
        let ready = self.ready.lock().get(&(graph, model.to_owned())).cloned()?;
        *ready.used.lock() = Instant::now();
        Some(ready)
    }

    /// Keeps it for the next one; if another was faster, that one's.
    pub(crate) fn keep(&self, new: Ready) -> Arc<Ready> {
        let mut all = self.ready.lock();
        if all.len() >= READY {
            all.clear();
        }
        let key = (new.graph.version, new.model.version().to_owned());
        Arc::clone(all.entry(key).or_insert_with(|| Arc::new(new)))
    }

    /// Forgets what belongs to a graph that is gone.
    pub(crate) fn forget(&self, graph: u64) {
        self.ready.lock().retain(|(version, _), _| *version != graph);
    }

    /// Forgets what nobody has used for long. Called once in a while.
    pub(crate) fn sweep(&self) {
        self.ready.lock().retain(|_, ready| ready.used.lock().elapsed() < FORGOTTEN);
        self.kept().run_pending_tasks();
    }

    /// Sets the gauges.
    pub(crate) fn gauge(&self, metrics: &GnnMetrics) {
        metrics.kept.set(self.kept().entry_count() as i64);
    }

    /// The embeddings of these nodes, in their order, from what is kept or together with what others ask for.
    pub(crate) async fn nodes(
        &self,
        ready: &Arc<Ready>,
        sampling: &Sampling,
        nodes: &[u32],
        budget: &Arc<Budget>,
        metrics: &Arc<Metrics>,
    ) -> Result<gnn::Matrix, Trouble> {
        let (kept, space) = (self.kept(), space(&ready.model, sampling));
        let key = |node: u32| Key { graph: ready.graph.version, space, node };
        let mut rows: Vec<Option<Arc<[f32]>>> = nodes.iter().map(|node| kept.get(&key(*node))).collect();
        let missing: Vec<u32> =
            nodes.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(node, _)| *node).collect();
        metrics.gnn.hits.inc_by((nodes.len() - missing.len()) as u64);
        metrics.gnn.misses.inc_by(missing.len() as u64);
        if !missing.is_empty() {
            let lane = {
                let mut lanes = ready.lanes.lock();
                if lanes.len() > READY {
                    lanes.clear();
                }
                Arc::clone(lanes.entry(sampling.clone()).or_default())
            };
            let computed = lane.ask(ready, sampling, missing.clone(), budget, metrics).await?;
            let mut fresh = (0..computed.rows()).map(|row| Arc::<[f32]>::from(computed.row(row)));
            for (node, row) in nodes.iter().zip(&mut rows) {
                if row.is_none()
                    && let Some(new) = fresh.next()
                {
                    kept.insert(key(*node), Arc::clone(&new));
                    *row = Some(new);
                }
            }
        }
        let width = ready.model.info().out_channels;
        let mut values = Vec::with_capacity(nodes.len() * width);
        rows.iter().flatten().for_each(|row| values.extend_from_slice(row));
        Ok(gnn::Matrix::new(nodes.len(), width, values)?)
    }
}

/// Two embeddings of a node are the same if they have this in common, and the graph.
fn space(model: &gnn::Model, sampling: &Sampling) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(model.version().as_bytes());
    hasher.update(&sampling.seed.to_be_bytes());
    for size in &sampling.sizes {
        hasher.update(&(*size as u64).to_be_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(hasher.finalize().as_bytes().get(..16).unwrap_or(&[0; 16]));
    short
}

fn kept(bytes: usize) -> Kept {
    moka::sync::Cache::builder()
        .max_capacity(bytes as u64)
        .weigher(|_: &Key, row: &Arc<[f32]>| u32::try_from(4 * row.len() + 96).unwrap_or(u32::MAX))
        .time_to_idle(Duration::from_secs(3600))
        .build_with_hasher(RandomState::default())
}

type Answer = Result<gnn::Matrix, Trouble>;

/// Those who ask the same model of the same graph with the same sampling.
#[derive(Default)]
struct Lane {
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    waiting: std::collections::VecDeque<(Vec<u32>, oneshot::Sender<Answer>)>,
    nodes: usize,
    running: bool,
}

impl Lane {
    /// Waits for these nodes' embeddings. Who finds nobody before him is computed at once.
    async fn ask(
        self: &Arc<Self>,
        ready: &Arc<Ready>,
        sampling: &Sampling,
        nodes: Vec<u32>,
        budget: &Arc<Budget>,
        metrics: &Arc<Metrics>,
    ) -> Answer {
        let (sender, receiver) = oneshot::channel();
        {
            let mut line = self.line.lock();
            if line.nodes + nodes.len() > WAITING {
                return Err(Trouble::Passing(format!(
                    "{} nodes wait to be computed already; try again later",
                    line.nodes
                )));
            }
            line.nodes += nodes.len();
            line.waiting.push_back((nodes, sender));
            metrics.gnn.queue.inc();
            if !std::mem::replace(&mut line.running, true) {
                let work = Work {
                    ready: Arc::clone(ready),
                    sampling: sampling.clone(),
                    budget: Arc::clone(budget),
                    metrics: Arc::clone(metrics),
                };
                tokio::spawn(Arc::clone(self).run(work));
            }
        }
        let answer = receiver.await;
        answer.unwrap_or_else(|_| Err(Trouble::Passing("Sidebolt is ending; try again".to_owned())))
    }

    /// Computes batch after batch while there is something to compute.
    async fn run(self: Arc<Self>, work: Work) {
        let work = Arc::new(work);
        while let Some(batch) = self.next(work.size()) {
            work.metrics.gnn.queue.sub(batch.len() as i64);
            let all: Vec<u32> = batch.iter().flat_map(|(nodes, _)| nodes.iter().copied()).collect();
            let done = compute(&work, &all).await;
            share(batch, &done);
        }
    }

    /// Who leaves next: whole requests in the order in which they came, until there are enough nodes.
    fn next(&self, most: usize) -> Option<Vec<(Vec<u32>, oneshot::Sender<Answer>)>> {
        let mut line = self.line.lock();
        let (mut batch, mut nodes) = (Vec::new(), 0);
        while let Some((front, _)) = line.waiting.front() {
            if nodes > 0 && nodes + front.len() > most {
                break;
            }
            nodes += front.len();
            batch.extend(line.waiting.pop_front());
        }
        line.nodes -= nodes;
        line.running = !batch.is_empty();
        line.running.then_some(batch)
    }
}

/// What a lane computes with.
struct Work {
    ready: Arc<Ready>,
    sampling: Sampling,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

impl Work {
    /// So many nodes at a time.
    fn size(&self) -> usize {
        self.ready.pace.lock().size()
    }

    fn compute(&self, nodes: &[u32]) -> Result<gnn::Matrix, gnn::Error> {
        let (ready, Sampling { sizes, seed }) = (&self.ready, &self.sampling);
        let cancel = gnn::Cancel::default();
        ready.model.forward_nodes(&ready.graph.edges, &ready.features, nodes, sizes, *seed, &cancel)
    }

    /// Bytes that computing so many nodes may take: as for the whole graph, less what they cannot reach.
    fn bytes(&self, nodes: usize) -> usize {
        let graph = &self.ready.graph;
        let (all, edges) = (graph.ids.len(), graph.edges.edges());
        let (least, most) = self.ready.model.required_bytes(all, edges);
        let mut reached = if self.sampling.sizes.is_empty() { all } else { nodes };
        for size in &self.sampling.sizes {
            reached = reached.saturating_mul(size + 1).min(all);
        }
        (least.max(most) as f64 * reached as f64 / all.max(1) as f64) as usize
    }
}

/// Nodes in pieces of the size that is best. Where memory is short the pieces become smaller, and it goes on.
async fn compute(work: &Arc<Work>, all: &[u32]) -> Answer {
    let mut values = Vec::new();
    let mut left = all;
    while !left.is_empty() {
        let (piece, rest) = left.split_at(left.len().min(work.size()));
        let _bytes = match work.budget.take(work.bytes(piece.len())) {
            Ok(bytes) => bytes,
            Err(_) if work.ready.pace.lock().halve() => continue,
            Err(trouble) => return Err(trouble),
        };
        work.metrics.gnn.batch_nodes.observe(piece.len() as f64);
        let (since, own, nodes) = (Instant::now(), Arc::clone(work), piece.to_vec());
        let done = blocking(move || own.compute(&nodes)).await.and_then(|done| done.map_err(Trouble::from));
        work.metrics.gnn.compute_seconds.observe(since.elapsed().as_secs_f64());
        work.metrics.gnn.nodes.inc_by(piece.len() as u64);
        let mut pace = work.ready.pace.lock();
        pace.learn(piece.len(), since.elapsed());
        work.metrics.gnn.batch_size.set(pace.size() as i64);
        values.extend_from_slice(done?.values());
        left = rest;
    }
    Ok(gnn::Matrix::new(all.len(), work.ready.model.info().out_channels, values)?)
}

/// Gives everybody his rows.
fn share(batch: Vec<(Vec<u32>, oneshot::Sender<Answer>)>, done: &Answer) {
    let mut first = 0;
    for (nodes, sender) in batch {
        let answer = match done {
            Err(trouble) => Err(trouble.clone()),
            Ok(matrix) => {
                let width = matrix.columns();
                let rows =
                    matrix.values().get(first * width..(first + nodes.len()) * width).unwrap_or_default();
                gnn::Matrix::new(nodes.len(), width, rows.to_vec()).map_err(Trouble::from)
            }
        };
        first += nodes.len();
        // Whoever does not wait any longer does not mind.
        let _ = sender.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_gets_his_own_rows() {
        let (one, first) = oneshot::channel();
        let (two, second) = oneshot::channel();
        let matrix = gnn::Matrix::new(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        share(vec![(vec![7], one), (vec![8, 9], two)], &Ok(matrix));
        assert_eq!(first.await.unwrap().unwrap().values(), [1.0, 2.0]);
        assert_eq!(second.await.unwrap().unwrap().values(), [3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn whole_requests_leave_in_their_order() {
        const BATCH: usize = 64;
        let lane = Lane::default();
        for nodes in [BATCH - 1, 1, 1, 2 * BATCH] {
            let mut line = lane.line.lock();
            line.nodes += nodes;
            line.waiting.push_back((vec![0; nodes], oneshot::channel().0));
        }
        let sizes =
            || lane.next(BATCH).map(|batch| batch.iter().map(|(nodes, _)| nodes.len()).collect::<Vec<_>>());
        assert_eq!(sizes(), Some(vec![BATCH - 1, 1]));
        assert_eq!(sizes(), Some(vec![1]));
        assert_eq!(sizes(), Some(vec![2 * BATCH]));
        assert_eq!((sizes(), lane.line.lock().nodes), (None, 0));
    }
}
