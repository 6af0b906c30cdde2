//! A TCP relay that cuts, stalls and half-closes what goes through it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// What can be done to the connections of a relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Blow {
    /// Both directions end at once.
    Cut,
    /// A connection ends when so many more bytes have gone that way: in the middle of something.
    CutAfter(Way, usize),
    /// One direction ends, as if its sender had nothing more to say.
    HalfClose(Way),
    /// Nothing moves for that time.
    Stall(Duration),
}

/// A direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From the one who connected.
    Forth,
    /// To the one who connected.
    Back,
}

/// A relay; it ends with this value.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where to connect to instead of the target.
    pub(crate) address: SocketAddr,
    blows: broadcast::Sender<(Blow, u8)>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens, and connects each who comes with the target.
    pub(crate) async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (blows, _) = broadcast::channel(64);
        let sender = blows.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let blows = sender.clone();
                tokio::spawn(async move {
                    // A target that is down looks like one to the client: its connection ends.
                    if let Ok(far) = TcpStream::connect(target).await {
                        let _ = (near.set_nodelay(true), far.set_nodelay(true));
                        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                        let forth = pump(near_in, far_out, blows.subscribe(), Way::Forth);
                        let back = pump(far_in, near_out, blows.subscribe(), Way::Back);
                        tokio::pin!(forth, back);
                        let first = tokio::select! {
                            end = &mut forth => (end, Way::Forth),
                            end = &mut back => (end, Way::Back),
                        };
                        match first {
                            (End::Said, Way::Forth) => _ = back.await,
                            (End::Said, Way::Back) => _ = forth.await,
                            (End::Broken, _) => {}
                        }
                    }
                });
            }
        });
        Ok(Self { address, blows, task })
    }

    /// Strikes each connection with a chance of `share` in 255.
    pub(crate) fn strike(&self, blow: Blow, share: u8) {
        // Nobody to hear it: there is no connection.
        let _ = self.blows.send((blow, share));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// The sender said all it had to say; the other direction goes on.
    Said,
    /// With the connection.
    Broken,
}

/// Carries one direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut blows: broadcast::Receiver<(Blow, u8)>,
    way: Way,
) -> End {
    let mut room = vec![0; 16 * 1024];
    let mut left = usize::MAX;
    let mut closed = false;
    loop {
        tokio::select! {
            biased;
            blow = blows.recv() => match blow {
                Ok((_, share)) if fastrand::u8(..) > share => {}
                Ok((Blow::Cut, _)) if way == Way::Forth => return End::Broken,
                Ok((Blow::CutAfter(which, bytes), _)) if which == way => left = bytes,
                Ok((Blow::HalfClose(which), _)) if which == way => {
                    closed = true;
                    if to.shutdown().await.is_err() {
                        return End::Broken;
                    }
                }
                Ok((Blow::Stall(time), _)) => tokio::time::sleep(time).await,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return End::Broken,
            },
            read = from.read(&mut room) => {
                let Ok(read) = read else { return End::Broken };
                let pass = read.min(left);
                left -= pass;
                if !closed && to.write_all(&room[..pass]).await.is_err() {
                    return End::Broken;
                }
                if read == 0 {
                    return if closed || to.shutdown().await.is_ok() { End::Said } else { End::Broken };
                }
                if left == 0 {
                    return End::Broken;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection through a relay to a peer that sends everything back, and stays open when the client has ended.
    async fn echoed() -> Result<(Relay, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let relay = Relay::start(listener.local_addr()?).await?;
        let mut client = TcpStream::connect(relay.address).await?;
        let (peer, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut from, mut to) = peer.into_split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            std::future::pending::<()>().await;
        });
        client.write_all(b"hello").await?;
        let mut back = [0; 5];
        client.read_exact(&mut back).await?;
        assert_eq!(&back, b"hello");
        Ok((relay, client))
    }

    #[tokio::test]
    async fn blows_do_what_they_say() -> Result<()> {
        let (relay, mut client) = echoed().await?;
        relay.strike(Blow::CutAfter(Way::Back, 3), 255);
        let mut rest = Vec::new();
        client.write_all(b"again").await?;
        // The end may come as one or as an error, after the bytes that were let through.
        let _ = client.read_to_end(&mut rest).await;
        assert_eq!(rest, b"aga");

        let (relay, mut client) = echoed().await?;
        relay.strike(Blow::HalfClose(Way::Back), 255);
        rest.clear();
        client.read_to_end(&mut rest).await?;
        assert!(rest.is_empty());

        let (relay, mut client) = echoed().await?;
        relay.strike(Blow::Cut, 255);
        let _ = client.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        Ok(())
    }
}
