//! Answers on their way that may be kept, and those who wait for them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::entry::{Answer, Entry};
use super::ledger::{Basis, Ledger};
use super::source::Source;
use super::verify::Suspect;
use super::{Cache, Key, Policy, Question};
use crate::bookmark::Bookmark;
use crate::config::{self, Consistency};
use crate::session::Shared;
use crate::statement::Statement;

/// One request that several clients wait for.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Closed when it is over.
    over: Semaphore,
    landed: OnceLock<Landed>,
    followers: AtomicUsize,
}

/// What a request has brought for those who waited.
#[derive(Debug)]
pub(crate) struct Landed {
    /// The answer.
    pub(crate) answer: Arc<Answer>,
    /// Neo4j's own bookmark for it.
    pub(crate) bookmark: Arc<str>,
    /// It was sent behind this moment.
    sent: Instant,
    /// The id that it waited for.
    carried: Option<i64>,
    kept: bool,
}

impl Landed {
    /// True if it was asked for before it was sent: it is what that question's own run could have given.
    pub(crate) fn answers(&self, question: &Question) -> bool {
        question.asked <= self.sent && question.reached.is_none_or(|id| Some(id) <= self.carried)
    }

    /// It may be found in the cache now.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }
}

impl Flight {
    pub(super) fn new() -> Self {
        Self { over: Semaphore::new(0), landed: OnceLock::new(), followers: AtomicUsize::new(0) }
    }

    pub(super) fn follow(&self) {
        self.followers.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for its end.
    pub(crate) async fn over(self: Arc<Self>) -> Arc<Self> {
        let _ = self.over.acquire().await;
        self
    }

    /// What it has brought; none if it failed.
    pub(crate) fn landed(&self) -> Option<&Landed> {
        self.landed.get()
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
    /// How often its text's answers had been forgotten by hand.
    pub(super) epoch: u64,
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
    pub(super) statement: Arc<Statement>,
    pub(super) policy: Policy,
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
    /// An answer that would have been served: this one is to be the same.
    pub(crate) suspect: Option<Suspect>,
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

    /// It is whole: those who wait for it get it, and it is kept if it is worth it and surely right.
    pub(crate) fn keep(mut self, shared: &Arc<Shared>) {
        let config = shared.config.load();
        let outcome = self.try_keep(shared, &config.cache);
        let outcome = outcome.err().unwrap_or("kept");
        shared.metrics.cache.fills.with_label_values(&[outcome]).inc();
        self.statement.cached.note(outcome);
    }

    /// True if somebody waits for it, or it was asked for before.
    fn is_wanted(&self, cache: &Cache) -> bool {
        let followed = |leading: &Leading| leading.flight.followers.load(Ordering::Relaxed) > 0;
        self.policy.always || self.leading.as_ref().is_some_and(followed) || cache.is_asked_again(&self.key)
    }

    fn try_keep(&mut self, shared: &Arc<Shared>, config: &config::Cache) -> Result<(), &'static str> {
        let cost = self.since.elapsed();
        // Most of what is asked once is never asked again: it is not even looked at.
        if self.ground.is_some() && self.suspect.is_none() && !self.is_wanted(&shared.cache) {
            return Err("asked once");
        }
        let read = Answer::read(&self.wire, self.led, self.followed, config.compress_above);
        let (answer, bookmark) = read.ok_or("not a whole answer")?;
        let (answer, bookmark) = (Arc::new(answer), Arc::<str>::from(bookmark));
        if let Some(suspect) = self.suspect.take() {
            suspect.compare(&answer, &bookmark, &self.statement, shared);
        }
        if let Some(objection) = answer.objection() {
            return Err(objection);
        }
        let carried = self.ground.as_ref().map(|ground| ground.carried);
        let kept = self.insert(shared, config, &answer, &bookmark, cost);
        if let Some(leading) = self.leading.take() {
            let landed = Landed { answer, bookmark, sent: self.since, carried, kept: kept.is_ok() };
            let _ = leading.flight.landed.set(landed);
        }
        kept
    }

    fn insert(
        &mut self,
        shared: &Arc<Shared>,
        config: &config::Cache,
        answer: &Arc<Answer>,
        bookmark: &Arc<str>,
        cost: Duration,
    ) -> Result<(), &'static str> {
        let id = Bookmark::parse(bookmark).ok_or("bookmark of another form")?;
        let cache = &shared.cache;
        let ground = self.ground.take().filter(|ground| ground.ledger.database == id.database);
        let Some(ground) = ground else {
            // The first read of the database; or its name means another one now.
            if let Some(ledger) = cache.ledger(id.database) {
                ledger.seen(id.transaction);
                self.source.knows(ledger);
            }
            return Err("first read of the database");
        };
        ground.ledger.seen(id.transaction);
        ground.ledger.is_called(answer.database());
        if id.transaction != ground.carried && self.policy.consistency != Consistency::Ttl {
            return Err("a commit came between");
        }
        let probed = self.policy.consistency == Consistency::Strict && !self.policy.always;
        if probed && cost <= self.source.usual() {
            return Err("cheaper than a probe");
        }
        let entry = Entry {
            answer: Arc::clone(answer),
            statement: Arc::clone(&self.statement),
            ledger: ground.ledger,
            basis: ground.basis,
            epoch: ground.epoch,
            id: id.transaction,
            bookmark: Arc::clone(bookmark),
            since: Instant::now(),
            cost,
            proved: AtomicU64::new(0),
        };
        cache.insert(std::mem::take(&mut self.key), entry, config)
    }
}
