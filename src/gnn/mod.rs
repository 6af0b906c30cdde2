//! `CALL gnn.…`: graphs read from Neo4j, and embeddings of their nodes, answered by Sidebolt with the caller's own permissions.

mod about;
mod around;
mod batch;
mod budget;
mod call;
mod catalog;
mod embed;
mod embeddings;
mod error;
mod features;
mod feed;
mod fetch;
mod fresh;
mod graph;
mod graphs;
mod live;
mod matrix;
mod metrics;
mod models;
mod names;
mod pace;
mod procedures;
mod project;
mod queries;
mod rows;
mod settings;
mod show;
mod spec;
mod tasks;
mod train;
mod vicinity;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use bolt_wire::packstream::Value;

pub(crate) use call::{Call, NAMESPACE, misplaced};
pub(crate) use error::Trouble;
pub(crate) use feed::{Ask, Feed, Gave, fetching};
pub(crate) use fetch::{Caller, NOTHING, expired};
pub(crate) use metrics::GnnMetrics;
pub(crate) use procedures::reference_markdown;
pub(crate) use queries::queries;
pub(crate) use rows::{Output, Rows};
pub(crate) use show::{Listed, Show};
pub(crate) use tasks::Task;
pub(crate) use write::with_parameters;

use batch::Batches;
use catalog::Catalog;
use embed::Mode;
use models::Models;
use procedures::Runs;
use spec::Spec;
use tasks::Tasks;
use tokio_util::sync::CancellationToken;
use vicinity::Vicinities;

use crate::config;
use crate::session::Shared;

/// How often the folder with models is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Everything that calls share.
pub(crate) struct Gnn {
    pub(crate) catalog: Catalog,
    pub(crate) models: Models,
    pub(crate) batches: Batches,
    vicinities: Vicinities,
    tasks: Tasks,
    running: Semaphore,
}

impl Gnn {
    pub(crate) fn new(config: &config::Gnn) -> Self {
        let gnn = Self {
            catalog: Catalog::default(),
            models: Models::default(),
            batches: Batches::new(config.cache_bytes),
            vicinities: Vicinities::default(),
            tasks: Tasks::default(),
            running: Semaphore::new(config.max_running),
        };
        if config.enabled
            && let Err(error) = gnn::set_threads(config.threads)
        {
            // Another Sidebolt in this process was first.
            tracing::debug!(%error, "The number of computing threads stays.");
        }
        if config.enabled {
            let choice = match config.device {
                config::Device::Auto => gnn::Choice::Auto,
                config::Device::Cuda => gnn::Choice::Cuda,
                config::Device::Cpu => gnn::Choice::Cpu,
            };
            match gnn::open(choice) {
                Ok(device) => {
                    tracing::info!(device = device.name, reason = device.reason, "Embeddings are computed.")
                }
                Err(error) => tracing::warn!(%error, "Embeddings are computed on the CPU."),
            }
        }
        gnn.configure(config);
        gnn
    }

    /// Limits may change at any time.
    pub(crate) fn configure(&self, config: &config::Gnn) {
        self.catalog.budget.limit(config.max_bytes);
        self.batches.limit(config.cache_bytes);
        self.vicinities.limit(config.cache_bytes);
    }

    /// Why calls would have to wait; `None` = they would not.
    pub(crate) fn cold(&self, config: &config::Gnn) -> Option<String> {
        let cold = config.enabled && config.prewarm && !self.models.are_ready();
        cold.then(|| "the models of gnn.models are being loaded (gnn.prewarm)".to_owned())
    }

    /// Sets the gauges.
    pub(crate) fn gauge(&self, metrics: &GnnMetrics, enabled: bool) {
        metrics.graphs.set(self.catalog.count() as i64);
        metrics.bytes.set(self.catalog.budget.used() as i64);
        self.batches.gauge(metrics);
        metrics.parts_bytes.set(self.vicinities.bytes() as i64);
        metrics.model_versions.reset();
        for (name, known, _) in self.models.list().0.into_iter().filter(|(_, _, newest)| *newest) {
            metrics.model_versions.with_label_values(&[name.as_str(), known.model.version()]).set(1);
        }
        if !enabled {
            return;
        }
        for device in gnn::devices().iter().filter(|device| device.usable) {
            let kinds = [
                ("total", device.memory_total),
                ("free", device.memory_free),
                ("allocated", device.memory_allocated()),
            ];
            for (kind, bytes) in kinds {
                let device = device.kind.to_string();
                metrics.device_memory.with_label_values(&[device.as_str(), kind]).set(bytes.cast_signed());
            }
        }
    }

