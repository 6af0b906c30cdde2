//! An in-memory transport for tests: a duplex pipe with one byte of look-ahead, so that it can tell "readable".

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::Transport;

/// Both addresses of every in-memory connection.
pub(crate) const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7687));

/// One end of a pipe.
#[derive(Debug)]
pub struct Memory {
    pipe: DuplexStream,
    ahead: Option<u8>,
    ended: bool,
}

/// A transport and the other end of its pipe, which holds `capacity` bytes each way.
pub(crate) fn pipe(capacity: usize) -> (Transport, DuplexStream) {
    let (near, far) = tokio::io::duplex(capacity);
    (wrap(near), far)
}

/// One end of a pipe as a transport.
pub(crate) fn wrap(pipe: DuplexStream) -> Transport {
    Transport::Memory(Box::new(Memory { pipe, ahead: None, ended: false }))
}

impl Memory {
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_none() && !self.ended {
            let mut byte = [0];
            let mut buf = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.pipe).poll_read(cx, &mut buf))?;
            self.ahead = buf.filled().first().copied();
            self.ended = self.ahead.is_none();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(byte) = self.ahead.take()
        {
            buf.put_slice(&[byte]);
            // More may be there; "nothing yet" is fine after one byte.
            return match Pin::new(&mut self.pipe).poll_read(cx, buf) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(())),
            };
        }
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
