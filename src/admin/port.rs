//! The admin port's connections: plain, or TLS once `admin.tls` names a certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::place::Placed;
use crate::config::Config;
use crate::listener::watch_certificate;
use crate::transport::Transport;
use crate::transport::tls::TlsAcceptor;

/// How long a client may take until its first byte, and for the TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients that may be at that at once.
const HANDSHAKES: usize = 256;
/// Connections at once; those beyond are closed.
const CLIENTS: usize = 512;
/// How a TLS handshake begins.
const HANDSHAKE: u8 = 0x16;
/// Rest after an error of accept.
const REST: Duration = Duration::from_millis(100);

/// The bound port.
pub(crate) struct Port {
    listener: TcpListener,
    tls: Arc<TlsAcceptor>,
}

impl Port {
    /// Binds the address.
    pub(crate) async fn bind(address: SocketAddr, tls: Arc<TlsAcceptor>) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, tls })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Accepts until `stop`; each connection comes out once it is ready for HTTP.
    pub(super) fn open(self, config: Arc<ArcSwap<Config>>, stop: CancellationToken) -> Ready {
        let address = self.address().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
        let (send, connections) = mpsc::channel(HANDSHAKES);
        tokio::spawn(async move {
            let work = async {
                tokio::select! {
                    () = self.accept(&config, send) => {}
                    () = watch_certificate(&config, &self.tls, |config| config.admin.tls.as_ref()) => {}
                }
            };
            stop.run_until_cancelled(work).await;
        });
        Ready { connections, address }
    }

    async fn accept(&self, config: &ArcSwap<Config>, send: mpsc::Sender<Client>) {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        let clients = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok((tcp, peer)) = self.listener.accept().await else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let Ok(client) = Arc::clone(&clients).try_acquire_owned() else {
                tracing::debug!(%peer, "The admin port has {CLIENTS} connections; another one was closed.");
                continue;
            };
            if !self.tls.is_on() {
                let _ = send.send((Placed::new(Transport::Tcp(tcp), client), peer)).await;
                continue;
            }
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let required = config.load().admin.tls.as_ref().is_some_and(|tls| tls.required);
            let (tls, send) = (Arc::clone(&self.tls), send.clone());
            tokio::spawn(async move {
                if let Ok(Ok(transport)) = timeout(PATIENCE, secure(tcp, &tls, required)).await {
                    let _ = send.send((Placed::new(transport, client), peer)).await;
                }
                drop(place);
            });
        }
    }
}

/// TLS, or plain HTTP where that may be.
async fn secure(mut tcp: TcpStream, tls: &TlsAcceptor, required: bool) -> std::io::Result<Transport> {
    let mut first = [0];
    tcp.peek(&mut first).await?;
    if first == [HANDSHAKE] {
        return tls.accept(tcp, &[]).await;
    }
    if required {
        let words = "This port speaks HTTPS only (admin.tls.required).\n";
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{words}",
            words.len()
        );
        tcp.write_all(answer.as_bytes()).await?;
        tcp.shutdown().await?;
        // What was asked is read, so that closing does not take the answer away.
        let mut sink = [0; 4096];
        while tokio::io::AsyncReadExt::read(&mut tcp, &mut sink).await? > 0 {}
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    Ok(Transport::Tcp(tcp))
}

/// A connection that is ready for HTTP, and where it comes from.
type Client = (Placed<Transport>, SocketAddr);

/// Connections that are ready for HTTP.
pub(super) struct Ready {
    connections: mpsc::Receiver<Client>,
    address: SocketAddr,
}

impl axum::serve::Listener for Ready {
    type Io = Placed<Transport>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Client {
        match self.connections.recv().await {
            Some(connection) => connection,
            // It was stopped; so will be whoever asks.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
