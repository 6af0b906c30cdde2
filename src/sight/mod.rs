//! What was asked and how it went: top queries, slow ones and why they are.

mod advice;
mod advise;
mod alerts;
mod baseline;
mod explain;
mod histogram;
mod history;
mod kinds;
mod metrics;
mod moment;
mod outcome;
mod post;
mod queries;
mod resources;
mod slow;
#[cfg(test)]
mod tests;
mod watchman;

pub(crate) use advice::Plan;
pub(crate) use advise::advise;
pub(crate) use alerts::{Alert, keep_telling};
pub(crate) use baseline::{Baseline, Level};
pub(crate) use explain::keep_explaining;
pub(crate) use history::{History, Period};
pub(crate) use metrics::SightMetrics;
pub(crate) use moment::moment;
pub(crate) use outcome::{Answered, Outcome};
pub(crate) use post::Target;
pub(crate) use queries::{Row, nanoseconds, now};
pub(crate) use resources::resident;
pub(crate) use slow::{PlanKey, Slow, in_words};
pub(crate) use watchman::keep_watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::alerts::Alerts;
use self::baseline::Baselines;
use self::histogram::Histogram;
use self::kinds::Kinds;
use self::queries::Queries;
use self::resources::{Resources, Sample};
use self::slow::{SlowLog, Wanted};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::statement::Statement;
use crate::upstream::Principal;

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) statement: &'a Arc<Statement>,
    pub(crate) principal: &'a Arc<Principal>,
    /// As its client named it; none = the home database.
    pub(crate) database: Option<&'a Arc<str>>,
    pub(crate) answered: Answered,
    pub(crate) outcome: Outcome,
    /// The code of a failure or refusal.
    pub(crate) code: Option<&'a str>,
    /// While its client waited for an answer, all together.
    pub(crate) took: Duration,
    /// Before it went to Neo4j.
    pub(crate) waited: Duration,
    pub(crate) rows: u64,
    /// Bytes of the answer.
    pub(crate) bytes: u64,
    /// From when it went to Neo4j to RUN's answer.
    pub(crate) first: Duration,
    /// Neo4j's own times, in milliseconds: until the first record, and from there to the last.
    pub(crate) t_first: Option<i64>,
    pub(crate) t_last: Option<i64>,
    /// What its application calls itself.
    pub(crate) application: &'a str,
    /// Its client's address.
    pub(crate) client: Option<SocketAddr>,
    /// Its parameters (a PackStream map), if they are to be shown.
    pub(crate) parameters: Option<&'a [u8]>,
}

/// A session's last request, once it is over.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) statement: Arc<Statement>,
    pub(crate) database: Option<Arc<str>>,
    pub(crate) answered: Answered,
    pub(crate) outcome: Outcome,
    pub(crate) code: Option<Arc<str>>,
    pub(crate) took: Duration,
    pub(crate) waited: Duration,
    pub(crate) first: Duration,
    pub(crate) rows: u64,
}

/// Sees every request once, when it is over.
pub(crate) struct Sight {
    metrics: Arc<Metrics>,
    queries: Queries,
    kinds: Kinds,
    slow: SlowLog,
    rules: slow::Thresholds,
    baselines: Mutex<Baselines>,
    pub(crate) alerts: Alerts,
    /// How long everything takes.
    all: Histogram,
    pub(crate) resources: Resources,
    pub(crate) history: History,
    started: Instant,
}

