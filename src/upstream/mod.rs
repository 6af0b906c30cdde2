//! The side that faces Neo4j: who a client is, the pools, and which server takes a request.

mod connect;
mod connection;
mod dial;
mod key;
mod pool;
mod principal;
mod query;
mod routing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Version;
use bolt_wire::packstream::MapView;
use parking_lot::Mutex;

pub(crate) use connect::{ConnectError, Connector, Greeting};
pub(crate) use connection::{Connection, Next};
pub(crate) use dial::Dialer;
pub(crate) use key::Key;
pub(crate) use pool::{Lease, Pool};
pub(crate) use principal::{Identities, Principal};
pub(crate) use query::QueryError;
pub(crate) use routing::Fault;

use crate::buffers::Buffers;
use crate::config::UpstreamUri;
use crate::metrics::Metrics;
use routing::{Role, Router};

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
    /// It is ROUTE: a router takes it.
    pub(crate) route: bool,
    /// The database that it names; none = the user's home database.
    pub(crate) database: Option<Arc<str>>,
    /// The user in whose name it runs, if that is not its own.
    pub(crate) impersonated: Option<Arc<str>>,
}

impl Access {
    /// What a server must be listed for to take it.
    fn role(&self) -> Role {
        match (self.route, self.write) {
            (true, _) => Role::Router,
            (false, true) => Role::Writer,
            (false, false) => Role::Reader,
        }
    }
}

/// Neo4j, as `upstream.uri` addresses it.
pub(crate) struct Upstream {
    servers: Servers,
    /// The home databases of users, as their ROUTEs were answered last.
    homes: Mutex<HashMap<[u8; 32], Arc<str>>>,
}

enum Servers {
    /// `bolt://`
    One(Arc<Pool>),
    /// `neo4j://`
    Routed(Arc<Router>),
}

/// Users whose home database is remembered.
const HOMES: usize = 10_000;

impl Upstream {
    /// What `upstream.uri` names.
    pub(crate) fn new(
        uri: &UpstreamUri,
        dialer: &Arc<Dialer>,
        buffers: &Arc<Buffers>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let servers = if uri.routing {
            Servers::Routed(Router::new(uri, dialer, buffers, metrics))
        } else {
            let connector = Connector::new(&uri.host, uri.port, Arc::clone(dialer));
            let (config, buffers, metrics) =
                (Arc::clone(&dialer.config), Arc::clone(buffers), Arc::clone(metrics));
            Servers::One(Pool::new(connector, config, buffers, metrics))
        };
        Self { servers, homes: Mutex::default() }
    }

    /// A connection that can be used at once.
    pub(crate) fn try_lease(&self, need: &Need) -> Option<Lease> {
        match &self.servers {
            Servers::One(pool) => pool.try_lease(need),
            Servers::Routed(router) => router.try_lease(need),
        }
    }

    /// A connection, waiting for it if need be.
    pub(crate) async fn lease(&self, need: &Need) -> Result<Lease, ConnectError> {
        match &self.servers {
            Servers::One(pool) => pool.lease(need).await,
            Servers::Routed(router) => router.lease(need).await,
        }
    }

    /// One more connection for somebody who has one: only where that takes nobody's turn.
    pub(crate) async fn spare(&self, need: &Need) -> Option<Lease> {
        match &self.servers {
            Servers::One(pool) => pool.spare(need).await,
            Servers::Routed(router) => router.try_lease(need),
        }
    }

    /// A connection made to prove credentials, or to hear the server's greeting.
    pub(crate) async fn fresh(
        &self,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
    ) -> Result<Lease, ConnectError> {
        match &self.servers {
            Servers::One(pool) => pool.fresh(key, principal).await,
            Servers::Routed(router) => router.fresh(key, principal).await,
        }
    }

    /// Neo4j's answer to a client's own HELLO; `None` if it only closes.
    pub(crate) async fn greet(
        &self,
        version: Version,
        hello: &[u8],
    ) -> Result<Option<Vec<u8>>, ConnectError> {
        match &self.servers {
            Servers::One(pool) => pool.greet(version, hello).await,
            Servers::Routed(router) => router.greet(version, hello).await,
        }
    }

    /// Keeps `pool.min_idle` connections ready. Called once in a while.
    pub(crate) async fn warm(&self, principal: &Arc<Principal>) {
        match &self.servers {
            Servers::One(pool) => pool.warm(principal, None).await,
            Servers::Routed(router) => router.warm(principal).await,
        }
    }

