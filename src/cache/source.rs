//! Where readings of one database come from: a connection that asks again and again for the newest transaction id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::packstream::{MapView, encode};
use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::ledger::{Ledger, Span};
use crate::bookmark::Bookmark;
use crate::coalesce::next_summary;
use crate::session::Shared;
use crate::upstream::{Connection, Lease, Need};

/// A source that nobody asks gives its connection back after this.
const IDLE: Duration = Duration::from_secs(1);
/// A probe that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(1);
/// After this a source takes another connection, so that the pool's rules for old ones hold.
const HELD: Duration = Duration::from_secs(60);
/// Most bytes of a probe's answer.
const ANSWER: usize = 64 << 10;

/// The newest id of a database at some moment.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The database.
    pub(crate) ledger: Arc<Ledger>,
    /// What was settled then.
    pub(crate) span: Span,
    /// Neo4j's own bookmark for it.
    pub(crate) bookmark: Arc<str>,
    /// When its probe was sent.
    pub(crate) sent: Instant,
}

impl Reading {
    /// The newest id.
    pub(crate) fn newest(&self) -> i64 {
        self.span.newest
    }
}

type Waiter = oneshot::Sender<Option<Arc<Reading>>>;

#[derive(Default)]
struct Line {
    waiting: Vec<Waiter>,
    running: bool,
}

/// One database, as clients name it.
pub(crate) struct Source {
    need: Need,
    line: Mutex<Line>,
    arrived: Notify,
    latest: ArcSwapOption<Reading>,
    /// The database that it is, as far as an answer has told.
    ledger: ArcSwapOption<Ledger>,
    /// Until when the background asks, in milliseconds since `epoch`.
    wanted: AtomicI64,
    epoch: Instant,
    /// How long a probe takes, smoothed, in nanoseconds.
    took: AtomicU64,
    /// Neo4j was lost: what was kept until then counts for nothing once it answers again.
    lost: AtomicBool,
}

