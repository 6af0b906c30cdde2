//! A client of the admin port: it has one of so many places, and loses it once nothing has come or gone for long.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

/// For so long a connection may be silent: longer than Prometheus waits between two scrapes, and than the longest profile takes.
const SILENCE: Duration = Duration::from_secs(330);

/// A connection with its place.
pub(crate) struct Placed<T> {
    io: T,
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<T> Placed<T> {
    /// It may be used from now on.
    pub(super) fn new(io: T, place: OwnedSemaphorePermit) -> Self {
        Self { io, until: Box::pin(sleep(SILENCE)), _place: place }
    }

    /// What became of reading or writing; an error once that has taken too long.
    fn heed<R>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if done.is_ready() {
            self.until.as_mut().reset(Instant::now() + SILENCE);
            return done;
        }
        self.until.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Placed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_read(cx, buf);
        self.heed(cx, done)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Placed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, buf);
        self.heed(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.heed(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_flush(cx);
        if done.is_ready() { done } else { self.heed(cx, done) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_shutdown(cx);
        if done.is_ready() { done } else { self.heed(cx, done) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_loses_its_place_and_no_other() {
        let places = Arc::new(Semaphore::new(1));
        let (mut client, server) = duplex(8);
        let mut placed = Placed::new(server, Arc::clone(&places).try_acquire_owned().unwrap());
        let begun = Instant::now();
        let talk = async {
            for _ in 0..10 {
                sleep(SILENCE / 2).await;
                client.write_all(b"x").await.unwrap();
            }
            client
        };
        let hear = async {
            let mut all = Vec::new();
            let error = placed.read_to_end(&mut all).await.unwrap_err();
            (all.len(), error.kind(), begun.elapsed())
        };
        let (_client, heard) = tokio::join!(talk, hear);
        assert_eq!(heard, (10, io::ErrorKind::TimedOut, SILENCE * 6));
        // One that does not read what it is sent.
        let error = placed.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, SILENCE * 7));
        assert_eq!(places.available_permits(), 0);
        drop(placed);
        assert_eq!(places.available_permits(), 1);
    }
}
