//! The connections to one server: lent for one exchange, taken back when clean.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bolt_wire::client::Place;
use bolt_wire::{Tag, Version};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{ConnectError, Connector, Greeting};
use super::connection::Connection;
use super::key::Key;
use super::principal::Principal;
use super::{Access, Need};
use crate::buffers::Buffers;
use crate::config::Config;
use crate::failure::Refusal;
use crate::metrics::Metrics;

/// The pool of one server.
pub(crate) struct Pool {
    connector: Connector,
    config: Arc<ArcSwap<Config>>,
    buffers: Arc<Buffers>,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    greetings: Mutex<HashMap<(Version, bool), Greeting>>,
    offered: Mutex<Option<(Instant, Arc<[Version]>)>>,
    /// Leases at this moment: what least-connections routing compares.
    lent: AtomicUsize,
    /// Seconds; 0 = not heard yet.
    recv_timeout: AtomicU64,
    /// The kind of connection that clients asked for last: what is kept warm.
    warm_key: Mutex<Option<Arc<Key>>>,
}

#[derive(Default)]
struct Inner {
    /// Given back last stands last and is lent first.
    #[expect(
        clippy::vec_box,
        reason = "a connection moves between pool, lease and waiters: boxed, it moves as a pointer"
    )]
    idle: Vec<Box<Connection>>,
    /// Connections that exist or are being made.
    open: usize,
    waiting: VecDeque<oneshot::Sender<Handover>>,
}

/// What a waiting request is given.
enum Handover {
    /// A connection, of whatever kind.
    Connection(Box<Connection>, Slot),
    /// The right to make one.
    Slot(Slot),
}

/// A place in the queue. What is handed to somebody who gave up in the same moment goes to the next.
struct Turn(oneshot::Receiver<Handover>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.close();
        // A slot finds the next one by itself.
        if let Ok(Handover::Connection(connection, slot)) = self.0.try_recv()
            && let Some(pool) = slot.pool.clone()
        {
            pool.give_back(connection, slot);
        }
    }
}

/// The right to one of the pool's connections; dropping it lets another be made.
struct Slot {
    /// `None` once the right has passed to somebody else.
    pool: Option<Arc<Pool>>,
}

/// A borrowed connection. Dropped clean it goes back; dropped in the middle of something it is cleaned up first, or closed.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Box<Connection>>,
    slot: Option<Slot>,
}

/// How long an answer proves that a server is there.
const LOOK_TTL: Duration = Duration::from_secs(5);
/// How long what a server offers is believed.
const OFFER_TTL: Duration = Duration::from_secs(30);

