//! Sidebolt as a whole: built from its configuration, started, drained.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::buffers::Buffers;
use crate::cache::Cache;
use crate::coalesce::Coalescer;
use crate::config::reload::{Counters, Reloader};
use crate::config::{Config, UpstreamUri};
use crate::gnn::Gnn;
use crate::guard::{Guard, keep_measuring};
use crate::listener::{Accepted, ClientGuard, ListenError, Listener, ListenerStats};
use crate::metrics::Metrics;
use crate::session::{Arrival, Registry, Shared};
use crate::sight::{Sight, keep_explaining, keep_telling, keep_watch};
use crate::traces::Traces;
use crate::transport::tls::{TlsAcceptor, TlsError};
use crate::upstream::{Connector, Dialer, Identities, Upstream};
use crate::{admin, gnn, indexes, session};

/// How often pools are swept and the upstream is looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Why Sidebolt is not ready before it has looked.
const STARTING: &str = "starting";
/// How long the upstream may take to answer before Sidebolt is not ready.
const LOOK: Duration = Duration::from_secs(5);

/// Why Sidebolt cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The Bolt port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin port cannot be opened.
    #[error("admin.address {address}: {source}; choose another address or stop what uses it (--admin)")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// `upstream.uri` cannot be used.
    #[error("upstream.uri: {0}")]
    Uri(String),
    /// The certificates for the upstream side cannot be used.
    #[error("upstream: {0}")]
    Tls(#[from] TlsError),
    /// The certificate of the admin port cannot be used.
    #[error("admin.tls: {0}")]
    AdminTls(TlsError),
}

/// What the admin port tells: whether traffic should come here, and how reloads went.
pub(crate) struct Health {
    reason: Mutex<Option<String>>,
    draining: AtomicBool,
    reloader: OnceLock<Reloader>,
    /// What the Bolt port has seen.
    pub(crate) listener: Arc<ListenerStats>,
}

impl Health {
    /// Why Sidebolt is not ready; `None` = it is.
    pub(crate) fn reason(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("draining".to_owned());
        }
        self.reason.lock().clone()
    }

    /// What is wrong with the upstream, whether Sidebolt is draining or not; not known before the first look.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.reason.lock().clone().filter(|reason| reason != STARTING)
    }

    /// What the configuration's reloads came to, if it is followed.
    pub(crate) fn reloads(&self) -> Counters {
        self.reloader.get().map(Reloader::counters).unwrap_or_default()
    }

    fn set(&self, reason: Option<String>) {
        *self.reason.lock() = reason;
    }
}

/// A running Sidebolt.
pub struct App {
    shared: Arc<Shared>,
    health: Arc<Health>,
    dialer: Arc<Dialer>,
    tls: Arc<TlsAcceptor>,
    admin_tls: Arc<TlsAcceptor>,
    bolt: SocketAddr,
    admin: Option<SocketAddr>,
    /// Stops accepting.
    stop: CancellationToken,
    /// Stops everything else, once no client is left.
    end: CancellationToken,
    sessions: TaskTracker,
    accepting: JoinHandle<()>,
    /// Writes the baselines at the end.
    watching: JoinHandle<()>,
}

impl App {
    /// Binds the ports and starts to serve.
    pub async fn start(config: Arc<ArcSwap<Config>>) -> Result<Self, StartError> {
        let current = config.load_full();
        let uri =
            UpstreamUri::parse(&current.upstream.uri).map_err(|error| StartError::Uri(error.to_string()))?;
        let buffers = Arc::new(Buffers::default());
        let metrics = Arc::new(Metrics::new());
        let dialer = Dialer::new(&uri, &config)?;
        let upstream = Upstream::new(&uri, &dialer, &buffers, &metrics);
        let identities = Identities::default();
        let registry = Arc::new(Registry::default());
        let listener = Listener::bind(&current.listen)?;
        let bolt = listener.local_addr().unwrap_or(current.listen.address);
        let health = Arc::new(Health {
            reason: Mutex::new(Some(STARTING.to_owned())),
            draining: AtomicBool::new(false),
            reloader: OnceLock::new(),
            listener: listener.stats(),
        });
        let tls = listener.tls();
        let admin_tls = TlsAcceptor::for_admin(current.admin.tls.as_ref()).map_err(StartError::AdminTls)?;
        let admin_tls = Arc::new(admin_tls);
        let cache = Arc::new(Cache::new(&current.cache, Arc::clone(&metrics)));
        let sight = Sight::new(Arc::clone(&metrics));
        let shared = Arc::new(Shared {
            config: Arc::clone(&config),
            upstream,
            identities,
            metrics,
            buffers,
            registry,
            indexes: indexes::Known::default(),
            coalescer: Coalescer::new(),
            cache,
            guard: Guard::new(&current),
            gnn: Gnn::new(&current.gnn),
            sight,
            traces: Traces::default(),
        });
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let mut admin_address = None;
        if let Some(address) = current.admin.address {
            let bound = admin::Port::bind(address, Arc::clone(&admin_tls)).await;
            let bound = bound.map_err(|source| StartError::Admin { address, source })?;
            admin_address = bound.address();
            tokio::spawn(admin::serve(bound, Arc::clone(&shared), Arc::clone(&health), end.clone()));
        }
        tokio::spawn(keep_house(Arc::clone(&shared), Arc::clone(&health), end.clone()));
        tokio::spawn(keep_warm(Arc::clone(&shared), end.clone()));
        tokio::spawn(keep_measuring(Arc::clone(&shared), end.clone()));
        tokio::spawn(indexes::keep(Arc::clone(&shared), end.clone()));
        tokio::spawn(gnn::keep(Arc::clone(&shared), end.clone()));
        tokio::spawn(keep_explaining(Arc::clone(&shared), end.clone()));
        tokio::spawn(keep_telling(Arc::clone(&shared), end.clone()));
        let watching = tokio::spawn(keep_watch(Arc::clone(&shared), Arc::clone(&health), end.clone()));
        let sessions = TaskTracker::new();
        let handler = session_handler(Arc::clone(&shared));
        let accepting = tokio::spawn(listener.run(config, sessions.clone(), stop.clone(), handler));
        Ok(Self {
            shared,
            health,
            dialer,
            tls,
            admin_tls,
            bolt,
            admin: admin_address,
            stop,
            end,
            sessions,
            accepting,
            watching,
        })
    }

