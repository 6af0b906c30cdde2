//! Answers on their way that may be kept, and those who wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bytes::{BufMut, BytesMut};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::entry::{Answer, Entry};
use super::ledger::{Basis, Ledger};
use super::source::Source;
use super::{Cache, Key};
use crate::bookmark::Bookmark;
use crate::config::{self, Consistency};
use crate::session::Shared;

/// One request that several clients wait for.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Closed when it is over.
    over: Semaphore,
    kept: AtomicBool,
    followers: AtomicUsize,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self { over: Semaphore::new(0), kept: AtomicBool::new(false), followers: AtomicUsize::new(0) }
    }

    pub(super) fn follow(&self) {
        self.followers.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for its end; true if its answer was kept.
    pub(crate) async fn over(self: Arc<Self>) -> bool {
        let _ = self.over.acquire().await;
        self.kept.load(Ordering::Acquire)
    }
}

/// The one that runs for all. Whatever becomes of it, the others go on.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(super) cache: Arc<Cache>,
    pub(super) key: Key,
    pub(super) flight: Arc<Flight>,
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.cache.land(&self.key);
        self.flight.over.close();
    }
}

/// What the answer to a read will depend on.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(super) ledger: Arc<Ledger>,
    pub(super) basis: Basis,
    /// The newest id that the read waits for: the answer is kept only if this is the newest one behind it too.
    pub(super) carried: i64,
}

impl Ground {
    /// The id that the read waits for.
    pub(crate) fn bookmark(&self) -> Bookmark {
        Bookmark { database: self.ledger.database, transaction: self.carried }
    }
}

/// An answer on its way that may be kept.
pub(crate) struct Filling {
    pub(super) key: Key,
    pub(super) source: Arc<Source>,
    pub(crate) ground: Option<Ground>,
    pub(super) leading: Option<Leading>,
    pub(super) wire: BytesMut,
    pub(super) most: usize,
    /// A BEGIN's answer comes first.
    pub(crate) led: bool,
    /// A COMMIT's answer comes last.
    pub(crate) followed: bool,
    pub(super) since: Instant,
    pub(super) runs: u32,
}

impl Filling {
    /// Counts a statement of its transaction; true for the first one.
    pub(crate) fn is_first(&mut self) -> bool {
        self.runs += 1;
        self.runs == 1
    }

    /// Its transaction waited for this id, not for the newest.
    pub(crate) fn carry(&mut self, carried: Option<Bookmark>) {
        self.ground = self.ground.take().zip(carried).and_then(|(ground, carried)| {
            let same = ground.ledger.database == carried.database;
            same.then_some(Ground { carried: carried.transaction, ..ground })
        });
    }

    /// Takes what Neo4j has sent; false if it is too much to be kept.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> bool {
        if self.wire.len() + bytes.len() > self.most {
            return false;
        }
        self.wire.put_slice(bytes);
        true
    }

    /// It is whole: kept if it is worth it and surely right.
    pub(crate) fn keep(mut self, shared: &Arc<Shared>) {
        let config = shared.config.load();
        let outcome = self.try_keep(shared, &config.cache);
        let metrics = &shared.metrics.cache;
        metrics.fills.with_label_values(&[outcome.err().unwrap_or("kept")]).inc();
        if outcome.is_ok()
            && let Some(leading) = &self.leading
        {
            leading.flight.kept.store(true, Ordering::Release);
        }
        self.leading = None;
    }

    fn try_keep(&mut self, shared: &Arc<Shared>, config: &config::Cache) -> Result<(), &'static str> {
        let cost = self.since.elapsed();
        let read = Answer::read(&self.wire, self.led, self.followed, config.compress_above);
        let (answer, bookmark) = read.ok_or("not a whole answer")?;
        let id = Bookmark::parse(&bookmark).ok_or("bookmark of another form")?;
        let cache = &shared.cache;
        let Some(ground) = self.ground.take() else {
            if let Some(ledger) = cache.ledger(id.database) {
                ledger.seen(id.transaction);
                self.source.knows(ledger);
            }
            return Err("first read of the database");
        };
        if ground.ledger.database != id.database {
            // The name means another database now.
            if let Some(ledger) = cache.ledger(id.database) {
                ledger.seen(id.transaction);
                self.source.knows(ledger);
            }
            return Err("another database");
        }
        ground.ledger.seen(id.transaction);
        let timed = config.consistency == Consistency::Ttl;
        if id.transaction != ground.carried && !timed {
            return Err("a commit came between");
        }
        if let Some(objection) = answer.objection() {
            return Err(objection);
        }
        let followed =
            self.leading.as_ref().map_or(0, |leading| leading.flight.followers.load(Ordering::Relaxed));
        if followed == 0 && !cache.is_asked_again(&self.key) {
            return Err("asked once");
        }
        if config.consistency == Consistency::Strict && cost <= self.source.usual() {
            return Err("cheaper than a probe");
        }
        let entry = Entry {
            answer,
            ledger: ground.ledger,
            basis: ground.basis,
            id: id.transaction,
            bookmark: bookmark.into(),
            since: Instant::now(),
            cost,
            hits: AtomicU32::new(0),
            proved: AtomicU64::new(0),
        };
        cache.insert(std::mem::take(&mut self.key), entry, config)
    }
}