impl Source {
    pub(super) fn new(need: Need) -> Self {
        Self {
            need,
            line: Mutex::default(),
            arrived: Notify::new(),
            latest: ArcSwapOption::empty(),
            ledger: ArcSwapOption::empty(),
            wanted: AtomicI64::new(-1),
            epoch: Instant::now(),
            took: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// True if it is the one that this user means by this name.
    pub(crate) fn is_for(&self, principal: &[u8; 32], database: Option<&str>) -> bool {
        self.need.access.database.as_deref() == database
            && (database.is_some() || self.need.principal.id == *principal)
    }

    /// The last reading.
    pub(crate) fn latest(&self) -> Option<Arc<Reading>> {
        self.latest.load_full()
    }

    /// The database that it is, if that is known.
    pub(crate) fn ledger(&self) -> Option<Arc<Ledger>> {
        self.ledger.load_full()
    }

    /// An answer told which database it is.
    pub(super) fn knows(&self, ledger: Arc<Ledger>) {
        self.ledger.store(Some(ledger));
    }

    /// True if it was asked for lately.
    pub(super) fn is_recent(&self) -> bool {
        self.line.lock().running
    }

    /// How long a probe takes; zero if none was made.
    pub(crate) fn usual(&self) -> Duration {
        Duration::from_nanos(self.took.load(Ordering::Relaxed))
    }

    /// A reading whose probe is sent after this call; one probe serves all who wait for it. `None` if there is none.
    pub(crate) fn fresh(self: &Arc<Self>, shared: &Arc<Shared>) -> oneshot::Receiver<Option<Arc<Reading>>> {
        let (sender, receiver) = oneshot::channel();
        let mut line = self.line.lock();
        line.waiting.push(sender);
        if line.running {
            drop(line);
            self.arrived.notify_one();
        } else {
            line.running = true;
            drop(line);
            tokio::spawn(Arc::clone(self).run(Arc::clone(shared)));
        }
        receiver
    }

    /// Readings no older than `cache.max_staleness` are wanted for a while.
    pub(crate) fn keep_fresh(self: &Arc<Self>, shared: &Arc<Shared>) {
        let now = self.now();
        let until = now + IDLE.as_millis() as i64;
        let before = self.wanted.load(Ordering::Relaxed);
        // Now and then is enough.
        if before - now < IDLE.as_millis() as i64 / 2 {
            self.wanted.fetch_max(until, Ordering::Relaxed);
            if before < now {
                drop(self.fresh(shared));
            }
        }
    }

    fn now(&self) -> i64 {
        self.epoch.elapsed().as_millis() as i64
    }

    /// Probes while there is somebody to probe for.
    async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut lease = None;
        let mut since = Instant::now();
        loop {
            if since.elapsed() > HELD {
                (lease, since) = (None, Instant::now());
            }
            let waiting = std::mem::take(&mut self.line.lock().waiting);
            let reading = self.once(&mut lease, &shared).await;
            if reading.is_none() {
                shared.metrics.cache.probe_failures.inc();
                if self.latest.swap(None).is_some() {
                    self.lost.store(true, Ordering::Relaxed);
                }
                if shared.config.load().cache.stale_if_error.is_zero() {
                    self.forget(&shared);
                }
            }
            self.latest.store(reading.clone());
            for waiter in waiting {
                let _ = waiter.send(reading.clone());
            }
            if !self.somebody_waits(&shared, reading.is_some()).await {
                return;
            }
        }
    }

    /// What was kept before Neo4j was lost is given up. With `stale_if_error` that has time until it answers again.
    fn forget(&self, shared: &Shared) {
        if self.lost.swap(false, Ordering::Relaxed)
            && let Some(ledger) = self.ledger()
        {
            ledger.forget();
            shared.metrics.cache.cleared("lost");
        }
    }

    /// Waits for the next reason to probe; false if there was none for long.
    async fn somebody_waits(&self, shared: &Shared, well: bool) -> bool {
        loop {
            let arrived = self.arrived.notified();
            if !self.line.lock().waiting.is_empty() {
                return true;
            }
            let wanted = well && self.now() < self.wanted.load(Ordering::Relaxed);
            let pause = if wanted { shared.config.load().cache.max_staleness / 2 } else { IDLE };
            if timeout(pause, arrived).await.is_ok() {
                continue;
            }
            if wanted {
                return true;
            }
            let mut line = self.line.lock();
            if line.waiting.is_empty() {
                line.running = false;
                return false;
            }
        }
    }

    /// One probe; without a connection or an answer there is none.
    async fn once(&self, lease: &mut Option<Lease>, shared: &Shared) -> Option<Arc<Reading>> {
        let begun = Instant::now();
        let probed = timeout(LONGEST, async {
            if lease.is_none() {
                *lease = shared.upstream.lease(&self.need).await.ok();
            }
            self.probe(lease.as_mut()?.connection_mut(), shared).await
        });
        let reading = probed.await.ok().flatten();
        if reading.is_none() {
            if let Some(lease) = lease.take() {
                lease.discard();
            }
            return None;
        }
        let took = begun.elapsed();
        shared.metrics.cache.probe_seconds.observe(took.as_secs_f64());
        let (before, now) = (self.took.load(Ordering::Relaxed), took.as_nanos() as u64);
        self.took.store(if before == 0 { now } else { before - before / 8 + now / 8 }, Ordering::Relaxed);
        reading.map(Arc::new)
    }

    /// An empty transaction: its bookmark is the newest id.
    async fn probe(&self, connection: &mut Connection, shared: &Shared) -> Option<Reading> {
        let known = self.latest.load_full().map(|reading| Arc::clone(&reading.ledger));
        let before = known.as_ref().map(|ledger| ledger.before()).unwrap_or_default();
        let moment = shared.cache.commits.moment();
        let sent = Instant::now();
        connection.queue_with(Tag::BEGIN, false, |out| self.put_begin(out));
        connection.queue_with(Tag::COMMIT, false, |out| {
            chunk::put_message(out, |out| out.put_slice(&[0xB0, Tag::COMMIT.0]));
        });
        let begun = next_summary(connection, shared, ANSWER).await.ok()?;
        let committed = next_summary(connection, shared, ANSWER).await.ok()?;
        connection.inbuf.rest(&shared.buffers);
        let committed = begun.and(committed).ok()?;
        let text = MapView::parse(&committed).ok()?.string("bookmark")?.to_owned();
        let bookmark = Bookmark::parse(&text)?;
        let ledger = match known.filter(|ledger| ledger.database == bookmark.database) {
            Some(ledger) => ledger,
            None => shared.cache.ledger(bookmark.database)?,
        };
        self.forget(shared);
        let step = ledger.reading(bookmark.transaction, &shared.cache.commits, moment, before);
        if known_not(&self.ledger, &ledger) {
            self.knows(Arc::clone(&ledger));
        }
        if step.cleared {
            shared.metrics.cache.cleared("unexplained");
        }
        Some(Reading { ledger, span: step.span, bookmark: text.into(), sent })
    }

    fn put_begin(&self, out: &mut BytesMut) {
        chunk::put_message(out, |out| {
            out.put_slice(&[0xB1, Tag::BEGIN.0]);
            let database = self.need.access.database.as_deref();
            encode::map_header(1 + usize::from(database.is_some()), out);
            encode::string("mode", out);
            encode::string("r", out);
            if let Some(database) = database {
                encode::string("db", out);
                encode::string(database, out);
            }
        });
    }
}

fn known_not(known: &ArcSwapOption<Ledger>, ledger: &Arc<Ledger>) -> bool {
    !known.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, ledger))
}
