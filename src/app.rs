//! Sidebolt as a whole: built from its configuration, started, drained.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::buffers::Buffers;
use crate::config::reload::{Counters, Reloader};
use crate::config::{Config, UpstreamUri};
use crate::metrics::Metrics;
use crate::session::{Arrival, Registry, Shared};
use crate::transport::Transport;
use crate::upstream::{Connector, Identities, Upstream};
use crate::{admin, session};

/// How often pools are swept and the upstream is looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Why Sidebolt cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {address} ({key}): {source}; choose another address or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The configuration key that names it.
        key: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// `upstream.uri` cannot be used.
    #[error("upstream.uri: {0}")]
    Uri(String),
}

/// What the admin port tells: whether traffic should come here, and how reloads went.
pub(crate) struct Health {
    reason: Mutex<Option<String>>,
    reloader: OnceLock<Reloader>,
}

impl Health {
    /// Why Sidebolt is not ready; `None` = it is.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
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
    bolt: SocketAddr,
    admin: Option<SocketAddr>,
    /// Stops accepting.
    stop: CancellationToken,
    /// Stops everything else, once no client is left.
    end: CancellationToken,
    sessions: TaskTracker,
}

impl App {
    /// Binds the ports and starts to serve.
    pub async fn start(config: Arc<ArcSwap<Config>>) -> Result<Self, StartError> {
        let current = config.load_full();
        let uri =
            UpstreamUri::parse(&current.upstream.uri).map_err(|error| StartError::Uri(error.to_string()))?;
        let buffers = Arc::new(Buffers::default());
        let metrics = Arc::new(Metrics::new());
        let upstream = Upstream::new(&uri.host, uri.port, &config, &buffers, &metrics);
        let identities = Identities::default();
        let registry = Arc::new(Registry::default());
        let shared = Arc::new(Shared { config, upstream, identities, metrics, buffers, registry });
        let bind_error =
            |key, address| move |source: std::io::Error| StartError::Bind { address, key, source };
        let bolt = TcpListener::bind(current.listen.address)
            .await
            .map_err(bind_error("listen.address", current.listen.address))?;
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let health =
            Arc::new(Health { reason: Mutex::new(Some("starting".to_owned())), reloader: OnceLock::new() });
        let mut admin_address = None;
        if let Some(address) = current.admin.address {
            let listener = admin::bind(address).await.map_err(bind_error("admin.address", address))?;
            admin_address = listener.local_addr().ok();
            tokio::spawn(admin::serve(listener, Arc::clone(&shared), Arc::clone(&health), end.clone()));
        }
        let app = Self {
            bolt: bolt.local_addr().unwrap_or(current.listen.address),
            admin: admin_address,
            shared: Arc::clone(&shared),
            health: Arc::clone(&health),
            stop: stop.clone(),
            end: end.clone(),
            sessions: TaskTracker::new(),
        };
        tokio::spawn(keep_house(Arc::clone(&shared), Arc::clone(&health), end));
        tokio::spawn(accept(bolt, Arc::clone(&shared), app.sessions.clone(), stop));
        Ok(app)
    }

    /// The versions that `upstream.uri` offers, in words.
    pub(crate) async fn offered(config: &Arc<ArcSwap<Config>>) -> Result<String, String> {
        let uri = UpstreamUri::parse(&config.load().upstream.uri).map_err(|error| error.to_string())?;
        let connector = Connector::new(&uri.host, uri.port, Arc::clone(config));
        let versions = connector.offered().await.map_err(|refusal| refusal.to_string())?;
        let names: Vec<String> = versions.iter().map(ToString::to_string).collect();
        Ok(format!("Neo4j at {} answers and speaks Bolt {}", connector.address, names.join(", ")))
    }

    /// Keeps `reloader` for as long as the App lives.
    pub fn follow(&self, reloader: Reloader) {
        // A second reloader would only be dropped, which stops it.
        let _ = self.health.reloader.set(reloader);
    }

    /// What is to be done when the configuration has changed.
    pub fn reconfigure(&self) -> impl Fn(&Config) + Send + Sync + 'static {
        |_new| {}
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
        self.health.set(Some("draining".to_owned()));
        self.stop.cancel();
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
    }
}

/// Sweeps the pools and looks whether the upstream answers, until the end.
async fn keep_house(shared: Arc<Shared>, health: Arc<Health>, end: CancellationToken) {
    let work = async {
        let mut every = tokio::time::interval(HOUSEKEEPING);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let mut trouble = None;
            for pool in shared.upstream.pools() {
                pool.sweep();
                let config = shared.config.load_full();
                if config.pool.min_idle > 0 {
                    pool.warm(&shared.identities.service(&config.auth)).await;
                }
                trouble = trouble.or(pool.offered().await.err().map(|refusal| refusal.to_string()));
            }
            if !shared.registry.is_ending() {
                health.set(trouble);
            }
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, sessions: TaskTracker, stop: CancellationToken) {
    let work = async {
        loop {
            let Ok((stream, peer)) = listener.accept().await else { continue };
            let shared = Arc::clone(&shared);
            sessions.spawn(async move {
                let Ok(local) = stream.local_addr() else { return };
                if stream.set_nodelay(true).is_err() {
                    return;
                }
                let mut stream = stream;
                let mut magic = [0; 4];
                if tokio::io::AsyncReadExt::read_exact(&mut stream, &mut magic).await.is_err() {
                    return;
                }
                let arrival = Arrival { transport: Transport::Tcp(stream), peer, local };
                session::serve(shared, arrival).await;
            });
        }
    };
    stop.run_until_cancelled(work).await;
}
