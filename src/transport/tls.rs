//! TLS on both sides: the listener's certificate, reloaded when its files change, and connections to Neo4j.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::Transport;
use crate::config::ListenTls;

/// Why TLS cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{what} {path}: {source}; check that the file exists and that Sidebolt's user may read it", path = .path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file without the PEM section that is needed.
    #[error("{what} {path}: {reason}; expected PEM, a section that begins with -----BEGIN {section}-----", path = .path.display())]
    NotPem {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// The section that is needed.
        section: &'static str,
    },
    /// A certificate and a key that do not work together, or not at all.
    #[error("certificate {cert} with key {key}: {reason}; the key must be the one the first certificate was issued for", cert = .cert.display(), key = .key.display())]
    BadPair {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of CAs that cannot be used.
    #[error("CA file {path}: {reason}", path = .path.display())]
    BadCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system trusts nobody.
    #[error(
        "no CA certificate was found on this system{reason}; install the ca-certificates package or set upstream.ca_file"
    )]
    NoSystemCa {
        /// The first reason, after a colon.
        reason: String,
    },
    /// A certificate without its key or the other way round.
    #[error("upstream.cert_file and upstream.key_file belong together: set both or none")]
    HalfPair,
    /// A host that cannot stand in a certificate.
    #[error("{host:?} is neither a host name nor an IP address, so no certificate can be checked against it")]
    BadHost {
        /// The host.
        host: String,
    },
    /// The handshake with the server failed.
    #[error("TLS handshake with {host}: {source}{hint}")]
    Handshake {
        /// The server.
        host: String,
        /// What went wrong.
        source: io::Error,
        /// What to do, after a semicolon; may be empty.
        hint: &'static str,
    },
}

/// Server side: the certificate that clients see, replaceable while connections live.
#[derive(Debug)]
pub struct TlsAcceptor {
    loaded: ArcSwapOption<Loaded>,
    /// What the newest attempt saw, so that a bad file is tried and reported once.
    seen: Mutex<Option<Seen>>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Loaded {
    server: Arc<ServerConfig>,
}

/// The settings and the state of their files.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    settings: Option<ListenTls>,
    files: Vec<Option<Stamp>>,
}

/// Modification time, size, and on Unix the inode: a certificate that is replaced by a rename changes at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp(Option<SystemTime>, u64, u64);

impl TlsAcceptor {
    /// Reads the files; `None` = TLS is off.
    pub fn load(settings: Option<&ListenTls>) -> Result<Self, TlsError> {
        let seen = Seen::now(settings);
        let loaded = settings.map(server_config).transpose()?;
        Ok(Self {
            loaded: ArcSwapOption::new(loaded.map(Arc::new)),
            seen: Mutex::new(Some(seen)),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Reads the files again if they or the settings changed since the last attempt; says whether something new is
    /// used now. On an error the old certificate stays. Reads files, so call it where blocking is allowed.
    pub fn reload(&self, settings: Option<&ListenTls>) -> Result<bool, TlsError> {
        let mut last = self.seen.lock();
        let seen = Seen::now(settings);
        if last.as_ref() == Some(&seen) {
            return Ok(false);
        }
        *last = Some(seen);
        match settings.map(server_config).transpose() {
            Ok(loaded) => {
                // A new configuration has new session tickets: nobody resumes past a changed CA.
                self.loaded.store(loaded.map(Arc::new));
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
            return Err(io::Error::new(io::ErrorKind::Unsupported, "listen.tls is not set"));
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&loaded.server));
        let mut replayed = Ok(0);
        let handshake = acceptor.accept_with(tcp, |session| {
            let mut first = first;
            replayed = session.read_tls(&mut first);
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
        Self { settings: settings.cloned(), files: files.map(|path| Stamp::of(path)).collect() }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self(meta.modified().ok(), meta.len(), inode))
    }
}

fn server_config(settings: &ListenTls) -> Result<Loaded, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("invariant: ring has suites for TLS 1.2 and 1.3");
    let builder = match &settings.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(ca_file(path, "listen.tls.client_ca_file")?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| TlsError::BadCa { path: path.clone(), reason: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&settings.cert_file, "listen.tls.cert_file")?;
    let key = private_key(&settings.key_file, "listen.tls.key_file")?;
    let server = builder.with_single_cert(chain, key).map_err(|error| TlsError::BadPair {
        cert: settings.cert_file.clone(),
        key: settings.key_file.clone(),
        reason: error.to_string(),
    })?;
    Ok(Loaded { server: Arc::new(server) })
}

/// Whose certificates are believed of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system's CAs have signed (`+s`).
    System,
    /// Any certificate, also self-signed ones (`+ssc`): encrypted, but not proof of who answers.
    Any,
    /// Those that the CAs in this PEM file have signed.
    CaFile(PathBuf),
}

/// Client side: connections to Neo4j. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    client: Arc<ClientConfig>,
}

impl TlsConnector {
    /// A connector that believes `trust` and shows its `own` certificate (chain file, key file) to servers that ask
    /// for one. Reads files, so call it where blocking is allowed.
    pub fn new(trust: &Trust, own: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("invariant: ring has suites for TLS 1.2 and 1.3");
        let builder = match trust {
            Trust::System => builder.with_root_certificates(system_cas()?),
            Trust::CaFile(path) => builder.with_root_certificates(ca_file(path, "upstream.ca_file")?),
            Trust::Any => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            }
        };
        let client = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(
                    certificates(cert, "upstream.cert_file")?,
                    private_key(key, "upstream.key_file")?,
                )
                .map_err(|error| TlsError::BadPair {
                    cert: cert.to_owned(),
                    key: key.to_owned(),
                    reason: error.to_string(),
                })?,
        };
        Ok(Self { client: Arc::new(client) })
    }

