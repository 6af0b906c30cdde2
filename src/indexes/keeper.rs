//! Makes sure of what `indexes` lists, in the background: neither start nor readiness waits for it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::known::{Listed, SHOW, State};
use super::statement::{self, Words};
use crate::config::{Config, Index};
use crate::session::Shared;
use crate::upstream::{Access, Key, Need, Principal, QueryError};

/// How often the configuration and what is due are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often an index that is being built is looked at.
const WATCH: Pace = Pace { first: Duration::from_millis(500), most: Duration::from_secs(10) };
/// How soon a server that cannot be reached is tried again.
const REACH: Pace = Pace { first: Duration::from_secs(1), most: Duration::from_secs(15) };
/// How soon what Neo4j refused is tried again: somebody has to change something first.
const RETRY: Pace = Pace { first: Duration::from_secs(10), most: Duration::from_secs(600) };

/// Makes sure of the indexes in the configuration, again when they change, and looks at those that somebody asks about; until the end.
pub(crate) async fn keep(shared: Arc<Shared>, end: CancellationToken) {
    let mut keeper = Keeper { shared: Arc::clone(&shared), indexes: Vec::new(), plans: Vec::new() };
    let work = async {
        let mut every = tokio::time::interval(TICK);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = shared.indexes.asked.notified() => {}
            }
            keeper.look().await;
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

/// A pause that doubles.
#[derive(Clone, Copy, PartialEq)]
struct Pace {
    first: Duration,
    most: Duration,
}

struct Keeper {
    shared: Arc<Shared>,
    /// As in the configuration that the plans were made from.
    indexes: Vec<Index>,
    plans: Vec<Plan>,
}

/// What one database is to have.
struct Plan {
    database: Option<Arc<str>>,
    entries: Vec<Entry>,
    /// When to look again; none = everything is there.
    due: Option<Instant>,
    /// Which pace it has, and for how many times in a row.
    pace: (Pace, u32),
    /// What was said already.
    said: HashSet<String>,
}

struct Entry {
    index: Index,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Missing,
    Populating(f64),
    Online,
    Failed,
}

impl Phase {
    const LABELS: [&str; 4] = ["missing", "populating", "online", "failed"];

    fn label(&self) -> &'static str {
        let [missing, populating, online, failed] = Self::LABELS;
        match self {
            Self::Missing => missing,
            Self::Populating(_) => populating,
            Self::Online => online,
            Self::Failed => failed,
        }
    }
}

impl Keeper {
    /// Does what is due.
    async fn look(&mut self) {
        let config = self.shared.config.load_full();
        if config.indexes != self.indexes {
            self.indexes.clone_from(&config.indexes);
            self.plans = plans(&config.indexes);
            self.count();
        }
        let mut plans = std::mem::take(&mut self.plans);
        for plan in &mut plans {
            if plan.due.is_some_and(|due| due <= Instant::now()) {
                plan.advance(&self.shared, &config).await;
            }
        }
        self.plans = plans;
        self.count();
        for database in self.shared.indexes.wanted() {
            let found = match principal(&self.shared, &config) {
                Some(principal) => list(&self.shared, &config, &principal, database.as_ref()).await,
                None => continue,
            };
            let found = found.inspect_err(|error| tracing::debug!(%error, "Indexes cannot be listed."));
            self.shared.indexes.learn(database, found.ok());
        }
    }

    /// Sets the metric.
    fn count(&self) {
        for label in Phase::LABELS {
            let entries = self.plans.iter().flat_map(|plan| &plan.entries);
            let count = entries.filter(|entry| entry.phase.label() == label).count();
            self.shared.metrics.indexes.with_label_values(&[label]).set(count as i64);
        }
    }
}

