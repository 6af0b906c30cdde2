//! A borrowed connection, and how it comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bolt_wire::client::Place;

use super::Pool;
use super::queue::Slot;
use crate::guard::{Failing, Permit};
use crate::upstream::connect::ConnectError;
use crate::upstream::connection::Connection;
use crate::upstream::principal::Principal;

/// A borrowed connection. Dropped clean it goes back; dropped in the middle of something it is cleaned up first, or closed.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Box<Connection>>,
    slot: Option<Slot>,
    /// The seat of whoever has it.
    permit: Option<Permit>,
    /// It was obtained to try the server.
    pub(super) trial: bool,
}

impl Lease {
    pub(super) fn new(pool: &Arc<Pool>, connection: Box<Connection>, slot: Slot) -> Self {
        pool.lent.fetch_add(1, Ordering::Relaxed);
        Self {
            pool: Arc::clone(pool),
            connection: Some(connection),
            slot: Some(slot),
            permit: None,
            trial: false,
        }
    }

    /// The borrowed connection.
    pub(crate) fn connection_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("invariant: a lease has its connection until it is dropped")
    }

    /// The borrowed connection.
    pub(crate) fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("invariant: a lease has its connection until it is dropped")
    }

    /// Whoever has it has a seat as long as it lasts.
    pub(crate) fn seat(&mut self, permit: Option<Permit>) {
        self.permit = permit;
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
        let (Some(mut connection), Some(slot)) = (self.connection.take(), self.slot.take()) else {
            return;
        };
        let pool = Arc::clone(&self.pool);
        pool.lent.fetch_sub(1, Ordering::Relaxed);
        if connection.is_broken() {
            pool.failed(&Failing::Lost(connection.made));
        }
        if connection.machine.place() == Place::Defunct
            || connection.is_mid_message()
            || connection.is_mid_login()
        {
            pool.metrics.pool_closed.with_label_values(&["defunct"]).inc();
            return;
        }
        if connection.is_reusable() && (connection.machine.is_clean() || connection.reset_now()) {
            // A trial was counted when it was obtained.
            if !self.trial {
                pool.served();
            }
            pool.give_back(connection, slot);
            return;
        }
        if connection.machine.place() == Place::Defunct {
            pool.metrics.pool_closed.with_label_values(&["defunct"]).inc();
            return;
        }
        // Outside a runtime (at exit) nothing can be awaited: the socket is closed, which frees the server too.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(pool.clean_up(connection, slot));
    }
}
