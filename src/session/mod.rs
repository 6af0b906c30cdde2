//! One client: its requests strictly in order, each answered by Neo4j or, where nothing is open, here.  [hot path]

mod again;
mod cached;
mod deferred;
mod edit;
mod errand;
mod feed;
mod filter;
mod gnn;
mod guarded;
mod held;
mod hints;
mod local;
mod login;
mod managed;
mod question;
mod registry;
mod relay;
mod requests;
mod route;
mod rows;
mod show;
mod start;
mod traced;
mod upload;
mod watched;
mod writing;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bolt_wire::chunk::{self, MessageScanner};
use bolt_wire::server::{Server, State};
use bolt_wire::{Tag, Version};
use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep};

pub(crate) use registry::{Handle, Pin, Registration, Registry};

use crate::buffers::{Buffers, Inbox};
use crate::cache::{Cache, Filling};
use crate::coalesce::{Coalescer, Deferred};
use crate::config::Config;
use crate::gnn::Gnn;
use crate::guard::Guard;
use crate::indexes::Known;
use crate::metrics::Metrics;
use crate::sight::Sight;
use crate::traces::Traces;
use crate::transport::Transport;
use crate::upstream::{Access, Fault, Identities, Key, Lease, Principal, Upstream};

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) upstream: Upstream,
    pub(crate) identities: Identities,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) indexes: Known,
    pub(crate) coalescer: Coalescer,
    pub(crate) cache: Arc<Cache>,
    pub(crate) guard: Guard,
    pub(crate) gnn: Gnn,
    pub(crate) sight: Sight,
    pub(crate) traces: Traces,
}

/// A client that has sent the Bolt magic.
pub(crate) struct Arrival {
    /// Its socket, behind the magic.
    pub(crate) transport: Transport,
    /// Its address.
    pub(crate) peer: SocketAddr,
    /// The address it connected to.
    pub(crate) local: SocketAddr,
    /// When it was accepted.
    pub(crate) since: Instant,
}

/// Why a session ends. Every way out of it goes through here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The client closed its connection, or it broke.
    ClientGone,
    /// GOODBYE, or a message that Neo4j would have closed on without a word.
    Closed,
    /// The client broke the protocol and was told so.
    Violation,
    /// The client did not log in, or not in time.
    Login,
    /// The client did not take its answers, or did not finish a request, in time.
    WriteTimeout,
    /// The upstream connection was lost in the middle of an exchange.
    UpstreamLost,
    /// Sidebolt is shutting down.
    Drained,
}

type Step<T = ()> = Result<T, End>;

/// What the client said of itself in HELLO.
#[derive(Debug, Default)]
struct Profile {
    /// The address that a `neo4j://` client used, from HELLO's routing context.
    address: Option<String>,
    /// HELLO's notification filter, as a PackStream map; empty = none.
    filter: Box<[u8]>,
    /// What its application calls itself: HELLO's user agent up to a slash.
    application: Box<str>,
    /// The address that the last ROUTE named.
    routed: Option<String>,
    /// The database that it asked for.
    asked: route::Asked,
}

/// One client's session.
pub(crate) struct Session {
    shared: Arc<Shared>,
    client: Transport,
    /// What the client has sent and was not acted on.
    inbuf: Inbox,
    /// Own answers, due before anything that comes from upstream.
    outbuf: BytesMut,
    messages: MessageScanner,
    machine: Server,
    /// True after a manifest handshake.
    manifest: bool,
    profile: Box<Profile>,
    key: Arc<Key>,
    principal: Option<Arc<Principal>>,
    lease: Option<Lease>,
    /// A connection that has said HELLO only, kept for the LOGON that follows.
    greeted: Option<Box<Lease>>,
    /// A driver API that is to be told upstream before the next request.
    telemetry: Option<Box<[u8]>>,
    /// Messages dropped by a RESET that overtook them; answered with IGNORED before it is answered.
    overtaken: usize,
    /// The lease's connection must not be used again after this exchange.
    condemned: bool,
    exchange: Exchange,
    /// The running exchange is a write that group commit knows.
    errand: Option<Box<errand::Errand>>,
    /// The last errand's place.
    spare: Option<Box<errand::Errand>>,
    /// The running exchange is a read whose answer may be kept.
    filling: Option<Box<Filling>>,
    /// What the running exchange may change, and its commit.
    writing: Option<Box<writing::Writing>>,
    /// What is seen of the running exchange's requests.
    watch: watched::Watch,
    /// How this client's managed reads go.
    reads: managed::Reads,
    /// For metadata that is looked at.
    scratch: BytesMut,
    /// A transaction that has not begun at Neo4j.
    held: Option<Box<held::Held>>,
    /// Results of Sidebolt's own procedures that are open.
    results: Option<Box<local::Local>>,
    /// What the open transaction's BEGIN said, for calls of `gnn.…`.
    terms: gnn::Terms,
    /// The open transaction answers its writes before they are sent.
    deferred: Option<Box<Deferred>>,
    /// What the running statement needs to be run again.
    again: again::Again,
    /// What the guard has said to the last request.
    guarded: guarded::Guarded,
    /// What the last request asked of Sidebolt.
    hints: hints::Hints,
    /// The driver API that the next request comes from, as TELEMETRY said.
    api: Option<u8>,
    /// The lane that the last write took.
    lane: Option<Box<errand::LaneMemo>>,
    /// What the last request needed of its server.
    access: Access,
    registration: Registration,
    local: SocketAddr,
    /// Fires now and then while something is waited for.
    tick: Pinned<Box<Sleep>>,
    last_heard: Instant,
    /// When the client last sent something.
    last_read: Instant,
}

