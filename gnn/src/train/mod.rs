//! GraphSAGE trained without labels: nodes that are connected get embeddings that are alike, others do not
//! (Hamilton et al., "Inductive Representation Learning on Large Graphs", 2017).

mod aggregate;
mod network;

use crate::random::Random;
use crate::sample::{Request, Sample};
use crate::{Aggr, Cancel, Config, Csr, Error, Matrix, Model, Orient, threads};
use candle_core::{Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use network::Network;

/// What to train, and how long. The names are those of the keys in Graph Data Science where it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// The model's name.
    pub name: String,
    /// Numbers of a node between layers.
    pub hidden_dimension: usize,
    /// Numbers of an embedding.
    pub embedding_dimension: usize,
    /// How neighbours become one row.
    pub aggregator: Aggr,
    /// How many neighbours are heard in training: of a node, of those neighbours, and so on. One for each layer.
    pub sample_sizes: Vec<usize>,
    /// How many epochs at most.
    pub epochs: usize,
    /// How many batches an epoch has at most; fewer if all edges are used up before.
    pub max_iterations: usize,
    /// How many edges a batch has.
    pub batch_size: usize,
    /// How many nodes a batch draws that its nodes are to be told apart from; often connected ones more often.
    pub negative_samples: usize,
    /// The step size of AdamW.
    pub learning_rate: f64,
    /// AdamW's weight decay.
    pub penalty_l2: f64,
    /// By how much the loss has to fall, …
    pub tolerance: f32,
    /// … at least once in so many epochs: else training ends early.
    pub patience: usize,
    /// What start values, batches and samples are drawn from.
    pub seed: u64,
    /// Kept with the model: what the features are made from.
    pub feature_properties: Vec<String>,
    /// Kept with the model: which way edges carry messages.
    pub orientation: Orient,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            name: "graphSage".to_owned(),
            hidden_dimension: 64,
            embedding_dimension: 64,
            aggregator: Aggr::Mean,
            sample_sizes: vec![25, 10],
            epochs: 20,
            max_iterations: 50,
            batch_size: 256,
            negative_samples: 128,
            learning_rate: 0.01,
            penalty_l2: 0.0,
            tolerance: 1e-4,
            patience: 3,
            seed: 0,
            feature_properties: Vec::new(),
            orientation: Orient::default(),
        }
    }
}

/// How an epoch went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// The mean loss of its batches.
    pub loss: f32,
    /// How many batches it had.
    pub batches: usize,
}

impl Training {
    /// Trains a model; `progress` is called after each epoch. The model is that of the epoch with the least loss.
    ///
    /// # Errors
    /// If an argument cannot be used, the loss is no number any more, or the caller cancelled.
    pub fn run(
        &self,
        graph: &Csr,
        features: &Matrix,
        cancel: &Cancel,
        mut progress: impl FnMut(Epoch) + Send,
    ) -> Result<Model, Error> {
        self.check(graph, features)?;
        threads::install(|| self.epochs(graph, features, cancel, &mut progress))
    }

    /// A model with the weights that training begins with.
    pub(crate) fn untrained(&self, inputs: usize) -> Result<Model, Error> {
        Network::new(self, inputs)?.into_model(self)
    }

    fn epochs(
        &self,
        graph: &Csr,
        features: &Matrix,
        cancel: &Cancel,
        progress: &mut (dyn FnMut(Epoch) + Send),
    ) -> Result<Model, Error> {
        let network = Network::new(self, features.columns())?;
        let parameters =
            ParamsAdamW { lr: self.learning_rate, weight_decay: self.penalty_l2, ..Default::default() };
        let mut optimizer = AdamW::new(network.variables(), parameters)?;
        let negatives = Negatives::new(graph);
        let batches = graph.edges().div_ceil(self.batch_size).min(self.max_iterations);
        let mut best: Option<(f32, Network)> = None;
        let mut without_progress = 0;
        for epoch in 1..=self.epochs {
            let mut sum = 0.0;
            for batch in 0..batches {
                cancel.check()?;
                let batch =
                    Batch::draw(self, graph, &negatives, (epoch * self.max_iterations + batch) as u64);
                let loss = network.loss(&batch, &self.sample(graph, &batch, cancel)?, graph, features)?;
                optimizer.backward_step(&loss)?;
                sum += loss.to_scalar::<f32>()?;
            }
            let loss = sum / batches as f32;
            if !loss.is_finite() {
                return Err(Error::argument(
                    "learningRate",
                    format!("{} is too large for these features: the loss is {loss}", self.learning_rate),
                ));
            }
            progress(Epoch { epoch, loss, batches });
            let least = best.as_ref().map_or(f32::INFINITY, |(least, _)| *least);
            without_progress = if loss < least - self.tolerance { 0 } else { without_progress + 1 };
            if loss < least {
                best = Some((loss, network.copy()?));
            }
            if without_progress >= self.patience {
                break;
            }
        }
        best.map_or(network, |(_, best)| best).into_model(self)
    }