    /// The connector for `upstream` settings: `any` for `+ssc` (any certificate), else `ca_file` or the system.
    pub fn for_upstream(upstream: &crate::config::Upstream, any: bool) -> Result<Self, TlsError> {
        let trust = match (any, &upstream.ca_file) {
            (true, _) => Trust::Any,
            (false, Some(path)) => Trust::CaFile(path.clone()),
            (false, None) => Trust::System,
        };
        match (&upstream.cert_file, &upstream.key_file) {
            (None, None) => Self::new(&trust, None),
            (Some(cert), Some(key)) => Self::new(&trust, Some((cert, key))),
            _ => Err(TlsError::HalfPair),
        }
    }

    /// The TLS handshake with `host`, a name or an IP address (IPv6 with or without brackets).
    pub async fn connect(&self, tcp: TcpStream, host: &str) -> Result<Transport, TlsError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = match bare.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(bare.to_owned())
                .map_err(|_| TlsError::BadHost { host: host.to_owned() })?,
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.client));
        match connector.connect(name, tcp).await {
            Ok(stream) => Ok(Transport::Tls(Box::new(TlsStream::Client(stream)))),
            Err(source) => {
                let hint = hint(&source);
                Err(TlsError::Handshake { host: host.to_owned(), source, hint })
            }
        }
    }
}

/// What an operator can do about a failed handshake.
fn hint(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "; set upstream.ca_file to the CA that signed it, or use a +ssc URI to accept any certificate",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "; use one of the certificate's names in upstream.uri, or a +ssc URI to accept any certificate",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "; renew the server's certificate",
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; the server wants a client certificate: set upstream.cert_file and upstream.key_file"
        }
        Some(rustls::Error::InvalidMessage(_)) => NOT_TLS,
        None if error.kind() == io::ErrorKind::UnexpectedEof => NOT_TLS,
        None if error.kind() == io::ErrorKind::ConnectionReset => NOT_TLS,
        _ => "",
    }
}

const NOT_TLS: &str =
    "; the server may not use TLS on this port: use a URI without +s or +ssc, or turn on its TLS";

fn system_cas() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(TlsError::NoSystemCa { reason });
    }
    Ok(roots)
}

fn ca_file(path: &Path, what: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(path, what)? {
        roots
            .add(ca)
            .map_err(|error| TlsError::BadCa { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error| pem_error(error, path, what, "CERTIFICATE");
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if chain.is_empty() {
        return Err(wrong(pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn private_key(path: &Path, what: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem_error(error, path, what, "PRIVATE KEY"))
}

fn pem_error(error: pem::Error, path: &Path, what: &'static str, section: &'static str) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::Unreadable { what, path, source },
        pem::Error::NoItemsFound => {
            TlsError::NotPem { what, path, reason: "no such section in it".to_owned(), section }
        }
        // The text of the others may quote the file, which can be a key.
        pem::Error::MissingSectionEnd { .. } => {
            TlsError::NotPem { what, path, reason: "a section has no end line".to_owned(), section }
        }
        _ => TlsError::NotPem { what, path, reason: "not valid PEM".to_owned(), section },
    }
}

/// Believes every certificate; the proof that the server owns its key is still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
