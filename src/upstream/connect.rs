//! Making a connection to Neo4j: dial, handshake, HELLO, LOGON.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::handshake;
use bolt_wire::message::Outcome;
use bolt_wire::packstream::{MapView, encode};
use bolt_wire::{Tag, Version};
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::dial::Dialer;
use super::key::Key;
use super::principal::Principal;
use crate::buffers::Buffers;
use crate::failure::Refusal;
use crate::transport::Transport;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Sidebolt's own reason.
    Refused(Refusal),
    /// Neo4j answered HELLO or LOGON with this FAILURE (its payload).
    Failure(Box<[u8]>),
}

impl From<Refusal> for ConnectError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// True for the ways in which a connection that the other side has closed shows it.
fn is_close(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Largest answer to a HELLO.
const MAX_GREETING: usize = 64 * 1024;

/// What Neo4j says in HELLO's SUCCESS.
pub(crate) type Greeting = Arc<[u8]>;

/// Makes connections to one server.
pub(crate) struct Connector {
    /// `host:port`, for people and for the routing context.
    pub(crate) address: String,
    host: String,
    port: u16,
    /// The one of the host's IP addresses to use; none = whichever answers.
    ip: Option<IpAddr>,
    dialer: Arc<Dialer>,
}

impl Connector {
    /// A connector to `host:port`.
    pub(crate) fn new(host: &str, port: u16, dialer: Arc<Dialer>) -> Self {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { address, host: host.to_owned(), port, ip: None, dialer }
    }

    /// A connector to one of the servers behind a name.
    pub(crate) fn at(host: &str, port: u16, ip: IpAddr, dialer: Arc<Dialer>) -> Self {
        let address = SocketAddr::new(ip, port).to_string();
        Self { address, host: host.to_owned(), port, ip: Some(ip), dialer }
    }

    /// The versions that the server offers.
    pub(crate) async fn offered(&self) -> Result<Vec<Version>, Refusal> {
        self.in_time(async {
            let mut transport = self.dialer.open(&self.host, self.port, self.ip).await?;
            transport.write_all(&handshake::request_manifest()).await?;
            transport.flush().await?;
            let mut answer = BytesMut::with_capacity(64);
            loop {
                if transport.read_buf(&mut answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let Some((first, rest)) = answer.split_first_chunk::<4>() else { continue };
                if *first == handshake::MANIFEST_V1 {
                    match handshake::read_manifest(rest).map_err(io::Error::other)? {
                        Some((versions, _)) => return Ok(versions),
                        None if answer.len() < 1024 => continue,
                        None => return Err(io::Error::other("the version manifest has no end")),
                    }
                }
                // A server without manifest: it has what it chose and what is older.
                let newest = handshake::version_from_bytes(*first);
                return Ok(Version::ALL.into_iter().filter(|v| Some(*v) <= newest).collect());
            }
        })
        .await
    }

    /// A connection with HELLO done (and with it the login up to 5.0), and Neo4j's greeting.
    pub(crate) async fn connect(
        &self,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
        buffers: &Buffers,
    ) -> Result<(Box<Connection>, Greeting), ConnectError> {
        let transport = self.in_time(self.open(key.version)).await?.ok_or_else(|| {
            Refusal::VersionUnsupported { address: self.address.clone(), version: key.version }
        })?;
        let mut connection = Box::new(Connection::new(transport, Arc::clone(key), self.expiry()));
        connection.queue_with(Tag::HELLO, true, |out| self.write_hello(key, principal, out));
        let answer = self.ask(&mut connection, buffers).await?;
        if key.version.features().auth_in_hello {
            connection.principal = principal.cloned();
            if let Some(principal) = principal {
                principal.prove(key.version, &[0xA0]);
            }
        }
        let meta = MapView::parse(&answer).unwrap_or(MapView::EMPTY);
        connection.server_id = meta.string("connection_id").unwrap_or_default().to_owned();
        let seconds = meta.map("hints").and_then(|hints| hints.integer("connection.recv_timeout_seconds"));
        connection.recv_timeout = seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
        Ok((connection, answer.into()))
    }

    /// Neo4j's answer (its payload) to a client's own HELLO, on a connection that ends with it; `None` if it only closes.
    pub(crate) async fn greet(&self, version: Version, hello: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        self.in_time(async {
            let Some(mut transport) = self.open(version).await? else { return Ok(None) };
            transport.write_all(hello).await?;
            transport.flush().await?;
            let (mut answer, mut messages) = (BytesMut::with_capacity(1024), MessageScanner::default());
            loop {
                match messages.scan(&answer) {
                    Found::Noop => answer.advance(2),
                    Found::Message(extent) => {
                        let mut scratch = BytesMut::new();
                        return Ok(Some(chunk::payload(&answer, extent, &mut scratch).to_vec()));
                    }
                    Found::Partial if answer.len() > MAX_GREETING => return Ok(None),
                    Found::Partial if transport.read_buf(&mut answer).await? == 0 => return Ok(None),
                    Found::Partial => {}
                }
            }
        })
        .await
    }

    /// Logs `principal` in, logging out who was logged in before. From 5.1.
    pub(crate) async fn log_on(
        &self,
        connection: &mut Connection,
        principal: &Arc<Principal>,
        buffers: &Buffers,
    ) -> Result<(), ConnectError> {
        if connection.principal.take().is_some() {
            connection.queue_own(Tag::LOGOFF);
        }
        connection.queue_with(Tag::LOGON, true, |out| {
            chunk::put_message(out, |out| {
                out.put_slice(&[0xB1, Tag::LOGON.0]);
                out.put_slice(principal.token());
            });
        });
        match self.ask(connection, buffers).await {
            Ok(meta) => {
                principal.prove(connection.key.version, &meta);
                connection.principal = Some(Arc::clone(principal));
                Ok(())
            }
            Err(error) => {
                connection.machine.lost();
                if matches!(error, ConnectError::Failure(_)) {
                    principal.doubt();
                }
                Err(error)
            }
        }
    }

    /// Waits for the answers to what is queued; the last one must be SUCCESS, and its metadata comes back.
    async fn ask(&self, connection: &mut Connection, buffers: &Buffers) -> Result<Vec<u8>, ConnectError> {
        let mut meta = Vec::new();
        let mut failure = None;
        let answers = connection.drain(buffers, |_, summary, payload| match summary.outcome {
            Outcome::Failure if failure.is_none() => failure = Some(payload.to_vec()),
            _ => meta = payload.get(2..).unwrap_or_default().to_vec(),
        });
        let asked = self.in_time(answers).await;
        match (failure, asked) {
            // A refused login is followed by a close, so a failure counts whatever came after it.
            (Some(failure), _) => Err(ConnectError::Failure(failure.into())),
            (None, Err(refusal)) => Err(refusal.into()),
            (None, Ok(())) => Ok(meta),
        }
    }

    /// The socket, with exactly `version` chosen; `None` if the server does not have it.
    async fn open(&self, version: Version) -> io::Result<Option<Transport>> {
        let mut transport = self.dialer.open(&self.host, self.port, self.ip).await?;
        transport.write_all(&handshake::request_exactly(version)).await?;
        transport.flush().await?;
        let mut answer = [0; 4];
        transport.read_exact(&mut answer).await?;
        Ok((answer == handshake::version_bytes(version)).then_some(transport))
    }

    async fn in_time<T>(&self, work: impl Future<Output = io::Result<T>>) -> Result<T, Refusal> {
        let limit = self.dialer.config.load().upstream.connection_timeout;
        let reason = match timeout(limit, work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) if is_close(error.kind()) => {
                "it closed the connection during the Bolt handshake".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?} (upstream.connection_timeout)"),
        };
        Err(Refusal::Unreachable { address: self.address.clone(), reason })
    }

    fn expiry(&self) -> Instant {
        let pool = &self.dialer.config.load().pool;
        let share = 1.0 - fastrand::f64() * pool.lifetime_jitter.clamp(0.0, 1.0);
        Instant::now() + pool.max_connection_lifetime.mul_f64(share)
    }

    fn write_hello(&self, key: &Key, principal: Option<&Arc<Principal>>, out: &mut BytesMut) {
        chunk::put_message(out, |out| {
            out.put_slice(&[0xB1, Tag::HELLO.0]);
            let features = key.version.features();
            let auth = principal.filter(|_| features.auth_in_hello).map(|p| p.token());
            let auth = auth.and_then(|token| MapView::parse(token).ok()).unwrap_or(MapView::EMPTY);
            let filter =
                key.filter.as_deref().and_then(|map| MapView::parse(map).ok()).unwrap_or(MapView::EMPTY);
            let entries =
                2 + usize::from(features.bolt_agent) + usize::from(key.utc) + auth.len() + filter.len();
            encode::map_header(entries, out);
            let agent = concat!("sidebolt/", env!("CARGO_PKG_VERSION"));
            encode::string("user_agent", out);
            encode::string(agent, out);
            if features.bolt_agent {
                encode::string("bolt_agent", out);
                encode::map_header(1, out);
                encode::string("product", out);
                encode::string(agent, out);
            }
            if key.utc {
                encode::string("patch_bolt", out);
                encode::list_header(1, out);
                encode::string("utc", out);
            }
            encode::string("routing", out);
            self.write_routing(key.routing.as_deref(), out);
            for (name, value) in auth.iter().chain(filter.iter()) {
                encode::string(name, out);
                out.put_slice(value);
            }
        });
    }

    /// The client's routing context, with the server's own address in it.
    fn write_routing(&self, context: Option<&[u8]>, out: &mut BytesMut) {
        let Some(context) = context.and_then(|map| MapView::parse(map).ok()) else {
            return encode::null(out);
        };
        encode::map_header(context.len() + 1, out);
        encode::string("address", out);
        encode::string(&self.address, out);
        for (name, value) in context.iter() {
            encode::string(name, out);
            out.put_slice(value);
        }
    }
}