/// The running exchange, for the metrics.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    tag: Tag,
    asked: Instant,
    leased: Instant,
    failed: bool,
    interrupted: bool,
    /// Its commit is of interest to the cache.
    watched: bool,
    /// Neo4j has answered something of it.
    answered: bool,
}

/// What happened first.
enum Event {
    Client,
    Upstream,
    Tick,
}

/// Serves one client to its end.
pub(crate) async fn serve(shared: Arc<Shared>, arrival: Arrival) -> End {
    let registration = shared.registry.enter(arrival.peer);
    // The login is long and rare: boxed, so that a session at rest does not carry its state.
    let mut session = match Box::pin(login::log_in(shared, arrival, registration)).await {
        Ok(session) => session,
        Err(end) => return end,
    };
    let end = match session.run().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    session.finish(end).await;
    end
}

/// No value: `Session::run` ends only by an `End`.
enum Never {}

impl Session {
    async fn run(&mut self) -> Step<Never> {
        loop {
            self.take_requests().await?;
            if self.lease.is_none() {
                self.flush_client().await?;
                if self.registration.is_ending() && self.is_at_rest() {
                    return Err(End::Drained);
                }
                self.rest().await?;
                continue;
            }
            self.flush_both().await?;
            self.pump().await?;
        }
    }

    /// True if nothing is open here and nothing of a request has come.
    fn is_at_rest(&self) -> bool {
        self.inbuf.is_empty() && self.held.is_none() && self.results.is_none()
    }

    /// Waits for the client's next request while nothing is open. Holds no buffer meanwhile.
    async fn rest(&mut self) -> Step {
        if !self.inbuf.is_empty() {
            return Box::pin(self.rest_of_request()).await;
        }
        self.shared.buffers.give(self.inbuf.take());
        if self.outbuf.is_empty() && self.outbuf.capacity() > 0 {
            self.shared.buffers.give(std::mem::take(&mut self.outbuf));
        }
        poll_fn(|cx| self.poll_client_or_end(cx)).await
    }

    /// Reads what the client has sent, unless the session is to end and nothing of a request has come: what is begun is waited for.
    fn poll_client_or_end(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Poll::Ready(read) = self.poll_client(cx) {
            return Poll::Ready(read);
        }
        if self.is_at_rest() && self.registration.poll_ending(cx).is_ready() {
            return Poll::Ready(Err(End::Drained));
        }
        Poll::Pending
    }

    /// Waits for more of a request that has begun, in bounded time.
    async fn rest_of_request(&mut self) -> Step {
        let limit = self.shared.config.load().listen.write_timeout;
        let read = tokio::time::timeout(limit, poll_fn(|cx| self.poll_client(cx))).await;
        read.unwrap_or(Err(End::WriteTimeout))
    }