impl Sight {
    /// One that has seen nothing.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            queries: Queries::default(),
            kinds: Kinds::default(),
            slow: SlowLog::default(),
            rules: slow::Thresholds::default(),
            baselines: Mutex::default(),
            alerts: Alerts::default(),
            all: Histogram::default(),
            resources: Resources::default(),
            history: History::default(),
            started: Instant::now(),
        }
    }

    /// A request is over. Gives its code to keep.
    pub(crate) fn record(&self, finished: &Finished<'_>, config: &Arc<Config>) -> Option<Arc<str>> {
        self.all.record(queries::nanoseconds(finished.took));
        let row = self.queries.record(finished, config.sight.max_queries);
        if finished.answered == Answered::Neo4j && finished.outcome == Outcome::Success {
            let served = finished.took.saturating_sub(finished.waited);
            self.kinds.record(finished.statement, queries::nanoseconds(served));
        }
        let threshold = self.rules.of(config, finished);
        if finished.took > threshold && !threshold.is_zero() {
            self.note_slow(finished, &row, &config.sight);
        }
        finished.code.map(|code| row.failed(code))
    }

    fn note_slow(&self, finished: &Finished<'_>, row: &Row, config: &config::Sight) {
        self.metrics.sight.slow.inc();
        self.slow.record(finished, row, config);
        // What was refused, or failed, may be slow for reasons of its own.
        if config.explain && finished.outcome == Outcome::Success && finished.answered == Answered::Neo4j {
            self.slow.want(Wanted {
                key: row.key(),
                statement: Arc::clone(finished.statement),
                principal: Arc::clone(finished.principal),
                database: finished.database.cloned(),
                rows: finished.rows,
                varied: row.is_varied(),
            });
        }
    }

    /// How long this has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a second to what is known of resources; `sample` has what is not read there.
    pub(crate) fn sample(&self, sample: Sample) {
        self.resources.add(sample, self.queries.totals(), &self.all);
    }

    /// The slow requests that a user may see, the latest first.
    pub(crate) fn slow(&self, most: usize, viewer: &Viewer) -> Vec<Arc<Slow>> {
        self.slow.latest(most, |slow| viewer.sees(&slow.principal))
    }

    /// The baselines that a user may see, the worst first.
    pub(crate) fn baselines(&self, most: usize, viewer: &Viewer) -> Vec<Shown> {
        let baselines = self.baselines.lock();
        let seen = baselines.observed.iter().filter(|((_, user, _), _)| viewer.sees_user(user));
        let mut shown: Vec<Shown> = seen
            .filter_map(|(subject, observed)| {
                let baseline = observed.baseline.clone()?;
                Some(Shown { subject: subject.clone(), baseline, now: observed.now, level: observed.level })
            })
            .collect();
        drop(baselines);
        let factor = |shown: &Shown| shown.now.map_or(0.0, |(_, factor)| factor);
        shown.sort_by(|a, b| factor(b).total_cmp(&factor(a)).then_with(|| a.subject.cmp(&b.subject)));
        shown.truncate(most);
        shown
    }

    /// What is known of the plan of a query.
    pub(crate) fn plan(&self, key: &PlanKey) -> Option<Arc<Plan>> {
        self.slow.plan(key)
    }

    /// The rows that a user may see, those that took most time first.
    pub(crate) fn top(&self, most: usize, viewer: &Viewer) -> Vec<Arc<Row>> {
        self.queries.top(most, |row| viewer.sees(&row.principal))
    }

    /// Forgets the rows that a user may see; how many there were.
    pub(crate) fn reset(&self, viewer: &Viewer) -> usize {
        self.queries.reset(|row| viewer.sees(&row.principal))
    }

    /// Sets the gauges.
    pub(crate) fn gauge(&self) {
        let metrics = &self.metrics.sight;
        let (rows, gone) = self.queries.size();
        metrics.queries.set(rows as i64);
        metrics.bytes.set(self.queries.bytes() as i64);
        for level in [Level::Info, Level::Warning, Level::Critical, Level::Emergency] {
            metrics.active.with_label_values(&[level.word()]).set(self.alerts.count(level) as i64);
        }
        metrics.cpu.inc_by((self.resources.cpu_seconds() - metrics.cpu.get()).max(0.0));
        if let Some(now) = self.resources.latest(1).first() {
            let used = [
                ("memory_bytes", now.process_memory),
                ("threads", now.threads.into()),
                ("open_files", now.files.into()),
            ];
            for (resource, count) in used {
                metrics.process.with_label_values(&[resource]).set(count as i64);
            }
        }
        metrics.forgotten.inc_by(gone.saturating_sub(metrics.forgotten.get()));
        let calls = self.queries.others().calls.load(Ordering::Relaxed);
        metrics.forgotten_calls.inc_by(calls.saturating_sub(metrics.forgotten_calls.get()));
    }
}

/// A baseline as it is shown.
pub(crate) struct Shown {
    pub(crate) subject: baseline::Subject,
    pub(crate) baseline: Baseline,
    /// The median of late, and how many times the baseline that is.
    pub(crate) now: Option<(u64, f64)>,
    pub(crate) level: Option<Level>,
}

/// Who wants to see something.
pub(crate) struct Viewer {
    /// Whose own is shown.
    principal: [u8; 32],
    user: Box<str>,
    /// Others' too.
    all: bool,
}

impl Viewer {
    /// A user that is logged in.
    pub(crate) fn of(principal: &Principal, config: &Config) -> Self {
        let names = config
            .sight
            .observers
            .iter()
            .flat_map(|names| names.split(','))
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let all = names.into_iter().any(|name| name == principal.name);
        Self { principal: principal.id, user: principal.name.as_str().into(), all }
    }

    /// Who may see all: whoever has been let in by the admin port.
    pub(crate) fn of_all() -> Self {
        Self { principal: [0; 32], user: Box::default(), all: true }
    }

    /// Whether what anybody has done is shown.
    pub(crate) fn sees_all(&self) -> bool {
        self.all
    }

    /// Whether what a user of this name has done is shown.
    pub(crate) fn sees_user(&self, user: &str) -> bool {
        self.all || (*self.user == *user && !user.is_empty())
    }

    /// Whether what this principal has done is shown.
    pub(crate) fn sees(&self, principal: &[u8; 32]) -> bool {
        self.all || *principal == self.principal
    }
}