impl Pool {
    /// An empty pool.
    pub(crate) fn new(
        connector: Connector,
        config: Arc<ArcSwap<Config>>,
        buffers: Arc<Buffers>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            connector,
            config,
            buffers,
            metrics,
            inner: Mutex::default(),
            greetings: Mutex::default(),
            offered: Mutex::default(),
            lent: AtomicUsize::new(0),
            recv_timeout: AtomicU64::new(0),
            warm_key: Mutex::default(),
        })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.connector.address
    }

    /// Connections lent at this moment.
    pub(crate) fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Connections open, idle, and requests waiting.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        // Those that gave up are still in the queue until their turn.
        let waiting = inner.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        (inner.open, inner.idle.len(), waiting)
    }

    /// The versions that the server offers; asked for again after a while.
    pub(crate) async fn offered(&self) -> Result<Arc<[Version]>, Refusal> {
        let known = self.offered.lock().clone();
        if let Some((when, versions)) = &known
            && when.elapsed() < OFFER_TTL
        {
            return Ok(Arc::clone(versions));
        }
        self.probe().await.or_else(|refusal| known.map(|(_, versions)| versions).ok_or(refusal))
    }

    /// Whether the server answers: it did a moment ago, or it does now.
    pub(crate) async fn look(&self) -> Result<(), Refusal> {
        let answered = self.offered.lock().as_ref().is_some_and(|(when, _)| when.elapsed() < LOOK_TTL);
        if answered { Ok(()) } else { self.probe().await.map(drop) }
    }

    /// Asks the server what it offers, whatever is known: the proof that it is there.
    pub(crate) async fn probe(&self) -> Result<Arc<[Version]>, Refusal> {
        let versions: Arc<[Version]> = self.connector.offered().await?.into();
        *self.offered.lock() = Some((Instant::now(), Arc::clone(&versions)));
        Ok(versions)
    }

    /// The versions that the server offered when it was asked last.
    pub(crate) fn offered_last(&self) -> Option<Arc<[Version]>> {
        self.offered.lock().as_ref().map(|(_, versions)| Arc::clone(versions))
    }

    /// The greeting of the server for a version, if a connection of it was made before.
    pub(crate) fn greeting(&self, version: Version, utc: bool) -> Option<Greeting> {
        self.greetings.lock().get(&(version, utc)).cloned()
    }

    /// A connection that can be used at once: the usual case, without waiting.
    pub(crate) fn try_lease(self: &Arc<Self>, need: &Need) -> Option<Lease> {
        let config = self.config.load();
        if !need.principal.is_proved(config.auth.cache_ttl) {
            return None;
        }
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if !inner.waiting.is_empty() {
            return None;
        }
        let fits = |c: &Connection| {
            c.key == need.key
                && c.principal.as_ref().is_some_and(|p| p.id == need.principal.id)
                && c.machine.is_clean()
                && c.expires > now
                && now.duration_since(c.last_used) < config.pool.connection_liveness_check_timeout
        };
        let at = inner.idle.iter().rposition(|c| fits(c))?;
        let connection = inner.idle.remove(at);
        drop(inner);
        let mut lease = Lease::new(self, connection, self.slot());
        if lease.connection_mut().is_stale() {
            self.metrics.pool_closed.with_label_values(&["dead"]).inc();
            lease.discard();
            return None;
        }
        Some(lease)
    }

    /// A connection that fits, waiting for one if need be, logged in as the right principal.
    pub(crate) async fn lease(self: &Arc<Self>, need: &Need) -> Result<Lease, ConnectError> {
        let deadline = Instant::now() + self.config.load().pool.connection_acquisition_timeout;
        self.lease_until(need, deadline).await
    }

    /// The same, waiting no longer than until `deadline`.
    pub(crate) async fn lease_until(
        self: &Arc<Self>,
        need: &Need,
        deadline: Instant,
    ) -> Result<Lease, ConnectError> {
        let started = Instant::now();
        // A connection that turns out to be dead costs one more turn; each turn takes one away, so this ends.
        loop {
            let handover = self.obtain(Some(need), started, deadline).await?;
            if let Some(lease) = self.prepare(handover, need).await? {
                self.metrics.pool_wait.observe(started.elapsed().as_secs_f64());
                return Ok(lease);
            }
            if Instant::now() >= deadline {
                return Err(self.too_late(started).into());
            }
        }
    }

    /// A connection made for the purpose of proving credentials (or of hearing the server's greeting), never a shared one.
    pub(crate) async fn fresh(
        self: &Arc<Self>,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
    ) -> Result<Lease, ConnectError> {
        let slot = self.obtain_slot().await?;
        let mut lease = self.connect(slot, key, principal).await?;
        if let Some(principal) = principal
            && key.version.features().reauth
        {
            self.connector.log_on(lease.connection_mut(), principal, &self.buffers).await?;
        }
        Ok(lease)
    }

    /// Neo4j's answer to a client's own HELLO; `None` if it only closes. Counts as a connection while it lasts.
    pub(crate) async fn greet(
        self: &Arc<Self>,
        version: Version,
        hello: &[u8],
    ) -> Result<Option<Vec<u8>>, ConnectError> {
        let _slot = self.obtain_slot().await?;
        Ok(self.connector.greet(version, hello).await?)
    }

    /// The right to make a connection that is not lent from the pool.
    async fn obtain_slot(self: &Arc<Self>) -> Result<Slot, ConnectError> {
        let started = Instant::now();
        let deadline = started + self.config.load().pool.connection_acquisition_timeout;
        match self.obtain(None, started, deadline).await? {
            Handover::Slot(slot) => Ok(slot),
            Handover::Connection(connection, slot) => {
                connection.close().await;
                Ok(slot)
            }
        }
    }

    /// The receive time-out that the server advertised last; none before any connection was made.
    pub(crate) fn recv_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.recv_timeout.load(Ordering::Relaxed)))
            .filter(|timeout| !timeout.is_zero())
    }

    /// An idle connection, or the right to make one, now or when one is given back. Without a need: any that makes room.
    async fn obtain(
        self: &Arc<Self>,
        need: Option<&Need>,
        started: Instant,
        deadline: Instant,
    ) -> Result<Handover, Refusal> {
        let (size, max_waiting) = {
            let pool = &self.config.load().pool;
            (pool.max_connection_pool_size, pool.max_waiting)
        };
        let mut turn = {
            let mut inner = self.inner.lock();
            if inner.waiting.is_empty()
                && let Some(handover) = self.obtain_now(&mut inner, need, size)
            {
                return Ok(handover);
            }
            if inner.waiting.len() >= max_waiting {
                // Those that gave up are still in the queue until their turn; they do not count.
                inner.waiting.retain(|waiting| !waiting.is_closed());
            }
            if inner.waiting.len() >= max_waiting {
                let waiting = inner.waiting.len();
                return Err(Refusal::QueueFull { address: self.address().to_owned(), waiting });
            }
            let (give, turn) = oneshot::channel();
            inner.waiting.push_back(give);
            Turn(turn)
        };
        match timeout_at(deadline, &mut turn.0).await {
            Ok(Ok(handover)) => Ok(handover),
            // The turn may have come at the very last moment.
            _ => turn.0.try_recv().map_err(|_| self.too_late(started)),
        }
    }

    fn too_late(&self, started: Instant) -> Refusal {
        let size = self.config.load().pool.max_connection_pool_size;
        Refusal::AcquisitionTimeout { address: self.address().to_owned(), waited: started.elapsed(), size }
    }

    fn obtain_now(self: &Arc<Self>, inner: &mut Inner, need: Option<&Need>, size: usize) -> Option<Handover> {
        if let Some(at) = need.and_then(|need| best_idle(&inner.idle, need)) {
            return Some(Handover::Connection(inner.idle.remove(at), self.slot()));
        }
        if inner.open < size {
            inner.open += 1;
            return Some(Handover::Slot(self.slot()));
        }
        // A connection of another kind makes room: the one that has been idle longest.
        if inner.idle.is_empty() {
            return None;
        }
        Some(Handover::Connection(inner.idle.remove(0), self.slot()))
    }

    /// Serves who waits if the pool may have become larger: nobody gives anything back then.
    fn grow(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        while inner.open < self.config.load().pool.max_connection_pool_size {
            let Some(waiting) = inner.waiting.pop_front() else { return };
            inner.open += 1;
            if let Err(Handover::Slot(slot)) = waiting.send(Handover::Slot(self.slot())) {
                inner.open -= 1;
                slot.keep();
            }
        }
    }

    fn slot(self: &Arc<Self>) -> Slot {
        Slot { pool: Some(Arc::clone(self)) }
    }

    /// Makes what was handed over fit: cleaned, alive, young enough, logged in. `None` = it was dead, try the next.
    async fn prepare(
        self: &Arc<Self>,
        handover: Handover,
        need: &Need,
    ) -> Result<Option<Lease>, ConnectError> {
        let (connection, slot) = match handover {
            Handover::Connection(connection, slot) => (connection, slot),
            Handover::Slot(slot) => return self.make(slot, need).await.map(Some),
        };
        let (ttl, check_after, reset_timeout) = {
            let config = self.config.load();
            let pool = &config.pool;
            (config.auth.cache_ttl, pool.connection_liveness_check_timeout, pool.reset_timeout)
        };
        let proved = need.principal.is_proved(ttl);
        let reauth = need.key.version.features().reauth;
        if connection.key != need.key || connection.expires <= Instant::now() || (!reauth && !proved) {
            self.metrics.pool_closed.with_label_values(&["replaced"]).inc();
            connection.close().await;
            return self.make(slot, need).await.map(Some);
        }
        let mut lease = Lease::new(self, connection, slot);
        let connection = lease.connection_mut();
        if connection.machine.is_clean()
            && (connection.is_stale() || self.is_dead(connection, check_after, reset_timeout).await)
        {
            self.metrics.pool_closed.with_label_values(&["dead"]).inc();
            lease.discard();
            return Ok(None);
        }
        // The answer to the RESET with which it was given back may still be on its way.
        if connection.machine.due() > 0
            && !matches!(
                timeout(reset_timeout, connection.drain(&self.buffers, |_, _, _| ())).await,
                Ok(Ok(()))
            )
            || !connection.machine.is_clean()
        {
            self.metrics.pool_closed.with_label_values(&["dead"]).inc();
            lease.discard();
            return Ok(None);
        }
        let same = connection.principal.as_ref().is_some_and(|p| p.id == need.principal.id);
        if reauth && !(same && proved) {
            self.metrics.pool_relogons.inc();
            match self.connector.log_on(connection, &need.principal, &self.buffers).await {
                Ok(()) => {}
                Err(error @ ConnectError::Failure(_)) => return Err(error),
                // It died at rest: another may live.
                Err(ConnectError::Refused(_)) => {
                    self.metrics.pool_closed.with_label_values(&["dead"]).inc();
                    return Ok(None);
                }
            }
        }
        Ok(Some(lease))
    }

    /// After a long rest a connection is tried with RESET before it is lent.
    async fn is_dead(&self, connection: &mut Connection, check_after: Duration, limit: Duration) -> bool {
        if connection.last_used.elapsed() < check_after {
            return false;
        }
        connection.queue_own(Tag::RESET);
        !matches!(timeout(limit, connection.drain(&self.buffers, |_, _, _| ())).await, Ok(Ok(())))
    }

    /// A new connection for `need`.
    async fn make(self: &Arc<Self>, slot: Slot, need: &Need) -> Result<Lease, ConnectError> {
        if need.key.principal.is_none() && need.key.filter.is_none() {
            *self.warm_key.lock() = Some(Arc::clone(&need.key));
        }
        let mut lease = self.connect(slot, &need.key, Some(&need.principal)).await?;
        if need.key.version.features().reauth {
            self.connector.log_on(lease.connection_mut(), &need.principal, &self.buffers).await?;
        }
        Ok(lease)
    }

    async fn connect(
        self: &Arc<Self>,
        slot: Slot,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
    ) -> Result<Lease, ConnectError> {
        let started = Instant::now();
        let made = self.connector.connect(key, principal, &self.buffers).await;
        self.metrics.connect_seconds.observe(started.elapsed().as_secs_f64());
        match made {
            Ok((connection, greeting)) => {
                self.metrics.pool_opened.inc();
                if let Some(timeout) = connection.recv_timeout {
                    self.recv_timeout.store(timeout.as_secs(), Ordering::Relaxed);
                }
                self.greetings.lock().insert((key.version, key.utc), greeting);
                Ok(Lease::new(self, connection, slot))
            }
            Err(error) => {
                self.metrics.connect_failed.inc();
                if let ConnectError::Refused(refusal) = &error {
                    // What it offers may have changed with whatever happened to it.
                    *self.offered.lock() = None;
                    tracing::debug!(address = self.address(), %refusal, "Connecting failed.");
                } else if let Some(principal) = principal {
                    principal.doubt();
                }
                Err(error)
            }
        }
    }

    /// Takes a connection back, for the request that has waited longest or for the next one.
    fn give_back(self: &Arc<Self>, mut connection: Box<Connection>, mut slot: Slot) {
        connection.last_used = Instant::now();
        let mut inner = self.inner.lock();
        let mut given = Handover::Connection(connection, slot);
        while let Some(waiting) = inner.waiting.pop_front() {
            match waiting.send(given) {
                Ok(()) => return,
                Err(back) => given = back,
            }
        }
        let Handover::Connection(connection, back) = given else { return };
        slot = back;
        if inner.open <= self.config.load().pool.max_connection_pool_size {
            inner.idle.push(connection);
            // The slot stays with the idle connection.
            slot.keep();
            return;
        }
        drop(inner);
        drop((connection, slot));
    }

    /// Brings a connection back to READY after its client is gone, or closes it.
    async fn clean_up(self: Arc<Self>, mut connection: Box<Connection>, slot: Slot) {
        let limit = self.config.load().pool.reset_timeout;
        connection.queue_own(Tag::RESET);
        let done = timeout(limit, connection.drain(&self.buffers, |_, _, _| ())).await;
        if matches!(done, Ok(Ok(()))) && connection.is_reusable() && connection.machine.is_clean() {
            self.metrics.pool_resets.inc();
            self.give_back(connection, slot);
        } else {
            self.metrics.pool_closed.with_label_values(&["unclean"]).inc();
        }
    }

    /// Closes what has been idle or has lived for too long, and keeps `min_idle` ready. Called once in a while.
    pub(crate) fn sweep(self: &Arc<Self>) {
        self.grow();
        let config = self.config.load();
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let mut spare = inner.idle.len().saturating_sub(config.pool.min_idle);
        let mut surplus = inner.open.saturating_sub(config.pool.max_connection_pool_size);
        let mut closed = Vec::new();
        let mut at = 0;
        while let Some(connection) = inner.idle.get_mut(at) {
            let rested = now.duration_since(connection.last_used) >= config.pool.idle_timeout && spare > 0;
            let reason = if connection.machine.is_clean() && connection.is_stale() {
                "dead"
            } else if connection.expires <= now {
                "lifetime"
            } else if surplus > 0 {
                surplus -= 1;
                "idle"
            } else if rested {
                spare -= 1;
                "idle"
            } else {
                at += 1;
                continue;
            };
            self.metrics.pool_closed.with_label_values(&[reason]).inc();
            closed.push(inner.idle.remove(at));
        }
        drop(inner);
        for connection in closed {
            let slot = self.slot();
            tokio::spawn(async move {
                connection.close().await;
                drop(slot);
            });
        }
    }

    /// Makes one connection for `principal` if fewer than `pool.min_idle` are idle, with this routing context if no client has shown
    /// which kind is wanted. Called once in a while.
    pub(crate) async fn warm(self: &Arc<Self>, principal: &Arc<Principal>, routing: Option<&[u8]>) {
        let (size, min_idle) = {
            let pool = &self.config.load().pool;
            (pool.max_connection_pool_size, pool.min_idle)
        };
        let slot = {
            let mut inner = self.inner.lock();
            if inner.idle.len() >= min_idle || inner.open >= size || !inner.waiting.is_empty() {
                return;
            }
            inner.open += 1;
            self.slot()
        };
        let Some(version) = self.offered().await.ok().and_then(|offered| offered.iter().max().copied())
        else {
            return;
        };
        let known = self.warm_key.lock().clone();
        let plain = || Key { routing: routing.map(Into::into), ..Key::plain(version) };
        let key = known.unwrap_or_else(|| Arc::new(plain()));
        let need = Need { key, principal: Arc::clone(principal), access: Access::default() };
        if let Err(error) = self.make(slot, &need).await {
            tracing::debug!(address = self.address(), ?error, "An idle connection could not be made.");
        }
    }

    /// Closes all idle connections, at shutdown.
    pub(crate) async fn close_idle(self: &Arc<Self>) {
        let idle = std::mem::take(&mut self.inner.lock().idle);
        let mut closing = tokio::task::JoinSet::new();
        for connection in idle {
            let slot = self.slot();
            closing.spawn(async move {
                connection.close().await;
                drop(slot);
            });
        }
        closing.join_all().await;
    }
}

