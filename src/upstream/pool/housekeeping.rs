//! What is done once in a while, and at the end.

use std::sync::Arc;

use tokio::time::Instant;

use super::Pool;
use crate::upstream::key::Key;
use crate::upstream::principal::Principal;
use crate::upstream::{Access, Need};

impl Pool {
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
            if self.breaker.is_open()
                || inner.idle.len() >= min_idle
                || inner.open >= size
                || !inner.waiting.is_empty()
            {
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
