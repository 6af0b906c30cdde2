//! A TCP proxy between Sidebolt and a server, with faults that a test switches.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What it does to bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nothing passes, nothing closes.
    Freeze,
    /// After this many more bytes from the server both sides are closed.
    CutAfter(usize),
    /// The server's side ends (FIN to Sidebolt), the other stays open.
    HalfClose,
    /// The server's bytes pass in pieces of one.
    Trickle,
}

/// A proxy to one server.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one to `server` (`host:port`).
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let (server, shared) = (server.to_owned(), Arc::clone(&fault));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(upstream) = TcpStream::connect(&server).await else { continue };
                let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = upstream.into_split();
                let requests = tokio::spawn(up(from_client, to_server, shared.subscribe()));
                tokio::spawn(down(from_server, to_client, shared.subscribe(), requests));
            }
        });
        Self { address, fault, task }
    }

    /// Switches a fault for every connection, also those that are open.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn thawed(fault: &mut watch::Receiver<Fault>) {
    let _ = fault.wait_for(|fault| *fault != Fault::Freeze).await;
}

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut fault: watch::Receiver<Fault>) {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buf).await else { return };
        thawed(&mut fault).await;
        if to.write_all(&buf[..read]).await.is_err() {
            return;
        }
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    requests: JoinHandle<()>,
) {
    let mut buf = vec![0; 64 * 1024];
    let mut passed = 0;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buf) => read,
            changed = fault.changed() => {
                passed = 0;
                if changed.is_ok() && *fault.borrow() == Fault::HalfClose {
                    let _ = to.shutdown().await;
                    // The other direction goes on until Sidebolt closes it.
                    let _ = requests.await;
                    return;
                }
                continue;
            }
        };
        let Ok(read @ 1..) = read else { break };
        thawed(&mut fault).await;
        let now = *fault.borrow();
        let sent = match now {
            Fault::CutAfter(limit) if passed + read >= limit => {
                let _ = to.write_all(&buf[..limit.saturating_sub(passed)]).await;
                break;
            }
            Fault::Trickle => trickle(&mut to, &buf[..read]).await,
            _ => to.write_all(&buf[..read]).await,
        };
        passed += read;
        if sent.is_err() {
            break;
        }
    }
    requests.abort();
}

async fn trickle(to: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        to.write_all(&[*byte]).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
