//! Sockets to Neo4j: TCP, with TLS where `upstream.uri` asks for it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use crate::config::{Config, TlsTrust, UpstreamUri};
use crate::transport::Transport;
use crate::transport::tls::{TlsConnector, TlsError};

/// Opens sockets to any of the upstream's servers, all with the same trust.
pub(crate) struct Dialer {
    /// The configuration in force.
    pub(crate) config: Arc<ArcSwap<Config>>,
    trust: TlsTrust,
    tls: Option<ArcSwap<TlsConnector>>,
}

impl Dialer {
    /// A dialer with the trust that `uri` and the `upstream` section ask for.
    pub(crate) fn new(uri: &UpstreamUri, config: &Arc<ArcSwap<Config>>) -> Result<Arc<Self>, TlsError> {
        let tls = connector(uri.tls, &config.load())?.map(ArcSwap::from_pointee);
        Ok(Arc::new(Self { config: Arc::clone(config), trust: uri.tls, tls }))
    }

    /// Reads the certificates in `config` again. Bad ones leave what was in force.
    pub(crate) fn reload(&self, config: &Config) -> Result<(), TlsError> {
        if let (Some(tls), Some(new)) = (&self.tls, connector(self.trust, config)?) {
            tls.store(Arc::new(new));
        }
        Ok(())
    }

    /// A socket to `host`, by one of its addresses if `ip` names it.
    pub(crate) async fn open(&self, host: &str, port: u16, ip: Option<IpAddr>) -> io::Result<Transport> {
        let stream = match ip {
            Some(ip) => TcpStream::connect((ip, port)).await?,
            None => TcpStream::connect((host, port)).await?,
        };
        let keep_alive = self.config.load().upstream.keep_alive;
        let Some(tls) = &self.tls else { return Transport::tcp(stream, keep_alive) };
        // The options belong to the socket; the transport is only their way there.
        let Transport::Tcp(stream) = Transport::tcp(stream, keep_alive)? else {
            return Err(io::Error::other("a new socket is plain TCP"));
        };
        let tls = tls.load_full();
        tls.connect(stream, host).await.map_err(io::Error::other)
    }
}

fn connector(trust: TlsTrust, config: &Config) -> Result<Option<TlsConnector>, TlsError> {
    match trust {
        TlsTrust::Off => Ok(None),
        TlsTrust::Verify => TlsConnector::for_upstream(&config.upstream, false).map(Some),
        TlsTrust::Any => TlsConnector::for_upstream(&config.upstream, true).map(Some),
    }
}
