//! The Bolt port: accepts clients within the limits, finds out what they speak, hands them to a session.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Listen, ListenTls};
use crate::transport::TransportKind;
use crate::transport::sniff::sniff;
pub use crate::transport::sniff::{Accepted, Refusal};
use crate::transport::tls::{TlsAcceptor, TlsError};

/// Why the Bolt port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "listen.address {address}: already in use; stop the other program or choose another port (--listen)"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Ports below 1024 and the like.
    #[error(
        "listen.address {address}: not permitted; choose a port above 1023 or grant CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// The address.
        address: SocketAddr,
    },
    /// An address that this machine does not have.
    #[error(
        "listen.address {address}: this machine has no such address; 0.0.0.0 or [::] stand for all of them"
    )]
    NoSuchAddress {
        /// The address.
        address: SocketAddr,
    },
    /// Any other reason of the system.
    #[error("listen.address {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The bound Bolt port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    tls: Arc<TlsAcceptor>,
    gate: Arc<Gate>,
}

/// What the Bolt port has seen since the start.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Connections taken from the system.
    pub accepted: AtomicU64,
    /// Closed at once because of `listen.max_connections`.
    pub refused_total: AtomicU64,
    /// Closed at once because of `listen.max_connections_per_address`.
    pub refused_per_address: AtomicU64,
    /// Errors of the system while accepting.
    pub accept_errors: AtomicU64,
    /// Connections now, logged in or not.
    pub open: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
    transports: [AtomicU64; TransportKind::ALL.len()],
}

impl ListenerStats {
    /// Connections that ended before Bolt began, by reason.
    pub fn handshake_failed(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.refusals.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Connections that went on to Bolt, by transport.
    pub fn transports(&self) -> impl Iterator<Item = (TransportKind, u64)> + '_ {
        TransportKind::ALL.into_iter().zip(self.transports.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Counts one client for as long as it is held.
#[derive(Debug)]
pub struct ClientGuard {
    gate: Arc<Gate>,
    host: IpAddr,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.gate.leave(self.host);
    }
}

/// The counts behind the limits.
#[derive(Debug, Default)]
struct Gate {
    stats: Arc<ListenerStats>,
    /// Clients by address: never more entries than clients.
    hosts: Mutex<HashMap<IpAddr, u32>>,
}

impl Gate {
    /// Lets one more client in, if the limits allow it.
    fn enter(self: &Arc<Self>, peer: SocketAddr, listen: &Listen) -> Option<ClientGuard> {
        let host = host(peer.ip());
        let mut hosts = self.hosts.lock();
        // Counted under the lock, so that the limit is exact.
        if self.stats.open.load(Ordering::Relaxed) >= listen.max_connections as u64 {
            self.stats.refused_total.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let limit = listen.max_connections_per_address;
        let clients = hosts.entry(host).or_insert(0);
        if limit != 0 && *clients as usize >= limit {
            self.stats.refused_per_address.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *clients += 1;
        self.stats.open.fetch_add(1, Ordering::Relaxed);
        Some(ClientGuard { gate: Arc::clone(self), host })
    }

    fn leave(&self, host: IpAddr) {
        let mut hosts = self.hosts.lock();
        if let Entry::Occupied(mut clients) = hosts.entry(host) {
            *clients.get_mut() -= 1;
            if *clients.get() == 0 {
                clients.remove();
            }
        }
        // A crowd of addresses leaves its memory behind otherwise.
        if hosts.capacity() > 1024 && hosts.len() < hosts.capacity() / 8 {
            hosts.shrink_to_fit();
        }
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What counts as one address: an IPv4 address, or the /64 network that one IPv6 host has to itself.
pub(crate) fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        other => other,
    }
}

impl Listener {
    /// Opens the port and reads the certificate. Needs a running Tokio runtime.
    pub fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let address = listen.address;
        let tls = Arc::new(TlsAcceptor::load(listen.tls.as_ref())?);
        let socket = open(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            io::ErrorKind::PermissionDenied => ListenError::Denied { address },
            io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { address },
            _ => ListenError::Other { address, source },
        })?;
        Ok(Self { socket, tls, gate: Arc::new(Gate::default()) })
    }

    /// The bound address; its port is the system's choice if port 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The counters; they go on after [`Self::run`] ended.
    pub fn stats(&self) -> Arc<ListenerStats> {
        Arc::clone(&self.gate.stats)
    }

    /// The certificate, to be reloaded at once on a signal. [`Self::run`] looks at the files every few seconds by itself.
    pub fn tls(&self) -> Arc<TlsAcceptor> {
        Arc::clone(&self.tls)
    }

    /// Accepts clients until `stop`, then closes the port. Each client that speaks Bolt gets its own `handler` future, on
    /// `tasks`; one that is not that far yet at `stop` is closed.
    pub async fn run<Handler, Session>(
        self,
        config: Arc<ArcSwap<Config>>,
        tasks: TaskTracker,
        stop: CancellationToken,
        handler: Handler,
    ) where
        Handler: Fn(Accepted, ClientGuard) -> Session + Send + Sync + 'static,
        Session: Future<Output = ()> + Send + 'static,
    {
        let Self { socket, tls, gate } = self;
        let door =
            Arc::new(Door { config: Arc::clone(&config), tls: Arc::clone(&tls), gate, stop: stop.clone() });
        let handler = Arc::new(handler);
        let accepting = async {
            let mut trouble = Trouble::default();
            loop {
                let (tcp, peer) = match socket.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        door.gate.stats.accept_errors.fetch_add(1, Ordering::Relaxed);
                        trouble.rest(&error).await;
                        continue;
                    }
                };
                trouble.end();
                door.gate.stats.accepted.fetch_add(1, Ordering::Relaxed);
                // Over a limit: dropping the socket closes it.
                let Some(guard) = door.gate.enter(peer, &config.load().listen) else { continue };
                tasks.spawn(serve(Arc::clone(&door), Arc::clone(&handler), tcp, peer, guard));
            }
        };
        tokio::select! {
            () = accepting => {}
            () = watch_certificate(&config, &tls, |config| config.listen.tls.as_ref()) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The whole life of one client. What comes before the session and the session itself have boxes of their own, and the
/// first is gone when the second begins: a client costs the memory of its session and little more.
fn serve<Handler, Session>(
    door: Arc<Door>,
    handler: Arc<Handler>,
    tcp: TcpStream,
    peer: SocketAddr,
    guard: ClientGuard,
) -> impl Future<Output = ()> + Send + 'static
where
    Handler: Fn(Accepted, ClientGuard) -> Session + Send + Sync + 'static,
    Session: Future<Output = ()> + Send + 'static,
{
    let arrival = Box::pin(async move {
        let accepted = door.admit(tcp, peer).await?;
        Some(Box::pin(handler(accepted, guard)))
    });
    async move {
        let session = arrival.await;
        if let Some(session) = session {
            session.await;
        }
    }
}

/// What the task of a new client needs until its session begins.
struct Door {
    config: Arc<ArcSwap<Config>>,
    tls: Arc<TlsAcceptor>,
    gate: Arc<Gate>,
    stop: CancellationToken,
}

impl Door {
    async fn admit(&self, tcp: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let config = self.config.load_full();
        let sniffed = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Refusal::Stopped),
            sniffed = tokio::time::timeout(
                config.listen.handshake_timeout,
                sniff(tcp, peer, &config.listen, &self.tls),
            ) => sniffed.unwrap_or(Err(Refusal::Timeout)),
        };
        let stats = &self.gate.stats;
        match sniffed {
            Ok(accepted) => {
                stats.transports[accepted.transport.kind() as usize].fetch_add(1, Ordering::Relaxed);
                Some(accepted)
            }
            Err(refusal) => {
                stats.refusals[refusal as usize].fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, reason = refusal.as_str(), "A client left before Bolt began.");
                None
            }
        }
    }
}