/// One plan for each database.
fn plans(indexes: &[Index]) -> Vec<Plan> {
    let mut databases: BTreeMap<Option<Arc<str>>, Vec<Entry>> = BTreeMap::new();
    for index in indexes {
        let entry = Entry { index: index.clone(), phase: Phase::Missing };
        databases.entry(index.database.as_deref().map(Arc::from)).or_default().push(entry);
    }
    let plan = |(database, entries)| Plan {
        database,
        entries,
        due: Some(Instant::now()),
        pace: (WATCH, 0),
        said: HashSet::new(),
    };
    databases.into_iter().map(plan).collect()
}

impl Plan {
    /// Makes what is missing, looks how far it is, and decides when to look again.
    async fn advance(&mut self, shared: &Shared, config: &Config) {
        let Some(principal) = principal(shared, config) else {
            let what = "Indexes wait for the login of a client: auth.username is not set.";
            if self.said.insert(what.to_owned()) {
                tracing::info!(database = self.database.as_deref(), what);
            }
            self.due = Some(Instant::now() + REACH.first);
            return;
        };
        let wait = match self.make(shared, config, &principal).await {
            Ok(()) if self.entries.iter().any(|e| matches!(e.phase, Phase::Missing | Phase::Failed)) => RETRY,
            Ok(()) if self.entries.iter().all(|entry| entry.phase == Phase::Online) => {
                self.due = None;
                return;
            }
            Ok(()) => WATCH,
            Err(error) => {
                let (hint, pace) = match &error {
                    QueryError::Connection(_) => ("check that Neo4j runs", REACH),
                    QueryError::Refused { code, .. } => (what_to_do(code), RETRY),
                };
                if self.said.insert(error.to_string()) {
                    let database = self.database.as_deref();
                    tracing::warn!(database, %error, hint, "Indexes cannot be made sure of now; Sidebolt tries again.");
                }
                pace
            }
        };
        let (pace, times) = self.pace;
        self.pace = (wait, if pace == wait { times + 1 } else { 0 });
        let pause = wait.first.saturating_mul(1 << self.pace.1.min(16)).min(wait.most);
        // Many sidecars that start together should not ask together.
        self.due = Some(Instant::now() + pause.mul_f64(1.0 - 0.2 * fastrand::f64()));
    }

    /// Runs the statements of what is not there, and takes over how far each is. An error concerns the whole database.
    async fn make(
        &mut self,
        shared: &Shared,
        config: &Config,
        principal: &Arc<Principal>,
    ) -> Result<(), QueryError> {
        let listed = list(shared, config, principal, self.database.as_ref()).await?;
        self.take_over(&listed);
        let missing = |entry: &Entry| entry.phase == Phase::Missing;
        if !self.entries.iter().any(missing) {
            shared.indexes.learn(self.database.clone(), Some(listed));
            return Ok(());
        }
        let mut refused = HashSet::new();
        for at in 0..self.entries.len() {
            if !missing(&self.entries[at]) {
                continue;
            }
            match self.create(at, shared, config, principal).await {
                Err(QueryError::Refused { code, message }) => {
                    refused.insert(at);
                    self.complain(at, &format!("{code}: {message}"), what_to_do(&code));
                }
                other => other?,
            }
        }
        let listed = list(shared, config, principal, self.database.as_ref()).await?;
        self.take_over(&listed);
        shared.indexes.learn(self.database.clone(), Some(listed));
        for at in 0..self.entries.len() {
            if missing(&self.entries[at]) && !refused.contains(&at) {
                // IF NOT EXISTS does nothing if the name belongs to another one.
                let error = "Neo4j made none: its name belongs to another index or constraint";
                self.complain(at, error, "choose another name, or drop the other");
            }
        }
        Ok(())
    }

    /// Runs the statement of one entry; meanwhile looks how far it is, because a constraint answers only when its index is built.
    async fn create(
        &mut self,
        at: usize,
        shared: &Shared,
        config: &Config,
        principal: &Arc<Principal>,
    ) -> Result<(), QueryError> {
        let database = self.database.clone();
        let text = statement::create(&self.entries[at].index);
        let need = need(shared, principal, database.as_ref()).await;
        let watch = async {
            loop {
                tokio::time::sleep(WATCH.first * 4).await;
                if let Ok(listed) = list(shared, config, principal, database.as_ref()).await {
                    self.take_over(&listed);
                }
            }
        };
        tokio::select! {
            made = shared.upstream.query(&need, &text, config, &shared.buffers) => made.map(drop),
            () = watch => Ok(()),
        }
    }