    /// A server behaved as it should not: requests go elsewhere until the cluster has been asked.
    pub(crate) fn report(&self, server: &Arc<Pool>, principal: &Principal, access: &Access, fault: Fault) {
        match &self.servers {
            Servers::One(_) => {}
            Servers::Routed(router) => router.report(server, principal, access, fault),
        }
    }

    /// The routing context for HELLO of the connections that serve a client with this context: on a routed upstream Sidebolt's own.
    pub(crate) fn routing_context(&self, client: Option<Box<[u8]>>) -> Option<Box<[u8]>> {
        match &self.servers {
            Servers::One(_) => client,
            Servers::Routed(router) => Some(router.context().into()),
        }
    }

    /// The versions to offer to clients: those of all servers, or all while none can be asked (its absence is then told in HELLO's answer).
    pub(crate) async fn offered(&self) -> Arc<[Version]> {
        let offered = match &self.servers {
            Servers::One(pool) => pool.offered().await.ok(),
            Servers::Routed(router) => router.offered().await,
        };
        offered.unwrap_or_else(|| Version::ALL.into())
    }

    /// What the server says in HELLO, if it has said it before.
    pub(crate) fn greeting(&self, key: &Key) -> Option<Greeting> {
        match &self.servers {
            Servers::One(pool) => pool.greeting(key.version, key.utc),
            Servers::Routed(router) => router.greeting(key),
        }
    }

    /// True if the server asked drivers for telemetry.
    pub(crate) fn wants_telemetry(&self, key: &Key) -> bool {
        let greeting = self.greeting(key);
        let meta = greeting.as_deref().and_then(|meta| MapView::parse(meta).ok());
        meta.and_then(|meta| meta.map("hints")).and_then(|hints| hints.boolean("telemetry.enabled"))
            == Some(true)
    }

    /// The receive time-out that the servers advertise.
    pub(crate) fn recv_timeout(&self) -> Option<Duration> {
        match &self.servers {
            Servers::One(pool) => pool.recv_timeout(),
            Servers::Routed(router) => router.recv_timeout(),
        }
    }

    /// The pools, for housekeeping and metrics.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        match &self.servers {
            Servers::One(pool) => vec![Arc::clone(pool)],
            Servers::Routed(router) => router.pools(),
        }
    }

    /// True if there is one server, whose newest transaction is the newest of all.
    pub(crate) fn is_single(&self) -> bool {
        match &self.servers {
            Servers::One(_) => true,
            Servers::Routed(router) => router.is_single(),
        }
    }

    /// True if the server gives a transaction id to whoever sets a property, even to the value that it has (seen from 2026.08 on).
    pub(crate) fn counts_sets(&self, key: &Key) -> bool {
        let greeting = self.greeting(key);
        let meta = greeting.as_deref().and_then(|meta| MapView::parse(meta).ok()).unwrap_or(MapView::EMPTY);
        let version =
            meta.string("server").and_then(|server| server.strip_prefix("Neo4j/")).unwrap_or_default();
        let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (2026, 8)
    }

    /// Distinct servers in the routing tables, by role; nothing for a single server.
    pub(crate) fn members(&self) -> Vec<(Role, usize)> {
        match &self.servers {
            Servers::One(_) => Vec::new(),
            Servers::Routed(router) => Role::ALL.map(|role| (role, router.count(role))).into(),
        }
    }

    /// Looks at the servers, once in a while; gives the reason why no request can be served.
    pub(crate) async fn look(&self) -> Option<String> {
        match &self.servers {
            Servers::One(pool) => pool.look().await.err().map(|refusal| refusal.to_string()),
            Servers::Routed(router) => router.look().await,
        }
    }

    /// Remembers a user's home database.
    pub(crate) fn learn_home(&self, principal: &Principal, database: &str) {
        let mut homes = self.homes.lock();
        if homes.get(&principal.id).is_some_and(|known| **known == *database) {
            return;
        }
        if homes.len() >= HOMES {
            // Any half will do: what is forgotten is learnt again.
            let mut keep = false;
            homes.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        homes.insert(principal.id, database.into());
    }

    /// A user's home database, if it was named before.
    pub(crate) fn home(&self, principal: &Principal) -> Option<Arc<str>> {
        self.homes.lock().get(&principal.id).cloned()
    }
}
