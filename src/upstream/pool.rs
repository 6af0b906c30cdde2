//! The connections to one server: lent for one exchange, taken back when clean.

mod care;
mod housekeeping;
mod lease;
mod queue;
mod server;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bolt_wire::{Tag, Version};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

pub(crate) use self::lease::Lease;
use self::queue::{Handover, Inner, Slot};
use super::Need;
use super::connect::{ConnectError, Connector, Greeting};
use super::connection::Connection;
use super::key::Key;
use super::principal::Principal;
use crate::buffers::Buffers;
use crate::config::Config;
use crate::guard::Breaker;
use crate::metrics::Metrics;

/// The pool of one server.
pub(crate) struct Pool {
    connector: Connector,
    config: Arc<ArcSwap<Config>>,
    buffers: Arc<Buffers>,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    greetings: Mutex<HashMap<(Version, bool), Greeting>>,
    offered: Mutex<Option<Offer>>,
    /// Leases at this moment: what least-connections routing compares.
    lent: AtomicUsize,
    /// Seconds; 0 = not heard yet.
    recv_timeout: AtomicU64,
    /// The kind of connection that clients asked for last: what is kept warm.
    warm_key: Mutex<Option<Arc<Key>>>,
    /// Whether the server is left alone.
    breaker: Breaker,
}

/// What a server said that it speaks.
#[derive(Clone)]
struct Offer {
    /// When it said so; `None` = it has to be asked again.
    when: Option<Instant>,
    versions: Arc<[Version]>,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(
        connector: Connector,
        config: Arc<ArcSwap<Config>>,
        buffers: Arc<Buffers>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let breaker = Breaker::new(&connector.address, &metrics);
        Arc::new(Self {
            breaker,
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

    /// A connection that can be used at once: the usual case, without waiting.
    pub(crate) fn try_lease(self: &Arc<Self>, need: &Need) -> Option<Lease> {
        let config = self.config.load();
        if self.breaker.is_open() || !need.principal.is_proved(config.auth.cache_ttl) {
            return None;
        }
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if !inner.waiting.is_empty() {
            return None;
        }
        let fits = |c: &Connection| {
            c.key == need.key
                && c.is_logged_in_as(&need.principal)
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

    /// One more connection for somebody who has one: only where that takes nobody's turn.
    pub(crate) async fn spare(self: &Arc<Self>, need: &Need) -> Option<Lease> {
        if let Some(lease) = self.try_lease(need) {
            return Some(lease);
        }
        let (open, idle, waiting) = self.counts();
        let room = waiting == 0 && (idle > 0 || open < self.config.load().pool.max_connection_pool_size);
        if room { self.lease(need).await.ok() } else { None }
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
            let trial = self.breaker.admit(&self.config.load().breaker)?;
            let handover = self.obtain(Some(need), started, deadline).await?;
            if let Some(mut lease) = self.prepare(handover, need, trial.is_some()).await? {
                if let Some(trial) = trial {
                    lease.trial = true;
                    trial.succeeded(&self.config.load().breaker);
                }
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
        let trial = self.breaker.admit(&self.config.load().breaker)?;
        let slot = self.obtain_slot().await?;
        let mut lease = self.connect_as(slot, key, principal).await?;
        if let Some(trial) = trial {
            lease.trial = true;
            trial.succeeded(&self.config.load().breaker);
        }
        Ok(lease)
    }

    /// Neo4j's answer to a client's own HELLO; `None` if it only closes. Counts as a connection while it lasts.
    pub(crate) async fn greet(
        self: &Arc<Self>,
        version: Version,
        hello: &[u8],
    ) -> Result<Option<Vec<u8>>, ConnectError> {
        let _trial = self.breaker.admit(&self.config.load().breaker)?;
        let _slot = self.obtain_slot().await?;
        Ok(self.connector.greet(version, hello).await?)
    }

    /// Makes what was handed over fit: cleaned, alive, young enough, logged in. `None` = it was dead, try the next. `doubted`: whether it
    /// is alive is to be found out in any case.
    async fn prepare(
        self: &Arc<Self>,
        handover: Handover,
        need: &Need,
        doubted: bool,
    ) -> Result<Option<Lease>, ConnectError> {
        let (connection, slot) = match handover {
            Handover::Connection(connection, slot) => (connection, slot),
            Handover::Slot(slot) => return self.make(slot, need).await.map(Some),
        };
        let (ttl, check_after, reset_timeout) = {
            let config = self.config.load();
            let pool = &config.pool;
            let check_after = if doubted { Duration::ZERO } else { pool.connection_liveness_check_timeout };
            (config.auth.cache_ttl, check_after, pool.reset_timeout)
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
        let same = connection.is_logged_in_as(&need.principal);
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
        self.connect_as(slot, &need.key, Some(&need.principal)).await
    }

    /// A new connection with `principal` logged in; without one it has only said HELLO.
    async fn connect_as(
        self: &Arc<Self>,
        slot: Slot,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
    ) -> Result<Lease, ConnectError> {
        let mut lease = self.connect(slot, key, principal).await?;
        if let Some(principal) = principal
            && key.version.features().reauth
        {
            let logged_on = self.connector.log_on(lease.connection_mut(), principal, &self.buffers).await;
            if let Err(error) = logged_on {
                self.note(&error);
                return Err(error);
            }
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
                self.note(&error);
                if let ConnectError::Refused(refusal) = &error {
                    // What it offers may have changed with whatever happened to it. Until it answers again it is taken
                    // for what it was: a client must not be offered a version that it may not have.
                    if let Some(offer) = &mut *self.offered.lock() {
                        offer.when = None;
                    }
                    tracing::debug!(address = self.address(), %refusal, "Connecting failed.");
                } else if let Some(principal) = principal {
                    principal.doubt();
                }
                Err(error)
            }
        }
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
}
