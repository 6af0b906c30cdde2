//! Server side: a certificate that can be replaced while connections live.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{TlsError, ca_file, certificates, private_key};
use crate::config::ListenTls;
use crate::transport::Transport;

/// The certificate that clients see, and what is asked of theirs.
#[derive(Debug)]
pub struct TlsAcceptor {
    port: Port,
    loaded: ArcSwapOption<ServerConfig>,
    /// What the newest attempt saw, so that a bad file is tried and reported once.
    seen: Mutex<Seen>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// Whose settings they are, for what is said about them.
#[derive(Clone, Copy, Debug)]
enum Port {
    Listen,
    Admin,
}

impl Port {
    /// The keys of certificate, key and clients' CAs.
    fn keys(self) -> [&'static str; 3] {
        match self {
            Self::Listen => ["listen.tls.cert_file", "listen.tls.key_file", "listen.tls.client_ca_file"],
            Self::Admin => ["admin.tls.cert_file", "admin.tls.key_file", "admin.tls.client_ca_file"],
        }
    }
}

/// The settings and what was in their files.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    settings: Option<ListenTls>,
    files: Vec<Option<blake3::Hash>>,
}

impl TlsAcceptor {
    /// Reads the files of `listen.tls`; `None` = TLS is off.
    pub fn load(settings: Option<&ListenTls>) -> Result<Self, TlsError> {
        Self::of(Port::Listen, settings)
    }

    /// The same for `admin.tls`.
    pub fn for_admin(settings: Option<&ListenTls>) -> Result<Self, TlsError> {
        Self::of(Port::Admin, settings)
    }

    fn of(port: Port, settings: Option<&ListenTls>) -> Result<Self, TlsError> {
        let seen = Seen::now(settings);
        let loaded = settings.map(|settings| server_config(settings, port)).transpose()?;
        Ok(Self {
            port,
            loaded: ArcSwapOption::new(loaded),
            seen: Mutex::new(seen),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Reads the files again if they or the settings changed since the last attempt; says whether something new is
    /// used now. On an error the old certificate stays. Reads files, so call it where blocking is allowed.
    pub fn reload(&self, settings: Option<&ListenTls>) -> Result<bool, TlsError> {
        let mut last = self.seen.lock();
        let seen = Seen::now(settings);
        if *last == seen {
            return Ok(false);
        }
        *last = seen;
        match settings.map(|settings| server_config(settings, self.port)).transpose() {
            Ok(loaded) => {
                // A new configuration has new session tickets: nobody resumes past a changed CA.
                self.loaded.store(loaded);
                self.reloads.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Whether TLS is on.
    pub fn is_on(&self) -> bool {
        self.loaded.load().is_some()
    }

    /// How often new files were taken into use.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How often new files were refused.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The TLS handshake with a client whose `first` bytes were already read.
    pub async fn accept(&self, tcp: TcpStream, first: &[u8]) -> io::Result<Transport> {
        let Some(loaded) = self.loaded.load_full() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is off"));
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(loaded);
        let mut replayed = Ok(0);
        let handshake = acceptor.accept_with(tcp, |session| {
            let mut first = first;
            // Nothing would count as the end of the stream.
            if !first.is_empty() {
                replayed = session.read_tls(&mut first);
            }
        });
        replayed?;
        match handshake.into_fallible().await {
            Ok(stream) => Ok(Transport::Tls(Box::new(TlsStream::Server(stream)))),
            Err((error, tcp)) => {
                part(tcp).await;
                Err(error)
            }
        }
    }
}

/// Closes in a way that lets the client read the alert which says what was wrong: closing with unread input would send
/// a reset that destroys it.
async fn part(mut tcp: TcpStream) {
    const MOMENT: Duration = Duration::from_millis(200);
    let _ = tokio::time::timeout(MOMENT, async {
        tcp.shutdown().await?;
        let mut sink = [0; 512];
        for _ in 0..128 {
            if tcp.read(&mut sink).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    })
    .await;
}

impl Seen {
    fn now(settings: Option<&ListenTls>) -> Self {
        let files = settings.into_iter().flat_map(|tls| {
            [Some(&tls.cert_file), Some(&tls.key_file), tls.client_ca_file.as_ref()].into_iter().flatten()
        });
        Self { settings: settings.cloned(), files: files.map(|path| contents(path)).collect() }
    }
}

/// A fingerprint of what is in a file. Times and sizes would miss a certificate of the same length that is written within
/// the file system's clock tick, or put back with its old time.
fn contents(path: &Path) -> Option<blake3::Hash> {
    const LIMIT: u64 = 16 * 1024 * 1024;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).ok()?.take(LIMIT)).ok()?;
    Some(hasher.finalize())
}

fn server_config(settings: &ListenTls, port: Port) -> Result<Arc<ServerConfig>, TlsError> {
    let [cert_file, key_file, client_ca_file] = port.keys();
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("invariant: ring has suites for TLS 1.2 and 1.3");
    let builder = match &settings.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(ca_file(path, client_ca_file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| TlsError::BadCa { path: path.clone(), reason: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&settings.cert_file, cert_file)?;
    let key = private_key(&settings.key_file, key_file)?;
    let server = builder.with_single_cert(chain, key).map_err(|error| TlsError::BadPair {
        cert: settings.cert_file.clone(),
        key: settings.key_file.clone(),
        reason: error.to_string(),
    })?;
    Ok(Arc::new(server))
}