/// Takes changed certificate files and changed settings into use.
pub(crate) async fn watch_certificate(
    config: &ArcSwap<Config>,
    tls: &Arc<TlsAcceptor>,
    of: fn(&Config) -> Option<&ListenTls>,
) {
    let first = tokio::time::Instant::now() + CERTIFICATE_CHECK;
    let mut every = tokio::time::interval_at(first, CERTIFICATE_CHECK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (settings, tls) = (of(&config.load()).cloned(), Arc::clone(tls));
        // File systems can hang, which must not hold up the clients.
        let Ok(reloaded) = tokio::task::spawn_blocking(move || tls.reload(settings.as_ref())).await else {
            continue;
        };
        match reloaded {
            Ok(true) => tracing::info!("The TLS certificate was reloaded."),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "The new TLS certificate is not usable; the old one stays."),
        }
    }
}

/// A run of accept errors: waits longer each time, and is logged once.
#[derive(Debug, Default)]
struct Trouble {
    errors: u32,
}

impl Trouble {
    async fn rest(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        // The client's own trouble: the next one is worth a look at once.
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            return;
        }
        if self.errors == 0 {
            tracing::error!(%error, "Clients cannot be accepted; raise the limit of open files (ulimit -n) if it is that.");
        }
        let pause = FIRST_PAUSE * 2_u32.pow(self.errors.min(8));
        self.errors = self.errors.saturating_add(1);
        tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
    }

    fn end(&mut self) {
        if self.errors > 0 {
            tracing::info!(errors = self.errors, "Clients are accepted again.");
            self.errors = 0;
        }
    }
}

/// Clients that wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart has to wait for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // [::] means every address, IPv4 ones too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests;