    /// Reads what the client has sent. A buffer is taken when there is something to read.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        match self.inbuf.poll_fill(&mut self.client, cx, &self.shared.buffers) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(End::ClientGone)),
            Poll::Ready(Ok(read)) => {
                self.shared.metrics.bytes_from_clients.inc_by(read as u64);
                self.last_read = Instant::now();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Sends own answers.
    async fn flush_client(&mut self) -> Step {
        if self.outbuf.is_empty() {
            return Ok(());
        }
        let limit = self.shared.config.load().listen.write_timeout;
        send(&mut self.client, &self.outbuf, limit).await?;
        self.outbuf.clear();
        Ok(())
    }

    /// Sends own answers to the client and queued requests to Neo4j.
    async fn flush_both(&mut self) -> Step {
        if let Some(lease) = &mut self.lease {
            // What does not go out at once, or fails, is `pump`'s: it reads what Neo4j has said meanwhile.
            poll_fn(|cx| Poll::Ready(lease.connection_mut().poll_flush(cx).is_ready())).await;
        }
        self.flush_client().await
    }

    /// Own answer: SUCCESS with this metadata (an encoded map).
    fn put_success(&mut self, meta: &[u8]) {
        self.put_answer(|out| {
            out.put_slice(&[0xB1, Tag::SUCCESS.0]);
            out.put_slice(meta);
        });
    }

    /// Own answer: IGNORED.
    fn put_ignored(&mut self) {
        self.put_answer(|out| out.put_slice(&[0xB0, Tag::IGNORED.0]));
    }

    fn put_answer(&mut self, write: impl FnOnce(&mut BytesMut)) {
        chunk::put_message(self.own_answers(), write);
    }

    /// Where own answers are gathered: a buffer is taken with the first one.
    fn own_answers(&mut self) -> &mut BytesMut {
        if self.outbuf.capacity() == 0 {
            self.outbuf = self.shared.buffers.take();
        }
        &mut self.outbuf
    }

    /// The upstream connection broke in the middle of an exchange. The outcome is unknown, so the client sees what it would see
    /// of Neo4j itself: its connection closes.
    fn lose_upstream(&mut self) -> End {
        if self.condemned {
            // After an illegal request Neo4j closes the connection, and the client's has to follow.
            if let Some(mut lease) = self.lease.take() {
                lease.connection_mut().excuse();
                lease.discard();
            }
            return End::Violation;
        }
        self.shared.metrics.lost.inc();
        self.report(Fault::Lost);
        if let Some(mut lease) = self.lease.take() {
            lease.connection_mut().give_up();
            tracing::info!(
                session = self.registration.id,
                upstream = lease.connection().server_id,
                server = lease.pool().address(),
                state = ?self.machine.state(),
                "The upstream connection was lost in the middle of an exchange."
            );
            lease.discard();
        }
        End::UpstreamLost
    }

    /// Tells the upstream what the running exchange has shown of its server.
    fn report(&self, fault: Fault) {
        if let (Some(lease), Some(principal)) = (&self.lease, &self.principal) {
            self.shared.upstream.report(lease.pool(), principal, &self.access, fault);
        }
    }

    fn version(&self) -> Version {
        self.machine.version()
    }

    /// Tells the registry why a connection is held.
    fn note_pin(&self) {
        let pin = match (self.lease.is_some(), self.machine.in_flight(), self.machine.state()) {
            (false, _, _) => Pin::None,
            (true, 0, State::Transaction) => Pin::Transaction,
            (true, 0, _) => Pin::Result,
            (true, _, _) => Pin::Running,
        };
        self.registration.set_pin(pin);
    }

    /// Answers what is still owed and closes.
    async fn finish(&mut self, end: End) {
        tracing::debug!(session = self.registration.id, peer = %self.registration.peer, ?end, "A session ended.");
        self.machine.close();
        self.watch_over();
        // Neo4j is to be free of what was open before the client has taken its last answer.
        drop((self.lease.take(), self.greeted.take()));
        // A client that took a part of an answer must not get it again from its beginning.
        if matches!(end, End::ClientGone | End::WriteTimeout) {
            return;
        }
        let _ = self.flush_client().await;
        linger(&mut self.client).await;
    }
}

/// Sends FIN and reads what is on its way for a moment, so that the last answer is not destroyed by a reset of the connection.
async fn linger(client: &mut Transport) {
    const MOMENT: Duration = Duration::from_millis(200);
    let _ = tokio::time::timeout(MOMENT, async {
        client.shutdown().await?;
        let mut sink = [0; 512];
        while tokio::io::AsyncReadExt::read(client, &mut sink).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Writes to the client, in bounded time.
async fn send(client: &mut Transport, bytes: &[u8], limit: Duration) -> Step {
    let written = tokio::time::timeout(limit, async {
        client.write_all(bytes).await?;
        client.flush().await
    });
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::ClientGone),
        Err(_) => Err(End::WriteTimeout),
    }
}
