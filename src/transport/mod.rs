//! Byte streams under a Bolt connection: TCP, TLS, WebSocket and WebSocket over TLS behind one small type.

pub mod sniff;
pub mod tls;
pub mod websocket;

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustls::{ConnectionCommon, SideData};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use websocket::WebSocket;

/// One connection to a client or to Neo4j. Plain TCP holds no buffer of its own.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS, either side.
    Tls(Box<TlsStream<TcpStream>>),
    /// Bolt in binary WebSocket frames, over TCP or TLS; server side only.
    WebSocket(Box<WebSocket>),
    /// An in-memory pipe, for tests that drive a session without a socket.
    #[cfg(test)]
    Memory(Box<memory::Memory>),
}

/// What a [`Transport`] is, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP.
    WebSocket,
    /// WebSocket over TLS.
    WebSocketTls,
}

impl TransportKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::WebSocket, Self::WebSocketTls];

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::WebSocketTls => "wss",
        }
    }
}

impl Transport {
    /// A plain connection without Nagle's delay, probed by TCP keep-alive after `keep_alive` of silence (0 = never).
    pub fn tcp(stream: TcpStream, keep_alive: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        if !keep_alive.is_zero() {
            // The system counts whole seconds and refuses 0.
            let every = keep_alive.max(Duration::from_secs(1));
            SockRef::from(&stream)
                .set_tcp_keepalive(&TcpKeepalive::new().with_time(every).with_interval(every))?;
        }
        Ok(Self::Tcp(stream))
    }

    /// Becomes ready when a read would give bytes, the end of the stream or an error, without holding a buffer meanwhile.
    /// On TCP it may be early (a read then gives nothing yet); on TLS and WebSocket it is exact. An error is reported
    /// once, here or by the read. The waker replaces that of an earlier read, as with a read.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Tls(tls) => match &mut **tls {
                TlsStream::Client(tls) => {
                    let (tcp, session) = tls.get_mut();
                    poll_plaintext(tcp, session, cx)
                }
                TlsStream::Server(tls) => {
                    let (tcp, session) = tls.get_mut();
                    poll_plaintext(tcp, session, cx)
                }
            },
            Self::WebSocket(ws) => ws.poll_fill(cx),
            #[cfg(test)]
            Self::Memory(memory) => memory.poll_fill(cx),
        }
    }

    /// [`Self::poll_readable`] as a future.
    pub async fn readable(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Whether an idle connection is no longer fit for use: its end, an error or unexpected bytes are already here.
    /// Asks the system rather than the runtime, whose view may be older; costs about one system call.
    pub fn is_stale(&mut self) -> bool {
        match self {
            Self::Tcp(tcp) => !matches!(
                SockRef::from(&*tcp).peek(&mut [MaybeUninit::uninit()]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock
            ),
            Self::Tls(tls) => match &mut **tls {
                TlsStream::Client(tls) => {
                    let (tcp, session) = tls.get_mut();
                    has_plaintext(tcp, session)
                }
                TlsStream::Server(tls) => {
                    let (tcp, session) = tls.get_mut();
                    has_plaintext(tcp, session)
                }
            },
            Self::WebSocket(ws) => ws.poll_fill(&mut Context::from_waker(Waker::noop())).is_ready(),
            #[cfg(test)]
            Self::Memory(memory) => memory.poll_fill(&mut Context::from_waker(Waker::noop())).is_ready(),
        }
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            #[cfg(test)]
            Self::Memory(_) => Ok(memory::ADDRESS),
            _ => self.socket()?.peer_addr(),
        }
    }

    /// This end's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            #[cfg(test)]
            Self::Memory(_) => Ok(memory::ADDRESS),
            _ => self.socket()?.local_addr(),
        }
    }

    /// Whether the bytes are encrypted on the network.
    pub fn is_secure(&self) -> bool {
        matches!(self.kind(), TransportKind::Tls | TransportKind::WebSocketTls)
    }

    /// What this is, for metrics.
    pub fn kind(&self) -> TransportKind {
        match self {
            Self::Tcp(_) => TransportKind::Tcp,
            Self::Tls(_) => TransportKind::Tls,
            Self::WebSocket(ws) if ws.carrier().is_secure() => TransportKind::WebSocketTls,
            Self::WebSocket(_) => TransportKind::WebSocket,
            #[cfg(test)]
            Self::Memory(_) => TransportKind::Tcp,
        }
    }

    /// Reads and forgets what the peer has already sent (bounded), so that closing sends an orderly end rather than a reset.
    fn discard_input(&mut self) {
        let Ok(tcp) = self.socket() else { return };
        let mut scratch = [0; 4096];
        for _ in 0..16 {
            if !matches!(tcp.try_read(&mut scratch), Ok(n) if n > 0) {
                return;
            }
        }
    }

    fn socket(&self) -> io::Result<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Ok(tcp),
            Self::Tls(tls) => Ok(tls.get_ref().0),
            Self::WebSocket(ws) => ws.carrier().socket(),
            #[cfg(test)]
            Self::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::WebSocket(ws) => Pin::new(ws).poll_read(cx, buf),
            #[cfg(test)]
            Self::Memory(memory) => Pin::new(memory).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::WebSocket(ws) => Pin::new(ws).poll_write(cx, buf),
            #[cfg(test)]
            Self::Memory(memory) => Pin::new(memory).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::WebSocket(ws) => Pin::new(ws).poll_write_vectored(cx, bufs),
            #[cfg(test)]
            Self::Memory(memory) => Pin::new(memory).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::WebSocket(ws) => Pin::new(ws).poll_flush(cx),
            #[cfg(test)]
            Self::Memory(memory) => Pin::new(memory).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::WebSocket(ws) => Pin::new(ws).poll_shutdown(cx),
            #[cfg(test)]
            Self::Memory(memory) => Pin::new(memory).poll_shutdown(cx),
        }
    }
}

/// Takes records from the socket until one gives plaintext or the end. Records without any (session tickets, key
/// updates) are digested on the way, so they never look like an answer.
fn poll_plaintext<Side: SideData>(
    tcp: &TcpStream,
    session: &mut ConnectionCommon<Side>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    // `wants_read` is false while plaintext or the peer's close alert waits to be read.
    while session.wants_read() {
        ready!(tcp.poll_read_ready(cx))?;
        match session.read_tls(&mut Ready(tcp)) {
            Ok(0) => return Poll::Ready(Ok(())),
            Ok(_) => digest(session)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// The same as [`poll_plaintext`] without the runtime: everything but "nothing yet" is true.
fn has_plaintext<Side: SideData>(tcp: &TcpStream, session: &mut ConnectionCommon<Side>) -> bool {
    while session.wants_read() {
        match session.read_tls(&mut Raw(tcp)) {
            Ok(0) => return true,
            Ok(_) if digest(session).is_err() => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn digest<Side: SideData>(session: &mut ConnectionCommon<Side>) -> io::Result<()> {
    match session.process_new_packets() {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Non-blocking reads that keep the runtime's readiness up to date.
struct Ready<'a>(&'a TcpStream);

impl Read for Ready<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

/// Non-blocking reads past the runtime; at worst a later wake-up finds nothing.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*SockRef::from(self.0)).read(buf)
    }
}

#[cfg(test)]
pub(crate) mod kit;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;