    fn sample(&self, graph: &Csr, batch: &Batch, cancel: &Cancel) -> Result<Sample, Error> {
        let request = Request {
            fan_out: &self.sample_sizes,
            seed: batch.seed,
            in_place: false,
            symmetric: false,
            edges: false,
        };
        Sample::draw(graph, &batch.nodes, &request, cancel)
    }

    /// The model's configuration.
    fn config(&self, inputs: usize) -> Config {
        let layers = self.sample_sizes.len();
        let mut config = Config::graph_sage(
            inputs,
            self.hidden_dimension,
            self.embedding_dimension,
            layers,
            self.aggregator,
        );
        config.feature_properties.clone_from(&self.feature_properties);
        config.orientation = self.orientation;
        config.normalize = true;
        config
    }

    fn check(&self, graph: &Csr, features: &Matrix) -> Result<(), Error> {
        let counts = [
            ("embeddingDimension", self.embedding_dimension, 1 << 14),
            ("hiddenDimension", self.hidden_dimension, 1 << 14),
            ("sampleSizes", self.sample_sizes.len(), 16),
            ("epochs", self.epochs, 1 << 20),
            ("maxIterations", self.max_iterations, 1 << 20),
            ("batchSize", self.batch_size, 1 << 16),
            ("negativeSamples", self.negative_samples, 1 << 16),
            ("patience", self.patience, 1 << 20),
        ];
        for (name, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(Error::argument(name, format!("is {value}, but has to be from 1 to {most}")));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::argument(
                "learningRate",
                format!("is {}, but has to be above 0", self.learning_rate),
            ));
        }
        if !(self.penalty_l2 >= 0.0 && self.penalty_l2.is_finite()) {
            return Err(Error::argument(
                "penaltyL2",
                format!("is {}, but has to be 0 or above", self.penalty_l2),
            ));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            return Err(Error::argument(
                "tolerance",
                format!("is {}, but has to be 0 or above", self.tolerance),
            ));
        }
        if graph.edges() == 0 {
            return Err(Error::argument(
                "graphName",
                "the graph has no relationships: there is nothing to learn from",
            ));
        }
        if features.rows() != graph.nodes() {
            let problem =
                format!("{} rows for {} nodes: one for each is needed", features.rows(), graph.nodes());
            return Err(Error::argument("featureProperties", problem));
        }
        if features.columns() == 0 {
            return Err(Error::argument("featureProperties", "give no number: a model needs one at least"));
        }
        features.check_finite("featureProperties")
    }
}

/// Some edges, and nodes to be told apart from theirs.
struct Batch {
    seed: u64,
    /// Each node once.
    nodes: Vec<u32>,
    /// The ends of the edges, and the nodes to be told apart, as places in `nodes`.
    sources: Vec<u32>,
    targets: Vec<u32>,
    negatives: Vec<u32>,
}

impl Batch {
    fn draw(training: &Training, graph: &Csr, negatives: &Negatives, number: u64) -> Self {
        let mut random = Random::keyed(training.seed, &[BATCHES, number]);
        let mut drawn = Vec::with_capacity(2 * training.batch_size + training.negative_samples);
        for _ in 0..training.batch_size {
            let edge = random.below(graph.edges());
            drawn.push(graph.sources()[edge]);
            drawn.push(graph.target_of(edge));
        }
        drawn.extend((0..training.negative_samples).map(|_| negatives.draw(&mut random)));
        let (nodes, places) = crate::sample::distinct(&drawn);
        let places: Vec<u32> = places.into_iter().map(|place| place as u32).collect();
        let (pairs, negatives) = places.split_at(2 * training.batch_size);
        let (sources, targets) =
            pairs.as_chunks::<2>().0.iter().map(|[source, target]| (*source, *target)).unzip();
        Self { seed: random.next(), nodes, sources, targets, negatives: negatives.to_vec() }
    }
}

/// Nodes drawn by the number of their edges to the power of 3/4; those without edges as if they had one.
struct Negatives {
    sums: Vec<f64>,
}

impl Negatives {
    fn new(graph: &Csr) -> Self {
        let mut sum = 0.0;
        let degree = |node| graph.neighbours(node).len().max(1) as f64;
        let sums = (0..graph.nodes()).map(|node| {
            sum += degree(node).powf(0.75);
            sum
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let at = f64::from(random.uniform()) * self.sums.last().copied().unwrap_or(0.0);
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len() - 1) as u32
    }
}

/// log(1 + eˣ), for large x, too.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    x.relu()? + x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?
}

/// Copies that training does not change.
fn frozen(variables: &[Var]) -> Result<Vec<Var>, Error> {
    variables.iter().map(|variable| Ok(Var::from_tensor(&variable.as_detached_tensor().copy()?)?)).collect()
}

const BATCHES: u64 = 3;
const WEIGHTS: u64 = 4;
