//! Who has a right to a connection, who waits for one, and what becomes of those that are given back.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Pool;
use crate::failure::Refusal;
use crate::upstream::Need;
use crate::upstream::connect::ConnectError;
use crate::upstream::connection::Connection;

#[derive(Default)]
pub(super) struct Inner {
    /// Given back last stands last and is lent first.
    #[expect(
        clippy::vec_box,
        reason = "a connection moves between pool, lease and waiters: boxed, it moves as a pointer"
    )]
    pub(super) idle: Vec<Box<Connection>>,
    /// Connections that exist or are being made.
    pub(super) open: usize,
    pub(super) waiting: VecDeque<oneshot::Sender<Handover>>,
}

/// What a waiting request is given.
pub(super) enum Handover {
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
pub(super) struct Slot {
    /// `None` once the right has passed to somebody else.
    pool: Option<Arc<Pool>>,
}

impl Pool {
    /// The right to make a connection that is not lent from the pool.
    pub(super) async fn obtain_slot(self: &Arc<Self>) -> Result<Slot, ConnectError> {
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

    /// An idle connection, or the right to make one, now or when one is given back. Without a need: any that makes room.
    pub(super) async fn obtain(
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
            // The breaker has opened and sent everybody away.
            Ok(Err(_)) => Err(self.breaker.refuse(&self.config.load().breaker)),
            // The turn may have come at the very last moment.
            Err(_) => turn.0.try_recv().map_err(|_| self.too_late(started)),
        }
    }

    pub(super) fn too_late(&self, started: Instant) -> Refusal {
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
    pub(super) fn grow(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        while inner.open < self.config.load().pool.max_connection_pool_size {
            let Some(waiting) = inner.waiting.pop_front() else {
                return;
            };
            inner.open += 1;
            if let Err(Handover::Slot(slot)) = waiting.send(Handover::Slot(self.slot())) {
                inner.open -= 1;
                slot.keep();
            }
        }
    }

    pub(super) fn slot(self: &Arc<Self>) -> Slot {
        Slot { pool: Some(Arc::clone(self)) }
    }

    /// Takes a connection back, for the request that has waited longest or for the next one.
    pub(super) fn give_back(self: &Arc<Self>, mut connection: Box<Connection>, mut slot: Slot) {
        connection.last_used = Instant::now();
        let mut inner = self.inner.lock();
        let mut given = Handover::Connection(connection, slot);
        while let Some(waiting) = inner.waiting.pop_front() {
            match waiting.send(given) {
                Ok(()) => return,
                Err(back) => given = back,
            }
        }
        let Handover::Connection(connection, back) = given else {
            return;
        };
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
}

/// The idle connection that costs least: same user; else another user of the same kind, where a LOGON is enough.
fn best_idle(idle: &[Box<Connection>], need: &Need) -> Option<usize> {
    let same = |c: &Connection| c.is_logged_in_as(&need.principal);
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