    /// The versions that `upstream.uri` offers, in words.
    pub(crate) async fn offered(config: &Arc<ArcSwap<Config>>) -> Result<String, String> {
        let uri = UpstreamUri::parse(&config.load().upstream.uri).map_err(|error| error.to_string())?;
        let connector = Connector::new(
            &uri.host,
            uri.port,
            Dialer::new(&uri, config).map_err(|error| error.to_string())?,
        );
        let versions = connector.offered().await.map_err(|refusal| refusal.to_string())?;
        let names: Vec<String> = versions.iter().map(ToString::to_string).collect();
        Ok(format!("Neo4j at {} answers and speaks Bolt {}", connector.address, names.join(", ")))
    }

    /// Keeps `reloader` for as long as the App lives.
    pub fn follow(&self, reloader: Reloader) {
        // A second reloader would only be dropped, which stops it.
        let _ = self.health.reloader.set(reloader);
    }

    /// What is to be done when the configuration, or a file that it names, has changed.
    pub fn reconfigure(&self) -> impl Fn(&Config) + Send + Sync + 'static {
        let (dialer, tls, admin) =
            (Arc::clone(&self.dialer), Arc::clone(&self.tls), Arc::clone(&self.admin_tls));
        move |new| {
            // What the acceptor cannot use it has logged itself; the old certificate stays.
            let _ = tls.reload(new.listen.tls.as_ref());
            let _ = admin.reload(new.admin.tls.as_ref());
            if let Err(error) = dialer.reload(new) {
                tracing::error!(%error, "The certificates for the upstream side cannot be used; the old ones stay.");
            }
        }
    }

    /// Where drivers connect to.
    pub fn bolt_address(&self) -> SocketAddr {
        self.bolt
    }

    /// Where the admin port is, if it is on.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Stops accepting, lets open transactions finish within `shutdown.drain_timeout`, closes idle clients, then everything.
    pub async fn drain(self) {
        self.health.draining.store(true, Ordering::Relaxed);
        self.stop.cancel();
        let _ = self.accepting.await;
        self.shared.registry.end_all();
        self.sessions.close();
        let limit = self.shared.config.load().shutdown.drain_timeout;
        if tokio::time::timeout(limit, self.sessions.wait()).await.is_err() {
            let left = self.sessions.len();
            tracing::warn!(left, ?limit, "Clients were still busy when the drain time-out ended.");
        }
        for pool in self.shared.upstream.pools() {
            pool.close_idle().await;
        }
        self.end.cancel();
        let _ = self.watching.await;
        self.shared.traces.close().await;
    }
}

/// Sweeps the pools and looks whether the upstream answers, until the end.
async fn keep_house(shared: Arc<Shared>, health: Arc<Health>, end: CancellationToken) {
    let work = async {
        let mut every = tokio::time::interval(HOUSEKEEPING);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            for pool in shared.upstream.pools() {
                pool.sweep();
            }
            shared.coalescer.sweep();
            shared.guard.sweep();
            shared.cache.sweep(&shared.config.load().cache);
            // A server that says nothing is as bad as none, and the pools want their sweep.
            let looked = tokio::time::timeout(LOOK, shared.upstream.look()).await;
            let trouble = looked.unwrap_or_else(|_| Some(format!("Neo4j does not answer within {LOOK:?}")));
            health.set(trouble.or_else(|| shared.gnn.cold(&shared.config.load().gnn)));
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

/// Keeps `pool.min_idle` connections ready, until the end. A server that takes its time holds up nothing else.
async fn keep_warm(shared: Arc<Shared>, end: CancellationToken) {
    let work = async {
        let mut every = tokio::time::interval(HOUSEKEEPING);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let config = shared.config.load_full();
            if config.pool.min_idle > 0 {
                shared.upstream.warm(&shared.identities.service(&config.auth)).await;
            }
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

/// What becomes of a client that speaks Bolt.
fn session_handler(
    shared: Arc<Shared>,
) -> impl Fn(Accepted, ClientGuard) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static {
    move |accepted, guard| {
        let shared = Arc::clone(&shared);
        let Accepted { transport, peer, local, since, .. } = accepted;
        Box::pin(async move {
            session::serve(shared, Arrival { transport, peer, local, since }).await;
            drop(guard);
        })
    }
}
