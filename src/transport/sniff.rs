//! What a new client speaks, told from its first four bytes, as Neo4j tells it on its one Bolt port.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Transport;
use super::tls::TlsAcceptor;
use super::websocket::{Upgraded, WebSocket};
use crate::config::Listen;

/// The four bytes that begin every Bolt connection.
pub const BOLT_MAGIC: [u8; 4] = [0x60, 0x60, 0xb0, 0x17];

/// A client that speaks Bolt: the magic is consumed, its four version slots come next.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub transport: Transport,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// Whether the client uses TLS.
    pub secure: bool,
    /// When the connection was accepted; `listen.handshake_timeout` counts from here.
    pub since: Instant,
}

/// Why a client was let go before it spoke Bolt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not done within `listen.handshake_timeout`.
    Timeout,
    /// The client closed first, or its network failed.
    Closed,
    /// Neither Bolt nor anything else that is spoken here.
    BadMagic,
    /// TLS, but none is configured.
    TlsOff,
    /// No TLS, but `listen.tls.required`.
    TlsRequired,
    /// The TLS handshake failed.
    TlsFailed,
    /// HTTP, but `listen.websocket` is off.
    WebSocketOff,
    /// A WebSocket upgrade that is not acceptable.
    BadUpgrade,
    /// Not a failure: a plain HTTP GET was answered.
    HttpAnswered,
    /// Not a failure: the listener stopped meanwhile.
    Stopped,
}

impl Refusal {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Timeout,
        Self::Closed,
        Self::BadMagic,
        Self::TlsOff,
        Self::TlsRequired,
        Self::TlsFailed,
        Self::WebSocketOff,
        Self::BadUpgrade,
        Self::HttpAnswered,
        Self::Stopped,
    ];

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::BadMagic => "bad_magic",
            Self::TlsOff => "tls_off",
            Self::TlsRequired => "tls_required",
            Self::TlsFailed => "tls_failed",
            Self::WebSocketOff => "websocket_off",
            Self::BadUpgrade => "bad_upgrade",
            Self::HttpAnswered => "http_answered",
            Self::Stopped => "stopped",
        }
    }
}

/// Brings a new connection to the point where Bolt's version slots follow. Without a deadline of its own.
pub async fn sniff(
    tcp: TcpStream,
    peer: SocketAddr,
    listen: &Listen,
    tls: &TlsAcceptor,
) -> Result<Accepted, Refusal> {
    let since = Instant::now();
    let local = tcp.local_addr().map_err(closed)?;
    let mut transport = Transport::tcp(tcp, CLIENT_KEEP_ALIVE).map_err(closed)?;
    let mut first = [0; 4];
    transport.read_exact(&mut first).await.map_err(closed)?;
    if is_tls(first) {
        // Boxed: the TLS handshake's state is large, and most clients of a sidecar are plain.
        transport = Box::pin(secure(transport, first, tls)).await?;
        transport.read_exact(&mut first).await.map_err(closed)?;
    } else if listen.tls.as_ref().is_some_and(|tls| tls.required) {
        transport.discard_input();
        return Err(Refusal::TlsRequired);
    }
    let secure = transport.is_secure();
    if &first == b"GET " {
        if !listen.websocket {
            transport.discard_input();
            return Err(Refusal::WebSocketOff);
        }
        transport = match Box::pin(WebSocket::upgrade(transport, &first)).await {
            Ok(Upgraded::WebSocket(ws)) => Transport::WebSocket(ws),
            Ok(Upgraded::Answered) => return Err(Refusal::HttpAnswered),
            Ok(Upgraded::Refused) => return Err(Refusal::BadUpgrade),
            Err(error) => return Err(closed(error)),
        };
        match transport.read_exact(&mut first).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                transport.discard_input();
                return Err(Refusal::BadUpgrade);
            }
            Err(error) => return Err(closed(error)),
        }
    }
    if first != BOLT_MAGIC {
        transport.discard_input();
        // The proper end of TLS and WebSocket; whoever does not take it is past caring.
        let _ = transport.shutdown().await;
        return Err(Refusal::BadMagic);
    }
    Ok(Accepted { transport, peer, local, secure, since })
}

/// How long a client may be silent before TCP asks whether it is still there.
const CLIENT_KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(60);

/// A TLS handshake record of any version that has one.
fn is_tls(first: [u8; 4]) -> bool {
    matches!(first, [0x16, 0x03, ..])
}

async fn secure(mut transport: Transport, first: [u8; 4], tls: &TlsAcceptor) -> Result<Transport, Refusal> {
    if !tls.is_on() {
        transport.discard_input();
        return Err(Refusal::TlsOff);
    }
    let Transport::Tcp(tcp) = transport else { return Err(Refusal::TlsFailed) };
    tls.accept(tcp, &first).await.map_err(|error| {
        tracing::debug!(%error, "TLS handshake with a client failed");
        Refusal::TlsFailed
    })
}

fn closed(error: io::Error) -> Refusal {
    tracing::trace!(%error, "Client left before the Bolt handshake");
    Refusal::Closed
}

#[cfg(test)]
mod tests;