/// The idle connection that costs least: same user; else another user of the same kind, where a LOGON is enough.
fn best_idle(idle: &[Box<Connection>], need: &Need) -> Option<usize> {
    let same = |c: &Connection| c.principal.as_ref().is_some_and(|p| p.id == need.principal.id);
    idle.iter()
        .rposition(|c| c.key == need.key && same(c))
        .or_else(|| idle.iter().position(|c| c.key == need.key))
}

impl Slot {
    /// The right lives on in an idle connection.
    fn keep(mut self) {
        self.pool = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        let shared = Arc::clone(&pool);
        let mut inner = pool.inner.lock();
        if inner.open <= pool.config.load().pool.max_connection_pool_size {
            let mut given = Handover::Slot(Self { pool: Some(shared) });
            while let Some(waiting) = inner.waiting.pop_front() {
                match waiting.send(given) {
                    Ok(()) => return,
                    Err(back) => given = back,
                }
            }
            if let Handover::Slot(slot) = given {
                slot.keep();
            }
        }
        inner.open -= 1;
    }
}

impl Lease {
    fn new(pool: &Arc<Pool>, connection: Box<Connection>, slot: Slot) -> Self {
        pool.lent.fetch_add(1, Ordering::Relaxed);
        Self { pool: Arc::clone(pool), connection: Some(connection), slot: Some(slot) }
    }

