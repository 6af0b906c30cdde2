//! What the tests of the client side share: certificates, a listening port, and a client that speaks each transport.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sniff::{Accepted, BOLT_MAGIC, Refusal};
use super::tls::{TlsConnector, Trust};
use super::{Transport, TransportKind};
use crate::config::{Config, Listen, ListenTls};
use crate::listener::{ClientGuard, Listener, ListenerStats};

/// No test waits longer than this for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits within [`LIMIT`].
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("not within the limit")
}

/// A CA in a folder that vanishes with it.
pub(crate) struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = tempfile::tempdir().unwrap();
        // Its own name, or a chain to another CA would look like one with a bad signature.
        params.distinguished_name.push(rcgen::DnType::CommonName, dir.path().display().to_string());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let this = Self { dir, issuer };
        std::fs::write(this.ca(), this.issuer.pem()).unwrap();
        this
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Writes (or replaces) `<name>.pem` and `<name>.key`.
    pub(crate) fn issue(
        &self,
        name: &str,
        subjects: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(subjects.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let paths =
            (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        std::fs::write(&paths.0, cert.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    /// A server certificate for localhost and 127.0.0.1.
    pub(crate) fn server(&self) -> ListenTls {
        let (cert_file, key_file) =
            self.issue("server", &["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        ListenTls { cert_file, key_file, client_ca_file: None, required: false }
    }

    /// A client certificate.
    pub(crate) fn client(&self) -> (PathBuf, PathBuf) {
        self.issue("client", &["client"], ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::CaFile(self.ca())
    }
}

/// Settings for a port of the system's choice.
pub(crate) fn listen() -> Listen {
    Listen { address: ([127, 0, 0, 1], 0).into(), ..Listen::default() }
}

/// A listener at work; what it accepts comes out of `sessions`.
pub(crate) struct Port {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) tls: Arc<super::tls::TlsAcceptor>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) running: tokio::task::JoinHandle<()>,
    pub(crate) sessions: mpsc::Receiver<(Accepted, ClientGuard)>,
}

impl Port {
    pub(crate) fn open(listen: Listen) -> Self {
        let listener = Listener::bind(&listen).unwrap();
        let (send, sessions) = mpsc::channel(1000);
        let config = Arc::new(ArcSwap::from_pointee(Config { listen, ..Config::default() }));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (address, stats, tls) = (listener.local_addr().unwrap(), listener.stats(), listener.tls());
        let work = listener.run(Arc::clone(&config), tasks.clone(), stop.clone(), move |accepted, guard| {
            let send = send.clone();
            async move {
                let _ = send.send((accepted, guard)).await;
            }
        });
        let running = tokio::spawn(work);
        Self { address, config, stats, tls, stop, tasks, running, sessions }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.address)).await.unwrap()
    }

    /// The next client that speaks Bolt.
    pub(crate) async fn session(&mut self) -> (Accepted, ClientGuard) {
        soon(self.sessions.recv()).await.unwrap()
    }

    /// How many were turned away for `reason`.
    pub(crate) fn refused(&self, reason: Refusal) -> u64 {
        self.stats.handshake_failed().find(|(refusal, _)| *refusal == reason).unwrap().1
    }

    /// A client of `kind` and the server's side of it, both behind the magic.
    pub(crate) async fn pair(
        &mut self,
        kind: TransportKind,
        authority: &Authority,
    ) -> (Client, Accepted, ClientGuard) {
        let tcp = self.connect().await;
        let secure = matches!(kind, TransportKind::Tls | TransportKind::WebSocketTls);
        let stream = if secure {
            let connector = TlsConnector::new(&authority.trust(), None).unwrap();
            soon(connector.connect(tcp, "localhost")).await.unwrap()
        } else {
            Transport::Tcp(tcp)
        };
        let framed = matches!(kind, TransportKind::WebSocket | TransportKind::WebSocketTls);
        let mut client = Client { stream, framed };
        if framed {
            client.raw(upgrade_request().as_bytes()).await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        }
        client.send(&BOLT_MAGIC).await;
        let (accepted, guard) = self.session().await;
        (client, accepted, guard)
    }
}

/// A client that frames what it sends if it speaks WebSocket.
pub(crate) struct Client {
    pub(crate) stream: Transport,
    pub(crate) framed: bool,
}

impl Client {
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let bytes = if self.framed { frame(BINARY, bytes) } else { bytes.to_vec() };
        self.raw(&bytes).await;
    }

    /// An HTTP head.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(self.stream.read_u8()).await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn next_frame(&mut self) -> (u8, Vec<u8>) {
        soon(read_frame(&mut self.stream)).await
    }
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// What a browser sends.
pub(crate) fn upgrade_request() -> String {
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        .to_owned()
}

/// A final, masked client frame.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(0x80 | opcode, payload, true)
}

/// A client frame with the given first byte.
pub(crate) fn frame_with(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let flag = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        n @ ..126 => frame.push(flag | n as u8),
        n @ ..65536 => {
            frame.push(flag | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(flag | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    let mask = if masked { [1, 2, 3, 4] } else { [0; 4] };
    if masked {
        frame.extend(mask);
    }
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// One unfragmented, unmasked server frame: opcode and payload.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    assert_eq!(first & 0xf0, 0x80, "final, no reserved bits");
    let length = match stream.read_u8().await.unwrap() {
        126 => usize::from(stream.read_u16().await.unwrap()),
        127 => stream.read_u64().await.unwrap() as usize,
        n => {
            assert!(n < 126, "a server does not mask");
            usize::from(n)
        }
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    (first & 0x0f, payload)
}

/// Everything until the end; a reset is a failure.
pub(crate) async fn to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Checks again and again until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let checks = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(LIMIT, checks).await.is_err() {
        panic!("never: {what}");
    }
}
