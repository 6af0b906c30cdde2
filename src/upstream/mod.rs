//! The side that faces Neo4j: who a client is, the pools, and which server takes a request.

mod connect;
mod connection;
mod key;
mod pool;
mod principal;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bolt_wire::Version;
use bolt_wire::packstream::MapView;

pub(crate) use connect::{ConnectError, Connector, Greeting};
pub(crate) use connection::{Connection, Next};
pub(crate) use key::Key;
pub(crate) use pool::{Lease, Pool};
pub(crate) use principal::{Identities, Principal};

use crate::buffers::Buffers;
use crate::config::Config;
use crate::metrics::Metrics;

/// What a request needs of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    /// The kind of connection.
    pub(crate) key: Arc<Key>,
    /// Who must be logged in on it.
    pub(crate) principal: Arc<Principal>,
    /// Which server may take it.
    pub(crate) access: Access,
}

/// Which server may take a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// It may write: only the leader takes it.
    pub(crate) write: bool,
    /// The database that it names.
    pub(crate) database: Option<Box<str>>,
}

/// Neo4j, as one server.
pub(crate) struct Upstream {
    pool: Arc<Pool>,
}

impl Upstream {
    /// What `upstream.uri` names.
    pub(crate) fn new(
        host: &str,
        port: u16,
        config: &Arc<ArcSwap<Config>>,
        buffers: &Arc<Buffers>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let connector = Connector::new(host, port, Arc::clone(config));
        Self { pool: Pool::new(connector, Arc::clone(config), Arc::clone(buffers), Arc::clone(metrics)) }
    }

    /// A connection that can be used at once.
    pub(crate) fn try_lease(&self, need: &Need) -> Option<Lease> {
        self.pool.try_lease(need)
    }

    /// A connection, waiting for it if need be.
    pub(crate) async fn lease(&self, need: &Need) -> Result<Lease, ConnectError> {
        self.pool.lease(need).await
    }

    /// A connection made to prove credentials, or to hear the server's greeting.
    pub(crate) async fn fresh(
        &self,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
    ) -> Result<Lease, ConnectError> {
        self.pool.fresh(key, principal).await
    }

    /// The versions to offer to clients: the server's, or all while it cannot be asked (its absence is then told in HELLO's answer).
    pub(crate) async fn offered(&self) -> Arc<[Version]> {
        self.pool.offered().await.unwrap_or_else(|_| Version::ALL.into())
    }

    /// What the server says in HELLO, if it has said it before.
    pub(crate) fn greeting(&self, key: &Key) -> Option<Greeting> {
        self.pool.greeting(key.version, key.utc)
    }

    /// True if the server asked drivers for telemetry.
    pub(crate) fn wants_telemetry(&self, key: &Key) -> bool {
        let greeting = self.greeting(key);
        let meta = greeting.as_deref().and_then(|meta| MapView::parse(meta).ok());
        meta.and_then(|meta| meta.map("hints")).and_then(|hints| hints.boolean("telemetry.enabled"))
            == Some(true)
    }

    /// The receive time-out that the server advertises.
    pub(crate) fn recv_timeout(&self) -> Option<Duration> {
        self.pool.recv_timeout()
    }

    /// The pools, for housekeeping and metrics.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        vec![Arc::clone(&self.pool)]
    }
}