    /// Takes over how far each is, and says what is new.
    fn take_over(&mut self, listed: &[Listed]) {
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            let found = listed.iter().find(|listed| listed.is(&entry.index));
            let phase = match found.map(|found| found.state) {
                None => Phase::Missing,
                Some(State::Online) => Phase::Online,
                Some(State::Failed) => Phase::Failed,
                Some(State::Populating(percent)) => Phase::Populating(percent),
            };
            if phase == entry.phase {
                continue;
            }
            entry.phase = phase;
            match (&entry.phase, found) {
                (Phase::Online, _) => {
                    tracing::info!(index = %Words(&entry.index), "An index is online.")
                }
                (Phase::Populating(percent), _) => {
                    let percent = percent.round();
                    tracing::info!(index = %Words(&entry.index), percent, "An index is being built.");
                }
                (Phase::Failed, Some(found)) => {
                    let hint = format!(
                        "correct the data, then drop it (DROP INDEX {}) and it is made anew",
                        found.name
                    );
                    let failure = found.failure.clone();
                    self.complain(at, &failure, &hint);
                }
                _ => {}
            }
        }
    }

    /// Tells the operator, once, what has to be done.
    fn complain(&mut self, at: usize, error: &str, hint: &str) {
        let index = Words(&self.entries[at].index).to_string();
        if self.said.insert(format!("{index} {error}")) {
            tracing::error!(
                index,
                error,
                hint,
                "An index cannot be made; Sidebolt tries again now and then."
            );
        }
    }
}

/// What an operator can do about a refusal.
fn what_to_do(code: &str) -> &'static str {
    match code.rsplit('.').next().unwrap_or_default() {
        "ConstraintCreationFailed" | "ConstraintValidationFailed" | "IndexEntryConflict" => {
            "remove the duplicates from the data, or take unique: true out of indexes"
        }
        "IndexAlreadyExists" | "EquivalentSchemaRuleAlreadyExists" => {
            "drop the index that stands in the way, or take unique: true out of indexes"
        }
        "Forbidden" => "give auth.username a role that may manage indexes and constraints",
        "Unauthorized" => "correct auth.username and auth.password",
        "DatabaseNotFound" => "correct database in indexes, or create the database",
        _ => "correct indexes in the configuration, or what Neo4j complains about",
    }
}

/// In whose name: `auth.username`, or else who Neo4j has accepted last.
fn principal(shared: &Shared, config: &Config) -> Option<Arc<Principal>> {
    match &config.auth.username {
        Some(_) => Some(shared.identities.service(&config.auth)),
        None => shared.identities.proved_last(),
    }
}

/// What a statement of Sidebolt's own needs, in somebody's name.
pub(crate) async fn need(shared: &Shared, principal: &Arc<Principal>, database: Option<&Arc<str>>) -> Need {
    let offered = shared.upstream.offered().await;
    let version = offered.iter().max().copied().unwrap_or(bolt_wire::Version::V5_8);
    let bound = version.features().auth_in_hello.then_some(principal.account);
    let routing = shared.upstream.routing_context(None);
    Need {
        key: Arc::new(Key { principal: bound, routing, ..Key::plain(version) }),
        principal: Arc::clone(principal),
        access: Access { write: true, database: database.cloned(), ..Access::default() },
    }
}

/// All indexes of a database.
async fn list(
    shared: &Shared,
    config: &Config,
    principal: &Arc<Principal>,
    database: Option<&Arc<str>>,
) -> Result<Arc<[Listed]>, QueryError> {
    let need = need(shared, principal, database).await;
    let rows = shared.upstream.query(&need, SHOW, config, &shared.buffers).await?;
    Ok(rows.iter().filter_map(|row| Listed::read(row)).collect())
}
