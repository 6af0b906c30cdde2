//! The embedded graph (grafeo, in memory): statements in, rows in Bolt's values out, one writer at a time.
//!
//! The engine's MERGE is not safe under concurrency (four threads made 60 nodes of 20 keys, in spite of a UNIQUE constraint), so whoever
//! writes holds the only writer's place from its first write to its commit. An engine transaction begins with the first write, when the
//! place is held, so it always sees the newest commit: reads before it see what is committed at their time, as in Neo4j.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bolt_wire::message::Failure;
use bolt_wire::packstream::Value;
use grafeo_engine::{Config, GrafeoDB, Session};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use tokio::time::timeout;

use super::refusal::{broken, busy, from_engine};
use super::schema::Schema;
use super::statement::{Kind, Prepared};

/// The graph, shared by all connections.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    db: GrafeoDB,
    writer: Arc<AsyncMutex<()>>,
    workers: Semaphore,
    schema: Mutex<Schema>,
    commits: AtomicU64,
    waits: Waits,
}

/// How long anything waits.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For the writer's place.
    pub writer: Duration,
    /// For a thread to run a statement on.
    pub worker: Duration,
    /// For a statement's own work.
    pub statement: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { writer: 30 * second, worker: 30 * second, statement: 60 * second }
    }
}

/// Statements that run at the same time.
const WORKERS: usize = 16;

impl Engine {
    /// An empty graph.
    pub fn new(waits: Waits) -> anyhow::Result<Self> {
        let db = GrafeoDB::with_config(Config::in_memory().with_query_timeout(waits.statement))?;
        let shared = Shared {
            db,
            writer: Arc::default(),
            workers: Semaphore::new(WORKERS),
            schema: Mutex::default(),
            commits: AtomicU64::new(1),
            waits,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The number of the newest commit.
    pub(super) fn newest_commit(&self) -> u64 {
        self.shared.commits.load(Ordering::Acquire)
    }

    /// A place to run statements in, for one connection.
    pub(super) fn desk(&self) -> Desk {
        Desk { shared: Arc::clone(&self.shared), held: None }
    }
}

/// What a statement gave.
#[derive(Debug)]
pub(super) struct Rows {
    /// The columns.
    pub(super) keys: Vec<String>,
    /// The rows.
    pub(super) rows: Vec<Vec<Value>>,
    /// Bolt's `type`.
    pub(super) kind: &'static str,
    /// Bolt's `stats`: dashed names, only what is not 0.
    pub(super) counters: Vec<(&'static str, u64)>,
}

/// The engine's side of one connection. While something is written it holds the writer's place; dropping it rolls back.
pub(super) struct Desk {
    shared: Arc<Shared>,
    held: Option<Held>,
}

/// A session, with the writer's place while it writes. Fields drop in this order: the roll-back comes before the place is free.
struct Held {
    session: Session,
    place: Option<OwnedMutexGuard<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // After a panic of the engine nothing of it is trusted, and a second panic would end the process.
        if self.place.is_some() && self.session.in_transaction() && !std::thread::panicking() {
            let _ = self.session.rollback();
        }
    }
}

impl Desk {
    /// Runs a statement. What it writes is seen by others after `commit`.
    pub(super) async fn run(&mut self, prepared: Prepared) -> Result<Rows, Failure> {
        if let Kind::Schema(command) = prepared.kind {
            let shared = Arc::clone(&self.shared);
            let place = self.writers_place().await?;
            return self
                .on_worker(move || {
                    let _place = place;
                    let counters = shared.schema.lock().apply(&command, &shared.db)?;
                    Ok(Rows { keys: Vec::new(), rows: Vec::new(), kind: "s", counters })
                })
                .await;
        }
        let mut held = self.held.take().unwrap_or_else(|| self.new_session());
        if prepared.kind.writes() && held.place.is_none() {
            held.place = Some(self.writers_place().await?);
            held.session.begin_transaction().map_err(|error| from_engine(&error))?;
        }
        let (held, rows) = self
            .on_worker(move || {
                let rows = execute(&held.session, prepared);
                Ok((held, rows))
            })
            .await?;
        // A failed statement ends its transaction at once, so that others can write.
        let rows = rows?;
        self.held = Some(held);
        Ok(rows)
    }

    /// Makes everything that was written here seen; gives the number of the newest commit.
    pub(super) async fn commit(&mut self) -> Result<u64, Failure> {
        let commits = |shared: &Shared| shared.commits.load(Ordering::Acquire);
        let Some(mut held) = self.held.take_if(|held| held.place.is_some()) else {
            return Ok(commits(&self.shared));
        };
        let shared = Arc::clone(&self.shared);
        self.on_worker(move || {
            held.session.commit().map_err(|error| from_engine(&error))?;
            shared.commits.fetch_add(1, Ordering::AcqRel);
            drop(held);
            Ok(())
        })
        .await?;
        Ok(commits(&self.shared))
    }

    /// Forgets everything that was written here and frees the writer's place.
    pub(super) fn rollback(&mut self) {
        self.held = None;
    }

    fn new_session(&self) -> Held {
        Held { session: self.shared.db.session(), place: None }
    }

    async fn writers_place(&self) -> Result<OwnedMutexGuard<()>, Failure> {
        let wait = self.shared.waits.writer;
        timeout(wait, Arc::clone(&self.shared.writer).lock_owned()).await.map_err(|_| {
            busy(
                "Neo.TransientError.Transaction.LockAcquisitionTimeout",
                format!("Sidebolt demo: another transaction has been writing for {wait:?}; try again"),
            )
        })
    }

    /// Runs `work` on a blocking thread. If the caller is dropped, the work ends on its own and what it holds is rolled back.
    async fn on_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let wait = self.shared.waits.worker;
        let no_worker = || {
            let code = "Neo.TransientError.Request.NoThreadsAvailable";
            busy(code, format!("Sidebolt demo: {WORKERS} statements are running; try again"))
        };
        let permit = timeout(wait, self.shared.workers.acquire()).await.map_err(|_| no_worker())?;
        let _permit = permit.map_err(|_| no_worker())?;
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err(broken("the engine panicked on this statement; nothing of it was kept")),
        }
    }
}

fn execute(session: &Session, prepared: Prepared) -> Result<Rows, Failure> {
    let result = session
        .execute_cypher_with_params(&prepared.text, prepared.parameters)
        .map_err(|error| from_engine(&error))?;
    let counters = counters(&result.counters);
    let kind = prepared.kind.name();
    let Some(columns) = prepared.columns else {
        return Ok(Rows { keys: Vec::new(), rows: Vec::new(), kind, counters });
    };
    let keys = columns.names(&result.columns)?;
    columns.agree(&result.column_types)?;
    let row = |row: &Vec<grafeo_common::types::Value>| {
        row.iter().enumerate().map(|(at, value)| columns.value(at, value, session)).collect()
    };
    let rows = result.rows().iter().map(row).collect::<Result<_, Failure>>()?;
    Ok(Rows { keys, rows, kind, counters })
}

fn counters(of: &grafeo_engine::database::WriteCounters) -> Vec<(&'static str, u64)> {
    let all = [
        ("nodes-created", of.nodes_created),
        ("nodes-deleted", of.nodes_deleted),
        ("relationships-created", of.edges_created),
        ("relationships-deleted", of.edges_deleted),
        ("properties-set", of.properties_set),
        ("labels-added", of.labels_added),
        ("labels-removed", of.labels_removed),
    ];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}