    /// The borrowed connection.
    pub(crate) fn connection_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("invariant: a lease has its connection until it is dropped")
    }

    /// The borrowed connection.
    pub(crate) fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("invariant: a lease has its connection until it is dropped")
    }

    /// The pool it came from.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Logs `principal` in on a connection that has only said HELLO.
    pub(crate) async fn log_on(&mut self, principal: &Arc<Principal>) -> Result<(), ConnectError> {
        let pool = Arc::clone(&self.pool);
        pool.connector.log_on(self.connection_mut(), principal, &pool.buffers).await
    }

    /// Closes the connection instead of giving it back.
    pub(crate) fn discard(mut self) {
        self.connection_mut().machine.lost();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut connection), Some(slot)) = (self.connection.take(), self.slot.take()) else { return };
        let pool = Arc::clone(&self.pool);
        pool.lent.fetch_sub(1, Ordering::Relaxed);
        if connection.machine.place() == Place::Defunct
            || connection.is_mid_message()
            || connection.is_mid_login()
        {
            pool.metrics.pool_closed.with_label_values(&["defunct"]).inc();
            return;
        }
        if connection.is_reusable() && (connection.machine.is_clean() || connection.reset_now()) {
            pool.give_back(connection, slot);
            return;
        }
        // Outside a runtime (at exit) nothing can be awaited: the socket is closed, which frees the server too.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(pool.clean_up(connection, slot));
    }
}