    /// A turn for what takes a whole graph.
    async fn turn(&self, caller: &Caller) -> Result<SemaphorePermit<'_>, Trouble> {
        let since = Instant::now();
        let permit = self.running.acquire().await;
        caller.shared.metrics.gnn.wait_seconds.observe(since.elapsed().as_secs_f64());
        permit.map_err(|_| Trouble::Passing("Sidebolt is ending; try again".to_owned()))
    }

    /// Runs a call.
    pub(crate) async fn run(
        &self,
        caller: &Caller,
        call: &Call,
        values: Vec<Value>,
    ) -> Result<Output, Trouble> {
        let (procedure, since) = (call.procedure, Instant::now());
        self.configure(&caller.shared.config.load().gnn);
        if procedure.writes && !caller.writes {
            return Err(Trouble::ReadOnly(format!(
                "Writing in read access mode not allowed. Attempted write by {}: call it in a session or transaction with access mode WRITE, and \
                 where neither guard.read_only nor a rule forbids to write.",
                procedure.name
            )));
        }
        let _listed = (procedure.runs != Runs::Progress).then(|| self.tasks.list(caller, procedure.name));
        let mut values = values.into_iter();
        let mut next = || values.next();
        let output = match procedure.runs {
            Runs::Project => self.project(caller, next(), next(), next(), next(), Spec::read).await,
            Runs::ProjectCypher => {
                self.project(caller, next(), next(), next(), next(), Spec::by_queries).await
            }
            Runs::List => self.list(caller, next()).await,
            Runs::Drop => self.drop(caller, next(), next()).await,
            Runs::FastRpStream => self.fast_rp(caller, next(), next(), false).await,
            Runs::FastRpWrite => self.fast_rp(caller, next(), next(), true).await,
            Runs::EmbedStream => match (next(), next()) {
                (Some(Value::List(nodes)), configuration) => {
                    self.embed_live(caller, nodes, configuration).await
                }
                (graph, configuration) => self.embed(caller, graph, configuration, Mode::Stream).await,
            },
            Runs::EmbedWrite => self.embed(caller, next(), next(), Mode::Write).await,
            Runs::EmbedStats => self.embed(caller, next(), next(), Mode::Stats).await,
            Runs::EmbedEstimate => self.embed(caller, next(), next(), Mode::Estimate).await,
            Runs::Train => self.train(caller, next(), next()).await,
            Runs::Similar => self.similar(caller, next(), next(), next()).await,
            Runs::ModelList => self.model_list(next()),
            Runs::ModelInfo => self.model_info(next()),
            Runs::ModelLoad => self.model_load(caller, next()).await,
            Runs::ModelDrop => self.model_drop(caller, next()),
            Runs::Device => Ok(self.device()),
            Runs::Progress => Ok(self.list_progress(caller)),
        };
        let metrics = &caller.shared.metrics.gnn;
        let outcome = if output.is_ok() { "success" } else { "failure" };
        metrics.calls.with_label_values(&[procedure.name, outcome]).inc();
        metrics.call_seconds.observe(since.elapsed().as_secs_f64());
        let mut output = output?;
        if let Output::Rows(rows) = &mut output {
            rows.want(procedure.columns, &call.columns);
        }
        Ok(output)
    }
}

/// Follows the folder with models, until the end.
pub(crate) async fn keep(shared: Arc<Shared>, end: CancellationToken) {
    let work = async {
        let mut every = tokio::time::interval(LOOK);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let config = shared.config.load_full();
            if !config.gnn.enabled {
                continue;
            }
            shared.gnn.batches.sweep();
            shared.gnn.vicinities.sweep();
            let work = Arc::clone(&shared);
            // What goes wrong with a model is logged there.
            let _ = project::blocking(move || {
                work.gnn.models.follow(config.gnn.models.as_deref(), &work.metrics.gnn);
            })
            .await;
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

/// Milliseconds since then.
fn millis(since: Instant) -> Value {
    Value::Integer(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// A count.
fn count(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}
